# SPDX-License-Identifier: Apache-2.0
"""Log lines for the journal.

Fields, in both forms: time (JSON only, unix seconds; the journal has its own), level, msg. A line about
WireGuard holds the word wireguard; what came back by itself begins with "restored:".
"""

from __future__ import annotations

import json
import logging
import os

LOG = logging.getLogger("wardmesh")
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class LevelCounter(logging.Filter):
    """Counts the warnings and errors that pass a logger; a metric shows them. Lets everything through."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = {"warning": 0, "error": 0}

    def filter(self, record: logging.LogRecord) -> bool:
        """Count one record."""
        if record.levelno >= logging.ERROR:
            self.counts["error"] += 1
        elif record.levelno >= logging.WARNING:
            self.counts["warning"] += 1
        return True


COUNTED = LevelCounter()


class _Formatter(logging.Formatter):
    """One line per record; inside the journal a line begins with its priority (sd-daemon(3))."""

    def __init__(self, form: str, *, journal: bool) -> None:
        super().__init__()
        self._json = form == "json"
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {"level": record.levelname.lower(), "msg": record.getMessage()}
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        if self._json:
            text = json.dumps({"time": round(record.created, 3), **fields}, ensure_ascii=False)
        else:
            text = " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())
        return f"<{_PRIORITIES.get(record.levelno, 6)}>{text}" if self._journal else text


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or set(text) & set(' "\n=') else text


def setup_log(form: str, level: str) -> None:
    """Lines to stderr. form: text or json; level: debug, info, warning or error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(form, journal="JOURNAL_STREAM" in os.environ))
    LOG.handlers[:] = [handler]
    LOG.setLevel(level.upper())
    LOG.propagate = False
    LOG.addFilter(COUNTED)  # a filter that is there already is not added twice
    logging.getLogger("pyroute2").setLevel(logging.ERROR)
