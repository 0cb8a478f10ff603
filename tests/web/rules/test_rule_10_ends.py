"""web.md rule 10: connections end so that nobody loses an answer; deadlines.

Shown elsewhere:
- every refused head ends by a whole answer, over TLS with close_notify: test_rule_03_head
- discarding is bounded by 1 MiB and 2 s: tests.web.test_ending
- a broken body has no close_notify: tests.web.test_tls
  `test_broken_bodies_end_without_close_notify`
- a deadline isn't moved by a drip: tests.web.test_http1 `test_dripping_moves_no_deadline`,
  tests.web.test_http1request `test_body_drips`; `write` and `response`:
  tests.web.test_clientsocket, tests.web.test_exchange
"""

import contextlib
import socket
import ssl
import threading
import time
from typing import Any, NamedTuple

from tests.web.harness import Wire, certificate, client_context, eventually, in_thread, reply
from tests.web.rules.table import PATIENCE, RuleTest, head

GET = head(b"GET / HTTP/1.1", b"Host: a")
FINE = b"HTTP/1.1 200 Fine\r\nDate: then\r\n"
LENGTH = b"Content-Length: 4\r\n"
CLOSE = b"Connection: close\r\n"
FINE_KEPT = FINE + LENGTH + b"\r\nfine"
FINE_CLOSED = FINE + LENGTH + CLOSE + b"\r\nfine"
PAIR = ("ecdsa", "a.example.com")
BOTH: tuple[dict[str, Any], ...] = ({}, {"context": True})


def put(length: int, body: bytes = b"") -> bytes:
    """An upload, maybe only the beginning of one."""
    return head(b"PUT / HTTP/1.1", b"Host: a", b"Content-Length: %d" % length) + body


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
ASKED = put(5)[:-2] + b"Expect: 100-continue\r\n\r\n"


class Case(NamedTuple):
    """A client that sends `sent` and then nothing: `status` of our answer, b"" for silence.

    `before`: what it gets of a backend first.
    """

    what: str
    sent: bytes
    status: str = ""
    before: bytes = b""


class EndTest(RuleTest):
    """A plain and a TLS port."""

    def begin(self, data: bytes = reply(b"fine", 200, b"Date: then"), **options: Any) -> None:
        """Serve on both."""
        self.app = self.recorder(data)
        self.serve(tls=[certificate(*PAIR)], **options)

    def connect(self, context: bool = False, **options: Any) -> Wire:
        """A client of the plain, or of the TLS port."""
        client = self.client(client_context() if context else None, **options)
        client.sock.settimeout(PATIENCE)
        return client


