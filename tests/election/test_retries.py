"""Tests of dlba.election.retries."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dlba.election.retries import RETRY, Retries


class RetriesTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.tried, self.works = [], set()
        self.made = Retries(self.clock, self.mended)

    def mended(self, what):
        self.tried.append((self.clock.seconds(), what))
        return what in self.works

    def test_each_by_itself_until_it_goes(self):
        self.made.later("disk")
        self.clock.advance(1)
        self.made.later("disk")
        self.made.later("port")
        self.works.add("port")
        self.clock.pump([0.5] * 20)
        self.assertEqual(self.tried, [(RETRY, "disk"), (RETRY + 1, "port"), (2 * RETRY, "disk")])
        self.works.add("disk")
        self.clock.pump([0.5] * 20)
        self.assertEqual(self.tried[3:], [(3 * RETRY, "disk")])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_fails_while_it_is_tried(self):
        """To be tried again then, and once."""

        def mended(what):
            self.made.later(what)
            return False

        self.made = Retries(self.clock, mended)
        self.made.later("port")
        self.clock.advance(RETRY)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_stop(self):
        self.made.later("disk")
        self.made.later("port")
        self.made.stop()
        self.made.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
