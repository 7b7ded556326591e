# SPDX-License-Identifier: Apache-2.0
"""The bpf(2) system call by ctypes: maps, pins, test runs; errors are OSError with the kernel's errno."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

# __NR_bpf (asm/unistd.h of each architecture)
_SYSCALL = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "ppc64le": 361,
    "s390x": 351,
    "armv7l": 386,
    "i686": 357,
}

# enum bpf_cmd
_MAP_CREATE = 0
_MAP_LOOKUP = 1
_MAP_UPDATE = 2
_MAP_DELETE = 3
_MAP_NEXT_KEY = 4
_PROG_LOAD = 5
_OBJ_PIN = 6
_OBJ_GET = 7
_PROG_TEST_RUN = 10
_OBJ_INFO = 15
_MAP_LOOKUP_BATCH = 24
_MAP_UPDATE_BATCH = 26

SCHED_CLS = 3  # enum bpf_prog_type
_BATCH = 4096
_ATTR_SIZE = 128
_ENOTSUPP = 524  # the kernel's own, not in errno: batch operations of this map type are missing
_NO_BATCH = (errno.EINVAL, errno.EOPNOTSUPP, _ENOTSUPP)
_BPFFS_MAGIC = 0xCAFE4A11

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"no bpf system call number for {platform.machine()}")
    # The whole union is handed over, zero-filled: kernels accept a longer one when the rest is zero.
    buffer = ctypes.create_string_buffer(attributes, max(_ATTR_SIZE, len(attributes)))
    result = int(_libc.syscall(number, command, buffer, len(buffer)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _bpf_into(command: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    """Like _bpf, for commands that write their answer into the attributes."""
    if _libc.syscall(_SYSCALL[platform.machine()], command, buffer, len(buffer)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def _bytes(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, max(1, len(data)))


# --- file system ---------------------------------------------------------------------------------


class _StatFs(ctypes.Structure):
    # f_type is a long or an int, by architecture; the magic number is in the first four bytes of either.
    _fields_ = (("f_type", ctypes.c_uint), ("rest", ctypes.c_char * 252))


def is_bpffs(path: Path) -> bool:
    """Does path lie on a bpf file system?"""
    stat = _StatFs()
    if _libc.statfs(os.fsencode(path), ctypes.byref(stat)):
        return False
    return int(stat.f_type) == _BPFFS_MAGIC


def mount_bpffs(path: Path) -> None:
    """Mount a bpf file system on an existing folder."""
    if _libc.mount(b"bpf", os.fsencode(path), b"bpf", 0, b"mode=0700"):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))


def obj_pin(fd: int, path: Path) -> None:
    """Give a map or program a name on the bpf file system."""
    name = _bytes(os.fsencode(path) + b"\0")
    _bpf(_OBJ_PIN, struct.pack("=QII", _address(name), fd, 0))


def obj_get(path: Path) -> int:
    """Open a pinned map or program; the caller closes the descriptor."""
    name = _bytes(os.fsencode(path) + b"\0")
    return _bpf(_OBJ_GET, struct.pack("=QII", _address(name), 0, 0))


# --- maps ----------------------------------------------------------------------------------------


def map_create(name: str, kind: int, key_size: int, value_size: int, max_entries: int, flags: int) -> int:
    """Create a map; the caller closes the descriptor."""
    attributes = struct.pack(
        "=IIIIIIi16s", kind, key_size, value_size, max_entries, flags, 0, 0, name[:15].encode()
    )
    try:
        return _bpf(_MAP_CREATE, attributes)
    except PermissionError:
        # Kernels before 5.11 account maps to the locked memory of the process.
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return _bpf(_MAP_CREATE, attributes)


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value of a key, or None. For per-CPU maps value_size is that of all CPUs together."""
    k = _bytes(key)
    v = ctypes.create_string_buffer(value_size)
    try:
        _bpf(_MAP_LOOKUP, struct.pack("=IIQQQ", fd, 0, _address(k), _address(v), 0))
    except FileNotFoundError:
        return None
    return v.raw


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Add or replace one entry."""
    k = _bytes(key)
    v = _bytes(value)
    _bpf(_MAP_UPDATE, struct.pack("=IIQQQ", fd, 0, _address(k), _address(v), 0))


def map_delete(fd: int, key: bytes) -> None:
    """Delete one entry; one that is not there is no error."""
    k = _bytes(key)
    try:
        _bpf(_MAP_DELETE, struct.pack("=IIQQQ", fd, 0, _address(k), 0, 0))
    except FileNotFoundError:
        return


def map_update_many(fd: int, entries: Mapping[bytes, bytes]) -> None:
    """Add or replace entries, in batches where the kernel has them for this kind of map."""
    items = list(entries.items())
    for start in range(0, len(items), _BATCH):
        chunk = items[start : start + _BATCH]
        keys = _bytes(b"".join(key for key, value in chunk))
        values = _bytes(b"".join(value for key, value in chunk))
        request = struct.pack("=QQQQIIQQ", 0, 0, _address(keys), _address(values), len(chunk), fd, 0, 0)
        try:
            _bpf(_MAP_UPDATE_BATCH, request)
        except OSError as error:
            if error.errno not in _NO_BATCH:
                raise
            for key, value in chunk:
                map_update(fd, key, value)


def map_delete_many(fd: int, keys: Iterable[bytes]) -> None:
    """Delete entries; a trie has no batch for it on older kernels, and removals are few."""
    for key in keys:
        map_delete(fd, key)


def map_items(fd: int, key_size: int, value_size: int) -> dict[bytes, bytes]:
    """All entries of a hash, a trie or an array."""
    try:
        return _items_by_batch(fd, key_size, value_size)
    except OSError as error:
        if error.errno not in _NO_BATCH:
            raise
        return _items_by_key(fd, key_size, value_size)


def _items_by_batch(fd: int, key_size: int, value_size: int) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    # A hash hands out whole buckets and keeps its place in a cursor of up to a key's size.
    cursor = ctypes.create_string_buffer(max(8, key_size))
    room = _BATCH
    keys = ctypes.create_string_buffer(room * key_size)
    values = ctypes.create_string_buffer(room * value_size)
    start = 0
    while True:
        request = struct.pack(
            "=QQQQIIQQ", start, _address(cursor), _address(keys), _address(values), room, fd, 0, 0
        )
        buffer = ctypes.create_string_buffer(request, _ATTR_SIZE)
        done = False
        try:
            _bpf_into(_MAP_LOOKUP_BATCH, buffer)
        except FileNotFoundError:
            done = True  # the last batch: it still carries entries
        (count,) = struct.unpack_from("=I", buffer, 32)
        raw_keys, raw_values = keys.raw, values.raw
        for index in range(count):
            key = raw_keys[index * key_size : (index + 1) * key_size]
            found[key] = raw_values[index * value_size : (index + 1) * value_size]
        if done:
            return found
        start = _address(cursor)


def _items_by_key(fd: int, key_size: int, value_size: int) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    following = ctypes.create_string_buffer(key_size)
    previous = 0
    holder = following
    while True:
        try:
            _bpf(_MAP_NEXT_KEY, struct.pack("=IIQQQ", fd, 0, previous, _address(following), 0))
        except FileNotFoundError:
            return found
        key = following.raw
        value = map_lookup(fd, key, value_size)
        if value is not None:
            found[key] = value
        holder = _bytes(key)
        previous = _address(holder)


# --- programs ------------------------------------------------------------------------------------


def prog_load(kind: int, name: str, instructions: bytes, license_name: str) -> int:
    """Have the kernel verify and take a program; the caller closes the descriptor."""
    code, terms = _bytes(instructions), _bytes(license_name.encode() + b"\0")
    count = len(instructions) // 8
    log_level = log_size = log_buffer = kernel_version = flags = 0
    attributes = struct.pack(
        "=IIQQIIQII16s",
        kind,
        count,
        _address(code),
        _address(terms),
        log_level,
        log_size,
        log_buffer,
        kernel_version,
        flags,
        name[:15].encode(),
    )
    return _bpf(_PROG_LOAD, attributes)


@dataclass(frozen=True)
class TestRun:
    """Result of one test run: verdict, packet, context (struct __sk_buff) and mean duration in ns."""

    __test__ = False  # not a test class, whatever its name looks like

    verdict: int
    data: bytes
    context: bytes
    nanoseconds: int


def prog_test_run(fd: int, packet: bytes, context: bytes = b"", repeat: int = 1) -> TestRun:
    """BPF_PROG_TEST_RUN: run a program on a packet, repeat times."""
    data = _bytes(packet)
    out = ctypes.create_string_buffer(len(packet) + 256)
    ctx = _bytes(context)
    ctx_out = ctypes.create_string_buffer(max(1, len(context)))
    size = len(context)
    request = struct.pack(
        "=IIIIQQIIIIQQ",
        fd,
        0,
        len(packet),
        len(out),
        _address(data),
        _address(out),
        repeat,
        0,
        size,
        size,
        _address(ctx) if size else 0,
        _address(ctx_out) if size else 0,
    )
    buffer = ctypes.create_string_buffer(request, _ATTR_SIZE)
    _bpf_into(_PROG_TEST_RUN, buffer)
    fields = struct.unpack_from("=IIIIQQIIII", buffer)
    return TestRun(
        verdict=struct.unpack("=i", struct.pack("=I", fields[1]))[0],
        data=out.raw[: fields[3]],
        context=ctx_out.raw[: fields[9]] if size else b"",
        nanoseconds=fields[7],
    )


def _info(fd: int, info: ctypes.Array[ctypes.c_char]) -> None:
    _bpf(_OBJ_INFO, struct.pack("=IIQ", fd, len(info), _address(info)))


def map_id(fd: int) -> int:
    """The kernel's id of a map (struct bpf_map_info)."""
    info = ctypes.create_string_buffer(80)
    _info(fd, info)
    return int(struct.unpack_from("=I", info, 4)[0])


def prog_id(fd: int) -> int:
    """The kernel's id of a program (struct bpf_prog_info): never given twice in a row since boot."""
    info = ctypes.create_string_buffer(64)
    _info(fd, info)
    return int(struct.unpack_from("=I", info, 4)[0])


def prog_map_ids(fd: int) -> frozenset[int]:
    """Ids of the maps that a program uses (struct bpf_prog_info: nr_map_ids at 52, map_ids at 56)."""
    room = 64
    ids = ctypes.create_string_buffer(4 * room)
    info = ctypes.create_string_buffer(64)
    struct.pack_into("=IQ", info, 52, room, _address(ids))
    _info(fd, info)
    (count,) = struct.unpack_from("=I", info, 52)
    return frozenset(struct.unpack_from(f"={min(count, room)}I", ids))
