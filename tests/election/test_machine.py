"""Tests of dlba.election.machine: what comes in, and what it means.

Its parts have tests of their own. How whole arrays behave is tests/sim's business; here is what one
node does and says.
"""

from dlba.election.commands import Dial, ProbeVip, Schedule, StepDown, Store
from dlba.election.messages import Claim, Grant
from dlba.election.transitions import State
from tests.election.one_election import Case, alive, beat


class ListeningTests(Case):
    def test_it_listens_for_three_down_after_and_its_rank(self):
        self.run_for(0.89)
        self.assertIs(self.election.state, State.LISTENING)
        self.run_for(0.05)
        self.assertIsNot(self.election.state, State.LISTENING)

    def test_a_scheduler_is_followed_at_once(self):
        self.connect(1)
        self.assertTrue(self.gets("heartbeat", 1, beat(5)))
        self.assertIs(self.election.state, State.BACKUP)
        self.assertEqual((self.election.scheduler, self.election.reign.term), (1, 5))

    def test_alone_it_claims_the_next_term(self):
        self.run_for(1.1)
        self.assertIs(self.election.state, State.SCHEDULER)
        self.assertEqual(self.election.term, 5)
        self.assertTrue(self.election.reign.alone)
        out = self.taken()
        stored, scheduled = out.index(Store(5, 2)), out.index(Schedule(5))
        self.assertLess(stored, scheduled)
        self.assertEqual(out.count(ProbeVip()), 3)
        self.assertEqual(self.began, [-1])


class SchedulerTests(Case):
    def test_a_better_one_ends_it(self):
        self.reign()
        self.assertFalse(self.gets("heartbeat", 3, beat(self.election.reign.term, alone=True)))
        self.assertTrue(self.gets("heartbeat", 3, beat(self.election.reign.term + 1)))
        self.assertEqual(self.taken(StepDown), [StepDown()])
        self.assertEqual((self.election.state, self.election.scheduler), (State.BACKUP, 3))
        self.assertEqual(len(self.ended), 1)

    def test_followers_of_a_later_reign_end_it(self):
        self.reign()
        self.gets("alive", 3, alive(term=30, scheduler=1, reign_term=30))
        self.assertIs(self.election.state, State.BACKUP)


class SlowDiskTests(Case):
    def test_a_quick_one_costs_nothing(self):
        self.follow()
        self.gets("down", 1)
        self.gets("refused", 1)
        while not self.taken(Claim):
            self.run_for(0.01)
        self.now += 0.002
        self.gets("stored")
        self.now += 0.001
        self.gets("grant", 3, Grant(term=self.election.term))
        self.assertIs(self.election.state, State.SCHEDULER)

    def test_a_store_is_no_absence(self):
        self.follow()
        self.gets("down", 1)
        self.gets("refused", 1)
        while not self.taken(Claim):
            self.run_for(0.01)
        self.now += 0.5
        self.gets("stored")
        self.election.tick(self.now)
        self.assertIs(self.election.state, State.CLAIMANT)
        self.run_for(0.04)
        self.gets("grant", 3, Grant(term=self.election.term))
        self.run_for(0.04)
        self.assertIs(self.election.state, State.SCHEDULER)

    def test_nor_is_it_evidence(self):
        self.follow()
        self.run_for(0.1)
        self.now += 0.25
        self.gets("stored")
        self.run_for(0.1)
        self.assertIs(self.election.state, State.BACKUP)


class MeetingTests(Case):
    """A split has healed."""

    def test_what_another_scheduler_says_of_itself_unseats_nobody(self):
        self.reign()
        self.confirm(1)
        term = self.election.term
        self.gets("heartbeat", 3, beat(term + 1, alone=True))
        self.gets("alive", 3, alive(term + 1, scheduler=3, reign_term=term + 1))
        self.assertIs(self.election.state, State.SCHEDULER)
        self.gets("alive", 1, alive(term + 1, scheduler=3, reign_term=term + 1))
        self.assertIs(self.election.state, State.BACKUP)

    def test_a_machine_that_answers_again_is_dialled(self):
        self.reign()
        self.gets("echoed", 1)
        self.assertEqual(self.taken(Dial), [])
        self.gets("down", 1)
        self.gets("echoed", 1)
        self.assertEqual(self.taken(Dial), [Dial(1)])
