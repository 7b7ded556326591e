# SPDX-License-Identifier: Apache-2.0
"""What modules return has no names that mean something else to Ansible."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

MODULES = sorted((Path(__file__).parents[3] / "plugins/modules").glob("*.py"))
# Ansible reads these from a result: a host whose module returns a list by the name `unreachable` is it.
TAKEN = {"unreachable", "failed", "skipped", "ansible_facts", "exception", "invocation", "results", "rc"}


def returned(path: Path) -> set[str]:
    """The keys of a module's RETURN."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "RETURN":
            return set(yaml.safe_load(ast.literal_eval(node.value)) or {})
    raise AssertionError(f"{path.name} has no RETURN")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_result_means_something_else_to_ansible(path: Path) -> None:
    assert returned(path).isdisjoint(TAKEN)
    assert "unreachable=" not in path.read_text(encoding="utf-8")
