"""Tests of dlba.election.leaving; with a member, see `service`."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dlba.election.leaving import LATE, LEAVE_LIMIT, Leaving


class LeavingTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.made = Leaving(self.clock)

    def test_followed(self):
        self.made.followed()  # before anybody leaves
        left = self.made.begin()
        self.clock.advance(LEAVE_LIMIT / 2)
        self.made.followed()
        self.clock.advance(LATE - 0.01)
        self.made.followed()
        self.assertNoResult(left)
        self.clock.advance(0.02)
        self.successResultOf(left)
        self.made.followed()
        self.made.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody_follows(self):
        left = self.made.begin()
        self.clock.advance(LEAVE_LIMIT - 0.01)
        self.assertNoResult(left)
        self.clock.advance(0.02)
        self.successResultOf(left)
        self.made.followed()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop(self):
        self.made.stop()
        for followed in (False, True):
            left = self.made.begin()
            if followed:
                self.made.followed()
            self.made.stop()
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.assertNoResult(left)
