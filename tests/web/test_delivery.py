"""How a request finds a backend over real sockets: choosing, trying the next one, sending again."""

import contextlib
import threading
import time

from twisted.logger import formatEvent, globalLogPublisher

from tests.web.harness import (
    GET,
    Message,
    Wire,
    closed_port,
    eventually,
    exchange_of,
    in_thread,
    reply,
)
from tests.web.test_exchange import POST, ExchangeTest


class Trying(ExchangeTest):
    """Backends that can't be reached, or go before they answer."""

    @in_thread
    def test_the_operator_hears_of_it_once(self):
        lines: list[str] = []

        def observe(event) -> None:
            if event.get("log_namespace", "").startswith("dlba.web"):
                lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        port = closed_port()
        self.serve(port, pool={"fail_timeout": 60})
        client = self.client()
        for _ in range(3):
            client.send(GET)
            self.assertEqual(client.response().status, 503)
        self.backend(port=port)
        for _ in range(2):
            client.send(GET)
            self.assertEqual(client.response().status, 200)
        told = [line for line in lines if line.startswith("backend ")]
        self.assertEqual(len(told), 2, told)
        where = f"127.0.0.1:{port}"
        self.assertRegex(told[0], rf"^backend app/\w+ at {where} failed: Connection refused")
        self.assertRegex(told[1], r"^backend app/\w+ is back")

    @in_thread
    def test_refused_goes_to_the_next(self):
        backend = self.backend()
        self.serve(closed_port(), closed_port(), backend, pool={"fail_timeout": 60})
        client = self.client()
        for _ in range(12):
            client.send(POST)
            self.assertEqual(client.response().body, b"app1")
        counters = self.proxy.counters
        # Each was found dead once; nobody saw it.
        self.assertEqual((counters.backend_connect_failures, counters.reroutes), (2, 2))
        self.assertEqual([b.failed for b in self.proxy.backends()], [True, True, False])
        self.soon(lambda: [record.backend for record in self.records], ["app1"] * 12)

    @in_thread
    def test_all_dead_then_alive_again(self):
        port = closed_port()
        self.serve(port, pool={"fail_timeout": 0.2})
        client = self.client()
        client.send(GET)
        self.assertEqual(client.response().status, 503)
        self.assertEqual(self.proxy.counters.backends_unavailable, 1)
        self.assertEqual(self.record().termination, "SC")
        self.backend(port=port)
        # All marked: all are tried, without waiting for fail_timeout.
        client.send(GET)
        self.assertEqual(client.response().status, 200)
        self.assertFalse(next(iter(self.proxy.backends())).failed)

    @in_thread
    def test_failed_backend_is_taken_back(self):
        port = closed_port()
        alive = self.backend()
        self.serve(port, alive, pool={"fail_timeout": 0.4})
        for _ in range(4):
            self.assertEqual(self.ask().body, b"app1")
        back = self.backend(name="back", port=port)
        bodies = eventually(
            lambda: (body := self.ask().body) == b"back" and body, "the backend is taken back"
        )
        self.assertEqual(bodies, b"back")
        self.assertGreaterEqual(len(back.requests), 1)
        self.assertEqual([b.failed for b in self.proxy.backends()], [False, False])

    @in_thread
    def test_connect_timeout_goes_to_the_next(self):
        backend = self.backend()
        with self.full_port() as port:
            self.serve(
                port, backend, pool={"connect_timeout": 0.2, "fail_timeout": 60}, timeouts={}
            )
            client = self.client()
            for _ in range(3):
                client.send(POST)
                self.assertEqual(client.response().body, b"app1")
            self.assertEqual(self.proxy.counters.reroutes, 1)

    @in_thread
    def test_connect_timeout_of_all(self):
        with self.full_port() as one, self.full_port() as two:
            self.serve(one, two, pool={"connect_timeout": 0.2})
            client = self.client()
            client.send(GET)
            self.assertEqual(client.response().status, 504)
            self.assertEqual(self.record().termination, "sC")
            self.assertEqual(self.proxy.counters.backend_connect_failures, 2)

    @in_thread
    def test_connect_total(self):
        """Once it has passed no further backend is tried."""
        backend = self.backend()
        with self.full_port() as one:
            self.serve(
                one,
                backend,
                pool={"connect_timeout": 5.0, "connect_total": 0.2},
            )
            self.assertEqual(self.ask().status, 504)
            self.assertEqual(backend.connections, [])

    @in_thread
    def test_connected_in_time_counts_though_we_are_late(self):
        """The reactor stands still across the deadline, and meanwhile the backend takes us."""
        with self.full_listener() as listener:
            self.serve(listener.getsockname()[1], pool={"connect_timeout": 0.3})
            client = self.client()
            socket_ = self.only_client()
            client.send(GET)
            eventually(lambda: exchange_of(socket_._front), "the connect is under way")

            def stand_still() -> None:
                listener.listen(32)
                # The kernel sends the SYN once more after a second.
                time.sleep(1.5)

            self.on_reactor(stand_still)
            wires = []
            while True:
                listener.settimeout(20)
                wires.append(Wire(listener.accept()[0]))
                wires[-1].sock.settimeout(0.2)
                # Those that filled the queue come, too, and say nothing.
                with contextlib.suppress(TimeoutError):
                    wires[-1].request()
                    break
            wires[-1].send(reply(b"late"))
            self.assertEqual(client.response().body, b"late")
            for wire in wires:
                wire.close()
            self.assertEqual(self.proxy.counters.backend_connect_failures, 0)

    @in_thread
    def test_connect_timeout_whatever_the_client_does_meanwhile(self):
        """What was written before, and is taken now, moves no deadline of the connect."""
        with self.full_port() as one:
            self.serve(one, pool={"connect_timeout": 0.3}, timeouts={"response": 15})
            client = self.client()
            client.send(GET)
            socket_ = self.only_client()
            eventually(lambda: exchange_of(socket_._front), "the connect is under way")
            began = time.monotonic()
            self.on_reactor(socket_._front.drained)
            self.assertEqual(client.response().status, 504)
            self.assertLess(time.monotonic() - began, 10)

    @in_thread
    def test_deadline_after_a_reroute(self):
        """A backend that was reached by a reroute has `timeouts.response` like any other."""

        def script(wire: Wire) -> None:
            wire.end()

        backend = self.backend(script)
        with self.full_port() as port:
            self.serve(port, backend, pool={"connect_timeout": 0.2}, timeouts={"response": 0.3})
            client = self.client()
            client.send(GET)
            self.assertEqual(client.response().status, 504)

    @in_thread
    def test_closed_before_a_response_is_sent_again(self):
        for how in ("close", "reset"):
            with self.subTest(how):
                self.records.clear()
                broken, whole = self.breaking(how=how), self.backend(name="whole")
                self.serve(broken, whole)
                for method in (b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"):
                    for _ in range(2):
                        response = self.ask(POST.replace(b"POST", method), method.decode())
                        self.assertEqual(response.status, 200)
                self.assertEqual((len(broken.requests), self.proxy.counters.retries), (10, 10))
                self.assertEqual([request.body for request in whole.requests], [b"abc"] * 10)
                self.on_reactor(self.service.stopService)

    @in_thread
    def test_post_is_never_sent_twice(self):
        broken, whole = self.breaking(), self.backend()
        self.serve(broken, whole)
        statuses = [self.ask(POST).status for _ in range(4)]
        self.assertEqual(sorted(statuses), [200, 200, 502, 502])
        self.assertEqual((len(broken.requests), len(whole.requests)), (2, 2))
        self.assertEqual(self.proxy.counters.retries, 0)
        self.soon(lambda: sorted(r.termination for r in self.records), ["--", "--", "SH", "SH"])

    @in_thread
    def test_nothing_is_sent_again_once_a_response_began(self):
        for data in (b"H", b"HTTP/1.1 200 OK\r\nX: y", b"HTTP/1.1 103 Early\r\n\r\n"):
            broken, whole = self.breaking(data), self.backend()
            self.serve(broken, whole)
            for _ in range(2):
                client = self.client()
                client.send(GET)
                response = client.response()
                if response.status == 103:
                    response = client.response()
                self.assertIn(response.status, (200, 502))
            self.assertEqual(self.proxy.counters.retries, 0)
            self.on_reactor(self.service.stopService)

    @in_thread
    def test_streamed_put_is_not_sent_again(self):
        """Its beginning is gone."""

        def script(wire: Wire) -> None:
            wire.take(100)
            wire.reset()

        broken, other = self.backend(script), self.backend(script)
        self.serve(broken, other, site={"request_buffer": 1000})
        client = self.client()
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n" + b"x" * 1500)
        self.assertEqual(client.response().status, 502)
        self.assertEqual(len(broken.connections) + len(other.connections), 1)

    @in_thread
    def test_each_backend_is_tried_once(self):
        backends = [self.breaking() for _ in range(3)]
        self.serve(*backends)
        self.assertEqual(self.ask().status, 502)
        self.assertEqual([len(backend.requests) for backend in backends], [1, 1, 1])

    @in_thread
    def test_two_of_three_die_under_load(self):
        """Clients see no error: the issue's scene, small."""
        backends = [self.backend() for _ in range(3)]
        self.serve(pool={"fail_timeout": 0.3}, site={"schedule": "cookie"})
        stop = threading.Event()
        seen: list[Message] = []
        failures: list[BaseException] = []

        def load() -> None:
            client = self.client()
            try:
                cookie = b""
                while not stop.is_set():
                    client.send(GET[:-2] + cookie + b"\r\n")
                    response = client.response()
                    seen.append(response)
                    if (given := response.get(b"Set-Cookie")) is not None:
                        cookie = b"Cookie: " + given.partition(b";")[0] + b"\r\n"
            except BaseException as error:  # noqa: BLE001 - told by the test
                failures.append(error)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(seen) > 50, "some responses")
        backends[0].stop()
        eventually(lambda: len(seen) > 100, "some more")
        backends[1].stop()
        count = len(seen)
        eventually(lambda: len(seen) > count + 100, "responses after the second death")
        stop.set()
        for thread in threads:
            thread.join(20)
        self.assertEqual(failures, [])
        self.assertEqual({response.status for response in seen}, {200})
        self.assertEqual({r.get(b"X-Backend") for r in seen[count + 50 :]}, {b"app3"})
