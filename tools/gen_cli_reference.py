# SPDX-License-Identifier: Apache-2.0
"""Write docs/reference/cli.md from the agent's own argument parser; --check says whether it is up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from generated import REPO, write_or_check

HEADER = """# Command line

Made by `tools/gen_cli_reference.py` from the parser in `agent/wardmesh/cli`; do not edit.

Exit status: 0 good, 1 an error (text on stderr; with `--json` also
`{"error": {"what", "where", "why", "remedy"}}` on stdout), 2 wrong usage.
`wardmeshd` is `wardmesh daemon`.
"""


def subparsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of the next words, in their order."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from dict.fromkeys(action.choices.values())


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Every verb that does something."""
    below = list(subparsers(parser))
    if not below:
        yield parser
    for child in below:
        yield from leaves(child)


def words_of(action: argparse.Action) -> str:
    """An argument as one types it."""
    value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    if not action.option_strings:
        shown = r"\|".join(map(str, action.choices)) if action.choices else str(value).upper()
        return f"[{shown}]" if action.nargs == "?" else shown
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    shown = r"\|".join(map(str, action.choices)) if action.choices else str(value)
    return f"{names} [{shown}]" if action.nargs == "?" else f"{names} {shown}"


def section(parser: argparse.ArgumentParser) -> str:
    """One verb with its arguments."""
    rows = [
        f"| `{words_of(action)}` | {action.help or ''} |"
        for action in parser._actions
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
    ]
    table = "\n".join(["| argument | meaning |", "|---|---|", *rows])
    return f"## {parser.prog}\n\n{str(parser.description).capitalize()}.\n" + (f"\n{table}\n" if rows else "")


def render() -> str:
    """The whole page."""
    sys.path.insert(0, str(REPO / "agent"))
    from wardmesh.cli.main import parser

    return "\n".join([HEADER, *(section(leaf) for leaf in leaves(parser()))])


if __name__ == "__main__":
    sys.exit(write_or_check({REPO / "docs/reference/cli.md": render()}, __doc__))
