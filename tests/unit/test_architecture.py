# SPDX-License-Identifier: Apache-2.0
"""Rules of the tree that no linter knows: the rooms' order, licence lines, sizes, nothing of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "agent" / "wardmesh"
MAX_LINES = 500

# A room imports itself and what stands below it. ARCHITECTURE.md draws the same.
LEVELS = (
    ("cli", "daemon"),
    ("api",),
    ("policy", "wireguard", "datapath", "observe", "discovery", "health"),
    ("host",),
    ("model",),
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# The command line starts the daemon.
SIBLINGS_ALLOWED = {("cli", "daemon")}
# The numbers shared with bpf/lib/contract.h: constants and nothing else, so any room may read them.
CONTRACT = "wardmesh.datapath.contract"
PURE_ROOMS = ("model", "policy")
SYSTEM_MODULES = {
    "bcc",
    "ctypes",
    "fcntl",
    "http",
    "io",
    "os",
    "pathlib",
    "pyroute2",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
}
SPDX_TAG = "SPDX-" + "License-Identifier:"  # in two pieces: licence tools read the whole word as a tag
SPDX = {"bpf": "GPL-2.0-only OR BSD-2-Clause", "plugins": "GPL-3.0-or-later"}
TEXT_SUFFIXES = {".py", ".c", ".h", ".sh", ".yml", ".yaml", ".toml", ".md", ".service", ".j2", ".cfg", ""}
LICENSED_SUFFIXES = {".py", ".c", ".h", ".sh"}


def project_files() -> list[Path]:
    """Every file that git tracks or would track, relative to the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout.decode()
    return sorted(Path(name) for name in set(listed.split("\0")) if name and (REPO / name).is_file())


def agent_modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return str(path.relative_to(REPO))


def imports_of(path: Path) -> set[str]:
    """Absolute dotted names that a module imports; each name of a from-import counts."""
    package = ("wardmesh", *path.relative_to(PACKAGE).parts[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names.update(f"{origin}.{alias.name}" for alias in node.names)
    return names


def is_contract(name: str) -> bool:
    return name == CONTRACT or name.startswith(f"{CONTRACT}.")


def violations(path: Path) -> list[str]:
    """Imports of the module that go upwards or sideways."""
    parts = path.relative_to(PACKAGE).parts
    if len(parts) < 2:
        return []  # __init__ and __main__ of the package itself stand above all rooms
    room = parts[0]
    bad = []
    for name in imports_of(path):
        words = name.split(".")
        if words[0] != "wardmesh" or len(words) < 2 or words[1] == room or is_contract(name):
            continue
        target = words[1]
        if target not in LEVEL_OF:
            continue
        downwards = LEVEL_OF[target] > LEVEL_OF[room]
        if not downwards and (room, target) not in SIBLINGS_ALLOWED:
            bad.append(f"{relative(path)} imports {name}")
    return bad


def test_every_room_of_the_agent_has_a_place_in_the_order() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= set(LEVEL_OF), f"rooms without a level: {sorted(rooms - set(LEVEL_OF))}"
    assert rooms, "the agent has no rooms at all"


@pytest.mark.parametrize("path", agent_modules(), ids=relative)
def test_rooms_import_only_downwards(path: Path) -> None:
    assert violations(path) == []


def test_the_import_rule_sees_an_upward_import() -> None:
    names = [f"wardmesh.{room}" for room in ("model", "daemon")]
    assert LEVEL_OF[names[0].split(".")[1]] > LEVEL_OF[names[1].split(".")[1]]


@pytest.mark.parametrize(("name", "allowed"), [("event_contract", set()), ("contract", {"event_contract"})])
def test_the_contracts_that_every_room_may_read_import_nothing_else_of_ours(
    name: str, allowed: set[str]
) -> None:
    found = {one for one in imports_of(PACKAGE / "datapath" / f"{name}.py") if one.startswith("wardmesh.")}
    assert found <= {"wardmesh.datapath", *(f"wardmesh.datapath.{one}" for one in allowed)}


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_pure_rooms_touch_nothing_of_the_system(room: str) -> None:
    bad = [
        f"{relative(path)} imports {name}"
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for name in imports_of(path)
        if name.split(".")[0] in SYSTEM_MODULES
    ]
    assert bad == []


def test_no_module_of_the_product_validates_by_assert() -> None:
    bad = [
        f"{relative(path)}:{node.lineno}"
        for path in [*agent_modules(), *sorted((REPO / "plugins").rglob("*.py"))]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert bad == []


def test_every_source_file_names_its_licence_at_the_top() -> None:
    bad = []
    for path in project_files():
        if path.suffix not in LICENSED_SUFFIXES and path.name not in ("Makefile", "run"):
            continue
        wanted = SPDX.get(
            path.parts[0], "GPL-3.0-or-later" if path.parts[0] in ("roles", "playbooks") else "Apache-2.0"
        )
        head = "\n".join((REPO / path).read_text(encoding="utf-8").splitlines()[:8])
        if f"{SPDX_TAG} {wanted}" not in head:
            bad.append(f"{path}: no line {SPDX_TAG} {wanted}")
    assert bad == []


def test_no_source_file_is_longer_than_the_limit() -> None:
    bad = []
    for path in project_files():
        if path.suffix in (".py", ".c", ".h", ".sh"):
            lines = len((REPO / path).read_text(encoding="utf-8").splitlines())
            if lines > MAX_LINES:
                bad.append(f"{path}: {lines} lines, at most {MAX_LINES}")
    assert bad == []


# Home folders, and checkouts of one machine. Written in pieces so that this file does not match itself.
MACHINE_PATHS = re.compile(
    r"(?<![\w.$}])/(?:home/[a-z]\w*|" + "root/" + r"\.pyenv|" + "wo" + "rk/(?:main|shared))"
)
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|NotImplemented" + r"Error")


@pytest.mark.parametrize(
    ("pattern", "what"),
    [(MACHINE_PATHS, "a path of one machine"), (UNFINISHED, "work left undone")],
    ids=["paths", "undone"],
)
def test_no_file_holds(pattern: re.Pattern[str], what: str) -> None:
    bad = []
    for path in project_files():
        if path.suffix not in TEXT_SUFFIXES or path.parts[0] == "LICENSES":
            continue
        for number, line in enumerate(
            (REPO / path).read_text(encoding="utf-8", errors="replace").splitlines(), 1
        ):
            if pattern.search(line):
                bad.append(f"{path}:{number}: {what}: {line.strip()[:100]}")
    assert bad == []


def test_the_driver_takes_only_one_reason_for_a_skip() -> None:
    conftest = (REPO / "tests" / "conftest.py").read_text(encoding="utf-8")
    results = (REPO / "tools" / "checks" / "results.py").read_text(encoding="utf-8")
    reason = "../shared is not beside this checkout"
    assert reason in conftest
    assert reason in results
