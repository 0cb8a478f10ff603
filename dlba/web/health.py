"""Decides from its checks whether a backend is down, and which backend is checked when.

`Health` counts results in a row. A backend begins up, but the first check decides: it counts for
all of `fall`, as in HAProxy, so that a backend that is dead at the start gets requests no longer
than until then. After the first good one it takes `fall` bad ones in a row. `rise` good ones in a
row bring back one that is down, or that requests have marked failed.

`Rota` spreads the checks: each backend has a moment of its own within `every` and keeps to it,
however long a check takes. A check never overlaps the next one of the same backend, and no more
than `OPEN_LIMIT` are open at once; who is late waits for its turn in the order of its time.

Pure: time comes in as `now`, seconds, monotonic. Source: web.md rule 6.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from enum import Enum
from heapq import heapify, heappop, heappush
from math import floor
from typing import Final, Generic, TypeVar

__all__ = ["OPEN_LIMIT", "Change", "Health", "Rota", "is_good"]

#: Checks open at once: with the usual 2 s for one, 160 backends that hang are still checked every
#: 5 s; and few descriptors beside those of clients.
OPEN_LIMIT: Final = 64

#: Multiples of it, without their whole part, stand well apart however many they are (golden ratio).
_STEP: Final = 0.6180339887498949


def is_good(status: int) -> bool:
    """Whether a response of this status makes a good check: 2xx and 3xx."""
    return 200 <= status < 400


class Change(Enum):
    """What a check has changed."""

    NONE = "none"
    DOWN = "down"
    UP = "up"


class Health:
    """What is known of one backend by its checks. `down`: it is to get no requests."""

    __slots__ = ("_bad", "_fall", "_good", "_rise", "down")

    def __init__(self, rise: int, fall: int) -> None:
        self.down = False
        self._good = 0
        self._bad = fall - 1
        self.configure(rise, fall)

    def configure(self, rise: int, fall: int) -> None:
        """Count by these numbers from the next check on."""
        self._rise = rise
        self._fall = fall

    def passed(self, failed: bool) -> Change:
        """A check was good. `failed`: requests have marked the backend; `UP` clears that too."""
        self._bad = 0
        if not self.down and not failed:
            self._good = 0
            return Change.NONE
        self._good += 1
        if self._good < self._rise:
            return Change.NONE
        self._good = 0
        self.down = False
        return Change.UP

    def missed(self) -> Change:
        """A check was not good."""
        self._good = 0
        if self.down:
            return Change.NONE
        self._bad += 1
        if self._bad < self._fall:
            return Change.NONE
        self._bad = 0
        self.down = True
        return Change.DOWN


Key = TypeVar("Key", bound=Hashable)


class _Turn(Generic[Key]):
    """When one backend's next check is due; `open`: one is running."""

    __slots__ = ("due", "every", "key", "open")

    def __init__(self, key: Key, every: float, due: float) -> None:
        self.key = key
        self.every = every
        self.due = due
        self.open = False

    def __lt__(self, other: _Turn[Key]) -> bool:
        return self.due < other.due


class Rota(Generic[Key]):
    """Who is checked when. Each key stands for one backend; costs grow with log(backends)."""

    def __init__(self, limit: int = OPEN_LIMIT) -> None:
        self._limit = limit
        self._turns: dict[Key, _Turn[Key]] = {}
        self._waiting: list[_Turn[Key]] = []
        self._open = 0

    def configure(self, keys: Iterable[tuple[Key, float]], now: float) -> None:
        """Check each of `keys` once in the seconds beside it, and no others, from now on.

        Who is checked as before keeps its moment. One that isn't any more has no check open: its
        caller has cut that off.
        """
        before, self._turns = self._turns, {}
        for index, (key, every) in enumerate(keys):
            turn = before.get(key)
            if turn is None or turn.every != every:
                due = now + every * (index * _STEP % 1)
                if turn is None:
                    turn = _Turn(key, every, due)
                turn.every, turn.due = every, due
            self._turns[key] = turn
        self._waiting = [turn for turn in self._turns.values() if not turn.open]
        heapify(self._waiting)
        self._open = len(self._turns) - len(self._waiting)

    def take(self, now: float) -> Key | None:
        """One whose check is to begin now, until `ended`; None: nobody."""
        waiting = self._waiting
        if self._open >= self._limit or not waiting or waiting[0].due > now:
            return None
        turn = heappop(waiting)
        turn.open = True
        self._open += 1
        return turn.key

    def ended(self, key: Key, now: float) -> None:
        """The check of `key` is over, however it ended; harmless for one that isn't checked."""
        turn = self._turns.get(key)
        if turn is None or not turn.open:
            return
        turn.open = False
        self._open -= 1
        # At its own moment, the first one still to come.
        turn.due += turn.every * max(floor((now - turn.due) / turn.every) + 1, 1)
        heappush(self._waiting, turn)

    def wait(self, now: float) -> float | None:
        """Seconds until `take` has somebody; None: not before something `ended`."""
        if self._open >= self._limit or not self._waiting:
            return None
        return max(self._waiting[0].due - now, 0.0)
