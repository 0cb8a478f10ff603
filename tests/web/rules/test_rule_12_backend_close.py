"""web.md rule 12: the backend side ends so that no port is left in TIME_WAIT.

docs/decisions/0002 settles how: by a reset, or with `backend_close: wait` up to a second later.
Shown elsewhere: tests.web.test_backendside `Ends` (reset when the backend keeps, the whole response
is taken first, `wait` lets the backend close first, is bounded, and ends with bytes nobody asked).
"""

import socket
from pathlib import Path

from tests.web.harness import Wire, in_thread, reply
from tests.web.rules.table import OK, Row, RuleTest, head, request

_TIME_WAIT = "06"


def time_waits(port: int) -> set[tuple[str, str]]:
    """The ends of this machine's connections in TIME_WAIT that have `port` at one of them."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return {
        (row[1], row[2])
        for row in rows
        if row[3] == _TIME_WAIT and f"{port:04X}" in (row[1][-4:], row[2][-4:])
    }


class Closing(RuleTest):
    """After a full response."""

    SENT = head(b"GET / HTTP/1.1", b"Host: a")
    SEEN = request(b"GET / HTTP/1.1", b"Host: a")

    @in_thread
    def test_no_time_wait_whoever_closes(self):
        backend = self.recorder()
        # Others had connections with this number at one end before.
        before = time_waits(backend.port)
        self.serve()
        for shuts in (False, True):
            backend.shuts = shuts
            rows = [
                Row(f"{shuts} {number}", self.SENT, OK, self.SEEN, "kept") for number in range(20)
            ]
            self.check(rows, backend)
        self.done()
        self.assertEqual(set(backend.ends), {"reset"})
        self.assertEqual(time_waits(backend.port) - before, set())

    @in_thread
    def test_wait_closes_in_kind(self):
        """The backend closes first: an ordinary end for both, and its own TIME_WAIT."""
        ends: list[str] = []

        def script(wire: Wire) -> None:
            backend.take(wire)
            wire.send(reply(b"fine"))
            wire.sock.shutdown(socket.SHUT_WR)
            ends.append(wire.end())

        backend = self.backend(script)
        self.serve(pool={"backend_close": "wait"})
        client = self.client()
        for _ in range(5):
            client.send(self.SENT)
            self.assertEqual(client.response().body, b"fine")
        self.soon(lambda: ends, ["eof"] * 5)
        self.assertEqual([bytes(wire.received) for wire in backend.connections], [self.SEEN] * 5)
        self.soon(lambda: self.proxy.open_backends, 0)
