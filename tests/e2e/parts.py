"""Starts and ends the real programs of the end-to-end tests: DLBA, nginx, web servers, curl.

Each program runs in a session of its own with its output in a file, and is ended by its own process
group. Whatever waits does so with a bound. Ports lie below the kernel's range for outgoing
connections: a backend that is dead for a while must find its port free again, and a connection
to a dead port of that range may meet itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BIN = Path(sys.executable).parent  # not resolved: a venv's python is a link
LOCAL = "127.0.0.1"

#: Seconds for whatever takes a moment on a fast machine.
WAIT = 60.0
#: Starts of a program whose port somebody else took in between.
TRIES = 5

TWISTD = [sys.executable, str(BIN / "twistd")]


def program(name: str, package: str) -> str:
    """The path of a program, or a skip that names its Debian package."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {package})")
    return found


def environment() -> dict[str, str]:
    """The variables of every program: no proxy, no language, DLBA importable."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("LC_", "LANG"))
    }
    env["LC_ALL"] = "C.UTF-8"
    env["PYTHONUNBUFFERED"] = "1"
    asked = subprocess.run(
        [sys.executable, "-c", "import dlba"], cwd="/", env=env, capture_output=True, timeout=WAIT
    )
    if asked.returncode:
        env["PYTHONPATH"] = str(ROOT)
    return env


ENV = environment()
DLBA = [str(BIN / "dlba")] if (BIN / "dlba").exists() else [sys.executable, "-m", "dlba.cli"]


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has now, below the range of outgoing connections."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    first = 20_000 if low > 21_000 else 1024
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            sock = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                sock.bind((LOCAL, random.randrange(first, low)))
                ports.append(sock.getsockname()[1])
    return ports


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of 127.0.0.1."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((LOCAL, port))
            sock.listen()
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """Whether somebody accepts connections on the port of 127.0.0.1."""
    with socket.socket() as sock:
        sock.settimeout(5)
        return sock.connect_ex((LOCAL, port)) == 0


def wait_until(what: str, holds: Callable[[], Any], seconds: float = WAIT) -> Any:
    """The first true value of `holds()`; fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = holds()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:.0f} s for: {what}")
        time.sleep(0.02)


