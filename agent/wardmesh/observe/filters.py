# SPDX-License-Identifier: Apache-2.0
"""Hubble's FlowFilter messages, compiled once to functions of a Flow.

The entries of a whitelist are OR-ed, the fields of an entry AND-ed, the values of a field OR-ed; what the
blacklist matches is left out. A field about what hosts do not have (HTTP, DNS, services, traces) is checked
for its form and matches nothing. A value that cannot be read is a WardmeshError.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.matchers import FIELDS, MOST_VALUES, Test, everything

MOST_FILTERS = 256  # entries of one list; a request of a client's making must not cost the server more


def compile_filters(whitelist: Iterable[Any], blacklist: Iterable[Any]) -> Test:
    """Lists of FlowFilter messages to one test; an empty whitelist lets everything in."""
    allowed, denied = _compile_list(whitelist, "whitelist"), _compile_list(blacklist, "blacklist")
    if not allowed and not denied:
        return everything
    if not denied:
        return lambda flow: any(test(flow) for test in allowed)
    return lambda flow: (
        not any(test(flow) for test in denied) and (not allowed or any(test(flow) for test in allowed))
    )


def _compile_list(filters: Iterable[Any], where: str) -> list[Test]:
    found = list(filters)
    if len(found) > MOST_FILTERS:
        raise WardmeshError("too many filters", where=where, why=f"{len(found)}, at most {MOST_FILTERS}")
    return [compile_filter(item, f"{where}[{place}]") for place, item in enumerate(found)]


def compile_filter(item: Any, where: str = "filter") -> Test:
    """One FlowFilter message; one without fields matches everything."""
    tests = []
    for descriptor, value in item.ListFields():
        make = FIELDS.get(descriptor.name)
        if make is None:
            raise WardmeshError(
                "no such filter on hosts", where=f"{where}.{descriptor.name}", remedy="leave it out"
            )
        values = [value] if descriptor.name == "experimental" else list(value)
        if len(values) > MOST_VALUES:
            raise WardmeshError("too many values", where=f"{where}.{descriptor.name}", why=str(len(values)))
        try:
            tests.append(make(values))
        except WardmeshError as error:
            raise WardmeshError(
                error.what, where=f"{where}.{descriptor.name}", why=error.why, remedy=error.remedy
            ) from error
    if len(tests) == 1:
        return tests[0]
    return lambda flow: all(test(flow) for test in tests)
