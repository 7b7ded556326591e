# SPDX-License-Identifier: Apache-2.0
"""What each rule has decided is the sum over the cells of the kernel's table: against a count by hand."""

from __future__ import annotations

import ipaddress
import random
from collections import Counter

import pytest
from tests.fleets import numbered

from wardmesh.cli.rule_counts import RuleCount, count_rules
from wardmesh.daemon.firewall_tables import engine_of, tables_of
from wardmesh.daemon.rule_book import RuleBook
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import Network
from wardmesh.datapath.fw_tables import Covering, PolicyTables, plan
from wardmesh.datapath.fw_view import Judged
from wardmesh.model.fleetmap import Address
from wardmesh.model.identity import identities
from wardmesh.policy.files import parse_policies

HEAD = (
    "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: NAME, namespace: shop}\n"
    "spec:\n  endpointSelector: {}\n"
)
PORTS = (22, 80, 81, 443, 8080)
Flow = tuple[Address, bool, int]  # whose, ingress, TCP port
WORLDS = {"0.0.0.0/0": fw.ROW_WORLD4, "::/0": fw.ROW_WORLD6}


def a_policy(chance: random.Random, name: str) -> str:
    """One document with some rules, of which some deny, and with peers that overlap."""
    text = HEAD.replace("NAME", name)
    for section in chance.sample(["ingress", "ingressDeny", "egress", "egressDeny"], 2):
        side = "from" if section.startswith("ingress") else "to"
        text += f"  {section}:\n"
        for _item in range(chance.randrange(1, 4)):
            first = chance.choice(PORTS)
            peers = chance.choice(
                [
                    f"{side}Endpoints: [{{matchLabels: {{app: a{chance.randrange(4)}}}}}]",
                    f"{side}Entities: [world]",
                    f"{side}CIDR: [10.0.0.{8 * chance.randrange(3)}/29]",
                    f"{side}Endpoints: [{{}}]",
                ]
            )
            text += f"  - {peers}\n"
            if chance.random() < 0.8:
                ports = f'{{port: "{first}", endPort: {first + chance.randrange(3)}, protocol: TCP}}'
                text += f'    toPorts: [{{ports: [{ports}, {{port: "443", protocol: TCP}}]}}]\n'
    return text


def by_the_kernel(tables: PolicyTables, flows: Counter[Flow], rows_max: int) -> list[Judged]:
    """The cells in which the kernel would have counted them."""
    peers = plan({}, tables, rows_max).after
    covering, cells = Covering(peers), Counter[tuple[str, int, int]]()
    examples = {}
    for (address, ingress, port), count in flows.items():
        found = covering.of(ipaddress.ip_network(address))
        row = peers[found][1] if found else address.version // 6
        table = tables.classes[0 if ingress else fw.CLASS_TABLES]
        number = int.from_bytes(table[2 * port : 2 * port + 2], "little")
        cells["ingress" if ingress else "egress", row, number] += count
        examples["ingress" if ingress else "egress", number] = port
    rows: dict[int, list[Network]] = {row: [ipaddress.ip_network(net)] for net, row in WORLDS.items()}
    for network, (_identity, row) in peers.items():
        rows.setdefault(row, []).append(network)
    return [
        Judged(way, row, tuple(rows[row]), 6, examples[way, number], count)
        for (way, row, number), count in cells.items()
    ]


def by_hand(book_files: dict[str, str], flows: Counter[Flow], subject: str) -> Counter[tuple[str, str, str]]:
    """By (policy, rule, direction), each flow by itself through the engine."""
    engine = engine_of(parse_policies(sorted(book_files.items()), "policies"), numbered(24, 4))
    counts: Counter[tuple[str, str, str]] = Counter()
    for (address, ingress, port), count in flows.items():
        held, place = engine.direction(engine.endpoints[subject], ingress), engine.universe.place_of(address)
        way = "ingress" if ingress else "egress"
        speaks = [g for g in held.grants if g.peers >> place & 1 and g.covers(6, port)]
        decides = [g for g in speaks if g.item.deny] or speaks
        for name, path in {(g.policy.name, g.item.path) for g in decides}:
            counts[name, path, way] += count
        if not decides:
            counts["", "default deny" if held.enforced else "no default deny", way] += count
    return counts


def counted(rows: list[RuleCount], *, most: bool = False) -> Counter[tuple[str, str, str]]:
    """The same form, of what the product says."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        counts[row.name, row.rule, row.direction] = row.at_most if most else row.flows
    return counts


@pytest.mark.parametrize("seed", range(40))
def test_a_rule_counts_what_it_decides_and_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    fleet = numbered(24, 4)
    files = {f"{n}.yaml": a_policy(chance, f"p{n}") for n in range(chance.randrange(1, 5))}
    flows: Counter[Flow] = Counter()
    for _flow in range(300):
        address = ipaddress.ip_address(chance.choice([f"10.0.0.{chance.randrange(1, 40)}", "192.0.2.1"]))
        flows[address, chance.random() < 0.5, chance.choice([*PORTS, 82, 9000])] += chance.randrange(1, 9)
    engine = engine_of(parse_policies(sorted(files.items()), "policies"), fleet)
    tables = tables_of(engine, engine.endpoints["h1"], identities(fleet))
    book = RuleBook(files, fleet, "h1")
    expected = by_hand(files, flows, "h1")
    rows = count_rules(book, by_the_kernel(tables, flows, 256))
    assert +counted(rows) == expected
    assert all(row.flows == row.at_most for row in rows)
    spoken = {(g.policy.name, g.item.path) for way in (True, False) for g in book.grants(way)}
    assert {(row.name, row.rule) for row in rows if row.file} == spoken  # those at zero, too


def test_where_rows_are_few_the_bounds_hold_what_is_true() -> None:
    """Two peers that may do the same by two rules, and room for one row."""
    text = HEAD.replace("NAME", "web") + "  ingress:\n"
    for app in (1, 2):
        text += (
            f"  - fromEndpoints: [{{matchLabels: {{app: a{app}}}}}]\n"
            '    toPorts: [{ports: [{port: "80", protocol: TCP}]}]\n'
        )
    fleet, files = numbered(3, 4), {"web.yaml": text}
    engine = engine_of(parse_policies(sorted(files.items()), "policies"), fleet)
    tables = tables_of(engine, engine.endpoints["h3"], identities(fleet))
    flows = Counter({(ipaddress.ip_address("10.0.0.1"), True, 80): 5})
    book = RuleBook(files, fleet, "h3")
    for rows_max, told in ((4, [(5, 5), (0, 0)]), (3, [(0, 5), (0, 5)])):
        rows = count_rules(book, by_the_kernel(tables, flows, rows_max))
        assert [(row.flows, row.at_most) for row in rows if row.file] == told
        assert [row.namespace for row in rows if row.file] == ["shop", "shop"]


def test_peers_of_one_identity_are_told_apart_by_their_addresses() -> None:
    text = (
        HEAD.replace("NAME", "one") + "  ingress:\n  - fromCIDR: [10.0.0.3/32]\n  - fromCIDR: [10.0.0.2/32]\n"
    )
    fleet, files = numbered(3, 1), {"one.yaml": text}
    engine = engine_of(parse_policies(sorted(files.items()), "policies"), fleet)
    tables = tables_of(engine, engine.endpoints["h1"], identities(fleet))
    flows = Counter({(ipaddress.ip_address("10.0.0.3"), True, 80): 3})
    rows = count_rules(RuleBook(files, fleet, "h1"), by_the_kernel(tables, flows, 256))
    assert [row.flows for row in rows if row.file] == [3, 0]
