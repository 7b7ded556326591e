# SPDX-License-Identifier: Apache-2.0
"""The stages of a pass: each may fail alone, and the log says what was done, and why it had to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from wardmesh.daemon.log import LOG
from wardmesh.model.errors import WardmeshError

Act = Callable[[], "list[str]"]
T = TypeVar("T")
_NOTHING_YET = object()


class Stages:
    """Runs stages and remembers what is wrong with each.

    A change is logged as "restored: …" when the stage wished the same the last time it succeeded: then
    somebody else undid it. Else it is logged as "applied: …".
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wishes: dict[str, object] = {}
        self._not_before: dict[str, float] = {}
        self._problems: dict[str, WardmeshError] = {}
        self.patient = True  # False: an error ends the pass, for there is nothing yet that it could spoil

    @property
    def problems(self) -> Mapping[str, WardmeshError]:
        """What is wrong now, by stage."""
        return self._problems

    def run(self, stage: str, wish: object, act: Act, *, pause: float = 0.0, prefix: str = "") -> list[str]:
        """Act and log the lines that it returns, with a prefix; after an error rest for `pause` seconds."""
        if self._clock() < self._not_before.get(stage, 0.0):
            return []
        try:
            lines = [f"{prefix}{line}" for line in act()]
        except WardmeshError as error:
            self.fail(stage, error, pause)
            return []
        except Exception as error:  # noqa: BLE001  the edge: one broken stage must not stop the others
            LOG.debug("unexpected error in %s", stage, exc_info=True)
            self.fail(stage, unexpected(stage, error), pause)
            return []
        self.mend(stage)
        same = self._wishes.get(stage, _NOTHING_YET) == wish
        self._wishes[stage] = wish
        for line in lines:
            LOG.info("%s: %s", "restored" if same else "applied", line)
        return lines

    def fail(self, stage: str, error: WardmeshError, pause: float = 0.0) -> None:
        """Note an error, and log it when it is a new one; it is raised where patience is not in order."""
        if not self.patient:
            raise error
        if pause:
            self._not_before[stage] = self._clock() + pause
        if str(self._problems.get(stage, "")) != str(error):
            LOG.error("%s: %s", stage, error)
        self._problems[stage] = error

    def mend(self, *stages: str) -> None:
        """These stages work, or have no part in what is wished now."""
        for stage in stages:
            self._not_before.pop(stage, None)
            if self._problems.pop(stage, None) is not None:
                LOG.info("%s: no error any more", stage)

    def restart(self) -> None:
        """The wishes are new ones: forget all rests, and what was wished."""
        self._not_before.clear()
        self._wishes.clear()


def unexpected(what: str, error: Exception) -> WardmeshError:
    """An error that nobody foresaw, in words."""
    return WardmeshError(
        f"unexpected error in {what}",
        why=f"{type(error).__name__}: {error}",
        remedy="set debug.enabled: true in the configuration, and see journalctl -u wardmesh",
    )


class Memo:
    """Keeps the last result for the same key, as the same object: who receives it may compare by identity."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[object, object]] = {}

    def get(self, name: str, key: object, make: Callable[[], T]) -> T:
        """The held value, made anew when the key is another one."""
        held = self._held.get(name)
        if held is None or held[0] != key:
            held = (key, make())
        # Of equal keys the newer one stays: next time it is the same object, which is seen at a glance.
        self._held[name] = (key, held[1])
        return cast("T", held[1])
