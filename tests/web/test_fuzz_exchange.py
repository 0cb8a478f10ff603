"""Fuzzes the whole proxy over real sockets: hostile clients before it, broken backends behind it.

DLBA_FUZZ_SEED=7 plays the one round of that seed; DLBA_FUZZ_RUNS says how many are played. What
must hold is `tests/web/verdict.py`: every byte at a backend belongs to a request
that a client meant, and every client is answered in HTTP, in order, with what is its own.
"""

import contextlib
import os
import socket
import time
from pathlib import Path
from random import Random
from typing import ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from dlba.config.load import load_text
from tests.web.fuzzed import mutated, pieces, request
from tests.web.harness import certificate, client_context, configuration, reset
from tests.web.meant import OUR_NAME
from tests.web.rules.table import RuleTest
from tests.web.runs import ROUNDS, rounds
from tests.web.traffic import MAX_BODY, Client, Traffic, listeners
from tests.web.tricks import attacks
from tests.web.verdict import check

#: Of a round.
CLIENTS = 24
#: Of whoever is slow on purpose, which only `Starved` has: else a busy machine would be.
SHORT = {"handshake": 5, "head": 2, "body": 2, "write": 5, "idle": 2, "response": 2, "stop": 2}
LONG = dict.fromkeys(SHORT, 20)


def parts(choices: Random, stream: bytes) -> list:
    """How a client sends `stream`."""
    made: list = []
    for piece in pieces(choices, stream):
        made.append(piece)
        if choices.randrange(6) == 0:
            made.append(choices.choice((1, 2, 10, 40)))
    end = choices.randrange(12)
    if end == 0:
        made.insert(choices.randrange(len(made) + 1), "reset")
        del made[made.index("reset") + 1 :]
    else:
        made += [choices.choice((0, 0, 5, 50)), "half"]
    return made


def valid(choices: Random, name: bytes) -> bytes:
    return b"".join(
        request(choices, b"%b-%d" % (name, number), choices.choice((600, 600, 9_000, 20_000)))
        for number in range(choices.choice((1, 1, 2, 3, 6)))
    )


def hostile(choices: Random, name: bytes) -> bytes:
    kind = choices.randrange(4)
    if kind == 0:
        return valid(choices, name)
    if kind == 1:
        attack = choices.choice(attacks(name + b"-x"))
        return choices.choice((b"", valid(choices, name))) + attack + valid(choices, name + b"-y")
    return mutated(choices, valid(choices, name), choices.choice((1, 1, 2, 4)))


def greedy(choices: Random, name: bytes) -> bytes:
    """Much at once, of what must be kept."""
    if choices.randrange(4) == 0:
        return hostile(choices, name)
    return b"".join(
        request(choices, b"%b-%d" % (name, number), 20_000) for number in range(10)
    ) + choices.choice((b"", b"GET /" + b"x" * 8_000))


class FuzzCase(RuleTest):
    timeout = 24 * 3600
    #: The configuration of the site, of the pool, and of `web` beside them.
    site: ClassVar = {}
    pool: ClassVar = {}
    web: ClassVar = {}
    #: Bytes of all buffers together; 0: as usual.
    memory = 0
    #: Counters that must have grown.
    happen: ClassVar = (
        *("requests_refused", "requests_aborted", "responses", "responses_broken", "retries"),
        *("backend_errors", "tunnels"),
    )
    #: Fields that it lets the proxy change.
    loose: ClassVar = frozenset()

    #: Called now and then while a round is played.
    stir = None
    #: For clients that speak TLS.
    context = None
    tls = None
    parts = staticmethod(parts)

    def play(self, make):
        """Play rounds; `make(choices, name)` gives the bytes of a client."""
        return Deferred.fromCoroutine(self._play(make))

    async def _play(self, make):
        alone = os.environ.get("DLBA_FUZZ_SEED")
        seeds = [int(alone)] if alone else range(1, rounds() + 1)
        # The reactor must run before the proxy can be started in its thread.
        await deferLater(reactor, 0)
        self._remember_descriptors()
        backends = listeners(3)
        for backend in backends:
            self.addCleanup(backend.close)
        proxy = self.serve(
            *(backend.getsockname()[1] for backend in backends),
            timeouts=SHORT if self.memory else LONG,
            site={"request_buffer": 1024, "max_body": MAX_BODY, "upgrade": ["websocket"]}
            | self.site,
            pool=self.pool,
            tls=self.tls,
            web=self.web,
        )
        if self.memory:
            proxy.memory.set_limit(self.memory)
        for seed in seeds:
            traffic = Traffic(seed, backends, self.loose, self.memory > 0)
            for number in range(CLIENTS):
                choices = Random(f"{seed} {number}")
                stream = make(choices, b"t%d" % number)
                slow = choices.choice((0, 0, 0, 0, 0, 20, 200))
                traffic.clients.append(
                    Client(number, self.parts(choices, stream), slow, self.context)
                )
            try:
                await traffic.run(self.tls_port if self.context else self.port, self.stir)
                while proxy.clients or proxy.open_backends:
                    await deferLater(reactor, 0.002)
            finally:
                traffic.drain()
                for client in traffic.clients:
                    client.sock.close()
            check(traffic)
            while len(proxy.idle):
                # The backends have closed what was kept.
                await deferLater(reactor, 0.001)
            self.assertEqual(proxy.counters.internal_errors, 0, f"seed {seed}")
            self.assertEqual(proxy.memory.used, 0, f"seed {seed}")
        for backend in backends:
            backend.close()
        if not alone and rounds() >= ROUNDS:
            # They must have had something to get wrong.
            self.assertGreaterEqual(proxy.memory.filled, int(self.memory > 0))
            for name in self.happen:
                self.assertGreater(getattr(proxy.counters, name), 0, name)


