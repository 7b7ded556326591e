# SPDX-License-Identifier: Apache-2.0
"""Numbers of events in the words of Hubble's clients (upstream: pkg/monitor/api)."""

from __future__ import annotations

from wardmesh.observe.proto import enum_names

POLICY_MATCHES = {0: "none", 1: "L3-Only", 2: "L3-L4", 3: "L4-Only", 4: "all", 5: "L3-Proto", 6: "Proto-Only"}
# Sub types of trace events; flow.proto has the same numbers, but for to-endpoint.
TRACE_POINTS = {
    0: "to-endpoint",
    1: "to-proxy",
    2: "to-host",
    3: "to-stack",
    4: "to-overlay",
    5: "from-endpoint",
    6: "from-proxy",
    7: "from-host",
    8: "from-stack",
    9: "from-overlay",
    10: "from-network",
    11: "to-network",
    12: "from-crypto",
    13: "to-crypto",
}
EVENT_TYPES = {
    "drop": 1,
    "debug": 2,
    "capture": 3,
    "trace": 4,
    "policy-verdict": 5,
    "recorder": 6,
    "trace-sock": 7,
    "l7": 129,
    "agent": 130,
}
# The spelling of those whose words are not simply the name in flow.DropReason.
_SPELLED = {
    130: "Invalid source mac",
    131: "Invalid destination mac",
    132: "Invalid source ip",
    134: "Invalid packet",
    135: "CT: Truncated or invalid header",
    136: "CT: Missing TCP ACK flag",
    137: "CT: Unknown L4 protocol",
    139: "Unsupported L3 protocol",
    142: "Unknown L4 protocol",
    143: "Unknown ICMPv4 code",
    144: "Unknown ICMPv4 type",
    145: "Unknown ICMPv6 code",
    146: "Unknown ICMPv6 type",
    150: "Unknown L3 target address",
    151: "Stale or unroutable IP",
    155: "CT: Map insertion failed",
    156: "Invalid IPv6 extension header",
    157: "Fragmented packet",
    165: "No configuration available to perform policy decision",
    166: "Unsupported L2 protocol",
    169: "FIB lookup failed",
    176: "Forbidden ICMPv6 message",
    181: "Policy denied by denylist",
    182: "VLAN traffic disallowed by VLAN filter",
    189: "Authentication required",
    190: "No conntrack map found",
    195: "Traffic is unencrypted",
    196: "TTL exceeded",
    198: "Rate limited",
    202: "Host datapath not ready",
    203: "Endpoint policy program not available",
}


def drop_reason(number: int) -> str:
    """133 to Policy denied; the number itself where nobody has a word for it."""
    name = enum_names("flow.DropReason").get(number, "")
    return _SPELLED.get(number) or name.replace("_", " ").capitalize() or str(number)
