"""web.md rule 7: what of a request reaches the backend, what of a response the client.

Shown elsewhere: bytes, case and order of a mixed head, tests.web.test_exchange
`test_the_request_on_the_wire`, `test_the_response_on_the_wire`; a backend that is our own listener,
tests.config.test_checks `test_backend_is_our_listener`; tokens in URLs are rule 15.
"""

import socket

from tests.web.harness import Wire, certificate, client_context, in_thread, reply
from tests.web.rules.table import OK, Row, RuleTest, head, request

HOST = b"Host: a"
GET = b"GET / HTTP/1.1"
#: Fields that stay, with one to be tried between them.
BEFORE, BEHIND = b"A: 1", b"B: 2"

HOP_BY_HOP = (
    (b"Connection: close",),
    (b"Connection:",),
    (b"connection: Keep-Alive", b"Keep-Alive: timeout=5"),
    (b"Keep-Alive: 5",),
    (b"Proxy-Connection: keep-alive",),
    (b"pROXY-cONNECTION: x",),
    (b"TE: trailers", b"Connection: TE"),
    (b"TE: gzip;q=0.5",),
    (b"Trailer: X-Sum",),
    (b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABk"),
    (b"Upgrade: websocket",),
    (b"X-Hop: 1", b"Connection: x-hop"),
    (b"Connection: X-Hop", b"x-hop: 1", b"X-HOP: 2"),
    (b"Connection: X-One", b"X-One: 1", b"Connection: ,,\tX-Two , ", b"X-Two: 2"),
    (b"Connection: close, x!#$%&'*+-.^_`|~", b"X!#$%&'*+-.^_`|~: 1"),
)


class Requests(RuleTest):
    """On the way to the backend."""

    def cut(self, all_cut: tuple[tuple[bytes, ...], ...]) -> None:
        """Fail unless each of `all_cut`'s fields is taken out, and nothing else."""
        backend = self.recorder()
        self.serve()
        rows = []
        for fields in all_cut:
            ends = any(b"close" in field for field in fields)
            rows.append(
                Row(
                    repr(fields),
                    head(GET, BEFORE, *fields, HOST, BEHIND),
                    OK,
                    request(GET, BEFORE, HOST, BEHIND),
                    "closed" if ends else "kept",
                )
            )
        self.check(rows, backend)
        self.done()

    @in_thread
    def test_hop_by_hop_and_what_connection_names(self):
        self.cut(HOP_BY_HOP)

    @in_thread
    def test_expect_and_framing(self):
        self.cut(((b"Expect: 100-continue",), (b"Connection: transfer-encoding, content-length",)))

    @in_thread
    def test_connection_takes_no_framing_away(self):
        """A body that is framed is the body, whatever Connection says of the field."""
        backend = self.recorder()
        self.serve()
        seen = request(b"PUT / HTTP/1.1", HOST, framing=b"Content-Length: 3", body=b"abc")
        line, named = b"PUT / HTTP/1.1", b"Connection: content-length, transfer-encoding"
        chunked = head(line, HOST, named, b"Transfer-Encoding: chunked")
        self.check(
            [
                Row(
                    "length",
                    head(line, named, HOST, b"Content-Length: 3") + b"abc",
                    OK,
                    seen,
                    "kept",
                ),
                Row("chunked", chunked + b"3\r\nabc\r\n0\r\n\r\n", OK, seen, "kept"),
            ],
            backend,
        )
        self.done()

    @in_thread
    def test_a_client_of_ipv6(self):
        backend = self.recorder()
        self.serve(web={"plain": {"address": "::1"}})
        told = (b"X-Forwarded-For: ::1", b"X-Forwarded-Proto: http")
        own = b"Host: [::1]:%d" % self.port
        for sent, seen in (
            (head(GET, HOST), head(GET, HOST, *told, b"X-Forwarded-Host: a", b"Connection: close")),
            (head(b"GET / HTTP/1.0"), head(GET, *told, own, b"Connection: close")),
        ):
            client = Wire(socket.create_connection(("::1", self.port)))
            self.clients.append(client)
            client.send(sent)
            self.assertEqual(client.response().status, 200)
            self.assertEqual(backend.saw()[-1], seen)

    @in_thread
    def test_connection_takes_no_host_away(self):
        self.cut(((b"Connection: Host",), (b"Connection: host, x", b"X: 1")))

    @in_thread
    def test_what_strangers_say_of_their_clients(self):
        fields = [b"Forwarded: for=9.9.9.9;host=evil;proto=https", b"FORWARDED: by=x"]
        real = (b"X-Real-IP", b"X_Real_IP", b"X-Real_IP", b"X_Real-IP", b"x-real-ip")
        fields += [name + b": 9.9.9.9" for name in real]
        names = (b"For", b"Proto", b"Host", b"Port", b"Server", b"Prefix", b"Ssl", b"Any-Thing")
        starts = (b"X-Forwarded-", b"X_Forwarded_", b"X-Forwarded_", b"x_FORWARDED-")
        fields += [start + name + b": evil" for start in starts for name in names]
        fields += [b"X-Forwarded: for=evil", b"X_Forwarded: for=evil"]
        self.cut(tuple((field,) for field in fields))

    @in_thread
    def test_connection_names_none_of_ours(self):
        """X-Forwarded-For, Proto and Host are added behind the cut."""
        self.cut(((b"Connection: X-Forwarded-For, x-forwarded-proto, X-Forwarded-Host",),))

    @in_thread
    def test_fields_that_look_alike_stay(self):
        backend = self.recorder()
        self.serve()
        alike = (
            b"X-Forward: 1",
            b"XForwarded-For: 1",
            b"X-Real: 1",
            b"Via: 1.0 x",
            b"X-Real-IPs: 1",
        )
        alike += (b"Forwarded-For: 1", b"Connections: close", b"X-TE: 1", b"Keep-Alive-X: 1")
        alike += (b"Upgrade-Insecure-Requests: 1", b"Proxy-Authorization: x", b"Client-IP: 1")
        alike += (b"X-Real-IPs: 1",)
        alike += (b"X-Forwardeds: 1", b"Max-Forwards: 1", b"Trailers: 1", b"Expected: 1")
        self.check(
            [
                Row(repr(field), head(GET, HOST, field), OK, request(GET, HOST, field), "kept")
                for field in alike
            ],
            backend,
        )
        self.done()

    @in_thread
    def test_the_backend_sees_plain_http_and_hears_of_tls(self):
        backend = self.recorder()
        self.serve(tls=[certificate("ecdsa", "a.example.com")])
        row = Row("TLS", head(GET, HOST), OK, request(GET, HOST), "kept")
        self.check([row], backend, context=client_context())
        self.check([row], backend)
        self.done()
        one, two = backend.saw()
        self.assertIn(b"\r\nX-Forwarded-Proto: https\r\n", one)
        self.assertIn(b"\r\nX-Forwarded-Proto: http\r\n", two)

    @in_thread
    def test_our_cookie_is_cut_out_of_every_line(self):
        """The rest stays byte for byte, a line that is empty then is removed."""
        backend = self.recorder()
        self.serve(site={"schedule": "cookie"})

        def row(lines: tuple[bytes, ...], kept: tuple[bytes, ...]) -> Row:
            return Row(repr(lines), head(GET, *lines, HOST), OK, request(GET, *kept, HOST), "kept")

        self.check(
            [
                row((b"Cookie: DLBA=x",), ()),
                row((b"Cookie: a=b; DLBA=x; c=d",), (b"Cookie: a=b; c=d",)),
                row((b"Cookie: DLBA=x; a=b",), (b"Cookie: a=b",)),
                row((b"Cookie: a=b; DLBA=x",), (b"Cookie: a=b",)),
                row((b"cOOKIE:DLBA=x;a=b",), (b"cOOKIE:a=b",)),
                row((b"Cookie:  a=b;  c ;DLBA=x;;d=",), (b"Cookie:  a=b;  c ;;d=",)),
                row((b"Cookie: DLBA=x", b"Cookie: DLBA=y"), ()),
                row((b"Cookie: DLBA=x; a", b"Cookie: b; DLBA=y"), (b"Cookie: a", b"Cookie: b")),
                row((b"Cookie: DLBA=x; DLBA=y; DLBA",), ()),
                row((b"Cookie: \tDLBA = x ; a=b",), (b"Cookie: \ta=b",)),
                row((b"Cookie: dlba=x; DLBAX=y; XDLBA=z",), (b"Cookie: dlba=x; DLBAX=y; XDLBA=z",)),
                row((b"Cookie: a=DLBA=x; b=\xff",), (b"Cookie: a=DLBA=x; b=\xff",)),
                row((b'Cookie: a="b; c"; ; d',), (b'Cookie: a="b; c"; ; d',)),
                row((b"Cookie:",), (b"Cookie:",)),
                row(
                    (b"X-Cookie: DLBA=x", b"Cookie2: DLBA=x"),
                    (b"X-Cookie: DLBA=x", b"Cookie2: DLBA=x"),
                ),
            ],
            backend,
        )
        self.done()


class Responses(RuleTest):
    """On the way to the client."""

    def relayed(self, fields: tuple[bytes, ...], kept: tuple[bytes, ...]) -> None:
        """Fail unless a response with `fields` reaches the client with `kept`, and it goes on."""
        line = b"HTTP/1.1 200 Fine"
        self.backends[0].data = head(line, *fields, b"Content-Length: 2") + b"ok"
        client = self.client()
        client.send(head(GET, HOST))
        wanted = head(line, *kept, b"Content-Length: 2") + b"ok"
        self.assertEqual(client.take(len(wanted)), wanted)
        # What the backend says of its own connection says nothing of the client's.
        self.assertEqual(self.after(client), "kept")
        client.close()

    @in_thread
    def test_hop_by_hop_and_what_connection_names(self):
        self.recorder()
        self.serve()
        for fields in HOP_BY_HOP:
            with self.row(fields):
                self.relayed(
                    (BEFORE, *fields, b"Date: then", BEHIND), (BEFORE, b"Date: then", BEHIND)
                )
        self.done()

    @in_thread
    def test_what_is_no_hop_by_hop_field_stays(self):
        self.recorder()
        self.serve()
        fields = (b"date: Then", b"Set-Cookie: a=b", b"set-cookie: a=b", b"X-Forwarded-For: 1")
        fields += (b"Forwarded: for=1", b"Via: 1.1 x", b"Server: y", b"X: \xff\t", b"Expect: z")
        fields += (b"Proxy-Authenticate: Basic", b"Vary: *", b"WWW-Authenticate: NTLM", b"Age: 1")
        with self.row("all of them"):
            self.relayed(fields, fields)
        self.done()

    @in_thread
    def test_missing_date_is_added(self):
        now = rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n"
        recorder = self.recorder()
        self.serve()
        for fields, dates in (
            ((), now),
            ((b"X-Date: x",), now),
            ((b"Date:",), rb"\r\nDate:\r\n"),
            ((b"date: x",), rb"\r\ndate: x\r\n"),
            # Date belongs to the message: it isn't the connection's to take away.
            ((b"Connection: date", b"Date: x"), rb"\r\nDate: x\r\n"),
        ):
            recorder.data = reply(b"ok", 200, *fields)
            with self.row(fields):
                client = self.client()
                client.send(head(GET, HOST))
                answer = client.response()
                self.assertRegex(answer.head, dates)
                self.assertEqual(len(answer.all(b"Date")), 1)
        self.done()
