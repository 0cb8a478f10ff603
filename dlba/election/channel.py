"""The channel: a connection to every other node of the array, and who is at its end.

An adapter; what messages say is not its business. Between two nodes there is one connection, which
the higher number dials (`dialer`), and the lower takes (`listener`); `connection` is what both make
of it. Here it is decided which connection is a node's: the certificate must name another node of
this array, hello must agree with it, and of two processes that say they are the same node the one
that was there stays as long as it answers. The same process may replace its connection.

Source: election.md "Hello", "Heartbeat and evidence of death" 1.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from cryptography import x509
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from dlba.addresses import Endpoint
from dlba.election.connection import END, Connection
from dlba.election.credentials import Credentials, Current, node_of
from dlba.election.dialer import Dialer
from dlba.election.hello import Hello, check
from dlba.election.listener import Listener
from dlba.election.messages import Message, pack
from dlba.election.notes import STRANGER, Notes
from dlba.election.peers import PeerAddress, peers_of
from dlba.errors import DLBAError, PeerError

__all__ = ["Channel", "ChannelEvents", "PeerAddress", "peers_of"]

#: Seconds in which the process that was there must answer when another one says it is the node.
CONTEST: Final = 1.0
#: Looks at all connections in a time-out, and seconds between two at most.
LOOKS: Final = 4
SLOWEST: Final = 0.25
#: Seconds that a look may be late before this process counts as having stood still.
LATE: Final = 0.02

_SYSTEM = secrets.SystemRandom()


class ChannelEvents(Protocol):
    """What the channel tells, always from the reactor, never out of a call of the channel's.

    A DLBAError that comes out of `up` or `message` is the peer's fault: it is cut off.
    """

    def up(self, number: int, hello: Hello) -> None:
        """There is a channel; again where the same process has replaced its connection."""

    def down(self, number: int, why: str) -> None:
        """The channel is gone. Not told where a connection was merely replaced."""

    def refused(self, number: int) -> None:
        """A fresh connection was refused: there is no process. Told again while it stays so."""

    def message(self, number: int, message: Message) -> None:
        """The node says something."""


class _Peer:
    """A peer's state: the connection that counts, and one that contests it."""

    def __init__(self, address: PeerAddress, dialer: Dialer) -> None:
        self.address = address
        self.dialer = dialer
        self.current: Connection | None = None
        self.contender: tuple[Connection, Hello] | None = None
        self.until = 0.0


class _Speakers(Factory):
    """Makes connections of `channel`."""

    noisy = False

    def __init__(self, channel: Channel, expects: str) -> None:
        self._channel = channel
        self._expects = expects

    def buildProtocol(self, addr: Any) -> Connection:
        """One connection's protocol."""
        return self._channel.speak(addr.host, self._expects)


