"""Decides what an attack has shown: what ordinary clients saw of it, what missed its target.

Pure: what the programs print comes in, values go out. Ratios are taken within a pass, between what
clients saw right before an attack and under it; what counts is the median of the passes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from benchmarks.abuseplan import FEW, SLACK, Attack

__all__ = ["Load", "Result", "Usage", "Window", "missed", "percentile", "ratio"]

RATIO: Final = 2.0
"""How much longer the slowest hundredth of ordinary answers may take under an attack."""

ENOUGH: Final = 300
"""Answers without which a p99 means nothing."""

BACK: Final = 1.0
"""Seconds after the end of an attack until a new client is served."""

SETTLED: Final = 4.0
"""Seconds after an attack until its descriptors are given back: DLBA reads on for two."""

DESCRIPTORS: Final = 32
"""As many more than before are the ordinary clients'."""

MEMORY: Final = 48 << 20
"""Bytes: what may stay. An allocator gives back what it likes; growth from attack to attack is a
leak, and the soak looks for it."""


def percentile(times: Sequence[float], share: float) -> float | None:
    """The nearest rank; None without times. `times` ascending."""
    if not times:
        return None
    return times[max(math.ceil(len(times) * share) - 1, 0)]


@attrs.frozen
class Window:
    """What ordinary clients saw in some seconds."""

    times: tuple[float, ...]
    """Seconds from due to answered, ascending, of all kinds."""
    failed: int
    errors: tuple[str, ...] = ()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Window:
        """From what abuseclients.py prints."""
        times = sorted(time for mine in document["times"].values() for time in mine)
        return cls(tuple(times), document["failed"], tuple(document["errors"]))

    @property
    def p50(self) -> float | None:
        return percentile(self.times, 0.5)

    @property
    def p99(self) -> float | None:
        return percentile(self.times, 0.99)


@attrs.frozen
class Load:
    """What became of the attackers; see abuseload.py."""

    begun: int
    failed: int
    cut: int
    held: int
    answers: Mapping[str, int]
    median: float | None
    longest: float | None
    oldest: float

    def cut_after(self, due: float | None) -> float | None:
        """Seconds the longest connection lasted, or has lasted where it should have ended."""
        if due is None:
            return self.longest
        return max(self.longest or 0.0, self.oldest if self.oldest > due + SLACK else 0.0) or None


@attrs.frozen
class Usage:
    """What a process has at a moment, its children included."""

    rss: int
    """Bytes."""
    descriptors: int


@attrs.frozen
class Result:
    """One attack on one subject in one pass."""

    number: int
    subject: str
    attack: Attack
    due: float | None
    quiet: Window
    under: Window
    after: Window
    load: Load
    before: Usage
    peak: Usage
    left: Usage
    back: float | None
    """Seconds from the attack's end until a new client was served; None: never."""
    settled: float | None
    """Seconds until the descriptors were back; None: they weren't."""
    internal_errors: int = 0
    """DLBA's own count of exceptions."""
    problem: str = ""
    """Why it couldn't be carried out."""

    def problems(self) -> list[str]:
        """What missed its target apart from the p99, which needs all passes."""
        if self.problem:
            return [self.problem]
        found = []
        cut = self.load.cut_after(self.due)
        if self.due is not None and not self.attack.exhausts:
            if cut is None:
                found.append("attackers: expected them to be cut, they weren't")
            elif cut > self.due + SLACK:
                found.append(
                    f"attackers: expected to be cut after {self.due:g} s, took {cut:.1f} s"
                )
        if self.attack.exhausts and self.subject == "dlba" and self.peak.descriptors < FEW - 5:
            # The others keep to a limit of their own, as DLBA would if it weren't told otherwise.
            found.append(
                f"descriptors: expected all {FEW} to be in use, got {self.peak.descriptors}"
            )
        for window, when in ((self.under, "under attack"), (self.after, "afterwards")):
            if window.failed:
                why = "; ".join(window.errors)
                found.append(f"{window.failed} ordinary requests failed {when}: {why}")
        if self.back is None or self.back > BACK:
            found.append(f"serves again: expected within {BACK:g} s, got {_seconds(self.back)}")
        if self.settled is None:
            more = self.left.descriptors - self.before.descriptors
            found.append(f"descriptors: {more} more than before")
        if self.left.rss - self.before.rss > MEMORY:
            found.append(f"memory: {(self.left.rss - self.before.rss) >> 20} MiB more than before")
        if self.internal_errors:
            found.append(f"internal errors: {self.internal_errors}")
        return found


def ratio(results: Sequence[Result]) -> float | None:
    """Median over the passes of p99 under attack by p99 before; None where too little was seen."""
    found = [
        result.under.p99 / result.quiet.p99
        for result in results
        if not result.problem
        and not result.attack.exhausts
        and min(len(result.under.times), len(result.quiet.times)) >= ENOUGH
        and result.under.p99
        and result.quiet.p99
    ]
    return statistics.median(found) if found else None


def missed(results: Sequence[Result]) -> list[str]:
    """All that missed its target, of one attack on one subject in all passes; a sentence each."""
    found = [
        f"pass {result.number}: {problem}" for result in results for problem in result.problems()
    ]
    worse = ratio(results)
    if worse is not None and worse > RATIO:
        found.append(f"p99 of others: expected at most {RATIO:g} times, got {worse:.1f} times")
    return found


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"
