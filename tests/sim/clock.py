"""Time in the simulation: one clock for all nodes, and what happens when."""

import heapq
from collections.abc import Callable


class Clock:
    """`now`: seconds. Calls happen in the order of their times; of one time, as they were made."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._count = 0
        self._calls: list[tuple[float, int, Callable[..., object], tuple[object, ...]]] = []

    def at(self, time: float, call: Callable[..., object], *args: object) -> None:
        self._count += 1
        heapq.heappush(self._calls, (max(time, self.now), self._count, call, args))

    def after(self, delay: float, call: Callable[..., object], *args: object) -> None:
        self.at(self.now + delay, call, *args)

    def step(self, until: float) -> bool:
        """One call, if there is one till then. False: the clock is at `until`."""
        if not self._calls or self._calls[0][0] > until:
            self.now = max(self.now, until)
            return False
        self.now, _, call, args = heapq.heappop(self._calls)
        call(*args)
        return True
