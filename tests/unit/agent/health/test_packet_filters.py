# SPDX-License-Identifier: Apache-2.0
"""The host's own packet filter in nft's and iptables' forms, as their programs print them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.health.packet_filters import fate, iptables_chain, nft_chains
from wardmesh.model.errors import WardmeshError

PORT = 51871


def chain(policy="drop", hook="input", name="input", family="inet"):
    base = {"type": "filter", "hook": hook, "prio": 0, "policy": policy} if hook else {}
    return {"chain": {"family": family, "table": "filter", "name": name, **base}}


def rule(*expr, to="input", family="inet"):
    return {"rule": {"family": family, "table": "filter", "chain": to, "expr": list(expr)}}


def match(left, right, op="=="):
    return {"match": {"op": op, "left": left, "right": right}}


def dport(right, protocol="udp", op="=="):
    return match({"payload": {"protocol": protocol, "field": "dport"}}, right, op)


ACCEPT, DROP, COUNTER = {"accept": None}, {"drop": None}, {"counter": {"packets": 0, "bytes": 0}}
ESTABLISHED = match({"ct": {"key": "state"}}, ["established", "related"], "in")
FROM_NET = match(
    {"payload": {"protocol": "ip", "field": "saddr"}}, {"prefix": {"addr": "10.0.0.0", "len": 8}}
)
UDP = match({"meta": {"key": "l4proto"}}, "udp")


def judged(*entries):
    (found,) = nft_chains(json.dumps({"nftables": [{"metainfo": {}}, *entries]}))
    return fate(found, "udp", PORT)


@pytest.mark.parametrize(
    ("entries", "end"),
    [
        ([chain("accept")], "accept"),
        ([chain("drop")], "drop"),
        ([chain(), rule(dport(PORT), COUNTER, ACCEPT)], "accept"),
        ([chain(), rule(dport(PORT, "tcp"), ACCEPT)], "drop"),
        ([chain(), rule(dport({"set": [53, PORT]}), ACCEPT)], "accept"),
        ([chain(), rule(dport({"set": [53, {"range": [51000, 52000]}]}), ACCEPT)], "accept"),
        ([chain(), rule(dport({"range": [1, 1023]}), ACCEPT)], "drop"),
        ([chain(), rule(dport(PORT, "th"), UDP, ACCEPT)], "accept"),
        ([chain(), rule(UDP, ACCEPT)], "accept"),
        ([chain(), rule(ESTABLISHED, ACCEPT)], "drop"),
        ([chain(), rule(ESTABLISHED, ACCEPT), rule(dport(PORT), ACCEPT)], "accept"),
        ([chain(), rule(FROM_NET, dport(PORT), ACCEPT)], "unclear"),
        ([chain(), rule(dport("@ports"), ACCEPT)], "unclear"),
        ([chain(), rule(dport(PORT, op="!="), ACCEPT)], "drop"),
        ([chain("accept"), rule(dport(PORT), DROP)], "drop"),
        ([chain("accept"), rule(FROM_NET, dport(PORT), ACCEPT), rule({"reject": None})], "unclear"),
        ([chain("accept"), rule({"reject": {"type": "icmp"}})], "drop"),
        (
            [
                chain(),
                chain(hook="", name="ours"),
                rule({"jump": {"target": "ours"}}),
                rule(dport(PORT), ACCEPT, to="ours"),
            ],
            "accept",
        ),
        (
            [
                chain(),
                chain(hook="", name="ours"),
                rule(match({"meta": {"key": "iifname"}}, "eth0"), {"jump": {"target": "ours"}}),
                rule(dport(PORT), ACCEPT, to="ours"),
            ],
            "unclear",
        ),
        (
            [
                chain(),
                chain(hook="", name="a"),
                rule({"jump": {"target": "a"}}),
                rule({"jump": {"target": "a"}}, to="a"),
            ],
            "drop",
        ),
    ],
)
def test_nft_rules_decide(entries, end):
    assert judged(*entries) == end


def test_only_incoming_chains_count():
    text = json.dumps({"nftables": [chain(hook="forward"), chain(hook="output"), chain(family="bridge")]})
    assert nft_chains(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"nftables": 3}',
        '{"nftables": [{"chain": {}}]}',
        '{"nftables": [{"rule": {"expr": 1}}]}',
    ],
)
def test_what_is_no_ruleset_is_an_error(text):
    with pytest.raises(WardmeshError):
        nft_chains(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["chain", "rule", "expr", "match", "left", "right", "op", "jump", "accept", "x"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    )
)
def test_no_document_breaks_the_reader_otherwise(value):
    try:
        nft_chains(json.dumps({"nftables": value}))
    except WardmeshError:
        return


@pytest.mark.parametrize(
    ("lines", "end"),
    [
        (["-P INPUT ACCEPT"], "accept"),
        (["-P INPUT DROP"], "drop"),
        (["-P INPUT DROP", "-A INPUT -p udp -m udp --dport 51871 -j ACCEPT"], "accept"),
        (["-P INPUT DROP", "-A INPUT -p tcp -m tcp --dport 51871 -j ACCEPT"], "drop"),
        (["-P INPUT DROP", "-A INPUT -p udp -m multiport --dports 53,51871 -j ACCEPT"], "accept"),
        (["-P INPUT DROP", "-A INPUT -p udp -m udp --dport 51000:52000 -j ACCEPT"], "accept"),
        (["-P INPUT DROP", "-A INPUT -s 10.0.0.0/8 -p udp -m udp --dport 51871 -j ACCEPT"], "unclear"),
        (["-P INPUT DROP", "-A INPUT -i lo -j ACCEPT"], "drop"),
        (["-P INPUT DROP", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"], "drop"),
        (["-P INPUT ACCEPT", "-A INPUT -j REJECT --reject-with icmp-host-prohibited"], "drop"),
        (
            [
                "-P INPUT DROP",
                "-N ufw-user-input",
                "-A INPUT -j ufw-user-input",
                '-A ufw-user-input -p udp -m udp --dport 51871 -m comment --comment "the mesh" -j ACCEPT',
            ],
            "accept",
        ),
        (["-P INPUT DROP", "-A INPUT -j LOG --log-prefix no"], "drop"),
    ],
)
def test_iptables_rules_decide(lines, end):
    assert fate(iptables_chain("\n".join(lines), "iptables INPUT"), "udp", PORT) == end
