"""The monitor over real loopback sockets, and its limits on a clock."""

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from http.client import HTTPResponse
from io import BytesIO
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from dlba.monitor.server import (
    BODY_LIMIT,
    CONNECTIONS,
    HEAD_LIMIT,
    TIME_OUT,
    MonitorService,
    monitor_site,
)
from dlba.monitor.status import BackendRow, status_document

DOCUMENT = status_document(
    "a", None, [BackendRow("app", "<b>", "10.0.1.1:80", 0.01, 1, 0, False, False, 0)], {"x": 1}
)


class Answer:
    """One response as the standard library's parser reads it."""

    def __init__(self, data: bytes, method: str = "GET") -> None:
        class Source:
            def makefile(self, mode: str) -> BytesIO:
                return BytesIO(data)

        response = HTTPResponse(Source(), method=method)  # type: ignore[arg-type]
        response.begin()
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()


class Client(Protocol):
    """Sends bytes and collects what comes until the connection ends."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.received = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self.data)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.done.callback(self.received)


class OverSockets(TestCase):
    """Requests as curl, a browser and a probe send them."""

    timeout = 30

    def setUp(self) -> None:
        self.ready = True
        self.document: Mapping[str, Any] = DOCUMENT
        self.site = monitor_site(reactor, lambda: self.document, lambda: self.ready)
        self.service = MonitorService(reactor, "127.0.0.1", 0, self.site)
        self.service.privilegedStartService()
        self.service.startService()
        self.addCleanup(self.service.stopService)
        self.port = self.service.listening.getHost().port

    async def sent(self, data: bytes) -> bytes:
        client = Client(data)
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), client)
        return await client.done

    async def asked(self, path: str, method: str = "GET") -> Answer:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        return Answer(await self.sent(head.encode()), method)

    async def test_healthz(self) -> None:
        answer = await self.asked("/healthz")
        self.assertEqual((answer.status, answer.body), (200, b"ok\n"))

    async def test_readyz(self) -> None:
        answer = await self.asked("/readyz")
        self.assertEqual((answer.status, answer.body), (200, b"ready\n"))
        self.ready = False
        answer = await self.asked("/readyz")
        self.assertEqual((answer.status, answer.body), (503, b"not ready\n"))

    async def test_status(self) -> None:
        answer = await self.asked("/status")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        self.assertEqual(json.loads(answer.body), DOCUMENT)

    async def test_page(self) -> None:
        answer = await self.asked("/")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")
        self.assertIn(b"&lt;b&gt;", answer.body)
        self.assertIn(b'http-equiv="refresh"', answer.body)
        held = await self.asked("/?held")
        self.assertNotIn(b'http-equiv="refresh"', held.body)

    async def test_security_headers(self) -> None:
        """On every answer; the policy names the page's one style by its hash."""
        page = await self.asked("/")
        styles = re.findall(b"<style>(.*?)</style>", page.body, re.DOTALL)
        self.assertEqual(len(styles), 1)
        digest = b64encode(sha256(styles[0]).digest()).decode()
        for path in ("/", "/healthz", "/status", "/nothing"):
            answer = await self.asked(path)
            policy = answer.headers["Content-Security-Policy"]
            self.assertIn("default-src 'none'", policy)
            self.assertIn(f"style-src 'sha256-{digest}'", policy)
            self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")
            self.assertNotIn("Server", answer.headers)

    async def test_head(self) -> None:
        """The same head as GET, no body."""
        for path in ("/", "/healthz", "/readyz", "/status", "/nothing"):
            get = await self.asked(path)
            head = await self.asked(path, "HEAD")
            self.assertEqual((head.status, head.body), (get.status, b""))
            for name in ("Content-Length", "Content-Type"):
                self.assertEqual(head.headers[name], get.headers[name])

    async def test_unknown_path(self) -> None:
        for path in ("/nothing", "/status/", "//status", "/status/x", "/%73tatus"):
            self.assertEqual((await self.asked(path)).status, 404, path)

    async def test_other_methods(self) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"):
            answer = await self.asked("/status", method)
            self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET, HEAD"))

    async def test_small_body_is_ignored(self) -> None:
        data = await self.sent(
            b"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\na=b"
        )
        self.assertEqual(Answer(data).status, 405)

    async def test_one_request_a_connection(self) -> None:
        data = await self.sent(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        self.assertEqual(data.count(b"HTTP/1.1 "), 1)
        self.assertEqual(Answer(data).headers["Connection"], "close")

    async def test_old_client(self) -> None:
        data = await self.sent(b"GET /healthz HTTP/1.0\r\n\r\n")
        self.assertEqual(Answer(data).body, b"ok\n")

    async def test_failing_callable(self) -> None:
        """Logged, answered without a word about it, and the next request is served."""
        self.document = {"node": float("nan")}
        answer = await self.asked("/status")
        self.assertEqual(
            (answer.status, answer.body), (500, b"internal error, see the node's log\n")
        )
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual((await self.asked("/")).status, 500)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual((await self.asked("/healthz")).status, 200)

    async def test_stop_ends_what_is_open(self) -> None:
        client = Client(b"GET /sta")
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), client)
        await self.asked("/healthz")
        await self.service.stopService()
        self.assertEqual(await client.done, b"")
        self.assertEqual(self.site.channels, set())

    def test_port_in_use(self) -> None:
        """Raised where it is bound, so that the start can stop."""
        second = MonitorService(reactor, "127.0.0.1", self.port, self.site)
        self.assertRaises(CannotListenError, second.privilegedStartService)

    async def test_stop_without_start(self) -> None:
        service = MonitorService(reactor, "127.0.0.1", 0, self.site)
        self.assertIsNone(await service.stopService())


