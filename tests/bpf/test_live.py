# SPDX-License-Identifier: Apache-2.0
"""The guard on a device: real sockets, a receiver or a capture on the other side proves what came through."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.bpf.harness import (
    FLEET,
    LISTEN_PORT,
    PYTHON,
    SELF4,
    SELF6,
    STRICT4,
    STRICT6,
    TestPaths,
    bpf_filesystem,
    network,
)
from tests.bpf.live import BEYOND4, Flood, Neighbourhood, neighbourhood, receive
from tests.bpf.netns import ip, set_sysctl, tc
from tests.waiting import eventually

from wardmesh.datapath import bpfsys, loader
from wardmesh.datapath.attachment import Attachment
from wardmesh.datapath.contract import MARK, MEMBER, PROGRAMS, STRICT
from wardmesh.datapath.guard import Guard
from wardmesh.datapath.pins import Pins
from wardmesh.datapath.tc import FIREWALL_PREFIX, Tc
from wardmesh.model.errors import WardmeshError

pytestmark = pytest.mark.netns

TEXT = b"the quick brown fox in plain text"
DROPPED = "Traffic is unencrypted"


@pytest.fixture(scope="module")
def paths(privileged: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPaths]:
    """One bpf file system for this file, so that the programs are compiled once."""
    with bpf_filesystem(tmp_path_factory.mktemp("live")) as found:
        yield found


@pytest.fixture
def guard(paths: TestPaths) -> Iterator[Guard]:
    """A loaded guard that knows the fleet."""
    loaded = Guard(paths, LISTEN_PORT, 4096, PYTHON)
    loaded.ensure_loaded()
    loaded.set_members(FLEET)
    loaded.set_exceptions(())
    yield loaded
    loaded.close()


@pytest.fixture
def scene(guard: Guard) -> Iterator[Neighbourhood]:
    """Three namespaces; the guard sits on the host's device towards the member."""
    with neighbourhood() as found, found.host.entered():
        assert guard.attach([found.device]) == [
            "guard: a0: clsact added",
            "guard: a0: ingress attached",
            "guard: a0: egress attached",
        ]
        yield found


def dropped(guard: Guard, direction: str) -> int:
    return guard.counters_by_direction()[DROPPED, direction].packets


def refuse(sock: socket.socket, dest: tuple[str, int]) -> None:
    """Send; a drop at egress may be told to the sender."""
    try:
        sock.sendto(TEXT, dest)
    except OSError:
        return


@pytest.mark.parametrize(("own", "peer"), [(SELF4, STRICT4), (SELF6, STRICT6)], ids=["IPv4", "IPv6"])
def test_plain_packets_die_in_both_directions(
    guard: Guard, scene: Neighbourhood, own: str, peer: str
) -> None:
    wire = scene.capture(scene.member, "b0")
    here = scene.udp(scene.host, own, 5000)
    there = scene.udp(scene.member, peer, 5000)
    out_before, in_before = dropped(guard, "egress"), dropped(guard, "ingress")
    for _packet in range(10):
        refuse(here, (peer, 5000))
        there.sendto(TEXT, (own, 5000))
    assert eventually(lambda: dropped(guard, "egress") >= out_before + 10)
    assert eventually(lambda: dropped(guard, "ingress") >= in_before + 10)
    assert receive(here, 0.1) is None
    assert receive(there, 0.1) is None
    assert wire.with_text(TEXT) == []


@pytest.mark.parametrize(("own", "peer"), [(SELF4, STRICT4), (SELF6, STRICT6)], ids=["IPv4", "IPv6"])
def test_the_tunnels_packets_pass(scene: Neighbourhood, own: str, peer: str) -> None:
    here = scene.udp(scene.host, own, LISTEN_PORT, mark=MARK)
    there = scene.udp(scene.member, peer, LISTEN_PORT)
    here.sendto(TEXT, (peer, LISTEN_PORT))
    assert receive(there) == TEXT
    there.sendto(TEXT, (own, LISTEN_PORT))
    assert receive(here) == TEXT


