"""Decides what was lost, who was rightly moved, and whether anything grew.

Pure. The rule of what is lost: every request that didn't get its right answer, though a backend
lived all the time, with these exceptions, which are counted apart as `cut`. They need a backend
that was killed (SIGKILL) while the request was under way; then nobody could have answered rightly:

- its answer had begun: part of it is with the client already, and another backend's answer need not
  continue it; the same for what a tunnel carries;
- a POST whose bytes the killed backend's kernel had taken, and that got 502: whether it was carried
  out nobody knows, and sending it again might do it twice (RFC 9110 9.2.2).

A GET of whose answer nothing had come is no exception: it must be sent again. Nor is a POST that
came when the backend was dead: it must go to the next one. A connection that was ended while it was
idle isn't a loss: clients see that before they send.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

__all__ = ["Failure", "Kill", "Moved", "Sample", "grew", "is_cut", "may_move", "repeated", "slope"]

FAIL_TIMEOUT: Final = 2.0
"""`fail_timeout` of the pool here, seconds: a session's own backend counts as failed that long."""

MARGIN: Final = 1.0
"""Seconds more: one request finds out that it is back."""

GROWTH: Final = 0.05
"""Share of its size by which memory may seem to grow over the second half of a run…"""

LEAST_GROWTH: Final = 6 << 20
"""…or so many bytes: what an allocator and the traffic of the moment make of it."""


@attrs.frozen
class Kill:
    """SIGKILL for a backend; times of CLOCK_MONOTONIC."""

    backend: str
    at: float
    gone: float
    """When the process was seen to be gone."""
    back: float | None = None
    """When its successor listened; None: not yet."""


@attrs.frozen
class Failure:
    """A request that got no right answer."""

    kind: str
    method: str
    began: float
    ended: float
    stage: str
    """What was waited for: connect, head, body; whole: it came, but was another."""
    status: int
    """Of the answer; 0: none came."""
    backend: str
    """Who answered; empty: unknown."""
    what: str


@attrs.frozen
class Moved:
    """A session that met another backend; `since`: the beginning of its last request at home."""

    home: str
    to: str
    since: float
    ended: float


@attrs.frozen
class Sample:
    """The process at a moment."""

    at: float
    """Seconds since the start."""
    rss: int
    descriptors: int
    objects: int | None


def is_cut(failure: Failure, kills: Iterable[Kill]) -> bool:
    """Whether it is one of the exceptions; else it is lost."""
    for kill in kills:
        if failure.began > kill.gone or failure.ended < kill.at:
            continue
        if failure.stage == "body" and failure.backend == kill.backend:
            return True
        if failure.method == "POST" and failure.stage == "head" and failure.status == 502:
            return True
    return False


def may_move(moved: Moved, kills: Iterable[Kill]) -> bool:
    """Whether its own backend was out of reach for some of the time."""
    for kill in kills:
        if kill.backend != moved.home:
            continue
        until = float("inf") if kill.back is None else kill.back + FAIL_TIMEOUT + MARGIN
        if moved.since <= until and moved.ended >= kill.at:
            return True
    return False


def repeated(journal: Sequence[str]) -> list[str]:
    """Identities of bodies that came to backends more than once."""
    seen: set[str] = set()
    twice = []
    for identity in journal:
        if identity in seen:
            twice.append(identity)
        seen.add(identity)
    return twice


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line nearest to the points (x, y) by least squares; 0 for under two."""
    count = len(points)
    if count < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if not spread:
        return 0.0
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def grew(samples: Sequence[Sample]) -> tuple[bool, float]:
    """Whether memory grew over the second half, and by how much, bytes a second."""
    half = [sample for sample in samples if sample.at >= samples[-1].at / 2] if samples else []
    if len(half) < 3:
        return False, 0.0
    rate = slope([(sample.at, sample.rss) for sample in half])
    growth = rate * (half[-1].at - half[0].at)
    mean = sum(sample.rss for sample in half) / len(half)
    return growth > max(LEAST_GROWTH, GROWTH * mean), rate


def summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Several counts by kind as one."""
    total: dict[str, int] = {}
    for mine in counts:
        for kind, count in mine.items():
            total[kind] = total.get(kind, 0) + count
    return total