class Deadlines(EndTest):
    """Nothing received: silent close. A begun head or body: 408. All cases run at once."""

    CASES = (
        Case("nothing", b""),
        Case("a letter", b"G", "408 Request Timeout"),
        Case("a line", b"GET / HTTP/1.1\r\n", "408 Request Timeout"),
        Case("all but the last byte", GET[:-1], "408 Request Timeout"),
        Case("a body's head", put(5), "408 Request Timeout"),
        Case("half a body", put(5, b"abc"), "408 Request Timeout"),
        Case(
            "half a chunk",
            head(b"PUT / HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked") + b"5\r\nab",
            "408 Request Timeout",
        ),
        Case(
            "chunks without the last",
            head(b"PUT / HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked") + b"1\r\na\r\n",
            "408 Request Timeout",
        ),
        Case("a body that was asked for", ASKED, "408 Request Timeout", CONTINUE),
        Case("idle after an answer", GET, before=FINE_KEPT),
        Case("idle after two", GET + GET, before=FINE_KEPT * 2),
        Case("a letter behind an answer", GET + b"G", "408 Request Timeout", FINE_KEPT),
        Case("a body behind an answer", GET + put(5, b"abc"), "408 Request Timeout", FINE_KEPT),
    )

    @in_thread
    def test_of_head_body_and_idle(self):
        self.begin(timeouts={"head": 0.4, "body": 0.4, "idle": 0.4, "response": 30})
        cases = [
            (case, self.connect(**options), time.monotonic())
            for case in self.CASES
            for options in BOTH
        ]
        for case, client, _ in cases:
            if case.sent:
                client.send(case.sent)
        for case, client, begun in cases:
            with self.row((case.what, client.sock)):
                self.assertEqual(client.take(len(case.before)), case.before)
                # Over TLS this says: with a close_notify.
                self.assertEqual(client.end(), "eof")
                self.assertGreaterEqual(time.monotonic() - begun, 0.35)
                if case.status:
                    self.own(client.unread, case.status)
                else:
                    self.assertEqual(client.unread, b"")
                client.close()
        self.done()
        answers = sum(case.before.count(b"fine") for case in self.CASES)
        self.assertEqual(len(self.app.saw()), 2 * answers)
        silent = sum(not case.status for case in self.CASES)
        refused = 2 * (len(self.CASES) - silent)
        self.assertEqual(self.proxy.counters.requests_timed_out, refused)

    @in_thread
    def test_of_the_handshake(self):
        """Whoever doesn't finish it is closed without a word."""
        self.begin(timeouts={"handshake": 0.3})
        clients = [self.connect(port=self.tls_port) for _ in range(3)]
        clients[1].send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        clients[2].send(b"\x16")
        for client in clients:
            self.assertIn(client.end(), ("eof", "reset"))
            self.assertEqual(client.unread, b"")
        self.soon(lambda: self.proxy.counters.handshakes_failed, 3)

    @in_thread
    def test_of_a_streaming_body(self):
        """408 for the client, a reset for the backend: its request must not look complete."""
        self.begin(site={"request_buffer": 2}, timeouts={"body": 0.3, "response": 30})
        clients = [self.connect(**options) for options in BOTH]
        for client in clients:
            client.send(put(5, b"abc"))
        for client in clients:
            self.assertEqual(client.end(), "eof")
            self.own(client.unread, "408 Request Timeout")
        eventually(lambda: len(self.app.ends) == 2, "the backend's ends")
        self.assertEqual(self.app.ends, ["reset", "reset"])

    @in_thread
    def test_of_the_response(self):
        """504 and the client's connection stays, or the body is shown as broken."""
        self.begin(b"HTTP/1.1 200 Fi", timeouts={"response": 0.3})
        clients = [self.connect(**options) for options in BOTH]
        for client in clients:
            client.send(GET)
        for client in clients:
            client.response()
            self.own(bytes(client.received), "504 Gateway Timeout", keep=True)
            self.assertEqual(self.after(client), "kept")
        self.app.data = FINE + LENGTH + b"\r\nfi"
        for client in clients:
            client.send(GET)
        for client, end in zip(clients, ("reset", "ragged"), strict=True):
            self.assertIn(client.end(), (end, "reset"))
            self.assertEqual(client.unread, FINE + LENGTH + b"\r\nfi")

    @in_thread
    def test_of_the_response_stands_while_the_client_is_slow(self):
        """It is we who pause the backend: `write` counts, which any progress moves."""
        body = bytes(range(256)) * 12_000
        self.begin(reply(body, 200, b"Date: then"), timeouts={"response": 0.3, "write": 30})
        clients = [self.connect(receive_buffer=4096, **options) for options in BOTH]
        for client in clients:
            client.send(GET)
        eventually(lambda: all(c.backlog for c in tuple(self.proxy.clients)), "backlogs")
        time.sleep(0.8)
        wanted = FINE + b"Content-Length: %d\r\n\r\n" % len(body) + body
        for client in clients:
            self.assertTrue(client.take(len(wanted)) == wanted)

    @in_thread
    def test_of_a_backend_that_takes_no_upload(self):
        """504, and the answer reaches a client that is in the middle of sending."""

        def script(wire: Wire) -> None:
            go.wait(20)

        go = threading.Event()
        self.backend(script)
        self.serve(
            tls=[certificate(*PAIR)],
            site={"request_buffer": 1000},
            timeouts={"response": 0.4, "body": 30},
        )
        try:
            for options in BOTH:
                client = self.connect(**options)
                client.send(put(50_000_000))
                # As much as everybody on the way takes.
                client.sock.settimeout(0.2)
                with contextlib.suppress(TimeoutError, ssl.SSLWantWriteError):
                    while True:
                        client.sock.send(b"x" * 16384)
                client.sock.settimeout(PATIENCE)
                self.assertEqual(client.end(), "eof")
                self.own(client.unread, "504 Gateway Timeout")
                client.close()
        finally:
            go.set()


