"""A client's socket: backpressure, exceptions and spurious events."""

import contextlib
import gc
import os
import select
import socket
import threading
import time
from unittest import mock

from dlba.web import listener
from dlba.web.exchange import Exchange
from dlba.web.http1 import Http1
from tests.web.harness import (
    GET,
    MIB,
    ProxyTest,
    Wire,
    body_size,
    certificate,
    client_context,
    eventually,
    in_thread,
    reply,
)

ALL = select.EPOLLIN | select.EPOLLOUT


class Backpressure(ProxyTest):
    """A slow client pauses its backend, and costs bounded memory."""

    def large_answer(self, size):
        body = os.urandom(size)

        def script(wire: Wire) -> None:
            wire.request()
            with contextlib.suppress(OSError):
                wire.send(reply(body))

        self.backend(script)
        return body

    @in_thread
    def test_a_client_that_reads_slowly_but_steadily_is_not_cut(self):
        """The kernel tells of room only when a third of its buffer is free: that takes longer."""
        self.large_answer(8 * MIB)
        self.serve(timeouts={"write": 0.5})
        client = self.client(receive_buffer=65536)
        client.send(GET)
        got = 0
        until = time.monotonic() + 3
        while time.monotonic() < until:
            got += len(client.sock.recv(10_000))
            time.sleep(0.02)
        self.assertGreater(got, 200_000)
        self.assertEqual(self.proxy.counters.requests_timed_out, 0)

    @in_thread
    def test_large_download_with_a_slow_client(self):
        body = os.urandom(MIB) * 24
        sent = 0

        def script(wire: Wire) -> None:
            nonlocal sent
            wire.request()
            wire.send(reply(b"", 200, b"Content-Length: %d" % len(body), length=False))
            for start in range(0, len(body), 65536):
                wire.send(body[start : start + 65536])
                sent = start + 65536

        self.backend(script)
        self.serve()
        client = self.client(receive_buffer=16384)
        client.send(GET)
        socket_ = self.only_client()
        eventually(lambda: socket_.backlog, "a backlog")
        time.sleep(0.3)
        self.assertLess(sent, len(body), "the backend was never paused")
        largest = 0
        stop = threading.Event()

        def watch() -> None:
            nonlocal largest
            while not stop.is_set():
                largest = max(largest, socket_.backlog)
                time.sleep(0.0005)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            self.assertTrue(client.response().body == body)
        finally:
            stop.set()
            watcher.join()
        self.assertLess(largest, 512 * 1024)
        client.send(GET[:-2] + b"Connection: close\r\n\r\n")
        self.assertTrue(client.response().body == body)
        self.assertEqual(client.end(), "eof")

    @in_thread
    def test_client_that_takes_nothing_is_cut(self):
        ends: list[str] = []

        def script(wire: Wire) -> None:
            wire.request()
            try:
                wire.send(reply(b"x" * 32 * MIB))
            except OSError:
                ends.append("reset")

        self.backend(script)
        self.serve(timeouts={"write": 0.4, "response": 60, "idle": 60})
        client = self.client(receive_buffer=4096)
        client.send(GET)
        eventually(lambda: ends, "the backend's connection is aborted")
        self.assertEqual(self.record().termination, "cD")
        self.assertEqual(client.end(), "reset")

    @in_thread
    def test_slow_but_steady_client_takes_its_time(self):
        """`write` is without progress: each bit taken moves it."""
        body = b"x" * 400_000
        self.backend().says(reply(body))
        self.serve(timeouts={"write": 0.6, "response": 60, "idle": 60})
        client = self.client(receive_buffer=4096)
        client.send(GET)
        proxy_side = self.only_client()._sock
        proxy_side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.until(b"\r\n\r\n")
        taken = 0
        begun = time.monotonic()
        while taken < len(body):
            taken += len(client.take(min(20_000, len(body) - taken)))
            time.sleep(0.1)
        self.assertGreater(time.monotonic() - begun, 1.2)

    @in_thread
    def test_silent_client_of_a_closing_answer_is_cut(self):
        """What is left of an answer whose connection closes has the time of `write`."""
        self.backend().says(reply(b"x" * 60_000))
        self.serve(timeouts={"write": 0.4, "response": 60, "idle": 60})
        client = self.client(receive_buffer=4096)
        socket_ = self.only_client()
        socket_._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.send(GET[:-2] + b"Connection: close\r\n\r\n")
        eventually(lambda: socket_.backlog, "a backlog")
        eventually(lambda: not self.proxy.clients, "the connection is cut")


