"""Tests of dlba.election.ballot: what speaks against a claim, and the answers to one."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.ballot import LIMIT, Ballot, Weighing
from dlba.election.replication import Position

HERE = Position(10, 5)


class WeighingTests(SynchronousTestCase):
    def weighing(self, *asked):
        return Weighing(7, asked, HERE, 100.0)

    def probed(self, *asked):
        """One that has sent its probes."""
        made = self.weighing(*asked)
        for at in (100.0, 100.01, 100.02):
            self.assertTrue(made.probe_due(at))
        return made

    def test_three_probes_ten_milliseconds_apart(self):
        made = self.weighing()
        times = [at / 1000 for at in range(100) if made.probe_due(100.0 + at / 1000)]
        self.assertEqual(len(times), 3)
        for found, expected in zip(times, (0.0, 0.01, 0.02), strict=True):
            self.assertAlmostEqual(found, expected, delta=0.0011)

    def test_alone_it_waits_for_the_last_probe_only(self):
        made = self.probed()
        self.assertFalse(made.done(HERE, 100.029))
        self.assertTrue(made.done(HERE, 100.031))

    def test_not_without_the_probes(self):
        self.assertFalse(self.weighing().done(HERE, 101.0))

    def test_it_waits_for_answers_but_not_for_ever(self):
        made = self.probed(2, 3)
        made.heard(2, False, HERE, 100.01)
        self.assertFalse(made.done(HERE, 100.04))
        self.assertTrue(made.done(HERE, 100.0 + LIMIT + 0.001))
        made.heard(3, False, HERE, 100.02)
        self.assertTrue(made.done(HERE, 100.04))
        self.assertEqual(set(made.answers), {2, 3})

    def test_most_of_those_asked_hear_it(self):
        made = self.weighing(2, 3, 4)
        made.heard(2, True, HERE, 100.01)
        self.assertFalse(made.heard_by_most)
        made.heard(3, False, HERE, 100.01)
        made.heard(4, True, HERE, 100.01)
        self.assertTrue(made.heard_by_most)

    def test_half_is_not_most(self):
        made = self.weighing(2, 3)
        made.heard(2, True, HERE, 100.01)
        made.heard(3, False, HERE, 100.01)
        self.assertFalse(made.heard_by_most)

    def test_nobody_asked_hears_nothing(self):
        self.assertFalse(self.weighing().heard_by_most)

    def test_one_that_was_not_asked_has_no_say(self):
        made = self.weighing(2)
        self.assertFalse(made.heard(9, True, Position(99, 9), 100.01))
        self.assertFalse(made.heard_by_most)
        self.assertEqual(set(made.answers), set())

    def test_the_table_comes_from_the_most_advanced(self):
        made = self.probed(2, 3, 4)
        self.assertFalse(made.heard(2, False, HERE, 100.01))
        self.assertTrue(made.heard(3, False, Position(10, 6), 100.01))
        self.assertTrue(made.heard(4, False, Position(11, 0), 100.02))
        self.assertFalse(made.done(HERE, 100.04))
        self.assertTrue(made.done(Position(11, 0), 100.04))

    def test_a_table_that_does_not_come_keeps_nobody_waiting(self):
        made = self.probed(2)
        made.heard(2, False, Position(11, 0), 100.02)
        self.assertFalse(made.done(HERE, 100.069))
        self.assertTrue(made.done(HERE, 100.02 + LIMIT + 0.001))


class BallotTests(SynchronousTestCase):
    def test_done_when_all_have_answered(self):
        made = Ballot(3, (1, 2), 100.0 + LIMIT)
        self.assertFalse(made.done(100.0))
        made.grant(1)
        made.grant(1)
        self.assertFalse(made.done(100.01))
        made.refuse(2, False, "term 3 was seen")
        self.assertTrue(made.done(100.01))

    def test_done_when_the_time_is_up(self):
        made = Ballot(3, (1, 2), 100.0 + LIMIT)
        self.assertFalse(made.done(100.0 + LIMIT - 0.001))
        self.assertTrue(made.done(100.0 + LIMIT))

    def test_alone_it_is_done_at_once(self):
        made = Ballot(3, (), 100.0 + LIMIT)
        self.assertTrue(made.done(100.0))
        self.assertFalse(made.lost)

    def test_a_live_scheduler_ends_it(self):
        made = Ballot(3, (1, 2, 3), 100.0 + LIMIT)
        made.grant(1)
        made.grant(2)
        made.refuse(3, True, "a scheduler is alive")
        self.assertTrue(made.done(100.0))
        self.assertTrue(made.lost)
        self.assertEqual(made.against, "a scheduler is alive")

    def test_more_refuse_than_grant(self):
        made = Ballot(3, (1, 2, 3), 100.0 + LIMIT)
        made.refuse(1, False, "term 3 was seen")
        self.assertTrue(made.lost)
        made.grant(2)
        self.assertFalse(made.lost)
        made.refuse(3, False, "")
        self.assertTrue(made.lost)
        self.assertEqual(made.against, "refused")
