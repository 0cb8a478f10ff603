"""The contract's `errors` and `redirect`: answers of our own that the operator chose.

Shown elsewhere: their change by a reload, tests.web.test_service_reload `test_pages`,
`test_redirects`; what a small page of ours looks like, every other file here.
"""

import re
import tempfile
from pathlib import Path

from tests.web.harness import certificate, client_context, closed_port, in_thread
from tests.web.rules.table import OK, PATIENCE, Row, RuleTest, head, request

HOST = b"Host: a"
GET = b"GET / HTTP/1.1"
DATE = re.compile(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n")


class Errors(RuleTest):
    """Our own error pages: the page is the operator's, all else is ours."""

    @in_thread
    def test_pages(self):
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(folder.rmdir)
        pages = {404: b"<p>not h\xc3\xa4re", 503: b"busy\r\n\r\n", 400: b""}
        for status, page in pages.items():
            path = folder / f"{status}.html"
            path.write_bytes(page)
            self.addCleanup(path.unlink)
        self.serve(
            closed_port(),
            web={"errors": {status: f"{folder}/{status}.html" for status in pages}},
            site={"hosts": ["a"], "default": False},
        )
        close = b"Connection: close\r\n"
        for sent, status, line, end, body in (
            (head(GET, b"Host: b"), 404, b"404 Not Found", b"", pages[404]),
            (head(b"HEAD / HTTP/1.1", b"Host: b"), 404, b"404 Not Found", b"", b""),
            (head(GET, HOST), 503, b"503 Service Unavailable", b"", pages[503]),
            (head(b"GET / HTTP/1.0", HOST), 503, b"503 Service Unavailable", close, pages[503]),
            (b"BAD\r\n\r\n", 400, b"400 Bad Request", close, pages[400]),
        ):
            with self.row((sent, status)):
                client = self.client()
                client.sock.settimeout(PATIENCE)
                client.send(sent)
                answer = client.response(sent.partition(b" ")[0].decode())
                self.assertEqual(
                    DATE.sub(b"", answer.head, count=1),
                    b"HTTP/1.1 %b\r\nContent-Type: text/html\r\nCache-Control: no-store\r\n"
                    b"Content-Length: %d\r\n%b\r\n" % (line, len(pages[status]), end),
                )
                self.assertEqual((answer.body, client.unread), (body, b""))
                if end:
                    self.assertEqual(client.end(), "eof")
        self.done()


class Redirect(RuleTest):
    """`redirect: https`: 308 to the same host at the TLS port; no backend sees the request."""

    @in_thread
    def test_to_https(self):
        backend = self.recorder()
        self.serve(
            web={"plain": {"redirect": "https"}},
            tls=[certificate("ecdsa", "a.example.com")],
        )
        port = b":%d" % self.tls_port

        def location(host: bytes, target: bytes) -> bytes:
            return b"https://" + host + port + target

        upload = head(b"POST /up HTTP/1.1", HOST, b"Content-Length: 3")
        for sent, where, kept in (
            (head(GET, HOST), location(b"a", b"/"), True),
            (
                head(b"GET /p%2F?q=<x> HTTP/1.1", b"Host: Shop.:8080"),
                location(b"Shop.", b"/p%2F?q=<x>"),
                True,
            ),
            (head(b"GET //evil.example/ HTTP/1.1", HOST), location(b"a", b"//evil.example/"), True),
            (head(GET, b"Host: [::1]:80"), location(b"[::1]", b"/"), True),
            (head(b"GET http://b:81/x HTTP/1.1", HOST), location(b"b", b"/x"), True),
            (head(b"OPTIONS * HTTP/1.1", HOST), location(b"a", b"/"), True),
            (head(b"HEAD /x HTTP/1.1", HOST), location(b"a", b"/x"), True),
            (head(b"GET / HTTP/1.0"), location(b"127.0.0.1", b"/"), False),
            (upload + b"abc", location(b"a", b"/up"), False),
            (upload, location(b"a", b"/up"), False),
        ):
            with self.row(sent):
                client = self.client()
                client.sock.settimeout(PATIENCE)
                client.send(sent)
                answer = client.response(sent.partition(b" ")[0].decode())
                self.assertEqual(answer.line, b"HTTP/1.1 308 Permanent Redirect")
                self.assertEqual(answer.get(b"Location"), where)
                self.assertEqual(answer.get(b"Connection"), None if kept else b"close")
                self.assertNotIn(b"<x>", answer.body)
                if not kept:
                    self.assertEqual((client.end(), client.unread), ("eof", b""))
        self.done()
        self.assertEqual(backend.connections, [])
        # At the TLS port it is served.
        row = Row("TLS", head(GET, HOST), OK, request(GET, HOST), "kept")
        self.check([row], backend, context=client_context())
        self.done()

    @in_thread
    def test_not_for_who_came_by_https_to_a_trusted_proxy(self):
        backend = self.recorder()
        self.serve(
            web={"plain": {"redirect": "https"}, "trusted_proxies": ["127.0.0.1/32"]},
            tls=[certificate("ecdsa", "a.example.com")],
        )
        said = b"X-Forwarded-Proto: https"
        self.assertEqual(self.ask(head(GET, HOST, said)).status, 200)
        self.assertEqual(self.ask(head(GET, HOST)).status, 308)
        told = (b"X-Forwarded-For: 127.0.0.1", said, b"X-Forwarded-Host: a")
        self.assertEqual(backend.saw(), [head(GET, HOST, *told, b"Connection: close")])
