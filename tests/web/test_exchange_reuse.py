"""Backend connections that carry several requests: which ones, and what ends them."""

import socket
import time

from tests.web.harness import Backend, ProxyTest, Wire, chunked, eventually, in_thread, reply

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
REUSE = {"reuse": True}


class ReuseTest(ProxyTest):
    """Backends that keep their connections."""

    def keeping(self, *answers: bytes, name: str = "") -> Backend:
        """A backend that gives these answers in turn, over and over, on each connection."""
        given = iter(answers * 1000 or [reply(b"fine")] * 1000)

        def script(wire: Wire) -> None:
            while True:
                backend.take(wire)
                wire.send(next(given))

        backend = self.backend(script, name)
        return backend

    def ask_all(self, *requests: bytes) -> list[int]:
        """The statuses of these requests over one client connection, one after the other."""
        client = self.client()
        statuses = []
        for request in requests:
            client.send(request)
            method = request.partition(b" ")[0].decode()
            statuses.append(client.response(method).status)
        client.close()
        return statuses

    def idle(self, count: int) -> None:
        """Wait until so many connections are idle."""
        eventually(lambda: len(self.proxy.idle) == count, f"{count} idle connections")


class Kept(ReuseTest):
    @in_thread
    def test_one_connection_for_many_requests(self) -> None:
        backend = self.keeping()
        self.serve(pool=REUSE)
        self.assertEqual(self.ask_all(*(GET % n for n in range(5))), [200] * 5)
        self.idle(1)
        self.assertEqual(len(backend.connections), 1)
        self.assertEqual(
            backend.requests[4].head,
            b"GET /4 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.0.0.1\r\n"
            b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n\r\n",
        )
        self.assertEqual(self.proxy.counters.backend_reuses, 4)
        self.assertEqual(self.proxy.counters.backend_connects, 1)
        # Idle ones serve nobody.
        self.assertEqual(self.proxy.open_backends, 0)

    @in_thread
    def test_other_clients_share_them(self) -> None:
        backend = self.keeping()
        self.serve(pool=REUSE)
        for n in range(3):
            self.assertEqual(self.ask(GET % n).status, 200)
            self.idle(1)
        self.assertEqual(len(backend.connections), 1)

    @in_thread
    def test_not_what_may_not_be_sent_twice(self) -> None:
        backend = self.keeping()
        self.serve(pool=REUSE)
        bare = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        self.assertEqual(self.ask_all(GET % 0, bare % 1, GET % 2), [200] * 3)
        self.assertEqual(len(backend.connections), 2)
        self.idle(2)

    @in_thread
    def test_a_body_goes_alone(self) -> None:
        """A backend that leaves a body unread would take it for the next request."""
        backend = self.keeping()
        self.serve(pool=REUSE)
        with_body = (POST % 1, (POST % 2).replace(b"POST", b"GET"))
        self.assertEqual(self.ask_all(GET % 0, *with_body, GET % 3), [200] * 4)
        self.assertEqual(len(backend.connections), 3)
        closed = [request.all(b"Connection") for request in backend.requests]
        self.assertEqual(closed, [[], [b"close"], [b"close"], []])
        self.idle(1)

    @in_thread
    def test_every_framing(self) -> None:
        backend = self.keeping(
            reply(b"by length"),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"in chunks", 4),
            b"HTTP/1.1 204 Nothing\r\n\r\n",
            b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            reply(b"last"),
        )
        self.serve(pool=REUSE)
        head = (GET % 4).replace(b"GET", b"HEAD")
        requests = (GET % 0, GET % 1, GET % 2, GET % 3, head, GET % 5)
        self.assertEqual(self.ask_all(*requests), [200, 200, 204, 304, 200, 200])
        self.assertEqual(len(backend.connections), 1)

    @in_thread
    def test_off_by_default(self) -> None:
        backend = self.keeping()
        self.serve()
        self.assertEqual(self.ask_all(GET % 0, GET % 1), [200] * 2)
        self.assertEqual(len(backend.connections), 2)
        self.assertEqual(backend.requests[1].all(b"Connection"), [b"close"])


