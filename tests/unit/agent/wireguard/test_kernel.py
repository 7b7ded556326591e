# SPDX-License-Identifier: Apache-2.0
"""What the kernel would get: the bytes that pyroute2 makes of our messages, read back. The virtual machines
of the lab show that the kernel takes them.
"""

from __future__ import annotations

import base64
import ipaddress
from typing import Any

import pytest

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Endpoint
from wardmesh.wireguard import kernel, userspace
from wardmesh.wireguard.backend import PeerChanges, PeerConfig, PeerState, choose_backend

wireguard = pytest.importorskip("pyroute2.netlink.generic.wireguard")
KEY_A, KEY_B = (base64.b64encode(bytes([number] * 32)).decode() for number in (0xAA, 0xBB))


def peers_of(attrs: list[list[Any]]) -> list[dict[str, Any]]:
    """The peers of a message after a way through its bytes."""
    message = wireguard.wgmsg()
    message["cmd"], message["attrs"] = 1, [["WGDEVICE_A_IFNAME", "wg"], *attrs]
    message.encode()
    again = wireguard.wgmsg(message.data)
    again.decode()
    found = []
    for peer in again.get_attr("WGDEVICE_A_PEERS"):
        names = ("FLAGS", "ENDPOINT", "PERSISTENT_KEEPALIVE_INTERVAL")
        entry = {name: peer.get_attr(f"WGPEER_A_{name}") for name in names}
        key = peer.get_attr("WGPEER_A_PUBLIC_KEY")
        entry["key"] = (key["value"] if isinstance(key, dict) else key).decode()
        entry["allowed"] = sorted(ip["addr"] for ip in peer.get_attr("WGPEER_A_ALLOWEDIPS") or ())
        found.append(entry)
    return found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[list[Any]]]:
    messages: list[list[list[Any]]] = []
    monkeypatch.setattr(kernel.KernelBackend, "_send", lambda _self, _ifname, attrs: messages.append(attrs))
    return messages


def test_a_delta_names_the_peers_that_change(sent: list[list[list[Any]]]) -> None:
    nets = frozenset(map(ipaddress.ip_network, ("10.0.0.1/32", "fd00::/64")))
    add = PeerConfig(KEY_A, Endpoint("2001:db8::1", 51871), nets, 25)
    kernel.KernelBackend().apply("wg", PeerChanges((add,), (KEY_B,)))
    removed, added = peers_of(sent[0])
    assert (removed["key"], removed["FLAGS"]) == (KEY_B, 1)
    assert (added["key"], added["FLAGS"], added["PERSISTENT_KEEPALIVE_INTERVAL"]) == (KEY_A, 2, 25)
    assert (added["ENDPOINT"]["addr"], added["ENDPOINT"]["port"]) == ("2001:db8::1", 51871)
    assert added["allowed"] == ["10.0.0.1/32", "fd00::/64"]


def test_many_peers_go_in_messages_that_an_attribute_can_hold(sent: list[list[list[Any]]]) -> None:
    peers = tuple(
        PeerConfig(base64.b64encode(n.to_bytes(32, "big")).decode(), None, frozenset()) for n in range(200)
    )
    kernel.KernelBackend().apply("wg", PeerChanges(peers))
    assert [peer["key"] for attrs in sent for peer in peers_of(attrs)] == [peer.key for peer in peers]
    assert len(sent) < 10


def test_provoking_leaves_endpoint_and_allowed_ips_alone(sent: list[list[list[Any]]]) -> None:
    state = PeerState(KEY_A, Endpoint("192.0.2.1", 1), frozenset(), 7, 0.0, 0, 0)
    kernel.KernelBackend().provoke("wg", [state])
    entries = [peer for attrs in sent for peer in peers_of(attrs)]
    assert [entry["PERSISTENT_KEEPALIVE_INTERVAL"] for entry in entries] == [0, 7, 7]
    assert {entry["FLAGS"] for entry in entries} == {4}
    assert not any(entry["ENDPOINT"] or entry["allowed"] for entry in entries)


@pytest.mark.parametrize(
    ("preference", "in_kernel", "installed", "chosen"),
    [
        ("auto", True, True, "kernel"),
        ("auto", False, True, "userspace"),
        ("kernel", True, False, "kernel"),
        ("userspace", True, True, "userspace"),
        ("auto", False, False, None),
        ("kernel", False, True, None),
        ("userspace", True, False, None),
    ],
)
def test_choice(
    monkeypatch: pytest.MonkeyPatch, preference: str, in_kernel: bool, installed: bool, chosen: str | None
) -> None:
    monkeypatch.setattr(kernel, "available", lambda: in_kernel)
    monkeypatch.setattr(userspace, "available", lambda: installed)
    if chosen is not None:
        assert choose_backend(preference).name == chosen
        return
    with pytest.raises(WardmeshError, match="no WireGuard on this host") as caught:
        choose_backend(preference)
    assert "wireguard-go" in caught.value.remedy
    assert preference in caught.value.where
