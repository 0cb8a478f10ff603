"""Takes the scheduler's turns: announcements and questions that are due, answers that don't come.

An adapter, one timer. Each turn first tells the frame path that this node lives, looks at the link,
and reads the answers that wait before anybody is judged by their absence; nobody is judged while
this node's own link is down or answers were lost. What silence means is for `judge` to say.

Source: routing.md "ARP"; election.md "Time".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Any, Final

from twisted.logger import Logger

from dlba.routing.linkwatch import LinkWatch
from dlba.routing.path import FramePath
from dlba.routing.reader import SELDOM
from dlba.routing.segment import Segment

__all__ = ["Turn"]

#: Seconds between two turns at most: a carrier is missed that soon.
EVERY: Final = 0.1
#: Turns at least in the time after which this node counts as absent.
SIGNS: Final = 3


class Turn:
    """`vip`: for people; `absent_after`: seconds; `after`: called at the end of each turn.

    `judge(number, alive)`: a node doesn't answer ARP, or does again.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        path: FramePath,
        segment: Segment,
        links: LinkWatch,
        judge: Callable[[int, bool], None],
        vip: str,
        absent_after: float,
        after: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._segment = segment
        self._links = links
        self._judge = judge
        self._vip = vip
        self._every = min(EVERY, absent_after / SIGNS)
        self._after = after
        self._timer: Any = None
        self._conflicts = 0
        self._conflict_told = -inf

    def take(self) -> None:
        """Take a turn now, and the next ones when they are due."""
        self.stop()
        # Before anything else: what is called from here may call `take` or `stop`.
        timer = self._timer = self._reactor.callLater(self._every, self.take)
        try:
            self._act(time.monotonic())
            self._after()
        except Exception:  # noqa: BLE001 - a bug here must not end announcements for good
            self._log.failure("an exception at a turn of the scheduler")
        if timer is self._timer:
            timer.reset(self._wait())

    def soon(self) -> None:
        """Something new is due: look when."""
        if self._timer is not None and self._timer.active():
            self._timer.reset(self._wait())

    def stop(self) -> None:
        """Take no more turns."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def send_due(self, now: float) -> None:
        """Send what is due. `now`: seconds, monotonic."""
        frames = (*self._path.announcer.due(now), *self._path.reach.due(now))
        arp = self._segment.arp  # None if reading has lost it
        if arp is not None:
            for frame in frames:
                arp.send(frame)

    def _wait(self) -> float:
        due = min(self._path.announcer.next_at, self._path.reach.next_at)
        return min(max(due - time.monotonic(), 0.001), self._every)

    def _act(self, now: float) -> None:
        path = self._path
        path.alive(now)
        self._links.look(now)
        self._links.read_answers()
        if now >= path.reach.next_at and not self._links.hears():
            path.reach.forgive()
        self.send_due(now)
        for change in path.reach.take_changes():
            self._judge(change.number, change.alive)
        self._tell_of_conflicts(now)

    def _tell_of_conflicts(self, now: float) -> None:
        count = self._path.conflicts - self._conflicts
        if count and now >= self._conflict_told + SELDOM:
            rival = self._path.announcer.rival or b""
            self._log.error(
                "{vip} is claimed by {mac} too ({count} frames, its or others'): announced again",
                vip=self._vip,
                mac=rival.hex(":"),
                count=count,
            )
            self._conflicts += count
            self._conflict_told = now
