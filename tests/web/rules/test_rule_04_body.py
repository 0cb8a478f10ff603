"""web.md rule 4: a request is read to its end before a backend is connected.

Shown elsewhere, all in tests.web.test_http1request:
- no backend until the request is complete: `test_backend_is_connected_when_the_request_is_complete`
- past `request_buffer` it streams with backpressure: `test_large_by_length_with_a_slow_backend`,
  `test_large_chunked_with_a_slow_backend`, `test_slow_backend_pauses_nobody_else` (test_exchange)
- 413 while more is coming, chunked as well: `test_max_body`
- refusals come instead of a 100: `test_refusals_come_instead_of_100`
"""

from tests.web.harness import eventually, in_thread
from tests.web.rules.table import FINE_RELAYED, OK, Recorder, Row, RuleTest, head, request

HOST = b"Host: a"
PUT = b"PUT / HTTP/1.1"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EXPECT = b"Expect: 100-continue"
CHUNKED = b"Transfer-Encoding: chunked"


def put(length: int, *fields: bytes, version: bytes = b"1.1") -> bytes:
    """The head of an upload."""
    return head(b"PUT / HTTP/" + version, HOST, b"Content-Length: %d" % length, *fields)


class Reading(RuleTest):
    """Up to `request_buffer`, then in a stream."""

    @in_thread
    def test_a_body_below_the_buffer_waits_and_one_at_it_streams(self):
        backend = self.recorder()
        self.serve(site={"request_buffer": 10})
        below, at = self.client(), self.client()
        below.send(put(11) + b"x" * 9)
        at.send(put(11) + b"y" * 10)
        eventually(lambda: backend.connections, "a connection for the one at the buffer")
        wanted = request(PUT, HOST, framing=b"Content-Length: 11", body=b"y" * 10)
        eventually(lambda: bytes(backend.connections[0].received) == wanted, "ten bytes")
        self.assertEqual(len(backend.connections), 1)
        below.send(b"xx")
        self.assertEqual(below.response().status, 200)
        at.send(b"y")
        self.assertEqual(at.response().status, 200)
        whole = [
            request(PUT, HOST, framing=b"Content-Length: 11", body=letter * 11)
            for letter in (b"x", b"y")
        ]
        self.assertEqual(sorted(backend.saw()), sorted(whole))

    @in_thread
    def test_without_a_buffer_the_head_alone_goes_first(self):
        backend = self.recorder()
        self.serve(site={"request_buffer": 0})
        client = self.client()
        client.send(put(2) + b"a")
        wanted = request(PUT, HOST, framing=b"Content-Length: 2", body=b"a")
        eventually(lambda: backend.connections, "a connection")
        eventually(lambda: bytes(backend.connections[0].received) == wanted, "the first byte")
        client.send(b"b")
        self.assertEqual(client.response().status, 200)
        self.assertEqual(backend.saw(), [wanted + b"b"])

    @in_thread
    def test_max_body(self):
        backend = self.recorder()
        self.serve(site={"max_body": 10})
        large = "413 Content Too Large"
        chunked = head(PUT, HOST, CHUNKED)
        fits = request(PUT, HOST, framing=b"Content-Length: 10", body=b"0123456789")
        self.check(
            [
                Row("10 bytes", put(10) + b"0123456789", OK, fits, "kept"),
                Row("10 in chunks", chunked + b"a\r\n0123456789\r\n0\r\n\r\n", OK, fits, "kept"),
                Row("11 announced", put(11), large),
                Row("11 announced and sent", put(11) + b"x" * 11, large),
                Row("18 digits announced", put(10**18 - 1), large),
                Row("a chunk of 11 begins", chunked + b"b\r\n01234567890", large),
                Row("11 in a chunk", chunked + b"b\r\n01234567890\r\n0\r\n\r\n", large),
                Row("11 in 11 chunks", chunked + b"1\r\nx\r\n" * 11, large),
            ],
            backend,
        )
        self.done()

    @in_thread
    def test_max_body_in_a_stream(self):
        """413 for the client; to the backend the request must not look complete."""
        backend = self.recorder()
        self.serve(site={"max_body": 10, "request_buffer": 4})
        client = self.client()
        client.send(head(PUT, HOST, CHUNKED) + b"6\r\nabcdef\r\n")
        eventually(lambda: backend.connections, "a connection")
        client.send(b"5\r\nghijk\r\n0\r\n\r\n")
        self.assertEqual(client.end(), "eof")
        self.own(client.unread, "413 Content Too Large")
        eventually(lambda: backend.ends, "the backend's end")
        self.assertEqual(backend.ends, ["reset"])
        wanted = request(PUT, HOST, framing=CHUNKED, body=b"6\r\nabcdef\r\n")
        self.assertEqual(bytes(backend.connections[0].received), wanted)


