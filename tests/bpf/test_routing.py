# SPDX-License-Identifier: Apache-2.0
"""What a strict member sends through this host is routed traffic; the kernel's own tables decide."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.bpf.harness import DROP, PASS, SELF4, SELF6, STRICT4, STRICT6, Bench
from tests.bpf.netns import Namespace, ip, set_sysctl
from tests.bpf.packets import ethernet, ipv4, ipv6, tcp

from wardmesh.datapath.contract import EXEMPT, FORWARDED, INGRESS, MARK, UNENCRYPTED

pytestmark = pytest.mark.netns

BEYOND4, BEYOND6 = "198.51.100.5", "2001:db8:1::5"


@pytest.fixture
def router(privileged: None) -> Iterator[int]:
    """A namespace with two devices; the index of the one on which packets come in."""
    namespace = Namespace()
    with namespace.entered():
        for device, own4, own6 in (
            ("in0", f"{SELF4}/24", f"{SELF6}/64"),
            ("out0", "198.51.100.1/24", "2001:db8:1::1/64"),
        ):
            ip(f"link add {device} type veth peer name {device}p")
            for end in (device, f"{device}p"):
                set_sysctl(f"ipv6.conf.{end}.accept_dad", 0)
                ip(f"link set {end} up")
            ip(f"addr add {own4} dev {device}")
            ip(f"addr add {own6} dev {device} nodad")
        set_sysctl("ipv4.ip_forward", 1)
        set_sysctl("ipv6.conf.all.forwarding", 1)
        ip("route add blackhole 203.0.113.0/24")
        yield int(ip("-o link show in0").split(":")[0])
    namespace.close()


def reason(bench: Bench, ifindex: int, packet: bytes) -> tuple[int, int | None, int]:
    outcome = bench.run(INGRESS, ethernet(packet), ifindex=ifindex)
    return outcome.verdict, outcome.reason, outcome.mark


def test_routed_packets_pass_with_the_mark(bench: Bench, router: int) -> None:
    assert reason(bench, router, ipv4(STRICT4, BEYOND4, tcp())) == (PASS, FORWARDED, MARK)
    assert reason(bench, router, ipv6(STRICT6, BEYOND6, tcp())) == (PASS, FORWARDED, MARK)


def test_packets_to_this_host_do_not(bench: Bench, router: int) -> None:
    for packet in (
        ipv4(STRICT4, SELF4, tcp()),
        ipv4(STRICT4, "198.51.100.1", tcp()),
        ipv6(STRICT6, SELF6, tcp()),
        ipv6(STRICT6, "2001:db8:1::1", tcp()),
        ipv4(STRICT4, "10.0.0.255", tcp()),
        ipv4(STRICT4, "203.0.113.7", tcp()),
        ipv4(STRICT4, "127.0.0.1", tcp()),
    ):
        assert reason(bench, router, packet) == (DROP, UNENCRYPTED, 0)


def test_a_host_that_does_not_route_has_no_routed_traffic(bench: Bench, router: int) -> None:
    set_sysctl("ipv4.ip_forward", 0)
    set_sysctl("ipv6.conf.all.forwarding", 0)
    assert reason(bench, router, ipv4(STRICT4, BEYOND4, tcp())) == (DROP, UNENCRYPTED, 0)
    assert reason(bench, router, ipv6(STRICT6, BEYOND6, tcp())) == (DROP, UNENCRYPTED, 0)


def test_exempt_traffic_is_not_looked_up(bench: Bench, router: int) -> None:
    assert reason(bench, router, ipv4(STRICT4, SELF4, tcp(40000, 22))) == (PASS, EXEMPT, MARK)


def test_the_guarded_devices_rule_keeps_routed_traffic_out_of_the_tunnels_table(
    bench: Bench, router: int
) -> None:
    """Table 51871 would send it into the tunnel; rule 92 (iif) jumps over it, for the guard, too."""
    for family in ("-4", "-6"):
        ip(f"{family} rule add pref 92 iif in0 goto 99")
        ip(f"{family} rule add pref 95 lookup 51871")
        ip(f"{family} rule add pref 99 nop")
    ip(f"route add unreachable {BEYOND4} table 51871")
    ip(f"route add unreachable {BEYOND6} table 51871")
    assert reason(bench, router, ipv4(STRICT4, BEYOND4, tcp())) == (PASS, FORWARDED, MARK)
    assert reason(bench, router, ipv6(STRICT6, BEYOND6, tcp())) == (PASS, FORWARDED, MARK)
