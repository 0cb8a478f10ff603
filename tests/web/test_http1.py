"""HTTP/1 with one client over real sockets: pipelines, versions, refusals, deadlines."""

import hashlib
import socket
import threading
import time
from collections.abc import Callable

from dlba.web import ending
from tests.web.harness import (
    GET,
    MIB,
    Backend,
    ProxyTest,
    Wire,
    chunked,
    eventually,
    exchange_of,
    in_thread,
    reply,
)


def get(path: str, *fields: str, host: str = "a", version: str = "1.1") -> bytes:
    """A request for `path`."""
    return "\r\n".join([f"GET {path} HTTP/{version}", f"Host: {host}", *fields, "", ""]).encode()


def post(body: bytes, *fields: bytes, length: int | None = None) -> bytes:
    """A request with a body; `length`: what it announces."""
    announced = b"Content-Length: %d" % (len(body) if length is None else length)
    head = b"\r\n".join([b"POST /up HTTP/1.1", b"Host: a", announced, *fields])
    return head + b"\r\n\r\n" + body


CHUNKED_POST = b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Http1Test(ProxyTest):
    """A backend that answers each request with its target."""

    def echo(self) -> Backend:
        def script(wire: Wire) -> None:
            request = backend.take(wire)
            wire.send(reply(request.line.split(b" ")[1]))

        backend = self.backend(script)
        return backend

    def digest(self, pause: threading.Event | None = None) -> Backend:
        """A backend that answers with the SHA-256 of the body; it reads after `pause`."""

        def script(wire: Wire) -> None:
            if pause is not None:
                assert pause.wait(20)
            request = backend.take(wire)
            wire.send(reply(hashlib.sha256(request.body).hexdigest().encode()))

        backend = self.backend(script)
        return backend

    def short_linger(self) -> None:
        """What follows a 408 needn't take its two seconds here."""
        self.patch(ending, "LINGER_SECONDS", 0.3)


