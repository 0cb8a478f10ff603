"""A whole array for the end-to-end tests: `dlba lab`, whose namespaces this process enters itself.

A thread enters a namespace alone, and comes back; sockets made meanwhile stay there. Everything
asked of the lab goes through the command, as a user would; what a node says of itself comes from
its monitor and its control socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import http.client
import itertools
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from ctypes.util import find_library
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

import pytest
from clients import curl_command
from parts import DLBA, ENV, ROOT, WAIT, wait_until

VIP = "203.0.113.10"
#: A setting for an array whose scheduler is named by the configuration: nobody else takes the role,
#: nobody probes for the VIP, so that every frame is the test's own.
NO_CHANNEL = "name=null"
CLIENT = "203.0.113.200"
CLIENT_MAC = "02:00:cb:00:71:c8"
MIB = 1 << 20

#: Source ports that tests choose: below the kernel's own range, so that no curl has had them.
PORTS = range(10_000, 32_000)
#: New connections until one goes to a node that has less than the others, or more.
TRIES = 300
CLONE_NEWNET = 0x40000000

_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


@cache
def missing() -> str | None:
    """What this machine lacks for a lab, None if nothing."""
    if os.geteuid() != 0:
        return f"network namespaces: expected root, got user id {os.geteuid()}"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun: expected a device that can be opened, got none"
    return None


def need_libpcap() -> None:
    """Skip where `packets: pcap` can't work."""
    if find_library("pcap") is None:
        pytest.skip("libpcap is not installed (Debian: libpcap0.8)")


def number_of(address: str) -> int:
    """An IPv4 address as a number."""
    return int.from_bytes(socket.inet_aton(address), "big")


