"""Decides which node each frame goes to: the client table and the server status table together.

- A bucket without a node is placed (`placement.py`) by its first packet.
- A bucket keeps its node while it is used. Silent for longer than `bucket_timeout`, it moves with
  its next packet if placement would now choose a better node: so a new node enters gradually, and
  only where nobody is.
- A failed node loses all its buckets at once; they are placed anew as packets come. A bucket whose
  node number has no row is placed anew likewise, with its next packet.
- A draining, held or disabled node, or one of weight 0, gets no new bucket; what it has, moves
  when silent.

`choose` runs for every frame: two look-ups in flat memory and one in a set while a bucket keeps its
node (about 0.12 µs); what else may happen to a bucket stands in `_decide`, which `where` asks too.

All state is in the table and the rows: after a change of the configuration a new scheduler over the
same table goes on with the new rows.

Source: routing.md "The table"; the seed's "Internal Operation".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from enum import Enum

import attrs

from dlba.routing.hashtable import NODES_LIMIT, UNASSIGNED, ClientTable, age
from dlba.routing.placement import By, NodeRow, better, least

__all__ = ["Scheduler", "Where", "Why"]


class Why(Enum):
    """Why a bucket's next packet goes where it goes; the value is a sentence for people."""

    HELD = "its node keeps it: it was used within bucket_timeout"
    PLACED = "unassigned: it goes to the node with the least load for its weight"
    LOST = "its node has failed or is gone: it goes to the node with the least load for its weight"
    MOVES = "silent for longer than bucket_timeout, and another node has less load for its weight"
    LEAVES = "silent for longer than bucket_timeout, and its node is draining, held or disabled"
    STAYS = "silent for longer than bucket_timeout, but no other node is better"
    NOBODY = "no node is enabled, live, neither draining nor held and of a weight above 0"


@attrs.frozen
class Where:
    """Where a flow goes. `owner`: the bucket's node now; `node`: the one of the next packet.

    Both are node numbers or UNASSIGNED. `age`: whole seconds since the bucket's last packet (since
    the takeover, if none came), None while it is unassigned.
    """

    bucket: int
    owner: int
    node: int
    age: int | None
    why: Why


