# SPDX-License-Identifier: Apache-2.0
"""The worker's loop: jobs, events, periods. The engine is a fake that counts."""

from __future__ import annotations

import os
import threading

import pytest

from wardmesh.daemon.worker import Worker
from wardmesh.model.errors import WardmeshError


class Engine:
    def __init__(self):
        self.passes = threading.Semaphore(0)
        self.kinds = set()

    def eager(self):
        return False

    def note(self, kinds):
        self.kinds |= set(kinds)

    def reconcile(self):
        self.passes.release()
        raise WardmeshError("a pass that fails must not end the loop")


class Watch:
    def __init__(self):
        self.read, self.write = os.pipe()

    def fileno(self):
        return self.read

    def drain(self):
        os.read(self.read, 100)
        return frozenset({"link"})


@pytest.fixture
def running():
    engine, watch = Engine(), Watch()
    worker = Worker(engine, watch)
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield engine, watch, worker
    worker.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_an_event_leads_to_a_pass_although_an_earlier_one_failed(running):
    engine, watch, _worker = running
    for _round in range(2):
        os.write(watch.write, b"x")
        assert engine.passes.acquire(timeout=10)
    assert engine.kinds == {"link"}


def test_a_job_is_done_in_the_worker_and_its_error_comes_back(running):
    _engine, _watch, worker = running
    assert (
        worker.submit(lambda: threading.current_thread().name).result(10) != threading.current_thread().name
    )

    def fail():
        raise WardmeshError("no")

    with pytest.raises(WardmeshError, match="no"):
        worker.submit(fail).result(10)
