# SPDX-License-Identifier: Apache-2.0
"""Three members on a bridge, their tunnels up; made once for a file of tests, and put right between two."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.netns import agent
from tests.netns.hosts import Host, hosts
from tests.waiting import wait_for

NEEDED = ("wireguard-go", "tcpdump", "nft", "nsenter", "ip")


@dataclass
class Mesh:
    """Hosts with what they registered."""

    hosts: list[Host]
    facts: list[agent.MemberFacts]

    def set_fleet(self, facts: list[agent.MemberFacts] | None = None) -> None:
        """Give every host the same map."""
        self.facts = facts if facts is not None else self.facts
        for host in self.hosts:
            host.call(agent.set_fleet, self.facts)

    def reconcile(self, sealed: bool = False) -> list[list[str]]:
        """A pass on every host; the lines of each."""
        return [host.call(agent.reconcile, sealed) for host in self.hosts]

    def converge(self) -> None:
        """Passes until every tunnel is up and a pass changes nothing."""
        others = [len(self.hosts) - 1] * len(self.hosts)
        wait_for(
            lambda: [host.call(agent.up_count) for host in self.hosts] == others,
            "every tunnel comes up",
            30,
        )
        wait_for(lambda: not any(self.reconcile()), "a pass changes nothing")


def facts_of(number: int, key: str) -> agent.MemberFacts:
    """What host number N registers."""
    return agent.MemberFacts(f"node{number}", key, (f"10.98.0.{number}", f"fd98::{number}"))


def boot(made: list[Host]) -> Mesh:
    """Keys and a first map; nothing has converged yet."""
    facts = [
        facts_of(number, host.call(agent.boot, host.name, str(host.scratch)))
        for number, host in enumerate(made, 1)
    ]
    mesh = Mesh(made, facts)
    mesh.set_fleet()
    return mesh


def require_tools() -> None:
    """The tests of this folder need root and these programs."""
    missing = [name for name in NEEDED if not shutil.which(name)]
    if os.geteuid() or missing:
        pytest.skip(f"needs root and {', '.join(NEEDED)}; missing: {', '.join(missing) or 'root'}")


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """Three converged members."""
    require_tools()
    with hosts(3) as made:
        running = boot(made)
        running.converge()
        yield running


@pytest.fixture(autouse=True)
def _right_again(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves something wrong must not be the next one's trouble."""
    yield
    if "mesh" in request.fixturenames:
        request.getfixturevalue("mesh").converge()
