"""Tests of dlba.election.status."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.election.status import Ask, Sweep, Verdict

EVERY, RETRIES, TIMEOUT = 1.0, 2, 1.0
NONE = frozenset()


def verdict(failed=(), held=(), live=(), suspected=()):
    return Verdict(frozenset(failed), frozenset(held), frozenset(live), frozenset(suspected))


class SweepTests(SynchronousTestCase):
    def setUp(self):
        self.sweep = Sweep(EVERY, RETRIES, TIMEOUT)
        self.now = 100.0
        self.asked = []

    def run_sweep(self, answer=(), heard=(), during=lambda ask: None):
        """Until the sweep ends: what it has found. Every question is in `asked` with its time."""
        for _ in range(1000):
            self.now = max(self.now, self.sweep.next_at)
            for ask in self.sweep.due(self.now):
                self.asked.append((ask.number, self.now))
                during(ask)
                for number in heard:
                    self.sweep.heard(number, self.now)
                if ask.number in answer:
                    self.sweep.answered(ask.number, ask.id, self.now)
            found = self.sweep.take_verdicts()
            if found:
                (one,) = found
                return one
        raise AssertionError("no verdict")

    def test_one_after_another(self):
        self.sweep.start([3, 1, 2], self.now)
        self.assertEqual(self.run_sweep(answer=(1, 2, 3)), verdict(live=(1, 2, 3)))
        self.assertEqual(self.asked, [(1, 100.0), (2, 100.0), (3, 100.0)])
        self.assertEqual((self.sweep.swept_at, self.sweep.next_at), (100.0, 101.0))
        self.assertEqual(self.sweep.due(100.9), ())
        self.run_sweep(answer=(1, 2, 3))
        self.assertEqual(self.asked[3:], [(1, 101.0), (2, 101.0), (3, 101.0)])

    def test_only_one_question_is_open(self):
        self.sweep.start([1, 2], self.now)
        (ask,) = self.sweep.due(100.0)
        self.assertEqual(self.sweep.due(100.5), ())
        self.assertEqual(self.sweep.next_at, 101.0)
        self.assertTrue(self.sweep.answered(1, ask.id, 100.6))
        self.assertEqual(self.sweep.next_at, 100.6)
        self.assertEqual(self.sweep.due(100.6), (Ask(2, ask.id + 1),))

    def test_no_other_node(self):
        self.sweep.start([], self.now)
        self.assertEqual(self.run_sweep(), verdict())
        self.assertEqual((self.sweep.swept_at, self.sweep.next_at), (100.0, 101.0))
        self.assertFalse(self.sweep.answered(1, 1, self.now))

    def test_retries(self):
        self.sweep.start([1, 2, 3], self.now)
        found = self.run_sweep(answer=(2, 3), heard=(1,))
        self.assertEqual(found, verdict(held=(1,), live=(2, 3)))
        self.assertEqual([at for n, at in self.asked if n == 1], [100.0, 101.0, 102.0])
        self.assertEqual(self.sweep.swept_at, 103.0)

    def test_an_answer_to_the_first_question_after_the_second(self):
        self.sweep.start([1], self.now)
        (first,) = self.sweep.due(100.0)
        (second,) = self.sweep.due(101.0)
        self.assertEqual(first, second)
        self.assertTrue(self.sweep.answered(1, first.id, 101.1))
        self.assertFalse(self.sweep.answered(1, first.id, 101.1), "twice")

    def test_stale_answers(self):
        self.sweep.start([1, 2], self.now)
        (ask,) = self.sweep.due(100.0)
        for number, id_ in ((2, ask.id), (1, ask.id - 1), (1, ask.id + 1), (-1, ask.id), (-1, 0)):
            self.assertFalse(self.sweep.answered(number, id_, 100.0))
        self.sweep.stop()
        self.assertFalse(self.sweep.answered(1, ask.id, 100.0))
        self.sweep.start([1, 2], 100.0)
        self.assertFalse(self.sweep.answered(1, ask.id, 100.0), "not asked yet")
        (again,) = self.sweep.due(100.0)
        self.assertNotEqual(again.id, ask.id)
        self.assertFalse(self.sweep.answered(1, ask.id, 100.0), "of the reign before")

    def test_an_answer_too_late(self):
        self.sweep.start([1, 2, 3], self.now)
        late = []
        found = self.run_sweep(answer=(2, 3), during=late.append)
        self.assertEqual(found, verdict(failed=(1,), live=(2, 3)))
        self.assertFalse(self.sweep.answered(1, late[0].id, self.now))

    def test_neither_sweep_nor_heartbeat(self):
        self.sweep.start([1, 2, 3], self.now)
        found = self.run_sweep(answer=(3,), heard=(2,))
        self.assertEqual(found, verdict(failed=(1,), held=(2,), live=(3,)))

    def test_a_heartbeat_from_before_the_sweep_does_not_count(self):
        self.sweep.start([1, 2, 3], self.now)
        self.run_sweep(answer=(1, 2, 3))
        self.sweep.heard(1, self.now)
        self.assertEqual(self.run_sweep(answer=(2, 3)).failed, {1})

    def test_a_failed_node_is_asked_once_until_it_is_back(self):
        self.sweep.start([1, 2], self.now)
        self.run_sweep(answer=(2,))
        self.asked.clear()
        self.assertEqual(self.run_sweep(answer=(2,)), verdict(failed=(1,), live=(2,)))
        self.assertEqual([n for n, _ in self.asked], [1, 2])
        self.assertEqual(self.run_sweep(answer=(2,), heard=(1,)), verdict(held=(1,), live=(2,)))
        self.assertEqual(self.run_sweep(answer=(1, 2)), verdict(live=(1, 2)))
        self.asked.clear()
        self.run_sweep(answer=(2,))
        self.assertEqual([n for n, _ in self.asked], [1, 1, 1, 2])

    def test_over_half_at_once_is_suspected(self):
        self.sweep.start([1, 2, 3, 4], self.now)
        found = self.run_sweep(answer=(1,))
        self.assertEqual(found, verdict(held=(2, 3, 4), live=(1,), suspected=(2, 3, 4)))
        self.assertEqual(self.run_sweep(answer=(1,)), verdict(failed=(2, 3, 4), live=(1,)))
        self.assertEqual(self.run_sweep(answer=(1,)), verdict(failed=(2, 3, 4), live=(1,)))

    def test_the_next_sweep_does_not_agree(self):
        self.sweep.start([1, 2, 3, 4], self.now)
        self.run_sweep(answer=(1,))
        self.assertEqual(self.run_sweep(answer=(1, 2, 3, 4)), verdict(live=(1, 2, 3, 4)))
        self.assertEqual(
            self.run_sweep(answer=(1,)).suspected, {2, 3, 4}, "what was found before is over"
        )

    def test_the_next_sweep_agrees_in_part(self):
        self.sweep.start([1, 2, 3, 4, 5], self.now)
        self.run_sweep(answer=(4, 5))
        found = self.run_sweep(answer=(3, 5))
        self.assertEqual(found, verdict(failed=(1, 2), held=(4,), live=(3, 5), suspected=(4,)))

    def test_half_is_not_over_half(self):
        self.sweep.start([1, 2], self.now)
        self.assertEqual(self.run_sweep(answer=(2,)).failed, {1})
        self.sweep.start([1], self.now)
        self.assertEqual(self.run_sweep().suspected, {1}, "the only other one")
        self.assertEqual(self.run_sweep().failed, {1})

    def test_failed_by_other_evidence(self):
        self.sweep.start([1, 2, 3], self.now, failed=(1, 9))
        self.assertEqual(self.run_sweep(answer=(2, 3)), verdict(failed=(1,), live=(2, 3)))
        self.sweep.fail(2)
        self.sweep.fail(9)
        self.asked.clear()
        found = self.run_sweep(answer=(3,))
        self.assertEqual(found, verdict(failed=(1, 2), live=(3,)))
        self.assertEqual([n for n, _ in self.asked], [1, 2, 3])

    def test_failed_by_other_evidence_after_its_answer(self):
        self.sweep.start([1, 2], self.now)

        def during(ask):
            if ask.number == 2:
                self.sweep.fail(1)

        self.assertEqual(self.run_sweep((1, 2), during=during), verdict(failed=(1,), live=(2,)))

    def test_own_absence_starts_it_anew(self):
        self.sweep.start([1, 2, 3], self.now)
        (ask,) = self.sweep.due(self.now)
        self.sweep.answered(1, ask.id, self.now)
        (ask,) = self.sweep.due(self.now)
        self.now += 60
        self.sweep.again(self.now)
        self.assertFalse(self.sweep.answered(2, ask.id, self.now))
        self.assertEqual(self.run_sweep(answer=(1, 2, 3)), verdict(live=(1, 2, 3)))
        self.assertEqual([n for n, _ in self.asked], [1, 2, 3])
        self.sweep.stop()
        self.sweep.again(self.now)
        self.assertEqual((self.sweep.due(1e9), self.sweep.next_at), ((), math.inf))

    def test_a_new_reign_knows_nothing_of_the_last_one(self):
        self.sweep.start([1, 2], self.now)
        self.run_sweep(answer=(2,))
        self.sweep.start([1, 2], self.now)
        self.assertIsNone(self.sweep.swept_at)
        self.asked.clear()
        self.run_sweep(answer=(2,))
        self.assertEqual([n for n, _ in self.asked], [1, 1, 1, 2])

    @settings(deadline=None, max_examples=200)
    @given(
        st.sets(st.integers(0, 6), max_size=6),
        st.lists(
            st.tuples(st.sets(st.integers(0, 6)), st.sets(st.integers(0, 6))),
            min_size=1,
            max_size=6,
        ),
        st.integers(0, 3),
    )
    def test_against_a_naive_one(self, nodes, sweeps, retries):
        self.sweep = Sweep(EVERY, retries, TIMEOUT)
        self.sweep.start(nodes, self.now)
        failed, suspected = set(), set()
        for answer, heard in sweeps:
            # Heartbeats are only answered while somebody is asked.
            found = self.run_sweep(answer, heard)
            silent = nodes - answer - heard
            fresh = silent - failed
            many = 2 * len(fresh) > len(nodes)
            suspected = fresh - suspected if many else set()
            failed = silent - suspected
            self.assertEqual(found.failed, failed)
            self.assertEqual(found.suspected, suspected)
            self.assertEqual(found.live, nodes & answer)
            self.assertEqual(found.failed | found.held | found.live, nodes)
            self.assertEqual(
                len(found.failed) + len(found.held) + len(found.live), len(nodes), "disjoint"
            )
