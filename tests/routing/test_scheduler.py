"""Tests of dlba.routing.scheduler."""

from fractions import Fraction
from types import SimpleNamespace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.hashtable import UNASSIGNED, ClientTable, second_of
from dlba.routing.keyedhash import KeyedHash
from dlba.routing.placement import NodeRow
from dlba.routing.scheduler import Scheduler, Where, Why

CLIENT = 0x0A000001
TIMEOUT = 300


def rows(*weights: int) -> list[NodeRow]:
    """Nodes 0, 1, … with these weights."""
    return [
        NodeRow(n, "abcdefgh"[n], bytes([2, 0, 0, 0, 0, n]), f"10.0.0.{n}", weight)
        for n, weight in enumerate(weights)
    ]


def scheduler(*weights: int, buckets: int = 64, **settings) -> Scheduler:
    settings.setdefault("bucket_timeout", TIMEOUT)
    return Scheduler(ClientTable(buckets), rows(*weights), **settings)


def flow_to(bucket: int, buckets: int) -> tuple[int, int]:
    """A client address and port whose sum hits `bucket`."""
    return CLIENT, 40000 + (bucket - CLIENT - 40000) % buckets


class ChooseTests(SynchronousTestCase):
    def setUp(self):
        self.now = 1000

    def send(self, made: Scheduler, *buckets: int) -> list[int]:
        """One packet to each bucket; the nodes chosen."""
        return [made.choose(*flow_to(bucket, made.table.buckets), self.now) for bucket in buckets]

    def test_first_packets_are_placed_by_weight(self):
        made = scheduler(1, 2, 1)
        chosen = self.send(made, *range(8))
        self.assertEqual(chosen, [0, 1, 2, 1, 0, 1, 2, 1])
        self.assertEqual([row.groups for row in made.rows], [2, 4, 2])
        self.assertEqual(made.table.groups, {0: 2, 1: 4, 2: 2})
        self.assertEqual((made.table.version, made.table.last_of(0)), (8, 1000))

    def test_a_bucket_in_use_stays_and_its_last_access_follows(self):
        made = scheduler(1, 1)
        self.send(made, 0, 1, 2)
        made.fail(1)
        made.recover(1)
        version = made.table.version
        for _ in range(5):
            self.now += TIMEOUT
            self.assertEqual(self.send(made, 0, 2), [0, 0])
            self.assertEqual((made.table.last_of(0), made.table.last_of(2)), (self.now, self.now))
        self.assertEqual(made.table.version, version)

    def test_a_silent_bucket_moves_where_placement_is_better(self):
        made = scheduler(1, 1)
        made.fail(1)
        self.send(made, *range(6))
        made.recover(1)
        self.now += TIMEOUT + 1
        # At 4 to 2 a move makes them level; after that none is better.
        self.assertEqual(self.send(made, *range(6)), [1, 1, 1, 0, 0, 0])
        self.assertEqual(made.table.groups, {0: 3, 1: 3})
        self.assertEqual(made.table.last_of(0), self.now)

    def test_silence_is_never_taken_too_short(self):
        for timeout, kept, moved in ((300, 300, 301), (0.5, 1, 2), (299.5, 300, 301)):
            for passed, node in ((kept, 0), (moved, 1)):
                made = scheduler(1, 1, bucket_timeout=timeout)
                made.disable(1)
                self.send(made, 0, 1, 2)
                made.enable(1)
                self.now += passed
                self.assertEqual(self.send(made, 0), [node], (timeout, passed))

    def test_a_failed_node_loses_its_buckets_at_once(self):
        made = scheduler(1, 1, 1)
        self.send(made, *range(9))
        self.assertEqual(made.fail(1), 3)
        self.assertEqual(made.fail(1), 0)
        self.assertEqual(made.table.groups, {0: 3, 2: 3})
        self.assertEqual(made.table.version, 12)
        self.assertEqual(self.send(made, *range(9)), [0, 0, 2, 0, 2, 2, 0, 0, 2])

    def test_buckets_of_a_node_that_is_gone_are_placed_anew(self):
        """A snapshot may name a node that failed meanwhile, or that a new configuration dropped."""
        table = ClientTable(8)
        for bucket, node in enumerate((7, 1, 0)):
            table.assign(bucket, node)
        table.take_delta()
        gone = rows(1, 1)
        gone[1].failed = True
        made = Scheduler(table, gone, TIMEOUT)
        self.assertEqual(self.send(made, 0, 1, 2), [0, 0, 0])
        self.assertEqual(table.groups, {0: 3})
        # Unassigned first, then placed: two changes each.
        self.assertEqual(table.version, 7)

    def test_draining_and_disabled_nodes_keep_what_they_have_until_it_is_silent(self):
        for close, reopen in (("drain", "resume"), ("disable", "enable")):
            made = scheduler(1, 1)
            self.send(made, *range(4))
            getattr(made, close)(0)
            self.assertEqual(self.send(made, *range(8)), [0, 1, 0, 1, 1, 1, 1, 1])
            self.now += TIMEOUT + 1
            self.assertEqual(self.send(made, 0), [1], close)
            getattr(made, reopen)(0)
            self.assertEqual(self.send(made, 9, 2), [0, 0])

    def test_a_held_node_gets_nothing_new(self):
        made = scheduler(1, 1)
        self.send(made, 0, 1)
        made.hold(0, True)
        self.assertEqual(self.send(made, 0, 1, 2), [0, 1, 1])
        made.hold(0, False)
        self.assertEqual(self.send(made, 3), [0])

    def test_a_marked_node_s_buckets_are_placed_anew_one_by_one(self):
        made = scheduler(1, 1)
        self.send(made, 0, 1, 2, 3)
        version = made.table.version
        made.mark(1)
        self.assertEqual((made.table.version, made.rows[1].failed), (version, True))
        self.assertEqual(self.send(made, 1), [0])
        self.assertEqual(made.table.node_of(3), 1)
        self.assertEqual(made.fail(1), 1)

    def test_weight_0_is_draining(self):
        made = scheduler(1, 1)
        self.send(made, 0, 1)
        made.rows[0].weight = 0
        self.assertEqual(self.send(made, 0, 1, 2), [0, 1, 1])
        self.now += TIMEOUT + 1
        self.assertEqual(self.send(made, 0), [1])

    def test_nobody_can_take_it(self):
        made = scheduler(1, 1)
        self.send(made, 0, 1)
        made.drain(0)
        made.fail(1)
        version = made.table.version
        self.assertEqual(self.send(made, 0, 1, 5), [0, UNASSIGNED, UNASSIGNED])
        self.now += TIMEOUT + 1
        self.assertEqual(self.send(made, 0), [0], "silent, but nobody else is there")
        self.assertEqual((made.table.version, made.table.groups), (version, {0: 1}))
        made.fail(0)
        self.assertEqual(self.send(made, 0, 1), [UNASSIGNED, UNASSIGNED])
        self.assertEqual((made.table.assigned, made.table.last_of(1)), (0, 1000))
        made.recover(1)
        self.assertEqual(self.send(made, 0, 1), [1, 1])

    def test_placements_since_a_status_count(self):
        for by in ("hits", "connections"):
            made = scheduler(1, 1, by=by)
            self.send(made, *range(4))
            for row, known in zip(made.rows, (20, 60), strict=True):
                row.status(hits=known, open_connections=known, average_response=0.1)
            # a: 20 and 10 more each; b: 60.
            self.assertEqual(self.send(made, *range(10, 16)), [0, 0, 0, 0, 0, 1])
            self.assertEqual([row.placed_since for row in made.rows], [5, 1])

    def test_the_clock_may_start_anew(self):
        made = scheduler(1, 1)
        self.now = 2**32 - 100
        made.disable(1)
        self.send(made, 0, 1, 2)
        made.enable(1)
        self.now = second_of(2**32 - 100 + TIMEOUT)
        self.assertEqual(self.send(made, 0), [0])
        self.assertEqual(made.table.last_of(0), 200)
        self.now += 1
        self.assertEqual(self.send(made, 1), [1])

    def test_a_last_access_in_the_future_is_no_silence(self):
        """Another reader of the clock, in the kernel, may be a second ahead."""
        made = scheduler(1, 1)
        made.disable(1)
        self.send(made, 0, 1, 2)
        made.enable(1)
        self.now -= 2
        self.assertEqual(self.send(made, 0), [0])
        self.assertEqual(made.table.last_of(0), self.now)

    def test_the_keyed_hash(self):
        keyed = KeyedHash(64, b"secret")
        made = scheduler(1, bucket_of=keyed)
        flows = [(CLIENT + n, 40000 - n) for n in range(20)]
        for flow in flows:
            made.choose(*flow, 9)
        buckets = {keyed(*flow) for flow in flows}
        self.assertEqual({b for b in range(64) if made.table.node_of(b) == 0}, buckets)
        self.assertEqual({made.where(*flow, 9).bucket for flow in flows}, buckets)

    def test_another_hash_from_now_on(self):
        """Whatever the first one was, and without a change of the table."""
        for first in (None, KeyedHash(64, b"secret")):
            made, other = scheduler(1, bucket_of=first), KeyedHash(64, b"another")
            flows = [(CLIENT + n, 40000 - n) for n in range(20)]
            before = [made.bucket_of(*flow) for flow in flows]
            version = made.table.version
            made.rehash(other)
            found = [made.bucket_of(*flow) for flow in flows]
            self.assertEqual(found, [other(*flow) for flow in flows])
            self.assertNotEqual(found, before)
            self.assertEqual(made.table.version, version)
            for flow in flows:
                made.choose(*flow, 9)
            self.assertEqual({b for b in range(64) if made.table.node_of(b) == 0}, set(found))

    def test_a_new_scheduler_goes_on_with_the_same_table(self):
        table = ClientTable(64)
        made = Scheduler(table, rows(1, 1), TIMEOUT)
        before = self.send(made, *range(6))
        made = Scheduler(table, rows(1, 1, 1), TIMEOUT)
        self.assertEqual(self.send(made, *range(6)), before)
        self.assertEqual([row.groups for row in made.rows], [3, 3, 0])
        self.assertEqual(self.send(made, 10, 11, 12, 13), [2, 2, 2, 0])

    def test_what_can_not_be(self):
        for timeout in (0, -1, 2**31, float("nan")):
            with self.assertRaisesRegex(ValueError, "bucket_timeout: expected above 0"):
                scheduler(1, bucket_timeout=timeout)
        twice = rows(1, 1)
        twice[1].number = 0
        for wrong in (twice, [NodeRow(1024, "x", b"", "")], [NodeRow(-1, "x", b"", "")]):
            with self.assertRaisesRegex(ValueError, "number: expected one of its own from 0 to"):
                Scheduler(ClientTable(4), wrong, TIMEOUT)
        made = scheduler(1)
        with self.assertRaises(KeyError):
            made.hold(3, True)
        for event in ("fail", "mark", "recover", "drain", "resume", "enable", "disable"):
            with self.assertRaises(KeyError):
                getattr(made, event)(3)

    def test_rows_are_shown_by_number(self):
        made = Scheduler(ClientTable(4), rows(1, 1, 1)[::-1], TIMEOUT)
        self.assertEqual([row.number for row in made.rows], [0, 1, 2])


