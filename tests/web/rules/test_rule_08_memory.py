"""web.md rule 8: all buffers share `buffer_memory`; past it bodies stream, then its keepers wait.

Shown elsewhere: the marks, against a naive count, tests.web.test_memory; the bound of one
connection's buffers, tests.web.test_clientsocket, tests.web.test_http1 and
tests.web.test_http1request.
"""

import socket
import threading
import time

from tests.web.harness import MIB, Wire, eventually, in_thread, reply
from tests.web.rules.table import FINE, FINE_RELAYED, PATIENCE, RuleTest, head, request

HOST = b"Host: a"
GET = head(b"GET / HTTP/1.1", HOST)
PUT = b"PUT / HTTP/1.1"


def put(length: int) -> bytes:
    """The head of an upload."""
    return head(PUT, HOST, b"Content-Length: %d" % length)


class Memory(RuleTest):
    """One mebibyte for all."""

    @in_thread
    def test_past_three_quarters_bodies_stream(self):
        backend = self.recorder()
        self.serve(limits={"buffer_memory": MIB}, site={"request_buffer": 8 * MIB})
        memory = self.proxy.memory
        first, second = self.client(), self.client()
        # What is begun and below the mark waits for its end, as ever.
        first.send(put(500_000) + b"x" * 400_000)
        self.soon(lambda: memory.used > 390_000, True)
        time.sleep(0.1)
        self.assertEqual(backend.connections, [])
        # The one that passes it goes on at once.
        second.send(put(600_000) + b"y" * 500_000)
        eventually(lambda: backend.connections, "a backend before the body's end")
        # And so does what begins now.
        third = self.client()
        eventually(lambda: memory.used < 700_000, "the streamed one gave its memory back")
        first.send(b"x" * 100_000)
        second.send(b"y" * 100_000)
        for client in (first, second):
            self.assertEqual(client.take(len(FINE_RELAYED)), FINE_RELAYED)
        third.send(put(3) + b"abc")
        self.assertEqual(third.take(len(FINE_RELAYED)), FINE_RELAYED)
        wanted = [
            request(PUT, HOST, framing=b"Content-Length: %d" % len(body), body=body)
            for body in (b"x" * 500_000, b"y" * 600_000, b"abc")
        ]
        self.assertTrue(sorted(backend.saw()) == sorted(wanted))
        self.soon(lambda: memory.used, 0)

    @in_thread
    def test_past_it_who_keeps_bytes_is_paused_nobody_else_is_and_nothing_is_lost(self):
        body = bytes(range(256)) * 2000

        def script(wire: Wire) -> None:
            wire.request()
            wire.send(reply(body, 200, b"Date: then"))

        self.backend(script)
        self.serve(limits={"buffer_memory": MIB}, timeouts={"write": 60, "head": 60})
        memory = self.proxy.memory
        readers = [self.client(receive_buffer=4096) for _ in range(40)]
        eventually(lambda: len(self.proxy.clients) == 40, "all clients")
        for client in tuple(self.proxy.clients):
            # What the kernel keeps for them is none of our memory: next to nothing.
            client._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        largest = 0
        for client in readers:
            client.send(GET)
        eventually(lambda: memory.full, "memory is full")
        late = self.client()
        late.send(GET)
        late.sock.settimeout(PATIENCE)
        late.more()
        largest = memory.used
        # One read may pass the limit, of 64 KiB; then 4 KiB a client.
        self.assertLess(largest, MIB + 64 * 1024 + 41 * 4096)
        wanted = b"HTTP/1.1 200 Fine\r\nDate: then\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        failures: list[object] = []

        def read(client: Wire) -> None:
            try:
                if client.take(len(wanted)) != wanted:
                    failures.append("other bytes")
            except (OSError, EOFError) as error:
                failures.append(error)

        threads = [threading.Thread(target=read, args=(client,)) for client in (*readers, late)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        self.assertEqual(failures, [])
        self.soon(lambda: memory.used, 0)
        self.assertFalse(memory.full)

    @in_thread
    def test_a_client_that_is_not_read_has_its_deadline_all_the_same(self):
        """Nobody holds memory for ever: whoever takes nothing is cut, and the others go on."""
        body = b"x" * 400_000

        def script(wire: Wire) -> None:
            wire.request()
            wire.send(reply(body, 200, b"Date: then"))

        self.backend(script)
        self.serve(limits={"buffer_memory": MIB}, timeouts={"write": 0.4})
        readers = [self.client(receive_buffer=4096) for _ in range(30)]
        eventually(lambda: len(self.proxy.clients) == 30, "all clients")
        for client in tuple(self.proxy.clients):
            client._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for client in readers:
            client.send(GET)
        eventually(lambda: self.proxy.memory.full, "memory is full")
        late = self.client()
        late.sock.settimeout(PATIENCE)
        late.send(GET)
        self.assertTrue(late.response().body == body)
        # All but `late`; none of them may be read before, or it would take its answer after all.
        self.soon(lambda: len(self.proxy.clients), 1)
        self.assertEqual(self.proxy.memory.used, 0)
        for client in readers:
            self.assertEqual(client.end(), "reset")

    @in_thread
    def test_a_tunnel_whose_client_takes_nothing_is_cut_too(self):
        """It holds memory, so `timeouts.write` is its deadline as well."""

        def script(wire: Wire) -> None:
            taken = wire.request()
            if not taken.all(b"Upgrade"):
                wire.send(FINE)
                return
            wire.send(head(b"HTTP/1.1 101 x", b"Connection: upgrade", b"Upgrade: websocket"))
            wire.send(b"x" * 400_000)
            wire.end()

        self.backend(script)
        self.serve(
            limits={"buffer_memory": MIB},
            timeouts={"write": 0.4, "tunnel": 600},
            site={"upgrade": ["websocket"]},
        )
        sleepers = [self.client(receive_buffer=4096) for _ in range(30)]
        eventually(lambda: len(self.proxy.clients) == 30, "all clients")
        for client in tuple(self.proxy.clients):
            client._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for client in sleepers:
            client.send(
                head(b"GET / HTTP/1.1", HOST, b"Connection: upgrade", b"Upgrade: websocket")
            )
        eventually(lambda: self.proxy.memory.full, "memory is full")
        late = self.client()
        late.sock.settimeout(PATIENCE)
        late.send(GET)
        self.assertEqual(late.take(len(FINE_RELAYED)), FINE_RELAYED)
        self.soon(lambda: self.proxy.memory.used, 0)
