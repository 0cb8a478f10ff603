"""Moves the arrays of failover.py into life, hurts them and mends them.

Both live in a lab's network (`dlba.lab`): the same switch, client, backends, addresses. DLBA's
array is a lab as `dlba lab up` makes it; the keepalived pair has the lab's namespaces and links,
and programs of its own in them. All that was started is ended by its pid and all namespaces are
taken away by their names, whatever happens meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.failoverplan import CUT, DLBA, KEEPALIVED, PAIR, Pair, haproxy, keepalived
from benchmarks.processes import BenchmarkError, Child
from dlba.demo import write_certificate
from dlba.errors import DLBAError
from dlba.lab import network, programs
from dlba.lab.plan import BACKEND_PORT, CLIENT, VIP, Part, Plan, namespace, plan
from dlba.where import ask

__all__ = ["PACKAGES", "DLBAArray", "KeepalivedPair", "Stand", "running"]

ROOT: Final = Path(__file__).resolve().parent.parent

#: Program → Debian package.
PACKAGES: Final = {"haproxy": "haproxy", "ip": "iproute2", "keepalived": "keepalived"}

START_SECONDS: Final = 30.0
#: Seconds between two looks.
POLL: Final = 0.05


class Stand(ABC):
    """One array and who works on it."""

    def __init__(self, name: str, lab: Plan, folder: Path) -> None:
        self.name = name
        self.lab = lab
        self.folder = folder
        self._cut: str | None = None
        self._dead: str | None = None

    @property
    @abstractmethod
    def authority(self) -> Path:
        """What the client verifies the array's certificate with."""

    @abstractmethod
    def active(self) -> str | None:
        """The node that takes the VIP's traffic; None while that isn't clear, or not all is up."""

    @abstractmethod
    def served_by(self, ports: Sequence[int]) -> dict[int, str | None]:
        """The node of each of the client's connections, by their ports."""

    @abstractmethod
    def kill(self, node: str) -> float:
        """SIGKILL to all that makes the node one of the array; the moment, monotonic."""

    @abstractmethod
    def start(self, node: str) -> None:
        """Start again what was killed."""

    def wait_settled(self) -> str:
        """The active node, once everything is as it should be; BenchmarkError if it never is."""
        end = time.monotonic() + START_SECONDS
        while (active := self.active()) is None:
            if time.monotonic() > end:
                raise BenchmarkError(f"{self.name}: expected one active node and all others ready")
            time.sleep(POLL)
        return active

    def hurt(self, node: str, fault: str) -> float:
        """Do it; the moment just before, monotonic."""
        if fault == CUT:
            self._cut = node
            moment = time.monotonic()
            network.set_port(self.lab.name, self._part(node).links[0].port, False)
            return moment
        self._dead = node
        return self.kill(node)

    def mend(self) -> None:
        """Undo what `hurt` has done."""
        if self._cut is not None:
            network.set_port(self.lab.name, self._part(self._cut).links[0].port, True)
            self._cut = None
        if self._dead is not None:
            self.start(self._dead)
            self._dead = None

    def client(self, program: str, *words: str) -> Child:
        """A program of ours in the client's namespace, not started yet."""
        command = [sys.executable, str(ROOT / "benchmarks" / program), *words]
        log = self.folder / f"{program}.out"
        return InNamespace(namespace(self.lab.name, CLIENT), program, command, log, talks=True)

    def _part(self, name: str) -> Part:
        found = self.lab.part(name)
        assert found is not None
        return found


class InNamespace(Child):
    """A child that starts in a network namespace."""

    def __init__(
        self, inside: str, name: str, command: Sequence[str], log: Path, talks: bool = False
    ) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        super().__init__(name, command, log, environment=environment, talks=talks)
        self._inside = inside

    def __enter__(self) -> Self:
        with network.inside(self._inside):
            super().__enter__()
        return self


# DLBA


