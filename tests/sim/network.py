"""The wires between the nodes: who reaches whom, how long it takes, what gets lost.

Two networks, which may be the same one: `CHANNEL` carries TCP, `SEGMENT` carries ICMP and ARP. Each
direction between two nodes can be blocked alone. A node's link is both its networks' end.
"""

from collections.abc import Callable, Iterable
from random import Random

from tests.sim.clock import Clock

CHANNEL = "channel"
SEGMENT = "segment"
BOTH = (CHANNEL, SEGMENT)


class Network:
    """`loss`: of one packet, 0 to 1; `slow`: how many times as long everything takes."""

    def __init__(
        self, clock: Clock, random: Random, numbers: Iterable[int], loss: float, slow: float
    ) -> None:
        self.clock = clock
        self.random = random
        self.loss = loss
        self.slow = slow
        self.numbers = tuple(numbers)
        self.link = dict.fromkeys(self.numbers, True)
        self.machine = dict.fromkeys(self.numbers, True)
        self.blocked: set[tuple[int, int, str]] = set()

    def delay(self) -> float:
        """Seconds that a packet takes: mostly little, at times 20 ms."""
        random = self.random.random
        more = 0.02 * random() if random() < 0.02 else 0.0
        return (0.0001 + 0.0015 * random()) * self.slow + more

    def lost(self) -> bool:
        return self.random.random() < self.loss

    def fit(self, number: int) -> bool:
        """Whether the machine runs and has its link."""
        return self.link[number] and self.machine[number]

    def open(self, a: int, b: int, which: str) -> bool:
        """Whether a packet gets from `a` to `b`."""
        return self.fit(a) and self.fit(b) and (a, b, which) not in self.blocked

    def both_open(self, a: int, b: int, which: str) -> bool:
        return self.open(a, b, which) and self.open(b, a, which)

    def datagram(self, a: int, b: int, deliver: Callable[..., object], *args: object) -> None:
        """A frame on the segment: arrives once or never."""
        if self.open(a, b, SEGMENT) and not self.lost():
            self.clock.after(self.delay(), self._arrive, a, b, deliver, args)

    def _arrive(
        self, a: int, b: int, deliver: Callable[..., object], args: tuple[object, ...]
    ) -> None:
        if self.open(a, b, SEGMENT):
            deliver(*args)
