"""Tests of dlba.web.body."""

import http.client
import io
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.web.body import EXTENSIONS_LIMIT, ChunkedReader, chunk
from tests.web.oracles import TOKEN, assert_linear, made_of, naive_fields

HEX = frozenset(b"0123456789abcdefABCDEF")
QUOTABLE = frozenset(b"\t") | frozenset(range(0x20, 0x7F)) | frozenset(range(0x80, 0x100))


def read(pieces, reader=None):
    """(body, rest) of all `pieces`; None: not complete; "wrong": a ValueError."""
    reader = reader or ChunkedReader()
    body = b""
    for piece in pieces:
        try:
            got = reader.feed(piece)
        except ValueError as error:
            assert str(error)
            return "wrong"
        assert all(got), got
        body += b"".join(got)
    return (body, reader.rest) if reader.done else None


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def naive_extensions(text: bytes) -> bool:
    """Whether `text` is RFC 9112 7.1.1's chunk-ext, read character by character."""
    at = 0

    def blanks(at: int) -> int:
        while text[at : at + 1] in (b" ", b"\t"):
            at += 1
        return at

    def token(at: int) -> int:
        end = at
        while end < len(text) and text[end] in TOKEN:
            end += 1
        return end

    while at < len(text):
        at = blanks(at)
        if text[at : at + 1] != b";":
            return False
        at = blanks(at + 1)
        end = token(at)
        if end == at:
            return False
        at = end
        value = blanks(at)
        if text[value : value + 1] != b"=":
            continue
        at = blanks(value + 1)
        if text[at : at + 1] == b'"':
            at += 1
            while text[at : at + 1] != b'"':
                if text[at : at + 1] == b"\\":
                    at += 1
                if at >= len(text) or text[at] not in QUOTABLE:
                    return False
                at += 1
            at += 1
        else:
            end = token(at)
            if end == at:
                return False
            at = end
    return True


def naive_read(data: bytes):
    """Like `read([data])`, over the whole, by cutting off one line after the other."""
    body = b""

    def line() -> bytes | None:
        nonlocal data
        end = data.find(b"\n")
        if end < 0:
            return None
        found, data = data[:end], data[end + 1 :]
        if not found.endswith(b"\r"):
            raise ValueError
        return found[:-1]

    try:
        while True:
            size = line()
            if size is None:
                return None
            digits = size
            for mark in b"; \t":
                digits = digits.split(bytes((mark,)))[0]
            if not made_of(digits, HEX) or len(digits) > 15:
                return "wrong"
            if not naive_extensions(size[len(digits) :]):
                return "wrong"
            length = int(digits, 16)
            if not length:
                break
            body += data[:length]
            end, data = data[length : length + 2], data[length + 2 :]
            if end != b"\r\n"[: len(end)]:
                return "wrong"
            if len(end) < 2:
                return None
        while True:
            trailer = line()
            if trailer is None:
                return None
            if not trailer:
                return body, data
            naive_fields([trailer])
    except ValueError:
        return "wrong"


