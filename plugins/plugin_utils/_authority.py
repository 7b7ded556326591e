# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet's CA on the controller: its folder, and who gets which certificate. Private to the collection.

What is signed and checked is the agent's own code (agent/wardmesh/model/authority.py), the same on both sides.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wardmesh.model.authority import Authority, Identity
    from wardmesh.model.fleetmap import FleetMap

AGENT = Path(__file__).parents[2] / "agent"
CLIENT_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$")
IGNORED = b"# Keys: nothing below here belongs into version control.\n*\n"


class AuthorityError(Exception):
    """Nothing was signed; the text says where, why and what to do."""


def agent() -> None:
    """Have the agent's package importable."""
    if str(AGENT) not in sys.path:
        sys.path.insert(0, str(AGENT))


@dataclass
class Plan:
    """Who gets what. lines: for the diff, before and after."""

    certificates: dict[str, str] = field(default_factory=dict)
    ca: str = ""
    changed: bool = False
    pending: list[str] = field(default_factory=list)
    predicted: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


class Folder:
    """The CA's files. plain: undoes ansible-vault's encryption where there is one."""

    def __init__(self, path: str, plain: Callable[[bytes], bytes], *, check: bool) -> None:
        self.path = Path(path)
        self._plain = plain
        self._check = check
        for place in (self.path, self.path / "ca.key"):
            self.check_private(place)

    def check_private(self, place: Path) -> None:
        """Refuse what others can read."""
        try:
            found = place.lstat()
        except FileNotFoundError:
            return
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid not in (os.geteuid(), 0) or mode & 0o077 or stat.S_ISLNK(found.st_mode):
            raise AuthorityError(
                "%s: the CA is open to others: mode %04o, owner %d (remedy: chmod go= %s; if others could "
                "read ca.key, remove the folder for a new CA)" % (place, mode, found.st_uid, place)
            )

    def read(self, name: str) -> bytes:
        """A file, empty where there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return b""

    def key(self) -> bytes:
        """The CA's private key."""
        return self._plain(self.read("ca.key"))

    def trusted(self) -> list[bytes]:
        """Further CAs that hosts are to believe."""
        return [path.read_bytes() for path in sorted((self.path / "trusted").glob("*.crt"))]

    def write(self, name: str, data: bytes, mode: int) -> None:
        """Replace a file in one step; nothing in check mode."""
        if self._check:
            return
        target = self.path / name
        for folder in (self.path, target.parent):
            if not folder.exists():
                folder.mkdir(parents=True, mode=0o700)
        if not (self.path / ".gitignore").exists():
            (self.path / ".gitignore").write_bytes(IGNORED)
        temporary = target.with_name(".%s.%d" % (target.name, os.getpid()))
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.replace(temporary, target)


def authority_of(folder: Folder, cluster: str, now: float) -> tuple[Authority, bool]:
    """The CA of the folder, made where there is none; was it made?"""
    from wardmesh.model.authority import load_authority, make_authority

    certificate, key = folder.read("ca.crt"), folder.key()
    made = not certificate and not key
    if made:
        certificate, key = make_authority(cluster, now)
        folder.write("ca.key", key, 0o600)
        folder.write("ca.crt", certificate, 0o644)
    elif not certificate or not key:
        missing = "ca.key" if certificate else "ca.crt"
        raise AuthorityError(
            "%s: %s is missing (remedy: restore it; for a CA whose key is elsewhere set wardmesh_ca_external; "
            "or remove the folder for a new CA, which every host gets in this run)" % (folder.path, missing)
        )
    return load_authority(certificate, key, folder.trusted(), now, str(folder.path)), made


def identities(fleet: FleetMap) -> dict[str, Identity]:
    """Every member's names and addresses, as the fleet map has them."""
    from wardmesh.model.authority import Identity
    from wardmesh.model.certificates import server_name

    return {
        member.name: Identity(
            member.name,
            tuple(dict.fromkeys([server_name(member.name, fleet.cluster.name), member.name])),
            tuple(str(address) for address in member.addresses),
        )
        for member in fleet.members
    }


def sign_fleet(
    folder: Folder,
    fleet: FleetMap,
    requests: Mapping[str, Mapping[str, Any]],
    now: float,
    days: float,
    *,
    check: bool,
) -> Plan:
    """A plan for every host that sent a request."""
    from wardmesh.model.authority import issue, read_request, why_renew
    from wardmesh.model.certificates import public_bytes

    authority, made = authority_of(folder, fleet.cluster.name, now)
    plan = Plan(ca=authority.bundle.decode(), changed=made)
    if made:
        plan.lines.append("%s: a new CA" % folder.path)
    known = identities(fleet)
    for host, facts in sorted(requests.items()):
        who, installed = known.get(host), str(facts.get("certificate") or "")
        if not facts.get("csr") and check:
            plan.predicted.append(host)
            plan.lines.append("%s: a new key" % host)
            continue
        if who is None:
            raise AuthorityError("%s: no member of the fleet map (remedy: run site.yml first)" % host)
        key = read_request(str(facts["csr"]).encode(), host)
        why = why_renew(installed.encode(), public_bytes(key), who, authority, now)
        plan.certificates[host] = issue(authority, key, who, now, days).decode() if why else installed
        if why:
            plan.lines.append("%s: %s" % (host, why))
            plan.predicted += [host] if check else []
        if why or facts.get("ca") != plan.ca:
            plan.pending.append(host)
    return _finished(plan)


