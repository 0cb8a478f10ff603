"""Moves the attacked, their backends, ordinary clients and attackers; carries attacks out.

The process under test has a core to itself where there are two; all others share the rest, and the
attacker runs only when nobody else wants to.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks import abusesetups
from benchmarks.abusebytes import BIG
from benchmarks.abusemeasure import DESCRIPTORS, SETTLED, Load, Result, Usage, Window
from benchmarks.abuseplan import FEW, SLACK, Attack, Deadlines
from benchmarks.processes import BenchmarkError, Child, free_ports, split_cores
from benchmarks.setups import BODY, Ports

__all__ = ["DLBA", "PEERS", "AbuseStand", "Timing", "make_certificate", "usage_of"]

DLBA: Final = "dlba"
PEERS: Final = ("haproxy", "nginx")
ROOT: Final = Path(__file__).resolve().parent.parent

SAMPLE: Final = 0.1
"""Seconds between two looks at memory and descriptors."""

START: Final = 0.15
"""Seconds until ordinary clients have their kept connections."""

NOTHING: Final = Window((), 0)


@attrs.frozen
class Timing:
    """Seconds of a run."""

    quiet: float
    under: float
    after: float
    rate: float
    """Ordinary requests a second."""
    lead: float = 1.0
    """Of an attack that holds nothing, before anybody looks."""
    patience: float = SLACK + 0.3
    """After a deadline, to see who wasn't cut."""


@attrs.frozen
class Subject:
    """One process that is attacked."""

    name: str
    child: Child
    ports: Ports
    monitor: int | None


def make_certificate(openssl: str, certificate: Path, key: Path, pem: Path) -> None:
    """A fresh one for loopback; `pem`: both in one file. Raises BenchmarkError."""
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=benchmark"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise BenchmarkError(f"openssl: {done.stderr}")
    pem.touch(0o600)
    pem.write_bytes(certificate.read_bytes() + key.read_bytes())


def _family(pid: int) -> list[int]:
    """`pid` and its children."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [pid, *map(int, text.split())]
    return [pid]


def usage_of(pid: int) -> Usage:
    """What a process and its children have now; zeros for one that ended."""
    rss = descriptors = 0
    for member in _family(pid):
        with contextlib.suppress(OSError, ValueError):
            rss += int(Path(f"/proc/{member}/statm").read_text().split()[1])
            descriptors += len(os.listdir(f"/proc/{member}/fd"))
    return Usage(rss * os.sysconf("SC_PAGE_SIZE"), descriptors)


class Watch:
    """Looks at a process again and again; the highest it saw."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._end = threading.Event()
        self._peak = Usage(0, 0)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        # The kernel's own high-water mark, where it may be reset.
        self._kernel = False
        with contextlib.suppress(OSError):
            for member in _family(pid):
                Path(f"/proc/{member}/clear_refs").write_text("5")
            self._kernel = True
        self._thread.start()

    def _run(self) -> None:
        while True:
            now = usage_of(self._pid)
            peak = self._peak
            self._peak = Usage(max(now.rss, peak.rss), max(now.descriptors, peak.descriptors))
            if self._end.wait(SAMPLE):
                return

    def stop(self) -> Usage:
        """The peak."""
        self._end.set()
        self._thread.join()
        highest = 0
        if self._kernel:
            for member in _family(self._pid):
                with contextlib.suppress(OSError):
                    for line in Path(f"/proc/{member}/status").read_text().splitlines():
                        if line.startswith("VmHWM:"):
                            highest += int(line.split()[1]) << 10
        return attrs.evolve(self._peak, rss=max(self._peak.rss, highest))


