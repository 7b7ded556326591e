# SPDX-License-Identifier: Apache-2.0
"""The counting of the test driver: a red test can never be counted as green."""

from __future__ import annotations

from pathlib import Path

import pytest

from checks.results import SHARED_ABSENT, PartResult, closing_line, read_junit, table
from checks.running import TIMED_OUT, Progress
from checks.sanity import count

JUNIT = """<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="bad"><failure message="assert 1 == 2">long</failure></testcase>
<testcase classname="a" name="broken"><error message="fixture broke"/></testcase>
<testcase classname="a" name="alone"><skipped message="{absent}"/></testcase>
<testcase classname="a" name="lazy"><skipped message="later"/></testcase>
</testsuite></testsuites>"""

TWO_FAILED = """Running sanity test "compile" on Python 3.11
Running sanity test "pep8"
ERROR: plugins/x.py:1:1: E1: bad
Running sanity test "pylint"
FATAL: The 2 sanity test(s) listed below (out of 3) failed. See error output above for details.
pep8
pylint
"""


def test_junit_counts_failures_errors_and_unexcused_skips_as_failed(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    file.write_text(JUNIT.format(absent=SHARED_ABSENT))
    result = PartResult("unit")
    read_junit(result, file)
    assert (result.passed, result.failed, result.skipped) == (1, 3, 1)
    assert "assert 1 == 2" in result.failures[0]
    assert "lazy" in result.failures[2]


def test_sanity_names_every_failed_test() -> None:
    result = PartResult("sanity")
    count(result, TWO_FAILED, 1)
    assert (result.passed, result.failures) == (1, ["sanity test pep8", "sanity test pylint"])


@pytest.mark.parametrize(
    ("output", "status"),
    [
        ("", 0),
        ('Running sanity test "pep8"\n', 1),
        ('Running sanity test "shellcheck"\nWARNING: Required program "shellcheck" not found.\n', 0),
    ],
    ids=["nothing ran", "it failed without saying where", "a linter is not installed"],
)
def test_sanity_is_red_when(output: str, status: int) -> None:
    result = PartResult("sanity")
    count(result, output, status)
    assert result.failed == 1


def test_the_closing_line_names_skips_only_when_there_are_any() -> None:
    parts = [PartResult("a", passed=2), PartResult("b", passed=1, failed=1)]
    assert closing_line(parts) == "3 passed, 1 failed"
    assert closing_line([*parts, PartResult("c", skipped=4)]) == "3 passed, 1 failed, 4 skipped"
    assert [line.split()[0] for line in table(parts).splitlines()] == ["part", "-" * 48, "a", "b"]


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert Progress().run("hang", ["sleep", "600"], log, limit=0.2) == TIMED_OUT
    assert "took longer" in log.read_text()
