# SPDX-License-Identifier: Apache-2.0
"""A fleet's CA for tests, and hosts that have its certificates where the rollout puts them."""

from __future__ import annotations

import time
from pathlib import Path

from wardmesh.host.certificates import install, request
from wardmesh.host.paths import Paths
from wardmesh.model.authority import (
    Authority,
    Identity,
    issue,
    load_authority,
    make_authority,
    new_key,
    private_pem,
    read_request,
)
from wardmesh.model.certificates import server_name
from wardmesh.observe.client import Access
from wardmesh.observe.credentials import rollout_tls
from wardmesh.observe.settings import Tls

CLUSTER = "lab"


def authority(*others: bytes) -> Authority:
    return load_authority(*make_authority(CLUSTER, time.time()), others, time.time(), "ca")


def certify(paths: Paths, member: str, ca: Authority, bundle: bytes = b"") -> Tls:
    """What the rollout does: request, sign, install."""
    now, name = time.time(), server_name(member, CLUSTER)
    key = read_request(request(paths, member, dry_run=False).csr, member)
    pem = issue(ca, key, Identity(member, (name, member), ("127.0.0.1",)), now)
    install(paths, pem, bundle or ca.bundle, name, now, dry_run=False)
    found = rollout_tls(paths)
    assert found is not None
    return found


def client(folder: Path, name: str, ca: Authority, *, days: float = 30, ago: float = 0) -> tuple[Path, Path]:
    """Certificate and key of a name, in files; valid for so many days since so many seconds ago."""
    key = new_key()
    who = Identity(name[:20], (name,), (), server=False)
    cert, secret = folder / f"{name}.crt", folder / f"{name}.key"
    cert.write_bytes(issue(ca, key.public_key(), who, time.time() - ago, days))
    secret.write_bytes(private_pem(key))
    return cert, secret


def access(port: int, member: str, ca: Path, pair: tuple[Path, Path] | None) -> Access:
    """To a member on loopback; pair: certificate and key."""
    cert, key = pair or (None, None)
    return Access(f"127.0.0.1:{port}", True, ca, cert, key, server_name(member, CLUSTER))
