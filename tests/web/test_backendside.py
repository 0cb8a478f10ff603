"""One backend's connection: how it is made, fails for our own reasons, and ends."""

import errno
import os
import socket
import threading
from unittest import mock

from twisted.trial.unittest import SkipTest

from dlba.web import backendside
from tests.web.harness import GET, MIB, ProxyTest, Wire, closed_port, eventually, in_thread, reply


class Ends(ProxyTest):
    """No TIME_WAIT is left on our side (rule 12)."""

    def keeping(self):
        """A backend that answers and keeps its connection open; the ends that it sees."""
        ends: list[str] = []

        def script(wire: Wire) -> None:
            backend.take(wire)
            wire.send(reply(b"x"))
            ends.append(wire.end())

        backend = self.backend(script)
        return backend, ends

    @in_thread
    def test_reset_when_the_backend_keeps(self):
        _, ends = self.keeping()
        self.serve()
        for _ in range(3):
            self.assertEqual(self.ask().body, b"x")
        eventually(lambda: len(ends) == 3, "the backend's ends")
        self.assertEqual(set(ends), {"reset"})

    @in_thread
    def test_the_whole_response_is_taken_before_the_reset(self):
        _, ends = self.keeping()
        body = os.urandom(2 * MIB)

        def script(wire: Wire) -> None:
            wire.request()
            wire.send(reply(body))
            ends.append(wire.end())

        self.backends[0].script = script
        self.serve()
        self.assertTrue(self.ask().body == body)

    @in_thread
    def test_wait_lets_the_backend_close_first(self):
        go = threading.Event()

        def script(wire: Wire) -> None:
            wire.request()
            wire.send(reply(b"x"))
            assert go.wait(20)
            wire.sock.shutdown(socket.SHUT_WR)
            ends.append(wire.end())

        ends: list[str] = []
        self.backend(script)
        self.serve(pool={"backend_close": "wait"})
        client = self.client()
        client.send(GET)
        # The client doesn't wait for it.
        self.assertEqual(client.response().body, b"x")
        self.assertEqual(self.proxy.open_backends, 1)
        go.set()
        eventually(lambda: ends, "the backend's end")
        self.assertEqual(ends, ["eof"])
        self.soon(lambda: self.proxy.open_backends, 0)

    @in_thread
    def test_wait_is_bounded(self):
        _, ends = self.keeping()
        self.serve(pool={"backend_close": "wait"})
        self.assertEqual(self.ask().body, b"x")
        eventually(lambda: ends, "the backend's end")
        self.assertEqual(ends, ["reset"])

    @in_thread
    def test_wait_and_bytes_nobody_asked_for(self):
        def script(wire: Wire) -> None:
            wire.request()
            wire.send(reply(b"x"))
            assert go.wait(20)
            wire.send(b"more")
            ends.append(wire.end())

        go = threading.Event()
        ends: list[str] = []
        self.backend(script)
        self.serve(pool={"backend_close": "wait"})
        self.assertEqual(self.ask().body, b"x")
        go.set()
        eventually(lambda: ends, "the backend's end")
        self.assertEqual(ends, ["reset"])

    @in_thread
    def test_stop_while_waiting(self):
        """A connection that waits for its backend's close is closed with the service."""
        go = threading.Event()

        def script(wire: Wire) -> None:
            wire.request()
            wire.send(reply(b"x"))
            go.wait(20)

        self.backend(script)
        self.serve(pool={"backend_close": "wait"})
        client = self.client()
        client.send(GET)
        client.response()
        self.on_reactor(self.service.stopService)
        try:
            # `tearDown` sees a descriptor that is left.
            self.soon(lambda: self.proxy.open_backends, 0)
        finally:
            go.set()


class OurOwnFaults(ProxyTest):
    """No descriptor, no port: 503, counted, and no backend is marked."""

    @in_thread
    def test_no_descriptor(self):
        self.backend()
        self.serve()
        client = self.client()
        client.send(GET)
        self.assertEqual(client.response().status, 200)
        for number in (errno.EMFILE, errno.ENOBUFS):
            with mock.patch.object(
                backendside._socket, "socket", side_effect=OSError(number, "full")
            ):
                client.send(GET)
                self.assertEqual(client.response().status, 503)
        self.assertEqual(self.proxy.counters.own_connect_failures, 2)
        self.assertEqual([b.failed for b in self.proxy.backends()], [False])
        client.send(GET)
        self.assertEqual(client.response().status, 200)

    @in_thread
    def test_no_port(self):
        self.backend()
        self.serve()
        client = self.client()
        original = backendside._socket.socket
        made = []

        class Full(original):
            def connect_ex(self, address):
                made.append(self)
                return errno.EADDRNOTAVAIL

        with mock.patch.object(backendside._socket, "socket", Full):
            client.send(GET)
            self.assertEqual(client.response().status, 503)
        self.assertEqual(len(made), 1)
        self.assertEqual(made[0].fileno(), -1)
        self.assertEqual([b.failed for b in self.proxy.backends()], [False])
        self.assertEqual(self.record().termination, "RC")


class Connecting(ProxyTest):
    """How the request gets out."""

    @in_thread
    def test_ipv6(self):
        try:
            listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError:
            raise SkipTest("no IPv6 on this machine's loopback") from None

        def answer() -> None:
            sock, _ = listener.accept()
            wire = Wire(sock)
            wire.request()
            wire.send(reply(b"six"))
            wire.close()

        port = listener.getsockname()[1]
        thread = threading.Thread(target=answer)
        thread.start()
        pools = {"app": {"backends": {"six": {"address": f"[::1]:{port}"}}}}
        self._remember_descriptors()
        self.serve(closed_port(), pools=pools)
        self.assertEqual(self.ask().body, b"six")
        thread.join(20)
        self.clients.append(Wire(listener))

    @in_thread
    def test_buffered_request_larger_than_the_kernel_takes(self):
        """Kept whole while it may have to be sent again."""
        seen = []

        def script(wire: Wire) -> None:
            request = wire.request()
            seen.append(request.body)
            wire.send(reply(b"%d" % len(request.body)))

        self.backend(script)
        self.serve(closed_port(), *self.backends, site={"request_buffer": 16 * MIB})
        body = os.urandom(8 * MIB)
        head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        for _ in range(2):
            self.assertEqual(self.ask(head + body).body, b"%d" % len(body))
        self.assertTrue(all(one == body for one in seen))

    @in_thread
    def test_upload_goes_on_while_the_response_comes(self):
        """Both directions at once: whatever the backend reads it sends back."""

        def script(wire: Wire) -> None:
            wire.head()
            wire.send(reply(b"", 200, b"Content-Length: %d" % size, length=False))
            wire.send(wire.unread)
            left = size - len(wire.unread)
            while left:
                data = wire.more()
                wire.send(data)
                left -= len(data)

        size = 8 * MIB
        body = os.urandom(size)
        self.backend(script)
        self.serve(site={"request_buffer": 1000})
        client = self.client()
        head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
        sender = threading.Thread(target=client.send, args=(head + body,))
        sender.start()
        response = client.response()
        sender.join(20)
        self.assertTrue(response.body == body)
