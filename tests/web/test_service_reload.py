"""The proxy takes over another configuration: nobody's connection or request is lost."""

import contextlib
import random
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import attrs

from dlba.config.load import load_text
from dlba.config.values import WebConfig
from dlba.errors import DLBAError
from dlba.web.listener import bind
from dlba.web.service import prepare
from tests.web.harness import (
    GET,
    Backend,
    ProxyTest,
    Wire,
    certificate,
    client_context,
    closed_port,
    configuration,
    eventually,
    in_thread,
    reply,
)

NAME = "shop.example.com"


class ReloadTest(ProxyTest):
    def web(self, *backends: Backend | int, **options: Any) -> WebConfig:
        """A configuration for `reload`; options as of `configuration`."""
        text = configuration(backends or self.backends, **options)
        web = load_text(text, Path("/"), "<test>").array.web
        assert web is not None
        return web

    def reload(self, web: WebConfig) -> list[str]:
        return self.on_reactor(self.service.reload, web)

    def gated(self) -> tuple[Backend, threading.Event]:
        """A backend that answers with its name once the event is set."""
        gate = threading.Event()

        def script(wire: Wire) -> None:
            backend.take(wire)
            gate.wait(20)
            wire.send(reply(backend.name.encode()))

        backend = self.backend(script)
        self.addCleanup(gate.set)
        return backend, gate

    def body(self, client: Wire | None = None, fields: bytes = b"") -> bytes:
        """The body of the answer to one request, on a connection of its own unless given."""
        wire = client or self.client()
        wire.send(GET[:-2] + fields + b"\r\n")
        answer = wire.response()
        if client is None:
            wire.close()
        self.assertEqual(answer.status, 200, answer.head)
        return answer.body


