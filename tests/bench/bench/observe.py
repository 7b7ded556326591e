# SPDX-License-Identifier: Apache-2.0
"""What one observer takes in: the kernel's events to named flows and to messages."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from bench.firewall import FEW, Runs, Size, loaded
from bench.report import REPO, Section, median

sys.path.insert(0, str(REPO))

KEPT = 65_535  # the most that hubble.eventBufferCapacity takes
SHARE = 0.05  # of a core


def run(say: Callable[[str], None], passes: int = 5) -> Section:
    """CPU seconds of this thread; events come from new flows through the real program and the real ring."""
    from tests.fleets import numbered

    from wardmesh.daemon.flow_events import Raw, Translator
    from wardmesh.datapath import event_contract as ev
    from wardmesh.datapath import fw_contract as fw
    from wardmesh.datapath.event_ring import EventRing, watch
    from wardmesh.observe.getflows import Encoder
    from wardmesh.observe.names import Namer, Names
    from wardmesh.observe.ring import Ring

    size, fleet = Size(1_000, 1_000), numbered(1_000, 200)
    reading, naming, encoding = [], [], []
    with loaded(size) as wall:
        runs = Runs(wall, size)
        events = EventRing(runs._map("events"), fw.EVENTS_BYTES)
        watch(runs._map("watch"), told=True)
        namer, ring = Namer(Names(fleet, "h1")), Ring(KEPT)
        encoder = Encoder(lambda: "c/h1")
        frame = runs.frame(4, "ingress", size.newcomer(4), 2)
        for number in range(passes):
            say(f"pass {number + 1} of {passes}: {FEW:,} events")
            runs.forget()
            runs.time(runs.drivers[4].point(runs.programs["ingress"]), frame, FEW)
            translator = Translator("h1", 1, lambda _index: "eth0", 0)
            started = time.thread_time()
            told = [translator.event(Raw._make(ev.EVENT.unpack(data))) for data in events.read(FEW)]
            reading.append(len(told) / (time.thread_time() - started))
            started = time.thread_time()
            flows = [namer.flow(event) for event in told]
            ring.add(flows)
            naming.append(len(told) / (time.thread_time() - started))
            started = time.thread_time()
            for flow in flows[:4_000]:
                encoder.message(flow, None).SerializeToString()
            encoding.append(4_000 / (time.thread_time() - started))
        watch(runs._map("watch"), told=False)
        events.close()
        runs.close()
    whole = 1 / (1 / median(reading) + 1 / median(naming))
    section = Section(
        "The observer",
        f"Events of {FEW:,} new flows at a time, from the kernel's ring to flows with names of a fleet of "
        f"1,000, kept in a ring of {KEPT:,}; then as messages of Hubble's API. CPU seconds of one thread, "
        f"medians of {passes} passes. What an event costs the packet: see the firewall. "
        "`make bench PART=observe`",
        ("step", "a second, at 100 % of a core", "at 5 %"),
        [
            ("events read from the ring", f"{median(reading):,.0f}", f"{median(reading) * SHARE:,.0f}"),
            ("named and kept", f"{median(naming):,.0f}", f"{median(naming) * SHARE:,.0f}"),
            ("both", f"{whole:,.0f}", f"{whole * SHARE:,.0f}"),
            ("as messages, for each client", f"{median(encoding):,.0f}", f"{median(encoding) * SHARE:,.0f}"),
        ],
    )
    section.judge("records a second at 5 % of a core", whole * SHARE, 300_000, at_most=False)
    return section