class Process:
    """One running program; `output` is the file with what it says."""

    def __init__(self, name: str, command: Sequence[str], output: Path, cwd: Path, **more) -> None:
        self.name = name
        self.output = output
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=more.pop("env", ENV),
                start_new_session=True,
                **more,
            )
        self.pid = self._process.pid

    @property
    def said(self) -> str:
        return self.output.read_text("utf-8", "replace")

    def ended(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float = WAIT) -> int:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"{self.name} did not end within {seconds:.0f} s; it said:\n{self.said}")

    def signal(self, number: int) -> None:
        if self.ended() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the whole group: a server's workers, too, are gone at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(WAIT)

    def terminate(self) -> int:
        """TERM, and the exit code; what is left of the group afterwards is killed."""
        self.signal(signal.SIGTERM)
        code = self.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return code

    def until(self, what: str, holds: Callable[[], Any], seconds: float = WAIT) -> Any:
        """`wait_until`, given up at once when the program ends."""

        def ready() -> Any:
            # Asked first: what it said last is seen, too.
            code = self.ended()
            value = holds()
            if not value and code is not None:
                raise EndedError(f"{self.name} ended with {code}; it said:\n{self.said}")
            return value

        return wait_until(f"{self.name}: {what}", ready, seconds)

    def until_it_says(self, text: str) -> None:
        """`until` its output holds a text."""
        self.until(f"says {text!r}", lambda: text in self.said)

    def memory(self) -> int:
        """The most memory it has had resident so far, bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[1]) * 1024


class EndedError(AssertionError):
    """A program ended that should run."""


class Backend:
    """A web server behind DLBA: a name, a port that stays, a process that may be killed."""

    def __init__(self, name: str, port: int, start: Callable[[Backend], Process]) -> None:
        self.name = name
        self.port = port
        self._start = start
        self.process = start(self)

    @property
    def address(self) -> str:
        return f"{LOCAL}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def kill(self) -> None:
        """SIGKILL; afterwards nobody answers on the port any more."""
        self.process.kill()
        wait_until(f"{self.name} is dead", lambda: not accepts(self.port))

    def restart(self) -> None:
        self.process = self._start(self)


class Node:
    """A running `twistd dlba` with a plain port, a TLS port and a monitor."""

    def __init__(self, process: Process, folder: Path, ports: list[int]) -> None:
        self.process = process
        self.folder = folder
        self.config = folder / "node.yaml"
        self.access = folder / "access.log"
        self.ports = ports
        self.port, self.tls_port, self.monitor_port = ports

    @property
    def http(self) -> str:
        return f"http://{LOCAL}:{self.port}"

    @property
    def https(self) -> str:
        return f"https://{LOCAL}:{self.tls_port}"

    @property
    def monitor(self) -> str:
        return f"http://{LOCAL}:{self.monitor_port}"

    def log_lines(self, count: int) -> list[str]:
        """The lines of the access log, once there are at least `count`."""
        return wait_until(
            f"{count} lines in {self.access}",
            lambda: len(lines := self.access.read_text("ascii").splitlines()) >= count and lines,
        )


class Rig:
    """Starts parts in a folder and ends all of them at the end, the last one first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[Node] = []
        self._backends: list[Backend] = []
        self._processes: list[Process] = []
        self._number = 0

    def new_folder(self, name: str) -> Path:
        self._number += 1
        folder = self.folder / f"{self._number:02d}-{name}"
        folder.mkdir()
        return folder

    def run(self, name: str, command: Sequence[str], cwd: Path | None = None, **more) -> Process:
        """Start any program; its output goes beside its working folder."""
        cwd = self.new_folder(name) if cwd is None else cwd
        output = cwd.parent / f"{cwd.name}-output-{len(self._processes)}.txt"
        process = Process(name, command, output, cwd, **more)
        self._processes.append(process)
        return process

    # Backends

    def _backend(self, name: str, start: Callable[[Backend], Process]) -> Backend:
        for _ in range(TRIES):
            with contextlib.suppress(EndedError):
                backend = Backend(name, free_ports(1)[0], start)
                self._backends.append(backend)
                return backend
        pytest.fail(f"{name} could not be started: see {self.folder}")

    def demo_backend(self, name: str) -> Backend:
        """`dlba backend`."""

        def start(backend: Backend) -> Process:
            command = [*DLBA, "backend", "--port", str(backend.port), "--name", name]
            process = self.run(name, command)
            process.until_it_says(f"backend {name}: http://")
            return process

        return self._backend(name, start)

    def web_application(self, name: str) -> Backend:
        """The Python web application of `webapp.py`."""

        def start(backend: Backend) -> Process:
            command = [sys.executable, str(HERE / "webapp.py"), str(backend.port), name]
            process = self.run(name, command)
            process.until_it_says("ready")
            return process

        return self._backend(name, start)

    def nginx(self, name: str, locations: str) -> Backend:
        """nginx with `locations` in its one server; `root` is `www` in its folder."""
        path = program("nginx", "nginx-light")

        def start(backend: Backend) -> Process:
            folder = self.new_folder(name)
            (folder / "www").mkdir()
            config = folder / "nginx.conf"
            config.write_text(nginx_config(backend, locations))
            # Errors before the configuration is read have no other place to go.
            command = [path, "-p", str(folder), "-c", str(config), "-e", "error.log"]
            process = self.run(name, command, folder)
            process.until("accepts", lambda: accepts(backend.port))
            return process

        return self._backend(name, start)

    # DLBA

    def node(
        self,
        backends: Sequence[Backend] | dict[str, Sequence[Backend]],
        sites: Sequence[dict[str, Any]] | None = None,
        log: str | None = None,
        pool: dict[str, Any] | None = None,
        **web: Any,
    ) -> Node:
        """A ready `twistd dlba`.

        `backends`: those of the pool `app`, or of each pool by its name; `sites`: absent, one for
        all hosts that schedules by cookie; `log`: the format of an access log; `pool`: more keys
        of each pool; `web`: more keys of `web`.
        """
        pools = backends if isinstance(backends, dict) else {"app": backends}
        values = {
            "sites": sites or [{"hosts": ["*"], "default": True, "pool": "app"}],
            "pools": {
                name: {
                    "backends": {part.name: {"address": part.address} for part in parts},
                    **(pool or {}),
                }
                for name, parts in pools.items()
            },
            **web,
        }
        for _ in range(TRIES):
            with contextlib.suppress(EndedError):
                return self._node(values, log)
        pytest.fail(f"DLBA could not be started: see {self.folder}")

    def _node(self, web: dict[str, Any], log: str | None) -> Node:
        folder = self.new_folder("dlba")
        certificate(folder)
        ports = free_ports(3)
        config = node_config(ports, web)
        if log is not None:
            config["log"] = {"access": "access.log", "format": log}
        # JSON is YAML, too.
        (folder / "node.yaml").write_text(json.dumps(config, indent=1))
        command = [*TWISTD, "-n", "--pidfile=", "dlba", "-c", "node.yaml"]
        node = Node(self.run("dlba", command, folder), folder, ports)
        node.process.until_it_says("ready: pid")
        self.nodes.append(node)
        return node

    def end(self) -> None:
        """End everything; fails if a node met an exception or did not end as it should."""
        problems = []
        try:
            for node in self.nodes:
                if node.process.ended() is None:
                    code = node.process.terminate()
                    if code != 0:
                        problems.append(f"DLBA ended with {code}: {node.process.said}")
                if re.search("Traceback|Unhandled|exception", node.process.said):
                    problems.append(f"DLBA met an exception: {node.process.said}")
        finally:
            for process in reversed(self._processes):
                process.kill()
        assert not problems, "\n".join(problems)


