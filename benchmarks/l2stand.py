"""Moves the subjects of l2.py into life, verifies them and loads them.

All subjects run at once, each in its own namespace on the one segment; frames for the scheduler MAC
of one concern no other. A subject is verified before it is measured: every frame sent comes to a
node, once, with the MAC addresses of that node and of the subject and otherwise byte for byte; a
flow stays with its node; and whoever schedules gives both nodes their share.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.l2lab import Segment
from benchmarks.l2measure import FLOOD, Look, Run, busy_ticks
from benchmarks.l2plan import (
    FLOWS,
    NODES,
    SIZES,
    Subject,
    frames,
    nft_scheduler,
    node_mac,
    node_yaml,
)
from benchmarks.measure import parse_schedstat
from benchmarks.processes import BenchmarkError, Child, split_cores

__all__ = ["BARE", "DISCARD", "DLBA", "DLBA_PCAP", "NFTABLES", "PLAIN", "PORT", "SUBJECTS"]
__all__ += ["Stand"]

ROOT: Final = Path(__file__).resolve().parent.parent

DLBA: Final = "dlba"
DLBA_PCAP: Final = "dlba pcap"
BARE: Final = "bare loop"
PLAIN: Final = "bare plain"
PORT: Final = "port alone"
NFTABLES: Final = "nftables"
DISCARD: Final = "discard"
SUBJECTS: Final = (DLBA, DLBA_PCAP, PORT, BARE, PLAIN, NFTABLES, DISCARD)
#: Subject → `routing.packets` of its array.
_PACKETS: Final = {DLBA: "packet", DLBA_PCAP: "pcap"}
#: Subject → the kind of its loop.
_LOOPS: Final = {BARE: "same", PLAIN: "plain", PORT: "port"}

#: Seconds of load before the first look and after the last one.
LEAD: Final = 0.2
TAIL: Final = 0.1
#: Frames of one load at most.
LIMIT: Final = 50_000_000
#: Frames a second that everybody must manage, where exactness is asked for and not speed.
GENTLE: Final = 20_000
#: Seconds until a subject works, and for frames on their way.
START_SECONDS: Final = 20.0
SETTLE_SECONDS: Final = 2.0
#: Nobody who schedules gives one node less than this share of the flows.
LEAST_SHARE: Final = 0.4

_ETH_P_ALL: Final = 3
_SO_RCVBUFFORCE: Final = 33


class Stand:
    """All that runs; make it with `Stand.running`."""

    def __init__(self, folder: Path, segment: Segment, subjects: Sequence[Subject]) -> None:
        self._folder = folder
        self._segment = segment
        self.subjects = {subject.name: subject for subject in subjects}
        self.subject_cores, self.load_cores = split_cores(tuple(os.sched_getaffinity(0)))
        self._children: dict[str, Child] = {}
        nodes = [segment.counter(namespace) for namespace in segment.nodes.values()]
        own = {name: segment.counter(segment.subjects[name]) for name in self.subjects}
        #: Where frames count as arrived. With `discard`: at the subject itself.
        self._counters = {name: [own[name]] if name == DISCARD else nodes for name in self.subjects}
        self._soft = [
            path.parent / "schedstat"
            for path in Path("/proc").glob("[0-9]*/comm")
            if _text(path).startswith("ksoftirqd/")
        ]

    @classmethod
    @contextlib.contextmanager
    def running(
        cls,
        programs: dict[str, str],
        folder: Path,
        python: str,
        names: Sequence[str] = SUBJECTS,
    ) -> Iterator[Stand]:
        """Make the segment and start everybody; all is gone after the block.

        `python`: the interpreter of DLBA and of the bare loops. Raises BenchmarkError when
        something doesn't start, OSError without permission.
        """
        subjects = [Subject(name, SUBJECTS.index(name) + 1) for name in names]
        before = os.sched_getaffinity(0)
        with contextlib.ExitStack() as stack:
            segment = stack.enter_context(Segment.made(programs, subjects))
            self = cls(folder, segment, subjects)
            if self.load_cores is not None:
                stack.callback(os.sched_setaffinity, 0, before)
                os.sched_setaffinity(0, {int(core) for core in self.load_cores.split(",")})
            self._start(stack, python)
            yield self

    def _start(self, stack: contextlib.ExitStack, python: str) -> None:
        # The tree that this file is in is what is measured, whatever is installed.
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for subject in self.subjects.values():
            if subject.name == NFTABLES:
                self._segment.nft(self._segment.subjects[NFTABLES], nft_scheduler(subject))
            command = self._command(subject, python)
            if command:
                log = self._folder / f"{subject.name.replace(' ', '-')}.out"
                child = Child(subject.name, command, log, self.subject_cores, environment)
                with self._segment.subjects[subject.name].entered():
                    self._children[subject.name] = stack.enter_context(child)
        command = [sys.executable, str(ROOT / "benchmarks/l2load.py")]
        log = self._folder / "load.out"
        with self._segment.client.entered():
            self._load = stack.enter_context(
                Child("load", command, log, self.load_cores, environment, talks=True)
            )

    def _command(self, subject: Subject, python: str) -> list[str]:
        """What runs as the subject's process; empty: nothing."""
        if subject.name in _PACKETS:
            base = self._folder / subject.name.replace(" ", "-")
            file = base.with_suffix(".yaml")
            file.write_text(node_yaml(subject, _PACKETS[subject.name], base.with_suffix(".state")))
            command = [python, "-c", "from twisted.scripts.twistd import run; run()"]
            return [*command, "-n", "--pidfile=", "dlba", "-c", str(file)]
        if subject.name in _LOOPS:
            macs = [subject.mac, subject.scheduler_mac, node_mac(NODES[0])]
            command = [python, str(ROOT / "benchmarks/l2bare.py"), _LOOPS[subject.name]]
            return [*command, subject.vip, *(mac.hex(":") for mac in macs)]
        return []

    # ---------------------------------------------------------------- verification

    def verify(self) -> None:
        """Raise BenchmarkError unless every subject does what it is measured for."""
        with contextlib.ExitStack() as stack:
            taps = {}
            for number, namespace in self._segment.nodes.items():
                with namespace.entered():
                    taps[number] = stack.enter_context(_tap())
            for name in self.subjects:
                for work in SIZES:
                    self._verify(name, work, taps)

    def _verify(self, name: str, work: str, taps: dict[int, socket.socket]) -> None:
        if name == DISCARD:
            before = self._arrived(name)
            sent = self._send(name, work, FLOWS)["sent"]
            # Some of the others' ARP frames come there as well.
            if self._settled(name) - before < sent:
                raise BenchmarkError(f"{name}, {work}: expected every frame at its interface")
            return
        end = time.monotonic() + START_SECONDS
        while wrong := self._wrong(name, work, taps):
            child = self._children.get(name)
            if child is not None:
                child.check()
            if time.monotonic() > end:
                output = child.output() if child is not None else ""
                raise BenchmarkError(f"{name}, {work}: {wrong}\n{output}")
            time.sleep(0.2)

    def _wrong(self, name: str, work: str, taps: dict[int, socket.socket]) -> str:
        """What is wrong with each flow's frame, sent twice; empty: nothing."""
        subject = self.subjects[name]
        whole = frames(subject.scheduler_mac, subject.vip, SIZES[work])
        sent = {frame[12:] for frame in whole}
        places: dict[bytes, int] = {}
        for _ in range(2):
            for tap in taps.values():
                _drain(tap)
            self._send(name, work, FLOWS)
            self._settled(name)
            seen = 0
            for number, tap in taps.items():
                macs = node_mac(number) + subject.mac
                for frame in _drain(tap):
                    if frame[12:] not in sent:
                        return "expected all but the MAC addresses as sent, got another frame"
                    if frame[:12] != macs:
                        return f"expected MAC addresses {macs.hex(':')}, got {frame[:12].hex(':')}"
                    if places.setdefault(frame[12:], number) != number:
                        return "expected each flow at one node, got one at both"
                    seen += 1
            if seen != FLOWS or len(places) != FLOWS:
                return f"expected {FLOWS} frames, got {seen}, {len(places)} different ones"
        least = min(list(places.values()).count(number) for number in NODES) / FLOWS
        if name not in _LOOPS and least < LEAST_SHARE:
            return f"expected {LEAST_SHARE:.0%} of the flows at each node, got {least:.0%}"
        return ""

    def _send(self, name: str, work: str, count: int) -> dict[str, Any]:
        """Send a few frames without haste."""
        self._begin(name, work, START_SECONDS, GENTLE, count)
        return dict(json.loads(self._load.hear()))

    def _begin(self, name: str, work: str, seconds: float, rate: float, count: int) -> None:
        subject = self.subjects[name]
        order = {
            "to": subject.scheduler_mac.hex(":"),
            "vip": subject.vip,
            "size": SIZES[work],
            "seconds": seconds,
            "rate": rate,
            "frames": count,
        }
        self._load.tell(json.dumps(order))
        if (answer := self._load.hear()) != "ready":
            raise BenchmarkError(f"load: expected ready, got {answer!r}")

    # ---------------------------------------------------------------- measuring

    def measure(
        self, number: int, work: str, load: str, name: str, seconds: float, rate: float
    ) -> Run:
        """Load one subject for `seconds`; a run that went wrong says so in its `problems`.

        `rate`: frames a second of a steady load.
        """
        what = (number, work, load, name)
        try:
            before = self._arrived(name)
            whole = LEAD + seconds + TAIL
            self._begin(name, work, whole, 0 if load == FLOOD else rate, LIMIT)
            time.sleep(LEAD)
            first = self._look(name)
            time.sleep(seconds)
            last = self._look(name)
            done = json.loads(self._load.hear())
            arrived = self._settled(name) - before
            problems = []
            if not done["sent"] or last.arrived <= first.arrived:
                problems.append(f"expected frames at the nodes, got none of {done['sent']}")
            child = self._children.get(name)
            if child is not None:
                child.check()
                # Twisted logs what went wrong inside, and goes on.
                if "Traceback" in child.output():
                    problems.append(f"expected no exception, got one\n{child.output()}")
        except (BenchmarkError, OSError, ValueError) as error:
            nothing = Look(0, 0, 0, 0, 0, 0)
            return Run.between(what, (nothing, nothing), 0, 0, [str(error)])
        lost = max(1 - arrived / max(done["sent"], 1), 0.0)
        return Run.between(what, (first, last), done["sent"] / done["seconds"], lost, problems)

    def _look(self, name: str) -> Look:
        child = self._children.get(name)
        at, arrived = time.monotonic(), self._arrived(name)
        cpu = child.cpu_seconds() if child is not None else 0.0
        ticks = os.sysconf("SC_CLK_TCK")
        busy, stolen = busy_ticks(_text(Path("/proc/stat")))
        soft = parse_schedstat(_text(path) for path in self._soft)
        parties = cpu + self._load.cpu_seconds() + soft
        return Look(at, arrived, cpu, parties, busy / ticks, stolen / ticks)

    def _arrived(self, name: str) -> int:
        return sum(counter.read() for counter in self._counters[name])

    def _settled(self, name: str) -> int:
        """Frames that have arrived when no more come; some ARP frames of others are among them."""
        end = time.monotonic() + SETTLE_SECONDS
        before = self._arrived(name)
        while time.monotonic() < end:
            time.sleep(0.03)
            now = self._arrived(name)
            if now - before < 10:
                break
            before = now
        return self._arrived(name)


def _tap() -> socket.socket:
    """Gets what comes to the namespace's interface; for all protocols, else after nftables."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    found.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
    found.setblocking(False)
    return found


def _drain(tap: socket.socket) -> list[bytes]:
    """All frames that wait and hold IP packets."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frame = tap.recv(1 << 16)
            if frame[12:14] == b"\x08\x00":
                found.append(frame)
    return found


def _text(path: Path) -> str:
    """A small file of /proc; empty if it has gone."""
    try:
        return path.read_text()
    except OSError:
        return ""
