"""Wires one node's services together; decides nothing.

A node is one Twisted service: the proxy, the monitor, the access log and the keys that sign route
tokens. What the monitor shows comes from the proxy by callables, so neither knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from dlba.config.values import NodeConfig
from dlba.monitor.accesslog import Record, formatter
from dlba.monitor.logfile import LogFile
from dlba.monitor.server import MonitorService, monitor_site
from dlba.monitor.status import BackendRow, status_document
from dlba.state import load_keys
from dlba.web.proxy import AccessLog
from dlba.web.service import WebService

__all__ = ["Node"]


class Node(MultiService):
    """One node. Raises OSError or DLBAError from its constructor when a file can't be used."""

    _log = Logger()

    def __init__(self, reactor: Any, config: NodeConfig) -> None:
        super().__init__()
        self._config = config
        self._access: LogFile[Record] | None = None
        self.web: WebService | None = None
        self.monitor: MonitorService | None = None
        log: AccessLog | None = None
        if config.log.access is not None:
            line = formatter(config.log.format)
            self._access = LogFile(config.log.access, reactor, self._report, line)
            log = self._log_request
        if config.array.web is not None:
            self.web = WebService(
                reactor, config.array.web, config.array.vip, load_keys(config).signing, log
            )
            self.web.setServiceParent(self)
        if config.monitor is not None:
            listen = config.monitor.listen
            site = monitor_site(reactor, self.status, self.ready)
            self.monitor = MonitorService(reactor, listen.host, listen.port, site)
            self.monitor.setServiceParent(self)

    def _log_request(self, fields: tuple[Any, ...]) -> None:
        if self._access is not None:
            # Record(*fields) would take the tuple apart and put it together again.
            self._access.write(tuple.__new__(Record, fields))

    def ready(self) -> bool:
        """Whether this node may get traffic."""
        return self.web is not None and self.web.serving

    def status(self) -> Mapping[str, Any]:
        """The `/status` document."""
        rows: list[BackendRow] = []
        counters: dict[str, int] = {}
        if self.web is not None:
            proxy = self.web.proxy
            rows = [
                BackendRow(
                    pool=backend.pool,
                    name=backend.name,
                    address=str(backend.endpoint),
                    average_response=backend.average_response,
                    hits=backend.hits,
                    open_connections=backend.open_connections,
                    failed=backend.failed,
                    draining=backend.draining,
                    cookie_groups=backend.cookie_groups,
                )
                for backend in proxy.backends()
            ]
            counters = proxy.counters.snapshot()
            counters["open_clients"] = len(proxy.clients)
        if self._access is not None:
            counters["log_lines_lost"] = self._access.lost
        return status_document(self._config.node, self._config.array.vip, rows, counters)

    def reopen_logs(self) -> None:
        """USR1: go on in a new file where the old one was moved away."""
        if self._access is not None:
            self._access.reopen()

    def abort(self) -> None:
        """A second TERM: cut off whoever is left."""
        if self.web is not None:
            self.web.abort()

    def stopService(self) -> Deferred[Any]:
        """Drain and stop; the log is closed when the last request is in it."""
        stopped: Deferred[Any] = Deferred.fromCoroutine(self._stop())
        return stopped

    async def _stop(self) -> None:
        # The monitor goes on while the proxy drains: /readyz says 503, /status who is left.
        if self.web is not None:
            await self.web.stopService()
        await super().stopService()
        if self._access is not None:
            self._access.close()

    def _report(self, message: str) -> None:
        self._log.error("{message}", message=message)