def test_large_tunnel_packets_pass_in_fragments(scene: Neighbourhood) -> None:
    here = scene.udp(scene.host, SELF4, LISTEN_PORT, mark=MARK)
    there = scene.udp(scene.member, STRICT4, LISTEN_PORT)
    large = TEXT * 150
    here.sendto(large, (STRICT4, LISTEN_PORT))
    assert receive(there) == large
    there.sendto(large, (SELF4, LISTEN_PORT))
    assert receive(here) == large


def test_traffic_through_the_host_passes(guard: Guard, scene: Neighbourhood) -> None:
    member = scene.udp(scene.member, STRICT4, 5000)
    beyond = scene.udp(scene.beyond, BEYOND4, 5000)
    member.sendto(TEXT, (BEYOND4, 5000))
    assert receive(beyond) == TEXT
    beyond.sendto(TEXT, (STRICT4, 5000))
    assert receive(member) == TEXT
    assert guard.counters_by_direction()["Forwarded", "ingress"].packets > 0
    assert guard.counters_by_direction()["Forwarded", "egress"].packets > 0


def test_a_member_that_is_not_strict_is_reached(guard: Guard, scene: Neighbourhood) -> None:
    guard.set_members({**FLEET, network(STRICT4): (65792, MEMBER)})
    here = scene.udp(scene.host, SELF4, 5000)
    there = scene.udp(scene.member, STRICT4, 5000)
    here.sendto(TEXT, (STRICT4, 5000))
    assert receive(there) == TEXT
    there.sendto(TEXT, (SELF4, 5000))
    assert receive(here) == TEXT
    guard.set_members(FLEET)
    there.sendto(TEXT, (SELF4, 5000))
    assert receive(here, 0.1) is None


def second_programs(paths: TestPaths) -> dict[str, int]:
    """The same programs a second time, as an upgrade brings them: other programs on the same maps."""
    build = loader.plan_build(PYTHON, next(paths.bpffs.glob("maps-*")), "")
    folder = paths.bpffs / "second"
    folder.mkdir()
    loader.compile_and_pin(build, {name: folder / name for name in PROGRAMS}, PYTHON, paths)
    return {name: bpfsys.obj_get(folder / name) for name in PROGRAMS}


def test_twenty_swaps_under_a_flood_leak_nothing(
    guard: Guard, scene: Neighbourhood, paths: TestPaths
) -> None:
    pins = Pins(paths.bpffs)
    first = {name: bpfsys.obj_get(next(paths.bpffs.glob("prog-*")) / name) for name in PROGRAMS}
    second = second_programs(paths)
    wire = scene.capture(scene.member, "b0")
    here = scene.udp(scene.host, SELF4, 5000)
    inbox = scene.udp(scene.host, SELF4, 5001)
    there = scene.udp(scene.member, STRICT4, 5000)
    out_before, in_before = dropped(guard, "egress"), dropped(guard, "ingress")
    with Flood(here, (STRICT4, 5000), TEXT) as out, Flood(there, (SELF4, 5001), TEXT) as back:
        for swap in range(20):
            assert eventually(lambda: dropped(guard, "egress") > out_before)
            programs = first if swap % 2 else second
            assert Attachment(pins, programs).attach([scene.device]) == [
                "guard: a0: ingress swapped",
                "guard: a0: egress swapped",
            ]
            assert out.more(100)
            assert back.more(100)
    assert out.sent > 2000
    assert eventually(lambda: dropped(guard, "egress") - out_before == out.sent)
    assert eventually(lambda: dropped(guard, "ingress") - in_before == back.sent)
    assert wire.with_text(TEXT) == []
    assert receive(inbox, 0.1) is None
    for fd in (*first.values(), *second.values()):
        os.close(fd)


def test_a_second_attach_changes_nothing(guard: Guard, scene: Neighbourhood) -> None:
    assert guard.attach([scene.device]) == []
    assert guard.problems([scene.device]) == []


