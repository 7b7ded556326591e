# SPDX-License-Identifier: Apache-2.0
"""The host's WireGuard key: born here, 0600, never leaves."""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import dataclass
from pathlib import Path

from wardmesh.host.files import read_bytes, write_atomic
from wardmesh.model.errors import WardmeshError


@dataclass(frozen=True)
class KeyInfo:
    """Public facts; public_key is None where a dry run found no key."""

    public_key: str | None
    generation: int
    created: bool


def load_private(path: Path) -> bytes:
    """The 32 private bytes; refuses a key that others can read or that has another length."""
    data = read_bytes(path)
    if data is None:
        raise WardmeshError("no key on this host", where=str(path), remedy="run: wardmesh node init")
    info = path.stat()
    if info.st_mode & 0o077 or info.st_uid != os.geteuid():
        raise WardmeshError(
            "wrong permissions on the private key",
            where=str(path),
            why=f"mode {info.st_mode & 0o777:04o}, owner {info.st_uid}; others may have read it",
            remedy=f"chown root {path}; chmod 600 {path}, or remove it for a new key",
        )
    try:
        raw = base64.b64decode(data.strip(), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32:
        raise WardmeshError(
            "not a WireGuard key",
            where=str(path),
            why=f"{len(raw)} bytes, expected 32 in base64",
            remedy="remove the file and run: wardmesh node init",
        )
    return raw


def public_of(private: bytes) -> str:
    """The public key in base64."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    public = X25519PrivateKey.from_private_bytes(private).public_key()
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(raw).decode()


def load_or_create(path: Path, *, dry_run: bool) -> KeyInfo:
    """The key of this host, made when there is none (unless dry_run)."""
    facts = path.with_suffix(".json")
    if path.exists():
        known = json.loads(read_bytes(facts) or b"{}")
        return KeyInfo(public_of(load_private(path)), int(known.get("generation", 1)), False)
    if dry_run:
        return KeyInfo(None, 1, True)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.chmod(path.parent, 0o700)
    private = os.urandom(32)
    write_atomic(path, base64.b64encode(private) + b"\n", 0o600)
    public = public_of(private)
    write_atomic(facts, json.dumps({"generation": 1, "publicKey": public}).encode() + b"\n", 0o644)
    return KeyInfo(public, 1, True)
