"""Wires one node's services together; decides nothing.

A node is one Twisted service: the scheduler's part (with an interface), the proxy or, without one,
the check of whatever serves on the VIP, the monitor, the control socket, the access log and the
keys. What the monitor shows comes from the parts by callables, so none knows another.

A node with an interface needs its state folder for itself. A proxy alone serves without it, and
then has no control socket.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import attrs
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from dlba.config.changes import changes
from dlba.config.keys import Keys, SecretKey, needs_keys
from dlba.config.values import NodeConfig
from dlba.control import Commands, ControlService, flow_of
from dlba.draining import Draining
from dlba.electing import Electing, array_status, swept_at
from dlba.errors import DLBAError
from dlba.monitor.accesslog import Record, formatter
from dlba.monitor.logfile import LogFile
from dlba.monitor.server import MonitorService, monitor_site
from dlba.monitor.status import BackendRow, NodeRow, RoutingStatus, status_document
from dlba.poller import Poller
from dlba.routing.check import ServerCheck
from dlba.routing.configured import ConfiguredRouting
from dlba.routing.elected import ElectedRouting
from dlba.routing.service import RoutingService
from dlba.socketname import CONTROL
from dlba.state import load_keys, lock_state, make_state, reload_keys
from dlba.web.listener import KEEPALIVE
from dlba.web.pool import Backend
from dlba.web.proxy import AccessLog
from dlba.web.service import Prepared as PreparedWeb
from dlba.web.service import WebService
from dlba.web.service import prepare as prepare_web

__all__ = ["Node", "Prepared", "prepare"]

#: Changed keys that a reload names in its line in the log.
NAMED = 12


@attrs.frozen(repr=False)
class Prepared:
    """What a reload needs of a configuration's files."""

    config: NodeConfig
    web: PreparedWeb | None
    keys: Keys | None


def prepare(config: NodeConfig) -> Prepared:
    """Read the files that `config` names, for `Node.reload`; any thread may call it.

    Raises OSError or DLBAError when one can't be read or used.
    """
    web = config.array.web
    if web is None:
        return Prepared(config, None, None)
    return Prepared(config, prepare_web(web), None if config.channel else reload_keys(config))


