"""Keeps idle connections to backends for the next request, few and not for long.

A list a backend, the newest taken first, so that those that aren't needed grow old and end; and one
queue over all, so that the oldest can make room where descriptors are short. Bookkeeping alone: a
connection is closed by its `reset`, which comes back as `forget`. Pure. Source: web.md rule 14.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from dlba.web.deadlines import Deadlines
    from dlba.web.pool import Backend

__all__ = ["IDLE_SECONDS", "PER_BACKEND", "TOTAL", "IdleSide", "IdleSides"]

#: Connections kept a backend: more than this many at once are rare where a response takes
#: milliseconds, and each holds a worker of many a server.
PER_BACKEND: Final = 64
#: Connections kept in all: they take descriptors that clients may need.
TOTAL: Final = 1024
#: Seconds: less than the 60 to 75 after which common servers close, so that they rarely do first.
IDLE_SECONDS: Final = 30.0


class IdleSide(Protocol):
    """A connection without a request. `deadline`, `slot`: see `dlba.web.deadlines`."""

    backend: Backend
    deadline: float
    slot: int

    def expire(self, now: float) -> None: ...

    def abort(self) -> None: ...

    def reset(self) -> None:
        """Close; calls `IdleSides.forget`."""


class IdleSides:
    """The idle connections of all backends."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        #: By backend, oldest first; never an empty one. The inner dicts are ordered sets.
        self._by_backend: dict[Backend, dict[IdleSide, None]] = {}
        self._all: dict[IdleSide, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    def park(self, side: IdleSide, now: float) -> None:
        """Keep `side` from `now` on; what is too many or too old is closed."""
        sides = self._by_backend.setdefault(side.backend, {})
        sides[side] = None
        self._all[side] = None
        side.deadline = now + IDLE_SECONDS
        self._deadlines.watch(side)
        if len(sides) > PER_BACKEND:
            next(iter(sides)).reset()
        if len(self._all) > TOTAL:
            self.drop_oldest()

    def take(self, backend: Backend) -> IdleSide | None:
        """The connection to `backend` that was parked last, which isn't kept any more; or None."""
        sides = self._by_backend.get(backend)
        if not sides:
            return None
        side = next(reversed(sides))
        self.forget(side)
        return side

    def forget(self, side: IdleSide) -> None:
        """`side` is closed or taken; harmless if it isn't kept."""
        if side not in self._all:
            return
        del self._all[side]
        self._deadlines.forget(side)
        sides = self._by_backend[side.backend]
        del sides[side]
        if not sides:
            del self._by_backend[side.backend]

    def drop_oldest(self) -> bool:
        """Close the one that is idle for longest; False: there is none."""
        if not self._all:
            return False
        next(iter(self._all)).reset()
        return True

    def drop_backend(self, backend: Backend) -> None:
        """Close all connections to `backend`."""
        for side in tuple(self._by_backend.get(backend, ())):
            side.reset()

    def drop_all(self) -> None:
        """Close all."""
        for side in tuple(self._all):
            side.reset()
