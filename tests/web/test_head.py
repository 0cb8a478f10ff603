"""Tests of dlba.web.head."""

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import HeadError
from dlba.web.head import CHUNKED, HEAD_END, HeadLimits, host_of, parse_request
from tests.web.oracles import (
    HOP_BY_HOP,
    assert_linear,
    naive_host,
    naive_lines,
    naive_request,
    options_of,
    values_of,
)

LIMITS = HeadLimits(target=16 * 1024, fields=200)
DROPPED = HOP_BY_HOP | {
    *(b"content-length", b"content_length", b"transfer_encoding", b"expect", b"forwarded"),
}


def head(*lines: str, line: str = "GET / HTTP/1.1", host: str | None = "x") -> bytes:
    """A head with these field lines; `host` None: without Host."""
    hosts = () if host is None else (f"Host: {host}",)
    return "\r\n".join((line, *hosts, *lines)).encode("latin-1")


def post(*lines: str, version: str = "1.1") -> bytes:
    return head(*lines, line=f"POST / HTTP/{version}")


def parse(data: bytes):
    return parse_request(data, LIMITS)


class HeadCase(SynchronousTestCase):
    def refuses(self, *pairs: tuple[int, bytes], limits: HeadLimits = LIMITS) -> None:
        """Each head gets its status."""
        for status, data in pairs:
            error = self.assertRaises(HeadError, parse_request, data, limits)
            self.assertEqual(error.status, status, (data[:200], error.reason))
            self.assertTrue(error.reason)


class LineTests(HeadCase):
    def test_what_is_kept(self):
        request = parse(b"PATCH /a%20b?c=/%2e HTTP/1.1\r\nHost: X.Example:80\r\nB: 1\r\na:2")
        self.assertEqual(
            (request.method, request.target, request.line, request.minor),
            (b"PATCH", b"/a%20b?c=/%2e", b"PATCH /a%20b?c=/%2e HTTP/1.1", 1),
        )
        self.assertEqual((request.host, request.host_field), (b"x.example", b"X.Example:80"))
        self.assertEqual(request.fields, b"\r\nHost: X.Example:80\r\nB: 1\r\na:2")
        self.assertEqual((request.length, request.keep_alive), (None, True))
        self.assertEqual((request.cookies, request.expects_continue), (False, False))

    def test_methods_are_tokens_of_any_case(self):
        for method in ("get", "G", "M-SEARCH", "!#$%&'*+-.^_`|~09aZ", "X" * 32):
            self.assertEqual(parse(head(line=f"{method} / HTTP/1.1")).method, method.encode())

    def test_versions(self):
        for version, minor in (("1.0", 0), ("1.1", 1), ("1.2", 1), ("1.9", 1)):
            self.assertEqual(parse(head(line=f"GET / HTTP/{version}")).minor, minor, version)
        self.refuses(
            *((505, head(line=f"GET / HTTP/{version}")) for version in ("0.9", "2.0", "3.1")),
            (505, b"GET / HTTP/2.0\r\nbad line"),
            (505, b"PRI * HTTP/2.0"),
        )

    def test_broken_lines(self):
        self.refuses(
            *(
                (400, head(line=line))
                for line in (
                    "",
                    "GET",
                    "GET /",
                    "GET  / HTTP/1.1",
                    "GET / HTTP/1.1 ",
                    " GET / HTTP/1.1",
                    "GET /  HTTP/1.1",
                    "GET /a b HTTP/1.1",
                    "GET\t/\tHTTP/1.1",
                    "GET / http/1.1",
                    "GET / HTTP/1",
                    "GET / HTTP/1.1.",
                    "GET / HTTP/11.1",
                    "GET / HTTP/1.10",
                    "GET / HTTP/+1.1",
                    "GET / HTTP/1.\xb2",
                    "GET / HTTPS/1.1",
                    "G(T / HTTP/1.1",
                    "G\xc9T / HTTP/1.1",
                    " / HTTP/1.1",
                    "GET /a#b HTTP/1.1",
                    "GET /\x7f HTTP/1.1",
                    "GET /\xe9 HTTP/1.1",
                    "GET /\x00 HTTP/1.1",
                    "GET /\r HTTP/1.1",
                    "GET / HTTP/1.1\n",
                    "\r\nGET / HTTP/1.1",
                )
            )
        )

    def test_a_method_longer_than_any(self):
        for size, status in ((32, None), (33, 501), (5000, 501)):
            line = f"{'M' * size} / HTTP/1.1"
            if status is None:
                self.assertEqual(len(parse_request(head(line=line), LIMITS).method), size)
            else:
                error = self.assertRaises(HeadError, parse_request, head(line=line), LIMITS)
                self.assertEqual(error.status, status)

    def test_target_takes_every_printable_byte_but_the_number_sign(self):
        path = bytes(set(range(0x21, 0x7F)) - {0x23})
        self.assertEqual(parse(b"GET /" + path + b" HTTP/1.1\r\nHost: x").target, b"/" + path)