class Channel(MultiService):
    """`hello`: what this node says of itself; may be replaced, for connections from then on.

    `credentials` may be replaced likewise. `listen`: where other nodes reach this one; `peers`: the
    other nodes; `events`: who is told; `timeout`: seconds after which a silent peer is cut off.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        hello: Hello,
        credentials: Credentials,
        listen: Endpoint,
        peers: Sequence[PeerAddress],
        events: ChannelEvents,
        timeout: float,
        jitter: Callable[[], float] = _SYSTEM.random,
    ) -> None:
        super().__init__()
        self.hello = hello
        self.credentials = credentials
        self._reactor = reactor
        self._listen = listen
        self._events = events
        self._timeout = timeout
        self._notes = Notes(reactor.seconds)
        self._peers: dict[int, _Peer] = {}
        for peer in peers:
            at = Endpoint(peer.host, peer.port)
            factory = self._tls(peer.name) if peer.number < hello.number else None
            refused = partial(self._refused, peer.number)
            self._peers[peer.number] = _Peer(peer, Dialer(reactor, at, factory, refused, jitter))
        self._numbers = {peer.name: peer.number for peer in peers}
        known = {peer.host for peer in peers}
        self._listener = Listener(self._tls(""), known, self._full)
        self._connections: set[Connection] = set()
        self._port: Any = None
        self._look: Any = None
        self._looked = 0.0
        self._stopped: Deferred[None] | None = None

    def _tls(self, expects: str) -> Any:
        """Of connections to the node `expects`, or from whoever comes."""
        current = Current(lambda: self.credentials)
        factory = TLSMemoryBIOFactory(current, bool(expects), _Speakers(self, expects))
        factory.noisy = False
        return factory

    def speak(self, address: str, expects: str) -> Connection:
        """A new connection's protocol."""
        connection = Connection(self, address, expects)
        self._connections.add(connection)
        if not expects:
            # A process that has just started tries whether those are there who dial it.
            for peer in self._peers.values():
                if peer.address.host == address and peer.current is None:
                    peer.dialer.soon()
        return connection

    # ---------------------------------------------------------------- life

    def privilegedStartService(self) -> None:
        """Bind the port. Raises DLBAError where that fails."""
        super().privilegedStartService()
        self._bind()

    def startService(self) -> None:
        """Reach for the other nodes; bind the port if nobody did."""
        self._bind()
        super().startService()
        self._stopped = None
        self._looked = self._reactor.seconds()
        self._wait()
        for peer in self._peers.values():
            peer.dialer.start()

    def stopService(self) -> Deferred[Any]:
        """Close all connections behind what has been sent; fires when they are gone."""
        super().stopService()
        if self._look is not None:
            self._look.cancel()
            self._look = None
        for peer in self._peers.values():
            peer.dialer.stop()
        unbound = maybeDeferred(self._unbind)
        stopped = self._stopped = Deferred()
        for connection in tuple(self._connections):
            if connection.hello is None:
                connection.cut("this node stops")
            else:
                connection.close("this node stops")
        end = self._reactor.callLater(END, self._cut_rest)
        stopped.addCallback(lambda _: end.cancel() if end.active() else None)
        self._finish()
        return gatherResults([stopped, unbound])

    def undo(self) -> None:
        """Give back what `privilegedStartService` took, where the start ends there."""
        self._unbind()

    def _bind(self) -> None:
        if self._port is None:
            host, port = self._listen.host, self._listen.port
            try:
                self._port = self._reactor.listenTCP(port, self._listener, interface=host)
            except CannotListenError as error:
                reason = getattr(error.socketError, "strerror", None) or error.socketError
                raise DLBAError(
                    f"channel: {self._listen}: expected a free port, got: {reason}"
                ) from None

    def _unbind(self) -> Deferred[None] | None:
        port, self._port = self._port, None
        return None if port is None else port.stopListening()

    def _cut_rest(self) -> None:
        for connection in tuple(self._connections):
            connection.abort()

    def _finish(self) -> None:
        if self._stopped is not None and not self._stopped.called and not self._connections:
            self._stopped.callback(None)

    # ---------------------------------------------------------------- what others use

    def send(self, number: int, message: Message) -> bool:
        """Send; False: there is no channel now, or too much of it is unanswered. Never raises."""
        peer = self._peers.get(number)
        if peer is None or peer.current is None or peer.current.over:
            return False
        return peer.current.send(*pack(message))

    def hurry(self, number: int) -> None:
        """The node's machine shows a sign of life: try now to reach it, if there is no channel."""
        peer = self._peers.get(number)
        if peer is not None and peer.current is None:
            peer.dialer.hurry()

    # ---------------------------------------------------------------- time

    def _wait(self) -> None:
        self._look = self._reactor.callLater(self._pause, self._check)

    @property
    def _pause(self) -> float:
        return min(self._timeout / LOOKS, SLOWEST)

    def _check(self) -> None:
        now = self.now()
        late = now - self._looked - self._pause
        self._looked = now
        self._wait()
        for peer in self._peers.values():
            if late > LATE:
                peer.until += late
            if peer.contender is not None and now >= peer.until and peer.current is not None:
                peer.current.cut(f"expected an answer within {CONTEST:g} s, got another process")
        for connection in tuple(self._connections):
            if late > LATE:
                connection.excuse(late)
            connection.check(now, self._timeout)

    # ---------------------------------------------------------------- what connections tell

    def now(self) -> float:
        """Seconds, monotonic."""
        seconds: float = self._reactor.seconds()
        return seconds

    def certified(self, connection: Connection, certificate: x509.Certificate | None) -> str:
        """The peer's name; see `connection.Owner`."""
        name = node_of(certificate, self.hello.array, self._numbers)
        if connection.expects and name != connection.expects:
            raise PeerError(f"certificate: expected that of {connection.expects}, got {name}'s")
        if not connection.expects and self._numbers[name] < self.hello.number:
            raise PeerError(f"number: expected a higher one than ours to dial, got {name}'s")
        return name

    def asked(self, connection: Connection, hello: Hello) -> None:
        """A node says hello. Decided in a turn of its own: `up` comes after the answer."""
        self._reactor.callLater(0, self._decide, connection, hello)

    def _decide(self, connection: Connection, hello: Hello) -> None:
        peer = self._peers[self._numbers[connection.name]]
        if connection.over:
            return
        why = check(self.hello, hello, connection.name, peer.address)
        current = peer.current
        if why:
            connection.refuse(why)
        elif current is None or self._same(current, hello):
            self._accept(peer, connection, hello)
        elif peer.contender is not None:
            connection.refuse("incarnation: expected one process, got a third")
        else:
            peer.contender = connection, hello
            peer.until = self.now() + CONTEST
            alive = current.ping()
            if alive is not None:
                alive.addCallbacks(lambda _: self._lives(peer, current), lambda _: None)

    def _same(self, current: Connection, hello: Hello) -> bool:
        return current.hello is not None and current.hello.incarnation == hello.incarnation

    def _lives(self, peer: _Peer, current: Connection) -> None:
        """The process that was there has answered."""
        if peer.contender is not None and peer.current is current and not current.over:
            self._refuse_contender(peer)

    def _refuse_contender(self, peer: _Peer) -> None:
        if peer.contender is not None:
            contender, _ = peer.contender
            peer.contender = None
            contender.refuse("incarnation: expected one process, got a second while one answers")

    def answered(self, connection: Connection, hello: Hello) -> None:
        """A node has let us in; the same must hold here."""
        peer = self._peers[self._numbers[connection.name]]
        why = check(self.hello, hello, connection.name, peer.address)
        if why:
            connection.cut(why)
        else:
            self._accept(peer, connection, hello)

    def _accept(self, peer: _Peer, connection: Connection, hello: Hello) -> None:
        former, peer.current = peer.current, connection
        if former is not None:
            former.cut("replaced by another connection of the same process")
        if peer.contender is not None and peer.contender[0] is not connection:
            self._refuse_contender(peer)
        self._free(connection)
        connection.accept(hello)
        peer.dialer.up()
        self._notes.say("up", connection.name, f"up, from {connection.address}")
        self._tell(connection, self._events.up, peer.address.number, hello)

    def message(self, connection: Connection, message: Message) -> None:
        """A node says something; see `connection.Owner`."""
        number = self._numbers[connection.name]
        if self._peers[number].current is connection:
            self._tell(connection, self._events.message, number, message)

    def lost(self, connection: Connection, why: str) -> None:
        """A connection is gone; see `connection.Owner`."""
        self._connections.discard(connection)
        self._free(connection)
        if self._stopped is not None:
            self._finish()
            return
        name = connection.name or connection.expects
        if not name:
            if why:
                self._notes.say("refused", STRANGER, f"{connection.address}: {why}")
            return
        peer = self._peers[self._numbers[name]]
        contender = peer.contender
        if contender is not None and contender[0] is connection:
            peer.contender = contender = None
        if peer.current is connection:
            peer.current = None
            self._notes.say("down", name, f"down: {why}")
            peer.dialer.down()
            self._tell(None, self._events.down, peer.address.number, why)
            if contender is not None:
                peer.contender = None
                self._reactor.callLater(0, self._decide, *contender)
        else:
            if why:
                self._notes.say("refused", name, why)
            if connection.expects and peer.current is None:
                peer.dialer.down()

    # ---------------------------------------------------------------- the rest

    def _free(self, connection: Connection) -> None:
        if not connection.expects and connection.hello is None:
            self._listener.free(connection.address)

    def _full(self) -> None:
        self._notes.say("full", STRANGER, "turned away: too many without hello")

    def _refused(self, number: int) -> None:
        self._tell(None, self._events.refused, number)

    def _tell(self, connection: Connection | None, event: Callable[..., None], *what: Any) -> None:
        try:
            event(*what)
        except Exception as error:  # noqa: BLE001 - whatever a message brings about, the node goes on
            if not isinstance(error, DLBAError):
                self._log.failure("channel: {event}", Failure(), event=event.__name__)
            if connection is not None:
                connection.cut(str(error) if isinstance(error, DLBAError) else "internal error")
