"""Tests of dlba.routing.standing."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.hashtable import UNASSIGNED, ClientTable
from dlba.routing.placement import NodeRow
from dlba.routing.scheduler import Scheduler
from dlba.routing.standing import Standing


def made(in_force: bool = True) -> tuple[Standing, Scheduler]:
    rows = [NodeRow(n, "abc"[n], bytes(6), f"10.0.0.{n}", 1) for n in range(3)]
    scheduler = Scheduler(ClientTable(9), rows, 300)
    for bucket in range(9):
        scheduler.table.assign(bucket, bucket % 3)
    return Standing(scheduler, in_force), scheduler


class StandingTests(SynchronousTestCase):
    def test_a_node_fails_once_and_recovers_when_it_lacks_nothing(self):
        standing, scheduler = made()
        self.assertEqual(standing.lack(1, "arp", True), 3)
        self.assertIsNone(standing.lack(1, "arp", True))
        self.assertIsNone(standing.lack(1, "process", True))
        self.assertEqual(standing.lacks(1), {"arp", "process"})
        self.assertIsNone(standing.lack(1, "arp", False))
        self.assertTrue(scheduler.row(1).failed)
        self.assertEqual(standing.lack(1, "process", False), 0)
        self.assertFalse(scheduler.row(1).failed)
        self.assertIsNone(standing.lack(1, "process", False))
        self.assertRaises(KeyError, standing.lack, 7, "arp", True)

    def test_a_copy_isn_t_changed_until_it_is_in_force(self):
        standing, scheduler = made(in_force=False)
        version = scheduler.table.version
        self.assertEqual(standing.lack(1, "arp", True), 0)
        self.assertEqual(standing.lack(2, "arp", True), 0)
        standing.lack(2, "arp", False)
        self.assertEqual(scheduler.table.version, version)
        self.assertTrue(scheduler.row(1).failed)
        self.assertEqual(standing.enforce(), 3)
        self.assertEqual(scheduler.table.node_of(1), UNASSIGNED)
        self.assertEqual(scheduler.table.node_of(2), 2)
        self.assertEqual(standing.lack(2, "arp", True), 3)
        standing.relax()
        self.assertEqual(standing.lack(0, "arp", True), 0)
        self.assertEqual(scheduler.table.node_of(0), 0)

    def test_a_packet_for_a_failed_node_is_placed_anew_all_the_same(self):
        standing, scheduler = made(in_force=False)
        standing.lack(1, "arp", True)
        self.assertIn(scheduler.choose(0, 1, 0), (0, 2))

    @given(
        st.lists(st.tuples(st.integers(0, 2), st.sampled_from("xyz"), st.booleans()), max_size=30)
    )
    def test_against_a_set_of_pairs(self, story):
        standing, scheduler = made()
        lacks = set()
        for number, what, lacking in story:
            standing.lack(number, what, lacking)
            (lacks.add if lacking else lacks.discard)((number, what))
            failed = {number for number, _ in lacks}
            self.assertEqual({row.number for row in scheduler.rows if row.failed}, failed)
