# SPDX-License-Identifier: Apache-2.0
"""A fleet of ten thousand on one host: everything is there, deltas touch one, an idle pass changes nothing.

Times are the benchmarks' business; here only what must hold at that size.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Iterator

import pytest
from tests.netns import agent
from tests.netns.conftest import require_tools
from tests.netns.hosts import Host, hosts

pytestmark = pytest.mark.netns
MEMBERS = 10_000


def member(number: int) -> agent.MemberFacts:
    """Member number N of a fleet that does not exist; its key is no secret's, which nobody checks."""
    key = base64.b64encode(hashlib.sha256(b"%d" % number).digest()).decode()
    address = str(ipaddress.ip_address("10.99.0.0") + number)
    return agent.MemberFacts(f"m{number:05}", key, (address,))


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """One host whose map has ten thousand members beside it, all sealed."""
    require_tools()
    with hosts(1) as made:
        yield made[0]


def test_ten_thousand_members(host: Host) -> None:
    own = agent.MemberFacts("self", host.call(agent.boot, "self", str(host.scratch)), ("10.98.0.1",))
    host.run("ip", "route", "add", "default", "dev", "eth0")
    facts = [own, *map(member, range(1, MEMBERS + 1))]
    host.call(agent.set_fleet, facts)
    lines = host.call(agent.reconcile, True)
    assert sum(line.startswith("peer ") for line in lines) == MEMBERS
    assert sum(line.startswith("route ") for line in lines) == MEMBERS
    assert len(host.run("ip", "route", "show", "table", "51871").splitlines()) == MEMBERS
    assert len(host.call(agent.state).peers) == MEMBERS
    assert host.call(agent.reconcile, True) == []

    host.call(agent.set_fleet, [*facts, member(MEMBERS + 1)])
    assert host.call(agent.reconcile, True) == [f"peer m{MEMBERS + 1} added", "route 10.99.39.17/32"]
    host.call(agent.set_fleet, facts[:-1])
    assert sorted(host.call(agent.reconcile, True)) == [
        f"peer m{MEMBERS} removed",
        f"peer m{MEMBERS + 1} removed",
        "route 10.99.39.16/32 removed",
        "route 10.99.39.17/32 removed",
    ]
    host.run("ip", "route", "flush", "table", "51871")
    assert len(host.call(agent.reconcile, True)) == MEMBERS - 1
    host.call(agent.teardown)
    assert host.run("ip", "route", "show", "table", "51871") == ""