class FieldTests(HeadCase):
    def test_values_hold_tabs_and_high_bytes(self):
        lines = (
            *("A:", "A: ", "A:b", "A:\t b \t", "A: \x80\xff", "a: b: c", "A_B: c"),
            *('A: "q\\""', "!#$%&'*+-.^_`|~: x", "A: =?;,"),
        )
        request = parse(head(*lines))
        self.assertEqual(
            request.fields, "".join(f"\r\n{x}" for x in ("Host: x", *lines)).encode("latin-1")
        )

    def test_broken_fields(self):
        broken = (
            *(
                "Content-Length : 3",
                "X : y",
                "X\t: y",
                ": y",
                "x",
                "bad header",
                "X-\xe9: y",
                "X(: y",
            ),
            *("X: a\r\n b", "X: a\r\n\tb", "X:\r\n chunked", " X: y", "\tX: y"),
            *(
                "X: a\rEvil: 1",
                "X: a\nEvil: 1",
                "X: a\n",
                "X: a\r",
                "X: a\0b",
                "X: \x7f",
                "X: \x1b",
            ),
            *("", "X: a\r\n", "X: \x0b", "X: \x0c", "X\r: a", "X\n: a", "X: a\r\r\nY: b"),
        )
        self.refuses(*((400, head(line)) for line in broken))
        # The same as the first field, and at the end of a head without Host.
        self.refuses(*((400, head(line, "Host: x", host=None)) for line in broken))
        self.refuses((400, b"GET / HTTP/1.1\nHost: x"), (400, b"GET / HTTP/1.1\n\nHost: x"))

    def test_hop_by_hop_and_forwarding_fields_are_cut(self):
        cut = (
            *("Connection: keep-alive", "KEEP-ALIVE: 5", "proxy-connection: x", "TE: trailers"),
            *(
                "te:",
                "Trailer: X-T",
                "Upgrade: websocket",
                "HTTP2-Settings: AA",
                "Expect:100-continue",
            ),
            *("Forwarded: for=1", "X-Forwarded-For: 1", "X-FORWARDED-PROTO: a", "X-Forwarded: b"),
            *("X_Forwarded_For: 1", "x-forwarded_host: 2", "X_forwarded-port: 3", "X-Real-IP: 4"),
            *("x_real_ip: 5", "X-Real_IP:6", "X-Forwarded-Client-Cert: 7", "X_Forwarded: 8"),
        )
        kept = (
            *("X-Connection: a", "Connection-X: b", "Tea: c", "T: d", "X-Forwarder: e", "TE-X: f"),
            *("X-Real-IPs: g", "Forwarded-By: h", "Keep: i", "Upgrade-Insecure-Requests: 1"),
            *("Content-Type: j", "Expected: k", "Hosts: l", "Cookies: m", "Proxy-Authorization: n"),
            *("Transfer: o", "X-ForwardedFor: p", "Trailers: q", "AX-Forwarded-For: r"),
        )
        for order in (
            cut + kept,
            kept + cut,
            [line for pair in zip(cut, kept, strict=False) for line in pair],
        ):
            wanted = [line for line in ("Host: x", *order) if line not in cut]
            request = parse(head(*order))
            self.assertEqual(request.fields.decode().split("\r\n")[1:], wanted)

    def test_framing_spelled_with_an_underscore_is_dropped_and_means_nothing(self):
        request = parse_request(
            head("Content_Length: 5", "A: b", "transfer_ENCODING: chunked"), LIMITS
        )
        self.assertEqual((request.length, request.fields), (None, b"\r\nHost: x\r\nA: b"))
        request = parse_request(head("Content_Length: 5", "Content-Length: 7"), LIMITS)
        self.assertEqual(request.length, 7)

    def test_fields_named_by_connection_are_cut(self):
        for options, cut in (
            ("X-A", "X-A"),
            ("x-a", "X-A"),
            (" , close ,\tX-A\t, ", "X-A"),
            ("x-a,x-c", "X-A X-C"),
            ("host", ""),
            ("x-forwarded-for", ""),
            ("x", ""),
            ("cookie", "Cookie"),
        ):
            request = parse(
                head("X-A: 1", f"Connection: {options}", "X-B: 2", "X-C: 3", "Cookie: d=4")
            )
            names = [line.split(":")[0] for line in request.fields.decode().split("\r\n")[1:]]
            left = [n for n in ("Host", "X-A", "X-B", "X-C", "Cookie") if n not in cut.split()]
            self.assertEqual(names, left, options)

    def test_connection_lines_add_up(self):
        request = parse(head("Connection: X-A", "X-A: 1", "X-B: 2", "connection: x-b, close"))
        self.assertEqual((request.fields, request.keep_alive), (b"\r\nHost: x", False))

    def test_cookies_are_noticed(self):
        for line, there in (("Cookie: a=b", True), ("COOKIE:", True), ("Cookies: a", False)):
            self.assertIs(parse(head(line)).cookies, there)


