"""web.md rule 8: what of a backend's bytes reaches the client, and how the ends are told.

Upgrades are in test_rule_08_upgrade. Shown elsewhere:
- bounded buffers, who pauses whom: tests.web.test_clientsocket `Backpressure`,
  tests.web.test_http1request `test_large_by_length_with_a_slow_backend`, tests.web.test_exchange
  `test_slow_backend_pauses_nobody_else`
- broken bodies: tests.web.test_exchange `Breaking`, over TLS tests.web.test_tls
  `test_broken_bodies_end_without_close_notify`
- early final responses: tests.web.test_exchange `test_early_final_response`,
  `test_answer_and_reset_before_the_upload_was_read`
- the client resets or half-closes: tests.web.test_exchange `Breaking`
"""

import threading
from typing import NamedTuple

from tests.web.harness import Wire, certificate, chunked, client_context, in_thread
from tests.web.rules.table import FINE_RELAYED, PATIENCE, Recorder, RuleTest, head

GET = head(b"GET / HTTP/1.1", b"Host: a")
HEAD = head(b"HEAD / HTTP/1.1", b"Host: a")
OLD = head(b"GET / HTTP/1.0", b"Host: a")
OLD_KEPT = head(b"GET / HTTP/1.0", b"Host: a", b"Connection: keep-alive")
DATE = b"Date: then"
LINE = b"HTTP/1.1 200 Fine"
CODED = b"Transfer-Encoding: chunked"


class Case(NamedTuple):
    """`said` by a backend, `got` by the client that sent `sent`; `then` as in `Row`.

    `shuts`: the backend ends its direction behind what it said.
    """

    what: str
    said: bytes
    got: bytes
    sent: bytes = GET
    then: str = "kept"
    shuts: bool = False


class RelayTest(RuleTest):
    """Cases one by one."""

    def cases(self, cases: list[Case]) -> None:
        """Fail unless each client gets exactly its bytes."""
        backend = self.recorder()
        self.serve()
        for case in cases:
            with self.row(case.what):
                self.case(case, backend)
        self.done()

    def case(self, case: Case, backend: Recorder) -> None:
        backend.data, backend.shuts = case.said, case.shuts
        client = self.client()
        client.sock.settimeout(PATIENCE)
        client.send(case.sent)
        self.assertEqual(client.take(len(case.got)), case.got)
        if case.then == "kept":
            self.assertEqual(self.after(client), "kept")
        else:
            self.assertEqual((client.end(), client.unread), ("eof", b""))
        client.close()

    def refused(self, said: dict[str, bytes], shuts: bool = False) -> None:
        """Fail unless each of these is a 502, and the client's connection stays."""
        backend = self.recorder()
        self.serve()
        backend.shuts = shuts
        for what, backend.data in said.items():
            with self.row(what):
                client = self.client()
                client.sock.settimeout(PATIENCE)
                client.send(GET)
                client.response()
                self.own(bytes(client.received), "502 Bad Gateway", keep=True)
                self.assertEqual(self.after(client), "kept")
        self.done()
        self.assertEqual(self.proxy.counters.backend_errors, len(said))


def response(*fields: bytes, line: bytes = LINE, body: bytes = b"") -> bytes:
    """A response with these lines, and a Date."""
    return head(line, DATE, *fields) + body


TWO = b"Content-Length: 2"
PLAIN = response(TWO, body=b"ok")


