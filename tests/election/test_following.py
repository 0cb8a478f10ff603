"""Tests of dlba.election.following: when a scheduler counts as dead, and who is followed."""

from dlba.election.commands import Echo, ProbeVip, Send
from dlba.election.messages import Ask, Claim, Grant, Heard, Resign
from dlba.election.transitions import State
from tests.election.one_election import DOWN, Case, alive, beat, mac


class EvidenceTests(Case):
    number = 2

    def test_refused_is_evidence_at_once(self):
        self.follow()
        self.gets("down", 1)
        self.assertEqual(self.election.scheduler, 1)
        self.gets("refused", 1)
        self.assertEqual(self.election.scheduler, -1)
        self.assertIs(self.election.state, State.CANDIDATE)

    def test_so_is_a_new_incarnation_but_no_replaced_connection(self):
        self.follow()
        self.gets("up", 1, "1")
        self.assertEqual(self.election.scheduler, 1)
        self.gets("up", 1, "other")
        self.assertIs(self.election.state, State.CANDIDATE)

    def test_a_closed_channel_alone_is_none(self):
        self.follow()
        self.gets("down", 1)
        self.run_for(0.25)
        self.assertIs(self.election.state, State.BACKUP)

    def test_silence_in_both_ways(self):
        self.follow()
        self.run_for(0.25)
        self.assertIs(self.election.state, State.BACKUP)
        self.assertIn(Echo(1), self.taken(Echo))
        self.answers_while(0.045)  # weighing has begun, the evidence isn't complete
        self.assertIs(self.election.state, State.CANDIDATE)
        self.assertEqual(self.taken(Claim), [])
        self.answers_while(0.02)
        self.assertEqual([number for number, _ in self.taken(Claim)], [1, 3])

    def answers_while(self, seconds):
        """The third node answers that it hears nobody."""

        def answer():
            for number, ask in [
                (one.number, one.message)
                for one in self.election.out
                if isinstance(one, Send) and isinstance(one.message, Ask)
            ]:
                said = Heard(id=ask.id, heard=False, table_term=0, version=0)
                self.gets("heard", number, said)

        self.run_for(seconds, answer)

    def test_an_echo_in_the_last_moment(self):
        self.follow()
        self.run_for(0.28)
        self.assertIs(self.election.state, State.CANDIDATE)
        self.gets("echoed", 1)
        self.run_for(0.01)
        self.assertIs(self.election.state, State.BACKUP)
        self.run_for(0.2, lambda: self.gets("echoed", 1))
        self.assertEqual(self.taken(Claim), [])

    def test_a_heartbeat_in_the_last_moment(self):
        self.follow()
        self.run_for(0.28)
        self.gets("heartbeat", 1, beat(5, 2))
        self.assertIs(self.election.state, State.BACKUP)

    def test_echoes_make_it_three_times_as_long(self):
        self.follow()
        self.run_for(0.85, lambda: self.gets("echoed", 1))
        self.assertIs(self.election.state, State.BACKUP)
        self.run_for(0.04, lambda: self.gets("echoed", 1))
        self.assertIs(self.election.state, State.CANDIDATE)
        self.assertEqual(self.taken(Claim), [])
        self.run_for(0.08, lambda: self.gets("echoed", 1))
        self.assertNotEqual(self.taken(Claim), [])

    def test_nobody_answers_for_the_vip(self):
        self.follow()
        count = iter(range(2, 1000))
        every = lambda: self.gets("heartbeat", 1, beat(5, next(count)))  # noqa: E731
        self.run_for(1.9, every)
        self.assertIs(self.election.state, State.BACKUP)
        self.assertGreaterEqual(len(self.taken(ProbeVip)), 5)
        self.gets("vip_claimed", mac(1))
        self.run_for(1.9, every)
        self.assertIs(self.election.state, State.BACKUP)
        self.run_for(0.15)
        self.assertEqual({ask.vip for _, ask in self.taken(Ask)}, {True})

    def test_it_says_itself_that_it_is_scheduler_no_more(self):
        for say in (
            lambda: self.gets("resign", 1, Resign(term=5, why="fault")),
            lambda: self.gets("alive", 1, alive(5)),
            lambda: self.gets("bye", 1),
        ):
            self.setUp()
            self.follow()
            say()
            self.assertEqual(self.election.scheduler, -1)

    def test_an_old_resignation_is_none(self):
        self.follow()
        self.gets("resign", 1, Resign(term=4, why="then"))
        self.assertEqual(self.election.scheduler, 1)

    def test_an_absence_of_its_own_is_none(self):
        self.follow()
        self.now += 5.0
        self.election.tick(self.now)
        self.assertIs(self.election.state, State.BACKUP)
        self.run_for(0.25)
        self.assertIs(self.election.state, State.BACKUP)

    def test_nor_is_what_a_stall_left_unread(self):
        self.follow()
        self.run_for(0.1)
        self.now += 0.28
        self.election.tick(self.now)
        self.assertIs(self.election.state, State.BACKUP)
        self.gets("heartbeat", 1, beat(5, 2))
        self.run_for(0.1)
        self.assertIs(self.election.state, State.BACKUP)


class SuccessionTests(Case):
    """Whether the scheduler before counts as dead, so that its buckets are free."""

    def succeeds(self):
        self.answer()
        self.run_for(0.05)
        for number in (1, 3):
            self.gets("grant", number, Grant(term=self.election.term))
        self.assertIs(self.election.state, State.SCHEDULER)
        return self.began

    def test_its_process_is_gone(self):
        self.follow()
        self.gets("down", 1)
        self.gets("refused", 1)
        self.assertEqual(self.succeeds(), [1])

    def test_it_has_resigned_and_lives(self):
        self.follow()
        self.gets("resign", 1, Resign(term=5, why="fault: full"))
        self.run_for(0.01)
        self.assertEqual(self.succeeds(), [-1])

    def test_it_has_resigned_and_its_process_has_ended(self):
        self.follow()
        self.gets("resign", 1, Resign(term=5, why="it stops"))
        self.gets("bye", 1)
        self.run_for(0.01)
        self.assertEqual(self.succeeds(), [1])

    def test_nobody_has_failed_by_then_for_not_answering_this_node(self):
        self.follow()
        self.run_for(0.2)
        self.gets("down", 1)
        self.gets("refused", 1)
        self.succeeds()
        self.assertFalse(self.election.watches[3].dead(self.now, DOWN))


class MajorityTests(Case):
    majority = True

    def test_claimants_wait_longer_than_a_scheduler_lasts(self):
        self.follow()
        self.run_for(0.40)
        self.assertIs(self.election.state, State.BACKUP)
        self.run_for(0.04)
        self.assertIs(self.election.state, State.CANDIDATE)
        self.assertEqual(self.taken(Claim), [])

    def test_but_not_if_its_process_is_gone(self):
        self.follow()
        self.gets("down", 1)
        self.gets("refused", 1)
        self.assertIs(self.election.state, State.CANDIDATE)

    def test_an_earlier_term_is_followed_no_more(self):
        self.follow(1, 8)
        self.gets("down", 1)
        self.gets("refused", 1)
        self.assertFalse(self.gets("heartbeat", 3, beat(7)))
