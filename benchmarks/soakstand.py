"""Moves a node, its backends and many clients through a soak: kills, reloads, drains, samples.

Clients speak in threads of their own, so that none of them ever waits for the events.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks import soakinside, soakplan
from benchmarks.abuseplan import ATTACKS
from benchmarks.abusestand import make_certificate, usage_of
from benchmarks.processes import BenchmarkError, Child, free_ports
from benchmarks.setups import Ports
from benchmarks.soakjudge import Failure, Kill, Moved, Sample, summed

__all__ = ["Crowd", "SoakStand"]

ROOT: Final = Path(__file__).resolve().parent.parent

DEAD: Final = 2.0
"""Seconds a killed backend stays away."""

RELOADED: Final = 5.0
"""Seconds for a reload to be seen."""

UNCHANGED: Final = 1.0
"""Seconds after which a bad file would have been seen."""

ABUSED: Final = 3.0
"""Seconds of an attack, and the share of the connections that it has in `abuse.py`."""
ABUSE_SHARE: Final = 0.05

COMMAND: Final = 20.0
"""Seconds for a `dlba` command."""

ASKED: Final = 12
"""New clients that must not meet a drained backend."""


class Crowd:
    """What client programs say."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[int, dict[str, int]] = {}
        self._sent: dict[int, int] = {}
        self.failures: list[Failure] = []
        self.moved: list[Moved] = []
        self.posted: list[str] = []
        self.broken: list[str] = []
        self._threads: list[threading.Thread] = []

    def follow(self, number: int, child: Child) -> None:
        """Read its lines until it ends."""
        thread = threading.Thread(target=self._read, args=(number, child), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _read(self, number: int, child: Child) -> None:
        try:
            while True:
                self.take(number, json.loads(child.hear()))
        except BenchmarkError:
            # It has ended; what it printed on the way tells if that was wrong.
            if output := child.output().strip():
                self.broken.append(f"client {number}: {output[-1000:]}")

    def take(self, number: int, line: dict[str, Any]) -> None:
        """One line of one client."""
        with self._lock:
            if "failure" in line:
                self.failures.append(Failure(**line["failure"]))
            elif "moved" in line:
                self.moved.append(Moved(**line["moved"]))
            elif "posted" in line:
                self.posted += line["posted"]
            else:
                self._counts[number] = line["counts"]
                self._sent[number] = line["sent"]

    @property
    def sent(self) -> int:
        """Requests begun."""
        with self._lock:
            return sum(self._sent.values())

    @property
    def counts(self) -> dict[str, int]:
        """Answered rightly, by kind."""
        with self._lock:
            return summed(self._counts.values())

    def join(self) -> None:
        """Until all have ended."""
        for thread in self._threads:
            thread.join(60)


class SoakStand:
    """All that runs; make it with `SoakStand.running`."""

    def __init__(self, programs: dict[str, str], folder: Path, python: str) -> None:
        self._programs = programs
        self._folder = folder
        self._python = python
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.crowd = Crowd()
        self.kills: list[Kill] = []
        self.problems: list[str] = []
        self._change = soakplan.Change()
        self._killed = 0
        self._abused = 0
        self._drained = ""

    @classmethod
    @contextlib.contextmanager
    def running(cls, programs: dict[str, str], folder: Path, python: str) -> Iterator[SoakStand]:
        """Start node and backends in `folder`; end everything after the block.

        `python`: the interpreter for DLBA. Raises BenchmarkError when something doesn't start.
        """
        self = cls(programs, folder, python)
        with contextlib.ExitStack() as stack:
            self._stack = stack
            self._start()
            yield self

    def _start(self) -> None:
        plain, tls, self._monitor, *rest = free_ports(3 + len(soakplan.BACKENDS))
        self.ports = Ports(plain, tls)
        self._addresses = dict(zip(soakplan.BACKENDS, rest, strict=True))
        self._backends: dict[str, subprocess.Popen[bytes]] = {}
        self._stack.callback(self._end_backends)
        for name in soakplan.BACKENDS:
            self._spawn(name)
        for name in soakplan.BACKENDS:
            self._wait_for(name)
        self._certify(0)
        self._file = self._folder / "node.yaml"
        self._write(self._change)
        self._ear = str(self._folder / "ear")
        inside = str(ROOT / "benchmarks/soakinside.py")
        command = [self._python, inside, self._ear, "-n", "--pidfile=", "dlba"]
        command += ["-c", str(self._file)]
        log = self._folder / "node.out"
        self.node = Child("dlba", command, log, None, self._environment)
        self._stack.enter_context(self.node).wait_for(tls)
        load = [sys.executable, str(ROOT / "benchmarks/abuseload.py")]
        log = self._folder / "abuse.out"
        self._abuser = self._stack.enter_context(
            Child("abuse", load, log, None, self._environment, talks=True)
        )

    # ---------------------------------------------------------------- backends

    def _spawn(self, name: str) -> None:
        command = [sys.executable, str(ROOT / "benchmarks/soakbackend.py"), name]
        command += [str(self._addresses[name]), str(self._folder / "journal")]
        with (self._folder / f"{name}.out").open("ab") as output:
            self._backends[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )

    def _wait_for(self, name: str) -> None:
        end = time.monotonic() + 20
        while True:
            try:
                address = ("127.0.0.1", self._addresses[name])
                http.client.socket.create_connection(address, 1).close()  # type: ignore[attr-defined]
                return
            except OSError as error:
                if time.monotonic() > end:
                    raise BenchmarkError(f"{name}: expected it to listen, got {error}") from None
                time.sleep(0.02)

    def _end_backends(self) -> None:
        for process in self._backends.values():
            process.kill()
            process.wait()

    def _kill(self) -> str:
        alive = [name for name in soakplan.BACKENDS if name != self._drained]
        name = alive[self._killed % len(alive)]
        self._killed += 1
        process = self._backends[name]
        at = time.monotonic()
        process.send_signal(signal.SIGKILL)
        process.wait()
        kill = Kill(name, at, time.monotonic())
        self.kills.append(kill)
        time.sleep(DEAD)
        self._spawn(name)
        self._wait_for(name)
        self.kills[-1] = attrs.evolve(kill, back=time.monotonic())
        return f"killed {name}"

    # ---------------------------------------------------------------- reloads

    def _certify(self, number: int) -> None:
        certificate, key = (self._folder / f"web-{number}.{end}" for end in ("pem", "key"))
        make_certificate(
            self._programs["openssl"], certificate, key, self._folder / f"both-{number}.pem"
        )

    def _configuration(self, change: soakplan.Change) -> dict[str, Any]:
        return soakplan.configuration(
            self._folder, self.ports, self._monitor, self._addresses, change
        )

    def _write(self, change: soakplan.Change) -> None:
        self._file.write_text(json.dumps(self._configuration(change), indent=1))

    def _hang_up(self) -> None:
        os.kill(self.node.pid, signal.SIGHUP)

    def _reload(self, what: str) -> str:
        change = self._change.next(what)
        if what == soakplan.CERTIFICATE:
            self._certify(change.certificate)
        self._write(change)
        self._hang_up()
        end = time.monotonic() + RELOADED
        while (found := self._in_force()) != (str(change.generation), change.certificate):
            if time.monotonic() > end:
                self.problems.append(f"reload of {what}: expected {change}, got {found}")
                break
            time.sleep(0.05)
        self._change = change
        return f"reloaded {what}"

    def _in_force(self) -> tuple[str, int]:
        """Generation and certificate of a new client."""
        _, generation = self._ask()
        address = ("127.0.0.1", self.ports.tls)
        shown = ssl.get_server_certificate(address, timeout=10).strip()
        for number in (self._change.certificate, self._change.certificate + 1):
            file = self._folder / f"web-{number}.pem"
            if file.exists() and file.read_text().strip() == shown:
                return generation, number
        return generation, -1

    def _ask(self) -> tuple[str, str]:
        """A new client's request: the backend, and the generation."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports.plain, timeout=10)
        try:
            connection.request("GET", "/bytes/1")
            answer = connection.getresponse()
            answer.read()
            found = answer.getheader("X-Backend") or "", answer.getheader(soakplan.GENERATION) or ""
        finally:
            connection.close()
        return found

    def _reload_bad(self, what: str) -> str:
        good = self._configuration(self._change)
        self._file.write_text(soakplan.bad(good, what))
        said = len(self.node.output())
        self._hang_up()
        time.sleep(UNCHANGED)
        found = self._in_force()
        if found != (str(self._change.generation), self._change.certificate):
            self.problems.append(f"bad file ({what}): expected no change, got {found}")
        if len(self.node.output()) == said and said < 4000:
            self.problems.append(f"bad file ({what}): expected its errors in the log, got none")
        self._write(self._change)
        return f"bad file: {what}"

    # ---------------------------------------------------------------- drains, abuse

    def _command(self, *words: str) -> bool:
        code = "import sys; from dlba.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [self._python, "-c", code, *words, "-c", str(self._file)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND, env=self._environment
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-300:]
            self.problems.append(f"dlba {' '.join(words)}: exit code {done.returncode}: {said}")
        return not done.returncode

    def status(self) -> dict[str, Any]:
        """`/status` of the node."""
        address = f"http://127.0.0.1:{self._monitor}/status"
        with urllib.request.urlopen(address, timeout=10) as answer:
            document: dict[str, Any] = json.load(answer)
        return document

    def _draining(self, name: str) -> bool:
        return any(row["name"] == name and row["draining"] for row in self.status()["backends"])

    def _drain(self) -> str:
        name = soakplan.BACKENDS[self._killed % len(soakplan.BACKENDS)]
        if self._command("drain", "backend", f"app/{name}"):
            self._drained = name
            if not self._draining(name):
                self.problems.append(f"drain of {name}: expected it to be draining, it isn't")
            if name in {self._ask()[0] for _ in range(ASKED)}:
                self.problems.append(f"drain of {name}: expected no new clients there, got one")
        return f"drained {name}"

    def _resume(self) -> str:
        name, self._drained = self._drained, ""
        if name and self._command("resume", "backend", f"app/{name}") and self._draining(name):
            self.problems.append(f"resume of {name}: expected it to drain no more, it does")
        return f"resumed {name or 'nothing'}"

    def _abuse(self) -> str:
        attacks = [attack for attack in ATTACKS if not attack.exhausts]
        attack = attacks[self._abused % len(attacks)].scaled(ABUSE_SHARE, 100)
        self._abused += 1
        attack = attrs.evolve(attack, rate=max(attack.rate / 5, 1.0))
        port = self.ports.tls if attack.tls else self.ports.plain
        order = {"attack": attrs.asdict(attack), "port": port, "lead": ABUSED}
        self._abuser.tell(json.dumps(order))
        self._abuser.hear()
        self._abuser.tell("finish")
        self._abuser.hear()
        return f"abuse: {attack.name}"

    def event(self, what: str) -> str:
        """Let it happen; what happened, in words."""
        self.node.check()
        try:
            if what == soakplan.KILL:
                return self._kill()
            if what == soakplan.DRAIN:
                return self._drain()
            if what == soakplan.RESUME:
                return self._resume()
            if what == soakplan.ABUSE:
                return self._abuse()
            if what in soakplan.BAD:
                return self._reload_bad(what)
            return self._reload(what)
        except (OSError, http.client.HTTPException) as error:
            self.problems.append(f"{what}: {error!r}")
            return f"{what}: failed"

    # ---------------------------------------------------------------- clients, samples

    def start_clients(self, count: int, threads: int, pause: float) -> None:
        """So many processes with so many threads each."""
        self._clients = []
        for number in range(count):
            command = [sys.executable, str(ROOT / "benchmarks/soakclient.py")]
            command += map(str, (self.ports.plain, self.ports.tls, number, threads, pause))
            log = self._folder / f"client-{number}.out"
            child = Child(f"client {number}", command, log, None, self._environment, talks=True)
            self._clients.append(self._stack.enter_context(child))
            self.crowd.follow(number, child)

    def stop_clients(self) -> None:
        """They end what they began."""
        for child in self._clients:
            child.tell("stop")
        self.crowd.join()

    def sample(self, at: float, collect: bool = False) -> Sample:
        """The node now. `collect`: garbage first."""
        usage = usage_of(self.node.pid)
        objects: int | None = None
        with contextlib.suppress(OSError, ValueError):
            objects = soakinside.ask(self._ear, "collect" if collect else "count")
        return Sample(at, usage.rss, usage.descriptors, objects)

    def journal(self) -> list[str]:
        """Identities of the bodies that came whole to a backend."""
        return (self._folder / "journal").read_text().split()
