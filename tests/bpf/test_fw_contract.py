# SPDX-License-Identifier: Apache-2.0
"""The agent's copy of the firewall's contract against the header."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from wardmesh.datapath import event_contract as ev
from wardmesh.datapath import fw_contract as fw

HEADERS = Path(__file__).parents[2] / "bpf/lib"
HEADER = (HEADERS / "fw_contract.h").read_text() + (HEADERS / "event.h").read_text()
NUMBERS = {name: int(value) for name, value in re.findall(r"#define (WM_\w+) (\d+)\b(?! \*|<)", HEADER)}
SIZES = {"__u64": 8, "__u32": 4, "__be32": 4, "__u16": 2, "__be16": 2, "__u8": 1}


def size_of(struct: str) -> int:
    """Bytes of a structure of the header, without padding."""
    body = re.search(rf"struct {struct} {{(.*?)\n}}", HEADER, re.S)
    assert body, struct
    total = 0
    fields = re.sub(r"/\*.*?\*/", "", body[1], flags=re.S)
    for kind, names in re.findall(r"(__\w+|struct \w+) ([\w\[\], *]+);", fields):
        for name in names.split(","):
            one = SIZES[kind] if kind in SIZES else size_of(kind.split()[1])
            total += one * _count(name)
    return total


def _count(name: str) -> int:
    """How many: 1, or the product within the brackets."""
    found = re.search(r"\[(.+)\]", name)
    if not found:
        return 1
    words = NUMBERS | {"WM_FW_WORDS": fw.WORDS}
    return math.prod(int(words.get(word) or word) for word in found[1].split(" * "))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WM_FW_CLASSES", fw.CLASSES),
        ("WM_FW_CELLS_PER_WORD", fw.CELLS_PER_WORD),
        ("WM_CELL_NO_RULE", fw.NO_RULE),
        ("WM_CELL_ALLOW", fw.ALLOW),
        ("WM_CELL_DENY", fw.DENY),
        ("WM_CELL_AUDIT", fw.AUDIT),
        ("WM_ROW_WORLD4", fw.ROW_WORLD4),
        ("WM_ROW_WORLD6", fw.ROW_WORLD6),
        ("WM_CLASS_TABLES", fw.CLASS_TABLES),
        ("WM_CLASS_PIECE", fw.CLASS_PIECE),
        ("WM_CLASS_ICMP", fw.CLASS_ICMP),
        ("WM_CLASS_ICMP6", fw.CLASS_ICMP6),
        ("WM_CLASS_PROTOCOL", fw.CLASS_PROTOCOL),
        ("WM_FW_AUDIT", fw.STATE_AUDIT),
        ("WM_FW_NETS4", fw.STATE_NETS4),
        ("WM_FW_NETS6", fw.STATE_NETS6),
        ("WM_FW_ENFORCE", fw.STATE_ENFORCE),
        ("WM_EVENT_NEW", ev.EVENT_NEW),
        ("WM_EVENT_ANSWERED", ev.EVENT_ANSWERED),
        ("WM_EVENT_CLOSING", ev.EVENT_CLOSING),
        ("WM_EVENT_DROP", ev.EVENT_DROP),
        ("WM_LOST", ev.LOST),
        ("WM_WITHHELD", ev.WITHHELD),
        ("WM_FAILSAFE_ALL", fw.FAILSAFE_ALL),
        ("WM_FAILSAFE_MEMBERS", fw.FAILSAFE_MEMBERS),
        ("WM_WAYS", fw.WAYS),
        ("WM_RECENT", fw.RECENT_ROWS),
        ("WM_TAG_ANSWERED", fw.TAG_ANSWERED),
        ("WM_TAG_SETTLED", fw.TAG_SETTLED),
        ("WM_FLOW_CLOSING", fw.FLOW_CLOSING),
        ("WM_FLOW_REPLIED", fw.FLOW_REPLIED),
        ("WM_FLOW_FAILSAFE", fw.FLOW_FAILSAFE),
    ],
)
def test_numbers(name: str, value: int) -> None:
    assert NUMBERS[name] == value


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("wm_fw_state", fw.STATE.size),
        ("wm_fw_ports", fw.PORTS_ROW.size),
        ("wm_fw_peer", fw.PEER.size),
        ("wm_fw_classes", fw.PIECE_BYTES),
        ("wm_fw_row", fw.ROW_BYTES),
        ("wm_fw_failsafe_key", fw.FAILSAFE_KEY.size),
        ("wm_flow4_key", fw.FLOW4_KEY.size),
        ("wm_flow6_key", fw.FLOW6_KEY.size),
        ("wm_flow", fw.FLOW.size),
        ("wm_fragment_key", fw.FRAGMENT_KEY.size),
        ("wm_flow_head", fw.HEAD.size),
        ("wm_flow4_slot", fw.SLOT4_BYTES),
        ("wm_flow6_slot", fw.SLOT6_BYTES),
        ("wm_fw_watch", ev.WATCH.size),
        ("wm_fw_bucket", ev.BUCKET.size),
        ("wm_event", ev.EVENT.size),
        ("wm_fw_local", fw.LOCAL.size),
        ("wm_fw_room", fw.ROOM_BYTES),
        ("wm_judged_key", fw.JUDGED_KEY.size),
        ("wm_fw_recent", fw.RECENT.size),
    ],
)
def test_sizes(name: str, size: int) -> None:
    assert size_of(name) == size


def test_every_reason_has_a_name() -> None:
    names = ("ALLOWED", "AUDITED", "FAILSAFE", "POLICY", "CT_FULL", "FRAGMENT", "ICMP6", "DENYLIST")
    assert {NUMBERS[f"WM_FW_{name}"] for name in names} <= set(fw.REASONS)