class Sites(ReloadTest):
    """What requests meet."""

    @in_thread
    def test_connections_stay_and_their_next_request_meets_the_new_sites(self):
        old, new = self.backend(), self.backend()
        self.serve(old, tls=[certificate("ecdsa", NAME)])
        clients = [self.client(), self.client(client_context())]
        for client in clients:
            self.assertEqual(self.body(client), b"app1")
        self.reload(self.web(new, tls=[certificate("ecdsa", NAME)]))
        for client in clients:
            self.assertEqual(self.body(client), b"app2")
        self.assertEqual(self.proxy.counters.connections_accepted, 2)
        self.assertEqual([row.name for row in self.proxy.backends()], ["app2"])

    @in_thread
    def test_a_request_under_way_ends_where_it_began(self):
        old, gate = self.gated()
        new = self.backend()
        self.serve(old)
        client = self.client()
        client.send(GET)
        eventually(lambda: old.requests, "the request")
        (row,) = self.proxy.backends()
        self.reload(self.web(new))
        self.assertEqual(row.open_connections, 1)
        self.assertEqual(self.body(), b"app2")
        gate.set()
        self.assertEqual(client.response().body, b"app1")
        self.soon(lambda: (row.open_connections, row.hits), (0, 1))
        self.assertEqual([row.hits for row in self.proxy.backends()], [1])

    @in_thread
    def test_a_pool_that_goes_and_comes_back_meanwhile(self):
        old, gate = self.gated()
        new = self.backend()
        self.serve(old)
        client = self.client()
        client.send(GET)
        eventually(lambda: old.requests, "the request")
        (row,) = self.proxy.backends()
        address = {"address": f"127.0.0.1:{new.port}"}
        site = {"hosts": ["*"], "pool": "other", "schedule": "round-robin"}
        self.reload(self.web(sites=[site], pools={"other": {"backends": {"b": address}}}))
        self.assertEqual(self.body(), b"app2")
        self.reload(self.web(old))
        self.assertEqual([r is row for r in self.proxy.backends()], [True])
        gate.set()
        self.assertEqual(client.response().body, b"app1")

    @in_thread
    def test_an_upload_under_way(self):
        """Half of the body came before; where its site was is where it goes."""
        old, new = self.backend(), self.backend()
        self.serve(old)
        client = self.client()
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        eventually(lambda: self.proxy.counters.requests, "its head")
        self.reload(self.web(new, limits={"head": "1KiB", "target": 64}))
        client.send(b"cd")
        self.assertEqual(client.response().status, 200)
        self.assertEqual([r.body for b in (old, new) for r in b.requests], [b"abcd"])

    @in_thread
    def test_marks_and_counts_of_a_backend_that_stays(self):
        alive, dead = self.backend(), closed_port()
        self.serve(alive, dead, pool={"fail_timeout": 60})
        for _ in range(3):
            self.body()
        self.reload(self.web(alive, dead, pool={"fail_timeout": 50}))
        found = [(row.hits, row.failed) for row in self.proxy.backends()]
        self.assertEqual(found, [(3, False), (0, True)])
        self.body()
        self.assertEqual(self.proxy.counters.backend_connect_failures, 1)

    @in_thread
    def test_cookies_go_on_and_those_of_a_backend_that_is_gone_count_as_none(self):
        site = {"schedule": "cookie"}
        backends = [self.backend() for _ in range(3)]
        self.serve(*backends, site=site)
        cookies = {}
        while len(cookies) < 3:
            answer = self.ask()
            given = re.search(rb"DLBA=[^;]*", answer.get(b"Set-Cookie"))
            cookies[answer.body] = b"Cookie: " + given[0] + b"\r\n"
        self.reload(self.web(*backends[:2], site=site))
        for name in (b"app1", b"app2"):
            for _ in range(3):
                self.assertEqual(self.body(fields=cookies[name]), name)
        answer = self.ask(GET[:-2] + cookies[b"app3"] + b"\r\n")
        self.assertEqual((answer.status, len(answer.all(b"Set-Cookie"))), (200, 1))
        self.reload(self.web(*backends, site=site))
        self.assertEqual(self.body(fields=cookies[b"app3"]), b"app3")

    @in_thread
    def test_kept_connections_to_a_backend_that_is_gone(self):
        def script(wire: Wire) -> None:
            while True:
                self.backends[0].take(wire)
                wire.send(reply(b"kept"))

        gone = self.backend(script)
        stays = self.backend(script)
        reuse = {"pool": {"reuse": True}}
        self.serve(gone, stays, **reuse)
        for _ in range(2):
            self.body()
        self.soon(lambda: len(self.proxy.idle), 2)
        self.reload(self.web(stays, **reuse))
        self.assertEqual(len(self.proxy.idle), 1)
        (wire,) = gone.connections
        eventually(lambda: wire.sock.fileno() < 0, "its end, as the backend sees it")
        self.reload(self.web(stays))
        self.assertEqual(len(self.proxy.idle), 0)

    @in_thread
    def test_timeouts_and_limits(self):
        self.backend()
        self.serve()
        client = self.client()
        self.body(client)
        self.reload(self.web(timeouts={"idle": 0.2}, limits={"per_client": 2, "target": 64}))
        self.body(client)
        self.assertEqual(client.end(), "eof")
        long = GET.replace(b"/ ", b"/" + b"x" * 99 + b" ")
        self.assertEqual(self.ask(long).status, 414)
        self.soon(lambda: len(self.proxy.clients), 0)
        held = [self.client(), self.client()]
        eventually(lambda: len(self.proxy.clients) == 2, "both")
        self.assertEqual(self.client().end(), "eof")
        for client in held:
            client.close()

    @in_thread
    def test_more_room_wakes_who_waits(self):
        self.backend()
        self.serve(limits={"connections": 1})
        client = self.client()
        self.body(client)
        waiting = self.client()
        waiting.send(GET)
        eventually(lambda: self.proxy.counters.accepts_paused, "the pause")
        self.reload(self.web(limits={"connections": 2}))
        self.assertEqual(waiting.response().status, 200)

    @in_thread
    def test_pages(self):
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        page = folder / "none.html"
        self.backend()
        self.serve()
        web = self.web()
        page.write_text("one")
        web = attrs.evolve(web, errors={404: page})
        self.assertEqual(self.reload(web), ["error pages"])
        self.assertIn(b"one", self.proxy.answers.answer(404, "", b"", True))
        self.assertEqual(self.reload(web), [])
        page.unlink()
        with self.assertRaises(OSError):
            self.reload(web)
        self.assertIn(b"one", self.proxy.answers.answer(404, "", b"", True))

    @in_thread
    def test_the_time_to_stop(self):
        old, _ = self.gated()
        self.serve(old, timeouts={"stop": 60})
        client = self.client()
        client.send(GET)
        eventually(lambda: old.requests, "the request")
        self.reload(self.web(old, timeouts={"stop": 0.2}))
        self.on_reactor(self.service.stopService)
        self.assertEqual(client.end(), "reset")

    @in_thread
    def test_nothing_is_kept_of_former_configurations(self):
        """Pools, sites and TLS contexts don't pile up."""
        backend = self.backend()
        options = {"tls": [certificate("ecdsa", NAME)], "site": {"schedule": "cookie"}}
        self.serve(backend, **options)
        self.proxy.set_drained([("app", "app1"), ("gone", "gone")])
        webs = [self.web(backend, **options), self.web(backend, closed_port(), **options)]
        for number in range(10):
            self.reload(webs[number % 2])
        self.assertEqual(self.proxy._leaving, {})
        self.assertEqual(self.proxy.pools["app"]._leaving, [])
        self.assertEqual(len(self.proxy._tokens._named), 2)
        self.assertEqual(len(self.proxy.deadlines), 0)


