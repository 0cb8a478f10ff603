"""Tests of dlba.election.probes: what is asked on the wire, and what silence there means."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.commands import GATEWAY, Echo, ProbeVip
from dlba.election.probes import VIP_WAIT_LIMIT, Probes
from dlba.election.transitions import State
from dlba.election.watch import VIP_SILENCE
from tests.election.one_election import DOWN, START, Case, beat


class VipTests(SynchronousTestCase):
    def setUp(self):
        self.probes = Probes(0.1, DOWN, False, START)

    def silence(self):
        return self.probes.unanswered_at - START

    def test_each_claim_in_a_row_waits_twice_as_long_up_to_a_limit(self):
        waits = []
        for _ in range(2000):
            waits.append(self.silence())
            self.probes.claimed()
        self.assertEqual(waits[:6], [2.0, 4.0, 8.0, 16.0, 32.0, VIP_WAIT_LIMIT])
        self.assertEqual(waits[-1], VIP_WAIT_LIMIT)
        self.probes.answered(START)
        self.assertEqual(self.silence(), VIP_SILENCE)

    def test_counting_anew_forgets_no_claim(self):
        self.probes.claimed()
        self.probes.reset(START + 1)
        self.assertEqual(self.silence(), 5.0)

    def test_an_answer_is_one_for_half_the_silence(self):
        self.probes.answered(START + 3)
        self.assertTrue(self.probes.answers(START + 3.9))
        self.assertFalse(self.probes.answers(START + 4.1))

    def test_three_probes_a_second(self):
        sent = sum(self.probes.vip_due(START + n / 100) for n in range(200))
        self.assertEqual(sent, 6)


class PingTests(SynchronousTestCase):
    def pings(self, state, followed, gateway=False):
        return Probes(0.1, DOWN, gateway, START).pings(state, followed, (1, 3))

    def test_a_scheduler_asks_all(self):
        self.assertEqual(self.pings(State.SCHEDULER, -1), [Echo(1), Echo(3)])

    def test_after_an_absence_for_the_vip_too(self):
        self.assertEqual(self.pings(State.ABSENT, -1), [Echo(1), Echo(3), ProbeVip()])

    def test_everybody_else_the_scheduler_alone(self):
        for state in (State.BACKUP, State.CANDIDATE, State.FAULT):
            self.assertEqual(self.pings(state, 3), [Echo(3)])
            self.assertEqual(self.pings(state, -1), [])

    def test_a_heartbeat_brings_the_next_one_forward(self):
        probes = Probes(0.1, DOWN, False, START)
        self.assertTrue(probes.ping_due(START))
        probes.beat(START + 0.04)  # too early to be the next one
        self.assertFalse(probes.ping_due(START + 0.04))
        probes.beat(START + 0.06)
        self.assertTrue(probes.ping_due(START + 0.06))
        self.assertFalse(probes.ping_due(START + 0.15))
        self.assertTrue(probes.ping_due(START + 0.16))

    def test_and_the_gateway_if_it_is_tracked(self):
        self.assertEqual(self.pings(State.BACKUP, 3, True), [Echo(3), Echo(GATEWAY)])

    def test_they_are_due_again_after_their_time(self):
        probes = Probes(0.5, DOWN, False, START)
        due = [probes.ping_due(START + at) for at in (0.0, 0.4, 0.5, 0.9, 1.1)]
        self.assertEqual(due, [True, False, True, False, True])


class GatewayTimeTests(SynchronousTestCase):
    def setUp(self):
        self.probes = Probes(0.1, DOWN, True, START)

    def test_it_is_told_once(self):
        self.assertIsNone(self.probes.gateway(START + 0.8))
        self.assertEqual(self.probes.gateway(START + 1.0), "the gateway is silent")
        self.assertIsNone(self.probes.gateway(START + 1.1))
        self.probes.gateway_echoed(START + 1.2)
        self.assertEqual(self.probes.gateway(START + 1.2), "")
        self.assertIsNone(self.probes.gateway(START + 1.3))

    def test_an_absence_neither_makes_it_silent_nor_mends_it(self):
        self.probes.absent(START + 5.0)
        self.assertIsNone(self.probes.gateway(START + 5.0))
        self.assertEqual(self.probes.gateway(START + 6.0), "the gateway is silent")
        self.probes.absent(START + 9.0)
        self.assertIsNone(self.probes.gateway(START + 9.0))

    def test_one_that_is_not_tracked_is_never_silent(self):
        self.assertIsNone(Probes(0.1, DOWN, False, START).gateway(START + 9.0))


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


class BeatTests(Case):
    def test_an_echo_is_asked_for_with_each_heartbeat(self):
        self.follow()
        self.run_for(0.07)
        self.taken()
        self.gets("heartbeat", 1, beat(5, 2))
        self.assertIn(Echo(1), self.taken(Echo))
