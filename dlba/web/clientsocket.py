"""Moves bytes between one client's stream and the HTTP front that speaks for it.

Shakes hands, reads in turns, pauses, and writes what the client hasn't taken yet. The ways to end
are in `dlba.web.ending`. Knows nothing of HTTP; the front (`dlba.web.http1`, and `dlba.web.tunnel`
once protocols were switched) gets the events of `dlba.web.front.ClientFront`.

Source: web.md rules 8 and 10.
"""

from __future__ import annotations

import _socket
import contextlib
import select
import time
from typing import TYPE_CHECKING, Final

from dlba.poller import READ, WRITE
from dlba.web.ending import ENDING, HANDSHAKE, OPEN, Ending
from dlba.web.forward import forwarded_fields, host_value
from dlba.web.stream import PlainHTTPError, untaken

if TYPE_CHECKING:
    from dlba.web.front import ClientFront
    from dlba.web.proxy import Proxy
    from dlba.web.stream import Stream

__all__ = ["ClientSocket"]

#: Bytes read in one callback; the rest waits for the next turn, so that nobody starves.
READ_BUDGET: Final = 256 * 1024
#: What a new connection's first request has to come in when the node stops.
STOP_GRACE: Final = 1.0
#: The peer is gone in both directions, or the connection is in error.
_GONE: Final = select.EPOLLHUP | select.EPOLLERR


