"""One request and its response over real sockets: editing, relaying, breaking."""

import contextlib
import hashlib
import os
import socket
import threading
import time

from dlba.config.keys import SecretKey
from tests.web.harness import (
    GET,
    KEYS,
    MIB,
    Backend,
    Message,
    ProxyTest,
    Wire,
    chunked,
    eventually,
    in_thread,
    reply,
)

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"


class ExchangeTest(ProxyTest):
    """Backends that misbehave."""

    def breaking(self, data: bytes = b"", how: str = "close", name: str = "") -> Backend:
        """A backend that takes a request, sends `data` and ends the connection."""

        def script(wire: Wire) -> None:
            backend.take(wire)
            if data:
                wire.send(data)
            if how == "reset":
                wire.reset()

        backend = self.backend(script, name)
        return backend

    @contextlib.contextmanager
    def full_port(self):
        """A port whose listener takes no more connections: SYNs to it get no answer."""
        with self.full_listener() as listener:
            yield listener.getsockname()[1]

    @contextlib.contextmanager
    def full_listener(self):
        """The same, as a socket: `listen` with a longer queue lets connections in again."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        fillers = []
        try:
            for _ in range(8):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
                fillers.append(filler)
            yield listener
        finally:
            for filler in fillers:
                filler.close()
            listener.close()


class Forwarding(ExchangeTest):
    """What reaches the backend, and what of its answer reaches the client."""

    @in_thread
    def test_the_request_on_the_wire(self):
        backend = self.backend()
        self.serve()
        self.ask(
            b"GET /a%2F?b=c HTTP/1.1\r\nhOST: Shop:1\r\nX-B: 2\r\nCookie: a=b\r\n"
            b"Connection: x-hop\r\nX-Hop: 1\r\nx-forwarded-for: 9.9.9.9\r\nX_Real_IP: 9\r\n"
            b"Keep-Alive: 5\r\nTE: trailers\r\nx-A: \xe4\r\n\r\n"
        )
        self.assertEqual(
            backend.requests[0].head,
            b"GET /a%2F?b=c HTTP/1.1\r\nhOST: Shop:1\r\nX-B: 2\r\nCookie: a=b\r\nx-A: \xe4\r\n"
            b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: Shop:1\r\n"
            b"Connection: close\r\n\r\n",
        )

    @in_thread
    def test_the_response_on_the_wire(self):
        self.backend().says(
            b"HTTP/1.0 207 Some words\r\nx-One: 1\r\nConnection: x-hop, close\r\nX-Hop: 1\r\n"
            b"Keep-Alive: 5\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nDate: then\r\n"
            b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok"
        )
        self.serve()
        client = self.client()
        client.send(GET)
        self.assertEqual(
            client.response().head,
            b"HTTP/1.1 207 Some words\r\nx-One: 1\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n"
            b"Date: then\r\nContent-Length: 2\r\n\r\n",
        )

    @in_thread
    def test_date_is_added_where_it_misses(self):
        self.backend()
        self.serve()
        date = self.ask().get(b"Date")
        self.assertRegex(date, rb"^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$")

    @in_thread
    def test_status_without_a_body(self):
        """HEAD, 204 and 304 end with their head, whatever Content-Length says."""
        for request, response, length in (
            (
                GET.replace(b"GET", b"HEAD"),
                reply(b"", 200, b"Content-Length: 9", length=False),
                b"9",
            ),
            (GET.replace(b"GET", b"HEAD"), reply(b"", 200, length=False), None),
            (GET, reply(b"", 304, b"Content-Length: 9", length=False), b"9"),
            (GET, reply(b"", 304, length=False), None),
            (GET, reply(b"", 204, b"Content-Length: 9", length=False), None),
        ):
            with self.subTest(request=request, response=response):
                backend = self.backend()
                backend.says(response)
                self.serve(backend)
                client = self.client()
                for _ in range(2):
                    client.send(request)
                    answer = client.response("HEAD" if request.startswith(b"HEAD") else "GET")
                    self.assertEqual(answer.get(b"Content-Length"), length)
                    self.assertIsNone(answer.get(b"Transfer-Encoding"))
                    self.assertIsNone(answer.get(b"Connection"))
                client.close()
                self.on_reactor(self.service.stopService)

    @in_thread
    def test_body_by_length_chunked_and_until_close(self):
        body = os.urandom(300_000)
        ways = {
            "length": reply(body),
            "chunked": reply(b"", 200, b"Transfer-Encoding: chunked", length=False)
            + chunked(body, 7001)[:-2]
            + b"X-Trailer: 1\r\n\r\n",
            "close": reply(b"", 200, length=False) + body,
        }
        backend = self.backend()
        self.serve()
        for way, data in ways.items():
            backend.says(data)
            client = self.client()
            client.send(GET)
            response = client.response()
            self.assertEqual(response.body, body, way)
            self.assertEqual(response.trailers, [])
            self.assertIsNone(response.get(b"Connection"))
            coding = response.get(b"Transfer-Encoding")
            self.assertEqual(coding, None if way == "length" else b"chunked")
            client.send(GET)
            self.assertEqual(client.response().body, body)

            # To HTTP/1.0 nothing goes chunked, and what has no length ends the connection.
            client = self.client()
            client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            response = client.response()
            self.assertEqual(response.body, body, way)
            self.assertIsNone(response.get(b"Transfer-Encoding"))
            kept = b"keep-alive" if way == "length" else b"close"
            self.assertEqual(response.get(b"Connection"), kept)
            if way != "length":
                self.assertEqual((client.end(), client.unread), ("eof", b""))

    @in_thread
    def test_response_in_single_bytes(self):
        data = b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + reply(
            b"", 200, b"Transfer-Encoding: chunked", length=False
        )
        data += chunked(b"hello world", 3)

        def script(wire: Wire) -> None:
            self.backends[0].take(wire)
            wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in data:
                wire.send(bytes((byte,)))

        self.backend(script)
        self.serve()
        client = self.client()
        client.send(GET)
        early = client.response()
        self.assertEqual((early.status, early.get(b"Link")), (103, b"x"))
        self.assertEqual(client.response().body, b"hello world")

    @in_thread
    def test_interim_responses(self):
        def interim(status: int) -> bytes:
            return b"HTTP/1.1 %d Wait\r\nX-I: 1\r\nContent-Length: 5\r\n\r\n" % status

        backend = self.backend()
        self.serve()
        for data, statuses in (
            (interim(100) + interim(103) + interim(102) + reply(b"x"), [103, 102, 200]),
            (interim(103) * 16 + reply(b"x"), [103] * 16 + [200]),
            (interim(103) * 17 + reply(b"x"), [103] * 16 + [502]),
            (interim(100) * 17 + interim(103) * 16 + reply(b"x"), [103] * 16 + [200]),
            (interim(100) * 3000 + reply(b"x"), [502]),
            (interim(101) + reply(b"x"), [502]),
        ):
            backend.says(data)
            client = self.client()
            client.send(GET)
            responses = [client.response() for _ in statuses]
            self.assertEqual([response.status for response in responses], statuses)
            for response in responses:
                if response.status < 200:
                    self.assertEqual(response.fields, [(b"X-I", b"1")])

    @in_thread
    def test_no_interim_response_to_http_1_0(self):
        self.backend().says(b"HTTP/1.1 103 Early\r\n\r\n" + reply(b"x"))
        self.serve()
        self.assertEqual(self.ask(b"GET / HTTP/1.0\r\n\r\n").status, 200)

    @in_thread
    def test_bytes_behind_the_response_are_dropped(self):
        self.backend().says(reply(b"one") + reply(b"two"))
        self.serve()
        client = self.client()
        for _ in range(2):
            client.send(GET)
            self.assertEqual(client.response().body, b"one")
        self.assertEqual(client.unread, b"")

    @in_thread
    def test_invalid_responses(self):
        backend = self.backend()
        self.serve()
        for data in (
            b"nonsense\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
        ):
            backend.says(data)
            client = self.client()
            client.send(GET)
            response = client.response()
            self.assertEqual(response.status, 502, data[:80])
            # The client did nothing wrong: its connection stays.
            client.send(GET)
            self.assertEqual(client.response().status, 502)
        self.terminations({"PH"})
        self.assertEqual(self.proxy.counters.backend_errors, 16)

    @in_thread
    def test_log_record(self):
        self.backend()
        self.serve(timeouts={})
        self.ask(GET.replace(b"Host: a", b"Host: a\r\nReferer: r"))
        record = self.record()
        self.assertEqual(record.request, b"GET / HTTP/1.1")
        self.assertEqual((record.client, record.port, record.tls), ("127.0.0.1", self.port, False))
        self.assertEqual((record.status, record.body, record.termination), (200, 4, "--"))
        self.assertEqual(
            (record.site, record.pool, record.backend, record.reason, record.retries),
            ("*", "app", "app1", "round-robin", 0),
        )
        self.assertIn(b"Referer: r", record.head)
        for seconds in (record.head_time, record.connect_time, record.response_time):
            self.assertTrue(0 <= seconds <= record.total_time, record)


class Uploads(ExchangeTest):
    """Responses that don't wait for the request."""

    @in_thread
    def test_early_final_response(self):
        """It is relayed at once; then the connection closes, and no answer is lost."""

        def script(wire: Wire) -> None:
            wire.head()
            wire.send(reply(b"enough", 413))
            wire.end()

        self.backend(script)
        self.serve(site={"request_buffer": 1000})
        client = self.client()
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 2000)
        response = client.response()
        self.assertEqual((response.status, response.body), (413, b"enough"))
        self.assertEqual(response.get(b"Connection"), b"close")
        client.send(b"y" * 500_000)
        client.sock.shutdown(socket.SHUT_WR)
        self.assertEqual((client.end(), client.unread), ("eof", b""))

    @in_thread
    def test_answer_and_reset_before_the_upload_was_read(self):
        """A backend may answer and close with our bytes unread: its answer counts, if it came."""

        def script(wire: Wire) -> None:
            wire.head()
            wire.send(reply(b"", 401))
            time.sleep(0.2)

        self.backend(script)
        self.serve(site={"request_buffer": 1000})
        client = self.client()
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000)
        self.assertEqual(client.response().status, 401)

    @in_thread
    def test_slow_backend_pauses_nobody_else(self):
        go = threading.Event()

        def script(wire: Wire) -> None:
            assert go.wait(20)
            wire.send(reply(hashlib.sha256(self.backends[0].take(wire).body).hexdigest().encode()))

        slow, quick = self.backend(script), self.backend()
        pools = {
            name: {"backends": {"one": {"address": f"127.0.0.1:{backend.port}"}}}
            for name, backend in (("slow", slow), ("quick", quick))
        }
        self.serve(
            pools=pools,
            sites=[
                {"hosts": ["slow"], "pool": "slow", "schedule": "url"},
                {"hosts": ["*"], "pool": "quick", "schedule": "url"},
            ],
        )
        body = os.urandom(6 * MIB)
        client = self.client()
        head = b"PUT / HTTP/1.1\r\nHost: slow\r\nContent-Length: %d\r\n\r\n" % len(body)
        sender = threading.Thread(target=client.send, args=(head + body,))
        sender.start()
        for _ in range(20):
            self.assertEqual(self.ask().status, 200)
        go.set()
        self.assertEqual(client.response().body, hashlib.sha256(body).hexdigest().encode())
        sender.join(20)

    @in_thread
    def test_early_response_outlives_what_is_wrong_with_the_rest_of_the_request(self):
        head = b"POST / HTTP/1.1\r\nHost: a\r\n"
        length, coding = b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
        for what, begun, then in (
            ("half-close", length + b"xx", None),
            ("silence", length + b"xx", b""),
            ("bad chunk", coding + b"2\r\nxx\r\n", b"zz\r\n"),
        ):
            with self.subTest(what):
                go = threading.Event()

                def script(wire: Wire, go: threading.Event = go) -> None:
                    wire.head()
                    wire.send(b"HTTP/1.1 413 Big\r\nContent-Length: 10\r\n\r\nhello")
                    go.wait(20)
                    wire.send(b"world")

                backend = self.backend(script)
                self.serve(backend, site={"request_buffer": 0}, timeouts={"body": 0.2})
                client = self.client()
                client.send(head + begun)
                client.until(b"hello")
                if then is None:
                    client.sock.shutdown(socket.SHUT_WR)
                elif then:
                    client.send(then)
                time.sleep(0.5)
                go.set()
                self.assertEqual((client.end(), client.unread), ("eof", b"world"))
                self.on_reactor(self.service.stopService)

    @in_thread
    def test_what_is_kept_of_a_response_is_counted(self):
        go = threading.Event()

        def script(wire: Wire) -> None:
            backend.take(wire)
            wire.send(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 60_000)
            go.wait(20)
            wire.send(b"\r\nTransfer-Encoding: chunked\r\n\r\n1;a=" + b"y" * 10_000)
            then.wait(20)
            wire.send(b"\r\nz\r\n0\r\n\r\n")

        then = threading.Event()
        backend = self.backend(script)
        self.serve()
        client = self.client()
        client.send(GET)
        memory = self.proxy.memory
        self.soon(lambda: memory.used // 4096, 60_000 // 4096)
        go.set()
        client.until(b"\r\n\r\n")
        self.soon(lambda: memory.used // 4096, 10_000 // 4096)
        then.set()
        self.assertEqual(client.take(11), b"1\r\nz\r\n0\r\n\r\n")
        self.soon(lambda: memory.used, 0)


class Breaking(ExchangeTest):
    """Responses that break off, and those who go away."""

    @in_thread
    def test_breaks_off_in_the_body(self):
        """The client must see that it is broken: no last chunk, a reset."""
        heads = {
            "length": reply(b"", 200, b"Content-Length: 100", length=False),
            "chunked": reply(b"", 200, b"Transfer-Encoding: chunked", length=False) + b"64\r\n",
        }
        for way, head in heads.items():
            for how in ("close", "reset"):
                with self.subTest(way=way, how=how):
                    self.records.clear()
                    seen = threading.Event()

                    def script(wire: Wire, head=head, how=how, seen=seen) -> None:
                        wire.request()
                        wire.send(head + b"half")
                        seen.wait(20)
                        if how == "reset":
                            wire.reset()

                    backend = self.backend(script)
                    self.serve(backend)
                    client = self.client()
                    client.send(GET)
                    client.until(b"half")
                    seen.set()
                    self.assertEqual(client.end(), "reset")
                    self.assertNotIn(b"0\r\n\r\n", client.unread)
                    self.soon(lambda: self.proxy.counters.responses_broken, 1)
                    self.soon(lambda: [record.termination for record in self.records], ["SD"])
                    self.on_reactor(self.service.stopService)

    @in_thread
    def test_bad_chunk_in_the_middle(self):
        seen = threading.Event()

        def script(wire: Wire) -> None:
            wire.request()
            wire.send(reply(b"", 200, b"Transfer-Encoding: chunked", length=False) + b"2\r\nab\r\n")
            seen.wait(20)
            wire.send(b"nonsense\r\n")
            wire.end()

        self.backend(script)
        self.serve()
        client = self.client()
        client.send(GET)
        client.until(b"ab")
        seen.set()
        self.assertEqual(client.end(), "reset")
        self.assertEqual(self.record().termination, "PD")

    @in_thread
    def test_response_timeout(self):
        def script(wire: Wire) -> None:
            backend.take(wire)
            ends.append(wire.end())

        ends: list[str] = []
        backend, other = self.backend(script), self.backend(script)
        self.serve(timeouts={"response": 0.3})
        client = self.client()
        client.send(GET)
        self.assertEqual(client.response().status, 504)
        # Never retried: somebody may have waited long for it already.
        self.assertEqual(len(backend.connections) + len(other.connections), 1)
        eventually(lambda: ends, "the backend's end")
        self.assertEqual(ends, ["reset"])
        self.assertEqual(self.record().termination, "sH")
        self.assertEqual(self.proxy.counters.backend_timeouts, 1)
        # The client did nothing wrong.
        client.send(GET)
        self.assertEqual(client.response().status, 504)

    @in_thread
    def test_response_timeout_in_the_body(self):
        def script(wire: Wire) -> None:
            wire.request()
            wire.send(reply(b"", 200, b"Content-Length: 100", length=False) + b"half")
            wire.end()

        self.backend(script)
        self.serve(timeouts={"response": 0.3})
        client = self.client()
        client.send(GET)
        client.until(b"half")
        self.assertEqual(client.end(), "reset")
        self.assertEqual(self.record().termination, "sD")

    @in_thread
    def test_slow_but_steady_response_takes_its_time(self):
        def script(wire: Wire) -> None:
            wire.request()
            wire.send(reply(b"", 200, b"Content-Length: 20", length=False))
            for _ in range(20):
                wire.send(b"x")
                time.sleep(0.08)

        self.backend(script)
        self.serve(timeouts={"response": 0.6})
        self.assertEqual(self.ask().body, b"x" * 20)

    @in_thread
    def test_client_resets_while_it_waits(self):
        ends: list[str] = []

        def script(wire: Wire) -> None:
            backend.take(wire)
            ends.append(wire.end())

        backend = self.backend(script)
        self.serve()
        client = self.client()
        client.send(GET)
        eventually(lambda: backend.requests, "the request")
        client.reset()
        eventually(lambda: ends, "the backend's connection is aborted")
        self.assertEqual(ends, ["reset"])
        self.assertEqual(self.record().termination, "CH")
        self.soon(lambda: self.proxy.counters.requests_aborted, 1)

    @in_thread
    def test_client_resets_in_the_middle_of_the_response(self):
        ends: list[str] = []

        def script(wire: Wire) -> None:
            wire.request()
            wire.send(reply(b"", 200, b"Content-Length: 1000000000", length=False))
            try:
                while True:
                    wire.send(b"x" * 65536)
            except OSError:
                ends.append("reset")

        self.backend(script)
        self.serve()
        client = self.client()
        client.send(GET)
        client.until(b"xxx")
        client.reset()
        eventually(lambda: ends, "the backend's connection is aborted")
        self.assertEqual(self.record().termination, "CD")

    @in_thread
    def test_client_resets_in_the_middle_of_an_upload(self):
        ends: list[str] = []

        def script(wire: Wire) -> None:
            ends.append(wire.end())

        backend = self.backend(script)
        self.serve(site={"request_buffer": 100})
        client = self.client()
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n" + b"x" * 1500)
        eventually(lambda: backend.connections, "the upload begins")
        client.reset()
        eventually(lambda: ends, "the backend's connection is aborted")
        self.assertEqual(ends, ["reset"])

    @in_thread
    def test_half_close_after_a_complete_request(self):
        go = threading.Event()

        def script(wire: Wire) -> None:
            wire.request()
            go.wait(20)
            wire.send(reply(b"late"))

        self.backend(script)
        self.serve()
        client = self.client()
        client.send(GET)
        client.sock.shutdown(socket.SHUT_WR)
        front = self.only_client()._front
        eventually(lambda: front.ended, "the half-close was seen")
        go.set()
        response = client.response()
        self.assertEqual(response.body, b"late")
        self.assertEqual((client.end(), client.unread), ("eof", b""))


class Persistence(ExchangeTest):
    """Cookies and hashes, from the client's view."""

    def cookie_of(self, response: Message, name: bytes = b"DLBA") -> bytes:
        """NAME=value of our cookie in that response."""
        own = [c for c in response.all(b"Set-Cookie") if c.startswith(name + b"=")]
        self.assertEqual(len(own), 1, response.fields)
        return own[0].partition(b";")[0]

    def with_cookie(self, cookie: bytes, host: bytes = b"a") -> bytes:
        return b"GET / HTTP/1.1\r\nHost: " + host + b"\r\nCookie: x=1; " + cookie + b"; y=2\r\n\r\n"

    @in_thread
    def test_cookie_keeps_the_backend(self):
        backends = [self.backend() for _ in range(4)]
        self.serve(site={"schedule": "cookie"})
        first = self.ask()
        line = first.all(b"Set-Cookie")[0]
        self.assertTrue(line.endswith(b"; Path=/; HttpOnly; SameSite=Lax"), line)
        self.assertIn(b"private", first.get(b"Cache-Control"))
        cookie = self.cookie_of(first)
        for _ in range(8):
            response = self.ask(self.with_cookie(cookie))
            self.assertEqual(response.body, first.body)
            self.assertEqual(response.all(b"Set-Cookie"), [])
        served = next(backend for backend in backends if backend.name.encode() == first.body)
        # The backend never sees our cookie, and sees the others as they came.
        self.assertEqual(served.requests[-1].all(b"Cookie"), [b"x=1; y=2"])
        row = next(row for row in self.proxy.backends() if row.name == served.name)
        self.soon(lambda: (row.cookie_groups, row.hits), (1, 9))

    @in_thread
    def test_forged_and_unknown_cookies_count_as_none(self):
        self.backend()
        self.serve(site={"schedule": "cookie"})
        good = self.cookie_of(self.ask())
        flipped = good[:-1] + (b"A" if good[-1:] != b"A" else b"Q")
        for cookie in (flipped, b"DLBA=", b"DLBA=app1", good + b"x", b"DLBA=k1." + b"A" * 22):
            self.cookie_of(self.ask(self.with_cookie(cookie)))
        # The first valid one of all counts.
        response = self.ask(self.with_cookie(flipped + b"; " + good))
        self.assertEqual(response.all(b"Set-Cookie"), [])

    @in_thread
    def test_cookie_of_a_dead_backend(self):
        one, two = self.backend(), self.backend()
        self.serve(site={"schedule": "cookie"}, pool={"fail_timeout": 60})
        first = self.ask()
        cookie = self.cookie_of(first)
        dead, alive = (one, two) if first.body == b"app1" else (two, one)
        dead.stop()
        response = self.ask(self.with_cookie(cookie))
        self.assertEqual(response.body, alive.name.encode())
        self.assertNotEqual(self.cookie_of(response), cookie)
        self.assertEqual(self.record(1).reason, "reroute")

    @in_thread
    def test_rotated_keys(self):
        """A new key signs, the old one still verifies; a removed one no longer does."""
        for _ in range(3):
            self.backend()
        old, new = KEYS[0], SecretKey("k2", b"f" * 32)
        self.serve(site={"schedule": "cookie"})
        first = self.ask()
        cookie = self.cookie_of(first)
        self.assertTrue(cookie.startswith(b"DLBA=k1."))
        self.on_reactor(self.service.stopService)

        self.serve(site={"schedule": "cookie"}, keys=(new, old))
        for _ in range(5):
            response = self.ask(self.with_cookie(cookie))
            self.assertEqual((response.body, response.all(b"Set-Cookie")), (first.body, []))
        self.assertTrue(self.cookie_of(self.ask()).startswith(b"DLBA=k2."))
        self.on_reactor(self.service.stopService)

        self.serve(site={"schedule": "cookie"}, keys=(new,))
        self.assertTrue(self.cookie_of(self.ask(self.with_cookie(cookie))).startswith(b"DLBA=k2."))

    @in_thread
    def test_session_cookie_is_followed(self):
        backends = [self.backend() for _ in range(3)]
        self.serve(
            site={"schedule": "cookie", "persistence": {"session_cookie": "SID"}},
        )
        self.assertEqual(self.ask().all(b"Set-Cookie"), [])
        session = b"Set-Cookie: SID=abc; Path=/app; Max-Age=60; Secure"
        for backend in backends:
            backend.says(reply(backend.name.encode(), 200, b"Set-Cookie: z=1", session))
        first = self.ask()
        cookies = first.all(b"Set-Cookie")
        self.assertEqual(cookies[:2], [b"z=1", session.partition(b": ")[2]])
        self.assertEqual(len(cookies), 3)
        ours, *attributes = cookies[2].split(b"; ")
        self.assertEqual(sorted(attributes), [b"HttpOnly", b"Max-Age=60", b"Path=/app", b"Secure"])
        for backend in backends:
            backend.says(reply(backend.name.encode()))
        for _ in range(6):
            response = self.ask(self.with_cookie(b"SID=abc; " + ours))
            self.assertEqual((response.body, response.all(b"Set-Cookie")), (first.body, []))
        # Sessions older than DLBA stay together, by their id.
        bodies = {self.ask(self.with_cookie(b"SID=older")).body for _ in range(6)}
        self.assertEqual(len(bodies), 1)
        self.soon(lambda: self.records[-1].reason, "session")

    @in_thread
    def test_session_deletion_is_mirrored(self):
        self.backend().says(reply(b"", 200, b"Set-Cookie: SID=; Max-Age=0; Path=/"))
        self.serve(site={"schedule": "cookie", "persistence": {"session_cookie": "SID"}})
        line = self.ask().all(b"Set-Cookie")[1]
        self.assertEqual(line, b"DLBA=; Max-Age=0; Path=/; HttpOnly")

    @in_thread
    def test_shared_responses_get_no_cookie(self):
        backend = self.backend()
        backend.says(reply(b"", 200, b"Cache-Control: public, max-age=60"))
        self.serve(site={"schedule": "cookie"})
        response = self.ask()
        self.assertEqual(response.all(b"Set-Cookie"), [])
        self.assertEqual(response.get(b"Cache-Control"), b"public, max-age=60")

    @in_thread
    def test_url_hash_under_one_kept_connection(self):
        """The seed: URL scheduling works though the client's connection is kept."""
        for _ in range(4):
            self.backend()
        self.serve(site={"schedule": "url"})
        client = self.client()
        chosen: dict[int, bytes] = {}
        for _ in range(2):
            for number in range(24):
                client.send(b"GET /%d?q HTTP/1.1\r\nHost: a\r\n\r\n" % number)
                response = client.response()
                self.assertEqual(response.all(b"Set-Cookie"), [])
                self.assertEqual(chosen.setdefault(number, response.body), response.body)
        self.assertEqual(len(set(chosen.values())), 4)
        self.assertEqual(self.proxy.counters.connections_accepted, 1)
        # Case and port of the host don't matter.
        client.send(b"GET /3?q HTTP/1.1\r\nHost: A:80\r\n\r\n")
        self.assertEqual(client.response().body, chosen[3])

    @in_thread
    def test_least_connections(self):
        go = threading.Event()

        def script(wire: Wire) -> None:
            slow.take(wire)
            go.wait(20)
            wire.send(reply(b"slow"))

        slow = self.backend(script)
        quick = self.backend()
        self.serve(site={"schedule": "connections"})
        waiting = self.client()
        # Ties are broken by turn: one of two requests goes to the slow one and waits there.
        waiting.send(GET)
        eventually(lambda: slow.requests or quick.requests, "the first request")
        if not slow.requests:
            waiting.response()
            waiting.send(GET)
        eventually(lambda: slow.requests, "a request at the slow one")
        self.assertEqual({self.ask().body for _ in range(10)}, {b"app2"})
        go.set()
        self.assertEqual(waiting.response().body, b"slow")
