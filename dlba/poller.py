"""Moves readiness from the kernel to our sockets, with as little as possible in between.

The data path (clients, backends, frames) has an epoll set of its own, since Twisted's dispatch
costs each event a logging context and three checks that only its own transports need
(docs/decisions/0001). It meets the reactor in one of two ways:

- in front (the epoll reactor): the reactor's own epoll descriptor is a member of our set and our
  `iterate` is the reactor's iteration, so a turn costs one `epoll_wait` as before;
- nested (every other reactor, and where another of us stands in front): our set is one reader of
  the reactor.

Rules. An event is a hint and no more: descriptors are reused within one batch, so every callback
tries its operation and believes only its result. `forget()` leaves the kernel's set alone, because
closing the descriptor removes it there. The one boundary for exceptions is here: it logs, and
aborts that connection alone.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger

__all__ = ["READ", "WRITE", "Pollable", "Poller"]

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT

#: Events taken from the kernel at once: enough to pay for the call, few enough to stay fair.
BATCH: Final = 256


class Endable(Protocol):
    """What an exception of ours may end: `abort()`."""

    def abort(self) -> None: ...


class Pollable(Endable, Protocol):
    """A connection: `on_event(mask)` when the kernel has something to say, `abort()` to end it."""

    def on_event(self, mask: int) -> None: ...


class _ReactorMember:
    """The reactor's own descriptors, seen from our set."""

    def __init__(self, iterate: Callable[[float], None]) -> None:
        self._iterate = iterate

    def on_event(self, mask: int) -> None:
        self._iterate(0)

    def abort(self) -> None:
        """An exception out of the reactor's own turn has been logged; the reactor goes on."""


class Poller:
    """The epoll set of the data path."""

    _log = Logger()

    def __init__(self, failed: Callable[[], None] = lambda: None) -> None:
        self._epoll = select.epoll()
        self._members: dict[int, Pollable] = {}
        self._ready: list[Pollable] = []
        #: Called for each exception caught, to count it.
        self.failed = failed
        self._reactor: Any = None
        self._users = 0
        self._front = False
        self._ready_call: Any = None

    def add(self, fd: int, mask: int, member: Pollable) -> None:
        """Call `member.on_event` when `fd` is ready for `mask`."""
        self._epoll.register(fd, mask)
        self._members[fd] = member

    def change(self, fd: int, mask: int) -> None:
        """Wait for `mask` from now on."""
        self._epoll.modify(fd, mask)

    def remove(self, fd: int) -> None:
        """Stop waiting for a descriptor that stays open."""
        if self._members.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """The descriptor is about to be closed."""
        self._members.pop(fd, None)

    def gone(self, fd: int) -> bool:
        """Whether the peer of `fd` is gone in both directions, by the kernel's word of now."""
        poll = select.poll()
        poll.register(fd, 0)
        return bool(poll.poll(0))

    def later(self, member: Pollable) -> None:
        """Call `member.on_event(READ)` in the next turn, after all others have had theirs."""
        self._ready.append(member)
        if self._reactor is not None and not self._front and self._ready_call is None:
            self._ready_call = self._reactor.callLater(0, self._run_ready)

    def guarded(self, member: Endable, call: Callable[..., None], *args: Any) -> None:
        """Call what isn't an event, but within the same boundary: an exception ends `member`."""
        try:
            call(*args)
        except Exception:  # noqa: BLE001 - the boundary of one connection
            self._caught(member)

    # Attaching to the reactor

    def attach(self, reactor: Any) -> None:
        """Run inside `reactor` from now on, until `detach` was called as often as this."""
        self._users += 1
        if self._users > 1:
            return
        self._reactor = reactor
        poller = getattr(reactor, "_poller", None)
        free = isinstance(reactor, EPollReactor) and "doIteration" not in vars(reactor)
        if free and poller is not None:
            self._front = True
            self.add(poller.fileno(), READ, _ReactorMember(reactor.doIteration))
            # mypy: a method of the class is shadowed on purpose, and put back by `detach`.
            setattr(reactor, "doIteration", self.iterate)  # noqa: B010
        else:
            reactor.addReader(self)

    def detach(self) -> None:
        """The last one leaves the reactor as it was and closes the set."""
        self._users -= 1
        if self._users > 0:
            return
        if self._front:
            del self._reactor.doIteration
        elif self._reactor is not None:
            self._reactor.removeReader(self)
        if self._ready_call is not None:
            self._ready_call.cancel()
            self._ready_call = None
        self._reactor = None
        self._epoll.close()

    def iterate(self, timeout: float | None) -> None:
        """One turn: wait up to `timeout` seconds (None: without end), then dispatch."""
        if self._ready:
            timeout = 0
        events = self._epoll.poll(-1 if timeout is None else timeout, BATCH)
        members = self._members
        for fd, mask in events:
            member = members.get(fd)
            if member is not None:
                try:
                    member.on_event(mask)
                except Exception:  # noqa: BLE001 - the boundary of one connection
                    self._caught(member)
        if self._ready:
            self._run_ready()

    # The nested way: IReadDescriptor

    def fileno(self) -> int:
        """The descriptor of the set itself, which can be polled."""
        return self._epoll.fileno()

    def doRead(self) -> None:
        """The reactor saw events in our set."""
        self.iterate(0)

    def logPrefix(self) -> str:
        """What Twisted's log context calls us."""
        return "dlba"

    def connectionLost(self, reason: object = None) -> None:
        """The reactor shuts down; our connections are closed by their service."""

    def _run_ready(self) -> None:
        self._ready_call = None
        ready, self._ready = self._ready, []
        for member in ready:
            try:
                member.on_event(READ)
            except Exception:  # noqa: BLE001 - the boundary of one connection
                self._caught(member)

    def _caught(self, member: Endable) -> None:
        self.failed()
        self._log.failure("an exception ended one connection")
        try:
            member.abort()
        except Exception:  # noqa: BLE001 - the boundary of one connection
            self._log.failure("ending that connection failed too")
