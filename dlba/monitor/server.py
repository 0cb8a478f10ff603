"""Moves the monitor's pages to those who ask over HTTP: read-only, small, bounded.

What a page says comes from the callables given; how it says it, from `dlba.monitor.page`. A
connection carries one request, so that nobody keeps the reactor busy with a pipeline; a request
has TIME_OUT seconds to come whole, however slowly it drips; heads, bodies and the number of
connections are limited. The answers forbid caching, framing, scripts and foreign resources.

| path | answer |
|---|---|
| `/` | the page for people |
| `/healthz` | 200 while the process serves |
| `/readyz` | 200 while this node may get traffic, else 503 |
| `/status` | the status tables as JSON |
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTCP
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from dlba.monitor.page import HELD, STYLE, page

TIME_OUT = 10
"""Seconds for a request to come, and for its answer to be taken."""

HEAD_LIMIT = 8 * 1024
"""Bytes of request line and headers: no client of a monitor has reason to send more."""

BODY_LIMIT = 1024
"""Bytes of a body that is read and ignored before the method is refused."""

CONNECTIONS = 64
"""Open at once: descriptors belong to the data path."""

_STYLE_HASH = b64encode(sha256(STYLE.encode()).digest()).decode()

_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", _POLICY),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)

_TEXT = "text/plain; charset=utf-8"

_log = Logger()


class _Pages(Resource):
    """All of the monitor's paths."""

    isLeaf = True

    def __init__(self, status: Callable[[], Mapping[str, Any]], ready: Callable[[], bool]) -> None:
        super().__init__()
        self._status = status
        self._ready = ready
        self._paths: dict[bytes, Callable[[Request], tuple[int, str, str]]] = {
            b"/": self._page,
            b"/healthz": lambda _: (200, _TEXT, "ok\n"),
            b"/readyz": self._readiness,
            b"/status": self._json,
        }

    def render(self, request: Request) -> bytes:
        """Answer any method on any path."""
        found = self._paths.get(request.path)
        if found is None:
            code, content_type, text = 404, _TEXT, "not found\n"
        elif request.method not in (b"GET", b"HEAD"):
            code, content_type, text = 405, _TEXT, "method not allowed\n"
            request.setHeader("Allow", "GET, HEAD")
        else:
            try:
                code, content_type, text = found(request)
            except Exception:  # noqa: BLE001 - whatever is wrong with a table, the monitor answers
                _log.failure("monitor: {path}", Failure(), path=request.path.decode("latin-1"))
                code, content_type, text = 500, _TEXT, "internal error, see the node's log\n"
        body = text.encode()
        request.setResponseCode(code)
        request.responseHeaders.removeHeader("Server")
        for name, value in _HEADERS:
            request.setHeader(name, value)
        request.setHeader("Content-Type", content_type)
        request.setHeader("Content-Length", str(len(body)))
        return b"" if request.method == b"HEAD" else body

    def _page(self, request: Request) -> tuple[int, str, str]:
        return (
            200,
            "text/html; charset=utf-8",
            page(self._status(), held=request.uri == HELD.encode()),
        )

    def _readiness(self, _: Request) -> tuple[int, str, str]:
        return (200, _TEXT, "ready\n") if self._ready() else (503, _TEXT, "not ready\n")

    def _json(self, _: Request) -> tuple[int, str, str]:
        # A NaN would be no JSON: better an error here than in each reader.
        return 200, "application/json", json.dumps(self._status(), allow_nan=False) + "\n"


class _Channel(HTTPChannel):
    """One connection: one request, all of it within the time-out and the limits."""

    totalHeadersSize = HEAD_LIMIT  # noqa: N815 - Twisted's name
    MAX_LENGTH = HEAD_LIMIT
    maxHeaders = 100  # noqa: N815 - Twisted's name
    abortTimeout = TIME_OUT  # noqa: N815 - Twisted's name

    site: MonitorSite
    transport: Any

    def connectionMade(self) -> None:
        self.site.channels.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.channels.discard(self)
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        # HTTPChannel's own would start the time-out anew for each byte.
        LineReceiver.dataReceived(self, data)

    def allHeadersReceived(self) -> None:
        if self.length is None or self.length > BODY_LIMIT:
            self.transport.write(
                b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            self.loseConnection()
            return
        super().allHeadersReceived()

    def checkPersistence(  # noqa: N802 - Twisted's name
        self,
        request: HTTPRequest,
        version: bytes,
    ) -> bool:
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False


class MonitorSite(Site):
    """The site and its open connections. It logs no request: probes come by the second."""

    protocol = _Channel  # type: ignore[assignment]
    noisy = False

    def __init__(self, resource: Resource, reactor: Any) -> None:
        super().__init__(resource, timeout=TIME_OUT, parsePOSTFormSubmission=False, reactor=reactor)
        self.channels: set[_Channel] = set()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return super().buildProtocol(addr) if len(self.channels) < CONNECTIONS else None

    def log(self, request: HTTPRequest) -> None:
        pass


def monitor_site(
    reactor: Any, status: Callable[[], Mapping[str, Any]], ready: Callable[[], bool]
) -> MonitorSite:
    """Return the monitor's site, a `twisted.web.server.Site`, for `MonitorService`.

    `reactor`: IReactorTime, for time-outs; `status`: returns the document of `dlba.monitor.status`,
    called for each page; `ready`: True while this node may get traffic. An error that one of them
    raises is logged and answered with 500.
    """
    return MonitorSite(_Pages(status, ready), reactor)


class MonitorService(Service):
    """Listens on the monitor's address while it runs.

    The port is bound in `privilegedStartService`, or in `startService` where that wasn't called:
    `CannotListenError` comes out of there and should stop the start. `host`: IP literal.
    """

    def __init__(self, reactor: IReactorTCP, host: str, port: int, site: MonitorSite) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._site = site
        self.listening: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Bind the port; raise CannotListenError where that fails."""
        super().privilegedStartService()
        self._bind()

    def startService(self) -> None:
        """Start; bind the port if nobody did."""
        self._bind()
        super().startService()

    def stopService(self) -> Deferred[Any]:
        """Close the port and what is still open; fires when the port is free."""
        super().stopService()
        listening, self.listening = self.listening, None
        for channel in list(self._site.channels):
            channel.transport.abortConnection()
        return succeed(None) if listening is None else maybeDeferred(listening.stopListening)

    def _bind(self) -> None:
        if self.listening is None:
            self.listening = self._reactor.listenTCP(
                self._port,
                self._site,  # type: ignore[arg-type]
                interface=self._host,
            )
