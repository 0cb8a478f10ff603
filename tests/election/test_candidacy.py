"""Tests of dlba.election.candidacy: who asks, who claims, and who must wait."""

from dlba.election.commands import Schedule, Send, Store
from dlba.election.messages import Ask, Claim, Grant, Heard, Refuse
from dlba.election.transitions import State
from dlba.election.watch import Evidence
from tests.election.one_election import Case, alive, beat, mac


class CandidateTests(Case):
    def candidate(self):
        self.follow()
        self.gets("down", 1)
        self.gets("refused", 1)
        self.assertIs(self.election.state, State.CANDIDATE)

    def test_it_asks_all_but_the_dead_one(self):
        self.candidate()
        asks = self.taken(Ask)
        self.assertEqual([(number, ask.scheduler) for number, ask in asks], [(3, 1)])

    def test_most_hear_it_so_no_claim(self):
        self.candidate()
        self.answer(heard=True)
        self.assertIs(self.election.state, State.BACKUP)
        self.run_for(2.0, lambda: self.answer(heard=True))
        self.assertEqual(self.taken(Claim), [])

    def test_a_member_answers_for_the_vip_so_no_claim(self):
        self.candidate()
        self.gets("vip_claimed", b"\x02\x99\x99\x99\x99\x99")
        self.assertIs(self.election.state, State.CANDIDATE)
        self.gets("vip_claimed", mac(1))
        self.assertIs(self.election.state, State.BACKUP)

    def test_it_claims_the_highest_term_it_has_seen_and_one(self):
        self.candidate()
        self.gets("alive", 3, alive(term=17))
        self.answer()
        self.run_for(0.05)
        out = self.taken()
        claim = Send(3, Claim(term=18, evidence=Evidence.GONE))
        self.assertLess(out.index(Store(18, 2)), out.index(claim))
        self.assertNotIn(Schedule(18), out)
        self.gets("grant", 3, Grant(term=18))
        self.assertIs(self.election.state, State.SCHEDULER)
        self.assertFalse(self.election.reign.alone)
        self.assertEqual(self.began, [1])

    def test_an_answer_to_another_question_is_none(self):
        self.candidate()
        self.gets("heard", 3, Heard(id=999, heard=True, table_term=0, version=0))
        self.assertIs(self.election.state, State.CANDIDATE)

    def test_a_better_one_that_asks_goes_first(self):
        self.candidate()
        self.gets("ask", 3, Ask(id=1, scheduler=1, vip=False))
        self.assertIs(self.election.state, State.CANDIDATE)
        self.gets("up", 1, "again")
        self.gets("ask", 1, Ask(id=1, scheduler=-1, vip=False))
        self.assertIs(self.election.state, State.BACKUP)

    def test_a_refusal_by_a_scheduler_ends_the_claim(self):
        self.candidate()
        self.answer()
        self.run_for(0.05)
        self.gets("refuse", 3, Refuse(term=6, highest=9, live=True, why="a scheduler is alive"))
        self.assertIs(self.election.state, State.BACKUP)
        self.assertEqual(self.election.term, 9)

    def test_claims_that_get_no_answer_are_not_made_all_the_time(self):
        self.candidate()
        terms = set()

        def refuse():
            out = list(self.election.out)
            self.answer()
            for one in out:
                if isinstance(one, Send) and isinstance(one.message, Claim):
                    term = one.message.term
                    terms.add(term)
                    refusal = Refuse(term=term, highest=term, live=False, why="another has it")
                    self.gets("refuse", 3, refusal)

        self.run_for(3.0, refuse)
        self.assertLess(len(terms), 20)
        self.assertGreater(len(terms), 2)


class DeafTests(Case):
    """Heartbeats come, but this node hears no ARP for the VIP."""

    def candidate(self, heartbeat=0.1):
        self.follow()
        count = iter(range(2, 10_000))
        self.last = self.now

        def every():
            if self.now >= self.last + heartbeat:
                self.last = self.now
                self.gets("heartbeat", 1, beat(5, next(count)))

        while not (asked := self.taken(Ask)):
            self.run_for(0.01, every)
        return asked, every

    def test_the_scheduler_is_not_asked_and_one_that_hears_is_enough(self):
        asked, _ = self.candidate()
        self.assertEqual([number for number, _ in asked], [3])
        said = Heard(id=asked[0][1].id, heard=True, table_term=0, version=0)
        self.gets("heard", 3, said)
        self.assertIs(self.election.state, State.BACKUP)

    def test_its_heartbeats_end_no_claim(self):
        asked, every = self.candidate(0.02)
        said = Heard(id=asked[0][1].id, heard=False, table_term=0, version=0)
        self.gets("heard", 3, said)
        self.run_for(0.05, every)
        self.assertEqual([number for number, _ in self.taken(Claim)], [1, 3])


class MajorityTests(Case):
    majority = True

    def test_no_claim_unless_a_majority_can_be_asked(self):
        self.run_for(3.0)
        self.assertEqual(self.taken(Store), [])
        self.assertEqual(self.election.term, 4)

    def test_none_without_its_grants(self):
        self.connect(1, 3)
        self.run_for(1.15, self.answer)
        self.assertIs(self.election.state, State.CLAIMANT)
        self.run_for(0.06)
        self.assertIsNot(self.election.state, State.SCHEDULER)

    def test_one_grant_of_two_is_enough(self):
        self.connect(1, 3)
        self.run_for(1.15, self.answer)
        self.gets("grant", 3, Grant(term=self.election.term))
        self.run_for(0.06)
        self.assertIs(self.election.state, State.SCHEDULER)
