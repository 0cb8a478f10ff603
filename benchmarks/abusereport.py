"""Decides how people and programs see attacks: a table, what missed its target, the same values.

Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final

import attrs

from benchmarks.abusemeasure import Result, missed, ratio

__all__ = ["document", "table"]

HEADINGS: Final = (
    "attack",
    "subject",
    "p50 before",
    "under",
    "p99 before",
    "under",
    "ratio",
    "due",
    "cut after",
    "RSS before",
    "peak",
    "after",
    "files",
    "peak",
    "after",
    "missed",
)


def groups(results: Sequence[Result]) -> list[list[Result]]:
    """The passes of each attack on each subject, in the order in which they were run first."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.attack.name, result.subject), []).append(result)
    return list(found.values())


def table(results: Sequence[Result]) -> str:
    """All attacks, a line each, and below what each does and what missed its target."""
    rows = [HEADINGS]
    wrong = []
    for group in groups(results):
        first = group[0]
        faults = missed(group)
        wrong += [f"{first.attack.name}, {first.subject}: {fault}" for fault in faults]
        sound = [result for result in group if not result.problem]
        rows.append(
            (first.attack.name, first.subject, *_figures(sound), str(len(faults)) if faults else "")
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [_line(row, widths) for row in rows]
    lines += ["", "times in ms, due and cut after in s, RSS in MiB, files: descriptors", ""]
    lines += ["What the attacks do:"]
    names = {result.attack.name: result.attack for result in results}
    lines += [f"  {name:<20}  {attack.work()}" for name, attack in names.items()]
    lines += ["", "Missed:" if wrong else "Nothing missed its target.", *(f"  {w}" for w in wrong)]
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    left = [f"{text:<{width}}" for text, width in zip(row[:2], widths[:2], strict=True)]
    right = [f"{text:>{width}}" for text, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join(left + right).rstrip()


def _figures(group: Sequence[Result]) -> tuple[str, ...]:
    if not group:
        return ("",) * (len(HEADINGS) - 3)
    worse = ratio(group)
    due = group[0].due
    cuts = [cut for r in group if (cut := r.load.cut_after(r.due)) is not None]
    return (
        *(
            _ms([getattr(getattr(r, window), name) for r in group])
            for name in ("p50", "p99")
            for window in ("quiet", "under")
        ),
        "" if worse is None else f"{worse:.2f}",
        "" if due is None else f"{due:g}",
        f"{max(cuts):.1f}" if cuts and due is not None else "",
        *(
            f"{statistics.median(getattr(r, when).rss for r in group) / (1 << 20):.0f}"
            for when in ("before", "peak", "left")
        ),
        *(
            f"{max(getattr(r, when).descriptors for r in group)}"
            for when in ("before", "peak", "left")
        ),
    )


def _ms(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known) * 1000:.1f}" if known else ""


def document(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Each result with its figures, as JSON takes them; times are left to their percentiles."""
    return [
        {
            **attrs.asdict(
                result,
                filter=lambda attribute, _: attribute.name not in {"quiet", "under", "after"},
            ),
            **{
                name: {
                    "answers": len(window.times),
                    "failed": window.failed,
                    "errors": list(window.errors),
                    "p50": window.p50,
                    "p99": window.p99,
                    "longest": max(window.times, default=None),
                }
                for name in ("quiet", "under", "after")
                for window in (getattr(result, name),)
            },
            "cut_after": result.load.cut_after(result.due),
            "problems": result.problems(),
        }
        for result in results
    ]
