"""Drives many hostile clients and broken backends in the reactor's thread, a step at a time.

A round is made of a seed. In each step every client may send one more of its pieces and every
backend may do one more thing that its script says; then the reactor, and the proxy with it, has
its turn. So pieces arrive as they were cut, and a seed tells nearly the same story twice.

Each client has an address of its own in 127.0.0.0/8, by which X-Forwarded-For names it at the
backend, whatever it says of itself.
"""

import contextlib
import errno
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from random import Random

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.web.fuzzed import POISON
from tests.web.scripts import Answer
from tests.web.strict import Message, backend_requests

#: Seconds until a round must be over, and steps without anything after which it may take a nap.
SECONDS, QUIET = 60.0, 250
#: Bytes of a request's body that the proxy is configured to take.
MAX_BODY = 10_000
_RESET = struct.pack("ii", 1, 0)


class BreachError(AssertionError):
    """What must not happen has happened."""


class Client:
    """One client: sends `parts` in their order, reads, and ends.

    A part is bytes, a number of steps to wait, or "half" (no more comes) or "reset".
    """

    def __init__(
        self, number: int, parts: list, slow: int = 0, context: ssl.SSLContext | None = None
    ) -> None:
        """`slow`: steps in which it reads nothing, then every so many it reads a little.

        `context`: to speak TLS.
        """
        self.name = f"127.{1 + number // 60000}.{number // 250 % 240}.{1 + number % 250}"
        self.parts = parts
        self.stream = b"".join(part for part in parts if isinstance(part, bytes))
        self.sent = bytearray()
        self.received = bytearray()
        #: How it ended: "eof", "reset" (both seen), "left" (by its own reset); "": not yet.
        self.end = ""
        self.was_reset = False
        self.slow = self.waits = slow
        self.sock = socket.socket()
        if slow:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        self.at = 0
        self.context = context
        self.shaking = context is not None

    def connect(self, port: int) -> None:
        self.sock.bind((self.name, 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setblocking(False)
        if self.context is not None:
            self.sock = self.context.wrap_socket(
                self.sock, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )

    def step(self) -> None:
        if self.end:
            return
        if self.shaking:
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self.sock.do_handshake()
                self.shaking = False
            return
        if self.at < len(self.parts):
            self._act(self.parts[self.at])
        if not self.end:
            if self.waits:
                self.waits -= 1
            else:
                self._read()
                self.waits = self.slow // 10

    def _act(self, part) -> None:
        if part == "half":
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
        elif part == "reset":
            self.finish("left")
        elif isinstance(part, int):
            if part > 1:
                self.parts[self.at] = part - 1
                return
        else:
            try:
                taken = self.sock.send(part)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                taken = 0
            except OSError as error:
                # What the proxy said before is still to be read. A reset is told once; behind a
                # clean end it is an EPIPE.
                self.was_reset = self.was_reset or error.errno == errno.ECONNRESET
                taken = len(part)
            self.sent += part[:taken]
            if taken < len(part):
                self.parts[self.at] = part[taken:]
                return
        self.at += 1

    def _read(self) -> None:
        try:
            data = self.sock.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self.finish("reset")
            return
        if data:
            self.received += data
        elif self.at >= len(self.parts) or "reset" not in self.parts:
            self.finish("reset" if self.was_reset else "eof")

    def finish(self, how: str) -> None:
        self.end = how
        if how == "left":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()


class Seen:
    """One connection that a backend got: `received`, and what it does about it."""

    def __init__(self, traffic: "Traffic", sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.traffic = traffic
        self.sock = sock
        self.received = bytearray()
        #: Requests answered, or being answered, and the actions that are left.
        self.answered = 0
        self.actions: list = []
        self.order: list[int] = []
        self.whole = 0
        self.answer: Answer
        self.answers: list[Answer] = []
        #: Where the bytes of another protocol begin; -1: nowhere.
        self.tunnel = -1
        #: Bytes received when more than a response was sent; -1: it never was.
        self.said_more = -1
        #: Who closed: "us", "them", "": nobody yet.
        self.closed = ""
        self.stale = False
        self.acted = False

    def step(self) -> None:
        if self.closed:
            return
        if self.actions:
            self._act(self.actions[0])
        if not self.closed:
            self._read()
        if not self.closed and self.stale and not self.actions:
            self._look()

    def _act(self, action) -> None:
        self.acted = True
        if isinstance(action, int):
            if action > 1:
                self.actions[0] = action - 1
                return
        elif action in ("close", "reset"):
            if action == "reset":
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._close("us")
            return
        elif action == "spare":
            # Behind a request that came meanwhile it would be the answer, whoever looks.
            self._read()
            if self.closed:
                return
            self._number()
            if len(self.order) == self.answered:
                # At once: in the next step one may be there.
                self.answer.spared()
                self.said_more = len(self.received)
                self.actions[0] = POISON
                self._act(POISON)
                return
        elif action:
            try:
                taken = self.sock.send(action)
            except BlockingIOError:
                return
            except OSError:
                self._read()
                self._close("them")
                return
            if taken < len(action):
                self.actions[0] = action[taken:]
                return
            if self.actions[1:2] == ["said more"]:
                self.said_more = len(self.received)
                del self.actions[1]
        self.actions.pop(0)

    def _read(self) -> None:
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.received += data
            self.stale = True
            # Now, so that its place among all is the one in which it came.
            self._number()
        elif self.tunnel < 0 or not self.actions:
            # In a tunnel the client has said its last word, and hears ours to the end.
            self._close("them")

    def _close(self, who: str) -> None:
        if who != "them":
            with contextlib.suppress(OSError):
                self.received += self.sock.recv(1 << 20)
        self.closed = who
        self.actions.clear()
        self.sock.close()
        self._number()

    def _number(self) -> list[Message] | None:
        """The requests whose heads have come, each with its place among all; None: not HTTP."""
        if self.tunnel >= 0:
            return None
        reading = backend_requests(bytes(self.received))
        if reading.refused is not None:
            return None
        heads = list(reading.messages)
        if reading.partial is not None and reading.partial.framed:
            heads.append(reading.partial)
        while len(self.order) < len(heads):
            self.order.append(self.traffic.next_order())
        self.whole = len(reading.messages)
        return heads

    def _look(self) -> None:
        """Is there a request that isn't answered yet?"""
        self.stale = False
        heads = self._number()
        if heads is None:
            if self.tunnel < 0:
                self._close("us")
            return
        if self.answered >= len(heads):
            return
        request = heads[self.answered]
        answer = self.traffic.answer(request, self.order[self.answered])
        if self.answered < self.whole or answer.early:
            self.answered += 1
            self.answer = answer
            self.answers.append(answer)
            self.actions = list(answer.actions)
            self.stale = True
            if answer.switches:
                self.tunnel = request.end


class Traffic:
    """One round: `clients` against the proxy at `port`, with `listeners` as its backends."""

    def __init__(
        self,
        seed: int,
        listeners: list[socket.socket],
        loose: frozenset[bytes] = frozenset(),
        strained: bool = False,
    ) -> None:
        """`loose`: names of fields that the proxy may change. `strained`: its deadlines pass."""
        self.seed = seed
        self.loose = loose
        self.strained = strained
        self.listeners = listeners
        self.clients: list[Client] = []
        self.seen: list[Seen] = []
        self.answers: dict[tuple[bytes, int], Answer] = {}
        self.tries: dict[bytes, int] = {}
        self._order = 0
        self._by_order: dict[int, Answer] = {}
        self._backlog = select.poll()
        for listener in listeners:
            self._backlog.register(listener, select.POLLIN)

    def next_order(self) -> int:
        self._order += 1
        return self._order

    def answer(self, request: Message, order: int) -> Answer:
        """The script for the request whose head was seen as number `order`."""
        answer = self._by_order.get(order)
        if answer is None:
            again = self.tries.get(request.target, 0)
            self.tries[request.target] = again + 1
            choices = Random(f"{self.seed} {request.target!r} {again}")
            answer = self._by_order[order] = Answer(choices, request, again)
            self.answers[request.target, again] = answer
        return answer

    async def run(self, port: int, stir: Callable[[], object] | None = None) -> None:
        """Play until every client has ended. `stir` is called now and then."""
        end = time.monotonic() + SECONDS
        for client in self.clients:
            client.connect(port)
        moved = quiet = step = 0
        while time.monotonic() < end:
            step += 1
            if stir is not None and step % 20 == 10:
                stir()
            self._accept()
            for client in self.clients:
                client.step()
            for seen in self.seen:
                seen.step()
            await deferLater(reactor, 0)
            if all(client.end for client in self.clients):
                return
            before, moved = moved, self._moved()
            quiet = quiet + 1 if moved == before else 0
            if quiet > QUIET:
                # Only a deadline, or the kernel, goes on from here.
                await deferLater(reactor, 0.001)
        left = [client.name for client in self.clients if not client.end]
        raise BreachError(f"seed {self.seed}: never ended: {left}")

    def _moved(self) -> int:
        """Changes with whatever has moved."""
        moved = sum(client.at + len(client.received) for client in self.clients)
        return moved + sum(len(seen.received) - len(seen.actions) for seen in self.seen)

    def _accept(self) -> None:
        for descriptor, _ in self._backlog.poll(0):
            listener = next(one for one in self.listeners if one.fileno() == descriptor)
            with contextlib.suppress(OSError):
                while True:
                    self.seen.append(Seen(self, listener.accept()[0]))

    def drain(self) -> None:
        """Read what the backends were sent last, and close."""
        self._accept()
        for seen in self.seen:
            if not seen.closed:
                seen.actions.clear()
                seen._read()
            if not seen.closed:
                seen._close("end")


def listeners(count: int) -> list[socket.socket]:
    """Sockets that listen on loopback."""
    made = []
    for _ in range(count):
        sock = socket.create_server(("127.0.0.1", 0), backlog=512)
        sock.setblocking(False)
        made.append(sock)
    return made
