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

from wardmesh.host.files import check_private, read_bytes, write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError

KEY_BYTES = 32


@dataclass(frozen=True)
class KeyInfo:
    """Public facts. public_key: None where a dry run found no key; created: by this run, or by a real one."""

    public_key: str | None
    generation: int
    created: bool


def load_private(paths: Paths) -> bytes:
    """The 32 private bytes; refuses a key that others can read or replace, or of another length."""
    path = paths.key
    data = read_bytes(path)
    if data is None:
        raise WardmeshError("no key on this host", where=str(path), remedy="run: wardmesh node init")
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
    folder = paths.key.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    private = _clamped(os.urandom(KEY_BYTES))
    write_atomic(paths.key, base64.b64encode(private) + b"\n", 0o600)
    public = public_of(private)
    generation = _generation(facts)
    document = {"generation": generation, "publicKey": public}
    write_atomic(facts, json.dumps(document, sort_keys=True).encode() + b"\n", 0o644)
    return KeyInfo(public, generation, True)


def _clamped(raw: bytes) -> bytes:
    """A Curve25519 scalar as RFC 7748 §5 and `wg genkey` write it."""
    return bytes([raw[0] & 248]) + raw[1:31] + bytes([raw[31] & 127 | 64])


def _generation(facts: Path) -> int:
    """Number of the key in use; the file is a convenience, so a damaged one counts as the first."""
    try:
        return max(1, int(json.loads(read_bytes(facts) or b"{}").get("generation", 1)))
    except (ValueError, TypeError, AttributeError):
        return 1