class Clean(EndTest):
    """Ends that were agreed on."""

    @in_thread
    def test_with_close_notify_and_no_wait_for_the_client_s(self):
        self.begin()
        ten = head(b"GET / HTTP/1.0", b"Host: a")
        asked = head(b"GET / HTTP/1.1", b"Host: a", b"Connection: close")
        for options in BOTH:
            for sent in (asked, ten):
                with self.row((options, sent)):
                    client = self.connect(**options)
                    client.send(sent)
                    self.assertEqual(client.end(), "eof")
                    self.assertEqual(client.unread, FINE_CLOSED)
                    # The client's own end is still open.
                    self.soon(lambda: self.proxy.clients, set())
                    client.close()
        self.done()

    @in_thread
    def test_half_close_after_complete_requests(self):
        """Answer, then close; with nothing asked, close."""
        self.begin()
        for sent, got in (
            (b"", b""),
            (b"\r\n", b""),
            (GET, FINE_CLOSED),
            (GET * 3, FINE_KEPT * 2 + FINE_CLOSED),
            (put(3, b"abc") + b"\r\n", FINE_CLOSED),
        ):
            with self.row(sent):
                client = self.connect()
                client.send(sent)
                client.sock.shutdown(socket.SHUT_WR)
                self.assertEqual(client.end(), "eof")
                # Whether the first answers knew of the end is a matter of time.
                self.assertEqual(client.unread.replace(CLOSE, b""), got.replace(CLOSE, b""))
        self.done()

    @in_thread
    def test_half_close_in_the_middle_of_a_request(self):
        """A body that was cut is never taken for whole."""
        self.begin()
        for sent in (b"G", GET[:-1], put(5), put(5, b"abcd"), GET[:-4] + b"\r\n"):
            with self.row(sent):
                client = self.connect()
                client.send(sent)
                client.sock.shutdown(socket.SHUT_WR)
                self.assertEqual(client.end(), "eof")
                self.own(client.unread, "400 Bad Request")
        self.done()
        self.assertEqual(self.app.connections, [])


class Unread(EndTest):
    """An end with input under way: the answer arrives whole all the same."""

    @in_thread
    def test_early_response(self):
        """Relayed at once, then close; the rest of the upload is discarded."""

        def script(wire: Wire) -> None:
            wire.until(b"abc")
            wire.send(reply(b"fine", 200, b"Date: then"))
            ends.append(wire.end())

        ends: list[str] = []
        backend = self.backend(script)
        self.serve(tls=[certificate(*PAIR)], site={"request_buffer": 2})
        for options in BOTH:
            client = self.connect(**options)
            client.send(put(600_000, b"abc"))
            self.assertEqual(client.take(len(FINE_CLOSED)), FINE_CLOSED)
            client.send(b"x" * 500_000)
            self.assertEqual((client.end(), client.unread), ("eof", b""))
        self.soon(lambda: ends, ["reset", "reset"])
        for wire in backend.connections:
            # Nothing of what came later.
            self.assertTrue(wire.received.endswith(b"\r\n\r\nabc"), wire.received)

    @in_thread
    def test_refusals(self):
        self.begin(site={"max_body": 10, "hosts": ["a"], "default": False})
        for options in BOTH:
            for sent, status in (
                (b"BAD\r\n\r\n", "400 Bad Request"),
                (put(600_000), "413 Content Too Large"),
                (put(9, b"abc").replace(b"Host: a", b"Host: b"), "404 Not Found"),
            ):
                with self.row((options, status)):
                    client = self.connect(**options)
                    client.send(sent)
                    client.until(b"\r\n\r\n")
                    client.send(b"x" * 500_000)
                    self.assertEqual(client.end(), "eof")
                    self.own(bytes(client.received), status)
        self.done()
        self.assertEqual(self.app.connections, [])

    @in_thread
    def test_pipeline_behind_an_end_that_was_asked_for(self):
        self.begin()
        asked = head(b"GET / HTTP/1.1", b"Host: a", b"Connection: close")
        for options in BOTH:
            client = self.connect(**options)
            client.send(asked + GET * 5000)
            self.assertEqual(client.end(), "eof")
            self.assertEqual(client.unread, FINE_CLOSED)
        self.assertEqual(len(self.app.saw()), 2)

    @in_thread
    def test_an_answer_under_way_survives_what_the_client_sends_behind_its_last_request(self):
        body = b"y" * 8_000_000
        self.begin(reply(body, 200, b"Date: then"))
        client = self.connect(receive_buffer=4096)
        client.send(head(b"GET / HTTP/1.1", b"Host: a", b"Connection: close"))
        wanted = FINE + b"Content-Length: %d\r\n" % len(body) + CLOSE + b"\r\n" + body
        client.take(6_000_000)
        client.send(b"\r\n")
        self.assertEqual(client.end(), "eof")
        self.assertTrue(bytes(client.received) == wanted)
