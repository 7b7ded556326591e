# SPDX-License-Identifier: Apache-2.0
"""Counters of flow events stay bounded, and never go back."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from wardmesh.observe.metrics_flows import (
    CANDIDATES_MAX,
    KINDS_MAX,
    OTHER,
    PORT_FROM,
    PORTS_MAX,
    FlowCounters,
)


@dataclass
class Event:
    kind: int = 4
    sub_type: int = 0
    verdict: int = 1
    drop_reason: int = 0
    protocol: int = 6
    source: object = ipaddress.ip_address("10.0.0.1")
    destination_port: int = 443
    tcp_flags: int = 0
    icmp_type: int = 0
    is_reply: object = False
    traffic: object = None


def counted(*events):
    counters = FlowCounters()
    for event in events:
        counters.count_all([event])
    return counters.totals()


def test_types_and_verdicts_have_upstreams_words():
    found = counted(
        Event(),
        Event(sub_type=11),
        Event(kind=5, verdict=4),
        Event(kind=1, verdict=2, drop_reason=133, sub_type=133),
        Event(kind=1, verdict=2, drop_reason=195, protocol=17),
    )
    assert found.processed == {
        ("Trace", "to-endpoint", "FORWARDED"): 1,
        ("Trace", "to-network", "FORWARDED"): 1,
        ("PolicyVerdict", "", "AUDIT"): 1,
        ("Drop", "Policy denied", "DROPPED"): 1,
        ("Drop", "Traffic is unencrypted", "DROPPED"): 1,
    }
    assert found.drops == {("Policy denied", "TCP"): 1, ("Traffic is unencrypted", "UDP"): 1}


def test_tcp_flags_and_icmp_by_family():
    six = ipaddress.ip_address("fd00::1")
    found = counted(
        Event(tcp_flags=2 | 16),
        Event(tcp_flags=2, source=six),
        Event(protocol=17, tcp_flags=2),
        Event(protocol=1, icmp_type=8, destination_port=0),
        Event(protocol=58, icmp_type=128, source=six, destination_port=0),
    )
    assert found.flags == {("SYN", "IPv4"): 1, ("ACK", "IPv4"): 1, ("SYN", "IPv6"): 1}
    assert found.icmp == {("IPv4", "8"): 1, ("IPv6", "128"): 1}


def test_a_busy_port_gets_its_own_series_and_rare_ones_are_other():
    found = counted(
        *[Event(destination_port=443)] * (PORT_FROM + 5), *(Event(destination_port=p) for p in range(1, 9))
    )
    assert found.ports == {("443", "TCP"): 5, (OTHER, "TCP"): PORT_FROM + 8}


def test_replies_ends_and_drops_are_no_new_connections():
    assert not counted(
        Event(is_reply=True),
        Event(traffic=object()),
        Event(kind=1, verdict=2),
        Event(destination_port=0),
        Event(protocol=1),
    ).ports


def test_a_port_scan_leaves_a_bounded_number_of_series():
    counters = FlowCounters()
    for _round in range(PORT_FROM + 1):
        for port in range(1, CANDIDATES_MAX // 2):
            counters.count_all([Event(destination_port=port)])
    found = counters.totals()
    assert len(found.ports) == PORTS_MAX + 1
    assert sum(found.ports.values()) == (PORT_FROM + 1) * (CANDIDATES_MAX // 2 - 1)
    for port in range(1, 60000):
        counters.count_all([Event(destination_port=port, protocol=17)])
    assert len(counters._candidates) <= CANDIDATES_MAX


def test_nonsense_in_events_stays_bounded():
    counters = FlowCounters()
    for number in range(5000):
        counters.count_all(
            [
                Event(
                    kind=1, verdict=number, drop_reason=number + 1000, protocol=number % 256, icmp_type=number
                )
            ]
        )
    found = counters.totals()
    for part in (found.processed, found.drops, found.icmp):
        assert len(part) <= KINDS_MAX + 1
        assert (OTHER in next(iter(part))) or any(OTHER in key for key in part) or len(part) <= KINDS_MAX
    assert sum(found.processed.values()) == 5000


def test_losses_add_up_from_zero():
    counters = FlowCounters()
    counters.lose(1, 3)
    counters.lose(1, 4)
    counters.lose(77, 1)
    assert counters.totals().lost == {
        ("perf_event_ring_buffer",): 7,
        ("observer_events_queue",): 0,
        ("hubble_ring_buffer",): 0,
        ("unknown",): 1,
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            Event,
            kind=st.integers(0, 9),
            verdict=st.integers(-1, 12),
            protocol=st.integers(0, 255),
            destination_port=st.integers(0, 65535) | st.sampled_from([80, 443]),
            drop_reason=st.integers(0, 255),
            sub_type=st.integers(0, 255),
            is_reply=st.sampled_from([None, True, False]),
        ),
        max_size=120,
    )
)
def test_no_counter_ever_goes_back(events):
    counters = FlowCounters()
    before = counters.totals()
    for event in events:
        counters.count_all([event])
        after = counters.totals()
        for name in ("processed", "drops", "flags", "icmp", "ports"):
            old, new = getattr(before, name), getattr(after, name)
            assert all(new.get(key, -1) >= count for key, count in old.items())
        before = after