class Expecting(RuleTest):
    """100-continue: to whom, and when."""

    def continued(self, backend: Recorder, sent: bytes, body: bytes, seen: bytes) -> None:
        """Fail unless a 100 comes before `body` is sent, then the answer."""
        client = self.client()
        client.sock.settimeout(5)
        client.send(sent)
        self.assertEqual(client.take(len(CONTINUE)), CONTINUE)
        self.assertEqual(self.proxy.open_backends, 0)
        client.send(body)
        self.assertEqual(client.take(len(FINE_RELAYED)), FINE_RELAYED)
        self.assertEqual(self.after(client), "kept")
        self.assertEqual(backend.saw()[-1], seen)

    @in_thread
    def test_sent_to_1_1_when_the_body_waits(self):
        backend = self.recorder()
        self.serve()
        seen = request(PUT, HOST, framing=b"Content-Length: 5", body=b"hello")
        chunks = b"5\r\nhello\r\n0\r\n\r\n"
        for what, sent, body in (
            ("length", put(5, EXPECT), b"hello"),
            ("any case, any space", put(5, b"eXPECT:\t100-Continue "), b"hello"),
            ("chunked", head(PUT, HOST, EXPECT, CHUNKED), chunks),
            ("minor 3", put(5, EXPECT, version=b"1.3"), b"hello"),
        ):
            with self.row(what):
                self.continued(backend, sent, body, seen)
        self.done()

    @in_thread
    def test_not_sent_otherwise_and_never_forwarded(self):
        """The answer is the first that the client gets."""
        backend = self.recorder()
        self.serve(site={"max_body": 10})
        seen = request(PUT, HOST, framing=b"Content-Length: 5", body=b"hello")
        none = request(b"GET / HTTP/1.1", HOST)
        zero = request(PUT, HOST, framing=b"Content-Length: 0")
        ten = put(5, EXPECT, version=b"1.0") + b"hello"
        maybe = put(5, b"Expect: 200-maybe", version=b"1.0") + b"hello"
        failed = "417 Expectation Failed"
        self.check(
            [
                Row("the body comes with it", put(5, EXPECT) + b"hello", OK, seen, "kept"),
                Row("no body", head(b"GET / HTTP/1.1", HOST, EXPECT), OK, none, "kept"),
                Row("length 0", put(0, EXPECT), OK, zero, "kept"),
                Row("HTTP/1.0", ten, OK, seen, "closed"),
                Row("HTTP/1.0 that expects something else", maybe, OK, seen, "closed"),
                Row("too large", put(11, EXPECT), "413 Content Too Large"),
                Row("another expectation", put(5, b"Expect: 200-maybe"), failed),
                Row("two", put(5, EXPECT, b"Expect: x"), failed),
                Row("a list", put(5, b"Expect: 100-continue, x"), failed),
                Row("an empty one", put(5, b"Expect:"), failed),
                Row("a bad head", put(5, EXPECT, b"X : y"), "400 Bad Request"),
            ],
            backend,
        )
        self.done()

    @in_thread
    def test_not_sent_when_some_of_the_body_came_already(self):
        backend = self.recorder()
        self.serve()
        client = self.client()
        client.send(put(5, EXPECT) + b"h")
        eventually(lambda: self.proxy.counters.requests, "the head is read")
        client.send(b"ello")
        self.assertEqual(client.take(len(FINE_RELAYED)), FINE_RELAYED)
        seen = request(PUT, HOST, framing=b"Content-Length: 5", body=b"hello")
        self.assertEqual(backend.saw(), [seen])

    @in_thread
    def test_a_refusal_by_site_comes_instead(self):
        backend = self.recorder()
        self.serve(site={"hosts": ["probe", "b"], "default": False})
        row = Row("no site", put(5, EXPECT), "404 Not Found")
        self.check([row], backend)
        self.done()
