"""web.md rule 7 and the contract: what trusted proxies say, Via, and a site's header changes.

Shown elsewhere: what every field of a trusted proxy becomes, against oracles,
tests.web.test_forwarding and tests.web.test_headerchanges; what strangers say,
test_rule_07_forward.
"""

from typing import Any

from tests.web.harness import certificate, client_context, in_thread, reply
from tests.web.rules.table import OK, PATIENCE, Row, RuleTest, head

HOST = b"Host: a"
GET = b"GET / HTTP/1.1"
LOOPBACK = {"trusted_proxies": ["127.0.0.0/8"]}
#: What follows where nothing was said.
FOR, PROTO, SHOWN = (
    b"X-Forwarded-For: 127.0.0.1",
    b"X-Forwarded-Proto: http",
    b"X-Forwarded-Host: a",
)
CLOSE = b"Connection: close"


class Trusted(RuleTest):
    """From within `trusted_proxies` ours is appended; from outside everything is dropped."""

    def said(
        self, cases: tuple[tuple[tuple[bytes, ...], tuple[bytes, ...]], ...], web: Any
    ) -> None:
        """Fields that come → the forwarding fields at the backend."""
        backend = self.recorder()
        self.serve(web=web)
        self.check(
            [
                Row(
                    repr(said),
                    head(GET, b"A: 1", *said, HOST, b"B: 2"),
                    OK,
                    head(GET, b"A: 1", HOST, b"B: 2", *got, CLOSE),
                    "kept",
                )
                for said, got in cases
            ],
            backend,
        )
        self.done()

    @in_thread
    def test_from_within(self):
        ours = b"for=127.0.0.1;host=a;proto=http"
        plain = (FOR, PROTO, SHOWN)
        self.said(
            (
                ((), plain),
                (
                    (b"X-Forwarded-For: 9.9.9.9",),
                    (b"X-Forwarded-For: 9.9.9.9, 127.0.0.1", PROTO, SHOWN),
                ),
                (
                    (b"X-Forwarded-For: 9.9.9.9, 8.8.8.8", b"x-forwarded-for:7.7.7.7"),
                    (b"X-Forwarded-For: 9.9.9.9, 8.8.8.8, 7.7.7.7, 127.0.0.1", PROTO, SHOWN),
                ),
                ((b"X-Forwarded-Proto: https",), (FOR, b"X-Forwarded-Proto: https", SHOWN)),
                ((b"X-Forwarded-Proto: gopher",), plain),
                ((b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: http"), plain),
                ((b"X-Forwarded-Host: shop:8443",), (FOR, PROTO, b"X-Forwarded-Host: shop:8443")),
                ((b"X-Forwarded-Host: sh op",), plain),
                ((b"X-Real-IP: 9.9.9.9",), (*plain, b"X-Real-IP: 9.9.9.9")),
                ((b"X-Forwarded-Port: 8443",), (*plain, b"X-Forwarded-Port: 8443")),
                ((b"Forwarded: for=9.9.9.9",), (*plain, b"Forwarded: for=9.9.9.9, " + ours)),
                ((b'Forwarded: for="open',), (*plain, b"Forwarded: " + ours)),
                ((b"X_Forwarded_For: 9.9.9.9",), plain),
                ((b"X-Forwarded_Proto: https", b"X_Real_IP: 9.9.9.9"), plain),
                ((b"Connection: x-forwarded-for", b"X-Real-Ip: 1"), (*plain, b"X-Real-IP: 1")),
            ),
            LOOPBACK,
        )

    @in_thread
    def test_from_outside(self):
        said = (
            b"X-Forwarded-For: 9",
            b"Forwarded: for=9",
            b"X-Real-IP: 9",
            b"X-Forwarded-Proto: https",
        )
        cases = tuple(((field,), (FOR, PROTO, SHOWN)) for field in said)
        self.said(
            (*cases, (said, (FOR, PROTO, SHOWN))), {"trusted_proxies": ["10.0.0.0/8", "::/0"]}
        )

    @in_thread
    def test_over_tls(self):
        backend = self.recorder()
        self.serve(web=LOOPBACK, tls=[certificate("ecdsa", "a.example.com")])
        sent = head(GET, HOST, b"X-Forwarded-For: 9.9.9.9", b"Forwarded: for=_x")
        client = self.client(client_context())
        client.send(sent)
        self.assertEqual(client.response().status, 200)
        client.close()
        seen = head(
            GET,
            HOST,
            b"X-Forwarded-For: 9.9.9.9, 127.0.0.1",
            b"X-Forwarded-Proto: https",
            SHOWN,
            b"Forwarded: for=_x, for=127.0.0.1;host=a;proto=https",
            CLOSE,
        )
        self.assertEqual(backend.saw(), [seen])


class Via(RuleTest):
    """An option: the version that came, and our pseudonym."""

    @in_thread
    def test_both_ways(self):
        backend = self.recorder()
        self.serve(web={"via": "dlba"})
        backend.data = reply(b"fine", 200, b"Via: 1.1 app", b"Date: then")
        got = head(
            b"HTTP/1.1 200 Fine",
            b"Via: 1.1 app",
            b"Date: then",
            b"Via: 1.1 dlba",
            b"Content-Length: 4",
        )
        for version, asked, via in (
            (b"1.1", (), b"Via: 1.1 dlba"),
            (b"1.7", (b"Via: 1.0 x",), b"Via: 1.1 dlba"),
            (b"1.0", (b"Connection: keep-alive",), b"Via: 1.0 dlba"),
        ):
            with self.row(version):
                client = self.client()
                client.sock.settimeout(PATIENCE)
                line = b"GET / HTTP/" + version
                client.send(head(line, HOST, *asked))
                kept = tuple(field for field in asked if field.startswith(b"Via"))
                response = client.response()
                tail = b"Connection: keep-alive\r\n" if version == b"1.0" else b""
                self.assertEqual(response.head, got[:-2] + tail + b"\r\n")
                seen = head(GET, HOST, *kept, FOR, PROTO, SHOWN, via, CLOSE)
                client.close()
                self.assertEqual(backend.saw()[-1], seen)
        self.done()


class Changes(RuleTest):
    """`request_headers` and `response_headers` of a site."""

    @in_thread
    def test_set_and_removed_both_ways(self):
        backend = self.recorder()
        site = {
            "request_headers": {"set": {"X-Site": "shop", "X-Two": "2"}, "remove": ["X-Debug"]},
            "response_headers": {"set": {"X-Frame-Options": "DENY"}, "remove": ["Server"]},
        }
        self.serve(site=site)
        backend.data = reply(
            b"fine", 200, b"server: x", b"x-frame-options: SAME", b"Date: then", b"X-Server: y"
        )
        client = self.client()
        client.sock.settimeout(PATIENCE)
        client.send(head(GET, b"x-debug: 1", b"X-SITE: evil", HOST, b"X-Debug: 2", b"X-Debugs: 3"))
        got = head(
            b"HTTP/1.1 200 Fine",
            b"Date: then",
            b"X-Server: y",
            b"X-Frame-Options: DENY",
            b"Content-Length: 4",
        )
        self.assertEqual(client.response().head, got)
        client.close()
        seen = head(
            GET, HOST, b"X-Debugs: 3", b"X-Site: shop", b"X-Two: 2", FOR, PROTO, SHOWN, CLOSE
        )
        self.assertEqual(backend.saw(), [seen])

    @in_thread
    def test_host_is_set_where_it_stands(self):
        """The backend's; X-Forwarded-Host still tells what the client asked for."""
        backend = self.recorder()
        self.serve(site={"request_headers": {"set": {"Host": "inner"}}})
        told = (FOR, PROTO, SHOWN)
        inner = b"Host: inner"
        seen = head(GET, b"A: 1", inner, b"B: 2", *told, CLOSE)
        bare = head(GET, b"A: 1", inner, FOR, PROTO, CLOSE)
        self.check(
            [
                Row("1.1", head(GET, b"A: 1", b"hOST: a", b"B: 2"), OK, seen, "kept"),
                Row("1.0 without", head(b"GET / HTTP/1.0", b"A: 1"), OK, bare, "closed"),
                Row(
                    "absolute",
                    head(b"GET http://a/ HTTP/1.1", b"A: 1", b"Host: b", b"B: 2"),
                    OK,
                    seen,
                    "kept",
                ),
            ],
            backend,
        )
        self.done()

    @in_thread
    def test_our_cookie_is_injected_behind_a_site_s_changes(self):
        """What a site removes marks no response for shared caches, what it sets does."""
        backend = self.recorder()
        backend.data = reply(b"fine", 200, b"Cache-Control: public", b"Date: x")
        for changes, given, cache in (
            ({"remove": ["Cache-Control"]}, 1, [b"private"]),
            ({"set": {"Cache-Control": "no-store"}}, 1, [b"no-store"]),
            ({"set": {"Cache-Control": "s-maxage=5"}}, 0, [b"s-maxage=5"]),
        ):
            self.serve(site={"schedule": "cookie", "response_headers": changes})
            with self.row(changes):
                answer = self.ask(head(GET, HOST))
                self.assertEqual(len(answer.all(b"Set-Cookie")), given)
                self.assertEqual(answer.all(b"Cache-Control"), cache)
            self.on_reactor(self.service.stopService)
        self.done()
