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
            self.reactor.advance(0.005)
            assert self.reactor.seconds() - start < 10
        return round(self.reactor.seconds() - start, 2)


class DialTests(Case):
    def test_back_off(self):
        self.dialer()
        pauses = []
        for _ in range(8):
            self.fail()
            pauses.append(self.pause())
        for pause, wanted in zip(pauses, (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0), strict=True):
            self.assertAlmostEqual(pause, wanted, delta=0.011)
        self.assertEqual(self.refusals, 8)

    def test_jitter(self):
        self.dialer(jitter=1.0)
        self.fail()
        self.assertAlmostEqual(self.pause(), 0.06, delta=0.011)

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
        self.assertAlmostEqual(self.pause(), 0.05, delta=0.011)

    def test_one_that_fails_after_the_connection_backs_off(self):
        dialer = self.dialer()
        pauses = []
        for index in range(5):
            self.succeed()
            if index % 2:
                dialer.up()  # for a moment
            dialer.down()
            pauses.append(self.pause())
        for pause, wanted in zip(pauses, (0.05, 0.1, 0.2, 0.4, 0.8), strict=True):
            self.assertAlmostEqual(pause, wanted, delta=0.011)

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
    def test_at_once_and_each_second(self):
        dialer = self.dialer(dials=False)
        self.assertEqual(self.tries, 1)
        transport = self.succeed()
        self.assertTrue(transport.disconnected)
        self.assertAlmostEqual(self.pause(), 1.0, delta=0.011)
        self.fail()
        self.assertEqual(self.refusals, 1)
        self.assertAlmostEqual(self.pause(), 1.0, delta=0.011)
        dialer.up()
        self.fail()
        self.reactor.advance(60)
        tries = self.tries
        dialer.down()
        self.assertEqual(self.tries, tries + 1)