def test_filters_that_somebody_deletes_come_back(guard: Guard, scene: Neighbourhood) -> None:
    there = scene.udp(scene.member, STRICT4, 5000)
    here = scene.udp(scene.host, SELF4, 5000)
    tc("filter del dev a0 ingress")
    there.sendto(TEXT, (SELF4, 5000))
    assert receive(here) == TEXT  # the hole is real
    assert guard.problems([scene.device]) == ["a0 ingress: the guard is not attached"]
    assert guard.attach([scene.device]) == ["guard: a0: ingress attached"]
    there.sendto(TEXT, (SELF4, 5000))
    assert receive(here, 0.1) is None
    tc("qdisc del dev a0 clsact")
    assert len(guard.attach([scene.device])) == 3
    there.sendto(TEXT, (SELF4, 5000))
    assert receive(here, 0.1) is None


def test_the_guard_outlives_the_process(scene: Neighbourhood, paths: TestPaths) -> None:
    """Another process attaches and is killed; the filters go on."""
    tc("qdisc del dev a0 clsact")
    code = (
        "import sys, os, signal; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path\n"
        "from tests.bpf.harness import TestPaths\n"
        "from wardmesh.datapath.guard import Guard\n"
        f"guard = Guard(TestPaths(home=Path(sys.argv[3])), {LISTEN_PORT}, 4096, {PYTHON!r})\n"
        "assert not guard.ensure_loaded().compiled\n"
        f"guard.attach([({scene.device[0]}, 'a0', True)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    repo = Path(__file__).resolve().parents[2]
    arguments = [str(repo / "agent"), str(repo), str(paths.home)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=False)
    assert done.returncode == -9
    here = scene.udp(scene.host, SELF4, 5000)
    scene.udp(scene.member, STRICT4, 5000).sendto(TEXT, (SELF4, 5000))
    assert receive(here, 0.2) is None


def test_teardown_leaves_nothing_of_ours(guard: Guard, scene: Neighbourhood) -> None:
    guard.detach_all()
    assert "clsact" not in tc("qdisc show dev a0")
    here = scene.udp(scene.host, SELF4, 5000)
    scene.udp(scene.member, STRICT4, 5000).sendto(TEXT, (SELF4, 5000))
    assert receive(here) == TEXT


def test_whoever_is_detached_last_takes_our_qdisc_along(guard: Guard, scene: Neighbourhood) -> None:
    second = Attachment(guard._pins, guard._loaded.programs, FIREWALL_PREFIX)
    second.attach([scene.device])
    second.detach_all()
    assert "clsact" in tc("qdisc show dev a0")
    guard.detach_all()
    assert "clsact" not in tc("qdisc show dev a0")


def test_an_operators_qdisc_and_filters_are_left_alone(guard: Guard, scene: Neighbourhood) -> None:
    guard.detach_all()
    tc("qdisc add dev a0 clsact")
    tc("filter add dev a0 ingress prio 7 protocol ip u32 match ip dst 192.0.2.1/32 classid 1:1")
    before = tc("filter show dev a0 ingress")
    assert guard.attach([scene.device]) == ["guard: a0: ingress attached", "guard: a0: egress attached"]
    assert guard.problems([scene.device]) == []
    here = scene.udp(scene.host, SELF4, 5000)
    scene.udp(scene.member, STRICT4, 5000).sendto(TEXT, (SELF4, 5000))
    assert receive(here, 0.1) is None
    guard.detach_all()
    assert tc("filter show dev a0 ingress") == before
    assert "clsact" in tc("qdisc show dev a0")
    tc("filter del dev a0 ingress")
    guard.detach_all()
    assert "clsact" in tc("qdisc show dev a0")  # empty, but not ours


def test_our_clsact_stays_while_somebody_uses_it(guard: Guard, scene: Neighbourhood) -> None:
    tc("filter add dev a0 egress prio 9 protocol ip u32 match ip dst 192.0.2.1/32 classid 1:1")
    guard.detach_all()
    assert "clsact" in tc("qdisc show dev a0")
    assert "u32" in tc("filter show dev a0 egress")


def test_a_filter_before_the_guard_is_a_problem(guard: Guard, scene: Neighbourhood) -> None:
    guard.detach_all()
    tc("qdisc add dev a0 clsact")
    tc("filter add dev a0 ingress prio 1 protocol ip u32 match ip dst 192.0.2.1/32 classid 1:1")
    guard.attach([scene.device])
    found = guard.problems([scene.device])
    assert len(found) == 1
    assert found[0].startswith("a0 ingress: a u32 filter at priority 1 runs before the guard")
    assert found[0].endswith("move it to priority 3 or later")
    assert guard.attach([scene.device]) == []


def test_anothers_bpf_filter_at_the_same_priority_is_kept(
    guard: Guard, scene: Neighbourhood, paths: TestPaths
) -> None:
    """Others use priority 1 and handle 1, too; ours runs before theirs."""
    guard.detach_all()
    tc("qdisc add dev a0 clsact")
    pin = next(paths.bpffs.glob("prog-*")) / "egress_l2"
    tc(f"filter add dev a0 ingress prio 1 handle 1 bpf direct-action object-pinned {pin}")
    assert guard.attach([scene.device]) == ["guard: a0: ingress attached", "guard: a0: egress attached"]
    assert guard.problems([scene.device]) == []
    with Tc() as link:
        filters = link.filters(scene.device[0], 1)
    assert [entry.ours for entry in filters] == [True, False]


def test_an_ingress_qdisc_is_refused_with_advice(guard: Guard, scene: Neighbourhood) -> None:
    guard.detach_all()
    tc("qdisc add dev a0 ingress")
    with pytest.raises(WardmeshError, match="a0: the device has an ingress qdisc, which has no egress hook"):
        guard.attach([scene.device])


def test_a_device_that_is_gone_is_no_error(guard: Guard, scene: Neighbourhood) -> None:
    assert guard.attach([(9999, "gone0", True)]) == []


def test_a_device_without_link_layer_gets_its_own_programs(guard: Guard, scene: Neighbourhood) -> None:
    ip("tuntap add dev t0 mode tun")
    index = int(ip("-o link show t0").split(":")[0])
    assert len(guard.attach([(index, "t0", False)])) == 3
    assert "wardmesh-egress-l3" in tc("filter show dev t0 egress")


@pytest.mark.parametrize("attached", [True, False], ids=["guarded", "without the guard"])
def test_strict_reverse_path_check_takes_a_members_packet(
    guard: Guard, scene: Neighbourhood, attached: bool
) -> None:
    """rp_filter=1 and the tunnel's routing rules: only the mark tells the kernel where the member lives."""
    guard.set_members({**FLEET, network(STRICT4): (65792, MEMBER)})
    ip("link add wm_test type veth peer name wm_peer")
    ip("link set wm_test up")
    ip("link set wm_peer up")
    ip(f"route add {STRICT4} dev wm_test table 51871")
    ip("rule add pref 90 fwmark 0x1e00/0xff00 goto 99")
    ip("rule add pref 95 lookup 51871")
    ip("rule add pref 99 nop")
    for device in ("all", "a0"):
        set_sysctl(f"ipv4.conf.{device}.rp_filter", 1)
    set_sysctl("ipv4.conf.a0.src_valid_mark", 1)
    if not attached:
        guard.detach_all()
    here = scene.udp(scene.host, SELF4, 5000)
    scene.udp(scene.member, STRICT4, 5000).sendto(TEXT, (SELF4, 5000))
    assert receive(here, 5.0 if attached else 0.2) == (TEXT if attached else None)


def test_strictness_grows_without_a_window(guard: Guard, scene: Neighbourhood) -> None:
    """The member's address moves between hash and trie, its subnet is split: a flood sees no gap."""
    wire = scene.capture(scene.member, "b0")
    here = scene.udp(scene.host, SELF4, 5000)
    others = {key: value for key, value in FLEET.items() if key != network(STRICT4)}
    forms = [
        {network(STRICT4): (65792, MEMBER | STRICT)},
        {network("10.0.0.0/30"): (65792, MEMBER | STRICT)},
        {network("10.0.0.2/31"): (65792, MEMBER | STRICT), network("10.0.0.0/31"): (7, MEMBER | STRICT)},
        {network("10.0.0.0/29"): (65793, MEMBER | STRICT)},
    ]
    before = dropped(guard, "egress")
    with Flood(here, (STRICT4, 5000), TEXT) as out:
        for turn in range(40):
            guard.set_members({**others, **forms[turn % len(forms)]})
            assert out.more(30)
    assert eventually(lambda: dropped(guard, "egress") - before == out.sent)
    assert wire.with_text(TEXT) == []
