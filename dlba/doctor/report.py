"""Writes the doctor's findings down: for people a line each with its mend below, and for programs.

Pure. Nothing that was found on the machine or on the wire reaches a terminal as control characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from dlba.config.problems import printable
from dlba.doctor.facts import Finding, Level
from dlba.routing.needs import Change, shown

__all__ = ["document", "text"]

#: Changes that were made, each with why it could not be, None if it was.
Fixed = Sequence[tuple[Change, str | None]]

KEPT: Final = "hold until the next reboot; etc/dlba.sysctl.conf in /etc/sysctl.d keeps the sysctls"
_PLURAL: Final = {Level.PROBLEM: "problems", Level.WARNING: "warnings", Level.NOTE: "notes"}


def text(found: Sequence[Finding], fixed: Fixed | None) -> str:
    """The findings for people. `fixed`: what `--fix` did before, None where it wasn't asked for."""
    rows = [_row_of_change(change, why) for change, why in fixed or ()]
    if fixed is not None:
        rows.append(("note", "fixes", KEPT if fixed else "nothing that is safe to change", ""))
    rows += [(str(one.level), one.about, one.found, one.mend) for one in found]
    shown_rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown_rows) for column in (0, 1)]
    lines = []
    for level, about, what, mend in shown_rows:
        lines.append(f"{level.ljust(widths[0])}  {about.ljust(widths[1])}  {what}")
        if mend:
            lines.append(" " * (sum(widths) + 6) + mend)
    return "\n".join([*lines, summary(found)]) + "\n"


def _row_of_change(change: Change, why: str | None) -> tuple[str, str, str, str]:
    step = f"{shown(change)}: {change.former} -> {change.wanted}"
    if why is None:
        return "fixed", change.kind, step, ""
    return "failed", change.kind, f"{step}: {why}", ""


def summary(found: Iterable[Finding]) -> str:
    """How many problems, warnings and notes there are, in words."""
    levels = [one.level for one in found]
    parts = []
    for level, plural in _PLURAL.items():
        count = levels.count(level)
        if count or level is Level.PROBLEM:
            parts.append(f"{count or 'no'} {level if count in (0, 1) else plural}")
    return ", ".join(parts)


def document(node: str, found: Sequence[Finding], fixed: Fixed | None) -> dict[str, Any]:
    """The same for programs."""
    return {
        "node": node,
        "problems": sum(one.level is Level.PROBLEM for one in found),
        "findings": [
            {
                "level": str(one.level),
                "about": one.about,
                "found": one.found,
                "mend": one.mend or None,
                "fixable": one.change is not None,
            }
            for one in found
        ],
        "fixed": [
            {"what": shown(change), "former": change.former, "now": change.wanted, "failed": why}
            for change, why in fixed or ()
        ],
    }