class WhereTests(SynchronousTestCase):
    def test_each_reason(self):
        made = scheduler(1, 1)
        flow = flow_to(7, 64)

        def check(now: int, *expected) -> None:
            before = bytes(made.table.cells), made.table.version, made.rows[1].placed_since
            found = made.where(*flow, now)
            self.assertEqual(found, Where(7, *expected))
            after = bytes(made.table.cells), made.table.version, made.rows[1].placed_since
            self.assertEqual(before, after, "no side effects")
            self.assertTrue(found.why.value)

        late = 10 + TIMEOUT + 1
        check(10, UNASSIGNED, 0, None, Why.PLACED)
        made.choose(*flow, 10)
        check(late - 1, 0, 0, TIMEOUT, Why.HELD)
        check(late, 0, 0, TIMEOUT + 1, Why.STAYS)
        made.disable(1)
        made.choose(*flow_to(8, 64), 10)
        made.enable(1)
        check(late, 0, 1, TIMEOUT + 1, Why.MOVES)
        made.drain(0)
        check(late - 1, 0, 0, TIMEOUT, Why.HELD)
        check(late, 0, 1, TIMEOUT + 1, Why.LEAVES)
        made.fail(0)
        made.table.assign(7, 0)  # as by a snapshot that is older than the failure
        check(12, 0, 1, 2, Why.LOST)
        self.assertEqual(made.choose(*flow_to(7, 64), 12), 1)
        made.table.assign(7, 0)
        made.disable(1)
        check(14, 0, UNASSIGNED, 2, Why.NOBODY)
        made.fail(0)
        check(14, UNASSIGNED, UNASSIGNED, None, Why.NOBODY)


