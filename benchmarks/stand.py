"""Moves a whole test stand into life, asks it and loads it: a backend and the proxies before it.

A stand is verified before it is measured: each proxy answers 200 with the right body over one kept
client connection, gives a cookie once, and uses a new backend connection for each request; all
negotiate the same TLS version and cipher.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from benchmarks import setups
from benchmarks.measure import Run, parse_wrk
from benchmarks.processes import (
    BenchmarkError,
    Child,
    SyslogSink,
    free_ports,
    pinned,
    split_cores,
)

__all__ = ["DLBA", "DLBA_SILENT", "HAPROXY", "HAPROXY_SILENT", "SETUPS", "WORKS", "Stand"]

DLBA: Final = "dlba"
DLBA_SILENT: Final = "dlba no log"
HAPROXY: Final = "haproxy"
HAPROXY_SILENT: Final = "haproxy no log"
SETUPS: Final = (HAPROXY, DLBA, HAPROXY_SILENT, DLBA_SILENT)
WORKS: Final = ("plain", "tls")

ROOT: Final = Path(__file__).resolve().parent.parent
LOG_SECONDS: Final = 10.0


@attrs.frozen
class Proxy:
    """One process under test."""

    child: Child
    ports: setups.Ports
    access: Path | None = None
    """DLBA's access log, where it has one."""
    sink: SyslogSink | None = None
    """Where HAProxy logs to, if it does."""


@attrs.frozen
class Answer:
    """What one request got, as far as it matters here."""

    status: int
    body: bytes
    set_cookie: str | None
    count: str | None


