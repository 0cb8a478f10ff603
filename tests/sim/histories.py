"""Histories: by its number alone, a seed makes an array, its clients and all that befalls it.

A history has three parts: the array starts, one to five faults come at any time, also at once; then
all is mended, and after a while everything must be as if nothing had been.
"""

from collections.abc import Callable
from random import Random

from tests.sim.network import BOTH, CHANNEL, SEGMENT
from tests.sim.world import World

__all__ = ["History"]

#: Seconds that a claim needs, with its ranks.
CLAIM = 0.4


class History:
    """`seed`: of all of it; `tell`: gets each line of its story."""

    def __init__(self, seed: int, tell: Callable[[str], object] | None = None) -> None:
        self.seed = seed
        self._mended = False
        self._random = random = Random(seed)
        nodes = random.choice((2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 7))
        # Little loss where little of it makes a node silent for long enough.
        down_after, loss = random.choice(
            ((0.3, 0.0), (0.3, 0.0), (0.3, 0.001), (0.3, 0.01), (0.5, 0.01), (0.2, 0.0))
        )
        self.world = World(
            random.getrandbits(32),
            nodes,
            nodes >= 3 and random.random() < 0.4,
            loss=loss,
            disabled=nodes >= 4 and random.random() < 0.2,
            slow=random.choice((1.0, 1.0, 1.0, 10.0)),
            down_after=down_after,
            tracks=random.random() < 0.2,
            packs=random.random() < 0.1,
            tell=tell,
        )
        self.world.note(
            f"seed {seed}: {nodes} nodes, "
            f"{'majority' if self.world.majority else 'reachable'}, "
            f"loss {self.world.network.loss}, slow {self.world.network.slow}, "
            f"down_after {self.world.down_after}, "
            f"priorities {[info.priority for info in self.world.infos]}"
        )

    def run(self) -> World:
        """All of it. BreachError or another AssertionError for what must not be."""
        world, random = self.world, self._random
        for number in world.numbers:
            world.clock.after(random.choice((0.0, 0.0, 0.3 * random.random())), world.start, number)
        world.segment.clients(world.clock.now + 60)
        world.run(2.0)
        faults = random.choice((1, 1, 2, 3, 4, 5))
        for _ in range(faults):
            self._fault()
            if random.random() < 0.7:
                world.run(1.5 * random.random())
        if random.random() < 0.3:
            world.run(5.0)
            world.checks.in_parts()
        else:
            world.run(0.5 * random.random())
        self._mend()
        self._rest()
        return world

    # ---------------------------------------------------------------- faults

    def _one(self) -> int:
        """A node; the scheduler more often than not."""
        acting = self.world.acting()
        if acting and self._random.random() < 0.6:
            return self._random.choice(acting).number
        return self._random.choice(self.world.numbers)

    def _some(self) -> list[int]:
        numbers = self.world.numbers
        return self._random.sample(numbers, self._random.randrange(1, len(numbers)))

    def _later(self, call: Callable[..., object], *args: object) -> None:
        """Perhaps it is over before all is mended."""
        random = self._random
        if random.random() < 0.7:
            delay = random.choice((0.02, 0.3, 1.0, 3.0)) * (0.2 + random.random())
            self.world.clock.after(delay, call, *args)

    def _fault(self) -> None:
        world, random = self.world, self._random
        kind = random.choice(_KINDS)
        which = random.choice((BOTH, BOTH, (CHANNEL,), (SEGMENT,)))
        if kind == "kill":
            number = self._one()
            world.kill(number)
            self._later(world.start, number)
        elif kind == "crash":
            number = self._one()
            world.crash(number)
            self._later(world.boot, number)
        elif kind == "pause":
            number = self._one()
            world.pause(number)
            self._later(world.resume, number, random.random() < 0.5)
        elif kind == "cut":
            number = self._one()
            world.cut(number)
            self._later(world.join, number)
        elif kind == "split":
            world.split(self._some(), which)
            self._later(world.heal)
        elif kind == "one way":
            world.block(self._some(), self._some(), which)
            self._later(world.heal)
        elif kind == "stop":
            number = self._one()
            world.stop(number, 0.6 * random.random())
            self._later(world.start, number)
        elif kind == "stutter":
            for number in self._some():
                self._stutter(number, world.clock.now + 2 * random.random())
        elif kind == "flap":
            self._flap(self._one(), world.clock.now + 2 * random.random())
        elif kind == "all":
            for number in world.numbers:
                random.choice((world.kill, world.pause))(number)
        elif kind == "unable":
            world.able(self._one(), False)
        elif kind == "disk":
            world.full.add(random.choice(world.numbers))
        elif kind == "gateway":
            world.gateway = False

    def _stutter(self, number: int, until: float) -> None:
        """A process that gets little of its processor."""
        world, random = self.world, self._random
        if world.clock.now < until and not self._mended:
            world.pause(number)
            stands = random.choice((0.05, 0.2, 0.35)) * (0.5 + random.random())
            world.clock.after(stands, world.resume, number, random.random() < 0.5)
            world.clock.after(stands + 0.1 * random.random(), self._stutter, number, until)

    def _flap(self, number: int, until: float) -> None:
        """A plug that sits badly."""
        world, random = self.world, self._random
        if world.clock.now < until and not self._mended:
            world.cut(number)
            world.clock.after(0.2 * random.random(), world.join, number)
            world.clock.after(0.2 + 0.4 * random.random(), self._flap, number, until)

    def _mend(self) -> None:
        world = self.world
        world.note("-- all is mended")
        self._mended = True
        world.heal()
        world.network.loss = 0.0
        world.full.clear()
        world.gateway = True
        for number in world.numbers:
            world.join(number)
            world.boot(number)
            world.resume(number, self._random.random() < 0.5)
            world.able(number, True)
            process = world.processes[number]
            if process is not None and process.leaving:
                world.kill(number)
            world.start(number)

    def _rest(self) -> None:
        """The channels come back, then there is one scheduler soon, then one table."""
        world = self.world
        world.until(world.channels.whole, 8.0)
        listening = 3 * world.down_after
        took = world.until(world.agreed, 10 * world.heartbeat + listening + CLAIM)
        world.checks.counts[f"took {took:.0f}"] += 1
        world.run(1.5)
        world.segment.clients(0.0)
        world.run(1.0)
        # A sweep that began before waits for its answers: a few seconds for each node.
        world.until(lambda: not world.checks.closed(), 4.0 * len(world.numbers))
        world.checks.at_rest()


_KINDS = (
    *("kill",) * 4,
    *("pause",) * 4,
    *("cut",) * 3,
    *("crash",) * 2,
    *("split",) * 4,
    *("one way",) * 3,
    *("stop",) * 2,
    *("stutter",) * 3,
    "flap",
    "all",
    "unable",
    "disk",
    "gateway",
)