class Oracle:
    """The design's sentences on dictionaries and fractions, in real time, without a hash."""

    def __init__(self, weights: list[int], timeout: float, by: str) -> None:
        self.owner: dict[int, int] = {}
        self.last: dict[int, int] = {}
        self.version = 0
        self.timeout = timeout
        self.by = by
        self.nodes = {
            n: SimpleNamespace(
                weight=w,
                enabled=True,
                draining=False,
                failed=False,
                hits=0,
                connections=0,
                placed=0,
                then=0,
            )
            for n, w in enumerate(weights)
        }

    def groups(self, number: int) -> int:
        return sum(node == number for node in self.owner.values())

    def takes(self, number: int) -> bool:
        node = self.nodes[number]
        return node.enabled and not node.draining and not node.failed and node.weight > 0

    def mean(self, number: int) -> Fraction:
        node = self.nodes[number]
        known = getattr(node, self.by)
        if known and node.then:
            return Fraction(known, node.then)
        others = [n for n in self.nodes.values() if not n.failed and n.then]
        total = sum(getattr(n, self.by) for n in others)
        return Fraction(total, sum(n.then for n in others)) if total else Fraction(1)

    def load(self, number: int, more: int = 0) -> Fraction:
        node = self.nodes[number]
        if self.by == "groups":
            return Fraction(self.groups(number) + more, node.weight)
        known = getattr(node, self.by) + (node.placed + more) * self.mean(number)
        return Fraction(known) / node.weight

    def target(self) -> int | None:
        able = [number for number in self.nodes if self.takes(number)]
        return min(able, key=lambda number: (self.load(number), number)) if able else None

    def packet(self, bucket: int, now: int) -> int:
        if bucket not in self.owner:
            target = self.target()
            if target is None:
                return UNASSIGNED
            self.place(bucket, target)
        elif now - self.last[bucket] > self.timeout:
            owner = self.owner[bucket]
            target = self.target()
            if target is not None and (
                not self.takes(owner) or self.load(target, 1) < self.load(owner)
            ):
                self.place(bucket, target)
        self.last[bucket] = now
        return self.owner[bucket]

    def place(self, bucket: int, target: int) -> None:
        self.owner[bucket] = target
        self.nodes[target].placed += 1
        self.version += 1

    def fail(self, number: int) -> None:
        node = self.nodes[number]
        node.failed = True
        node.placed = node.then = 0
        for bucket in [b for b, owner in self.owner.items() if owner == number]:
            del self.owner[bucket]
            self.version += 1

    def status(self, number: int, hits: int, connections: int) -> None:
        node = self.nodes[number]
        node.hits, node.connections = hits, connections
        node.placed, node.then = 0, self.groups(number)


