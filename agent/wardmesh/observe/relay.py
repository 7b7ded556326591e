# SPDX-License-Identifier: Apache-2.0
"""The relay: observer.Observer for the whole fleet, on one address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from wardmesh import __version__
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.credentials import Reloading
from wardmesh.observe.getflows import Query
from wardmesh.observe.links import ANSWER_TIMEOUT, CONNECTED, ERROR, UNAVAILABLE, Link, Links
from wardmesh.observe.listen import Binding, Gate
from wardmesh.observe.merge import Following, merged, told
from wardmesh.observe.needs import need
from wardmesh.observe.proto import message
from wardmesh.observe.rpc import OPTIONS, Refused, check_admission, method_handler
from wardmesh.observe.server import HEALTH, HEALTHY, OBSERVER, SERVICE_UNKNOWN, SERVING
from wardmesh.observe.settings import Tls

MAX_STREAMS = 64  # each of them is a stream to every member
MAX_CALLS = 256
_NAMES_TOLD = 50  # unavailable members that a status lists
_WATCH = 1.0


class RelayService:
    """What Hubble's clients ask a relay."""

    def __init__(
        self, links: Links, gate: Callable[[], Gate], name: str = "relay", streams: int = MAX_STREAMS
    ) -> None:
        self._links = links
        self._gate = gate
        self._name = name
        self._slots = AsyncSlots(streams)
        self._started = time.monotonic_ns()

    def handlers(self) -> list[Any]:
        """For grpc.aio."""
        unary = {
            "ServerStatus": self.server_status,
            "GetNodes": self.get_nodes,
            "GetNamespaces": self.get_namespaces,
        }
        observer = {name: self._unary(call) for name, call in unary.items()}
        observer["GetFlows"] = self._stream(self.get_flows)
        health = {"Check": self._unary(self.check), "Watch": self._stream(self.watch)}
        return [_service(OBSERVER, observer), _service(HEALTH, health)]

    # --- the edge ---

    async def _admit(self, context: Any) -> None:
        check_admission(self._gate(), context)
        await context.send_initial_metadata((("hubble-relay-version", __version__),))

    def _unary(self, call: Callable[[Any], Any]) -> Any:
        async def wrapped(request: Any, context: Any) -> Any:
            try:
                await self._admit(context)
                return await call(request)
            except (Refused, WardmeshError) as error:
                await _abort(context, error)

        return wrapped

    def _stream(self, call: Callable[[Any], AsyncGenerator[Any, None]]) -> Any:
        async def wrapped(request: Any, context: Any) -> AsyncGenerator[Any, None]:
            answers = None
            try:
                await self._admit(context)
                with self._slots:
                    answers = call(request)
                    async for answer in answers:
                        yield answer
            except (Refused, WardmeshError) as error:
                await _abort(context, error)
            finally:
                if answers is not None:
                    await answers.aclose()

        return wrapped

    # --- observer.Observer ---

    async def get_flows(self, request: Any) -> AsyncGenerator[Any, None]:
        """Every member's flows, by time."""
        Query(request)  # what is wrong with it is told once, not by every member
        if request.follow:
            answers = Following(self._links, request, self._name).answers()
        else:
            answers = merged(self._links, request, self._name)
        try:
            async for answer in answers:
                yield answer
        finally:
            await answers.aclose()

    async def server_status(self, _request: Any) -> Any:
        """The sum of the members, and who could not be asked."""
        found = await self._ask_all("ServerStatus")
        made = message("observer.ServerStatusResponse")()
        missing = []
        for link, state, answer, _words in found:
            if state != CONNECTED:
                missing.append(link.peer.name)
                continue
            made.num_flows += answer.num_flows
            made.max_flows += answer.max_flows
            made.seen_flows += answer.seen_flows
            made.flows_rate += answer.flows_rate
        made.uptime_ns = time.monotonic_ns() - self._started
        made.version = f"wardmesh {__version__}"
        made.num_connected_nodes.value = len(found) - len(missing)
        made.num_unavailable_nodes.value = len(missing)
        made.unavailable_nodes.extend(missing[:_NAMES_TOLD])
        return made

    async def get_nodes(self, _request: Any) -> Any:
        """Every member, with its state."""
        made = message("observer.GetNodesResponse")()
        for link, state, answer, _words in await self._ask_all("ServerStatus"):
            node = made.nodes.add()
            node.name, node.address, node.state = link.peer.name, link.peer.address, state
            node.tls.enabled = self._links.encrypted
            if self._links.encrypted:
                node.tls.server_name = link.peer.server_name
            if answer is not None:
                node.version = answer.version
                for name in ("uptime_ns", "num_flows", "max_flows", "seen_flows"):
                    setattr(node, name, getattr(answer, name))
        return made

    async def get_namespaces(self, _request: Any) -> Any:
        """Those that any member knows, each once."""
        made = message("observer.GetNamespacesResponse")()
        found = {
            (item.cluster, item.namespace)
            for _link, _state, answer, _words in await self._ask_all("GetNamespaces")
            if answer is not None
            for item in answer.namespaces
        }
        for cluster, namespace in sorted(found):
            made.namespaces.add(cluster=cluster, namespace=namespace)
        return made

    async def _ask_all(self, method: str) -> list[tuple[Link, int, Any, str]]:
        return list(await asyncio.gather(*(self._ask(link, method) for link in self._links.by_name.values())))

    async def _ask(self, link: Link, method: str) -> tuple[Link, int, Any, str]:
        if not await link.ready():
            return link, UNAVAILABLE, None, ""
        try:
            asked = message(f"observer.{method}Request")()
            return link, CONNECTED, await link.call(method)(asked, timeout=ANSWER_TIMEOUT), ""
        except need("grpc").RpcError as error:
            state, words = told(error)
            return link, state or ERROR, None, words

    # --- grpc.health.v1.Health ---

    async def check(self, request: Any) -> Any:
        """SERVING, or NOT_FOUND."""
        if request.service not in HEALTHY:
            raise Refused("NOT_FOUND", f"no service {request.service!r}")
        return _health(SERVING)

    async def watch(self, request: Any) -> AsyncGenerator[Any, None]:
        """The same, and the stream stays open."""
        yield _health(SERVING if request.service in HEALTHY else SERVICE_UNKNOWN)
        while True:
            await asyncio.sleep(_WATCH)


