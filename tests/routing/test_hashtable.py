"""Tests of dlba.routing.hashtable."""

import mmap
import struct
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing import hashtable
from dlba.routing.hashtable import (
    NODES_LIMIT,
    UNASSIGNED,
    ClientTable,
    Delta,
    age,
    second_of,
)

NONE = b"\xff\xff\xff\xff"


def naive_groups(owners: dict[int, int]) -> dict[int, int]:
    """Bucket → node as node → how many."""
    return {node: list(owners.values()).count(node) for node in owners.values()}


def wire(owners: dict[int, int], buckets: int) -> bytes:
    """A snapshot, built number by number."""
    return b"".join(owners.get(b, UNASSIGNED).to_bytes(4, "big") for b in range(buckets))


class LayoutTests(SynchronousTestCase):
    def test_a_new_table_is_unassigned(self):
        table = ClientTable(5)
        self.assertEqual(table.snapshot(), (0, NONE * 5))
        self.assertEqual((table.groups, table.assigned, table.buckets), ({}, 0, 5))
        self.assertIsNone(table.take_delta())
        self.assertEqual([table.last_of(b) for b in range(5)], [0] * 5)

    def test_pairs_in_native_order_at_eight_bytes_a_bucket(self):
        memory = bytearray(b"\x55" * 24)
        table = ClientTable(3, memory)
        table.touch_all(0x01020304)
        table.assign(1, 7)
        self.assertEqual(
            bytes(memory),
            struct.pack("=6I", UNASSIGNED, 0x01020304, 7, 0x01020304, UNASSIGNED, 0x01020304),
        )

    def test_a_map_of_the_kernel_can_be_the_table(self):
        pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
        table = ClientTable(600, memoryview(pages))
        self.assertEqual(table.assigned, 0)
        self.assertEqual(pages[:4800], (NONE + bytes(4)) * 600)
        self.assertEqual(pages[4800:], bytes(2 * mmap.PAGESIZE - 4800), "beyond the table")
        struct.pack_into("=I", pages, 8 * 599 + 4, 77)
        self.assertEqual(table.last_of(599), 77)
        table.assign(599, 3)
        self.assertEqual(struct.unpack_from("=II", pages, 8 * 599), (3, 77))

    def test_memory_that_will_not_do(self):
        for memory, got in (
            (bytearray(31), "32 writable bytes, got 31 writable"),
            (memoryview(bytes(32)), "32 writable bytes, got 32 read-only"),
        ):
            with self.assertRaisesRegex(ValueError, got):
                ClientTable(4, memory)
        for buckets in (0, -1):
            with self.assertRaisesRegex(ValueError, f"expected 1 or more, got {buckets}"):
                ClientTable(buckets)

    def test_at_most_16_bytes_a_bucket(self):
        buckets = 50_000
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before = tracemalloc.get_traced_memory()[0]
        table = ClientTable(buckets)
        most = 0
        for node in range(3):
            for bucket in range(buckets):
                table.assign(bucket, node)
                if bucket % 1000 == 0:
                    most = max(most, tracemalloc.get_traced_memory()[0] - before)
        most = max(most, tracemalloc.get_traced_memory()[0] - before)
        self.assertGreater(most, 8 * buckets)
        self.assertLessEqual(most, 16 * buckets)