class Exceptions(ProxyTest):
    """A bug of ours ends one connection."""

    def calm(self, expected: int) -> None:
        """The exceptions were logged and counted; everything else goes on."""
        self.expected_internal_errors = expected
        self.soon(lambda: self.proxy.counters.internal_errors, expected)
        self.on_reactor(lambda: None)  # the turn in which that happened is over
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), expected)
        self.assertEqual(self.ask().status, 200)

    def patched(self, owner, name: str, only: int = 1):
        """`owner.name` raises the first `only` times."""
        original = getattr(owner, name)
        left = [only]

        def raising(*args, **kwargs):
            if left[0]:
                left[0] -= 1
                raise ZeroDivisionError("a bug of ours")
            return original(*args, **kwargs)

        return mock.patch.object(owner, name, raising)

    @in_thread
    def test_in_the_front(self):
        self.backend()
        self.serve()
        other = self.client()
        with self.patched(Http1, "received"):
            client = self.client()
            client.send(GET)
            self.assertEqual((client.end(), client.unread), ("reset", b""))
        other.send(GET)
        self.assertEqual(other.response().status, 200)
        self.calm(1)

    @in_thread
    def test_in_the_exchange_before_a_response(self):
        self.backend()
        self.serve()
        with self.patched(Exchange, "_take_head"):
            client = self.client()
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            self.assertEqual(client.response().status, 502)
        self.calm(1)

    @in_thread
    def test_in_the_exchange_in_the_middle_of_a_response(self):
        go = threading.Event()

        def script(wire: Wire) -> None:
            request = wire.request()
            if request.line.startswith(b"GET /half"):
                wire.send(reply(b"", 200, b"Content-Length: 8", length=False) + b"half")
                go.wait(20)
                wire.send(b"half")
            else:
                wire.send(reply())

        self.backend(script)
        self.serve()
        client = self.client()
        client.send(GET.replace(b"/ ", b"/half "))
        client.until(b"half")
        with self.patched(Exchange, "_relay"):
            go.set()
            self.assertEqual(client.end(), "reset")
        self.calm(1)

    @in_thread
    def test_in_a_deadline(self):
        self.backend()
        self.serve(timeouts={"head": 0.2})
        with self.patched(Http1, "expire"):
            client = self.client()
            self.assertEqual(client.end(), "reset")
        self.calm(1)

    @in_thread
    def test_while_accepting(self):
        self.backend()
        self.serve()
        with self.patched(listener, "ClientSocket"):
            client = self.client()
            self.assertIn(client.end(), ("eof", "reset"))
        self.calm(1)

    @in_thread
    def test_in_abort_itself(self):
        """An exception while ending a connection doesn't end the process either."""
        self.backend()
        self.serve()
        with self.patched(Http1, "received"), self.patched(Http1, "lost"):
            client = self.client()
            client.send(GET)
            self.assertEqual(client.end(), "reset")
            self.on_reactor(lambda: None)  # the turn in which that happened is over
        self.expected_internal_errors = 1
        self.assertEqual(self.ask().status, 200)
        self.assertEqual(self.proxy.counters.internal_errors, 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)


