"""web.md, at its end: a clear error to that client, and every limit counted when hit.

One client does one thing; the counters that change are named.
"""

import socket
from collections.abc import Callable
from typing import Any

from tests.web.harness import Wire, certificate, in_thread, reply
from tests.web.rules.table import PATIENCE, RuleTest, head

HOST = b"Host: a"
GET = head(b"GET / HTTP/1.1", HOST)
#: What changes whatever becomes of a request.
ORDINARY = {"connections_accepted", "requests", "responses", "backend_connects"}


def put(length: int, body: bytes = b"") -> bytes:
    """An upload, maybe only the beginning of one."""
    return head(b"PUT / HTTP/1.1", HOST, b"Content-Length: %d" % length) + body


class Counted(RuleTest):
    """Exactly one counter tells of each limit."""

    def changed(self, act: Callable[[Wire], None], **options: Any) -> set[str]:
        """The counters that one client changes, without the ordinary ones."""
        before = self.proxy.counters.snapshot()
        client = self.client(**options)
        client.sock.settimeout(PATIENCE)
        act(client)
        client.close()
        self.soon(lambda: self.proxy.clients, set())
        after = self.proxy.counters.snapshot()
        return {name for name in after if after[name] != before[name]} - ORDINARY

    def sends(self, data: bytes, shut: bool = False) -> Callable[[Wire], None]:
        """A client that sends `data` and reads to the end."""

        def act(client: Wire) -> None:
            client.send(data)
            if shut:
                client.sock.shutdown(socket.SHUT_WR)
            client.end()

        return act

    @in_thread
    def test_limits_of_clients(self):
        self.recorder()
        self.serve(
            tls=[certificate("ecdsa", "a.example.com")],
            site={"hosts": ["a"], "default": False, "max_body": 10},
            limits={"head": 4096, "target": 1000, "headers": 20},
            timeouts={"head": 0.3, "body": 0.3, "handshake": 0.3, "idle": 0.3},
        )
        refused, timed_out = {"requests_refused"}, {"requests_timed_out"}
        for what, data, expected in (
            ("400", b"BAD\r\n\r\n", refused),
            ("404", head(b"GET / HTTP/1.1", b"Host: b", b"Connection: close"), refused),
            ("405", head(b"TRACE / HTTP/1.1", HOST), refused),
            ("413", put(11), refused),
            ("414", head(b"GET /" + b"x" * 1000 + b" HTTP/1.1", HOST), refused),
            ("417", put(5)[:-2] + b"Expect: x\r\n\r\n", refused),
            ("431 by size", head(b"GET / HTTP/1.1", HOST, b"X: " + b"x" * 4096), refused),
            ("431 by number", head(b"GET / HTTP/1.1", HOST, *[b"X: y"] * 20), refused),
            ("501", head(b"PUT / HTTP/1.1", HOST, b"Transfer-Encoding: x, chunked"), refused),
            ("505", head(b"GET / HTTP/2.0", HOST), refused),
            ("a head that doesn't end", b"GET /", timed_out),
            ("a body that doesn't end", put(5, b"abc"), timed_out),
        ):
            with self.row(what):
                self.assertEqual(self.changed(self.sends(data)), expected)
        for what, data, expected in (
            ("a head that is cut", b"GET /", {"requests_aborted"}),
            ("a body that is cut", put(5, b"abc"), {"requests_aborted"}),
        ):
            with self.row(what):
                self.assertEqual(self.changed(self.sends(data, True)), expected)
        with self.row("a handshake that doesn't end"):
            changed = self.changed(lambda client: client.end(), port=self.tls_port)
            self.assertEqual(changed, {"handshakes_failed"})
        self.done()

    @in_thread
    def test_limits_of_backends(self):
        backend = self.recorder()
        self.serve(timeouts={"response": 0.3})
        line = b"HTTP/1.1 200 Fine\r\nContent-Length: 9\r\n\r\n"
        for data, shuts, expected in (
            (b"nonsense\r\n\r\n", False, {"backend_errors"}),
            (b"HTTP/1.1 200 Fi", False, {"backend_timeouts"}),
            (b"HTTP/1.1 200 Fi", True, {"backend_errors"}),
            (line + b"half", True, {"responses_broken"}),
        ):
            with self.row((data, shuts)):
                backend.data, backend.shuts = data, shuts
                asked = head(b"GET / HTTP/1.1", HOST, b"Connection: close")
                self.assertEqual(self.changed(self.sends(asked)), expected)
        self.done()
        backend.data = reply(b"fine")
