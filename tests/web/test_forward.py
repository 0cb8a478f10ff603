"""Tests of dlba.web.forward."""

import http.client
import io

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import BackendError, HeadError
from dlba.web.body import chunk
from dlba.web.forward import (
    CONTINUE,
    KEEP,
    added_fields,
    forwarded_fields,
    host_value,
    interim_head,
    request_head,
    response_head,
    switch_head,
    switch_request,
)
from dlba.web.head import CHUNKED, HEAD_END, HeadLimits, parse_request
from dlba.web.response import UNTIL_CLOSE, parse_response
from tests.web.oracles import (
    HOP_BY_HOP,
    naive_fields,
    naive_lines,
    naive_request,
    options_of,
    values_of,
)
from tests.web.test_head import HEADS, RIGHT_HEADS, mutated_heads
from tests.web.test_response import HEADS as RESPONSES

LIMITS = HeadLimits(16 * 1024, 200)
OURS = b"\r\nX-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https"
DATE = b"\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT"


def forwarded(head: bytes, length: int | None = None) -> bytes:
    """The head that a backend gets for `head`; `length` in place of a chunked body's."""
    request = parse_request(head, LIMITS)
    size = request.length if length is None else length
    added = added_fields(request, OURS, b"own.example:80")
    return request_head(request, request.fields, added, size)


def client_reads(data: bytes, method: str = "GET") -> http.client.HTTPResponse:
    """What the standard library makes of a response."""

    class Connection:
        def makefile(self, mode):
            return io.BytesIO(data)

    response = http.client.HTTPResponse(Connection(), method=method)
    response.begin()
    return response


class RequestTests(SynchronousTestCase):
    def test_order_and_case_stay(self):
        head = b"GET http://E/a?b HTTP/1.2\r\nUser-Agent: X\r\nhOsT: y\r\nAccept:  a \r\nb:"
        self.assertEqual(
            forwarded(head),
            b"GET /a?b HTTP/1.1\r\nUser-Agent: X\r\nHost: E\r\nAccept:  a \r\nb:"
            + OURS
            + b"\r\nX-Forwarded-Host: E\r\nConnection: close\r\n\r\n",
        )

    def test_addresses(self):
        self.assertEqual(
            forwarded_fields("2001:db8::9", True),
            b"\r\nX-Forwarded-For: 2001:db8::9\r\nX-Forwarded-Proto: https",
        )
        self.assertTrue(forwarded_fields("192.0.2.9", False).endswith(b"-Proto: http"))
        for host, value in (
            ("192.0.2.1", b"192.0.2.1:8080"),
            ("::ffff:192.0.2.1", b"192.0.2.1:8080"),
            ("2001:db8::1", b"[2001:db8::1]:8080"),
        ):
            self.assertEqual(host_value(host, 8080), value)

    def test_one_framing_field(self):
        for line, length, framing in (
            (b"Content-Length: 007", None, b"Content-Length: 7"),
            (b"Content-Length: 0", None, b"Content-Length: 0"),
            (b"transfer-encoding: CHUNKED", None, b"Transfer-Encoding: chunked"),
            (b"Transfer-Encoding: chunked", 12, b"Content-Length: 12"),
            (b"Transfer-Encoding: chunked", 0, b"Content-Length: 0"),
            (b"A: b", None, None),
        ):
            head = forwarded(b"POST / HTTP/1.1\r\nHost: x\r\n" + line, length)
            fields = naive_fields(naive_lines(head[:-4])[1:])
            names = [name for name, _ in fields]
            found = names.count(b"content-length") + names.count(b"transfer-encoding")
            self.assertEqual(found, int(framing is not None))
            self.assertEqual(framing is None or b"\r\n" + framing + b"\r\n" in head, True, head)

    def test_http_1_0_gets_a_host(self):
        for head, host in (
            (b"GET / HTTP/1.0\r\nA: b", b"own.example:80"),
            (b"GET / HTTP/1.0\r\nHost: Y:8", b"Y:8"),
            (b"GET http://e:1/ HTTP/1.0\r\nA: b", b"e:1"),
            (b"GET http://e:1/ HTTP/1.0\r\nhost: z", b"e:1"),
        ):
            _, _, version, fields = naive_request(forwarded(head)[:-4])
            self.assertEqual((version, values_of(fields, b"host")), (b"1.1", [host]))

    def test_forwarding_fields_are_ours_alone(self):
        head = (
            b"GET / HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\nHost: x\r\nX_Forwarded_Host: evil"
            b"\r\nForwarded: for=6.6.6.6\r\nConnection: x-forwarded-for, x-forwarded-proto"
        )
        _, _, _, fields = naive_request(forwarded(head)[:-4])
        self.assertEqual(
            fields,
            [
                (b"host", b"x"),
                (b"x-forwarded-for", b"192.0.2.9"),
                (b"x-forwarded-proto", b"https"),
                (b"x-forwarded-host", b"x"),
                (b"connection", b"close"),
            ],
        )

    @settings(deadline=None, max_examples=600)
    @given(
        st.one_of(RIGHT_HEADS, RIGHT_HEADS, HEADS, mutated_heads()), st.sampled_from([None, 0, 5])
    )
    @example(b"GET http://e/ HTTP/1.0", None)
    @example(b"POST / HTTP/1.0\r\nContent-Length: 5", 5)
    def test_what_is_accepted_goes_on_unmistakably(self, data, length):
        try:
            request = parse_request(data, LIMITS)
        except HeadError:
            return
        asked = naive_request(data)
        if request.length is None:
            length = None
        head = forwarded(data, length)
        self.assertEqual(head.count(HEAD_END), 1)
        self.assertTrue(head.endswith(HEAD_END))
        method, target, version, fields = naive_request(head[: -len(HEAD_END)])
        names = [name for name, _ in fields]
        self.assertEqual((method, version), (asked[0], b"1.1"))
        self.assertTrue(target.startswith(b"/") or (method, target) == (b"OPTIONS", b"*"))
        self.assertEqual(names.count(b"host"), 1)
        self.assertEqual(values_of(fields, b"connection"), [b"close"])
        size = request.length if length is None else length
        framing = (values_of(fields, b"content-length"), values_of(fields, b"transfer-encoding"))
        if size is None:
            self.assertEqual(framing, ([], []))
        elif size == CHUNKED:
            self.assertEqual(framing, ([], [b"chunked"]))
        else:
            self.assertEqual(framing, ([b"%d" % size], []))
        cut = (HOP_BY_HOP | options_of(asked[3])) - {b"connection", b"transfer-encoding", b"host"}
        ours = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"content-length"}
        self.assertFalse(set(names) & (cut - ours))
        for name, values in (
            (b"x-forwarded-for", [b"192.0.2.9"]),
            (b"x-forwarded-proto", [b"https"]),
            (b"x-forwarded-host", values_of(fields, b"host") if request.host_field else []),
        ):
            self.assertEqual(values_of(fields, name), values)
        self.assertFalse(
            {b"x-real-ip", b"x_real_ip", b"forwarded", b"x_forwarded", b"expect"} & set(names)
        )
        again = parse_request(head[: -len(HEAD_END)], LIMITS)
        self.assertEqual((again.target, again.length, again.keep_alive), (target, size, False))
        self.assertEqual(again.host, request.host or b"own.example")


