# SPDX-License-Identifier: Apache-2.0
"""The order in which rules come and go, and refusals of the kernel. What they do is in tests/netns."""

from __future__ import annotations

import errno
import ipaddress
from typing import Any

import pytest

from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard.routing import Routing, TunnelRoute, desired_rules


class RefusalError(Exception):
    """As pyroute2's: it carries the kernel's code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Kernel:
    """Holds nothing, records what is asked of it, and may refuse."""

    def __init__(self, refuse: int = 0) -> None:
        self.rules: list[tuple[str, int]] = []
        self._refuse = refuse

    def get_rules(self, **_arguments: Any) -> list[Any]:
        return []

    def get_routes(self, **_arguments: Any) -> list[Any]:
        return []

    def rule(self, command: str, **arguments: Any) -> None:
        self.rules.append((command, arguments["priority"]))
        if self._refuse:
            raise RefusalError(self._refuse)

    def route(self, _command: str, **_arguments: Any) -> None:
        raise RefusalError(self._refuse)


def test_nothing_is_looked_up_in_the_table_before_the_marks_are_let_past_it() -> None:
    kernel = Kernel()
    rules = desired_rules([ipaddress.ip_network("10.5.0.0/16")], ["eth0"])
    Routing(kernel).sync_rules({2: rules[2]})
    assert kernel.rules == [("add", priority) for priority in (99, 90, 91, 92, 95)]


@pytest.mark.parametrize("what", ["rule", "route"])
def test_a_refusal_names_the_thing_and_the_reason(what: str) -> None:
    network = ipaddress.ip_network("10.0.0.2/32")
    routing = Routing(Kernel(errno.EPERM))
    with pytest.raises(WardmeshError, match=f"the kernel refused to .* a {what}") as caught:
        if what == "rule":
            routing.sync_rules(desired_rules([], []))
        else:
            routing.sync_routes(7, {network: TunnelRoute(network, None)})
    assert "not permitted" in str(caught.value)
