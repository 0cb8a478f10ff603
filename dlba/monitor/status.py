"""Decides what `/status` says: the status tables as values that JSON can carry.

Pure: rows and counters in, one dict out. The shape is the outside contract of `GET /status`:
keys may be added, none may change its meaning. This node is an array of one so far: `role` is
`alone`, `term` and `config_version` are 0, `table` and `swept_at` null, `nodes` and `summary`
empty.

Source: the seed's web server status table (Fig. 7).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen


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


def status_document(
    node: str,
    vip: str | None,
    backends: Iterable[BackendRow],
    counters: Mapping[str, int],
) -> dict[str, Any]:
    """Return what `/status` answers, ready for `json.dumps`, sharing nothing with the input.

    `node`, `vip`: from the configuration; `backends`: in the order to be shown; `counters`: name →
    number since the start.
    """
    return {
        "node": node,
        "role": "alone",
        "term": 0,
        "vip": vip,
        "config_version": 0,
        "table": None,
        "swept_at": None,
        "nodes": [],
        "backends": [
            {
                "pool": row.pool,
                "name": row.name,
                "address": row.address,
                "average_response": row.average_response,
                "hits": row.hits,
                "open_connections": row.open_connections,
                "failed": row.failed,
                "draining": row.draining,
                "cookie_groups": row.cookie_groups,
            }
            for row in backends
        ],
        "summary": [],
        "counters": dict(counters),
    }
