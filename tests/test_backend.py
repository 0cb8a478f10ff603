"""Tests of the demo web server: one channel on a fake transport, then real sockets."""

import hashlib
import io
import json
import time
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import CannotListenError, ConnectError, ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web import http

from dlba import backend


class Wire(io.BytesIO):
    """Received bytes as a socket that http.client reads from."""

    def makefile(self, *_):
        return self

    def close(self):
        """http.client closes after each response; the next one is still to be read."""


def responses(data, *methods):
    """Parse `data` with http.client, one response for each method: (response, body) pairs."""
    wire = Wire(data)
    answers = []
    for method in methods:
        response = HTTPResponse(wire, method=method)
        response.begin()
        answers.append((response, response.read()))
    return answers


def pattern(count):
    """The bytes that a stream must carry, made the slow way."""
    return bytes(i % 251 for i in range(count))


class ChannelCase(SynchronousTestCase):
    """A site named app1 on a clock, and clients on fake transports."""

    def setUp(self):
        self.clock = Clock()
        self.site = backend.backend_site("app1", self.clock)

    def connect(self):
        channel = self.site.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        return channel, transport

    def send(self, data):
        """All bytes that one connection gets for `data`, and whether the server closes it."""
        channel, transport = self.connect()
        channel.dataReceived(data)
        return transport.value(), transport.disconnecting

    def ask(self, target, method="GET", head="", body=b"", version="1.1"):
        request = f"{method} {target} HTTP/{version}\r\nHost: h\r\n{head}\r\n".encode() + body
        data, _ = self.send(request)
        return responses(data, method)[0]


class PageTests(ChannelCase):
    def test_any_path(self):
        for target in ("/", "/a/b?c=d", "/bytes", "/static/logo.png", "/%00/..", "*"):
            response, body = self.ask(target)
            self.assertEqual(response.status, 200, target)
            self.assertEqual(response.getheader("X-Backend"), "app1")
            self.assertEqual(response.getheader("Content-Type"), "text/html; charset=utf-8")
            # Wall time, whatever clock the reactor runs on.
            date = parsedate_to_datetime(response.getheader("Date")).timestamp()
            self.assertLess(abs(date - time.time()), 60)
            self.assertIn(b"<strong>app1</strong>", body)

    def test_any_method(self):
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            response, body = self.ask("/", method)
            self.assertEqual((response.status, body), (200, backend.page("app1")), method)

    def test_head_has_the_length_and_no_body(self):
        data, closing = self.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        head, _, body = data.partition(b"\r\n\r\n")
        self.assertIn(b"Content-Length: %d" % len(backend.page("app1")), head)
        self.assertEqual((body, closing), (b"", False))

    def test_names(self):
        for name in ("a", "app-1", "app_1.example", "x" * 64):
            self.assertEqual(backend.backend_site(name, self.clock).name, name.encode())
        for name in ("", "a b", "a\r\nX: y", "<b>", "ä", "x" * 65, "a\n"):
            self.assertRaises(ValueError, backend.backend_site, name, self.clock)

    def test_status(self):
        for code in (200, 301, 404, 503, 599):
            response, body = self.ask(f"/status/{code}")
            self.assertEqual((response.status, body), (code, backend.page("app1")))

    def test_status_without_body(self):
        for code in (204, 304):
            data, _ = self.send(b"GET /status/%d HTTP/1.1\r\nHost: h\r\n\r\n" % code)
            self.assertTrue(data.endswith(b"\r\n\r\n"))
            self.assertNotIn(b"Content-Length", data)
            self.assertIn(b"X-Backend: app1", data)
        self.assertEqual(self.ask("/status/205")[1], b"")


class BadValueTests(ChannelCase):
    def test_values_that_do_not_fit(self):
        count = "expected a whole number of bytes from 0 to 1099511627776"
        table = (
            ("/bytes/abc", f"/bytes/: {count}, got 'abc'"),
            ("/bytes/", f"/bytes/: {count}, got ''"),
            ("/bytes/-1", f"/bytes/: {count}, got '-1'"),
            ("/bytes/1/2", f"/bytes/: {count}, got '1/2'"),
            ("/bytes/1099511627777", f"/bytes/: {count}, got '1099511627777'"),
            ("/bytes/" + "9" * 5000, f"/bytes/: {count}, got '{'9' * 40}'"),
            ("/chunked/1.5", f"/chunked/: {count}, got '1.5'"),
            ("/until-close/x?y", f"/until-close/: {count}, got 'x'"),
            ("/slow/3601", "/slow/: expected seconds from 0 to 3600, got '3601'"),
            ("/slow/nan", "/slow/: expected seconds from 0 to 3600, got 'nan'"),
            ("/slow/1e3", "/slow/: expected seconds from 0 to 3600, got '1e3'"),
            ("/status/199", "/status/: expected a status from 200 to 599, got '199'"),
            ("/status/600", "/status/: expected a status from 200 to 599, got '600'"),
        )
        for target, text in table:
            response, body = self.ask(target)
            self.assertEqual((response.status, body.decode()), (400, text + "\n"))
            self.assertEqual(response.getheader("X-Backend"), "app1")

    def test_largest_values_fit(self):
        self.assertEqual(backend.read_count(b"1099511627776"), 1 << 40)
        self.assertEqual(backend.read_delay(b"3600"), 3600.0)
        self.assertEqual(backend.read_delay(b"0.25"), 0.25)


