# SPDX-License-Identifier: Apache-2.0
"""A byte there and back, and a whole connection, past the firewall of one host: ours, nftables, none."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from bench import wire
from bench.play import Controller
from bench.report import Section, median
from bench.tunnel import PLAIN, plain
from lab import Host, Lab

RULES, MEMBERS = 1_000, 10_000
NOISE = 0.1  # microseconds: below it a ratio says nothing
NONE, OURS = "no firewall", f"wardmesh, {RULES:,} rules"
SET, LINEAR = (
    f"nftables, conntrack and a set of {MEMBERS:,}",
    f"nftables, conntrack and {RULES:,} linear rules",
)
CONFIG = "/etc/wardmesh/config.yaml"


def policy() -> str:
    """The client may reach the server's port, beside rules for others."""
    rule = "- fromCIDR: [{cidr}]\n    toPorts: [{{ports: [{{port: '{port}', protocol: TCP}}]}}]\n"
    rules = [
        rule.format(cidr=f"10.{90 + n // 200}.{n % 200}.0/24", port=6000 + n % 900) for n in range(RULES)
    ]
    rules.append(rule.format(cidr=f"{PLAIN}.0/24", port=5201))
    return (
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: bench}\n"
        "spec:\n  nodeSelector: {}\n  ingress:\n  " + "  ".join(rules)
    )


def ruleset(linear: bool) -> str:
    """What an expert would write: established first, then a set; or, linear, a rule for each source."""
    head = "table inet bench {\n"
    body = "chain in { type filter hook input priority filter; policy drop;\n"
    body += "ct state established,related accept\niif lo accept\n"
    body += "tcp dport 22 accept\nmeta l4proto icmpv6 accept\n"
    if linear:
        body += "".join(
            f"ip saddr 10.9.{n >> 8}.{n & 255} tcp dport {6000 + n} accept\n" for n in range(RULES)
        )
        body += f"ip saddr {PLAIN}.1 tcp dport 5201 accept\n"
    else:
        members = ", ".join([f"{PLAIN}.1", *(f"10.8.{n >> 8}.{n & 255}" for n in range(MEMBERS))])
        head += f"set members {{ type ipv4_addr; elements = {{ {members} }} }}\n"
        body += "ip saddr @members tcp dport 5201 accept\n"
    return head + body + "}\n}\n"


class Server:
    """The host under test, with one of the firewalls on."""

    def __init__(self, host: Host, namespace: str) -> None:
        self._host = host
        self._namespace = namespace

    def _nft(self, text: str) -> None:
        words = ["ip", "netns", "exec", self._namespace, "nft", "-f", "-"]
        subprocess.run(words, input=text, text=True, check=True, capture_output=True)

    def use(self, variant: str) -> None:
        """Switch every other one off."""
        self._nft("table inet bench\ndelete table inet bench\n")
        wanted = "true" if variant == OURS else "false"
        seen = "tc filter show dev host0 ingress | grep -c wardmeshfw"
        self._host.run(
            f"sed -i 's/enabled: .*/enabled: {wanted}/' {CONFIG}; systemctl reload wardmesh;"
            f"for i in $(seq 60); do test $({seen}) = {int(variant == OURS)} && exit 0; sleep 0.5; done;"
            "exit 1"
        )
        if variant in (SET, LINEAR):
            self._nft(ruleset(variant == LINEAR))


def run(say: Callable[[str], None], passes: int = 5, rounds: int = 3000) -> Section:
    """All variants in turn, within each pass."""
    lab = Lab.up(2, "bench")
    try:
        client, host = lab.hosts
        say("rolling out the fleet")
        with Controller(lab) as controller:
            controller.play("site")
        plain(lab.hosts)
        wire.prepare(lab.hosts)
        # A port rests for a minute after its connection; a quick machine uses up all in that time.
        client.run("sysctl -qw net.ipv4.tcp_tw_reuse=1")
        host.run(
            f"cat > /etc/wardmesh/policies/bench.yaml; echo 'hostFirewall: {{enabled: true}}' >> {CONFIG}",
            stdin=policy(),
        )
        host.run(f"sed -i 's/hostFirewall: {{enabled: true}}/hostFirewall:\\n  enabled: true/' {CONFIG}")
        server, address = Server(host, "wl-bench-2"), f"{PLAIN}.2"
        echoes: dict[str, list[float]] = {name: [] for name in (NONE, OURS, SET, LINEAR)}
        connections: dict[str, list[float]] = {name: [] for name in echoes}
        for number in range(passes):
            for name, found in echoes.items():
                say(f"pass {number + 1} of {passes}: {name}")
                server.use(name)
                wire.connect(
                    client, address, rounds // 3
                )  # warm: the first after a change of rules is slower
                found.append(wire.echo(client, address, rounds))
                connections[name].append(wire.connect(client, address, rounds))
        return _section(echoes, connections, passes)
    finally:
        lab.down()


def _section(echoes: dict[str, list[float]], connections: dict[str, list[float]], passes: int) -> Section:
    section = Section(
        "Past the firewall of one host",
        "Two containers on one bridge, no tunnel; the firewall is on the server. One byte there and back on "
        "an open connection; connect, ask, be answered, close. Microseconds, medians of "
        f"{passes} passes, and what a pass adds to the same pass without a firewall. iptables is not among "
        "them: this kernel has neither its tables nor nftables' compatibility for it. "
        "`make bench PART=roundtrip`",
        ("", "round trip µs", "added", "connection µs", "added"),
    )
    added: dict[str, tuple[float, float]] = {}
    for name, found in echoes.items():
        trip = median([a - b for a, b in zip(found, echoes[NONE], strict=True)])
        link = median([a - b for a, b in zip(connections[name], connections[NONE], strict=True)])
        added[name] = (trip, link)
        cells = (
            f"{median(found):.1f}",
            f"{trip:.2f}",
            f"{median(connections[name]):.1f}",
            f"{link:.2f}",
        )
        section.rows.append((name, *cells))
    for place, what in enumerate(("TCP request and response", "connect, request, close")):
        ours, theirs = added[OURS][place], added[SET][place]
        if theirs > NOISE:
            section.judge(f"{what}: added, to nftables with a set", max(0.0, ours) / theirs, 0.7)
        else:
            section.targets.append((f"{what}: added", "nftables' part is within the noise", "", False))
    return section
