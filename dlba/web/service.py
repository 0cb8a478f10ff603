"""Runs the proxy with ports of its own: binds them, reloads, drains and stops it.

Ports are bound in `privilegedStartService`, synchronously, so that a port that can't be had stops
the start. `reload` takes over another configuration in one turn of the reactor: first all that can
fail, in the order of `prepare` (files; in any thread) and new ports, then all that can't. No
connection is closed, and what waits in the queue of a port that goes is accepted first.
`stopService` accepts no more, closes idle clients, lets the others finish their request
for up to `timeouts.stop`, then cuts them off; `abort()` does so at once (the second TERM).
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from typing import Any, Final

import attrs
from OpenSSL.SSL import Error as TLSError
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from dlba.config.files import read_pages
from dlba.config.keys import SecretKey
from dlba.config.values import ListenerConfig, WebConfig
from dlba.errors import DLBAError
from dlba.poller import Poller
from dlba.web.clientsocket import ClientSocket
from dlba.web.listener import KEEPALIVE, Listener
from dlba.web.proxy import AccessLog, Proxy
from dlba.web.running import Running
from dlba.web.tls import Certificates, Contexts, build

__all__ = ["Prepared", "WebService", "prepare"]

#: Descriptors that are not for clients and backends: the reactor's, logs, monitor, listeners.
RESERVED_DESCRIPTORS: Final = 128


@attrs.frozen
class Prepared:
    """What is read for a configuration: `contexts` in the order of `listen`, `pages` by status."""

    contexts: tuple[Contexts | None, ...]
    pages: dict[int, bytes]


def prepare(web: WebConfig) -> Prepared:
    """Read the files that `web` names. Takes no part in what runs, so any thread may call it.

    Raises OSError or DLBAError when one can't be read or used.
    """
    return Prepared(
        contexts=tuple(
            _contexts(listener, f"web.listen[{index}].tls")
            for index, listener in enumerate(web.listen)
        ),
        pages=read_pages(web),
    )


def _contexts(listener: ListenerConfig, where: str) -> Contexts | None:
    try:
        return None if listener.tls is None else build(listener.tls)
    except (TLSError, ValueError):
        # OpenSSL's own words may quote a key.
        raise DLBAError(f"{where}: expected certificates and keys that TLS takes") from None


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
        use as well. Raises as `prepare` does.
        """
        self._reactor = reactor
        self._web = web
        self._vip = vip
        self._keepalive = keepalive
        self._prepared = prepare(web)
        self.proxy = Proxy(web, keys, log, poller, self._prepared.pages)
        self.proxy.on_client_gone = self._client_gone
        self._running = Running(reactor, self.proxy)
        self.listeners: list[Listener] = []
        self._stopped: Deferred[None] | None = None
        self._stop_call: Any = None

    def privilegedStartService(self) -> None:
        """Bind all ports. Raises OSError when one can't be had."""
        super().privilegedStartService()
        self._limit_connections()
        try:
            for index in range(len(self._web.listen)):
                self.listeners.append(self._bound(self._web, self._prepared, index))
        except OSError:
            self._close_listeners()
            raise
        self._redirect()

    def _limit_connections(self) -> None:
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

    def _address(self, config: ListenerConfig) -> str | None:
        return config.address if config.address is not None else self._vip

    def _bound(
        self, web: WebConfig, prepared: Prepared, index: int, beside: bool = False
    ) -> Listener:
        """The listener of that index, new; raises OSError with words for the operator.

        `beside`: see `bind`.
        """
        config = web.listen[index]
        address = self._address(config)
        contexts = prepared.contexts[index]
        try:
            return Listener(self.proxy, config, address, self._keepalive, contexts, beside)
        except OSError as error:
            where = f"{address or '*'}:{config.port}"
            raise OSError(error.errno, f"listen on {where}: {error.strerror or error}") from error

    def _redirect(self) -> None:
        """Tell each listener that redirects where to: the TLS port of its address, or any."""
        for listener in self.listeners:
            port = 0
            if listener.config.redirect is not None:
                secure = [other for other in self.listeners if other.contexts is not None]
                near = [other for other in secure if other.key[0] == listener.key[0]]
                port = next((other.port for other in (*near, *secure)), 0)
            listener.redirect_port = port

    def reload(self, web: WebConfig, prepared: Prepared | None = None) -> list[str]:
        """Take over `web` without closing a connection; what else has changed, in words.

        `prepared`: by `prepare`. Raises OSError or DLBAError, and changes nothing, when a file or
        a port can't be had; each port is a line of its own.
        """
        if prepared is None:
            prepared = prepare(web)
        going = list(self.listeners)
        kept: list[tuple[int, Listener, Certificates | None]] = []
        missing: list[int] = []
        for index, config in enumerate(web.listen):
            listener = self._known(config, going)
            if listener is None:
                missing.append(index)
            else:
                going.remove(listener)
                kept.append((index, listener, listener.certificates(prepared.contexts[index])))
        fresh = self._open(web, prepared, missing, going)
        # From here on nothing fails.
        changed = list(self._other_files(prepared, kept))
        self._web, self._prepared = web, prepared
        self.proxy.configure(web, prepared.pages)
        self._running.configured()
        self._limit_connections()
        listeners = dict(fresh)
        for index, listener, certificates in kept:
            listener.configure(web.listen[index], certificates, prepared.contexts[index])
            listeners[index] = listener
        self.listeners = [listeners[index] for index in sorted(listeners)]
        self._redirect()
        for listener in going:
            self._log.info("no longer listening on {where}", where=listener)
            self.proxy.poller.guarded(listener, listener.take_waiting)
            listener.stop()
        for listener in fresh.values():
            self._log.info("listening on {where}", where=listener)
        self._resume()
        return changed

    def _open(
        self, web: WebConfig, prepared: Prepared, missing: list[int], going: list[Listener]
    ) -> dict[int, Listener]:
        """The listeners of these indices, accepting; raises with all that can't be had.

        Those that are `going` hold their ports until the new ones are there: where an address
        becomes all addresses, or the other way round, both have the port for a moment.
        """
        fresh: dict[int, Listener] = {}
        faults: list[str] = []
        try:
            for index in missing:
                config = web.listen[index]
                same = [listener for listener in going if config.port == listener.port]
                try:
                    for listener in same:
                        listener.share(True)
                    fresh[index] = self._bound(web, prepared, index, bool(same))
                    fresh[index].start()
                except OSError as error:
                    faults.append(f"web.listen[{index}]: {error.strerror or error}")
                finally:
                    for listener in same:
                        listener.share(False)
            if faults:
                raise DLBAError("\n".join(faults))
        except BaseException:
            for listener in fresh.values():
                listener.stop()
            raise
        return fresh

    def _known(self, config: ListenerConfig, among: list[Listener]) -> Listener | None:
        """The listener that has the address and port of `config` already."""
        key = (self._address(config), config.port)
        found = [listener for listener in among if listener.key == key]
        if config.port == 0:
            # The system's choice: there may be several, so one that speaks the same.
            tls = config.tls is not None
            found = [listener for listener in found if (listener.contexts is not None) == tls]
        return found[0] if found else None

    def _other_files(
        self, prepared: Prepared, kept: list[tuple[int, Listener, Certificates | None]]
    ) -> Iterator[str]:
        """What has changed in files though their names may be the same."""
        for index, listener, _ in kept:
            before, now = listener.contexts, prepared.contexts[index]
            if before is not None and now is not None and before.digest != now.digest:
                yield f"certificates of {listener}"
        if self._prepared.pages != prepared.pages:
            yield "error pages"

    def set_keys(self, signing: tuple[SecretKey, ...]) -> bool:
        """Sign route tokens with the first of `signing` and verify with all, from now on.

        Connections and requests go on. False: they are what they were. Raises ValueError without
        any key.
        """
        return self.proxy.set_keys(signing)

    def undo(self) -> None:
        """The start of another part failed: give the ports back."""
        self._close_listeners()

    def startService(self) -> None:
        """Accept and serve."""
        super().startService()
        if not self.listeners:
            self.privilegedStartService()
        self._running.start()
        for listener in self.listeners:
            listener.start()
            self._log.info("listening on {where}", where=listener)

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
            self.proxy.poller.guarded(listener, listener.take_waiting)
        self._close_listeners()
        stopped: Deferred[None] = Deferred()
        self._stopped = stopped
        self._stop_call = self._reactor.callLater(self._web.timeouts.stop, self.abort)
        for client in tuple(proxy.clients):
            proxy.poller.guarded(client, client.stop)
        if not proxy.clients:
            self._finish()
        return stopped

    def abort(self) -> None:
        """Cut off whoever is left, now."""
        for client in tuple(self.proxy.clients):
            self.proxy.poller.guarded(client, client.abort)

    def _client_gone(self, client: ClientSocket) -> None:
        proxy = self.proxy
        proxy.clients.discard(client)
        proxy.release(client.host, client.trusted)
        if not proxy.stopping:
            self._resume()
        elif not proxy.clients and self._stopped is not None:
            # In a turn of its own: the connection that ended is still on the stack.
            self._reactor.callLater(0, self._finish)

    def _resume(self) -> None:
        """Accept again where that paused, if there is room."""
        if len(self.proxy.clients) < self.proxy.connections_limit:
            for listener in self.listeners:
                listener.resume()

    def _finish(self) -> None:
        stopped, self._stopped = self._stopped, None
        if stopped is None:
            return
        if self._stop_call is not None and self._stop_call.active():
            self._stop_call.cancel()
        self._running.stop()
        stopped.callback(None)

    def _close_listeners(self) -> None:
        for listener in self.listeners:
            listener.stop()
        self.listeners.clear()


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one; the limit in force then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
