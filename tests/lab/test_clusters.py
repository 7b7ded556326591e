# SPDX-License-Identifier: Apache-2.0
"""Two fleets that know each other by their maps, rolled out as docs/how-to/clusters.md says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import wait_for

from conftest import Fleet, changed
from lab import Host, Lab
from lab.pcap import plain_between, read
from test_policy import PROBE, SERVER, apply, reaches

pytestmark = [pytest.mark.container, pytest.mark.beside]

# Each site has a registry, a map and a configuration of its own; the label is the same in both.
SITES = {"site-a": (1, ("node1", "node2")), "site-b": (2, ("node3",))}
LABELS = {"node1": {"app": "web"}, "node2": {"app": "db"}, "node3": {"app": "web"}}
NODES = "{{ (lookup('file', 'SITE/wardmesh-fleet.json') | from_json).members }}"
FROM_A = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: from-a}
spec:
  nodeSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web, io.cilium.k8s.policy.cluster: CLUSTER}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"""


class Sites(Fleet):
    """Three hosts in two clusters; both inventories lie over the lab's."""

    def prepare(self) -> None:
        """A folder for each site, with what is rolled out there."""
        for site, (number, hosts) in SITES.items():
            (self.folder / site).mkdir()
            config = {"hostFirewall": {"enabled": True}}
            variables: dict[str, Any] = {
                "wardmesh_group": site.replace("-", "_"),
                "wardmesh_cluster_name": site,
                "wardmesh_cluster_id": number,
                "wardmesh_registry": str(self.folder / site / "wardmesh-registry.json"),
                "wardmesh_config": config,
            }
            (self.folder / site / "vars.json").write_text(json.dumps(variables))
            group = {"hosts": {name: {"wardmesh_labels": LABELS[name]} for name in hosts}}
            inventory = {"all": {"children": {site.replace("-", "_"): group}}}
            (self.folder / site / "groups.json").write_text(json.dumps(inventory))

    def connect(self) -> None:
        """One list for both sites, made of their maps."""
        clusters = [
            {
                "name": site,
                "id": number,
                "nodes": NODES.replace("SITE", str(self.folder / site)),
            }
            for site, (number, _hosts) in SITES.items()
        ]
        for site in SITES:
            file = self.folder / site / "vars.json"
            variables = json.loads(file.read_text())
            variables["wardmesh_config"]["clustermesh"] = {"config": {"enabled": True, "clusters": clusters}}
            file.write_text(json.dumps(variables))

    def roll_out(self, site: str) -> dict[str, int]:
        """site.yml for one site; how much it changed on each host."""
        folder = self.folder / site
        words = ("-i", str(folder / "groups.json"), "-e", f"@{folder / 'vars.json'}")
        return changed(self.play("site", *words))


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """Two fleets, which know each other; node3 listens."""
    made = Sites(Lab.up(3, "clusters"), tmp_path_factory.mktemp("clusters"), compiled=False)
    try:
        made.prepare()
        for step in (lambda: None, made.connect):
            step()
            for site in SITES:
                made.roll_out(site)
        for host in made.lab.hosts:
            host.run("cat > /run/probe.py", stdin=PROBE)
        three = made.lab.hosts[2]
        three.run("cat > /run/server.py", stdin=SERVER)
        three.run("systemd-run -q --unit=listen python3 /run/server.py; sleep 0.5")
        yield made
    finally:
        made.lab.down()


def ready(host: Host) -> dict[str, Any]:
    """What the host says of the other cluster, once it is ready."""

    def ask() -> Any:
        done = host.run("wardmesh clustermesh status -o json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    found: dict[str, Any] = wait_for(ask, f"the other cluster is ready for {host.name}", pause=0.5)
    return found


def test_each_knows_the_other_and_a_second_run_changes_nothing(sites: Sites) -> None:
    for host, other in zip(sites.lab.hosts, ("site-b", "site-b", "site-a"), strict=True):
        assert [row["name"] for row in ready(host)["clusters"]] == [other]
    for site in SITES:
        assert set(sites.roll_out(site).values()) == {0}


def test_what_they_say_to_each_other_is_on_the_wire_by_the_tunnel_alone(sites: Sites, tmp_path: Path) -> None:
    one, two, three = sites.lab.hosts
    with sites.lab.capture(tmp_path / "c.pcap"):
        for source, target in ((one, three), (three, two)):
            for address in (target.address, target.address6):
                source.run(f"ping -q -c 5 -i 0.05 -W 5 {address}")
        assert reaches(two, three.address, 80)
    members = {address for host in sites.lab.hosts for address in (host.address, host.address6)}
    assert not plain_between(tmp_path / "c.pcap", members)
    assert sum(frame.dport == 51871 for frame in read(tmp_path / "c.pcap")) >= 40


def test_a_policy_tells_the_clusters_apart(sites: Sites) -> None:
    """The label app=web is on a host of each: the cluster's label decides, and the member's."""
    one, two, three = sites.lab.hosts
    apply(three, FROM_A.replace("CLUSTER", "site-a"))
    for family in ("address", "address6"):
        assert reaches(one, getattr(three, family), 80)
        assert not reaches(two, getattr(three, family), 80)
        assert not reaches(one, getattr(three, family), 443)
    apply(three, FROM_A.replace("CLUSTER", "site-b"))
    assert not reaches(one, three.address, 80)
    three.run("wardmesh policy delete --all")
