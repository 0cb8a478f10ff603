"""Tests of dlba.election.voter: grants, promises, and terms."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.commands import Send, StepDown, Store
from dlba.election.messages import TERM_LIMIT, Claim, Grant, Refuse, Resign
from dlba.election.transitions import State
from dlba.election.voter import LEAP, Voter
from dlba.election.watch import Evidence
from dlba.errors import PeerError
from tests.election.one_election import DOWN, START, Case, alive, beat


class VoterTests(SynchronousTestCase):
    """By itself."""

    def voter(self, majority=False, term=4, granted=1):
        return Voter(2, term, granted, majority, DOWN, START)

    def refused(self, voter, term, scheduler=False, hears=False, evidence=Evidence.SILENT, at=9.0):
        claim = Claim(term=term, evidence=evidence)
        refusal = voter.refusal(claim, scheduler, hears, START + at)
        return None if refusal is None else (refusal.why, refusal.live, refusal.highest)

    def test_a_grant_is_stored_before_it_is_given(self):
        voter = self.voter()
        claim = Claim(term=7, evidence=Evidence.SILENT)
        self.assertFalse(voter.granted(3, claim))
        self.assertEqual(voter.grant(3, claim), (Store(7, 3), Send(3, Grant(term=7))))
        self.assertEqual(voter.term, 7)
        self.assertTrue(voter.granted(3, claim))
        self.assertFalse(voter.granted(1, claim))

    def test_its_own_claim_is_a_grant_too(self):
        voter = self.voter()
        self.assertEqual(voter.take_next(), Store(5, 2))
        self.assertEqual(self.refused(voter, 5), ("term 5 was seen", False, 5))
        self.assertIsNone(self.refused(voter, 6))

    def test_a_live_scheduler_refuses_unless_nobody_answers_for_the_vip(self):
        voter = self.voter()
        alive = "a scheduler is alive"
        self.assertEqual(self.refused(voter, 5, scheduler=True), (alive, True, 4))
        self.assertEqual(self.refused(voter, 5, hears=True), (alive, False, 4))
        for who in ({"scheduler": True}, {"hears": True}):
            self.assertIsNone(self.refused(voter, 5, evidence=Evidence.UNANSWERED, **who))

    def test_a_promise_holds_with_a_majority_alone(self):
        promised = ("a scheduler may live by its answers", False, 4)
        for majority, expected in ((True, promised), (False, None)):
            voter = self.voter(majority)
            self.assertEqual(self.refused(voter, 5, at=DOWN - 0.01), expected)
            self.assertIsNone(self.refused(voter, 5, at=DOWN))
            voter.promise(START + 1)
            self.assertEqual(self.refused(voter, 5, at=1 + DOWN - 0.01), expected)
            voter.release()
            self.assertIsNone(self.refused(voter, 5, at=1.0))

    def test_terms_that_nobody_can_have_come_to(self):
        voter = self.voter()
        voter.see(4 + LEAP)
        voter.see(3)
        self.assertEqual(voter.term, 4 + LEAP)
        with self.assertRaises(PeerError):
            voter.see(5 + 2 * LEAP)
        with self.assertRaises(PeerError):
            self.refused(voter, 5 + 2 * LEAP)

    def test_the_end_of_all_terms(self):
        self.assertFalse(self.voter(term=TERM_LIMIT - 2).at_the_end)
        self.assertTrue(self.voter(term=TERM_LIMIT - 1).at_the_end)


class GrantTests(Case):
    def claims(self, number, term, evidence=Evidence.GONE):
        self.gets("claim", number, Claim(term=term, evidence=evidence))
        return self.taken()

    def test_one_grant_a_term(self):
        self.connect(1, 3)
        self.assertEqual(self.claims(1, 5), [Store(5, 1), Send(1, Grant(term=5))])
        out = self.claims(3, 5)
        self.assertEqual([type(one.message) for one in out], [Refuse])
        self.assertEqual((out[0].message.highest, out[0].message.live), (5, False))

    def test_the_same_claim_again_is_granted_again(self):
        self.connect(1, 3)
        self.claims(1, 5)
        self.assertEqual(self.claims(1, 5), [Send(1, Grant(term=5))])

    def test_a_lower_term_is_refused_with_the_higher_one(self):
        self.connect(1, 3)
        self.claims(1, 9)
        out = self.claims(3, 7)
        self.assertEqual(out[0].message.highest, 9)

    def test_what_was_granted_before_a_restart_counts(self):
        self.connect(1, 3)
        out = self.claims(1, 4)
        self.assertIsInstance(out[0].message, Refuse)

    def test_none_while_a_scheduler_is_heard(self):
        self.follow(1)
        out = self.claims(3, 8)
        self.assertIsInstance(out[0].message, Refuse)
        self.assertFalse(out[0].message.live)

    def test_but_the_scheduler_itself_may_claim(self):
        self.follow(1)
        self.assertIn(Store(8, 1), self.claims(1, 8))

    def test_the_scheduler_refuses_for_all(self):
        self.reign()
        out = self.claims(3, 8)
        self.assertEqual([type(one.message) for one in out], [Refuse])
        self.assertTrue(out[0].message.live)

    def test_unless_it_plays_no_role_on_the_wire(self):
        self.reign()
        out = self.claims(3, 8, Evidence.UNANSWERED)
        self.assertEqual(out, [StepDown(), Store(8, 3), Send(3, Grant(term=8))])
        self.assertIs(self.election.state, State.BACKUP)


class PromiseTests(Case):
    """What a node has answered holds after its own reign, fault or process has ended."""

    majority = True
    number = 2

    def claimed(self, evidence=Evidence.SILENT):
        self.taken()
        claim = Claim(term=self.election.term + 1, evidence=evidence)
        self.gets("claim", 3, claim)
        return bool(self.taken(Grant))

    def test_after_a_fault(self):
        self.follow()
        self.gets("broken", "link", "no carrier")
        self.gets("broken", "link", "")
        self.assertIs(self.election.state, State.LISTENING)
        self.run_for(0.02)
        self.assertFalse(self.claimed())
        self.run_for(0.29)
        self.assertTrue(self.claimed())

    def test_after_a_start(self):
        self.connect(1, 3)
        self.run_for(0.02)
        self.assertFalse(self.claimed())
        self.run_for(0.29)
        self.assertTrue(self.claimed())

    def test_not_to_one_that_has_resigned(self):
        self.follow()
        self.gets("resign", 1, Resign(term=5, why="it stops"))
        self.assertTrue(self.claimed(Evidence.GONE))


class TermLimitTests(Case):
    def test_a_peer_takes_nobody_far_ahead(self):
        self.follow()
        term = self.election.term
        far = term + LEAP + 1
        refuse = Refuse(term=1, highest=far, live=False, why="")
        for say, *what in (
            ("heartbeat", 1, beat(far)),
            ("alive", 3, alive(far)),
            ("claim", 3, Claim(term=far, evidence=1)),
            ("refuse", 3, refuse),
        ):
            with self.assertRaises(PeerError):
                self.gets(say, *what)
            self.assertEqual(self.election.term, term)
        self.gets("alive", 3, alive(far - 1))
        self.assertEqual(self.election.term, far - 1)


class LastTermTests(Case):
    term = TERM_LIMIT - 1

    def test_the_last_term_is_not_claimed(self):
        self.run_for(4.0)
        self.assertEqual(self.taken(Claim) + self.taken(Store), [])
        self.assertEqual(self.election.term, TERM_LIMIT - 1)