class Kept(Http1Test):
    """One connection, many requests."""

    @in_thread
    def test_a_backend_connection_each(self):
        backend = self.echo()
        self.serve()
        client = self.client()
        for number in range(5):
            client.send(get(f"/{number}"))
            response = client.response()
            self.assertEqual(response.body, b"/%d" % number)
            self.assertIsNone(response.get(b"Connection"))
        self.assertEqual(len(backend.connections), 5)
        self.assertEqual(self.proxy.counters.connections_accepted, 1)
        self.soon(lambda: self.proxy.counters.responses, 5)

    @in_thread
    def test_pipeline_keeps_its_order_though_the_first_is_slow(self):
        go = threading.Event()

        def script(wire: Wire) -> None:
            request = backend.take(wire)
            if request.line.startswith(b"GET /0 "):
                assert go.wait(20)
            wire.send(reply(request.line.split(b" ")[1]))

        backend = self.backend(script)
        self.serve()
        client = self.client()
        client.send(get("/0") + get("/1") + get("/2"))
        eventually(lambda: len(backend.requests) == 1, "the first request")
        go.set()
        self.assertEqual([client.response().body for _ in range(3)], [b"/0", b"/1", b"/2"])

    @in_thread
    def test_pipeline_of_300_with_404s_between(self):
        self.echo()
        self.serve(site={"hosts": ["a"], "default": False})
        client = self.client()
        hosts = ["a" if number % 3 == 0 else "nobody" for number in range(300)]
        client.send(b"".join(get(f"/{n}", host=host) for n, host in enumerate(hosts)))
        for number, host in enumerate(hosts):
            response = client.response()
            if host == "a":
                self.assertEqual((response.status, response.body), (200, b"/%d" % number))
            else:
                self.assertEqual(response.status, 404)
        self.assertEqual(self.proxy.counters.requests, 300)

    @in_thread
    def test_pipeline_of_300_404s_with_the_end_behind_it(self):
        """Rule 10: whoever half-closes after complete requests gets all answers."""
        self.echo()
        self.serve(site={"hosts": ["a"], "default": False})
        client = self.client()
        client.send(get("/", host="nobody") * 300)
        client.sock.shutdown(socket.SHUT_WR)
        statuses = [client.response().status for _ in range(300)]
        self.assertEqual(set(statuses), {404})
        self.assertEqual((client.end(), client.unread), ("eof", b""))

    @in_thread
    def test_half_close_after_pipelined_requests(self):
        self.echo()
        self.serve()
        client = self.client()
        client.send(get("/1") + get("/2") + get("/3"))
        client.sock.shutdown(socket.SHUT_WR)
        self.assertEqual([client.response().body for _ in range(3)], [b"/1", b"/2", b"/3"])
        self.assertEqual((client.end(), client.unread), ("eof", b""))

    @in_thread
    def test_stray_bytes_behind_the_last_request_cost_no_answer(self):
        body = bytes(8 * MIB)
        self.backend().says(reply(body))
        self.serve()
        client = self.client(receive_buffer=4096)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        while len(client.received) < 6 * MIB:
            client.more()
        client.send(b"\r\n")
        self.assertEqual(client.end(), "eof")
        self.assertTrue(client.received.endswith(body[:65536]))
        self.assertGreater(len(client.received), len(body))

    @in_thread
    def test_half_close_in_the_middle_of_a_head(self):
        self.echo()
        self.serve()
        client = self.client()
        client.send(get("/1") + b"GET /2 HT")
        client.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(client.response().status, 200)
        self.assertEqual(client.response().status, 400)
        self.assertEqual(client.end(), "eof")

    @in_thread
    def test_a_large_answer_that_ends_the_connection_lingers_no_longer_than_others(self):
        """Also where its last bytes are read because the client has taken what came before."""
        self.short_linger()
        backend = self.backend()
        self.serve()
        clients = []
        for extra in range(8):
            backend.says(reply(bytes(4 * MIB + extra * 50_000)))
            client = self.client(receive_buffer=4096)
            client.send(get("/", "Connection: close"))
            self.assertEqual(client.end(), "eof")
            clients.append(client)
        self.soon(lambda: len(self.proxy.clients), 0)

    @in_thread
    def test_what_comes_behind_a_streamed_body_is_counted(self):
        go = threading.Event()

        def script(wire: Wire) -> None:
            wire.request()
            go.wait(20)
            wire.send(reply(b"done"))

        self.backend(script)
        self.serve(site={"request_buffer": 0})
        client = self.client()
        socket_ = self.only_client()
        client.send(post(b"x", length=10))
        eventually(lambda: exchange_of(socket_._front), "the body streams")
        client.send(b"x" * 9 + get("/", f"A: {'x' * 8000}") * 2)
        eventually(lambda: self.proxy.memory.used, "it is counted")
        go.set()
        for _ in range(3):
            self.assertEqual(client.response().body, b"done")
        self.soon(lambda: self.proxy.memory.used, 0)

    @in_thread
    def test_nothing_is_kept_behind_a_refusal(self):
        """While what the client still sends is dropped, nothing is counted for it."""
        self.echo()
        self.serve()
        client = self.client()
        client.send(get("/1"))
        self.assertEqual(client.response().status, 200)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 20_000)
        eventually(lambda: self.proxy.memory.used, "the head's beginning is counted")
        client.send(b"\nx")
        self.assertEqual(client.response().status, 400)
        self.soon(lambda: self.proxy.memory.used, 0)
        self.assertEqual(len(self.proxy.clients), 1)

    @in_thread
    def test_pipelined_large_upload(self):
        """What was read ahead fills its bound before the upload's turn comes."""
        go = threading.Event()

        def script(wire: Wire) -> None:
            request = backend.take(wire)
            if request.line.startswith(b"GET /first"):
                assert go.wait(20)
            wire.send(reply(b"%d" % len(request.body)))

        backend = self.backend(script)
        self.serve(timeouts={"body": 3})
        client = self.client()
        client.send(get("/first") + post(b"x" * 200_000))
        eventually(lambda: backend.requests, "the first request")
        eventually(lambda: not self.only_client()._reading, "the client is paused")
        go.set()
        self.assertEqual(client.response().body, b"0")
        response = client.response()
        self.assertEqual((response.status, response.body), (200, b"200000"))

    @in_thread
    def test_byte_by_byte(self):
        backend = self.echo()
        self.serve()
        client = self.client()
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = chunked(b"hello", 2)
        for byte in get("/1") + CHUNKED_POST + body + get("/2"):
            client.send(bytes((byte,)))
        self.assertEqual([client.response().body for _ in range(3)], [b"/1", b"/up", b"/2"])
        self.assertEqual(backend.requests[1].body, b"hello")

    @in_thread
    def test_empty_line_before_a_request(self):
        self.echo()
        self.serve()
        client = self.client()
        client.send(b"\r\n" + get("/1"))
        self.assertEqual(client.response().body, b"/1")
        client.send(b"\r")
        client.send(b"\n" + get("/2"))
        self.assertEqual(client.response().body, b"/2")

    @in_thread
    def test_empty_line_behind_the_last_request_is_no_request(self):
        """Old clients send CRLF behind a body (RFC 9112 2.2)."""
        self.echo()
        self.serve()
        client = self.client()
        client.send(post(b"a=b") + b"\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(client.response().status, 200)
        self.assertEqual((client.end(), client.unread), ("eof", b""))

    @in_thread
    def test_close_when_asked(self):
        self.echo()
        self.serve()
        for ask in ("close", "Close", "foo, close"):
            client = self.client()
            client.send(get("/", f"Connection: {ask}"))
            self.assertEqual(client.response().get(b"Connection"), b"close")
            self.assertEqual((client.end(), client.unread), ("eof", b""))

    @in_thread
    def test_requests_behind_a_close_are_not_answered(self):
        backend = self.echo()
        self.serve()
        client = self.client()
        client.send(get("/1", "Connection: close") + get("/2"))
        self.assertEqual(client.response().body, b"/1")
        self.assertEqual((client.end(), client.unread), ("eof", b""))
        self.assertEqual(len(backend.requests), 1)

    @in_thread
    def test_http_1_0(self):
        backend = self.echo()
        self.serve()
        for fields, kept in (
            ([], False),
            (["Host: a"], False),
            (["Connection: keep-alive"], True),
            (["Host: a", "Connection: Keep-Alive"], True),
        ):
            client = self.client()
            client.send("\r\n".join(["GET /x HTTP/1.0", *fields, "", ""]).encode())
            response = client.response()
            self.assertEqual(response.body, b"/x")
            hosts = backend.requests[-1].all(b"Host")
            self.assertEqual(
                hosts, [b"a"] if "Host: a" in fields else [b"127.0.0.1:%d" % self.port]
            )
            self.assertEqual(response.get(b"Connection"), b"keep-alive" if kept else b"close")
            if kept:
                client.send(b"GET /y HTTP/1.0\r\n\r\n")
                self.assertEqual(client.response().body, b"/y")
            self.assertEqual(client.end(), "eof")

    @in_thread
    def test_own_answers_to_http_1_0_close(self):
        self.echo()
        self.serve(site={"hosts": ["a"], "default": False})
        client = self.client()
        client.send(b"GET / HTTP/1.0\r\nHost: nobody\r\nConnection: keep-alive\r\n\r\n")
        self.assertEqual(client.response().get(b"Connection"), b"close")
        self.assertEqual(client.end(), "eof")


class ReadAhead(Http1Test):
    """What a client sends without waiting for its answers is bounded, and so are the answers."""

    @in_thread
    def test_pipeline_behind_a_slow_request(self):
        go = threading.Event()

        def script(wire: Wire) -> None:
            backend.take(wire)
            assert go.wait(20)
            wire.send(reply(b"x"))

        backend = self.backend(script)
        self.serve()
        client = self.client()
        requests = get("/" + "p" * 1000) * 100  # 100 KiB: more than is read ahead
        client.send(get("/first"))
        eventually(lambda: backend.requests, "the first request")
        client.sock.setblocking(False)
        sent = 0
        # All that the buffers of the kernel and of the proxy take.
        end = time.monotonic() + 0.5
        while time.monotonic() < end and sent < 64 * MIB:
            try:
                sent += client.sock.send(requests)
            except BlockingIOError:
                time.sleep(0.01)
        self.assertLess(sent, 64 * MIB)
        front = self.only_client()._front
        self.assertLessEqual(len(front.heads.buffer), 2 * 64 * 1024)
        go.set()

    def slow_reader(self) -> Wire:
        """A client that reads nothing, and for which the proxy's kernel takes next to nothing."""
        client = self.client(receive_buffer=4096)
        proxy_side = self.only_client()._sock
        proxy_side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return client

    def press(self, client: Wire, data: bytes, seconds: float, size: Callable[[], int]) -> int:
        """Send `data` again and again without reading; the largest `size()` seen."""
        client.sock.setblocking(False)
        sent = largest = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end and largest < MIB:
            try:
                sent += client.sock.send(data[sent % len(data) :])
            except BlockingIOError:
                time.sleep(0.005)
            largest = max(largest, size())
        return largest

    @in_thread
    def test_answers_of_our_own_to_a_client_that_reads_nothing(self):
        self.echo()
        self.serve(site={"hosts": ["a"], "default": False})
        client = self.slow_reader()
        socket_ = self.only_client()
        requests = b"GET / HTTP/1.1\r\nHost: b\r\n\r\n" * 500
        self.assertLess(self.press(client, requests, 1.5, lambda: socket_.backlog), MIB)

    @in_thread
    def test_responses_to_a_client_that_reads_nothing(self):
        backend = self.backend()
        backend.says(reply(b"x" * 60_000))
        self.serve()
        client = self.slow_reader()
        socket_ = self.only_client()
        self.assertLess(self.press(client, GET * 500, 1.5, lambda: socket_.backlog), MIB)
        self.assertLess(len(backend.connections), 20)

    @in_thread
    def test_reading_again_brings_the_rest(self):
        """A pipeline that had to wait for its reader is answered to its end."""
        self.echo()
        self.serve(site={"hosts": ["a"], "default": False})
        client = self.slow_reader()
        client.send(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n" * 1000 + get("/last"))
        time.sleep(0.3)
        for _ in range(1000):
            self.assertEqual(client.response().status, 404)
        self.assertEqual(client.response().body, b"/last")

    @in_thread
    def test_bytes_behind_a_refusal_are_dropped(self):
        """Also when the client hasn't taken the answers before it."""
        self.backend().says(reply(b"x" * 60_000))
        self.serve()
        client = self.slow_reader()
        socket_ = self.only_client()
        client.send(GET + b"BAD\r\n\r\n")
        eventually(lambda: socket_.backlog, "a backlog")
        front = socket_._front
        self.assertLess(self.press(client, b"z" * 65536, 1, lambda: len(front.heads.buffer)), MIB)

    @in_thread
    def test_what_waits_behind_a_broken_answer_is_not_counted(self):
        def script(wire: Wire) -> None:
            wire.request()
            wire.send(reply(b"", 200, b"Content-Length: 99999999", length=False))
            while not socket_.backlog:
                wire.send(bytes(65536))
                time.sleep(0.02)

        self.backend(script)
        self.serve()
        client = self.client(receive_buffer=4096)
        socket_ = self.only_client()
        # More than one block: see `dlba.web.keeping`.
        client.send(GET + get("/", f"A: {'x' * 8000}"))
        eventually(lambda: socket_.backlog, "a backlog")
        # The end of the answer waits behind it: it is met when the client has taken the rest.
        time.sleep(0.1)
        self.assertEqual(client.end(), "reset")
        self.soon(lambda: len(self.proxy.clients), 0)
        self.assertEqual(self.proxy.memory.used, 0)


class Refusals(Http1Test):
    """Answers of our own, to clients that go on sending (rule 10)."""

    @in_thread
    def test_answer_reaches_a_client_that_still_sends(self):
        backend = self.echo()
        self.serve(limits={"head": 4096, "target": 1000, "headers": 20})
        for start, status in (
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", 431),
            (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20 + b"\r\n", 431),
            (get("/" + "x" * 1000), 414),
            (b"GET / HTTP/1.1\nHost: a\n\n", 400),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
            (get("/", "Transfer-Encoding: gzip, chunked"), 501),
            (get("/", "Transfer-Encoding: chunked", "Content-Length: 3"), 400),
            (get("/", version="2.0"), 505),
            (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ):
            client = self.client()
            client.send(start + b"x" * 600_000)
            response = client.response()
            # Behind a bare LF the head goes on, and may be found too long first.
            self.assertIn(response.status, (status, 431 if b"\n\n" in start else status), start)
            self.assertEqual(response.get(b"Connection"), b"close")
            self.assertIsNotNone(response.get(b"Date"))
            self.assertEqual((client.end(), client.unread), ("eof", b""), start)
        self.assertEqual(backend.connections, [])
        self.assertEqual(self.proxy.counters.requests_refused, 10)

    @in_thread
    def test_endless_target(self):
        self.echo()
        self.serve(limits={"head": 2048, "target": 1000})
        client = self.client()
        client.send(b"GET /" + b"x" * 3000)
        self.assertEqual(client.response().status, 414)

    @in_thread
    def test_empty_lines_count_the_same_however_they_come(self):
        self.echo()
        self.serve()
        for pieces in ([b"\r\n\r\n" + get("/")], [b"\r\n", b"\r\n", get("/")]):
            client = self.client()
            for piece in pieces:
                client.send(piece)
                time.sleep(0.05)
            self.assertEqual(client.response().status, 400, pieces)
        client = self.client()
        client.send(b"\r")
        time.sleep(0.05)
        client.send(b"\n" + get("/"))
        self.assertEqual(client.response().status, 200)

    @in_thread
    def test_dripped_head_is_read_once(self):
        """Each line end is looked for where it can be new, also when CR and LF come apart."""
        self.echo()
        self.serve()
        whole = get("/", *(f"X-{number}: {'y' * number}" for number in range(40)))
        for cut in range(1, len(whole), 7):
            client = self.client()
            client.send(whole[:cut])
            client.send(whole[cut : cut + 1])
            client.send(whole[cut + 1 :])
            self.assertEqual(client.response().status, 200, cut)
        client = self.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r")
        time.sleep(0.05)
        client.send(b"X: y")
        time.sleep(0.05)
        client.send(b"\n")
        self.assertEqual(client.response().status, 400)

    @in_thread
    def test_endless_head_is_refused_before_its_end(self):
        self.echo()
        self.serve(limits={"head": 2048, "target": 1000})
        client = self.client()
        client.send(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 400)
        self.assertEqual(client.response().status, 431)

    @in_thread
    def test_refusal_behind_answers(self):
        """A pipeline that goes bad: what was good is answered."""
        self.echo()
        self.serve()
        client = self.client()
        client.send(get("/1") + get("/2") + b"nonsense\r\n\r\n" + get("/3"))
        self.assertEqual([client.response().status for _ in range(3)], [200, 200, 400])
        self.assertEqual((client.end(), client.unread), ("eof", b""))

    @in_thread
    def test_head_gets_no_page(self):
        self.echo()
        self.serve(site={"hosts": ["a"], "default": False})
        client = self.client()
        client.send(b"HEAD / HTTP/1.1\r\nHost: b\r\n\r\n" + get("/2"))
        self.assertEqual(client.response("HEAD").status, 404)
        self.assertEqual(client.response().body, b"/2")


class Deadlines(Http1Test):
    """Clients that take too long."""

    @in_thread
    def test_what_came_in_time_counts_though_we_are_late(self):
        """The reactor stands still across a deadline: the request and the answer were there."""
        go = threading.Event()

        def script(wire: Wire) -> None:
            if wire.request().line.startswith(b"GET /first"):
                wire.send(reply(b"first"))
                return
            wires.append(wire)
            go.wait(20)

        wires: list[Wire] = []
        self.backend(script)
        self.serve(timeouts={"idle": 0.4, "response": 0.4})
        client = self.client()
        client.send(get("/first"))
        self.assertEqual(client.response().body, b"first")

        def late(sock: socket.socket, data: bytes) -> None:
            sock.sendall(data)
            time.sleep(0.8)

        self.on_reactor(late, client.sock, get("/"))
        (wire,) = eventually(lambda: wires, "the request has reached the backend")
        self.on_reactor(late, wire.sock, reply(b"in time"))
        self.assertEqual(client.response().body, b"in time")
        go.set()

    @in_thread
    def test_silence_is_closed_silently(self):
        self.echo()
        self.serve(timeouts={"head": 0.2})
        client = self.client()
        self.assertEqual((client.end(), client.unread), ("eof", b""))
        self.assertEqual(self.records, [])

    @in_thread
    def test_begun_head_gets_408(self):
        self.echo()
        self.serve(timeouts={"head": 0.2})
        client = self.client()
        client.send(b"GET / HTTP/1.1\r\nHo")
        self.assertEqual((client.response().status, client.end()), (408, "eof"))
        self.assertEqual(self.record().status, 408)
        self.assertEqual(self.record().termination, "cR")
        self.assertEqual(self.proxy.counters.requests_timed_out, 1)

    @in_thread
    def test_dripping_moves_no_deadline(self):
        self.short_linger()
        self.echo()
        self.serve(timeouts={"head": 0.5})
        client = self.client()
        client.send(b"GET / HTTP/1.1\r\nX: ")
        end = time.monotonic() + 15
        with self.assertRaises(OSError):
            while time.monotonic() < end:
                client.send(b"x")
                time.sleep(0.02)
        self.assertEqual(self.record().status, 408)

    @in_thread
    def test_first_head_counts_from_accept(self):
        """The contract: `head` runs from accept, later from a head's first byte."""
        self.echo()
        self.serve(timeouts={"head": 10})
        client = self.client()
        socket_ = self.only_client()
        accepted = socket_.deadline
        time.sleep(0.2)
        client.send(b"GET / HT")
        eventually(lambda: socket_._front.heads.buffer, "the first bytes")
        self.assertLessEqual(socket_.deadline, accepted + 0.01)

    @in_thread
    def test_later_head_counts_from_its_first_byte(self):
        self.echo()
        self.serve(timeouts={"head": 0.3, "idle": 60})
        client = self.client()
        client.send(GET)
        client.response()
        time.sleep(0.8)
        client.send(b"GET / HTTP/1.1\r\n")
        self.assertEqual(client.response().status, 408)

    @in_thread
    def test_idle(self):
        self.echo()
        # Idle is the shortest: a deadline that only moves back would be met too late.
        self.serve(timeouts={"idle": 0.3, "head": 60, "response": 60})
        client = self.client()
        client.sock.settimeout(10)
        client.send(GET)
        self.assertEqual(client.response().status, 200)
        self.assertEqual((client.end(), client.unread), ("eof", b""))

    @in_thread
    def test_idle_after_an_answer_of_our_own(self):
        self.echo()
        self.serve(site={"hosts": ["b"], "default": False}, timeouts={"idle": 0.3, "head": 60})
        client = self.client()
        client.sock.settimeout(10)
        client.send(GET)
        self.assertEqual(client.response().status, 404)
        self.assertEqual((client.end(), client.unread), ("eof", b""))

    @in_thread
    def test_each_cut_counts_once(self):
        """`dlba.counters`: whatever is cut off adds one to exactly one counter."""
        self.echo()
        self.serve(timeouts={"head": 0.2})
        before = self.proxy.counters.snapshot()
        client = self.client()
        client.send(b"GET")
        self.assertEqual(client.response().status, 408)
        after = self.proxy.counters.snapshot()
        changed = {name for name in after if after[name] != before[name]}
        self.assertEqual(changed, {"connections_accepted", "requests_timed_out"})
