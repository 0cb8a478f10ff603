"""Tests of dlba.election.role: what a node does when it becomes something else."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.commands import Mute, ProbeVip, Quiet, StepDown, Store, Tell
from dlba.election.messages import Resign
from dlba.election.role import Role
from dlba.election.transitions import Action, State
from tests.election.one_election import Case, alive, mac


class ActionTests(SynchronousTestCase):
    def test_every_one_can_be_carried_out(self):
        self.assertEqual(set(Role.ACT), set(Action))


class SchedulerTests(Case):
    def test_a_later_term_that_nobody_reigns_in_is_gone_beyond(self):
        self.reign()
        self.gets("alive", 3, alive(term=30, scheduler=2, reign_term=self.election.reign.term))
        self.run_for(0.02)
        self.assertEqual(self.taken(Store), [Store(31, 2)])
        self.assertEqual(self.election.reign.term, 31)
        self.assertIs(self.election.state, State.SCHEDULER)

    def test_absent_it_is_silent_until_it_is_confirmed(self):
        self.reign()
        self.now += 1.0
        self.election.tick(self.now)
        self.assertIs(self.election.state, State.ABSENT)
        self.assertEqual(self.taken(Mute), [Mute(True)])
        self.confirm(3, sends=False)  # an answer from before
        self.assertIs(self.election.state, State.ABSENT)
        self.confirm(3)
        self.assertIs(self.election.state, State.SCHEDULER)
        self.assertEqual(self.taken(Mute), [Mute(False)])

    def test_absent_and_nobody_there_it_goes_on(self):
        self.reign()
        self.now += 1.0
        self.election.tick(self.now)
        self.run_for(0.31)
        self.assertIs(self.election.state, State.SCHEDULER)

    def test_absent_and_another_answers_for_the_vip_it_yields(self):
        self.reign()
        self.now += 1.0
        self.election.tick(self.now)
        self.assertIn(ProbeVip(), self.taken())
        self.gets("vip_claimed", mac(3))
        self.assertIs(self.election.state, State.BACKUP)
        self.assertEqual(self.taken(StepDown), [StepDown()])

    def test_a_fault_ends_it_and_all_are_told(self):
        self.reign()
        self.gets("broken", "link", "no carrier")
        out = self.taken()
        resigned = [one.number for one in out if isinstance(getattr(one, "message", 0), Resign)]
        self.assertEqual(sorted(resigned), [1, 3])
        self.assertIn(StepDown(), out)
        self.assertFalse(self.election.eligible)
        self.gets("broken", "link", "")
        self.assertIs(self.election.state, State.LISTENING)

    def test_each_fault_is_told_once(self):
        self.gets("broken", "link", "no carrier")
        self.gets("broken", "link", "no carrier")
        self.gets("broken", "link", "gone")
        self.gets("broken", "disk", "full")
        self.gets("broken", "link", "")
        self.gets("broken", "disk", "")
        self.assertEqual(
            [(one.level, one.text) for one in self.taken(Tell)],
            [
                ("error", "fault: no carrier"),
                ("error", "fault: gone"),
                ("error", "fault: full"),
                ("info", "fault over"),
            ],
        )

    def test_two_faults_are_over_when_both_are(self):
        self.reign()
        self.gets("broken", "link", "no carrier")
        self.gets("broken", "disk", "full")
        self.gets("broken", "link", "")
        self.assertIs(self.election.state, State.FAULT)
        self.gets("broken", "disk", "")
        self.assertIs(self.election.state, State.LISTENING)

    def test_an_orderly_end(self):
        self.reign()
        self.gets("stop")
        self.assertIs(self.election.state, State.LEAVING)
        out = self.taken()
        self.assertIn(Quiet(), out)
        self.assertNotIn(StepDown(), out)

    def test_with_nobody_to_follow_it_stays_to_the_end(self):
        self.reign()
        self.gets("down", 1)
        self.gets("alive", 3, alive(eligible=False))
        self.gets("stop")
        self.assertIs(self.election.state, State.SCHEDULER)
