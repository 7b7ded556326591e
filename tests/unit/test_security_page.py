# SPDX-License-Identifier: Apache-2.0
"""docs/security.md says what is so: its tests exist, its fuzzers are all. Units and dependencies, too."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import gen_unit_sandboxes as sandboxes

REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "docs/security.md").read_text(encoding="utf-8")
DEPENDENCIES = (REPO / "docs/dependencies.md").read_text(encoding="utf-8")
NODE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
# What a module is called by those who install it, where that is another word.
PACKAGES = {"grpc_tools": "grpcio-tools", "grpc": "grpcio", "google": "protobuf"}
PACKAGES |= {"yaml": "PyYAML", "ansible": "ansible-core"}
OURS = {"ansible_collections", "wardmesh", "lab", "bench", "tests", "checks"}
OURS |= {path.stem for path in (REPO / "tools").glob("*.py")}


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    """The functions of a module by name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def section(title: str) -> str:
    """What stands below a heading of the page."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][1:]


def test_every_test_that_the_page_names_exists() -> None:
    named = NODE.findall(PAGE)
    assert len(named) > 50
    assert not [f"{file}::{name}" for file, name in named if name not in functions(REPO / file)]
    assert len(named) == PAGE.count("::"), "a test is named in another form"


def test_every_threat_has_a_test_or_says_that_nothing_shows_it() -> None:
    threats = rows(section("Threats"))
    assert len(threats) >= 15
    for threat, protects, open_still, shown in threats:
        assert protects and open_still, threat
        assert NODE.search(shown) or shown.startswith("nothing"), threat


def budget(function: ast.FunctionDef) -> int | None:
    """The number in @fuzz(…); None where there is none."""
    for call in function.decorator_list:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "fuzz":
            (number,) = call.args
            assert isinstance(number, ast.Constant)
            return int(number.value)
    return None


def fuzzers() -> dict[str, int]:
    """Every property with @fuzz, and the modules of packets, whose one property has COUNT = examples(…)."""
    found = {}
    for path in sorted((REPO / "tests").rglob("test_*.py")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(REPO)
        for one in functions(path).values():
            number = budget(one)
            if number is not None:
                found[f"{name}::{one.name}"] = number
            elif any(isinstance(node, ast.Name) and node.id == "COUNT" for node in ast.walk(one)):
                counts = re.findall(r"COUNT = .*examples\(([\d_]+)\)", text)
                if counts:
                    found[f"{name}::{one.name}"] = int(counts[0])
    return found


def test_the_page_lists_every_fuzzer_with_its_budget() -> None:
    listed = {cells[0].strip("`"): int(cells[1].replace(",", "")) for cells in rows(section("Fuzzers"))}
    assert listed == fuzzers()


# --- units ---

UNITS = sorted((REPO / "agent/systemd").glob("*.service"))
ALWAYS = {
    **dict.fromkeys(("NoNewPrivileges", "ProtectHome", "RestrictNamespaces", "RestrictSUIDSGID"), "yes"),
    **dict.fromkeys(("MemoryDenyWriteExecute", "LockPersonality", "ProtectControlGroups"), "yes"),
    "ProtectSystem": "strict",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
}
# What speaks with the network may do no more than this.
LISTENERS: dict[str, set[str]] = {
    "health": {"CAP_NET_RAW", "CAP_CHOWN"},
    "observer": {"CAP_BPF", "CAP_CHOWN"},
    "relay": set(),
    "ui": set(),
}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_has_its_sandbox(unit: Path) -> None:
    held = sandboxes.directives(unit)
    assert {name: held.get(name, [""])[-1] for name in ALWAYS} == ALWAYS
    assert held["CapabilityBoundingSet"] and "SystemCallFilter" in held


@pytest.mark.parametrize("name", LISTENERS)
def test_what_speaks_with_the_network_has_no_rights_and_no_key(name: str) -> None:
    held = sandboxes.directives(REPO / f"agent/systemd/wardmesh-{name}.service")
    assert set(" ".join(held["CapabilityBoundingSet"]).split()) == LISTENERS[name]
    assert held["InaccessiblePaths"] == ["-/var/lib/wardmesh/keys"]


def test_the_page_of_units_is_current_and_no_unit_is_more_exposed_than_it_says() -> None:
    figures = sandboxes.figures_of(sandboxes.PAGE.read_text(encoding="utf-8"))
    assert set(figures) == {unit.name for unit in UNITS}
    assert sandboxes.PAGE.read_text(encoding="utf-8") == sandboxes.render()
    if sandboxes.installed() >= sandboxes.SYSTEMD:  # a later one weighs a little differently
        for unit in UNITS:
            assert float(sandboxes.measured(unit)) <= float(figures[unit.name]) + 0.5, unit.name


# --- dependencies ---


def imported(top: str) -> set[str]:
    """The first words of what the Python below a folder imports; ours and the standard library left out."""
    files = sorted((REPO / top).rglob("*.py"))
    own = {path.stem for path in files} | {path.parent.name for path in files} | OURS
    found: set[str] = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "need":
                (argument,) = node.args
                assert isinstance(argument, ast.Constant)
                found.add(str(argument.value).partition(".")[0])
    return found - own - set(sys.stdlib_module_names)


@pytest.mark.parametrize("top", ["agent", "plugins", "tools", "tests", "roles", "molecule"])
def test_every_library_is_on_the_page_of_dependencies(top: str) -> None:
    words = {word.lower() for word in re.findall(r"[\w-]+", DEPENDENCIES)}
    missing = {PACKAGES.get(name, name).replace("_", "-").lower() for name in imported(top)} - words
    assert not missing


def test_every_line_of_the_requirements_is_on_the_page_of_dependencies() -> None:
    words = {word.lower() for word in re.findall(r"[\w.-]+", DEPENDENCIES)}
    for file in sorted((REPO / "requirements").glob("*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-r")):
                assert re.split(r"[ >=<]", line)[0].lower() in words, f"{file.name}: {line}"
