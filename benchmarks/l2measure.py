"""Decides what the numbers of l2.py mean: what happened between two looks, and ratios of it.

Pure: numbers and text in, values out. CPU time is counted for three circles of those who used it:

- the process under test;
- all who take part: the process, the sender, and the kernel's own threads for frames (ksoftirqd),
  by the scheduler's clock, in nanoseconds;
- the whole machine, whoever it was, in ticks of /proc/stat.

A ratio is "how many more frames for the same", above 1 where ours does more, and taken within a
pass: what disturbs a machine disturbs neighbours in time alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

__all__ = ["FLOOD", "STEADY", "Comparison", "Look", "Run", "busy_ticks", "ratios", "without"]

#: More frames than anybody takes; and a rate that everybody keeps up with.
FLOOD: Final = "flood"
STEADY: Final = "steady"


@attrs.frozen
class Look:
    """Counters at one moment of a load."""

    at: float
    """Seconds, of a clock that only grows."""
    arrived: int
    """Frames at the nodes."""
    cpu: float
    """CPU seconds of the process under test; 0 where there is none."""
    parties: float
    """CPU seconds of all who take part."""
    machine: float
    """CPU seconds of the whole machine."""
    stolen: float
    """Seconds that the hypervisor gave to others while something here wanted to run."""


@attrs.frozen
class Run:
    """One subject under one load once."""

    number: int
    """The pass, from 1; 0: warming up."""
    work: str
    """`ack` or `mtu`."""
    load: str
    """`flood` or `steady`."""
    subject: str
    offered: float
    """Frames sent a second."""
    lost: float
    """Share of the frames of the whole load that never came to a node."""
    frames: int
    """Frames that came to a node between the looks."""
    wall: float
    """Seconds between the looks; the times that follow are from between them, too."""
    cpu: float
    """CPU seconds of the process under test; 0 where there is none."""
    parties: float
    """CPU seconds of all who take part."""
    machine: float
    """CPU seconds of the whole machine."""
    stolen: float
    """Seconds that the hypervisor took away."""
    problems: tuple[str, ...] = ()
    """Why it doesn't count; empty: it does."""

    @classmethod
    def between(
        cls,
        what: tuple[int, str, str, str],
        looks: tuple[Look, Look],
        offered: float,
        lost: float,
        problems: Sequence[str] = (),
    ) -> Run:
        """`what`: pass, work, load and subject; `looks`: the first and the last one."""
        first, last = looks
        return cls(
            *what,
            offered=offered,
            lost=lost,
            frames=last.arrived - first.arrived,
            wall=last.at - first.at,
            cpu=last.cpu - first.cpu,
            parties=last.parties - first.parties,
            machine=last.machine - first.machine,
            stolen=last.stolen - first.stolen,
            problems=tuple(problems),
        )

    # Rates are 0 where they make no sense.

    @property
    def per_second(self) -> float:
        """Frames a second that came to a node."""
        return self.frames / self.wall if self.wall > 0 else 0.0

    @property
    def per_cpu_second(self) -> float:
        """Frames per CPU second of the process under test."""
        return self.frames / self.cpu if self.cpu > 0 else 0.0

    @property
    def per_party_second(self) -> float:
        """Frames per CPU second of all who take part."""
        return self.frames / self.parties if self.parties > 0 else 0.0

    @property
    def per_machine_second(self) -> float:
        """Frames per CPU second of the whole machine."""
        return self.frames / self.machine if self.machine > 0 else 0.0

    @property
    def busy(self) -> float:
        """Share of one core that the process under test took."""
        return self.cpu / self.wall if self.wall > 0 else 0.0

    @property
    def others(self) -> float:
        """Share of one core that somebody took who has no part in it."""
        return max(self.machine - self.parties, 0.0) / self.wall if self.wall > 0 else 0.0


@attrs.frozen
class Comparison:
    """Ours beside a peer: which figure, under which load."""

    ours: str
    peer: str
    load: str
    figure: str
    """Name of one of the rates of `Run`."""
    base: str | None = None
    """Less the CPU time that the same frames cost with this subject, see `without`."""


def busy_ticks(text: str) -> tuple[int, int]:
    """Clock ticks of all cores that something ran, and that the hypervisor took; from /proc/stat.

    Raises ValueError for anything else.
    """
    fields = text.partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        raise ValueError(f"/proc/stat: expected `cpu` and eight numbers or more, got {fields}")
    user, nice, system, _, _, interrupts, soft, stolen = map(int, fields[1:9])
    return user + nice + system + interrupts + soft, stolen


def without(runs: Iterable[Run], base: str) -> list[Run]:
    """The steady runs, less what the same frames cost with `base`: CPU time of all who take part.

    With a base that drops every frame, what is left is the cost of passing frames on, and of what
    the switch and the nodes do about those. A run whose pass has no sound base is left out.
    """
    steady = [run for run in runs if run.load == STEADY and not run.problems]
    bases = {(run.number, run.work): run for run in steady if run.subject == base}
    found = []
    for run in steady:
        mine = bases.get((run.number, run.work))
        if mine is None or mine is run or not mine.offered or not mine.wall:
            continue
        # Both were sent for as long at the same rate, but not to the last frame.
        share = run.offered * run.wall / (mine.offered * mine.wall)
        found.append(attrs.evolve(run, parties=run.parties - mine.parties * share))
    return found


def ratios(runs: Sequence[Run], work: str, comparison: Comparison) -> list[float]:
    """The figure of ours over the peer's, a number for each pass in which both are sound."""
    source = runs if comparison.base is None else without(runs, comparison.base)
    rates = {
        (run.number, run.subject): float(getattr(run, comparison.figure))
        for run in source
        if (run.work, run.load) == (work, comparison.load) and not run.problems
    }
    return [
        rate / rates[number, comparison.peer]
        for (number, subject), rate in sorted(rates.items())
        if subject == comparison.ours and rate > 0 and rates.get((number, comparison.peer), 0) > 0
    ]