class Ended(ReuseTest):
    @in_thread
    def test_by_what_the_backend_says(self) -> None:
        for answer in (
            reply(b"x", 200, b"Connection: close"),
            reply(b"x").replace(b"HTTP/1.1", b"HTTP/1.0"),
            # Bytes behind the response would be taken for the next one.
            reply(b"x") + b"HTTP/1.1 200 Smuggled\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"x", 1) + b"z",
        ):
            backend = self.keeping(answer)
            self.serve(backend, pool=REUSE)
            self.assertEqual(self.ask_all(GET % 0, GET % 1), [200] * 2)
            self.assertEqual(len(backend.connections), 2, answer)
            self.assertEqual(len(self.proxy.idle), 0)
            self.on_reactor(self.service.stopService)

    @in_thread
    def test_until_close(self) -> None:
        backend = self.backend()
        backend.says(b"HTTP/1.1 200 OK\r\n\r\nuntil close")
        self.serve(pool=REUSE)
        self.assertEqual(self.ask(GET % 0).body, b"until close")
        self.assertEqual(len(self.proxy.idle), 0)

    @in_thread
    def test_by_bytes_while_idle(self) -> None:
        backend = self.keeping()
        self.serve(pool=REUSE)
        self.ask(GET % 0)
        self.idle(1)
        backend.connections[0].send(b"HTTP/1.1 200 Unasked\r\nContent-Length: 0\r\n\r\n")
        self.idle(0)
        self.assertEqual(self.ask(GET % 1).line, b"HTTP/1.1 200 Fine")

    @in_thread
    def test_by_bytes_in_the_moment_of_the_next_request(self) -> None:
        backend = self.keeping()
        self.serve(pool=REUSE)
        self.ask(GET % 0)
        self.idle(1)

        def race() -> None:
            # Nothing is dispatched between the backend's word and the look at it.
            backend.connections[0].send(b"HTTP/1.1 200 Unasked\r\nContent-Length: 0\r\n\r\n")
            time.sleep(0.05)
            side = self.proxy.idle.take(next(iter(self.proxy.backends())))
            self.assertFalse(side.serve(None, b"GET / HTTP/1.1\r\n\r\n"))

        self.on_reactor(race)
        self.assertEqual(len(backend.requests), 1)

    @in_thread
    def test_closed_while_idle(self) -> None:
        backend = self.keeping()
        self.serve(pool=REUSE)
        self.ask(GET % 0)
        self.idle(1)
        backend.connections[0].close()
        self.idle(0)
        self.assertEqual(self.ask(GET % 1).status, 200)

    @in_thread
    def test_closed_as_the_request_comes(self) -> None:
        """A backend that closes each kept connection without an answer loses no request."""

        def script(wire: Wire) -> None:
            backend.take(wire)
            wire.send(reply(b"once"))
            backend.take(wire)

        backend = self.backend(script)
        self.serve(pool=REUSE)
        self.assertEqual(self.ask_all(*(GET % n for n in range(6))), [200] * 6)
        lines = [int(request.line.split()[1][1:]) for request in backend.requests]
        self.assertEqual(lines, [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
        self.assertEqual(self.proxy.counters.retries, 5)
        # The backend isn't at fault.
        self.assertFalse(next(iter(self.proxy.backends())).failed)

    @in_thread
    def test_closed_after_all_tries_had_to_be_made(self) -> None:
        """The backend has worked on the request, and no time to connect is left."""
        asked: list[bytes] = []

        def script(wire: Wire) -> None:
            asked.append(wire.request().line)
            wire.send(reply(b"fine"))
            asked.append(wire.request().line)
            time.sleep(0.4)

        self.backend(script)
        self.serve(pool=REUSE | {"connect_total": 0.2})
        self.assertEqual(self.ask(GET % 0).status, 200)
        self.idle(1)
        self.assertEqual(self.ask(GET % 1).status, 502)
        self.assertEqual(asked, [b"GET /0 HTTP/1.1", b"GET /1 HTTP/1.1"])
        self.assertEqual([row.failed for row in self.proxy.backends()], [False])

    @in_thread
    def test_timed_out_while_idle(self) -> None:
        """A 408 on a kept connection isn't the answer to what was sent just then."""
        late = reply(b"", 408, b"Connection: close")

        def script(wire: Wire) -> None:
            backend.take(wire)
            wire.send(reply(b"once"))
            backend.take(wire)
            wire.send(late)

        backend = self.backend(script)
        self.serve(pool=REUSE)
        self.assertEqual(self.ask_all(GET % 0, GET % 1), [200] * 2)
        self.assertEqual(len(backend.connections), 2)
        backend.says(late)
        for side in tuple(self.proxy.idle._sides):
            self.on_reactor(side.reset)
        self.assertEqual(self.ask(GET % 2).status, 408)

    @in_thread
    def test_a_backend_that_died_while_many_were_idle(self) -> None:
        dead, alive = self.keeping(name="dead"), self.keeping(name="alive")
        self.serve(dead, alive, pool=REUSE)
        for n in range(8):
            self.ask(GET % n)
        for sock in (dead._listener, *(wire.sock for wire in dead.connections)):
            sock.shutdown(socket.SHUT_RDWR)
        self.assertEqual(self.ask_all(*(GET % n for n in range(8))), [200] * 8)

    @in_thread
    def test_after_a_while(self) -> None:
        self.keeping()
        self.serve(pool=REUSE)
        self.ask(GET % 0)
        self.idle(1)
        side = next(iter(self.proxy.idle._sides))
        self.on_reactor(side.expire, time.monotonic())
        self.idle(0)

    @in_thread
    def test_the_node_stops(self) -> None:
        backend = self.keeping()
        self.serve(pool=REUSE)
        self.ask(GET % 0)
        self.idle(1)
        self.on_reactor(self.service.stopService)
        self.assertEqual(len(self.proxy.idle), 0)
        self.assertEqual(len(backend.connections), 1)
