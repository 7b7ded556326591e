# SPDX-License-Identifier: Apache-2.0
"""`ansible-test sanity` on the built collection, without the one download that it wants from outside PyPI.

ansible-test resolves real paths, so the collection must physically lie in ansible_collections/NAMESPACE/NAME:
it is built into a tarball (the files that users get) and unpacked under .build/. ansible-test makes a virtual
environment for each test with a bootstrap script that it would download; a script of the same name that uses
Python's own ensurepip is put into its cache first. Its home is .build/home, so nothing is left elsewhere.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import sys
import time
from pathlib import Path

from checks.results import PartResult
from checks.running import LOGS, REPO, Progress, log_tail

BUILD = REPO / ".build"
TREE = BUILD / "ansible_collections" / "wardmesh" / "fleet"
HOME = BUILD / "home"
LIMIT_SECONDS = 1200.0
# PowerShell's linter needs PowerShell; there is no such file here. Everything else runs.
NOT_RUN = ("pslint",)

GET_PIP = '''\
"""Stands in for get-pip.py: Python's bundled pip, then the asked packages from the configured index."""
import ensurepip
import subprocess
import sys

ensurepip.bootstrap(upgrade=True)
names = [word for word in sys.argv[1:] if not word.startswith("-")]
if names:
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    sys.exit(subprocess.call([*command, *names]))
'''


def pip_versions() -> set[str]:
    """The pip versions that ansible-test asks for, read from its own table of base packages."""
    spec = importlib.util.find_spec("ansible_test")
    if spec is None or spec.submodule_search_locations is None:
        return set()
    source = Path(
        next(iter(spec.submodule_search_locations)), "_internal", "python_requirements.py"
    ).read_text()
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "pip" and isinstance(value, ast.Constant):
                    found.add(str(value.value))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict":
            for word in node.keywords:
                if word.arg == "pip" and isinstance(word.value, ast.Constant):
                    found.add(str(word.value.value))
    return found


def prepare_cache() -> None:
    """Put the stand-in under each name that ansible-test may look for."""
    cache = HOME / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in pip_versions():
        (cache / f"get_pip_{version.replace('.', '_')}.py").write_text(GET_PIP)


def build_collection(progress: Progress) -> int:
    """Build the tarball and unpack it at TREE, where an earlier tree is replaced."""
    output = BUILD / "collection"
    shutil.rmtree(output, ignore_errors=True)
    galaxy = str(Path(sys.executable).with_name("ansible-galaxy"))
    log = LOGS / "sanity-build.log"
    status = progress.run(
        "sanity build", [galaxy, "collection", "build", "--output-path", str(output)], log, 120.0
    )
    if status != 0:
        progress.say(f"sanity: the collection does not build\n{log_tail(log, 20)}")
        return status
    shutil.rmtree(TREE, ignore_errors=True)
    TREE.mkdir(parents=True)
    # A repository of its own: ansible-test asks git for files, and the checkout ignores .build/.
    status = progress.run(
        "sanity build", ["git", "init", "--quiet", str(TREE)], LOGS / "sanity-git.log", 60.0
    )
    if status != 0:
        return status
    tarball = str(next(output.glob("*.tar.gz")))
    return progress.run(
        "sanity build", ["tar", "-xf", tarball, "-C", str(TREE)], LOGS / "sanity-unpack.log", 60.0
    )


def environment() -> dict[str, str]:
    """A home of its own, but the caller's pip settings."""
    env = {"HOME": str(HOME), "ANSIBLE_TEST_PREFER_PODMAN": "", "LC_ALL": "C.UTF-8"}
    for settings in (Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"):
        if settings.exists() and "PIP_CONFIG_FILE" not in os.environ:
            env["PIP_CONFIG_FILE"] = str(settings)
    return env


def run_sanity(progress: Progress) -> PartResult:
    """Every sanity test that runs without PowerShell; each counts as one test."""
    result = PartResult("sanity")
    if not (REPO / "galaxy.yml").exists():
        result.notes.append("there is no galaxy.yml yet")
        return result
    started = time.monotonic()
    if build_collection(progress) != 0:
        result.fail("the collection does not build, see .build/logs/sanity-build.log")
        return result
    prepare_cache()
    command = str(Path(sys.executable).with_name("ansible-test"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    argv = [command, "sanity", "--python", version, "--color", "no", "--truncate", "0"]
    for name in NOT_RUN:
        argv += ["--skip-test", name]
    log = LOGS / "sanity.log"
    status = progress.run("sanity", argv, log, LIMIT_SECONDS, environment(), cwd=TREE)
    output = log.read_text(encoding="utf-8", errors="replace")
    count(result, output, status)
    result.seconds = time.monotonic() - started
    if result.failed:
        errors = [line for line in output.splitlines() if line.startswith(("ERROR:", "FATAL:"))]
        shown = "\n".join(f"    {line}" for line in errors[:60])
        progress.say(f"sanity: {len(errors)} lines of errors in {log.relative_to(REPO)}:\n{shown}")
    return result


def count(result: PartResult, output: str, status: int) -> None:
    """Read which tests ran and which failed from ansible-test's words."""
    ran = dict.fromkeys(re.findall(r'^Running sanity test "([^"]+)"', output, re.MULTILINE))
    closing = re.search(
        r"^FATAL: The \d+ sanity test\(s\) listed below.*?\n(.*)", output, re.MULTILINE | re.DOTALL
    )
    failed = (
        set(re.findall(r"^([a-z0-9-]+)", closing.group(1), re.MULTILINE)) & set(ran) if closing else set()
    )
    for name in ran:
        if name in failed:
            result.fail(f"sanity test {name}")
        else:
            result.passed += 1
    # A linter whose program is missing only warns; that is a test that did not run.
    for line in re.findall(r"^WARNING: .*(?:[Ss]kipping|missing|not found).*$", output, re.MULTILINE):
        result.fail(line)
    if status != 0 and not result.failed:
        result.fail(f"ansible-test ended with exit status {status}")
    if not ran:
        result.fail("no sanity test ran")
