# SPDX-License-Identifier: Apache-2.0
"""Where the API listens and who may ask; the configuration behind it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.observe.support import fleet

from wardmesh.model.config import parse_config
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.flow import Party
from wardmesh.observe.listen import Gate, peer_address, plan
from wardmesh.observe.names import Names
from wardmesh.observe.settings import HostPort, Tls, read_settings

OWN = [ipaddress.ip_address("10.0.0.11"), ipaddress.ip_address("fd00::11")]
TLS = Tls(Path("/c"), Path("/k"))
NO_TLS: Any = None

PLANS: list[tuple[str, Tls | None, bool, list[str]]] = [
    ("", NO_TLS, False, ["127.0.0.1:4244", "[::1]:4244"]),
    ("", NO_TLS, True, ["127.0.0.1:4244", "[::1]:4244", "10.0.0.11:4244", "[fd00::11]:4244"]),
    ("0.0.0.0", NO_TLS, True, ["127.0.0.1:4244", "[::1]:4244", "10.0.0.11:4244", "[fd00::11]:4244"]),
    ("", TLS, False, ["[::]:4244"]),
    ("0.0.0.0", TLS, False, ["0.0.0.0:4244"]),
    ("127.0.0.1", NO_TLS, False, ["127.0.0.1:4244"]),
    ("localhost", NO_TLS, False, ["127.0.0.1:4244"]),
    ("10.0.0.11", NO_TLS, True, ["10.0.0.11:4244"]),
    ("192.0.2.1", TLS, False, ["192.0.2.1:4244"]),
]


@pytest.mark.parametrize(("host", "tls", "sealed", "wanted"), PLANS)
def test_what_is_listened_on(host: str, tls: Tls | None, sealed: bool, wanted: list[str]) -> None:
    made = plan(HostPort(host, 4244), tls, OWN, sealed=sealed)
    assert [item.target() for item in made.bindings] == wanted
    assert bool(made.warnings) is (not sealed and tls is None and host == "")
    assert plan(None, tls, OWN, sealed=sealed).bindings == ()


@pytest.mark.parametrize(
    ("host", "sealed"),
    [("10.0.0.11", False), ("192.0.2.1", True), ("10.0.0.12", True), ("example.com", True)],
)
def test_plain_text_is_never_opened_to_strangers(host: str, sealed: bool) -> None:
    with pytest.raises(WardmeshError) as caught:
        plan(HostPort(host, 4244), None, OWN, sealed=sealed)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("peer", "certified", "admitted"),
    [
        ("unix:", False, True),
        ("unix:/run/x.sock", False, True),
        ("ipv4:127.0.0.1:5", False, True),
        ("ipv6:%5B::1%5D:5", False, True),
        ("ipv4:10.0.0.1:5", False, True),
        ("ipv6:%5B::ffff:10.0.0.1%5D:5", False, True),
        ("ipv6:[fd00::11]:5", False, False),
        ("ipv4:192.0.2.1:5", False, False),
        ("ipv4:192.0.2.1:5", True, True),
        ("", False, False),
        ("ipv4:10.0.0.1", False, False),
        ("nonsense:10.0.0.1:5", False, False),
    ],
)
def test_who_may_ask(peer: str, certified: bool, admitted: bool) -> None:
    members = Names(fleet(), "db1").addresses()
    assert Gate(members, certified=certified).admits(peer) is admitted


def test_the_address_of_a_peer() -> None:
    assert str(peer_address("ipv6:%5Bfe80::1%25eth0%5D:443")) == "fe80::1"
    assert peer_address("ipv6:[nonsense]:1") is None


def settings_of(text: str) -> Any:
    return read_settings(parse_config(text, "config.yaml"))


def test_the_seeds_configuration_is_read() -> None:
    made = settings_of('hubble:\n  enabled: true\n  listenAddress: ":4244"\n')
    assert (made.enabled, made.listen, made.capacity) == (True, HostPort("", 4244), 4095)
    assert (made.tls, made.export, made.relay) == (None, None, HostPort("127.0.0.1", 4245))


def test_every_key_is_read() -> None:
    made = settings_of(
        """
hubble:
  eventBufferCapacity: 8191
  listenAddress: "[fd00::11]:9"
  tls: {certFile: /c, keyFile: /k, clientCaFile: /ca}
  relay: {listenAddress: "10.0.0.1"}
  export:
    fileMaxSizeMb: 1
    fileMaxBackups: 2
    fileCompress: true
    static:
      enabled: true
      filePath: /f
      fieldMask: [time]
      allowList: ['{}']
      denyList: ['{"reply":[true]}']
"""
    )
    assert made.listen == HostPort("fd00::11", 9) and made.api_port == 9 and made.capacity == 8191
    assert made.tls == Tls(Path("/c"), Path("/k"), Path("/ca"))
    assert made.relay == HostPort("10.0.0.1", 4245)
    assert (made.export.max_bytes, made.export.backups, made.export.compress) == (1 << 20, 2, True)
    assert made.export.field_mask == ("time",) and made.export.deny == ('{"reply":[true]}',)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("hubble: {eventBufferCapacity: 4096}", "eventBufferCapacity"),
        ("hubble: {listenAddress: 'a:b:c'}", "hubble.listenAddress"),
        ("hubble: {listenAddress: ':99999'}", "hubble.listenAddress"),
        ("hubble: {tls: {certFile: /c}}", "hubble.tls"),
        ("hubble: {tls: {clientCaFile: /c}}", "hubble.tls"),
    ],
)
def test_wrong_keys_are_named(text: str, where: str) -> None:
    with pytest.raises(WardmeshError) as caught:
        settings_of(text)
    assert where in caught.value.where


# --- names ---


@pytest.mark.parametrize(
    ("address", "identity", "name", "label"),
    [
        ("10.0.0.1", 0, "web1", "reserved:remote-node"),
        ("10.0.0.11", 0, "db1", "reserved:host"),
        ("10.0.0.1", 6, "web1", "vm:app=web"),
        ("203.0.113.9", 0, "", "reserved:world"),
        ("203.0.113.9", 9, "", "reserved:world-ipv4"),
        ("127.0.0.1", 0, "", "reserved:host"),
    ],
)
def test_whose_an_address_is(address: str, identity: int, name: str, label: str) -> None:
    party = Names(fleet(), "db1").party(ipaddress.ip_address(address), identity)
    assert party.name == name and label in party.labels
    assert list(party.labels) == sorted(party.labels)


def test_the_kernels_identity_wins() -> None:
    party = Names(fleet(), "db1").party(ipaddress.ip_address("10.0.0.1"), 77777)
    assert (party.identity, party.name) == (77777, "web1")


def test_strangers_are_remembered_within_bounds() -> None:
    names = Names(None, "")
    for number in range(1, 70000):
        assert names.party(ipaddress.ip_address(number)) == Party(2, "", "", ("reserved:world",))
    assert len(names._strangers) <= 65536
