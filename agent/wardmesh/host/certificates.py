# SPDX-License-Identifier: Apache-2.0
"""The host's key for TLS, born here, 0600, and never elsewhere; the certificate that the rollout brings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wardmesh.host.files import check_private, read_bytes, write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.authority import new_key, private_pem, request_for
from wardmesh.model.certificates import (
    Leaf,
    check_leaf,
    public_bytes,
    read_certificates,
    read_private,
)
from wardmesh.model.errors import WardmeshError


@dataclass(frozen=True)
class Request:
    """csr: PEM, empty where a dry run found no key; created: a key was made, or would be."""

    csr: bytes
    created: bool


def request(paths: Paths, member: str, *, dry_run: bool) -> Request:
    """A request for a certificate of this member; the key is made where there is none."""
    path = paths.hubble_key
    pem = read_bytes(path)
    created = pem is None
    if pem is None:
        if dry_run:
            return Request(b"", True)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.chmod(0o700)
        pem = private_pem(new_key())
        write_atomic(path, pem, 0o600)
    check_private(path)
    return Request(request_for(read_private(pem, str(path)), member), created)


def install(
    paths: Paths, chain: bytes, bundle: bytes, name: str, now: float, *, dry_run: bool
) -> tuple[bool, Leaf]:
    """Check a certificate and the CAs that come with it, then put them in place; was anything changed?

    name: the DNS name that the certificate must carry. WardmeshError: both files stay as they were.
    """
    pem = read_bytes(paths.hubble_key)
    if pem is None:
        why = "no key on this host"
        raise WardmeshError(why, where=str(paths.hubble_key), remedy="run: wardmesh node certificate-request")
    check_private(paths.hubble_key)
    own = read_private(pem, str(paths.hubble_key))
    found = check_leaf(chain, bundle, public_bytes(own.public_key()), name, now, "the new certificate")
    wanted = {paths.fleet_ca: bundle, paths.hubble_cert: chain}
    different = [path for path, data in wanted.items() if read_bytes(path) != data]
    if not dry_run:
        for path in different:
            write_atomic(path, wanted[path], 0o644)
    return bool(different), found


def installed(path: Path) -> str:
    """The PEM text of certificates; empty where there is none, or where the file is damaged."""
    data = read_bytes(path)
    try:
        return data.decode("ascii") if data and read_certificates(data, str(path)) else ""
    except (WardmeshError, UnicodeDecodeError):
        return ""
