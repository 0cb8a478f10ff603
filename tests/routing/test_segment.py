"""Tests of dlba.routing.segment, on a machine of their own."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.config.scheduling import ArrayNodeConfig, RoutingConfig
from dlba.config.values import ArrayConfig
from dlba.errors import DLBAError
from dlba.routing.segment import Segment
from tests import namespaces
from tests.routing.machines import ADDRESS, MAC, VIP, MachineTest, dump

OTHER = b"\x02\0\xcb\0\x71\x0c"


def array(mac: bytes = MAC, **routing) -> ArrayConfig:
    nodes = (
        ArrayNodeConfig(name="a", number=0, address=ADDRESS, mac=mac),
        ArrayNodeConfig(name="b", number=1, address="203.0.113.12", mac=OTHER),
    )
    return ArrayConfig(
        vip=VIP, nodes={node.name: node for node in nodes}, routing=RoutingConfig(**routing)
    )


class SegmentTests(MachineTest, SynchronousTestCase):
    skip = namespaces.missing(tun=True)

    def segment(self, **changes) -> Segment:
        made = Segment(array(**changes), "a", "eth0", self.state)
        self.addCleanup(made.close)
        return made

    def test_open_and_close(self):
        made = self.segment()
        made.open()
        self.assertEqual((made.interface.mac, made.interface.mtu), (MAC, 1500))
        self.assertEqual((made.arp.name, made.frames), ("packet", None))
        self.assertIn("dlba0", dump()["addresses"])
        made.close()
        self.assertEqual(dump(), self.before)
        made.close()

    def test_scheduling_and_no_more(self):
        made = self.segment()
        made.open()
        made.schedule(True)
        first = made.frames
        self.assertIsNot(first, None)
        made.schedule(True)
        self.assertIs(made.frames, first)
        self.assertEqual(set(made.counters().values()), {0})
        made.schedule(False)
        self.assertIs(made.frames, None)
        self.assertEqual(first.fileno(), -1)

    def test_a_start_that_fails_changes_nothing(self):
        made = self.segment(mac=b"\x02\0\0\0\0\x77")
        error = self.assertRaises(DLBAError, made.open)
        self.assertIn("02:00:00:00:00:77", str(error))
        self.assertEqual(dump(), self.before)
        self.assertEqual((made.arp, made.frames), (None, None))

    def test_a_second_node_in_the_same_place(self):
        made = self.segment()
        made.open()
        during = dump()
        folder = self.state / "second"
        folder.mkdir()
        second = Segment(array(), "a", "eth0", folder)
        error = self.assertRaises(DLBAError, second.open)
        self.assertIn("dlba0", str(error))
        self.assertEqual(dump(), during)

    def test_carrier_and_the_way_back(self):
        made = self.segment()
        made.open()
        made.schedule(True)
        self.assertTrue(made.carrier())
        with self.other.entered():
            namespaces.ip("link set peer down")
        self.assertFalse(made.carrier())
        with self.other.entered():
            namespaces.ip("link set peer up")
        namespaces.up("eth0")
        self.assertTrue(made.carrier())
        made.lose()
        self.assertEqual((made.arp, made.frames, made.carrier()), (None, None, False))
        namespaces.ip("link set eth0 down")
        self.assertIn("got one that is down", made.reopen())
        namespaces.ip("link set eth0 up")
        self.assertEqual(made.reopen(), "")
        self.assertIsNot(made.frames, None)
        self.assertTrue(made.carrier())

    def test_counters_never_go_back(self):
        made = self.segment()
        made.open()
        made.schedule(True)
        made.arp.unread, made.frames.unsent, made.frames.undelivered = 2, 3, 4
        counted = {
            "frames_unsent": 3,
            "frames_undelivered": 4,
            "frames_unread": 2,
            "frames_lost": 0,
        }
        self.assertEqual(made.counters(), counted)
        made.lose()
        self.assertEqual(made.counters(), counted)
        self.assertEqual(made.reopen(), "")
        made.frames.unsent = 1
        made.schedule(False)
        self.assertEqual(made.counters(), counted | {"frames_unsent": 4})

    def test_a_tun_device_that_was_removed_is_made_anew(self):
        made = self.segment()
        made.open()
        self.assertTrue(made.mend_tun())
        namespaces.ip("link set dlba0 down")
        self.assertFalse(made.mend_tun())
        namespaces.ip("link set dlba0 up")
        self.assertTrue(made.mend_tun())
        namespaces.ip("link del dlba0")
        self.assertTrue(made.mend_tun())
        self.assertIn("dlba0", dump()["addresses"])
        self.assertTrue(made.mend_tun())

    def test_an_interface_that_came_back_as_another(self):
        made = self.segment()
        made.open()
        made.lose()
        namespaces.ip("link set eth0 address 02:00:00:00:00:99")
        self.assertIn("got 02:00:00:00:00:99", made.reopen())
        namespaces.ip("link del eth0")
        self.assertIn("expected a network interface, got none", made.reopen())
        self.assertEqual((made.arp, made.frames), (None, None))
