# SPDX-License-Identifier: Apache-2.0
"""The text protocol against a socket that answers as wireguard-go does."""

from __future__ import annotations

import base64
import ipaddress
import socket
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Endpoint, Network
from wardmesh.wireguard import userspace
from wardmesh.wireguard.backend import PeerChanges, PeerConfig, PeerState
from wardmesh.wireguard.keys import public_of
from wardmesh.wireguard.userspace import UserspaceBackend

KEY_A, KEY_B = (base64.b64encode(bytes([number] * 32)).decode() for number in (0xAA, 0xBB))
HEX_A, HEX_B = "aa" * 32, "bb" * 32
ANSWER = f"""private_key={"11" * 32}
listen_port=51871
fwmark=7680
public_key={HEX_A}
preshared_key={"00" * 32}
protocol_version=1
endpoint=192.0.2.1:51871
last_handshake_time_sec=1700000000
last_handshake_time_nsec=500000000
tx_bytes=148
rx_bytes=92
persistent_keepalive_interval=25
allowed_ip=10.0.0.1/32
allowed_ip=fd00::1/128
public_key={HEX_B}
protocol_version=1
endpoint=[2001:db8::2]:51871
last_handshake_time_sec=0
last_handshake_time_nsec=0
tx_bytes=0
rx_bytes=0
persistent_keepalive_interval=0
errno=0

""".encode()


def networks(*texts: str) -> frozenset[Network]:
    return frozenset(map(ipaddress.ip_network, texts))


class FakeDevice:
    """Answers every question with the same text and remembers what was asked."""

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        self.answer = b"errno=0\n\n"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                link, _peer = self._listener.accept()
            except OSError:
                return
            with link:
                question = b""
                while not question.endswith(b"\n\n"):
                    question += link.recv(65536)
                self.asked.append(question.decode())
                link.sendall(self.answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    monkeypatch.setattr(userspace, "SOCKETS", tmp_path)
    fake = FakeDevice(tmp_path / "wg.sock")
    yield fake
    fake.close()


def test_a_device_with_peers_is_read(device: FakeDevice) -> None:
    device.answer = ANSWER
    state = UserspaceBackend().dump("wg")
    assert (state.public_key, state.listen_port, state.fwmark) == (
        public_of(bytes([0x11] * 32)),
        51871,
        0x1E00,
    )
    assert state.peers == {
        KEY_A: PeerState(
            KEY_A,
            Endpoint("192.0.2.1", 51871),
            networks("10.0.0.1/32", "fd00::1/128"),
            25,
            1700000000.5,
            92,
            148,
        ),
        KEY_B: PeerState(KEY_B, Endpoint("2001:db8::2", 51871), frozenset(), 0, 0.0, 0, 0),
    }


def test_a_delta_is_one_operation_that_names_nobody_else(device: FakeDevice) -> None:
    add = PeerConfig(KEY_A, Endpoint("2001:db8::1", 5), networks("10.0.0.1/32"), 7)
    UserspaceBackend().apply("wg", PeerChanges((add,), (KEY_B,)))
    assert [text.split() for text in device.asked] == [
        [
            *("set=1", f"public_key={HEX_B}", "remove=true"),
            *(f"public_key={HEX_A}", "endpoint=[2001:db8::1]:5", "persistent_keepalive_interval=7"),
            *("replace_allowed_ips=true", "allowed_ip=10.0.0.1/32"),
        ]
    ]


@pytest.mark.parametrize("keepalive", [0, 7])
def test_provoking_switches_keepalive_on_and_ends_with_what_was(device: FakeDevice, keepalive: int) -> None:
    peer = PeerState(KEY_A, None, frozenset(), keepalive, 0.0, 0, 0)
    UserspaceBackend().provoke("wg", [peer])
    lines = "".join(device.asked).splitlines()
    values = [int(line.split("=")[1]) for line in lines if line.startswith("persistent_keepalive")]
    assert 0 in values[:-1]
    assert any(before == 0 and after > 0 for before, after in pairwise(values))
    assert values[-1] == keepalive
    assert not any("allowed_ip" in line for line in lines)


def test_a_refusal_is_told(device: FakeDevice) -> None:
    device.answer = b"errno=-22\n\n"
    with pytest.raises(WardmeshError, match="refused a change") as caught:
        UserspaceBackend().apply("wg", PeerChanges(remove=(KEY_A,)))
    assert "-22" in str(caught.value)


def test_no_process_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userspace, "SOCKETS", tmp_path)
    with pytest.raises(WardmeshError, match="does not answer") as caught:
        UserspaceBackend().dump("wg")
    assert "journalctl -u wardmesh-wireguard@wg" in caught.value.remedy