class AbuseStand:
    """All that runs; make it with `AbuseStand.running`."""

    def __init__(self, programs: dict[str, str], folder: Path, deadlines: Deadlines) -> None:
        self._programs = programs
        self._folder = folder
        self._deadlines = deadlines
        self.proxy_cores, self.load_cores = split_cores(tuple(os.sched_getaffinity(0)))
        self._subjects: dict[tuple[str, bool], Subject] = {}

    @classmethod
    @contextlib.contextmanager
    def running(
        cls,
        programs: dict[str, str],
        folder: Path,
        python: str,
        peers: Sequence[str],
        deadlines: Deadlines,
    ) -> Iterator[AbuseStand]:
        """Start everything in `folder`; end everything after the block, whatever happens in it.

        `python`: the interpreter for DLBA. Raises BenchmarkError when something doesn't start.
        """
        self = cls(programs, folder, deadlines)
        before = os.sched_getaffinity(0)
        with contextlib.ExitStack() as stack:
            if self.load_cores is not None:
                stack.callback(os.sched_setaffinity, 0, before)
                os.sched_setaffinity(0, {int(core) for core in self.load_cores.split(",")})
            self._start(stack, python, peers)
            yield self

    def _start(self, stack: contextlib.ExitStack, python: str, peers: Sequence[str]) -> None:
        folder = self._folder
        # nginx gives its worker away to another user, who must get at the large body.
        folder.chmod(0o755)
        certificate, key, pem = (folder / name for name in ("web.pem", "web.key", "both.pem"))
        make_certificate(self._programs["openssl"], certificate, key, pem)
        (folder / "big").write_bytes(bytes(BIG))
        app, storm, mute, stuck, *rest = free_ports(6 + 6 * (1 + len(peers)))
        backends = abusesetups.Backends(app, storm, mute, stuck, (rest.pop(), rest.pop()))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}

        def start(name: str, command: list[str], cores: str | None, port: int) -> Child:
            child = Child(name, command, folder / f"{name}.out", cores, environment)
            stack.enter_context(child).wait_for(port)
            return child

        def nginx(name: str, text: str, cores: str | None, port: int, few: bool = False) -> Child:
            file = folder / f"{name}.conf"
            file.write_text(text)
            command = [self._programs["nginx"], "-p", str(folder), "-c", str(file)]
            command += ["-e", str(folder / f"{name}.log")]
            return start(name, self._limited(command, few), cores, port)

        nginx("backend", abusesetups.backend(folder, app), self.load_cores, app)
        command = [sys.executable, str(ROOT / "benchmarks/abusebackend.py")]
        start("bad backends", [*command, *map(str, (storm, mute, stuck))], self.load_cores, storm)

        for subject in (DLBA, *peers):
            for few in (False, True):
                ports, monitor = Ports(rest.pop(), rest.pop()), rest.pop()
                name = f"{subject}-few" if few else subject
                file = folder / f"{name}.cfg"
                cores = self.proxy_cores
                if subject == DLBA:
                    state = folder / name
                    file.write_text(
                        abusesetups.dlba(
                            ports,
                            monitor,
                            backends,
                            self._deadlines,
                            certificate,
                            key,
                            state,
                            few,
                        )
                    )
                    command = [python, "-c", "from twisted.scripts.twistd import run; run()"]
                    command += ["-n", "--pidfile=", "dlba", "-c", str(file)]
                    child = start(name, self._limited(command, few), cores, ports.tls)
                elif subject == "haproxy":
                    most = FEW // 3 if few else abusesetups.CONNECTIONS
                    file.write_text(
                        abusesetups.haproxy(ports, backends, self._deadlines, pem, most)
                    )
                    command = [self._programs["haproxy"], "-db", "-f", str(file)]
                    child = start(name, self._limited(command, few), cores, ports.tls)
                else:
                    most = FEW if few else 2 * abusesetups.CONNECTIONS
                    files = (certificate, key)
                    text = abusesetups.nginx(
                        folder, ports, backends, self._deadlines, files, name, most
                    )
                    child = nginx(name, text, cores, ports.tls, few)
                self._subjects[subject, few] = Subject(
                    subject, child, ports, monitor if subject == DLBA else None
                )

        def program(name: str) -> Child:
            command = [sys.executable, str(ROOT / f"benchmarks/{name}.py")]
            log = folder / f"{name}.out"
            return stack.enter_context(
                Child(name, command, log, self.load_cores, environment, talks=True)
            )

        self._clients = program("abuseclients")
        self._load = program("abuseload")

    def _limited(self, command: list[str], few: bool) -> list[str]:
        return [self._programs["prlimit"], f"--nofile={FEW}:{FEW}", *command] if few else command

    # ---------------------------------------------------------------- carrying out

    def attack(self, number: int, attack: Attack, name: str, timing: Timing) -> Result:
        """Attack one subject once; a run that couldn't be carried out says so in its `problem`."""
        subject = self._subjects[name, attack.exhausts]
        due = attack.due(self._deadlines)
        try:
            return self._attack(number, attack, subject, due, timing)
        except (BenchmarkError, OSError, ValueError) as error:
            nobody = Usage(0, 0)
            load = Load(0, 0, 0, 0, {}, None, None, 0.0)
            return Result(
                number, name, attack, due, NOTHING, NOTHING, NOTHING, load, nobody, nobody, nobody,
                None, None, problem=str(error),
            )  # fmt: skip

    def _attack(
        self, number: int, attack: Attack, subject: Subject, due: float | None, timing: Timing
    ) -> Result:
        errors = self._internal_errors(subject)
        quiet = self._begin_clients(subject, timing)
        if attack.exhausts:
            # Who has no room for clients can't be asked by them.
            self._clients.tell("stop")
            time.sleep(0.2)
        before = usage_of(subject.child.pid)
        watch = Watch(subject.child.pid)
        began = time.monotonic()
        try:
            port = subject.ports.tls if attack.tls else subject.ports.plain
            self._load.tell(
                json.dumps({"attack": attrs.asdict(attack), "port": port, "lead": timing.lead})
            )
            self._load.hear()
            ramp = NOTHING if attack.exhausts else self._mark()
            time.sleep(timing.under)
            under = NOTHING if attack.exhausts else self._mark()
            if due is not None:
                # Until the first to come must have been cut.
                time.sleep(max(began + due + timing.patience - time.monotonic(), 0.0))
        finally:
            self._load.tell("finish")
            load = Load(**json.loads(self._load.hear()))
            peak = watch.stop()
        back = self._serves_again(subject)
        settled = self._settle(subject, before)
        if attack.exhausts:
            after = self._begin_clients(subject, attrs.evolve(timing, quiet=timing.after))
        else:
            rest = self._mark()
            time.sleep(timing.after)
            after = self._mark()
            after = attrs.evolve(
                after,
                failed=after.failed + ramp.failed + rest.failed,
                errors=(*ramp.errors, *rest.errors, *after.errors),
            )
        left = usage_of(subject.child.pid)
        self._clients.tell("stop")
        subject.child.check()
        if subject.monitor is not None and "Traceback" in subject.child.output():
            raise BenchmarkError(f"expected no exception, got one\n{subject.child.output()}")
        errors = self._internal_errors(subject) - errors
        return Result(
            number, subject.name, attack, due, quiet, under, after, load, before, peak, left, back,
            settled, errors,
        )  # fmt: skip

    def _begin_clients(self, subject: Subject, timing: Timing) -> Window:
        order = {"plain": subject.ports.plain, "tls": subject.ports.tls, "length": len(BODY)}
        self._clients.tell(json.dumps({**order, "rate": timing.rate}))
        # Until the kept connections are there, and the first request of each kind was answered.
        time.sleep(START + 20 / timing.rate)
        self._mark()
        time.sleep(timing.quiet)
        return self._mark()

    def _mark(self) -> Window:
        self._clients.tell("mark")
        return Window.of(json.loads(self._clients.hear()))

    def _serves_again(self, subject: Subject) -> float | None:
        """Seconds until a new client is served; None: it isn't within ten."""
        began = time.monotonic()
        while (now := time.monotonic()) < began + 10:
            connection = http.client.HTTPConnection("127.0.0.1", subject.ports.plain, timeout=5)
            try:
                connection.request("GET", "/")
                if connection.getresponse().read() == BODY:
                    return time.monotonic() - began
            except (OSError, http.client.HTTPException):
                time.sleep(max(now + 0.02 - time.monotonic(), 0.0))
            finally:
                connection.close()
        return None

    def _settle(self, subject: Subject, before: Usage) -> float | None:
        began = time.monotonic()
        while True:
            now = usage_of(subject.child.pid)
            if now.descriptors <= before.descriptors + DESCRIPTORS:
                return time.monotonic() - began
            if time.monotonic() > began + SETTLED:
                return None
            time.sleep(0.05)

    def _internal_errors(self, subject: Subject) -> int:
        if subject.monitor is None:
            return 0
        address = f"http://127.0.0.1:{subject.monitor}/status"
        with urllib.request.urlopen(address, timeout=10) as answer:
            document: dict[str, Any] = json.load(answer)
        return int(document["counters"]["internal_errors"])
