"""The proxy as a service: starting, draining, stopping, cutting off."""

import contextlib
import errno
import re
import resource
import socket
import threading
import time
from pathlib import Path
from typing import ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from dlba.config.keys import Keys as NodeKeys
from dlba.config.keys import SecretKey
from dlba.config.load import load_text
from dlba.election.keyring import Keyring
from dlba.web.service import WebService, raise_descriptor_limit
from tests.web.harness import (
    GET,
    KEYS,
    ProxyTest,
    Wire,
    body_size,
    certificate,
    client_context,
    configuration,
    eventually,
    in_thread,
    reply,
)


class Start(ProxyTest):
    """Ports are bound before anything is served."""

    @in_thread
    def test_taken_port_stops_the_start(self):
        backend = self.backend()
        taken = socket.create_server(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        text = configuration([backend]).replace('"port": 0', f'"port": {port}')
        web = load_text(text, Path("/"), "<test>").array.web
        service = WebService(reactor, web, None, KEYS, None)
        with self.assertRaises(OSError) as caught:
            service.privilegedStartService()
        taken.close()
        self.assertEqual(caught.exception.errno, errno.EADDRINUSE)
        self.assertIn(f"127.0.0.1:{port}", str(caught.exception))
        self.assertEqual(service.listeners, [])
        service.proxy.poller.detach()

    @in_thread
    def test_ports_bound_before_the_one_that_is_taken_are_given_back(self):
        backend = self.backend()
        taken = socket.create_server(("127.0.0.1", 0))
        free = socket.create_server(("127.0.0.1", 0))
        port, other = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        text = configuration([backend], tls=[certificate("ecdsa", "a.example.com")])
        text = text.replace('"port": 0', f'"port": {other}', 1).replace(
            '"port": 0', f'"port": {port}'
        )
        web = load_text(text, Path("/"), "<test>").array.web
        service = WebService(reactor, web, None, KEYS, None)
        with self.assertRaises(OSError):
            service.privilegedStartService()
        taken.close()
        socket.create_server(("127.0.0.1", other)).close()
        service.proxy.poller.detach()

    @in_thread
    def test_serving(self):
        self.backend()
        self.serve()
        self.assertTrue(self.service.serving)
        self.on_reactor(self.service.stopService)
        self.assertFalse(self.service.serving)

    def test_descriptor_limit(self):
        self.assertEqual(raise_descriptor_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    @in_thread
    def test_automatic_limit_leaves_room_for_backends(self):
        self.backend()
        self.serve()
        self.assertLess(self.proxy.connections_limit * 2, raise_descriptor_limit())


class Stop(ProxyTest):
    """Nobody's request is cut before its time."""

    def stop(self) -> list[float]:
        """Begin to stop; the list gets the time at which that is done."""
        done: list[float] = []

        def begin() -> None:
            stopped: Deferred[None] = self.service.stopService()
            stopped.addCallback(lambda _: done.append(time.monotonic()))

        self.on_reactor(begin)
        return done

    def gated(self, data: list[bytes]) -> threading.Semaphore:
        """A backend that sends the next piece of `data` for each release."""
        gate = threading.Semaphore(0)

        def script(wire: Wire) -> None:
            self.backends[0].take(wire)
            for piece in data:
                while not gate.acquire(timeout=0.05):
                    if wire.sock.fileno() < 0:
                        return
                wire.send(piece)

        self.backend(script)
        return gate

    @in_thread
    def test_idle_clients_are_closed_at_once(self):
        self.backend()
        self.serve(tls=[certificate("ecdsa", "a.example.com")], timeouts={"stop": 60})
        fresh, kept, tls = self.client(), self.client(), self.client(client_context())
        for client in (kept, tls):
            client.send(GET)
            client.response()
        shaking = self.client(port=self.tls_port)
        eventually(lambda: len(self.proxy.clients) == 4, "all four")
        done = self.stop()
        for client in (fresh, kept, tls):
            self.assertEqual(client.end(), "eof")
        shaking.end()
        eventually(lambda: done, "the stop")

    @in_thread
    def test_new_connections_get_their_answer(self):
        """Those that wait to be accepted, and those whose request hasn't been read yet."""
        self.backend()
        self.serve(timeouts={"stop": 60})
        done: list[float] = []
        clients = []

        def begin() -> None:
            # On the reactor's thread: nothing is accepted or read before the stop.
            for number in range(20):
                client = self.client()
                if number % 2:
                    client.send(GET)
                clients.append(client)
            stopped: Deferred[None] = self.service.stopService()
            stopped.addCallback(lambda _: done.append(time.monotonic()))

        self.on_reactor(begin)
        for client in clients[::2]:
            client.send(GET)
        for client in clients:
            response = client.response()
            self.assertEqual((response.status, response.get(b"Connection")), (200, b"close"))
            client.close()
        eventually(lambda: done, "the stop")

    @in_thread
    def test_new_connections_that_ask_for_nothing_delay_it_little(self):
        self.backend()
        self.serve(tls=[certificate("ecdsa", "a.example.com")], timeouts={"stop": 60})
        silent, shaking = self.client(), self.client(port=self.tls_port)
        eventually(lambda: len(self.proxy.clients) == 2, "both")
        begun = time.monotonic()
        done = self.stop()
        for client in (silent, shaking):
            client.end()
        eventually(lambda: done, "the stop")
        self.assertLess(done[0] - begun, 20)

    @in_thread
    def test_running_request_is_finished_and_no_new_one_begun(self):
        gate = self.gated([reply(b"late")])
        self.serve(timeouts={"stop": 60})
        client = self.client()
        client.send(GET + GET)
        eventually(lambda: self.backends[0].requests, "the request")
        done = self.stop()
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port), 5)
        self.assertEqual(done, [])
        gate.release()
        response = client.response()
        self.assertEqual((response.body, response.get(b"Connection")), (b"late", b"close"))
        self.assertEqual((client.end(), client.unread), ("eof", b""))
        client.close()
        eventually(lambda: done, "the stop")
        self.assertEqual(len(self.backends[0].requests), 1)

    @in_thread
    def test_response_that_has_begun_is_finished_and_its_connection_closed(self):
        """Its head said that the connection stays; it is closed all the same, at once."""
        gate = self.gated([reply(b"", 200, b"Content-Length: 8", length=False) + b"half", b"half"])
        self.serve(timeouts={"stop": 60, "idle": 60})
        client = self.client()
        client.send(GET)
        gate.release()
        client.until(b"half")
        done = self.stop()
        gate.release()
        self.assertEqual(client.take(4), b"half")
        client.sock.settimeout(10)
        self.assertEqual(client.end(), "eof")
        client.close()
        eventually(lambda: done, "the stop")

    @in_thread
    def test_pipeline_behind_a_response_that_has_begun(self):
        """No request begins after the stop."""
        gate = self.gated([reply(b"", 200, b"Content-Length: 8", length=False) + b"half", b"half"])
        self.serve(timeouts={"stop": 60, "idle": 60})
        client = self.client()
        client.send(GET)
        gate.release()
        client.until(b"half")
        client.send(GET)
        front = self.only_client()._front
        eventually(lambda: front.heads.buffer, "the next request is read ahead")
        done = self.stop()
        gate.release()
        self.assertEqual(client.take(4), b"half")
        client.sock.settimeout(10)
        self.assertEqual((client.end(), client.unread), ("eof", b""))
        client.close()
        eventually(lambda: done, "the stop")
        self.assertEqual(len(self.backends[0].requests), 1)

    @in_thread
    def test_upload_is_finished(self):
        self.backend()
        self.serve(timeouts={"stop": 60})
        client = self.client()
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        front = self.only_client()._front
        eventually(lambda: body_size(front) == 2, "half of the body")
        done = self.stop()
        client.send(b"cd")
        response = client.response()
        self.assertEqual((response.status, response.get(b"Connection")), (200, b"close"))
        client.close()
        eventually(lambda: done, "the stop")

    @in_thread
    def test_time_is_bounded(self):
        self.gated([b""])
        self.serve(timeouts={"stop": 0.3})
        client = self.client()
        client.send(GET)
        eventually(lambda: self.backends[0].requests, "the request")
        done = self.stop()
        self.assertEqual(client.end(), "reset")
        eventually(lambda: done, "the stop")
        eventually(lambda: self.proxy.open_backends == 0, "the backend's connection is gone")

    @in_thread
    def test_lingering_clients_are_cut_too(self):
        self.backend()
        self.serve(timeouts={"stop": 0.2})
        client = self.client()
        client.send(b"nonsense\r\n\r\n")
        client.response()
        done = self.stop()
        eventually(lambda: done, "the stop")

    @in_thread
    def test_abort(self):
        """The second TERM."""
        self.gated([b""])
        self.serve(timeouts={"stop": 60})
        client = self.client()
        client.send(GET)
        eventually(lambda: self.backends[0].requests, "the request")
        done = self.stop()
        self.on_reactor(self.service.abort)
        self.assertEqual(client.end(), "reset")
        eventually(lambda: done, "the stop")

    @in_thread
    def test_stopping_twice(self):
        gate = self.gated([reply(b"late")])
        self.serve(timeouts={"stop": 60})
        client = self.client()
        client.send(GET)
        eventually(lambda: self.backends[0].requests, "the request")
        first, second = self.stop(), self.stop()
        gate.release()
        client.response()
        client.close()
        eventually(lambda: first and second, "both")

    @in_thread
    def test_nothing_is_left_on_the_reactor(self):
        self.backend()
        self.serve()
        self.ask()
        eventually(lambda: not self.proxy.clients, "no client")
        done = self.stop()
        eventually(lambda: done, "the stop")
        self.assertFalse(self.service._running.sweep_call.active())
        self.assertFalse(self.service._stop_call.active())
        self.assertNotIn("doIteration", vars(reactor))
        self.assertNotIn(self.proxy.poller, reactor.getReaders())


