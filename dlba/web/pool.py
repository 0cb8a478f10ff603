"""Keeps what is known of a pool's backends, and chooses among them.

The web server status table of the seed's Fig. 7: address, average response time, hits, open
connections. A failed connection marks the backend failed for `fail_timeout` seconds; then one
request probes it, and its success clears the mark. Where the pool has checks (`dlba.web.health`),
they say besides whether a backend is down: then no request probes it. If all are marked, all are
tried, those that are down last.

Least connections and round robin share one mechanism: every backend has a virtual time that grows
by 1/weight each time it is chosen (stride scheduling). Round robin takes the earliest virtual time;
least connections takes the fewest open connections by weight and breaks ties by virtual time, so
that an idle pool spreads its requests too. Source: web.md rules 5, 6 and 13.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from dlba.config.values import BackendConfig, PoolConfig
from dlba.web.ring import Ring

__all__ = ["Backend", "Pool"]

#: Weight of a new sample in the moving average of response times.
SAMPLE_WEIGHT: Final = 1 / 8


class Backend:
    """One backend and its row of the table. Times in seconds; `retry_at` monotonic."""

    __slots__ = (
        "address",
        "average_response",
        "backup",
        "cookie_groups",
        "down",
        "drained",
        "draining",
        "enabled",
        "endpoint",
        "failed",
        "hits",
        "name",
        "open_connections",
        "pool",
        "retry_at",
        "token",
        "turn",
        "weight",
    )

    def __init__(self, config: BackendConfig, pool: str, token: bytes = b"") -> None:
        self.name = config.name
        self.pool = pool
        self.endpoint = config.address
        self.address = (config.address.host, config.address.port)
        self.token = token
        #: Draining was asked for.
        self.drained = False
        self.configure(config)
        self.open_connections = 0
        self.hits = 0
        self.average_response = 0.0
        self.cookie_groups = 0
        #: By requests: a connection couldn't be made; and by checks.
        self.failed = False
        self.down = False
        self.retry_at = 0.0
        self.turn = 0.0

    def configure(self, config: BackendConfig) -> None:
        """Take over what may change in a row: `config` has the same name and address."""
        self.weight = config.weight
        self.backup = config.backup
        self.enabled = config.enabled
        #: Gets nothing new but what a token brings: asked for, or by weight 0.
        self.draining = self.drained or config.weight == 0

    @property
    def ordinary(self) -> bool:
        """Whether it gets its share of what is new."""
        return self.enabled and not self.draining and not self.backup

    def usable(self, now: float) -> bool:
        """Whether a request may go there: enabled, not down, and not failed or due for a probe."""
        return self.enabled and not self.down and (not self.failed or now >= self.retry_at)

    @property
    def marked(self) -> bool:
        """Whether it counts as failed, by requests or by checks."""
        return self.failed or self.down

    def answered(self, seconds: float) -> None:
        """Count a response whose head came `seconds` after the connection was begun."""
        if self.hits:
            self.average_response += (seconds - self.average_response) * SAMPLE_WEIGHT
        else:
            self.average_response = seconds
        self.hits += 1


class Pool:
    """The backends that serve the same content."""

    def __init__(
        self, config: PoolConfig, token: Callable[[str, str], bytes] = lambda pool, name: b""
    ) -> None:
        self.name = config.name
        self.backends: list[Backend] = []
        self._token = token
        self._by_name: dict[str, Backend] = {}
        #: Backends that are gone and still have requests under way.
        self._leaving: list[Backend] = []
        self._drained: frozenset[str] = frozenset()
        self._turn = 0.0
        #: How many of the backends are marked.
        self._failures = 0
        self._ring = Ring([])
        self._ring_of: tuple[list[tuple[str, int]], bytes] = ([], b"")
        self.configure(config)

    def configure(self, config: PoolConfig) -> None:
        """Take over `config`, of the pool of this name; requests that are under way go on.

        The row of a backend that keeps its name and address goes on. One that is gone gets nothing
        new; what it has ends with it.
        """
        known = {(row.name, row.endpoint): row for row in (*self._leaving, *self.backends)}
        before = [row for row in self.backends if row.ordinary]
        self.config = config
        self.backends = []
        for backend in config.backends:
            row = known.pop((backend.name, backend.address), None)
            if row is None:
                row = Backend(backend, self.name)
            row.token = self._token(self.name, backend.name)
            row.drained = backend.name in self._drained
            row.configure(backend)
            self.backends.append(row)
        self._by_name = {backend.name: backend for backend in self.backends}
        self._leaving = [row for row in known.values() if row.open_connections]
        weights = [(backend.name, backend.weight or 1) for backend in self.backends]
        key = config.hash_key.encode()
        # A new ring knows no ranking yet.
        if self._ring_of != (weights, key):
            self._ring_of = weights, key
            self._ring = Ring(weights, key)
        self._arrange(before)

    @property
    def busy(self) -> bool:
        """Whether a request is under way with a backend of it, also one that is gone."""
        return any(row.open_connections for row in (*self.backends, *self._leaving))

    def set_drained(self, names: Collection[str]) -> None:
        """The backends that were asked to drain are these, now and after each `configure`."""
        before = self._ordinary
        self._drained = frozenset(names)
        for backend in self.backends:
            backend.drained = backend.name in self._drained
            backend.draining = backend.drained or backend.weight == 0
        self._arrange(before)

    def _arrange(self, before: Collection[Backend]) -> None:
        """The rows have changed. `before`: those that were ordinary until now."""
        #: Those to choose from while none is marked.
        self._ordinary = [backend for backend in self.backends if backend.ordinary]
        for backend in self._ordinary:
            if backend not in before:
                # It doesn't get at once what the others had meanwhile.
                backend.turn = max(backend.turn, self._turn)
        self._count()

    def _count(self) -> None:
        self._failures = sum(backend.marked for backend in self.backends)

    def sign(self, token: Callable[[str, str], bytes]) -> None:
        """From now on the backends' tokens are those that `token` gives."""
        self._token = token
        for backend in self.backends:
            backend.token = token(self.name, backend.name)

    def named(self, name: str, now: float) -> Backend | None:
        """The backend `name` if a request may go there, draining or not; else None."""
        backend = self._by_name.get(name)
        if backend is None or not backend.usable(now):
            return None
        return self._chosen(backend, now)

    def least(self, now: float, tried: Collection[Backend] = ()) -> Backend | None:
        """The usable backend with the fewest open connections by weight; None if all are tried."""
        best = None
        best_load = best_turn = 0.0
        for backend in self._candidates(now, tried):
            load = backend.open_connections / (backend.weight or 1)
            if best is None or load < best_load or (load == best_load and backend.turn < best_turn):
                best, best_load, best_turn = backend, load, backend.turn
        return None if best is None else self._chosen(best, now)

    def round_robin(self, now: float, tried: Collection[Backend] = ()) -> Backend | None:
        """The usable backend whose turn it is by weight; None if all are tried."""
        candidates = self._candidates(now, tried)
        if not candidates:
            return None
        return self._chosen(min(candidates, key=lambda backend: backend.turn), now)

    def hashed(self, key: bytes, now: float, tried: Collection[Backend] = ()) -> Backend | None:
        """The first usable backend in the ranking of `key`; None if all are tried."""
        candidates = self._candidates(now, tried)
        for index in self._ring.ranking(key):
            if self.backends[index] in candidates:
                return self._chosen(self.backends[index], now)
        return None

    def fail(self, backend: Backend, now: float) -> None:
        """A connection to `backend` couldn't be made: it gets nothing for `fail_timeout`."""
        backend.failed = True
        backend.retry_at = now + self.config.fail_timeout
        self._count()

    def recover(self, backend: Backend) -> None:
        """`backend` took a connection: it is alive."""
        if backend.failed:
            backend.failed = False
            self._cleared(backend)

    def set_down(self, backend: Backend, down: bool) -> None:
        """Checks have found `backend` to be down, or not to be down (any more)."""
        if down:
            backend.down = True
            self._count()
        elif backend.down:
            backend.down = False
            self._cleared(backend)

    def _cleared(self, backend: Backend) -> None:
        self._count()
        if not backend.marked:
            # It doesn't get what it missed all at once.
            backend.turn = max(backend.turn, self._turn)

    def _candidates(self, now: float, tried: Collection[Backend]) -> list[Backend]:
        """Ordinary ones, else backups; if all are marked those not down, else any."""
        if not tried and not self._failures and self._ordinary:
            return self._ordinary
        open_to_new = [
            backend
            for backend in self.backends
            if backend.enabled and not backend.draining and backend not in tried
        ]
        choice = (
            [backend for backend in open_to_new if backend.usable(now)]
            or [backend for backend in open_to_new if not backend.down]
            or open_to_new
        )
        return [backend for backend in choice if not backend.backup] or choice

    def _chosen(self, backend: Backend, now: float) -> Backend:
        if backend.failed:
            # This request is the probe; the others wait for what it finds.
            backend.retry_at = now + self.config.fail_timeout
        self._turn = max(self._turn, backend.turn)
        backend.turn += 1 / (backend.weight or 1)
        return backend
