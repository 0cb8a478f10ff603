"""Answers as a demo web server: pages that name it, echoes, streams, delays and sessions.

Runs in the demo, in the lab, alone (`dlba backend`) and in tests. Nothing here knows the proxy.
twisted.web parses; a request's body is hashed as it arrives and never kept, a long response is
produced as the client takes it, so that memory stays constant whatever the size.

==================  ============================================================================
path                answer
==================  ============================================================================
/echo               the request as JSON: method, target, version, headers as they came (order and
                    case), body_length, body_sha256
/bytes/N            N bytes with Content-Length; byte i is i modulo 251
/chunked/N          the same bytes chunked; until close for an HTTP/1.0 client
/until-close/N      the same bytes, ended by closing
/slow/S             the page after S seconds
/session            the page with `JSESSIONID`: the client's own, or a fresh one
/status/CODE        the page with that status, 200 to 599
anything else       the page, status 200
==================  ============================================================================

A value that does not fit is 400 with a sentence. Every response carries `X-Backend: NAME`.
The connection is kept or closed as the client asks, in HTTP/1.0 too.
Deviation: an obsolete line fold is joined by twisted.web, so `/echo` shows such a header joined.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import secrets
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from dlba.addresses import Endpoint

MAX_BYTES = 1 << 40  # bytes; a stream that long is still far from any overflow
MAX_DELAY = 3600.0  # seconds; as long as the longest tunnel time-out
MAX_HEAD = 128 * 1024  # bytes; twice what DLBA lets through, so that DLBA's limit is the one met

# 251 is prime: a lost or repeated piece of a power-of-two size breaks the pattern.
PERIOD = 251
PIECE = bytes(range(PERIOD)) * 261  # 65,511 bytes, about one transport buffer

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_DIGITS = re.compile(rb"[0-9]{1,13}\Z")
_SECONDS = re.compile(rb"[0-9]{1,4}(?:\.[0-9]{1,6})?\Z")
_SESSION_ID = re.compile(rb"[A-Za-z0-9._~-]{1,128}\Z")

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{name}</title></head>
<body><h1>{name}</h1><p>This page comes from backend <strong>{name}</strong>.</p></body>
</html>
"""


class BadValueError(ValueError):
    """A value in the path that does not fit; its text goes to the client."""


def check_name(name: str) -> str:
    """Return `name` if it can be a backend's name, else raise ValueError with the reason."""
    if _NAME.match(name) is None:
        raise ValueError(f"name: expected 1 to 64 letters, digits, '.', '_' or '-', got {name!r}")
    return name


def page(name: str) -> bytes:
    """Return the small HTML page (UTF-8) that says the backend's name."""
    return _PAGE.format(name=html.escape(name)).encode()


def read_count(value: bytes) -> int:
    """Return the number of bytes that a path asks for; BadValueError if it isn't 0 to MAX_BYTES."""
    if _DIGITS.match(value) is None or int(value) > MAX_BYTES:
        raise BadValueError(f"expected a whole number of bytes from 0 to {MAX_BYTES}")
    return int(value)


def read_delay(value: bytes) -> float:
    """Return the delay in seconds that a path asks for; BadValueError outside 0 to MAX_DELAY."""
    if _SECONDS.match(value) is None or float(value) > MAX_DELAY:
        raise BadValueError(f"expected seconds from 0 to {MAX_DELAY:.0f}")
    return float(value)


def read_status(value: bytes) -> int:
    """Return the final status that a path asks for; BadValueError if it isn't 200 to 599."""
    if _DIGITS.match(value) is None or not 200 <= int(value) <= 599:
        raise BadValueError("expected a status from 200 to 599")
    return int(value)


@implementer(IPushProducer)
class PatternProducer:
    """Writes `count` bytes of the pattern to a request, no faster than its client takes them."""

    def __init__(self, request: BackendRequest, count: int) -> None:
        self._request = request
        self._left = count
        self._phase = 0
        self._paused = True

    def start(self) -> None:
        """Begin; the request is finished when the last byte is written."""
        self._request.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        # The transport pauses us from within write() as soon as its buffer is full.
        while self._left and not self._paused:
            piece = PIECE if self._left >= len(PIECE) else PIECE[: self._left]
            self._left -= len(piece)
            self._request.write(piece)
        if not self._left and not self._paused:
            self._request.unregisterProducer()
            self._request.finish()

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._paused = True
        self._left = 0


