# SPDX-License-Identifier: Apache-2.0
"""Write the Grafana dashboards of the role observability; --check says whether they are up to date."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from generated import REPO, write_or_check

FOLDER = REPO / "roles/observability/files/dashboards"
SCHEMA_VERSION = 36  # Grafana 9 and later read it
SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH = 24
HOST = 'cluster=~"$cluster", instance=~"$host"'
FLEET = 'cluster=~"$cluster"'


def rate(metric: str, where: str) -> str:
    """PromQL of a counter's rate over the interval that fits to the panel."""
    return f"rate({metric}{{{where}}}[$__rate_interval])"


DELAY_RATE = f"rate(cilium_policy_implementation_delay_bucket{{{HOST}}}[1h])"
CONNECTIONS = f"topk(10, wardmesh_conntrack_entries{{{FLEET}}} / wardmesh_conntrack_capacity)"


@dataclass(frozen=True)
class Panel:
    """One panel. queries: (PromQL, legend); red: values from which it is red, orange: below that."""

    title: str
    kind: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    width: int = 12
    height: int = 8
    red: float | None = None
    orange: float | None = None
    text: str = ""


FLEET_PANELS = (
    Panel("Hosts that answer", "stat", [(f'sum(up{{job="wardmesh", {FLEET}}})', "")], width=4, height=4),
    Panel(
        "Hosts without metrics",
        "stat",
        [(f'count(up{{job="wardmesh", {FLEET}}} == 0) or vector(0)', "")],
        width=4,
        height=4,
        red=1,
    ),
    Panel(
        "Tunnels not up",
        "stat",
        [(f"sum(cilium_unreachable_nodes{{{FLEET}}})", "")],
        width=4,
        height=4,
        orange=1,
        red=10,
        text="Counted on every host: a member that is down counts once for each of the others.",
    ),
    Panel(
        "Hosts not strict",
        "stat",
        [(f"count(wardmesh_strict_mode{{{FLEET}}} == 0) or vector(0)", "")],
        width=4,
        height=4,
        red=1,
    ),
    Panel(
        "Policy sets in force",
        "stat",
        [(f"count(count by (digest) (wardmesh_policy_info{{{FLEET}}}))", "")],
        width=4,
        height=4,
        orange=2,
        text="One, unless a rollout is under way.",
    ),
    Panel(
        "Hosts with problems",
        "stat",
        [(f"count(wardmesh_problems{{{FLEET}}} > 0) or vector(0)", "")],
        width=4,
        height=4,
        red=1,
    ),
    Panel(
        "Members that others do not reach",
        "timeseries",
        [(f"count by (peer) (wardmesh_peer_up{{{FLEET}}} == 0)", "{{peer}}")],
    ),
    Panel(
        "Dropped packets by reason",
        "timeseries",
        [(f"sum by (reason) ({rate('cilium_drop_count_total', FLEET)})", "{{reason}}")],
        unit="pps",
    ),
    Panel(
        "Bytes in tunnels",
        "timeseries",
        [
            (f"sum({rate('cilium_wireguard_peer_tx_bytes_total', FLEET)})", "sent"),
            (f"sum({rate('cilium_wireguard_peer_rx_bytes_total', FLEET)})", "received"),
        ],
        unit="Bps",
    ),
    Panel(
        "Flows by verdict",
        "timeseries",
        [
            (
                f"sum by (verdict) ({rate('hubble_flows_processed_total', FLEET)})",
                "{{verdict}}",
            )
        ],
        unit="cps",
    ),
    Panel(
        "Flow events lost",
        "timeseries",
        [(f"sum by (source) ({rate('hubble_lost_events_total', FLEET)})", "{{source}}")],
        unit="cps",
    ),
    Panel(
        "Fullest connection tables",
        "timeseries",
        [
            (
                f"topk(10, wardmesh_conntrack_entries{{{FLEET}}} / wardmesh_conntrack_capacity)",
                "{{instance}} {{family}}",
            )
        ],
        unit="percentunit",
    ),
    Panel(
        "Generation of the fleet map",
        "timeseries",
        [
            (f"max(wardmesh_fleet_generation{{{FLEET}}})", "newest"),
            (f"min(wardmesh_fleet_generation{{{FLEET}}})", "oldest"),
        ],
    ),
    Panel(
        "Versions",
        "timeseries",
        [(f"count by (version) (cilium_version{{{FLEET}}})", "{{version}}")],
    ),
)