class FramingTests(HeadCase):
    def test_length(self):
        for value, length in (
            *(("0", 0), ("3", 3), ("003", 3), ("\t7 \t", 7), ("9" * 18, 10**18 - 1)),
        ):
            request = parse(post(f"Content-Length: {value}", "A: b"))
            self.assertEqual((request.length, request.fields), (length, b"\r\nHost: x\r\nA: b"))

    def test_bad_length(self):
        self.refuses(
            *(
                (400, post(f"Content-Length: {value}"))
                for value in (
                    *("", " ", "+3", "-1", "3,3", "3, 3", "1_0", "0x3", "3 3", "3;", "3.0", "\xb2"),
                    *("9" * 19, "0" * 19, "a", "1e1", "\xd9\xa3"),
                )
            ),
            (400, post("Content-Length: 3", "Content-Length: 3")),
            (400, post("Content-Length: 3", "content-length: 4")),
        )

    def test_chunked(self):
        for value in ("chunked", "Chunked", "CHUNKED", "\tchunked \t"):
            request = parse(post(f"Transfer-Encoding:{value}", "A: b"))
            self.assertEqual((request.length, request.fields), (CHUNKED, b"\r\nHost: x\r\nA: b"))

    def test_bad_coding(self):
        self.refuses(
            *(
                (status, post(*(f"Transfer-Encoding: {value}" for value in values)))
                for status, values in (
                    (501, ["gzip, chunked"]),
                    (501, ["GZIP,CHUNKED"]),
                    (501, ["gzip", "chunked"]),
                    (400, ["chunked, gzip"]),
                    (400, ["gzip"]),
                    (400, ["identity"]),
                    (400, ["xchunked"]),
                    (400, ["chunkedx"]),
                    (400, ["chunked;a=b"]),
                    (400, ['"chunked"']),
                    (400, ["chunked, chunked"]),
                    (400, ["chunked", "chunked"]),
                    (400, ["gzip, chunked, chunked"]),
                    (400, ["chunked,"]),
                    (400, [""]),
                    (400, ["chunked\xa0"]),
                    (400, ["chunk ed"]),
                )
            )
        )
        # An empty element is no coding before chunked, yet this isn't exactly `chunked` either.
        error = self.assertRaises(HeadError, parse, post("Transfer-Encoding: , chunked"))
        self.assertIn(error.status, (400, 501))

    def test_length_and_coding_exclude_each_other(self):
        both = ["Content-Length: 5", "Transfer-Encoding: chunked"]
        self.refuses((400, post(*both)), (400, post(*both[::-1])))
        self.refuses((400, post("Content-Length: 0", "Transfer-Encoding: identity")))

    def test_no_coding_in_http_1_0(self):
        self.refuses(
            *(
                (400, post(f"Transfer-Encoding: {v}", version="1.0"))
                for v in ("chunked", "gzip, chunked")
            )
        )
        # Above 1.1 counts as 1.1.
        self.assertEqual(parse(post("Transfer-Encoding: chunked", version="1.2")).length, CHUNKED)


