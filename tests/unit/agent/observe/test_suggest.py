# SPDX-License-Identifier: Apache-2.0
"""Suggested policies allow exactly the flows that were seen: the policy engine is the judge."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.agent.observe.support import event, fleet, namer

from wardmesh.model.fleetmap import FleetMap
from wardmesh.observe.flow import Direction, Flow, Policy, Verdict
from wardmesh.observe.names import Namer, Names
from wardmesh.observe.suggest import suggest
from wardmesh.policy.engine import Action, Engine
from wardmesh.policy.files import parse_policies
from wardmesh.policy.view import endpoints_of

LABELS = st.fixed_dictionaries(
    {}, optional={"app": st.sampled_from(["web", "db"]), "env": st.sampled_from(["prod", "stage", ""])}
)
STRANGERS = ("203.0.113.8", "203.0.113.9", "198.51.100.1", "2001:db8::1")
PORTS = ((6, 80), (6, 81), (6, 443), (17, 53), (132, 9), (1, 8), (58, 128))


def audited(**changes: Any) -> Flow:
    return namer().flow(event(0, verdict=Verdict.AUDIT, **changes))


def engine_of(text: str, held: FleetMap) -> Engine:
    policies = parse_policies([("suggested.yaml", text)], "suggested")
    return Engine(policies, endpoints_of(held), held.cluster.name)


def rules(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


@st.composite
def fleets(draw: Any) -> FleetMap:
    count = draw(st.integers(2, 5))
    return fleet({f"h{n}": (f"10.0.0.{n}", draw(LABELS)) for n in range(1, count + 1)})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_exactly_what_was_seen_is_admitted(data: Any) -> None:
    held = data.draw(fleets())
    addresses = [str(member.addresses[0]) for member in held.members]
    seen = set()
    flows = []
    names = Namer(Names(held, "h1"))
    for _turn in range(data.draw(st.integers(1, 12))):
        subject = data.draw(st.sampled_from(addresses))
        peer = data.draw(st.sampled_from([*(a for a in addresses if a != subject), *STRANGERS]))
        protocol, port = data.draw(st.sampled_from(PORTS))
        ingress = data.draw(st.booleans())
        seen.add((subject, ingress, peer, protocol, port))
        flows.append(
            names.flow(
                event(
                    verdict=Verdict.AUDIT,
                    direction=Direction.INGRESS if ingress else Direction.EGRESS,
                    source=peer if ingress else subject,
                    destination=subject if ingress else peer,
                    protocol=protocol,
                    destination_port=port,
                    icmp_type=port if protocol in (1, 58) else 0,
                )
            )
        )
    made = suggest(flows, held)
    assert not made.unsaid
    engine = engine_of(made.text(), held)
    for subject, ingress in {(row[0], row[1]) for row in seen}:
        own = next(e for e in engine.endpoints.values() if str(e.addresses[0]) == subject)
        for peer in [*(a for a in addresses if a != subject), *STRANGERS, "192.0.2.77"]:
            for protocol, port in (*PORTS, (6, 82), (17, 80), (1, 0)):
                action = engine.verdict(own, ipaddress.ip_address(peer), protocol, port, ingress)[0]
                wanted = (subject, ingress, peer, protocol, port) in seen
                assert (action is Action.ALLOW) is wanted, (subject, ingress, peer, protocol, port)


def test_hosts_with_the_same_rules_share_one_policy_by_their_label() -> None:
    flows = [
        audited(source=source, destination="10.0.0.11", node="db1") for source in ("10.0.0.1", "10.0.0.2")
    ]
    flows += [
        audited(
            source=source,
            destination="10.0.0.11",
            node="web",
            direction=Direction.EGRESS,
            destination_port=port,
        )
        for source in ("10.0.0.1", "10.0.0.2")
        for port in (5432, 5433)
    ]
    made = suggest(flows, fleet())
    found = {document["metadata"]["name"]: document["spec"] for document in rules(made.text())}
    assert len(found) == 2
    web = next(spec for spec in found.values() if "egress" in spec)
    assert web["endpointSelector"] == {"matchLabels": {"vm:app": "web"}}
    assert web["egress"] == [
        {
            "toEndpoints": [{"matchLabels": {"vm:app": "db"}}],
            "toPorts": [{"ports": [{"port": "5432", "endPort": 5433, "protocol": "TCP"}]}],
        }
    ]
    database = next(spec for spec in found.values() if "ingress" in spec)
    assert database["ingress"][0]["fromEndpoints"] == [{"matchLabels": {"vm:app": "web"}}]


def test_each_rule_says_which_flows_it_stands_for() -> None:
    made = suggest([audited()] * 3, fleet())
    assert "    # web1 -> db1 5432/tcp, seen 3 times\n    - fromEndpoints:" in made.text()


def test_neighbouring_strangers_are_one_prefix_and_never_one_address_more() -> None:
    flows = [audited(source=f"203.0.113.{last}") for last in (8, 9, 10)]
    (document,) = rules(suggest(flows, fleet()).text())
    assert document["spec"]["ingress"][0]["fromCIDR"] == ["203.0.113.8/31", "203.0.113.10/32"]


def test_hosts_that_talk_to_each_other_count_themselves_in() -> None:
    flows = [
        audited(source="10.0.0.1", destination="10.0.0.2", node="web2"),
        audited(source="10.0.0.2", destination="10.0.0.1", node="web1"),
    ]
    (document,) = rules(suggest(flows, fleet()).text())
    chosen = {"matchLabels": {"vm:app": "web"}}
    assert document["spec"]["endpointSelector"] == chosen
    assert document["spec"]["ingress"][0]["fromEndpoints"] == [chosen]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"denied_by": (Policy("no-telnet"),)}, "no-telnet"),
        ({"destination": "192.0.2.1"}, "no member"),
        ({"destination_port": 0}, "port 0"),
        ({"protocol": 47}, "TCP, UDP, SCTP and ICMP"),
        ({"direction": Direction.UNKNOWN}, "nobody knows"),
    ],
)
def test_what_no_policy_can_admit_is_said_and_left_out(changes: dict[str, Any], words: str) -> None:
    made = suggest([audited(**changes)], fleet())
    assert not made.documents
    assert words in made.unsaid[0]
    assert made.text().startswith("# not admitted: ")
    assert rules(made.text()) == []


def test_many_ports_are_cut_into_lists_that_the_language_takes() -> None:
    flows = [audited(destination_port=port) for port in range(1000, 1200, 2)]
    text = suggest(flows, fleet()).text()
    (document,) = rules(text)
    assert [len(part["ports"]) for part in document["spec"]["ingress"][0]["toPorts"]] == [40, 40, 20]
    engine_of(text, fleet())


def test_no_flows_are_an_empty_file() -> None:
    assert rules(suggest([], fleet()).text()) == []
