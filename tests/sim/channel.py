"""The channel between every two nodes, as `dlba.election.channel` keeps it, without its bytes.

The higher number dials, with a back-off. Messages of one connection arrive in their order or not at
all; a blocked path delays them (TCP tries again), and what stays unanswered for `TIMEOUT` ends the
connection at that end, which the other end learns by a reset if one reaches it, else by its own
time-out. After an end both ends look whether a process listens there.
"""

from collections import deque
from typing import Any

from tests.sim.network import CHANNEL, Network

#: Seconds: a message unanswered so long ends the connection.
TIMEOUT = 1.0
#: Seconds until TCP sends again, doubling up to the second.
RESEND = (0.2, 2.0)
#: Seconds until a SYN is sent again.
SYN = 1.0
#: Seconds between dials, doubling up to the second.
BACK_OFF = (0.05, 2.0)
#: Seconds between two looks of the node that doesn't dial.
LOOK = 1.0

_UP, _CLOSE = "up", "close"


class End:
    """One end of a connection: its process, what is on the way to the other, what is unanswered."""

    __slots__ = (
        "arrives",
        "closed",
        "other",
        "process",
        "resend",
        "stuck",
        "unanswered",
        "waiting",
        "watch",
    )

    def __init__(self, process: Any) -> None:
        self.process = process
        self.other: End
        self.closed = False
        self.waiting: deque[Any] = deque()
        self.arrives = 0.0
        self.resend = RESEND[0]
        self.stuck = 0  # deliveries that found the path blocked
        self.unanswered: deque[float] = deque()
        self.watch = False

    @property
    def number(self) -> int:
        return self.process.number


