"""Decides what `/status` says: the status tables as values that JSON can carry.

Pure: rows and counters in, one dict out. The shape is the outside contract of `GET /status`:
keys may be added, none may change its meaning. A node that takes no part in routing is `alone` and
has no table. The server status table and the summary status table are the scheduler's: what another
node had in them would be old. Without a channel `term` is 0, and nobody is in `peers`.

Source: the seed's server status table (Fig. 5), web server status table (Fig. 7) and summary status
table (Fig. 8).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import asdict, frozen


@frozen
class BackendRow:
    """One line of the web server status table: a backend as this node sees it."""

    pool: str
    name: str
    address: str
    """`host:port`, an IPv6 host in brackets."""
    average_response: float
    """Moving average of the time from connect to response head, seconds; 0.0 before the first."""
    hits: int
    """Responses relayed since the start."""
    open_connections: int
    failed: bool
    draining: bool
    cookie_groups: int
    """Persistence cookies given out that name this backend."""


@frozen
class NodeRow:
    """One line of the server status table: a node as the scheduler sees it."""

    name: str
    number: int
    mac: str
    """As text, `02:00:00:00:00:0a`."""
    address: str
    enabled: bool
    weight: int
    groups: int
    """Buckets of the client table that are this node's."""
    average_response: float
    """As of a backend, over all of the node's backends, seconds."""
    hits: int
    open_connections: int
    failed: bool
    draining: bool


@frozen
class SummaryRow:
    """One line of the summary status table: a backend as all nodes together see it."""

    pool: str
    name: str
    address: str
    cookie_groups: int
    hits: int
    open_connections: int


@frozen
class ArrayStatus:
    """What this node knows from the channel.

    `term`: of the reign that it follows, without one the highest it has seen; `scheduler`: name of
    the node that it follows, its own if it is scheduler, None for nobody; `peers`: name → what is
    known of that node, `connected` at least, as values that JSON can carry; `summary`: only looked
    at with the role scheduler.
    """

    term: int
    scheduler: str | None
    peers: Mapping[str, Mapping[str, Any]]
    summary: Sequence[SummaryRow] = ()


@frozen
class RoutingStatus:
    """This node's part in routing, and its client table.

    `role`: scheduler, backup or fault; `nodes`: in the order to be shown, only looked at with the
    role scheduler, as is `swept_at`, seconds since 1970 of the last status sweep; `buckets`,
    `assigned`, `version`: of the table that this node has, whatever its role.
    """

    role: str
    nodes: Sequence[NodeRow]
    buckets: int
    assigned: int
    version: int
    swept_at: float | None = None


def status_document(
    node: str,
    vip: str | None,
    backends: Iterable[BackendRow],
    counters: Mapping[str, int],
    routing: RoutingStatus | None = None,
    array: ArrayStatus | None = None,
) -> dict[str, Any]:
    """Return what `/status` answers, ready for `json.dumps`, sharing nothing with the input.

    `node`, `vip`: from the configuration; `backends`: in the order to be shown; `counters`: name →
    number since the start; `routing`: None without a scheduler on this node; `array`: None without
    a channel.
    """
    scheduling = routing is not None and routing.role == "scheduler"
    if array is None:
        array = ArrayStatus(0, node if scheduling else None, {})
    return {
        "node": node,
        "role": "alone" if routing is None else routing.role,
        "term": array.term,
        "scheduler": array.scheduler,
        "vip": vip,
        "config_version": 0,
        "table": routing
        and {
            "buckets": routing.buckets,
            "assigned": routing.assigned,
            "version": routing.version,
        },
        "swept_at": routing.swept_at if routing is not None and scheduling else None,
        "nodes": [asdict(row) for row in routing.nodes]
        if routing is not None and scheduling
        else [],
        "peers": [{"name": name, **known} for name, known in array.peers.items()],
        "backends": [asdict(row) for row in backends],
        "summary": [asdict(row) for row in array.summary] if scheduling else [],
        "counters": dict(counters),
    }
