"""Keeps every node's copy of the client table equal to the scheduler's.

Pure. The scheduler's end is `Leader`, every other node's is `Follower`. Messages of one connection
arrive in their order or not at all, and all of the protocol rests on that:

- A *position* (term, version) says which table a copy is. Its term stands for a reign, which is a
  term and a node (after a split there may be two of one term): `term_of` makes one number of both.
- Changes travel as deltas. The heartbeat carries the position up to which deltas have been sent, so
  a copy that is elsewhere when it comes has missed one, and asks for a snapshot.
- A reign begins at its parent, the position of the table that it began with: a copy that is there
  goes on from there, every other one asks for a snapshot.
- A snapshot comes in pieces, each at the position where its sender is then. After the first one the
  deltas from there on apply to the whole table; a later piece brings its range to a later position,
  and the deltas in between, which are still on the way, do no harm to it. The copy is whole when
  the last piece is in and the deltas have reached the furthest of their positions.

The sender keeps nothing of a snapshot, the receiver writes it into its table at once: what stands
there meanwhile was true a moment ago, bucket by bucket, which is better than nothing. But it is no
table that anybody else has, so its position is MIXED then.

Source: election.md "Table sync".
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from dlba.election.messages import Delta, Piece, Pull
from dlba.errors import PeerError
from dlba.routing.hashtable import NODES_LIMIT, ClientTable, second_of
from dlba.routing.hashtable import Delta as Changes

__all__ = ["MIXED", "Follower", "Leader", "Position", "piece", "term_of"]

#: Buckets of a piece: 256 KiB, since the channel carries no more than 640 KiB at once.
PIECE_BUCKETS: Final = 65536
#: Heartbeats without a piece that has been asked for until it is asked for again.
PATIENCE: Final = 10
#: Versions are below this: a million changes a second take nine years to get there.
VERSION_LIMIT: Final = 1 << 48

_PAIR_SIZE: Final = 8  # bytes


class Position(NamedTuple):
    """Which table a copy is. `term`: from `term_of`, 0 before any reign."""

    term: int
    version: int


#: Of a copy that is no table anybody else has: no other one is where it is, not even another such.
MIXED: Final = Position(0, 1)


def term_of(term: int, number: int) -> int:
    """The `term` of positions, deltas and pieces in the reign of node `number` in `term`.

    Later terms have larger ones. Two reigns of one term, as in a split, have different ones: their
    versions count different changes.
    """
    return term * NODES_LIMIT + number


def piece(table: ClientTable, position: Position, first: int) -> Piece:
    """What a Pull is answered with. `position`: the Leader's or Follower's own.

    Raises PeerError for a `first` that is no bucket.
    """
    try:
        data = table.piece(first, PIECE_BUCKETS)
    except ValueError as error:
        raise PeerError(f"pull: {error}") from None
    # Of a scheduler's table also what it hasn't sent yet is in the piece.
    version = position.version if position == MIXED else table.version
    last = first + PIECE_BUCKETS >= table.buckets
    return Piece(term=position.term, version=version, first=first, last=last, data=data)


class Leader:
    """The scheduler's end. `sync_every`: seconds from one delta to the next at least."""

    def __init__(self, table: ClientTable, sync_every: float) -> None:
        self._table = table
        self._every = sync_every
        self._term = 0
        self._sent = 0  # the version where the last delta ended
        self._free_at = 0.0
        #: Where the table was when the reign began; in each heartbeat.
        self.parent = MIXED
        #: When `due` has something to say; infinite while there is nothing.
        self.next_at = math.inf

    def start(self, term: int, parent: Position, now: float) -> None:
        """A reign begins. `term`: from `term_of`; `parent`: the Follower's position till now."""
        self._term = term
        self.parent = parent
        self._table.start_at(self._table.version)
        self._sent = self._table.version
        self._free_at = now
        self.next_at = math.inf

    @property
    def position(self) -> Position:
        """Up to where deltas have been sent; in each heartbeat."""
        return Position(self._term, self._sent)

    @property
    def term(self) -> int:
        """Of this reign, from `term_of`."""
        return self._term

    def changed(self, now: float) -> Delta | None:
        """The delta to send to all followers at once, after something may have changed.

        None if nothing has, or if the last one is too recent: then `next_at` says when to ask.
        """
        if self._table.version == self._sent:
            self.next_at = math.inf
            return None
        if now < self._free_at:
            self.next_at = self._free_at
            return None
        changes = self._table.take_delta()
        assert changes is not None
        self._sent = changes.version
        self._free_at = now + self._every
        self.next_at = math.inf
        return Delta(
            term=self._term, since=changes.since, version=changes.version, data=changes.changes
        )

    def due(self, now: float) -> Delta | None:
        """The delta that had to wait, when its time has come."""
        return self.changed(now) if now >= self.next_at else None


