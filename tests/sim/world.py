"""A whole array on one clock, and what can befall it.

Each fault is one method; all take the numbers of nodes. `note`s make the story of a run, which
`tests.sim.replay` prints.
"""

from collections.abc import Callable, Iterable
from random import Random

from dlba.election.machine import Settings
from dlba.election.reign import NodeInfo
from tests.sim.channel import Channels
from tests.sim.checks import Checks
from tests.sim.clock import Clock
from tests.sim.network import BOTH, Network
from tests.sim.process import Process
from tests.sim.segment import Segment

__all__ = ["World"]

HEARTBEAT = 0.1
DOWN_AFTER = 0.3


class World:
    """`seed`: of all chance in it; `nodes`: how many; `loss`, `slow`: of the network.

    `disabled`: whether the last node is; `tracks`: whether the gateway is tracked; `packs`:
    whether messages travel as bytes.
    """

    heartbeat = HEARTBEAT
    sync_every = 0.05
    buckets = 48
    bucket_timeout = 2.0

    def __init__(
        self,
        seed: int,
        nodes: int = 3,
        majority: bool = False,
        *,
        disabled: bool = False,
        loss: float = 0.0,
        slow: float = 1.0,
        down_after: float = DOWN_AFTER,
        tracks: bool = False,
        packs: bool = False,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.random = Random(seed)
        self.majority = majority
        self.packs = packs
        self.down_after = down_after
        self._tracks = tracks
        self._tell = tell
        self.clock = Clock()
        self.infos = tuple(
            NodeInfo(
                n,
                f"n{n}",
                self.random.choice((100, 100, 100, 150)),
                not (disabled and n == nodes),
                self.mac(n),
            )
            for n in range(1, nodes + 1)
        )
        self.numbers = tuple(info.number for info in self.infos)
        self.network = Network(self.clock, self.random, self.numbers, loss, slow)
        self.processes: dict[int, Process | None] = dict.fromkeys(self.numbers)
        self.channels = Channels(self.network, self.processes)
        self.segment = Segment(self, self.network, self.processes)
        #: Number → (term, granted) on its disk; numbers whose disks are full.
        self.disks: dict[int, tuple[int, int]] = dict.fromkeys(self.numbers, (0, -1))
        self.full: set[int] = set()
        self.gateway = True
        self._incarnations = 0
        self.checks = Checks(self)

    # ---------------------------------------------------------------- time

    def run(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self.clock.step(until):
            pass

    def until(self, holds: Callable[[], object], seconds: float) -> float:
        """Run till it holds; seconds that took. AssertionError if it doesn't hold till then."""
        began = self.clock.now
        while not holds():
            if not self.clock.step(began + seconds):
                raise AssertionError(f"not within {seconds:.2f} s")
        return self.clock.now - began

    def note(self, text: str) -> None:
        if self._tell is not None:
            self._tell(f"{self.clock.now - 1000:9.4f}  {text}")

    # ---------------------------------------------------------------- who is what

    @staticmethod
    def mac(number: int) -> bytes:
        return bytes((2, 0, 0, 0, 1, number))

    def there(self) -> list[Process]:
        """The processes that are there."""
        return [process for process in self.processes.values() if process is not None]

    def acting(self) -> list[Process]:
        """Those that answer ARP for the VIP."""
        return [process for process in self.there() if process.answers]

    def scheduler(self) -> Process:
        """The one that does; AssertionError if it isn't one."""
        acting = self.acting()
        assert len(acting) == 1, f"schedulers: expected one, got {[p.name for p in acting]}"
        return acting[0]

    def agreed(self) -> bool:
        """One scheduler, and all the others follow it in its term."""
        acting = self.acting()
        return len(acting) == 1 and all(
            process.member.scheduler == acting[0].number
            and process.member.term == acting[0].member.term
            for process in self.there()
        )

    def backups(self) -> list[Process]:
        """Those that run and don't act, the lowest number first."""
        return [p for p in self.there() if not p.answers and not p.paused]

    # ---------------------------------------------------------------- what befalls nodes

    def _disturb(self, text: str, numbers: Iterable[int]) -> None:
        self.note(f"-- {text}")
        for number in numbers:
            self.checks.disturbed(number)

    def start(self, *numbers: int) -> None:
        """Processes begin; all of them without numbers."""
        for number in numbers or self.numbers:
            if self.processes[number] is not None or not self.network.machine[number]:
                continue
            self._disturb(f"start {number}", [number])
            self.checks.started(number)
            self._incarnations += 1
            settings = Settings(
                number=number,
                nodes=self.infos,
                heartbeat=self.heartbeat,
                down_after=self.down_after,
                ping_every=0.1,
                majority=self.majority,
                gateway=self._tracks,
            )
            process = Process(self, number, f"{self._incarnations:x}", settings)
            self.processes[number] = process
            self.channels.start(process)

    def kill(self, number: int) -> None:
        """SIGKILL: the kernel closes its connections, then refuses new ones."""
        process = self.processes[number]
        if process is not None:
            self.checks.fault(process)
            self._disturb(f"kill {number}", [number])
            process.kill()
            self.processes[number] = None
            self.channels.killed(process)

    def crash(self, number: int) -> None:
        """The machine is without power."""
        process = self.processes[number]
        if process is not None:
            self.checks.fault(process)
        self._disturb(f"crash {number}", [number])
        if process is not None:
            process.kill()
            self.processes[number] = None
            self.channels.crashed(process)
        self.network.machine[number] = False

    def boot(self, number: int) -> None:
        """The machine is back, and its process."""
        if not self.network.machine[number]:
            self.network.machine[number] = True
            self.start(number)

    def pause(self, number: int) -> None:
        """SIGSTOP."""
        process = self.processes[number]
        if process is not None and not process.paused:
            self.checks.fault(process)
            self._disturb(f"pause {number}", ())
            self.checks.stopped(number)
            process.pause()

    def resume(self, number: int, tick_first: bool = True) -> None:
        """SIGCONT."""
        process = self.processes[number]
        if process is not None and process.paused:
            self._disturb(f"resume {number}", ())
            self.checks.continued(number)
            process.resume(tick_first)

    def cut(self, number: int) -> None:
        """Its link loses its carrier; the node itself sees that within 100 ms."""
        if self.network.link[number]:
            process = self.processes[number]
            if process is not None:
                self.checks.fault(process)
            self._disturb(f"cut {number}", [number])
            self.network.link[number] = False

    def join(self, number: int) -> None:
        """The link is back."""
        if not self.network.link[number]:
            self._disturb(f"join {number}", [number])
            self.network.link[number] = True

    def carrier(self, process: Process) -> None:
        """A node looks at its own carrier: told when it has changed."""
        link = self.network.link[process.number]
        if link != process.carrier:
            process.carrier = link
            process.input("broken", "link", "" if link else "no carrier")

    def able(self, number: int, able: bool) -> None:
        """Its server or its TUN device works, or doesn't."""
        process = self.processes[number]
        if process is not None and process.member.able is not able:
            self._disturb(f"{number} is {'able' if able else 'unable'}", [number])
            process.member.able = able

    def block(self, a: Iterable[int], b: Iterable[int], networks: Iterable[str] = BOTH) -> None:
        """Nothing gets from `a` to `b`; the other way it does."""
        a, b = tuple(a), tuple(b)
        self._disturb(f"block {a} to {b} on {'+'.join(networks)}", ())
        for one in a:
            for other in b:
                if one != other:
                    self.checks.disturbed_pair(one, other)
                    self.network.blocked |= {(one, other, which) for which in networks}

    def split(self, a: Iterable[int], networks: Iterable[str] = BOTH) -> None:
        """Those in `a` and all others don't reach each other."""
        a = tuple(a)
        others = [number for number in self.numbers if number not in a]
        self.block(a, others, networks)
        self.block(others, a, networks)

    def heal(self) -> None:
        """No path is blocked any more."""
        self._disturb("heal", ())
        for one, other, _ in self.network.blocked:
            self.checks.disturbed_pair(one, other)
        self.network.blocked.clear()

    def stop(self, number: int, lingers: float = 0.5) -> None:
        """An orderly end: the node leaves its role, then its process ends."""
        process = self.processes[number]
        if process is not None and not process.leaving:
            self._disturb(f"stop {number}", [number])
            process.leaving = True
            process.input("stop")
            self.clock.after(lingers, self._end, process)

    def _end(self, process: Process) -> None:
        if process.alive:
            process.input("end")
            self.kill(process.number)

    # ---------------------------------------------------------------- what processes tell

    def store(self, process: Process, term: int, granted: int) -> bool:
        """Write a term to the node's disk; False: it is full."""
        if process.number in self.full:
            return False
        self.checks.stored(process, term, granted)
        self.disks[process.number] = term, granted
        return True

    def scheduled(self, process: Process, term: int) -> None:
        """A process becomes scheduler."""
        self.note(f"{process.name}: SCHEDULER in term {term}")
        self.checks.scheduled(process, term)
        self.segment.announce(process, term)
