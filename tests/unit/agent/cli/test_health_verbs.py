# SPDX-License-Identifier: Apache-2.0
"""wardmesh doctor and sysdump as programs, and the readers behind them."""

from __future__ import annotations

import json
import tarfile

import pytest
from tests.unit.agent.daemon.fakes import PRIVATE, make_host, map_bytes

from wardmesh.cli import doctor_facts
from wardmesh.cli.doctor_facts import agent_of, attached_of, gather, known, listening_ports, units_of
from wardmesh.cli.main import main
from wardmesh.cli.sysdump import items
from wardmesh.datapath.contract import EGRESS, INGRESS
from wardmesh.datapath.tc import Filter
from wardmesh.health.checks_host import CHECKS
from wardmesh.health.facts import Attached, Unit, Unread
from wardmesh.model.errors import WardmeshError

PROC_UDP = """  sl  local_address rem_address   st tx_queue rx_queue
  12: 00000000:CA9F 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2
  13: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2
"""
PROC_TCP = """  sl  local_address rem_address   st
   0: 00000000:0016 00000000:0000 0A
   1: 0A00000A:26EA 0A00000B:D431 01
"""
SHOWN = """Id=wardmesh.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled

Id=wardmesh-boot.service
LoadState=loaded
ActiveState=inactive
UnitFileState=enabled

Id=wardmesh-observer.service
LoadState=not-found
ActiveState=inactive
UnitFileState=
"""


@pytest.fixture
def paths(tmp_path):
    return make_host(tmp_path / "root", map_bytes(3, ("node1", "node2")))


def run(capsys, paths, *words):
    status = main(["--root", str(paths.root), *words])
    return status, capsys.readouterr().out


def test_the_doctor_answers_without_an_agent(paths, capsys):
    status, out = run(capsys, paths, "doctor", "-o", "json")
    found = json.loads(out)
    by_id = {row["id"]: row for row in found["checks"]}
    assert (status, found["worst"]) == (1, "problem")
    assert set(by_id) == {check.id for check in CHECKS}
    assert by_id["agent-answers"]["finding"] == "problem"
    assert by_id["handshakes"] == {
        **by_id["handshakes"],
        "finding": "unknown",
        "seen": "the agent does not answer",
    }
    assert by_id["key"]["finding"] == "ok"
    assert by_id["files"]["finding"] == "ok"
    status, out = run(capsys, paths, "doctor")
    assert "PROBLEM" in out
    assert "→" in out


def test_the_doctor_sees_a_broken_map_and_an_open_key(paths, capsys):
    paths.fleet.write_bytes(b"{}")
    paths.key.chmod(0o644)
    by_id = {row["id"]: row for row in json.loads(run(capsys, paths, "doctor", "-o", "json")[1])["checks"]}
    assert by_id["files"]["finding"] == "problem"
    assert str(paths.fleet) in by_id["files"]["seen"]
    assert by_id["key"]["finding"] == "problem"


def test_no_reader_breaks_the_others(paths, monkeypatch):
    def broken(*_args, **_options):
        raise OSError("no permission")

    for name in ("Netlink", "run", "read_config", "installed_fleet"):
        monkeypatch.setattr(doctor_facts, name, broken)
    facts = gather(paths)
    for name in ("devices", "attached", "clock", "units", "settings", "installed", "paths", "maps"):
        assert isinstance(getattr(facts, name), Unread), name
    assert facts.devices.why == "OSError: no permission"
    assert not isinstance(facts.disk, Unread)


def test_the_reason_of_a_failure_is_without_its_remedy():
    def fail():
        raise WardmeshError("what", where="where", why="why", remedy="remedy")

    assert known(fail) == Unread("where: what: why")
    assert known(lambda: {}["x"]) == Unread("KeyError: 'x'")


def test_ports_are_read_from_the_kernels_tables():
    assert listening_ports(PROC_UDP, listening=False) == {51871, 53}
    assert listening_ports(PROC_TCP, listening=True) == {22}


def test_units_that_are_not_installed_are_left_out():
    assert units_of(SHOWN) == (
        Unit("wardmesh.service", "active", "enabled"),
        Unit("wardmesh-boot.service", "inactive", "enabled"),
    )


def test_filters_are_told_apart_and_those_before_ours_named():
    guard = Filter(2, 51871, "bpf", "wardmesh-ingress-l2-7", 3)
    wall = Filter(3, 51871, "bpf", "wardmeshfw-ingress-l2-8", 3)
    other = Filter(1, 1, "u32", "", 3)
    assert attached_of("eth0", {INGRESS: [other, guard, wall], EGRESS: [guard]}) == Attached(
        "eth0", (True, True), (True, False), ("u32 at priority 1 (ingress)",)
    )
    assert attached_of("eth0", {INGRESS: [other], EGRESS: []}) == Attached(
        "eth0", (False, False), (False, False)
    )


def test_a_status_of_another_form_makes_the_agent_unread():
    assert isinstance(known(lambda: agent_of({"version": "1"})), Unread)


def test_a_sysdump_holds_the_host_and_no_secret(paths, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "from-the-environment-77")
    paths.config.write_text(
        "cluster: {name: test, id: 1}\netcd:\n  endpoints: ['https://root:hunter2hunter2@10.0.0.9:2379']\n"
        "  password: swordfish-swordfish\n"
    )
    paths.policies.mkdir()
    (paths.policies / "a.yaml").write_text("headers: [{name: x, secret: open-sesame-42}]\n---\nkind: b\n")
    target = tmp_path / "dump.tar.gz"
    status, out = run(capsys, paths, "sysdump", "--output", str(target), "--json")
    document = json.loads(out)
    assert (status, document["file"]) == (0, str(target))
    assert target.stat().st_mode & 0o777 == 0o600
    held = {}
    with tarfile.open(target) as archive:
        for member in archive.getmembers():
            held[member.name.partition("/")[2]] = archive.extractfile(member).read()
    private = paths.key.read_bytes().strip()
    assert len(private) == 44
    for secret in (
        b"hunter2hunter2",
        b"swordfish",
        b"open-sesame",
        b"from-the-environment",
        private,
        PRIVATE,
    ):
        assert not [name for name, data in held.items() if secret in data]
    assert b"name: test" in held["files/config.yaml"]
    assert b"kind: b" in held["files/policies/a.yaml"]
    assert json.loads(held["files/fleet.json"])["members"][0]["key"] != "<redacted>"
    rows = {row["name"]: row["error"] for row in json.loads(held["manifest.json"])["items"]}
    assert "does not run" in rows["agent/status.json"]
    assert rows["host/os-release"] == ""
    assert "agent/status.json" in document["failed"]


def test_no_item_reads_the_key_or_asks_wg(paths, monkeypatch):
    asked = []

    def note(argv, **_options):
        asked.append(argv)
        raise OSError

    monkeypatch.setattr("wardmesh.cli.sysdump.run", note)
    monkeypatch.setattr("wardmesh.cli.doctor_facts.run", note)
    paths.key.unlink()
    paths.key.mkdir()  # reading it would fail with another error than "no such file"
    for item in items(paths):
        try:
            item.collect()
        except (OSError, WardmeshError) as error:
            assert "wg0.key" not in str(error), item.name
    assert asked
    assert not [argv for argv in asked if argv[0].endswith(("/wg", "/wg-quick"))]