class Channels:
    """All channels of the array. `processes`: number → the process that runs there, or None."""

    def __init__(self, network: Network, processes: dict[int, Any]) -> None:
        self._network = network
        self._clock = network.clock
        self._random = network.random
        self._processes = processes
        #: (own number, peer's) → the own end that counts.
        self.ends: dict[tuple[int, int], End] = {}
        self._pauses: dict[tuple[int, int], float] = {}
        self._dials: dict[tuple[int, int], int] = {}

    # ---------------------------------------------------------------- what processes do

    def start(self, process: Any) -> None:
        """A process begins to dial, and to look after those that dial it."""
        for number in self._network.numbers:
            if number < process.number:
                self._pauses[process.number, number] = BACK_OFF[0]
                self._dial_soon(process, number, 0.01 * self._random.random())
            elif number > process.number:
                self._clock.after(LOOK * self._random.random(), self._look, process, number, True)

    def send(self, process: Any, number: int, message: object) -> bool:
        end = self.ends.get((process.number, number))
        if end is None or end.closed or end.process is not process:
            return False
        end.unanswered.append(self._clock.now)
        if not end.watch:
            end.watch = True
            self._clock.after(TIMEOUT, self._watch, end)
        self._put(end, message)
        return True

    def killed(self, process: Any) -> None:
        """The kernel closes what a process leaves behind."""
        for (own, _), end in list(self.ends.items()):
            if own == process.number and not end.closed:
                self._close(end, tell=False, drop=self._random.random() < 0.5)

    def crashed(self, process: Any) -> None:
        """Its machine is gone: nobody hears of it."""
        for (own, _), end in list(self.ends.items()):
            if own == process.number:
                end.closed = True
                end.waiting.clear()

    def whole(self) -> bool:
        """Whether there is a channel between every two processes, and both know."""
        there = [p for p in self._processes.values() if p is not None]
        return all(
            (end := self.ends.get((a.number, b.number))) is not None
            and not end.closed
            and end.process is a
            and end.other.process is b
            and not end.other.closed
            for a in there
            for b in there
            if a is not b
        )

    # ---------------------------------------------------------------- messages

    def _put(self, end: End, item: object) -> None:
        delay = self._network.delay() + (RESEND[0] if self._network.lost() else 0.0)
        end.arrives = max(end.arrives, self._clock.now + delay)
        end.waiting.append(item)
        self._clock.at(end.arrives, self._deliver, end)

    def _deliver(self, end: End) -> None:
        """The first message that waits gets to the other end, or is tried again."""
        other = end.other
        if not end.waiting:
            return
        if end.stuck or not self._network.open(end.number, other.number, CHANNEL):
            end.stuck += 1
            if end.stuck == 1:
                self._clock.after(end.resend, self._resend, end)
            return
        item = end.waiting.popleft()
        if other.closed:
            if item is not _CLOSE:
                self._reset(other, end)
        elif item is _CLOSE:
            self._ended(other, "closed by the peer")
        elif item is _UP:
            self._established(other, end)
        else:
            other.process.take(end, item)

    def _resend(self, end: End) -> None:
        if not self._network.open(end.number, end.other.number, CHANNEL):
            end.resend = min(2 * end.resend, RESEND[1])
            self._clock.after(end.resend, self._resend, end)
            return
        end.resend = RESEND[0]
        stuck, end.stuck = end.stuck, 0
        for _ in range(stuck):
            self._deliver(end)

    def answered(self, end: End) -> None:
        """The process at the other end has taken a message of this one."""
        if not end.unanswered:
            return
        if self._network.open(end.other.number, end.number, CHANNEL):
            end.unanswered.popleft()
        else:
            self._clock.after(RESEND[0], self.answered, end)

    def _watch(self, end: End) -> None:
        end.watch = False
        if end.closed or not end.unanswered:
            return
        if end.process.paused:
            due = self._clock.now + 0.05
        else:
            due = end.unanswered[0] + TIMEOUT
            if due <= self._clock.now + 1e-6:
                self._close(end, tell=True, drop=True)
                return
        end.watch = True
        self._clock.at(due, self._watch, end)

    def _reset(self, closed: End, end: End) -> None:
        """A segment came to a connection that isn't there (any more)."""
        if self._network.open(closed.number, end.number, CHANNEL):
            self._clock.after(self._network.delay(), self._ended, end, "reset")

    def _close(self, end: End, tell: bool, drop: bool) -> None:
        """This end closes; the other hears of it if anything gets there."""
        if drop:
            end.waiting.clear()
        self._put(end, _CLOSE)
        if tell:
            self._ended(end, "time-out")
        end.closed = True

    def _ended(self, end: End, why: str) -> None:
        if end.closed:
            return
        end.closed = True
        process, number = end.process, end.other.number
        if self.ends.get((process.number, number)) is end and process.alive:
            process.world.note(f"{process.name}: channel to {number} is down: {why}")
            process.input("down", number)
            if number < process.number:
                self._dial_soon(process, number, self._network.delay())
            else:
                self._look(process, number, False)

    # ---------------------------------------------------------------- connections

    def _gone(self, process: Any, number: int) -> bool:
        """Whether this process has no connection there and should have one."""
        end = self.ends.get((process.number, number))
        return process.alive and (end is None or end.closed or end.process is not process)

    def _look(self, process: Any, number: int, again: bool) -> None:
        """The node that doesn't dial sees whether anybody listens."""
        if not self._gone(process, number):
            if process.alive:
                self._clock.after(LOOK, self._look, process, number, True)
            return
        self._try(process, number)
        if again:
            self._clock.after(LOOK, self._look, process, number, True)

    def _try(self, process: Any, number: int) -> bool:
        """A connect is answered at all; tells of one that is refused."""
        if process.paused or not self._network.both_open(process.number, number, CHANNEL):
            return False
        if self._processes[number] is None:
            self._clock.after(2 * self._network.delay(), self._refused, process, number)
            return False
        return True

    def _refused(self, process: Any, number: int) -> None:
        if process.alive and self._gone(process, number):
            process.input("refused", number)

    def _dial_soon(self, process: Any, number: int, delay: float) -> None:
        """One dial at a time: a later call takes the place of one that waits."""
        key = process.number, number
        self._dials[key] = self._dials.get(key, 0) + 1
        self._clock.after(delay, self._dial, process, number, self._dials[key])

    def _dial(self, process: Any, number: int, dial: int) -> None:
        key = process.number, number
        if dial != self._dials[key] or not self._gone(process, number):
            return
        pause = self._pauses[key]
        self._pauses[key] = min(2 * pause, BACK_OFF[1])
        pause *= 1 + 0.25 * self._random.random()
        peer = self._processes[number]
        if not self._network.both_open(*key, CHANNEL):
            pause = SYN
        elif process.paused:
            pause = BACK_OFF[0]
        elif self._try(process, number):
            if peer.paused:
                pause = BACK_OFF[0]  # its kernel has the connection: the hello comes when it runs
                self._pauses[key] = BACK_OFF[0]
            else:
                took = 0.003 + 0.01 * self._random.random()
                self._clock.after(took, self._connect, process, peer)
                pause += took
        self._dial_soon(process, number, pause)

    def _connect(self, process: Any, peer: Any) -> None:
        """The hello of the dialer is at the listener."""
        a, b = process.number, peer.number
        if not (process.alive and peer.alive and self._gone(process, b)):
            return
        if process.paused or peer.paused or not self._network.both_open(a, b, CHANNEL):
            return
        before = self.ends.get((b, a))
        if before is not None and not before.closed and before.process is peer:
            before.closed = True
            before.waiting.clear()
            if before.other.process is not process:
                peer.input("down", a)
        dialer, listener = End(process), End(peer)
        dialer.other, listener.other = listener, dialer
        self.ends[b, a] = listener
        self._put(listener, _UP)
        peer.input("up", a, process.incarnation)

    def _established(self, dialer: End, listener: End) -> None:
        """The hello of the listener is at the dialer."""
        process, number = dialer.process, listener.number
        if not process.alive:
            self._reset(dialer, listener)
            dialer.closed = True
            return
        self.ends[process.number, number] = dialer
        self._pauses[process.number, number] = BACK_OFF[0]
        process.input("up", number, listener.process.incarnation)
