# SPDX-License-Identifier: Apache-2.0
"""Keeps the process that follows the store, and tells the engine when members changed.

Without a store in the configuration there is no process, and nothing else of this. When the process ends, it
is started again after growing pauses; what it had learned stays in force meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import wardmesh
from wardmesh.daemon.inputs import Inputs
from wardmesh.daemon.log import LOG
from wardmesh.daemon.own_keys import changes_keys
from wardmesh.discovery.process import Order
from wardmesh.discovery.settings import configured
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard.keys import former_keys

LOOK = 0.5  # seconds between two looks at the configuration in force
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
_GRACE = 2.0  # seconds that the process has to end by itself
_CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from wardmesh.discovery.process import main; main()"
_MOST_NAMED = 10
_KEYS = ("etcd.", "consul.", "discovery.", "clustermesh.")
_FORMER = 24  # former keys in this host's record, beside the one that the rolled-out map has
Submit = Callable[[Callable[[], Any]], "Future[Any]"]


def order_of(inputs: Inputs, paths: Paths) -> Order | None:
    """What the process has to do under these inputs; None: none is needed."""
    values = inputs.config.values
    followed = configured(values) or any(remote.store for remote in inputs.remotes)
    if not followed or inputs.rolled_out is None or inputs.mesh is None:
        return None
    now = inputs.mesh.own
    declared = inputs.rolled_out.by_name(now.name)
    if declared is None:
        return None
    own = replace(declared, key=now.key, next_key=now.next_key)
    former: tuple[str, ...] = ()
    if changes_keys(inputs.config):
        known = [key for key in former_keys(paths) if key not in (declared.key, now.key)]
        former = (*known[-_FORMER:], *([declared.key] if declared.key != now.key else []))
    wanted = {name: value for name, value in values.items() if name.startswith(_KEYS)}
    return Order(wanted, own, inputs.rolled_out.cluster, str(paths.root), former)


class Discovering:
    """state: the last that the process said of the own store; {} while there is none. clusters: the same of
    the others' stores, by name. Read them from any thread."""

    def __init__(
        self,
        paths: Paths,
        inputs: Callable[[], Inputs],
        rediscover: Callable[[], Any],
        submit: Submit,
    ) -> None:
        self._paths = paths
        self._inputs = inputs
        self._rediscover = rediscover
        self._submit = submit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="discovery", daemon=True)
        self._process: subprocess.Popen[str] | None = None
        self._lines: Queue[str] = Queue(1024)
        self._order: Order | None = None
        self._not_before = 0.0
        self._pause = FIRST_PAUSE
        self._pending: Future[Any] | None = None
        self._again = False
        self._refused: tuple[Any, ...] = ()
        self._noted: dict[str, str] = {}
        self.state: dict[str, Any] = {}
        self.clusters: dict[str, dict[str, Any]] = {}

    def start(self) -> None:
        """Begin to look after the process."""
        self._thread.start()

    def close(self) -> None:
        """End the process."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_GRACE + 1.0)
        self._end()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._step()
            except Exception as error:  # noqa: BLE001  the edge: the thread must not die of one bad line
                LOG.error("discovery: %s: %s", type(error).__name__, error)
                self._stop.wait(LOOK)

    def _step(self) -> None:
        inputs = self._inputs()
        self._keep(order_of(inputs, self._paths))
        self._tell_of_refused(inputs)
        try:
            line = self._lines.get(timeout=LOOK)
        except Empty:
            line = ""
        if line:
            self._heard(json.loads(line))
        if self._again and (self._pending is None or self._pending.done()):
            self._again = False
            self._pending = self._submit(self._take)

    def _heard(self, said: dict[str, Any]) -> None:
        self._again = bool(said.pop("changed")) or self._again
        if said["connected"]:
            self._pause = FIRST_PAUSE
        cluster = said.get("cluster", "")
        if cluster:
            self.clusters = {**self.clusters, cluster: said}
        else:
            self.state = said
        note = said["problem"] or f"connected to {said['server']}"
        note += f"; not registered: {said['registration']}" if said.get("registration") else ""
        note += f"; {said['skipped']} records skipped" if said["skipped"] else ""
        if note != self._noted.get(cluster):
            self._noted[cluster] = note
            named = "; ".join(f"{row['key']}: {row['why']}" for row in said["skippedRecords"][:_MOST_NAMED])
            of = f"cluster {cluster}: " if cluster else ""
            LOG.info("discovery: %s%s%s", of, note, f": {named}" if named else "")

    def _take(self) -> None:
        try:
            self._rediscover()
        except WardmeshError as error:
            LOG.error("discovery: %s", error)

    def _tell_of_refused(self, inputs: Inputs) -> None:
        refused = (*inputs.refused, *(item for row in inputs.joined for item in row.told()))
        if refused == self._refused:
            return
        for item in [item for item in refused if item not in self._refused][:_MOST_NAMED]:
            LOG.warning("discovery: record of %s refused: %s", item.name, item.why)
        self._refused = refused

    # --- the process ---

    def _keep(self, order: Order | None) -> None:
        if self._process is not None and (order != self._order or self._process.poll() is not None):
            self._end()
        if self._process is None and order is not None and time.monotonic() >= self._not_before:
            self._begin(order)
        if order is None:
            self.state, self.clusters = {}, {}

    def _begin(self, order: Order) -> None:
        package = str(Path(wardmesh.__file__).parents[1])
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _CHILD, package],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._order, self.clusters = order, {}
        self._again = True  # a file that another process left counts as well
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        if self._process.stdin is not None:
            self._process.stdin.write(order.line())
            self._process.stdin.flush()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self._lines.put(line)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is not None:
            LOG.error("discovery: the process ended with status %s; it is started again", process.returncode)
            self.state = {
                **self.state,
                "connected": False,
                "problem": "its process ended; it is started again",
            }
            self.clusters = {name: {**said, "connected": False} for name, said in self.clusters.items()}
        if process.stdin is not None:
            try:
                process.stdin.close()
            except OSError:
                pass  # it is gone
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
