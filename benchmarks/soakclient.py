"""Does what clients do, all of it at once, and says of each request whether its answer was right.

    soakclient.py PLAIN TLS NUMBER THREADS PAUSE

A program of its own; PLAIN and TLS are ports of loopback, NUMBER tells several of them apart, PAUSE
is how many seconds each thread rests between two things on average. Every second it prints

    {"counts": {KIND: answered rightly, …}, "sent": N}      since the start

and, at once, what went wrong or needs to be judged by who knows the kills:

    {"failure": {…}}    the fields of `soakjudge.Failure`
    {"moved": {…}}      the fields of `soakjudge.Moved`: a session met another backend
    {"posted": [X-Id, …]}     bodies that were answered rightly

The times are those of CLOCK_MONOTONIC. A line on its standard input ends it, after what runs.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

# As a script, only this folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.soakbackend import PIECE, accept_key, pattern

__all__ = ["REFUSED", "Client", "Wire", "WrongError", "main"]

LONGEST: Final = 30.0
"""Seconds for any step of a request; an answer that takes longer is lost."""

KIB: Final = 1024
MIB: Final = 1024 * KIB

#: What is rightly refused, with the status: each ends its connection.
REFUSED: Final = (
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 500 + b"\r\n", 431),
    (b"GET / HTTP/2.5\r\nHost: a\r\n\r\n", 505),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n", 413),
)


class WrongError(Exception):
    """An answer that isn't right. `status` 0, `backend` "": unknown.

    `stage`: what was waited for: connect, head, body; whole: it came, and was another.
    """

    def __init__(self, stage: str, what: str, status: int = 0, backend: str = "") -> None:
        super().__init__(what)
        self.stage = stage
        self.status = status
        self.backend = backend


class Wire:
    """One connection, and a naive reader of answers."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self._buffer = b""
        try:
            sock = socket.create_connection(("127.0.0.1", port), LONGEST)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = sock if context is None else context.wrap_socket(sock)
        except OSError as error:
            raise WrongError("connect", _words(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(OSError):
            self.sock.close()

    def ended(self) -> bool:
        """Whether the other side ended it while nothing was asked."""
        self.sock.setblocking(False)
        try:
            return not self.sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                self.sock.settimeout(LONGEST)

    def send(self, data: bytes) -> None:
        """Send it; an error is left to the reader, who may find an answer."""
        with contextlib.suppress(OSError):
            self.sock.sendall(data)

    def _more(self, stage: str, status: int = 0, backend: str = "") -> bool:
        try:
            data = self.sock.recv(PIECE)
        except OSError as error:
            raise WrongError(stage, _words(error), status, backend) from None
        self._buffer += data
        return bool(data)

    def head(self) -> tuple[int, dict[str, str]]:
        """The final answer's head: status, fields in lower case (the last of several)."""
        while True:
            while b"\r\n\r\n" not in self._buffer:
                if not self._more("head"):
                    raise WrongError(
                        "head", f"expected a head, got the end ({self._buffer[:40]!r})"
                    )
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            line, *lines = head.decode("latin-1").split("\r\n")
            status = int(line.split(" ")[1])
            pairs = (field.partition(":") for field in lines)
            fields = {name.lower(): value.strip() for name, _, value in pairs}
            if status >= 200 or status == 101:
                return status, fields

    def body(
        self, status: int, fields: dict[str, str], rate: float | None = None
    ) -> tuple[int, str]:
        """The body: length and SHA-256. `rate`: bytes a second at most."""
        digest, length = hashlib.sha256(), 0
        backend = fields.get("x-backend", "")

        def take(size: int | None) -> bool:
            """`size` bytes, None: to the end; False: the end came too early."""
            nonlocal length
            while size is None or size > 0:
                if not self._buffer:
                    if not self._more("body", status, backend):
                        return size is None
                data = self._buffer if size is None else self._buffer[:size]
                self._buffer = self._buffer[len(data) :]
                digest.update(data)
                length += len(data)
                if rate is not None:
                    time.sleep(len(data) / rate)
                size = None if size is None else size - len(data)
            return True

        def line() -> bytes:
            while b"\r\n" not in self._buffer:
                if not self._more("body", status, backend):
                    raise WrongError("body", "expected a chunk, got the end", status, backend)
            found, _, self._buffer = self._buffer.partition(b"\r\n")
            return found

        whole = True
        if "transfer-encoding" in fields:
            while size := int(line().partition(b";")[0], 16):
                whole = take(size) and whole
                line()
            while line():
                pass
        elif "content-length" in fields:
            whole = take(int(fields["content-length"]))
        else:
            whole = take(None)
        if not whole:
            raise WrongError("body", f"got the end after {length} bytes", status, backend)
        return length, digest.hexdigest()


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def digest_of(size: int) -> str:
    """Of the body of `/bytes/SIZE`."""
    digest = hashlib.sha256()
    for start in range(0, size, PIECE):
        digest.update(pattern(start, min(PIECE, size - start)))
    return digest.hexdigest()


SIZES: Final = (0, 1, 1000, 20_000, 200_000)
LARGE: Final = 3 * MIB
DIGESTS: Final = {size: digest_of(size) for size in (*SIZES, LARGE)}


class Output:
    """Lines to the one who started us; shared by the threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: collections.Counter[str] = collections.Counter()
        self.sent = 0
        self._posted: list[str] = []

    def say(self, **line: Any) -> None:
        """Print one."""
        with self._lock:
            print(json.dumps(line), flush=True)

    def began(self) -> None:
        """A request is about to be sent."""
        with self._lock:
            self.sent += 1

    def right(self, kind: str, posted: str = "") -> None:
        """An answer was right."""
        with self._lock:
            self.counts[kind] += 1
            if posted:
                self._posted.append(posted)

    def tell(self) -> None:
        """What happened so far."""
        with self._lock:
            counts, posted, self._posted = dict(self.counts), self._posted, []
        if posted:
            self.say(posted=posted)
        self.say(counts=counts, sent=self.sent)


class Client:
    """One thread's worth of clients."""

    def __init__(self, plain: int, tls: int, name: str, output: Output) -> None:
        self._ports = (plain, tls)
        self._name = name
        self._output = output
        self._random = random.Random(name)
        self._contexts: tuple[None, ssl.SSLContext] = (None, _context())
        self._kept: dict[int, Wire] = {}
        self._cookie = ""
        self._home = ""
        self._home_since = 0.0
        self._number = 0
        self.things: tuple[tuple[int, Callable[[], None]], ...] = (
            (20, self.get_new),
            (40, self.get_kept),
            (12, self.session),
            (10, self.post_new),
            (10, self.post_kept),
            (6, self.pipeline),
            (4, self.old),
            (4, self.head_only),
            (4, self.expect),
            (4, self.refused),
            (3, self.tunnel),
            (3, self.download),
            (2, self.slow_download),
            (2, self.slow_upload),
            (3, self.slow_page),
        )

    def do(self) -> None:
        """One thing, by chance."""
        weights, things = zip(*self.things, strict=True)
        self._random.choices(things, weights)[0]()

    # ---------------------------------------------------------------- requests

    def _attempt(
        self, kind: str, method: str, ask: Callable[[], str | None], posted: str = ""
    ) -> str | None:
        """Ask; what the answer was wrong in is told. The backend that answered, None: wrong."""
        began = time.monotonic()
        self._output.began()
        try:
            backend = ask()
        except WrongError as error:
            self._output.say(
                failure={
                    "kind": kind,
                    "method": method,
                    "began": began,
                    "ended": time.monotonic(),
                    "stage": error.stage,
                    "status": error.status,
                    "backend": error.backend,
                    "what": str(error),
                }
            )
            return None
        self._output.right(kind, posted)
        return backend

    def _wire(self, tls: int) -> Wire:
        return Wire(self._ports[tls], self._contexts[tls])

    def _either(self) -> int:
        return self._random.randrange(2)

    def _request(self, method: str, target: str, *lines: str, version: str = "1.1") -> bytes:
        fields = "".join(f"{line}\r\n" for line in ("Host: soak", *lines))
        return f"{method} {target} HTTP/{version}\r\n{fields}\r\n".encode()

    def _answer(
        self, wire: Wire, expected: int, length: int, digest: str, rate: float | None = None
    ) -> str:
        """Read it and compare; the backend."""
        status, fields = wire.head()
        backend = fields.get("x-backend", "")
        if status != expected:
            raise WrongError("head", f"expected {expected}, got {status}", status, backend)
        got = wire.body(status, fields, rate)
        if got != (length, digest):
            what = f"expected {length} bytes, got {got[0]} or others"
            raise WrongError("whole", what, status, backend)
        return backend

    def _get(self, wire: Wire, *lines: str, version: str = "1.1") -> str:
        size = self._random.choice(SIZES)
        target = f"/{self._random.choice(('bytes', 'chunked'))}/{size}"
        wire.send(self._request("GET", target, *lines, version=version))
        return self._answer(wire, 200, size, DIGESTS[size])

    def get_new(self) -> None:
        """On a connection of its own."""

        def ask() -> str:
            with self._wire(self._either()) as wire:
                return self._get(wire, "Connection: close")

        self._attempt("GET, new", "GET", ask)

    def get_kept(self) -> None:
        """On the kept connection."""
        self._on_kept("GET, kept", "GET", self._get)

    def _on_kept(
        self, kind: str, method: str, ask: Callable[[Wire], str], posted: str = ""
    ) -> None:
        tls = self._either()
        wire = self._kept.pop(tls, None)
        if wire is not None and wire.ended():
            # It was ended while idle, which anybody may do and every client expects.
            wire.close()
            wire = None

        def on_wire() -> str:
            nonlocal wire
            if wire is None:
                wire = self._wire(tls)
            return ask(wire)

        if self._attempt(kind, method, on_wire, posted) is not None and wire is not None:
            self._kept[tls] = wire
        elif wire is not None:
            wire.close()

    def session(self) -> None:
        """A GET with the cookie that keeps this client with its backend."""
        found: dict[str, str] = {}

        def ask() -> str:
            with self._wire(self._either()) as wire:
                lines = [f"Cookie: a=1; {self._cookie}; b=2"] if self._cookie else []
                wire.send(self._request("GET", "/bytes/20000", "Connection: close", *lines))
                status, fields = wire.head()
                backend = fields.get("x-backend", "")
                if status != 200:
                    raise WrongError("head", f"expected 200, got {status}", status, backend)
                if wire.body(status, fields) != (20_000, DIGESTS[20_000]):
                    raise WrongError("whole", "expected other bytes", status, backend)
                found["cookie"] = fields.get("set-cookie", "").partition(";")[0]
                return backend

        began = time.monotonic()
        backend = self._attempt("session", "GET", ask)
        if backend is None:
            return
        if self._home and backend != self._home:
            since, ended = self._home_since, time.monotonic()
            self._output.say(
                moved={"home": self._home, "to": backend, "since": since, "ended": ended}
            )
        self._home, self._home_since = backend, began
        self._cookie = found["cookie"] or self._cookie
        if self._random.random() < 0.02:
            self._cookie = self._home = ""

    def _posting(self, size: int) -> tuple[str, bytes, Callable[[Wire, bytes], str]]:
        """An identity, a body, and who reads the answer."""
        self._number += 1
        identity = f"{self._name}-{self._number}"
        body = os.urandom(min(size, PIECE)) * (size // PIECE + 1)
        body = body[:size]
        answer = json.dumps({"length": size, "sha256": hashlib.sha256(body).hexdigest()}).encode()

        def read(wire: Wire, _: bytes = b"") -> str:
            return self._answer(wire, 200, len(answer), hashlib.sha256(answer).hexdigest())

        return identity, body, read

    def _framed(self, body: bytes) -> tuple[str, bytes]:
        if self._either():
            return f"Content-Length: {len(body)}", body
        step = max(len(body) // 7, 1)
        pieces = [body[at : at + step] for at in range(0, len(body), step)]
        data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return "Transfer-Encoding: chunked", data + b"0\r\n\r\n"

    def _post(self, kept: bool) -> None:
        identity, body, read = self._posting(self._random.choice((0, 10, 5000, 100_000, 600_000)))
        framing, data = self._framed(body)
        lines = [framing, f"X-Id: {identity}"]

        def ask(wire: Wire) -> str:
            wire.send(self._request("POST", "/echo", *lines) + data)
            return read(wire, b"")

        if kept:
            self._on_kept("POST, kept", "POST", ask, identity)
            return
        lines.append("Connection: close")

        def on_new() -> str:
            with self._wire(self._either()) as wire:
                return ask(wire)

        self._attempt("POST, new", "POST", on_new, identity)

    def post_new(self) -> None:
        """A body on a connection of its own."""
        self._post(kept=False)

    def post_kept(self) -> None:
        """A body on the kept connection."""
        self._post(kept=True)

    def pipeline(self) -> None:
        """Five requests at once; the answers come in order."""
        sizes = [self._random.choice(SIZES) for _ in range(5)]
        wire: Wire | None = None
        broken = False
        for number, size in enumerate(sizes):

            def ask(number: int = number, size: int = size) -> str:
                nonlocal wire
                if wire is None:
                    wire = self._wire(self._either())
                    wire.send(b"".join(self._request("GET", f"/bytes/{one}") for one in sizes))
                return self._answer(wire, 200, size, DIGESTS[size])

            # After a broken one nothing can follow: those weren't asked.
            if not broken:
                broken = self._attempt("pipelined", "GET", ask) is None
        if wire is not None:
            wire.close()

    def old(self) -> None:
        """HTTP/1.0."""

        def ask() -> str:
            with self._wire(self._either()) as wire:
                return self._get(wire, version="1.0")

        self._attempt("HTTP/1.0", "GET", ask)

    def head_only(self) -> None:
        """HEAD."""

        def ask(wire: Wire) -> str:
            wire.send(self._request("HEAD", "/bytes/1000"))
            status, fields = wire.head()
            backend = fields.get("x-backend", "")
            if status != 200 or fields.get("content-length") != "1000":
                what = f"expected 200 and a length of 1000, got {status}"
                raise WrongError("head", what, status, backend)
            return backend

        self._on_kept("HEAD", "HEAD", ask)

    def expect(self) -> None:
        """A body that waits for 100."""
        identity, body, read = self._posting(5000)

        def ask(wire: Wire) -> str:
            lines = (f"Content-Length: {len(body)}", f"X-Id: {identity}", "Expect: 100-continue")
            wire.send(self._request("POST", "/echo", *lines))
            time.sleep(0.02)
            wire.send(body)
            return read(wire, b"")

        self._on_kept("POST, expect", "POST", ask, identity)

    def refused(self) -> None:
        """What must not pass."""
        data, expected = self._random.choice(REFUSED)

        def ask() -> str:
            with self._wire(self._either()) as wire:
                wire.send(data)
                status, fields = wire.head()
                if status != expected:
                    raise WrongError("head", f"expected {expected}, got {status}", status)
                wire.body(status, fields)
                return ""

        self._attempt("refused", "none", ask)

    def tunnel(self) -> None:
        """A WebSocket: what is sent comes back."""
        key = b"dGhlIHNhbXBsZSBub25jZQ=="

        def ask() -> str:
            with self._wire(self._either()) as wire:
                lines = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
                key_line = f"Sec-WebSocket-Key: {key.decode()}"
                wire.send(self._request("GET", "/upgrade", *lines, key_line))
                status, fields = wire.head()
                backend = fields.get("x-backend", "")
                if status != 101 or fields.get("sec-websocket-accept") != accept_key(key).decode():
                    raise WrongError("head", f"expected 101, got {status}", status, backend)
                for _ in range(self._random.randrange(1, 20)):
                    data = os.urandom(self._random.randrange(1, 5000))
                    wire.send(data)
                    while len(wire._buffer) < len(data):
                        if not wire._more("body", status, backend):
                            raise WrongError("body", "got the end", status, backend)
                    if wire._buffer != data:
                        raise WrongError("whole", "expected the same back", status, backend)
                    wire._buffer = b""
                    time.sleep(self._random.random() * 0.05)
                return backend

        self._attempt("WebSocket", "UPGRADE", ask)

    def _download(self, kind: str, rate: float | None) -> None:
        def ask() -> str:
            with self._wire(self._either()) as wire:
                wire.send(self._request("GET", f"/bytes/{LARGE}", "Connection: close"))
                return self._answer(wire, 200, LARGE, DIGESTS[LARGE], rate)

        self._attempt(kind, "GET", ask)

    def download(self) -> None:
        """A large one."""
        self._download("download", None)

    def slow_download(self) -> None:
        """A large one, slowly: over a few seconds."""
        self._download("slow download", LARGE / 3)

    def slow_upload(self) -> None:
        """A body in pieces, over a second or two."""
        identity, body, read = self._posting(self._random.choice((3000, 700_000)))

        def ask() -> str:
            with self._wire(self._either()) as wire:
                lines = (f"Content-Length: {len(body)}", f"X-Id: {identity}", "Connection: close")
                wire.send(self._request("POST", "/echo", *lines))
                step = len(body) // 20
                for at in range(0, len(body), step):
                    wire.send(body[at : at + step])
                    time.sleep(0.1)
                return read(wire, b"")

        self._attempt("slow upload", "POST", ask, identity)

    def slow_page(self) -> None:
        """A backend that takes its time; it may be killed meanwhile, and the request goes on."""
        seconds = round(self._random.random(), 2)

        def ask() -> str:
            with self._wire(self._either()) as wire:
                wire.send(self._request("GET", f"/slow/{seconds}", "Connection: close"))
                status, fields = wire.head()
                backend = fields.get("x-backend", "")
                if status != 200:
                    raise WrongError("head", f"expected 200, got {status}", status, backend)
                wire.body(status, fields)
                return backend

        self._attempt("slow page", "GET", ask)

    def close(self) -> None:
        """End the kept connections."""
        for wire in self._kept.values():
            wire.close()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Certificates are renewed while this runs, and none of them is known to anybody.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def main() -> None:
    """Read the command line and run."""
    plain, tls, number, threads = map(int, sys.argv[1:5])
    pause = float(sys.argv[5])
    output = Output()
    end = threading.Event()

    def work(which: int) -> None:
        client = Client(plain, tls, f"{number}.{which}", output)
        chance = random.Random(which)
        while not end.wait(chance.random() * 2 * pause):
            client.do()
        client.close()

    def watch() -> None:
        while not end.wait(1.0):
            output.tell()

    workers = [threading.Thread(target=work, args=(which,)) for which in range(threads)]
    workers.append(threading.Thread(target=watch))
    for worker in workers:
        worker.start()
    sys.stdin.readline()
    end.set()
    for worker in workers:
        worker.join()
    output.tell()


if __name__ == "__main__":
    main()
