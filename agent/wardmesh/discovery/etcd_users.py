# SPDX-License-Identifier: Apache-2.0
"""Who may write what in an etcd: one user and one role for each member, with its own record and nothing else.

A user has no password; it is the common name of a certificate. Only roles of our own name are changed, and
only users that have one; root and everybody else's users stay. Authentication is switched on at the end, when
root and the members can get in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wardmesh.discovery import etcd_api as api
from wardmesh.discovery.etcd import Etcd
from wardmesh.discovery.keys import (
    ADDRESSES,
    HEARTBEAT,
    IDENTITIES,
    cluster_key,
    node_key,
    nodes_prefix,
    prefix_end,
    publisher_key,
    state_key,
    states_prefix,
    synced_prefix,
)
from wardmesh.model.errors import WardmeshError

ROOT = "root"
_OURS = "wardmesh-member-"


@dataclass(frozen=True)
class Rights:
    """Permissions by role, and roles by user."""

    roles: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    users: Mapping[str, frozenset[str]] = field(default_factory=dict)


def desired_rights(cluster: str, names: Iterable[str], publishers: Iterable[str] = ()) -> Rights:
    """Each member reads the members of its cluster and writes its own record, and the same of their states.

    publishers: members that run the store, and write what other clusters read (publisher.py).
    """
    everybody = {
        (api.READ, prefix.encode(), prefix_end(prefix))
        for prefix in (nodes_prefix(cluster), states_prefix(cluster))
    }
    members = sorted(set(names))
    if ROOT in members:
        raise WardmeshError(
            "no member can have root's name", where=ROOT, why="it would have every right", remedy="rename it"
        )
    extra = {name: _publishing(cluster) for name in publishers}
    return Rights(
        {
            _OURS + name: frozenset(
                {
                    *everybody,
                    _one(node_key(cluster, name)),
                    _one(state_key(cluster, name)),
                    *extra.get(name, ()),
                }
            )
            for name in members
        },
        {name: frozenset({_OURS + name}) for name in members},
    )


def _one(key: str) -> tuple[int, bytes, bytes]:
    return (api.READ_WRITE, key.encode(), b"")


def _publishing(cluster: str) -> list[tuple[int, bytes, bytes]]:
    prefixes = (IDENTITIES, ADDRESSES, synced_prefix(cluster))
    return [
        *((api.READ_WRITE, prefix.encode(), prefix_end(prefix)) for prefix in prefixes),
        *(_one(key) for key in (cluster_key(cluster), publisher_key(cluster), HEARTBEAT)),
    ]


def load_rights(etcd: Etcd) -> Rights:
    """What etcd has."""
    users = {}
    for name in etcd.ask(api.USER_LIST, {})["names"]:
        users[name.decode()] = frozenset(
            role.decode() for role in etcd.ask(api.USER_GET, {"name": name})["names"]
        )
    roles = {}
    for name in etcd.ask(api.ROLE_LIST, {})["names"]:
        if name.decode().startswith(_OURS):
            found = etcd.ask(api.ROLE_GET, {"name": name})["permissions"]
            roles[name.decode()] = frozenset((item["kind"], item["key"], item["end"]) for item in found)
    return Rights(roles, users)


@dataclass(frozen=True)
class Step:
    """One call, and what it does in words."""

    words: str
    method: api.Method
    message: Mapping[str, Any]


def diff_rights(have: Rights, want: Rights) -> list[Step]:
    """What to do, in order. Nobody has a moment with more rights than before or after."""
    steps = _root(have)
    for role in sorted(have.roles.keys() - want.roles.keys()):
        user = role[len(_OURS) :]
        if have.users.get(user) == frozenset({role}):
            steps.append(Step(f"user {user} removed", api.USER_DELETE, {"name": user.encode()}))
        steps.append(Step(f"role {role} removed", api.ROLE_DELETE, {"name": role.encode()}))
    for role, wanted in want.roles.items():
        steps += _role(role, have.roles.get(role), wanted)
    for user, roles in want.users.items():
        steps += _user(user, have.users.get(user), roles)
    return steps


def _root(have: Rights) -> list[Step]:
    return _user(ROOT, have.users.get(ROOT), frozenset({ROOT}))


def _role(role: str, have: frozenset[Any] | None, wanted: frozenset[Any]) -> list[Step]:
    name = role.encode()
    steps = [] if have is not None else [Step(f"role {role} made", api.ROLE_ADD, {"name": name})]
    for _kind, key, end in sorted((have or frozenset()) - wanted):
        message = {"name": name, "key": key, "end": end}
        steps.append(Step(f"role {role} loses {key.decode()}", api.ROLE_FORBID, message))
    for kind, key, end in sorted(wanted - (have or frozenset())):
        message = {"name": name, "permission": {"kind": kind, "key": key, "end": end}}
        steps.append(Step(f"role {role} gets {key.decode()}", api.ROLE_ALLOW, message))
    return steps


def _user(user: str, have: frozenset[str] | None, roles: frozenset[str]) -> list[Step]:
    name = user.encode()
    steps = []
    if have is None:
        made = {"name": name, "options": {"no_password": 1}}
        steps.append(Step(f"user {user} made", api.USER_ADD, made))
    for role in sorted(roles - (have or frozenset())):
        message = {"name": name, "role": role.encode()}
        steps.append(Step(f"user {user} gets role {role}", api.USER_GRANT, message))
    return steps


def auth_is_on(etcd: Etcd) -> bool:
    """Does etcd ask who one is? A login that cannot succeed is answered in one way or the other."""
    try:
        etcd.ask(api.LOGIN_CALL, {"name": b"wardmesh-nobody", "password": b"x"})
    except WardmeshError as error:
        if "authentication is not enabled" in error.why:
            return False
        if "authentication failed" in error.why:
            return True
        raise
    return True


def apply_rights(etcd: Etcd, want: Rights, *, dry_run: bool) -> list[str]:
    """Bring etcd to these rights; what was, or would be, done in words."""
    steps = diff_rights(load_rights(etcd), want)
    if not auth_is_on(etcd):
        steps.append(Step("authentication switched on", api.AUTH_ENABLE, {}))
    for step in [] if dry_run else steps:
        etcd.ask(step.method, dict(step.message))
    return [step.words for step in steps]
