"""Decides whom the scheduler asks for its status, and which nodes have failed for want of answers.

Pure. The sweep goes through the other nodes one after another. A node that doesn't answer in time
is asked again, `retries` times; one that counts as failed is asked once, so that dead nodes don't
hold up the others. At the end stands a verdict:

| answered the sweep | answered a heartbeat since it began | then |
|---|---|---|
| yes | | live |
| no | yes | held: it gets nothing new |
| no | no | failed |

If more than half of the others were to fail at once, it is more likely that this node is cut off:
they are *suspected*, the scheduler looks at itself, and only those that the next sweep finds
without an answer as well have failed. Then waits `every` seconds.

Deviation from the seed: over the kept channel instead of a connection each time.
Source: the seed's status daemon; election.md "Status sweep".
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import attrs

__all__ = ["Ask", "Sweep", "Verdict"]

_NOBODY = -1


@attrs.frozen
class Ask:
    """Ask node `number` for its status; its answer carries the same `id`."""

    number: int
    id: int


@attrs.frozen
class Verdict:
    """What a sweep has found: node numbers, each in one of `failed`, `held` and `live`.

    `suspected`: those of `held` that fail if the next sweep agrees; meanwhile it shows whether
    this node's own link is at fault, which ends its reign.
    """

    failed: frozenset[int]
    held: frozenset[int]
    live: frozenset[int]
    suspected: frozenset[int] = frozenset()


class Sweep:
    """`every`: seconds from a sweep's end to the next; `timeout`: seconds for each answer."""

    def __init__(self, every: float, retries: int, timeout: float) -> None:
        self._every = every
        self._retries = retries
        self._timeout = timeout
        self._nodes: frozenset[int] = frozenset()
        self._failed: set[int] = set()
        self._suspected: frozenset[int] = frozenset()
        self._waiting: deque[int] = deque()  # those to ask in this sweep
        self._visited: set[int] = set()
        self._answered: set[int] = set()
        self._heard: set[int] = set()
        self._asked = _NOBODY
        self._tries = 0
        self._id = 0  # of the last question; never used again
        self._sweeping = False
        self._verdicts: list[Verdict] = []
        #: When `due` has something to do; infinite after `stop`.
        self.next_at = math.inf
        #: When the last sweep since `start` ended; seconds, monotonic.
        self.swept_at: float | None = None

    def start(self, nodes: Iterable[int], now: float, failed: Iterable[int] = ()) -> None:
        """Begin to sweep `nodes`, all others; `failed`: those of them that have failed already."""
        self.stop()
        self._nodes = frozenset(nodes)
        self._failed = set(failed) & self._nodes
        self._suspected = frozenset()
        self._verdicts.clear()
        self.swept_at = None
        self._sweep(now)

    def stop(self) -> None:
        """Ask nobody; answers on the way are stale."""
        self._sweeping = False
        self._asked = _NOBODY
        self.next_at = math.inf

    def again(self, now: float) -> None:
        """This node was absent: the sweep begins anew, as nobody's answer can have been missed."""
        if self.next_at != math.inf:
            self._sweep(now)

    def fail(self, number: int) -> None:
        """Other evidence has failed the node: it counts as failed until it is heard again."""
        if number in self._nodes:
            self._failed.add(number)
            self._heard.discard(number)
            self._answered.discard(number)

    def due(self, now: float) -> tuple[Ask, ...]:
        """The questions to send now, at most one; call it when `next_at` has come."""
        if now < self.next_at:
            return ()
        if not self._sweeping:
            self._sweep(now)
        elif self._asked != _NOBODY:
            if self._tries <= (0 if self._asked in self._failed else self._retries):
                return self._ask(now)
            self._proceed(now)
        while self._sweeping and self._asked == _NOBODY:
            if not self._waiting:
                self._end(now)
            else:
                number = self._asked = self._waiting.popleft()
                self._visited.add(number)
                self._tries = 0
                self._id += 1
                return self._ask(now)
        return ()

    def answered(self, number: int, id: int, now: float) -> bool:  # noqa: A002 - the message's word
        """A node has answered. False: not what it was asked last, or too late; it changes nothing.

        True: the next question is due at once.
        """
        if number != self._asked or id != self._id:
            return False
        self._answered.add(number)
        self._proceed(now)
        return True

    def heard(self, number: int, now: float) -> None:
        """A node has answered a heartbeat."""
        if self._sweeping:
            self._heard.add(number)

    def take_verdicts(self) -> tuple[Verdict, ...]:
        """Those of the sweeps that have ended since the last call."""
        verdicts = tuple(self._verdicts)
        self._verdicts.clear()
        return verdicts

    def _sweep(self, now: float) -> None:
        self._sweeping = True
        self._waiting = deque(sorted(self._nodes))
        self._visited.clear()
        self._answered.clear()
        self._heard.clear()
        self._proceed(now)

    def _ask(self, now: float) -> tuple[Ask, ...]:
        # The same id each time: an answer to the first question is one, however late it comes.
        self._tries += 1
        self.next_at = now + self._timeout
        return (Ask(self._asked, self._id),)

    def _proceed(self, now: float) -> None:
        """Done with the node that was asked: on to the next one."""
        self._asked = _NOBODY
        self.next_at = now

    def _end(self, now: float) -> None:
        self._sweeping = False
        self.swept_at = now
        self.next_at = now + self._every
        # A node that came during the sweep has not been asked: nothing is known of it.
        asked = self._visited & self._nodes
        live = asked & self._answered
        held = (asked & self._heard) - live
        silent = asked - live - held
        fresh = silent - self._failed
        suspected = fresh - self._suspected if len(fresh) > len(self._nodes) / 2 else set()
        self._suspected = frozenset(suspected)
        self._failed = (silent - suspected) | (self._failed - asked)
        self._verdicts.append(
            Verdict(
                frozenset(self._failed),
                frozenset(held | suspected),
                frozenset(live),
                frozenset(suspected),
            )
        )
