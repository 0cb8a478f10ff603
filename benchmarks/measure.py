"""Decides what the numbers of a run mean: reads what wrk and the kernel print, compares passes.

Pure: text and numbers in, values out. CPU time comes from the scheduler's own clock
(`/proc/PID/task/*/schedstat`, nanoseconds) or, where the kernel keeps none, from `/proc/PID/stat`
(clock ticks, mostly 10 ms). A ratio is taken within a pass, never between passes: what disturbs a
machine disturbs neighbours in time alike.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

__all__ = [
    "Run",
    "Spread",
    "WrkResult",
    "parse_schedstat",
    "parse_stat",
    "parse_wrk",
    "ratios",
    "report",
    "spread",
]

_TOTAL: Final = re.compile(
    r"^\s*(\d+) requests in ([\d.]+)(us|ms|s|m|h), ([\d.]+)([KMGT]?)B read$", re.MULTILINE
)
_ERRORS: Final = re.compile(
    r"^\s*Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)$", re.MULTILINE
)
_STATUS: Final = re.compile(r"^\s*Non-2xx or 3xx responses: (\d+)$", re.MULTILINE)
_PERCENTILE: Final = re.compile(r"^\s*(50|99)%\s+([\d.]+)(us|ms|s|m|h)$", re.MULTILINE)
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

#: wrk prints bytes with three digits; a sum may be this much below the truth.
ROUNDING: Final = 0.01


@attrs.frozen
class WrkResult:
    """What wrk saw."""

    requests: int
    """Responses read to their end."""
    seconds: float
    received: float
    """Bytes, heads included; rounded by wrk to three digits."""
    socket_errors: int
    bad_status: int
    """Responses with another status than 2xx or 3xx."""
    p50: float | None
    """Median latency in seconds; None without `--latency`."""
    p99: float | None

    def problems(self, body: int) -> list[str]:
        """What makes this run worthless; `body`: bytes each response must have carried."""
        found = []
        if self.requests == 0:
            found.append("wrk: expected responses, got none")
        if self.socket_errors:
            found.append(f"wrk: expected no socket errors, got {self.socket_errors}")
        if self.bad_status:
            found.append(f"wrk: expected only 2xx, got {self.bad_status} others")
        if self.requests and self.received < self.requests * body * (1 - ROUNDING):
            mean = self.received / self.requests
            found.append(f"wrk: expected at least {body} bytes a response, got {mean:.0f}")
        return found


@attrs.frozen
class Run:
    """One setup under load once."""

    number: int
    """The pass, from 1."""
    work: str
    """What was asked: `plain` or `tls`."""
    setup: str
    """Who was asked."""
    requests: int
    wall: float
    """Seconds from before wrk to after it."""
    cpu: float
    """CPU seconds of the process under test in that time, all threads."""
    p50: float | None
    p99: float | None
    problems: tuple[str, ...] = ()
    """Why it doesn't count; empty: it does."""

    @property
    def per_cpu_second(self) -> float:
        """Requests per CPU second of the process under test."""
        return self.requests / self.cpu if self.cpu > 0 else 0.0

    @property
    def busy(self) -> float:
        """Share of one core that the process took."""
        return self.cpu / self.wall if self.wall > 0 else 0.0


@attrs.frozen
class Spread:
    """Median and range of one figure over the passes."""

    median: float
    low: float
    high: float
    count: int


def parse_wrk(text: str) -> WrkResult:
    """Read wrk's report. Raises ValueError when its summary isn't there."""
    total = _TOTAL.search(text)
    if total is None:
        raise ValueError(f"wrk: expected a line `N requests in S, B read`, got {text[-500:]!r}")
    errors = _ERRORS.search(text)
    status = _STATUS.search(text)
    latency = {
        found[1]: float(found[2]) * _SECONDS[found[3]] for found in _PERCENTILE.finditer(text)
    }
    return WrkResult(
        requests=int(total[1]),
        seconds=float(total[2]) * _SECONDS[total[3]],
        received=float(total[4]) * _BYTES[total[5]],
        socket_errors=sum(map(int, errors.groups())) if errors else 0,
        bad_status=int(status[1]) if status else 0,
        p50=latency.get("50"),
        p99=latency.get("99"),
    )