def _finished(plan: Plan) -> Plan:
    plan.pending = sorted({*plan.pending, *plan.predicted})
    plan.changed = bool(plan.changed or plan.lines)
    return plan


def await_signed(
    folder: Folder, fleet: FleetMap, requests: Mapping[str, Mapping[str, Any]], now: float, *, check: bool
) -> Plan:
    """The same where the CA is elsewhere: requests are left in a folder, certificates taken from another."""
    from wardmesh.model.authority import bundle_of, read_request
    from wardmesh.model.certificates import public_bytes

    certificate = folder.read("ca.crt")
    if not certificate:
        raise AuthorityError("%s/ca.crt is missing (remedy: put the CA's certificate there)" % folder.path)
    plan = Plan(ca=bundle_of([certificate, *folder.trusted()], str(folder.path)).decode())
    known = identities(fleet)
    for host, facts in sorted(requests.items()):
        if not facts.get("csr") and check:
            plan.predicted.append(host)
            continue
        if host not in known:
            raise AuthorityError("%s: no member of the fleet map (remedy: run site.yml first)" % host)
        asked = str(facts["csr"]).encode()
        public = public_bytes(read_request(asked, host))
        _leave_request(folder, plan, host, asked, public)
        _take_signed(folder, plan, known[host], facts, public, now)
    return _finished(plan)


def _leave_request(folder: Folder, plan: Plan, host: str, asked: bytes, public: bytes) -> None:
    """One request for a key: a new one only where the key is another."""
    from wardmesh.model.authority import read_request
    from wardmesh.model.certificates import public_bytes
    from wardmesh.model.errors import WardmeshError

    name = "requests/%s.csr" % host
    try:
        same = public_bytes(read_request(folder.read(name), host)) == public
    except WardmeshError:
        same = False
    if not same:
        folder.write(name, asked, 0o600)
        plan.lines.append("%s: a request in %s" % (host, folder.path / name))


def _take_signed(
    folder: Folder, plan: Plan, who: Identity, facts: Mapping[str, Any], public: bytes, now: float
) -> None:
    from wardmesh.model.authority import DAY, RENEW_PART
    from wardmesh.model.certificates import check_leaf
    from wardmesh.model.errors import WardmeshError

    host, installed = who.common_name, str(facts.get("certificate") or "")
    name = "signed/%s.crt" % host
    signed = folder.read(name)
    where = str(folder.path / name)
    if not signed:
        plan.warnings.append("%s: sign %s/requests/%s.csr for %s" % (host, folder.path, host, who.names[0]))
        plan.certificates[host] = installed
        return
    try:
        found = check_leaf(signed, plan.ca.encode(), public, who.names[0], now, where)
    except WardmeshError as error:
        plan.warnings.append(str(error))
        plan.certificates[host] = installed
        return
    if (found.ends - now) * RENEW_PART < found.ends - found.begins:
        plan.warnings.append("%s ends in %d days: sign the request again" % (where, (found.ends - now) / DAY))
    plan.certificates[host] = signed.decode("ascii")
    if plan.certificates[host] != installed or facts.get("ca") != plan.ca:
        plan.pending.append(host)


def sign_client(folder: Folder, cluster: str, name: str, now: float, days: float) -> Plan:
    """A key and a certificate for an operator's client, below clients/; renewed like those of hosts."""
    from wardmesh.model.authority import Identity, issue, new_key, private_pem, why_renew
    from wardmesh.model.certificates import public_bytes, read_private

    if not CLIENT_NAME.fullmatch(name):
        raise AuthorityError("%r is no name for a client (remedy: small letters, digits and hyphens)" % name)
    authority, made = authority_of(folder, cluster, now)
    plan = Plan(ca=authority.bundle.decode(), changed=made)
    who = Identity(name, ("%s.client.wardmesh" % name,), (), server=False)
    path = "clients/%s" % name
    folder.check_private(folder.path / (path + ".key"))
    pem, old = folder.read(path + ".key"), folder.read(path + ".crt")
    key = read_private(pem, path) if pem else new_key()
    why = why_renew(old, public_bytes(key.public_key()), who, authority, now)
    if not pem:
        folder.write(path + ".key", private_pem(key), 0o600)
    if why:
        folder.write(path + ".crt", issue(authority, key.public_key(), who, now, days), 0o644)
        plan.lines.append("%s: %s" % (name, why))
    if folder.read("clients/ca.crt") != authority.bundle:
        folder.write("clients/ca.crt", authority.bundle, 0o644)
        plan.lines.append("clients/ca.crt")
    return _finished(plan)
