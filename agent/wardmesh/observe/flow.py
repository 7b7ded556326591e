# SPDX-License-Identifier: Apache-2.0
"""One flow as a plain value, and where flows come from. Numbers are those of Hubble's flow.proto.

A FlowEvent is what the kernel tells; a Flow is that with the names of both ends, fixed when it was seen.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from wardmesh.model.fleetmap import Address
from wardmesh.observe.metrics_flows import Tally, tally_of

TCP, UDP, SCTP, ICMP, ICMP6 = 6, 17, 132, 1, 58
UNSPECIFIED: Address = ipaddress.IPv4Address(0)


class Kind(enum.IntEnum):
    """What happened; the numbers are the event types of upstream's monitor (pkg/monitor/api)."""

    DROP = 1
    TRACE = 4
    VERDICT = 5


class Verdict(enum.IntEnum):
    """What became of the packet; the names and numbers of flow.Verdict."""

    UNKNOWN = 0
    FORWARDED = 1
    DROPPED = 2
    ERROR = 3
    AUDIT = 4
    REDIRECTED = 5
    TRACED = 6
    TRANSLATED = 7


class Direction(enum.IntEnum):
    """Towards the host that tells of it, or away from it."""

    UNKNOWN = 0
    INGRESS = 1
    EGRESS = 2


class TcpFlag(enum.IntFlag):
    """Bits of a TCP header's flags (RFC 9293 §3.1; NS: RFC 3540)."""

    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16
    URG = 32
    ECE = 64
    CWR = 128
    NS = 256


class Policy(NamedTuple):
    """The policy behind a verdict. labels: sorted, source:key=value."""

    name: str
    namespace: str = ""
    kind: str = "CiliumClusterwideNetworkPolicy"
    revision: int = 0
    labels: tuple[str, ...] = ()


class Traffic(NamedTuple):
    """What a connection carried: packets and bytes as its opener sent them, and what came back."""

    packets: int = 0
    packets_back: int = 0
    bytes: int = 0
    bytes_back: int = 0
    duration_ns: int = 0
    rtt_ns: int | None = None
    closed: bool = False


class FlowEvent(NamedTuple):
    """One event of the kernel. A tuple and no dataclass: one is made for every event.

    time_ns: unix time. node: the member that saw it. drop_reason: upstream's number, 130..205, or 0.
    observation_point, trace_reason: numbers of flow.proto. identity 0, is_reply None: not known.
    """

    time_ns: int
    node: str
    kind: Kind
    verdict: Verdict
    direction: Direction
    protocol: int
    source: Address
    destination: Address
    source_port: int = 0
    destination_port: int = 0
    source_identity: int = 0
    destination_identity: int = 0
    is_reply: bool | None = None
    tcp_flags: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    drop_reason: int = 0
    policy_match_type: int = 0
    allowed_by: tuple[Policy, ...] = ()
    denied_by: tuple[Policy, ...] = ()
    interface_index: int = 0
    interface: str = ""
    encrypted: bool = False
    observation_point: int = 0
    trace_reason: int = 0
    traffic: Traffic | None = None

    @property
    def sub_type(self) -> int:
        """The number beside the event's type; TO_ENDPOINT is 0 there and 101 in flow.proto."""
        if self.kind is Kind.DROP:
            return self.drop_reason
        return self.observation_point % 101 if self.kind is Kind.TRACE else 0


class Party(NamedTuple):
    """One end of a flow. name: the member's, or "" for strangers; labels: sorted, source:key=value."""

    identity: int = 0
    name: str = ""
    cluster: str = ""
    labels: tuple[str, ...] = ()
    domain_names: tuple[str, ...] = ()


class Flow(NamedTuple):
    """An event with the names of both ends. node_name: cluster/member; node_labels: key=value."""

    event: FlowEvent
    source: Party
    destination: Party
    uuid: str = ""
    node_name: str = ""
    node_labels: tuple[str, ...] = ()


class LostSource(enum.IntEnum):
    """Who lost events; the names and numbers of flow.LostEventSource."""

    UNKNOWN = 0
    KERNEL = 1
    OBSERVER = 2
    RING = 3


class Lost(NamedTuple):
    """So many events are missing here, between these times (unix ns)."""

    source: LostSource
    number: int
    first_ns: int = 0
    last_ns: int = 0


class Events(Protocol):
    """What a source told in one look, oldest first: kept as it came, and read when somebody asks.

    Any thread may read; only one adds.
    """

    def __len__(self) -> int: ...

    def between(self, first: int, last: int) -> Sequence[FlowEvent]:
        """Those from one place to before another one."""

    def stamps(self, first: int, last: int) -> Sequence[int]:
        """The time_ns of the same, without reading more of them."""

    def take_in(self, later: Events) -> bool:
        """Have later events behind the own ones, where they are of one kind."""

    def tally(self) -> Tally:
        """What the metrics need of all of them."""


class EventList(list[FlowEvent]):
    """Events that are what they are already."""

    def __init__(self, events: Iterable[FlowEvent] = ()) -> None:
        super().__init__(sorted(events, key=_time))

    def between(self, first: int, last: int) -> Sequence[FlowEvent]:
        """Those from one place to before another one."""
        return self[first:last]

    def stamps(self, first: int, last: int) -> Sequence[int]:
        """The time_ns of the same."""
        return [event.time_ns for event in self[first:last]]

    def take_in(self, later: Events) -> bool:
        """Have a later list behind the own one."""
        if isinstance(later, EventList):
            self.extend(later)
            return True
        return False

    def tally(self) -> Tally:
        """What the metrics need of all of them."""
        return tally_of(self)


def _time(event: FlowEvent) -> int:
    return event.time_ns


class FlowSource(Protocol):
    """Where events come from. One thread asks it; closing it makes a waiting poll return."""

    def poll(self, timeout: float) -> Sequence[Events]:
        """Events since the last call, oldest first; waits up to so many seconds for the first one."""

    def lost(self) -> int:
        """Events lost since the start, ever growing."""

    def close(self) -> None:
        """Let go of everything."""


_ORDER = ("SYN", "ACK", "RST", "FIN", "PSH", "URG", "ECE", "CWR", "NS")
_FLAG_WORDS: dict[int, str] = {}


def tcp_flag_names(flags: int) -> str:
    """SYN, ACK in the order that Hubble's summaries have."""
    known = _FLAG_WORDS.get(flags)
    if known is None:  # 512 of them at most
        known = _FLAG_WORDS[flags & 0x1FF] = ", ".join(name for name in _ORDER if flags & TcpFlag[name].value)
    return known


def sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels as a Party keeps them."""
    return tuple(sorted(labels))
