"""Decides what `/status` says: the status tables as values that JSON can carry.

Pure: rows and counters in, one dict out. The shape is the outside contract of `GET /status`:
keys may be added, none may change its meaning. A node that takes no part in routing is `alone` and
has no table. The server status table is the scheduler's: what another node had in its rows would
be old. `term` and `config_version` are 0 and `summary` is empty until nodes speak to each other.

Source: the seed's server status table (Fig. 5) and web server status table (Fig. 7).
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
) -> dict[str, Any]:
    """Return what `/status` answers, ready for `json.dumps`, sharing nothing with the input.

    `node`, `vip`: from the configuration; `backends`: in the order to be shown; `counters`: name →
    number since the start; `routing`: None without a scheduler on this node.
    """
    scheduling = routing is not None and routing.role == "scheduler"
    return {
        "node": node,
        "role": "alone" if routing is None else routing.role,
        "term": 0,
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
        "backends": [asdict(row) for row in backends],
        "summary": [],
        "counters": dict(counters),
    }
