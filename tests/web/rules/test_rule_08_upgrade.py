"""web.md rule 8, `Upgrade`: which tokens pass, what becomes of the answer, and a real WebSocket.

Shown elsewhere, in tests.web.test_tunnel: what a client sends ahead waits for the 101; both ways
under backpressure; ends, breaks, `timeouts.tunnel`; a node that stops.
"""

import contextlib
import gc
import os
import threading
from typing import Any

from tests.web.harness import certificate, client_context, eventually, in_thread
from tests.web.rules.table import FINE, OK, PATIENCE, Row, RuleTest, head, request

try:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect
    from websockets.sync.server import serve
except ImportError:
    connect = None  # type: ignore[assignment]

HOST = b"Host: a"
LINE = b"GET /chat HTTP/1.1"
KEY = b"Sec-WebSocket-Key: x"
ASK = (b"Connection: Upgrade", b"Upgrade: websocket")
SWITCHED = b"HTTP/1.1 101 Switching Protocols"
SITE = {"upgrade": ["websocket", "x-shell"]}


def offered(tokens: bytes) -> bytes:
    """The request at a backend that may switch to `tokens`."""
    ordinary = request(LINE, HOST, KEY)
    ends = b"Connection: close\r\n\r\n"
    return ordinary.removesuffix(ends) + b"Connection: upgrade\r\nUpgrade: " + tokens + b"\r\n\r\n"


class Tokens(RuleTest):
    """Only those that the site names, from 1.1, without a body."""

    @in_thread
    def test_what_is_offered(self):
        backend = self.recorder()
        self.serve(site=SITE)

        def row(offer: bytes, *fields: bytes) -> Row:
            return Row(repr(fields), head(LINE, *fields, HOST, KEY), OK, offered(offer), "kept")

        connection = b"Connection: Upgrade"
        self.check(
            [
                row(b"websocket", *ASK),
                row(b"WebSocket", b"connection: keep-alive, UPGRADE", b"upgrade:\tWebSocket "),
                row(b"websocket", connection, b"Upgrade: h2c, websocket"),
                row(
                    b"websocket, x-shell", connection, b"Upgrade: websocket", b"Upgrade: X, x-shell"
                ),
                row(
                    b"websocket",
                    b"Connection: upgrade, HTTP2-Settings",
                    b"HTTP2-Settings: x",
                    ASK[1],
                ),
            ],
            backend,
        )
        self.done()

    @in_thread
    def test_what_is_none(self):
        """Then it is an ordinary request, and the field isn't forwarded."""
        backend = self.recorder()
        self.serve(site=SITE)
        ordinary = request(LINE, HOST)
        length = b"Content-Length: 2"
        with_body = request(LINE, HOST, framing=length, body=b"ok")
        chunks = b"2\r\nok\r\n0\r\n\r\n"
        self.check(
            [
                Row(
                    "another token", head(LINE, HOST, ASK[0], b"Upgrade: h2c"), OK, ordinary, "kept"
                ),
                Row("none", head(LINE, HOST, ASK[0]), OK, ordinary, "kept"),
                Row("empty", head(LINE, HOST, ASK[0], b"Upgrade:"), OK, ordinary, "kept"),
                Row(
                    "with a version",
                    head(LINE, HOST, ASK[0], ASK[1] + b"/13"),
                    OK,
                    ordinary,
                    "kept",
                ),
                Row("not in Connection", head(LINE, HOST, ASK[1]), OK, ordinary, "kept"),
                Row("in 1.0", head(b"GET /chat HTTP/1.0", HOST, *ASK), OK, ordinary, "closed"),
                Row("a body", head(LINE, HOST, *ASK, length) + b"ok", OK, with_body, "kept"),
                Row(
                    "chunks",
                    head(LINE, HOST, *ASK, b"Transfer-Encoding: chunked") + chunks,
                    OK,
                    with_body,
                    "kept",
                ),
            ],
            backend,
        )
        self.done()

    @in_thread
    def test_a_site_without_upgrade(self):
        backend = self.recorder()
        self.serve()
        row = Row("websocket", head(LINE, HOST, *ASK), OK, request(LINE, HOST), "kept")
        self.check([row], backend)
        self.done()


