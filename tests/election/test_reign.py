"""Tests of dlba.election.reign: which of two schedulers goes on."""

from itertools import permutations, product

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.reign import Reign, better

#: Best first: one difference from each to the next.
ORDER = [
    Reign(9, 3, False, 200),
    Reign(9, 3, False, 100),
    Reign(9, 4, False, 100),
    Reign(8, 1, False, 300),
    Reign(50, 1, True, 300),
    Reign(50, 2, True, 300),
    Reign(50, 1, True, 200),
    Reign(49, 1, True, 900),
]


class BetterTests(SynchronousTestCase):
    def test_the_order(self):
        for at, one in enumerate(ORDER):
            for other in ORDER[at + 1 :]:
                self.assertTrue(better(one, other), (one, other))
                self.assertFalse(better(other, one), (one, other))

    def test_none_is_better_than_itself(self):
        for one in ORDER:
            self.assertFalse(better(one, one))

    def test_of_two_nodes_one_always_goes_on(self):
        reigns = [
            Reign(term, number, alone, 100 + number % 2)
            for term, number, alone in product((1, 2), (1, 2, 3), (False, True))
        ]
        for one, other in permutations(reigns, 2):
            if one.number != other.number:
                self.assertIsNot(better(one, other), better(other, one))
