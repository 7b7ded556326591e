# SPDX-License-Identifier: Apache-2.0
"""Choice of the backend, sysctls, and what is told of a change."""

from __future__ import annotations

from pathlib import Path

import pytest

from wardmesh.host.sysctl import Sysctls
from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard.backend import PeerChanges, PeerConfig, PeerUpdate, choose_backend
from wardmesh.wireguard.kernel import KernelBackend
from wardmesh.wireguard.sysctls import reconcile_sysctls
from wardmesh.wireguard.tunnel import TunnelDesired, change_lines
from wardmesh.wireguard.userspace import UserspaceBackend


@pytest.mark.parametrize(
    ("preference", "kernel", "userspace", "chosen"),
    [
        ("auto", "", "", "kernel"),
        ("auto", "none", "", "userspace"),
        ("kernel", "", "", "kernel"),
        ("userspace", "", "", "userspace"),
        ("auto", "no module", "no wireguard-go", None),
        ("kernel", "no module", "", None),
        ("userspace", "", "no wireguard-go", None),
    ],
)
def test_choice(
    monkeypatch: pytest.MonkeyPatch, preference: str, kernel: str, userspace: str, chosen: str | None
) -> None:
    monkeypatch.setattr(KernelBackend, "unavailable", staticmethod(lambda: kernel))
    monkeypatch.setattr(UserspaceBackend, "unavailable", staticmethod(lambda: userspace))
    if chosen is not None:
        assert choose_backend(preference).name == chosen
        return
    with pytest.raises(WardmeshError, match="no WireGuard on this host") as caught:
        choose_backend(preference)
    assert {"kernel": kernel, "userspace": userspace, "auto": f"{kernel}; {userspace}"}[preference] in str(
        caught.value
    )
    assert "wireguard-go" in caught.value.remedy
    assert preference in caught.value.where


def test_every_peer_is_told_once_and_by_its_name() -> None:
    changes = PeerChanges(
        add=(PeerConfig("key-a", None, frozenset()),),
        update=(PeerUpdate("key-b", keepalive=1), PeerUpdate("key-b", allowed_ips=frozenset())),
        remove=("key-of-nobody-known",),
    )
    assert change_lines(changes, {"key-a": "alpha", "key-b": "beta"}) == [
        "peer alpha added",
        "peer beta changed",
        "peer key-of-nob… removed",
    ]


def test_the_private_key_does_not_show_in_a_representation() -> None:
    assert "secretsecret" not in repr(TunnelDesired(b"secretsecret", 51871, 1420, {}))


def test_sysctls_are_set_told_and_given_back(tmp_path: Path) -> None:
    base = tmp_path / "sys"
    values = {
        "net/ipv4/conf/wardmesh_wg0/rp_filter": "1",
        "net/ipv6/conf/wardmesh_wg0/disable_ipv6": "0",
        "net/ipv4/conf/eth0.7/src_valid_mark": "0",
    }
    for name, value in values.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(value + "\n")
    sysctls = Sysctls(tmp_path / "journal.json", base)
    lines = reconcile_sysctls(sysctls, ["eth0.7", "vanished0"])
    assert lines == [
        "sysctl net/ipv4/conf/wardmesh_wg0/rp_filter = 2",
        "sysctl net/ipv4/conf/eth0.7/src_valid_mark = 1",
    ]
    assert reconcile_sysctls(sysctls, ["eth0.7", "vanished0"]) == []
    sysctls.restore()
    assert {name: (base / name).read_text().strip() for name in values} == values
