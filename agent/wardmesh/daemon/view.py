# SPDX-License-Identifier: Apache-2.0
"""What the API shows of the engine."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

from wardmesh import __version__
from wardmesh.daemon.engine import IFNAME, Engine
from wardmesh.model.errors import WardmeshError


def _agent_digest() -> str:
    """SHA-256 of the zipapp that runs; empty from a checkout."""
    path = Path(sys.argv[0]).resolve()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix == ".pyz" else ""


AGENT_DIGEST = _agent_digest()


def peers(engine: Engine) -> list[dict[str, Any]]:
    """A row per peer of the map."""
    try:
        found = engine.own()
    except WardmeshError:
        return []
    if found is None:
        return []
    fleet, own = found
    rows = []
    for member in fleet.members:
        if member.key == own.key:
            continue
        state = engine.device.peers.get(member.key)
        up = engine.liveness.up(member.key)
        rows.append(
            {
                "name": member.name,
                "address": str(member.addresses[0]),
                "endpoint": str(state.endpoint if state and state.endpoint else member.endpoint),
                "reachable": up,
                "tunnel": "up" if up else "pending" if not state or not state.last_handshake else "down",
                "sealed": member.name in engine.state.sealed,
                "lastHandshake": state.last_handshake if state else 0,
                "rxBytes": state.rx_bytes if state else 0,
                "txBytes": state.tx_bytes if state else 0,
            }
        )
    return rows


def status(engine: Engine) -> dict[str, Any]:
    """Everything that `wardmesh status -o json` prints."""
    with engine.lock:
        problems = list(engine.problems)
        fleet = engine.inputs.fleet
        own = None
        try:
            found = engine.own()
            own = found[1] if found else None
        except WardmeshError as error:
            problems.append(str(error))
        if fleet is None:
            problems.append(f"no fleet map at {engine.paths.fleet}: run the playbook")
        counters = engine.counters()
        return {
            "version": __version__,
            "mode": engine.state.mode,
            "wish": engine.inputs.config.encryption.mode,
            "encryption": engine.inputs.config.encryption.enabled,
            "cluster": engine.inputs.config.cluster.name,
            "generation": fleet.generation if fleet else 0,
            "revision": 0,
            "self": own.name if own else "",
            "address": str(own.addresses[0]) if own else "",
            "backend": engine.tunnel.backend.name if engine.tunnel else "",
            "interface": IFNAME,
            "publicKey": engine.device.public_key,
            "peers": peers(engine),
            "guard": {"devices": engine.guarded, "counters": counters},
            "inactive": list(engine.inputs.config.inactive),
            "problems": problems,
            "time": time.time(),
            "digests": {**engine.inputs.digests(), "agent": AGENT_DIGEST},
        }