class HostTests(HeadCase):
    def test_valid(self):
        for value, host in (
            ("shop.example.com", "shop.example.com"),
            ("SHOP.Example.COM.", "shop.example.com"),
            ("x:80", "x"),
            ("x.:80", "x"),
            ("x:", "x"),
            ("10.0.0.1:8080", "10.0.0.1"),
            ("[::1]", "[::1]"),
            ("[2001:DB8::A]:443", "[2001:db8::a]"),
            ("[::ffff:10.0.0.1]", "[::ffff:10.0.0.1]"),
            ("a_b-c~d.e", "a_b-c~d.e"),
        ):
            for padded in (value, f"\t {value} \t"):
                request = parse(head(host=padded))
                self.assertEqual(
                    (request.host, request.host_field), (host.encode(), value.encode())
                )
            self.assertEqual(host_of(value.encode()), naive_host(value.encode()))

    def test_invalid_in_any_version(self):
        values = (
            *(
                "",
                " ",
                "a b",
                "a,b",
                "a/b",
                "a@b",
                "user:pw@a",
                "a:b",
                "a:80:80",
                "a:-1",
                "a?b",
                "a#b",
            ),
            *("[::1", "::1", "[::1]x", "[x]", "[]", "[::1]80", "\xe9", "a\\b", "a;b", "<a>", '"a"'),
            *("a:123456", ":80", "[::1%25eth0]", "http://a"),
        )
        for version in ("1.0", "1.1"):
            self.refuses(*((400, head(host=v, line=f"GET / HTTP/{version}")) for v in values))
        for value in values:
            self.assertIsNone(naive_host(value.strip().encode("latin-1")), value)

    def test_brackets_hold_an_address(self):
        self.refuses(
            *((400, head(host=v)) for v in ("[....]", "[:::::]", "[1.2.3.4]", "[12345::]"))
        )

    def test_once(self):
        for version in ("1.0", "1.1"):
            line = f"GET / HTTP/{version}"
            self.refuses(
                (400, head("Host: b", line=line)),
                (400, head("host: x", line=line)),
                (400, head("A: b", "HOST:", line=line)),
            )

    def test_missing(self):
        self.refuses(
            (400, head(host=None)), (400, head("X-Host: a", host=None, line="GET / HTTP/1.9"))
        )
        request = parse(head("A: b", host=None, line="GET / HTTP/1.0"))
        self.assertEqual((request.host, request.host_field), (b"", b""))
        self.assertEqual(request.fields, b"\r\nA: b")


