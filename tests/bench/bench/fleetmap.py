# SPDX-License-Identifier: Apache-2.0
"""The fleet map for many members: compiling it, its size, and what the agent does with it."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.report import REPO, Section, median, peak_memory

sys.path.insert(0, str(REPO))

SIZES = (100, 1000, 10_000)
COMPILE_LIMITS = {1000: 1.0, 10_000: 10.0}  # seconds
BYTES_LIMIT = 400
PEER_LIMIT = 1.0  # milliseconds
PAIR_LIMIT = 100.0  # nanoseconds of the controller for each pair of hosts


def compiler() -> Any:
    """The collection's module, without Ansible around it."""
    from tests.loading import load

    return load("plugins/plugin_utils/_compile.py")


def declared(count: int) -> dict[str, dict[str, Any]]:
    """Members that do not exist, as the inventory and their reports would give them."""
    return {
        f"host{number:05}": {
            "key": base64.b64encode(hashlib.sha256(b"%d" % number).digest()).decode(),
            "key_generation": 1,
            "addresses": [str(ipaddress.ip_address("10.99.0.0") + number)],
            "labels": {"app": f"app{number % 40}", "env": "production"},
        }
        for number in range(1, count + 1)
    }


def compile_times(count: int, passes: int) -> tuple[float, int]:
    """Seconds for registry and map from nothing, the median; bytes of the map."""
    module = compiler()
    facts = declared(count)
    times, size = [], 0
    for _pass in range(passes):
        start = time.process_time()
        merged, _warnings = module.merge(module.empty_registry(), facts, [])
        _registry, data = module.compile_map(merged, "bench", 1)
        times.append(time.process_time() - start)
        size = len(data)
    return median(times), size


def on_device(count: int, passes: int) -> dict[str, float]:
    """A real device with so many peers: seconds to make them and their routes, a look, one more peer."""
    from tests.netns import agent
    from tests.netns.hosts import hosts

    with hosts(1) as made:
        host = made[0]
        own = agent.MemberFacts("self", host.call(agent.boot, "self", str(host.scratch)), ("10.98.0.1",))
        host.run("ip", "route", "add", "default", "dev", "eth0")
        facts = [
            agent.MemberFacts(name, entry["key"], (entry["addresses"][0],))
            for name, entry in declared(count + passes).items()
        ]
        host.call(agent.set_fleet, [own, *facts[:count]])
        first = host.call(_whole_pass)
        host.call(_look)
        idle, changes = [], []
        for number in range(passes):
            idle.append(host.call(_look))
            host.call(agent.set_fleet, [own, *facts[: count + number + 1]])
            changes.append(host.call(_one_more))
        memory = host.call(peak_memory)
        host.call(agent.teardown)
    return {"first": first, "idle": median(idle), "change": median(changes), "memory": memory}


def _whole_pass() -> float:
    from tests.netns import agent

    start = time.perf_counter()
    agent.reconcile(True)
    return time.perf_counter() - start


def _look() -> float:
    """Dump the device and compare it with what is wished; seconds when nothing differs."""
    from tests.netns import agent

    from wardmesh.wireguard.peers import diff_peers

    one = agent.the()
    start = time.perf_counter()
    state = one.tunnel.refresh()
    assert not diff_peers(one._peers, state.peers, one.tunnel._written, frozenset())
    return time.perf_counter() - start


def _one_more() -> float:
    """Write the one peer that is new: seconds at the device."""
    from tests.netns import agent

    from wardmesh.wireguard.peers import diff_peers

    one = agent.the()
    changes = diff_peers(one._peers, one.tunnel.refresh().peers, one.tunnel._written, frozenset())
    assert len(changes.add) == 1
    start = time.perf_counter()
    one.tunnel.backend.apply(one.tunnel.ifname, changes)
    taken = time.perf_counter() - start
    one.tunnel._written = {key: peer.endpoint for key, peer in one._peers.items()}
    return taken


def run(say: Callable[[str], None], sizes: tuple[int, ...] = SIZES, passes: int = 5) -> Section:
    """Three sizes, on the controller and on a device."""
    section = Section(
        "Fleet map",
        "Members that do not exist. Compiling: registry and map on the controller, CPU seconds. "
        "Device: a real "
        "WireGuard device in a namespace, the agent's own modules. Look: dump of the device and "
        "comparison of "
        "every peer. One more: writing the one peer that is new, at the device. "
        f"Medians of {passes}. `make bench PART=map`",
        (
            "members",
            "compile s",
            "bytes/member",
            "first pass s",
            "look ms",
            "one more ms",
            "MiB",
        ),
    )
    for size in sizes:
        say(f"{size} members")
        seconds, data = compile_times(size, passes)
        found = on_device(size, passes)
        change = found["change"] * 1000
        section.rows.append(
            (
                str(size),
                f"{seconds:.3f}",
                f"{data / size:.0f}",
                f"{found['first']:.2f}",
                f"{found['idle'] * 1000:.1f}",
                f"{change:.2f}",
                f"{found['memory']:.0f}",
            )
        )
        if size in COMPILE_LIMITS:
            section.judge(f"compile for {size} members", seconds, COMPILE_LIMITS[size], unit=" s")
            pair = seconds / size**2 * 1e9
            section.judge(f"compile for each pair of {size} members", pair, PAIR_LIMIT, unit=" ns")
        section.judge(f"bytes per member of {size}", data / size, BYTES_LIMIT)
        section.judge(f"one more peer beside {size}", change, PEER_LIMIT, unit=" ms")
    return section