class BackendRequest(http.Request):
    """One request to a demo backend and its answer."""

    channel: BackendChannel

    def __init__(self, channel: BackendChannel, *_queued: object) -> None:
        super().__init__(channel, parsePOSTFormSubmission=False)
        self.site = channel.site
        self.received: list[tuple[bytes, bytes]] = []
        self.body_length = 0
        self._body_hash = hashlib.sha256()

    # What twisted.web calls while a request arrives

    def gotLength(self, length: int | None) -> None:
        """Take no content file: the body is only counted and hashed."""

    def handleContentChunk(self, data: bytes) -> None:
        self.body_length += len(data)
        self._body_hash.update(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.process()

    def process(self) -> None:
        site = self.site
        self.setHeader(b"Date", http.datetimeToString())
        self.setHeader(b"X-Backend", site.name)
        try:
            self._answer()
        except BadValueError as error:
            self.setResponseCode(http.BAD_REQUEST)
            place, _, value = self.path[1:].decode("latin-1").partition("/")
            text = f"/{place}/: {error}, got {value[:40]!a}\n"
            self._send(b"text/plain; charset=utf-8", text.encode())

    # The answers

    def _answer(self) -> None:
        if self.path == b"/echo":
            self._send(b"application/json", self._echo())
        elif self.path == b"/session":
            self._send_session()
        else:
            prefix, slash, value = self.path[1:].partition(b"/")
            answer = _ANSWERS.get(prefix) if slash else None
            if answer is None:
                self._send_page()
            else:
                answer(self, value)

    def _send(self, content_type: bytes, body: bytes) -> None:
        if self.code == http.RESET_CONTENT:
            body = b""
        if self.code not in http.NO_BODY_CODES:
            self.setHeader(b"Content-Type", content_type)
            self.setHeader(b"Content-Length", b"%d" % len(body))
        self.write(body)
        self.finish()

    def _send_page(self) -> None:
        self._send(b"text/html; charset=utf-8", self.site.page)

    def _echo(self) -> bytes:
        request = {
            "method": self.method.decode("latin-1"),
            "target": self.uri.decode("latin-1"),
            "version": self.clientproto.decode("latin-1"),
            "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in self.received],
            "body_length": self.body_length,
            "body_sha256": self._body_hash.hexdigest(),
        }
        return json.dumps(request, indent=1).encode() + b"\n"

    def _send_session(self) -> None:
        session_id = self.received_cookies.get(b"JSESSIONID", b"")
        if _SESSION_ID.match(session_id) is None:
            session_id = secrets.token_hex(16).encode()
        self.setHeader(b"Set-Cookie", b"JSESSIONID=" + session_id + b"; Path=/; HttpOnly")
        self._send_page()

    def _send_status(self, value: bytes) -> None:
        self.setResponseCode(read_status(value))
        self._send_page()

    def _send_slowly(self, value: bytes) -> None:
        call = self.site.reactor.callLater(read_delay(value), self._send_page)
        # The Deferred fails only when the client has gone before the answer.
        self.notifyFinish().addErrback(lambda _: call.cancel())

    def _send_bytes(self, value: bytes) -> None:
        count = read_count(value)
        self.setHeader(b"Content-Length", b"%d" % count)
        self._stream(count)

    def _send_chunked(self, value: bytes) -> None:
        count = read_count(value)
        if self.clientproto == b"HTTP/1.1":
            self._stream(count)  # twisted.web chunks what has no length
        else:
            self._stream_until_close(count)

    def _send_until_close(self, value: bytes) -> None:
        self._stream_until_close(read_count(value))

    def _stream_until_close(self, count: int) -> None:
        self.channel.persistent = False
        self.setHeader(b"Connection", b"close")
        self.setHeader(b"Content-Type", b"application/octet-stream")
        # Written here because Request.write would choose chunks.
        self.startedWriting = 1
        self.channel.writeHeaders(self.clientproto, b"200", b"OK", self.responseHeaders)
        if self.method == b"HEAD":
            self.finish()
        else:
            PatternProducer(self, count).start()

    def _stream(self, count: int) -> None:
        self.setHeader(b"Content-Type", b"application/octet-stream")
        if self.method == b"HEAD":
            self.finish()
        else:
            self.write(b"")  # the head goes out even if no byte follows
            PatternProducer(self, count).start()


_ANSWERS: dict[bytes, Callable[[BackendRequest, bytes], None]] = {
    b"bytes": BackendRequest._send_bytes,
    b"chunked": BackendRequest._send_chunked,
    b"until-close": BackendRequest._send_until_close,
    b"slow": BackendRequest._send_slowly,
    b"status": BackendRequest._send_status,
}


class BackendChannel(http.HTTPChannel):
    """One client connection: keeps header lines as they came and closes as asked."""

    # Twisted declares these as its own classes; ours stand in for them.
    requestFactory = BackendRequest  # type: ignore[assignment]
    site: BackendSite
    transport: Any
    MAX_LENGTH = MAX_HEAD
    totalHeadersSize = MAX_HEAD  # noqa: N815 - Twisted's name

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.site.channel_lost(self)

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802 - Twisted's name
        self._respondToBadRequestAndDisconnect()

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        # int() of a very long number raises, which would leave the client without an answer.
        if name.lower() == b"content-length" and len(value) > 18:
            self._respondToBadRequestAndDisconnect()
            return False
        self.requests[-1].received.append((name, value))
        return super().headerReceived(line)

    def checkPersistence(self, request: BackendRequest, version: bytes) -> bool:  # noqa: N802 - Twisted's name
        """Return whether the connection stays open: also for several tokens, and in HTTP/1.0."""
        lines = request.requestHeaders.getRawHeaders(b"Connection", [])
        tokens = {token.strip().lower() for line in lines for token in line.split(b",")}
        keep = b"close" not in tokens and (version == b"HTTP/1.1" or b"keep-alive" in tokens)
        if not keep:
            request.setHeader(b"Connection", b"close")
        elif version != b"HTTP/1.1":
            request.setHeader(b"Connection", b"keep-alive")
        return keep

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802 - Twisted's name
        # twisted.web calls this for whatever it can't parse; its own answer has no headers.
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\nX-Backend: " + self.site.name + b"\r\n"
            b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        )
        self.loseConnection()


