"""Tests of dlba.election.allowance."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.allowance import EACH_SECOND, Allowance
from dlba.election.messages import Bye, Keys, Pull
from dlba.errors import PeerError


class AllowanceTests(SynchronousTestCase):
    def setUp(self):
        self.made = Allowance()

    def count(self, message, number=1, now=100.5):
        """How many of them are let through."""
        for count in range(EACH_SECOND + 2):
            try:
                self.made.spend(number, message, now)
            except PeerError:
                return count
        raise AssertionError("no end")

    def test_so_many(self):
        self.assertEqual(self.count(Bye()), EACH_SECOND)

    def test_what_costs_more(self):
        self.assertEqual(self.count(Keys(data=b"")), EACH_SECOND // 300)
        self.made = Allowance()
        # A table of 2**24 buckets is 256 pieces; each takes some milliseconds.
        self.assertGreaterEqual(self.count(Pull(first=0)), 200)

    def test_each_node_and_each_second_has_its_own(self):
        self.count(Bye())
        self.assertEqual(self.count(Bye(), number=2), EACH_SECOND)
        self.assertEqual(self.count(Bye(), now=101.0), EACH_SECOND)
