"""Tests of dlba.election.mandate: whether a scheduler may go on."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.mandate import BEATS, Mandate
from dlba.election.messages import Resign
from dlba.election.others import Others
from dlba.election.reign import NodeInfo
from dlba.election.transitions import Event, State
from tests.election.one_election import DOWN, START, Case, mac


class MandateTests(SynchronousTestCase):
    """By itself."""

    def mandate(self, majority=True, nodes=5):
        infos = [NodeInfo(n, f"n{n}", 100, True, mac(n)) for n in range(1, nodes + 1)]
        self.others = Others(2, infos, majority, START)
        self.others.reset(START)
        return Mandate(self.others, DOWN, START)

    def test_an_answer_is_as_old_as_its_heartbeat(self):
        mandate = self.mandate()
        mandate.sent(1, START + 0.1)
        mandate.sent(2, START + 0.2)
        mandate.answered(3, 2)
        mandate.answered(3, 1)
        self.assertEqual(self.others.watches[3].answered, START + 0.2)
        mandate.answered(3, 999)
        self.assertEqual(self.others.watches[3].answered, START + 0.2)

    def test_heartbeats_are_forgotten(self):
        mandate = self.mandate()
        for count in range(1, BEATS + 2):
            mandate.sent(count, START + count)
        mandate.answered(3, 1)
        self.assertEqual(self.others.watches[3].answered, START)
        mandate.answered(3, 2)
        self.assertEqual(self.others.watches[3].answered, START + 2)
        mandate.begin()
        mandate.answered(3, BEATS + 1)
        self.assertEqual(self.others.watches[3].answered, START + 2)

    def test_a_majority_must_have_answered(self):
        mandate = self.mandate()
        self.assertIsNone(mandate.due(False, START + DOWN))
        mandate.sent(1, START + 0.2)
        mandate.answered(3, 1)
        self.assertIs(mandate.due(False, START + 0.4), Event.MINORITY)
        mandate.answered(4, 1)
        self.assertIsNone(mandate.due(False, START + 0.4))

    def test_absent_it_is_confirmed_by_new_answers(self):
        mandate = self.mandate(nodes=3)
        mandate.absent(7, START)
        self.assertFalse(mandate.confirmed)
        mandate.answered(1, 7)
        self.assertFalse(mandate.confirmed)
        mandate.answered(1, 8)
        self.assertTrue(mandate.confirmed)
        mandate.absent(8, START)
        self.assertFalse(mandate.confirmed)

    def test_or_by_silence_where_no_majority_is_needed(self):
        mandate = self.mandate(majority=False)
        mandate.absent(1, START + 1)
        self.assertFalse(mandate.confirmed)
        self.assertIsNone(mandate.due(True, START + 1.2))
        self.assertIsNone(mandate.due(False, START + 1.4))
        self.assertIs(mandate.due(True, START + 1.4), Event.CONFIRMED)


class MajorityTests(Case):
    majority = True

    def test_a_scheduler_without_answers_gives_up_and_says_so(self):
        self.reign()
        self.run_for(0.29, lambda: self.confirm(1))
        self.run_for(0.29)
        self.assertIs(self.election.state, State.SCHEDULER)
        self.run_for(0.05)
        self.assertIs(self.election.state, State.BACKUP)
        self.assertEqual([number for number, _ in self.taken(Resign)], [1, 3])

    def test_an_answer_counts_from_its_heartbeat(self):
        self.reign()
        self.election.beats(self.now)
        self.run_for(0.2)
        self.confirm(1, sends=False)
        self.confirm(3, sends=False)
        self.run_for(0.12)
        self.assertIs(self.election.state, State.BACKUP)


class ConfirmTests(Case):
    """Five nodes: a scheduler that was absent goes on when a majority follows it."""

    majority = True
    nodes = 5

    def test_one_is_not_enough(self):
        self.reign()
        self.now += 5.0
        self.election.tick(self.now)
        self.assertIs(self.election.state, State.ABSENT)
        self.election.beats(self.now)
        for number in (1, 3):
            self.assertIs(self.election.state, State.ABSENT)
            self.confirm(number, sends=False)
        self.assertIs(self.election.state, State.SCHEDULER)
