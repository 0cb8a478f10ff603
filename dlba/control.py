"""Carries commands to a node over a unix socket: one JSON object a line in, one a line out.

    {"command": "where", "address": "192.0.2.7", "port": 40000}
    {"ok": true, "bucket": 17, …}      or      {"ok": false, "error": "where: port: expected …"}

What a command does comes as a callable; `dlba.where` has the other end. Who may ask is decided by
the file alone: its mode is 0600 from its first moment, and its folder is private to the node. Who
it is, the kernel says, for the log of a command that changes something. Still nobody gets more than
his share: a line may have LINE_LIMIT bytes and must come whole within TIME_OUT, CONNECTIONS may be
open at once, and each gets one answer a turn of the reactor and none while it doesn't read them, so
that a frame or a request of a client waits for one command at most.

After a line that is no request the stream goes on; after one that doesn't end it can't, so the
connection is closed behind the error.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, IReadDescriptor
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dlba.addresses import ip_literal
from dlba.config.problems import quoted
from dlba.errors import DLBAError
from dlba.socketname import socket_name

__all__ = ["Commands", "ControlService", "answer", "flow_of"]

LINE_LIMIT: Final = 64 * 1024
"""Bytes of a request without its line feed."""

TIME_OUT: Final = 10.0
"""Seconds for a request to come whole, and for the answers to be taken."""

CONNECTIONS: Final = 16
"""Open at once: descriptors belong to the data path."""

PAUSE: Final = 1.0
"""Seconds without accepting after the system had no descriptor for a connection."""

Commands = Mapping[str, Callable[[dict[str, Any], str], Mapping[str, Any]]]
"""Name → what answers: takes the request and who asks, in words for the log; gives what JSON can
carry. What is wrong with a request it raises as DLBAError, without the command's name."""

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""

_log = Logger()


# Requests


