# SPDX-License-Identifier: Apache-2.0
"""Many members' answers as one stream in the order of time, with bounded memory.

Answers that end are merged exactly: of each member one answer is held. Answers that go on for ever cannot be:
they are sorted within a window of 100 flows and one second, as upstream's relay does.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import heapq
import time
from collections.abc import AsyncGenerator
from typing import Any

from wardmesh.observe.convert import set_time, time_of
from wardmesh.observe.links import CONNECTED, ERROR, GONE, UNAVAILABLE, Link, Links
from wardmesh.observe.needs import need
from wardmesh.observe.proto import message

SORT_BUFFER = 100  # flows; upstream's defaults (pkg/hubble/relay/defaults)
SORT_WINDOW = 1.0  # seconds
MOST_KEPT = 100_000  # flows that `last` holds back until every member has answered
_READ_TIMEOUT = 15.0  # seconds that one member may let the others wait
_TICK = 0.1
_WAITING = 256  # answers that wait for the client, of all members together
_PEER_UPDATE = 2.0
_BACKOFF = (0.2, 10.0)  # seconds between tries to reach a member: the first, the longest


def status(state: int, names: list[str], relay: str, words: str = "") -> Any:
    """A GetFlowsResponse that tells of members."""
    made = message("observer.GetFlowsResponse")()
    made.node_status.state_change = state
    made.node_status.node_names.extend(sorted(names))
    made.node_status.message = words
    made.node_name = relay
    set_time(made.time, time.time_ns())
    return made


def told(error: Any) -> tuple[int, str]:
    """State and words of a failed call."""
    code = error.code()
    unreachable = code is not None and code.name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
    return (UNAVAILABLE, "") if unreachable else (ERROR, str(error.details() or code))


class Changes:
    """What is to be told of members, gathered so that a thousand of them are one line."""

    def __init__(self, relay: str) -> None:
        self._relay = relay
        self._found: dict[tuple[int, str], list[str]] = {}

    def add(self, name: str, state: int, words: str = "") -> None:
        """One member."""
        for names in self._found.values():
            if name in names:
                names.remove(name)  # only the last word counts
        self._found.setdefault((state, words), []).append(name)

    def take(self) -> list[Any]:
        """Everything since the last call."""
        found, self._found = self._found, {}
        order = sorted(found.items())
        return [status(state, names, self._relay, words) for (state, words), names in order if names]


# --- answers that end ---


async def merged(links: Links, request: Any, relay: str) -> AsyncGenerator[Any, None]:
    """Every member's answer, in order; of `number` flows the last, or the first, of the whole fleet."""
    changes = Changes(relay)
    heads = await asyncio.gather(*(_open(link, request, changes) for link in links.by_name.values()))
    for answer in changes.take():
        yield answer
    number = int(request.number)
    ordered = _ordered([head for head in heads if head is not None], changes)
    async with _Closing(ordered):
        if request.first and number:
            async for answer in ordered:
                yield answer
                number -= answer.HasField("flow")
                if number == 0:
                    break
        elif 0 < number <= MOST_KEPT:
            kept: collections.deque[Any] = collections.deque(maxlen=number)
            async for answer in ordered:
                if answer.HasField("flow"):
                    kept.append(answer)
                else:
                    yield answer
            for answer in kept:
                yield answer
        else:
            async for answer in ordered:
                yield answer
    for answer in changes.take():
        yield answer


class _Closing:
    """contextlib.aclosing, which came with Python 3.10."""

    def __init__(self, held: Any) -> None:
        self._held = held

    async def __aenter__(self) -> Any:
        return self._held

    async def __aexit__(self, *_args: object) -> None:
        await self._held.aclose()


class _Head:
    """One member's stream, and the answer that is its turn."""

    def __init__(self, name: str, call: Any) -> None:
        self.name = name
        self.call = call
        self.answer: Any = None

    async def advance(self, changes: Changes) -> bool:
        """Read the next answer; False at the end, which may be a failure."""
        grpc = need("grpc")
        try:
            answer = await asyncio.wait_for(self.call.read(), _READ_TIMEOUT)
        except grpc.RpcError as error:
            changes.add(self.name, *told(error))
            return False
        except asyncio.TimeoutError:
            changes.add(self.name, ERROR, f"no answer within {_READ_TIMEOUT:.0f} s")
            self.call.cancel()
            return False
        self.answer = answer
        return answer is not need("grpc.aio").EOF


