# SPDX-License-Identifier: Apache-2.0
"""wardmesh metrics list, and the metrics' part of the observer."""

from __future__ import annotations

import argparse
import http.client
import re
import socket
from collections.abc import Iterable
from typing import Any

from wardmesh.cli.local import read_config
from wardmesh.cli.metric_sources import Sources
from wardmesh.cli.output import emit, paths_of, table
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.credentials import SocketTls
from wardmesh.observe.metrics import MetricsServer, admission, library
from wardmesh.observe.metrics_flows import FlowCounters
from wardmesh.observe.metrics_model import BY_NAME
from wardmesh.observe.metrics_samples import Sample, samples
from wardmesh.observe.service import settings_of

LOOPBACK = ("127.0.0.1", "::1")
ASK = 5.0


def serve(paths: Paths, flows: FlowCounters | None = None) -> MetricsServer | None:
    """Serve metrics as the configuration says; None where they are off. The observer calls this.

    flows: the counters that the observer feeds. WardmeshError where the library is missing, or the port
    is taken.
    """
    config = read_config(paths.config, needed=False)
    if not config.metrics.enabled:
        return None
    sources = Sources(paths)
    most = config.metrics.peers_max

    def read() -> list[Sample]:
        return samples(sources.snapshot(), flows.totals() if flows is not None else None, most)

    addresses = dict.fromkeys([*listen_addresses(paths, config), *_own_loopback()])
    secure = SocketTls(lambda: settings_of(paths).tls) if config.metrics.tls else None
    return MetricsServer(addresses, config.metrics.port, read, admission(sources.members), secure)


def listen_addresses(paths: Paths, config: Config) -> list[str]:
    """The configured addresses, else this member's own in the installed map; else none."""
    if config.metrics.addresses:
        return [str(address) for address in config.metrics.addresses]
    from wardmesh.cli.fleet import fleet_in_force
    from wardmesh.daemon.own_keys import noted_public_keys, own_member

    try:
        fleet = fleet_in_force(paths)
        own = own_member(fleet, noted_public_keys(paths)) if fleet is not None else None
    except WardmeshError:  # metrics on loopback tell of it
        return []
    return [str(address) for address in own.addresses] if own is not None else []


def _own_loopback() -> list[str]:
    """127.0.0.1, and ::1 where the host has IPv6."""
    found = [LOOPBACK[0]]
    if socket.has_ipv6:
        try:
            with socket.socket(socket.AF_INET6) as link:
                link.bind((LOOPBACK[1], 0))
            found.append(LOOPBACK[1])
        except OSError:
            return found
    return found


def listing(args: argparse.Namespace) -> int:
    """Print Metric, Labels, Value; from the observer where it runs, for it alone counts flows."""
    try:
        wanted = re.compile(args.match_pattern or "")
    except re.error as error:
        raise WardmeshError("not a regular expression", where=args.match_pattern, why=str(error)) from error
    paths = paths_of(args)
    config = read_config(paths.config, needed=False)
    rows = _from_observer(config.metrics.port) if config.metrics.enabled else None
    if rows is None:
        rows = _from_samples(samples(Sources(paths).snapshot(), None, config.metrics.peers_max))
    rows = [row for row in rows if wanted.search(row[0])]
    document: dict[str, Any] = {
        "metrics": [{"name": name, "labels": labels, "value": value} for name, labels, value in rows]
    }
    words = [(name, _words(labels), f"{value:.6f}") for name, labels, value in rows]
    return emit(args, document, table(("Metric", "Labels", "Value"), words))


def _words(labels: dict[str, str]) -> str:
    return " ".join(f'{name}="{value}"' for name, value in labels.items())


def _from_samples(found: Iterable[Sample]) -> list[tuple[str, dict[str, str], float]]:
    rows = []
    for sample in found:
        labels = dict(zip(BY_NAME[sample.metric].labels, sample.labels))
        if sample.delays is None:
            rows.append((sample.metric, labels, float(sample.value)))
        else:
            rows.append((f"{sample.metric}_count", labels, float(sample.delays.count)))
            rows.append((f"{sample.metric}_sum", labels, sample.delays.sum))
    return sorted(rows, key=lambda row: row[0])


def _from_observer(port: int) -> list[tuple[str, dict[str, str], float]] | None:
    """What the observer of this host serves; None where it does not answer."""
    connection = http.client.HTTPConnection(LOOPBACK[0], port, timeout=ASK)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    if answer.status != 200:
        return None
    library()
    from prometheus_client.parser import text_string_to_metric_families

    return sorted(
        (
            (sample.name, dict(sample.labels), float(sample.value))
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if not sample.name.endswith(("_bucket", "_created"))
        ),
        key=lambda row: row[0],
    )