class Follower:
    """A backup's end: nobody else writes node numbers into `table` meanwhile.

    A method that raises PeerError has changed nothing: the peer is broken.
    """

    def __init__(self, table: ClientTable) -> None:
        self._table = table
        self._term = 0
        self._mixed = False
        self._asked = False  # a snapshot is on the way
        self._asked_in = 0  # what `_heard` was then
        self._heard = 0  # the term of the last heartbeat
        self._next = table.buckets  # the bucket that the next piece begins with; all are in
        self._target = 0  # the version to reach until the copy is whole
        self._silent = 0  # heartbeats since the last piece

    @property
    def position(self) -> Position:
        """Of the own copy: (0, 0) at the start, MIXED while a snapshot is being written."""
        return MIXED if self._mixed else Position(self._term, self._table.version)

    def start(self, term: int) -> None:
        """The own reign of that `term` has ended: what the table is now, it made of it."""
        self._term = self._heard = term
        self._mixed = self._asked = False

    def pull(self) -> Pull:
        """Ask for a snapshot from its start, whatever was on the way before."""
        self._asked = True
        self._asked_in = self._heard
        self._next = self._silent = 0
        return Pull(first=0)

    def lost(self) -> None:
        """The connection is gone that a Pull went over, or a delta might have come by.

        Whether something is missing the next heartbeat shows.
        """
        self._asked = False

    def heard(self, position: Position, parent: Position) -> bool:
        """A heartbeat of the scheduler that this node follows. True: `pull` from it now."""
        self._heard = position.term
        if self._asked:
            self._silent += 1
            # Asked for in another reign, of a node that may be gone.
            return self._asked_in != position.term or self._silent > PATIENCE
        if parent == self.position and _is_whole(parent):
            self._term = position.term
        # Mixed and where it should be: the deltas that make it whole are still to come.
        here = Position(self._term, self._table.version)
        return here != position or (self._mixed and self._next < self._table.buckets)

    def delta(self, message: Delta, now: float) -> bool:
        """A delta of the scheduler that this node follows. True: a gap, `pull` from it now."""
        if message.version >= VERSION_LIMIT:
            raise PeerError(f"delta: version: expected less than 2**48, got {message.version}")
        if len(message.data) != (message.version - message.since) * _PAIR_SIZE:
            raise PeerError(
                f"delta: expected {_PAIR_SIZE} bytes for each version from {message.since} "
                f"to {message.version}, got {len(message.data)}"
            )
        if message.term != self._term:
            # Its reign begins with a heartbeat, which hasn't come or found another parent.
            return not self._asked and message.term > max(self._term, self._heard)
        try:
            followed = self._table.apply(Changes(message.since, message.version, message.data))
        except ValueError as error:
            raise PeerError(str(error)) from None
        if not followed:
            # Before the first piece a gap is why it was asked for; after it, it is a new one.
            return not self._asked or self._next > 0
        self._settle()
        return False

    def piece(self, message: Piece, now: float) -> Pull | None:
        """A piece that came from where the last Pull went; gives the next Pull to go there.

        None: nothing more to ask for. `position` says whether the copy is whole.
        """
        count = len(message.data) // 4
        buckets = self._table.buckets
        expected = min(PIECE_BUCKETS, buckets - message.first)
        if not 0 < count == expected or message.last is not (message.first + count == buckets):
            raise PeerError(
                f"piece: expected {expected} buckets from {message.first} on, got {count}"
            )
        if message.version >= VERSION_LIMIT:
            raise PeerError(f"piece: version: expected less than 2**48, got {message.version}")
        if not self._asked or message.first != self._next:
            return None  # an answer to a Pull of which nothing is expected any more
        begins = message.first == 0
        if not _is_whole(Position(message.term, message.version)) or (
            begins and not self._mixed and self._heard != message.term < self._term
        ):
            # A peer that has nothing whole, or an older table than ours.
            self._asked = False
            return None
        if not begins and (message.term != self._term or message.version < self._table.version):
            # The sender is in another reign, or hasn't got deltas that this copy has.
            return self.pull()
        try:
            self._table.put(message.first, message.data, second_of(now))
        except ValueError as error:
            raise PeerError(str(error)) from None
        if begins:
            self._table.start_at(message.version)
            self._term = message.term
            self._mixed = True
        self._target = message.version
        self._silent = 0
        self._next = message.first + count
        if not message.last:
            return Pull(first=self._next)
        self._asked = False
        self._settle()
        return None

    def _settle(self) -> None:
        """The copy is whole when the deltas have come to where the last piece was."""
        complete = self._next == self._table.buckets
        if self._mixed and complete and self._table.version >= self._target:
            self._mixed = False


def _is_whole(position: Position) -> bool:
    """Whether a position tells what is in a table: one of a reign does, and the empty one."""
    return position.term > 0 or position.version == 0
