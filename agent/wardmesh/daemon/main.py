# SPDX-License-Identifier: Apache-2.0
"""The daemon's life: lock, first pass, API, events, until SIGTERM. What it built stays in the kernel."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from wardmesh.api.server import serve
from wardmesh.daemon.engine import LOG, Engine
from wardmesh.daemon.events import Events
from wardmesh.daemon.view import status
from wardmesh.host.lock import AgentLock
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError

PERIOD = 3.0
EAGER = 0.5  # while a tunnel is not up yet
DEBOUNCE = 0.1


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": round(record.created, 3),
                "level": record.levelname.lower(),
                "message": record.getMessage(),
            }
        )


def setup_log(form: str, level: str) -> None:
    """Lines to stderr, where the journal takes them."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _Json() if form == "json" else logging.Formatter("level=%(levelname)s msg=%(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("pyroute2").setLevel(logging.ERROR)


def notify(text: str) -> None:
    """sd_notify(3), by hand."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.connect("\0" + address[1:] if address.startswith("@") else address)
            link.send(text.encode())


def _routes(engine: Engine) -> Mapping[tuple[str, str], Any]:
    routes: dict[tuple[str, str], Any] = {
        ("GET", "/v1/status"): lambda: status(engine),
        ("POST", "/v1/reload"): lambda: {"changes": engine.reload()},
    }
    for mode in ("prefer", "strict"):
        for suffix, everybody in (("", False), ("/all", True)):
            path = f"/v1/mode/{mode}{suffix}"
            routes["GET", path] = lambda m=mode, e=everybody: engine.set_mode(m, everybody=e, dry_run=True)
            routes["POST", path] = lambda m=mode, e=everybody: engine.set_mode(m, everybody=e)
    return routes


def run(paths: Paths) -> int:
    """Run until SIGTERM or SIGINT."""
    from pyroute2 import IPRoute

    lock = AgentLock(paths.lock)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_args: stop.set())
    started = time.monotonic()
    engine = Engine(paths, IPRoute())
    setup_log(engine.inputs.config.log_format, engine.inputs.config.log_level)
    for problem in engine.problems:
        LOG.error("%s", problem)
    for path in engine.inputs.config.inactive:
        LOG.warning("%s: not active in this version", path)
    events = Events()
    _pass(engine, events)
    server = serve(paths.socket, _routes(engine))
    LOG.info("wireguard agent ready after %.2f s, mode %s", time.monotonic() - started, engine.state.mode)
    notify("READY=1")
    while not stop.is_set():
        took = _pass(engine, events)
        wait = EAGER if engine.settled and _eager(engine) else max(PERIOD, 20 * took)
        if events.changed.wait(timeout=wait):
            stop.wait(DEBOUNCE)
    notify("STOPPING=1")
    server.shutdown()
    paths.socket.unlink(missing_ok=True)
    lock.release()
    return 0


def _eager(engine: Engine) -> bool:
    try:
        missing = len(engine.unverified())
    except WardmeshError:
        return False
    return missing > 0


def _pass(engine: Engine, events: Events) -> float:
    """One pass; an error is logged and tried again, what is in the kernel stays."""
    start = time.monotonic()
    events.changed.clear()
    if events.paths.is_set():
        events.paths.clear()
        engine.paths_stale = True
    try:
        engine.reconcile()
    except WardmeshError as error:
        LOG.error("%s", error)
    except Exception as error:  # noqa: BLE001 - the edge: a daemon that dies repairs nothing
        LOG.exception("pass failed: %s", error)
        engine.paths_stale = True
    return time.monotonic() - start