@contextlib.contextmanager
def rig_in(folder: Path) -> Iterator[Rig]:
    """A Rig that ends with the block."""
    rig = Rig(folder)
    try:
        yield rig
    finally:
        rig.end()


def node_config(ports: Sequence[int], web: dict[str, Any]) -> dict[str, Any]:
    """A node.yaml as a mapping: the ports are those of HTTP, HTTPS and the monitor."""
    port, tls_port, monitor_port = ports
    pair = {"certificate": "node.pem", "key": "node.key"}
    listen = [
        {"port": port, "address": LOCAL},
        {"port": tls_port, "address": LOCAL, "tls": {"certificates": [pair]}},
    ]
    return {
        "node": "a",
        "array": {"web": {"listen": listen, **web}},
        "monitor": {"listen": f"{LOCAL}:{monitor_port}"},
    }


def certificate(
    folder: Path, name: str = "node", host: str = "localhost", kind: str = "ec"
) -> Path:
    """A self-signed certificate made by openssl: NAME.pem and NAME.key in the folder."""
    key = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["rsa:2048"]}[kind]
    path = folder / f"{name}.pem"
    command = [program("openssl", "openssl"), "req", "-x509", "-newkey", *key, "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={host}", "-keyout", str(folder / f"{name}.key")]
    command += ["-addext", f"subjectAltName=DNS:{host},IP:{LOCAL}", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=WAIT)
    return path


def nginx_config(backend: Backend, locations: str) -> str:
    """A small nginx.conf; every path in it lies in nginx's own prefix."""
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  types {{ text/html html; text/plain txt; text/css css; application/json json; }}
  default_type application/octet-stream;
  sendfile on;
  absolute_redirect off;
  server {{
    listen {backend.address} backlog=511;
    root www;
    add_header X-Backend {backend.name} always;
    {locations}
  }}
}}
"""
