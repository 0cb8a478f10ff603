"""The perspective broker, cut down to what nodes say to each other.

An adapter over `twisted.spread`. Three methods with byte strings as arguments and a byte string or
None as answer: whatever else a peer sends raises PeerError before jelly sees it, and so does an
expression larger or deeper than ours get. Not even an error travels: a refusal is an answer.

| method | arguments | answer |
|---|---|---|
| hello | hello | hello or refusal, see `hello` |
| take | kind, fields, data, see `messages` | None, at once: it is the flow control |
| ping | | None, at once |

Source: election.md. What the broker would take is more: 4 MB of nested lists keep it busy for
minutes, classes and references go to jelly, and messages of exceptions go to the peer.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.spread import pb

from dlba.election.messages import DATA_LIMIT, HEAD_LIMIT
from dlba.errors import PeerError

__all__ = ["Line", "LineEvents"]

#: Bytes of one expression: those of the largest message, and what is around them.
EXPRESSION_LIMIT: Final = DATA_LIMIT + HEAD_LIMIT + 4096
#: Lists within lists: a message's arguments are the second.
DEPTH_LIMIT: Final = 4
#: Method → number of arguments.
_METHODS: Final = {b"hello": 1, b"take": 3, b"ping": 0}


class LineEvents(Protocol):
    """What happens on a line. Errors that may be raised: none, but PeerError by `asked`."""

    def ready(self) -> None:
        """Both ends have agreed to speak broker."""

    def asked(self, hello: bytes) -> Deferred[bytes]:
        """The peer says hello; the Deferred gives the answer."""

    def taken(self, kind: bytes, head: bytes, data: bytes) -> None:
        """A message has come."""


class _Root(pb.Root):
    """What the peer can call; never raises, as the broker would tell the peer."""

    def __init__(self, events: LineEvents) -> None:
        self.remote_hello = events.asked
        self.remote_take = events.taken

    def remote_ping(self) -> None:
        """Answer."""


class _Ready:
    """The factory that the broker asks for."""

    unsafeTracebacks = False

    def __init__(self, events: LineEvents) -> None:
        self._events = events

    def clientConnectionMade(self, broker: pb.Broker) -> None:
        """The broker calls this on either side, when the dialect is agreed."""
        self._events.ready()


class Line(pb.Broker):
    """One connection's broker. `dials`: this side has opened the connection."""

    knownDialects = [b"pb"]  # noqa: RUF012 - so it is in Banana

    def __init__(self, events: LineEvents, dials: bool) -> None:
        super().__init__(isClient=int(dials))
        self.factory: Any = _Ready(events)
        self.setNameForLocal("root", _Root(events))
        self._far = self.remoteForName("root")
        #: Bytes of the expression that is being received.
        self.pending = 0

    def call(self, method: str, *arguments: bytes) -> Deferred[Any]:
        """Call a method of the peer's; raises pb.DeadReferenceError after the end."""
        called: Deferred[Any] = self._far.callRemote(method, *arguments)
        return called

    def dataReceived(self, chunk: bytes) -> None:
        """Raises PeerError, or anything else that the broker stumbles with."""
        self.pending += len(chunk)
        super().dataReceived(chunk)
        if self.pending > EXPRESSION_LIMIT or len(self.listStack) > DEPTH_LIMIT:
            raise PeerError("broker: expected a message, got more than one can have")

    def callExpressionReceived(self, obj: Any) -> None:
        """Between two expressions."""
        self.pending = len(self.buffer)
        super().callExpressionReceived(obj)

    def expressionReceived(self, sexp: Any) -> None:
        """Let pass what this module's table has."""
        waiting: Any = self.waitingForAnswers
        match sexp:
            case [b"message", int(), b"root", bytes(name), 1, [b"tuple", *given], [b"dictionary"]]:
                fine = _METHODS.get(name) == len(given) and all(type(x) is bytes for x in given)
            case [b"answer", int(number), bytes() | [b"None"]]:
                fine = number in waiting
            case [b"version", int()]:
                fine = True
            case _:
                fine = False
        if not fine:
            raise PeerError("broker: expected one of its messages, got something else")
        super().expressionReceived(sexp)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Ends the calls that wait. One that isn't connected has none."""
        if not self.disconnected:
            super().connectionLost(reason)