class TargetTests(HeadCase):
    def test_absolute_form(self):
        for target, path, host, field in (
            ("http://evil/", "/", "evil", "evil"),
            ("HTTP://Evil.:80/a?b", "/a?b", "evil", "Evil.:80"),
            ("https://e", "/", "e", "e"),
            ("http://e?q=/", "/?q=/", "e", "e"),
            ("http://[::1]:8/a//b", "/a//b", "[::1]", "[::1]:8"),
            ("http://e//f", "//f", "e", "e"),
        ):
            request = parse(
                head("A: b", "host: x", "C: d", host=None, line=f"GET {target} HTTP/1.1")
            )
            self.assertEqual(request.target, path.encode(), target)
            self.assertEqual((request.host, request.host_field), (host.encode(), field.encode()))
            self.assertEqual(request.fields, f"\r\nA: b\r\nHost: {field}\r\nC: d".encode())
            self.assertEqual(request.line, f"GET {target} HTTP/1.1".encode())

    def test_absolute_form_does_not_spare_the_host(self):
        # RFC 9112 3.2: 400 to any HTTP/1.1 request that lacks Host.
        self.refuses((400, head(host=None, line="GET http://e/ HTTP/1.1")))
        self.refuses((400, head("Host: b", line="GET http://e/ HTTP/1.1")))
        self.refuses((400, head(host="a b", line="GET http://e/ HTTP/1.1")))

    def test_absolute_form_gives_http_1_0_a_host(self):
        request = parse(head("A: b", host=None, line="GET http://e:1/f HTTP/1.0"))
        self.assertEqual((request.target, request.host), (b"/f", b"e"))
        hosts = [
            line for line in request.fields.split(b"\r\n") if line.lower().startswith(b"host:")
        ]
        self.assertEqual(hosts, [b"Host: e:1"])

    def test_other_forms(self):
        self.refuses(
            *(
                (400, head(line=f"GET {target} HTTP/1.1"))
                for target in (
                    *(
                        "*",
                        "a",
                        "a/b",
                        "?a",
                        "e:443",
                        "ftp://a/",
                        "xhttp://e/",
                        "https:",
                        "http:/a",
                    ),
                    *("http:a", "http://", "http:///", "http://?q", "http://u@e/", "http://e:x/"),
                    *("http://e\\f/", "http://e,f/", "http://[::1/", "http:\\\\e/"),
                )
            )
        )
        # It begins with "/", so it is a path: whatever the bytes behind look like.
        self.assertEqual(parse(head(line="GET //e/f HTTP/1.1")).host, b"x")

    def test_asterisk(self):
        self.assertEqual(parse(head(line="OPTIONS * HTTP/1.1")).target, b"*")
        # RFC 9112 3.2.4: an empty path means the server here too, a query doesn't.
        self.assertEqual(parse(head(line="OPTIONS http://e:1 HTTP/1.1")).target, b"*")
        self.assertEqual(parse(head(line="OPTIONS http://e:1/ HTTP/1.1")).target, b"/")
        self.assertEqual(parse(head(line="OPTIONS http://e?a HTTP/1.1")).target, b"/?a")
        self.refuses(
            (400, head(line="OPTIONS ** HTTP/1.1")), (400, head(line="options * HTTP/1.1"))
        )

    def test_methods_not_served(self):
        self.refuses(
            (405, head(line="CONNECT a:1 HTTP/1.1")),
            (405, head(line="CONNECT / HTTP/1.1")),
            (405, head(line="TRACE / HTTP/1.1")),
            (405, head(line="TRACE http://a/ HTTP/1.1")),
        )
        self.assertEqual(parse(head(line="connect / HTTP/1.1")).method, b"connect")


class ConnectionTests(HeadCase):
    def test_keep_alive(self):
        for version, options, keep in (
            ("1.1", None, True),
            ("1.1", "close", False),
            ("1.1", "CLOSE", False),
            ("1.1", "foo, Close", False),
            ("1.1", "keep-alive, close", False),
            ("1.1", "closed", True),
            ("1.1", "", True),
            ("1.1", "close, te", False),
            ("1.2", None, True),
            ("1.0", None, False),
            ("1.0", "Keep-Alive", True),
            ("1.0", "x ,\tkeep-alive ", True),
            ("1.0", "close, keep-alive", False),
            ("1.0", "keep", False),
        ):
            lines = () if options is None else (f"Connection: {options}",)
            request = parse(head(*lines, line=f"GET / HTTP/{version}"))
            self.assertIs(request.keep_alive, keep, (version, options))

    def test_expect(self):
        for value in ("100-continue", "100-Continue", "\t100-CONTINUE "):
            self.assertTrue(parse(post(f"Expect:{value}", "Content-Length: 1")).expects_continue)
        self.refuses(
            *((417, post(f"Expect: {v}")) for v in ("foo", "100", "100-continue, foo", "200-ok")),
            (417, post("Expect: 100-continue", "Expect: foo")),
        )

    def test_http_1_0_expects_nothing(self):
        # RFC 9110 10.1.1: the expectation of an HTTP/1.0 request is ignored.
        for value in ("100-continue", "foo"):
            request = parse(post(f"Expect: {value}", "Content-Length: 3", version="1.0"))
            self.assertEqual((request.expects_continue, request.fields), (False, b"\r\nHost: x"))


