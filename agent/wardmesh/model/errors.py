# SPDX-License-Identifier: Apache-2.0
"""The one exception type of the package; it is caught at the edge (CLI, API, daemon loop)."""

from __future__ import annotations


class WardmeshError(Exception):
    """An error that an operator can act on.

    what: what failed; where: file and path in the document, or the object; why: the cause;
    remedy: what to do about it. Empty parts are left out of the text.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.where, self.what, self.why) if part)
        return f"{text} (remedy: {self.remedy})" if self.remedy else text

    def as_dict(self) -> dict[str, str]:
        """The four parts as JSON-ready strings."""
        return {"what": self.what, "where": self.where, "why": self.why, "remedy": self.remedy}
