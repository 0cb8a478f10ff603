"""Holds what all connections of the proxy share; decides nothing.

The poller, the deadlines, the counters, the sites with their pools, the limits, the memory of all
buffers, the access log, and the clients that are open. One instance a process, made by
`dlba.web.service`. `configure` takes over another configuration: what a request has begun with
(site, pool, backend) it ends with, since it holds these itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from dlba.config.keys import SecretKey
from dlba.config.values import WebConfig
from dlba.counters import Counters
from dlba.poller import Poller
from dlba.web.answers import Answers
from dlba.web.choice import Site, Sites
from dlba.web.deadlines import Deadlines
from dlba.web.forwarding import Forwarding
from dlba.web.head import HeadLimits
from dlba.web.idle import IdleSides
from dlba.web.memory import Memory
from dlba.web.pool import Backend, Pool
from dlba.web.tokens import Tokens

if TYPE_CHECKING:
    from dlba.web.backendside import BackendSide
    from dlba.web.clientsocket import ClientSocket

__all__ = ["AccessLog", "Proxy"]

#: Called once a request with a tuple: the fields of `dlba.monitor.accesslog.Record`, in order.
AccessLog = Callable[[tuple[Any, ...]], None]


class Proxy:
    """What the connections share."""

    _log = Logger()

    __slots__ = (
        "_date",
        "_date_second",
        "_drained",
        "_keys",
        "_leaving",
        "_per_client",
        "_tokens",
        "answers",
        "clients",
        "closing",
        "connections_limit",
        "counters",
        "deadlines",
        "forwarding",
        "head_limits",
        "idle",
        "limits",
        "log",
        "memory",
        "on_client_gone",
        "open_backends",
        "poller",
        "pools",
        "sites",
        "stopping",
        "timeouts",
        "via",
    )

    def __init__(
        self,
        web: WebConfig,
        keys: tuple[SecretKey, ...],
        log: AccessLog | None,
        poller: Poller | None = None,
        pages: Mapping[int, bytes] | None = None,
    ) -> None:
        """`poller`: one that others use as well; None: one of its own. `pages`: see `configure`."""
        self.counters = Counters()
        self.poller = Poller() if poller is None else poller
        self.poller.failed = self._count_internal_error
        self.deadlines = Deadlines(time.monotonic())
        self.idle: IdleSides[BackendSide] = IdleSides(self.deadlines)
        self.log = log
        self._keys = keys
        self._tokens = Tokens(keys, ())
        #: (pool, backend): asked to drain; also such as there aren't now.
        self._drained: frozenset[tuple[str, str]] = frozenset()
        self.pools: dict[str, Pool] = {}
        #: Pools that are gone and still have requests under way.
        self._leaving: dict[str, Pool] = {}
        self.memory = Memory(web.limits.buffer_memory)
        self.configure(web, {} if pages is None else pages)
        self.clients: set[ClientSocket] = set()
        #: Clients open at once; set when the limit of descriptors is known.
        self.connections_limit = 0
        self._per_client: dict[str, int] = {}
        self.open_backends = 0
        #: Backend sides that wait for the backend to close first.
        self.closing: set[BackendSide] = set()
        #: No request after the ones that have begun.
        self.stopping = False
        #: Called with each client connection that has ended.
        self.on_client_gone: Callable[[ClientSocket], Any] = self.clients.discard
        self._date_second = 0
        self._date = b""

    def configure(self, web: WebConfig, pages: Mapping[int, bytes]) -> None:
        """Take over `web`, which has passed all checks, for whatever begins from now on.

        `pages`: those of `web.errors`, by status.
        """
        self.timeouts = web.timeouts
        self.limits = web.limits
        self.head_limits = HeadLimits(web.limits.target, web.limits.headers)
        self.answers = Answers(pages)
        #: The Via lines after a message of HTTP/1.0 and of HTTP/1.1; None: none is added.
        self.via = None if web.via is None else (_via(0, web.via), _via(1, web.via))
        self.forwarding = Forwarding(web.trusted_proxies)
        self._tokens.configure(
            (pool.name, backend.name) for pool in web.pools.values() for backend in pool.backends
        )
        gone = set(self.backends())
        known = self._leaving | self.pools
        self.pools = {}
        for name, config in web.pools.items():
            pool = known.pop(name, None)
            if pool is None:
                pool = Pool(config, self._tokens.token)
                pool.set_drained(self._drained_of(name))
            else:
                pool.configure(config)
            self.pools[name] = pool
        self._leaving = {name: pool for name, pool in known.items() if pool.busy}
        gone -= {row for pool in self.pools.values() if pool.config.reuse for row in pool.backends}
        for row in gone:
            self.idle.drop_backend(row)
        # Where a plain port only redirects, a cookie for HTTPS alone is enough.
        all_tls = all(listener.tls or listener.redirect for listener in web.listen)
        self.sites = Sites(
            [Site(site, self.pools[site.pool], self._tokens, all_tls) for site in web.sites]
        )
        # Last, as those who wait for memory may go on at once.
        self.memory.set_limit(web.limits.buffer_memory)

    def set_drained(self, drained: Collection[tuple[str, str]]) -> None:
        """These backends, as (pool, name), get nothing new but what a token brings; others do.

        Such as there aren't are remembered for a configuration that has them.
        """
        self._drained = frozenset(drained)
        for pool in (self._leaving | self.pools).values():
            pool.set_drained(self._drained_of(pool.name))

    def _drained_of(self, pool: str) -> list[str]:
        return [name for of, name in self._drained if of == pool]

    def set_keys(self, keys: tuple[SecretKey, ...]) -> bool:
        """The first of `keys` signs from the next response on, all verify from the next request on.

        False: they are what they were. Raises ValueError, and changes nothing, without any.
        """
        if not keys:
            raise ValueError("keys: expected one or more, got none")
        if keys == self._keys:
            return False
        self._keys = keys
        self._tokens.renew(keys)
        for pool in self.pools.values():
            pool.sign(self._tokens.token)
        return True

    def admit(self, host: str) -> bool:
        """Count one more connection of the client `host`; False: it has `per_client` already.

        A trusted proxy in front of us has those of all its clients: it isn't counted.
        """
        if self.forwarding.trusts(host):
            return True
        count = self._per_client.get(host, 0)
        if count >= self.limits.per_client:
            return False
        self._per_client[host] = count + 1
        return True

    def release(self, host: str, trusted: bool) -> None:
        """A connection of the client `host` has ended; `trusted`: when it began it was."""
        if trusted:
            return
        count = self._per_client.get(host, 0)
        if count > 1:
            self._per_client[host] = count - 1
        else:
            self._per_client.pop(host, None)

    def date_line(self) -> bytes:
        """The Date field of this second, with the CRLF before it."""
        second = int(time.time())
        if second != self._date_second:
            self._date_second = second
            self._date = b"\r\nDate: " + formatdate(second, usegmt=True).encode()
        return self._date

    def backends(self) -> Iterable[Any]:
        """Every backend of every pool: the rows of the web server status table."""
        for pool in self.pools.values():
            yield from pool.backends

    def backend_failed(self, backend: Backend, reason: str) -> None:
        """Tell the operator that `backend` was marked failed: once, until it comes back."""
        self._log.warn(
            "backend {pool}/{name} at {address} failed: {reason}",
            pool=backend.pool,
            name=backend.name,
            address=backend.endpoint,
            reason=reason,
        )

    def backend_recovered(self, backend: Backend) -> None:
        """Tell the operator that `backend` takes connections again, unless it is down by checks."""
        if backend.marked:
            return
        self._log.info("backend {pool}/{name} is back", pool=backend.pool, name=backend.name)

    def _count_internal_error(self) -> None:
        self.counters.internal_errors += 1


def _via(minor: int, name: str) -> bytes:
    """The Via line after a message of this HTTP/1 version (RFC 9110 7.6.3)."""
    return f"\r\nVia: 1.{minor} {name}".encode()