class ResponseTests(SynchronousTestCase):
    def build(self, lines: bytes, minor: int, keep: bool, to_head: bool = False):
        response = parse_response(b"HTTP/1.1 " + lines, to_head)
        return response_head(response, response.fields, DATE, minor, keep)

    def test_table(self):
        sized, chunked, close = (
            b"200 OK\r\nContent-Length: 3",
            b"200 OK\r\nTransfer-Encoding: chunked",
            b"200 OK",
        )
        te = b"\r\nTransfer-Encoding: chunked"
        for lines, to_head, minor, keep, framing, coded, kept in (
            (sized, False, 1, True, b"\r\nContent-Length: 3", False, True),
            (sized, False, 1, False, b"\r\nContent-Length: 3\r\nConnection: close", False, False),
            (
                sized,
                False,
                0,
                True,
                b"\r\nContent-Length: 3\r\nConnection: keep-alive",
                False,
                True,
            ),
            (sized, False, 0, False, b"\r\nContent-Length: 3\r\nConnection: close", False, False),
            (chunked, False, 1, True, te, True, True),
            (chunked, False, 1, False, te + b"\r\nConnection: close", True, False),
            (chunked, False, 0, True, b"\r\nConnection: close", False, False),
            (close, False, 1, True, te, True, True),
            (close, False, 0, True, b"\r\nConnection: close", False, False),
            (sized, True, 1, True, b"\r\nContent-Length: 3", False, True),
            (chunked, True, 1, True, b"", False, True),
            (close, True, 0, True, b"\r\nConnection: keep-alive", False, True),
            (b"304 X\r\nContent-Length: 3", False, 1, True, b"\r\nContent-Length: 3", False, True),
            (b"304 X", False, 0, True, b"\r\nConnection: keep-alive", False, True),
            (b"204 X\r\nContent-Length: 3", False, 1, True, b"", False, True),
            (b"204 X\r\nTransfer-Encoding: chunked", False, 1, True, b"", False, True),
            (b"200 X\r\nContent-Length: 0", False, 1, True, b"\r\nContent-Length: 0", False, True),
        ):
            status = lines.partition(b"\r\n")[0]
            wanted = (b"HTTP/1.1 " + status + DATE + framing + b"\r\n\r\n", coded, kept)
            self.assertEqual(self.build(lines, minor, keep, to_head), wanted, (lines, minor, keep))

    def test_date_is_added_where_it_is_missing(self):
        head, _, _ = self.build(b"200 OK\r\ndate: today\r\nContent-Length: 0", 1, True)
        self.assertEqual(head, b"HTTP/1.1 200 OK\r\ndate: today\r\nContent-Length: 0\r\n\r\n")

    def test_a_missing_reason_keeps_its_space(self):
        head, _, _ = self.build(b"200\r\nContent-Length: 0", 1, True)
        self.assertTrue(head.startswith(b"HTTP/1.1 200 \r\n"))

    def test_fields_are_those_given(self):
        response = parse_response(b"HTTP/1.0 201 A\r\nB: c\r\nContent-Length: 1", False)
        head, _, _ = response_head(response, b"\r\nB: c\r\nSet-Cookie: d", DATE, 1, True)
        lines = naive_lines(head[:-4])
        self.assertEqual(lines[:3], [b"HTTP/1.1 201 A", b"B: c", b"Set-Cookie: d"])

    @settings(deadline=None, max_examples=400)
    @given(RESPONSES, st.booleans(), st.integers(0, 1), st.booleans(), st.binary(max_size=20))
    def test_a_client_reads_it(self, data, to_head, minor, keep, body):
        """The body that the backend sends is the body that a client of either version reads."""
        try:
            response = parse_response(data, to_head)
        except BackendError:
            return
        if response.status < 200:
            return
        if response.length >= 0:
            body = (body * 10)[: response.length].ljust(response.length, b"x")
        head, chunked, kept = response_head(response, response.fields, DATE, minor, keep)
        self.assertFalse(kept and not keep)
        self.assertFalse(chunked and not minor)
        self.assertEqual(head.count(HEAD_END), 1)
        fields = naive_fields(naive_lines(head[:-4])[1:])
        self.assertLessEqual(len(values_of(fields, b"connection")), 1)
        self.assertTrue(values_of(fields, b"date"))
        framing = values_of(fields, b"content-length") + values_of(fields, b"transfer-encoding")
        self.assertLessEqual(len(framing), 1)
        self.assertEqual(b"close" in options_of(fields), not kept)
        if chunked:
            wire = (chunk(body) if body else b"") + b"0\r\n\r\n"
        else:
            wire = body
        read = client_reads(head + wire, "HEAD" if to_head else "GET")
        self.assertEqual((read.status, read.read()), (response.status, body))
        if kept:
            # Nobody waits for a close that doesn't come.
            self.assertTrue(framing or to_head or response.status in (204, 304))
        elif response.length == UNTIL_CLOSE and not minor:
            self.assertEqual(framing, [])


class OwnTests(SynchronousTestCase):
    def test_interim(self):
        response = parse_response(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 5\r\nConnection: close",
            False,
        )
        self.assertEqual(interim_head(response), b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        self.assertEqual(CONTINUE, b"HTTP/1.1 100 Continue\r\n\r\n")


class SwitchTests(SynchronousTestCase):
    def test_request(self):
        request = parse_request(b"GET /chat HTTP/1.1\r\nHost: x", LIMITS)
        head = request_head(
            request, request.fields, b"", request.length, switch_request(b"websocket")
        )
        self.assertEqual(
            head,
            b"GET /chat HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        )

    def test_response(self):
        response = parse_response(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade:  websocket\r\nConnection: Upgrade"
            b"\r\nSec-WebSocket-Accept: x",
            False,
        )
        self.assertEqual(
            switch_head(response, response.fields),
            b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x"
            b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        )

    def test_kept_connection(self):
        request = parse_request(b"GET / HTTP/1.1\r\nHost: x", LIMITS)
        head = request_head(request, request.fields, b"", request.length, KEEP)
        self.assertEqual(head, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
