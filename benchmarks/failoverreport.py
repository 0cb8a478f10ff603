"""Decides how people and programs see the runs of failover.py: one table, targets, the same values.

Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from benchmarks.failovermeasure import Run, Survival
from benchmarks.failoverplan import DLBA, KEEPALIVED, TARGETS

__all__ = ["report"]


@attrs.frozen
class Line:
    """All runs of a subject and a fault. Times in seconds, None without a sound run."""

    subject: str
    fault: str
    runs: int
    sound: int
    median: float | None
    worst: float | None
    answers_worst: float | None
    failed: float | None
    before_worst: float | None
    survival: Survival


def summarise(runs: Sequence[Run]) -> list[Line]:
    """A line for each subject and fault, in the order in which they were run first."""
    lines = []
    for subject, fault in dict.fromkeys((run.subject, run.fault) for run in runs):
        mine = [run for run in runs if (run.subject, run.fault) == (subject, fault)]
        sound = [run for run in mine if not run.problems]
        outages = [run.outage for run in sound]
        lines.append(
            Line(
                subject,
                fault,
                len(mine),
                len(sound),
                statistics.median(outages) if sound else None,
                max(outages, default=None),
                max((run.answers for run in sound), default=None),
                statistics.median(run.failed for run in sound) if sound else None,
                max((run.before for run in sound), default=None),
                sum((run.survival for run in sound), Survival(0, 0, 0, 0)),
            )
        )
    return lines


def targets(lines: Sequence[Line]) -> list[str]:
    """Whether DLBA is as good as it should be, a sentence each."""
    found = {(line.subject, line.fault): line for line in lines}
    peer = min(KEEPALIVED, key=lambda pair: pair.advertise).name
    said = []
    for fault, limit in TARGETS.items():
        ours, theirs = found.get((DLBA, fault)), found.get((peer, fault))
        if ours is None or ours.worst is None:
            continue
        median = f"median {_ms(ours.median)}, worst {_ms(ours.worst)}"
        said.append(f"{fault}: outage at most {_ms(limit)}: {median}: {_met(ours.worst <= limit)}")
        if theirs is not None and theirs.worst is not None:
            better = (ours.median or 0) <= (theirs.median or 0) and ours.worst <= theirs.worst
            said.append(
                f"{fault}: never worse than {peer}: its median {_ms(theirs.median)}, "
                f"worst {_ms(theirs.worst)}: {_met(better)}"
            )
        count = ours.survival
        whole = count.living > 0 and count.living == count.living_survived
        said.append(
            f"{fault}: every download whose node lives: {count.living_survived} of "
            f"{count.living}: {_met(whole)}"
        )
    return said


def report(runs: Sequence[Run]) -> tuple[str, Mapping[str, Any]]:
    """The table and the targets for people, and the same for programs."""
    lines = summarise(runs)
    rows = [
        [
            "subject",
            "fault",
            "outage ms: median",
            "worst",
            "by answers: worst",
            "tries lost",
            "survived: all",
            "of living nodes",
            "without fault: worst",
            "runs",
        ]
    ]
    for line in lines:
        count = line.survival
        rows.append(
            [
                line.subject,
                line.fault,
                *map(_ms, (line.median, line.worst, line.answers_worst)),
                "-" if line.failed is None else f"{line.failed:.0f}",
                _share(count.all_survived, count.all),
                _share(count.living_survived, count.living),
                _ms(line.before_worst),
                f"{line.sound} of {line.runs}",
            ]
        )
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    text = [
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    sentences = targets(lines)
    if sentences:
        text += ["", "Targets:", *sentences]
    failed = [run for run in runs if run.problems]
    text += [
        f"FAILED: run {run.number}, {run.subject}, {run.fault}: {problem}"
        for run in failed
        for problem in run.problems
    ]
    figures = {
        "lines": [attrs.asdict(line) for line in lines],
        "targets": sentences,
        "failed": len(failed),
    }
    return "\n".join(text), figures


def _met(good: bool) -> str:
    return "met" if good else "MISSED"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.0f}"


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else "-"