class ReaderTests(SynchronousTestCase):
    def check(self, *pairs) -> None:
        """Each stream gives what stands beside it, at once and byte by byte."""
        for data, expected in pairs:
            self.assertEqual(read([data]), expected, data[:100])
            self.assertEqual(read(bytewise(data)), expected, data[:100])
            self.assertEqual(naive_read(data), expected, data[:100])

    def test_bodies(self):
        self.check(
            (b"0\r\n\r\n", (b"", b"")),
            (b"3\r\nabc\r\n0\r\n\r\n", (b"abc", b"")),
            (b"1\r\na\r\n2\r\nbc\r\n000\r\n\r\nGET /", (b"abc", b"GET /")),
            (b"a\r\n0123456789\r\nA\r\nabcdefghij\r\n0\r\n\r\n", (b"0123456789abcdefghij", b"")),
            (b"000000000000003\r\nabc\r\n0\r\n\r\n", (b"abc", b"")),
            (b"2\r\n\r\n\r\n0\r\n\r\n\r\n", (b"\r\n", b"\r\n")),
            (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", (b"0\r\n\r\n", b"")),
        )

    def test_unfinished(self):
        whole = b"3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n"
        for end in range(len(whole)):
            self.check((whole[:end], None))
        self.check((whole, (b"abc", b"")))
        self.check((b"f" * 15 + b"\r\nabc", None))

    def test_bad_sizes(self):
        self.check(
            *(
                (size + b"\r\nabc\r\n0\r\n\r\n", "wrong")
                for size in (
                    *(
                        b"",
                        b"0x3",
                        b"+3",
                        b"-3",
                        b" 3",
                        b"3 ",
                        b"3\t",
                        b"g",
                        b"3_0",
                        b"3,3",
                        b"3 3",
                    ),
                    *(
                        b"0" * 15 + b"3",
                        b"f" * 16,
                        b"\xb2",
                        b"3\r",
                        b"3\0",
                        b"\xef\xbc\x93",
                        b"3\xa0",
                    ),
                )
            )
        )

    def test_line_ends(self):
        self.check(
            (b"3\nabc\r\n0\r\n\r\n", "wrong"),
            (b"3\r\nabc\n0\r\n\r\n", "wrong"),
            (b"3\r\nabc\r0\r\n\r\n", "wrong"),
            (b"3\r\nabc0\r\n\r\n", "wrong"),
            (b"3\r\nabcX\r\n0\r\n\r\n", "wrong"),
            (b"3\r\nabc\r\r\n0\r\n\r\n", "wrong"),
            (b"3\r\nabc \r\n0\r\n\r\n", "wrong"),
            (b"3\r\nabcXX0\r\n\r\n", "wrong"),
            (b"3\r\nabcX", "wrong"),
            (b"3\r\nabc\rX", "wrong"),
            (b"3\r\nabc\r\n0\n\r\n", "wrong"),
            (b"3\r\nabc\r\n0\r\n\n", "wrong"),
            (b"3\r\nab\r\n0\r\n\r\n", "wrong"),
            (b"3\r\nabc\r\n0\r\nX: y\n\r\n", "wrong"),
            (b"\r\n3\r\nabc\r\n0\r\n\r\n", "wrong"),
            (b"3\r\r\nabc\r\n0\r\n\r\n", "wrong"),
        )

    def test_extensions(self):
        for extension, right in (
            (b";a", True),
            (b";a=b", True),
            (b" ; a = b\t;c", True),
            (b';a="b"', True),
            (b';a="\\"\\\\;=\t \xff"', True),
            (b';a=""', True),
            (b";a;b;c=d", True),
            (b";", False),
            (b"; ", False),
            (b";a=", False),
            (b";a= ", False),
            (b";a ", False),
            (b";a=b ", False),
            (b";=b", False),
            (b";a b", False),
            (b";a=b=c", False),
            (b';a="b', False),
            (b';a="b\\"', False),
            (b';a="b"c', False),
            (b';a="\x7f"', False),
            (b";a\0", False),
            (b";\xe9", False),
            (b";a\rb", False),
            (b";a\nb", False),
            (b';a="\n"', False),
            (b';a="\r\n"', False),
        ):
            expected = (b"", b"") if right else "wrong"
            self.check((b"0" + extension + b"\r\n\r\n", expected))
            expected = (b"abc", b"") if right else "wrong"
            self.check((b"3" + extension + b"\r\nabc\r\n0\r\n\r\n", expected))

    def test_trailers(self):
        for trailers, right in (
            (b"X-T: 1\r\n", True),
            (b"X-T:\r\nY: \xff\t\r\n", True),
            (b"Content-Length: 5\r\nHost: evil\r\n", True),
            (b"X-T : 1\r\n", False),
            (b" X: 1\r\n", False),
            (b"X: 1\r\n y\r\n", False),
            (b"X\r\n", False),
            (b": 1\r\n", False),
            (b"X: \0\r\n", False),
            (b"X: a\rb\r\n", False),
            (b"X: a\nY: b\r\n", False),
        ):
            self.check(
                (b"1\r\na\r\n0\r\n" + trailers + b"\r\nrest", (b"a", b"rest") if right else "wrong")
            )

    def test_what_follows_is_kept(self):
        reader = ChunkedReader()
        self.assertEqual((reader.done, reader.rest), (False, b""))
        self.assertEqual(reader.feed(b"1\r\na\r\n0\r\n\r\nGET"), [b"a"])
        self.assertEqual(reader.feed(b" /"), [])
        self.assertEqual((reader.done, reader.rest), (True, b"GET /"))

    def test_pieces_come_as_soon_as_they_are_there(self):
        reader = ChunkedReader()
        self.assertEqual(reader.feed(b"6\r\nab"), [b"ab"])
        self.assertEqual(reader.feed(b"c"), [b"c"])
        self.assertEqual(reader.feed(b"def\r\n1\r\ng\r"), [b"def", b"g"])


class RunTests(SynchronousTestCase):
    """Many small chunks in one piece take a way of their own."""

    def test_as_one_by_one(self):
        for sizes in (
            [1] * 50,
            [1, 1, 2, 1, 1, 16, 255],
            [3, 1, 1, 1],
            [15] * 20,
        ):
            body = b"".join(bytes([65 + n % 26]) * size for n, size in enumerate(sizes))
            wire = b""
            for n, size in enumerate(sizes):
                wire += chunk(bytes([65 + n % 26]) * size)
            for end in (b"0\r\n\r\n", b"0;a=b\r\nT: x\r\n\r\n", b"000\r\n\r\n"):
                whole = wire + end + b"next"
                self.assertEqual(read([whole]), (body, b"next"))
                self.assertEqual(read(bytewise(whole)), (body, b"next"))
                for at in range(len(whole)):
                    self.assertEqual(read([whole[:at], whole[at:]]), (body, b"next"), at)

    def test_mistakes_are_found_behind_others(self):
        good = chunk(b"x") * 5 + chunk(b"yy") * 5
        for bad in (
            b"1\r\nxy\r\n",
            b"1\nx\r\n",
            b"1\r\nx\n\n",
            b" 1\r\nx\r\n",
            b"+1\r\nx\r\n",
            b"0x1\r\nx\r\n",
            b"1 \r\nx\r\n",
            b"0000000000000001\r\nx\r\n",
            b"2\r\nx\r\n\r\n",
        ):
            self.assertEqual(read([good + bad + b"0\r\n\r\n"]), "wrong", bad)
            self.assertEqual(read([bad + good + b"0\r\n\r\n"]), "wrong", bad)


class LimitTests(SynchronousTestCase):
    def outcomes(self, data: bytes, **limits):
        """At once, byte by byte and in pieces of 1000 must be the same."""
        cut = [data[at : at + 1000] for at in range(0, len(data), 1000)]
        found = [read(pieces, ChunkedReader(**limits)) for pieces in ([data], bytewise(data), cut)]
        self.assertEqual(found[1:], found[:1] * 2)
        return found[0]

    def test_extensions_of_one_chunk(self):
        for length, right in ((EXTENSIONS_LIMIT, True), (EXTENSIONS_LIMIT + 1, False)):
            for size in (b"0", b"0" * 15):
                outcome = self.outcomes(size + b";" + b"a" * (length - 1) + b"\r\n\r\n")
                self.assertEqual(outcome, (b"", b"") if right else "wrong")

    def test_extensions_of_one_message(self):
        self.assertEqual(EXTENSIONS_LIMIT, 16 * 1024)
        line = b"1;" + b"a" * 1023 + b"\r\nx\r\n"
        for number, right in ((16, True), (17, False)):
            outcome = self.outcomes(line * number + b"0\r\n\r\n")
            self.assertEqual(outcome, (b"x" * number, b"") if right else "wrong")

    def test_trailers(self):
        start = b"0\r\n"
        for number, right in ((5, True), (6, False)):
            outcome = self.outcomes(start + b"A: b\r\n" * number + b"\r\n", trailers=5)
            self.assertEqual(outcome, (b"", b"") if right else "wrong")
        for length, right in ((98, True), (99, False)):
            one = b"A:" + b"b" * (length - 2) + b"\r\n"
            two = b"C: d\r\nA:" + b"b" * (length - 8) + b"\r\n"
            for trailers in (one, two):
                outcome = self.outcomes(start + trailers + b"\r\n", trailer_bytes=100)
                self.assertEqual(outcome, (b"", b"") if right else "wrong")

    def test_a_line_without_end_is_refused_soon(self):
        for start in (b"", b"1;", b'1;a="', b"0\r\nA: ", b"1\r\na"):
            reader = ChunkedReader(trailer_bytes=1000)
            reader.feed(start)
            with self.assertRaises(ValueError):
                for _ in range(20):
                    reader.feed(b"1" * 1000)


PIECES = st.one_of(
    st.binary(min_size=1, max_size=5).map(chunk),
    st.sampled_from(
        [
            b"0\r\n\r\n",
            b"0\r\n",
            b"3\r\nabc\r\n",
            b"2;a=b\r\nab\r\n",
            b"X: y\r\n",
            b"\r\n",
            b'1;a="',
        ]
    ),
    st.sampled_from([b"\n", b"\r", b"a", b";", b'"', b" ", b"=", b"0", b"\\", b"\xff", b"\0"]),
)
STREAMS = st.lists(PIECES, max_size=8).map(b"".join)


class PropertyTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=600)
    @given(STREAMS, st.lists(st.integers(0, 60), max_size=5))
    @example(b"3\r\nabc\r\n0\r\n\r\nrest", [4, 9])
    def test_any_cut_reads_like_the_naive_reader(self, data, cuts):
        expected = naive_read(data)
        self.assertEqual(read([data]), expected, data)
        self.assertEqual(read(bytewise(data)), expected, data)
        edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        pieces = [data[a:b] for a, b in pairwise(edges)]
        self.assertEqual(read(pieces), expected, pieces)

    @settings(deadline=None, max_examples=300)
    @given(st.lists(st.binary(min_size=1, max_size=300), max_size=6), st.binary(max_size=9))
    def test_the_library_reads_what_we_write(self, parts, rest):
        stream = b"".join(map(chunk, parts)) + b"0\r\n\r\n"
        self.assertEqual(read([stream + rest]), (b"".join(parts), rest))

        class Connection:
            def makefile(self, mode):
                return io.BytesIO(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + stream)

        response = http.client.HTTPResponse(Connection())
        response.begin()
        self.assertEqual(response.read(), b"".join(parts))

    @settings(deadline=None, max_examples=300)
    @given(st.lists(st.binary(max_size=20), max_size=10))
    def test_any_bytes_are_a_body_or_a_value_error(self, pieces):
        reader = ChunkedReader()
        try:
            for piece in pieces:
                reader.feed(piece)
        except ValueError:
            return
        self.assertIs(reader.done, naive_read(b"".join(pieces)) is not None)


class CostTests(SynchronousTestCase):
    def test_linear(self):
        def call(data):
            read([data], ChunkedReader(trailer_bytes=1 << 20, trailers=1 << 20))

        for start, unit, end in (
            (b"", b"1\r\na\r\n", b"0\r\n\r\n"),
            (b"0\r\n", b"A: b\r\n", b"\r\n"),
            (b"0\r\nA:", b" ", b"\0\r\n"),
            (b"0\r\n", b"A", b"\r\n"),
            (b"", b"1;a\r\na\r\n", b""),
            (b"1", b" ", b"\r\n"),
            (b"1", b";a", b"\0\r\n"),
            (b"1", b";a=b", b" \r\n"),
            (b"1", b"; a = b ", b"\r\n"),
            (b"1;a", b" ", b"\r\n"),
            (b"1;a=", b" ", b"\r\n"),
            (b'1;a="', b"\\a", b"\r\n"),
            (b'1;a="', b"\\", b"\r\n"),
            (b'1;a="', b"a", b"\r\n"),
            (b"1", b';a=""', b"\0\r\n"),
        ):
            assert_linear(self, call, lambda n, s=start, u=unit, e=end: s + u * (n // len(u)) + e)
