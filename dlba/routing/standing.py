"""Keeps what each node lacks to take flows: a node counts as failed while it lacks anything.

Several observers judge a node: ARP, the channel, the status sweep, the node itself by its server
and its TUN device. Each has a word of its own for what is lacking, so that none takes back what
another one has found.

On the scheduler a node that begins to lack something loses its buckets at once. On a backup the
client table is a copy of the scheduler's, which alone changes it: there the rows are marked only,
and `enforce` does the rest when this node becomes scheduler.

Pure. Source: election.md "Status sweep"; routing.md "The table".
"""

from __future__ import annotations

from dlba.routing.scheduler import Scheduler

__all__ = ["Standing"]


class Standing:
    """`scheduler`: whose rows and table it is about; `in_force`: whether its table is the array's.

    Methods raise KeyError for a number without a row.
    """

    def __init__(self, scheduler: Scheduler, in_force: bool = True) -> None:
        self._scheduler = scheduler
        self._lacks: dict[int, set[str]] = {row.number: set() for row in scheduler.rows}
        self._in_force = in_force

    def lack(self, number: int, what: str, lacking: bool) -> int | None:
        """The node lacks `what`, or no more.

        Gives how many buckets were freed if it has failed or recovered by that (0 for the latter,
        and on a backup); None if it is as it was.
        """
        lacks = self._lacks[number]
        before = bool(lacks)
        (lacks.add if lacking else lacks.discard)(what)
        if bool(lacks) == before:
            return None
        if not lacks:
            self._scheduler.recover(number)
            return 0
        return self._fail(number)

    def lacks(self, number: int) -> frozenset[str]:
        """What the node lacks."""
        return frozenset(self._lacks[number])

    def enforce(self) -> int:
        """The table is the array's from now on: failed nodes lose their buckets; gives how many."""
        self._in_force = True
        return sum(self._scheduler.fail(number) for number, lacks in self._lacks.items() if lacks)

    def relax(self) -> None:
        """The table is a copy from now on: nothing here changes it."""
        self._in_force = False

    def _fail(self, number: int) -> int:
        if self._in_force:
            return self._scheduler.fail(number)
        self._scheduler.mark(number)
        return 0
