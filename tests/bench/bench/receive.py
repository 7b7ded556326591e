# SPDX-License-Identifier: Apache-2.0
"""The same packets through a host's receive path: our firewall, nftables as an expert writes it, others.

As a program it prints its samples as JSON; bench.iptables runs it on a machine whose kernel has the tables of
iptables-legacy.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.firewall import OWN, tcp
from bench.report import REPO, Section, median
from bench.rivals import (
    GROWTH,
    NONE,
    OURS,
    PEERS,
    PORT,
    SET,
    Variant,
    iptables,
    legacy,
    nft_rules,
    nft_set,
    peer,
    walls,
    wardmesh,
)

sys.path.insert(0, str(REPO))

FLOWS, MANY = 1 << 14, 200_000
HERE = (NONE, OURS, SET, nft_rules(1_000), iptables(1_000))
METHOD = (
    "IPv4 datagrams, and for the last column TCP SYNs, that a test run puts into a tap device's receive "
    "path; nanoseconds for a packet from the driver to a socket that is full, or to the firewall that drops "
    "it, and what the firewall adds; denied: the whole, each packet from another port. Conntrack does not "
    "look at checksums, as with a network card that does."
)
Samples = dict[str, dict[str, list[float]]]  # ns by variant and case, a value for each pass
CASES = ("established", "established, 16k flows", "new", "denied", "SYN denied")


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
            CASES[3]: self.send(self.many, peer(PEERS - 1), many // 10),
            CASES[4]: self.send(self.many, peer(PEERS - 1), many // 10, syn=True),
        }

    def close(self) -> None:
        """Let go of everything."""
        for held in (self.one, self.many, self.tap, self._socket):
            held.close()


@contextmanager
def staged(variant: Variant, wall: Any) -> Iterator[tuple[Stage, Any]]:
    """A stage in a namespace of its own with this firewall on it; ours is moved there by being attached."""
    from tests.bpf.netns import Namespace

    namespace = Namespace()
    with namespace.entered():
        stage = Stage()
        variant.install("udp", wall, (stage.tap.index, "tap0", True))
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
        f"{METHOD} iptables is the one that Debian, Ubuntu and RHEL call so, which keeps its rules in "
        f"nf_tables; for its older kind see the machine below. Medians of {passes} passes, in each of which "
        "all variants run. `make bench PART=receive`",
    )
    for case in (CASES[0], CASES[2]):
        figure = added(samples, OURS, case) / added(samples, SET, case)
        section.judge(f"{case}: added, to nftables with a set", figure, 1 / 3)
    judge_denied(section, samples, SET, "nftables with a set", 1 / 2)
    judge_denied(section, samples, iptables(1_000), "1,000 rules of iptables", 1 / 20)
    return section


def run_growth(say: Callable[[str], None], passes: int = 3) -> Section:
    """Each kind of firewall with more and more rules."""
    kinds = {
        "wardmesh": wardmesh,
        "nftables, a set": nft_set,
        "nftables, rules": nft_rules,
        "iptables": iptables,
    }
    variants = {name: [kind(rules) for rules in GROWTH] for name, kind in kinds.items()}
    samples = measured(
        say, (NONE, *(one for found in variants.values() for one in found)), passes, MANY // 10
    )
    section = Section(
        "The receive path as rules grow",
        f"As above, with other numbers of rules, or of elements of the set; ours has {PEERS:,} peers. "
        f"Nanoseconds: what is added, and of packets that are denied the whole. Medians of {passes} passes. "
        "`make bench PART=growth`",
        ("", *(f"{rules:,} rules" for rules in GROWTH)),
    )
    for case in (CASES[0], CASES[2], CASES[3], CASES[4]):
        for name, found in variants.items():
            cells = [_cell(samples, one, case) for one in found]
            section.rows.append((f"{case}: {name}", *cells))
    return section


def _cell(samples: Samples, variant: Variant, case: str) -> str:
    if case in CASES[3:]:
        return f"{median(samples[variant.name][case]):,.0f}"
    return f"+{added(samples, variant, case):,.0f}"


def measured(say: Callable[[str], None], variants: tuple[Variant, ...], passes: int, many: int) -> Samples:
    """Nanoseconds for a packet, of each variant, case and pass; many: packets of a known flow in a pass."""
    samples: Samples = {one.name: {case: [] for case in CASES} for one in variants}
    with walls(variants) as found, ExitStack() as held:
        stages = {one.name: held.enter_context(staged(one, found.get(one.name))) for one in variants}
        for number in range(passes):
            say(f"pass {number + 1} of {passes}")
            for name, (stage, namespace) in stages.items():
                with namespace.entered():
                    for case, spent in stage.costs(number, many).items():
                        samples[name][case].append(spent)
    return samples


def added(samples: Samples, variant: Variant, case: str) -> float:
    """What a firewall adds to a packet, ns."""
    pairs = zip(samples[variant.name][case], samples[NONE.name][case], strict=True)
    return median([with_it - without for with_it, without in pairs])


def judge_denied(section: Section, samples: Samples, other: Variant, what: str, limit: float) -> None:
    """The whole of a packet that is dropped, to what another firewall needs."""
    for case in CASES[3:]:
        figure = median(samples[OURS.name][case]) / median(samples[other.name][case])
        section.judge(f"{case}, to {what}", figure, limit)


def table(samples: Samples, title: str, method: str) -> Section:
    """A line for each variant."""
    section = Section(title, method, ("", *(f"{case}, ns" for case in CASES)))
    for name, found in samples.items():
        cells = []
        for case, values in found.items():
            plus = ""
            if name != NONE.name and case not in CASES[3:]:
                plus = f" (+{added(samples, Variant(name), case):.0f})"
            cells.append(f"{median(values):.0f}{plus}")
        section.rows.append((name, *cells))
    return section


def main() -> None:
    """Every variant, also the older iptables; passes and packets are the arguments."""
    passes, many = (int(word) for word in sys.argv[1:3])

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    print(json.dumps(measured(say, (*HERE, legacy(1_000)), passes, many)))


if __name__ == "__main__":
    main()