class UpgradeTests(HeadCase):
    def test_named_by_connection(self):
        for lines, upgrade in (
            (("Connection: upgrade", "Upgrade: websocket"), b" websocket"),
            (("upgrade: a/1", "connection: x, UPGRADE", "Upgrade: b"), b" a/1, b"),
            (("Upgrade: websocket",), b""),
            (("Connection: upgrade",), b""),
            (("Connection: close", "Upgrade: websocket"), b""),
            (("Connection: upgrade", "Upgrade: websocket", "Content-Length: 0"), b" websocket"),
            (("Connection: upgrade", "Upgrade: websocket", "Content-Length: 1"), b""),
            (("Connection: upgrade", "Upgrade: websocket", "Transfer-Encoding: chunked"), b""),
        ):
            request = parse_request(head(*lines), LIMITS)
            self.assertEqual(request.upgrade, upgrade, lines)
            self.assertEqual(request.fields, b"\r\nHost: x")

    def test_not_by_http_1_0(self):
        lines = ("Connection: upgrade", "Upgrade: websocket")
        self.assertEqual(parse_request(head(*lines, line="GET / HTTP/1.0"), LIMITS).upgrade, b"")


class ForwardingTests(HeadCase):
    def test_cut_out_and_kept_in_order(self):
        request = parse_request(
            head(
                "X-Forwarded-For: 192.0.2.1",
                "forwarded: for=192.0.2.2 ",
                "X_FORWARDED_PROTO:https",
                "Upgrade: x",
                "TE: trailers",
                "x-forwarded-for: 192.0.2.3",
                "X-Real-IP:\t192.0.2.4",
            ),
            LIMITS,
        )
        self.assertEqual(
            list(request.forwarding),
            [
                (b"x-forwarded-for", b"192.0.2.1"),
                (b"forwarded", b"for=192.0.2.2"),
                (b"x_forwarded_proto", b"https"),
                (b"x-forwarded-for", b"192.0.2.3"),
                (b"x-real-ip", b"192.0.2.4"),
            ],
        )
        self.assertEqual(request.fields, b"\r\nHost: x")

    def test_none(self):
        self.assertEqual(list(parse_request(head(), LIMITS).forwarding), [])


class LimitTests(HeadCase):
    def test_target(self):
        limits = HeadLimits(target=100, fields=10)
        for length in (99, 100):
            data = head(line=f"GET {'/' * length} HTTP/1.1")
            self.assertEqual(len(parse_request(data, limits).target), length)
        self.refuses(
            (414, head(line=f"GET {'/' * 101} HTTP/1.1")),
            (414, head(line=f"GET {'/' * 5000} HTTP/1.1")),
            (414, head("broken", line=f"GET {'/' * 5000} HTTP/1.1")),
            limits=limits,
        )

    def test_fields(self):
        limits = HeadLimits(target=100, fields=10)
        lines = [f"X-{n}: {n}" for n in range(9)]
        self.assertEqual(parse_request(head(*lines), limits).fields.count(b"\r\n"), 10)
        self.refuses(
            (431, head(*lines, "Y: z")), (431, head(*lines, *lines, "broken")), limits=limits
        )

    def test_a_header_of_17_kib_is_fine(self):
        self.assertIn(b"a" * 17000, parse(head("X-A: " + "a" * 17000)).fields)


def naive_verdict(data: bytes):
    """What the rules say of a head, read line by line: None, or what `parse_request` finds."""
    try:
        method, target, version, fields = naive_request(data)
    except ValueError:
        return None
    hosts, lengths = values_of(fields, b"host"), values_of(fields, b"content-length")
    codings, expects = values_of(fields, b"transfer-encoding"), values_of(fields, b"expect")
    http10 = version == b"1.0"
    host = naive_host(hosts[0]) if hosts else b""
    if not version.startswith(b"1.") or len(fields) > LIMITS.fields:
        return None
    if method in (b"CONNECT", b"TRACE") or len(hosts) > 1 or host is None:
        return None
    if not hosts and not http10:
        return None
    length = None
    if lengths:
        if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
            return None
        length = int(lengths[0])
    if codings:
        if http10 or lengths or [value.lower() for value in codings] != [b"chunked"]:
            return None
        length = CHUNKED
    if expects and not http10 and [value.lower() for value in expects] != [b"100-continue"]:
        return None
    lines = naive_lines(data)[1:]
    if target.lower().startswith((b"http://", b"https://")):
        authority = target.split(b"://", 1)[1]
        end = min((authority + b"/").index(b"/"), (authority + b"?").index(b"?"))
        authority, rest = authority[:end], authority[end:]
        host = naive_host(authority)
        if host is None:
            return None
        lines = [b"Host: " + authority if x.lower().startswith(b"host:") else x for x in lines]
        if not hosts:
            lines.insert(0, b"Host: " + authority)
        if not rest:
            target = b"*" if method == b"OPTIONS" else b"/"
        else:
            target = rest if rest.startswith(b"/") else b"/" + rest
    elif target == b"*":
        if method != b"OPTIONS":
            return None
    elif not target.startswith(b"/"):
        return None
    options = options_of(fields)
    kept = []
    for line in lines:
        name = line.split(b":")[0].lower()
        plain = name.replace(b"_", b"-")
        forwarding = plain == b"x-real-ip" or (plain + b"-").startswith(b"x-forwarded-")
        if name == b"host" or not (name in DROPPED or name in options or forwarding):
            kept.append(line)
    keep = b"close" not in options and (not http10 or b"keep-alive" in options)
    return method, target, host, length, sorted(kept), keep