class DLBAArray(Stand):
    """A lab as a user has it, a new one for each run.

    A node that is back has the fewest buckets, so it would get all downloads of the next run.
    """

    @property
    def authority(self) -> Path:
        return programs.folder(self.lab.name) / "lab.pem"

    @classmethod
    @contextlib.contextmanager
    def up(cls, folder: Path, nodes: int) -> Iterator[DLBAArray]:
        """It is there during the block."""
        name = f"failover-{os.getpid()}"
        self = cls(DLBA, plan(name, nodes), folder)
        try:
            self._up()
            yield self
        finally:
            self._do("down")

    def _up(self) -> None:
        self._do("up", "--nodes", str(len(self.lab.nodes)))

    def _do(self, *words: str) -> str:
        command = [sys.executable, "-m", "dlba.cli", "lab", "--name", self.lab.name, *words]
        # A session of its own: Ctrl-C ends this process, which then takes the lab down.
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            start_new_session=True,
            timeout=4 * START_SECONDS,
        )
        if done.returncode:
            raise BenchmarkError(f"dlba lab {words[0]}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _documents(self) -> dict[str, dict[str, Any]]:
        names = [node.name for node in self.lab.nodes]
        found = programs.ask_status(self.lab.name, names)
        return {name: document for name, document in found.items() if document}

    def active(self) -> str | None:
        documents = self._documents()
        roles = [document.get("role") for document in documents.values()]
        if sorted(map(str, roles)) != ["backup"] * (len(self.lab.nodes) - 1) + ["scheduler"]:
            return None
        name, document = next((n, d) for n, d in documents.items() if d["role"] == "scheduler")
        terms = {(d.get("term"), d.get("scheduler")) for d in documents.values()}
        rows = document.get("nodes") or []
        if len(terms) > 1 or any(row["failed"] for row in rows):
            return None
        return name

    def served_by(self, ports: Sequence[int]) -> dict[int, str | None]:
        scheduler = self.wait_settled()
        control = programs.folder(self.lab.name) / scheduler / "state" / "control"
        request = {"command": "where", "address": self.lab.client.address}
        return {port: ask(control, {**request, "port": port})["owner"] for port in ports}

    def kill(self, node: str) -> float:
        pid = programs.running(self.lab.name, node)
        if pid is None:
            raise BenchmarkError(f"{self.name}: {node}: expected a program that runs, got none")
        moment = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        return moment

    def start(self, node: str) -> None:
        self._do("start", node)

    def mend(self) -> None:
        found = self._exceptions()
        self._cut = self._dead = None
        self._do("down")
        self._up()
        if found:
            raise BenchmarkError(found)

    def _exceptions(self) -> str:
        """What a node logged that must never happen; empty: nothing."""
        for node in self.lab.nodes:
            log = programs.folder(self.lab.name) / node.name / "log"
            _, raised, rest = log.read_text("utf-8", "replace").partition("Traceback")
            if raised:
                return f"{node.name} met an exception:\n{raised}{rest[:2000]}"
        return ""


# keepalived


class KeepalivedPair(Stand):
    """Two nodes with keepalived and HAProxy each."""

    def __init__(self, pair: Pair, lab: Plan, folder: Path, found: dict[str, str]) -> None:
        super().__init__(pair.name, lab, folder)
        self._pair = pair
        self._programs = found
        self._children: dict[str, dict[str, Child]] = {}
        self._stack = contextlib.ExitStack()

    @property
    def authority(self) -> Path:
        return self.folder / "lab.pem"

    @classmethod
    @contextlib.contextmanager
    def up(cls, pair: Pair, folder: Path, found: dict[str, str]) -> Iterator[KeepalivedPair]:
        """It is there during the block. `found`: program → its path."""
        number = KEEPALIVED.index(pair)
        self = cls(pair, plan(f"vrrp{number}-{os.getpid()}", PAIR), folder, found)
        try:
            with self._stack:
                self._build()
                yield self
        finally:
            for name in network.names_of(self.lab.name):
                network.remove(name)
            with programs.together():
                network.tidy()

    def _build(self) -> None:
        with programs.together():
            network.create(self.lab.namespaces)
        network.build(self.lab, offloads=True)
        certificate, key = self.folder / "lab.pem", self.folder / "lab.key"
        write_certificate(certificate, key, (VIP,))
        pem = self.folder / "both.pem"
        pem.write_bytes(certificate.read_bytes() + key.read_bytes())
        (self.folder / "haproxy.cfg").write_text(haproxy(pem, self.lab.backends))
        for backend in self.lab.backends:
            command = [sys.executable, "-m", "dlba.cli", "backend", "--name", backend.name]
            command += ["--address", backend.address, "--port", str(BACKEND_PORT)]
            self._stack.enter_context(self._child(backend, "backend", command))
        for number, node in enumerate(self.lab.nodes):
            text = keepalived(node, number, self._pair.advertise)
            (self.folder / f"{node.name}.conf").write_text(text)
            self.start(node.name)

    def _child(self, part: Part, what: str, command: Sequence[str]) -> Child:
        log = self.folder / f"{part.name}-{what}.out"
        name = f"{self.name}: {what} of {part.name}"
        return InNamespace(namespace(self.lab.name, part.name), name, command, log)

    def start(self, node: str) -> None:
        part, base = self._part(node), self.folder / node
        vrrp = [self._programs["keepalived"], "--dont-fork", "--log-console", "--no-syslog"]
        vrrp += ["--vrrp", f"--use-file={base}.conf"]
        pids = [Path(f"{base}.pid"), Path(f"{base}-vrrp.pid")]
        for path in pids:
            # A killed one leaves them behind; they would keep the next one from starting.
            path.unlink(missing_ok=True)
        vrrp += [f"--pid={pids[0]}", f"--vrrp_pid={pids[1]}"]
        web = [self._programs["haproxy"], "-db", "-f", str(self.folder / "haproxy.cfg")]
        children = {
            "haproxy": self._child(part, "haproxy", web),
            "keepalived": self._child(part, "keepalived", vrrp),
        }
        for child in children.values():
            self._stack.enter_context(child)
        self._children[node] = children

    def active(self) -> str | None:
        for children in self._children.values():
            for child in children.values():
                child.check()
        having = [node.name for node in self.lab.nodes if self._has_vip(node)]
        return having[0] if len(having) == 1 else None

    def _has_vip(self, node: Part) -> bool:
        with network.inside(namespace(self.lab.name, node.name)):
            done = subprocess.run(
                [self._programs["ip"], "-j", "address", "show"], capture_output=True, timeout=20
            )
        return any(
            address.get("local") == VIP
            for link in json.loads(done.stdout or b"[]")
            for address in link.get("addr_info", ())
        )

    def wait_settled(self) -> str:
        """As of all; and stays so for as long as a backup waits before it takes over."""
        end = time.monotonic() + START_SECONDS
        since, last = time.monotonic(), super().wait_settled()
        while time.monotonic() < since + self._pair.down_after + 0.5:
            time.sleep(POLL)
            if self.active() != last:
                since, last = time.monotonic(), super().wait_settled()
            if time.monotonic() > end:
                raise BenchmarkError(f"{self.name}: expected one node to keep the VIP")
        return last

    def served_by(self, ports: Sequence[int]) -> dict[int, str | None]:
        return dict.fromkeys(ports, self.active())

    def kill(self, node: str) -> float:
        pids = [pid for child in self._children[node].values() for pid in family(child.pid)]
        moment = time.monotonic()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it went with its parent
                os.kill(pid, signal.SIGKILL)
        return moment


def family(pid: int) -> list[int]:
    """A child of ours and all its descendants, the oldest first."""
    found = [pid]
    for one in found:
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, file.read_text().split())
    return found


@contextlib.contextmanager
def running(subject: str, folder: Path, found: dict[str, str], nodes: int) -> Iterator[Stand]:
    """The stand of a subject during the block; `nodes`: of DLBA's array."""
    try:
        if subject == DLBA:
            with DLBAArray.up(folder, nodes) as array:
                yield array
        else:
            pair = next(pair for pair in KEEPALIVED if pair.name == subject)
            with KeepalivedPair.up(pair, folder, found) as kept:
                yield kept
    except DLBAError as error:
        raise BenchmarkError(f"{subject}: {error}") from None
