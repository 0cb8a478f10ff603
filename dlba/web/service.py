"""Runs the proxy: binds its ports, sweeps its deadlines, drains and stops it.

Ports are bound in `privilegedStartService`, synchronously, so that a port that can't be had stops
the start. `stopService` accepts no more, closes idle clients, lets the others finish their request
for up to `timeouts.stop`, then cuts them off; `abort()` does so at once (the second TERM).
"""

from __future__ import annotations

import resource
import time
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from dlba.config.keys import SecretKey
from dlba.config.values import WebConfig
from dlba.poller import Poller
from dlba.web.clientsocket import ClientSocket
from dlba.web.deadlines import TICK
from dlba.web.listener import KEEPALIVE, Listener
from dlba.web.proxy import AccessLog, Proxy

__all__ = ["WebService"]

#: Descriptors that are not for clients and backends: the reactor's, logs, monitor, listeners.
RESERVED_DESCRIPTORS: Final = 128


class WebService(Service):
    """The proxy of one node."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        web: WebConfig,
        vip: str | None,
        keys: tuple[SecretKey, ...],
        log: AccessLog | None,
        keepalive: int = KEEPALIVE,
        poller: Poller | None = None,
    ) -> None:
        """`vip`: where listeners without an address of their own listen; None: everywhere.

        `keepalive`: seconds of silence before the kernel probes a client; `poller`: one that others
        use as well.
        """
        self._reactor = reactor
        self._web = web
        self._vip = vip
        self._keepalive = keepalive
        self.proxy = Proxy(web, keys, log, poller)
        self.proxy.on_client_gone = self._client_gone
        self.listeners: list[Listener] = []
        self._sweep_call: Any = None
        self._stopped: Deferred[None] | None = None
        self._stop_call: Any = None

    def privilegedStartService(self) -> None:
        """Bind all ports. Raises OSError when one can't be had."""
        super().privilegedStartService()
        limit = raise_descriptor_limit()
        configured = self._web.limits.connections
        # Each client may need a second descriptor, for its backend.
        possible = max((limit - RESERVED_DESCRIPTORS) // 2, 1)
        self.proxy.connections_limit = possible if configured is None else configured
        if configured is not None and configured > possible:
            self._log.warn(
                "limits.connections: expected at most {possible} for {limit} descriptors, "
                "got {configured}",
                possible=possible,
                limit=limit,
                configured=configured,
            )
        try:
            for config in self._web.listen:
                address = config.address if config.address is not None else self._vip
                self._bind(config, address)
        except OSError:
            self._close_listeners()
            raise

    def _bind(self, config: Any, address: str | None) -> None:
        try:
            self.listeners.append(Listener(self.proxy, config, address, self._keepalive))
        except OSError as error:
            where = f"{address or '*'}:{config.port}"
            raise OSError(error.errno, f"listen on {where}: {error.strerror or error}") from error

    def set_keys(self, signing: tuple[SecretKey, ...]) -> None:
        """Sign route tokens with the first of `signing` and verify with all, from now on.

        Connections and requests go on. Raises ValueError without any key.
        """
        self.proxy.set_keys(signing)

    def undo(self) -> None:
        """The start of another part failed: give the ports back."""
        self._close_listeners()

    def startService(self) -> None:
        """Accept and serve."""
        super().startService()
        if not self.listeners:
            self.privilegedStartService()
        self.proxy.poller.attach(self._reactor)
        for listener in self.listeners:
            listener.start()
            self._log.info("listening on {where}", where=listener)
        self._sweep()

    @property
    def serving(self) -> bool:
        """Whether this node may get traffic."""
        return bool(self.running) and not self.proxy.stopping

    def stopService(self) -> Deferred[None]:
        """Drain, then stop; fires when no client is left."""
        super().stopService()
        proxy = self.proxy
        if proxy.stopping:
            return self._stopped or succeed(None)
        proxy.stopping = True
        for listener in self.listeners:
            listener.take_waiting()
        self._close_listeners()
        stopped: Deferred[None] = Deferred()
        self._stopped = stopped
        self._stop_call = self._reactor.callLater(self._web.timeouts.stop, self.abort)
        for client in tuple(proxy.clients):
            client.stop()
        if not proxy.clients:
            self._finish()
        return stopped

    def abort(self) -> None:
        """Cut off whoever is left, now."""
        for client in tuple(self.proxy.clients):
            client.abort()

    def _client_gone(self, client: ClientSocket) -> None:
        proxy = self.proxy
        proxy.clients.discard(client)
        proxy.release(client.host)
        if not proxy.stopping:
            if len(proxy.clients) < proxy.connections_limit:
                for listener in self.listeners:
                    listener.resume()
        elif not proxy.clients and self._stopped is not None:
            # In a turn of its own: the connection that ended is still on the stack.
            self._reactor.callLater(0, self._finish)

    def _finish(self) -> None:
        stopped, self._stopped = self._stopped, None
        if stopped is None:
            return
        for call in (self._stop_call, self._sweep_call):
            if call is not None and call.active():
                call.cancel()
        for side in tuple(self.proxy.closing):
            side.reset()
        self.proxy.poller.detach()
        stopped.callback(None)

    def _close_listeners(self) -> None:
        for listener in self.listeners:
            listener.stop()
        self.listeners.clear()

    def _sweep(self) -> None:
        proxy = self.proxy
        now = time.monotonic()
        for item in proxy.deadlines.expired(now):
            try:
                item.expire(now)
            except Exception:  # noqa: BLE001 - the boundary of one connection
                proxy.counters.internal_errors += 1
                self._log.failure("an exception ended one connection")
                item.abort()
        self._sweep_call = self._reactor.callLater(TICK, self._sweep)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one; the limit in force then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
