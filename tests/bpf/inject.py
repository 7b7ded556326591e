# SPDX-License-Identifier: Apache-2.0
"""Packets into the receive path of a tap device, from within one system call: XDP test runs with live frames.

What the kernel's stack does with a packet (filters, conntrack, the socket) is inside the measured time.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

from tests.bpf.driver import SOURCE_PORT, _call, _ins, _load, _map
from tests.bpf.netns import ip

from wardmesh.datapath import bpfsys

_TUNSETIFF, _TAP, _NO_PI = 0x400454CA, 2, 0x1000  # uapi/linux/if_tun.h
_SIOCGIFHWADDR = 0x8927
_XDP, _ARRAY = 6, 2
_LIVE_FRAMES, _BATCH = 2, 64
_LOOKUP = 1
FIRST_PORT = 1 << 10  # by bits, so that ports count on from here


class Tap:
    """A tap device in the namespace that the calling thread is in; nobody reads what it sends."""

    def __init__(self, name: str, address: str) -> None:
        self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_PI))
        ip(f"addr add {address} dev {name}")
        ip(f"link set {name} up")
        self.index = socket.if_nametoindex(name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            self.mac = fcntl.ioctl(probe, _SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))[18:24]

    def close(self) -> None:
        """The device goes, too."""
        os.close(self._fd)


def addressed(frame: bytes, mac: bytes) -> bytes:
    """An IPv4 frame to this device, with the checksum that the stack wants to see."""
    header = bytearray(frame[14:34])
    header[10:12] = bytes(2)
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header[10:12] = struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)
    return mac + frame[6:14] + bytes(header) + frame[34:]


class Injector:
    """Gives each IPv4 packet one of so many source ports in turn (a power of two), and passes it on."""

    def __init__(self, ports: int) -> None:
        self._counter = bpfsys.map_create("inject_count", _ARRAY, 4, 8, 1, 0)
        code = (
            _ins(0xBF, 6, 1)  # r6 = context
            + _ins(0x62, 10, 0, -4, 0)  # row 0
            + _map(1, self._counter)
            + _ins(0xBF, 2, 10)
            + _ins(0x07, 2, imm=-4)
            + _call(_LOOKUP)
            + _ins(0x15, 0, 0, 12, 0)  # never; on to the end
            + _ins(0x79, 1, 0)  # r1 = count
            + _ins(0x07, 1, imm=1)
            + _ins(0x7B, 0, 1)
            + _ins(0x57, 1, imm=ports - 1)
            + _ins(0x07, 1, imm=FIRST_PORT)
            + _ins(0x61, 2, 6, 0)  # r2 = data
            + _ins(0x61, 3, 6, 4)  # r3 = end of data
            + _ins(0xBF, 4, 2)
            + _ins(0x07, 4, imm=SOURCE_PORT[4] + 2)
            + _ins(0x2D, 4, 3, 2)
            + _ins(0xDC, 1, imm=16)  # to network order
            + _ins(0x6B, 2, 1, SOURCE_PORT[4])
            + _ins(0xB7, 0, imm=2)  # XDP_PASS
            + _ins(0x95)
        )
        self._fd = _load(code, _XDP)

    def run(self, tap: Tap, frame: bytes, count: int) -> float:
        """Nanoseconds for each of so many packets, from the driver to where the stack is done with them."""
        data = ctypes.create_string_buffer(frame, len(frame))
        context = struct.pack("=6I", 0, len(frame), 0, tap.index, 0, 0)
        held = ctypes.create_string_buffer(context, len(context))
        request = struct.pack(
            "=IIIIQQIIIIQQIII",
            *(self._fd, 0, len(frame), 0, ctypes.addressof(data), 0, count, 0),
            *(len(context), 0, ctypes.addressof(held), 0, _LIVE_FRAMES, 0, _BATCH),
        )
        buffer = ctypes.create_string_buffer(request, 128)
        bpfsys._bpf_into(bpfsys._PROG_TEST_RUN, buffer)
        return float(struct.unpack_from("=I", buffer, 36)[0])

    def close(self) -> None:
        """Let both go."""
        os.close(self._fd)
        os.close(self._counter)
