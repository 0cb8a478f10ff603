"""A proxy on trial's reactor, between raw clients and scripted backends on loopback.

Clients and backends are blocking sockets: a test method marked `in_thread` runs in a thread, each
connection of a backend runs its script in one. Whatever they wait for is bounded by `WAIT` seconds.
They read HTTP with a naive parser of their own (`Wire`), which knows nothing of the proxy's.

After each test everything must be gone: clients, backend connections, deadlines, descriptors.
"""

import atexit
import contextlib
import datetime as dt
import functools
import json
import os
import shutil
import socket
import ssl
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.python.threadable import isInIOThread
from twisted.trial.unittest import TestCase

from dlba.config.keys import SecretKey
from dlba.config.load import load_text
from dlba.monitor.accesslog import Record
from dlba.web.clientsocket import ClientSocket
from dlba.web.exchange import Exchange
from dlba.web.http1 import Http1
from dlba.web.proxy import Proxy
from dlba.web.service import WebService

WAIT = 20.0
KEYS = (SecretKey("k1", b"0123456789abcdef0123456789abcdef"),)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
MIB = 1024 * 1024


def in_thread(method):
    """Run a test method in a thread, beside the reactor."""

    @functools.wraps(method)
    def run(self):
        return deferToThread(method, self)

    return run


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait until `condition()` is true, and return it; AssertionError after WAIT seconds."""
    end = time.monotonic() + WAIT
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"never happened: {what}")
        time.sleep(0.005)


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# HTTP as it is on the wire


class Message(NamedTuple):
    """A request or a response: `line`, `fields` in order as they came, `body` decoded."""

    line: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    head: bytes
    trailers: list[tuple[bytes, bytes]]

    @property
    def status(self) -> int:
        """Of a response."""
        return int(self.line.split(b" ")[1])

    def all(self, name: bytes) -> list[bytes]:
        """The values of every field of that name."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: bytes) -> bytes | None:
        """The value of a field that stands at most once."""
        values = self.all(name)
        assert len(values) < 2, values
        return values[0] if values else None


class Wire:
    """A blocking socket with a naive reader of HTTP on it. `received`: all bytes ever read."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(WAIT)
        self.sock = sock
        self.received = bytearray()
        self._used = 0

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def more(self, size: int = 65536) -> bytes:
        """Read once: b"" at the end."""
        data = self.sock.recv(size)
        self.received += data
        return data

    @property
    def unread(self) -> bytes:
        """What was received and not yet taken as a message."""
        return bytes(self.received[self._used :])

    def until(self, end: bytes) -> bytes:
        """Take all up to and with `end`."""
        while (found := self.received.find(end, self._used)) < 0:
            if not self.more():
                raise EOFError(f"expected {end!r}, got the end behind {self.unread[-200:]!r}")
        return self.take(found + len(end) - self._used)

    def take(self, size: int) -> bytes:
        """Take `size` bytes."""
        while len(self.received) - self._used < size:
            if not self.more():
                raise EOFError(f"expected {size} bytes, got the end behind {self.unread[-200:]!r}")
        data = bytes(self.received[self._used : self._used + size])
        self._used += size
        return data

    def rest(self) -> bytes:
        """Take all up to a clean end."""
        while self.more():
            pass
        return self.take(len(self.received) - self._used)

    def head(self) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
        """Take a head: its first line, its fields, and all of it."""
        whole = self.until(b"\r\n\r\n")
        line, *lines = whole[:-4].split(b"\r\n")
        return line, [_field(text) for text in lines], whole

    def request(self) -> Message:
        """Take a request."""
        line, fields, head = self.head()
        return self._message(line, fields, head, b"")

    def response(self, method: str = "GET") -> Message:
        """Take a response to a request of that method; also a 1xx one."""
        line, fields, head = self.head()
        status = int(line.split(b" ")[1])
        if status < 200 or status in (204, 304) or method == "HEAD":
            return Message(line, fields, b"", head, [])
        return self._message(line, fields, head, None)

    def _message(self, line, fields, head, unframed: bytes | None) -> Message:
        length = [value for name, value in fields if name.lower() == b"content-length"]
        coding = [value for name, value in fields if name.lower() == b"transfer-encoding"]
        assert len(length) + len(coding) <= 1, fields
        if coding:
            assert coding == [b"chunked"], coding
            body, trailers = self._chunked()
            return Message(line, fields, body, head, trailers)
        if length:
            return Message(line, fields, self.take(int(length[0])), head, [])
        return Message(line, fields, self.rest() if unframed is None else unframed, head, [])

    def _chunked(self) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        pieces = []
        while size := int(self.until(b"\r\n"), 16):
            pieces.append(self.take(size))
            assert self.take(2) == b"\r\n"
        trailers = []
        while line := self.until(b"\r\n")[:-2]:
            trailers.append(_field(line))
        return b"".join(pieces), trailers

    def end(self) -> str:
        """Read on until the connection ends: `eof`, `ragged` (TLS without close_notify), `reset`.

        `unread` holds what came meanwhile.
        """
        try:
            while self.more():
                pass
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return "ragged"
        except (ConnectionError, ssl.SSLError):
            return "reset"
        return "eof"

    def reset(self) -> None:
        """Close with a reset."""
        reset(self.sock)

    def close(self) -> None:
        """Close, and wake whoever is reading."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    assert colon and name and name == name.strip(), line
    return name, value.strip(b" \t")


