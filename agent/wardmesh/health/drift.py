# SPDX-License-Identifier: Apache-2.0
"""Pure: what a host enforces against what it should enforce, part by part; who drifted, and why.

A part is a set of facts, name to value, and its digest covers all of them. Facts are what somebody decided:
keys, allowed IPs, flags, verdicts, programs, routes. What the kernel learns by itself (handshakes, endpoints,
counters, connections) is none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wardmesh.model.errors import WardmeshError

FORMAT = 1
PARTS = (
    "agent",
    "config",
    "map",
    "policies",
    "mode",
    "keys",
    "device",
    "peers",
    "guard",
    "firewall",
    "programs",
    "routes",
)
UNREAD = "unread"
MOST = 20  # differences of a part that are told one by one
LARGEST = 64 << 10  # bytes of a report
_WORDS = 300  # characters of one difference
Facts = Mapping[str, str]
Reference = Mapping[str, Mapping[str, str]]  # fields by part, as a rollout would make them


@dataclass(frozen=True)
class Part:
    """enforced, wanted: digests of the facts, sixteen hex digits. values: the facts themselves where hosts
    are compared with each other; differences: in words."""

    name: str
    enforced: str
    wanted: str
    values: Facts = field(default_factory=dict)
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """One host's parts; problem: why there are none."""

    host: str
    parts: tuple[Part, ...] = ()
    problem: str = ""

    @property
    def digest(self) -> str:
        """Of everything that is enforced."""
        return digest_of_facts({part.name: part.enforced for part in self.parts})

    @property
    def wanted(self) -> str:
        """Of everything that should be."""
        return digest_of_facts({part.name: part.wanted for part in self.parts})


@dataclass(frozen=True)
class Verdict:
    """One host: known False means that nobody could ask it. reasons: by part, empty where nothing differs."""

    host: str
    known: bool
    reasons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def drifted(self) -> bool:
        """Who cannot be asked is not taken to be right."""
        return not self.known or bool(self.reasons)

    def words(self) -> str:
        """Everything in one line."""
        return "; ".join(f"{part}: {why}" for part, reasons in self.reasons.items() for why in reasons)


def digest_of_facts(facts: Facts) -> str:
    """Sixteen hex digits."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compare(name: str, enforced: Facts, wanted: Facts, values: Facts | None = None) -> Part:
    """A part from what was found and what should have been."""
    have, want = digest_of_facts(enforced), digest_of_facts(wanted)
    lines = () if have == want else bounded(_differences(enforced, wanted))
    return Part(name, have, want, values or {}, lines)


def unread(name: str, wanted: Facts, why: str) -> Part:
    """A part that could not be looked at: not taken to be right."""
    return Part(name, UNREAD, digest_of_facts(wanted), {}, (f"cannot be read: {why}",))


def _differences(enforced: Facts, wanted: Facts) -> list[str]:
    lines = [f"{key} is missing" for key in wanted if key not in enforced]
    lines += [f"{key} is there and should not be" for key in enforced if key not in wanted]
    lines += [
        f"{key} is {enforced[key] or 'nothing'}, should be {value or 'nothing'}"
        for key, value in wanted.items()
        if key in enforced and enforced[key] != value
    ]
    return lines


def bounded(lines: Sequence[str]) -> tuple[str, ...]:
    """As many as somebody reads, each as long as fits a line or three."""
    rest = len(lines) - MOST
    told = [clean(line) for line in lines[:MOST]]
    return (*told, *([f"and {rest} more"] if rest > 0 else []))


def clean(text: object) -> str:
    """Words of another host, fit for a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text)[:_WORDS])


# --- over the wire ---


def document(report: Report) -> dict[str, Any]:
    """As JSON has it."""
    parts = {
        part.name: {
            "enforced": part.enforced,
            "wanted": part.wanted,
            **({"values": dict(part.values)} if part.values else {}),
            **({"differences": list(part.differences)} if part.differences else {}),
        }
        for part in report.parts
    }
    found: dict[str, Any] = {"format": FORMAT, "host": report.host, "parts": parts}
    if report.problem:
        found["problem"] = report.problem
    else:
        found.update(digest=report.digest, wanted=report.wanted)
    return found


def parse_report(data: bytes, host: str) -> Report:
    """The report of a host, which may say what it likes; WardmeshError where it is none."""
    if len(data) > LARGEST:
        raise _no_report(host, f"{len(data)} bytes, at most {LARGEST}")
    try:
        return report_of(json.loads(data), host)
    except (ValueError, RecursionError) as error:
        raise _no_report(host, "not JSON") from error


def report_of(found: Any, host: str) -> Report:
    """The same from a decoded document."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise _no_report(host, "another format: its agent is of another version")
    if found.get("problem"):
        return Report(host, (), clean(found["problem"]))
    parts = found.get("parts")
    if not isinstance(parts, dict) or not parts:
        raise _no_report(host, "no parts")
    return Report(host, tuple(_part(host, name, parts[name]) for name in PARTS if name in parts))


def _part(host: str, name: str, item: Any) -> Part:
    if not isinstance(item, dict):
        raise _no_report(host, f"{name} is no object")
    values, lines = item.get("values") or {}, item.get("differences") or []
    if not isinstance(values, dict) or not isinstance(lines, list):
        raise _no_report(host, f"{name} is not as it should be")
    told = {clean(key): clean(value) for key, value in list(values.items())[:MOST]}
    return Part(name, clean(item.get("enforced")), clean(item.get("wanted")), told, bounded(lines))


def _no_report(host: str, why: str) -> WardmeshError:
    return WardmeshError(
        "no digest",
        where=host,
        why=why,
        remedy="look at its wardmesh fleet digest; a rollout brings the agent's version",
    )


# --- judging ---


def judge(report: Report, reference: Reference) -> Verdict:
    """Does a host enforce what it should, and is that what a rollout would make of it?"""
    if report.problem:
        return Verdict(report.host, known=False, reasons={"unknown": (report.problem,)})
    parts = {part.name: part for part in report.parts}
    reasons: dict[str, tuple[str, ...]] = {}
    for name in PARTS:
        lines = _reasons(parts.get(name), reference.get(name, {}))
        if lines:
            reasons[name] = lines
    return Verdict(report.host, known=True, reasons=reasons)


def _reasons(part: Part | None, fields: Mapping[str, str]) -> tuple[str, ...]:
    if part is None:
        return ("the host does not tell",)
    lines = part.differences
    if not lines and part.enforced != part.wanted:
        lines = ("it differs from the host's own files",)
    others = [
        f"{key} is {short(part.values.get(key, 'nothing'))}, a rollout would make it {short(value)}"
        for key, value in fields.items()
        if part.values.get(key) != value
    ]
    return (*lines, *others)


def judge_all(reports: Iterable[Report], reference: Reference) -> list[Verdict]:
    """Everybody, by name."""
    return sorted((judge(report, reference) for report in reports), key=lambda item: item.host)


def reference_of(report: Report) -> Reference:
    """A host's own wishes as what the others are held against."""
    return {part.name: part.values for part in report.parts if part.values and part.name != "config"}


def short(value: str) -> str:
    """Digests by their beginning."""
    return f"{value[:12]}…" if len(value) > 32 else value


def rows_of(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """As JSON has it."""
    return [
        {
            "host": item.host,
            "known": item.known,
            "drifted": item.drifted,
            "parts": list(item.reasons),
            "why": item.words(),
        }
        for item in verdicts
    ]
