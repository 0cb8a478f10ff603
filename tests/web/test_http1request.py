"""One request of HTTP/1 over real sockets: its body, 100 Continue, bodies that are late."""

import hashlib
import os
import socket
import sys
import threading
import time

from tests.web.harness import GET, MIB, Wire, body_size, chunked, eventually, exchange_of, in_thread
from tests.web.test_http1 import CHUNKED_POST, Http1Test, get, post


class Bodies(Http1Test):
    """Requests with a body."""

    @in_thread
    def test_by_length(self):
        backend = self.echo()
        self.serve()
        client = self.client()
        client.send(post(b"hello"))
        self.assertEqual(client.response().status, 200)
        client.send(post(b""))
        self.assertEqual(client.response().status, 200)
        self.assertEqual([request.body for request in backend.requests], [b"hello", b""])
        self.assertEqual(backend.requests[1].get(b"Content-Length"), b"0")

    @in_thread
    def test_chunked_that_fits_goes_on_by_length(self):
        backend = self.echo()
        self.serve()
        client = self.client()
        body = b'3;a=b;c="d\\"e"\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n'
        client.send(CHUNKED_POST + body + get("/next"))
        self.assertEqual(client.response().status, 200)
        self.assertEqual(client.response().body, b"/next")
        request = backend.requests[0]
        self.assertEqual((request.body, request.get(b"Content-Length")), (b"abcde", b"5"))
        self.assertEqual(request.all(b"Transfer-Encoding") + request.all(b"X-Trailer"), [])

    @in_thread
    def test_backend_is_connected_when_the_request_is_complete(self):
        """The seed's rule: a slow client occupies no backend."""
        backend = self.echo()
        self.serve()
        client = self.client()
        client.send(post(b"a" * 1000, length=2000))
        front = self.only_client()._front
        eventually(lambda: body_size(front) == 1000, "half of the body")
        self.assertEqual(backend.connections, [])
        client.send(b"b" * 1000)
        self.assertEqual(client.response().status, 200)
        self.assertEqual(backend.requests[0].body, b"a" * 1000 + b"b" * 1000)

    def upload(self, head: bytes, coded: bytes, body: bytes) -> None:
        """Send a large body to a backend that doesn't read at first, watching the backlog."""
        go = threading.Event()
        backend = self.digest(go)
        self.serve()
        client = self.client()
        sender = threading.Thread(target=client.send, args=(head + coded,))
        sender.start()
        largest = 0
        socket_ = self.only_client()
        eventually(lambda: backend.connections, "a backend connection before the body's end")
        eventually(lambda: not socket_._reading, "the client is paused")
        time.sleep(0.1)
        self.assertTrue(sender.is_alive(), "all of the body was taken without a reader")
        go.set()
        while sender.is_alive():
            exchange = exchange_of(socket_._front)
            side = None if exchange is None else exchange._side
            if side is not None:
                largest = max(largest, side.backlog)
            time.sleep(0.0005)
        sender.join(20)
        # 256 KiB are collected before the backend is connected; then 64 KiB and one read.
        self.assertLess(largest, 512 * 1024)
        response = client.response()
        self.assertEqual(response.body, hashlib.sha256(body).hexdigest().encode())
        client.send(GET)
        self.assertEqual(client.response().status, 200)

    @in_thread
    def test_large_by_length_with_a_slow_backend(self):
        body = os.urandom(24 * MIB)
        self.upload(post(b"", length=len(body)), body, body)
        self.assertEqual(self.backends[0].requests[0].get(b"Content-Length"), b"%d" % len(body))

    @in_thread
    def test_large_chunked_with_a_slow_backend(self):
        body = os.urandom(24 * MIB)
        self.upload(CHUNKED_POST, chunked(body, 70_001), body)
        self.assertEqual(self.backends[0].requests[0].get(b"Transfer-Encoding"), b"chunked")

    @in_thread
    def test_bad_chunk_while_it_is_collected(self):
        backend = self.echo()
        self.serve()
        client = self.client()
        client.send(CHUNKED_POST + b"3\r\nabc\r\nxyz\r\n")
        self.assertEqual(client.response().status, 400)
        self.assertEqual((client.end(), backend.connections), ("eof", []))

    @in_thread
    def test_bad_chunk_while_it_streams(self):
        ends: list[str] = []

        def script(wire: Wire) -> None:
            wire.head()
            ends.append(wire.end())

        backend = self.backend(script)
        self.serve(site={"request_buffer": 1000})
        client = self.client()
        client.send(CHUNKED_POST + chunked(b"x" * 2000, 500)[:-5])
        eventually(lambda: backend.connections, "the backend's connection")
        client.send(b"nonsense\r\n")
        self.assertEqual((client.response().status, client.end()), (400, "eof"))
        # The request must not look complete to the backend.
        eventually(lambda: ends, "the backend's end")
        self.assertEqual(ends, ["reset"])
        self.assertFalse(backend.connections[0].unread.endswith(b"0\r\n\r\n"))

    @in_thread
    def test_max_body(self):
        backend = self.echo()
        self.serve(site={"max_body": 1000})
        client = self.client()
        client.send(post(b"x" * 1000))
        self.assertEqual(client.response().status, 200)
        for request in (
            post(b"x" * 1001),
            post(b"x" * 500_000),
            CHUNKED_POST + chunked(b"x" * 1001, 100)[:-5],
            CHUNKED_POST + chunked(b"x" * 500_000, 5000),
        ):
            client = self.client()
            client.send(request)
            self.assertEqual((client.response().status, client.end()), (413, "eof"))
        # One that is complete leaves the connection in order.
        client = self.client()
        client.send(CHUNKED_POST + chunked(b"x" * 1001, 100))
        self.assertEqual(client.response().status, 413)
        self.assertEqual(len(backend.requests), 1)

    @in_thread
    def test_404_with_a_body_still_coming(self):
        self.echo()
        self.serve(site={"hosts": ["b"], "default": False})
        client = self.client()
        client.send(post(b"x" * 500_000, length=MIB))
        response = client.response()
        self.assertEqual((response.status, response.get(b"Connection")), (404, b"close"))
        client.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(client.end(), "eof")

    @in_thread
    def test_body_in_tiny_pieces_is_one_object(self):
        self.echo()
        self.serve()
        client = self.client()
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2001\r\n\r\n")
        front = self.only_client()._front
        for _ in range(2000):
            client.send(b"x")
        eventually(lambda: body_size(front) == 2000, "the body is collected")
        # A list of its pieces would take some 40 bytes for each.
        self.assertLess(sys.getsizeof(front.present.body.collected), 3000)
        client.send(b"x")
        self.assertEqual(client.response().status, 200)

    @in_thread
    def test_half_close_in_the_middle_of_a_body(self):
        backend = self.echo()
        self.serve()
        client = self.client()
        client.send(post(b"abc", length=10))
        client.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(client.response().status, 400)
        self.assertEqual(client.end(), "eof")
        self.assertEqual(backend.connections, [])


