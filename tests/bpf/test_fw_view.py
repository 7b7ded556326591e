# SPDX-License-Identifier: Apache-2.0
"""What the command line shows of the firewall is what lies in the kernel."""

from __future__ import annotations

import ipaddress
from collections import Counter

import pytest
from tests.bpf.fw_harness import (
    FAILSAFE,
    FOE4,
    FRIEND4,
    FRIEND6,
    NOTHING,
    POLICY,
    SELF4,
    SELF6,
    FirewallBench,
    cells,
    tables,
)
from tests.bpf.harness import LISTEN_PORT
from tests.bpf.packets import ethernet, ipv4, ipv6
from tests.bpf.test_firewall import tcp

from wardmesh.datapath import bpfsys, ticks
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import EGRESS, INGRESS, ROW
from wardmesh.datapath.flow_table import FlowTable, slots_taken
from wardmesh.datapath.fw_held import Settings, policy_facts, read_held
from wardmesh.datapath.fw_view import PinnedFirewall

pytestmark = pytest.mark.netns


def opened(wall: FirewallBench) -> PinnedFirewall:
    sizes = (4096, 256, 65536)
    folder = wall.firewall.folder.parent / f"maps-{fw.contract_hash(*sizes)}"
    return PinnedFirewall(folder, fw.map_specs(*sizes), sizes[1])


def test_policy_lines(wall: FirewallBench) -> None:
    for port in (4000, 4001):
        assert wall.passes(INGRESS, ethernet(ipv4(FRIEND4, SELF4, tcp(port, 80))))
    with opened(wall) as maps:
        peers = {str(net): identity for net, (identity, _row) in maps.peers().items()}
        lines = {(line.peers, line.direction, line.ports): line for line in maps.policy()}
    friends = tuple(sorted({str(peers[f"{FRIEND4}/32"]), str(peers[f"{FRIEND6}/128"])}))
    assert lines[friends, "ingress", "80/TCP"].verdict == "Allow"
    assert lines[friends, "ingress", "80/TCP"].flows >= 2
    assert lines[friends, "ingress", "1000-2000/TCP"].verdict == "Allow"
    assert lines[friends, "ingress", "8/ICMP"].verdict == "Allow"
    foe = next(names for names, _way, _ports in lines if str(peers[f"{FOE4}/32"]) in names)
    assert {line.verdict for key, line in lines.items() if key[0] == foe} == {"Deny"}
    assert lines[foe, "egress", "ANY/UDP"].verdict == "Deny"
    assert not any("world" in name for names, _way, _ports in lines for name in names)


def test_connections(wall: FirewallBench) -> None:
    assert wall.passes(INGRESS, ethernet(ipv4(FRIEND4, SELF4, tcp(4000, 80))))
    assert wall.passes(EGRESS, ethernet(ipv4(SELF4, FRIEND4, tcp(80, 4000, 0x12))))
    assert wall.passes(INGRESS, ethernet(ipv6(FRIEND6, SELF6, tcp(4000, 80))))
    with opened(wall) as maps:
        answered, fresh = maps.flows()
    assert (answered.remote, answered.local) == (f"{FRIEND4}:4000", f"{SELF4}:80")
    assert (answered.protocol, answered.direction, answered.verdict) == ("TCP", "ingress", "Allow")
    assert answered.packets == (1, 1) and answered.flags == ("answered",)
    assert 7900 < answered.expires <= 8001
    assert fresh.remote == f"[{FRIEND6}]:4000" and fresh.flags == () and 55 <= fresh.expires <= 61


def test_what_the_maps_hold_is_what_was_compiled_until_somebody_changes_it(wall: FirewallBench) -> None:
    wanted = Settings(False, LISTEN_PORT, FAILSAFE, frozenset())
    with opened(wall) as maps:
        assert policy_facts(*read_held(maps, 256)) == policy_facts(POLICY, wanted)
        key = ipaddress.ip_address(FRIEND4).packed
        value = bpfsys.map_lookup(maps.maps["peers4"], key, fw.PEER.size)
        assert value is not None
        bpfsys.map_delete(maps.maps["peers4"], key)
        without = policy_facts(*read_held(maps, 256))
        bpfsys.map_update(maps.maps["peers4"], key, value)
        assert policy_facts(*read_held(maps, 256)) == policy_facts(POLICY, wanted)
    assert set(policy_facts(POLICY, wanted)) - set(without) == {f"peer {FRIEND4}/32"}


