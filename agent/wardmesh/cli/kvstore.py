# SPDX-License-Identifier: Apache-2.0
"""The verb `kvstore users`: users and roles of the fleet's etcd, for the role kvstore."""

from __future__ import annotations

import argparse

from wardmesh.cli.output import emit
from wardmesh.discovery.settings import read_settings
from wardmesh.host.files import read_bytes
from wardmesh.model.config import parse_config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.map_parser import parse_fleet_map


def users(args: argparse.Namespace) -> int:
    """One user for each member of a map, which may write its own record and nothing else."""
    from wardmesh.discovery.etcd import Etcd
    from wardmesh.discovery.etcd_users import apply_rights, desired_rights

    data = read_bytes(args.map)
    if data is None:
        raise WardmeshError("no such file", where=str(args.map), remedy="name a fleet map")
    fleet = parse_fleet_map(data, str(args.map))
    words = {"ca": args.ca, "cert": args.cert, "key": args.key}
    tls = ", ".join(f"{name}: {path}" for name, path in words.items() if path)
    config = parse_config(f"etcd: {{endpoints: ['{args.endpoint}'], tls: {{{tls}}}}}", "the command line")
    settings = read_settings(config.values)
    if settings is None:
        raise WardmeshError("which etcd?", where="--endpoint", remedy="name a server")
    names = {*(member.name for member in fleet.members), *args.also}
    want = desired_rights(fleet.cluster.name, names, args.publisher)
    etcd = Etcd(settings, settings.servers[0])
    try:
        changes = apply_rights(etcd, want, dry_run=args.dry_run)
    finally:
        etcd.close()
    document = {"changed": bool(changes), "changes": changes, "users": len(names)}
    return emit(args, document, "\n".join(changes) or "nothing to change")
