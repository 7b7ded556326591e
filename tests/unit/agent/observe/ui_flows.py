# SPDX-License-Identifier: Apache-2.0
"""Random flows of the fleet, and the filters of the page in the words of Hubble's client."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tests.unit.agent.observe.support import event, namer

from wardmesh.observe.flow import Flow, Kind, Traffic, Verdict

ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.11", "10.0.0.12", "203.0.113.9", "198.51.100.7")
HOSTS = ("", "web1", "web2", "db1", "web*", "*1", "world", "nobody", "db1.example.com")
LABELS = (
    "",
    "app=web",
    "app=web,env=prod",
    "env in (prod, stage)",
    "!app",
    "app!=db",
    "reserved:world",
    "vm:app",
)
VERDICTS = ("", "forwarded", "dropped", "audited", "dropped,audited")
TUNNELS = ("", "encrypted", "plain")
PORTS = ("", "22/tcp", "5432/tcp", "53/udp")
NAMER = namer()
# No test judges speed: two busy cores are slow now and then.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def flows(draw: Any, most: int = 40) -> list[Flow]:
    """Verdicts, drops and ends of connections between members and strangers, replies among them."""
    made = []
    for number in range(draw(st.integers(0, most))):
        protocol, port = draw(st.sampled_from([(6, 22), (6, 5432), (17, 53)]))
        reply = draw(st.sampled_from([False, True, None]))
        kind, verdict = draw(
            st.sampled_from(
                [
                    (Kind.VERDICT, Verdict.FORWARDED),
                    (Kind.VERDICT, Verdict.DROPPED),
                    (Kind.VERDICT, Verdict.AUDIT),
                    (Kind.DROP, Verdict.DROPPED),
                    (Kind.TRACE, Verdict.FORWARDED),
                ]
            )
        )
        made.append(
            NAMER.flow(
                event(
                    number,
                    source=draw(st.sampled_from(ADDRESSES)),
                    destination=draw(st.sampled_from(ADDRESSES)),
                    protocol=protocol,
                    source_port=port if reply else 40000,
                    destination_port=40000 if reply else port,
                    is_reply=reply,
                    kind=kind,
                    verdict=verdict,
                    encrypted=draw(st.booleans()),
                    drop_reason=133 if kind is Kind.DROP else 0,
                    traffic=Traffic(2, 1, 120, 60, 5, None, True) if kind is Kind.TRACE else None,
                )
            )
        )
    return made


def parameters() -> Any:
    """Filters of the page by name, those that ask for nothing left out."""
    whole = st.fixed_dictionaries(
        {
            "host": st.sampled_from(HOSTS),
            "label": st.sampled_from(LABELS),
            "verdict": st.sampled_from(VERDICTS),
            "tunnel": st.sampled_from(TUNNELS),
            "port": st.sampled_from(PORTS),
            "from": st.sampled_from(HOSTS[:4]),
            "to": st.sampled_from(HOSTS[:4]),
            "fromLabel": st.sampled_from(LABELS[:3]),
            "toLabel": st.sampled_from(LABELS[:3]),
        }
    )
    return whole.map(lambda given: {name: text for name, text in given.items() if text})
