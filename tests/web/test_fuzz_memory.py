"""One hostile client sends what it likes for as long as it likes: what the proxy holds is bounded.

Measured on the objects themselves (`tests.web.held`), not on what the proxy counts; and what it
counts must not be much less than what it holds, or `buffer_memory` would bound nothing.
"""

import socket

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.web.harness import ProxyTest
from tests.web.held import held
from tests.web.traffic import listeners

KIB = 1024
REQUEST_BUFFER = 32 * KIB
#: What may be held at once for one client: the collected request and, a read of 64 KiB each, what
#: was read, what waits for the backend, what waits for the client, and a head.
BOUND = REQUEST_BUFFER + 4 * 64 * KIB + 64 * KIB
#: What is held of little: so many times as much, and a fixed amount.
TIMES, FIXED = 4, 24 * KIB
#: What a client sends at most.
AMOUNT = 1024 * KIB

HOST = b" HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
LONG = b"POST /" + HOST + b"Content-Length: 9000000\r\n\r\n"


class MemoryTests(ProxyTest):
    def attack(self, *args, **options):
        return Deferred.fromCoroutine(self._attack(*args, **options))

    async def _attack(self, begin, again, size=16 * KIB, answer=b"", amount=AMOUNT, site=None):
        """Send `begin`, then `again` again and again in pieces of `size`; never read an answer.

        `answer`: what the backend says over and over once it has been asked; it reads nothing.
        """
        await deferLater(reactor, 0)
        self._remember_descriptors()
        (listener,) = listeners(1)
        self.addCleanup(listener.close)
        # A backend that doesn't read soon takes no more.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        proxy = self.serve(
            listener.getsockname()[1],
            site={"request_buffer": REQUEST_BUFFER, "upgrade": ["websocket"]} | (site or {}),
        )
        client = socket.create_connection(("127.0.0.1", self.port))
        self.addCleanup(client.close)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setblocking(False)
        backends = []
        sent, most, stuck, step = 0, 0, 0, 0
        pieces = (begin, again * max(1, size // len(again))) if size > 100 else (begin, again)
        piece = pieces[0]
        while sent < amount and stuck < 60:
            step += 1
            try:
                taken = client.send(piece)
                sent += taken
                stuck = 0
                piece = piece[taken:] or pieces[1]
            except BlockingIOError:
                stuck += 1
            except OSError:
                break
            try:
                backends.append(listener.accept()[0])
                backends[-1].setblocking(False)
            except BlockingIOError:
                pass
            for backend in backends:
                try:
                    backend.send(answer)
                except OSError:
                    pass
            await deferLater(reactor, 0)
            if size > 100 or step % 100 == 0 or stuck:
                most = max(most, self.measure(proxy, sent))
        for _ in range(20):
            await deferLater(reactor, 0)
            most = max(most, self.measure(proxy, sent))
        for sock in (client, *backends, listener):
            sock.close()
        return sent, most

    def measure(self, proxy, sent):
        clients = tuple(proxy.clients)
        self.assertLessEqual(len(clients), 1)
        now = held(*clients)
        self.assertLess(now, BOUND)
        self.assertLess(now, sent * TIMES + FIXED, f"of {sent} bytes")
        counted = proxy.memory.used
        self.assertLess(now, counted * TIMES + FIXED, f"counted {counted}")
        return now

    def test_a_head_of_one_line(self):
        return self.attack(b"GET /", b"x")

    def test_a_head_of_one_field(self):
        return self.attack(b"GET /" + HOST + b"X: ", b"x")

    def test_a_head_of_many_fields(self):
        return self.attack(b"GET /" + HOST, b"a:\r\n")

    def test_empty_lines(self):
        return self.attack(b"", b"\r\n")

    def test_a_chunk_extension(self):
        return self.attack(POST + b"1;a=", b"x")

    def test_many_chunk_extensions(self):
        return self.attack(POST, b"1;a=b\r\nx\r\n")

    def test_small_chunks(self):
        return self.attack(POST, b"1\r\nx\r\n")

    def test_small_pieces(self):
        return self.attack(LONG, b"xy", size=2, amount=12 * KIB)

    def test_small_chunks_in_small_pieces(self):
        return self.attack(POST, b"3\r\nabc\r\n", size=8, amount=24 * KIB)

    def test_trailers(self):
        return self.attack(POST + b"0\r\n", b"a:\r\n")

    def test_a_trailer(self):
        return self.attack(POST + b"0\r\nX:", b"x")

    def test_a_body_that_nobody_takes(self):
        return self.attack(LONG, b"x", size=256 * KIB, amount=9000 * KIB)

    def test_a_body_that_nobody_takes_in_small_pieces(self):
        site = {"request_buffer": 1}
        return self.attack(LONG, b"xyz", size=3, amount=24 * KIB, site=site)

    def test_a_pipeline_behind_a_backend_that_hangs(self):
        return self.attack(b"GET /" + HOST + b"\r\n", b"GET /" + HOST + b"\r\n")

    def test_a_pipeline_whose_answers_nobody_reads(self):
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
        return self.attack(b"GET /" + HOST + b"\r\n", b"GET /" + HOST + b"\r\n", answer=answer)

    def test_refusals_that_nobody_reads(self):
        # Each is answered by ourselves, and the connection stays.
        again = b"GET /" + HOST + b"\r\n"
        return self.attack(again, again, site={"hosts": ["b"], "default": False})

    def test_a_response_that_nobody_reads(self):
        answer = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(100_000)
        return self.attack(b"GET /" + HOST + b"\r\n", b"x", answer=answer)

    def test_interim_responses_that_nobody_reads(self):
        answer = b"HTTP/1.1 103 E\r\nX: " + b"x" * 1000 + b"\r\n\r\n"
        return self.attack(b"GET /" + HOST + b"\r\n", b"x", answer=answer)

    def test_bytes_ahead_of_a_switch(self):
        begin = b"GET /" + HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        return self.attack(begin, b"x")

    def test_a_tunnel_that_nobody_reads(self):
        begin = b"GET /" + HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        answer = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        return self.attack(begin, b"x", answer=answer + bytes(100_000))

    def test_a_tunnel_in_small_pieces(self):
        begin = b"GET /" + HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        answer = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        return self.attack(begin, b"xyz", size=3, amount=24 * KIB, answer=answer)

    def test_cookies(self):
        begin = b"GET /" + HOST + b"Cookie: " + b"DLBA=;" * 10_000 + b"\r\n\r\n"
        return self.attack(begin, b"x", amount=1, site={"schedule": "cookie"})

    def test_a_large_head_behind_a_backend_that_hangs(self):
        begin = b"GET /" + HOST + b"X: " + b"x" * 60_000 + b"\r\n\r\n"
        return self.attack(begin, b"x", amount=1)

    def test_many_small_cookies(self):
        line = b"Cookie: DLBA=1;DLBA=2;DLBA=3;DLBA=4;DLBA=5\r\n"
        begin = b"GET /" + HOST + line * 190 + b"\r\n"
        return self.attack(begin, b"x", site={"schedule": "cookie"})

    def test_forwarding_fields(self):
        begin = b"GET /" + HOST + b"X-Forwarded-For:\r\n" * 198 + b"\r\n"
        return self.attack(begin, b"x")
