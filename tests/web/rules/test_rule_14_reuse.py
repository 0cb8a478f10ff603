"""web.md rule 14: `reuse: true` keeps idle backend connections, bounded.

Shown elsewhere: the bound, who is dropped, and how long they are kept, tests.web.test_idle.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.web.harness import Backend, Wire, chunked, eventually, in_thread, reply
from tests.web.rules.table import FINE, PATIENCE, RuleTest, head, request

HOST = b"Host: a"


def asking(method: bytes = b"GET", body: bytes = b"") -> bytes:
    """A request, with a body if there is one."""
    line = method + b" /x HTTP/1.1"
    if not body:
        return head(line, HOST)
    return head(line, HOST, b"Content-Length: %d" % len(body)) + body


def seen(method: bytes = b"GET", body: bytes = b"") -> bytes:
    """The same at a backend: its connection may carry more unless a body came."""
    framing = b"Content-Length: %d" % len(body) if body else b""
    whole = request(method + b" /x HTTP/1.1", HOST, framing=framing, body=body)
    return whole if body else whole.replace(b"\r\nConnection: close\r\n", b"\r\n")


class Reuse(RuleTest):
    """A backend that keeps its connections."""

    def tearDown(self) -> Any:
        if self.proxy is not None:
            # They wait for further requests.
            self.proxy.idle.drop_all()
        return super().tearDown()

    @contextmanager
    def serving(self, backend: Backend) -> Iterator[None]:
        """One of several proxies of a test."""
        self.serve(backend, pool={"reuse": True})
        try:
            yield
        finally:
            self.on_reactor(self.proxy.idle.drop_all)
            self.on_reactor(self.service.stopService)

    def keeping(self, *answers: bytes) -> Backend:
        """Answers any number of requests on a connection, with these answers by turns."""
        answers = answers or (FINE,)
        count = 0

        def script(wire: Wire) -> None:
            nonlocal count
            while True:
                backend.take(wire)
                data = answers[count % len(answers)]
                # Before it is sent: what follows it may come on another connection.
                count += 1
                wire.send(data)

        backend = self.backend(script)
        return backend

    def received(self, backend: Backend) -> list[bytes]:
        """All bytes of each connection."""
        return [bytes(wire.received) for wire in backend.connections]

    def answered(self, *sent: bytes) -> None:
        """Fail unless each of these requests is answered, one client connection for all."""
        client = self.client()
        client.sock.settimeout(PATIENCE)
        for data in sent:
            client.send(data)
            response = client.response()
            self.assertEqual((response.status, response.body), (200, b"fine"))
        client.close()

    @in_thread
    def test_one_connection_for_many_idempotent_requests(self):
        backend = self.keeping()
        self.serve(pool={"reuse": True})
        methods = (b"GET", b"OPTIONS", b"DELETE", b"GET")
        self.answered(*map(asking, methods))
        # Also for other clients.
        self.answered(asking(), asking())
        whole = b"".join(map(seen, methods)) + seen() * 2
        self.assertEqual(self.received(backend), [whole])
        self.assertEqual(self.proxy.counters.backend_connects, 1)
        self.assertEqual(self.proxy.counters.backend_reuses, 5)
        row = next(iter(self.proxy.backends()))
        self.soon(lambda: (row.open_connections, row.hits), (0, 6))

    @in_thread
    def test_a_fresh_one_for_all_others(self):
        """What may not be sent twice, and what has a body: a backend that doesn't read it would
        take it for the next request."""
        backend = self.keeping()
        self.serve(pool={"reuse": True}, site={"request_buffer": 4})
        self.answered(asking(), asking(b"POST", b"abc"), asking(b"LOCK"), asking(b"GET", b"abc"))
        client = self.client()
        put = asking(b"PUT", b"abcdefgh")
        client.send(put[:-2])
        eventually(lambda: len(backend.connections) == 5, "a fresh connection")
        client.send(put[-2:])
        self.assertEqual(client.response().body, b"fine")
        self.assertEqual(
            self.received(backend),
            [
                seen(),
                seen(b"POST", b"abc"),
                seen(b"LOCK"),
                seen(b"GET", b"abc"),
                seen(b"PUT", b"abcdefgh"),
            ],
        )
        self.assertEqual(self.proxy.counters.backend_reuses, 0)

    @in_thread
    def test_without_it_each_has_its_own(self):
        backend = self.keeping()
        self.serve()
        self.answered(asking(), asking())
        self.assertEqual(self.received(backend), [request(b"GET /x HTTP/1.1", HOST)] * 2)

    @in_thread
    def test_what_a_backend_says_decides(self):
        line, old = b"HTTP/1.1 200 Fine", b"HTTP/1.0 200 Fine"
        four, coded = b"Content-Length: 4", b"Transfer-Encoding: chunked"
        keep, close = b"Connection: keep-alive", b"Connection: close"
        cases = (
            ("1.1", head(line, four) + b"fine", True),
            ("1.1 chunked", head(line, coded) + chunked(b"fine", 2), True),
            ("1.1 that closes", head(line, four, close) + b"fine", False),
            (
                "1.1 that closes among others",
                head(line, four, b"connection: x, Close") + b"fine",
                False,
            ),
            ("1.0", head(old, four) + b"fine", False),
            # It may keep more than it says.
            ("1.0 that keeps", head(old, four, keep) + b"fine", False),
            ("bytes behind it", head(line, four) + b"fine\r\n", False),
            ("an answer behind it", (head(line, four) + b"fine") * 2, False),
            ("a body behind a last chunk", head(line, coded) + chunked(b"fine", 4) + b"x", False),
        )
        for what, data, kept in cases:
            backend = self.keeping(data)
            with self.row(what), self.serving(backend):
                self.answered(asking(), asking())
                wanted = [seen() * 2] if kept else [seen()] * 2
                self.assertEqual(self.received(backend), wanted)
        self.done()

    @in_thread
    def test_bodies_of_head_204_and_304_are_never_the_next_answer(self):
        """A backend that sends one all the same: its connection isn't used again."""
        evil = b"HTTP/1.1 200 Evil\r\nContent-Length: 0\r\n\r\n"
        four = b"Content-Length: 4"
        for sent, said in (
            (asking(b"HEAD"), head(b"HTTP/1.1 200 Fine", four)),
            (asking(), head(b"HTTP/1.1 204 Fine")),
            (asking(), head(b"HTTP/1.1 304 Fine", four)),
        ):
            backend = self.keeping(said + evil, FINE)
            with self.row(said), self.serving(backend):
                client = self.client()
                client.send(sent + asking())
                method = "HEAD" if sent.startswith(b"HEAD") else "GET"
                self.assertEqual(client.response(method).line[9:], said.split(b"\r\n")[0][9:])
                self.assertEqual(client.response().body, b"fine")
                self.assertEqual(len(backend.connections), 2)
                client.close()
        self.done()

    @in_thread
    def test_one_that_was_closed_meanwhile_costs_nobody_an_answer(self):
        """Before the request, or on its arrival: then it goes over a fresh one, byte for byte."""
        for early in (True, False):
            backend = self.backend()

            def script(wire: Wire, early=early, backend=backend) -> None:
                backend.take(wire)
                wire.send(reply(b"fine"))
                if not early:
                    wire.request()

            backend.script = script
            with self.row(early), self.serving(backend):
                self.answered(asking())
                if early:
                    self.soon(lambda: len(self.proxy.idle), 0)
                self.answered(asking())
                wanted = [seen(), seen()] if early else [seen() * 2, seen()]
                self.assertEqual(self.received(backend), wanted)
                self.assertFalse(next(iter(self.proxy.backends())).failed)
        self.done()

    @in_thread
    def test_what_a_backend_says_unasked_is_no_answer(self):
        """Also a 408 that it sends before it closes an idle connection."""
        unasked = b"HTTP/1.1 408 Idle\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        said = threading.Event()

        def script(wire: Wire) -> None:
            backend.take(wire)
            first = len(backend.requests) == 1
            wire.send(reply(b"fine"))
            if first:
                said.wait(20)
                wire.send(unasked)
                wire.end()

        backend = self.backend(script)
        self.serve(pool={"reuse": True})
        self.answered(asking())
        self.soon(lambda: len(self.proxy.idle), 1)
        said.set()
        self.soon(lambda: len(self.proxy.idle), 0)
        self.answered(asking())
        self.assertEqual(self.received(backend), [seen(), seen()])

    @in_thread
    def test_a_response_that_came_early_or_broke_ends_it(self):
        backend = self.keeping(b"HTTP/1.1 200 Fine\r\nContent-Length: 9\r\n\r\nfine")
        self.serve(pool={"reuse": True}, timeouts={"response": 0.3})
        client = self.client()
        client.send(asking())
        self.assertEqual(client.end(), "reset")
        self.assertEqual(len(self.proxy.idle), 0)
        self.assertEqual(self.received(backend), [seen()])

    @in_thread
    def test_bounded(self):
        """Of a burst of 70 at once 64 stay."""
        go = threading.Event()

        def script(wire: Wire) -> None:
            while True:
                backend.take(wire)
                assert go.wait(20)
                wire.send(reply(b"fine"))

        backend = self.backend(script)
        self.serve(pool={"reuse": True})
        clients = [self.client() for _ in range(70)]
        for client in clients:
            client.send(asking())
        eventually(lambda: len(backend.requests) == 70, "all requests")
        go.set()
        for client in clients:
            self.assertEqual(client.response().body, b"fine")
        self.soon(lambda: (len(self.proxy.idle), self.proxy.open_backends), (64, 0))
