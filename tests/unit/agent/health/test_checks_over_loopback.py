# SPDX-License-Identifier: Apache-2.0
"""Real checks of real sockets, over loopback: one peer that answers, one that refuses."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from tests.waiting import wait_for

from wardmesh.health.loop import Loop
from wardmesh.health.prober import Prober
from wardmesh.health.record import REACHABLE, Peer, document
from wardmesh.health.responder import Responder


def test_peers_over_loopback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as made:
        port = int(made.getsockname()[1])
    loop = Loop()
    responder = Responder(loop, {"127.0.0.1"}.__contains__, port)
    responder.listen(["127.0.0.2"])
    noted: list[tuple[bool, str, float]] = []
    prober = Prober(loop, lambda _address: "lo", lambda *said: noted.append(said), 1.0, time.time(), port)
    prober.set_peers("own", [Peer("answers", ("127.0.0.2",)), Peer("refuses", ("127.0.0.3",))])
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()

    def rows() -> dict[str, Any]:
        read = loop.ask(lambda: document(prober.records.values(), loop.clock()))
        return {row["name"]: row for row in read.result(5)}

    try:
        wait_for(lambda: {row["state"] for row in rows().values()} == {REACHABLE}, "all are reachable", 20.0)
        found = rows()
        assert found["answers"]["addresses"][0]["http"]["mean"] is not None
        assert found["refuses"]["addresses"][0]["http"]["error"] == "connection refused"
        assert found["answers"]["path"] == "plain" and responder.answered >= 1
        assert (True, "http") in {said[:2] for said in noted}
        if not prober.problems:  # where ICMP is allowed: as root, or in the range of the sysctl
            assert found["refuses"]["addresses"][0]["icmp"]["loss"] == 0
    finally:
        loop.stop()
        thread.join(10)
        prober.close()
        responder.close()
        loop.close()
