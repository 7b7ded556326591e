# SPDX-License-Identifier: Apache-2.0
"""The linters. Each counts as one test; its output is in .build/logs/lint-NAME.log."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from checks.results import PartResult
from checks.running import LOGS, REPO, Progress, log_tail

LIMIT_SECONDS = 300.0
GENERATORS = (
    "gen_config_reference",
    "gen_cli_reference",
    "gen_role_readmes",
    "gen_metrics_reference",
    "gen_health_figures",
    "gen_dashboards",
    "gen_descriptors",
    "gen_unit_sandboxes",
)


@dataclass(frozen=True)
class Check:
    """One linter: its name and its command line. An empty command line means that it has no files yet."""

    name: str
    argv: tuple[str, ...]


def project_files() -> list[Path]:
    """Every file that git tracks or would track, relative to the checkout, and that exists."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout.decode()
    return sorted(Path(name) for name in set(listed.split("\0")) if name and (REPO / name).is_file())


def is_shell(path: Path) -> bool:
    """Whether the file is a shell script: by its suffix, or by its first line where it has no suffix."""
    if path.suffix in (".sh", ".bash"):
        return True
    if path.suffix:
        return False
    with (REPO / path).open("rb") as stream:
        first = stream.readline(80)
    return first.startswith(b"#!") and (b"bash" in first or first.rstrip().endswith(b"/sh"))


def _existing(*names: str) -> list[str]:
    return [name for name in names if (REPO / name).exists()]


def _with_files(*argv: str, files: list[str]) -> tuple[str, ...]:
    return (*argv, *files) if files else ()


def all_checks() -> list[Check]:
    """The linters in the order in which they run: quick ones first."""
    files = project_files()
    bin_dir = Path(sys.executable).parent
    python = sys.executable
    c_files = [str(f) for f in files if f.suffix in (".c", ".h")]
    shell = [str(f) for f in files if is_shell(f)]
    on_hosts = _existing("agent/wardmesh", "agent/zipapp_main.py", "plugins/plugin_utils")
    on_controller = _existing("tools", "tests/lab/lab", "tests/bench/bench", "agent/build_zipapp.py")
    playbooks = _existing("galaxy.yml")

    def tool(name: str, *rest: str) -> tuple[str, ...]:
        return (str(bin_dir / name), *rest)

    checks = [
        Check("ruff", tool("ruff", "check", "--quiet", ".")),
        Check("ruff-format", tool("ruff", "format", "--check", "--quiet", ".")),
        Check("clang-format", _with_files(*tool("clang-format", "--dry-run", "-Werror"), files=c_files)),
        Check("shellcheck", _with_files("shellcheck", files=shell)),
        Check("yamllint", tool("yamllint", "--strict", ".")),
        Check("reuse", tool("reuse", "lint", "--quiet")),
        Check("mypy-host", _with_files(*tool("mypy", "--strict"), files=on_hosts)),
        Check(
            "mypy-tools", _with_files(*tool("mypy", "--strict", "--python-version=3.11"), files=on_controller)
        ),
        Check("ansible-lint", tool("ansible-lint", "--offline", "--profile=production") if playbooks else ()),
        Check("changelog", tool("antsibull-changelog", "lint") if playbooks else ()),
    ]
    for generator in GENERATORS:
        script = f"tools/{generator}.py"
        checks.append(Check(generator, (python, script, "--check") if (REPO / script).exists() else ()))
    return checks


def run_lint(progress: Progress) -> PartResult:
    """Run every linter, also after one has failed."""
    result = PartResult("lint")
    started = time.monotonic()
    env = {
        "ANSIBLE_COLLECTIONS_PATH": str(REPO / ".dev"),
        "ANSIBLE_INJECT_FACT_VARS": "false",
        "NO_COLOR": "1",
        "PYTHONPATH": "agent:tests/lab:tools",
    }
    for check in all_checks():
        if not check.argv:
            result.notes.append(f"{check.name} found no files to look at")
            continue
        log = LOGS / f"lint-{check.name}.log"
        began = time.monotonic()
        status = progress.run(f"lint {check.name}", check.argv, log, LIMIT_SECONDS, env)
        if status == 0:
            result.passed += 1
            progress.say(f"lint: {check.name} passed ({time.monotonic() - began:.1f} s)")
        else:
            result.fail(f"{check.name}: exit status {status}, see {log.relative_to(REPO)}")
            progress.say(f"lint: {check.name} FAILED\n{log_tail(log, 40)}")
    result.seconds = time.monotonic() - started
    return result
