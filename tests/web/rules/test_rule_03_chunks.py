"""web.md rule 3: which chunked bodies are taken, and what of them goes on.

Shown elsewhere: a mistake while the body streams, tests.web.test_http1request
`test_bad_chunk_while_it_streams`.
"""

from tests.web.harness import chunked, eventually, in_thread
from tests.web.rules.table import OK, Row, RuleTest, head, request

BAD = "400 Bad Request"
HOST = b"Host: a"
#: What follows, so that a lenient reading would bring a second request forth.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


class Chunks(RuleTest):
    """Chunked bodies: strict, bounded, and without their extensions and trailers."""

    POST = head(b"POST / HTTP/1.1", HOST, b"Transfer-Encoding: chunked")

    @in_thread
    def test_taken(self):
        backend = self.recorder()
        self.serve()

        def row(what: str, body: bytes, decoded: bytes) -> Row:
            framing = b"Content-Length: %d" % len(decoded)
            seen = request(b"POST / HTTP/1.1", HOST, framing=framing, body=decoded)
            return Row(what, self.POST + body, OK, seen, "kept")

        end = b"0\r\n\r\n"
        self.check(
            [
                row("15 digits", b"0" * 14 + b"1\r\nx\r\n" + b"0" * 15 + b"\r\n\r\n", b"x"),
                row(
                    "hex of any case",
                    b"a\r\n0123456789\r\nA\r\nabcdefghij\r\n" + end,
                    b"0123456789abcdefghij",
                ),
                row("data that looks like chunks", b"5\r\n0\r\n\r\n\r\n" + end, b"0\r\n\r\n"),
                row("an extension", b"1;a\r\nx\r\n0;b\r\n\r\n", b"x"),
                row("with a value", b"1;a=b;c=d\r\nx\r\n" + end, b"x"),
                row("in quotes", b'1;a="b;\\"c\t\xe4"\r\nx\r\n' + end, b"x"),
                row("with spaces", b"1 ; a = b\r\nx\r\n" + end, b"x"),
                row("16 KiB of them", b"1;" + b"a" * 16_383 + b"\r\nx\r\n" + end, b"x"),
                row(
                    "trailers",
                    b"1\r\nx\r\n0\r\nA: b\r\nContent-Length: 99\r\nHost: b\r\n\r\n",
                    b"x",
                ),
                row("200 trailers", b"0\r\n" + b"A: b\r\n" * 200 + b"\r\n", b""),
            ],
            backend,
        )
        self.done()

    @in_thread
    def test_refused(self):
        """While it is collected: 400, and nothing reaches a backend."""
        backend = self.recorder()
        self.serve()

        def row(what: str, body: bytes) -> Row:
            return Row(what, self.POST + body + SMUGGLED, BAD)

        sizes = (b"", b"g", b"-1", b"+1", b"0x1", b" 1", b"1 ", b"1\t", b"1_0", b"\xef\xbc\x91")
        sizes += (b"0" * 15 + b"1", b"f" * 16, b"1,", b"1 2", b'"1"')
        extensions = (b";", b";=a", b";a=", b";;a", b"; a;", b';a="b', b";a=b c", b";a\0", b";a\rb")
        extensions += (b";(", b";a=(", b';a="\x7f"', b";" + b"a" * 16_384)
        lines = (
            b"A b",
            b" A: b",
            b"A : b",
            b": b",
            b"A: b\rc",
            b"A: \0",
            b"A: b\r\n c",
            b"\xe4: b",
        )
        self.check(
            [
                *(row(f"size {size!r}", size + b"\r\nx\r\n0\r\n\r\n") for size in sizes),
                *(row(f"{e[:20]!r}", b"1" + e + b"\r\nx\r\n0\r\n\r\n") for e in extensions),
                row(
                    "16 KiB of extensions in the message",
                    (b"1;" + b"a" * 1023 + b"\r\nx\r\n") * 16 + b"1;a\r\nx\r\n0\r\n\r\n",
                ),
                row("LF behind a size", b"1\nx\r\n0\r\n\r\n"),
                row("CR behind a size", b"1\rx\r\n0\r\n\r\n"),
                row("LF behind data", b"1\r\nx\n0\r\n\r\n"),
                row("nothing behind data", b"1\r\nx0\r\n\r\n"),
                row("data too long", b"1\r\nxy\r\n0\r\n\r\n"),
                row("LF ends the trailers", b"0\r\n\n"),
                row("LF ends a trailer", b"0\r\nA: b\n\r\n"),
                *(row(f"trailer {line!r}", b"0\r\n" + line + b"\r\n\r\n") for line in lines),
                row("201 trailers", b"0\r\n" + b"A: b\r\n" * 201 + b"\r\n"),
                row(
                    "64 KiB of trailers", b"0\r\n" + (b"A: " + b"b" * 9000 + b"\r\n") * 8 + b"\r\n"
                ),
            ],
            backend,
        )
        self.done()

    @in_thread
    def test_streamed_body_goes_on_chunked_without_extensions_and_trailers(self):
        backend = self.recorder()
        self.serve(site={"request_buffer": 3})
        body = b"3;x=y\r\nabc\r\n3;z\r\ndef\r\n2\r\ngh\r\n0;q\r\nTrailer: x\r\n\r\n"
        client = self.client()
        client.send(self.POST + body[:13])
        eventually(lambda: backend.connections, "a backend before the body's end")
        client.send(body[13:])
        self.assertEqual(client.response().status, 200)
        self.assertEqual(self.after(client), "kept")
        (seen,) = backend.saw()
        wanted = request(b"POST / HTTP/1.1", HOST, framing=b"Transfer-Encoding: chunked")
        # How it is cut into chunks is nobody's business; there is nothing but chunks.
        self.assertTrue(seen.startswith(wanted), seen)
        self.assertRegex(seen[len(wanted) :], rb"^(?:[1-8]\r\n[a-h]{1,8}\r\n)+0\r\n\r\n$")
        self.assertEqual(backend.requests[0].body, b"abcdefgh")
        self.assertEqual(backend.requests[0].trailers, [])

    @in_thread
    def test_a_body_of_any_size_of_chunks_is_the_same(self):
        backend = self.recorder()
        self.serve()
        body = bytes(range(256)) * 4
        seen = request(
            b"POST / HTTP/1.1", HOST, framing=b"Content-Length: %d" % len(body), body=body
        )
        self.check(
            [
                Row(f"{n}", self.POST + chunked(body, n), OK, seen, "kept")
                for n in (1, 2, 15, 16, 255, 1024)
            ],
            backend,
        )
        self.done()
