# SPDX-License-Identifier: Apache-2.0
"""Packets of another cluster's pods, through the loaded firewall: a policy admits those that it names.

The pods are records as Cilium writes them; tests/store reads the same from a real etcd.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.bpf.fw_harness import SELF4, FirewallBench
from tests.bpf.packets import ethernet, ipv4
from tests.bpf.test_firewall import tcp
from tests.loading import load

from wardmesh.daemon.firewall_tables import host_tables
from wardmesh.datapath.contract import INGRESS
from wardmesh.policy.files import parse_policies

pytestmark = pytest.mark.netns
clusters = load("tests/unit/agent/daemon/test_clusters.py")

# policy, label of this host, port, who comes in
CASES = (
    (clusters.FRONTEND, "backend", 8080, {"frontend"}),
    (clusters.FRONTEND, "backend", 22, {"frontend"} | set(clusters.PEERS.values())),  # the failsafe's
    (clusters.FRONTEND, "other", 8080, set(clusters.PEERS.values())),  # nothing selects this host
    (clusters.DATABASE, "postgres", 5432, {"backend pod"}),
    (clusters.DATABASE, "postgres", 5433, set()),
    (clusters.BY_CLUSTER, "postgres", 1, {"site-b"}),
    (clusters.ENTITY.replace("ENTITY", "cluster"), "postgres", 1, {"own"}),
    (clusters.ENTITY.replace("ENTITY", "world"), "postgres", 1, {"unknown pod", "world"}),
)


@pytest.mark.parametrize("way", ["card", "tunnel"])
@pytest.mark.parametrize(("policy", "label", "port", "wanted"), CASES)
def test_exactly_these_pods_come_in(
    wall: FirewallBench, tmp_path: Path, policy: str, label: str, port: int, wanted: set[str], way: str
) -> None:
    fleet = clusters.whole_fleet(clusters.Host(tmp_path), label)
    wall.firewall.set_policy(host_tables(parse_policies((("p.yaml", policy),), "p"), fleet, "node1"))
    came_in = set()
    for address, name in clusters.PEERS.items():
        packet = ipv4(address, SELF4, tcp(4000, port))
        l2 = way == "card"
        if wall.passes(INGRESS, ethernet(packet) if l2 else packet, l2=l2):
            came_in.add(name)
    assert came_in == wanted