class Limits(SynchronousTestCase):
    """One connection on a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.site = monitor_site(self.clock, lambda: DOCUMENT, lambda: True)

    def connected(self) -> tuple[Any, StringTransport]:
        channel = self.site.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        return channel, transport

    def test_silence(self) -> None:
        _, transport = self.connected()
        self.clock.advance(TIME_OUT - 0.1)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(transport.disconnecting)
        self.clock.advance(TIME_OUT)
        self.assertTrue(transport.disconnected)

    def test_drip(self) -> None:
        """A byte now and then buys no time."""
        channel, transport = self.connected()
        for byte in b"GET /status HTTP/1.1\r\nX: ":
            channel.dataReceived(bytes([byte]))
            self.clock.advance(TIME_OUT / 10)
            if transport.disconnecting:
                break
        self.assertTrue(transport.disconnecting)
        self.assertAlmostEqual(self.clock.seconds(), TIME_OUT, delta=TIME_OUT / 10)

    def test_byte_by_byte(self) -> None:
        channel, transport = self.connected()
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":
            channel.dataReceived(bytes([byte]))
        self.assertEqual(Answer(transport.value()).body, b"ok\n")

    def test_long_line(self) -> None:
        for start in (b"GET /", b"GET / HTTP/1.1\r\nX: "):
            channel, transport = self.connected()
            channel.dataReceived(start + b"x" * 2 * HEAD_LIMIT)
            self.assertTrue(transport.disconnecting)

    def test_long_head(self) -> None:
        channel, transport = self.connected()
        channel.dataReceived(b"GET / HTTP/1.1\r\n" + (b"X: " + b"x" * 100 + b"\r\n") * 90)
        self.assertTrue(transport.disconnecting)
        self.assertEqual(Answer(transport.value()).status, 400)

    def test_large_body(self) -> None:
        """Refused by its announced length, or because it announces none."""
        for field in (b"Content-Length: %d" % (BODY_LIMIT + 1), b"Transfer-Encoding: chunked"):
            channel, transport = self.connected()
            channel.dataReceived(
                b"POST /status HTTP/1.1\r\nHost: x\r\n" + field + b"\r\n\r\n5\r\nhello\r\n"
            )
            self.assertTrue(transport.disconnecting)
            self.assertEqual(Answer(transport.value()).status, 413)
            channel.connectionLost(Failure(connectionDone.value))

    def test_stop(self) -> None:
        """Stopping waits for no client."""
        _, transport = self.connected()
        MonitorService(MemoryReactor(), "127.0.0.1", 0, self.site).stopService()
        self.assertTrue(transport.disconnected)

    def test_connections(self) -> None:
        """No more than the limit at once; one that ends makes room."""
        channels = [self.connected()[0] for _ in range(CONNECTIONS)]
        self.assertIsNone(self.site.buildProtocol(None))
        channels[0].connectionLost(Failure(connectionDone.value))
        self.assertIsNotNone(self.site.buildProtocol(None))
