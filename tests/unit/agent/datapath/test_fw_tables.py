# SPDX-License-Identifier: Apache-2.0
"""A change of policy is whole for every address at every step, whatever the old and the new set are."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Mapping

import pytest

from wardmesh.datapath.contract import Network
from wardmesh.datapath.fw_tables import Cells, Covering, Peer, PolicyTables, class_table, plan, row_of
from wardmesh.model.errors import WardmeshError

CONTENTS: list[Cells] = [(row_of((k % 4,)), row_of((k // 4,))) for k in range(6)]
ADDRESSES = [ipaddress.ip_network(f"10.0.{a}.{b}") for a in range(3) for b in range(8)]


def tables(peers: Mapping[Network, Cells], world: Cells) -> PolicyTables:
    """A policy of these peers; classes do not matter here."""
    return PolicyTables((), {name: Peer(7, held) for name, held in peers.items()}, world, world, True)


def draw(chance: random.Random) -> dict[Network, Cells]:
    """Some addresses and some networks that cover each other."""
    chosen: dict[Network, Cells] = {}
    for network in chance.sample(ADDRESSES, chance.randrange(12)):
        length = chance.choice([16, 24, 29, 30, 32, 32, 32])
        chosen[network.supernet(new_prefix=length)] = chance.choice(CONTENTS)
    return chosen


def meaning(entries: Mapping[Network, tuple[int, int]], rows: Mapping[int, Cells], address: Network) -> Cells:
    """What a packet of the address meets, as the kernel would look it up."""
    found = Covering(entries).of(address)
    return rows[entries[found][1] if found is not None else 0]


@pytest.mark.parametrize("seed", range(60))
def test_no_address_ever_meets_a_mixture(seed: int) -> None:
    chance = random.Random(seed)
    kernel: dict[Network, tuple[int, int]] = {}
    held: dict[int, Cells] = {0: CONTENTS[0], 1: CONTENTS[0]}  # the half in force
    for _change in range(8):
        wanted = tables(draw(chance), chance.choice(CONTENTS))
        old = {address: meaning(kernel, held, address) for address in ADDRESSES}
        step = plan(kernel, wanted, 64)
        held = {**held, **{row: held[source] for row, source in step.copies.items()}}
        order = list(step.before.items())
        chance.shuffle(order)
        for network, entry in order:  # one write after another, in any order
            kernel[network] = entry
            assert {address: meaning(kernel, held, address) for address in ADDRESSES} == old
        held = {**held, **step.rows}  # the swap: the other half
        new = {address: meaning(wanted_rows(wanted), wanted_cells(wanted), address) for address in ADDRESSES}
        assert {address: meaning(kernel, step.rows, address) for address in ADDRESSES} == new
        steps = [(network, entry) for network, entry in step.after.items()]
        steps += [(network, None) for network in set(kernel) - set(step.after)]
        chance.shuffle(steps)
        for network, found in steps:
            if found is None:
                del kernel[network]
            else:
                kernel[network] = found
            assert {address: meaning(kernel, step.rows, address) for address in ADDRESSES} == new
        assert len({row for _identity, row in kernel.values()}) <= len(CONTENTS)


def wanted_rows(wanted: PolicyTables) -> dict[Network, tuple[int, int]]:
    """The wanted peers with a row each."""
    return {network: (7, place + 2) for place, network in enumerate(wanted.peers)}


def wanted_cells(wanted: PolicyTables) -> dict[int, Cells]:
    """The rows of wanted_rows."""
    return {0: wanted.world4} | {place + 2: peer.cells for place, peer in enumerate(wanted.peers.values())}


def test_too_many_groups_are_refused_before_anything_changes() -> None:
    peers = {network: CONTENTS[place % 5] for place, network in enumerate(ADDRESSES)}
    with pytest.raises(WardmeshError, match=r"bpf\.policyRowsMax"):
        plan({}, tables(peers, CONTENTS[5]), 4)


def test_segments_of_a_class_table() -> None:
    table = memoryview(class_table([(0, 65535, 9), (80, 80, 1), (1000, 2000, 2)])).cast("H")
    assert [table[port] for port in (0, 79, 80, 81, 999, 1000, 2000, 2001, 65535)] == [
        9, 9, 1, 9, 9, 2, 2, 9, 9,
    ]  # fmt: skip
