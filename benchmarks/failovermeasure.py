"""Decides what the tries and downloads of one run of failover.py say: outage, survivors.

Pure. A try is one new connection to the VIP with one small request. The outage is what a client
sees who begins a try every few milliseconds: the longest time between the beginnings of two tries
that succeeded, one after the other, of which the later one began after the fault. Without any fault
that is the time between two tries, and what a busy machine adds.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

__all__ = ["LEAST_BEFORE", "Download", "Run", "Survival", "Try", "judge", "longest_gap", "survival"]

#: Share of the tries before the fault that must succeed.
LEAST_BEFORE: Final = 0.99
#: Seconds at the end of the tries in which nearly all must succeed again: then the outage is over.
OVER: Final = 0.5


@attrs.frozen
class Try:
    """One try: when it began (monotonic) and how many seconds it took; None: it failed."""

    began: float
    took: float | None


@attrs.frozen
class Download:
    """What came of one download. `node`: who served it; `wrong`: empty if it came byte for byte."""

    port: int
    node: str
    wrong: str


@attrs.frozen
class Survival:
    """How many downloads came through, of all and of those whose node lived."""

    all: int
    all_survived: int
    living: int
    living_survived: int

    def __add__(self, other: Survival) -> Survival:
        pairs = zip(attrs.astuple(self), attrs.astuple(other), strict=True)
        return Survival(*(one + two for one, two in pairs))


@attrs.frozen
class Run:
    """One fault and what became of it; `problems`: why its figures don't count, empty: they do."""

    number: int
    subject: str
    fault: str
    outage: float
    """Seconds."""
    answers: float
    """The same by when answers came, seconds: longer, if some had to wait."""
    before: float
    """The longest such time before the fault, seconds: what the machine does without one."""
    failed: int
    """Tries from the fault on that failed."""
    survival: Survival
    problems: Sequence[str]


def longest_gap(moments: Iterable[float], since: float, until: float | None = None) -> float:
    """Seconds between two neighbours of which the later one comes after `since`; 0.0: none.

    `until`: the later one comes before it.
    """
    pairs = itertools.pairwise(sorted(moments))
    return max(
        (two - one for one, two in pairs if two > since and (until is None or two <= until)),
        default=0.0,
    )


def survival(downloads: Collection[Download], dead: str) -> Survival:
    """Count who came through the fault of the node `dead`."""
    living = [one for one in downloads if one.node != dead]
    return Survival(
        len(downloads),
        sum(not one.wrong for one in downloads),
        len(living),
        sum(not one.wrong for one in living),
    )


def judge(
    what: tuple[int, str, str],
    tries: Sequence[Try],
    downloads: Collection[Download],
    dead: str,
    fault: float,
) -> Run:
    """One run. `what`: number, subject, fault; `dead`: the node; `fault`: the moment, monotonic."""
    good = [one.began for one in tries if one.took is not None]
    answers = [one.began + one.took for one in tries if one.took is not None]
    early = [one for one in tries if one.began < fault - 0.5]
    problems = []
    if len(early) < 20:
        problems.append(f"expected tries before the fault, got {len(early)}")
    elif sum(one.took is not None for one in early) < LEAST_BEFORE * len(early):
        problems.append("expected tries to succeed before the fault, got failed ones")
    end = max((one.began for one in tries), default=fault)
    last = [one for one in tries if one.began > max(fault, end - OVER)]
    if sum(one.took is not None for one in last) < LEAST_BEFORE * len(last) or not last:
        problems.append(f"expected the outage to be over {end - fault:.1f} s after the fault")
    ghosts = [one for one in downloads if one.node == dead and not one.wrong]
    if ghosts:
        # Then its node had sent all of it before: the downloads were too short to say anything.
        problems.append(f"expected downloads of {dead} to end with it, got {len(ghosts)} whole")
    return Run(
        *what,
        outage=longest_gap(good, fault),
        answers=longest_gap(answers, fault),
        before=longest_gap(good, float("-inf"), fault),
        failed=sum(one.took is None and one.began >= fault for one in tries),
        survival=survival(downloads, dead),
        problems=problems,
    )


def tries_of(values: Iterable[Sequence[float | None]]) -> list[Try]:
    """The tries as failoverprobe.py tells them: pairs of began and took."""
    return [Try(began, took) for began, took in values if began is not None]


def downloads_of(
    results: Iterable[Mapping[str, Any]], nodes: Mapping[int, str | None]
) -> list[Download]:
    """The downloads as failoverload.py tells them, with who served each, by its port."""
    return [Download(one["port"], nodes.get(one["port"]) or "", one["wrong"]) for one in results]
