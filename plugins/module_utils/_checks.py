# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host must have, each check a function that returns problems. Private to the collection.

Reads only. Kernel 5.6 is the first with WireGuard (the seed documents' table, chapter 3); 5.12 the first
whose eBPF has the compare-and-exchange that the firewall's table of flows needs.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import platform
import re
import select
import shutil
import socket
import subprocess
import time

FAMILIES = {
    "debian": {
        "bcc": "python3-bpfcc",
        "pyroute2": "python3-pyroute2",
        "yaml": "python3-yaml",
        "cryptography": "python3-cryptography",
        "grpc": "python3-grpcio",
        "google.protobuf": "python3-protobuf",
        "prometheus_client": "python3-prometheus-client",
        "ip": "iproute2",
        "wireguard-go": "wireguard-go",
    },
    "rhel": {
        "bcc": "python3-bcc",
        "pyroute2": "python3-pyroute2",
        "yaml": "python3-pyyaml",
        "cryptography": "python3-cryptography",
        "grpc": "python3-grpcio",
        "google.protobuf": "python3-protobuf",
        "prometheus_client": "python3-prometheus_client",
        "ip": "iproute-tc",
        "wireguard-go": "wireguard-go",
    },
}
PYTHON = "/usr/bin/python3"
AGENT_MODULES = ("bcc", "pyroute2", "yaml", "cryptography")
OBSERVER_MODULES = ("grpc", "google.protobuf", "prometheus_client")
STORE_MODULES = ("grpc",)
_FIND = """
import importlib.util, sys
for name in sys.argv[1:]:
    try:
        found = importlib.util.find_spec(name)
    except ImportError:
        found = None
    if found is None:
        print(name)
"""


def distribution(path="/etc/os-release"):
    """(family, pretty name, id); family is empty where it is not supported."""
    facts = {}
    with open(path) as stream:
        for line in stream:
            name, value = [*line.strip().split("=", 1), ""][:2]
            facts[name] = value.strip('"')
    words = (facts.get("ID", "") + " " + facts.get("ID_LIKE", "")).split()
    family = (
        "debian"
        if "debian" in words or "ubuntu" in words
        else "rhel"
        if {"rhel", "fedora", "centos"} & set(words)
        else ""
    )
    return family, facts.get("PRETTY_NAME", "unknown"), facts.get("ID", "")


def headers_package(family):
    """Name of the package with headers for the running kernel."""
    if family == "rhel":
        return "kernel-devel-" + platform.release()
    return "linux-headers-" + platform.release()


def has_headers():
    """Any headers that bcc can use; the programs need UAPI structures only."""
    release = platform.release()
    if os.path.isdir("/lib/modules/%s/build/include" % release) or os.path.exists(
        "/sys/kernel/kheaders.tar.xz"
    ):
        return True
    for base in ("/usr/src", "/usr/src/kernels"):
        for name in os.listdir(base) if os.path.isdir(base) else []:
            if os.path.exists(os.path.join(base, name, "include/generated/autoconf.h")):
                return True
    return False


def has_kernel_wireguard():
    """Built in, loaded, or a module that can be loaded."""
    if os.path.isdir("/sys/module/wireguard"):
        return True
    release = platform.release()
    for name in ("modules.builtin", "modules.dep"):
        try:
            with open("/lib/modules/%s/%s" % (release, name)) as stream:
                if "/wireguard.ko" in stream.read():
                    return True
        except OSError:
            continue
    return False


def missing_modules(names):
    """Those of the Python modules that the system's interpreter does not find."""
    done = subprocess.run(
        [PYTHON, "-I", "-c", _FIND, *names], stdout=subprocess.PIPE, universal_newlines=True, check=False
    )
    return done.stdout.split()


def kernel_problems(errors, warnings):
    """Version and features of the kernel."""
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    version = tuple(int(part) for part in match.groups()) if match else (0, 0)
    if version < (5, 6):
        errors.append(
            "kernel %s is too old: 5.6 is the oldest with WireGuard (remedy: upgrade the kernel)"
            % platform.release()
        )
    elif version < (5, 12):
        warnings.append(
            "kernel %s: host policies need 5.12 or newer; the tunnel works without (remedy: upgrade the kernel)"
            % platform.release()
        )
    if not os.path.exists("/sys/kernel/btf/vmlinux"):
        warnings.append("the kernel has no BTF (/sys/kernel/btf/vmlinux)")
    if not os.path.ismount("/sys/fs/bpf"):
        errors.append("no bpffs at /sys/fs/bpf (remedy: mount -t bpf bpf /sys/fs/bpf)")


def size_problems(warnings):
    """Memory, cores and disk against the documented minimum."""
    with open("/proc/meminfo") as stream:
        total = int(stream.readline().split()[1]) // 1024
    if total < 256:
        warnings.append("%d MiB of memory; compiling the guard needs about 200 MiB" % total)
    free = shutil.disk_usage("/var/lib").free // (1 << 20)
    if free < 100:
        warnings.append("%d MiB free below /var/lib" % free)


def clock_problem(now, errors):
    """A clock that is far off breaks WireGuard's handshakes after it is set back."""
    skew = time.time() - now
    if now and abs(skew) > 300:
        errors.append("the clock is %d s off the controller's (remedy: run an NTP client)" % skew)


def own_addresses():
    """Every address of this host."""
    done = subprocess.run(["ip", "-o", "addr"], stdout=subprocess.PIPE, universal_newlines=True, check=False)
    return re.findall(r"inet6? ([0-9a-f.:]+)/", done.stdout)


def address_problems(addresses, errors):
    """Addresses that the inventory claims must be here."""
    for address in addresses:
        if address not in own_addresses():
            errors.append(
                "wardmesh_addresses names %s, which no device of this host has (remedy: correct the inventory)"
                % address
            )


def _taken(port, device):
    """Has another program this UDP port? Not while our own device is there."""
    if os.path.isdir("/sys/class/net/" + device):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def port_problem(port, errors):
    """The tunnel's port must be free, or ours."""
    if _taken(port, "wardmesh_wg0"):
        errors.append(
            "UDP port %d is in use by another program (remedy: ss -lunp, then free it or set "
            "encryption.listenPort)" % port
        )


def second_port_advice(port, warnings):
    """The port beside must be free when keys rotate; a fleet works without."""
    beside = port + 1 if port < 65535 else port - 1
    if _taken(beside, "wardmesh_wg1"):
        warnings.append(
            "UDP port %d is in use by another program: rotate_keys.yml will refuse to rotate keys (remedy: "
            "ss -lunp, then free it)" % beside
        )


def unreachable(addresses, seconds=1.0, port=22):
    """Those of the addresses that give no answer at all; a refused connection is an answer."""
    waiting, silent = {}, []
    for address in addresses:
        link = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        link.setblocking(False)
        code = link.connect_ex((address, port))
        if code == errno.EINPROGRESS:
            waiting[link] = address
            continue
        link.close()
        if code not in (0, errno.ECONNREFUSED):
            silent.append(address)
    end = time.monotonic() + seconds
    while waiting and time.monotonic() < end:
        for link in select.select([], list(waiting), [], max(0.0, end - time.monotonic()))[1]:
            address = waiting.pop(link)
            if link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) not in (0, errno.ECONNREFUSED):
                silent.append(address)
            link.close()
    for link, address in waiting.items():
        silent.append(address)
        link.close()
    return sorted(silent)


def literal(text):
    """Is this an address, not a name?"""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
