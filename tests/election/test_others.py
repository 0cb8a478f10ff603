"""Tests of dlba.election.others: who is there, who comes first, and what a majority is."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.commands import Store
from dlba.election.messages import Grant
from dlba.election.others import SKEW, Others
from dlba.election.reign import NodeInfo
from dlba.election.transitions import State
from tests.election.one_election import START, Case, mac


class OthersTests(SynchronousTestCase):
    """By itself: node 2 of four, of which the fourth is disabled."""

    def setUp(self):
        infos = [NodeInfo(n, f"n{n}", 100, n != 4, mac(n)) for n in range(1, 5)]
        self.others = Others(2, infos, True, START)

    def test_who_is_who(self):
        self.assertEqual((self.others.own.number, [*self.others.watches]), (2, [1, 3, 4]))
        self.assertIs(self.others.at(mac(3)), self.others.watches[3])
        self.assertIsNone(self.others.at(mac(2)))
        self.others.watches[3].up = True
        self.assertEqual(self.others.connected, [3])

    def test_a_majority_is_of_the_enabled(self):
        for numbers, enough in (((), False), ((4,), False), ((1,), True), ((1, 3), True)):
            self.assertEqual(self.others.enough(numbers), enough)

    def test_where_none_is_needed_anybody_is_enough(self):
        infos = [NodeInfo(n, f"n{n}", 100, True, mac(n)) for n in (1, 2, 3)]
        self.assertTrue(Others(2, infos, False, START).enough(()))

    def test_who_comes_first(self):
        for watch in self.others.watches.values():
            watch.up = True
        self.assertEqual([self.others.before(n) for n in (1, 3, 4)], [True, False, False])
        self.assertEqual((self.others.rank(-1), self.others.rank(1)), (1, 0))
        self.assertEqual(self.others.skew(-1), SKEW)
        self.others.draining = True
        self.assertEqual([self.others.before(n) for n in (1, 3, 4)], [True, True, False])
        self.assertEqual(self.others.rank(-1), 2)

    def test_silence_is_counted_anew_or_less(self):
        watch = self.others.watches[1]
        self.others.shift(0.5)
        self.assertEqual((watch.beat, watch.echo), (START + 0.5, START + 0.5))
        self.others.reset(START + 3)
        self.assertEqual((watch.beat, watch.answered), (START + 3, START + 3))


class DisabledTests(Case):
    """Three of four are enabled: two of those are a majority, the disabled one makes none."""

    nodes = 4
    majority = True
    disabled = 4

    def test_its_answers_do_not_count(self):
        self.connect(1, 3, 4)
        self.run_for(1.15, self.answer)
        self.gets("grant", 4, Grant(term=self.election.term))
        self.run_for(0.06)
        self.assertIsNot(self.election.state, State.SCHEDULER)

    def test_nor_does_it_keep_one_scheduler(self):
        self.reign()
        self.run_for(0.35, lambda: self.election.reigning and self.confirm(4))
        self.assertIs(self.election.state, State.BACKUP)

    def test_it_claims_nothing_itself(self):
        self.number = 4
        self.majority = False
        self.setUp()
        self.run_for(3.0)
        self.assertEqual(self.taken(Store), [])