def reply(body: bytes = b"", status: int = 200, *fields: bytes, length: bool = True) -> bytes:
    """A response with Content-Length, unless `length` is False."""
    lines = [b"HTTP/1.1 %d Fine" % status, *fields]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes, size: int) -> bytes:
    """`body` in chunks of `size` bytes, with the last one."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


# Backends

Script = Callable[[Wire], None]


class Backend:
    """A listening socket; each connection runs `script` in a thread. Without one: see `answer`."""

    def __init__(self, name: str, script: Script | None = None, port: int = 0) -> None:
        self.name = name
        self.script = script or self.answer
        self.connections: list[Wire] = []
        self.requests: list[Message] = []
        self.failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)

    def answer(self, wire: Wire) -> None:
        """Take one request and answer with our name."""
        self.take(wire)
        wire.send(reply(self.name.encode(), 200, b"X-Backend: " + self.name.encode()))

    def take(self, wire: Wire) -> Message:
        """Take one request and remember it."""
        request = wire.request()
        self.requests.append(request)
        return request

    def says(self, data: bytes) -> None:
        """From now on take one request and answer `data`, then close."""

        def script(wire: Wire) -> None:
            self.take(wire)
            wire.send(data)

        self.script = script

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            wire = Wire(sock)
            self.connections.append(wire)
            self._start(self._run, wire)

    def _run(self, wire: Wire) -> None:
        try:
            self.script(wire)
        except (OSError, EOFError):
            pass
        except BaseException as error:  # noqa: BLE001 - told by the test's end
            self.failures.append(error)
        finally:
            with contextlib.suppress(OSError):
                wire.sock.close()

    def stop(self) -> None:
        """Listen no more and end all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for wire in self.connections:
            wire.close()

    def join(self) -> None:
        """Wait for the threads after `stop`."""
        for thread in self._threads:
            thread.join(WAIT)
            assert not thread.is_alive()


def closed_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# What the front of a client is at


def exchange_of(front: Http1) -> Exchange | None:
    """The exchange that is under way."""
    present = front.present
    return None if present is None else present.exchange


def body_size(front: Http1) -> int:
    """Bytes that have come of the body that is being read; -1: none is."""
    present = front.present
    body = None if present is None else present.body
    return -1 if body is None else body.size


