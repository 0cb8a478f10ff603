"""Tests of dlba.web.answers."""

import io
from html.parser import HTMLParser
from http.client import HTTPResponse
from urllib.parse import urlsplit

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.web.answers import Answers, https_location, redirection

DATE = b"\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT"
OURS = (400, 404, 405, 408, 413, 414, 417, 431, 501, 502, 503, 504, 505)


class Page(HTMLParser):
    """What a browser would see: text and links by element, and the names of all elements."""

    def __init__(self, page: bytes):
        super().__init__()
        self.elements = []
        self.texts = {}
        self.links = []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.links += [value for name, value in attrs if name == "href"]

    def handle_data(self, data):
        self.texts[self.elements[-1] if self.elements else ""] = (
            self.texts.get(self.elements[-1] if self.elements else "", "") + data
        )


class Answer:
    """A response read by the standard library. What follows it is `rest`."""

    def __init__(self, data: bytes, method: str = "GET"):
        stream = io.BytesIO(data)
        stream.close = lambda: None
        response = HTTPResponse(
            type("Socket", (), {"makefile": lambda self, mode: stream})(), method=method
        )
        response.begin()
        self.line = data.partition(b"\r\n")[0]
        self.fields = response.getheaders()
        self.names = [name for name, _ in self.fields]
        self.body = response.read()
        self.closes = response.will_close
        self.rest = stream.read()

    def __getitem__(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]


class AnswerTests(SynchronousTestCase):
    def test_whole(self):
        self.assertEqual(
            Answers({}).answer(404, "no site <here> isn't & more", DATE, True),
            b"HTTP/1.1 404 Not Found\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT"
            b"\r\nContent-Type: text/html; charset=utf-8\r\nCache-Control: no-store"
            b"\r\nContent-Length: 132\r\n\r\n<!DOCTYPE html>\n<html lang=en>"
            b"<title>404 Not Found</title><h1>404 Not Found</h1>"
            b"<p>no site &lt;here&gt; isn't &amp; more</p></html>\n",
        )

    def test_every_status(self):
        for status in OURS:
            for answers in (Answers({}), Answers({503: b"busy"})):
                for keep in (True, False):
                    for method in ("GET", "HEAD"):
                        data = answers.answer(status, "why", DATE, keep, method == "GET")
                        # Twice: it must not matter who asked before.
                        self.assertEqual(
                            data, answers.answer(status, "why", DATE, keep, method == "GET")
                        )
                        answer = Answer(data + b"NEXT", method)
                        self.assertEqual(answer.rest, b"NEXT")
                        self.assertEqual(answer.closes, not keep)
                        self.assertEqual(answer["Date"], ["Sun, 22 Nov 2026 12:00:00 GMT"])
                        self.assertEqual(answer["Cache-Control"], ["no-store"])
                        self.assertEqual(len(answer["Allow"]), status == 405)
                        self.assertEqual(answer["Connection"], [] if keep else ["close"])
                        self.assertEqual(len(answer.names), len(set(answer.names)))
                        if method == "HEAD":
                            whole = Answer(answers.answer(status, "why", DATE, keep))
                            self.assertEqual(answer["Content-Length"], [str(len(whole.body))])

    def test_phrases(self):
        for status, line in (
            (413, b"HTTP/1.1 413 Content Too Large"),
            (414, b"HTTP/1.1 414 URI Too Long"),
            (431, b"HTTP/1.1 431 Request Header Fields Too Large"),
            (504, b"HTTP/1.1 504 Gateway Timeout"),
            (599, b"HTTP/1.1 599 Error"),
        ):
            self.assertEqual(Answer(Answers({}).answer(status, "", DATE, True)).line, line)

    def test_pages(self):
        answers = Answers({503: b"<b>busy \xff</b>", 405: b"", 404: b'{"a": 1}'})
        busy = Answer(answers.answer(503, "<not shown>", DATE, False))
        self.assertEqual(busy.line, b"HTTP/1.1 503 Service Unavailable")
        self.assertEqual(busy.body, b"<b>busy \xff</b>")
        self.assertEqual(busy["Content-Type"], ["text/html"])
        empty = Answer(answers.answer(405, "why", DATE, True))
        self.assertEqual((empty.body, empty["Content-Length"]), (b"", ["0"]))
        self.assertEqual(Answer(answers.answer(404, "", DATE, True)).body, b'{"a": 1}')
        other = Answer(answers.answer(502, "why", DATE, True))
        self.assertIn(b"<p>why</p>", other.body)
        # Another configuration has other pages.
        self.assertIn(b"<p>why</p>", Answers({}).answer(503, "why", DATE, True))

    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")))
    def test_any_sentence_stays_text(self, sentence):
        page = Page(Answer(Answers({}).answer(400, sentence, DATE, True)).body)
        self.assertEqual(page.elements, ["html", "title", "h1", "p"])
        self.assertEqual(page.texts["p"].removesuffix("\n"), sentence)