async def _open(link: Link, request: Any, changes: Changes) -> _Head | None:
    if not await link.ready():
        changes.add(link.peer.name, UNAVAILABLE)
        return None
    head = _Head(link.peer.name, link.call("GetFlows", stream=True)(request))
    if await head.advance(changes):
        changes.add(head.name, CONNECTED)
        return head
    grpc = need("grpc")
    with contextlib.suppress(grpc.RpcError):
        if await head.call.code() is grpc.StatusCode.OK:
            changes.add(head.name, CONNECTED)
    return None


async def _ordered(heads: list[_Head], changes: Changes) -> AsyncGenerator[Any, None]:
    heap = [(_key(head.answer), place) for place, head in enumerate(heads)]
    heapq.heapify(heap)
    try:
        while heap:
            _stamp, place = heap[0]
            head = heads[place]
            yield head.answer
            if await head.advance(changes):
                heapq.heapreplace(heap, (_key(head.answer), place))
            else:
                heapq.heappop(heap)
    finally:
        for head in heads:
            head.call.cancel()


def _key(answer: Any) -> int:
    return time_of(answer.time)


# --- answers that go on ---


class Following:
    """One client's view of the whole fleet, live."""

    def __init__(self, links: Links, request: Any, relay: str) -> None:
        self._links = links
        self._request = request
        self._changes = Changes(relay)
        self._queue: asyncio.Queue[Any] = asyncio.Queue(_WAITING)
        self._tasks: dict[str, tuple[Link, asyncio.Task[None]]] = {}
        self._began = False

    async def answers(self) -> AsyncGenerator[Any, None]:
        """For ever; closing the iterator ends every stream."""
        window = _Window()
        looked = 0.0
        try:
            while True:
                now = time.monotonic()
                if now - looked >= _PEER_UPDATE:
                    looked = now
                    await self._supervise()
                for answer in self._changes.take():
                    yield answer
                with contextlib.suppress(asyncio.TimeoutError):
                    window.add(await asyncio.wait_for(self._queue.get(), window.patience))
                for answer in window.due():
                    yield answer
        finally:
            for _link, task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*(task for _link, task in self._tasks.values()), return_exceptions=True)

    async def _supervise(self) -> None:
        """A task for every member; who left the fleet is told and let go."""
        links = self._links.by_name
        for name, (link, task) in list(self._tasks.items()):
            if links.get(name) is not link:
                task.cancel()
                del self._tasks[name]
                if name not in links:
                    self._changes.add(name, GONE)
        for name, link in links.items():
            if name not in self._tasks:
                late = self._began
                self._tasks[name] = (link, asyncio.ensure_future(self._read(link, late)))
        self._began = True

    async def _read(self, link: Link, late: bool) -> None:
        """One member's flows into the queue. After a break it goes on where it was, if the member can."""
        request = message("observer.GetFlowsRequest")()
        request.CopyFrom(self._request)
        if late:
            request.number = 0  # what was before it joined was not asked for
        wait, state = _BACKOFF[0], 0
        while True:
            found, words, worked = await self._once(link, request)
            if worked:
                wait, state = _BACKOFF[0], CONNECTED
            if found != state:
                self._changes.add(link.peer.name, found, words)
                state = found
            await asyncio.sleep(wait)
            wait = min(wait * 2, _BACKOFF[1])

    async def _once(self, link: Link, request: Any) -> tuple[int, str, bool]:
        """One stream until it breaks: state and words of the break, and whether it had worked before."""
        if not await link.ready():
            return UNAVAILABLE, "", False
        grpc = need("grpc")
        call = link.call("GetFlows", stream=True)(request)
        worked = False
        try:
            await asyncio.wait_for(call.initial_metadata(), _READ_TIMEOUT)
            worked = not call.done()
            if worked:
                self._changes.add(link.peer.name, CONNECTED)
            async for answer in call:
                await self._queue.put(answer)
                request.number = 0
                set_time(request.since, _key(answer) + 1)
        except asyncio.TimeoutError:
            return ERROR, "no answer", worked
        except grpc.RpcError as error:
            return (*told(error), worked)
        finally:
            call.cancel()
        return ERROR, "the member ended the stream", worked


class _Window:
    """Answers that wait a second for earlier ones, a hundred at most."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, float, Any]] = []
        self._count = 0

    @property
    def patience(self) -> float:
        """Seconds until somebody should look again."""
        return _TICK if self._heap else SORT_WINDOW

    def add(self, answer: Any) -> None:
        self._count += 1  # equal times keep the order in which they came
        heapq.heappush(self._heap, (_key(answer), self._count, time.monotonic(), answer))

    def due(self) -> list[Any]:
        """What has waited long enough, or is too much, in order."""
        limit, found = time.monotonic() - SORT_WINDOW, []
        while self._heap and (len(self._heap) > SORT_BUFFER or self._heap[0][2] <= limit):
            found.append(heapq.heappop(self._heap)[3])
        return found