class Garbage(ProxyTest):
    """What has ended is gone at once, not at the next collection."""

    @in_thread
    def test_connections_leave_no_cycles(self):
        def script(wire):
            wire.request()
            wire.send(b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
            wire.more()

        self.backend()
        switching = self.backend(script)
        self.serve(
            tls=[certificate("ecdsa", "a.example")],
            sites=[
                {"hosts": ["switch"], "pool": "switch", "upgrade": ["x"], "schedule": "url"},
                {"hosts": ["*"], "pool": "app", "default": True},
            ],
            pools={
                "app": {"backends": {"b": {"address": f"127.0.0.1:{self.backends[0].port}"}}},
                "switch": {"backends": {"b": {"address": f"127.0.0.1:{switching.port}"}}},
            },
        )
        kinds = (
            "ClientSocket",
            "Http1",
            "Http1Request",
            "Exchange",
            "BackendSide",
            "Tunnel",
            "TLSStream",
        )

        def left() -> list[str]:
            names = (type(found).__name__ for found in gc.get_objects())
            return sorted(name for name in names if name in kinds)

        def bodies() -> list[int]:
            fronts = [client._front for client in self.proxy.clients]
            return [body_size(front) for front in fronts if isinstance(front, Http1)]

        gc.collect()
        before = left()
        gc.disable()
        self.addCleanup(gc.enable)
        for context in (None, client_context()):
            self.ask(context=context)
            self.ask(b"GET / HTTP/1.1\r\nbad\r\n\r\n", context=context)
            client = self.client(context=context)
            client.send(b"GET /")
            client.reset()
            client = self.client(context=context)
            client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
            eventually(lambda: 2 in self.on_reactor(bodies), "half of the body")
            client.reset()
            client = self.client(context=context)
            client.send(
                b"GET / HTTP/1.1\r\nHost: switch\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
            )
            self.assertEqual(client.response().status, 101)
            client.close()
        self.soon(lambda: len(self.proxy.clients), 0)
        self.soon(left, before)


class SpuriousEvents(ProxyTest):
    """Descriptors are reused within one batch: an event is a hint, and may be somebody else's."""

    def disturb(self) -> None:
        """Every connection, in whatever state, gets every kind of event."""

        def events() -> None:
            for member in tuple(self.proxy.poller._members.values()):
                if hasattr(member, "backlog"):
                    for mask in (select.EPOLLIN, select.EPOLLOUT, ALL, 0):
                        member.on_event(mask)

        for _ in range(3):
            self.on_reactor(events)

    @in_thread
    def test_idle_begun_collecting_waiting_and_relaying(self):
        step = threading.Semaphore(0)

        def script(wire: Wire) -> None:
            wire.request()
            assert step.acquire(timeout=20)
            wire.send(reply(b"", 200, b"Content-Length: 8", length=False) + b"half")
            assert step.acquire(timeout=20)
            wire.send(b"half")

        backend = self.backend(script)
        self.serve()
        client = self.client()
        socket_ = self.only_client()
        self.disturb()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\n")
        eventually(lambda: socket_._front.heads.buffer, "a begun head")
        self.disturb()
        client.send(b"Content-Length: 4\r\n\r\nab")
        eventually(lambda: body_size(socket_._front) == 2, "half of the body")
        self.disturb()
        client.send(b"cd")
        eventually(lambda: backend.connections, "a backend connection")
        self.disturb()
        step.release()
        client.until(b"half")
        self.disturb()
        step.release()
        self.assertEqual(client.take(4), b"half")
        self.disturb()
        client.send(GET)
        step.release()
        step.release()
        self.assertEqual(client.response().body, b"halfhalf")

    def paused(self, disturb) -> None:
        """Disturb a client that is paused for its backend; nothing must come of it."""
        go = threading.Event()

        def script(wire: Wire) -> None:
            assert go.wait(20)
            wire.send(reply(b"%d" % len(wire.request().body)))

        self.backend(script)
        self.serve(site={"request_buffer": 1000})
        client = self.client()
        size = 8 * MIB
        head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size

        def send() -> None:
            with contextlib.suppress(OSError):
                client.send(head + b"x" * size)

        sender = threading.Thread(target=send)
        sender.start()
        socket_ = self.only_client()
        eventually(lambda: not socket_._reading, "the client is paused")
        disturb(socket_)
        go.set()
        self.assertEqual(client.response().body, b"%d" % size)
        sender.join(20)

    @in_thread
    def test_while_the_client_is_paused(self):
        self.paused(lambda socket_: self.disturb())

    @in_thread
    def test_foreign_hangup_while_paused(self):
        """A hang-up that belonged to the descriptor's last owner."""
        self.paused(lambda socket_: self.on_reactor(socket_.on_event, select.EPOLLHUP))

    @in_thread
    def test_after_the_end(self):
        """Events for a connection that is closed already, also those that were put off."""
        self.backend()
        self.serve()
        client = self.client()
        socket_ = self.only_client()
        self.on_reactor(self.proxy.poller.later, socket_)
        client.reset()
        eventually(lambda: not self.proxy.clients, "its end")
        for mask in (select.EPOLLIN, ALL, select.EPOLLHUP | select.EPOLLERR):
            self.on_reactor(socket_.on_event, mask)
        self.on_reactor(socket_.abort)
        self.on_reactor(socket_.reset)
        self.assertEqual(self.proxy.clients, set())

    @in_thread
    def test_descriptors_are_reused_all_the_time(self):
        """Many short connections that end in every way, at once."""
        self.backend()
        self.serve()

        def short(number: int) -> None:
            for turn in range(15):
                client = Wire(socket.create_connection(("127.0.0.1", self.port), 20))
                self.clients.append(client)
                way = (number + turn) % 4
                if way:
                    client.send(GET if way != 3 else b"nonsense\r\n\r\n")
                if way == 1:
                    statuses.append(client.response().status)
                if way == 2:
                    client.reset()
                else:
                    client.close()

        statuses: list[int] = []
        threads = [threading.Thread(target=short, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual(statuses, [200] * len(statuses))
        self.assertGreaterEqual(len(statuses), 8)
