# SPDX-License-Identifier: Apache-2.0
"""The host's WireGuard key: born here, 0600, never leaves."""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from wardmesh.host.files import check_private, read_bytes, rename, write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError

KEY_BYTES = 32
_MOST_FORMER = 64


@dataclass(frozen=True)
class KeyInfo:
    """Public facts. public_key: None where a dry run found no key; created: by this run, or by a real one."""

    public_key: str | None
    generation: int
    created: bool


def load_private(paths: Paths) -> bytes:
    """The 32 private bytes; refuses a key that others can read or replace, or of another length."""
    raw = _load(paths.key)
    if raw is None:
        raise WardmeshError("no key on this host", where=str(paths.key), remedy="run: wardmesh node init")
    return raw


def private_keys(paths: Paths) -> dict[str, bytes]:
    """The private keys of this host by public key: the one in use, and the staged one where there is one."""
    found = {public_of(raw): raw for raw in (_load(paths.next_key),) if raw is not None}
    raw = load_private(paths)
    return {public_of(raw): raw, **found}


def _load(path: Path) -> bytes | None:
    """The 32 bytes of a key file, None where there is none."""
    data = read_bytes(path)
    if data is None:
        return None
    check_private(path)
    try:
        raw = base64.b64decode(data.strip(), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_BYTES:
        raise WardmeshError(
            "not a WireGuard key",
            where=str(path),
            why=f"{len(raw)} bytes, expected {KEY_BYTES} in base64",
            remedy="restore the file, or remove it and run: wardmesh node init (then the playbook)",
        )
    return raw


@lru_cache(maxsize=4)
def public_of(private: bytes) -> str:
    """The public key in base64."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    public = X25519PrivateKey.from_private_bytes(private).public_key()
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(raw).decode()


def load_or_create(paths: Paths, *, dry_run: bool) -> KeyInfo:
    """The key of this host, made where there is none (unless dry_run)."""
    facts = paths.key.with_suffix(".json")
    if paths.key.exists():
        private = load_private(paths)
        return KeyInfo(public_of(private), _generation(facts), False)
    if dry_run:
        return KeyInfo(None, _generation(facts), True)
    public = public_of(_born(paths.key))
    generation = _generation(facts)
    _note(facts, generation, public)
    return KeyInfo(public, generation, True)


def staged_key(paths: Paths) -> str:
    """The public key of the staged private one, "" where none is staged."""
    raw = _load(paths.next_key)
    return "" if raw is None else public_of(raw)


def stage_next(paths: Paths, *, dry_run: bool, by_itself: bool = False) -> KeyInfo:
    """The key that is to follow, made where there is none (unless dry_run); the one in use stays.

    by_itself: the host means to change its key without a playbook. A playbook that stages meanwhile takes the
    rotation over: from then on it is the playbook that ends it.
    """
    load_private(paths)
    if not dry_run:
        settle(paths)
    following = paths.next_key.with_suffix(".json")
    generation = _generation(paths.key.with_suffix(".json")) + 1
    public = staged_key(paths)
    if not public and dry_run:
        return KeyInfo(None, generation, True)
    created = not public
    if created:
        public = public_of(_born(paths.next_key))
    handed_over = not created and not by_itself and is_by_itself(paths)
    if not dry_run and (noted_key(following) != public or handed_over):
        _note(following, generation, public, by_itself=by_itself or handed_over, handed_over=handed_over)
    return KeyInfo(public, generation, created)


def is_by_itself(paths: Paths) -> bool:
    """Is there a staged key of which the host itself told the others?"""
    return _noted(paths.next_key.with_suffix(".json")).get("byItself") is True and paths.next_key.exists()


def is_handed_over(paths: Paths) -> bool:
    """Has a playbook taken over what the host began by itself?"""
    return _noted(paths.next_key.with_suffix(".json")).get("handedOver") is True


def former_keys(paths: Paths) -> tuple[str, ...]:
    """Public keys that this host had before, the oldest first; a damaged note counts as none."""
    found = _noted(paths.former_keys).get("keys")
    return tuple(key for key in found if isinstance(key, str)) if isinstance(found, list) else ()


def _note_former(paths: Paths, public: str, keep: str) -> None:
    """Remember a key that goes out of use. keep: the one that the rolled-out map has, not to be forgotten."""
    known = [key for key in former_keys(paths) if key not in (public, keep)]
    newest = [*known, *([keep] if keep not in ("", public) else []), public][-_MOST_FORMER:]
    data = json.dumps({"keys": newest}).encode() + b"\n"
    if read_bytes(paths.former_keys) != data:
        write_atomic(paths.former_keys, data, 0o644)


def promote(paths: Paths, public: str, keep: str = "") -> bool:
    """Make the staged key with this public key the one in use; True when it was done now.

    keep: the key that the rolled-out map gives this host; it is remembered as a former one for good.

    To be called when a map that names it is in force and remembered. One rename takes the old key's place, so
    at every moment a key of that map is on the disk; what is noted beside the keys follows, and settle() ends
    what a kill interrupted.
    """
    if not paths.next_key.with_suffix(".json").exists() and not paths.next_key.exists():
        return False
    if not public or staged_key(paths) != public:
        settle(paths)
        return False
    following = paths.next_key.with_suffix(".json")
    if noted_key(following) != public:  # staging was interrupted
        _note(following, _generation(paths.key.with_suffix(".json")) + 1, public)
    _note_former(paths, public_of(load_private(paths)), keep)
    rename(paths.next_key, paths.key)
    settle(paths)
    return True


def settle(paths: Paths) -> None:
    """End a promotion that was interrupted after its rename: the staged key's note becomes the key's."""
    following = paths.next_key.with_suffix(".json")
    noted = noted_key(following)
    if noted and not paths.next_key.exists() and noted == public_of(load_private(paths)):
        rename(following, paths.key.with_suffix(".json"))


def publish(paths: Paths) -> None:
    """Note the public keys where services may read that see nothing of the folder of the private ones."""
    found = [noted_key(path.with_suffix(".json")) for path in (paths.key, paths.next_key)]
    data = json.dumps([key for key in found if key]).encode() + b"\n"
    if read_bytes(paths.public_keys) != data:
        write_atomic(paths.public_keys, data, 0o644)


def noted_key(facts: Path) -> str:
    """The public key as it is noted beside the private one, which stays closed; "" where it is not."""
    found = _noted(facts).get("publicKey")
    return found if isinstance(found, str) else ""


def _noted(path: Path) -> dict[str, Any]:
    """What is noted beside the keys; {} where nothing is, or it is damaged."""
    try:
        found = json.loads(read_bytes(path) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _born(path: Path) -> bytes:
    """A new private key in this file."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    private = _clamped(os.urandom(KEY_BYTES))
    write_atomic(path, base64.b64encode(private) + b"\n", 0o600)
    return private


def _note(
    facts: Path, generation: int, public: str, *, by_itself: bool = False, handed_over: bool = False
) -> None:
    document: dict[str, Any] = {"generation": generation, "publicKey": public}
    if by_itself:
        document["byItself"] = True
    if handed_over:
        document["handedOver"] = True
    write_atomic(facts, json.dumps(document, sort_keys=True).encode() + b"\n", 0o644)


def _clamped(raw: bytes) -> bytes:
    """A Curve25519 scalar as RFC 7748 §5 and `wg genkey` write it."""
    return bytes([raw[0] & 248]) + raw[1:31] + bytes([raw[31] & 127 | 64])


def _generation(facts: Path) -> int:
    """Number of the key in use; the file is a convenience, so a damaged one counts as the first."""
    try:
        return max(1, int(_noted(facts).get("generation", 1)))
    except (ValueError, TypeError):
        return 1


def noted_generation(paths: Paths) -> int:
    """Number of the key in use, as it is noted beside it."""
    return _generation(paths.key.with_suffix(".json"))
