"""Keeps the client table: which node each bucket of flows belongs to, and when it was last used.

One flat buffer, no object a bucket; the same layout can be the memory of a kernel map:

    offset of bucket b   size  what (native byte order)
    8 * b                4     node number, UNASSIGNED if none
    8 * b + 4            4     second of the last packet, see `second_of`

Each change of a node number raises `version` by one and is collected as a delta for the followers:

    offset of pair n     size  what (network byte order)
    8 * n                4     bucket
    8 * n + 4            4     node number

A snapshot is all node numbers, 4 bytes a bucket in network byte order; a piece of one is those of
some buckets in a row: so a table of any size can be sent and nobody keeps a copy meanwhile. A delta
with more pairs than half the buckets would be larger than a snapshot, so the table never collects
more: it forgets what it has and goes on collecting from there, and every follower finds a gap and
asks for a snapshot. What stays in memory is 8 bytes a bucket for the table and at most 4.5 for the
changes; a snapshot takes another 8 while it is made.

Last accesses are never sent: whoever takes over sets all of them to the present (`touch_all`).

Source: routing.md "The table"; the seed's Fig. 4, "Internal Operation" and "Scheduler Failover".
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import Counter
from typing import Final

import attrs

from dlba.config.scheduling import NODES_LIMIT

__all__ = ["NODES_LIMIT", "UNASSIGNED", "ClientTable", "Delta", "age", "second_of"]

#: The node number of a bucket that has no node: the seed's unsigned -1.
UNASSIGNED: Final = 0xFFFFFFFF
#: Pairs of a delta at most: 512 KiB, since the channel carries no more than 640 KiB at once.
PAIRS_LIMIT: Final = 65536
#: Bytes a bucket takes.
BUCKET_SIZE: Final = 8

_PAIR: Final = struct.Struct("!II")
_SECONDS: Final = 1 << 32


def second_of(now: float) -> int:
    """The second to keep as a last access. `now`: seconds, monotonic, 0 or more; gives a u32.

    The clock is that of the machine (it starts about when the machine does), so a number means
    nothing elsewhere. After 2**32 seconds (136 years) it starts at 0 again, which `age` allows for.
    """
    return int(now) % _SECONDS


def age(last: int, now: int) -> int:
    """Seconds from `last` to `now`, both from `second_of`, across a start at 0.

    A `last` after `now` (another clock reader was a little ahead) is 0 seconds old. So is what is
    older than 2**31 seconds (68 years), which can't be told from it: such a bucket passes for used.
    """
    passed = (now - last) % _SECONDS
    return passed if passed < _SECONDS // 2 else 0


@attrs.frozen
class Delta:
    """Changes that lead from version `since` to `version`: packed pairs, oldest first."""

    since: int
    version: int
    changes: bytes = attrs.field(repr=False)


class ClientTable:
    """Bucket → node number and last access; all unassigned at the start.

    `buckets`: how many, 1 or more. `memory`: writable, at least 8 bytes a bucket, taken over and
    overwritten; the table makes its own without one. `cells` is that memory as u32 numbers, two a
    bucket: reading it is free to all, a last access may be written there, a node number only by
    `assign`. Raises ValueError when either can't be.
    """

    __slots__ = ("_limit", "_pending", "_since", "_taken", "buckets", "cells", "groups", "version")

    def __init__(self, buckets: int, memory: bytearray | memoryview | None = None) -> None:
        if buckets < 1:
            raise ValueError(f"client table: buckets: expected 1 or more, got {buckets}")
        size = buckets * BUCKET_SIZE
        view = memoryview(bytearray(size) if memory is None else memory)
        if view.readonly or view.nbytes < size:
            kind = "read-only" if view.readonly else "writable"
            raise ValueError(
                f"client table: memory: expected {size} writable bytes, got {view.nbytes} {kind}"
            )
        self.buckets = buckets
        self.cells = view.cast("B")[:size].cast("I")
        self.cells[::2] = memoryview(array("I", [UNASSIGNED]) * buckets)
        self.touch_all(0)
        #: Node number → IP groups; a node without any isn't in it. Always this one object.
        self.groups: dict[int, int] = {}
        self.version = 0
        self._limit = min(max(buckets // 2, 1), PAIRS_LIMIT) * _PAIR.size
        self._pending = bytearray()
        self._since = 0  # where the collected changes start
        self._taken = 0  # where the last delta ended

    @property
    def assigned(self) -> int:
        """How many buckets have a node."""
        return sum(self.groups.values())

    def bucket_of(self, address: int, port: int) -> int:
        """The seed's sum. `address`: the client's, a 32-bit number; `port`: the client's."""
        return (address + port) % self.buckets

    def node_of(self, bucket: int) -> int:
        """The number of the bucket's node, or UNASSIGNED."""
        return self.cells[2 * bucket]

    def last_of(self, bucket: int) -> int:
        """The second of the bucket's last packet; means nothing while it is unassigned."""
        return self.cells[2 * bucket + 1]

    def assign(self, bucket: int, node: int) -> None:
        """Give `bucket` to `node`, or to none with UNASSIGNED. The same as before: no change."""
        before = self.cells[2 * bucket]
        if node == before:
            return
        if node != UNASSIGNED and not 0 <= node < NODES_LIMIT:
            raise ValueError(f"client table: node: expected 0 to {NODES_LIMIT - 1}, got {node}")
        self._set(bucket, before, node)
        self.version += 1
        if len(self._pending) < self._limit:
            self._pending += _PAIR.pack(bucket, node)
        else:
            self._pending = bytearray()
            self._since = self.version

    def release(self, node: int) -> int:
        """Make every bucket of `node` unassigned; gives how many those were.

        It walks over the table: about 1 ms for 65,536 buckets, and 0.3 µs for each that changes.
        """
        count = left = self.groups.get(node, 0)
        if left:
            for bucket, owner in enumerate(self.cells[::2]):
                if owner == node:
                    self.assign(bucket, UNASSIGNED)
                    left -= 1
                    if not left:
                        break
        return count

    def touch_all(self, now: int) -> None:
        """Set every last access to `now`: done at a takeover, since last accesses aren't shared."""
        self.cells[1::2] = memoryview(array("I", [now]) * self.buckets)

    # ---------------------------------------------------------------- for followers

    def take_delta(self) -> Delta | None:
        """What has changed since the last call; None if nothing has.

        After more changes than are collected its `since` lies after the end of the delta before it.
        """
        if self.version == self._taken:
            return None
        delta = Delta(self._since, self.version, bytes(self._pending))
        self.start_at(self.version)
        return delta

    def snapshot(self) -> tuple[int, bytes]:
        """The version and all node numbers, 4 bytes a bucket, network byte order."""
        return self.version, _network_order(array("I", self.cells[::2].tobytes())).tobytes()

    def apply(self, delta: Delta) -> bool:
        """Follow a delta: True if the table is now at its version or was past it, False for a gap.

        After False nothing has changed and a snapshot is needed. A delta that begins before the
        table's version and ends after it is right too: its later pairs settle every bucket.
        Raises ValueError for one that can't be, and changes nothing: the peer that sent it is
        broken.
        """
        pairs = _words(delta.changes, "delta: changes", _PAIR.size)
        if not 0 <= delta.since <= delta.version:
            raise ValueError(
                f"delta: expected 0 <= since <= version, got {delta.since} and {delta.version}"
            )
        buckets, nodes = pairs[::2], pairs[1::2]
        _check_nodes(Counter(nodes), "delta")
        if max(buckets, default=0) >= self.buckets:
            raise ValueError(f"delta: bucket: expected 0 to {self.buckets - 1}, got {max(buckets)}")
        if delta.version <= self.version:
            return True
        if delta.since > self.version:
            return False
        for bucket, node in zip(buckets, nodes, strict=True):
            self._set(bucket, self.cells[2 * bucket], node)
        self.start_at(delta.version)
        return True

    def restore(self, version: int, snapshot: bytes, now: int) -> None:
        """Become what a snapshot says, with every last access at `now`; no delta comes of it.

        Raises ValueError, and changes nothing, for a snapshot that is no such table.
        """
        if version < 0:
            raise ValueError(f"snapshot: version: expected 0 or more, got {version}")
        if len(snapshot) != 4 * self.buckets:
            raise ValueError(
                f"snapshot: expected {4 * self.buckets} bytes for {self.buckets} buckets, "
                f"got {len(snapshot)}"
            )
        nodes = _words(snapshot, "snapshot", 4)
        groups = Counter(nodes)
        _check_nodes(groups, "snapshot")
        del groups[UNASSIGNED]
        self.cells[::2] = memoryview(nodes)
        self.groups.clear()
        self.groups.update(groups)
        self.touch_all(now)
        self.start_at(version)

    def piece(self, first: int, count: int) -> bytes:
        """Node numbers of `count` buckets from `first` on, as in a snapshot; fewer at the end.

        Raises ValueError for a `first` that is no bucket.
        """
        if not 0 <= first < self.buckets:
            raise ValueError(f"piece: first: expected 0 to {self.buckets - 1}, got {first}")
        cells = self.cells[2 * first : 2 * (first + count) : 2]
        return _network_order(array("I", cells.tobytes())).tobytes()

    def put(self, first: int, piece: bytes, now: int) -> None:
        """Write a piece that begins at bucket `first`, with its last accesses at `now`.

        The version stays and no delta comes of it: `start_at` says where the table is when all of
        it has been written. Raises ValueError, and changes nothing, for what is no such piece.
        """
        nodes = _words(piece, "piece", 4)
        end = first + len(nodes)
        if not 0 <= first < end <= self.buckets:
            raise ValueError(
                f"piece: expected some of the buckets 0 to {self.buckets - 1}, "
                f"got {first} to {end - 1}"
            )
        after = Counter(nodes)
        _check_nodes(after, "piece")
        cells = slice(2 * first, 2 * end, 2)
        before = Counter(self.cells[cells].tolist())
        self.cells[cells] = memoryview(nodes)
        self.cells[2 * first + 1 : 2 * end : 2] = memoryview(array("I", [now]) * len(nodes))
        groups = self.groups
        for node in (before.keys() | after.keys()) - {UNASSIGNED}:
            groups[node] = groups.get(node, 0) + after[node] - before[node]
            if not groups[node]:
                del groups[node]

    def start_at(self, version: int) -> None:
        """Be at `version`, and collect changes from there on; what was collected is forgotten."""
        self.version = self._since = self._taken = version
        self._pending = bytearray()

    def _set(self, bucket: int, before: int, node: int) -> None:
        """Write one node number and count it."""
        self.cells[2 * bucket] = node
        groups = self.groups
        if before != UNASSIGNED:
            groups[before] -= 1
            if not groups[before]:
                del groups[before]
        if node != UNASSIGNED:
            groups[node] = groups.get(node, 0) + 1


def _words(data: bytes, where: str, size: int) -> array[int]:
    """The u32 numbers in `data`, which comes in pieces of `size` bytes."""
    if len(data) % size:
        raise ValueError(f"{where}: expected a multiple of {size} bytes, got {len(data)}")
    return _network_order(array("I", data))


def _network_order(words: array[int]) -> array[int]:
    """The same numbers, turned in place from or into network byte order."""
    if sys.byteorder == "little":
        words.byteswap()
    return words


def _check_nodes(nodes: Counter[int], where: str) -> None:
    worst = max((node for node in nodes if node != UNASSIGNED), default=0)
    if worst >= NODES_LIMIT:
        raise ValueError(
            f"{where}: node: expected 0 to {NODES_LIMIT - 1} or {UNASSIGNED} for none, got {worst}"
        )