class AsyncSlots:
    """So many streams at once, in one thread."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._taken = 0

    def __enter__(self) -> None:
        if self._taken >= self.count:
            raise Refused("RESOURCE_EXHAUSTED", f"{self.count} streams are open already; try again later")
        self._taken += 1

    def __exit__(self, *_args: object) -> None:
        self._taken -= 1


def _service(name: str, methods: dict[str, Any]) -> Any:
    made = {method: method_handler(name, method, call) for method, call in methods.items()}
    return need("grpc").method_handlers_generic_handler(name, made)


def _health(status: int) -> Any:
    return message("grpc.health.v1.HealthCheckResponse")(status=status)


async def _abort(context: Any, error: Exception) -> None:
    name = error.status if isinstance(error, Refused) else "INVALID_ARGUMENT"
    await context.abort(getattr(need("grpc").StatusCode, name), str(error))


def start_server(handlers: Iterable[Any], bindings: Iterable[Binding], tls: Tls | None) -> Any:
    """A server of grpc.aio, bound; it begins with its start()."""
    server = need("grpc.aio").server(options=OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
    server.add_generic_rpc_handlers(tuple(handlers))
    credentials = Reloading(tls).credentials() if tls else None
    for binding in bindings:
        try:
            if binding.tls:
                port = server.add_secure_port(binding.target(), credentials)
            else:
                port = server.add_insecure_port(binding.target())
        except RuntimeError:
            port = 0
        if not port:
            raise WardmeshError(
                "cannot listen",
                where=binding.target(),
                why="the address is in use, or not this host's",
                remedy="ss -ltnp shows who listens",
            )
    return server