def answer(line: bytes, commands: Commands, peer: str = "somebody") -> bytes:
    """The line that answers `line`, both without line feed; never raises. `peer`: who asks."""
    try:
        request = json.loads(line.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        return _error("control", "expected a JSON object, got something else")
    if not isinstance(request, dict):
        return _error("control", "expected a JSON object, got another value")
    name = request.get("command")
    if not isinstance(name, str) or name not in commands:
        got = quoted(name) if isinstance(name, str) else "no text"
        known = ", ".join(sorted(commands))
        return _error("control", f"command: expected one of {known}, got {got}")
    try:
        return _line({"ok": True, **commands[name](request, peer)})
    except DLBAError as error:
        return _error(name, str(error))
    except Exception:  # noqa: BLE001 - whatever is wrong with a command, the node goes on
        _log.failure("control: {name}", Failure(), name=name)
        return _error(name, "internal error, see the node's log")


def flow_of(request: Mapping[str, Any]) -> tuple[int, int]:
    """The flow key in a request: `address`, an IPv4 address, as a number, and `port`.

    Raises DLBAError for anything else.
    """
    address, port = request.get("address"), request.get("port")
    literal = ip_literal(address) if isinstance(address, str) else None
    if literal is None or ":" in literal:
        got = quoted(address) if isinstance(address, str) else "no text"
        raise DLBAError(f"address: expected an IPv4 address, got {got}")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise DLBAError("port: expected a number from 0 to 65535, got something else")
    return int(IPv4Address(literal)), port


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _error(where: str, text: str) -> bytes:
    return _line({"ok": False, "error": f"{where}: {text}"})


# Connections


@implementer(IHalfCloseableProtocol, IPushProducer)
class _Connection(Protocol):
    """One peer. It is in `peers` while it is open, closing ones included."""

    transport: Any

    def __init__(self, reactor: Any, commands: Commands, peers: set[_Connection]) -> None:
        self._reactor = reactor
        self._commands = commands
        self._peers = peers
        self._buffer = bytearray()
        self._ended = False  # the peer has sent its last byte
        self._full = False  # the peer doesn't take its answers
        self._closing = False
        self._peer = "somebody"
        self._turn: Any = None
        self._deadline: Any = None

    def connectionMade(self) -> None:
        self._peers.add(self)
        self._peer = _peer(self.transport)
        self._deadline = self._reactor.callLater(TIME_OUT, self._late)
        self.transport.registerProducer(self, True)
        if len(self._peers) > CONNECTIONS:
            self._refuse(f"expected at most {CONNECTIONS} connections, got more")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._peers.discard(self)
        for call in (self._deadline, self._turn):
            if call is not None and call.active():
                call.cancel()

    def dataReceived(self, data: bytes) -> None:
        if not self._closing:
            self._buffer += data
            self._wake()

    def readConnectionLost(self) -> None:
        """The peer has sent all it will; what it asked is still answered."""
        self._ended = True
        if not self._closing:
            self._wake()

    def writeConnectionLost(self) -> None:
        """Nothing to do: only the end of the connection ends it."""

    def pauseProducing(self) -> None:
        self._full = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._full = False
        self._wake()

    def stopProducing(self) -> None:
        """Nothing to do: connectionLost comes."""

    def _wake(self) -> None:
        if self._turn is None and not self._full:
            self._next()

    def _next(self) -> None:
        """Answer one line, or see why there is none."""
        self._turn = None
        if self._closing or self._full:
            return
        end = self._buffer.find(b"\n", 0, LINE_LIMIT + 1)
        if end >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._deadline.reset(TIME_OUT)
            # Meanwhile no more is read than what one read may have brought.
            self.transport.pauseProducing()
            self._turn = self._reactor.callLater(0, self._next)
            self.transport.write(answer(line, self._commands, self._peer) + b"\n")
        elif len(self._buffer) > LINE_LIMIT:
            self._refuse(f"expected a line of at most {LINE_LIMIT} bytes, got a longer one")
        elif not self._ended:
            self.transport.resumeProducing()
        elif self._buffer:
            self._refuse("expected a line, got one without its end")
        else:
            self._close()

    def _late(self) -> None:
        if self._closing or self._full:
            self.transport.abortConnection()
        else:
            self._refuse(f"expected a line within {TIME_OUT:.0f} s, got none")

    def _refuse(self, text: str) -> None:
        self.transport.write(_error("control", text) + b"\n")
        self._close()

    def _close(self) -> None:
        """Close when what was written is gone, or after TIME_OUT."""
        self._closing = True
        if self._deadline.active():
            self._deadline.cancel()
        self._deadline = self._reactor.callLater(TIME_OUT, self._late)
        self.transport.unregisterProducer()
        self.transport.loseConnection()


def _peer(transport: Any) -> str:
    """Who connected, as the kernel saw it then."""
    try:
        option = socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        pid, uid, _ = _CREDENTIALS.unpack(transport.getHandle().getsockopt(*option))
    except (AttributeError, OSError):
        return "somebody"
    return f"uid {uid}, pid {pid}"


@implementer(IReadDescriptor)
class _Listener:
    """Accepts connections. Twisted's own port would remove whatever file has the socket's name."""

    def __init__(self, reactor: Any, listening: socket.socket, factory: Any) -> None:
        self._reactor = reactor
        self._socket = listening
        self._factory = factory
        self._pause: Any = None
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "control"

    def connectionLost(self, reason: Failure) -> None:
        """Nothing to do: `close` ends it."""

    def doRead(self) -> None:
        """Accept one."""
        try:
            peer, _ = self._socket.accept()
            with peer:
                peer.setblocking(False)
                self._reactor.adoptStreamConnection(peer.fileno(), socket.AF_UNIX, self._factory)
        except (BlockingIOError, ConnectionError):
            return  # gone again
        except OSError as error:
            # The peer waits in the queue: without a pause the reactor would do nothing else.
            _log.warn("control: can't accept a connection: {error}", error=error)
            self._reactor.removeReader(self)
            self._pause = self._reactor.callLater(PAUSE, self._reactor.addReader, self)

    def close(self) -> None:
        if self._pause is not None and self._pause.active():
            self._pause.cancel()
        self._reactor.removeReader(self)
        self._socket.close()


# The file


def _bind(path: Path) -> socket.socket:
    """A listening socket at `path`; raises DLBAError. Nobody else may start in this folder now."""
    listening = None
    try:
        with socket_name(path) as name:
            _remove_stale(path, name)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            mask = os.umask(0o177)
            try:
                listening.bind(name)
            finally:
                os.umask(mask)
        listening.listen(CONNECTIONS)
    except OSError as error:
        if listening is not None:
            listening.close()
        got = error.strerror or error
        raise DLBAError(f"{path}: expected a place for a socket, got: {got}") from None
    return listening


def _remove_stale(path: Path, name: str) -> None:
    """Remove the socket of a process that died; raises DLBAError for anything else there."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise DLBAError(f"{path}: expected a socket or nothing, got another file")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        code = probe.connect_ex(name)
    if code in (0, errno.EAGAIN):  # the latter: its queue is full
        raise DLBAError(
            f"{path}: expected a state folder of its own, got one with which another process runs"
        )
    if code != errno.ECONNREFUSED:
        raise OSError(code, os.strerror(code))
    os.unlink(path)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells the file at `path` from every other; None if there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class ControlService(Service):
    """Listens at `path` while it runs; a socket that a killed node left there is replaced.

    The folder must be there, private, and held by this process alone (`dlba.state`). The socket is
    made in `privilegedStartService`, or in `startService` where that wasn't called: DLBAError comes
    out of there and should stop the start. `reactor`: IReactorSocket, IReactorTime, IReactorFDSet.
    """

    def __init__(self, reactor: Any, path: Path, commands: Commands) -> None:
        self._reactor = reactor
        self._path = path
        self._peers: set[_Connection] = set()
        self._factory = Factory.forProtocol(lambda: _Connection(reactor, commands, self._peers))
        self._listener: _Listener | None = None
        self._ours: tuple[int, int] | None = None

    def privilegedStartService(self) -> None:
        """Make the socket; raise DLBAError where that fails."""
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        """Start; make the socket if nobody did."""
        self._listen()
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Remove the socket, unless another took its name, and cut off who is connected."""
        super().stopService()
        self.undo()
        for peer in list(self._peers):
            peer.transport.abortConnection()
        # By then the aborted ones are gone.
        return deferLater(self._reactor, 0)

    def undo(self) -> None:
        """The start of another part failed: as `stopService`, with nobody connected yet."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # While the socket is open, no other file gets its inode.
            if self._ours is not None and _identity(self._path) == self._ours:
                with suppress(OSError):
                    os.unlink(self._path)
            listener.close()

    def _listen(self) -> None:
        if self._listener is None:
            listening = _bind(self._path)
            self._ours = _identity(self._path)
            self._listener = _Listener(self._reactor, listening, self._factory)
