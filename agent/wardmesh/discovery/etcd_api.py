# SPDX-License-Identifier: Apache-2.0
"""What is used of etcd's API v3: field numbers of its rpc.proto and kv.proto (3.4 and newer)."""

from __future__ import annotations

from dataclasses import dataclass

from wardmesh.discovery.wire import BYTES, INT, Spec

HEADER: Spec = {1: ("cluster", INT), 3: ("revision", INT)}
KEY_VALUE: Spec = {
    1: ("key", BYTES),
    2: ("created", INT),
    3: ("changed", INT),
    5: ("value", BYTES),
    6: ("lease", INT),
}
RANGE: Spec = {1: ("key", BYTES), 2: ("end", BYTES), 3: ("limit", INT), 4: ("revision", INT)}
RANGE_ANSWER: Spec = {1: ("header", HEADER), 2: ("kvs", [KEY_VALUE]), 3: ("more", INT)}
PUT: Spec = {1: ("key", BYTES), 2: ("value", BYTES), 3: ("lease", INT)}
ANSWER: Spec = {1: ("header", HEADER)}
DELETE: Spec = {1: ("key", BYTES), 2: ("end", BYTES)}
COMPARE: Spec = {1: ("result", INT), 2: ("target", INT), 3: ("key", BYTES), 4: ("version", INT)}
OPERATION: Spec = {2: ("put", PUT)}
TXN: Spec = {1: ("compare", [COMPARE]), 2: ("success", [OPERATION])}
TXN_ANSWER: Spec = {1: ("header", HEADER), 2: ("succeeded", INT)}
WATCH_CREATE: Spec = {1: ("key", BYTES), 2: ("end", BYTES), 3: ("start", INT), 8: ("fragment", INT)}
WATCH: Spec = {1: ("create", WATCH_CREATE)}
EVENT: Spec = {1: ("type", INT), 2: ("kv", KEY_VALUE)}
WATCH_ANSWER: Spec = {
    1: ("header", HEADER),
    3: ("created", INT),
    4: ("canceled", INT),
    5: ("compacted", INT),
    6: ("reason", BYTES),
    11: ("events", [EVENT]),
}
GRANT: Spec = {1: ("ttl", INT)}
GRANT_ANSWER: Spec = {2: ("id", INT), 3: ("ttl", INT), 4: ("error", BYTES)}
KEEP: Spec = {1: ("id", INT)}
KEEP_ANSWER: Spec = {2: ("id", INT), 3: ("ttl", INT)}
LOGIN: Spec = {1: ("name", BYTES), 2: ("password", BYTES)}
LOGIN_ANSWER: Spec = {2: ("token", BYTES)}

NAME: Spec = {1: ("name", BYTES)}
PERMISSION: Spec = {1: ("kind", INT), 2: ("key", BYTES), 3: ("end", BYTES)}
USERS: Spec = {1: ("header", HEADER), 2: ("names", [BYTES])}
ROLE: Spec = {1: ("header", HEADER), 2: ("permissions", [PERMISSION])}
USER_OPTIONS: Spec = {1: ("no_password", INT)}
NEW_USER: Spec = {1: ("name", BYTES), 2: ("password", BYTES), 3: ("options", USER_OPTIONS)}
USER_ROLE: Spec = {1: ("name", BYTES), 2: ("role", BYTES)}
ROLE_GRANT: Spec = {1: ("name", BYTES), 2: ("permission", PERMISSION)}
ROLE_REVOKE: Spec = {1: ("name", BYTES), 2: ("key", BYTES), 3: ("end", BYTES)}
NOTHING: Spec = {}
READ, READ_WRITE = 0, 2  # authpb.Permission.Type

DELETED = 1  # mvccpb.Event.EventType


@dataclass(frozen=True)
class Method:
    """A method by its path, with the specs of question and answer."""

    path: str
    question: Spec
    answer: Spec


RANGE_CALL = Method("/etcdserverpb.KV/Range", RANGE, RANGE_ANSWER)
PUT_CALL = Method("/etcdserverpb.KV/Put", PUT, ANSWER)
DELETE_CALL = Method("/etcdserverpb.KV/DeleteRange", DELETE, ANSWER)
TXN_CALL = Method("/etcdserverpb.KV/Txn", TXN, TXN_ANSWER)
GRANT_CALL = Method("/etcdserverpb.Lease/LeaseGrant", GRANT, GRANT_ANSWER)
KEEP_CALL = Method("/etcdserverpb.Lease/LeaseKeepAlive", KEEP, KEEP_ANSWER)
WATCH_CALL = Method("/etcdserverpb.Watch/Watch", WATCH, WATCH_ANSWER)
LOGIN_CALL = Method("/etcdserverpb.Auth/Authenticate", LOGIN, LOGIN_ANSWER)
USER_LIST = Method("/etcdserverpb.Auth/UserList", NOTHING, USERS)
USER_GET = Method("/etcdserverpb.Auth/UserGet", NAME, USERS)
USER_ADD = Method("/etcdserverpb.Auth/UserAdd", NEW_USER, ANSWER)
USER_DELETE = Method("/etcdserverpb.Auth/UserDelete", NAME, ANSWER)
USER_GRANT = Method("/etcdserverpb.Auth/UserGrantRole", USER_ROLE, ANSWER)
ROLE_LIST = Method("/etcdserverpb.Auth/RoleList", NOTHING, USERS)
ROLE_GET = Method("/etcdserverpb.Auth/RoleGet", NAME, ROLE)
ROLE_ADD = Method("/etcdserverpb.Auth/RoleAdd", NAME, ANSWER)
ROLE_DELETE = Method("/etcdserverpb.Auth/RoleDelete", NAME, ANSWER)
ROLE_ALLOW = Method("/etcdserverpb.Auth/RoleGrantPermission", ROLE_GRANT, ANSWER)
ROLE_FORBID = Method("/etcdserverpb.Auth/RoleRevokePermission", ROLE_REVOKE, ANSWER)
AUTH_ENABLE = Method("/etcdserverpb.Auth/AuthEnable", NOTHING, ANSWER)