class Heads(RelayTest):
    """What is tolerated, and what is not."""

    @in_thread
    def test_tolerated(self):
        def line(text: bytes, out: bytes) -> Case:
            said, got = (response(TWO, line=x, body=b"ok") for x in (text, out))
            return Case(repr(text), said, got)

        high = bytes(range(0x80, 0x100))
        self.cases(
            [
                line(b"HTTP/1.1 200", b"HTTP/1.1 200 "),
                line(b"HTTP/1.1 200 ", b"HTTP/1.1 200 "),
                line(b"HTTP/1.1 200 a  b\t", b"HTTP/1.1 200 a  b\t"),
                line(b"HTTP/1.1 200 " + high, b"HTTP/1.1 200 " + high),
                line(b"HTTP/1.0 200 Fine", LINE),
                line(b"HTTP/1.9 599 x", b"HTTP/1.1 599 x"),
                line(b"HTTP/1.1 205 Reset", b"HTTP/1.1 205 Reset"),
                line(b"HTTP/1.1 600 x", b"HTTP/1.1 600 x"),
                line(b"HTTP/1.1 999 x", b"HTTP/1.1 999 x"),
                Case(
                    "obs-text",
                    response(b"X: " + high, TWO, body=b"ok"),
                    response(b"X: " + high, TWO, body=b"ok"),
                ),
                Case("the same length twice", response(TWO, TWO, body=b"ok"), PLAIN),
                Case("thrice", response(TWO, b"content-length:2 ", TWO, body=b"ok"), PLAIN),
                Case("a list of the same", response(b"Content-Length: 2, 2", body=b"ok"), PLAIN),
                Case("any case", response(b"CONTENT-LENGTH:\t2", body=b"ok"), PLAIN),
                Case(
                    "an empty value",
                    response(b"X:", TWO, body=b"ok"),
                    response(b"X:", TWO, body=b"ok"),
                ),
            ]
        )

    @in_thread
    def test_faulty_heads_are_502(self):
        coded = b"Transfer-Encoding: "
        end = b"0\r\n\r\n"
        self.refused(
            {
                "length and coding": response(TWO, CODED, body=end),
                "coding and length": response(CODED, TWO, body=end),
                "two lengths": response(TWO, b"Content-Length: 3", body=b"ok?"),
                "length +2": response(b"Content-Length: +2", body=b"ok"),
                "length -2": response(b"Content-Length: -2", body=b"ok"),
                "length 0x2": response(b"Content-Length: 0x2", body=b"ok"),
                "empty length": response(b"Content-Length:", body=b"ok"),
                "19 digits": response(b"Content-Length: " + b"0" * 18 + b"2", body=b"ok"),
                "gzip": response(coded + b"gzip", body=end),
                "gzip, chunked": response(coded + b"gzip, chunked", body=end),
                "chunked, gzip": response(coded + b"chunked, gzip", body=end),
                "chunked twice": response(CODED, CODED, body=end),
                "chunked, chunked": response(coded + b"chunked, chunked", body=end),
                "an empty coding": response(coded, body=end),
                "identity": response(coded + b"identity", body=b"ok"),
                "a coding in 1.0": response(CODED, line=b"HTTP/1.0 200 x", body=end),
                "fold": response(b"X: a", b" b", TWO, body=b"ok"),
                "fold by a tab": response(b"X: a", b"\tb", TWO, body=b"ok"),
                "fold first": head(LINE, b" x: y", TWO) + b"ok",
                "LF ends the status line": b"HTTP/1.1 200 Fine\nContent-Length: 2\r\n\r\nok",
                "LF ends a field": response(b"X: y\nContent-Length: 2", body=b"ok"),
                "LF ends the head": b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\nok\r\n\r\n",
                "LF alone": b"HTTP/1.1 200 Fine\nContent-Length: 2\n\nok",
                "CR in a value": response(b"X: a\rb", TWO, body=b"ok"),
                "NUL in a value": response(b"X: a\0b", TWO, body=b"ok"),
                "NUL in the phrase": response(TWO, line=b"HTTP/1.1 200 a\0b", body=b"ok"),
                "a space before the colon": response(b"X : y", TWO, body=b"ok"),
                "before the length's colon": response(b"Content-Length : 2", body=b"ok"),
                "no colon": response(b"X", TWO, body=b"ok"),
                "no name": response(b": y", TWO, body=b"ok"),
                "HTTP/2.0": response(TWO, line=b"HTTP/2.0 200 Fine", body=b"ok"),
                "HTTP/1.10": response(TWO, line=b"HTTP/1.10 200 Fine", body=b"ok"),
                "http/1.1": response(TWO, line=b"http/1.1 200 Fine", body=b"ok"),
                "two spaces": response(TWO, line=b"HTTP/1.1  200 Fine", body=b"ok"),
                "status 20": response(TWO, line=b"HTTP/1.1 20 Fine", body=b"ok"),
                "status 2000": response(TWO, line=b"HTTP/1.1 2000 Fine", body=b"ok"),
                "status 000": response(TWO, line=b"HTTP/1.1 000 Fine", body=b"ok"),
                "status abc": response(TWO, line=b"HTTP/1.1 abc Fine", body=b"ok"),
                "no status": response(TWO, line=b"HTTP/1.1", body=b"ok"),
                "an empty line first": b"\r\n" + PLAIN,
                "64 KiB and more": response(*[b"X: " + b"y" * 1000] * 66, TWO, body=b"ok"),
                "garbage": b"\x16\x03\x01" + b"x" * 100 + b"\r\n\r\n",
                "SSH": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            }
        )

    @in_thread
    def test_heads_that_never_end_are_502(self):
        self.refused(
            {
                "LF alone": b"HTTP/1.1 200 Fine\nContent-Length: 2\n\nok",
                "HTTP/0.9": b"<html>hello</html>",
                "nothing": b"",
                "a field without an end": b"HTTP/1.1 200 Fine\r\nX: y",
            },
            shuts=True,
        )