class BackendSite(Site):
    """Builds the channels of one demo backend and knows those that are open; writes no log."""

    # Twisted declares its own channel; ours stands in for it.
    protocol = BackendChannel  # type: ignore[assignment]
    noisy = False

    def __init__(self, name: str, reactor: Any) -> None:
        super().__init__(Resource(), requestFactory=BackendRequest, reactor=reactor)
        self.name = check_name(name).encode()
        self.page = page(name)
        self.channels: set[BackendChannel] = set()
        self._waiting: list[Deferred[None]] = []

    def startFactory(self) -> None:
        """Open no log and start no clock for its dates."""

    def stopFactory(self) -> None:
        """Nothing was opened."""

    def log(self, request: http.Request) -> None:
        """Write no access log."""

    def channel_lost(self, channel: BackendChannel) -> None:
        """Forget a connection that has ended."""
        self.channels.discard(channel)
        if not self.channels:
            waiting, self._waiting = self._waiting, []
            for done in waiting:
                done.callback(None)

    def abort_connections(self) -> Deferred[None]:
        """Reset every open connection; the Deferred fires when all are gone."""
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        if self.channels:
            for channel in tuple(self.channels):
                channel.transport.abortConnection()
        else:
            self._waiting.remove(done)
            done.callback(None)
        return done


@attrs.frozen
class RunningBackend:
    """A demo backend that listens at `address`; `port` is its listening port."""

    name: str
    address: Endpoint
    site: BackendSite
    port: IListeningPort

    def stop(self) -> Deferred[None]:
        """Stop listening, reset all connections; the Deferred fires when both are done."""
        closed = maybeDeferred(self.port.stopListening)
        return closed.addCallback(lambda _: self.site.abort_connections())


def backend_site(name: str, reactor: Any) -> BackendSite:
    """Return the site of one demo backend; ValueError if `name` can't stand in a header."""
    return BackendSite(name, reactor)


def listen(name: str, reactor: Any, address: str = "127.0.0.1", port: int = 0) -> RunningBackend:
    """Start a demo backend on an IP literal and a port (0: the kernel chooses).

    Raises CannotListenError if the port can't be bound, ValueError for a bad name.
    """
    site = backend_site(name, reactor)
    listening = reactor.listenTCP(port, site, interface=address)
    bound = listening.getHost()
    return RunningBackend(name, Endpoint(bound.host, bound.port), site, listening)