class ClockTests(SynchronousTestCase):
    def test_whole_seconds_that_start_anew_after_136_years(self):
        self.assertEqual(second_of(12.999), 12)
        self.assertEqual(second_of(2**32 + 5.5), 5)
        self.assertEqual(2**32 // (365.25 * 86400), 136)

    def test_ages(self):
        for last, now, expected in (
            (10, 10, 0),
            (10, 310, 300),
            (2**32 - 10, 20, 30),
            (11, 10, 0),
            (3, 2**32 - 3, 0),
            (0, 2**31 - 1, 2**31 - 1),
            (0, 2**31, 0),
        ):
            self.assertEqual(age(last, now), expected, (last, now))

    @given(st.floats(0, 2**40), st.floats(0, 10**6))
    def test_an_age_is_less_than_a_second_off(self, start, passed):
        found = age(second_of(start), second_of(start + passed))
        self.assertLess(abs(found - passed), 1.001)


class HashTests(SynchronousTestCase):
    def test_the_seeds_sum(self):
        table = ClientTable(65536)
        for address, port, expected in (
            (0x0A000001, 40000, (10 * 2**24 + 1 + 40000) % 65536),
            (0xFFFFFFFF, 65535, (2**32 - 1 + 65535) % 65536),
            (0, 0, 0),
        ):
            self.assertEqual(table.bucket_of(address, port), expected)
        self.assertEqual(ClientTable(7).bucket_of(20, 3), 2)


class AssignTests(SynchronousTestCase):
    def test_counts_and_versions(self):
        table = ClientTable(8)
        table.assign(3, 0)
        table.assign(4, 0)
        table.assign(5, 2)
        self.assertEqual((table.groups, table.assigned, table.version), ({0: 2, 2: 1}, 3, 3))
        table.assign(3, 0)
        self.assertEqual(table.version, 3, "nothing changed")
        table.assign(3, 2)
        table.assign(4, UNASSIGNED)
        self.assertEqual((table.groups, table.assigned, table.version), ({2: 2}, 2, 5))
        self.assertEqual([table.node_of(b) for b in (2, 3, 4)], [UNASSIGNED, 2, UNASSIGNED])

    def test_a_number_that_is_no_node(self):
        table = ClientTable(8)
        for node in (NODES_LIMIT, UNASSIGNED - 1, -1):
            with self.assertRaisesRegex(ValueError, f"expected 0 to 1023, got {node}"):
                table.assign(0, node)
        table.assign(0, NODES_LIMIT - 1)
        self.assertEqual((table.version, table.groups), (1, {1023: 1}))

    def test_release(self):
        table = ClientTable(10)
        for bucket in range(9):
            table.assign(bucket, bucket % 3)
        self.assertEqual(table.release(1), 3)
        self.assertEqual(table.release(1), 0)
        self.assertEqual(table.release(5), 0)
        self.assertEqual((table.groups, table.version), ({0: 3, 2: 3}, 12))
        expected = {b: b % 3 for b in range(9) if b % 3 != 1}
        self.assertEqual(table.snapshot(), (12, wire(expected, 10)))

    def test_touch_all_sets_the_seconds_alone(self):
        table = ClientTable(10)
        table.assign(3, 1)
        table.touch_all(2**32 - 1)
        self.assertEqual({table.last_of(b) for b in range(10)}, {2**32 - 1})
        self.assertEqual(table.snapshot(), (1, wire({3: 1}, 10)))


class DeltaTests(SynchronousTestCase):
    def test_pairs_in_network_order(self):
        table = ClientTable(0x10000)
        table.assign(0x1234, 5)
        table.assign(0x1234, UNASSIGNED)
        self.assertEqual(
            table.take_delta(),
            Delta(0, 2, bytes.fromhex("00001234 00000005 00001234 ffffffff")),
        )
        self.assertIsNone(table.take_delta())
        table.assign(1, 2)
        self.assertEqual(table.take_delta(), Delta(2, 3, bytes.fromhex("00000001 00000002")))

    def test_a_follower_follows(self):
        table, follower = ClientTable(16), ClientTable(16)
        table.assign(1, 4)
        table.assign(2, 5)
        table.assign(2, 4)
        self.assertTrue(follower.apply(table.take_delta()))
        self.assertEqual(follower.snapshot(), table.snapshot())
        self.assertEqual(follower.groups, {4: 2})
        self.assertIsNone(follower.take_delta(), "what it followed is no change of its own")
        follower.assign(3, 1)
        self.assertEqual(follower.take_delta().since, 3)

    def test_old_and_doubled_deltas_are_ignored(self):
        table, follower = ClientTable(16), ClientTable(16)
        deltas = []
        for node in (1, 2, 3):
            table.assign(0, node)
            deltas.append(table.take_delta())
        for delta in (*deltas, *deltas, deltas[0]):
            self.assertTrue(follower.apply(delta))
        self.assertEqual((follower.version, follower.node_of(0)), (3, 3))
        self.assertEqual(follower.groups, {3: 1})

    def test_a_gap(self):
        table, follower = ClientTable(16), ClientTable(16)
        table.assign(0, 1)
        table.take_delta()
        table.assign(1, 1)
        self.assertFalse(follower.apply(table.take_delta()))
        self.assertEqual(follower.snapshot(), (0, NONE * 16))

    def test_one_that_begins_before_a_snapshot_and_ends_after_it(self):
        table, follower = ClientTable(16), ClientTable(16)
        table.assign(0, 1)
        table.assign(1, 1)
        table.assign(0, 2)
        follower.restore(*table.snapshot(), now=5)
        table.assign(1, UNASSIGNED)
        self.assertTrue(follower.apply(table.take_delta()))
        self.assertEqual(follower.snapshot(), table.snapshot())
        self.assertEqual(follower.groups, {2: 1})

    def test_more_changes_than_a_snapshot_is_worth_make_a_gap(self):
        table, follower = ClientTable(8), ClientTable(8)
        for bucket in range(4):
            table.assign(bucket, 0)
        self.assertEqual(len(table.take_delta().changes), 4 * 8)
        for after in range(4):
            for bucket in range(5 + after):
                table.assign(bucket, after + 1)
            delta = table.take_delta()
            self.assertEqual(len(delta.changes), 8 * after)
            self.assertFalse(follower.apply(delta), "a gap even with nothing after it")
            follower.restore(*table.snapshot(), now=0)
            self.assertIsNone(table.take_delta())
        table.assign(0, 0)
        self.assertTrue(follower.apply(table.take_delta()))
        self.assertEqual(follower.snapshot(), table.snapshot())

    def test_a_snapshot_just_before_the_table_forgets_is_behind_the_gap_too(self):
        table, follower = ClientTable(8), ClientTable(8)
        for bucket in range(4):
            table.assign(bucket, 0)
        follower.restore(*table.snapshot(), now=0)
        table.assign(4, 0)
        table.assign(5, 0)
        self.assertFalse(follower.apply(table.take_delta()))

    def test_a_delta_stays_small_enough_to_send(self):
        table = ClientTable(4 * hashtable.PAIRS_LIMIT)
        for bucket in range(hashtable.PAIRS_LIMIT):
            table.assign(bucket, 0)
        self.assertLess(len(table.take_delta().changes), 640 * 1024)
        for bucket in range(hashtable.PAIRS_LIMIT + 1):
            table.assign(bucket, 1)
        self.assertEqual(table.take_delta().changes, b"")

    def test_a_delta_that_can_not_be(self):
        pair = struct.pack("!II", 15, 1)
        for delta, text in (
            (Delta(0, 1, pair[:7]), "expected a multiple of 8 bytes, got 7"),
            (Delta(0, 1, pair + pair[:4]), "expected a multiple of 8 bytes, got 12"),
            (Delta(2, 1, pair), "expected 0 <= since <= version, got 2 and 1"),
            (Delta(-1, 1, pair), "expected 0 <= since <= version, got -1 and 1"),
            (Delta(0, 2, pair + struct.pack("!II", 16, 1)), "bucket: expected 0 to 15, got 16"),
            (
                Delta(0, 2, pair + struct.pack("!II", 1, 1024)),
                "node: expected 0 to 1023 or .* 1024",
            ),
            (Delta(0, 2, pair + struct.pack("!Ii", 1, -2)), "got 4294967294"),
        ):
            follower = ClientTable(16)
            with self.assertRaisesRegex(ValueError, text):
                follower.apply(delta)
            self.assertEqual((follower.snapshot(), follower.groups), ((0, NONE * 16), {}), delta)


class SnapshotTests(SynchronousTestCase):
    def test_restore(self):
        table = ClientTable(6)
        table.assign(0, 9)
        groups = table.groups
        table.restore(41, wire({1: 3, 2: 3, 5: 1023}, 6), now=1234)
        self.assertEqual(table.snapshot(), (41, wire({1: 3, 2: 3, 5: 1023}, 6)))
        self.assertEqual(table.groups, {3: 2, 1023: 1})
        self.assertIs(table.groups, groups, "rows of the status table hold on to it")
        self.assertEqual([table.last_of(b) for b in range(6)], [1234] * 6)
        self.assertIsNone(table.take_delta())
        table.assign(0, 3)
        self.assertEqual(table.take_delta(), Delta(41, 42, struct.pack("!II", 0, 3)))

    def test_what_is_no_table(self):
        table = ClientTable(4)
        table.assign(1, 2)
        good = wire({}, 4)
        for version, snapshot, text in (
            (1, good[:-1], "expected 16 bytes for 4 buckets, got 15"),
            (1, good + NONE, "expected 16 bytes for 4 buckets, got 20"),
            (1, b"", "got 0"),
            (-1, good, "version: expected 0 or more, got -1"),
            (1, good[:-4] + struct.pack("!I", 1024), "node: expected 0 to 1023 or .* got 1024"),
            (1, struct.pack("=I", 1) + good[4:], "got 16777216"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                table.restore(version, snapshot, 99)
            self.assertEqual(table.snapshot(), (1, wire({1: 2}, 4)))
            self.assertEqual((table.last_of(1), table.groups), (0, {2: 1}))

    @settings(deadline=None, max_examples=150)
    @given(
        st.integers(1, 40),
        st.lists(
            st.one_of(
                st.tuples(
                    st.just("assign"),
                    st.integers(0, 39),
                    st.one_of(st.integers(0, 4), st.just(UNASSIGNED)),
                ),
                st.tuples(st.just("release"), st.integers(0, 4), st.just(0)),
                st.tuples(st.sampled_from(["send", "lose", "again"]), st.just(0), st.just(0)),
            ),
            max_size=120,
        ),
    )
    def test_a_dict_and_a_follower_over_a_lossy_line_agree(self, buckets, steps):
        table, follower = ClientTable(buckets), ClientTable(buckets)
        owners: dict[int, int] = {}
        version = 0
        sent: list[Delta] = []
        for step, number, node in steps:
            if step == "assign":
                bucket = number % buckets
                version += owners.get(bucket, UNASSIGNED) != node
                table.assign(bucket, node)
                owners[bucket] = node
                if node == UNASSIGNED:
                    del owners[bucket]
            elif step == "release":
                gone = [bucket for bucket, owner in owners.items() if owner == number]
                version += len(gone)
                self.assertEqual(table.release(number), len(gone))
                for bucket in gone:
                    del owners[bucket]
            elif step == "again" and sent:
                before = follower.snapshot()
                self.assertTrue(follower.apply(sent[0]) or follower.version < sent[0].since)
                if sent[0].version <= before[0]:
                    self.assertEqual(follower.snapshot(), before)
            else:
                delta = table.take_delta()
                if delta is not None and step == "send":
                    sent.append(delta)
                    if not follower.apply(delta):
                        self.assertGreater(delta.since, follower.version)
                        follower.restore(*table.snapshot(), now=7)
                    self.assertEqual(follower.snapshot(), (version, wire(owners, buckets)))
                    self.assertEqual(follower.groups, naive_groups(owners))
            self.assertEqual(table.snapshot(), (version, wire(owners, buckets)))
            self.assertEqual(table.groups, naive_groups(owners))
            self.assertEqual(table.assigned, len(owners))


class PieceTests(SynchronousTestCase):
    def test_a_snapshot_range_by_range(self):
        table, follower = ClientTable(10), ClientTable(10)
        for bucket in range(9):
            table.assign(bucket, bucket % 4)
        follower.assign(0, 9)
        groups = follower.groups
        pieces = [(first, table.piece(first, 4)) for first in (0, 4, 8)]
        self.assertEqual([len(data) for _, data in pieces], [16, 16, 8])
        self.assertEqual(b"".join(data for _, data in pieces), table.snapshot()[1])
        for first, data in pieces:
            follower.put(first, data, 77)
        self.assertEqual(follower.snapshot(), (1, table.snapshot()[1]), "the version stays")
        self.assertEqual(follower.groups, {0: 3, 1: 2, 2: 2, 3: 2})
        self.assertIs(follower.groups, groups, "rows of the status table hold on to it")
        self.assertEqual([follower.last_of(b) for b in range(10)], [77] * 10)
        follower.start_at(9)
        self.assertIsNone(follower.take_delta(), "what was put is no change of its own")
        follower.assign(0, 1)
        self.assertEqual(follower.take_delta(), Delta(9, 10, struct.pack("!II", 0, 1)))

    def test_the_rest_keeps_its_last_access(self):
        table = ClientTable(4)
        table.put(1, struct.pack("!II", 1, UNASSIGNED), 5)
        self.assertEqual([table.last_of(b) for b in range(4)], [0, 5, 5, 0])
        self.assertEqual(table.snapshot(), (0, wire({1: 1}, 4)))

    def test_what_is_no_piece(self):
        table = ClientTable(4)
        table.assign(1, 2)
        for first, data, text in (
            (0, b"", "expected some of the buckets 0 to 3, got 0 to -1"),
            (0, NONE[:3], "expected a multiple of 4 bytes, got 3"),
            (4, NONE, "got 4 to 4"),
            (-1, NONE * 2, "got -1 to 0"),
            (3, NONE * 2, "got 3 to 4"),
            (0, NONE * 5, "got 0 to 4"),
            (0, NONE + struct.pack("!I", 1024), "node: expected 0 to 1023 or .* got 1024"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                table.put(first, data, 99)
            self.assertEqual(table.snapshot(), (1, wire({1: 2}, 4)))
            self.assertEqual((table.last_of(1), table.groups), (0, {2: 1}))
        for first in (-1, 4):
            with self.assertRaisesRegex(ValueError, f"expected 0 to 3, got {first}"):
                table.piece(first, 1)

    @settings(deadline=None)
    @given(
        st.lists(st.one_of(st.integers(0, 3), st.just(UNASSIGNED)), min_size=1, max_size=30),
        st.data(),
    )
    def test_groups_are_counted(self, nodes, data):
        table = ClientTable(len(nodes))
        for bucket, node in enumerate(nodes):
            table.assign(bucket, node)
        first = data.draw(st.integers(0, len(nodes) - 1))
        fresh = data.draw(
            st.lists(
                st.one_of(st.integers(2, 5), st.just(UNASSIGNED)),
                min_size=1,
                max_size=len(nodes) - first,
            )
        )
        table.put(first, struct.pack(f"!{len(fresh)}I", *fresh), 1)
        nodes[first : first + len(fresh)] = fresh
        owners = {b: node for b, node in enumerate(nodes) if node != UNASSIGNED}
        self.assertEqual(table.snapshot()[1], wire(owners, len(nodes)))
        self.assertEqual(table.groups, naive_groups(owners))
        self.assertEqual(table.piece(first, len(fresh)), struct.pack(f"!{len(fresh)}I", *fresh))
