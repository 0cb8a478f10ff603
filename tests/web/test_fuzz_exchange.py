"""Fuzzes the whole proxy over real sockets: hostile clients before it, broken backends behind it.

DLBA_FUZZ_SEED=7 plays the one round of that seed; DLBA_FUZZ_RUNS says how many are played. What
must hold is `tests/web/verdict.py`: every byte at a backend belongs to a request
that a client meant, and every client is answered in HTTP, in order, with what is its own.
"""

import os
import socket
from random import Random
from typing import ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.web.fuzzed import mutated, pieces, request
from tests.web.harness import reset
from tests.web.meant import OUR_NAME
from tests.web.rules.table import RuleTest
from tests.web.runs import rounds
from tests.web.traffic import MAX_BODY, Client, Traffic, listeners
from tests.web.tricks import attacks
from tests.web.verdict import check

#: Of a round.
CLIENTS = 24
SHORT = {"handshake": 5, "head": 2, "body": 2, "write": 5, "idle": 2, "response": 2, "stop": 2}


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
        request(choices, b"%b-%d" % (name, number), choices.choice((600, 600, 20_000)))
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


class FuzzCase(RuleTest):
    timeout = 24 * 3600
    #: The configuration of the site, of the pool, and of `web` beside them.
    site: ClassVar = {}
    pool: ClassVar = {}
    web: ClassVar = {}
    #: Counters that must have grown.
    happen: ClassVar = (
        *("requests_refused", "requests_aborted", "responses", "responses_broken", "retries"),
        *("backend_errors", "tunnels"),
    )
    #: Fields that it lets the proxy change.
    loose: ClassVar = frozenset()

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
            timeouts=SHORT,
            site={"request_buffer": 1024, "max_body": MAX_BODY, "upgrade": ["websocket"]}
            | self.site,
            pool=self.pool,
            web=self.web,
        )
        for seed in seeds:
            traffic = Traffic(seed, backends, self.loose)
            for number in range(CLIENTS):
                choices = Random(f"{seed} {number}")
                stream = make(choices, b"t%d" % number)
                slow = choices.choice((0, 0, 0, 0, 0, 20, 200))
                traffic.clients.append(Client(number, parts(choices, stream), slow))
            try:
                await traffic.run(self.port)
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
        for backend in backends:
            backend.close()
        if not alone:
            # They must have had something to get wrong.
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