class EchoTests(ChannelCase):
    def echo(self, *args, **kwargs):
        response, body = self.ask("/echo?q=%41", *args, **kwargs)
        self.assertEqual(response.getheader("Content-Type"), "application/json")
        return json.loads(body)

    def test_headers_as_they_came(self):
        head = "x-fOO:  bar \r\nAccept: a\r\nX-Foo: \xe4\r\nCOOKIE: a=b; c\r\nEmpty:\r\n"
        data, _ = self.send(f"GET /echo HTTP/1.1\r\nhost: h\r\n{head}\r\n".encode("latin-1"))
        echo = json.loads(responses(data, "GET")[0][1])
        self.assertEqual(
            echo["headers"],
            [
                ["host", "h"],
                ["x-fOO", "bar"],
                ["Accept", "a"],
                ["X-Foo", "\xe4"],
                ["COOKIE", "a=b; c"],
                ["Empty", ""],
            ],
        )

    def test_line_and_empty_body(self):
        echo = self.echo(version="1.0")
        del echo["headers"]
        self.assertEqual(
            echo,
            {
                "method": "GET",
                "target": "/echo?q=%41",
                "version": "HTTP/1.0",
                "body_length": 0,
                "body_sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            },
        )

    def test_body_by_length(self):
        body = pattern(100_000)
        echo = self.echo("PUT", f"Content-Length: {len(body)}\r\n", body)
        self.assertEqual(echo["body_length"], len(body))
        self.assertEqual(echo["body_sha256"], hashlib.sha256(body).hexdigest())

    def test_chunked_body(self):
        sent = b"5;a=b\r\nhello\r\nA\r\n, world!!!\r\n0\r\nTrailer: x\r\n\r\n"
        echo = self.echo("POST", "Transfer-Encoding: chunked\r\n", sent)
        self.assertEqual(echo["body_length"], 15)
        self.assertEqual(echo["body_sha256"], hashlib.sha256(b"hello, world!!!").hexdigest())

    def test_form_is_not_parsed(self):
        head = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 4\r\n"
        self.assertEqual(self.echo("POST", head, b"junk")["body_length"], 4)

    def test_body_is_never_kept(self):
        def refuse(length):
            raise AssertionError("a content file was made")

        self.patch(http, "_getContentFile", refuse)
        body = bytes(300_000)  # past what twisted.web keeps in memory
        echo = self.echo("PUT", f"Content-Length: {len(body)}\r\n", body)
        self.assertEqual(echo["body_sha256"], hashlib.sha256(body).hexdigest())

    def test_byte_by_byte(self):
        request = (
            b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\n\r\nGET /bytes/3 HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        at_once, _ = self.send(request)
        channel, transport = self.connect()
        for i in range(len(request)):
            channel.dataReceived(request[i : i + 1])
        self.assertEqual(transport.value(), at_once)
        (echo, _), (_, streamed) = responses(at_once, "POST", "GET")
        self.assertEqual((echo.status, streamed), (200, b"\x00\x01\x02"))

    def test_100_continue(self):
        channel, transport = self.connect()
        channel.dataReceived(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
        )
        self.assertEqual(transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")
        channel.dataReceived(b"x")
        self.assertIn(b'"body_length": 1', transport.value())


class StreamTests(ChannelCase):
    COUNTS = (0, 1, 250, 251, 252, 65_510, 65_511, 65_512, 200_000)

    def test_bytes(self):
        for count in self.COUNTS:
            response, body = self.ask(f"/bytes/{count}")
            self.assertEqual(response.getheader("Content-Length"), str(count))
            self.assertEqual(response.getheader("X-Backend"), "app1")
            self.assertEqual(body, pattern(count), count)

    def test_chunked(self):
        for count in self.COUNTS:
            response, body = self.ask(f"/chunked/{count}")
            self.assertEqual(response.getheader("Transfer-Encoding"), "chunked")
            self.assertIsNone(response.getheader("Content-Length"))
            self.assertEqual(body, pattern(count), count)

    def test_until_close(self):
        for target, version, connection in (
            ("until-close", "1.1", ""),
            ("until-close", "1.0", ""),
            ("until-close", "1.1", "Connection: keep-alive\r\n"),
            ("chunked", "1.0", "Connection: keep-alive\r\n"),
        ):
            for count in self.COUNTS:
                request = f"GET /{target}/{count} HTTP/{version}\r\nHost: h\r\n{connection}\r\n"
                data, closing = self.send(request.encode())
                head, _, body = data.partition(b"\r\n\r\n")
                self.assertTrue(head.startswith(f"HTTP/{version} 200 OK".encode()))
                self.assertNotIn(b"Content-Length", head)
                self.assertNotIn(b"Transfer-Encoding", head)
                self.assertIn(b"Connection: close", head)
                self.assertEqual((body, closing), (pattern(count), True))

    def test_head_of_the_largest(self):
        for target, length in (
            ("bytes", b"1099511627776"),
            ("chunked", None),
            ("until-close", None),
        ):
            request = f"HEAD /{target}/1099511627776 HTTP/1.1\r\nHost: h\r\n\r\n"
            data, closing = self.send(request.encode())
            self.assertTrue(data.endswith(b"\r\n\r\n"))
            self.assertEqual(data.count(b"\r\n\r\n"), 1)
            self.assertEqual(closing, target == "until-close")
            if length is not None:
                self.assertIn(b"Content-Length: " + length, data)

    def test_pauses_and_resumes(self):
        written = []

        class Recorder:
            finished = False

            def registerProducer(self, producer, streaming):
                self.registered = streaming

            def unregisterProducer(self):
                self.registered = None

            def write(self, data):
                written.append(data)
                if len(written) % 2 == 0:
                    producer.pauseProducing()

            def finish(self):
                self.finished = True

        request = Recorder()
        producer = backend.PatternProducer(request, 300_000)
        producer.start()
        self.assertEqual((len(written), request.registered), (2, True))
        producer.resumeProducing()
        self.assertEqual((len(written), request.finished), (4, False))
        producer.resumeProducing()
        self.assertEqual((request.registered, request.finished), (None, True))
        self.assertEqual(b"".join(written), pattern(300_000))

    def test_stops(self):
        channel, transport = self.connect()
        transport.write = lambda data: channel.pauseProducing()
        channel.dataReceived(b"GET /bytes/1099511627776 HTTP/1.1\r\nHost: h\r\n\r\n")
        channel.stopProducing()
        channel.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((self.clock.getDelayedCalls(), self.site.channels), ([], set()))


class SlowTests(ChannelCase):
    def test_answers_after_the_delay(self):
        channel, transport = self.connect()
        channel.dataReceived(b"GET /slow/2.5 HTTP/1.1\r\nHost: h\r\n\r\n")
        self.clock.advance(2.4)
        self.assertEqual(transport.value(), b"")
        self.clock.advance(0.2)
        response, body = responses(transport.value(), "GET")[0]
        self.assertEqual((response.status, body), (200, backend.page("app1")))

    def test_cancelled_when_the_client_goes(self):
        channel, transport = self.connect()
        channel.dataReceived(b"GET /slow/3600 HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [3600.0])
        channel.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((self.clock.getDelayedCalls(), transport.value()), ([], b""))

    def test_pipeline_waits_in_order(self):
        channel, transport = self.connect()
        channel.dataReceived(
            b"GET /slow/1 HTTP/1.1\r\nHost: h\r\n\r\nGET /bytes/2 HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        self.assertEqual(transport.value(), b"")
        self.clock.advance(1)
        (_, first), (_, second) = responses(transport.value(), "GET", "GET")
        self.assertEqual((first, second), (backend.page("app1"), b"\x00\x01"))


class SessionTests(ChannelCase):
    def cookie(self, head=""):
        response, _ = self.ask("/session", head=head)
        return response.getheader("Set-Cookie")

    def test_fresh(self):
        first, second = self.cookie(), self.cookie("Cookie: other=1\r\n")
        for cookie in (first, second):
            self.assertRegex(cookie, r"\AJSESSIONID=[0-9a-f]{32}; Path=/; HttpOnly\Z")
        self.assertNotEqual(first, second)

    def test_kept(self):
        cookie = self.cookie("Cookie: a=b; JSESSIONID=abc.DEF-1_~; c=d\r\n")
        self.assertEqual(cookie, "JSESSIONID=abc.DEF-1_~; Path=/; HttpOnly")

    def test_odd_ids_are_replaced(self):
        for odd in ("", "a b", "x" * 129, '"quoted"', "a,b"):
            cookie = self.cookie(f"Cookie: JSESSIONID={odd}\r\n")
            self.assertRegex(cookie, r"\AJSESSIONID=[0-9a-f]{32}; ", odd)


class ConnectionTests(ChannelCase):
    def test_kept_or_closed_as_asked(self):
        table = (
            ("1.1", "", False, None),
            ("1.1", "Connection: keep-alive\r\n", False, None),
            ("1.1", "Connection: close\r\n", True, "close"),
            ("1.1", "Connection: X-Foo, Close\r\n", True, "close"),
            ("1.1", "Connection: te\r\nConnection: close\r\n", True, "close"),
            ("1.0", "", True, "close"),
            ("1.0", "Connection: Keep-Alive\r\n", False, "keep-alive"),
            ("1.0", "Connection: keep-alive, close\r\n", True, "close"),
        )
        for version, head, closed, said in table:
            data, closing = self.send(f"GET / HTTP/{version}\r\nHost: h\r\n{head}\r\n".encode())
            response, body = responses(data, "GET")[0]
            self.assertEqual((closing, response.getheader("Connection")), (closed, said), head)
            self.assertEqual(body, backend.page("app1"))

    def test_idle_time_out(self):
        channel, transport = self.connect()
        channel.dataReceived(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.clock.advance(59)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(2)
        self.assertTrue(transport.disconnecting)

    def test_unparsable(self):
        for request in (
            b"GET /\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\nHost: h\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"GET / HTTP/1.1\r\nX: " + b"a" * 140_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 501 + b"\r\n",
        ):
            data, closing = self.send(request)
            self.assertTrue(closing)
            response, body = responses(data, "GET")[0]
            self.assertEqual((response.status, body), (400, b""), request[:60])
            self.assertEqual(response.getheader("X-Backend"), "app1")

    def test_head_of_twice_our_limit_passes(self):
        response, _ = self.ask("/", head=f"X: {'a' * 100_000}\r\n")
        self.assertEqual(response.status, 200)

    def test_listening_starts_nothing_of_its_own(self):
        self.site.doStart()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.site.doStop()


class Client(Protocol):
    """Collects what comes; `lost` fires with it at the end, `enough` at `want` bytes."""

    def __init__(self, want=0):
        self.data = bytearray()
        self.want = want
        self.lost = Deferred()
        self.enough = Deferred()

    def dataReceived(self, data):
        self.data += data
        if self.want and len(self.data) >= self.want:
            self.want = 0
            self.enough.callback(None)

    def connectionLost(self, reason):
        self.lost.callback(bytes(self.data))


class ListenTests(TestCase):
    """Real sockets on loopback."""

    timeout = 60

    def listen(self, name="app1", **place):
        running = backend.listen(name, reactor, **place)
        self.addCleanup(running.stop)
        return running

    def connect(self, running, want=0):
        endpoint = TCP4ClientEndpoint(reactor, running.address.host, running.address.port)
        return endpoint.connect(Factory.forProtocol(lambda: Client(want)))

    async def test_answers(self):
        running = self.listen()
        self.assertEqual((running.name, running.address.host), ("app1", "127.0.0.1"))
        client = await self.connect(running)
        client.transport.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        response, body = responses(await client.lost, "GET")[0]
        self.assertEqual(response.getheader("X-Backend"), "app1")
        self.assertEqual(body, backend.page("app1"))

    async def test_large_upload_and_download(self):
        running = self.listen()
        size = 24 * 1024 * 1024
        client = await self.connect(running)
        client.transport.write(
            b"PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size
        )
        client.transport.write(bytes(size))
        client.transport.write(
            b"GET /bytes/%d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % size
        )
        (_, echoed), (_, streamed) = responses(await client.lost, "PUT", "GET")
        echo = json.loads(echoed)
        self.assertEqual(echo["body_length"], size)
        self.assertEqual(echo["body_sha256"], hashlib.sha256(bytes(size)).hexdigest())
        period = bytes(range(251))
        self.assertEqual(streamed, (period * (size // 251 + 1))[:size])

    async def test_endless_stream_waits_for_its_client(self):
        running = self.listen()
        client = await self.connect(running, want=1024 * 1024)
        client.transport.write(b"GET /bytes/1099511627776 HTTP/1.1\r\nHost: h\r\n\r\n")
        await client.enough
        client.transport.abortConnection()
        await client.lost
        await running.stop()
        self.assertEqual(running.site.channels, set())

    async def test_stop_resets_open_connections(self):
        running = self.listen()
        clients = [await self.connect(running, want=1) for _ in range(2)]
        for client in clients:
            client.transport.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await client.enough
        self.assertEqual(len(running.site.channels), 2)
        await running.stop()
        self.assertEqual(running.site.channels, set())
        for client in clients:
            await client.lost
        await self.assertFailure(self.connect(running), ConnectError)

    def test_port_taken(self):
        running = self.listen()
        self.assertRaises(
            CannotListenError, backend.listen, "app2", reactor, port=running.address.port
        )
