# SPDX-License-Identifier: Apache-2.0
"""The sysctls without which the kernel would drop the tunnel's packets, journaled for cleanup.

rp_filter compares a packet's source with the route back to it; the kernel takes the larger of `all` and
the device's value, so 2 (loose) on our device holds whatever `all` says. On guarded devices the strict
check may stay: the guard marks the tunnel's packets, and src_valid_mark makes the check use the mark,
which our rules send past the tunnel's table.
"""

from __future__ import annotations

from collections.abc import Iterable

from wardmesh.host.sysctl import Sysctls
from wardmesh.wireguard.mark import INTERFACE


def desired_sysctls(devices: Iterable[str], ifname: str = INTERFACE) -> dict[str, str]:
    """Values by path below /proc/sys. devices: the guarded ones."""
    wanted = {
        f"net/ipv4/conf/{ifname}/rp_filter": "2",
        f"net/ipv6/conf/{ifname}/disable_ipv6": "0",
    }
    wanted.update({f"net/ipv4/conf/{device}/src_valid_mark": "1" for device in devices})
    return wanted


def reconcile_sysctls(sysctls: Sysctls, devices: Iterable[str], ifname: str = INTERFACE) -> list[str]:
    """Set what differs; a line for each."""
    wanted = desired_sysctls(devices, ifname)
    return [f"sysctl {name} = {value}" for name, value in wanted.items() if sysctls.ensure(name, value)]