class Listeners(ReloadTest):
    """Ports that come, go, and change what they speak."""

    def ports(self, *ports: int, tls: tuple[int, ...] = (), **more: Any) -> WebConfig:
        web = self.web(tls=[certificate("ecdsa", NAME)])
        plain, secure = web.listen
        listen = [attrs.evolve(plain, port=port, **more) for port in ports]
        listen += [attrs.evolve(secure, port=port) for port in tls]
        return attrs.evolve(web, listen=tuple(listen))

    def begin(self, web: WebConfig) -> None:
        """Start the proxy with these ports."""
        self.serve()
        self.reload(web)

    def quiet_port(self) -> int:
        """A port that no connection of anybody has, which would be in the way of all addresses."""
        while True:
            # Below those that the system gives to outgoing connections.
            port = random.randrange(20_000, 32_000)
            with contextlib.suppress(OSError):
                bind(None, port).close()
                return port

    @in_thread
    def test_a_port_comes_and_one_goes(self):
        backend = self.backend()
        first, second = closed_port(), closed_port()
        self.begin(self.ports(first))
        kept = self.client(port=first)
        self.assertEqual(self.body(kept), b"app1")
        listener = self.service.listeners[0]
        self.reload(self.ports(first, second))
        self.assertIs(self.service.listeners[0], listener)
        for port in (first, second):
            self.assertEqual(self.body(self.client(port=port)), b"app1")
        self.reload(self.ports(second))
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", first), 5)
        self.assertEqual(self.body(kept), b"app1", "its connections live on")
        self.assertEqual(self.body(self.client(port=second)), b"app1")
        self.assertEqual(len(backend.requests), 5)

    @in_thread
    def test_who_waits_at_a_port_that_goes_is_served(self):
        self.backend()
        first, second = closed_port(), closed_port()
        self.begin(self.ports(first))
        clients = []

        def go() -> None:
            # On the reactor's thread: nothing is accepted before the reload.
            for _ in range(150):
                client = self.client(port=first)
                client.send(GET)
                clients.append(client)
            self.service.reload(self.ports(second))

        self.on_reactor(go)
        for client in clients:
            self.assertEqual(client.response().body, b"app1")
            client.close()

    @in_thread
    def test_ports_that_can_t_be_had_change_nothing(self):
        self.backend()
        first, free = closed_port(), closed_port()
        self.begin(self.ports(first))
        with (
            socket.create_server(("127.0.0.1", 0)) as one,
            socket.create_server(("127.0.0.1", 0)) as other,
        ):
            taken = [one.getsockname()[1], other.getsockname()[1]]
            web = self.ports(free, *taken)
            with self.assertRaises(DLBAError) as caught:
                self.reload(attrs.evolve(web, sites=web.sites[:0]))
        self.assertEqual(
            str(caught.exception).splitlines(),
            [
                f"web.listen[{index}]: listen on 127.0.0.1:{port}: Address already in use"
                for index, port in enumerate(taken, 1)
            ],
        )
        self.assertEqual([listener.port for listener in self.service.listeners], [first])
        self.assertEqual(self.body(self.client(port=first)), b"app1")
        # What was bound for it is free again.
        socket.create_server(("127.0.0.1", free)).close()

    @in_thread
    def test_a_port_changes_to_tls_and_back(self):
        self.backend()
        port = closed_port()
        self.begin(self.ports(port))
        plain = self.client(port=port)
        self.body(plain)
        self.reload(self.ports(tls=(port,)))
        secure = self.client(client_context(), port=port, name=NAME)
        self.assertEqual((self.body(secure), self.body(plain)), (b"app1", b"app1"))
        self.assertIn("(HTTPS)", str(self.service.listeners[0]))
        self.reload(self.ports(port))
        self.assertEqual((self.body(secure), self.body(plain)), (b"app1", b"app1"))
        self.assertEqual(self.body(self.client(port=port)), b"app1")

    @in_thread
    def test_one_address_becomes_all_and_back(self):
        """Both sockets have the port for a moment, and nobody else gets it."""
        self.backend()
        port = self.quiet_port()
        over = threading.Event()
        self.addCleanup(over.set)
        answers: list[bytes] = []
        self.begin(self.ports(port))

        def load() -> None:
            while not over.is_set():
                client = self.client(port=port)
                answers.append(self.body(client))
                client.close()

        thread = threading.Thread(target=load)
        thread.start()
        for number in range(8):
            web = self.ports(port)
            if number % 2 == 0:
                listen = attrs.evolve(web.listen[0], address=None)
                web = attrs.evolve(web, listen=(listen,))
            self.reload(web)
            time.sleep(0.02)
            with self.assertRaises(DLBAError):
                # Our own is in the way: it stays, so it lends its port to nobody.
                away = attrs.evolve(web.listen[0], address="0.0.0.0" if number % 2 else "127.0.0.1")
                self.reload(attrs.evolve(web, listen=(*web.listen, away)))
            with self.assertRaises(OSError):
                bind("127.0.0.1", port)
        over.set()
        thread.join(20)
        self.assertFalse(thread.is_alive())
        self.assertGreater(len(answers), 8)

    @in_thread
    def test_redirects(self):
        """To the TLS port of the same address, else to the first one."""
        self.backend()
        plain, first, second, other = (closed_port() for _ in range(4))

        def found() -> list[int]:
            return [listener.redirect_port for listener in self.service.listeners]

        self.begin(self.ports(plain, tls=(first, second), redirect="https"))
        self.assertEqual(found(), [first, 0, 0])
        web = self.ports(plain, tls=(first, second), redirect="https")
        away = attrs.evolve(web.listen[1], address="127.0.0.2")
        self.reload(attrs.evolve(web, listen=(web.listen[0], away, web.listen[2])))
        self.assertEqual(found(), [second, 0, 0])
        self.reload(attrs.evolve(web, listen=(web.listen[0], away)))
        self.assertEqual(found(), [first, 0])
        self.reload(self.ports(plain, other, tls=(first,)))
        self.assertEqual(found(), [0, 0, 0])

    @in_thread
    def test_secure_where_every_port_is_tls_or_leads_there(self):
        self.backend()
        plain, tls = closed_port(), closed_port()
        site = {"schedule": "cookie"}

        def given(**more: str) -> bytes:
            web = self.ports(plain, tls=(tls,), **more)
            sites = self.web(site=site).sites
            self.reload(attrs.evolve(web, sites=sites))
            answer = self.ask(context=client_context(), port=tls)
            return answer.get(b"Set-Cookie")

        self.serve()
        self.assertNotIn(b"Secure", given())
        self.assertIn(b"; Secure", given(redirect="https"))

    @in_thread
    def test_files_that_are_gone_change_nothing(self):
        self.backend()
        port = closed_port()
        self.begin(self.ports(tls=(port,)))
        web = self.ports(tls=(port,))
        tls = web.listen[0].tls
        for name in ("/no/such.pem", "/etc/hostname", "/dev/null"):
            pair = attrs.evolve(tls.certificates[0], key=Path(name))
            bad = attrs.evolve(web.listen[0], tls=attrs.evolve(tls, certificates=(pair,)))
            with self.assertRaises((OSError, DLBAError)):
                prepare(attrs.evolve(web, listen=(bad,)))
            with self.assertRaises((OSError, DLBAError)):
                self.reload(attrs.evolve(web, listen=(bad,)))
        self.assertEqual(self.body(self.client(client_context(), port=port)), b"app1")