TEXT = st.text(st.characters(max_codepoint=255), max_size=5)
#: Fields that are right by themselves, with the names that a rule knows among them.
RIGHT_FIELDS = st.builds(
    "{}:{}{}".format,
    st.sampled_from(
        [
            "Accept",
            "X-A",
            "X-B",
            "x-a",
            "Connection",
            "TE",
            "Cookie",
            "Upgrade",
            "keep-alive",
            "Trailer",
            "Date",
            "X-Forwarded-For",
            "x_real_ip",
            "X_Forwarded",
            "X-Forwarder",
            "Forwarded",
            "Proxy-Connection",
        ]
    ),
    st.sampled_from(["", " ", "\t "]),
    st.sampled_from(
        ["", "a", "X-A", "x-b, close", "keep-alive", "host,x-a", "a=b; c=d ", "\xe9\t:"]
    ),
)
ODD_FIELDS = st.one_of(
    st.sampled_from(
        (
            *(
                "Content-Length: 5",
                "Content-Length: 3,3",
                "content-length: +1",
                "Content-Length: 0",
            ),
            *("Transfer-Encoding: chunked", "transfer-encoding:CHUNKED", "Transfer-Encoding: gzip"),
            *(
                "Expect: 100-continue",
                "Expect: a",
                "Host: x",
                "A : b",
                " A: b",
                "A",
                "A: \r",
                "A: \0",
            ),
        )
    ),
    st.builds("{}:{}".format, TEXT, TEXT),
)
LINES = st.one_of(
    st.sampled_from(["GET / HTTP/1.1", "POST /a?b HTTP/1.1", "GET http://e/f HTTP/1.1"]),
    st.builds(
        "{} {} HTTP/{}".format,
        st.sampled_from(["GET", "OPTIONS", "x", "CONNECT"]),
        st.sampled_from(
            [
                "/",
                "/a?b",
                "*",
                "http://e",
                "http://E.:80/",
                "https://e?q",
                "a:1",
                "//x",
                "http://u@e/",
                "/a#b",
                "/é",
            ]
        ),
        st.sampled_from(["1.1", "1.0", "1.2", "2.0"]),
    ),
)
#: Heads that are often valid, and often almost.
HEADS = st.builds(
    lambda line, fields: "\r\n".join((line, *fields)).encode("latin-1"),
    LINES,
    st.builds(
        lambda *parts: [line for part in parts for line in part],
        st.lists(RIGHT_FIELDS, max_size=4),
        st.sampled_from([("Host: x",), ("host:Shop.example:80 ",), ("Host: [::1]",), ()]),
        st.lists(ODD_FIELDS, max_size=1),
        st.lists(RIGHT_FIELDS, max_size=3),
        st.lists(ODD_FIELDS, max_size=1),
    ),
)


#: Heads that are valid but for chance.
RIGHT_HEADS = st.builds(
    lambda line, *parts: "\r\n".join((line, *(x for part in parts for x in part))).encode(
        "latin-1"
    ),
    st.sampled_from(
        (
            *(
                "GET / HTTP/1.1",
                "POST /a?b HTTP/1.2",
                "GET http://E.:8/f HTTP/1.1",
                "x //e HTTP/1.0",
            ),
            *("OPTIONS * HTTP/1.1", "OPTIONS https://e HTTP/1.1", "PUT http://e?q HTTP/1.0"),
        )
    ),
    st.lists(RIGHT_FIELDS, max_size=4),
    st.sampled_from([("Host: x",), ("host:Shop.example:80 ",), ("Host: [::1]",), ()]),
    st.lists(RIGHT_FIELDS, max_size=2),
    st.sampled_from(
        [(), ("Content-Length: 05 ",), ("transfer-encoding:CHUNKED",), ("Expect: 100-Continue",)]
    ),
    st.lists(RIGHT_FIELDS, max_size=2),
)


