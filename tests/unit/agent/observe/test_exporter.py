# SPDX-License-Identifier: Apache-2.0
"""The file of flows: its form, its rotation, a disk that fails."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.observe.support import TIME, event, namer
from tests.waiting import eventually

from wardmesh.model.errors import WardmeshError
from wardmesh.observe import exporter as module
from wardmesh.observe.exporter import Exporter, RotatedFile
from wardmesh.observe.flow import FlowEvent, Lost, LostSource, Traffic, Verdict
from wardmesh.observe.jsonform import from_json
from wardmesh.observe.ring import Ring
from wardmesh.observe.settings import Export

NAMER = namer()


def export(path: Path, **changes: Any) -> Export:
    fields = {"path": path, "max_bytes": 1 << 20, "backups": 3, "compress": False, **changes}
    return Export(**fields)


def written(ring: Ring, made: Export, *events: FlowEvent) -> list[dict[str, Any]]:
    """What a file holds after these events."""
    running = Exporter(ring, made, lambda: "lab/db1")
    running.start()
    ring.add([NAMER.flow(item) for item in events])
    assert eventually(lambda: running.written + running.failed > 0 or not events)
    running.close()
    return [json.loads(line) for line in made.path.read_text().splitlines()]


def test_a_line_is_an_answer_that_clients_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "flows.log"
    rows = written(Ring(63), export(path), *(event(n, traffic=Traffic(1, 2, 3, 4)) for n in range(5)))
    assert [row["flow"]["l4"]["TCP"]["source_port"] for row in rows] == [40000, 40001, 40002, 40003, 40004]
    assert all("traffic" not in row["flow"] for row in rows), "upstream's client would warn"
    assert rows[0]["node_name"] == "lab/db1" and rows[0]["time"] == "2023-11-14T22:13:20Z"
    assert from_json(json.dumps(rows[0]), "observer.GetFlowsResponse").flow.source.pod_name == "web1"
    assert path.stat().st_mode & 0o777 == 0o640


def test_lists_and_mask_choose(tmp_path: Path) -> None:
    made = export(
        tmp_path / "f",
        allow=('{"verdict":["AUDIT"]}',),
        deny=('{"source_ip":["10.0.0.2"]}',),
        field_mask=("verdict", "source.pod_name"),
    )
    rows = written(
        Ring(63),
        made,
        event(1),
        event(2, verdict=Verdict.AUDIT),
        event(3, verdict=Verdict.AUDIT, source="10.0.0.2"),
    )
    assert [row["flow"] for row in rows] == [{"verdict": "AUDIT", "source": {"pod_name": "web1"}}]


@pytest.mark.parametrize(
    "changes",
    [
        {"allow": ("{",)},
        {"deny": ('{"source_ip":["x"]}',)},
        {"field_mask": ("nose",)},
        {"allow": ('{"nose":1}',)},
    ],
)
def test_a_wrong_setting_is_told_at_the_start(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(WardmeshError):
        Exporter(Ring(3), export(tmp_path / "f", **changes), lambda: "")


def test_gaps_are_in_the_file(tmp_path: Path) -> None:
    ring = Ring(63)
    ring.add([Lost(LostSource.KERNEL, 9, TIME, TIME)])
    rows = written(ring, export(tmp_path / "f"), event(1))
    assert rows[0]["lost_events"]["num_events_lost"] == "9"
    assert rows[0]["lost_events"]["source"] == "PERF_EVENT_RING_BUFFER"


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


@pytest.mark.parametrize("compress", [False, True])
def test_rotation_keeps_the_newest(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "flows.log"
    now = [1_700_000_000.0]
    file = RotatedFile(export(path, max_bytes=100, backups=2, compress=compress), lambda: now[0])
    for number in range(50):
        now[0] += 1
        file.write(f"line {number:02d} " + "x" * 22)
    file.close()
    lines = [line[5:7] for line in path.read_text().splitlines()]
    backups = file.backups()
    assert len(backups) == 2
    for old in reversed(backups):
        text = _text(old)
        assert len(text) <= 100
        assert (old.suffix == ".gz") is compress
    held = [
        line[5:7] for old in sorted(backups, key=lambda item: item.name) for line in (_text(old)).splitlines()
    ]
    assert held + lines == [f"{number:02d}" for number in range(50 - len(held) - len(lines), 50)]
    assert {item.name for item in tmp_path.iterdir()} == {path.name, *(old.name for old in backups)}


def test_rotations_of_one_moment_do_not_overwrite_each_other(tmp_path: Path) -> None:
    file = RotatedFile(export(tmp_path / "f.log", max_bytes=10, backups=100), lambda: 5.0)
    for number in range(20):
        file.write(f"line {number:04d}")
    file.close()
    assert len(file.backups()) == 19


def test_a_file_that_is_there_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "f.log"
    path.write_text("old\n" * 30)
    file = RotatedFile(export(path, max_bytes=125), lambda: 5.0)
    file.write("new line")
    file.close()
    assert path.read_text() == "new line\n" and len(file.backups()) == 1


def test_a_full_disk_is_counted_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY", 0.01)
    full = export(Path("/dev/full"))
    ring = Ring(63)
    running = Exporter(ring, full, lambda: "")
    running.start()
    ring.add([NAMER.flow(event(1)), NAMER.flow(event(2))])
    assert eventually(lambda: running.failed == 2)
    assert running.error is not None and "/dev/full" in str(running.error)
    ring.add([NAMER.flow(event(3))])
    assert eventually(lambda: running.failed == 3), "it goes on trying"
    running.close()
    assert running.written == 0
