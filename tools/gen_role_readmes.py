# SPDX-License-Identifier: Apache-2.0
"""Write each role's README.md from its argument specs; --check says whether they are up to date."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from generated import REPO, write_or_check


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value or "")


def entry_point(name: str, spec: dict[str, Any]) -> str:
    """One section: what the entry point does and its variables."""
    lines = [f"## {name}", "", _text(spec.get("description"))]
    if spec.get("options"):
        lines += ["", "| variable | type | default | meaning |", "|---|---|---|---|"]
    for variable, option in (spec.get("options") or {}).items():
        kind = option["type"] + (f": {', '.join(option['choices'])}" if "choices" in option else "")
        default = f"`{json.dumps(option['default'])}`" if "default" in option else ""
        need = "required" if option.get("required") else default
        lines.append(f"| `{variable}` | {kind} | {need} | {_text(option.get('description'))} |")
    return "\n".join(lines)


def readme(role: Path) -> str:
    """The whole page of one role."""
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    head = (
        f"# wardmesh.fleet.{role.name}\n\n{_text(specs['main']['short_description'])}. "
        "Made by `tools/gen_role_readmes.py` from `meta/argument_specs.yml`; do not edit.\n"
    )
    return "\n\n".join([head.rstrip(), *(entry_point(name, spec) for name, spec in specs.items())]) + "\n"


if __name__ == "__main__":
    roles = sorted(path for path in (REPO / "roles").iterdir() if path.is_dir())
    sys.exit(write_or_check({role / "README.md": readme(role) for role in roles}, __doc__))