class Load(ReloadTest):
    """Many reloads under many requests."""

    @in_thread
    def test_no_request_fails(self):
        backends = [self.backend() for _ in range(3)]
        certificates = [certificate("ecdsa", NAME), certificate("ecdsa", "new.example.com")]
        site = {"schedule": "cookie"}
        self.serve(*backends, tls=certificates[:1], site=site)
        webs = [
            self.web(*backends[:2], tls=certificates[:1], site=site),
            self.web(*backends[1:], tls=certificates[1:], site={"schedule": "url"}),
            self.web(*backends, tls=certificates, site={"schedule": "connections"}),
        ]
        over = threading.Event()
        answers: list[int] = []
        faults: list[BaseException] = []

        def ask(secure: bool, kept: bool) -> None:
            try:
                client = None
                while not over.is_set():
                    client = client or self.client(client_context() if secure else None)
                    client.send(GET)
                    answers.append(client.response().status)
                    if not kept:
                        client.close()
                        client = None
                if client is not None:
                    client.close()
            except BaseException as error:  # noqa: BLE001 - told below
                faults.append(error)

        threads = [
            threading.Thread(target=ask, args=(secure, kept))
            for secure in (False, True)
            for kept in (False, True)
        ]
        for thread in threads:
            thread.start()
        for number in range(40):
            self.reload(webs[number % 3])
            time.sleep(0.02)
        over.set()
        for thread in threads:
            thread.join(20)
        self.assertEqual(faults, [])
        self.assertEqual(set(answers), {200})
        self.assertGreater(len(answers), 50)


