# SPDX-License-Identifier: Apache-2.0
"""Agents of a simulated fleet: each is a follower with its own member and labels, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.unit.agent.discovery.samples import CLUSTER, member
from tests.waiting import wait_for

from wardmesh.discovery import follower
from wardmesh.discovery.follower import Follower
from wardmesh.discovery.process import connect
from wardmesh.discovery.roll import Roll
from wardmesh.discovery.settings import Settings


class Agent:
    """One host. history: the names of the members after each change."""

    def __init__(self, number: int, settings: Settings, **more: Any) -> None:
        self.labels: dict[str, str] = {}
        self.history: list[frozenset[str]] = []
        self.own = member(number, **more)
        self.roll = Roll(CLUSTER, settings.lease, settings.grace)
        self.follower = Follower(
            settings,
            self.own,
            self.roll,
            connect(settings),
            lambda: self.labels,
            self._told,
        )
        self._thread = threading.Thread(target=self.follower.run, daemon=True)

    def _told(self, changed: bool) -> None:
        if changed:
            self.history.append(frozenset(self.roll.claims))

    def start(self) -> Agent:
        self._thread.start()
        return self

    def end(self) -> None:
        self.follower.stop()
        self._thread.join(30)

    @property
    def state(self) -> follower.State:
        return self.follower.state

    def knows(self, *numbers: int) -> None:
        names = {f"h{number}" for number in numbers}
        wait_for(
            lambda: set(self.roll.claims) == names,
            f"{self.own.name} knows {names}, it has {set(self.roll.claims)}: {self.state}",
        )

    def registered(self) -> None:
        wait_for(lambda: self.state.registered, f"{self.own.name} is registered: {self.state}")

    def never_lost(self, *numbers: int) -> bool:
        """Were these members from the moment on that all of them were known?"""
        names = {f"h{number}" for number in numbers}
        known = [names <= held for held in self.history]
        return True in known and all(known[known.index(True) :])


@contextmanager
def fleet(settings: Settings, *numbers: int, strangers: bool = False) -> Iterator[list[Agent]]:
    """So many agents, registered and known to each other. strangers: there are others in the store."""
    agents = [Agent(number, settings).start() for number in numbers]
    try:
        for agent in agents:
            agent.registered()
            if not strangers:
                agent.knows(*numbers)
        yield agents
    finally:
        for agent in agents:
            agent.end()
