# SPDX-License-Identifier: Apache-2.0
"""A key is born once, and one that others may know is refused."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard.keys import load_or_create, load_private, public_of


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


def test_public_key_by_the_vector_of_rfc_7748() -> None:
    """§5.2: X25519 of the scalar 9 and the base point, after one iteration."""
    expected = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert public_of(bytes([9]) + bytes(31)) == base64.b64encode(bytes.fromhex(expected)).decode()


def test_a_dry_run_makes_nothing(paths: Paths, tmp_path: Path) -> None:
    info = load_or_create(paths, dry_run=True)
    assert (info.public_key, info.created) == (None, True)
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_made_once_and_kept(paths: Paths) -> None:
    first = load_or_create(paths, dry_run=False)
    again = load_or_create(paths, dry_run=False)
    assert first.created
    assert not again.created
    assert again.public_key == first.public_key == public_of(load_private(paths))
    assert load_or_create(paths, dry_run=True) == again


def test_file_folder_and_scalar(paths: Paths) -> None:
    load_or_create(paths, dry_run=False)
    assert stat.S_IMODE(paths.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(paths.key.parent.stat().st_mode) == 0o700
    private = load_private(paths)
    assert (private[0] & 7, private[31] & 192) == (0, 64)
    assert base64.b64encode(private).decode() not in paths.key.with_suffix(".json").read_text()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_key_that_others_can_read_is_refused(paths: Paths, mode: int) -> None:
    load_or_create(paths, dry_run=False)
    paths.key.chmod(mode)
    with pytest.raises(WardmeshError, match="wrong permissions") as caught:
        load_private(paths)
    assert str(paths.key) in str(caught.value)
    assert "chmod 600" in str(caught.value)


def test_a_folder_in_which_others_can_replace_the_key_is_refused(paths: Paths) -> None:
    load_or_create(paths, dry_run=False)
    paths.key.parent.chmod(0o777)
    with pytest.raises(WardmeshError, match="wrong permissions"):
        load_private(paths)


def test_a_link_to_a_key_is_refused(paths: Paths, tmp_path: Path) -> None:
    load_or_create(paths, dry_run=False)
    paths.key.rename(tmp_path / "elsewhere")
    paths.key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WardmeshError, match="wrong permissions"):
        load_private(paths)


@pytest.mark.parametrize(
    "content", [b"", b"c2hvcnQ=\n", b"not base64!\n", base64.b64encode(bytes(33)) + b"\n"]
)
def test_a_key_of_wrong_length_is_refused_without_being_told(paths: Paths, content: bytes) -> None:
    load_or_create(paths, dry_run=False)
    paths.key.write_bytes(content)
    paths.key.chmod(0o600)
    with pytest.raises(WardmeshError, match="not a WireGuard key") as caught:
        load_private(paths)
    assert content.strip().decode() not in str(caught.value) or not content


def test_no_key(paths: Paths) -> None:
    with pytest.raises(WardmeshError, match="no key on this host"):
        load_private(paths)
