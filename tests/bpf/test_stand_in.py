# SPDX-License-Identifier: Apache-2.0
"""The stand-in on devices: it comes and goes device by device, beside guard and others' filters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.bpf import stub
from tests.bpf.harness import FLEET, LISTEN_PORT, TestPaths, bpf_filesystem
from tests.bpf.netns import Namespace, ip, tc

from wardmesh.daemon.cleanup import present
from wardmesh.datapath import loader
from wardmesh.datapath.attachment import Device
from wardmesh.datapath.closed_door import Doors
from wardmesh.datapath.guard import Guard
from wardmesh.datapath.stand_in import StandIn
from wardmesh.datapath.tc import FIREWALL_PREFIX, PREFIX
from wardmesh.model.errors import WardmeshError

pytestmark = pytest.mark.netns

SSH = Doors((LISTEN_PORT,), ((6, 22),))
MORE = Doors((LISTEN_PORT,), ((6, 22), (6, 2222)))


@pytest.fixture
def paths(privileged: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestPaths]:
    """A fresh bpf file system, and small programs instead of the guard's."""
    monkeypatch.setattr(loader, "compile_and_pin", stub.compile_and_pin)
    with bpf_filesystem(tmp_path) as found:
        yield found


@pytest.fixture
def devices() -> Iterator[tuple[Device, Device]]:
    """A namespace with two devices."""
    namespace = Namespace()
    with namespace.entered():
        ip("link add v0 type veth peer name v1")
        index = {name: int(ip(f"-o link show {name}").split(":")[0]) for name in ("v0", "v1")}
        yield (index["v0"], "v0", True), (index["v1"], "v1", True)
    namespace.close()


def shown(name: str) -> list[str]:
    """Names of the filters of a device, in the order in which they run, incoming ones first."""
    lines = (tc(f"filter show dev {name} ingress") + tc(f"filter show dev {name} egress")).split()
    return [word.rpartition("-")[0] for word in lines if word.startswith("wardmesh")]


def guarded(paths: TestPaths, *devices: Device) -> Guard:
    """A guard on these."""
    guard = Guard(paths, LISTEN_PORT, 256)
    guard.ensure_loaded()
    guard.set_members(FLEET)
    guard.attach(devices)
    return guard


BOTH = ["wardmeshshut-ingress-l2", "wardmeshshut-egress-l2"]
REAL = ["wardmesh-ingress-l2", "wardmesh-egress-l2"]


def test_it_covers_every_device_once_and_follows_what_is_to_be_open(
    paths: TestPaths, devices: tuple[Device, Device]
) -> None:
    stand_in = StandIn(paths)
    assert stand_in.standing() == frozenset()
    assert len(stand_in.cover(devices, SSH)) == 6  # two qdiscs and four filters
    assert shown("v0") == shown("v1") == BOTH
    assert stand_in.cover(devices, SSH) == []
    assert all(line.endswith("swapped") for line in stand_in.cover(devices, MORE))
    assert shown("v0") == BOTH
    stand_in.close()
    assert StandIn(paths).standing() == {device[0] for device in devices}  # it needs nobody


def test_it_goes_from_each_device_on_which_the_real_filters_stand(
    paths: TestPaths, devices: tuple[Device, Device]
) -> None:
    first, second = devices
    stand_in = StandIn(paths)
    stand_in.cover(devices, SSH)
    needs = {first[0]: (PREFIX,), second[0]: (PREFIX, FIREWALL_PREFIX)}
    assert stand_in.release(needs, loaded=True) == [] and shown("v0") == BOTH
    guard = guarded(paths, *devices)
    assert shown("v0") == [REAL[0], BOTH[0], REAL[1], BOTH[1]]  # the real one has the first place
    assert len(stand_in.release(needs, loaded=True)) == 2
    assert shown("v0") == REAL and stand_in.standing() == {second[0]}
    assert stand_in.release({}, loaded=False) == []
    assert stand_in.release({}, loaded=True) and shown("v1") == REAL  # of a device that nobody guards
    guard.teardown()
    stand_in.close()
    assert "clsact" not in tc("qdisc show")


def test_one_direction_of_the_real_filters_is_not_enough(
    paths: TestPaths, devices: tuple[Device, Device]
) -> None:
    first, _second = devices
    stand_in = StandIn(paths)
    stand_in.cover([first], SSH)
    guard = guarded(paths, first)
    tc("filter del dev v0 egress pref 1")
    assert stand_in.release({first[0]: (PREFIX,)}, loaded=True) == []
    assert stand_in.standing() == {first[0]}
    guard.close()


def test_a_device_that_refuses_it_leaves_no_other_open(
    paths: TestPaths, devices: tuple[Device, Device]
) -> None:
    tc("qdisc add dev v0 ingress")
    stand_in = StandIn(paths)
    with pytest.raises(WardmeshError, match="ingress qdisc"):
        stand_in.cover(devices, SSH)
    assert shown("v1") == BOTH
    stand_in.close()


def test_cleanup_tells_of_it_and_removes_it_with_its_qdisc(
    paths: TestPaths, devices: tuple[Device, Device]
) -> None:
    stand_in = StandIn(paths)
    stand_in.cover(devices, SSH)
    stand_in.close()
    assert {"guard on v0, ingress", "guard on v1, egress"} <= set(present(paths))
    removed = StandIn(paths).remove()
    assert shown("v0") == shown("v1") == [] and "clsact" not in tc("qdisc show")
    assert any("clsact removed" in line for line in removed)