def pattern(size: int) -> bytes:
    """What a demo backend sends for `/bytes/SIZE`: byte i is i modulo 251."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def spread(rows: Sequence[dict[str, Any]], count: int) -> dict[str, int]:
    """IP groups of each node once `count` new buckets were placed, by the rows of `/status`.

    The least groups by weight, the lower number first: the seed's rule, written down once more.
    """
    groups = {row["name"]: row["groups"] for row in rows}
    open_to_new = [r for r in rows if r["enabled"] and not r["failed"] and r["weight"]]
    for _ in range(count):
        least = min(open_to_new, key=lambda r: (groups[r["name"]] / r["weight"], r["number"]))
        groups[least["name"]] += 1
    return groups


class Lab:
    """One lab. `up` before anything else, `end` whatever happened."""

    def __init__(self, label: str) -> None:
        reason = missing()
        if reason is not None:
            pytest.skip(reason)
        self.name = f"e2e-{os.getpid()}-{label}-{next(_numbers)}"
        self.folder = Path("/run/dlba-lab") / self.name
        self._ports = iter(PORTS)
        #: Ports that `flows.Flows` has used.
        self.flow_ports: list[int] = []

    # The command

    def run(self, *args: str, seconds: float = WAIT * 2, **more) -> subprocess.CompletedProcess:
        """`dlba lab --name …`, whatever comes of it."""
        return subprocess.run(
            [*DLBA, "lab", "--name", self.name, *args],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            env=more.pop("env", ENV),
            cwd=ROOT,
            timeout=seconds,
            **more,
        )

    def do(self, *args: str, seconds: float = WAIT * 2) -> str:
        """The same, which must succeed; what it printed."""
        done = self.run(*args, seconds=seconds)
        assert done.returncode == 0, f"{args}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def up(self, *settings: str, nodes: int = 3) -> Lab:
        """Make it; `settings`: KEY=VALUE for array.yaml."""
        told = itertools.chain.from_iterable(("--set", setting) for setting in settings)
        self.do("up", "--nodes", str(nodes), *told)
        return self

    def exec(self, part: str, *command: str, **more) -> subprocess.CompletedProcess:
        """Run a command as a part of the lab."""
        return self.run("exec", part, "--", *command, **more)

    def end(self) -> None:
        """Take it down; fails if a node met an exception or something is left."""
        problems = []
        for log in sorted(self.folder.glob("*/log")):
            said = log.read_text("utf-8", "replace")
            if re.search("Traceback|Unhandled|exception", said):
                problems.append(f"{log.parent.name} met an exception:\n{said[-4000:]}")
        done = self.run("down")
        if done.returncode:
            problems.append(f"down: {done.stdout}{done.stderr}")
        assert not problems, "\n".join(problems)

    def seen(self) -> dict[str, Any]:
        """`dlba lab status --json`."""
        return json.loads(self.do("status", "--json"))

    def node_seen(self, name: str) -> dict[str, Any]:
        return next(node for node in self.seen()["nodes"] if node["name"] == name)

    def pid(self, name: str) -> int | None:
        return self.node_seen(name)["pid"]

    @cached_property
    def macs(self) -> dict[str, str]:
        """The MAC of each node."""
        return {node["name"]: node["mac"] for node in self.seen()["nodes"]}

    @cached_property
    def names(self) -> dict[str, str]:
        """The node of each MAC."""
        return {mac: name for name, mac in self.macs.items()}

    def scheduler_mac(self, name: str = "a") -> str:
        """The MAC that the VIP has with that node: 02:… becomes 06:…, but in own-MAC mode."""
        if "own_mac: true" in (self.folder / "array.yaml").read_text():
            return self.macs[name]
        return "06" + self.macs[name][2:]

    @contextlib.contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """A node's process is stopped for the block; quicker than `stop` and `continue`."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def log(self, name: str) -> str:
        return (self.folder / name / "log").read_text("utf-8", "replace")

    # Inside

    @contextlib.contextmanager
    def inside(self, part: str) -> Iterator[None]:
        """This thread, and what it starts, is in the namespace of a part."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/run/netns/dlba-{self.name}-{part}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(there)
            try:
                yield
            finally:
                enter(home)
        finally:
            os.close(there)
            os.close(home)

    def tell(self, part: str, *command: str, **more) -> str:
        """What a command as a part prints, which must succeed; quicker than `exec`."""
        with self.inside(part):
            done = subprocess.run(
                command, capture_output=True, text=True, env=ENV, timeout=WAIT, **more
            )
        assert done.returncode == 0, f"{command}: {done.returncode}: {done.stderr}"
        return done.stdout

    def socket(self, part: str = "client", kind: int = socket.SOCK_STREAM) -> socket.socket:
        with self.inside(part):
            return socket.socket(socket.AF_INET, kind)

    def status(self, node: str = "a") -> dict[str, Any]:
        """What `/status` of a node's monitor says."""
        sock = self.socket(node)
        sock.settimeout(WAIT)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", 9080)) as connection:
            connection.sock = sock
            sock.connect(("127.0.0.1", 9080))
            connection.request("GET", "/status")
            return json.loads(connection.getresponse().read())

    def counters(self, node: str = "a") -> dict[str, int]:
        return self.status(node)["counters"]

    def rows(self) -> dict[str, dict[str, Any]]:
        """The server status table of the scheduler `a`, by name."""
        return {row["name"]: row for row in self.status()["nodes"]}

    def groups(self) -> dict[str, int]:
        return {name: row["groups"] for name, row in self.rows().items()}

    def wait_all_live(self) -> None:
        wait_until(
            "a scheduler that sees all nodes",
            lambda: (rows := self.rows()) and not any(row["failed"] for row in rows.values()),
        )

    def check_works(self) -> None:
        """curl gets its page, no node is failed, no frame has raised, no role has changed."""
        done = self.exec("client", *curl_command("-k", "--max-time", "5", f"https://{VIP}/"))
        assert (done.returncode, "from backend" in done.stdout) == (0, True), done.stderr
        assert not any(row["failed"] for row in self.rows().values())
        for name in self.macs:
            # A node looks once a second whether its link is back.
            role = "scheduler" if name == "a" else "backup"
            wait_until(f"{name} is {role}", lambda n=name, r=role: self.status(n)["role"] == r, 5)
            assert self.counters(name)["frame_errors"] == 0

    def where(self, port: int, address: str = CLIENT, node: str = "a") -> dict[str, Any]:
        """What a node's control socket says of a client's flow."""
        request = {"command": "where", "address": address, "port": port}
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(WAIT)
            peer.connect(str(self.folder / node / "state" / "control"))
            peer.sendall(json.dumps(request).encode() + b"\n")
            with peer.makefile("rb") as answers:
                answer = json.loads(answers.readline())
        assert answer["ok"], answer
        return answer

    # Client connections

    def new_ports(self, count: int) -> list[int]:
        """Source ports that nobody has used in this lab."""
        return list(itertools.islice(self._ports, count))

    def connect(self, port: int, to: int = 80, seconds: float = WAIT) -> socket.socket:
        """A connection of the client from `port` to a port of the VIP."""
        sock = self.socket()
        try:
            sock.settimeout(seconds)
            sock.bind(("", port))
            sock.connect((VIP, to))
        except BaseException:
            sock.close()
            raise
        return sock

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "lab.pem"))

    def session(self, port: int | None = None, tls: bool = False, seconds: float = WAIT) -> Session:
        """A kept connection of the client, from a fresh port."""
        if port is None:
            [port] = self.new_ports(1)
        sock = self.connect(port, 443 if tls else 80, seconds)
        if tls:
            sock = self._context.wrap_socket(sock, server_hostname=VIP)
        return Session(self, port, sock)

    def session_on(self, node: str, tls: bool = False) -> Session:
        """A kept connection that this node has; others are opened and closed on the way."""
        for _ in range(TRIES):
            session = self.session(tls=tls)
            if session.node == node:
                return session
            session.close()
        pytest.fail(f"none of {TRIES} new connections went to {node}: {self.rows()}")