class Answers(RuleTest):
    """The backend switches, or doesn't."""

    SENT = head(LINE, HOST, KEY, *ASK)

    @in_thread
    def test_101_that_names_the_token(self):
        backend = self.recorder()
        self.serve(site=SITE, tls=[certificate("ecdsa", "a.example.com")])
        accept = b"Sec-WebSocket-Accept: y"
        for context in (None, client_context()):
            for fields, token in (
                (ASK, b"websocket"),
                ((b"connection: x, upgrade", b"upgrade:  WebSocket ", b"X: 1"), b"WebSocket"),
                ((*ASK, b"Content-Length: 5"), b"websocket"),
                ((*ASK, b"Transfer-Encoding: chunked"), b"websocket"),
            ):
                with self.row(fields):
                    backend.data = head(SWITCHED, accept, *fields) + b"first"
                    client = self.client(context)
                    client.sock.settimeout(PATIENCE)
                    client.send(self.SENT)
                    answer = client.response()
                    self.assertEqual(answer.line, SWITCHED)
                    self.assertEqual(answer.get(b"Upgrade"), token)
                    self.assertEqual(answer.get(b"Connection"), b"upgrade")
                    self.assertEqual(answer.get(b"Sec-WebSocket-Accept"), b"y")
                    self.assertEqual(answer.all(b"Content-Length"), [])
                    self.assertEqual(answer.all(b"Transfer-Encoding"), [])
                    self.assertEqual(client.take(5), b"first")
                    wire = backend.connections[-1]
                    # Bytes as they are, whatever they look like.
                    data = b"GET / HTTP/1.1\r\nHost: b\r\n\r\n\0\xff"
                    before = bytes(wire.received)
                    client.send(data)
                    self.soon(lambda w=wire: bytes(w.received), before + data)
                    client.close()
        self.done()
        self.assertEqual(self.proxy.counters.tunnels, 8)

    @in_thread
    def test_101_that_does_not_is_502(self):
        backend = self.recorder()
        self.serve(site=SITE)
        for fields in (
            (),
            (b"Connection: upgrade",),
            (b"Upgrade: websocket",),
            (b"Connection: close", b"Upgrade: websocket"),
            (b"Connection: upgrade", b"Upgrade: h2c"),
            (b"Connection: upgrade", b"Upgrade: x-shell"),
            (b"Connection: upgrade", b"Upgrade: websocket, x-shell"),
            (b"Connection: upgrade", b"Upgrade:"),
        ):
            with self.row(fields):
                backend.data = head(SWITCHED, *fields) + b"first"
                client = self.client()
                client.sock.settimeout(PATIENCE)
                client.send(self.SENT)
                client.response()
                self.own(bytes(client.received), "502 Bad Gateway", keep=True)
                self.assertEqual(self.after(client), "kept")
        self.done()
        self.assertEqual(self.proxy.counters.tunnels, 0)

    @in_thread
    def test_any_other_answer_is_ordinary(self):
        """What the client sent behind its head is its next request then."""
        backend = self.recorder()
        self.serve(site=SITE)
        get = head(b"GET /next HTTP/1.1", HOST)
        for status in (b"200 x", b"204 x", b"304 x", b"403 x", b"426 Upgrade Required", b"500 x"):
            with self.row(status):
                fields = (b"Date: then", b"X: y")
                if not status.startswith((b"204", b"304")):
                    fields += (b"Content-Length: 0",)
                line = b"HTTP/1.1 " + status
                said = head(line, b"Upgrade: websocket", b"Connection: upgrade", *fields)
                backend.data = lambda r, said=said: FINE if b"/next" in r.line else said
                client = self.client()
                client.sock.settimeout(PATIENCE)
                client.send(self.SENT + get)
                wanted = head(line, *fields) + FINE
                self.assertEqual(client.take(len(wanted)), wanted)
                next_one = request(b"GET /next HTTP/1.1", HOST)
                self.assertEqual(backend.saw()[-2:], [offered(b"websocket"), next_one])
        self.done()

    @in_thread
    def test_what_never_comes(self):
        """A backend that breaks or is silent is told as for any request."""
        backend = self.recorder()
        self.serve(site=SITE, timeouts={"response": 0.3})
        for said, shuts, status in (
            (b"", True, "502 Bad Gateway"),
            (b"HTTP/1.1 101 Swi", True, "502 Bad Gateway"),
            (b"HTTP/1.1 101 Swi", False, "504 Gateway Timeout"),
        ):
            backend.data, backend.shuts = said, shuts
            client = self.client()
            client.send(self.SENT)
            client.response()
            self.own(bytes(client.received), status, keep=True)


class WebSockets(RuleTest):
    """The `websockets` library at both ends."""

    if connect is None:
        skip = "the package websockets isn't installed (pip install -e .[dev])"

    @contextlib.contextmanager
    def server(self):
        """A WebSocket server that echoes; the handshakes it got, and how connections ended."""
        self._remember_descriptors()
        heads: list[Any] = []
        ends: list[Any] = []

        def run(socket: Any) -> None:
            heads.append(socket.request)
            try:
                for message in socket:
                    if message == "close":
                        socket.close(4001, "as you say")
                    else:
                        socket.send(message)
            except ConnectionClosed:
                pass
            ends.append((socket.close_code, socket.close_reason))

        with serve(run, "127.0.0.1", 0, max_size=None) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield server.socket.getsockname()[1], heads, ends
            finally:
                server.shutdown()
                thread.join(20)
                # The library leaves its poller to the collector.
                gc.collect()

    @in_thread
    def test_messages_pings_and_ends(self):
        body = os.urandom(600_000)
        with self.server() as (port, heads, ends):
            self.serve(port, site=SITE, tls=[certificate("ecdsa", "a.example.com")])
            for scheme, number, context in (
                ("ws", self.port, None),
                ("wss", self.tls_port, client_context()),
            ):
                address = f"{scheme}://127.0.0.1:{number}/chat?x"
                with connect(address, ssl=context, max_size=None) as client:
                    for message in ("text", "", "\u00e4" * 70_000, body, b""):
                        client.send(message)
                        self.assertTrue(client.recv(20) == message)
                    client.send(iter([b"in", b" ", b"fragments"]))
                    self.assertEqual(client.recv(20), b"in fragments")
                    self.assertTrue(client.ping().wait(20))
                    client.close(1000, "done")
                eventually(lambda: ends, "the server sees the end")
                self.assertEqual(ends.pop(), (1000, "done"))
                with connect(address, ssl=context) as client:
                    client.send("close")
                    with self.assertRaises(ConnectionClosed):
                        client.recv(20)
                    self.assertEqual((client.close_code, client.close_reason), (4001, "as you say"))
                eventually(lambda: ends, "the server's own end")
                ends.clear()
                got = heads[-1]
                self.assertEqual(got.path, "/chat?x")
                self.assertEqual(got.headers["Host"], f"127.0.0.1:{number}")
                self.assertEqual(got.headers["X-Forwarded-Proto"], scheme.replace("ws", "http"))
            self.soon(lambda: self.proxy.clients, set())
        self.assertEqual(self.proxy.counters.tunnels, 4)
