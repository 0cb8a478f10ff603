"""Connections that switch protocols, over real sockets: both ways, ends, breaks, limits."""

import contextlib
import socket
import threading

from tests.web.harness import (
    MIB,
    Backend,
    ProxyTest,
    Wire,
    certificate,
    client_context,
    eventually,
    in_thread,
    reply,
)

ASK = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: x\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: y\r\n\r\n"
)
SITE = {"upgrade": ["websocket"]}


class TunnelTest(ProxyTest):
    """A backend that switches and then runs `script`."""

    def switching(self, script=None, head: bytes = SWITCH) -> Backend:
        def run(wire: Wire) -> None:
            backend.take(wire)
            wire.send(head)
            if script is not None:
                script(wire)

        backend = self.backend(run)
        return backend

    def upgraded(self, **options) -> Wire:
        """A client whose connection has switched."""
        client = self.client(**options)
        client.send(ASK)
        self.assertEqual(client.response().status, 101)
        return client


def echo(wire: Wire) -> None:
    """Send back what comes, up to the end; then end."""
    wire.send(wire.unread)
    while data := wire.more():
        wire.send(data)


class Switching(TunnelTest):
    @in_thread
    def test_heads_on_both_sides(self) -> None:
        backend = self.switching(echo)
        self.serve(site=SITE)
        client = self.client()
        client.send(ASK)
        self.assertEqual(
            client.response().head,
            b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: y\r\n"
            b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        self.assertEqual(
            backend.requests[0].head,
            b"GET /chat HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: x\r\n"
            b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n"
            b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        client.send(b"ping")
        self.assertEqual(client.take(4), b"ping")
        self.assertEqual(self.proxy.counters.tunnels, 1)
        self.assertEqual(next(iter(self.proxy.backends())).open_connections, 1)

    @in_thread
    def test_what_the_client_sends_ahead_waits_for_the_switch(self) -> None:
        seen = []
        gate = threading.Event()

        def script(wire: Wire) -> None:
            backend.take(wire)
            wire.sock.settimeout(0.2)
            try:
                seen.append(wire.more())
            except TimeoutError:
                seen.append(b"nothing")
            wire.sock.settimeout(20)
            wire.send(SWITCH + b"first")
            seen.append(wire.take(5))
            gate.set()

        backend = self.backend(script)
        self.serve(site=SITE)
        client = self.client()
        client.send(ASK + b"ahead")
        self.assertEqual(client.response().status, 101)
        self.assertEqual(client.take(5), b"first")
        self.assertTrue(gate.wait(20))
        self.assertEqual(seen, [b"nothing", b"ahead"])

    @in_thread
    def test_any_other_answer_is_ordinary(self) -> None:
        backend = self.backend()
        backend.says(reply(b"no", 403))
        self.serve(site=SITE)
        client = self.client()
        client.send(ASK)
        self.assertEqual(client.response().status, 403)
        backend.says(reply(b"yes"))
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual(client.response().body, b"yes")

    @in_thread
    def test_a_switch_that_was_not_asked_for(self) -> None:
        for site, ask, head in (
            ({}, ASK, SWITCH),
            (SITE, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", SWITCH),
            (SITE, ASK.replace(b"websocket", b"h2c"), SWITCH),
            (SITE, ASK, SWITCH.replace(b"Upgrade: websocket", b"Upgrade: h2c")),
            (SITE, ASK, SWITCH.replace(b"Upgrade: websocket\r\n", b"")),
            (SITE, ASK, SWITCH.replace(b"Connection: Upgrade\r\n", b"")),
        ):
            self.switching(head=head)
            self.serve(self.backends[-1], site=site)
            self.assertEqual(self.ask(ask).status, 502, (site, ask, head))
            self.on_reactor(self.service.stopService)

    @in_thread
    def test_a_body_or_http_1_0_is_no_upgrade(self) -> None:
        backend = self.backend()
        self.serve(site=SITE)
        for ask in (
            ASK.replace(b"HTTP/1.1", b"HTTP/1.0"),
            ASK.replace(b"GET", b"POST")[:-2] + b"Content-Length: 1\r\n\r\nx",
            ASK.replace(b"Connection: Upgrade", b"Connection: close"),
        ):
            self.assertEqual(self.ask(ask).status, 200)
            self.assertEqual(backend.requests[-1].all(b"upgrade"), [], ask)
            self.assertEqual(backend.requests[-1].all(b"connection"), [b"close"])

    @in_thread
    def test_interim_responses_before(self) -> None:
        self.switching(echo, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + SWITCH)
        self.serve(site=SITE)
        client = self.client()
        client.send(ASK)
        self.assertEqual([client.response().status, client.response().status], [103, 101])

    @in_thread
    def test_a_cookie_comes_with_the_switch(self) -> None:
        self.switching(echo)
        self.serve(site=SITE | {"schedule": "cookie"})
        client = self.client()
        client.send(ASK)
        cookie = client.response().get(b"Set-Cookie")
        assert cookie is not None
        self.assertTrue(cookie.startswith(b"DLBA=k1."), cookie)


class Moving(TunnelTest):
    @in_thread
    def test_megabytes_both_ways(self) -> None:
        self.switching(echo)
        self.serve(site=SITE)
        client = self.upgraded()
        data = bytes(range(256)) * 16384
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        self.assertEqual(client.take(len(data)), data)
        sender.join()

    @in_thread
    def test_over_tls(self) -> None:
        self.switching(echo)
        self.serve(site=SITE, tls=[certificate("ecdsa", "a.example")])
        client = self.upgraded(context=client_context())
        data = bytes(range(256)) * 256
        for _ in range(16):
            client.send(data)
            self.assertEqual(client.take(len(data)), data)

    @in_thread
    def test_a_client_that_does_not_read_pauses_its_backend(self) -> None:
        sent = []

        def flood(wire: Wire) -> None:
            wire.sock.settimeout(1.0)
            try:
                for _ in range(64):
                    wire.send(bytes(MIB))
                    sent.append(MIB)
            except TimeoutError:
                pass
            wire.sock.settimeout(20)
            wire.more()

        self.switching(flood)
        self.serve(site=SITE)
        client = self.upgraded(receive_buffer=4096)
        socket_ = self.only_client()
        eventually(lambda: socket_.backlog, "a backlog")
        self.assertLess(socket_.backlog, 256 * 1024)
        client.close()

    @in_thread
    def test_a_backend_that_does_not_read_pauses_its_client(self) -> None:
        gate = threading.Event()
        self.switching(lambda wire: gate.wait(20))
        self.serve(site=SITE)
        client = self.upgraded()
        client.sock.settimeout(1.0)
        with self.assertRaises(TimeoutError):
            for _ in range(64):
                client.send(bytes(MIB))
        side = self.only_client()._front._side
        self.assertLess(side.backlog, 256 * 1024)
        gate.set()


class Ending(TunnelTest):
    @in_thread
    def test_the_backend_ends(self) -> None:
        self.switching(lambda wire: wire.send(b"bye"))
        self.serve(site=SITE, tls=[certificate("ecdsa", "a.example")])
        client = self.upgraded(context=client_context())
        self.assertEqual(client.end(), "eof")
        self.assertEqual(client.unread, b"bye")
        record = self.record()
        self.assertEqual((record.status, record.termination), (101, "--"))
        self.assertEqual(record.body, 3)

    @in_thread
    def test_the_client_ends_first_and_still_hears(self) -> None:
        def script(wire: Wire) -> None:
            data = wire.rest()
            wire.send(b"heard " + data)

        self.switching(script)
        self.serve(site=SITE)
        client = self.upgraded()
        client.send(b"last")
        client.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(client.rest(), b"heard last")
        self.terminations({"--"})

    @in_thread
    def test_the_backend_breaks(self) -> None:
        self.switching(lambda wire: wire.reset())
        self.serve(site=SITE)
        self.assertEqual(self.upgraded().end(), "reset")
        self.terminations({"SD"})

    @in_thread
    def test_the_client_breaks(self) -> None:
        ends = []

        def script(wire: Wire) -> None:
            try:
                wire.more()
            except ConnectionError:
                ends.append("reset")

        self.switching(script)
        self.serve(site=SITE)
        self.upgraded().reset()
        self.terminations({"CD"})
        self.soon(lambda: ends, ["reset"])

    @in_thread
    def test_silence_for_too_long(self) -> None:
        self.switching(echo)
        self.serve(site=SITE, timeouts={"tunnel": 0.3, "response": 0.1, "idle": 0.1})
        client = self.upgraded()
        for _ in range(3):
            threading.Event().wait(0.2)
            client.send(b"x")
            self.assertEqual(client.take(1), b"x")
        self.assertEqual(client.end(), "reset")
        self.terminations({"cD"})
        self.assertEqual(self.proxy.counters.tunnels_timed_out, 1)

    @in_thread
    def test_who_takes_nothing_is_cut_sooner(self) -> None:
        def flood(wire: Wire) -> None:
            with contextlib.suppress(OSError):
                wire.send(bytes(8 * MIB))

        self.switching(flood)
        self.serve(site=SITE, timeouts={"tunnel": 600, "write": 0.3, "response": 0.3})
        client = self.upgraded(receive_buffer=4096)
        self.terminations({"cD"})
        self.assertEqual(client.end(), "reset")
        self.on_reactor(self.service.stopService)

        gate = threading.Event()
        deaf = self.switching(lambda wire: gate.wait(20))
        self.records.clear()
        self.serve(deaf, site=SITE, timeouts={"tunnel": 600, "write": 0.3, "response": 0.3})
        client = self.upgraded()
        with self.assertRaises(ConnectionError):
            while True:
                client.send(bytes(MIB))
        self.terminations({"cD"})
        gate.set()

    @in_thread
    def test_the_node_stops(self) -> None:
        self.switching(echo)
        self.serve(site=SITE, timeouts={"stop": 0.5})
        client = self.upgraded()
        self.on_reactor(lambda: self.service.stopService() and None)
        # Under way, so it goes on for a while.
        client.send(b"x")
        self.assertEqual(client.take(1), b"x")
        self.assertEqual(client.end(), "reset")
