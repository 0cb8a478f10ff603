"""Keeps what the access log wants to know of one request, and hands it over at its end.

A plain tuple in the order of `dlba.monitor.accesslog.Record`: the proxy doesn't know the log's
formats, and a tuple is the cheapest thing to make for every request. Nothing is made without a log.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from dlba.web.head import HEAD_END

if TYPE_CHECKING:
    from dlba.web.choice import Site
    from dlba.web.exchange import Exchange
    from dlba.web.head import RequestHead
    from dlba.web.proxy import Proxy

__all__ = ["RequestLog"]


class Client(Protocol):
    """What the log asks of the client's side: see `dlba.web.front.ClientSide`.

    `port`: the client's; `local_port`: the one it connected to; 0: there are none.
    """

    host: str
    port: int
    local_port: int
    tls: bool
    trusted: bool


class RequestLog:
    """One request's times (seconds, monotonic; 0: not yet), status and bytes sent.

    `began`: its first byte came; `head_at`: its head was complete; `status`: what the client was
    sent, 0 for nothing; `head_bytes`, `body_bytes`: of the response.
    """

    __slots__ = ("began", "body_bytes", "head_at", "head_bytes", "status")

    def __init__(self, began: float = 0.0, head_at: float = 0.0) -> None:
        self.began = began
        self.head_at = head_at
        self.status = 0
        self.head_bytes = 0
        self.body_bytes = 0

    def answered(self, status: int, head_bytes: int, body_bytes: int) -> None:
        """The head of the response was sent, with the beginning of its body."""
        self.status = status
        self.head_bytes = head_bytes
        self.body_bytes = body_bytes

    def answered_whole(self, status: int, data: bytes) -> None:
        """A whole response of our own, `data`, was sent."""
        head_bytes = data.index(HEAD_END) + len(HEAD_END)
        self.answered(status, head_bytes, len(data) - head_bytes)

    def write(
        self,
        proxy: Proxy,
        socket: Client,
        request: RequestHead | None,
        site: Site | None,
        exchange: Exchange | None,
        termination: str,
        line: bytes = b"",
    ) -> None:
        """Hand the request to the access log. `line`: its request line where there is no head."""
        log = proxy.log
        if log is None:
            return
        queue = connect = response = -1.0
        retries = 0
        backend = None
        reason = "-"
        if exchange is not None:
            delivery = exchange.delivery
            reason = delivery.reason
            retries = delivery.retries
            queue, connect, response = exchange.times()
            if delivery.backend is not None:
                backend = delivery.backend.name
        began = self.began
        host = socket.host
        if socket.trusted and request is not None:
            # The client is the one that the proxy in front of us tells of.
            said = [value for name, value in request.forwarding if name == b"x-forwarded-for"]
            host = proxy.forwarding.client(said, host)
        log(
            (
                time.time(),
                host,
                socket.port,
                socket.local_port,
                socket.tls,
                line if request is None else request.line,
                b"" if request is None else request.fields,
                self.status,
                self.head_bytes + self.body_bytes,
                self.body_bytes,
                None if site is None else site.name,
                None if site is None else site.pool.name,
                backend,
                reason,
                -1.0 if request is None else self.head_at - began,
                queue,
                connect,
                response,
                time.monotonic() - began if began else 0.0,
                retries,
                termination,
                len(proxy.clients),
                proxy.open_backends,
            )
        )