class Keys(ProxyTest):
    """The keys change while it runs."""

    SITE: ClassVar = {"schedule": "cookie", "persistence": {"cookie": "DLBA"}}

    def set_keys(self, *keys: SecretKey) -> None:
        self.on_reactor(self.service.set_keys, keys)

    def cookie(self, wire: Wire, cookie: bytes = b"") -> tuple[bytes, bytes]:
        """One request on a kept connection: the cookie given out or b"", and the backend's name."""
        line = b"Cookie: DLBA=" + cookie + b"\r\n" if cookie else b""
        wire.send(GET.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n"))
        message = wire.response()
        given = re.search(rb"(?im)^set-cookie: DLBA=([^;\r]*)", message.head + b"\r\n")
        return given[1] if given else b"", message.body

    @in_thread
    def test_a_kept_connection_goes_on(self):
        """The next response is signed with the new key, the old cookie is good all the time."""
        first, second = SecretKey("k1", b"1" * 32), SecretKey("k2", b"2" * 32)
        self.backend(), self.backend()
        self.serve(keys=(first,), site=self.SITE)
        client = self.client()
        old, name = self.cookie(client)
        self.assertTrue(old.startswith(b"k1."), old)
        self.set_keys(second, first)
        for _ in range(3):
            self.assertEqual(self.cookie(client, old), (b"", name))
        new, _ = self.cookie(client)
        self.assertTrue(new.startswith(b"k2."), new)
        self.set_keys(second)
        again, _ = self.cookie(client, old)
        self.assertTrue(again.startswith(b"k2."), "its key is gone")
        with self.assertRaisesRegex(ValueError, "expected one or more, got none"):
            self.set_keys()
        self.assertTrue(self.cookie(client)[0].startswith(b"k2."))
        self.assertEqual(self.proxy.counters.connections_accepted, 1)

    @in_thread
    def test_a_request_on_its_way_is_answered(self):
        """It was placed under the old key; its cookie is signed with the one of then."""
        begun, gate = threading.Event(), threading.Event()
        backend = self.backend()

        def script(wire: Wire) -> None:
            backend.take(wire)
            begun.set()
            gate.wait(30)
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")

        backend.script = script
        self.serve(keys=(SecretKey("k1", b"1" * 32),), site=self.SITE)
        client = self.client()
        client.send(GET)
        self.assertTrue(begun.wait(30))
        self.set_keys(SecretKey("k2", b"2" * 32))
        gate.set()
        message = client.response()
        self.assertEqual((message.status, message.body), (200, b"body"))
        self.assertIn(b"DLBA=k2.", message.head)

    @in_thread
    def test_a_cookie_of_a_node_whose_key_was_learned(self):
        """Two nodes with keys of their own: what one gives out the other one knows."""
        names = [self.backend().name.encode() for _ in range(4)]
        mine, theirs = (Keyring(NodeKeys((SecretKey(f"k{n}", n.encode() * 32),))) for n in "ab")
        self.serve(keys=theirs.signing, site=self.SITE)
        with contextlib.closing(self.client()) as client:
            given = [self.cookie(client) for _ in names]
        self.assertEqual({name for _, name in given}, set(names))
        # The other node: the same backends, another process as far as its keys go.
        self.on_reactor(self.service.stopService)
        self.soon(lambda: self.proxy.open_backends, 0)
        self.serve(keys=mine.signing, site=self.SITE)
        client = self.client()
        known = [bool(self.cookie(client, cookie)[0]) for cookie, _ in given]
        self.assertEqual(known, [True] * 4, "not yet: it gives out its own")
        mine.learn(1, theirs.offer())
        self.set_keys(*mine.signing)
        for cookie, name in given * 2:
            self.assertEqual(self.cookie(client, cookie), (b"", name))
        self.assertTrue(self.cookie(client)[0].startswith(b"ka."))
        # As backup of that one it signs as that one does.
        mine.name("kb", 1)
        self.set_keys(*mine.signing)
        self.assertTrue(self.cookie(client)[0].startswith(b"kb."))
