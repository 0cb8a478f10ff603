"""web.md rule 3: which heads, targets and hosts are taken, and what of them goes on.

Chunked bodies are in test_rule_03_chunks.

Shown elsewhere:
- deadline and size hold whatever the drip: tests.web.test_http1 `test_dripping_moves_no_deadline`,
  `test_dripped_head_is_read_once`, `test_endless_head_is_refused_before_its_end`
- one empty line before the request, in pieces: tests.web.test_http1
  `test_empty_line_before_a_request`, `test_empty_lines_count_the_same_however_they_come`
- case and order of all fields: tests.web.test_exchange `test_the_request_on_the_wire`
- the answer reaches who still sends: tests.web.test_http1
  `test_answer_reaches_a_client_that_still_sends`
"""

from tests.web.harness import certificate, client_context, in_thread
from tests.web.rules.table import OK, Row, RuleTest, head, request

BAD = "400 Bad Request"
GET = b"GET / HTTP/1.1"
HOST = b"Host: a"
#: What follows a refused head, so that a lenient reading would bring a second request forth.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def refused(what: str, *lines: bytes, status: str = BAD) -> Row:
    """A head that is refused."""
    return Row(what, head(*lines) + SMUGGLED, status)


def raw(what: str, sent: bytes, status: str = BAD) -> Row:
    """The same, with line ends of its own."""
    return Row(what, sent, status)


def taken(what: str, sent: bytes, seen: bytes, then: str = "kept") -> Row:
    """A request that is answered by the backend."""
    return Row(what, sent, OK, seen, then)


