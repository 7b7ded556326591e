# SPDX-License-Identifier: Apache-2.0
"""A sample of the verdict tables, live: hosts with these labels and addresses, and every flow is sent.

Only cases whose members are all of one cluster and that name no ports: the fleet map of this version has
neither pods nor named ports. SCTP is left out, this kernel has none; so are ICMP types that nobody answers.
"""

from __future__ import annotations

import ipaddress
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.loading import load

from conftest import ROOT, Fleet
from lab import Lab

SAMPLE, SEED = 12, 4
TABLES = ROOT / "tests/conformance/tables"
CONFIG = (
    '{"wardmesh_cluster_name": "vm-cluster", "wardmesh_encryption_mode": "prefer",'
    ' "wardmesh_config": {"hostFirewall": {"enabled": true, "failsafeEgress": []}}}'
)
# Sends every flow at once; prints a list of booleans: did anything come back, be it a refusal?
PROBE = """
import json, os, select, socket, struct, sys, time
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data)); total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
flows = json.load(sys.stdin); answers = [False] * len(flows); waiting = {}; echoes = {}
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
for number, (source, target, protocol, port) in enumerate(flows):
    if protocol == "ICMP":
        out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP); out.bind((source, 0))
        head = struct.pack("!BBHHH", 8, 0, 0, 1000 + number, 1)
        head = struct.pack("!BBHHH", 8, 0, checksum(head), 1000 + number, 1)
        try: out.sendto(head, (target, 0))
        except OSError: pass
        continue
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM)
    sock.setblocking(False); sock.bind((source, 0))
    try:
        sock.connect((target, port))
        if protocol == "UDP": sock.send(b"x")
    except BlockingIOError: pass
    except OSError as error: answers[number] = protocol == "TCP" and error.errno == 111
    waiting[sock] = number
end = time.monotonic() + 1.2
while (left := end - time.monotonic()) > 0:
    ready = select.select([raw, *waiting], list(waiting), [], left)
    for sock in {*ready[0], *ready[1]}:
        if sock is raw:
            data = raw.recv(200); kind, number = data[20], struct.unpack("!H", data[24:26])[0] - 1000
            if kind == 0 and 0 <= number < len(flows): answers[number] = True
            continue
        number = waiting[sock]
        fault = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if flows[number][2] == "TCP" or fault:
            answers[number] = fault in (0, 111); del waiting[sock]
    if all(flows[n][2] == "UDP" for n in waiting.values()): time.sleep(0.02)
print(json.dumps(answers))
"""
compiler = load("plugins/plugin_utils/_compile.py")


@dataclass
class Stage:
    """node1 is the subject, node2 is everybody else."""

    mesh: Fleet
    key: str
    registry: dict[str, Any]


