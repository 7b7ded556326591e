# SPDX-License-Identifier: Apache-2.0
"""Packets in, the observer's events out: the real programs, the real ring, a real policy set."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest
from tests.bpf.fw_harness import FRIEND4, SELF4, FirewallBench
from tests.bpf.harness import DROP, LISTEN_PORT, PYTHON, Bench, TestPaths, bpf_filesystem, context, network
from tests.bpf.netns import Namespace
from tests.bpf.packets import udp
from tests.bpf.test_firewall import ACK, FIN, SYN, echo, from_us, tcp, to_us
from tests.fleets import numbered

from wardmesh.api.server import Server
from wardmesh.daemon import flow_source
from wardmesh.daemon.firewall_tables import host_tables
from wardmesh.daemon.flow_source import KernelFlows
from wardmesh.datapath import bpfsys
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import EGRESS, INGRESS, MEMBER, SELF, STRICT
from wardmesh.datapath.firewall import Firewall
from wardmesh.datapath.guard import Guard
from wardmesh.datapath.pins import Pins
from wardmesh.model.fleetmap import canonical, digest_of
from wardmesh.model.identity import identities
from wardmesh.observe.flow import Direction, FlowEvent, Kind, Policy, Verdict
from wardmesh.policy.files import parse_policies

pytestmark = pytest.mark.netns

TICK_NS = 10_000_000  # of the kernel's slowest clock, a hundred a second
FLEET = numbered(4, 4)  # we are h1; 10.0.0.2, the friend of the tables, is h2
IDENTITY = identities(FLEET)
STRANGER, H3 = "192.0.2.9", "10.0.0.3"
ROWS_MAX, FLOWS_MAX = 256, 1024
POLICIES = {
    "web.yaml": """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: a1}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: a2}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}, {port: "53", protocol: UDP}]}]
  - icmps: [{fields: [{type: 8, family: IPv4}]}]
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: a3}}]
  egress:
  - toEndpoints: [{matchLabels: {app: a2}}]
""",
}


class Host:
    """A firewall with POLICIES in force, an agent's socket that says so, and the source."""

    def __init__(self, system: TestPaths, paths: TestPaths) -> None:
        """system: where the compiler finds headers; paths: of this host, with the same pins."""
        self.system = system
        self.firewall = Firewall(system, 4096, ROWS_MAX, FLOWS_MAX, PYTHON)
        self.firewall.ensure_loaded()
        self.firewall.set_ports(LISTEN_PORT)
        self.firewall.set_policy(host_tables(parse_policies(sorted(POLICIES.items()), "test"), FLEET, "h1"))
        self.guard = Guard(system, LISTEN_PORT, 4096, PYTHON)
        self.protect()
        self.bench = FirewallBench(self.firewall, fw.map_specs(4096, ROWS_MAX, FLOWS_MAX))
        paths.etc.mkdir(parents=True)
        paths.config.write_text(
            f"bpf: {{membersMax: 4096, policyRowsMax: {ROWS_MAX}, flowsMax: {FLOWS_MAX}}}\n", encoding="utf-8"
        )
        members = [
            {
                "name": one.name,
                "key": one.key,
                "addresses": [str(address) for address in one.addresses],
                "labels": dict(one.labels),
            }
            for one in FLEET.members
        ]
        document = {"format": 1, "generation": 1, "cluster": {"name": "c", "id": 1}, "members": members}
        paths.fleet.write_bytes(canonical({**document, "digest": digest_of(document)}) + b"\n")
        self._api = Server(
            paths.socket, {("GET", "/v1/policy"): lambda _body: {"revision": 3, "files": POLICIES}}
        )
        self.source = KernelFlows(paths, lambda _fleet: "h1")

    def protect(self) -> None:
        """Load the guard; h2 is sealed."""
        self.guard.ensure_loaded()
        self.guard.set_members(
            {network(SELF4): (IDENTITY["h1"], SELF), network(FRIEND4): (IDENTITY["h2"], MEMBER | STRICT)}
        )

    def unencrypted(self, direction: int, count: int = 1) -> None:
        """So many packets of port 4000 to or from h2, at a physical device."""
        packet = to_us(FRIEND4, tcp(4000, 80)) if direction == INGRESS else from_us(FRIEND4, tcp(4000, 80))
        bench = Bench(self.guard, self.system)
        run = bpfsys.prog_test_run(bench.program(direction), packet, context(), count)
        bench.close()
        assert run.verdict == DROP

    def told(self) -> list[FlowEvent]:
        """Everything that the kernel has to say."""
        return [event for look in self.source.poll(0.0) for event in look.between(0, len(look))]

    def close(self) -> None:
        """Let everything go."""
        self.source.close()
        self._api.close()
        self.bench.close()
        self.firewall.close()
        self.guard.close()


