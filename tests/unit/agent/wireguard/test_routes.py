# SPDX-License-Identifier: Apache-2.0
"""Which routes and rules are wanted; no kernel needed."""

from __future__ import annotations

import ipaddress

import pytest

from wardmesh.model.fleetmap import Address, Endpoint, Member, Network
from wardmesh.wireguard.devices import Path
from wardmesh.wireguard.routes import Route, Rule, addresses_to_look_up, desired_routes, desired_rules


def member(name: str, *addresses: str, endpoint: str = "", allowed: tuple[str, ...] = ()) -> Member:
    return Member(
        name,
        f"key-{name}",
        tuple(map(ipaddress.ip_address, addresses)),
        Endpoint(endpoint or addresses[0], 51871),
        0,
        tuple(map(ipaddress.ip_network, allowed)),
    )


def path(source: str | None, mtu: int = 1500) -> Path:
    return Path("eth0", 2, mtu, ipaddress.ip_address(source) if source else None)


def wanted(
    others: list[Member], own: Member, paths: dict[str, Path | None], mtu: int = 1420
) -> dict[str, Route]:
    by_address: dict[Address, Path | None] = {ipaddress.ip_address(a): p for a, p in paths.items()}
    return {str(net): route for net, route in desired_routes(others, own, by_address, mtu).items()}


OWN = member("own", "10.0.0.1", "10.1.0.1", "fd00::1")


def source_of(others: list[Member], paths: dict[str, Path | None], network: str, own: Member = OWN) -> str:
    return str(wanted(others, own, paths)[network].source)


@pytest.mark.parametrize(
    ("case", "other", "paths", "network", "source"),
    [
        (
            "what the main table would use",
            member("b", "10.1.0.2"),
            {"10.1.0.2": path("10.1.0.1")},
            "10.1.0.2/32",
            "10.1.0.1",
        ),
        (
            "an address that is not registered",
            member("b", "10.0.0.2"),
            {"10.0.0.2": path("10.0.0.99")},
            "10.0.0.2/32",
            "10.0.0.1",
        ),
        (
            "a temporary IPv6 address",
            member("b", "fd00::2"),
            {"fd00::2": path("fd00::dead")},
            "fd00::2/128",
            "fd00::1",
        ),
        ("no way there", member("b", "10.0.0.2"), {"10.0.0.2": None}, "10.0.0.2/32", "10.0.0.1"),
        (
            "a subnet behind the member",
            member("b", "10.1.0.2", allowed=("10.5.0.0/16",)),
            {"10.1.0.2": path("10.1.0.1")},
            "10.5.0.0/16",
            "10.1.0.1",
        ),
        (
            "each address by its own path",
            member("b", "10.0.0.2", "10.1.0.2"),
            {"10.0.0.2": path("10.0.0.1"), "10.1.0.2": path("10.1.0.1")},
            "10.1.0.2/32",
            "10.1.0.1",
        ),
    ],
)
def test_source_address(
    case: str, other: Member, paths: dict[str, Path | None], network: str, source: str
) -> None:
    assert source_of([other], paths, network) == source, case


def test_no_route_in_a_family_in_which_we_are_no_member() -> None:
    own, other = member("own", "10.0.0.1"), member("b", "10.0.0.2", "fd00::2")
    assert list(wanted([other], own, {})) == ["10.0.0.2/32"]
    router = member("own", "10.0.0.1", allowed=("fd05::/64",))
    assert wanted([other], router, {})["fd00::2/128"].source is None, "a subnet of ours speaks it"


def test_families_that_the_host_lacks_are_left_out() -> None:
    routes = desired_routes([member("b", "10.0.0.2", "fd00::2")], OWN, {}, 1420, families=(4,))
    assert list(map(str, routes)) == ["10.0.0.2/32"]
    assert {rule.family for rule in desired_rules((), ["eth0"], families=(4,))} == {4}


@pytest.mark.parametrize(("path_mtu", "route_mtu"), [(9000, 0), (1500, 1420), (1400, 1320)])
def test_a_narrower_way_to_the_endpoint_gives_the_route_its_mtu(path_mtu: int, route_mtu: int) -> None:
    other = member("b", "10.0.0.2", endpoint="203.0.113.7")
    paths: dict[str, Path | None] = {
        "10.0.0.2": path("10.0.0.1", 9000),
        "203.0.113.7": path("10.0.0.1", path_mtu),
    }
    assert wanted([other], OWN, paths, 8920)["10.0.0.2/32"].mtu == route_mtu


def test_every_address_and_endpoint_is_looked_up_once() -> None:
    others = [member("b", "10.0.0.2", "fd00::2"), member("c", "10.0.0.3", endpoint="203.0.113.7")]
    assert list(map(str, addresses_to_look_up(others))) == ["10.0.0.2", "fd00::2", "10.0.0.3", "203.0.113.7"]


def test_rules_of_both_families() -> None:
    subnet: Network = ipaddress.ip_network("10.5.0.0/16")
    rules = desired_rules([subnet], ["eth0", "eth1"])
    assert {rule for rule in rules if rule.family == 4} == {
        Rule(4, 90),
        Rule(4, 91, subnet=subnet),
        Rule(4, 92, device="eth0"),
        Rule(4, 92, device="eth1"),
        Rule(4, 95),
        Rule(4, 99),
    }
    assert {rule.priority for rule in rules if rule.family == 6} == {90, 92, 95, 99}
