# SPDX-License-Identifier: Apache-2.0
"""Who is a member when map and store both speak, and who is refused."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.budget import fuzz
from tests.unit.agent.discovery.samples import CLUSTER, claim, fleet, item, key, member

from wardmesh.discovery.document import Claim, Departed, Discovered, read_discovered, write_discovered
from wardmesh.discovery.members import member_document
from wardmesh.discovery.merge import merge
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import canonical, digest_of
from wardmesh.model.map_parser import parse_fleet_map

MAP = fleet(item(1, labels={"env": "prod"}), item(2))


def found(*claims: Claim, departed: tuple[Claim, ...] = ()) -> Discovered:
    return Discovered(
        CLUSTER,
        {c.member.name: c for c in claims},
        {c.member.name: Departed(c, 60.0) for c in departed},
    )


def test_an_empty_store_leaves_the_map_as_it_is() -> None:
    assert merge(MAP, found()) == (MAP, ())


def test_a_member_that_only_the_store_knows_joins() -> None:
    merged, refused = merge(MAP, found(claim(3, labels={"app": "web"})))
    assert [m.name for m in merged.members] == ["h1", "h2", "h3"]
    assert merged.members[2].labels == {"app": "web"}
    assert refused == ()
    assert (merged.generation, merged.digest) == (MAP.generation, MAP.digest)


def test_a_record_of_a_member_of_the_map_adds_labels_and_nothing_else() -> None:
    merged, refused = merge(
        MAP, found(claim(1, labels={"env": "dev", "app": "db"}, endpoint="203.0.113.1:99"))
    )
    assert merged.members[0].labels == {"env": "prod", "app": "db"}
    assert merged.members[0].endpoint == MAP.members[0].endpoint
    assert refused == ()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "h1", "key": key(9)}, "another key"),
        ({"name": "h1", "key": key(1), "addresses": ["10.0.0.1", "10.0.0.77"]}, "10.0.0.77"),
        ({"key": key(1)}, "belongs to h1"),
        ({"addresses": ["10.0.0.2"], "endpoint": "10.0.9.9:51871"}, "10.0.0.2 belongs to h2"),
        ({"endpoint": "10.0.0.2:51871"}, "belongs to h2"),
        ({"allowedIPs": ["172.16.0.0/16"]}, "discovery.networks"),
    ],
)
def test_a_record_that_claims_what_another_has_is_refused_and_named(
    change: dict[str, Any], word: str
) -> None:
    bad = Claim(member(5, **{"name": "h5", **change}), 1)
    merged, refused = merge(MAP, found(bad, claim(6)))
    assert [m.name for m in merged.members] == ["h1", "h2", "h6"]
    assert merged.members[:2] == MAP.members
    assert [(r.name, word in r.why) for r in refused] == [(bad.member.name, True)]


@pytest.mark.parametrize(
    ("held", "claimed"),
    [
        ({"key": key(1), "nextKey": key(9)}, {"key": key(9)}),  # the host has the last map, this one not yet
        ({"key": key(9)}, {"key": key(1), "nextKey": key(9)}),  # the other way round
        ({"key": key(1)}, {"key": key(1), "nextKey": key(9)}),  # staged there, not here
        ({"key": key(1), "nextKey": key(9)}, {"key": key(1)}),
    ],
)
def test_while_keys_rotate_labels_of_a_record_stay_and_keys_are_the_maps(
    held: dict[str, Any], claimed: dict[str, Any]
) -> None:
    """A label that goes for a moment would change a verdict, and cut connections."""
    rotating = fleet(item(1, **held), item(2))
    merged, refused = merge(rotating, found(claim(1, labels={"app": "db"}, **claimed)))
    assert refused == ()
    assert merged.members[0].labels == {"app": "db"}
    assert (merged.members[0].key, merged.members[0].next_key) == (held["key"], held.get("nextKey", ""))


def test_a_next_key_belongs_to_one_member() -> None:
    merged, refused = merge(MAP, found(claim(3, nextKey=key(2)), claim(4, nextKey=key(8)), claim(8)))
    assert [m.name for m in merged.members] == ["h1", "h2", "h4"]
    assert [r.name for r in refused] == ["h3", "h8"]


def test_subnets_and_addresses_stay_within_the_networks_that_the_operator_names() -> None:
    allowed = [ipaddress.ip_network("10.0.0.0/16")]
    inside = claim(3, allowedIPs=["10.0.128.0/24"])
    outside = Claim(member(4, addresses=["10.9.0.4"]), 4)
    greedy = claim(5, allowedIPs=["10.0.0.0/16"])
    merged, refused = merge(MAP, found(inside, outside, greedy), allowed=allowed)
    assert [m.name for m in merged.members] == ["h1", "h2", "h3"]
    assert [r.name for r in refused] == ["h4", "h5"]
    assert "outside of discovery.networks" in refused[0].why


def test_of_two_strangers_the_older_record_stands() -> None:
    first = Claim(member(8, name="zz"), 10)
    second = Claim(member(9, name="aa", addresses=["10.0.0.8"]), 11)
    merged, refused = merge(MAP, found(first, second))
    assert "zz" in {m.name for m in merged.members}
    assert [r.name for r in refused] == ["aa"]


def test_a_departed_member_is_no_peer_and_keeps_its_addresses() -> None:
    taker = Claim(member(4, addresses=["10.0.0.3"], endpoint="10.0.0.4:51871"), 20)
    merged, refused = merge(MAP, found(departed=(claim(3),)))
    assert [m.name for m in merged.members] == ["h1", "h2"]
    assert [m.name for m in merged.departed] == ["h3"]
    merged, refused = merge(MAP, found(taker, departed=(claim(3),)))
    assert refused == (), "a live host of the fleet may take over the address of one that is gone"
    assert merged.departed == ()


def test_who_serves_the_store_keeps_departed_members_as_peers() -> None:
    merged, _refused = merge(MAP, found(departed=(claim(3),)), keep_departed=True)
    assert [m.name for m in merged.members] == ["h1", "h2", "h3"]
    assert merged.departed == ()


ADDRESSES = st.lists(
    st.sampled_from([f"10.0.0.{n}" for n in range(1, 9)] + ["fd00::1", "fd00::2"]),
    min_size=1,
    max_size=3,
    unique=True,
)
SUBNETS = st.lists(st.sampled_from(["10.0.0.0/30", "10.0.0.4/32", "10.0.0.0/29", "fd00::/120"]), max_size=2)


@st.composite
def claims(draw: st.DrawFn) -> list[Claim]:
    made = {}
    for number in draw(st.lists(st.integers(1, 12), max_size=8)):
        found_item = item(
            number,
            key=key(draw(st.integers(1, 12))),
            addresses=draw(ADDRESSES),
            allowedIPs=draw(SUBNETS),
            labels=draw(st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"]))),
        )
        try:
            one = Claim(
                member(number, **{k: v for k, v in found_item.items() if k != "name"}),
                draw(st.integers(0, 5)),
            )
        except WardmeshError:
            continue
        made[one.member.name] = one
    return list(made.values())


@fuzz(100)
@given(claims(), claims(), st.randoms())
def test_whatever_is_claimed_the_result_is_a_valid_map_that_keeps_every_declared_member(
    live: list[Claim], gone: list[Claim], shuffler: Any
) -> None:
    allowed = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/16")]
    names = {c.member.name for c in live}
    gone = [c for c in gone if c.member.name not in names]
    merged, refused = merge(MAP, found(*live, departed=tuple(gone)), allowed=allowed)
    document = {
        "format": 1,
        "generation": 1,
        "cluster": {"name": "c", "id": 7},
        "members": [member_document(m) for m in (*merged.members, *merged.departed)],
    }
    parse_fleet_map(canonical({**document, "digest": digest_of(document)}), "merged")
    for declared in MAP.members:
        held = next(m for m in merged.members if m.name == declared.name)
        assert (held.key, held.networks(), held.endpoint) == (
            declared.key,
            declared.networks(),
            declared.endpoint,
        )
        assert {**held.labels, **declared.labels} == held.labels
    assert {r.name for r in refused} <= names
    shuffler.shuffle(live)
    assert merge(MAP, found(*live, departed=tuple(gone)), allowed=allowed) == (merged, refused)


def test_the_file_survives_and_every_change_of_it_is_noticed() -> None:
    held = found(claim(3, labels={"a": "b"}, allowedIPs=["10.2.0.0/24"], keepalive=25), departed=(claim(4),))
    data = write_discovered(held)
    assert read_discovered(data, "f") == held
    for bad in (b"", b"{}", b"[]", b"null", data[:-20], data.replace(b"h3", b"h5"), b"[" * 100_000):
        with pytest.raises(WardmeshError) as caught:
            read_discovered(bad, "f")
        assert caught.value.where == "f"
