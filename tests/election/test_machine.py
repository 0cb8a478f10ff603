"""Tests of dlba.election.machine: one node's election, fed by hand.

How whole arrays behave is tests/sim's business; here is what one node does and says.
"""

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.commands import (
    GATEWAY,
    Dial,
    Echo,
    Mute,
    ProbeVip,
    Quiet,
    Schedule,
    Send,
    StepDown,
    Store,
)
from dlba.election.machine import Election, Settings
from dlba.election.messages import (
    TERM_LIMIT,
    Alive,
    Ask,
    Claim,
    Grant,
    Heard,
    Heartbeat,
    Refuse,
    Resign,
)
from dlba.election.reign import NodeInfo
from dlba.election.replication import Position
from dlba.election.transitions import State
from dlba.election.watch import Evidence
from dlba.errors import PeerError

DOWN = 0.3
START = 100.0


def mac(number):
    return bytes((2, 0, 0, 0, 1, number))


def beat(term, count=1, alone=False):
    return Heartbeat(
        term=term,
        version=0,
        parent_term=0,
        parent_version=0,
        alone=alone,
        count=count,
        signing="",
        failed=(),
    )


def alive(term=1, scheduler=-1, reign_term=0, count=1, eligible=True):
    return Alive(
        term=term,
        reign_term=reign_term,
        scheduler=scheduler,
        count=count,
        table_term=0,
        version=0,
        able=True,
        draining=False,
        eligible=eligible,
    )


class Case(SynchronousTestCase):
    nodes = 3
    number = 2
    majority = False
    disabled = 0
    gateway = False

    def setUp(self):
        infos = [
            NodeInfo(n, f"n{n}", 100, n != self.disabled, mac(n)) for n in range(1, self.nodes + 1)
        ]
        self.position = Position(0, 0)
        self.began, self.ended = [], []
        self.now = START
        self.election = Election(
            Settings(
                number=self.number,
                nodes=tuple(infos),
                heartbeat=0.1,
                down_after=DOWN,
                ping_every=0.1,
                majority=self.majority,
                gateway=self.gateway,
            ),
            4,
            -1,
            lambda: self.position,
            lambda now, dead: self.began.append(dead),
            self.ended.append,
            START,
        )

    # ---------------------------------------------------------------- what a test says

    def taken(self, kind=object):
        """The commands of that kind, or the messages of that kind with their receivers."""
        out = list(self.election.out)
        self.election.out.clear()
        if issubclass(kind, (Alive, Ask, Claim, Grant, Heard, Heartbeat, Refuse, Resign)):
            return [
                (one.number, one.message)
                for one in out
                if isinstance(one, Send) and isinstance(one.message, kind)
            ]
        return [one for one in out if isinstance(one, kind)]

    def run_for(self, seconds, every=lambda: None):
        """Ticks, 10 ms apart."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(self.now + 0.01, end)
            every()
            self.election.tick(self.now)

    def gets(self, what, *args):
        return getattr(self.election, what)(*args, self.now)

    def connect(self, *numbers):
        for number in numbers:
            self.gets("up", number, f"{number:x}")

    def follow(self, number=1, term=5):
        """A backup of that scheduler, with channels to all."""
        self.connect(*self.election.watches)
        self.gets("heartbeat", number, beat(term))
        self.assertIs(self.election.state, State.BACKUP)
        self.taken()

    def reign(self):
        """Scheduler, granted by all."""
        self.connect(*self.election.watches)
        self.run_for(1.2, self._grant)
        self.assertIs(self.election.state, State.SCHEDULER)
        for number in self.election.watches:
            self.confirm(number)
        self.taken()

    def _grant(self):
        for number, message in self.taken(Ask):
            self.gets("heard", number, Heard(id=message.id, heard=False, table_term=0, version=0))
        if self.election.state is State.CLAIMANT:
            for number in self.election.watches:
                self.gets("grant", number, Grant(term=self.election.term))

    def confirm(self, number, sends=True):
        if sends:
            self.election.beats(self.now)
        own = self.election
        self.gets(
            "alive",
            number,
            alive(own.term, own.own.number, own.reign.term, own.count),
        )

    def answer(self, heard=False):
        for number, message in self.taken(Ask):
            self.gets("heard", number, Heard(id=message.id, heard=heard, table_term=0, version=0))


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


class SchedulerTests(Case):
    def test_a_better_one_ends_it(self):
        self.reign()
        self.assertFalse(self.gets("heartbeat", 3, beat(self.election.reign.term, alone=True)))
        self.assertTrue(self.gets("heartbeat", 3, beat(self.election.reign.term + 1)))
        self.assertEqual(self.taken(StepDown), [StepDown()])
        self.assertEqual((self.election.state, self.election.scheduler), (State.BACKUP, 3))
        self.assertEqual(len(self.ended), 1)

    def test_a_later_term_that_nobody_reigns_in_is_gone_beyond(self):
        self.reign()
        self.gets("alive", 3, alive(term=30, scheduler=2, reign_term=self.election.reign.term))
        self.run_for(0.02)
        self.assertEqual(self.taken(Store), [Store(31, 2)])
        self.assertEqual(self.election.reign.term, 31)
        self.assertIs(self.election.state, State.SCHEDULER)

    def test_followers_of_a_later_reign_end_it(self):
        self.reign()
        self.gets("alive", 3, alive(term=30, scheduler=1, reign_term=30))
        self.assertIs(self.election.state, State.BACKUP)

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


class TermLimitTests(Case):
    def test_a_peer_takes_nobody_far_ahead(self):
        self.follow()
        term = self.election.term
        far = term + (1 << 20) + 1
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

    def test_the_last_term_is_not_claimed(self):
        self.follow()
        self.election.term = TERM_LIMIT - 1
        self.gets("down", 1)
        self.gets("refused", 1)
        self.run_for(2.0)
        self.assertEqual(self.taken(Claim), [])
        self.assertEqual(self.election.term, TERM_LIMIT - 1)


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


class GatewayTests(Case):
    gateway = True

    def test_silent_for_three_down_after_it_is_a_fault(self):
        self.run_for(0.85, lambda: self.gets("echoed", GATEWAY))
        self.run_for(0.85)
        self.assertIsNot(self.election.state, State.FAULT)
        self.run_for(0.2)
        self.assertIs(self.election.state, State.FAULT)
        self.run_for(3.0)
        self.assertIs(self.election.state, State.FAULT)
        self.gets("echoed", GATEWAY)
        self.run_for(0.15)
        self.assertIs(self.election.state, State.LISTENING)

    def test_giving_the_role_up_for_it_does_not_mend_it(self):
        self.run_for(1.2, lambda: self.gets("echoed", GATEWAY))
        self.assertIs(self.election.state, State.SCHEDULER)
        self.run_for(1.1)
        self.assertIs(self.election.state, State.FAULT)
        self.run_for(1.0)
        self.assertIs(self.election.state, State.FAULT)
