# SPDX-License-Identifier: Apache-2.0
"""What is kept between two passes costs no pass a look at every member of a large fleet."""

from __future__ import annotations

import itertools

from wardmesh.daemon.stages import Memo


class Fleet:
    """A key that is dear to compare, as a map of thousands is."""

    compared = 0

    def __eq__(self, _other: object) -> bool:
        Fleet.compared += 1
        return True

    def __hash__(self) -> int:
        return 0


def test_a_key_that_is_equal_to_the_last_one_is_compared_once() -> None:
    memo, numbers, first, same = Memo(), itertools.count(1), Fleet(), Fleet()

    def get(fleet: Fleet) -> int:
        return memo.get("routes", (fleet, 1), lambda: next(numbers))

    assert [get(first), get(first), get(first)] == [1, 1, 1] and Fleet.compared == 0
    assert [get(same), get(same), get(same)] == [1, 1, 1] and Fleet.compared == 1
    assert memo.get("routes", (same, 2), lambda: 7) == 7
