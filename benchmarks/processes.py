"""Moves programs into life and out of it: children on chosen cores, their CPU time, their ports.

Every child leads a session of its own, so that Ctrl-C reaches only the benchmark, which then ends
them in order: TERM to the pid, and KILL to the child's group if that wasn't heard.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.measure import parse_schedstat, parse_stat

__all__ = [
    "BenchmarkError",
    "Child",
    "SyslogSink",
    "find_programs",
    "free_ports",
    "pinned",
    "split_cores",
]

START_SECONDS: Final = 20.0
END_SECONDS: Final = 5.0

#: Program → Debian package.
PACKAGES: Final = {
    "haproxy": "haproxy",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "taskset": "util-linux",
    "wrk": "wrk",
}


class BenchmarkError(Exception):
    """The benchmark can't go on; the text says why."""


def find_programs(packages: Mapping[str, str] = PACKAGES) -> dict[str, str]:
    """The path of each program; Debian keeps servers in sbin, which isn't on every PATH.

    `packages`: program → Debian package. Raises BenchmarkError with all that are missing.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))
    found = {name: shutil.which(name, path=path) for name in packages}
    missing = [f"{name} (Debian package {packages[name]})" for name, at in found.items() if not at]
    if missing:
        raise BenchmarkError(f"missing programs: {', '.join(missing)}")
    return {name: at for name, at in found.items() if at}


def split_cores(available: Sequence[int]) -> tuple[str | None, str | None]:
    """Cores for the process under test and for load and backend, as taskset takes them.

    None, None where there is one core only: then nothing is pinned.
    """
    cores = sorted(available)
    if len(cores) < 2:
        return None, None
    return str(cores[-1]), ",".join(map(str, cores[:-1]))


def free_ports(count: int) -> list[int]:
    """Ports of loopback that the kernel has free now; all at once, so that they differ."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            found = stack.enter_context(socket.socket())
            found.bind(("127.0.0.1", 0))
            ports.append(found.getsockname()[1])
        return ports


class Child:
    """A program that runs until the `with` block ends.

    `cores`: for taskset, None: all. Output goes to `log`, which is kept with the folder it is in;
    with `talks` only what it says of errors: then `tell` and `hear` are for its lines.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        cores: str | None = None,
        environment: Mapping[str, str] | None = None,
        talks: bool = False,
    ) -> None:
        self.name = name
        self._talks = talks
        self._command = pinned(command, cores)
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its pid; taskset becomes the program it starts."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE if self._talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._talks else output,
                stderr=output,
                cwd=self._log.parent,
                env=self._environment,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        if process is None:
            return
        try:
            if process.poll() is None:
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
        finally:
            if process.poll() is None:
                # Not reaped yet, so the number is still this child's.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def check(self) -> None:
        """Raise BenchmarkError, with the end of its output, if it isn't running."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise BenchmarkError(
                f"{self.name}: expected it to run, got exit code {code}\n{self.output()}"
            )

    def wait_for(self, port: int) -> None:
        """Return when `port` of loopback accepts; BenchmarkError if that never happens."""
        end = time.monotonic() + START_SECONDS
        while True:
            self.check()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError as error:
                if time.monotonic() > end:
                    raise BenchmarkError(
                        f"{self.name}: expected port {port} to accept, got {error}\n{self.output()}"
                    ) from None
            time.sleep(0.05)

    def tell(self, line: str) -> None:
        """A line for its standard input; BenchmarkError if it doesn't take any more."""
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise BenchmarkError(f"{self.name}: {error}\n{self.output()}") from None

    def hear(self) -> str:
        """Its next line of output, once it is there; BenchmarkError if it ends before."""
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline().decode("utf-8", "replace")
        if not line:
            raise BenchmarkError(f"{self.name}: expected a line, got none\n{self.output()}")
        return line.rstrip("\n")

    def output(self) -> str:
        """The end of what it printed."""
        return self._log.read_text("utf-8", "replace")[-4000:]

    def cpu_seconds(self) -> float:
        """CPU time so far of all threads that live; BenchmarkError if it ended."""
        self.check()
        folder = Path("/proc", str(self.pid))
        try:
            texts = [file.read_text() for file in folder.glob("task/*/schedstat")]
            total = parse_schedstat(texts)
            # A kernel without the scheduler's statistics shows zeros, or no file.
            if total > 0:
                return total
            return parse_stat((folder / "stat").read_text(), os.sysconf("SC_CLK_TCK"))
        except OSError as error:
            raise BenchmarkError(f"{self.name}: CPU time: {error}") from None


def pinned(command: Sequence[str], cores: str | None) -> list[str]:
    """`command` on these cores; None: as it is."""
    return list(command) if cores is None else ["taskset", "-c", cores, *command]


class SyslogSink:
    """A UDP port of loopback that takes datagrams and forgets them.

    They are drained every few milliseconds rather than one by one: waking a reader for each would
    be charged to the sender. What overflows meanwhile the kernel drops, like any UDP.
    """

    PAUSE = 0.002
    BUFFER = 4 << 20

    def __init__(self) -> None:
        self.datagrams = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.BUFFER)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._drain, name="syslog sink", daemon=True)

    def _drain(self) -> None:
        buffer = bytearray(65536)
        while not self._end.wait(self.PAUSE):
            try:
                while self._socket.recv_into(buffer):
                    self.datagrams += 1
            except BlockingIOError:
                pass

    @contextlib.contextmanager
    def running(self) -> Iterator[SyslogSink]:
        """Drain while the block runs."""
        self._thread.start()
        try:
            yield self
        finally:
            self._end.set()
            self._thread.join(END_SECONDS)
            self._socket.close()
