# SPDX-License-Identifier: Apache-2.0
"""`wardmesh node certificate-request` and `certificate-install`: the host's side of the fleet's TLS."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from wardmesh.cli.fleet import installed_fleet
from wardmesh.cli.output import emit, paths_of
from wardmesh.daemon.own_keys import own_member, own_public_keys
from wardmesh.host.certificates import Request, install, installed, request
from wardmesh.host.files import read_bytes
from wardmesh.host.paths import Paths
from wardmesh.model.certificates import server_name
from wardmesh.model.errors import WardmeshError


def _member(paths: Paths) -> tuple[str, str]:
    """This host's name in the fleet map, and its cluster's; two empty texts before the first rollout."""
    fleet = installed_fleet(paths)
    own = own_member(fleet, own_public_keys(paths)) if fleet is not None else None
    return (own.name, fleet.cluster.name) if own is not None and fleet is not None else ("", "")


def certificate_request(args: argparse.Namespace) -> int:
    """Make the key where there is none; print a request, and the certificate that is installed."""
    paths = paths_of(args)
    member, _cluster = _member(paths) if paths.fleet.exists() else ("", "")
    if not member and not args.dry_run:
        raise _no_member(paths)
    asked = (
        request(paths, member, dry_run=args.dry_run)
        if member
        else Request(b"", not paths.hubble_key.exists())
    )
    document = {
        "changed": asked.created,
        "member": member,
        "csr": asked.csr.decode(),
        "certificate": installed(paths.hubble_cert),
        "ca": installed(paths.fleet_ca),
    }
    return emit(args, document, asked.csr.decode() or "no key yet")


def certificate_install(args: argparse.Namespace) -> int:
    """Check a certificate and its CAs, then install them; what is refused changes nothing."""
    paths = paths_of(args)
    member, cluster = _member(paths)
    if not member:
        raise _no_member(paths)
    name = server_name(member, cluster)
    changed, found = install(
        paths, _read(args.certificate), _read(args.ca), name, time.time(), dry_run=args.dry_run
    )
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.ends))
    document = {"changed": changed, "names": list(found.names), "ends": ends, "serial": f"{found.serial:x}"}
    return emit(args, document, f"{name}: valid until {ends}")


def _no_member(paths: Paths) -> WardmeshError:
    return WardmeshError(
        "this host is no member of a fleet", where=str(paths.fleet), remedy="run the playbook site.yml first"
    )


def _read(path: Path) -> bytes:
    data = read_bytes(path)
    if data is None:
        raise WardmeshError("no such file", where=str(path))
    return data
