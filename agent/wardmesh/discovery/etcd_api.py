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

DELETED = 1  # mvccpb.Event.EventType


@dataclass(frozen=True)
class Method:
    """A method by its path, with the specs of question and answer."""

    path: str
    question: Spec
    answer: Spec


RANGE_CALL = Method("/etcdserverpb.KV/Range", RANGE, RANGE_ANSWER)
PUT_CALL = Method("/etcdserverpb.KV/Put", PUT, ANSWER)
GRANT_CALL = Method("/etcdserverpb.Lease/LeaseGrant", GRANT, GRANT_ANSWER)
KEEP_CALL = Method("/etcdserverpb.Lease/LeaseKeepAlive", KEEP, KEEP_ANSWER)
WATCH_CALL = Method("/etcdserverpb.Watch/Watch", WATCH, WATCH_ANSWER)
LOGIN_CALL = Method("/etcdserverpb.Auth/Authenticate", LOGIN, LOGIN_ANSWER)
