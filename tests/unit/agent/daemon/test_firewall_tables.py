# SPDX-License-Identifier: Apache-2.0
"""Large and impossible policy sets: compiled and right, or refused with a sentence that says why."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fleets import numbered

from wardmesh.daemon.firewall_tables import engine_of, tables_of
from wardmesh.daemon.inputs import read_policies
from wardmesh.datapath import fw_contract as fw
from wardmesh.model.errors import WardmeshError
from wardmesh.model.identity import identities
from wardmesh.policy.engine import Action
from wardmesh.policy.files import parse_policies

HEAD = (
    "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: many}\n"
    "spec:\n  nodeSelector: {}\n  ingress:\n"
)


def rule(app: int, port: int) -> str:
    return (
        f"  - fromEndpoints: [{{matchLabels: {{app: a{app}}}}}]\n"
        f'    toPorts: [{{ports: [{{port: "{port}", protocol: TCP}}]}}]\n'
    )


def test_ten_thousand_rules_mean_in_the_tables_what_they_mean_to_the_engine() -> None:
    rng = random.Random(7)
    text = HEAD + "".join(rule(rng.randrange(100), rng.randrange(2000, 2500)) for _ in range(10_000))
    held = numbered(300, 100)
    engine = engine_of(parse_policies([("many.yaml", text)], "test"), held)
    subject = engine.endpoints["h1"]
    tables = tables_of(engine, subject, identities(held))
    direction = engine.direction(subject, True)
    opened = 0
    for _probe in range(600):
        member, port = engine.endpoints[f"h{rng.randrange(2, 301)}"], rng.randrange(1990, 2510)
        network = next(net for net in tables.peers if net.network_address == member.addresses[0])
        cells = int.from_bytes(tables.peers[network].cells[0], "little")
        number = int.from_bytes(tables.classes[0][2 * port : 2 * port + 2], "little")
        action, _grant = direction.decide(engine.universe.place_of(member.addresses[0]), 6, port)
        assert (cells >> 2 * number & 3 == fw.ALLOW) == (action is Action.ALLOW)
        opened += action is Action.ALLOW
    assert 60 < opened < 540


def test_what_is_known_of_the_fleet_serves_the_next_set_of_policies_too() -> None:
    """As if it were made anew, whether the next set names prefixes, others or none."""
    held = numbered(40, 7)
    blocks = ("", "10.0.0.0/28", "192.0.2.0/24", "192.0.2.0/24")
    before = None
    for turn, block in enumerate(blocks):
        text = HEAD + rule(turn, 2000 + turn) + (f"  - fromCIDR: [{block}]\n" if block else "")
        policies = parse_policies([("some.yaml", text)], "test")
        fresh = engine_of(policies, held)
        engine = before.under(policies) if before else fresh
        assert tables_of(engine, engine.endpoints["h1"], identities(held)) == tables_of(
            fresh, fresh.endpoints["h1"], identities(held)
        )
        if turn == len(blocks) - 1:
            assert engine.universe is before.universe
        before = engine


def test_a_name_is_the_port_that_this_host_calls_so() -> None:
    """Of two members that both have a port `web`, each one's own number is open, and no other."""
    held = numbered(3, 3)
    ports = {"h1": {"web": 8080}, "h2": {"web": 80}}
    held = replace(held, members=tuple(replace(m, ports=ports.get(m.name, {})) for m in held.members))
    text = HEAD + "  - toPorts: [{ports: [{port: web, protocol: TCP}]}]\n"
    engine = engine_of(parse_policies([("web.yaml", text)], "test"), held)
    peer = engine.universe.place_of(engine.endpoints["h3"].addresses[0])
    for name, opened in (("h1", {8080}), ("h2", {80}), ("h3", set())):
        direction = engine.direction(engine.endpoints[name], True)
        assert {n for n in (80, 8080) if direction.decide(peer, 6, n)[0] is Action.ALLOW} == opened


def test_more_classes_of_ports_than_fit_are_refused() -> None:
    text = HEAD + "".join(rule(number % 7, 2 * number + 1) for number in range(1_100))
    held = numbered(20, 100)
    engine = engine_of(parse_policies([("many.yaml", text)], "test"), held)
    with pytest.raises(WardmeshError, match="classes of ports") as caught:
        tables_of(engine, engine.endpoints["h1"], identities(held))
    assert str(fw.CLASSES) in str(caught.value) and caught.value.remedy


def test_a_file_that_vanishes_while_it_is_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(HEAD + rule(1, 80))
    assert [name for name, _text in read_policies(tmp_path)] == ["a.yaml"]
    monkeypatch.setattr("wardmesh.daemon.inputs.read_bytes", lambda path: None)
    with pytest.raises(WardmeshError, match="vanished") as caught:
        read_policies(tmp_path)
    assert "a.yaml" in caught.value.where and caught.value.remedy
