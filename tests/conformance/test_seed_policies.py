# SPDX-License-Identifier: Apache-2.0
"""The policies of the seed documents' chapters 7, 8.3 and 12 can be applied and do what the text says."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import pytest

from wardmesh.policy.assertions import judge
from wardmesh.policy.engine import Engine
from wardmesh.policy.files import parse_policies
from wardmesh.policy.fleet import Endpoint, implicit_labels

SEEDS = Path(__file__).parents[3] / "shared/seeds"
KEYS = re.compile(r"^(apiVersion|kind|metadata|spec):")


def policies() -> dict[str, str]:
    """Text by name. The documents are prose with YAML in it: a policy ends at a line without indentation."""
    if not SEEDS.is_dir():
        pytest.skip("../shared is absent: the seed documents are not part of the project")
    found: dict[str, str] = {}
    for path in sorted(SEEDS.glob("*.txt")):
        block: list[str] = []
        for line in [*path.read_text().splitlines(), "end"]:
            if block and (KEYS.match(line) or line[:1] == " ") and not line.startswith("apiVersion"):
                block.append(line)
                continue
            text = "\n".join(block)
            name = re.search(r'^  name: "?([a-z0-9-]+)"?$', text, re.MULTILINE)
            if name and "cilium.io/v2" in text:
                found[name[1]] = text
            block = [line] if line.startswith("apiVersion:") else block[:0] if line.strip() else block
    return found


def vm(name: str, address: str, **labels: str) -> Endpoint:
    """A member of the cluster vm-cluster."""
    return Endpoint(
        name,
        "vm-cluster",
        implicit_labels(labels, "vm-cluster", name),
        (ipaddress.ip_address(address),),
    )


def pod(name: str, address: str, cluster: str, app: str) -> Endpoint:
    """A pod of another cluster, in the namespace default."""
    labels = {"app": app, "io.kubernetes.pod.namespace": "default"}
    held = implicit_labels(labels, cluster, name, pod=True)
    return Endpoint(name, cluster, held, (ipaddress.ip_address(address),), host=False)


FLEET = [
    vm("vm1", "192.168.1.10", app="frontend"),
    vm("vm2", "192.168.1.11", app="backend"),
    vm("vm3", "10.1.0.3"),
    vm("db", "10.1.0.9", app="postgres"),
    vm("secret", "10.1.0.7", app="sensitive-service"),
    vm("store", "10.1.0.8", app="database"),
    pod("pod-frontend", "10.244.0.5", "k8s-cluster", "frontend"),
    pod("pod-other", "10.244.0.6", "k8s-cluster", "other"),
    pod("pod-backend", "10.245.0.5", "k8s-prod", "backend"),
    pod("pod-elsewhere", "10.246.0.5", "k8s-test", "backend"),
]

# policy, from, to, port, verdict
SAID = [
    # §7.1: SSH from every VM of the cluster, web from one network, everything out
    ("allow-ssh-and-web", "vm3", "vm1", "22/tcp", "allowed"),
    ("allow-ssh-and-web", "192.168.1.99", "vm3", "22/tcp", "denied"),
    ("allow-ssh-and-web", "192.168.1.99", "vm3", "80/tcp", "allowed"),
    ("allow-ssh-and-web", "192.168.1.99", "vm3", "443/tcp", "allowed"),
    ("allow-ssh-and-web", "192.168.1.99", "vm3", "8080/tcp", "denied"),
    ("allow-ssh-and-web", "203.0.113.5", "vm3", "80/tcp", "denied"),
    ("allow-ssh-and-web", "vm3", "203.0.113.5", "25/tcp", "allowed"),
    # §7.2: only app=frontend reaches app=backend, on 8080
    ("frontend-to-backend", "vm1", "vm2", "8080/tcp", "allowed"),
    ("frontend-to-backend", "vm1", "vm2", "22/tcp", "denied"),
    ("frontend-to-backend", "vm3", "vm2", "8080/tcp", "denied"),
    ("frontend-to-backend", "203.0.113.5", "vm2", "8080/tcp", "denied"),
    ("frontend-to-backend", "vm3", "vm1", "8080/tcp", "allowed"),
    # §8.3: pods of the other cluster with this label, not the own frontend
    ("allow-k8s-to-vm", "pod-frontend", "vm2", "9000/tcp", "allowed"),
    ("allow-k8s-to-vm", "pod-other", "vm2", "9000/tcp", "denied"),
    ("allow-k8s-to-vm", "vm1", "vm2", "9000/tcp", "denied"),
    # §12, second case: the backend pods of one cluster, one port
    ("protect-database", "pod-backend", "db", "5432/tcp", "allowed"),
    ("protect-database", "pod-backend", "db", "22/tcp", "denied"),
    ("protect-database", "pod-elsewhere", "db", "5432/tcp", "denied"),
    ("protect-database", "vm2", "db", "5432/tcp", "denied"),
    # the second document's §9.2
    ("encrypt-sensitive", "secret", "store", "5432/tcp", "allowed"),
    ("encrypt-sensitive", "secret", "vm1", "5432/tcp", "denied"),
]


@pytest.mark.parametrize(("name", "source", "target", "port", "verdict"), SAID)
def test_it_says_what_the_document_says(name: str, source: str, target: str, port: str, verdict: str) -> None:
    text = policies()[name]
    engine = Engine(parse_policies([(f"{name}.yaml", text)], "seeds"), FLEET, "vm-cluster")
    answer = judge(engine, source, target, port)
    assert answer["verdict"] == verdict, answer


def test_every_policy_that_kept_its_indentation_is_in_the_table() -> None:
    """In the first and fourth document the policies lost theirs; the fifth's are held by test_verdicts.py."""
    named = {name for name, *_rest in SAID}
    fifth = ("l3-rule", "l4-rule", "app1-to-host", "example")
    whole = {name for name in policies() if not name.startswith(fifth)}
    assert whole == named
