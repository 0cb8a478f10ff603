"""Tests of dlba.routing.check, on a reactor in memory; the real connection is in tests/e2e."""

from twisted.internet import error
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.check import ServerCheck


class CheckTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.told = []
        self.check = ServerCheck(self.reactor, "192.0.2.10", [80, 443], self.told.append)
        self.check.startService()
        self.addCleanup(lambda: self.check.running and self.check.stopService())

    def asked(self):
        """The connections since the last call: port and factory."""
        clients = list(self.reactor.tcpClients)
        self.reactor.tcpClients.clear()
        self.assertEqual({client[0] for client in clients} - {"192.0.2.10"}, set())
        self.assertEqual({client[3] for client in clients} - {1.0}, set())
        return {client[1]: client[2] for client in clients}

    def round(self, **refused):
        """Answer a whole round; the ports in `refused` (p80, p443) with an error."""
        transports = []
        for port, factory in self.asked().items():
            failure = refused.get(f"p{port}")
            if failure is not None:
                factory.clientConnectionFailed(None, Failure(failure))
            else:
                protocol = factory.buildProtocol(None)
                transports.append(StringTransport())
                protocol.makeConnection(transports[-1])
        self.reactor.advance(1.0)
        return transports

    def test_failed_until_the_first_answer_of_every_port(self):
        self.assertFalse(self.check.alive)
        ports = self.asked()
        self.assertEqual(set(ports), {80, 443})
        ports[80].buildProtocol(None).makeConnection(StringTransport())
        self.assertEqual((self.check.alive, self.told), (False, [False]))
        ports[443].buildProtocol(None).makeConnection(StringTransport())
        self.assertEqual((self.check.alive, self.told), (True, [False, True]))

    def test_connections_are_closed_at_once(self):
        for transport in self.round():
            self.assertTrue(transport.disconnecting)

    def test_one_port_that_refuses_fails_the_node_and_is_told_once(self):
        self.round()
        for _ in range(3):
            self.round(p443=error.ConnectionRefusedError())
        self.assertEqual(self.told, [False, True, False])
        self.round(p80=error.TimeoutError(), p443=error.ConnectionRefusedError())
        self.round()
        self.assertEqual(self.told, [False, True, False, True])

    def test_a_round_that_hangs_isn_t_asked_again(self):
        self.assertEqual(len(self.asked()), 2)
        for _ in range(5):
            self.reactor.advance(1.0)
        self.assertEqual(self.asked(), {})

    def test_stopped(self):
        ports = self.asked()
        self.check.stopService()
        for factory in ports.values():
            factory.clientConnectionFailed(None, Failure(error.ConnectionRefusedError()))
        self.reactor.advance(10)
        self.assertEqual((self.told, self.asked()), ([False], {}))
        self.assertEqual(self.reactor.getDelayedCalls(), [])