class Node(MultiService):
    """One node. Raises OSError or DLBAError from its constructor when a file can't be used."""

    _log = Logger()

    def __init__(self, reactor: Any, config: NodeConfig) -> None:
        super().__init__()
        self._reactor = reactor
        self._config = config
        self._access: LogFile[Record] | None = None
        self._lock: int | None = None
        self._stopping = False
        self.routing: RoutingService | None = None
        self.election: Electing | None = None
        self.check: ServerCheck | None = None
        self.web: WebService | None = None
        self.monitor: MonitorService | None = None
        array = config.array
        keys = self._load_keys()
        poller = Poller()
        # First of all: the web's ports are on the VIP, which is on loopback only then.
        if config.interface is not None and keys is not None:
            if config.channel is None:
                self.routing = ConfiguredRouting(
                    reactor, poller, config, keys.hash, self._own_status
                )
            else:
                self.routing = self._elected(reactor, poller, keys)
            self.routing.setServiceParent(self)
        if array.web is not None and keys is not None:
            log: AccessLog | None = None
            self._access = self._open_log(config)
            if self._access is not None:
                log = self._log_request
            keepalive = KEEPALIVE
            if array.nodes:
                # Three probes within a bucket's time-out: idle connections keep their node.
                keepalive = max(int(array.routing.bucket_timeout / 3), 1)
            self.web = WebService(
                reactor, array.web, array.vip, keys.signing, log, keepalive, poller
            )
            self.web.setServiceParent(self)
        elif self.routing is not None and array.vip is not None:
            changed = self.routing.server_changed
            self.check = ServerCheck(reactor, array.vip, array.routing.ports, changed)
            self.check.setServiceParent(self)
        if self.election is not None:
            # After the web: whoever may become scheduler can take flows itself.
            self.election.setServiceParent(self)
        if config.monitor is not None:
            listen = config.monitor.listen
            site = monitor_site(reactor, self.status, self.ready)
            self.monitor = MonitorService(reactor, listen.host, listen.port, site)
            self.monitor.setServiceParent(self)
        self._draining = Draining(config.state, self._backends, self._drain)
        commands: Commands = {
            "status": lambda *_: self.status(),
            "drain": self._draining.drain,
            "resume": self._draining.resume,
        }
        if self.routing is not None:
            commands = {**commands, "where": self._where}
        self._control = ControlService(reactor, config.state / CONTROL, commands)

    def _elected(self, reactor: Any, poller: Poller, keys: Keys) -> ElectedRouting:
        """The scheduler's part where nodes elect who has it, and the election."""
        config = self._config
        routing = ElectedRouting(reactor, poller, config, keys.hash, self._own_status)
        self.election = Electing(
            reactor, config, routing, keys, self._sign, self._own_status, self._backend_rows
        )
        return routing

    def _sign(self, signing: tuple[SecretKey, ...]) -> None:
        if self.web is not None:
            self.web.set_keys(signing)

    def _load_keys(self) -> Keys | None:
        """The keys, where a part needs them; makes the state folder where it is needed."""
        config = self._config
        if config.interface is not None:
            make_state(config.state)
        if needs_keys(config):
            return load_keys(config)
        return Keys(()) if config.interface is not None else None

    def privilegedStartService(self) -> None:
        """Bind and set up what needs it. Puts everything back when a part raises."""
        try:
            self._open_control()
            if os.access(self._config.state, os.R_OK | os.X_OK):
                self._draining.load()
            super().privilegedStartService()
        except BaseException:
            self._undo()
            raise

    def _open_control(self) -> None:
        """Hold the state folder, and listen there for commands."""
        folder = self._config.state
        try:
            if self.routing is None:
                make_state(folder)
            self._lock = lock_state(folder)
            self._control.privilegedStartService()
        except (OSError, DLBAError) as error:
            self._unlock()
            if self.routing is not None:
                raise
            words = f"{folder}: {error.strerror}" if isinstance(error, OSError) else error
            self._log.warn("no control socket: {words}", words=words)
            return
        self._control.setServiceParent(self)

    def _undo(self) -> None:
        self._control.undo()
        if self.web is not None:
            self.web.undo()
        if self.election is not None:
            self.election.undo()
        if self.routing is not None:
            self.routing.undo()
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _open_log(self, config: NodeConfig) -> LogFile[Record] | None:
        path = config.log.access
        if path is None:
            return None
        return LogFile(path, self._reactor, self._report, formatter(config.log.format))

    def _log_request(self, fields: tuple[Any, ...]) -> None:
        if self._access is not None:
            # Record(*fields) would take the tuple apart and put it together again.
            self._access.write(tuple.__new__(Record, fields))

    # ---------------------------------------------------------------- what others ask

    def ready(self) -> bool:
        """Whether this node may get traffic."""
        if self.routing is not None and (not self.routing.running or self.role == "fault"):
            return False
        if self.check is not None:
            return self.check.alive
        return self.web is not None and self.web.serving

    @property
    def role(self) -> str:
        """`scheduler`, `backup`, `fault`, or `alone` for a node that takes no part in routing."""
        if self.election is not None:
            return self.election.service.role
        return "alone" if self.routing is None else self.routing.role

    def status(self) -> Mapping[str, Any]:
        """The `/status` document."""
        rows = self._backend_rows()
        counters: dict[str, int] = {}
        if self.web is not None:
            proxy = self.web.proxy
            counters = proxy.counters.snapshot()
            counters["open_clients"] = len(proxy.clients)
            counters["idle_backend_connections"] = len(proxy.idle)
            counters["buffer_memory"] = proxy.memory.used
            counters["buffer_memory_filled"] = proxy.memory.filled
        if self._access is not None:
            counters["log_lines_lost"] = self._access.lost
        if self.routing is not None:
            counters |= self.routing.counters()
        vip = self._config.array.vip
        array = None if self.election is None else array_status(self.election.service, rows)
        return status_document(
            self._config.node, vip, rows, counters, self._routing_status(), array
        )

    def _backend_rows(self) -> list[BackendRow]:
        """This node's web server status table."""
        return [
            BackendRow(
                pool=backend.pool,
                name=backend.name,
                address=str(backend.endpoint),
                average_response=backend.average_response,
                hits=backend.hits,
                open_connections=backend.open_connections,
                failed=backend.marked,
                draining=backend.draining,
                cookie_groups=backend.cookie_groups,
            )
            for backend in self._backends()
        ]

    def _backends(self) -> list[Backend]:
        return [] if self.web is None else list(self.web.proxy.backends())

    def _drain(self, backends: frozenset[tuple[str, str]]) -> None:
        if self.web is not None:
            self.web.proxy.set_drained(backends)

    def _routing_status(self) -> RoutingStatus | None:
        if self.routing is None:
            return None
        scheduler = self.routing.path.scheduler
        return RoutingStatus(
            role=self.role,
            nodes=[
                NodeRow(
                    name=row.name,
                    number=row.number,
                    mac=row.mac.hex(":"),
                    address=row.address,
                    enabled=row.enabled,
                    weight=row.weight,
                    groups=row.groups,
                    average_response=row.average_response,
                    hits=row.hits,
                    open_connections=row.open_connections,
                    failed=row.failed,
                    draining=row.draining,
                )
                for row in scheduler.rows
            ],
            buckets=scheduler.table.buckets,
            assigned=scheduler.table.assigned,
            version=scheduler.table.version,
            swept_at=None
            if self.election is None
            else swept_at(self.election.service, self._reactor.seconds()),
        )

    def _own_status(self) -> tuple[int, int, float]:
        """Hits, open connections and average response (seconds) of this node."""
        if self.web is None:
            return 0, 0, 0.0
        backends = self._backends()
        hits = sum(backend.hits for backend in backends)
        spent = sum(backend.average_response * backend.hits for backend in backends)
        return hits, len(self.web.proxy.clients), spent / hits if hits else 0.0

    def _where(self, request: Mapping[str, Any], peer: str = "") -> dict[str, Any]:
        assert self.routing is not None
        # The node's role, which may be another than the packet path's: absent, or in fault.
        return {**self.routing.where(*flow_of(request)), "role": self.role}

    # ---------------------------------------------------------------- signals and the end

    def reload(self, prepared: Prepared) -> None:
        """HUP: take over what can change while the node runs, and log what that was.

        Raises OSError or DLBAError, and changes nothing, when a port or a file can't be had.
        """
        if self._stopping:
            return
        found = changes(self._config, prepared.config)
        config = found.config
        named = list(found.taken)
        access = self._access
        if config.log != self._config.log and self.web is not None:
            access = self._open_log(config)
        try:
            if self.web is not None and config.array.web is not None and prepared.web is not None:
                named += self.web.reload(config.array.web, prepared.web)
        except BaseException:
            if access is not None and access is not self._access:
                access.close()
            raise
        self._config = config
        self._change_log(access)
        if self.web is not None and prepared.keys is not None:
            if self.web.set_keys(prepared.keys.signing):
                named.append("cookie keys")
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        what = ", ".join(named[:NAMED]) + more if named else "nothing has changed"
        self._log.info("reloaded: {what}", what=what)
        for key in found.later:
            self._log.warn("{key}: changed: takes effect at the next start", key=key)

    def _change_log(self, access: LogFile[Record] | None) -> None:
        """Requests that end from now on are logged to `access`."""
        before, self._access = self._access, access
        if before is access:
            return
        if before is not None:
            before.close()
            if access is not None:
                access.lost += before.lost
        if self.web is not None:
            self.web.proxy.log = None if access is None else self._log_request

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
        # The monitor goes on while the proxy drains: /readyz says 503, /status who is left. So do
        # the frames: those of the connections that are left, and of all other nodes.
        self._stopping = True
        left = None if self.election is None else self.election.service.leave()
        if self.routing is not None:
            self.routing.drain()
        if self.web is not None:
            await self.web.stopService()
        if left is not None:
            await left
        await super().stopService()
        self._unlock()
        if self._access is not None:
            self._access.close()

    def _report(self, message: str) -> None:
        self._log.error("{message}", message=message)