@pytest.fixture(scope="module")
def loaded(privileged: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One, in a namespace of its own."""
    namespace, folder = Namespace(), tmp_path_factory.mktemp("host")
    try:
        with namespace.entered(), bpf_filesystem(folder) as paths:
            found = Host(paths, TestPaths(root=folder, home=folder))
            yield found
            found.close()
    finally:
        namespace.close()


@pytest.fixture
def host(loaded: Host) -> Host:
    """Without flows, and with nothing left to tell."""
    loaded.bench.forget_flows()
    while loaded.told():
        pass
    return loaded


def test_a_connection_from_its_first_packet_to_its_last(host: Host) -> None:
    before = time.time_ns()
    assert host.bench.passes(INGRESS, to_us(FRIEND4, tcp(4000, 80)))
    assert host.bench.passes(EGRESS, from_us(FRIEND4, tcp(80, 4000, SYN | ACK)))
    assert host.bench.passes(INGRESS, to_us(FRIEND4, tcp(4000, 80, ACK)))
    assert host.bench.passes(INGRESS, to_us(FRIEND4, tcp(4000, 80, FIN | ACK)))
    opened, answered, closed = host.told()
    assert (opened.kind, opened.verdict) == (Kind.VERDICT, Verdict.FORWARDED)
    assert opened.direction is Direction.INGRESS
    assert (str(opened.source), str(opened.destination)) == (FRIEND4, SELF4)
    assert (opened.source_port, opened.destination_port, opened.tcp_flags) == (4000, 80, SYN)
    assert (opened.source_identity, opened.destination_identity) == (IDENTITY["h2"], IDENTITY["h1"])
    assert opened.allowed_by == (Policy("web", "", "CiliumClusterwideNetworkPolicy", 3),)
    assert (opened.is_reply, opened.policy_match_type, opened.node) == (False, 2, "h1")
    # An opening from outside has the time of the kernel's last tick.
    assert before - TICK_NS <= opened.time_ns <= answered.time_ns <= closed.time_ns <= time.time_ns()
    assert (answered.kind, answered.is_reply, answered.direction) == (Kind.TRACE, True, Direction.EGRESS)
    assert (answered.source_identity, answered.destination_port) == (IDENTITY["h1"], 4000)
    assert closed.traffic is not None and closed.traffic.closed
    assert (closed.traffic.packets, closed.traffic.packets_back) == (3, 1)
    assert closed.traffic.duration_ns == closed.time_ns - opened.time_ns
    assert answered.traffic is not None and answered.traffic.rtt_ns is None  # that was our own delay


def test_the_round_trip_of_what_we_open(host: Host) -> None:
    assert host.bench.passes(EGRESS, from_us(FRIEND4, tcp(4000, 80)))
    time.sleep(0.02)
    assert host.bench.passes(INGRESS, to_us(FRIEND4, tcp(80, 4000, SYN | ACK)))
    opened, answered = host.told()
    assert answered.traffic is not None and answered.traffic.rtt_ns is not None
    assert answered.traffic.rtt_ns == answered.time_ns - opened.time_ns >= 20_000_000


def test_drops_name_reason_and_rule(host: Host) -> None:
    for peer, port in ((H3, 80), (FRIEND4, 81), (STRANGER, 80)):
        assert not host.bench.passes(INGRESS, to_us(peer, tcp(4000, port)))
    denied, unspoken, strange = host.told()
    assert {one.kind for one in (denied, unspoken, strange)} == {Kind.DROP}
    assert [one.drop_reason for one in (denied, unspoken, strange)] == [181, 133, 133]
    assert denied.denied_by == (Policy("web", "", "CiliumClusterwideNetworkPolicy", 3),)
    assert unspoken.denied_by == strange.denied_by == ()
    assert (strange.source_identity, strange.is_reply) == (9, False)


def test_pings_carry_their_type_and_no_ports(host: Host) -> None:
    assert host.bench.passes(INGRESS, to_us(STRANGER, echo(8)))
    (ping,) = host.told()
    assert (ping.icmp_type, ping.source_port, ping.destination_port) == (8, 0, 0)
    assert ping.allowed_by == (Policy("web", "", "CiliumClusterwideNetworkPolicy", 3),)


def test_a_flow_without_a_farewell_ends_with_its_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.source._ages, "_fresh", 0.0)
    host.source._ages._young.clear()  # flows of other tests, which are due later
    assert host.bench.passes(INGRESS, to_us(FRIEND4, udp(4000, 53)))
    assert host.bench.passes(EGRESS, from_us(FRIEND4, udp(53, 4000)))
    assert [one.kind for one in host.told()] == [Kind.VERDICT, Kind.TRACE]
    assert host.told() == []
    with host.bench.memory("flows4") as table:  # its time is over
        (slot,) = host.bench.slots(4)
        place = table.find(slot.key) + len(slot.key) + fw.FLOW.size - 8
        (expires,) = struct.unpack_from("=I", table, place)
        struct.pack_into("=I", table, place, expires - 1000)
    host.source._ages._old[0] = (0.0, *host.source._ages._old[0][1:])
    (ended,) = host.told()
    assert ended.traffic is not None and ended.traffic.closed
    assert (ended.traffic.packets, ended.traffic.packets_back) == (1, 1)
    assert (ended.source_port, ended.destination_port) == (4000, 53)


def test_what_the_guard_drops_is_told(host: Host) -> None:
    host.unencrypted(INGRESS)
    time.sleep(2 * TICK_NS / 1e9)  # what is told by two rings is in order to a tick
    assert host.bench.passes(INGRESS, to_us(FRIEND4, tcp(4001, 80)))
    time.sleep(2 * TICK_NS / 1e9)
    host.unencrypted(EGRESS)
    received, opened, sent = host.told()
    assert opened.kind is Kind.VERDICT  # between the two, by its time
    for one, direction in ((received, Direction.INGRESS), (sent, Direction.EGRESS)):
        assert (one.kind, one.verdict, one.drop_reason) == (Kind.DROP, Verdict.DROPPED, 195)
        assert (one.direction, one.encrypted, one.is_reply, one.denied_by) == (direction, False, None, ())
        assert (one.source_port, one.destination_port, one.tcp_flags) == (4000, 80, SYN)
    there, back = (received.source, received.source_identity), (sent.source, sent.source_identity)
    assert (str(there[0]), there[1]) == (FRIEND4, IDENTITY["h2"])
    assert (str(back[0]), back[1]) == (SELF4, IDENTITY["h1"])


def test_what_the_guard_does_not_tell_is_counted(host: Host) -> None:
    def withheld() -> int:
        return host.guard.counters()["Event withheld"].packets

    before, told = withheld(), 0
    for _second in range(3):
        host.unencrypted(INGRESS, 5000)
        told += len(host.told())
    assert 900 <= told < 15_000  # a thousand in a second; the test before may have told some
    assert withheld() - before == 15_000 - told


def test_the_guards_maps_may_be_made_anew(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_source, "_REFRESH", 0.0)
    for folder in host.system.bpffs.glob("maps-*"):
        Pins(host.system.bpffs).remove(folder)
    host.guard.close()
    assert host.told() == []
    host.protect()
    assert host.told() == []
    host.unencrypted(EGRESS)
    assert [one.drop_reason for one in host.told()] == [195]


def test_a_flow_keeps_the_rules_that_it_was_seen_with(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two policy sets between two looks: what the first one allowed has its rule, and so has the second."""
    files = {"web.yaml": POLICIES["web.yaml"].replace("name: web", "name: shop")}
    answer = {"revision": 4, "files": files}
    assert host.bench.passes(INGRESS, to_us(FRIEND4, tcp(4000, 80)))
    assert host.bench.passes(EGRESS, from_us(FRIEND4, tcp(80, 4000, SYN | ACK)))
    monkeypatch.setattr(host.source, "_policy", lambda: answer)
    host.firewall.set_policy(host_tables(parse_policies(sorted(files.items()), "test"), FLEET, "h1"))
    assert host.bench.passes(INGRESS, to_us(FRIEND4, tcp(4001, 80)))
    looks = host.source.poll(0.0)
    assert len(looks) == 2
    events = [event for look in looks for event in look.between(0, len(look))]
    rules = [(one.source_port, one.allowed_by) for one in events if one.kind is Kind.VERDICT]
    kind = "CiliumClusterwideNetworkPolicy"
    assert rules == [(4000, (Policy("web", "", kind, 3),)), (4001, (Policy("shop", "", kind, 4),))]
    monkeypatch.undo()
    host.source._refresh()


def test_a_device_that_is_gone_is_named_by_who_saw_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.bench.passes(INGRESS, to_us(FRIEND4, tcp(4000, 80)))
    (look,) = host.source.poll(0.0)
    (before,) = look.between(0, 1)
    assert before.interface
    monkeypatch.setattr(flow_source.socket, "if_indextoname", _gone)
    host.source._refresh()
    assert host.bench.passes(INGRESS, to_us(FRIEND4, tcp(4001, 80)))
    (later,) = host.told()
    assert later.interface == "" and look.between(0, 1) == [before]


def _gone(_index: int) -> str:
    raise OSError


def test_nobody_listens_after_close(host: Host) -> None:
    host.source.close()
    assert host.bench.passes(INGRESS, to_us(FRIEND4, tcp(4000, 80)))
    host.unencrypted(INGRESS)
    host.source._open_maps()
    host.source._guard.refresh()
    assert host.told() == []
    assert host.bench.passes(INGRESS, to_us(FRIEND4, tcp(4001, 80)))
    assert [one.source_port for one in host.told()] == [4001]
