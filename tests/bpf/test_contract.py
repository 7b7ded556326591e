# SPDX-License-Identifier: Apache-2.0
"""The header bpf/lib/contract.h and the agent's datapath/contract.py say the same."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
from pathlib import Path

from tests.bpf.harness import PYTHON, TestPaths

from wardmesh.datapath import contract
from wardmesh.datapath.headers import find_headers
from wardmesh.datapath.sources import flatten, read_source

_NAMES = {
    "MARK": contract.MARK,
    "MARK_MASK": contract.MARK_MASK,
    "MEMBER": contract.MEMBER,
    "STRICT": contract.STRICT,
    "SELF": contract.SELF,
    "CFG_READY": contract.CFG_READY,
    "CFG_PREFIX4": contract.CFG_PREFIX4,
    "CFG_PREFIX6": contract.CFG_PREFIX6,
    "CFG_EXCEPTIONS": contract.CFG_EXCEPTIONS,
    "INGRESS": contract.INGRESS,
    "EGRESS": contract.EGRESS,
    "FORWARDED": contract.FORWARDED,
    "PLAINTEXT": contract.PLAINTEXT,
    "TUNNEL": contract.TUNNEL,
    "EXEMPT": contract.EXEMPT,
    "INVALID": contract.INVALID,
    "UNENCRYPTED": contract.UNENCRYPTED,
    "METRIC_ROWS": contract.METRIC_ROWS,
}

# Asks the real compiler: bcc describes key and value of each table as ctypes structures.
_LAYOUTS = """
import ctypes, json, sys
from bcc import BPF
def fields(kind):
    if not hasattr(kind, "_fields_"):
        return [["", 0, ctypes.sizeof(kind)]]
    return [[name, getattr(kind, name).offset, getattr(kind, name).size] for name, _ in kind._fields_]
program = BPF(text=sys.stdin.read(), cflags=["-Wno-everything"])
tables = {name: program[name] for name in sys.argv[1:]}
# Per-CPU tables: Leaf is one value for each CPU, sLeaf is one value.
print(json.dumps({n: [fields(t.Key), fields(getattr(t, "sLeaf", t.Leaf))] for n, t in tables.items()}))
"""


def test_every_number_of_the_header_is_the_agents() -> None:
    header = read_source("lib/contract.h")
    defined = {name: int(value, 0) for name, value in re.findall(r"^#define WM_(\w+)\s+(\w+)", header, re.M)}
    assert defined == _NAMES
    assert "(((direction) << 8) | (reason))" in header
    row = contract.metric_row(contract.UNENCRYPTED, contract.EGRESS)
    assert contract.ROW.unpack(row) == (2 << 8 | 195,)


def test_upstreams_number_of_traffic_is_unencrypted() -> None:
    assert contract.REASONS[195] == "Traffic is unencrypted"


def test_rows_of_all_reasons_fit_the_array() -> None:
    rows = {
        contract.ROW.unpack(contract.metric_row(reason, direction))[0]
        for reason in contract.REASONS
        for direction in contract.DIRECTIONS
    }
    assert len(rows) == len(contract.REASONS) * len(contract.DIRECTIONS)
    assert max(rows) < contract.METRIC_ROWS


def test_layouts_are_the_compilers(privileged: None, tmp_path: Path) -> None:
    specs = {spec.name: spec for spec in contract.map_specs(16) if spec.key_size}  # a ring has no layout
    source = re.sub(r'"([\w/]+):" WM_MAPS\s*\\?\s*"/\w+"', r'"\1"', flatten())
    tree = find_headers(TestPaths(home=tmp_path)).tree
    done = subprocess.run(
        [PYTHON, "-I", "-c", _LAYOUTS, *specs],
        input='#define WM_MAPS ""\n' + source,
        env={"BCC_KERNEL_SOURCE": str(tree), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    layouts = json.loads(done.stdout)

    def end(fields: list[list[int]]) -> int:
        return max(offset + size for _name, offset, size in fields)

    for name, (key, value) in layouts.items():
        assert (end(key), end(value)) == (specs[name].key_size, specs[name].value_size), name
    assert layouts["ipcache4"][1] == [["identity", 0, 4], ["flags", 4, 4]]
    assert layouts["prefix6"][0] == [["prefixlen", 0, 4], ["addr", 4, 16]]
    assert layouts["prefix4"][0] == [["prefixlen", 0, 4], ["addr", 4, 4]]
    assert layouts["exceptions"][0] == [["protocol", 0, 1], ["pad", 1, 1], ["port", 2, 2]]
    assert layouts["config"][1] == [["ports", 0, 4], ["flags", 4, 4]]
    assert layouts["metrics"][1] == [["packets", 0, 8], ["bytes", 8, 8]]


def test_a_network_and_its_slot_are_the_same_thing() -> None:
    for text in ("10.0.0.1/32", "10.5.0.0/16", "0.0.0.0/0", "fd00::1/128", "fd05::/64", "::/0"):
        network = ipaddress.ip_network(text)
        name, key = contract.ipcache_slot(network)
        assert contract.ipcache_network(name, key) == network
    assert contract.ipcache_slot(ipaddress.ip_network("10.0.0.1"))[0] == "ipcache4"
    assert contract.ipcache_slot(ipaddress.ip_network("fd05::/64"))[0] == "prefix6"


def test_the_contract_hash_knows_the_sizes() -> None:
    assert contract.contract_hash(10) != contract.contract_hash(11)
    assert contract.contract_hash(10) == contract.contract_hash(10)