class Expectations(Http1Test):
    """Expect: 100-continue."""

    @in_thread
    def test_100_is_sent_when_the_body_waits_for_it(self):
        backend = self.echo()
        self.serve()
        client = self.client()
        client.send(post(b"", b"Expect: 100-continue", length=5))
        self.assertEqual(client.response().status, 100)
        client.send(b"hello")
        self.assertEqual(client.response().status, 200)
        self.assertEqual(backend.requests[0].body, b"hello")
        self.assertEqual(backend.requests[0].all(b"Expect"), [])

    @in_thread
    def test_no_100_when_the_body_comes_at_once(self):
        self.echo()
        self.serve()
        client = self.client()
        client.send(post(b"hello", b"Expect: 100-continue"))
        self.assertEqual(client.response().status, 200)

    @in_thread
    def test_no_100_without_a_body_or_to_1_0(self):
        self.echo()
        self.serve()
        client = self.client()
        client.send(get("/", "Expect: 100-continue"))
        self.assertEqual(client.response().status, 200)
        client = self.client()
        client.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        front = self.only_client_of(client)
        eventually(lambda: body_size(front) >= 0, "the head is read")
        client.send(b"ab")
        self.assertEqual(client.response().status, 200)

    def only_client_of(self, client: Wire):
        """The front of that client."""
        port = client.sock.getsockname()[1]
        return eventually(
            lambda: next((c._front for c in tuple(self.proxy.clients) if c.port == port), None),
            "the client's connection",
        )

    @in_thread
    def test_refusals_come_instead_of_100(self):
        self.echo()
        self.serve(site={"hosts": ["a"], "default": False, "max_body": 10})
        for request, status in (
            (post(b"", b"Expect: 100-continue", length=11), 413),
            (post(b"", b"Expect: 100-continue", length=5).replace(b"Host: a", b"Host: b"), 404),
            (post(b"", b"Expect: 200-maybe", length=5), 417),
        ):
            client = self.client()
            client.send(request)
            self.assertEqual((client.response().status, client.end()), (status, "eof"))


class Deadlines(Http1Test):
    """Bodies that don't come."""

    @in_thread
    def test_body_stalls_while_it_is_collected(self):
        backend = self.echo()
        self.serve(timeouts={"body": 0.3})
        client = self.client()
        client.send(post(b"x", length=100))
        self.assertEqual((client.response().status, client.end()), (408, "eof"))
        self.assertEqual(backend.connections, [])

    @in_thread
    def test_body_stalls_while_it_streams(self):
        ends: list[str] = []

        def script(wire: Wire) -> None:
            ends.append(wire.end())

        self.backend(script)
        self.serve(site={"request_buffer": 10}, timeouts={"body": 0.3, "response": 60})
        client = self.client()
        client.send(post(b"x" * 50, length=100))
        self.assertEqual((client.response().status, client.end()), (408, "eof"))
        eventually(lambda: ends, "the backend's end")
        self.assertEqual(ends, ["reset"])

    @in_thread
    def test_body_drips(self):
        """A byte now and then is under 256 B/s."""
        self.short_linger()
        self.echo()
        self.serve(timeouts={"body": 0.4})
        client = self.client()
        client.send(post(b"", length=10_000))
        end = time.monotonic() + 15
        with self.assertRaises(OSError):
            while time.monotonic() < end:
                client.send(b"x")
                time.sleep(0.05)
        self.assertEqual(self.record().status, 408)
