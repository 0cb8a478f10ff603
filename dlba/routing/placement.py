"""Decides which node a new bucket goes to, by the server status table.

Placement takes the least loaded node for its weight among those open to new buckets: enabled, live,
neither held nor draining, weight above 0. Of equals the lower number is taken. Load is what `by`
names:

    groups        IP groups: the node's buckets in the client table, always up to date
    hits          responses since the node's start, as of its last status
    connections   open client connections, as of its last status

Between two statuses a node seems to stay as it was, and all new buckets would go to one. So each
placement since counts at the node's mean per IP group (hits / groups at the last status). A node
whose mean is 0 or unknown has the mean of all live nodes that had groups; while that is 0 too, a
placement counts 1.

Loads are single quotients of whole numbers, so equal loads are equal whatever the weights.

Source: routing.md "The table"; the seed's Fig. 5, "Internal Operation".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

__all__ = ["By", "NodeRow", "better", "least"]

#: What "least" counts; the values of `placement` in the array file.
By: TypeAlias = Literal["groups", "hits", "connections"]

#: A load and the groups it comes from.
_Mean: TypeAlias = tuple[int, int]
_ONE: Final[_Mean] = (1, 1)


class NodeRow:
    """One node's row. `mac`: 6 bytes; `weight`: 0 or more, whole; `average_response`: seconds.

    The first ten are the seed's columns, with `draining` added. `counts` is where `groups` is read:
    the scheduler puts in its client table's own counts, so the two never differ.
    """

    __slots__ = (
        "address",
        "average_response",
        "counts",
        "draining",
        "enabled",
        "failed",
        "held",
        "hits",
        "mac",
        "name",
        "number",
        "open_connections",
        "placed_since",
        "status_groups",
        "weight",
    )

    def __init__(
        self,
        number: int,
        name: str,
        mac: bytes,
        address: str,
        weight: int = 1,
        enabled: bool = True,
        draining: bool = False,
    ) -> None:
        self.number = number
        self.name = name
        self.mac = mac
        self.address = address
        self.weight = weight
        self.enabled = enabled
        self.draining = draining
        self.failed = False
        #: It answers, but not all that it is asked: it keeps what it has.
        self.held = False
        self.average_response = 0.0
        self.hits = 0
        self.open_connections = 0
        self.counts: Mapping[int, int] = {}
        #: Buckets placed here since the last status.
        self.placed_since = 0
        #: IP groups at the last status.
        self.status_groups = 0

    def __repr__(self) -> str:
        return f"<node {self.number} {self.name}>"

    @property
    def groups(self) -> int:
        """IP groups: the buckets that the client table assigns to this node."""
        return self.counts.get(self.number, 0)

    @property
    def open_to_new(self) -> bool:
        """Whether placement may choose this node."""
        shut = self.failed or self.held or self.draining
        return self.enabled and not shut and self.weight > 0

    def status(self, hits: int, open_connections: int, average_response: float) -> None:
        """Take in what the node said of itself: placements count anew from here."""
        self.hits = hits
        self.open_connections = open_connections
        self.average_response = average_response
        self.status_groups = self.groups
        self.placed_since = 0

    def lost(self) -> None:
        """The node has lost its buckets: what was placed since its last status is gone as well."""
        self.placed_since = 0
        self.status_groups = 0


def least(rows: Iterable[NodeRow], by: By) -> NodeRow | None:
    """The row that a new bucket goes to; None if no node is open to new ones."""
    rows = tuple(rows)
    mean = _mean(rows, by)
    best = None
    best_load = 0.0
    for row in rows:
        if row.open_to_new:
            load = _load(row, by, mean, 0)
            if best is None or load < best_load or (load == best_load and row.number < best.number):
                best, best_load = row, load
    return best


def better(target: NodeRow, owner: NodeRow, rows: Sequence[NodeRow], by: By) -> bool:
    """Whether a silent bucket of `owner` should move to `target`, the least loaded of `rows`.

    So it is if `target` with one more group has still less than `owner` with all it has, so that
    no bucket moves to and fro. From an owner that isn't open to new buckets it always should.
    """
    if not owner.open_to_new:
        return True
    mean = _mean(rows, by)
    return _load(target, by, mean, 1) < _load(owner, by, mean, 0)


def _load(row: NodeRow, by: By, mean: _Mean, more: int) -> float:
    """The row's load by weight with `more` groups more than it has."""
    if by == "groups":
        return (row.groups + more) / row.weight
    known = row.hits if by == "hits" else row.open_connections
    # One more group counts `load / groups`: the node's own mean, or that of all.
    load, groups = (known, row.status_groups) if known and row.status_groups else mean
    return (known * groups + (row.placed_since + more) * load) / (groups * row.weight)


def _mean(rows: Iterable[NodeRow], by: By) -> _Mean:
    """What a group weighs at a node that has no mean of its own."""
    if by == "groups":
        return _ONE
    load = groups = 0
    for row in rows:
        if row.status_groups and not row.failed:
            load += row.hits if by == "hits" else row.open_connections
            groups += row.status_groups
    return (load, groups) if load else _ONE