class Stand:
    """All that runs; make it with `Stand.running`."""

    def __init__(self, programs: dict[str, str], folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self.proxy_cores, self.load_cores = split_cores(tuple(os.sched_getaffinity(0)))
        self._proxies: dict[str, Proxy] = {}
        self._cookies: dict[tuple[str, str], str] = {}
        self.ciphers: dict[str, str] = {}

    @classmethod
    @contextlib.contextmanager
    def running(cls, programs: dict[str, str], folder: Path, python: str) -> Iterator[Stand]:
        """Start everything in `folder`; end everything after the block, whatever happens in it.

        `python`: the interpreter for DLBA. Raises BenchmarkError when something doesn't start.
        """
        self = cls(programs, folder)
        before = os.sched_getaffinity(0)
        with contextlib.ExitStack() as stack:
            if self.load_cores is not None:
                stack.callback(os.sched_setaffinity, 0, before)
                os.sched_setaffinity(0, {int(core) for core in self.load_cores.split(",")})
            self._start(stack, python)
            yield self

    def _start(self, stack: contextlib.ExitStack, python: str) -> None:
        folder = self._folder
        certificate, key, pem = (folder / name for name in ("web.pem", "web.key", "both.pem"))
        self._make_certificate(certificate, key, pem)
        backend, *rest = free_ports(1 + 2 * len(SETUPS))
        ports = {name: setups.Ports(*rest[2 * at : 2 * at + 2]) for at, name in enumerate(SETUPS)}

        def start(name: str, command: list[str], cores: str | None, port: int) -> Child:
            log = folder / f"{name.replace(' ', '-')}.out"
            # The tree that this file is in is what is measured, whatever is installed.
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            child = stack.enter_context(Child(name, command, log, cores, environment))
            child.wait_for(port)
            return child

        file = folder / "nginx.conf"
        file.write_text(setups.nginx(folder, backend))
        command = [self._programs["nginx"], "-p", str(folder), "-c", str(file)]
        command += ["-e", str(folder / "nginx.log")]
        self._backend = start("nginx", command, self.load_cores, backend)

        sink = stack.enter_context(SyslogSink().running())
        for name, used in ((HAPROXY, sink), (HAPROXY_SILENT, None)):
            file = folder / f"{name.replace(' ', '-')}.cfg"
            syslog = None if used is None else used.port
            file.write_text(setups.haproxy(ports[name], backend, pem, syslog))
            command = [self._programs["haproxy"], "-db", "-f", str(file)]
            child = start(name, command, self.proxy_cores, ports[name].tls)
            self._proxies[name] = Proxy(child, ports[name], sink=used)

        for name in (DLBA, DLBA_SILENT):
            base = folder / name.replace(" ", "-")
            access = folder / "access.log" if name == DLBA else None
            file = base.with_suffix(".yaml")
            state = base.with_suffix(".state")
            file.write_text(setups.dlba(ports[name], backend, certificate, key, state, access))
            command = [python, "-c", "from twisted.scripts.twistd import run; run()"]
            command += ["-n", "--pidfile=", "dlba", "-c", str(file)]
            child = start(name, command, self.proxy_cores, ports[name].tls)
            self._proxies[name] = Proxy(child, ports[name], access=access)

    def _make_certificate(self, certificate: Path, key: Path, pem: Path) -> None:
        command = [self._programs["openssl"], "req", "-x509", "-newkey", "ec"]
        command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        command += ["-subj", "/CN=benchmark", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", str(key), "-out", str(certificate)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise BenchmarkError(f"openssl: {done.stderr}")
        pem.touch(0o600)
        pem.write_bytes(certificate.read_bytes() + key.read_bytes())

    # ---------------------------------------------------------------- verification

    def verify(self) -> None:
        """Raise BenchmarkError unless every setup does the same work in the same way."""
        for work in WORKS:
            for name in SETUPS:
                self._verify(work, name)
        if len(set(self.ciphers.values())) != 1:
            raise BenchmarkError(f"TLS: expected the same everywhere, got {self.ciphers}")

    def _verify(self, work: str, name: str) -> None:
        proxy = self._proxies[name]
        connection = _connection(work, proxy.ports.of(work))
        try:
            connection.connect()
            if isinstance(connection.sock, ssl.SSLSocket):
                chosen = connection.sock.cipher()
                self.ciphers[name] = f"{connection.sock.version()} {chosen and chosen[0]}"
            kept = connection.sock
            first = _ask(connection, "/", None)
            if first.set_cookie is None:
                raise BenchmarkError(f"{name}, {work}: expected a cookie, got none")
            cookie = first.set_cookie.partition(";")[0]
            answers = [first]
            answers += [_ask(connection, setups.COUNT_TARGET, cookie) for _ in range(3)]
            same = connection.sock is kept
        except (OSError, http.client.HTTPException) as error:
            raise BenchmarkError(f"{name}, {work}: {error!r}\n{proxy.child.output()}") from None
        finally:
            connection.close()
        for found, expected, what in (
            ([a.status for a in answers], [200] * 4, "status"),
            ([a.body == setups.BODY for a in answers], [True] * 4, "right body"),
            ([a.set_cookie for a in answers[1:]], [None] * 3, "second cookie"),
            ([a.count for a in answers[1:]], ["1"] * 3, "requests a backend connection"),
            (same, True, "client connection kept"),
        ):
            if found != expected:
                raise BenchmarkError(f"{name}, {work}: {what}: expected {expected}, got {found}")
        self._cookies[work, name] = cookie

    # ---------------------------------------------------------------- measuring

    def measure(self, number: int, work: str, name: str, seconds: int, connections: int) -> Run:
        """Load one setup for `seconds`; a run that went wrong says so in its `problems`."""
        proxy = self._proxies[name]
        try:
            if proxy.access is not None:
                self._take_log(proxy, proxy.access)
            datagrams = proxy.sink.datagrams if proxy.sink is not None else 0
            cpu, wall = proxy.child.cpu_seconds(), time.monotonic()
            text = self._load(proxy, work, name, seconds, connections)
            wall, cpu = time.monotonic() - wall, proxy.child.cpu_seconds() - cpu
            seen = parse_wrk(text)
            problems = seen.problems(len(setups.BODY))
            if proxy.access is not None:
                lines = self._take_log(proxy, proxy.access)
                if lines < seen.requests:
                    problems.append(f"access log: expected {seen.requests} lines, got {lines}")
            if proxy.sink is not None and proxy.sink.datagrams == datagrams:
                problems.append("syslog: expected datagrams, got none")
            # Twisted logs what went wrong inside, and goes on.
            if "Traceback" in proxy.child.output():
                problems.append(f"expected no exception, got one\n{proxy.child.output()}")
        except (BenchmarkError, OSError, ValueError) as error:
            return Run(number, work, name, 0, 0.0, 0.0, None, None, (str(error),))
        return Run(
            number, work, name, seen.requests, wall, cpu, seen.p50, seen.p99, tuple(problems)
        )

    def _load(self, proxy: Proxy, work: str, name: str, seconds: int, connections: int) -> str:
        scheme = "https" if work == "tls" else "http"
        command = [self._programs["wrk"], "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
        command += ["-H", f"Cookie: {self._cookies[work, name]}"]
        command.append(f"{scheme}://127.0.0.1:{proxy.ports.of(work)}/")
        try:
            done = subprocess.run(
                pinned(command, self.load_cores),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds + 20,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(
                f"wrk: expected an end, got none in {error.timeout:.0f} s"
            ) from None
        if done.returncode:
            raise BenchmarkError(f"wrk: exit code {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def _take_log(self, proxy: Proxy, access: Path) -> int:
        """Rotate DLBA's access log, so that it never grows large; lines of what was written."""
        old = access.with_suffix(".old")
        access.rename(old)
        os.kill(proxy.child.pid, signal.SIGUSR1)
        end = time.monotonic() + LOG_SECONDS
        while not access.exists():
            proxy.child.check()
            if time.monotonic() > end:
                raise BenchmarkError("access log: expected a new file after USR1, got none")
            time.sleep(0.01)
        # The new file is opened before the old one gets what waited in memory.
        time.sleep(0.1)
        lines = 0
        with old.open("rb") as file:
            while block := file.read(1 << 20):
                lines += block.count(b"\n")
        old.unlink()
        return lines


def _connection(work: str, port: int) -> http.client.HTTPConnection:
    if work != "tls":
        return http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate was made a moment ago for this run, and wrk checks none.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)


def _ask(connection: http.client.HTTPConnection, target: str, cookie: str | None) -> Answer:
    connection.request("GET", target, headers={} if cookie is None else {"Cookie": cookie})
    got = connection.getresponse()
    return Answer(
        got.status, got.read(), got.getheader("Set-Cookie"), got.getheader(setups.COUNT_HEADER)
    )