class ClientSocket(Ending):
    """One client's connection: see `Ending`, and `dlba.web.front.ClientSide`."""

    __slots__ = (
        "_again",
        "_given_way",
        "_queued",
        "_sock",
        "forwarded",
        "host",
        "local_port",
        "port",
        "redirect_port",
        "starved",
        "tls",
        "trusted",
    )

    def __init__(
        self,
        proxy: Proxy,
        sock: _socket.socket,
        stream: Stream,
        peer: tuple[str, int],
        local_port: int,
        redirect_port: int = 0,
    ) -> None:
        """`peer`: the client's address and port; `local_port`: the listener's.

        `redirect_port`: the HTTPS port to which its clients are sent; 0: they are served.
        """
        super().__init__(proxy, stream, sock.fileno())
        self._sock = sock
        self.host, self.port = peer
        self.local_port = local_port
        self.redirect_port = redirect_port
        #: It is a proxy whose forwarding fields count.
        self.trusted = proxy.forwarding.trusts(self.host)
        self.tls = stream.tls
        self.forwarded = forwarded_fields(self.host, self.tls)
        #: Bytes in the kernel when a deadline passed since the backlog last moved; -1: none did.
        self._queued = -1
        #: Waits for memory before it reads on.
        self.starved = False
        self._again = False
        self._given_way = False

    def start(self, front: ClientFront) -> None:
        """Begin: register with the poller, shake hands."""
        self._front = front
        proxy = self._proxy
        proxy.poller.add(self._fd, READ, self)
        if self.tls:
            self.deadline = time.monotonic() + proxy.timeouts.handshake
            proxy.deadlines.watch(self)
        else:
            self._open()

    @property
    def read_size(self) -> int:
        """How much may come with one read."""
        return self._stream.read_size

    def own_host(self) -> bytes:
        """The address that the client connected to, as a Host value."""
        host, port = self._sock.getsockname()[:2]
        return host_value(host, port)

    def _open(self) -> None:
        self._state = OPEN
        head = STOP_GRACE if self._proxy.stopping else self._proxy.timeouts.head
        self.deadline = time.monotonic() + head
        self._proxy.deadlines.watch(self)
        self._front.opened()

    # Events

    def on_event(self, mask: int) -> None:
        """The poller: something may be possible now."""
        state = self._state
        if state == OPEN:
            if self._write_failed or (
                mask & _GONE
                and (self.starved or not self._reading)
                and self._proxy.poller.gone(self._fd)
            ):
                self._lose()
                return
            if self._parts:
                self._flush()
            if self._again:
                self._again = False
                self._front.advance()
            wants_write = self._stream.wants_write
            if self._reading and self._state == OPEN and (mask != WRITE or wants_write):
                self._read()
            if wants_write and self._state == OPEN:
                # The read that waited for room has been tried again.
                if not self._parts and not self._stream.wants_write:
                    self._want(self._mask & ~WRITE)
        elif state == HANDSHAKE:
            self._shake_hands()
        elif state == ENDING:
            self._discard()

    def _read(self) -> None:
        stream = self._stream
        size = stream.read_size
        budget = READ_BUDGET
        self._given_way = False
        memory = self._proxy.memory
        while budget > 0:
            if memory.full:
                if self._blocks:
                    self._starve()
                    return
                size = stream.small_read
            try:
                data = stream.read(size)
            except OSError:
                self._lose()
                return
            if data is None:
                if stream.wants_write:
                    self._want(self._mask | WRITE)
                return
            if not data:
                self._reading = False
                self._want(self._mask & ~READ)
                self._front.eof()
                return
            self._front.received(data)
            if len(data) < size or not self._reading or self._state != OPEN:
                return
            budget = 0 if self._given_way else budget - size

    def give_way(self) -> None:
        """What was read took long: whatever else there is comes in the next turn."""
        self._given_way = True

    def _starve(self) -> None:
        """Read nothing until there is memory again; the deadlines go on."""
        self._want(self._mask & ~READ)
        self.starved = True
        self._proxy.memory.wait(self)
        self._front.squeeze()

    def resume_memory(self) -> None:
        """There is memory again: see `dlba.web.memory`."""
        self.starved = False
        if self._reading and self._state == OPEN:
            self._want(self._mask | READ)

    def hand_over(self, front: ClientFront) -> None:
        """Another front speaks with the client from now on."""
        self._front = front
        self.hold(0)

    def _shake_hands(self) -> None:
        counters = self._proxy.counters
        stream = self._stream
        try:
            done = stream.handshake()
        except OSError as error:
            if stream.flooded:
                # Which counts as that alone.
                self._lose()
                return
            counters.handshakes_failed += 1
            if isinstance(error, PlainHTTPError):
                self._answer_in_plain()
            # Where there was something to say, an alert says why: a reset could destroy it.
            self._then = "linger"
            self.closed = True
            self._finish()
            return
        if done:
            counters.handshakes += 1
            if stream.resumed:
                counters.handshakes_resumed += 1
            self._want(READ)
            self._open()
            # The request often comes in the same packet as the end of the handshake.
            self._read()
        else:
            self._want(READ | WRITE if stream.wants_write else READ)

    def _answer_in_plain(self) -> None:
        """The client speaks HTTP on a TLS port: say so, in its words."""
        with contextlib.suppress(OSError):
            self._sock.send(self._front.in_plain())

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        if self.backlog and self._state == OPEN and self._is_taking():
            self.limit(self._proxy.timeouts.write)
            return
        if self._serves():
            if self._reading and not self.backlog:
                # We may be late: what has come in time counts.
                self._read()
            if self._serves() and self.deadline <= now:
                self._front.expire(now)
            return
        if self._state == HANDSHAKE:
            self._proxy.counters.handshakes_failed += 1
        if self._state == ENDING:
            self._end(self._stream.close)
        else:
            self.reset()

    def _is_taking(self) -> bool:
        """Whether the client takes bytes from the kernel, though too few to make room for more.

        The poller tells of room only when a third of the kernel's buffer is free, which a slow
        client may need minutes for. Asked twice, so a client that takes nothing is cut after up to
        twice the time.
        """
        queued = untaken(self._fd)
        before, self._queued = self._queued, queued
        return before < 0 or queued < before

    def shed(self) -> None:
        """See `Keeping`."""
        self._proxy.counters.clients_shed += 1
        self._lose()

    def squeeze(self) -> None:
        """Memory is full: keep as little as possible."""
        self._front.squeeze()

    # Reading

    def resume(self) -> None:
        """Read again; what is there already comes in the next turn."""
        if not self._reading and self._state == OPEN and self._then is None:
            self._reading = True
            if not self.starved:
                self._want(self._mask | READ)

    def call_again(self) -> None:
        """Call `front.advance()` in the next turn, after everybody else."""
        self._again = True
        self._proxy.poller.later(self)

    # Writing

    def write(self, data: bytes) -> None:
        """Send `data` (not empty), as much as goes now; the rest is the backlog."""
        if self.backlog:
            self._keep(data)
            return
        if self._write_failed or self._state != OPEN:
            return
        try:
            taken = self._stream.write(data)
        except OSError:
            # Told in the next turn: whoever writes is in the middle of something.
            self._write_failed = True
            self._proxy.poller.later(self)
            return
        if taken < len(data):
            self._keep_rest(data, taken)
            self._queued = -1
            self._want(self._mask | (READ if self._stream.wants_read else WRITE))

    def _flush(self) -> None:
        parts = self._parts
        write = self._stream.write
        before = self.backlog
        while parts:
            part = parts[0]
            try:
                taken = write(part)
            except OSError:
                self._lose()
                return
            self._took(taken)
            if taken < len(part):
                break
        self._count()
        if not parts:
            if self._then is not None:
                self._want(self._mask & ~WRITE)
                self._finish()
                return
            # More may be written at once: then the poller needn't be told twice.
            self._front.drained()
            if not parts and self._state == OPEN:
                self._want(self._mask & ~WRITE)
            return
        if self._stream.wants_read:
            self._want(self._mask & ~WRITE | READ)
        else:
            self._want(self._mask | WRITE)
        if self.backlog < before:
            self._queued = -1
            if self._then is not None:
                self.deadline = time.monotonic() + self._proxy.timeouts.write
            else:
                self._front.progress()

    # Ending

    def stop(self) -> None:
        """The node stops: end now if nothing is under way, else after the present request."""
        if self._serves():
            if self._reading:
                # What has come already is served.
                self._read()
            if self._serves():
                self._front.stop()
        elif self._state == HANDSHAKE:
            self.limit(STOP_GRACE)

    def _gone(self) -> None:
        if self.starved:
            self._proxy.memory.forget(self)
        self._proxy.on_client_gone(self)