@contextlib.contextmanager
def lab_up(label: str, *settings: str, nodes: int = 3) -> Iterator[Lab]:
    """A lab for the block, gone afterwards."""
    lab = Lab(label)
    try:
        yield lab.up(*settings, nodes=nodes)
    finally:
        lab.end()


def enter(descriptor: int) -> None:
    """This thread is in that network namespace from now on."""
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


class Session:
    """One connection of the client; never another one in its place."""

    def __init__(self, lab: Lab, port: int, sock: socket.socket) -> None:
        self._lab = lab
        self.port = port
        self.sock = sock
        self._http = http.client.HTTPConnection(VIP)
        self._http.auto_open = 0
        self._http.sock = sock

    @property
    def node(self) -> str | None:
        """The node that has it, by the scheduler's table."""
        return self._lab.where(self.port)["owner"]

    def ask(self, target: str = "/", body: bytes | None = None, **headers: str) -> Answer:
        """One request, a POST if there is a body, and its whole answer."""
        method = "GET" if body is None else "POST"
        self._http.request(method, target, body, headers)
        response = self._http.getresponse()
        return Answer(response.status, response.headers, response.read())

    def download(self, size: int, pause: float = 0.0) -> Transfer:
        """GET `/bytes/SIZE`, read slowly with a `pause` after each 64 KiB."""
        self._http.request("GET", f"/bytes/{size}")
        response = self._http.getresponse()
        assert response.status == 200
        digest = hashlib.sha256()
        count = 0
        longest = 0.0
        last = time.monotonic()
        while part := response.read(65536):
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            digest.update(part)
            count += len(part)
            if pause:
                time.sleep(pause)
                last = time.monotonic()
        return Transfer(count, digest.hexdigest(), longest)

    def abort(self) -> None:
        """Close by a reset: neither side remembers it, the port can be used again."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._http.close()
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Answer:
    """A response with its body."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def backend(self) -> str | None:
        return self.headers["X-Backend"]

    @property
    def cookie(self) -> str | None:
        """NAME=VALUE of the persistence cookie that was set, None if none was."""
        line = self.headers["Set-Cookie"]
        return line and line.partition(";")[0]

    def json(self) -> Any:
        return json.loads(self.body)


class Transfer:
    """What came of a download. `longest`: seconds without a byte."""

    def __init__(self, size: int, digest: str, longest: float) -> None:
        self.size = size
        self.digest = digest
        self.longest = longest

    def check(self, size: int) -> None:
        """It is all of `/bytes/SIZE`, byte for byte."""
        assert self.size == size
        assert self.digest == hashlib.sha256(pattern(size)).hexdigest()