class RedirectionTests(SynchronousTestCase):
    def test_redirection(self):
        where = b"https://shop.example/a?b=1&c='\"<x>"
        for keep in (True, False):
            answer = Answer(redirection(where, DATE, keep, True) + b"NEXT")
            self.assertEqual(answer.line, b"HTTP/1.1 308 Permanent Redirect")
            self.assertEqual(answer["Location"], [where.decode()])
            self.assertEqual(answer["Date"], ["Sun, 22 Nov 2026 12:00:00 GMT"])
            self.assertEqual((answer.rest, answer.closes), (b"NEXT", not keep))
            page = Page(answer.body)
            self.assertEqual(page.elements, ["html", "title", "h1", "p", "a"])
            self.assertEqual(page.links, [where.decode()])
        head = Answer(redirection(where, DATE, True, False) + b"NEXT", "HEAD")
        self.assertEqual(head["Content-Length"], [str(len(answer.body))])
        self.assertEqual(head.rest, b"NEXT")

    @given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)))
    def test_any_target_stays_a_link(self, target):
        where = b"https://shop.example/" + target.encode()
        answer = Answer(redirection(where, DATE, True, True))
        self.assertEqual(answer["Location"], [where.decode()])
        self.assertEqual(Page(answer.body).links, [where.decode()])

    def test_https_location(self):
        for host, target, port, expected in (
            (b"shop.example", b"/a?b", 443, b"https://shop.example/a?b"),
            (b"Shop.Example.:80", b"/", 443, b"https://Shop.Example./"),
            (b"shop.example:", b"/", 443, b"https://shop.example/"),
            (b"shop.example:8080", b"/", 8443, b"https://shop.example:8443/"),
            (b"[2001:db8::1]", b"/x", 443, b"https://[2001:db8::1]/x"),
            (b"[2001:db8::1]:80", b"/x", 8443, b"https://[2001:db8::1]:8443/x"),
            (b"shop.example", b"*", 443, b"https://shop.example/"),
            (b"shop.example", b"//evil.example/", 443, b"https://shop.example//evil.example/"),
        ):
            self.assertEqual(https_location(host, target, port), expected)

    @given(
        st.sampled_from(["a.example", "[2001:db8::7]", "192.0.2.1", "x"]),
        st.sampled_from(["", ":", ":80", ":65535"]),
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#")),
        st.integers(1, 65535),
    )
    def test_the_same_host_and_target(self, host, old_port, target, port):
        got = urlsplit(
            https_location(f"{host}{old_port}".encode(), f"/{target}".encode(), port).decode()
        )
        self.assertEqual((got.scheme, got.port or 443), ("https", port))
        self.assertEqual(got.hostname, host.strip("[]"))
        self.assertEqual(got.path + ("?" + got.query if "?" in target else ""), f"/{target}")
