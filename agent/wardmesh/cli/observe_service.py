# SPDX-License-Identifier: Apache-2.0
"""`wardmesh observer` and `wardmesh relay`: the processes of their units."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from wardmesh.cli.local import EX_CONFIG
from wardmesh.cli.metrics import serve
from wardmesh.cli.output import paths_of
from wardmesh.daemon.flow_source import KernelFlows
from wardmesh.daemon.log import setup_log
from wardmesh.daemon.notify import Notifier
from wardmesh.daemon.own_keys import noted_public_keys, own_member
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap
from wardmesh.observe.flow import Events, LostSource
from wardmesh.observe.metrics_flows import FlowCounters
from wardmesh.observe.replay import Replay
from wardmesh.observe.service import Observer, read_config
from wardmesh.observe.settings import read_settings

LOG = logging.getLogger("wardmesh")


def observer(args: argparse.Namespace) -> int:
    """Serve this host's flows and metrics until SIGTERM."""
    notifier = Notifier()
    paths = paths_of(args)
    flows = FlowCounters()
    try:
        config = _log(paths)
        running = _observer(paths, config, args.replay, flows)
        metrics = serve(paths, flows)
    except WardmeshError as error:
        print(f"wardmesh: {error}", file=sys.stderr)
        return EX_CONFIG
    _catch(running.stop)
    signal.signal(signal.SIGHUP, lambda *_args: running.forget())
    notifier.send("READY=1")
    try:
        running.run()
        notifier.send("STOPPING=1")
    finally:
        if metrics is not None:
            metrics.close()
        running.close()
    return 0


class _Idle:
    """Stands for the observer where only metrics are wanted."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def run(self) -> None:
        """Until stop is called."""
        while not self._stop.wait(1.0):
            pass

    def stop(self) -> None:
        """run returns."""
        self._stop.set()

    def forget(self) -> None:
        """Metrics read the files of /etc whenever they are asked."""

    def close(self) -> None:
        """Nothing is open."""


def _observer(paths: Paths, config: Config, replay: Path | None, flows: FlowCounters) -> Observer | _Idle:
    if not read_settings(config).enabled and not replay:
        if config.metrics.enabled:
            return _Idle()
        raise WardmeshError(
            "observing is turned off",
            where=f"{paths.config}: hubble.enabled, prometheus.enabled",
            remedy="set one of them to true",
        )

    def told(looks: Sequence[Events], lost: int) -> None:
        for events in looks:
            flows.add(events.tally())
        if lost:
            flows.lose(LostSource.KERNEL, lost)

    source = Replay(replay) if replay else KernelFlows(paths, own_name(paths))
    return Observer(paths, source, own_name(paths), told)


def relay(args: argparse.Namespace) -> int:
    """Serve the fleet's flows until SIGTERM."""
    from wardmesh.observe.relay_service import run_relay

    notifier = Notifier()
    paths = paths_of(args)
    try:
        _log(paths)
        return run_relay(paths, args.listen, args.peers, own_name(paths), lambda: notifier.send("READY=1"))
    except WardmeshError as error:
        print(f"wardmesh: {error}", file=sys.stderr)
        return EX_CONFIG


def _log(paths: Paths) -> Config:
    config = read_config(paths)
    setup_log(config.log_format, config.log_level)
    return config


def _catch(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_args: stop())


def own_name(paths: Paths) -> Callable[[FleetMap], str]:
    """Which member of a map this host is: the one with its public key."""

    def find(fleet: FleetMap) -> str:
        member = own_member(fleet, noted_public_keys(paths))
        return member.name if member else ""

    return find