def parse_schedstat(texts: Iterable[str]) -> float:
    """CPU seconds of a process from the schedstat files of all its threads.

    Each: `nanoseconds-on-cpu nanoseconds-waiting timeslices`. Raises ValueError for anything else.
    """
    total = 0
    for text in texts:
        fields = text.split()
        if len(fields) != 3:
            raise ValueError(f"schedstat: expected three numbers, got {text!r}")
        total += int(fields[0])
    return total / 1e9


def parse_stat(text: str, ticks: int) -> float:
    """CPU seconds, user and system, of a process from its /proc/PID/stat; `ticks` a second.

    The second field is the program's name in parentheses and may hold spaces and parentheses.
    Raises ValueError for anything else.
    """
    _, found, rest = text.rpartition(")")
    fields = rest.split()
    if not found or len(fields) < 13:
        raise ValueError(f"stat: expected `PID (NAME) STATE …`, got {text!r}")
    return (int(fields[11]) + int(fields[12])) / ticks


def spread(values: Sequence[float]) -> Spread | None:
    """Median and range; None for no values."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratios(runs: Iterable[Run], work: str, ours: str, peer: str) -> list[float]:
    """Requests per CPU second of `ours` over those of `peer`, a number for each whole pass.

    A pass in which either failed or is missing gives none.
    """
    sound: dict[tuple[int, str], float] = {
        (run.number, run.setup): run.per_cpu_second
        for run in runs
        if run.work == work and not run.problems and run.per_cpu_second > 0
    }
    return [
        value / sound[number, peer]
        for (number, setup), value in sorted(sound.items())
        if setup == ours and (number, peer) in sound
    ]


def report(
    runs: Sequence[Run], comparisons: Sequence[tuple[str, str]]
) -> tuple[str, Mapping[str, Any]]:
    """The tables for people, and the same figures for programs.

    `comparisons`: (ours, peer) names of setups.
    """
    works = sorted({run.work for run in runs})
    setups = sorted({run.setup for run in runs})
    lines = [
        f"{'work':<6} {'setup':<16} {'requests per CPU second':<30} busy  p50 ms  p99 ms  passes"
    ]
    figures: dict[str, Any] = {"per_cpu_second": {}, "ratios": {}}
    for work in works:
        for setup in setups:
            mine = [run for run in runs if (run.work, run.setup) == (work, setup)]
            sound = [run for run in mine if not run.problems]
            row = spread([run.per_cpu_second for run in sound])
            count = f"{len(sound)} of {len(mine)}"
            if row is None:
                lines.append(f"{work:<6} {setup:<16} {'-':<30} {'-':>4} {'-':>7} {'-':>7}  {count}")
                continue
            text = f"{row.median:>7,.0f}  ({row.low:,.0f} to {row.high:,.0f})"
            busy = statistics.median(run.busy for run in sound)
            p50, p99 = (_milliseconds([getattr(r, name) for r in sound]) for name in ("p50", "p99"))
            lines.append(
                f"{work:<6} {setup:<16} {text:<30} {busy:>4.0%} {p50:>7} {p99:>7}  {count}"
            )
            figures["per_cpu_second"].setdefault(work, {})[setup] = attrs.asdict(row)
    lines += ["", f"{'work':<6} {'ratio of requests per CPU second, within a pass':<50} passes"]
    for work in works:
        for ours, peer in comparisons:
            row = spread(ratios(runs, work, ours, peer))
            name = f"{ours} / {peer}"
            text = (
                f"{row.median:.2f}  ({row.low:.2f} to {row.high:.2f})  {row.count}" if row else "-"
            )
            lines.append(f"{work:<6} {name:<28} {text}")
            if row is not None:
                figures["ratios"].setdefault(work, {})[name] = attrs.asdict(row)
    failed = [run for run in runs if run.problems]
    for run in failed:
        for problem in run.problems:
            lines.append(f"FAILED: pass {run.number}, {run.work}, {run.setup}: {problem}")
    figures["failed"] = len(failed)
    return "\n".join(lines), figures


def _milliseconds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known) * 1000:.2f}" if known else "-"