HOST_PANELS = (
    Panel("Agent", "stat", [(f"wardmesh_agent_up{{{HOST}}}", "")], width=4, height=4, text="1: it answers."),
    Panel("Strict", "stat", [(f"wardmesh_strict_mode{{{HOST}}}", "")], width=4, height=4),
    Panel("Tunnels up", "stat", [(f'cilium_wireguard_peers{{{HOST}, state="up"}}', "")], width=4, height=4),
    Panel(
        "Tunnels not up", "stat", [(f"cilium_unreachable_nodes{{{HOST}}}", "")], width=4, height=4, orange=1
    ),
    Panel("Problems", "stat", [(f"wardmesh_problems{{{HOST}}}", "")], width=4, height=4, red=1),
    Panel(
        "Age of the key",
        "stat",
        [(f"time() - wardmesh_key_created_timestamp_seconds{{{HOST}}}", "")],
        unit="s",
        width=4,
        height=4,
        orange=60 * 86400,
        red=90 * 86400,
    ),
    Panel(
        "Oldest handshakes",
        "timeseries",
        [(f"topk(10, cilium_wireguard_peer_last_handshake_seconds{{{HOST}}} < +Inf)", "{{peer}}")],
        unit="s",
        text="An idle tunnel makes no handshakes: age alone is no fault.",
    ),
    Panel(
        "Busiest peers",
        "timeseries",
        [
            (
                f"topk(10, {rate('cilium_wireguard_peer_tx_bytes_total', HOST)})",
                "to {{peer}}",
            ),
            (
                f"topk(10, {rate('cilium_wireguard_peer_rx_bytes_total', HOST)})",
                "from {{peer}}",
            ),
        ],
        unit="Bps",
    ),
    Panel(
        "Packets that the guard passed",
        "timeseries",
        [(rate("wardmesh_guard_packets_total", HOST), "{{reason}} {{direction}}")],
        unit="pps",
    ),
    Panel(
        "Packets dropped",
        "timeseries",
        [(rate("cilium_drop_count_total", HOST), "{{reason}} {{direction}}")],
        unit="pps",
    ),
    Panel(
        "New flows at the firewall",
        "timeseries",
        [(rate("wardmesh_firewall_packets_total", HOST), "{{reason}} {{direction}}")],
        unit="cps",
    ),
    Panel(
        "New flows by port",
        "timeseries",
        [
            (
                f"topk(10, {rate('hubble_port_distribution_total', HOST)})",
                "{{port}}/{{protocol}}",
            )
        ],
        unit="cps",
    ),
    Panel(
        "Fill of maps",
        "timeseries",
        [(f"cilium_bpf_map_pressure{{{HOST}}}", "{{map_name}}")],
        unit="percentunit",
    ),
    Panel(
        "Time until policies are in force",
        "timeseries",
        [
            (f"histogram_quantile(0.99, sum by (le) ({DELAY_RATE}))", "99 %"),
        ],
        unit="s",
    ),
    Panel(
        "Encryption",
        "timeseries",
        [(rate("cilium_encrypt_cpu_seconds_total", HOST), "cores")],
        text="wireguard-go only: the kernel's work cannot be told apart.",
    ),
    Panel(
        "Warnings and errors of the agent",
        "timeseries",
        [(f"increase(cilium_errors_warnings_total{{{HOST}}}[5m])", "{{level}}")],
    ),
)


def _steps(panel: Panel) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.orange is not None:
        steps.append({"color": "orange", "value": panel.orange})
    if panel.red is not None:
        steps.append({"color": "red", "value": panel.red})
    return steps


def _panel(panel: Panel, number: int, left: int, top: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
    }
    options["tooltip"] = {"mode": "multi", "sort": "desc"}
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    return {
        "id": number,
        "title": panel.title,
        "type": panel.kind,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": panel.height},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend, "datasource": SOURCE}
            for place, (query, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": _steps(panel)},
                "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
            },
            "overrides": [],
        },
        "options": options,
    }


def _placed(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """From left to right, in rows as high as their highest panel."""
    found, left, top, height = [], 0, 0, 0
    for number, panel in enumerate(panels, 1):
        if left + panel.width > WIDTH:
            left, top, height = 0, top + height, 0
        found.append(_panel(panel, number, left, top))
        left, height = left + panel.width, max(height, panel.height)
    return found


def _choice(name: str, label: str, query: str, *, several: bool) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "includeAll": several,
        "multi": several,
        **({"allValue": ".*"} if several else {}),
        "current": {"text": "All", "value": "$__all"} if several else {},
        "options": [],
    }


def dashboard(uid: str, title: str, panels: Sequence[Panel], choices: list[dict[str, Any]]) -> dict[str, Any]:
    """A whole dashboard in the form that Grafana imports."""
    source = {
        "name": "source",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "options": [],
    }
    return {
        "uid": uid,
        "title": title,
        "tags": ["wardmesh"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [source, *choices]},
        "annotations": {"list": []},
        "links": [
            {
                "title": "wardmesh",
                "type": "dashboards",
                "tags": ["wardmesh"],
                "asDropdown": False,
                "icon": "external link",
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "tooltip": "",
                "url": "",
            }
        ],
        "panels": _placed(panels),
    }


def dashboards() -> dict[str, dict[str, Any]]:
    """By file name."""
    cluster = _choice("cluster", "Cluster", "label_values(wardmesh_agent_up, cluster)", several=True)
    host = _choice(
        "host", "Host", 'label_values(wardmesh_agent_up{cluster=~"$cluster"}, instance)', several=False
    )
    return {
        "wardmesh-fleet.json": dashboard("wardmesh-fleet", "wardmesh: fleet", FLEET_PANELS, [cluster]),
        "wardmesh-host.json": dashboard("wardmesh-host", "wardmesh: host", HOST_PANELS, [cluster, host]),
    }


if __name__ == "__main__":
    pages = {FOLDER / name: json.dumps(found, indent=2) + "\n" for name, found in dashboards().items()}
    sys.exit(write_or_check(pages, __doc__))