class Scheduler:
    """`bucket_timeout`: seconds above 0; `by`: what placement counts; `bucket_of`: the keyed hash.

    Without `bucket_of` it is the seed's sum. Raises ValueError for rows with one number twice or a
    number out of range, and for a time that can't be.
    """

    __slots__ = (
        "_bucket_of",
        "_buckets",
        "_cells",
        "_live",
        "_rows",
        "_timeout",
        "by",
        "rows",
        "table",
    )

    def __init__(
        self,
        table: ClientTable,
        rows: Iterable[NodeRow],
        bucket_timeout: float,
        by: By = "groups",
        bucket_of: Callable[[int, int], int] | None = None,
    ) -> None:
        if not 0 < bucket_timeout < 2**31:
            raise ValueError(
                f"bucket_timeout: expected above 0 and below 2**31 seconds, got {bucket_timeout}"
            )
        self.table = table
        #: The server status table, by number.
        self.rows = tuple(sorted(rows, key=lambda row: row.number))
        self._rows = {row.number: row for row in self.rows}
        for row in self.rows:
            if not 0 <= row.number < NODES_LIMIT or self._rows[row.number] is not row:
                raise ValueError(
                    f"node {row.name}: number: expected one of its own from 0 to "
                    f"{NODES_LIMIT - 1}, got {row.number}"
                )
            row.counts = table.groups
        self.by = by
        # Whole seconds apart by more than the ceiling means silent for longer, never less.
        self._timeout = math.ceil(bucket_timeout)
        self._bucket_of = bucket_of
        self._cells = table.cells
        self._buckets = table.buckets
        #: The numbers whose buckets stay with them.
        self._live = {row.number for row in self.rows if not row.failed}

    # ---------------------------------------------------------------- for every frame

    def choose(self, address: int, port: int, now: int) -> int:
        """The number of the node that this packet goes to, UNASSIGNED if nobody can take it.

        `address`, `port`: the client's, as numbers; `now`: from `second_of`, once a wake.
        """
        bucket_of = self._bucket_of
        if bucket_of is None:
            cell = (address + port) % self._buckets * 2
        else:
            cell = bucket_of(address, port) * 2
        cells = self._cells
        node: int = cells[cell]
        if node in self._live:
            silent = now - cells[cell + 1]
            if not silent:
                return node
            # A negative one is `_settle`'s: the clock may have started anew.
            if 0 < silent <= self._timeout:
                cells[cell + 1] = now
                return node
        return self._settle(cell >> 1, now)

    def _settle(self, bucket: int, now: int) -> int:
        """Do to the bucket what `_decide` says, for a packet at `now`; gives its node."""
        table = self.table
        owner = table.node_of(bucket)
        node, _ = self._decide(owner, age(table.last_of(bucket), now))
        if node != owner:
            if owner not in self._live:
                table.assign(bucket, UNASSIGNED)
            if node == UNASSIGNED:
                return UNASSIGNED
            table.assign(bucket, node)
            self._rows[node].placed_since += 1
        elif node == UNASSIGNED:
            return UNASSIGNED
        self._cells[2 * bucket + 1] = now
        return node

    def _decide(self, owner: int, silent: int) -> tuple[int, Why]:
        """The node that a bucket's next packet goes to, and why. `silent`: seconds."""
        if owner not in self._live:
            target = least(self.rows, self.by)
            if target is None:
                return UNASSIGNED, Why.NOBODY
            return target.number, Why.PLACED if owner == UNASSIGNED else Why.LOST
        if silent <= self._timeout:
            return owner, Why.HELD
        row = self._rows[owner]
        target = least(self.rows, self.by)
        if target is None or not better(target, row, self.rows, self.by):
            return owner, Why.STAYS
        return target.number, Why.MOVES if row.open_to_new else Why.LEAVES

    # ---------------------------------------------------------------- for people

    def bucket_of(self, address: int, port: int) -> int:
        """The bucket of a flow; nothing changes. `address`, `port`: the client's, as numbers."""
        return (self._bucket_of or self.table.bucket_of)(address, port)

    def rehash(self, bucket_of: Callable[[int, int], int]) -> None:
        """Find buckets by another hash from now on."""
        self._bucket_of = bucket_of

    def where(self, address: int, port: int, now: int) -> Where:
        """What `choose` would do with such a packet; nothing changes."""
        bucket = self.bucket_of(address, port)
        owner = self.table.node_of(bucket)
        silent = age(self.table.last_of(bucket), now)
        node, why = self._decide(owner, silent)
        return Where(bucket, owner, node, None if owner == UNASSIGNED else silent, why)

    def row(self, node: int) -> NodeRow:
        """The server status table's row of a node. KeyError for one without a row."""
        return self._rows[node]

    # ---------------------------------------------------------------- what befalls nodes
    # Each takes a node number and raises KeyError for one without a row; twice is as good as once.

    def fail(self, node: int) -> int:
        """The node has failed: all its buckets become unassigned; gives how many those were."""
        self.mark(node)
        return self.table.release(node)

    def mark(self, node: int) -> None:
        """As `fail`, but its buckets stay in the table until a packet comes for them."""
        row = self._rows[node]
        row.failed = True
        row.lost()
        self._live.discard(node)

    def recover(self, node: int) -> None:
        """The node lives again; it gets unassigned and long unused buckets only."""
        self._rows[node].failed = False
        self._live.add(node)

    def hold(self, node: int, on: bool) -> None:
        """The node gets no new buckets while `on`: nobody knows how it is."""
        self._rows[node].held = on

    def drain(self, node: int) -> None:
        """The node gets no new buckets."""
        self._rows[node].draining = True

    def resume(self, node: int) -> None:
        """The end of `drain`."""
        self._rows[node].draining = False

    def enable(self, node: int) -> None:
        """The end of `disable`."""
        self._rows[node].enabled = True

    def disable(self, node: int) -> None:
        """The node gets no new buckets."""
        self._rows[node].enabled = False
