# SPDX-License-Identifier: Apache-2.0
"""Each check by a table of facts; every one has rows that are well and rows that are not."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from wardmesh.health.checks_host import CHECKS
from wardmesh.health.doctor import OK, PROBLEM, UNKNOWN, WARNING, Finding, examine, worst
from wardmesh.health.facts import (
    Agent,
    Attached,
    Chain,
    Checks,
    Device,
    Disk,
    Document,
    Facts,
    FilterRule,
    InstalledMap,
    Kernel,
    KeyFile,
    MapFill,
    PathMtu,
    Peer,
    Reverse,
    Settings,
    Trial,
    Unit,
    Unread,
)

WG = "wardmesh_wg0"
NOW = 1_000_000.0
BOTH, NONE = (True, True), (False, False)

AGENT = Agent(
    version="0.1.0",
    mode="strict",
    wish="strict",
    encryption=True,
    backend="kernel",
    listen_port=51871,
    generation=7,
    fleet_digest="abc",
    firewall=True,
    audit=False,
    policies=2,
    devices=("eth0",),
    peers=(
        Peer("db1", "up", "10.0.0.2:51871", True, NOW - 30),
        Peer("db2", "up", "10.0.0.3:51871", True, NOW - 900),
    ),
    problems=(),
    warnings=(),
    now=NOW,
)
HEALTHY = Facts(
    version="0.1.0",
    silence="",
    settings=Settings(firewall=True, metrics=True),
    agent=AGENT,
    trial=Trial(False, 0, ""),
    kernel=Kernel("6.1.0", "loaded", True, False, True, True),
    devices=(Device("eth0", True, 1500, "", True), Device(WG, True, 1420, "wireguard", False)),
    attached=(Attached("eth0", BOTH, BOTH), Attached(WG, NONE, BOTH)),
    udp_ports=frozenset({51871}),
    tcp_ports=frozenset({22, 9962}),
    filters=(),
    paths=(PathMtu("db1", "eth0", 1500), PathMtu("db2", "eth0", 1400)),
    reverse=Reverse({"all": 0, "eth0": 1, WG: 2}, {"all": 0, "eth0": 1, WG: 0}),
    clock=True,
    maps=(MapFill("guard/ipcache4", 4, 1000, False), MapFill("firewall/flows4", 10, 1000, True)),
    counters={"Plaintext ingress": 9},
    documents=(Document("/etc/wardmesh/config.yaml", ""),),
    key=KeyFile(True),
    disk=Disk("/var/lib/wardmesh", 10 << 30, 1 << 20),
    units=(
        Unit("wardmesh.service", "active", "enabled"),
        Unit("wardmesh-boot.service", "inactive", "enabled"),
        Unit("wardmesh-observer.service", "active", "enabled"),
    ),
    installed=InstalledMap(7, "abc", 3, 86400.0),
    checks=Checks(2, 0, (), (), ()),
)

DOWN = replace(AGENT.peers[1], tunnel="down")
NEVER = Peer("db3", "pending", "10.0.0.4:51871", False, 0.0)


def agent(**change):
    return {"agent": replace(AGENT, **change)}


def device(name, **change):
    return {"devices": tuple(replace(d, **change) if d.name == name else d for d in HEALTHY.devices)}


def rules(policy, *found):
    return {"filters": (Chain("inet filter input", policy, found),)}


def open_port(verdict="accept", plain=True):
    return FilterRule(verdict, "udp", ((51871, 51871),), plain)


SSH = FilterRule("accept", "tcp", ((22, 22),))
# check, change of the healthy facts, finding, a word that the finding must say
ROWS = [
    ("units", {"units": HEALTHY.units[1:]}, PROBLEM, "not installed"),
    ("units", {"units": (replace(HEALTHY.units[0], active="failed"), *HEALTHY.units[1:])}, PROBLEM, "failed"),
    (
        "units",
        {"units": (replace(HEALTHY.units[0], enabled="disabled"), *HEALTHY.units[1:])},
        PROBLEM,
        "boot",
    ),
    ("units", {"units": HEALTHY.units[:1]}, PROBLEM, "wardmesh-boot.service"),
    (
        "units",
        {"units": (HEALTHY.units[0], replace(HEALTHY.units[1], active="failed"))},
        PROBLEM,
        "failed at the last boot",
    ),
    ("units", {"units": HEALTHY.units[:2]}, WARNING, "observer"),
    ("agent-answers", {"silence": "no such socket"}, PROBLEM, "no such socket"),
    ("agent", agent(problems=("the guard is broken",)), PROBLEM, "the guard is broken"),
    ("agent", agent(warnings=("eth7 is missing",)), WARNING, "eth7"),
    ("wireguard", {"kernel": replace(HEALTHY.kernel, wireguard="missing")}, PROBLEM, "wireguard-go"),
    (
        "wireguard",
        {"kernel": replace(HEALTHY.kernel, wireguard="missing", userspace=True, tun=False)},
        PROBLEM,
        "/dev/net/tun",
    ),
    (
        "wireguard",
        {"kernel": replace(HEALTHY.kernel, wireguard="missing", userspace=True)},
        OK,
        "wireguard-go",
    ),
    ("wireguard", {"kernel": replace(HEALTHY.kernel, wireguard="available")}, OK, "module"),
    ("interface", {"devices": HEALTHY.devices[:1]}, PROBLEM, "does not exist"),
    ("interface", device(WG, up=False), PROBLEM, "down"),
    ("interface", {"devices": HEALTHY.devices[:1], "installed": None}, WARNING, "no fleet map"),
    (
        "interface",
        {"devices": HEALTHY.devices[:1], "settings": replace(HEALTHY.settings, encryption=False)},
        OK,
        "switched off",
    ),
    ("listening", {"udp_ports": frozenset({53})}, PROBLEM, "51871"),
    ("listening", {"udp_ports": frozenset(), "installed": None}, OK, "no tunnel"),
    ("handshakes", agent(peers=(AGENT.peers[0], DOWN)), PROBLEM, "not up: db2"),
    ("handshakes", agent(peers=(AGENT.peers[0], NEVER)), PROBLEM, "never: db3"),
    ("handshakes", agent(peers=(DOWN, NEVER)), PROBLEM, "no tunnel of 2"),
    ("handshakes", agent(peers=()), OK, "no peers"),
    ("packet-filter", rules("drop", SSH), WARNING, "not let in"),
    ("packet-filter", rules("accept", open_port("drop")), WARNING, "not let in"),
    ("packet-filter", rules("drop", SSH, open_port(plain=False)), WARNING, "some senders"),
    ("packet-filter", rules("drop", SSH, open_port()), OK, "passes"),
    ("packet-filter", rules("accept", SSH), OK, "passes"),
    ("mtu", device(WG, mtu=1200), PROBLEM, "1280"),
    ("mtu", device(WG, mtu=1500), WARNING, "fragmented"),
    ("mtu", {"devices": HEALTHY.devices[:1]}, OK, "no tunnel"),
    ("mtu", {"paths": ()}, OK, "1420"),
    ("mtu", {}, OK, "db2 1400"),
    (
        "reverse-path",
        {"reverse": Reverse({"all": 1, "eth0": 0, WG: 0}, {"eth0": 1})},
        PROBLEM,
        f"{WG}.rp_filter",
    ),
    (
        "reverse-path",
        {"reverse": Reverse({"all": 0, "eth0": 1, WG: 2}, {"eth0": 0})},
        PROBLEM,
        "eth0.src_valid_mark",
    ),
    ("reverse-path", {"reverse": Reverse({"all": 1, WG: 2}, {"all": 1})}, OK, "pass"),
    ("reverse-path", {"reverse": Reverse({"all": 2, "eth0": 1, WG: 0}, {"eth0": 0})}, OK, "pass"),
    ("programs", {"attached": (Attached("eth0", (True, False), BOTH),)}, PROBLEM, "guard on eth0 egress"),
    ("programs", {"attached": (Attached("eth0", BOTH, (False, True)),)}, PROBLEM, "firewall on eth0 ingress"),
    ("programs", {"attached": (Attached("eth0", BOTH, BOTH, ("u32 at priority 1",)),)}, WARNING, "u32"),
    ("programs", {"attached": ()}, WARNING, "no device"),
    (
        "programs",
        {"attached": (Attached("eth0", BOTH, NONE),), "settings": replace(HEALTHY.settings, firewall=False)},
        OK,
        "eth0",
    ),
    ("mode", agent(mode="prefer"), WARNING, "strict is wished"),
    ("mode", agent(mode="prefer", wish="prefer"), OK, "prefer"),
    ("mode", agent(encryption=False), WARNING, "switched off"),
    ("mode", agent(peers=(*AGENT.peers, NEVER)), WARNING, "not sealed yet: db3"),
    ("plain-packets", {"counters": {"Traffic is unencrypted egress": 4}}, WARNING, "4 out"),
    ("kernel", {"kernel": replace(HEALTHY.kernel, bpffs=False)}, PROBLEM, "/sys/fs/bpf"),
    ("kernel", {"kernel": replace(HEALTHY.kernel, headers=False)}, WARNING, "headers"),
    ("clock", {"clock": False}, WARNING, "not synchronised"),
    ("clock-jump", agent(peers=(replace(AGENT.peers[0], last_handshake=NOW + 60),)), PROBLEM, "db1"),
    ("maps", {"maps": (MapFill("guard/ipcache4", 95, 100, False),)}, WARNING, "95%"),
    ("maps", {"maps": (MapFill("guard/ipcache4", 100, 100, False),)}, PROBLEM, "100%"),
    ("maps", {"maps": (MapFill("firewall/flows4", 100, 100, True),)}, WARNING, "flows4"),
    ("maps", {"maps": ()}, WARNING, "no maps"),
    ("policy", {"trial": Trial(True, 12, "")}, WARNING, "12 s"),
    ("policy", {"trial": Trial(False, 0, "not confirmed in time: …")}, WARNING, "not confirmed"),
    ("policy", agent(audit=True), WARNING, "audit"),
    ("policy", agent(firewall=False), OK, "switched off"),
    ("policy", {"trial": Trial(False, 0, "confirmed")}, OK, "enforced"),
    (
        "files",
        {"documents": (Document("/etc/wardmesh/fleet.json", "wrong digest"),)},
        PROBLEM,
        "wrong digest",
    ),
    ("key", {"key": KeyFile(False)}, WARNING, "no private key"),
    ("key", {"key": KeyFile(True, mode=0o644)}, PROBLEM, "0644"),
    ("key", {"key": KeyFile(True, owner=1000)}, PROBLEM, "1000"),
    ("key", {"key": KeyFile(True, folder_mode=0o777)}, PROBLEM, "0777"),
    ("disk", {"disk": Disk("/", 1 << 20, 1 << 20)}, PROBLEM, "1 MiB"),
    ("disk", {"disk": Disk("/", 50 << 20, 1 << 20)}, WARNING, "50 MiB"),
    ("disk", {"disk": Disk("/", 1 << 40, 0)}, PROBLEM, "0 inodes"),
    ("versions", agent(version="0.0.9"), WARNING, "0.0.9"),
    ("fleet-map", {"installed": None}, WARNING, "no fleet map"),
    ("fleet-map", agent(fleet_digest="old", generation=6), PROBLEM, "generation 6"),
    ("metrics", {"tcp_ports": frozenset({22})}, WARNING, "9962"),
    ("metrics", {"settings": Settings()}, OK, "switched off"),
    ("peers-health", {"checks": Checks(1, 0, ("db2",), (), ())}, PROBLEM, "db2"),
    ("peers-health", {"checks": Checks(2, 0, (), (("db1", "20% lost"),), ())}, WARNING, "db1 (20% lost)"),
    ("peers-health", {"checks": Checks(0, 0, (), (), ("no socket",))}, WARNING, "no socket"),
    ("peers-health", {"checks": None}, OK, "switched off"),
]


def finding_of(check, facts):
    return next(found for found in examine(facts, CHECKS) if found.id == check)


@pytest.mark.parametrize(("check", "change", "level", "word"), ROWS)
def test_a_check_finds(check, change, level, word):
    found = finding_of(check, replace(HEALTHY, **change))
    assert (found.level, word in found.seen) == (level, True), found
    assert bool(found.remedy) is (level in (WARNING, PROBLEM))


def test_a_healthy_host_has_nothing_to_say():
    assert [found for found in examine(HEALTHY, CHECKS) if found.level != OK] == []


def test_every_check_has_a_row_in_which_it_is_not_well():
    assert {check.id for check in CHECKS} == {row[0] for row in ROWS if row[2] in (WARNING, PROBLEM)}
    assert len({check.id for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize("name", [field.name for field in fields(Facts) if field.name != "version"])
def test_what_could_not_be_read_makes_its_checks_unknown_and_no_others(name):
    found = examine(replace(HEALTHY, **{name: Unread("because")}), CHECKS)
    dark = {finding.id for finding in found if finding.level == UNKNOWN}
    assert dark == {check.id for check in CHECKS if name in check.needs}
    assert dark, f"no check uses {name}"
    assert all(finding.seen == "because" for finding in found if finding.level == UNKNOWN)
    assert {finding.level for finding in found} == {OK, UNKNOWN}


def test_a_host_without_anything_readable_still_gets_an_answer():
    dark = Facts("0.1.0", *[Unread("no permission")] * (len(fields(Facts)) - 1))
    found = examine(dark, CHECKS)
    assert len(found) == len(CHECKS)
    assert worst(found) == UNKNOWN


@pytest.mark.parametrize(
    ("levels", "expected"),
    [((), OK), ((OK, UNKNOWN), UNKNOWN), ((UNKNOWN, WARNING, OK), WARNING), ((WARNING, PROBLEM), PROBLEM)],
)
def test_the_worst_level_counts(levels, expected):
    assert worst(Finding("", "", level, "", "") for level in levels) == expected


def test_long_lists_of_names_are_cut_short():
    peers = tuple(Peer(f"h{number:04}", "down", "", True, 1.0) for number in range(1000))
    found = finding_of("handshakes", replace(HEALTHY, agent=replace(AGENT, peers=(AGENT.peers[0], *peers))))
    assert "and 990 more" in found.seen
    assert len(found.seen) < 300
