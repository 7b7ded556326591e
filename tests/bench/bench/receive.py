# SPDX-License-Identifier: Apache-2.0
"""The same packets through a host's receive path: our firewall, nftables as an expert writes it, others.

As a program it prints its samples as JSON; bench.iptables runs it on a machine whose kernel has the tables of
iptables-legacy.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.firewall import OWN, Size, loaded, tcp
from bench.report import REPO, Section, median

sys.path.insert(0, str(REPO))

SIZE = Size(20_000, 1_000)  # half of the peers are IPv4: ten thousand
MEMBERS, LINEAR_RULES = SIZE.identities // 2, 1_000
PORT, FLOWS, MANY = 2_001, 1 << 14, 200_000
NONE, OURS = "no firewall", "wardmesh, 10,000 peers, 1,000 rules"
SET, LINEAR = "nftables, conntrack and a set of 10,000", "nftables, conntrack and 1,000 linear rules"
IPTABLES = "iptables, conntrack and 1,000 linear rules"
LEGACY = "iptables-legacy, conntrack and 1,000 linear rules"
HERE = (NONE, OURS, SET, LINEAR, IPTABLES)
RESTORE = {IPTABLES: "iptables-nft-restore", LEGACY: "iptables-legacy-restore"}
METHOD = (
    "IPv4 datagrams, and for the last column TCP SYNs, that a test run puts into a tap device's receive "
    "path; nanoseconds for a packet from the driver to a socket that is full, or to the firewall that drops "
    "it, and what the firewall adds; denied: the whole, each packet from another port. Conntrack does not "
    "look at checksums, as with a network card that does."
)
Samples = dict[str, dict[str, list[float]]]  # ns by variant and case, a value for each pass
CASES = ("established", "established, 16k flows", "new", "denied", "SYN denied")


def peer(number: int) -> str:
    """An IPv4 peer; the last one may do nothing."""
    return str(ipaddress.ip_address(SIZE.friend(4)) + number)


def ruleset(linear: bool) -> str:
    """What is established first; then one look-up in a set, or a rule for each of many others."""
    head = "table inet bench {\n"
    body = "chain in { type filter hook input priority filter; policy drop;\nct state established accept\n"
    if linear:
        others = (
            f"ip saddr 10.9.{n >> 8}.{n & 255} udp dport {6000 + n} accept\n" for n in range(LINEAR_RULES)
        )
        body += "".join(others) + f"ip saddr != {peer(MEMBERS - 1)} udp dport {PORT} accept\n"
    else:
        elements = ", ".join(peer(number) for number in range(MEMBERS - 1))
        head += f"set members {{ type ipv4_addr; elements = {{ {elements} }} }}\n"
        body += f"ip saddr @members udp dport {PORT} accept\n"
    return head + body + "}\n}\n"


def tables() -> str:
    """The same as linear rules, for iptables-restore."""
    others = (
        f"-A INPUT -s 10.9.{n >> 8}.{n & 255} -p udp --dport {6000 + n} -j ACCEPT\n"
        for n in range(LINEAR_RULES)
    )
    return (
        "*filter\n:INPUT DROP\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n"
        + "".join(others)
        + f"-A INPUT ! -s {peer(MEMBERS - 1)} -p udp --dport {PORT} -j ACCEPT\nCOMMIT\n"
    )


class Stage:
    """A tap device with a socket behind it, in the namespace that the calling thread is in."""

    def __init__(self) -> None:
        from tests.bpf import packets
        from tests.bpf.inject import Injector, Tap
        from tests.bpf.netns import ip

        self._packets, self._ip = packets, ip
        ip("link set lo up")
        self.tap = Tap("tap0", f"{OWN[4]}/8")
        self.one, self.many = Injector(1), Injector(FLOWS)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # full at once: nobody reads
        self._socket.bind((OWN[4], PORT))
        ip(f"neigh add {peer(0)} lladdr 02:00:00:00:00:02 dev tap0")

    def send(self, injector: Any, source: str, count: int, *, syn: bool = False) -> float:
        """Nanoseconds for a datagram, or a SYN, of that source to our port."""
        from tests.bpf.inject import addressed

        load = tcp(1, PORT, 2) if syn else self._packets.udp(1, PORT)
        text = self._packets.ethernet(self._packets.ipv4(source, OWN[4], load))
        return float(injector.run(self.tap, addressed(text, self.tap.mac), count))

    def answer(self) -> None:
        """The first peer's datagrams from every port are answered."""
        from tests.bpf.inject import FIRST_PORT

        self.send(self.many, peer(0), FLOWS)
        for port in range(FIRST_PORT, FIRST_PORT + FLOWS):
            self._socket.sendto(b"x", (peer(0), port))

    def costs(self, number: int, many: int) -> dict[str, float]:
        """Every case of a pass."""
        self.send(self.one, peer(0), many // 10)
        return {
            CASES[0]: self.send(self.one, peer(0), many),
            CASES[1]: self.send(self.many, peer(0), many),
            CASES[2]: self.send(self.many, peer(number + 1), FLOWS),
            CASES[3]: self.send(self.many, peer(MEMBERS - 1), many // 10),
            CASES[4]: self.send(self.many, peer(MEMBERS - 1), many // 10, syn=True),
        }

    def close(self) -> None:
        """Let go of everything."""
        for held in (self.one, self.many, self.tap, self._socket):
            held.close()


@contextmanager
def staged(name: str, wall: Any) -> Iterator[tuple[Stage, Any]]:
    """A stage in a namespace of its own with this firewall on it; ours is moved there by being attached."""
    from tests.bpf.netns import Namespace

    namespace = Namespace()
    with namespace.entered():
        stage = Stage()
        if name == OURS:
            wall.attach([(stage.tap.index, "tap0", True)])
        if name in (SET, LINEAR):
            subprocess.run(
                ["nft", "-f", "-"], input=ruleset(name == LINEAR), text=True, check=True, capture_output=True
            )
        if name in RESTORE:
            subprocess.run([RESTORE[name]], input=tables(), text=True, check=True, capture_output=True)
        if name not in (NONE, OURS):
            Path("/proc/sys/net/netfilter/nf_conntrack_checksum").write_text("0")
        stage.answer()
    try:
        yield stage, namespace
    finally:
        stage.close()
        namespace.close()


def run(say: Callable[[str], None], passes: int = 7) -> Section:
    """All variants in turn, within each pass."""
    samples = measured(say, HERE, passes, MANY)
    section = table(
        samples,
        "The same packets through the receive path",
        f"{METHOD} iptables is the one that Debian, Ubuntu and RHEL call so, which keeps them in nf_tables; "
        f"for its older kind see the machine below. Medians of {passes} passes, in each of which all "
        "variants run. `make bench PART=receive`",
    )
    for case in (CASES[0], CASES[2]):
        figure = added(samples, OURS, case) / added(samples, SET, case)
        section.judge(f"{case}: added, to nftables with a set", figure, 1 / 3)
    judge_denied(section, samples, SET, "nftables with a set", 1 / 2)
    judge_denied(section, samples, IPTABLES, "1,000 rules of iptables", 1 / 20)
    return section


def measured(say: Callable[[str], None], names: tuple[str, ...], passes: int, many: int) -> Samples:
    """Nanoseconds for a packet, of each variant, case and pass; many: packets of a known flow in a pass."""
    samples: Samples = {name: {case: [] for case in CASES} for name in names}
    with ExitStack() as held:
        wall: Any = held.enter_context(loaded(SIZE))
        stages = {name: held.enter_context(staged(name, wall)) for name in samples}
        for number in range(passes):
            say(f"pass {number + 1} of {passes}")
            for name, (stage, namespace) in stages.items():
                with namespace.entered():
                    for case, spent in stage.costs(number, many).items():
                        samples[name][case].append(spent)
    return samples


def added(samples: Samples, name: str, case: str) -> float:
    """What a firewall adds to a packet, ns."""
    return median([a - b for a, b in zip(samples[name][case], samples[NONE][case], strict=True)])


def judge_denied(section: Section, samples: Samples, name: str, what: str, limit: float) -> None:
    """The whole of a packet that is dropped, to what another firewall needs."""
    for case in CASES[3:]:
        section.judge(f"{case}, to {what}", median(samples[OURS][case]) / median(samples[name][case]), limit)


def table(samples: Samples, title: str, method: str) -> Section:
    """A line for each variant."""
    section = Section(title, method, ("", *(f"{case}, ns" for case in CASES)))
    for name, found in samples.items():
        cells = []
        for case, values in found.items():
            plus = "" if name == NONE or case in CASES[3:] else f" (+{added(samples, name, case):.0f})"
            cells.append(f"{median(values):.0f}{plus}")
        section.rows.append((name, *cells))
    return section


def main() -> None:
    """Every variant, also the older iptables; passes and packets are the arguments."""
    passes, many = (int(word) for word in sys.argv[1:3])

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    print(json.dumps(measured(say, (*HERE, LEGACY), passes, many)))


if __name__ == "__main__":
    main()
