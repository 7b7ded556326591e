# SPDX-License-Identifier: Apache-2.0
"""A key is born once, and one that others may know is refused."""

from __future__ import annotations

import base64
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wardmesh.daemon.own_keys import own_public_keys
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard.keys import (
    load_or_create,
    load_private,
    private_keys,
    promote,
    public_of,
    stage_next,
    staged_key,
)


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


# --- the staged key, and what a kill between any two steps leaves ---------------------------------------


class Killed(BaseException):
    """The process ends here; nothing of it runs any more."""


class Steps:
    """Lets so many changes of the disk happen, and kills before the next one."""

    CALLS = ("replace", "unlink", "rename", "link", "mkdir", "open")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
        self.left = allowed
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            changing = real is not _OPEN or (len(arguments) > 1 and arguments[1] & os.O_CREAT)
            if changing:
                if not self.left:
                    raise Killed
                self.left -= 1
            return real(*arguments, **options)

        return call


_OPEN = os.open


def survives(
    paths: Paths, act: Callable[[], object], check: Callable[[], None], again: Callable[[], None]
) -> int:
    """Run act, killed before its first, second, … change, each time from the start; how many there are."""
    start = {
        path: (path.read_bytes(), path.stat().st_mode) for path in paths.state.rglob("*") if path.is_file()
    }
    for allowed in range(100):
        shutil.rmtree(paths.state)
        for path, (data, mode) in start.items():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.write_bytes(data)
            path.chmod(stat.S_IMODE(mode))
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, allowed)
            try:
                act()
                done = True
            except Killed:
                done = False
        check()
        again()
        if done:
            return allowed
    raise AssertionError("it never ends")


def test_a_staged_key_stands_beside_the_one_in_use(paths: Paths) -> None:
    first = load_or_create(paths, dry_run=False)
    assert stage_next(paths, dry_run=True).public_key is None
    assert not paths.next_key.exists()
    staged = stage_next(paths, dry_run=False)
    assert staged.created and staged.generation == 2
    assert stage_next(paths, dry_run=False) == replace(staged, created=False)
    assert stat.S_IMODE(paths.next_key.stat().st_mode) == 0o600
    assert set(private_keys(paths)) == {first.public_key, staged.public_key}
    assert load_or_create(paths, dry_run=False).public_key == first.public_key
    assert own_public_keys(paths) == (first.public_key, staged.public_key)


def test_nothing_is_staged_on_a_host_without_a_key(paths: Paths) -> None:
    with pytest.raises(WardmeshError, match="no key"):
        stage_next(paths, dry_run=False)


def test_only_the_key_that_the_map_names_takes_the_old_ones_place(paths: Paths) -> None:
    first = load_or_create(paths, dry_run=False)
    assert not promote(paths, str(first.public_key))
    stage_next(paths, dry_run=False)
    assert not promote(paths, str(first.public_key))
    assert not promote(paths, "another")
    assert load_or_create(paths, dry_run=False).public_key == first.public_key


def test_a_promoted_key_is_the_one_in_use(paths: Paths) -> None:
    load_or_create(paths, dry_run=False)
    staged = stage_next(paths, dry_run=False)
    assert promote(paths, str(staged.public_key))
    assert not promote(paths, str(staged.public_key))
    assert load_or_create(paths, dry_run=False) == replace(staged, created=False)
    assert own_public_keys(paths) == (staged.public_key,)
    assert sorted(path.name for path in paths.key.parent.iterdir()) == ["former.json", "wg0.json", "wg0.key"]


def test_a_kill_at_any_point_of_staging_loses_no_key(paths: Paths) -> None:
    first = load_or_create(paths, dry_run=False)
    seen: list[str] = []

    def check() -> None:
        assert first.public_key in private_keys(paths)
        seen.append(staged_key(paths))

    def again() -> None:
        staged = stage_next(paths, dry_run=False)
        assert seen[-1] in ("", staged.public_key), "a key that was there is kept"
        assert own_public_keys(paths) == (first.public_key, staged.public_key)

    steps = survives(paths, lambda: stage_next(paths, dry_run=False), check, again)
    assert steps >= 4 and "" in seen and seen[-1]


@pytest.mark.parametrize("noted", [True, False])
def test_a_kill_at_any_point_of_a_promotion_loses_no_key(paths: Paths, noted: bool) -> None:
    load_or_create(paths, dry_run=False)
    staged = stage_next(paths, dry_run=False)
    if not noted:  # staging was killed before it was noted
        paths.next_key.with_suffix(".json").unlink()
    public = str(staged.public_key)

    def check() -> None:
        assert public in private_keys(paths)
        assert noted is False or public in own_public_keys(paths)

    def again() -> None:
        promote(paths, public)
        assert set(private_keys(paths)) == {public}
        assert own_public_keys(paths) == (public,)
        assert load_or_create(paths, dry_run=False).generation == 2
        assert not paths.next_key.exists()
        assert not paths.next_key.with_suffix(".json").exists()

    assert survives(paths, lambda: promote(paths, public), check, again) >= 2


def test_a_staged_key_that_others_can_read_is_refused(paths: Paths) -> None:
    load_or_create(paths, dry_run=False)
    stage_next(paths, dry_run=False)
    paths.next_key.chmod(0o644)
    with pytest.raises(WardmeshError, match="permissions"):
        private_keys(paths)
