"""web.md rule 6: one connection a request; who is marked failed, and what is sent again.

Shown elsewhere:
- timeouts while connecting, 504, `connect_total`: tests.web.test_exchange
  `test_connect_timeout_goes_to_the_next`, `test_connect_timeout_of_all`, `test_connect_total`
- what is ours marks nobody: tests.web.test_backendside `OurOwnFaults`
- a response timeout is 504 and never retried: tests.web.test_exchange `test_response_timeout`
- a failed backend is taken back: tests.web.test_exchange `test_failed_backend_is_taken_back`
- active checks: tests.web.test_checker (what is sent, rise and fall, what they do to choice)
- nothing is sent again once a byte came: tests.web.test_exchange
  `test_nothing_is_sent_again_once_a_response_began`, `test_streamed_put_is_not_sent_again`
"""

import time

from tests.web.harness import Backend, Wire, closed_port, eventually, in_thread
from tests.web.rules.table import FINE_RELAYED, OK, Row, RuleTest, head, request

HOST = b"Host: a"
FIELDS = (HOST, b"x-Odd:  1", b"Cookie: c")


def asking(method: bytes, body: bytes = b"abc") -> bytes:
    """A request with a body."""
    line = method + b" /x HTTP/1.1"
    return head(line, *FIELDS, b"Content-Length: %d" % len(body)) + body


def seen(method: bytes, body: bytes = b"abc") -> bytes:
    """The same at a backend."""
    framing = b"Content-Length: %d" % len(body)
    return request(method + b" /x HTTP/1.1", *FIELDS, framing=framing, body=body)


class Again(RuleTest):
    """A second backend gets the request byte for byte, or not at all."""

    def breaking(self, data: bytes = b"", how: str = "close") -> Backend:
        """Takes one request a connection, sends `data`, and ends it: `close`, `reset`."""

        def script(wire: Wire) -> None:
            backend.take(wire)
            if data:
                wire.send(data)
            if how == "reset":
                wire.reset()

        backend = self.backend(script)
        return backend

    @in_thread
    def test_idempotent_and_no_byte_came(self):
        for how in ("close", "reset"):
            broken, whole = self.breaking(how=how), self.recorder()
            self.serve(broken, whole)
            for method in (b"GET", b"OPTIONS", b"PUT", b"DELETE"):
                with self.row((how, method)):
                    client = self.client()
                    client.send(asking(method))
                    self.assertEqual(client.take(len(FINE_RELAYED)), FINE_RELAYED)
                    self.assertEqual(whole.saw()[-1], seen(method))
                    client.close()
            # By turns the broken one is first each time.
            got = [bytes(wire.received) for wire in broken.connections]
            self.assertEqual(got, [seen(m) for m in (b"GET", b"OPTIONS", b"PUT", b"DELETE")])
            self.on_reactor(self.service.stopService)
        self.done()

    @in_thread
    def test_other_methods_once(self):
        """A method that we don't know may do anything."""
        one, two = self.breaking(), self.breaking()
        self.serve()
        for method in (b"POST", b"PATCH", b"get", b"LOCK", b"M-SEARCH", b"PROPFIND"):
            with self.row(method):
                client = self.client()
                before = len(one.connections) + len(two.connections)
                client.send(asking(method))
                answer = client.response()
                self.own(bytes(client.received), "502 Bad Gateway", keep=True)
                self.assertEqual(answer.status, 502)
                self.assertEqual(len(one.connections) + len(two.connections) - before, 1)
        self.assertEqual(self.proxy.counters.retries, 0)
        self.done()

    @in_thread
    def test_any_method_where_nothing_was_accepted(self):
        backend = self.recorder()
        for method in (b"GET", b"POST", b"PATCH", b"M-SEARCH"):
            self.serve(closed_port(), closed_port(), backend)
            self.check([Row(f"{method!r}", asking(method), OK, seen(method), "kept")], backend)
            self.assertEqual(self.proxy.counters.backend_connect_failures, 2)
            self.on_reactor(self.service.stopService)
        self.done()

    @in_thread
    def test_each_once(self):
        """Idempotent, and everybody breaks: one connection to each, then 502."""
        backends = [self.breaking() for _ in range(3)]
        self.serve()
        client = self.client()
        client.send(asking(b"PUT"))
        client.response()
        self.own(bytes(client.received), "502 Bad Gateway", keep=True)
        for backend in backends:
            self.assertEqual([bytes(w.received) for w in backend.connections], [seen(b"PUT")])
        # A backend that breaks is not one that can't be reached.
        self.assertEqual([b.failed for b in self.proxy.backends()], [False] * 3)

    @in_thread
    def test_early_close_or_an_invalid_response_is_502(self):
        """And the client's connection stays: it did nothing wrong."""
        broken = self.breaking()
        self.serve()
        client = self.client()
        for data in (b"", b"H", b"HTTP/1.1 200 OK\r\nX: y\r\n", b"HTTP/1.1 200 OK\r\n\n", b"\r\n"):
            with self.row(data):
                broken.says(data)
                before = len(client.received)
                client.send(asking(b"POST"))
                client.response()
                answer = bytes(client.received)[before:]
                self.own(answer, "502 Bad Gateway", keep=True)
        self.assertEqual(self.proxy.counters.connections_accepted, 1)
        self.done()


class Marking(RuleTest):
    """A failed connection is the whole health check."""

    def failures(self) -> int:
        return self.proxy.counters.backend_connect_failures

    @in_thread
    def test_refused_is_503_and_all_marked_are_all_tried(self):
        self.recorder()
        self.serve(closed_port(), closed_port(), closed_port(), pool={"fail_timeout": 600})
        client = self.client()
        for number in (1, 2):
            before = len(client.received)
            client.send(asking(b"POST"))
            client.response()
            answer = bytes(client.received)[before:]
            self.own(answer, "503 Service Unavailable", keep=True)
            self.assertEqual(self.failures(), 3 * number)

    @in_thread
    def test_marked_ones_get_nothing_until_one_request_probes(self):
        alive = self.recorder()
        dead = closed_port()
        self.serve(dead, alive, pool={"fail_timeout": 0.4})
        for _ in range(4):
            self.assertEqual(self.ask().status, 200)
        marked = time.monotonic()
        self.assertEqual(self.failures(), 1)
        # More than one waits when the time is over: one of them probes.
        eventually(lambda: time.monotonic() > marked + 0.45, "fail_timeout")
        for _ in range(6):
            self.assertEqual(self.ask().status, 200)
        self.assertEqual(self.failures(), 2)
        self.assertEqual(len(alive.saw()), 10)

    @in_thread
    def test_one_connection_a_request_though_the_client_s_is_kept(self):
        backend = self.recorder()
        self.serve()
        client = self.client()
        for _ in range(4):
            client.send(asking(b"GET"))
            self.assertEqual(client.take(len(FINE_RELAYED)), FINE_RELAYED)
        self.assertEqual(backend.saw(), [seen(b"GET")] * 4)
