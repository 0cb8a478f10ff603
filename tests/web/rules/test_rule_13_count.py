"""web.md rule 13: what is counted of each backend, and the line of the access log.

Shown elsewhere: each field of the record, tests.web.test_exchange `test_log_record`; forms of the
line, tests.monitor.test_accesslog; ways to end ("--", "SH", ...), beside the tests of each.
"""

import threading
import time

from tests.web.harness import Wire, closed_port, eventually, in_thread, reply
from tests.web.rules.table import RuleTest, head

GET = head(b"GET / HTTP/1.1", b"Host: a")


class Count(RuleTest):
    """The rows of the web server status table."""

    @in_thread
    def test_hits_are_responses_relayed(self):
        """Refusals and answers of our own are none; what breaks off is none."""
        backend = self.recorder()
        self.serve(closed_port(), backend, site={"hosts": ["a", "probe"], "default": False})
        row = list(self.proxy.backends())[1]
        for data, sent, hits in (
            (reply(b"x"), GET, 1),
            (reply(b"x", 500), GET, 2),
            (reply(b"", 304), GET, 3),
            (b"HTTP/1.1 200 x\r\nContent-Length: 5\r\n\r\nab\r\n\r\n\r\n", GET, 4),
            (b"nonsense\r\n\r\n", GET, 4),
            (reply(b"x"), GET.replace(b"Host: a", b"Host: b"), 4),
            (reply(b"x"), b"BAD\r\n\r\n", 4),
        ):
            with self.row((data, sent)):
                backend.data = data
                client = self.client()
                client.send(sent)
                client.response()
                self.soon(lambda: row.hits, hits)
        self.done()
        dead = next(iter(self.proxy.backends()))
        self.assertEqual((dead.hits, dead.failed, row.failed), (0, True, False))

    @in_thread
    def test_average_of_weight_one_eighth_from_connect_to_the_response_head(self):
        pauses = iter((0.2, 0.0, 0.1))

        def script(wire: Wire) -> None:
            backend.take(wire)
            time.sleep(next(pauses))
            # The body takes its time too, and isn't counted.
            wire.send(reply(b"", 200, b"Content-Length: 1", length=False))
            time.sleep(0.8)
            wire.send(b"x")

        backend = self.backend(script)
        self.serve()
        row = next(iter(self.proxy.backends()))
        for _ in range(3):
            self.ask(GET)
        self.soon(lambda: row.hits, 3)
        times = [self.record(n).connect_time + self.record(n).response_time for n in range(3)]
        for seconds, pause in zip(times, (0.2, 0.0, 0.1), strict=True):
            self.assertTrue(pause <= seconds < pause + 0.8, times)
        first, second, third = times
        average = first + (second - first) / 8
        average += (third - average) / 8
        self.assertAlmostEqual(row.average_response, average, 4)

    @in_thread
    def test_open_connections(self):
        go = threading.Event()

        def script(wire: Wire) -> None:
            backend.take(wire)
            go.wait(20)
            wire.send(reply(b"x"))

        backend = self.backend(script)
        self.serve()
        row = next(iter(self.proxy.backends()))
        clients = [self.client() for _ in range(3)]
        for number, client in enumerate(clients, 1):
            client.send(GET)
            eventually(lambda n=number: len(backend.requests) == n, "a request")
            self.soon(lambda: row.open_connections, number)
        go.set()
        for client in clients:
            client.response()
        self.soon(lambda: row.open_connections, 0)

    @in_thread
    def test_one_line_a_request(self):
        """Also for what is refused, in the order of the answers."""
        self.recorder(reply(b"fine"))
        self.serve(site={"hosts": ["a"], "default": False})
        client = self.client()
        client.send(
            GET + GET.replace(b"Host: a", b"Host: b") + head(b"HEAD /x HTTP/1.0", b"Host: a")
        )
        client.end()
        lines = [
            (record.request, record.status, record.body, record.termination, record.backend)
            for record in (self.record(number) for number in range(3))
        ]
        page = lines[1][2]
        self.assertGreater(page, 0)
        self.assertEqual(
            lines,
            [
                (b"GET / HTTP/1.1", 200, 4, "--", "app1"),
                (b"GET / HTTP/1.1", 404, page, "PR", lines[1][4]),
                (b"HEAD /x HTTP/1.0", 200, 0, "--", "app1"),
            ],
        )
        bad = self.client()
        bad.send(b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n")
        bad.end()
        record = self.record(3)
        self.assertEqual((record.request, record.status), (b"GET /\x01 HTTP/1.1", 400))
        self.assertEqual(len(self.records), 4)