class HostileClients(FuzzCase):
    def test_hostile(self):
        return self.play(hostile)


class KeptConnections(FuzzCase):
    """Backend connections carry several requests, of several clients."""

    pool: ClassVar = {"reuse": True}
    happen: ClassVar = (*FuzzCase.happen, "backend_reuses")

    def test_hostile(self):
        return self.play(hostile)

    def test_valid(self):
        self.happen = ("responses", "backend_reuses")
        return self.play(valid)


class Dressed(FuzzCase):
    """With all that changes heads: a trusted proxy in front, Via, cookies, rules of a site."""

    pool: ClassVar = {"reuse": True}
    site: ClassVar = {
        "schedule": "cookie",
        "persistence": {"cookie": "a", "session_cookie": "b"},
        "request_headers": {"set": {"X-A": "set", "X-Site": "shop"}, "remove": ["X-B"]},
        "response_headers": {"set": {"X-A": "set"}, "remove": ["Server"]},
    }
    web: ClassVar = {"trusted_proxies": ["127.0.0.0/8"], "via": OUR_NAME.strip().decode()}
    loose: ClassVar = frozenset(
        {b"x-a", b"x-b", b"x-site", b"cookie", b"x-real-ip", b"x-forwarded", b"forwarded"}
    )

    def test_hostile(self):
        return self.play(hostile)


class Reloaded(FuzzCase):
    """The configuration changes all the time, under the requests."""

    happen: ClassVar = (*FuzzCase.happen, "backend_reuses")

    def stir(self):
        self.reloads = getattr(self, "reloads", 0) + 1
        text = configuration(
            [int(backend.address[1]) for backend in self.proxy.backends()],
            timeouts=LONG | {"idle": 20 + self.reloads % 2},
            site={
                "request_buffer": (1, 1024, 4096)[self.reloads % 3],
                "max_body": MAX_BODY,
                "upgrade": ["websocket"],
                "schedule": ("url", "round-robin", "connections")[self.reloads // 2 % 3],
            },
            pool={"reuse": self.reloads % 2 == 0},
        )
        self.service.reload(load_text(text, Path(), "<test>").array.web)

    def test_hostile(self):
        return self.play(hostile)


class Secret(FuzzCase):
    """Over TLS, where a client ends by asking for it: half of a TLS connection can't be closed."""

    pool: ClassVar = {"reuse": True}

    def test_valid(self):
        self.context = client_context()
        self.tls = [certificate("ecdsa", "localhost")]
        self.happen = ("responses", "backend_reuses", "handshakes")
        return self.play(valid)

    @staticmethod
    def parts(choices, stream):
        tag = b"%08x" % choices.getrandbits(32)
        stream += b"GET /last-%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % tag
        return [part for part in parts(choices, stream) if part != "half"]


class Starved(FuzzCase):
    """All buffers together have so little memory that they wait for each other."""

    pool: ClassVar = {"reuse": True}
    happen: ClassVar = ("requests_refused", "responses", "backend_reuses")
    #: Less than can be configured.
    memory = 32 * 1024

    def test_greedy(self):
        return self.play(greedy)


class FoundTests(FuzzCase):
    """What the fuzz has found, each by itself."""

    def test_a_reset_during_an_upload(self):
        return Deferred.fromCoroutine(self._a_reset_during_an_upload())

    async def _a_reset_during_an_upload(self):
        await deferLater(reactor, 0)
        self._remember_descriptors()
        (listener,) = listeners(1)
        self.addCleanup(listener.close)
        self.serve(listener.getsockname()[1], site={"request_buffer": 1})
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
            await self.turns()
            backend, _ = listener.accept()
            backend.sendall(b"HTTP/1.1 200 OK\r\n\r\nbegin")
            await self.turns()
            # Both in one turn of the proxy: it writes to the backend before it reads from it.
            client.sendall(b"def")
            reset(backend)
            await self.turns()
            client.setblocking(False)
            data = b""
            with self.assertRaises(ConnectionResetError):
                while piece := client.recv(1000):
                    data += piece
            self.assertIn(b"begin", data)
        listener.close()

    async def turns(self):
        for _ in range(10):
            await deferLater(reactor, 0.001)

    def test_pipelines_that_fill_the_memory(self):
        return Deferred.fromCoroutine(self._pipelines_that_fill_the_memory())

    async def _pipelines_that_fill_the_memory(self):
        await deferLater(reactor, 0)
        self._remember_descriptors()
        (listener,) = listeners(1)
        self.addCleanup(listener.close)
        proxy = self.serve(
            listener.getsockname()[1],
            timeouts=SHORT,
            web={"limits": {"buffer_memory": "1MiB"}},
        )
        ask = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        clients = []
        for _ in range(20):
            client = socket.create_connection(("127.0.0.1", self.port))
            self.addCleanup(client.close)
            client.setblocking(False)
            client.sendall(ask * (70_000 // len(ask)))
            clients.append(client)
        await self.turns()
        self.assertEqual(proxy.memory.filled, 1)
        # Whoever is full must be able to become empty again.
        end = time.monotonic() + 10
        while proxy.memory.full and time.monotonic() < end:
            with contextlib.suppress(OSError), listener.accept()[0] as backend:
                backend.sendall(b"HTTP/1.1 204 OK\r\n\r\n")
            await deferLater(reactor, 0.001)
        self.assertFalse(proxy.memory.full)
        for client in clients:
            client.close()
        listener.close()