def cases() -> list[dict[str, Any]]:
    """The sample: the same on every run."""
    found = []
    for name in ("semantics.jsonl", "verdicts.jsonl"):
        for line in (TABLES / name).read_text().splitlines():
            case = json.loads(line)
            named = re.search(r'"port": ?"[a-z]', json.dumps(case["policies"]))
            foreign = any(n.get("pod") or n["cluster"] != case["cluster"] for n in case["nodes"].values())
            if not named and not foreign and all(":" not in n["ip"] for n in case["nodes"].values()):
                found.append(case)
    return random.Random(SEED).sample(found, SAMPLE)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Two hosts; on node2 wardmesh only takes part in the first rollout."""
    mesh = Fleet(Lab.up(2, "cases"), tmp_path_factory.mktemp("cases"), compiled=False)
    mesh.play("site", "-e", CONFIG)
    one, two = mesh.lab.hosts
    two.run("systemctl stop wardmesh 'wardmesh-wireguard@*'; wardmesh cleanup")
    for host in (one, two):
        host.run("cat > /run/probe.py; sysctl -qw net.ipv4.icmp_ratelimit=0", stdin=PROBE)
    registry = json.loads((mesh.folder / "wardmesh-registry.json").read_text())
    yield Stage(mesh, registry["members"]["node1"]["key"], registry)
    mesh.lab.down()


def ask(case: dict[str, Any], subject: str) -> tuple[list[Any], list[Any]]:
    """Flows into the subject and out of it that can be sent: (source, target, protocol, port, wanted)."""
    into, out = [], []
    for query in case["queries"]:
        ends = [case["nodes"].get(query[end], {"ip": query[end]})["ip"] for end in ("from", "to")]
        sendable = query["proto"] in ("TCP", "UDP") or (query["proto"], query["port"]) == ("ICMP", 8)
        if not sendable or ":" in "".join(ends) or query["port"] == 0 or ends[0] == ends[1]:
            continue
        flow = (*ends, query["proto"], query["port"])
        if query["to"] == subject and (query["proto"], query["port"]) != ("TCP", 22):  # the failsafe's
            into.append((*flow, query["ingress"] == "allowed"))
        if query["from"] == subject:
            out.append((*flow, query["egress"] == "allowed"))
    return into, out


def settle(stage: Stage, case: dict[str, Any], subject: str, strangers: set[str]) -> None:
    """Labels, addresses and policies of the case."""
    one, two = stage.mesh.lab.hosts
    own = case["nodes"][subject]["ip"]
    others = {node["ip"] for name, node in case["nodes"].items() if name != subject} | strangers - {own}
    two.run(
        "ip -4 addr flush dev host0 scope global; ip addr add 10.99.0.2/24 dev host0;"
        + "".join(f"ip addr add {ip}/32 dev host0;" for ip in sorted(others))
        + f"ip route replace {own}/32 via 10.99.0.1"
    )
    one.run(
        "for a in $(cat /run/own 2>/dev/null); do ip addr del $a/32 dev host0; done; "
        f"echo {own} > /run/own; ip addr add {own}/32 dev host0; ip route flush proto 77;"
        + "".join(
            f"ip route replace {ip}/32 via 10.99.0.2 dev host0 onlink src {own} proto 77;"
            for ip in sorted(others)
        )
    )
    members = {}
    for number, (name, node) in enumerate(case["nodes"].items(), 1):
        key = stage.key if name == subject else compiler.base64.b64encode(bytes([number]) * 32).decode()
        members[name] = {"key": key, "addresses": [node["ip"]], "labels": node["labels"]}
    stage.registry, data = compiler.compile_map({**stage.registry, "members": members}, case["cluster"], 1)
    one.run("cat > /run/fleet.json; wardmesh fleet apply /run/fleet.json", stdin=data.decode())
    one.run(
        "rm -rf /run/p; mkdir /run/p; cat > /run/p/case.yaml; wardmesh policy apply /run/p --replace",
        stdin="\n---\n".join(json.dumps(policy) for policy in case["policies"]),
    )


def send(stage: Stage, place: int, flows: list[Any]) -> list[bool]:
    """What came back, flow by flow."""
    host = stage.mesh.lab.hosts[place]
    done = host.run("python3 /run/probe.py", stdin=json.dumps([flow[:4] for flow in flows]))
    return [bool(answer) for answer in json.loads(done.stdout)]


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case["name"]).replace(" ", "-"))
def test_the_wire_says_what_the_engine_says(stage: Stage, case: dict[str, Any]) -> None:
    subject = max(case["nodes"], key=lambda name: sum(map(len, ask(case, name))))
    into, out = ask(case, subject)
    ends = {ip for flow in into + out for ip in flow[:2]}
    assert into or out
    assert all(ipaddress.ip_address(ip).version == 4 for ip in ends)
    settle(stage, case, subject, ends)
    for place, flows in ((1, into), (0, out)):
        found = send(stage, place, flows) if flows else []
        wrong = [
            f"{flow[0]} -> {flow[1]} {flow[2]}/{flow[3]}: {'passed' if answer else 'was blocked'}"
            for flow, answer in zip(flows, found, strict=True)
            if answer != flow[4]
        ]
        assert wrong == []