def test_a_port_of_the_failsafe_without_its_bit_is_none(wall: FirewallBench) -> None:
    wanted = policy_facts(POLICY, Settings(False, LISTEN_PORT, FAILSAFE, frozenset()))
    ssh = ethernet(ipv4(FOE4, SELF4, tcp(4000, 22)))
    with opened(wall) as maps:
        state = bpfsys.map_lookup(maps.maps["state"], ROW.pack(0), fw.STATE.size)
        assert state is not None
        *kept, bits = fw.STATE.unpack(state)
        assert bits == fw.failsafe_bits({22, 123})
        bpfsys.map_update(maps.maps["state"], ROW.pack(0), fw.STATE.pack(*kept, bits & ~(1 << 22)))
        changed, passed = policy_facts(*read_held(maps, 256)), wall.passes(INGRESS, ssh)
        wall.firewall.set_failsafe(FAILSAFE)
        assert policy_facts(*read_held(maps, 256)) == wanted
    assert (changed == wanted, passed, wall.passes(INGRESS, ssh)) == (False, False, True)


def test_no_flow_is_lost_when_more_cells_decide_than_a_processor_remembers(wall: FirewallBench) -> None:
    """Forty groups of peers in turn, allowed and denied: the recent cells change hands all the time."""
    peers = {
        f"10.7.0.{n}": (0, 1, 1, 1, 1, 0, 1 + n % 2, *(n >> bit & 1 for bit in range(6))) for n in range(40)
    }
    rows = {peer: cells(one, NOTHING) for peer, one in peers.items()}
    wall.firewall.set_policy(tables(rows, cells(NOTHING, NOTHING)))
    for source in range(4000, 4003):
        for peer in peers:
            assert wall.passes(INGRESS, ethernet(ipv4(peer, SELF4, tcp(source, 80))))
            wall.passes(INGRESS, ethernet(ipv4(peer, SELF4, tcp(source, 1500))))
    with opened(wall) as maps:
        lines = [line for line in maps.policy() if line.flows]
    assert len(lines) == 2 * len(peers) and {line.flows for line in lines} == {3}
    assert Counter(line.verdict for line in lines) == {"Allow": 60, "Deny": 20}


def test_sizes(wall: FirewallBench) -> None:
    assert wall.passes(INGRESS, ethernet(ipv4(FRIEND4, SELF4, tcp(4000, 80))))
    with opened(wall) as maps:
        sizes = {name: (held, room) for name, held, room in maps.sizes()}
    assert sizes["flows4"] == (1, 131072) and sizes["flows6"] == (0, 65536)


def test_counters_read_by_their_pins_are_the_programs(wall: FirewallBench) -> None:
    assert wall.passes(INGRESS, ethernet(ipv4(FRIEND4, SELF4, tcp(4005, 80))))
    assert not wall.passes(INGRESS, ethernet(ipv4(FOE4, SELF4, tcp(4006, 80))))
    with opened(wall) as maps:
        read = maps.counters(fw.REASONS)
    assert read == wall.firewall.counters()
    assert read["Allowed", "ingress"].packets > 0
    assert sum(count.packets for (reason, _way), count in read.items() if "denied" in reason) > 0


def test_flows_are_counted_as_they_are_listed(wall: FirewallBench) -> None:
    for port in range(4100, 4150):
        assert wall.passes(INGRESS, ethernet(ipv4(FRIEND4, SELF4, tcp(port, 80))))
    assert wall.passes(EGRESS, ethernet(ipv4(SELF4, FRIEND4, tcp(80, 4100, 0x12))))
    assert wall.passes(INGRESS, ethernet(ipv6(FRIEND6, SELF6, tcp(4000, 80))))
    with opened(wall) as maps:
        sizes = {name: held for name, held, _room in maps.sizes()}
        listed = list(maps.flows())
        per_second, shift = ticks.ticks_per_second()
        later = ticks.now() + (70 * per_second >> shift)
        with FlowTable(maps.maps["flows4"], 4, slots_taken(maps.maps["taken"], 4)) as table:
            answered = table.live(later)  # in 70 s only the one that was answered
    assert (sizes["flows4"], sizes["flows6"]) == (50, 1)
    assert len(listed) == 51
    assert answered == 1
