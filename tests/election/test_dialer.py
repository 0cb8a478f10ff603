"""Tests of dlba.election.dialer, on a clock."""

from twisted.internet import error
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dlba.addresses import Endpoint
from dlba.election.dialer import Dialer


class Case(SynchronousTestCase):
    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.refusals = 0

    def dialer(self, dials=True, jitter=0.0, host="192.0.2.1"):
        def refused():
            self.refusals += 1

        factory = Factory.forProtocol(Protocol) if dials else None
        dialer = Dialer(self.reactor, Endpoint(host, 7788), factory, refused, lambda: jitter)
        dialer.start()
        return dialer

    @property
    def tries(self):
        return len(self.reactor.tcpClients)

    def fail(self, kind=error.ConnectionRefusedError):
        self.reactor.tcpClients[-1][2].clientConnectionFailed(None, Failure(kind()))

    def succeed(self):
        protocol = self.reactor.tcpClients[-1][2].buildProtocol(None)
        protocol.makeConnection(StringTransport())
        return protocol.transport

    def pause(self):
        """Seconds until the next try."""
        before, start = self.tries, self.reactor.seconds()
        while self.tries == before:
            self.reactor.advance(0.0025)
            assert self.reactor.seconds() - start < 10
        return round(self.reactor.seconds() - start, 3)


class DialTests(Case):
    def test_back_off(self):
        self.dialer()
        pauses = []
        for _ in range(11):
            self.fail()
            pauses.append(self.pause())
        steps = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.0, 2.0)
        for pause, wanted in zip(pauses, steps, strict=True):
            self.assertLess(abs(pause - wanted), 0.003)
        self.assertEqual(self.refusals, 11)

    def test_jitter(self):
        self.dialer(jitter=1.0)
        for _ in range(5):
            self.fail()
            pause = self.pause()
        self.assertLess(abs(pause - 0.08 * 1.2), 0.003)

    def test_only_a_refusal_is_told(self):
        self.dialer()
        self.fail(error.TimeoutError)
        self.assertEqual(self.refusals, 0)

    def test_after_a_channel_that_lasted(self):
        dialer = self.dialer()
        for _ in range(5):
            self.fail()
            self.pause()
        self.succeed()
        dialer.up()
        self.reactor.advance(60)
        tries = self.tries
        dialer.down()
        self.assertEqual(self.tries, tries + 1)
        self.fail()
        self.assertLess(abs(self.pause() - 0.005), 0.003)

    def test_one_that_fails_after_the_connection_backs_off(self):
        dialer = self.dialer()
        pauses = []
        for index in range(5):
            self.succeed()
            if index % 2:
                dialer.up()  # for a moment
            dialer.down()
            pauses.append(self.pause())
        for pause, wanted in zip(pauses, (0.005, 0.01, 0.02, 0.04, 0.08), strict=True):
            self.assertLess(abs(pause - wanted), 0.003)

    def test_stop(self):
        dialer = self.dialer()
        self.fail()
        dialer.stop()
        self.reactor.advance(60)
        self.assertEqual((self.tries, self.reactor.getDelayedCalls()), (1, []))
        dialer = self.dialer()
        dialer.stop()
        self.assertTrue(self.reactor.connectors[-1].stoppedConnecting)
        self.fail()
        self.assertEqual(self.refusals, 1)

    def test_version_six(self):
        self.dialer(host="2001:db8::1")
        self.assertEqual(self.reactor.tcpClients[0][:2], ("2001:db8::1", 7788))


class BareTests(Case):
    def test_at_once_and_then_up_to_each_second(self):
        dialer = self.dialer(dials=False)
        self.assertEqual(self.tries, 1)
        transport = self.succeed()
        self.assertTrue(transport.disconnected)
        pauses = [self.pause()]
        for _ in range(8):
            self.fail()
            pauses.append(self.pause())
        self.assertEqual(self.refusals, 8)
        steps = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0)
        for pause, wanted in zip(pauses, steps, strict=True):
            self.assertLess(abs(pause - wanted), 0.003)
        dialer.up()
        self.fail()
        self.reactor.advance(60)
        tries = self.tries
        dialer.down()
        self.assertEqual(self.tries, tries + 1)
        self.succeed()  # a process that is being killed may still take it
        self.assertLess(abs(self.pause() - 0.005), 0.003)


class SoonTests(Case):
    def test_a_sign_of_life(self):
        dialer = self.dialer()
        for _ in range(8):
            self.fail()
            self.pause()
        self.fail()
        tries = self.tries
        dialer.soon()
        self.assertEqual(self.tries, tries + 1)
        dialer.soon()  # one at a time
        self.assertEqual(self.tries, tries + 1)
        self.fail()
        self.assertLess(abs(self.pause() - 0.005), 0.003)
        self.succeed()
        dialer.soon()  # whether it becomes the channel is not known yet
        self.reactor.advance(60)
        self.assertEqual(self.tries, tries + 2)
        dialer.up()
        dialer.soon()
        self.reactor.advance(60)
        self.assertEqual(self.tries, tries + 2)

    def test_a_question_that_was_lost(self):
        dialer = self.dialer()
        self.reactor.advance(0.5)  # no answer
        dialer.hurry()
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)
        self.reactor.advance(0.01)
        self.assertEqual(self.tries, 2)

    def test_one_that_may_still_be_answered(self):
        dialer = self.dialer()
        self.reactor.advance(0.05)
        dialer.hurry()
        self.assertFalse(self.reactor.connectors[0].stoppedConnecting)
        self.assertEqual(self.tries, 1)

    def test_who_does_not_dial_hurries_by_a_bare_connection(self):
        dialer = self.dialer(dials=False)
        for _ in range(9):
            self.fail()
            self.pause()
        self.fail()
        tries = self.tries
        dialer.soon()
        self.assertEqual(self.tries, tries)
        dialer.hurry()
        self.assertEqual(self.tries, tries + 1)
        self.fail()
        dialer.hurry()  # not again within a second
        self.assertEqual(self.tries, tries + 1)
