# SPDX-License-Identifier: Apache-2.0
"""How long fuzzers look: a number of examples, never a time. WARDMESH_FUZZ_FACTOR multiplies all of them.

A failure of Hypothesis prints a line `@reproduce_failure(…)`, which put above the test shows the same example
anywhere; the fuzzers of packets begin with a fixed seed. docs/security.md lists every one with its budget.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

FACTOR = float(os.environ.get("WARDMESH_FUZZ_FACTOR", "1"))


def examples(count: int) -> int:
    """So many examples, times the factor."""
    return max(1, round(count * FACTOR))


def fuzz(count: int) -> Any:
    """A decorator, above @given: this property is a fuzzer with a budget of so many examples."""
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples(count), print_blob=True, deadline=None, suppress_health_check=slow)
