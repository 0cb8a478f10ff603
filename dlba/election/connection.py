"""One connection to another node: TLS, then the certificate, then hello, then messages.

An adapter. It stands between TLS and the broker, so nobody speaks broker before his certificate
has been looked at. Whatever the peer does ends in `cut`, never in an exception in the reactor. It
has no timer of its own: its owner calls `check` a few times a second, and `excuse` after a time in
which this process itself stood still, so that no peer pays for that.

A peer is heard while it answers calls, or while one large expression of its comes in. A call that
waits while nothing is heard for the channel's time-out means that the peer is stopped or the
connection half open; so does a peer that takes none of our answers.

Source: election.md "Hello", "Time"; facts: half-open peers are never noticed by the broker itself.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

from cryptography import x509
from OpenSSL import SSL
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.spread import pb
from zope.interface import implementer

from dlba.election.credentials import unverified
from dlba.election.hello import Hello, pack, pack_refusal, unpack, unpack_answer
from dlba.election.line import Line
from dlba.election.messages import DATA_LIMIT, HEAD_LIMIT, Message
from dlba.election.messages import unpack as unpack_message
from dlba.errors import PeerError

__all__ = ["CALLS_LIMIT", "START", "Connection", "Owner"]

#: Seconds from the connection to the end of hello.
START: Final = 5.0
#: Seconds for the last bytes of a connection that is closed in order.
END: Final = 1.0
#: Calls without an answer, and bytes in them, beyond which nothing more is sent.
CALLS_LIMIT: Final = 512
BYTES_LIMIT: Final = 4 * 1024 * 1024


class Owner(Protocol):
    """What a connection asks and tells; `name`: the peer's, from its certificate."""

    @property
    def hello(self) -> Hello:
        """What this node says of itself."""

    def now(self) -> float:
        """Seconds, monotonic."""

    def certified(self, connection: Connection, certificate: x509.Certificate | None) -> str:
        """Who the peer is; raises PeerError where it is nobody who may connect."""

    def asked(self, connection: Connection, hello: Hello) -> None:
        """The peer wants in: `accept` or `refuse` follows, now or later."""

    def answered(self, connection: Connection, hello: Hello) -> None:
        """The peer lets us in; `accept` or `cut` follows."""

    def message(self, connection: Connection, message: Message) -> None:
        """A message has come; raises nothing."""

    def lost(self, connection: Connection, why: str) -> None:
        """The connection is gone; `why` is empty where it ended without a word and a fault."""


