"""web.md rule 11: any number of requests on one connection, answers in order.

Shown elsewhere, in tests.web.test_http1: 64 KiB are read ahead `ReadAhead`; a large upload behind a
slow request `test_pipelined_large_upload`; own answers between
`test_pipeline_of_300_with_404s_between`.
"""

from tests.web.harness import certificate, client_context, in_thread, reply
from tests.web.rules.table import Recorder, RuleTest, head, request

HOST = b"Host: a"
CHUNKED = b"Transfer-Encoding: chunked"

#: A pipeline whose bodies look like requests, and what backends have to get of it.
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
PIPELINE = (
    (head(b"GET /1 HTTP/1.1", HOST), request(b"GET /1 HTTP/1.1", HOST)),
    (
        head(b"POST /2 HTTP/1.1", HOST, b"Content-Length: %d" % len(HIDDEN)) + HIDDEN,
        request(
            b"POST /2 HTTP/1.1", HOST, framing=b"Content-Length: %d" % len(HIDDEN), body=HIDDEN
        ),
    ),
    (
        head(b"POST /3 HTTP/1.1", HOST, CHUNKED)
        + b"%x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(HIDDEN), HIDDEN),
        request(
            b"POST /3 HTTP/1.1", HOST, framing=b"Content-Length: %d" % len(HIDDEN), body=HIDDEN
        ),
    ),
    (
        head(b"PUT /4 HTTP/1.1", HOST, b"Content-Length: 0"),
        request(b"PUT /4 HTTP/1.1", HOST, framing=b"Content-Length: 0"),
    ),
    (
        b"\r\n" + head(b"GET /5 HTTP/1.1", HOST, b"Connection: keep-alive"),
        request(b"GET /5 HTTP/1.1", HOST),
    ),
    (
        head(b"GET /6 HTTP/1.0", HOST, b"Connection: keep-alive"),
        request(b"GET /6 HTTP/1.1", HOST),
    ),
    (head(b"GET /7 HTTP/1.1", HOST), request(b"GET /7 HTTP/1.1", HOST)),
)


def echo(taken) -> bytes:
    """A backend's answer: its request's target."""
    return reply(taken.line.split(b" ")[1], 200, b"Date: then")


def answer(body: bytes, *fields: bytes) -> bytes:
    """How that reaches the client."""
    line = b"HTTP/1.1 200 Fine"
    return head(line, b"Date: then", b"Content-Length: %d" % len(body), *fields) + body


class Keep(RuleTest):
    """Requests by turns to two backends."""

    def answers(self) -> bytes:
        bodies = [b"/%d" % number for number in range(1, 8)]
        keeps = {b"/6": (b"Connection: keep-alive",)}
        return b"".join(answer(body, *keeps.get(body, ())) for body in bodies)

    def saw(self, one: Recorder, two: Recorder) -> list[bytes]:
        # By turns: the first, the second, the first ...
        first, second = one.saw(), two.saw()
        both = [data for pair in zip(first, second, strict=False) for data in pair]
        return both + first[len(second) :]

    @in_thread
    def test_one_by_one_and_pipelined(self):
        for context in (None, client_context()):
            one, two = self.recorder(echo), self.recorder(echo)
            self.serve(one, two, tls=[certificate("ecdsa", "a.example.com")])
            client = self.client(context)
            client.send(b"".join(sent for sent, _ in PIPELINE))
            self.assertEqual(client.take(len(self.answers())), self.answers())
            got = [data.replace(b"Proto: https", b"Proto: http") for data in self.saw(one, two)]
            self.assertEqual(got, [seen for _, seen in PIPELINE])
            self.assertEqual(self.after(client), "kept")
            client.close()
            self.on_reactor(self.service.stopService)

    @in_thread
    def test_wherever_the_bytes_are_cut(self):
        """In two pieces at every byte: the same requests, the same answers."""
        backend = self.recorder(echo)
        self.serve()
        whole = b"".join(sent for sent, _ in PIPELINE)
        wanted = self.answers()
        client = self.client()
        for cut in range(1, len(whole)):
            client.send(whole[:cut])
            # Whatever is complete is answered before the rest comes.
            done = 0
            size = 0
            for sent, _ in PIPELINE:
                size += len(sent)
                done += size <= cut
            bodies = [client.response().body for _ in range(done)]
            client.send(whole[cut:])
            bodies += [client.response().body for _ in range(len(PIPELINE) - done)]
            self.assertEqual(bodies, [b"/%d" % n for n in range(1, 8)], cut)
        self.assertEqual(client.received, wanted * (len(whole) - 1))
        self.assertEqual(backend.saw(), [seen for _, seen in PIPELINE] * (len(whole) - 1))

    @in_thread
    def test_kept_by_default_in_1_1_and_when_asked_in_1_0(self):
        self.recorder(echo)
        self.serve()
        keep = b"Connection: keep-alive"
        close = b"Connection: close"
        for line, asked, told, kept in (
            (b"GET /x HTTP/1.1", (), (), True),
            (b"GET /x HTTP/1.1", (keep,), (), True),
            (b"GET /x HTTP/1.1", (b"Connection: CLOSE",), (close,), False),
            (b"GET /x HTTP/1.1", (keep, close), (close,), False),
            (b"GET /x HTTP/1.1", (b"Connection: x, close , y",), (close,), False),
            (b"GET /x HTTP/1.1", (b"Connection: closed",), (), True),
            (b"GET /x HTTP/1.0", (), (close,), False),
            (b"GET /x HTTP/1.0", (b"Connection: Keep-Alive",), (keep,), True),
            (b"GET /x HTTP/1.0", (b"Connection: x", keep), (keep,), True),
            (b"GET /x HTTP/1.0", (b"Connection: keep-alive, close",), (close,), False),
            (b"GET /x HTTP/1.0", (b"Proxy-Connection: keep-alive",), (close,), False),
        ):
            with self.row((line, asked)):
                client = self.client()
                client.send(head(line, HOST, *asked))
                wanted = answer(b"/x", *told)
                self.assertEqual(client.take(len(wanted)), wanted)
                if kept:
                    self.assertEqual(self.after(client), "kept")
                else:
                    self.assertEqual((client.end(), client.unread), ("eof", b""))
        self.done()
