"""Decides how people and programs see the runs of l2.py: tables, and the same figures as values.

Pure. A cell is the median of the passes, and the main ones have the range in parentheses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from benchmarks.l2measure import FLOOD, STEADY, Comparison, Run, ratios, without
from benchmarks.measure import Spread, spread

__all__ = ["NOISE", "noise", "report"]

#: Share of a core from which on a neighbour, or the hypervisor, is worth a word.
NOISE: Final = 0.05

_FIGURES: Final = {
    "per_second": "second",
    "per_cpu_second": "CPU second of the process",
    "per_party_second": "CPU second of who takes part",
    "per_machine_second": "CPU second of the machine",
}

_Column = Callable[[Sequence[Run]], str]


def _text(found: Spread | None, form: str) -> str:
    if found is None:
        return "-"
    return f"{found.median:{form}} ({found.low:{form}} to {found.high:{form}})"


def _rate(figure: str) -> _Column:
    """The figure itself."""

    def column(runs: Sequence[Run]) -> str:
        rates = [float(getattr(run, figure)) for run in runs]
        return _text(spread([rate for rate in rates if rate > 0]), ",.0f")

    return column


def _cost(figure: str) -> _Column:
    """The figure, frames a second, as nanoseconds a frame."""

    def column(runs: Sequence[Run]) -> str:
        rates = [float(getattr(run, figure)) for run in runs]
        return _text(spread([1e9 / rate for rate in rates if rate > 0]), ",.0f")

    return column


def _median(name: str, form: str) -> _Column:
    """The median alone."""

    def column(runs: Sequence[Run]) -> str:
        found = spread([float(getattr(run, name)) for run in runs])
        return f"{found.median:{form}}" if found is not None and found.high > 0 else "-"

    return column


def _aligned(rows: Sequence[Sequence[str]], words: int) -> list[str]:
    """Lines of a table; its first `words` columns to the left, the others to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if at < words else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _table(
    runs: Sequence[Run], load: str, columns: Mapping[str, tuple[Sequence[Run], _Column]]
) -> list[str]:
    """A line for each work and subject; of each column the runs that it looks at, and how."""
    mine = [run for run in runs if run.load == load]
    rows = [["work", "subject", *columns, "passes"]]
    for work, subject in dict.fromkeys((run.work, run.subject) for run in mine):

        def of(some: Iterable[Run], key: tuple[str, str] = (work, subject)) -> list[Run]:
            return [run for run in some if (run.work, run.subject) == key]

        cells = [
            column([run for run in of(source) if run.load == load and not run.problems])
            for source, column in columns.values()
        ]
        sound = [run for run in of(mine) if not run.problems]
        rows.append([work, subject, *cells, f"{len(sound)} of {len(of(mine))}"])
    return _aligned(rows, 2)


def noise(runs: Sequence[Run]) -> str:
    """How quiet the machine was, in words."""
    whole = [run for run in runs if run.wall > 0]
    others = max((run.others for run in whole), default=0.0)
    stolen = max((run.stolen / run.wall for run in whole), default=0.0)
    text = f"other processes up to {others:.0%} of a core, the hypervisor up to {stolen:.0%}"
    return text + (": NOT QUIET" if max(others, stolen) > NOISE else "")


def report(
    runs: Sequence[Run], comparisons: Sequence[Comparison], base: str
) -> tuple[str, Mapping[str, Any]]:
    """The tables for people, and the ratios for programs.

    `runs`: in the order in which they were made; `base`: the subject that drops every frame.
    """
    flood: dict[str, tuple[Sequence[Run], _Column]] = {
        "frames per CPU second": (runs, _rate("per_cpu_second")),
        "busy": (runs, _median("busy", ".0%")),
        "frames per second": (runs, _rate("per_second")),
        "offered": (runs, _median("offered", ",.0f")),
        "lost": (runs, _median("lost", ".0%")),
    }
    steady: dict[str, tuple[Sequence[Run], _Column]] = {
        "its process": (runs, _cost("per_cpu_second")),
        "who takes part": (runs, _cost("per_party_second")),
        f"less {base}": (without(runs, base), _cost("per_party_second")),
        "whole machine": (runs, _cost("per_machine_second")),
        "lost": (runs, _median("lost", ".2%")),
    }
    lines = ["Flood, more frames than anybody takes:", *_table(runs, FLOOD, flood), ""]
    lines += ["Steady, a rate that everybody keeps up with: ns of CPU time a frame of"]
    lines += [*_table(runs, STEADY, steady), "", "Ratios within a pass:"]
    rows = [["work", "ours / peer", "load", "frames per", "ratio", "passes"]]
    records = []
    for work in dict.fromkeys(run.work for run in runs):
        for one in comparisons:
            found = spread(ratios(runs, work, one))
            figure = _FIGURES[one.figure] + (f", less {one.base}" if one.base else "")
            count = str(found.count) if found else "0"
            pair = f"{one.ours} / {one.peer}"
            rows.append([work, pair, one.load, figure, _text(found, ".2f"), count])
            numbers = attrs.asdict(found) if found else {}
            records.append({"work": work, **attrs.asdict(one), **numbers})
    lines += _aligned(rows, 4)
    failed = [run for run in runs if run.problems]
    lines += [
        f"FAILED: pass {run.number}, {run.work}, {run.load}, {run.subject}: {problem}"
        for run in failed
        for problem in run.problems
    ]
    return "\n".join(lines), {"ratios": records, "failed": len(failed)}
