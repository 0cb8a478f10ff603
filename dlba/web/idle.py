"""Keeps the connections that backends left open after a response, for further requests.

The newest is taken first: it is the least likely to have been closed meanwhile, and what a pool
needs less and less ages until it is closed. Where there is no room the oldest makes it. Everything
costs the same however many there are.

Pure bookkeeping: whoever parks a side has seen that it is fit for another request, whoever takes it
looks once more. Time comes in as `now`, seconds, monotonic. Source: web.md rule 14.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, Protocol, TypeVar

from dlba.web.deadlines import Deadlines, Watched

__all__ = ["IDLE", "LIMIT", "PER_BACKEND", "IdleSides"]

#: Seconds that a connection may be idle: firewalls and NAT forget one after a minute or more
#: without a word, after which a request on it would wait for a time-out.
IDLE: Final = 30.0
#: Connections of one backend: what a burst leaves behind. A web server with a process or thread a
#: connection has some hundreds, and other nodes keep theirs, too.
PER_BACKEND: Final = 64
#: Connections of all backends: 16 full ones, a few per cent of the usual 20,000 and more
#: descriptors. `drop_oldest` gives them back where there are fewer.
LIMIT: Final = 1024


class Side(Watched, Protocol):
    """A connection to `backend`. Its `expire` and `reset()` close it and may call `forget`."""

    @property
    def backend(self) -> Hashable: ...

    def reset(self) -> None: ...


AnySide = TypeVar("AnySide", bound=Side)


class IdleSides(Generic[AnySide]):
    """The idle connections to all backends."""

    __slots__ = ("_by_backend", "_deadlines", "_limit", "_sides")

    def __init__(self, deadlines: Deadlines, limit: int = LIMIT) -> None:
        """`deadlines`: where they expire. `limit`: how many at once, at least 1."""
        self._deadlines = deadlines
        self._limit = limit
        #: The oldest first, as in the dicts of each backend.
        self._sides: OrderedDict[AnySide, None] = OrderedDict()
        self._by_backend: dict[Hashable, OrderedDict[AnySide, None]] = {}

    def __len__(self) -> int:
        return len(self._sides)

    def park(self, side: AnySide, now: float) -> None:
        """Keep `side`, which isn't parked, for `IDLE` seconds at most."""
        backend = side.backend
        same = self._by_backend.get(backend)
        if same is not None and len(same) >= PER_BACKEND:
            self._drop(next(iter(same)))
        elif len(self._sides) >= self._limit:
            self.drop_oldest()
        self._by_backend.setdefault(backend, OrderedDict())[side] = None
        self._sides[side] = None
        side.deadline = now + IDLE
        self._deadlines.watch(side)

    def take(self, backend: Hashable) -> AnySide | None:
        """The newest connection to `backend`, which is the caller's from now on; None: none."""
        same = self._by_backend.get(backend)
        if same is None:
            return None
        side = next(reversed(same))
        self.forget(side)
        return side

    def forget(self, side: AnySide) -> None:
        """`side` has been closed or taken; harmless if it isn't here."""
        same = self._by_backend.get(side.backend)
        if same is None or side not in same:
            return
        del same[side]
        if not same:
            del self._by_backend[side.backend]
        del self._sides[side]
        self._deadlines.forget(side)

    def drop_oldest(self) -> bool:
        """Close the connection that is idle for longest; False: there is none."""
        if not self._sides:
            return False
        self._drop(next(iter(self._sides)))
        return True

    def drop_backend(self, backend: Hashable) -> None:
        """Close all connections to `backend`."""
        for side in tuple(self._by_backend.get(backend, ())):
            self._drop(side)

    def drop_all(self) -> None:
        """Close all."""
        while self.drop_oldest():
            pass

    def _drop(self, side: AnySide) -> None:
        self.forget(side)
        side.reset()
