# SPDX-License-Identifier: Apache-2.0
"""The daemon's life: lock, API, first pass, then the worker until SIGTERM. What it built stays."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import Any, TypeVar

from wardmesh import __version__
from wardmesh.api.server import Body, Routes, Server
from wardmesh.daemon.cleanup import remove_everything
from wardmesh.daemon.digest import Digester, InForce
from wardmesh.daemon.discovering import Discovering
from wardmesh.daemon.engine import Engine
from wardmesh.daemon.log import LOG, setup_log
from wardmesh.daemon.machine import HostMachine
from wardmesh.daemon.modes import set_mode
from wardmesh.daemon.notify import Notifier
from wardmesh.daemon.rotate import activate, report
from wardmesh.daemon.self_rotation import SelfRotation
from wardmesh.daemon.showing import Showing
from wardmesh.daemon.state import PREFER, STRICT
from wardmesh.daemon.trial import Trial
from wardmesh.daemon.view import ENCRYPTION_FIELDS, View, agent_digest
from wardmesh.daemon.worker import Worker
from wardmesh.discovery.settings import configured
from wardmesh.health.drift import Report, document, judge
from wardmesh.host.lock import AgentLock
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard.events import Monitor
from wardmesh.wireguard.keys import load_or_create, publish

PATIENCE = 2.0  # seconds that a reader waits for fresh figures; while the worker is busy, the last ones do
LIMIT = 300.0  # seconds that a change may take: a compiler run on a slow machine is among them

T = TypeVar("T")


class Api:
    """The requests, handed to the worker."""

    def __init__(self, paths: Paths, engine: Engine, worker: Worker, rotation: SelfRotation) -> None:
        self._paths = paths
        self._engine = engine
        self._worker = worker
        self._rotation = rotation
        self._view = View(engine)
        self._last = self._view.starting()
        self._trial = Trial(engine, worker.submit)
        self._digester, self._looking = Digester(paths), threading.Lock()
        self.discovery: Callable[[], dict[str, Any]] = dict  # what the store's follower says
        self.clusters: Callable[[], dict[str, dict[str, Any]]] = dict  # those of other clusters' stores

    def started(self, seconds: float) -> None:
        """The first pass is done, so many seconds after the start."""
        self._view.bootstrap_seconds = round(seconds, 3)

    def routes(self) -> Routes:
        """By method and path."""
        return {
            ("GET", "/v1/status"): self.status,
            ("GET", "/v1/encryption"): self.encryption,
            ("GET", "/v1/key"): self.key,
            ("GET", "/v1/digest"): lambda _body: document(self.digest()),
            ("POST", "/v1/reload"): self.reload,
            ("POST", "/v1/mode"): self.mode,
            ("POST", "/v1/rotate"): self.rotate,
            ("GET", "/v1/endpoints"): lambda _body: self._ask(lambda: {"endpoints": self._view.endpoints()}),
            ("GET", "/v1/policy"): lambda _body: self._ask(self._trial.state),
            ("POST", "/v1/policy/preview"): lambda body: self._ask(lambda: self._trial.preview(_files(body))),
            ("POST", "/v1/policy/try"): self.policy_try,
            ("POST", "/v1/policy/confirm"): lambda _body: self._ask(self._trial.confirm),
        }

    def status(self, _body: Body) -> dict[str, Any]:
        """The whole state."""
        try:
            job = self._worker.submit(lambda: self._view.status(self.discovery(), self.clusters()))
            self._last = job.result(PATIENCE)
        except FutureTimeout:
            return self._last
        return self._last

    def encryption(self, body: Body) -> dict[str, Any]:
        """The state of encryption."""
        document = self.status(body)
        return {name: document[name] for name in ENCRYPTION_FIELDS}

    def key(self, _body: Body) -> dict[str, Any]:
        """The public key."""
        known = load_or_create(self._paths, dry_run=True)
        return {"publicKey": known.public_key, "generation": known.generation}

    def digest(self) -> Report:
        """What the kernel holds now, read beside the worker, which never waits for it. Where it differs, it
        is read again after the pass that may be under way."""
        report = self._look()
        if judge(report, {}).drifted:
            self._ask(lambda: None)
            report = self._look()
        return report

    def _look(self) -> Report:
        with self._looking:
            return self._digest()

    def _digest(self) -> Report:
        inputs = self._engine.inputs
        digests = {**inputs.digests(), "agent": self._view.agent}
        force = InForce(digests, self._generation(), running=True)
        return self._digester.report(force, agent_digest())

    def reload(self, _body: Body) -> dict[str, Any]:
        """Take in the files of /etc; answers when they are in force."""
        changes = self._ask(self._engine.reload)
        return {"changes": changes, "generation": self._generation()}

    def mode(self, body: Body) -> dict[str, Any]:
        """{"mode": prefer|strict, "all": seal everybody, "dryRun": change nothing}."""
        mode = body.get("mode")
        if mode not in (PREFER, STRICT):
            raise WardmeshError("no such mode", where=f"mode: {mode!r}", remedy="prefer or strict")
        everybody, dry_run = bool(body.get("all")), bool(body.get("dryRun"))
        return self._ask(lambda: set_mode(self._engine, mode, everybody=everybody, dry_run=dry_run))

    def rotate(self, body: Body) -> dict[str, Any]:
        """{"phase": "activate" or "alone", "dryRun": change nothing}."""
        phase, dry_run = body.get("phase"), bool(body.get("dryRun"))
        if phase not in ("activate", "alone"):
            raise WardmeshError("no such phase", where=f"phase: {phase!r}", remedy="activate or alone")
        if phase == "alone":
            began = self._ask(lambda: self._rotation.begin(dry_run=dry_run))
            return {"changed": began, **self._ask(lambda: report(self._engine))}
        return self._ask(lambda: activate(self._engine, dry_run=dry_run))

    def policy_try(self, body: Body) -> dict[str, Any]:
        """{"files": {name: text}, "confirmWithin": seconds}: the whole set, in force until confirmed."""
        seconds = body.get("confirmWithin")
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
            raise WardmeshError("how long may the trial last?", where="confirmWithin", remedy="give seconds")
        return self._ask(lambda: self._trial.begin(_files(body), float(seconds)))

    def _generation(self) -> int:
        fleet = self._engine.inputs.fleet
        return fleet.generation if fleet else 0

    def _ask(self, job: Callable[[], T]) -> T:
        future: Future[T] = self._worker.submit(job)
        try:
            return future.result(LIMIT)
        except FutureTimeout as error:
            raise WardmeshError(
                "the agent is busy",
                why=f"no answer within {LIMIT:.0f} s",
                remedy="journalctl -u wardmesh",
            ) from error


def _files(body: Body) -> dict[str, str]:
    files = body.get("files")
    if not isinstance(files, dict):
        raise WardmeshError("which policies?", where="files", remedy="give an object of names and texts")
    return {str(name): str(text) for name, text in files.items()}


def run(paths: Paths) -> int:
    """Run until SIGTERM or SIGINT; SIGHUP takes in the files of /etc anew."""
    notifier = Notifier()
    setup_log("text", "info")
    lock = AgentLock(paths.lock)
    started = time.monotonic()
    engine = Engine(paths, HostMachine(paths, remove_everything))
    config = engine.inputs.config
    setup_log(config.log_format, config.log_level)
    LOG.info("wardmesh %s starts", __version__)
    if engine.refused is not None:
        LOG.error("%s", engine.refused)
    for key in config.inactive:
        LOG.warning("%s: not active in this version", key)
    with suppress(WardmeshError):  # a damaged key is a problem of its own, told by its stage
        publish(paths)
    monitor = Monitor()
    rotation = SelfRotation(paths, engine)
    worker = Worker(engine, monitor, rotation.step)
    api = Api(paths, engine, worker, rotation)
    server = Server(paths.socket, api.routes())
    discovering = Discovering(paths, lambda: engine.inputs, engine.rediscover, worker.submit)
    api.discovery = rotation.store = lambda: discovering.state
    api.clusters = lambda: discovering.clusters
    showing = Showing(paths, lambda: configured(engine.inputs.config.values), api.digest)
    try:
        _catch_signals(engine, worker)
        engine.first_pass()
        state = engine.effective()
        api.started(time.monotonic() - started)
        LOG.info("wireguard: ready after %.2f s, mode %s", time.monotonic() - started, state.mode)
        notifier.send("READY=1")
        discovering.start()
        showing.start()
        worker.run()
        notifier.send("STOPPING=1")
        LOG.info("stops; tunnel and guard stay in force")
    finally:
        showing.close()
        discovering.close()
        server.close()
        monitor.close()
        lock.release()
    return 0


def _catch_signals(engine: Engine, worker: Worker) -> None:
    def reload() -> None:
        try:
            engine.reload()
        except WardmeshError as error:
            LOG.error("%s", error)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_args: worker.stop())
    signal.signal(signal.SIGHUP, lambda *_args: worker.submit(reload) and None)
