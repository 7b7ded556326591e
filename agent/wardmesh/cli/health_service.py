# SPDX-License-Identifier: Apache-2.0
"""`wardmesh health`: the process of wardmesh-health.service: checks the peers, answers their checks."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from wardmesh.api.server import Body, Routes, Server
from wardmesh.cli.digest_teller import Teller
from wardmesh.cli.local import EX_CONFIG
from wardmesh.cli.verdicts import Verdicts
from wardmesh.daemon.figures import Delays
from wardmesh.daemon.log import LOG, setup_log
from wardmesh.daemon.notify import Notifier
from wardmesh.daemon.own_keys import noted_public_keys, own_member
from wardmesh.health.loop import Loop
from wardmesh.health.prober import Prober
from wardmesh.health.record import Peer, document, explain, summary
from wardmesh.health.responder import Responder
from wardmesh.health.route import way_to
from wardmesh.health.web import PORT
from wardmesh.host.files import read_bytes, stamp
from wardmesh.host.netlink import Netlink
from wardmesh.host.paths import Paths
from wardmesh.model.config import HealthConfig, parse_config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap
from wardmesh.model.map_parser import parse_fleet_map
from wardmesh.wireguard.mark import OWN_PREFIX

LOOK = 2.0  # seconds between two looks at whether the map has changed
ASK = 5.0  # seconds that a reader waits for the loop
# Seconds; a switch takes tenths of a millisecond, the far side of the earth three tenths of a second.
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Health:
    """Prober and responder over the installed map, which is read again when it changes."""

    def __init__(self, paths: Paths, config: HealthConfig, *, port: int = PORT) -> None:
        self._paths, self._config = paths, config
        self.loop = Loop()
        self._netlink = Netlink()
        self._verdicts, self._explaining = Verdicts(paths), threading.Lock()
        self._delays: dict[tuple[bool, str], Delays] = {}
        self._prober = Prober(self.loop, self._device, self._note, config.interval, time.time(), port)
        teller = Teller(self.loop, paths)
        self._responder = Responder(
            self.loop, self._admits, port, by_tunnel=self._by_tunnel, tell=teller.tell
        )
        self._members: frozenset[str] = frozenset()
        self._own = ""
        self._seen: object = None
        self._problem = ""

    def _device(self, address: str) -> str:
        try:
            return way_to(self._netlink, address).device
        except OSError:
            return ""

    def _by_tunnel(self, address: str) -> bool:
        return self._device(address).startswith(OWN_PREFIX)

    def _note(self, primary: bool, protocol: str, seconds: float) -> None:
        key = (primary, protocol)
        if key not in self._delays:
            self._delays[key] = Delays(self.loop.clock, BUCKETS)
        self._delays[key].add(seconds)

    def _admits(self, address: str) -> bool:
        return address in self._members

    def start(self) -> None:
        """Look at the map now, and every few seconds from then on."""
        self._look()

    def _look(self) -> None:
        self.loop.at(self.loop.clock() + LOOK, self._look)
        seen = (stamp(self._paths.fleet_in_force), noted_public_keys(self._paths))
        if seen == self._seen:
            return
        try:
            data = read_bytes(self._paths.fleet_in_force)
            fleet = parse_fleet_map(data, str(self._paths.fleet_in_force)) if data is not None else None
        except WardmeshError as error:  # whom we know we go on checking
            self._problem = str(error)
            return
        self._seen, self._problem = seen, ""
        self._take(fleet, seen[1])

    def _take(self, fleet: FleetMap | None, keys: tuple[str, ...]) -> None:
        own = own_member(fleet, keys) if fleet is not None else None
        if fleet is None or own is None:
            self._own, self._members = "", frozenset()
            self._problem = "this host is in no fleet map"
            self._prober.set_peers("", ())
            self._responder.listen(())
            return
        self._own = own.name
        self._members = frozenset(str(address) for member in fleet.members for address in member.addresses)
        peers = [
            Peer(member.name, tuple(map(str, member.addresses)))
            for member in fleet.members
            if member.name != own.name
        ]
        self._prober.set_peers(own.name, peers)
        self._responder.listen(map(str, own.addresses))

    def routes(self) -> Routes:
        """Of the socket: GET /v1/health."""

        def answer(_body: Body) -> dict[str, Any]:
            found = self.loop.ask(self.state).result(ASK)
            with self._explaining:  # here, for a large set of policies takes a while to read
                explain(found["peers"], self._verdicts.forbids)
            return found

        return {("GET", "/v1/health"): answer}

    def state(self) -> dict[str, Any]:
        """What `status --all-health` and the metrics show; see docs/how-to/health.md."""
        plan, now = self._prober.schedule.plan, self.loop.clock()
        rows = document(self._prober.records.values(), now)
        problems = [*self._prober.problems, *([self._problem] if self._problem else [])]
        problems += [f"{address}: {why}" for address, why in sorted(self._responder.problems.items())]
        return {
            "self": self._own,
            "interval": self._config.interval,
            "cycle": max(plan.cycle, self._config.interval),
            "partners": plan.partners,
            "time": round(time.time(), 3),
            "counts": summary(rows),
            "peers": rows,
            "answered": self._responder.answered,
            "refused": self._responder.refused,
            "latency": [
                {"primary": primary, "protocol": protocol, **delays.as_dict()}
                for (primary, protocol), delays in sorted(self._delays.items())
            ],
            "problems": problems,
        }

    def close(self) -> None:
        """Give everything back."""
        self._prober.close()
        self._responder.close()
        self._netlink.close()
        self.loop.close()


def health(args: argparse.Namespace) -> int:
    """Check and answer until SIGTERM."""
    paths, notifier = Paths(args.root), Notifier()
    try:
        config = parse_config((read_bytes(paths.config) or b"").decode(errors="replace"), str(paths.config))
        setup_log(config.log_format, config.log_level)
        if not config.health.enabled:
            raise WardmeshError(
                "checking of peers is turned off",
                where=f"{paths.config}: healthChecking.enabled",
                remedy="set it to true",
            )
        running = Health(paths, config.health)
        server = Server(paths.health, running.routes())
    except WardmeshError as error:
        print(f"wardmesh: {error}", file=sys.stderr)
        return EX_CONFIG
    running.start()
    _until_told(running.loop, lambda: notifier.send("READY=1"))
    notifier.send("STOPPING=1")
    server.close()
    running.close()
    return 0


def _until_told(loop: Loop, ready: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_args: loop.stop())
    LOG.info("health: checking")
    ready()
    loop.run()
