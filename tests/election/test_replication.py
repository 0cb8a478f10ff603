"""Tests of dlba.election.replication."""

import math
import struct
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from dlba.election import replication
from dlba.election.messages import Delta, Piece, Pull
from dlba.election.replication import MIXED, Follower, Leader, Position, piece, term_of
from dlba.errors import PeerError
from dlba.routing.hashtable import UNASSIGNED, ClientTable

BUCKETS = 8
NODES = 3
SYNC = 0.05
NONE = b"\xff\xff\xff\xff"


class Node:
    """One node's ends, as the adapter uses them: of one it hears, it keeps the reign it follows."""

    def __init__(self, number):
        self.number = number
        self.table = ClientTable(BUCKETS)
        self.leader = Leader(self.table, SYNC)
        self.follower = Follower(self.table)
        self.reigns = False
        self.reign = (0, 0)  # term and number of the scheduler that it follows or is

    @property
    def position(self):
        return self.leader.position if self.reigns else self.follower.position


class Line:
    """One direction of a connection: what is on the way."""

    def __init__(self):
        self.waiting = deque()
        self.blocked = False  # a backlog: what is sent now is refused


class ArrayMachine(RuleBasedStateMachine):
    """Three nodes over lines that delay, refuse and break; reigns that follow and meet."""

    def __init__(self):
        super().__init__()
        self.nodes = [Node(number) for number in range(NODES)]
        self.lines = {(a, b): Line() for a in range(NODES) for b in range(NODES) if a != b}
        self.now = 100.0
        self.empty = self.nodes[0].table.snapshot()[1]
        #: Position → what every table is that is there.
        self.history = {Position(0, 0): self.empty}

    # ---------------------------------------------------------------- what the adapter does

    def send(self, a, b, message):
        line = self.lines[a, b]
        if not line.blocked:
            line.waiting.append(message)

    def note(self, node):
        """Write down what the table of a scheduler is."""
        version, data = node.table.snapshot()
        position = Position(node.leader.term, version)
        assert self.history.setdefault(position, data) == data, position

    def publish(self, node, delta):
        if delta is not None:
            for other in range(NODES):
                if other != node.number:
                    self.send(node.number, other, delta)

    def beat(self, node):
        for other in range(NODES):
            if other != node.number:
                heartbeat = (node.reign, node.leader.position, node.leader.parent)
                self.send(node.number, other, heartbeat)

    def deliver(self, a, b):
        message = self.lines[a, b].waiting.popleft()
        node = self.nodes[b]
        pull = None
        if isinstance(message, Pull):
            self.send(b, a, piece(node.table, node.position, message.first))
        elif isinstance(message, tuple):
            reign, position, parent = message
            if reign > node.reign:
                if node.reigns:
                    node.reigns = False
                    node.follower.start(node.leader.term)
                node.reign = reign
            if reign == node.reign and node.follower.heard(position, parent):
                pull = node.follower.pull()
        elif isinstance(message, Delta):
            if node.reign[1] == a and not node.reigns:
                if node.follower.delta(message, self.now):
                    pull = node.follower.pull()
        elif not node.reigns:
            pull = node.follower.piece(message, self.now)
        if pull is not None:
            self.send(b, a, pull)

    # ---------------------------------------------------------------- what happens

    @initialize(number=st.integers(0, NODES - 1))
    def first_reign(self, number):
        self.reign_of(number, 1)

    def reign_of(self, number, term):
        node = self.nodes[number]
        parent = node.follower.position
        node.follower.lost()
        node.reigns, node.reign = True, (term, number)
        node.leader.start(term_of(term, number), parent, self.now)
        self.note(node)
        self.beat(node)

    @rule(
        number=st.integers(0, NODES - 1),
        bucket=st.integers(0, BUCKETS - 1),
        owner=st.one_of(st.integers(0, 2), st.just(UNASSIGNED)),
        publish=st.booleans(),
    )
    def assign(self, number, bucket, owner, publish):
        node = self.nodes[number]
        if node.reigns:
            node.table.assign(bucket, owner)
            self.note(node)
            if publish:
                self.publish(node, node.leader.changed(self.now))

    @rule(number=st.integers(0, NODES - 1))
    def many(self, number):
        """More than a delta collects."""
        node = self.nodes[number]
        if node.reigns:
            for bucket in range(BUCKETS):
                node.table.assign(bucket, (node.table.node_of(bucket) + 1) % 3)
                self.note(node)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.05]))
    def tick(self, seconds):
        self.now += seconds
        for node in self.nodes:
            if node.reigns:
                self.publish(node, node.leader.due(self.now))

    @rule(number=st.integers(0, NODES - 1))
    def heartbeat(self, number):
        if self.nodes[number].reigns:
            self.beat(self.nodes[number])

    @rule(
        line=st.sampled_from([(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]),
        count=st.integers(1, 5),
    )
    def arrive(self, line, count):
        for _ in range(count):
            if self.lines[line].waiting:
                self.deliver(*line)

    @rule(line=st.sampled_from([(0, 1), (0, 2), (1, 2)]))
    def cut(self, line):
        """The connection breaks, and is there again at once."""
        a, b = line
        for one, other in ((a, b), (b, a)):
            self.lines[one, other].waiting.clear()
            self.lines[one, other].blocked = False
            self.nodes[one].follower.lost()

    @rule(line=st.sampled_from([(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]), on=st.booleans())
    def backlog(self, line, on):
        self.lines[line].blocked = on

    @rule(number=st.integers(0, NODES - 1), ahead=st.integers(0, 1))
    def takeover(self, number, ahead):
        """`ahead` 0: in the term of a reign that this node knows nothing of, if there is one."""
        node = self.nodes[number]
        if not node.reigns:
            self.reign_of(number, node.reign[0] + 1)
        elif ahead:
            self.reign_again(node)

    def reign_again(self, node):
        """As after a split: goes on in a higher term."""
        parent = Position(node.leader.term, node.table.version)
        term = max(n.reign[0] for n in self.nodes) + 1
        node.reign = (term, node.number)
        node.leader.start(term_of(*node.reign), parent, self.now)
        self.note(node)
        self.beat(node)

    @rule(line=st.sampled_from([(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]))
    def pull_from_a_peer(self, line):
        a, b = line
        if not self.nodes[a].reigns:
            self.send(a, b, self.nodes[a].follower.pull())

    @rule(number=st.integers(0, NODES - 1))
    @precondition(lambda self: sum(node.reigns for node in self.nodes) > 1)
    def restart(self, number):
        """Another process without a table; the lines break."""
        term = self.nodes[number].reign[0]  # on disk
        self.nodes[number] = Node(number)
        self.nodes[number].reign = (term, number)
        for a, b in self.lines:
            if number in (a, b):
                self.lines[a, b].waiting.clear()
                self.lines[a, b].blocked = False
                self.nodes[a].follower.lost()

    @rule()
    def drain(self):
        """When everything has arrived, every table is the scheduler's."""
        for line in self.lines.values():
            line.blocked = False
        reigning = [node for node in self.nodes if node.reigns]
        if not reigning:
            return
        best = max(reigning, key=lambda node: node.reign)
        if best.reign < max(node.reign for node in self.nodes):
            self.reign_again(best)
        for _ in range(replication.PATIENCE + 3):
            self.now += SYNC
            self.publish(best, best.leader.changed(self.now))
            self.beat(best)
            moved = 0
            while any(line.waiting for line in self.lines.values()):
                for (a, b), line in self.lines.items():
                    if line.waiting:
                        self.deliver(a, b)
                        moved += 1
                assert moved < 500, "messages without end"
        for node in self.nodes:
            assert node.reign == best.reign
            assert node.table.snapshot() == best.table.snapshot(), node.number
            assert node.table.groups == best.table.groups, node.number
            if node is not best:
                assert node.follower.position == best.leader.position, node.number

    @invariant()
    def a_position_tells_what_is_in_the_table(self):
        for node in self.nodes:
            if not node.reigns and node.follower.position != MIXED:
                data = node.table.snapshot()[1]
                assert self.history[node.follower.position] == data, node.follower.position

    def teardown(self):
        self.drain()


class ArrayTests(SynchronousTestCase):
    def test_every_copy_becomes_the_schedulers(self):
        self.patch(replication, "PIECE_BUCKETS", 3)
        case = ArrayMachine.TestCase
        case.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)
        case().runTest()


T1, T2 = term_of(1, 0), term_of(2, 1)


class LeaderTests(SynchronousTestCase):
    def setUp(self):
        self.table = ClientTable(BUCKETS)
        self.table.assign(0, 1)
        self.leader = Leader(self.table, SYNC)
        self.leader.start(T1, Position(0, 0), 10.0)

    def test_what_changed_before_the_reign_is_no_delta(self):
        self.assertEqual(self.leader.position, (T1, 1))
        self.assertEqual(self.leader.parent, (0, 0))
        self.assertEqual(self.leader.term, T1)
        self.assertIsNone(self.leader.changed(10.0))
        self.assertEqual(self.leader.next_at, math.inf)

    def test_a_delta_at_once_and_the_next_one_later(self):
        self.table.assign(1, 2)
        self.assertEqual(
            self.leader.changed(10.0),
            Delta(term=T1, since=1, version=2, data=struct.pack("!II", 1, 2)),
        )
        self.assertEqual((self.leader.position, self.leader.next_at), ((T1, 2), math.inf))
        self.table.assign(2, 2)
        self.assertIsNone(self.leader.changed(10.01))
        self.assertEqual(self.leader.position, (T1, 2), "not sent yet")
        self.assertEqual(self.leader.next_at, 10.0 + SYNC)
        self.assertIsNone(self.leader.due(10.02))
        self.table.assign(3, 2)
        found = self.leader.due(10.0 + SYNC)
        self.assertEqual((found.since, found.version, len(found.data)), (2, 4, 16))
        self.assertIsNone(self.leader.due(11.0))
        self.table.assign(3, 1)
        self.assertIsNotNone(self.leader.changed(11.0))

    def test_what_is_not_sent_is_in_a_piece(self):
        self.table.assign(1, 2)
        self.assertEqual(piece(self.table, self.leader.position, 0).version, 2)

    def test_a_pull_beyond_the_table(self):
        with self.assertRaisesRegex(PeerError, "first: expected 0 to 7, got 8"):
            piece(self.table, self.leader.position, 8)

    def test_a_reign_has_a_number_of_its_own(self):
        numbers = [term_of(term, number) for term in (1, 2) for number in (0, 1, 1023)]
        self.assertEqual(numbers, sorted(set(numbers)))


class FollowerTests(SynchronousTestCase):
    """One stream, message by message; pieces of three buckets."""

    def setUp(self):
        self.patch(replication, "PIECE_BUCKETS", 3)
        self.table = ClientTable(BUCKETS)
        self.leader = Leader(self.table, 0.0)
        self.leader.start(T1, Position(0, 0), 0.0)
        self.follower = Follower(ClientTable(BUCKETS))

    def copy(self):
        return self.follower._table.snapshot()

    def change(self, *buckets, node=1):
        for bucket in buckets:
            self.table.assign(bucket, node)

    def send_delta(self):
        return self.follower.delta(self.leader.changed(0.0), 0.0)

    def beat(self):
        return self.follower.heard(self.leader.position, self.leader.parent)

    def answer(self, pull):
        return self.follower.piece(piece(self.table, self.leader.position, pull.first), 0.0)

    def pull_all(self, pull):
        while pull is not None:
            pull = self.answer(pull)

    def test_from_the_empty_table_by_deltas_alone(self):
        self.assertFalse(self.beat())
        self.assertEqual(self.follower.position, (T1, 0))
        self.change(1, 2)
        self.assertFalse(self.send_delta())
        self.assertFalse(self.beat())
        self.assertEqual(self.copy(), self.table.snapshot())
        self.assertEqual(self.follower.position, self.leader.position)

    def test_a_delta_that_did_not_come(self):
        self.beat()
        self.change(1)
        self.leader.changed(0.0)
        self.assertTrue(self.beat(), "the heartbeat tells")
        self.pull_all(self.follower.pull())
        self.change(2)
        self.leader.changed(0.0)
        self.change(3)
        self.assertTrue(self.send_delta(), "the next delta tells")

    def test_changes_not_sent_yet_are_none_missed(self):
        self.beat()
        self.change(1)
        self.assertFalse(self.beat())

    def test_deltas_between_pieces(self):
        self.change(*range(8))
        self.leader.changed(0.0)
        self.assertTrue(self.beat())
        pull = self.answer(self.follower.pull())
        self.assertEqual(pull, Pull(first=3))
        self.assertEqual(self.follower.position, MIXED)
        self.change(0, 4, 7, node=2)
        self.assertFalse(self.send_delta())
        pull = self.answer(pull)
        self.change(1, 5, node=2)
        self.assertIsNone(self.answer(pull))
        self.assertEqual(self.follower.position, MIXED, "a delta from before the last piece is due")
        self.assertFalse(self.beat(), "it is on its way")
        self.assertFalse(self.send_delta())
        self.assertEqual(self.follower.position, self.leader.position)
        self.assertEqual(self.follower.position, self.leader.position)
        self.assertEqual(self.copy(), self.table.snapshot())

    def test_a_gap_between_pieces(self):
        self.change(*range(8))
        pull = self.answer(self.follower.pull())
        self.change(0, node=2)
        self.leader.changed(0.0)
        self.change(1, node=2)
        self.assertTrue(self.send_delta())
        again = self.follower.pull()
        self.change(2, node=2)
        self.assertFalse(self.send_delta(), "asked already")
        self.assertIsNone(self.answer(pull), "of the first attempt")
        self.pull_all(again)
        self.assertEqual(self.copy(), self.table.snapshot())
        self.assertEqual(self.follower.position, self.leader.position)

    def test_two_snapshots_asked_for_at_once(self):
        self.change(*range(8))
        first, second = self.follower.pull(), self.follower.pull()
        pull = self.answer(first)
        self.assertIsNone(self.answer(second))
        self.pull_all(pull)
        self.assertEqual(self.copy(), self.table.snapshot())
        self.assertNotEqual(self.follower.position, MIXED)

    def test_no_answer(self):
        self.beat()
        self.follower.pull()
        asked = [self.beat() for _ in range(replication.PATIENCE + 1)]
        self.assertEqual(asked, [False] * replication.PATIENCE + [True])
        self.follower.pull()
        self.assertFalse(self.beat())

    def test_asked_in_another_reign(self):
        self.beat()
        self.follower.pull()
        self.assertTrue(self.follower.heard(Position(T2, 5), Position(T1, 5)))
        self.follower.pull()
        self.assertFalse(self.follower.heard(Position(T2, 5), Position(T1, 5)))

    def test_a_connection_lost_between_pieces(self):
        self.change(*range(8))
        self.leader.changed(0.0)
        self.answer(self.follower.pull())
        self.follower.lost()
        self.assertEqual(self.follower.position, MIXED)
        self.assertTrue(self.beat(), "its version is right, but not its contents")
        self.pull_all(self.follower.pull())
        self.assertFalse(self.beat())
        self.assertEqual(self.copy(), self.table.snapshot())

    def test_a_reign_that_begins_where_the_copy_is(self):
        self.beat()
        self.change(1)
        self.send_delta()
        self.leader.start(T2, Position(T1, 1), 0.0)
        self.assertFalse(self.beat())
        self.change(2)
        self.assertFalse(self.send_delta())
        self.assertEqual((self.follower.position, self.copy()), ((T2, 2), self.table.snapshot()))

    def test_a_reign_that_begins_elsewhere(self):
        self.beat()
        for parent in (Position(T1, 1), Position(T1 + 1, 0), MIXED):
            self.assertTrue(self.follower.heard(Position(T2, 0), parent), parent)

    def test_mixed_is_nobodys_parent(self):
        self.change(*range(8))
        self.answer(self.follower.pull())
        self.follower.lost()
        self.assertEqual(self.follower.position, MIXED)
        self.leader.start(T2, MIXED, 0.0)
        self.assertTrue(self.beat())
        self.assertEqual(self.follower.position, MIXED)

    def test_a_table_from_before_any_reign_is_nobodys_parent(self):
        table = ClientTable(BUCKETS)
        table.start_at(5)
        follower = Follower(table)
        self.assertTrue(follower.heard(Position(T1, 5), follower.position))

    def test_a_late_delta_of_the_reign_before(self):
        self.beat()
        self.change(1)
        late = self.leader.changed(0.0)
        self.leader.start(T2, Position(T1, 1), 0.0)
        self.assertTrue(self.beat())
        self.follower.pull()
        self.pull_all(Pull(first=0))
        self.assertFalse(self.follower.delta(late, 0.0))
        self.follower.lost()
        self.assertFalse(self.follower.delta(late, 0.0))
        self.assertEqual(self.copy(), self.table.snapshot())

    def test_a_delta_before_its_reigns_heartbeat(self):
        self.beat()
        self.leader.start(T2, Position(T1, 0), 0.0)
        self.change(1)
        self.assertTrue(self.send_delta())
        self.follower.pull()
        self.change(2)
        self.assertFalse(self.send_delta(), "asked already")

    def test_a_snapshot_of_a_peer_that_lags(self):
        """Its later piece hasn't got the deltas that this copy has: from the start."""
        self.beat()
        self.change(*range(8))
        peer = ClientTable(BUCKETS)
        peer.restore(*self.table.snapshot(), 0)
        pull = self.follower.piece(piece(peer, self.leader.position, self.follower.pull().first), 0)
        self.change(4, node=2)
        self.send_delta()
        self.assertEqual(
            self.follower.piece(piece(peer, Position(T1, 8), pull.first), 0), Pull(first=0)
        )

    def test_a_snapshot_that_goes_on_in_another_reign(self):
        self.change(*range(8))
        pull = self.answer(self.follower.pull())
        self.leader.start(T2, MIXED, 0.0)
        self.assertEqual(self.answer(pull), Pull(first=0))
        self.pull_all(Pull(first=0))
        self.assertEqual(self.follower.position, (T2, 8))

    def test_what_a_peer_has_that_is_worse(self):
        self.beat()
        self.change(1)
        self.send_delta()
        mine = self.copy()
        empty = ClientTable(BUCKETS)
        for position in (Position(0, 0), MIXED, Position(0, 7)):
            pull = self.follower.pull()
            self.assertIsNone(self.follower.piece(piece(empty, position, pull.first), 0.0))
            self.assertEqual(self.copy(), mine, position)
            self.assertEqual(self.follower.position, (T1, 1))

    def test_a_mixed_copy_says_so_when_asked(self):
        self.change(*range(8))
        self.answer(self.follower.pull())
        sent = piece(self.follower._table, self.follower.position, 0)
        self.assertEqual((sent.term, sent.version), MIXED)

    def test_an_own_reign_that_has_ended(self):
        self.follower.start(T2)
        self.assertEqual(self.follower.position, (T2, 0))
        self.assertTrue(self.follower.heard(Position(term_of(3, 0), 0), Position(T1, 0)))
        self.assertFalse(self.follower.heard(Position(term_of(3, 0), 0), Position(T2, 0)))

    def test_last_accesses_are_those_of_now(self):
        self.change(1)
        self.follower.piece(
            piece(self.table, self.leader.position, self.follower.pull().first), 7.9
        )
        self.assertEqual([self.follower._table.last_of(b) for b in range(4)], [7, 7, 7, 0])

    def test_deltas_that_can_not_be(self):
        self.beat()
        for since, version, data in (
            (0, 1, b""),
            (0, 1, bytes(7)),
            (0, 2, bytes(8)),
            (1, 0, bytes(8)),
            (1, 0, b""),
            (0, 1, struct.pack("!II", 8, 0)),
            (0, 1, struct.pack("!II", 0, 1024)),
            (2**48 - 1, 2**48, bytes(8)),
        ):
            with self.assertRaises(PeerError, msg=(since, version)):
                self.follower.delta(Delta(term=T1, since=since, version=version, data=data), 0.0)
            self.assertEqual((self.copy(), self.follower.position), ((0, NONE * 8), (T1, 0)))

    def test_pieces_that_can_not_be(self):
        pull = self.follower.pull()
        for first, last, data, version in (
            (0, False, NONE * 2, 1),
            (0, False, NONE * 4, 1),
            (0, True, NONE * 3, 1),
            (0, False, b"", 1),
            (0, False, NONE * 2 + NONE[:3], 1),
            (0, False, NONE * 3 + b"x", 1),
            (0, False, NONE * 2 + struct.pack("!I", 1024), 1),
            (0, False, NONE * 3, 2**48),
            (6, False, NONE * 2, 1),
            (6, True, NONE * 3, 1),
            (8, True, b"", 1),
            (9, True, NONE, 1),
        ):
            message = Piece(term=T1, version=version, first=first, last=last, data=data)
            with self.assertRaises(PeerError, msg=message):
                self.follower.piece(message, 0.0)
            self.assertEqual((self.copy(), self.follower.position), ((0, NONE * 8), (0, 0)))
        self.assertEqual(self.answer(pull), Pull(first=3), "it goes on")

    def test_pieces_that_nobody_asked_for(self):
        for first in (0, 3, 6):
            self.assertIsNone(self.answer(Pull(first=first)))
        self.assertEqual(self.follower.position, (0, 0))


class LargeTests(SynchronousTestCase):
    def test_a_table_of_several_real_pieces(self):
        table, copy = ClientTable(150_000), ClientTable(150_000)
        for bucket in range(0, 150_000, 7):
            table.assign(bucket, bucket % 5)
        leader, follower = Leader(table, 0.0), Follower(copy)
        leader.start(T1, MIXED, 0.0)
        pull, sizes = follower.pull(), []
        while pull is not None:
            message = piece(table, leader.position, pull.first)
            sizes.append(len(message.data))
            pull = follower.piece(message, 0.0)
        self.assertEqual(sizes, [256 * 1024, 256 * 1024, 4 * (150_000 - 2 * 65536)])
        self.assertEqual((copy.snapshot(), copy.groups), (table.snapshot(), table.groups))
        self.assertFalse(follower.heard(leader.position, leader.parent))