class Bodies(RelayTest):
    """By length, chunked, until close, or none."""

    @in_thread
    def test_none(self):
        """HEAD and 304 keep their length, 204 loses it; bytes that follow aren't a body."""
        none, same = b"HTTP/1.1 204 None", b"HTTP/1.1 304 Same"
        nine = b"Content-Length: 9"
        bare, unchanged = response(line=none), response(line=same)
        old = response(nine, line=b"HTTP/1.0 200 Fine")
        self.cases(
            [
                Case("204", bare, bare),
                Case("204 with a length", response(nine, line=none), bare),
                Case("204 with a coding", response(CODED, line=none, body=b"0\r\n\r\n"), bare),
                Case("204 with both", response(TWO, CODED, line=none), bare),
                Case("204 with a body", response(TWO, line=none, body=b"ok"), bare),
                Case("204 that shuts", bare, bare, shuts=True),
                Case("304", unchanged, unchanged),
                Case("304 with a length", *[response(nine, line=same)] * 2),
                Case("304 with a coding", response(CODED, line=same), unchanged),
                Case(
                    "304 with a body",
                    response(TWO, line=same, body=b"ok"),
                    response(TWO, line=same),
                ),
                Case("HEAD", response(nine), response(nine), HEAD),
                Case("HEAD without a length", response(), response(), HEAD),
                Case("HEAD with a coding", response(CODED), response(), HEAD),
                Case("HEAD with a body", PLAIN, response(TWO), HEAD),
                Case("length 0", response(b"Content-Length: 0"), response(b"Content-Length: 0")),
                Case("HEAD from 1.0", old, response(nine), HEAD),
            ]
        )

    @in_thread
    def test_chunked(self):
        """One chunk in, one out; extensions and trailers are dropped."""
        got = response(CODED, body=b"2\r\nok\r\n0\r\n\r\n")
        old = response(b"Connection: close", body=b"ok")

        def coded(what: str, body: bytes, out: bytes = got, sent: bytes = GET) -> Case:
            return Case(
                what, response(CODED, body=body), out, sent, "kept" if sent is GET else "closed"
            )

        empty = response(CODED, body=b"0\r\n\r\n")
        self.cases(
            [
                coded("plain", b"2\r\nok\r\n0\r\n\r\n"),
                coded("zeros", b"0002\r\nok\r\n0000\r\n\r\n"),
                coded("two chunks", b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"),
                coded("extensions", b'2;a="b";c\r\nok\r\n0;d=e\r\n\r\n'),
                coded("trailers", b"2\r\nok\r\n0\r\nX: y\r\nContent-Length: 5\r\n\r\n"),
                coded("empty", b"0\r\n\r\n", empty),
                coded("bytes behind it", b"2\r\nok\r\n0\r\n\r\n" + PLAIN),
                coded("to 1.0", b"2\r\nok\r\n0\r\nX: y\r\n\r\n", old, OLD),
                coded("to 1.0 that asks to stay", b"2\r\nok\r\n0\r\n\r\n", old, OLD_KEPT),
                Case(
                    "any case",
                    response(b"TRANSFER-ENCODING:\tChunked ", body=chunked(b"ok", 2)),
                    got,
                ),
            ]
        )

    @in_thread
    def test_until_close(self):
        """To 1.1 it goes chunked, and the connection stays; to 1.0 it ends by the close."""
        got = response(CODED, body=b"2\r\nok\r\n0\r\n\r\n")
        old = response(b"Connection: close", body=b"ok")
        self.cases(
            [
                Case("to 1.1", response(body=b"ok"), got, shuts=True),
                Case(
                    "from 1.0",
                    response(line=b"HTTP/1.0 200 Fine", body=b"ok"),
                    got,
                    shuts=True,
                ),
                Case("nothing", response(), response(CODED, body=b"0\r\n\r\n"), shuts=True),
                Case("to 1.0", response(body=b"ok"), old, OLD, "closed", True),
                Case(
                    "to 1.0 that asks to stay", response(body=b"ok"), old, OLD_KEPT, "closed", True
                ),
            ]
        )

    @in_thread
    def test_until_a_reset_is_shown_as_broken(self):
        """A reset is no end: no last chunk, a reset for the client, over TLS no close_notify."""

        def script(wire: Wire) -> None:
            wire.request()
            wire.send(response(body=b"ok"))
            assert go.wait(20)
            wire.reset()

        self.backend(script)
        self.serve(tls=[certificate("ecdsa", "a.example.com")])
        for context in (None, client_context()):
            for sent, got in (
                (GET, response(CODED, body=b"2\r\nok\r\n")),
                (OLD, response(b"Connection: close", body=b"ok")),
            ):
                with self.row((context, sent)):
                    go = threading.Event()
                    client = self.client(context)
                    client.sock.settimeout(PATIENCE)
                    client.send(sent)
                    self.assertEqual(client.take(len(got)), got)
                    go.set()
                    self.assertIn(client.end(), ("reset", "ragged") if context else ("reset",))
                    self.assertEqual(client.unread, b"")
        self.done()

    @in_thread
    def test_by_length_to_1_0(self):
        stays = response(TWO, b"Connection: keep-alive", body=b"ok")
        ends = response(TWO, b"Connection: close", body=b"ok")
        self.cases(
            [
                Case("1.0", PLAIN, ends, OLD, "closed"),
                Case("1.0 that asks to stay", PLAIN, stays, OLD_KEPT),
                Case("bytes behind it", PLAIN + PLAIN, PLAIN),
                Case(
                    "1.1 that asks to end",
                    PLAIN,
                    ends,
                    head(b"GET / HTTP/1.1", b"Host: a", b"Connection: close"),
                    "closed",
                ),
            ]
        )

    @in_thread
    def test_a_bad_chunk_that_comes_with_the_head_is_502(self):
        """Nothing has gone to the client yet: it is told in so many words."""
        bad = (b"x", b"3\r\nok\r\n0\r\n", b"2\nok", b"-1", b"1;=", b"0\r\nA\r\n", b"0\r\n\n", b"")
        self.refused({repr(b): response(CODED, body=b"2\r\nok\r\n" + b + b"\r\n") for b in bad})


class Interim(RelayTest):
    """1xx: 100 is dropped, up to 16 others pass, never to 1.0."""

    EARLY = head(b"HTTP/1.1 103 Early Hints", b"Link: </x>; rel=preload", b"X: \xff")

    @in_thread
    def test_passed_on(self):
        early = self.EARLY
        dressed = head(
            b"HTTP/1.0 103 Early Hints",
            b"Link: </x>; rel=preload",
            b"Content-Length: 5",
            b"Connection: x-hop, close",
            b"X-Hop: 1",
            b"Keep-Alive: 1",
            b"X: \xff",
        )
        coded = head(b"HTTP/1.1 102 Processing", CODED)
        both = head(b"HTTP/1.1 102 Processing", CODED, TWO)
        hundred = head(b"HTTP/1.1 100 Continue", b"X: y")
        self.cases(
            [
                Case("103", early + PLAIN, early + PLAIN),
                Case("without length and hop-by-hop", dressed + PLAIN, early + PLAIN),
                Case("without coding", coded + PLAIN, head(b"HTTP/1.1 102 Processing") + PLAIN),
                Case(
                    "no phrase", b"HTTP/1.1 103\r\n\r\n" + PLAIN, b"HTTP/1.1 103 \r\n\r\n" + PLAIN
                ),
                Case("without both", both + PLAIN, head(b"HTTP/1.1 102 Processing") + PLAIN),
                Case("100 is dropped", hundred + PLAIN, PLAIN),
                Case("100s between", hundred + early + hundred + early + PLAIN, early * 2 + PLAIN),
                Case("16", early * 16 + PLAIN, early * 16 + PLAIN),
                Case("16 and 100s", (hundred + early) * 16 + hundred + PLAIN, early * 16 + PLAIN),
                Case("199", head(b"HTTP/1.1 199 x") + PLAIN, head(b"HTTP/1.1 199 x") + PLAIN),
                Case(
                    "not to 1.0",
                    early + hundred + coded + PLAIN,
                    response(TWO, b"Connection: close", body=b"ok"),
                    OLD,
                    "closed",
                ),
                Case("before HEAD", early + response(TWO), early + response(TWO), HEAD),
            ]
        )

    @in_thread
    def test_more_than_16_or_an_unasked_101_is_502(self):
        switch = head(
            b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: upgrade"
        )
        backend = self.recorder()
        self.serve()
        for what, said, before in (
            ("17", self.EARLY * 17 + PLAIN, self.EARLY * 16),
            ("101", switch, b""),
            ("101 and a response", switch + PLAIN, b""),
            ("101 behind a 103", self.EARLY + switch, self.EARLY),
            ("fold", head(b"HTTP/1.1 103 x", b"A: b", b" c") + PLAIN, b""),
            ("1xx without end", head(b"HTTP/1.1 100 x", b"A: " + b"b" * 900) * 80 + PLAIN, b""),
        ):
            with self.row(what):
                backend.data = said
                client = self.client()
                client.sock.settimeout(PATIENCE)
                client.send(GET)
                self.assertEqual(client.take(len(before)), before)
                client.response()
                got = bytes(client.received)[len(before) :]
                self.own(got, "502 Bad Gateway", keep=True)
                self.assertEqual(self.after(client), "kept")
        self.done()

    @in_thread
    def test_a_request_behind_it_gets_its_own(self):
        """What a backend says behind its answer is no answer to the next request."""
        backend = self.recorder(PLAIN + self.EARLY + PLAIN)
        self.serve()
        client = self.client()
        for _ in range(3):
            client.send(GET)
            self.assertEqual(client.take(len(PLAIN)), PLAIN)
        backend.data = FINE_RELAYED
        client.send(GET)
        self.assertEqual(client.take(len(FINE_RELAYED)), FINE_RELAYED)
        self.assertEqual(client.unread, b"")