@implementer(IHandshakeListener, IPushProducer)
class Connection(TwistedProtocol):
    """`address`: the peer's IP literal. `expects`: the node that was dialled, else empty."""

    def __init__(self, owner: Owner, address: str, expects: str) -> None:
        self.address = address
        self.expects = expects
        #: The peer's name, once its certificate has been taken.
        self.name = ""
        #: The peer's, once both sides have accepted.
        self.hello: Hello | None = None
        #: Why it ends; empty while it doesn't.
        self.over = ""
        self._owner = owner
        self._deadline = owner.now() + START
        self._line: Line | None = None
        self._answer: Deferred[bytes] | None = None
        #: Time and bytes of each call that waits, the oldest first.
        self._calls: deque[tuple[float, int]] = deque()
        self._bytes = 0
        self._heard = 0.0
        self._blocked: float | None = None

    # ---------------------------------------------------------------- what Twisted tells

    def connectionMade(self) -> None:
        """TCP is there; TLS begins."""
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)

    def handshakeCompleted(self) -> None:
        """TLS is there: look at the certificate, and let the broker begin."""
        transport: Any = self.transport
        certificate = transport.getHandle().get_peer_certificate(as_cryptography=True)
        try:
            self.name = self._owner.certified(self, certificate)
        except PeerError as fault:
            self.cut(str(fault))
            return
        self._line = Line(self, bool(self.expects))
        self._line.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        """Decrypted bytes, at most 32 KiB."""
        line = self._line
        if line is None or self.over:
            return
        try:
            line.dataReceived(data)
        except PeerError as fault:
            self.cut(str(fault))
        except Exception as fault:  # noqa: BLE001 - what the broker stumbles over, the peer has sent
            self.cut(f"broker: expected its protocol, got what gives {type(fault).__name__}")
        else:
            if line.pending > len(data):
                self._heard = self._owner.now()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end, whoever brought it about."""
        if self._line is not None:
            self._line.connectionLost(reason)
        why = self.over
        if not why and not self.name:
            why = unverified(self.transport.getHandle())  # type: ignore[union-attr]
        if not why and not reason.check(error.ConnectionDone, error.ConnectionLost):
            why = _words(reason)
        if not why and self.name:
            why = "the peer has closed it"
        self.over = self.over or why or "closed"
        self._owner.lost(self, why)

    def pauseProducing(self) -> None:
        """The peer doesn't take what we send, for now."""
        self._blocked = self._owner.now()

    def resumeProducing(self) -> None:
        """It does again."""
        self._blocked = None

    def stopProducing(self) -> None:
        """The connection ends."""
        self._blocked = None

    # ---------------------------------------------------------------- hello

    def ready(self) -> None:
        """The broker is there: whoever dials says hello."""
        if self.expects and self._line is not None:
            called = self._line.call("hello", pack(self._owner.hello))
            called.addCallbacks(self._answered, _ended)

    def asked(self, hello: bytes) -> Deferred[bytes]:
        """The peer says hello."""
        answer: Deferred[bytes] = Deferred()
        if self.over:
            return answer
        try:
            if self.expects or self._answer is not None:
                raise PeerError("hello: expected it once, from the side that dials, got it again")
            self._answer = answer
            self._owner.asked(self, unpack(hello))
        except PeerError as fault:
            self.cut(str(fault))
        return answer

    def _answered(self, answer: bytes | None) -> None:
        if self.over:
            return
        try:
            hello = unpack_answer(answer or b"")
        except PeerError as fault:
            self.cut(str(fault))
            return
        if isinstance(hello, str):
            self.cut(f"the peer refuses this node: {hello}")
        else:
            self._owner.answered(self, hello)

    def accept(self, hello: Hello) -> None:
        """Let the peer in; from here on messages may be sent."""
        self.hello = hello
        self._heard = self._owner.now()
        if self._answer is not None:
            self._answer.callback(pack(self._owner.hello))

    def refuse(self, why: str) -> None:
        """Tell the peer why it isn't let in, and close."""
        if self._answer is not None and not self.over:
            self._answer.callback(pack_refusal(why))
        self.close(f"refused: {why}")

    # ---------------------------------------------------------------- messages

    def send(self, kind: str, head: bytes, data: bytes) -> bool:
        """Send a packed message; False where it can't be sent now."""
        size = len(head) + len(data)
        if self.over or self.hello is None or len(head) > HEAD_LIMIT or len(data) > DATA_LIMIT:
            return False
        if len(self._calls) >= CALLS_LIMIT or self._bytes + size > BYTES_LIMIT:
            return False
        return self._call(size, "take", kind.encode("ascii"), head, data) is not None

    def ping(self) -> Deferred[None] | None:
        """Ask for a sign of life; the Deferred fires if one comes. None: there is no connection."""
        return None if self.over else self._call(0, "ping")

    def _call(self, size: int, method: str, *arguments: bytes) -> Deferred[None] | None:
        assert self._line is not None
        try:
            called = self._line.call(method, *arguments)
        except pb.DeadReferenceError:
            return None
        self._calls.append((self._owner.now(), size))
        self._bytes += size
        called.addCallbacks(self._taken, _ended)
        return called

    def _taken(self, _: object) -> None:
        self._heard = self._owner.now()
        self._bytes -= self._calls.popleft()[1]

    def taken(self, kind: bytes, head: bytes, data: bytes) -> None:
        """The peer sends a message."""
        if self.over:
            return
        if self.hello is None:
            self.cut("message: expected hello first, got a message")
            return
        try:
            message = unpack_message(kind.decode("ascii", "replace"), head, data)
        except PeerError as fault:
            self.cut(str(fault))
        else:
            self._owner.message(self, message)

    # ---------------------------------------------------------------- time and end

    def check(self, now: float, timeout: float) -> None:
        """Cut it off where it takes too long; `timeout`: seconds without a sign of life."""
        if self.over:
            if now >= self._deadline:
                self.abort()
        elif self.hello is None:
            if now >= self._deadline:
                at = "TLS" if not self.name else "hello"
                self.cut(f"{at}: expected it within {START:g} s, got none")
        else:
            since = self._calls[0][0] if self._calls else self._blocked
            if since is not None and now - max(since, self._heard) > timeout:
                self.cut(f"expected an answer within {timeout:g} s, got none")

    def excuse(self, seconds: float) -> None:
        """This process stood still for `seconds`, in which nobody could have been heard."""
        self._deadline += seconds
        self._heard += seconds
        self._calls = deque((at + seconds, size) for at, size in self._calls)
        if self._blocked is not None:
            self._blocked += seconds

    def cut(self, why: str) -> None:
        """End it at once; `lost` follows later."""
        if not self.over:
            self.over = why
            self._deadline = self._owner.now() + END
            self.abort()

    def close(self, why: str) -> None:
        """End it behind what has been sent; `lost` follows later."""
        if not self.over:
            self.over = why
            self._deadline = self._owner.now() + END
            transport: Any = self.transport
            transport.unregisterProducer()
            transport.loseConnection()

    def abort(self) -> None:
        """End it without another word, whatever it is at."""
        transport: Any = self.transport
        transport.abortConnection()


def _ended(_: Failure) -> None:
    """A call whose connection ended before the answer: `lost` tells."""


def _words(reason: Failure) -> str:
    """Why a connection was lost; OpenSSL's reasons are a list of three words each."""
    fault = reason.value
    if not isinstance(fault, SSL.Error):
        return reason.getErrorMessage()
    reasons = fault.args[0] if fault.args else ()
    return f"TLS: {reasons[-1][-1]}" if reasons else "TLS: broken off"