class Replay(RuleBasedStateMachine):
    """Random steps on a scheduler and the oracle, and a follower of the scheduler's table."""

    @initialize(
        weights=st.lists(st.integers(0, 4), min_size=1, max_size=5),
        by=st.sampled_from(["groups", "hits", "connections"]),
        buckets=st.integers(4, 24),
        timeout=st.integers(1, 40),
        start=st.sampled_from([0, 1000, 2**31 - 50, 2**32 - 50]),
    )
    def begin(self, weights, by, buckets, timeout, start):
        self.buckets, self.now = buckets, start
        self.oracle = Oracle(weights, timeout, by)
        self.table, self.follower = ClientTable(buckets), ClientTable(buckets)
        self.made = Scheduler(self.table, rows(*weights), timeout, by)
        # The last accesses of unassigned buckets mean nothing, even 2**31 seconds ago.
        self.used: dict[int, int] = {}
        self.snapshots = 0

    def number(self, draw: int) -> int:
        return draw % len(self.oracle.nodes)

    @rule(
        packets=st.lists(
            st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 65535), st.integers(0, 2)),
            min_size=1,
            max_size=12,
        )
    )
    def packets(self, packets):
        for address, port, passed in packets:
            self.now += passed
            now = second_of(self.now)
            bucket = (address + port) % self.buckets
            before = self.oracle.owner.get(bucket)
            foreseen = self.made.where(address, port, now)
            got = self.made.choose(address, port, now)
            assert got == self.oracle.packet(bucket, self.now)
            assert (foreseen.bucket, foreseen.node) == (bucket, got)
            if before is not None and got != before:
                node = self.oracle.nodes[before]
                idle = self.now - self.used[bucket] > self.oracle.timeout
                assert node.failed or idle, "moved while it was used and its node lived"
            if got != UNASSIGNED:
                self.used[bucket] = self.now
                assert self.table.last_of(bucket) == now

    @rule(seconds=st.integers(1, 120))
    def silence(self, seconds):
        self.now += seconds

    @rule(draw=st.integers(0, 4))
    def fail(self, draw):
        expected = self.oracle.groups(self.number(draw))
        self.oracle.fail(self.number(draw))
        assert self.made.fail(self.number(draw)) == expected

    @rule(draw=st.integers(0, 4))
    def recover(self, draw):
        self.oracle.nodes[self.number(draw)].failed = False
        self.made.recover(self.number(draw))

    @rule(
        draw=st.integers(0, 4),
        change=st.sampled_from(
            [
                ("drain", "draining", True),
                ("resume", "draining", False),
                ("disable", "enabled", False),
                ("enable", "enabled", True),
            ]
        ),
    )
    def mark(self, draw, change):
        event, column, value = change
        getattr(self.made, event)(self.number(draw))
        setattr(self.oracle.nodes[self.number(draw)], column, value)

    @rule(draw=st.integers(0, 4), weight=st.integers(0, 4))
    def weigh(self, draw, weight):
        self.made.rows[self.number(draw)].weight = weight
        self.oracle.nodes[self.number(draw)].weight = weight

    @rule(draw=st.integers(0, 4), hits=st.integers(0, 50), connections=st.integers(0, 50))
    def status(self, draw, hits, connections):
        self.oracle.status(self.number(draw), hits, connections)
        self.made.rows[self.number(draw)].status(hits, connections, 0.1)

    @rule()
    def follow(self):
        delta = self.table.take_delta()
        if delta is not None and not self.follower.apply(delta):
            self.follower.restore(*self.table.snapshot(), now=0)
        assert self.follower.snapshot() == self.table.snapshot()
        assert self.follower.groups == self.table.groups

    @precondition(lambda self: self.follower.version == self.table.version)
    @rule()
    def failover(self):
        """The follower takes over, every last access at the present (seed)."""
        self.table, self.follower = self.follower, self.table
        self.table.touch_all(second_of(self.now))
        for bucket in self.oracle.owner:
            self.oracle.last[bucket] = self.used[bucket] = self.now
        former = self.made
        self.made = Scheduler(self.table, former.rows, self.oracle.timeout, self.oracle.by)

    @invariant()
    def the_tables_agree(self):
        owners = {
            b: self.table.node_of(b)
            for b in range(self.buckets)
            if self.table.node_of(b) != UNASSIGNED
        }
        assert owners == self.oracle.owner
        assert self.table.version == self.oracle.version
        assert self.table.assigned == len(owners)
        for row in self.made.rows:
            assert row.groups == self.oracle.groups(row.number)
            assert row.placed_since == self.oracle.nodes[row.number].placed


class ReplayTests(SynchronousTestCase):
    def test_random_steps_agree_with_the_oracle(self):
        run_state_machine_as_test(
            Replay, settings=settings(max_examples=120, stateful_step_count=50, deadline=None)
        )