class Strict(RuleTest):
    """400, 501, 505, 431, 414 or 405, then the connection closes; no backend sees anything."""

    def refusals(self, rows: list[Row]) -> None:
        """Over plain TCP and over TLS, where the end is a close_notify."""
        backend = self.recorder()
        self.serve(
            tls=[certificate("ecdsa", "a.example.com")],
            limits={"head": 4096, "target": 1000, "headers": 20},
        )
        self.check(rows, backend)
        self.check(rows, backend, context=client_context())
        self.done()
        self.assertEqual(backend.saw(), [])
        self.assertEqual(self.proxy.counters.requests_refused, 2 * len(rows))

    @in_thread
    def test_bare_cr_or_lf(self):
        self.refusals(
            [
                raw("LF ends all lines", b"GET / HTTP/1.1\nHost: a\n\n" + SMUGGLED),
                raw("LF ends the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n" + SMUGGLED),
                raw("LF ends a field", b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n" + SMUGGLED),
                raw("LF ends the head", b"GET / HTTP/1.1\r\nHost: a\r\n\n" + SMUGGLED),
                raw("LF CR LF ends the head", b"GET / HTTP/1.1\r\nHost: a\n\r\n" + SMUGGLED),
                raw("LF before the request", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
                refused("CR in a value", GET, HOST, b"X: a\rb"),
                refused("CR ends a field", GET, b"Host: a\rX: y"),
                refused("CR CR LF", GET, b"Host: a\r"),
                refused("CR before a name", GET, HOST, b"\rX: y"),
                refused("CR in the request line", b"GET /\r HTTP/1.1", HOST),
                refused("CR ends the request line", b"GET / HTTP/1.1\rHost: a", b"X: y"),
                raw("CR before the request", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
                raw("two empty lines before it", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ]
        )

    @in_thread
    def test_obs_fold_and_space_before_the_colon(self):
        self.refusals(
            [
                refused("fold by a space", GET, HOST, b"X: a", b" b"),
                refused("fold by a tab", GET, HOST, b"X: a", b"\tb"),
                refused("fold of nothing", GET, HOST, b"X: a", b" "),
                refused("fold of the request line", GET, b" X: y", HOST),
                refused("fold of Host", GET, b"Host: a", b" b"),
                refused("fold of the coding", GET, HOST, b"Transfer-Encoding:", b" chunked"),
                refused("space before the colon", GET, HOST, b"X : y"),
                refused("tab before the colon", GET, HOST, b"X\t: y"),
                refused("space before Host's colon", GET, b"Host : a"),
                refused("space before the coding's", GET, HOST, b"Transfer-Encoding : chunked"),
                refused("space before the length's", GET, HOST, b"Content-Length : 5"),
                refused("space in a name", GET, HOST, b"X Y: z"),
                refused("no name", GET, HOST, b": y"),
                refused("no colon", GET, HOST, b"X"),
                refused("a quote in a name", GET, HOST, b'"X": y'),
                refused("a high byte in a name", GET, HOST, b"X\xe4: y"),
                refused("a slash in a name", GET, HOST, b"X/Y: z"),
            ]
        )

    @in_thread
    def test_control_bytes(self):
        control = [byte for byte in (*range(32), 127) if byte not in b"\t\r\n"]
        self.refusals(
            [refused(f"{byte:#x} in a value", GET, HOST, b"X: a%cb" % byte) for byte in control]
            + [
                refused("NUL ends a value", GET, HOST, b"X: a\0"),
                refused("NUL in a name", GET, HOST, b"X\0: a"),
                refused("NUL in Host", GET, b"Host: a\0b"),
                refused("NUL in the method", b"G\0T / HTTP/1.1", HOST),
                refused("NUL in the target", b"GET /\0 HTTP/1.1", HOST),
                refused(
                    "vertical tab before chunked", GET, HOST, b"Transfer-Encoding: \x0bchunked"
                ),
            ]
        )

    @in_thread
    def test_length_and_coding(self):
        def coding(value: bytes, status: str = BAD) -> Row:
            return refused(repr(value), GET, HOST, b"Transfer-Encoding: " + value, status=status)

        chunks, length = b"Transfer-Encoding: chunked", b"Content-Length: 5"
        unknown = "501 Not Implemented"
        self.refusals(
            [
                refused("length and coding", GET, HOST, length, chunks),
                refused("coding and length", GET, HOST, chunks, length),
                refused("coding and length 0", GET, HOST, chunks, b"Content-Length: 0"),
                refused("length between codings", GET, HOST, chunks, length, chunks),
                refused("identity and length", GET, HOST, b"transfer-encoding: identity", length),
                coding(b"gzip, chunked", unknown),
                coding(b"gzip , \tChunked", unknown),
                coding(b"identity, chunked", unknown),
                refused(
                    "in two lines",
                    *(GET, HOST, b"Transfer-Encoding: gzip", chunks),
                    status=unknown,
                ),
                *map(coding, (b"gzip", b"chunked, gzip", b"chunked, chunked", b"identity")),
                *map(coding, (b"", b"xchunked", b"chunkedx", b'"chunked"', b"chunked;q=1")),
                *map(
                    coding, (b", chunked", b"chunked,", b"chunk ed", b"'chunked'", b"\xa0chunked")
                ),
                refused("chunked in two lines", GET, HOST, chunks, chunks),
                refused("coding in HTTP/1.0", b"GET / HTTP/1.0", HOST, chunks),
                refused("coding of no use in HTTP/1.0", b"GET / HTTP/1.0", b"Transfer-Encoding: x"),
            ]
        )

    @in_thread
    def test_content_length_stands_once_with_1_to_18_digits(self):
        values = (b"", b"+5", b"-5", b"5a", b"a", b"0x5", b"5.0", b"5 5", b"5,5", b"5, 5", b'"5"')
        length = b"Content-Length: 5"
        self.refusals(
            [
                *(refused(repr(v), GET, HOST, b"Content-Length: " + v) for v in values),
                refused("19 digits", GET, HOST, b"Content-Length: " + b"0" * 18 + b"5"),
                refused("19 nines", GET, HOST, b"Content-Length: " + b"9" * 19),
                refused("300 digits", GET, HOST, b"Content-Length: " + b"1" * 300),
                refused("Arabic digits", GET, HOST, "Content-Length: \u0665".encode()),
                refused("twice the same", GET, HOST, length, length),
                refused("two different", GET, HOST, length, b"content-length: 6"),
                refused("once empty", GET, HOST, length, b"Content-Length:"),
                refused("in HTTP/1.0 too", b"GET / HTTP/1.0", HOST, length, length),
            ]
        )

    @in_thread
    def test_host(self):
        invalid = (b"", b" ", b"a b", b"a/b", b"a@b", b"a,b", b"a?b", b"a#b", b"a\\b", b"a;b")
        invalid += (b"http://a", b"a:80a", b"a:80:80", b"a:123456", b"[::1", b"::1", b"[zz]", b"[]")
        invalid += (b"[::1]x", b"[1.2.3.4]", b"a\tb", b"\xe4", b"a%00", b'"a"', b"<a>", b"a, a")
        ten = b"GET / HTTP/1.0"
        self.refusals(
            [
                refused("none in 1.1", GET),
                refused("none in 1.1, with fields", GET, b"X-Host: a", b"Hos: a"),
                refused("none in 1.7", b"GET / HTTP/1.7"),
                refused("none beside an absolute target", b"GET http://a/ HTTP/1.1"),
                refused("two the same", GET, HOST, HOST),
                refused("two different", GET, HOST, b"X: y", b"hOsT: b"),
                refused("two in 1.0", ten, HOST, HOST),
                refused("two beside an absolute target", b"GET http://a/ HTTP/1.1", HOST, HOST),
                refused("invalid beside an absolute target", b"GET http://a/ HTTP/1.1", b"Host: ?"),
                *(refused(f"{value!r} in 1.1", GET, b"Host: " + value) for value in invalid),
                *(refused(f"{value!r} in 1.0", ten, b"Host: " + value) for value in invalid),
            ]
        )

    @in_thread
    def test_versions(self):
        def version(text: bytes, status: str) -> Row:
            return refused(repr(text), b"GET / " + text, HOST, status=status)

        major = "505 HTTP Version Not Supported"
        self.refusals(
            [
                *(version(b"HTTP/%b" % v, major) for v in (b"2.0", b"0.9", b"3.0", b"9.9", b"2.1")),
                refused("the preface of HTTP/2", b"PRI * HTTP/2.0", status=major),
                *(version(v, BAD) for v in (b"HTTP/1", b"HTTP/1.", b"HTTP/1.10", b"HTTP/11.1")),
                *(version(v, BAD) for v in (b"http/1.1", b"Http/1.1", b"HTTP/ 1.1", b"HTTP/1,1")),
                *(version(v, BAD) for v in (b"HTTPS/1.1", b"1.1", b"", b"HTTP/x.1", b"HTTP/+1.1")),
                refused("HTTP/0.9", b"GET /"),
                refused("a method alone", b"GET"),
            ]
        )

    @in_thread
    def test_request_line(self):
        self.refusals(
            [
                refused("two spaces before the target", b"GET  / HTTP/1.1", HOST),
                refused("two spaces behind it", b"GET /  HTTP/1.1", HOST),
                refused("a tab before it", b"GET\t/ HTTP/1.1", HOST),
                refused("a tab behind it", b"GET /\tHTTP/1.1", HOST),
                refused("a space at the end", b"GET / HTTP/1.1 ", HOST),
                refused("a space at the beginning", b" GET / HTTP/1.1", HOST),
                refused("a word more", b"GET / x HTTP/1.1", HOST),
                refused("no target", b"GET HTTP/1.1", HOST),
                refused("no method", b"/ HTTP/1.1", HOST),
                refused("a method that is no token", b"G(T / HTTP/1.1", HOST),
                refused("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
                refused("a field first", HOST, GET),
            ]
        )

    @in_thread
    def test_target(self):
        def target(text: bytes, method: bytes = b"GET", status: str = BAD) -> Row:
            return refused(
                f"{method!r} {text!r}", method + b" " + text + b" HTTP/1.1", HOST
            )._replace(status=status)

        never = "405 Method Not Allowed"
        self.refusals(
            [
                *map(
                    target,
                    (b"/#", b"/a#b", b"#", b"/\x7f", b"/\x80", b"/\xe4", b"/a\x01", b"/a\tb"),
                ),
                *map(target, (b"a", b"a/b", b"?x", b"*", b"*/", b"/\x00", b".", b"\\")),
                *map(
                    target, (b"http:/a", b"http://", b"http:///x", b"http://u@a/", b"http://a b/")
                ),
                *map(target, (b"ftp://a/", b"http:a", b"://a/", b"http://a:b/", b"http://?x")),
                *map(target, (b"ws://a/", b"http://[::1/", b"http://a\\/", b"httpx://a/", b"a:80")),
                target(b"*", b"POST"),
                target(b"**", b"OPTIONS"),
                target(b"a:443", b"CONNECT", never),
                target(b"/", b"CONNECT", never),
                target(b"/", b"TRACE", never),
                target(b"*", b"TRACE", never),
                target(b"http://a/", b"TRACE", never),
            ]
        )

    @in_thread
    def test_size(self):
        large, long = "431 Request Header Fields Too Large", "414 URI Too Long"
        self.refusals(
            [
                refused("21 fields", GET, HOST, *[b"X: y"] * 20, status=large),
                refused("4 KiB and more", GET, HOST, b"X: " + b"y" * 4096, status=large),
                refused("a name of 4 KiB", GET, HOST, b"X" * 4096 + b": y", status=large),
                refused(
                    "a target of 1001", b"GET /" + b"x" * 1000 + b" HTTP/1.1", HOST, status=long
                ),
                refused("one of 4 KiB", b"GET /" + b"x" * 4096 + b" HTTP/1.1", HOST, status=long),
                raw("one without an end", b"GET /" + b"x" * 10_000, long),
                raw("a field without an end", GET + b"\r\nX: " + b"x" * 10_000, large),
                raw("fields without an end", GET + b"\r\n" + b"X: y\r\n" * 2000, large),
            ]
        )


class Legal(RuleTest):
    """What is taken, byte for byte."""

    @in_thread
    def test_heads(self):
        backend = self.recorder()
        self.serve(limits={"head": 4096, "target": 1000, "headers": 20})
        high = bytes(range(0x80, 0x100))
        visible = bytes(b for b in range(0x21, 0x7F) if b != 0x23)
        token = b"!#$%&'*+-.^_`|~09azAZ"
        own = b"Host: 127.0.0.1:%d" % self.port
        bare = head(
            GET,
            b"X-Forwarded-For: 127.0.0.1",
            b"X-Forwarded-Proto: http",
            own,
            b"Connection: close",
        )
        same = [
            ("HTAB in a value", (HOST, b"X: a\tb")),
            ("HTAB around a value", (HOST, b"X:\ta\t")),
            ("0x80-0xFF in a value", (HOST, b"X: " + high)),
            ("an empty value", (HOST, b"X:")),
            ("no space behind the colon", (HOST, b"X:y")),
            ("many spaces", (HOST, b"X:    y   ")),
            ("every byte of a token in a name", (HOST, token + b": y")),
            ("a name twice, apart", (b"X: 1", HOST, b"x: 2")),
            ("20 fields", (HOST, *[b"X: y"] * 19)),
        ]
        self.check(
            [
                *(taken(what, head(GET, *fields), request(GET, *fields)) for what, fields in same),
                taken("an empty line before it", b"\r\n" + head(GET, HOST), request(GET, HOST)),
                taken("a minor version above 1", head(b"GET / HTTP/1.9", HOST), request(GET, HOST)),
                taken("1.0 without Host", head(b"GET / HTTP/1.0"), bare, "closed"),
                taken("1.0 with Host", head(b"GET / HTTP/1.0", HOST), request(GET, HOST), "closed"),
                taken(
                    "1.0 that asks to stay",
                    head(b"GET / HTTP/1.0", HOST, b"Connection: keep-alive"),
                    request(GET, HOST),
                ),
                taken(
                    "every byte of a target",
                    head(b"GET /" + visible + b" HTTP/1.1", HOST),
                    request(b"GET /" + visible + b" HTTP/1.1", HOST),
                ),
                taken(
                    "a target of 1000",
                    head(b"GET /" + b"x" * 999 + b" HTTP/1.1", HOST),
                    request(b"GET /" + b"x" * 999 + b" HTTP/1.1", HOST),
                ),
                taken(
                    "any token is a method",
                    head(b"m-Search! / HTTP/1.1", HOST),
                    request(b"m-Search! / HTTP/1.1", HOST),
                ),
                taken(
                    "two slashes are a path",
                    head(b"GET //b/c HTTP/1.1", HOST),
                    request(b"GET //b/c HTTP/1.1", HOST),
                ),
                taken(
                    "escapes and dots stay",
                    head(b"GET /%7e/../%2E./a%2Fb?/../x HTTP/1.1", HOST),
                    request(b"GET /%7e/../%2E./a%2Fb?/../x HTTP/1.1", HOST),
                ),
                taken(
                    "OPTIONS *",
                    head(b"OPTIONS * HTTP/1.1", HOST),
                    request(b"OPTIONS * HTTP/1.1", HOST),
                ),
            ],
            backend,
        )
        self.done()

    @in_thread
    def test_hosts(self):
        backend = self.recorder()
        self.serve()
        hosts = (
            b"a",
            b"A.Example.",
            b"a:80",
            b"a:",
            b"1.2.3.4:99999",
            b"[::1]:80",
            b"[2001:DB8::1]",
        )
        hosts += (b"a_b.c-d~e",)
        for host in hosts:
            for name in (b"Host: ", b"hOST:\t"):
                line = name + host
                row = taken(repr(line), head(GET, line), request(GET, line, host=host))
                self.check([row], backend)
        self.done()

    @in_thread
    def test_absolute_form_replaces_host(self):
        backend = self.recorder()
        self.serve()

        def row(target: bytes, host: bytes, path: bytes, method: bytes = b"GET") -> Row:
            sent = head(method + b" " + target + b" HTTP/1.1", b"X: 1", b"hOST: other:1", b"Y: 2")
            line = method + b" " + path + b" HTTP/1.1"
            seen = request(line, b"X: 1", b"Host: " + host, b"Y: 2", host=host)
            return taken(repr(target), sent, seen)

        rows = [
            row(b"http://b/x?y", b"b", b"/x?y"),
            row(b"HTTPS://B.Example:81/", b"B.Example:81", b"/"),
            row(b"http://b", b"b", b"/"),
            row(b"http://b?q=/", b"b", b"/?q=/"),
            row(b"http://[::1]:8/../a%20", b"[::1]:8", b"/../a%20"),
            row(b"http://b", b"b", b"*", b"OPTIONS"),
            row(b"http://b/", b"b", b"/", b"OPTIONS"),
        ]
        rows.append(
            taken(
                "it gives HTTP/1.0 a Host",
                head(b"GET http://b/x HTTP/1.0"),
                request(b"GET /x HTTP/1.1", b"Host: b", host=b"b"),
                "closed",
            )
        )
        self.check(rows, backend)
        self.done()

    @in_thread
    def test_exactly_one_framing_field(self):
        """None without a body; Content-Length or Transfer-Encoding never as they came."""
        backend = self.recorder()
        self.serve()
        post = b"POST / HTTP/1.1"
        chunks = b'0003;x="y"\r\nabc\r\n2\r\nde\r\n000\r\nTrailer: x\r\n\r\n'
        rows = []
        for what, fields, sent, framing, body in (
            ("no body", (), b"", b"", b""),
            ("length 0", (b"Content-Length: 0",), b"", b"Content-Length: 0", b""),
            ("zeros", (b"content-length:  0005\t",), b"abcde", b"Content-Length: 5", b"abcde"),
            (
                "18 digits",
                (b"Content-Length: " + b"0" * 17 + b"5",),
                b"abcde",
                b"Content-Length: 5",
                b"abcde",
            ),
            ("chunked", (b"Transfer-Encoding: chunked",), chunks, b"Content-Length: 5", b"abcde"),
            (
                "of any case",
                (b"TRANSFER-encoding:\tCHUnked ",),
                chunks,
                b"Content-Length: 5",
                b"abcde",
            ),
            (
                "an empty one",
                (b"Transfer-Encoding: chunked",),
                b"0\r\n\r\n",
                b"Content-Length: 0",
                b"",
            ),
        ):
            rows.append(
                taken(
                    what,
                    head(post, b"A: 1", *fields, HOST, b"B: 2") + sent,
                    request(post, b"A: 1", HOST, b"B: 2", framing=framing, body=body),
                )
            )
        self.check(rows, backend)
        self.done()

    @in_thread
    def test_hosts_and_paths_compare_on_a_copy(self):
        """Without case, port and final dot; unreserved escapes decoded, dot segments resolved."""
        static, rest = self.recorder(), self.recorder()
        pools = {
            name: {"backends": {"one": {"address": f"127.0.0.1:{backend.port}"}}}
            for name, backend in (("static", static), ("rest", rest))
        }
        self.serve(
            pools=pools,
            sites=[
                {"hosts": ["a.example"], "paths": ["/s~/"], "pool": "static", "schedule": "url"},
                {"hosts": ["*"], "pool": "rest", "schedule": "url"},
            ],
        )
        inside = (b"/s~/x", b"/s%7e/x", b"/%73~/x", b"/b/../s~/", b"/b/%2e%2E/s~/x", b"/./s~/?/..")
        outside = (b"/s~", b"/S~/x", b"/s~/..", b"/s~/%2e%2e/x", b"/s%2F~/x", b"//s~/x", b"/?/s~/")
        hosts = (b"a.example", b"A.EXAMPLE.", b"a.Example:8080")
        for backend, targets, names in (
            (static, inside, hosts),
            (rest, outside, hosts),
            (rest, inside, (b"b.example", b"a.example.org", b"x.a.example")),
        ):
            for host in names:
                for target in targets:
                    line, field = b"GET " + target + b" HTTP/1.1", b"Host: " + host
                    row = taken(
                        f"{host!r} {target!r}", head(line, field), request(line, field, host=host)
                    )
                    self.check([row], backend)
        self.done()