@st.composite
def mutated_heads(draw) -> bytes:
    """A head with a few bytes cut out, put in or doubled."""
    data = draw(HEADS)
    for _ in range(draw(st.integers(1, 3))):
        at, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        middle = draw(
            st.one_of(
                st.sampled_from(
                    [b"", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\0", b":", b",", b"\xff"]
                ),
                st.just(data[at:end] * 2),
                st.binary(max_size=2),
            )
        )
        data = data[:at] + middle + data[draw(st.sampled_from([at, end])) :]
    return data


class PropertyTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=600)
    @given(st.one_of(RIGHT_HEADS, HEADS, mutated_heads()))
    @example(b"GET http://e/ HTTP/1.0")
    @example(b"GET http://e/ HTTP/1.1")
    def test_the_naive_parser_agrees(self, data):
        verdict = naive_verdict(data)
        try:
            request = parse(data)
        except HeadError:
            self.assertIsNone(verdict, data)
            return
        self.assertEqual(
            (
                request.method,
                request.target,
                request.host,
                request.length,
                sorted(request.fields.split(b"\r\n")[1:]),
                request.keep_alive,
            ),
            verdict,
        )

    @settings(deadline=None, max_examples=600)
    @given(st.one_of(st.binary(), st.text("GET /HTP1.\r\n:a\t", max_size=40).map(str.encode)))
    def test_any_bytes_are_a_head_or_a_head_error(self, data):
        try:
            request = parse(data)
        except HeadError as error:
            self.assertIn(error.status, (400, 405, 414, 417, 431, 501, 505))
        else:
            self.assertTrue(request.host or request.minor == 0)
            self.assertNotIn(HEAD_END, request.fields)


class CostTests(SynchronousTestCase):
    """Each shape, valid or not, is read in time proportional to its size."""

    def test_linear(self):
        limits = HeadLimits(target=1 << 20, fields=1 << 20)
        start = b"GET / HTTP/1.1\r\nHost: x"

        def call(data):
            try:
                parse_request(data, limits)
            except HeadError:
                pass

        for unit in (
            *(
                b"\r\nA:b",
                b"\r\nA:",
                b"\r\nX-Forwarded-A: b",
                b"\r\nConnection: a",
                b"\r\nCookie: a",
            ),
            *(
                b"\r\nTransfer-Encoding: a",
                b"\r\nExpect: a",
                b"\r\n",
                b"\r",
                b"\n",
                b"\r\nA",
                b"A: ",
            ),
        ):
            for end in (b"", b"\0", b"\r\nA: b\r"):
                assert_linear(self, call, lambda n, u=unit, e=end: start + u * (n // len(u)) + e)
        for first in (
            *(b"\r\nX:", b"\r\nX-Forwarded-", b"\r\nX-Forwarded", b"\r\nConnection:", b"\r\nHost:"),
            *(b"\r\nTransfer-Encoding:", b"\r\nContent-Length:", b"\r\nExpect:", b"\r\n", b" "),
            *(b"\r\nX-A: b\r\nConnection: x", b"\r\nCookie:"),
        ):
            for unit in (b" ", b"\t ", b"a", b",", b"a,", b":", b"-a", b"0"):
                assert_linear(
                    self, call, lambda n, f=first, u=unit: start + f + u * (n // len(u)) + b"\0"
                )
                assert_linear(self, call, lambda n, f=first, u=unit: start + f + u * (n // len(u)))
        for line in (b"a", b" ", b"G ", b"GET ", b"GET /", b"GET http://", b"GET http://a?"):
            for unit in (b"a", b"/", b" ", b":", b"."):
                assert_linear(
                    self, call, lambda n, f=line, u=unit: f + u * n + b" HTTP/1.1\r\nHost: x"
                )
