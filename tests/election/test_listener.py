"""Tests of dlba.election.listener."""

from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from dlba.election.listener import EACH_LIMIT, STRANGERS_LIMIT, Listener


class ListenerTests(SynchronousTestCase):
    def setUp(self):
        self.full = 0
        self.listener = Listener(Factory.forProtocol(Protocol), ["192.0.2.1"], self.turned_away)

    def turned_away(self):
        self.full += 1

    def comes(self, host):
        made = self.listener.buildProtocol(IPv4Address("TCP", host, 1))
        return made is not None

    def test_of_one_address(self):
        self.assertEqual([self.comes("192.0.2.1") for _ in range(9)], [True] * 8 + [False])
        self.assertEqual((EACH_LIMIT, self.full), (8, 1))
        self.listener.free("192.0.2.1")
        self.assertTrue(self.comes("192.0.2.1"))

    def test_strangers_leave_room_for_nodes(self):
        taken = sum(self.comes(f"198.51.100.{index}") for index in range(200))
        self.assertEqual(taken, STRANGERS_LIMIT)
        self.assertTrue(self.comes("192.0.2.1"))
        self.listener.free("198.51.100.7")
        self.assertTrue(self.comes("198.51.100.250"))
        self.assertFalse(self.comes("198.51.100.251"))

    def test_nothing_is_kept_of_who_has_gone(self):
        for index in range(1000):
            self.comes(f"198.51.{index // 250}.{index % 250}")
            self.listener.free(f"198.51.{index // 250}.{index % 250}")
        self.assertEqual((self.listener._places, self.full), ({}, 0))
