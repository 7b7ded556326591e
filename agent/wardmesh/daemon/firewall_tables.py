# SPDX-License-Identifier: Apache-2.0
"""Pure: where policy and datapath meet. A host's compiled policy as the tables of the firewall's maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from wardmesh.datapath.fw_contract import CLASS_ICMP, CLASS_ICMP6, CLASSES
from wardmesh.datapath.fw_tables import Peer, PolicyTables, class_table, row_of
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap
from wardmesh.model.identity import identities
from wardmesh.policy.compile import Compiled, compile_direction
from wardmesh.policy.documents import PolicySet
from wardmesh.policy.engine import Engine
from wardmesh.policy.fleet import Endpoint
from wardmesh.policy.ports import ICMP, ICMP6, SCTP, TCP, UDP
from wardmesh.policy.view import endpoints_of

CIDR_IDENTITY = 1 << 24  # upstream's local scope: identities of prefixes count from here


def engine_of(policies: PolicySet, fleet: FleetMap) -> Engine:
    """The engine over the fleet's members."""
    return Engine(policies, endpoints_of(fleet), fleet.cluster.name)


def tables_of(engine: Engine, subject: Endpoint, numbers: Mapping[str, int]) -> PolicyTables:
    """What the maps of this host shall hold; numbers: identity by member name."""
    universe = engine.universe
    ingress, egress = (
        compile_direction(engine.direction(subject, way), universe.everything) for way in (True, False)
    )
    rows = list(zip(_rows(ingress, len(universe.entries)), _rows(egress, len(universe.entries))))
    groups: dict[tuple[int, int], int] = {}
    peers, worlds = {}, {}
    for place, entry in enumerate(universe.entries):
        (coming, first), (going, second) = rows[place]
        group = groups.setdefault((first, second), len(groups))
        if entry.network.prefixlen == 0:
            worlds[entry.network.version] = Peer(0, (coming, going), group)
        else:
            number = CIDR_IDENTITY + place if entry.member is None else numbers[entry.member.name]
            peers[entry.network] = Peer(number, (coming, going), group)
    return PolicyTables(
        (*_class_tables(ingress), *_class_tables(egress)),
        peers,
        worlds[4].cells,
        worlds[6].cells,
        ingress.enforced or egress.enforced,
        (worlds[4].group, worlds[6].group),
    )


def host_tables(
    policies: PolicySet, fleet: FleetMap, own_name: str, numbers: Mapping[str, int] | None = None
) -> PolicyTables:
    """The tables of one member of a fleet. numbers: the identities by name, where they are known already."""
    engine = engine_of(policies, fleet)
    return tables_of(engine, engine.endpoints[own_name], identities(fleet) if numbers is None else numbers)


def _rows(compiled: Compiled, entries: int) -> list[tuple[bytes, int]]:
    """A row for each entry, and the number of its group; equal rows are one object."""
    found = [(b"", 0)] * entries
    made: dict[tuple[int, ...], bytes] = {}
    for number, (members, actions) in enumerate(compiled.groups):
        if len(actions) > CLASSES:
            raise WardmeshError(
                f"the policy tells apart {len(actions)} classes of ports, the firewall holds {CLASSES}",
                where="policies",
                remedy="let rules of this host name fewer different port ranges",
            )
        row = made.get(actions) or made.setdefault(actions, row_of(actions))
        for place in _bits(members):
            found[place] = row, number
    return found


def _bits(members: int) -> Iterator[int]:
    while members:
        lowest = members & -members
        yield lowest.bit_length() - 1
        members ^= lowest


def _class_tables(compiled: Compiled) -> tuple[bytes, ...]:
    """TCP, UDP, SCTP, everything else; what has no ports is class 0."""
    tables = [
        class_table((s.first, s.last, s.number) for s in compiled.segments if s.protocol == protocol)
        for protocol in (TCP, UDP, SCTP)
    ]
    starts = {ICMP: CLASS_ICMP, ICMP6: CLASS_ICMP6}
    others = [
        (starts[s.protocol] + s.first, starts[s.protocol] + s.last, s.number)
        for s in compiled.segments
        if s.protocol in starts
    ]
    return (*tables, class_table(others))