# Certificates


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="dlba-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def certificate(kind: str, *names: str) -> dict[str, str]:
    """A self-signed certificate for `names` and its key (`kind`: ecdsa or rsa), for the config."""
    key: Any
    if kind == "ecdsa":
        key = ec.generate_private_key(ec.SECP256R1())
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{kind} {names[0]}")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
        .sign(key, hashes.SHA256())
    )
    stem = _folder() / f"{kind}-{names[0].replace('*', '_')}-{len(names)}"
    files = {"certificate": f"{stem}.pem", "key": f"{stem}.key"}
    Path(files["certificate"]).write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    Path(files["key"]).write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    Path(files["key"]).chmod(0o600)
    return files


def client_context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A client's context that trusts everybody; only TLS `version`, if given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


# The proxy


def configuration(
    backends: Iterable[Backend | int],
    *,
    tls: list[dict[str, str]] | None = None,
    plain: bool = True,
    site: dict[str, Any] | None = None,
    pool: dict[str, Any] | None = None,
    sites: list[dict[str, Any]] | None = None,
    pools: dict[str, Any] | None = None,
    timeouts: dict[str, float] | None = None,
    limits: dict[str, Any] | None = None,
    node: dict[str, Any] | None = None,
) -> str:
    """The text of a node.yaml (JSON is YAML): one default site unless `sites` are given.

    A number among `backends` is the port of one that this module doesn't run.
    """
    named = {
        (f"b{index}" if isinstance(backend, int) else backend.name): {
            "address": f"127.0.0.1:{backend if isinstance(backend, int) else backend.port}"
        }
        for index, backend in enumerate(backends)
    }
    listen: list[dict[str, Any]] = [{"port": 0, "address": "127.0.0.1"}] if plain else []
    if tls is not None:
        listen.append({"port": 0, "address": "127.0.0.1", "tls": {"certificates": tls}})
    default = {"hosts": ["*"], "default": True, "pool": "app", "schedule": "round-robin"}
    web = {
        "listen": listen,
        "timeouts": timeouts or {},
        "limits": limits or {},
        "sites": sites if sites is not None else [default | (site or {})],
        "pools": pools or {"app": {"backends": named} | (pool or {})},
    }
    return json.dumps({"node": "a", "array": {"web": web}} | (node or {}))


