"""Tests of dlba.web.response."""

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import BackendError
from dlba.web.head import CHUNKED
from dlba.web.response import UNTIL_CLOSE, parse_response
from tests.web.oracles import (
    DIGITS,
    HOP_BY_HOP,
    VALUE,
    assert_linear,
    made_of,
    naive_fields,
    naive_lines,
    options_of,
    values_of,
)


def head(*lines: str, line: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join((line, *lines)).encode("latin-1")


class ResponseCase(SynchronousTestCase):
    def refuses(self, *heads: bytes) -> None:
        for data in heads:
            for to_head in (False, True):
                error = self.assertRaises(BackendError, parse_response, data, to_head)
                self.assertEqual(error.kind, "head", data)
                self.assertTrue(error.reason)


class LineTests(ResponseCase):
    def test_valid(self):
        for line, status, reason in (
            ("HTTP/1.1 200 OK", 200, "OK"),
            ("HTTP/1.0 404 Not Found", 404, "Not Found"),
            ("HTTP/1.1 200 ", 200, ""),
            ("HTTP/1.1 200", 200, ""),
            ("HTTP/1.1 599 \xe9\t~", 599, "\xe9\t~"),
            ("HTTP/1.1 100 Continue", 100, "Continue"),
            ("HTTP/1.2 200 OK", 200, "OK"),
            ("HTTP/1.1 200 200", 200, "200"),
        ):
            response = parse_response(head("A: b", line=line), False)
            self.assertEqual((response.status, response.reason), (status, reason.encode("latin-1")))
            self.assertEqual(response.fields, b"\r\nA: b")

    def test_invalid(self):
        self.refuses(
            *(
                head("A: b", line=line)
                for line in (
                    *("", "200 OK", "HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1  200 OK", "HTTP/1.1 20 OK"),
                    *("HTTP/2.0 200 OK", "HTTP/2 200 OK", "HTTP/0.9 200 OK", "http/1.1 200 OK"),
                    *("HTTP/1.1 1000 OK", "HTTP/1.1 099 OK", "HTTP/1.1 000 OK", "HTTP/1.1 2x0 OK"),
                    *(
                        "HTTP/1.1 200 O\rK",
                        "HTTP/1.1 200 O\nK",
                        "HTTP/1.1 200 O\0K",
                        " HTTP/1.1 200 OK",
                    ),
                    *(
                        "HTTP/1.1 200 OK\n",
                        "HTTP/1.1 \xb200 OK",
                        "HTTP/1.10 200 OK",
                        "HTTP/1.1 200 \x7f",
                    ),
                    *("ICY 200 OK", "\r\nHTTP/1.1 200 OK", "HTTP/1.1\t200 OK", "HTTP/1.1 -20 OK"),
                )
            )
        )

    def test_a_space_ends_the_status(self):
        self.refuses(
            *(head(line=f"HTTP/1.1 {rest}") for rest in ("200OK", "2000 OK", "2000", "200\tOK"))
        )


class FieldTests(ResponseCase):
    def test_broken(self):
        self.refuses(
            *(
                head(line)
                for line in (
                    *(
                        "A : b",
                        ": b",
                        "A",
                        "A: b\r\n c",
                        "A:\r\n\tb",
                        "A: b\nC: d",
                        "A: b\n",
                        "A: b\rC: d",
                    ),
                    *("A: \0", "A: \x7f", "\xe9: a", "A b: c", " A: b", "", "Set-Cookie: a=b\r"),
                )
            ),
            b"HTTP/1.1 200 OK\nA: b",
        )

    def test_hop_by_hop_fields_are_cut(self):
        cut = (
            *("Connection: x", "KEEP-ALIVE: 5", "Proxy-Connection: close", "TE: a", "trailer: b"),
            *("Upgrade: h2c", "HTTP2-Settings: a", "Content-Length: 3"),
        )
        kept = (
            *(
                "Server: \x80\xff",
                "X-A:",
                "Content-Type: t",
                "Content-Lengths: 4",
                "Tea: 1",
                "Via: c",
            ),
            *(
                "Set-Cookie: a=b",
                "Set-Cookie: a=b",
                "Date: now",
                "Connections: 2",
                "Proxy-Authenticate: d",
            ),
        )
        for order in (
            cut + kept,
            kept + cut,
            tuple(x for p in zip(cut, kept, strict=False) for x in p),
        ):
            response = parse_response(head(*order), False)
            wanted = [line.encode("latin-1") for line in order if line not in cut]
            self.assertEqual(response.fields.split(b"\r\n")[1:], wanted)

    def test_fields_named_by_connection_are_cut(self):
        data = head("X-A: 1", "Connection: close, x-a", "X-B: 2", "connection: X-C", "X-c: 3")
        self.assertEqual(parse_response(data, False).fields, b"\r\nX-B: 2")

    def test_date(self):
        for line, dated in (("Date: a", True), ("DATE:", True), ("X-Date: a", False)):
            self.assertIs(parse_response(head(line), False).dated, dated)

    def test_date_named_by_connection(self):
        response = parse_response(head("Date: a", "Connection: date"), False)
        self.assertIs(response.dated, b"\r\nDate:" in response.fields)


class ConnectionTests(ResponseCase):
    def test_whether_it_may_stay(self):
        for line, lines, stays in (
            ("HTTP/1.1 200 OK", (), True),
            ("HTTP/1.1 200 OK", ("Connection: keep-alive",), True),
            ("HTTP/1.1 200 OK", ("Connection: x", "connection: Close"), False),
            ("HTTP/1.0 200 OK", (), False),
            ("HTTP/1.0 200 OK", ("Connection: keep-alive",), False),
        ):
            response = parse_response(head(*lines, line=line), False)
            self.assertEqual(response.keep_alive, stays, (line, lines))
            self.assertEqual(response.minor, int(line[7]))

    def test_upgrade(self):
        for lines, upgrade in (
            (("Connection: Upgrade", "Upgrade: websocket"), b" websocket"),
            (("Upgrade: a", "Connection: upgrade, b", "Upgrade: b"), b" a, b"),
            (("Upgrade: websocket",), b""),
            (("Connection: upgrade",), b""),
        ):
            response = parse_response(head(*lines, line="HTTP/1.1 101 Switch"), False)
            self.assertEqual(response.upgrade, upgrade, lines)
            self.assertEqual(response.fields, b"")


class FramingTests(ResponseCase):
    def test_table(self):
        length, chunked = "Content-Length: 7", "Transfer-Encoding: Chunked"
        for status, line, to_head, expected in (
            (200, length, False, (7, 7)),
            (200, "Content-Length: 0", False, (0, 0)),
            (200, chunked, False, (CHUNKED, None)),
            (200, "", False, (UNTIL_CLOSE, None)),
            (404, "", False, (UNTIL_CLOSE, None)),
            (200, length, True, (0, 7)),
            (200, chunked, True, (0, None)),
            (200, "", True, (0, None)),
            (304, length, False, (0, 7)),
            (304, chunked, False, (0, None)),
            (304, "", False, (0, None)),
            (204, length, False, (0, None)),
            (204, chunked, False, (0, None)),
            (204, "Transfer-Encoding: identity", False, (0, None)),
            (103, "Transfer-Encoding: gzip", False, (0, None)),
            (204, "", True, (0, None)),
            (100, length, False, (0, None)),
            (103, chunked, False, (0, None)),
            (101, "", False, (0, None)),
            (199, length, True, (0, None)),
        ):
            lines = ("A: b", line) if line else ("A: b",)
            response = parse_response(head(*lines, line=f"HTTP/1.1 {status} X"), to_head)
            self.assertEqual(
                (response.length, response.announced), expected, (status, line, to_head)
            )
            self.assertEqual(response.fields, b"\r\nA: b")

    def test_repeated_length(self):
        response = parse_response(head("Content-Length: 5", "A: b", "content-length:\t05 "), False)
        self.assertEqual((response.length, response.fields), (5, b"\r\nA: b"))
        response = parse_response(head("Content-Length: 5, 5", "Content-Length:5 ,05"), False)
        self.assertEqual((response.length, response.announced), (5, 5))
        self.refuses(head("Content-Length: 5", "Content-Length: 6"))
        self.refuses(
            head(
                "Content-Length: 5,",
            ),
            head("Content-Length: ,5"),
            head("Content-Length: 5,,5"),
        )

    def test_bad_length(self):
        self.refuses(
            *(
                head(f"Content-Length: {value}")
                for value in (
                    "",
                    "+5",
                    "-5",
                    "5, 6",
                    "0x5",
                    "5 5",
                    "5_0",
                    "9" * 19,
                    "a",
                    "5;",
                    "\xb2",
                )
            )
        )

    def test_bad_coding(self):
        self.refuses(
            *(
                head(*(f"Transfer-Encoding: {value}" for value in values))
                for values in (
                    *(
                        ["gzip"],
                        ["gzip, chunked"],
                        ["chunked, gzip"],
                        [""],
                        ["identity"],
                        ["xchunked"],
                    ),
                    *(
                        ["chunked", "chunked"],
                        ["gzip", "chunked"],
                        ["chunked;a=b"],
                        ["chunked\xa0"],
                    ),
                )
            ),
            head("Content-Length: 5", "Transfer-Encoding: chunked"),
            head("Transfer-Encoding: chunked", "Content-Length: 5"),
            head("Transfer-Encoding: chunked", line="HTTP/1.0 200 OK"),
        )


def naive_verdict(data: bytes, to_head: bool):
    """What the rules say of a response head, line by line: None, or what is found."""
    try:
        lines = naive_lines(data)
        fields = naive_fields(lines[1:])
    except ValueError:
        return None
    version, _, rest = lines[0].partition(b" ")
    digits, _, reason = rest.partition(b" ")
    if version[:7] != b"HTTP/1." or len(version) != 8 or not made_of(version[7:], DIGITS):
        return None
    if len(digits) != 3 or not made_of(digits, DIGITS) or not int(digits) >= 100:
        return None
    if not set(reason) <= VALUE:
        return None
    lengths = values_of(fields, b"content-length")
    if any(not value.isdigit() or len(value) > 18 for value in lengths):
        return None
    numbers = {int(value) for value in lengths}
    codings = [value.lower() for value in values_of(fields, b"transfer-encoding")]
    status = int(digits)
    # What 1xx and 204 say of a body they don't have doesn't matter.
    bodiless = status < 200 or status == 204
    if len(numbers) > 1 or (codings and numbers and not bodiless):
        return None
    if codings and not bodiless and (codings != [b"chunked"] or version[7:] == b"0"):
        return None
    announced = numbers.pop() if numbers else None
    if bodiless:
        length, announced = 0, None
    elif to_head or status == 304:
        length = 0
    elif codings:
        length = CHUNKED
    else:
        length = UNTIL_CLOSE if announced is None else announced
    cut = HOP_BY_HOP | {b"content-length"} | options_of(fields)
    kept = [line for line, (name, _) in zip(lines[1:], fields, strict=True) if name not in cut]
    return status, reason, length, announced, kept


TEXT = st.text(st.characters(max_codepoint=255), max_size=5)
FIELDS = st.one_of(
    st.builds(
        "{}:{}".format,
        st.sampled_from(
            [
                "Server",
                "X-A",
                "X-B",
                "Connection",
                "Set-Cookie",
                "TE",
                "Upgrade",
                "keep-alive",
                "Trailer",
            ]
        ),
        st.sampled_from([" a", "", " X-A", "x-b,close", " a=b; c", "\xe9\t:"]),
    ),
    st.sampled_from(
        (
            *("Content-Length: 5", "Content-Length:5", "Content-Length: 6", "content-length: +5"),
            *("Transfer-Encoding: chunked", "transfer-encoding:CHUNKED", "Transfer-Encoding: gzip"),
        )
    ),
)
HEADS = st.builds(
    lambda line, fields, odd: "\r\n".join((line, *fields, *odd)).encode("latin-1"),
    st.one_of(
        st.just("HTTP/1.1 200 OK"),
        st.builds(
            "HTTP/1.{} {}{}".format,
            st.sampled_from("011x"),
            st.sampled_from([100, 204, 200, 304, 500, 600, 99]),
            st.sampled_from([" OK", "", " ", "x", " \xe9"]),
        ),
    ),
    st.lists(FIELDS, max_size=4),
    st.lists(st.builds("{}:{}".format, TEXT, TEXT), max_size=1),
)


class PropertyTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=600)
    @given(HEADS, st.booleans())
    @example(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: content-length", False)
    def test_the_naive_parser_agrees(self, data, to_head):
        verdict = naive_verdict(data, to_head)
        try:
            response = parse_response(data, to_head)
        except BackendError:
            self.assertIsNone(verdict, data)
            return
        self.assertEqual(
            (
                response.status,
                response.reason,
                response.length,
                response.announced,
                response.fields.split(b"\r\n")[1:],
            ),
            verdict,
        )

    @settings(deadline=None, max_examples=300)
    @given(st.one_of(st.binary(), st.text("HTP/1. 20\r\n:a\t", max_size=40).map(str.encode)))
    def test_any_bytes_are_a_head_or_a_backend_error(self, data):
        try:
            response = parse_response(data, False)
        except BackendError:
            return
        self.assertTrue(100 <= response.status <= 599 and response.length >= UNTIL_CLOSE)


class CostTests(SynchronousTestCase):
    def test_linear(self):
        start = b"HTTP/1.1 200 OK"

        def call(data):
            try:
                parse_response(data, False)
            except BackendError:
                pass

        for unit in (
            *(
                b"\r\nA:b",
                b"\r\nConnection: a",
                b"\r\nTransfer-Encoding: a",
                b"\r\nContent-Length: 1",
            ),
            *(b"\r\nTE:", b"\r\n", b"\r", b"\n", b" ", b"a", b"\xff"),
        ):
            for end in (b"", b"\0", b"\r\nConnection: x"):
                assert_linear(self, call, lambda n, u=unit, e=end: start + u * (n // len(u)) + e)
        for first in (
            b"\r\nX:",
            b"\r\nConnection:",
            b"\r\nContent-Length:",
            b"\r\nTransfer-Encoding:",
        ):
            for unit in (b" ", b"\t ", b"a", b",", b"0"):
                for end in (b"", b"\0", b"x"):
                    assert_linear(
                        self, call, lambda n, u=unit, f=first, e=end: start + f + u * n + e
                    )