class Draining(ReloadTest):
    """web.md rules 5 and 9."""

    SITE: ClassVar = {"schedule": "cookie"}

    def drain(self, *names: str) -> None:
        self.on_reactor(self.proxy.set_drained, [("app", name) for name in names])

    def given(self, *fields: bytes) -> tuple[bytes, bytes]:
        """Who answers, and the cookie that is set."""
        lines = b"".join(field + b"\r\n" for field in fields)
        answer = self.ask(GET[:-2] + lines + b"\r\n")
        self.assertEqual(answer.status, 200)
        found = re.findall(rb"(?im)^set-cookie: (DLBA=[^;\r]*)", answer.head)
        return answer.body, b", ".join(found)

    @in_thread
    def test_a_token_still_reaches_it_and_nothing_else_does(self):
        self.backend(), self.backend()
        self.serve(site=self.SITE)
        cookies = dict(self.given() for _ in range(4))
        self.assertEqual(set(cookies), {b"app1", b"app2"})
        self.drain("app1")
        # Its own clients stay, and their cookie isn't renewed.
        for _ in range(3):
            self.assertEqual(self.given(b"Cookie: " + cookies[b"app1"]), (b"app1", b""))
        self.assertEqual({self.given()[0] for _ in range(6)}, {b"app2"})
        self.reload(self.web(site=self.SITE | {"max_body": 5}))
        self.assertEqual(self.given(b"Cookie: " + cookies[b"app1"]), (b"app1", b""))
        self.assertEqual({self.given()[0] for _ in range(6)}, {b"app2"})
        self.drain()
        self.assertEqual({self.given()[0] for _ in range(6)}, {b"app1", b"app2"})

    @in_thread
    def test_a_cookie_that_follows_a_session_is_renewed(self):
        persistence = {"session_cookie": "JSESSIONID"}
        backends = self.backend(), self.backend()
        for backend in backends:
            backend.says(reply(backend.name.encode(), 200, b"Set-Cookie: JSESSIONID=1; Path=/"))
        self.serve(site={"schedule": "cookie", "persistence": persistence})
        cookies = dict(self.given() for _ in range(4))
        self.drain("app1")
        again = self.given(b"Cookie: " + cookies[b"app1"])
        self.assertEqual(again, (b"app1", cookies[b"app1"]))
        # A session without a token is hashed, and that skips it.
        for number in range(12):
            self.assertEqual(self.given(b"Cookie: JSESSIONID=%d" % number)[0], b"app2")

    @in_thread
    def test_all_of_them(self):
        """As HAProxy does: nobody gets anything new, who has a token goes on."""
        self.backend(), self.backend()
        self.serve(site=self.SITE)
        cookies = dict(self.given() for _ in range(4))
        self.drain("app1", "app2")
        self.assertEqual(self.ask().status, 503)
        for name, cookie in cookies.items():
            self.assertEqual(self.given(b"Cookie: " + cookie)[0], name)

    @in_thread
    def test_every_way_of_scheduling_skips_it(self):
        self.backend(), self.backend()
        self.serve(site=self.SITE)
        self.drain("app1")
        for schedule in ("round-robin", "connections", "url", "cookie"):
            self.reload(self.web(site={"schedule": schedule}))
            targets = [b"/%d " % number for number in range(8)]
            found = {self.ask(GET.replace(b"/ ", target)).body for target in targets}
            self.assertEqual(found, {b"app2"}, schedule)


class Stopping(ReloadTest):
    @in_thread
    def test_a_long_download_is_cut_when_the_time_is_over(self):
        """As a tunnel: it isn't idle, and would never end by itself."""
        over = threading.Event()
        self.addCleanup(over.set)

        def script(wire: Wire) -> None:
            self.backends[0].take(wire)
            wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
            while not over.is_set():
                wire.send(b"x" * 100)
                time.sleep(0.02)

        self.backend(script)
        self.serve(timeouts={"stop": 0.5})
        client = self.client()
        client.send(GET)
        client.take(500)
        begun = time.monotonic()
        self.on_reactor(self.service.stopService)
        self.assertEqual(client.end(), "reset")
        self.assertGreater(time.monotonic() - begun, 0.3)
        over.set()