def descriptors() -> dict[int, str]:
    """What is open now: number → what it leads to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


class ProxyTest(TestCase):
    """A test with a proxy. See the module's docstring."""

    timeout = 120

    def setUp(self) -> None:
        self.backends: list[Backend] = []
        self.clients: list[Wire] = []
        self.records: list[Record] = []
        self.service: WebService
        self.proxy: Proxy | Any = None
        self.expected_internal_errors = 0
        self._descriptors: dict[int, str] | None = None

    def _remember_descriptors(self) -> None:
        # Not in setUp: what the running reactor opens for itself is no leak.
        if self._descriptors is None:
            self._descriptors = descriptors()

    def _check_descriptors(self) -> None:
        if self._descriptors is None:
            return
        left = {
            number: target
            for number, target in descriptors().items()
            if self._descriptors.get(number) != target
            # The listing's own, and the one that Twisted keeps in reserve for EMFILE.
            and "/proc/" not in target
            and target != "/dev/null"
        }
        self.assertEqual(left, {}, "descriptors left open")

    def tearDown(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._tear_down())

    async def _tear_down(self) -> None:
        for client in self.clients:
            client.close()
        try:
            if self.proxy is not None:
                await self._until_idle()
        finally:
            if self.proxy is not None:
                stopped = self.service.stopService()
                self.service.abort()
                await stopped
            for backend in self.backends:
                backend.stop()
        for backend in self.backends:
            await deferToThread(backend.join)
            self.assertEqual(backend.failures, [])
        self._check_descriptors()

    async def _until_idle(self) -> None:
        proxy = self.proxy
        end = time.monotonic() + WAIT
        while (proxy.clients or proxy.open_backends) and time.monotonic() < end:
            await deferLater(reactor, 0.01)
        self.assertEqual(proxy.clients, set())
        self.assertEqual(proxy.open_backends, 0)
        self.assertEqual([b.name for b in proxy.backends() if b.open_connections], [])
        self.assertEqual(proxy._per_client, {})
        self.assertEqual(proxy.counters.internal_errors, self.expected_internal_errors)
        while any(listener._paused for listener in self.service.listeners):
            self.assertLess(time.monotonic(), end, "a listener stays paused")
            await deferLater(reactor, 0.01)
        # They wait for further requests; how they end by themselves has its own tests.
        proxy.idle.drop_all()
        self.assertEqual(len(proxy.deadlines), 0)
        self.assertEqual(proxy.memory.used, 0)
        if self.service.running:
            self.assertEqual(len(proxy.poller._members), 1 + len(self.service.listeners))

    # For tests in a thread

    def backend(self, script: Script | None = None, name: str = "", port: int = 0) -> Backend:
        """One more backend."""
        self._remember_descriptors()
        backend = Backend(name or f"app{len(self.backends) + 1}", script, port)
        self.backends.append(backend)
        return backend

    def serve(self, *backends: Backend | int, keys=KEYS, **options: Any) -> Proxy:
        """Start the proxy. `options`: see `configuration`."""
        self._remember_descriptors()
        text = configuration(backends or self.backends, **options)
        web = load_text(text, _folder(), "<test>").array.web
        assert web is not None
        self.service = WebService(
            reactor, web, None, keys, lambda fields: self.records.append(Record(*fields))
        )
        self.on_reactor(self.service.privilegedStartService)
        self.on_reactor(self.service.startService)
        self.proxy = self.service.proxy
        ports = [listener.port for listener in self.service.listeners]
        #: The plain port is the first one where there is one; the TLS port the last.
        self.port, self.tls_port = ports[0], ports[-1]
        return self.proxy

    def on_reactor(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call in the reactor's thread and wait for the result."""
        if isInIOThread():
            return call(*args)
        return blockingCallFromThread(reactor, call, *args)

    def client(
        self,
        context: ssl.SSLContext | None = None,
        *,
        name: str | None = None,
        session: ssl.SSLSession | None = None,
        receive_buffer: int = 0,
        port: int = 0,
    ) -> Wire:
        """A connected client; with `context` over TLS, with `name` as SNI."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(WAIT)
        # Registered before anything can fail, so that it gets closed.
        wire = Wire(sock)
        self.clients.append(wire)
        sock.connect(("127.0.0.1", port or (self.tls_port if context else self.port)))
        if context is not None:
            wire.sock = context.wrap_socket(
                sock, server_hostname=name, session=session, suppress_ragged_eofs=False
            )
        return wire

    def ask(self, request: bytes = GET, method: str = "GET", **options: Any) -> Message:
        """One request on a connection of its own."""
        client = self.client(**options)
        client.send(request)
        response = client.response(method)
        client.close()
        return response

    def only_client(self) -> ClientSocket:
        """The one connection that the proxy has from a client."""
        clients = self.proxy.clients
        return eventually(lambda: next(iter(clients)) if len(clients) == 1 else None, "one client")

    def soon(self, get: Callable[[], Any], expected: Any) -> None:
        """Fail unless `get()` becomes `expected`: some is counted behind the answer."""
        end = time.monotonic() + WAIT
        while get() != expected and time.monotonic() < end:
            time.sleep(0.005)
        self.assertEqual(get(), expected)

    def record(self, number: int = 0) -> Record:
        """The line of the access log for the request of that number."""
        eventually(lambda: len(self.records) > number, f"record {number}")
        return self.records[number]

    def terminations(self, expected: set[str]) -> None:
        """Fail unless the log shows these ways to end, and no others."""
        self.soon(lambda: {record.termination for record in self.records}, expected)
