"""Learns from the poller when frames wait at a port, and pumps them through the frame path.

An adapter, one a port. A wake takes at most `BATCH` frames, so that connections have their turn; an
exception at a frame is a bug of ours: counted, logged now and then, and the next frame goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from dlba.poller import READ, Poller
from dlba.routing.linkport import LinkPort
from dlba.routing.path import FramePath

__all__ = ["BATCH", "PortReader"]

#: Frames of one wake: about a millisecond.
BATCH: Final = 256
#: Wakes of a drain at most: what 8 MiB of socket buffer hold, and as much again.
DRAIN: Final = 256
#: Seconds between two log lines about exceptions.
SELDOM: Final = 10.0


class PortReader:
    """Reads `port` from now on, until `stop`; `lost(port, error)` is called when it fails.

    `after`: called after each wake, when its frames and replies are out.
    """

    _log = Logger()

    def __init__(
        self,
        poller: Poller,
        port: LinkPort,
        path: FramePath,
        lost: Callable[[LinkPort, OSError], None],
        after: Callable[[], None] | None = None,
    ) -> None:
        self._poller = poller
        self._path = path
        self._lost = lost
        self._after = after
        self._told = float("-inf")
        self.port = port
        self._fd = port.fileno()
        poller.add(self._fd, READ, self)

    def stop(self) -> None:
        """Read no more; the port stays open."""
        self._poller.remove(self._fd)

    def on_event(self, mask: int) -> None:
        """The poller: frames wait, or the interface is gone."""
        self.read()

    def abort(self) -> None:
        """An exception out of `read` has been logged; the next wake goes on."""

    def read(self) -> None:
        """Take what waits, at most `BATCH` frames."""
        if self._wake() >= 0 and self._after is not None:
            self._after()

    def drain(self) -> None:
        """Take all that waits, though no more than a socket buffer holds; nothing is told."""
        for _ in range(DRAIN):
            if self._wake() < BATCH:
                return

    def _wake(self) -> int:
        """How many frames were read; -1 from a port that has failed."""
        path, port = self._path, self.port
        now = time.monotonic()
        path.wake(now)
        count = 0
        try:
            count = port.pump(path.route, BATCH)
        except OSError as error:
            self._lost(port, error)
            return -1
        except Exception:  # noqa: BLE001 - the boundary of a frame
            path.errors += 1
            if now >= self._told + SELDOM:
                self._told = now
                self._log.failure("an exception at a frame ({errors} so far)", errors=path.errors)
        if path.replies:
            replies, path.replies = path.replies, []
            for frame in replies:
                port.send(frame)
        return count
