"""Tests of tests.web.strict: the reader that judges the proxy must itself be right."""

from twisted.trial.unittest import SynchronousTestCase

from tests.web.strict import backend_requests, client_requests, responses

HEAD = b"GET /a HTTP/1.1\r\nHost: a\r\n"
CODED = b"Transfer-Encoding: chunked\r\n\r\n"


class RequestTests(SynchronousTestCase):
    def one(self, data: bytes):
        for read in (client_requests, backend_requests):
            reading = read(data)
            self.assertIsNone(reading.refused, data)
            self.assertIsNone(reading.partial, data)
            self.assertEqual(len(reading.messages), 1)
        return reading.messages[0]

    def refused(self, data: bytes, at: int, read=client_requests, whole: int = 0) -> None:
        """`data` is refused at its byte `at`, behind `whole` good requests."""
        reading = read(data)
        self.assertIsNotNone(reading.refused, data)
        self.assertEqual(reading.refused.at, at, (data, str(reading.refused)))
        self.assertEqual(len(reading.messages), whole)

    def test_a_request(self):
        message = self.one(HEAD + b"X: \t b c\t \r\nx:\r\n\r\n")
        self.assertEqual((message.method, message.target, message.minor), (b"GET", b"/a", 1))
        self.assertEqual(message.fields, [(b"Host", b"a"), (b"X", b"b c"), (b"x", b"")])
        self.assertEqual((message.framing, message.body), ("none", b""))
        self.assertEqual((message.start, message.end), (0, len(HEAD) + 18))

    def test_bodies(self):
        message = self.one(HEAD + b"Content-Length: 3\r\n\r\nabc")
        self.assertEqual((message.framing, message.body), ("length", b"abc"))
        self.assertEqual(self.one(HEAD + b"Content-Length: 0\r\n\r\n").body, b"")
        message = self.one(HEAD + CODED + b"1\r\na\r\n00A\r\n0123456789\r\n0\r\nX: y\r\n\r\n")
        self.assertEqual((message.framing, message.body), ("chunked", b"a0123456789"))
        self.assertEqual(message.trailers, [(b"X", b"y")])

    def test_several_in_a_row(self):
        one = HEAD + b"Content-Length: 3\r\n\r\nabc"
        two = HEAD + CODED + b"3\r\ndef\r\n0\r\n\r\n"
        reading = client_requests(one + two + HEAD + b"\r\n" + one[:-1])
        self.assertEqual([bytes(m.body) for m in reading.messages], [b"abc", b"def", b""])
        self.assertEqual(bytes(reading.partial.body), b"ab")
        self.assertTrue(reading.partial.framed)
        self.assertEqual(reading.messages[1].start, len(one))
        self.refused(one + b"\n" + two, len(one), whole=1)

    def test_every_cut_is_the_begin_of_something(self):
        data = HEAD + CODED + b'3;a="\\b"\r\ndef\r\n0\r\nX: y\r\n\r\n'
        for size in range(1, len(data)):
            reading = client_requests(data[:size])
            self.assertIsNone(reading.refused)
            self.assertEqual(reading.messages, [])
            self.assertEqual(reading.partial.headed, size >= data.index(b"3;"))
        self.assertEqual(len(client_requests(data).messages), 1)

    def test_line_ends(self):
        self.refused(b"GET / HTTP/1.1\nHost: a\n\n", 14)
        self.refused(b"GET / HTTP/1.1\rHost", 15)
        self.refused(HEAD + b"X: a\nb: c\r\n\r\n", len(HEAD) + 4)
        self.refused(HEAD + b"X: a\rb: c\r\n\r\n", len(HEAD) + 5)
        self.refused(HEAD + b"\n", len(HEAD))
        self.refused(HEAD + b"\r\r\n", len(HEAD) + 1)
        self.refused(HEAD + b" folded\r\n\r\n", len(HEAD))

    def test_names_and_values(self):
        for line, at in ((b"X : y", 1), (b"X\0: y", 1), (b": y", 0), (b"X", 1), (b"\x85: y", 0)):
            self.refused(HEAD + line + b"\r\n\r\n", len(HEAD) + at)
        for byte in (*range(9), *range(10, 32), 127):
            if byte != 0x0D:
                self.refused(HEAD + b"X: %c" % byte, len(HEAD) + 3)
        self.one(HEAD + b"!#$%&'*+-.^_`|~09Az: \t\x80\xff\r\n\r\n")

    def test_framings(self):
        for lines in (
            b"Content-Length: 0\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked\r\nContent-Length: 0",
            b"Content-Length: 1\r\nContent-Length: 1",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            *(
                b"Content-Length: " + value
                for value in (
                    b"",
                    b"+1",
                    b"-1",
                    b"1, 1",
                    b"1 1",
                    b"0x1",
                    b"1" * 19,
                    b"\xb2",
                    b"1\x85",
                )
            ),
            *(
                b"Transfer-Encoding: " + value
                for value in (b"", b"x", b"chunked, x", b"x, chunked", b"chunked;a", b"chunked\x85")
            ),
        ):
            # At the head's last byte.
            self.refused(HEAD + lines + b"\r\n\r\n0\r\n\r\n", len(HEAD + lines) + 3)

    def test_a_careful_sender(self):
        """What a server may take, and a proxy doesn't send."""
        for data, at in (
            (HEAD + b"Content-Length: 01\r\n\r\na", -2),
            (HEAD + b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", -6),
            (HEAD + CODED + b"1;a\r\nb\r\n0\r\n\r\n", -12),
            (HEAD + CODED + b"0 ;a\r\n\r\n", -7),
            (HEAD + b"TE: trailers\r\n\r\n", -1),
            (HEAD + b"Keep-Alive: 5\r\n\r\n", -1),
            (HEAD + b"Connection: X\r\nX: y\r\n\r\n", -1),
            (HEAD + b"Expect: 100-continue\r\n\r\n", -1),
            (HEAD + b"Upgrade: x\r\n\r\n", -1),
            (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", -1),
            (b"\r\n" + HEAD + b"\r\n", -len(HEAD) - 4),
            (b"GET / HTTP/1.0\r\n\r\n", -5),
            (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", -14),
        ):
            reading = client_requests(data)
            self.assertEqual((len(reading.messages), reading.refused), (1, None), data)
            self.refused(data, len(data) + at, backend_requests)

    def test_heads(self):
        for line, at in (
            (b"GET  / HTTP/1.1", 4),
            (b"GET / HTTP/1.1 ", 14),
            (b"GET / HTTP/1.10", 14),
            (b"GET / HTTP/2.0", 11),
            (b"GET / http/1.1", 6),
            (b"GET\t/ HTTP/1.1", 3),
            (b"GET /\x80 HTTP/1.1", 5),
            (b"GET /#x HTTP/1.1", 5),
            (b"G@T / HTTP/1.1", 1),
            (b" GET / HTTP/1.1", 0),
            (b"GET /\r\n", 5),
        ):
            self.refused(line + b"\r\nHost: a\r\n\r\n", at)
        for target in (b"a", b"*", b"ftp://a/", b"http://", b"http://u@a/", b"http:///a"):
            data = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"
            self.refused(data, len(data) - 1)
        for lines in (
            b"",
            b"Host: a\r\nHost: a\r\n",
            b"Host:\r\n",
            b"Host: a b\r\n",
            b"Host: a:x\r\n",
        ):
            data = b"GET / HTTP/1.1\r\n" + lines + b"\r\n"
            self.refused(data, len(data) - 1)

    def test_chunks(self):
        begin = HEAD + CODED
        for body, at in (
            (b"\r\n", 0),
            (b"0x1\r\n", 1),
            (b"+1\r\n", 0),
            (b" 1\r\n", 0),
            (b"1 \r\n", 2),
            (b"1\n", 1),
            (b"1\r\r", 2),
            (b"1\r\na\n", 4),
            (b"1\r\nab", 4),
            (b"1\r\na\ra", 5),
            (b"0" * 16 + b"\r\n", 15),
            (b"g\r\n", 0),
            (b"1;\r\n", 2),
            (b"1;a=\r\n", 4),
            (b"1;a\r\r\n", 4),
            (b"1;a \r\n", 4),
            (b'1;a="\n"', 5),
            (b'1;a="\\\n"', 6),
            (b'1;a=""b\r\n', 6),
            (b"0\r\nA : b\r\n", 4),
            (b"0\r\n\n", 3),
            (b"0\r\nA: b\r\n c\r\n", 9),
        ):
            self.refused(begin + body, len(begin) + at)


class ResponseTests(SynchronousTestCase):
    def read(self, data: bytes, *asked: bytes, minor: int = 1, clean: bool = True):
        return responses(data, [(method, minor) for method in asked], clean)

    def good(self, data: bytes, *asked: bytes, minor: int = 1):
        reading = self.read(data, *asked, minor=minor)
        self.assertIsNone(reading.refused, data)
        self.assertIsNone(reading.partial, data)
        self.assertEqual(len(reading.messages), len(asked))
        return reading.messages

    def bad(self, data: bytes, method: bytes = b"GET", minor: int = 1) -> None:
        self.assertIsNotNone(self.read(data, method, minor=minor).refused, data)

    def test_in_a_row(self):
        data = (
            b"HTTP/1.1 103 E\r\nA: b\r\n\r\nHTTP/1.1 200 \r\nContent-Length: 1\r\n\r\na"
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
            b"HTTP/1.1 204 \xe9\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nrest"
        )
        got = self.good(data, b"GET", b"HEAD", b"GET", b"GET", b"GET")
        self.assertEqual([bytes(one.body) for one in got], [b"a", b"", b"", b"b", b"rest"])
        self.assertEqual([one.status for one in got[0].interim], [103])
        self.assertEqual(got[1].interim, [])

    def test_a_cut_is_seen_where_there_was_a_reset(self):
        data = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"
        self.bad(data)
        self.assertIsNotNone(self.read(data, b"GET", clean=False).partial)
        data = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nab"
        self.assertEqual(len(self.read(data, b"GET").messages), 1)
        self.assertIsNotNone(self.read(data, b"GET", clean=False).partial)
        self.bad(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        self.bad(b"HTTP/1.1 2")

    def test_refused(self):
        for data in (
            b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: 5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x\r\n\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 204 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 103 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 204 OK\r\n\r\n",
            b"HTTP/1.1 204 OK\r\nConnection: close\r\n\r\nmore",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore",
        ):
            self.bad(data)

    def test_to_http_1_0(self):
        self.bad(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", minor=0)
        self.bad(b"HTTP/1.1 103 E\r\n\r\nHTTP/1.1 204 OK\r\n\r\n", minor=0)
        end = b"HTTP/1.1 204 OK\r\n\r\n"
        keep = b"HTTP/1.1 204 OK\r\nConnection: keep-alive\r\n\r\n"
        self.good(keep + end, b"GET", b"GET", minor=0)
        self.bad(end + end, minor=0)

    def test_a_switch(self):
        data = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\0\r\nHTTP/1.1 200"
        (one,) = self.good(data, b"GET")
        self.assertEqual((one.status, one.body), (101, b"\0\r\nHTTP/1.1 200"))
