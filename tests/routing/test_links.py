"""Tests of dlba.routing.links, on links in a private namespace."""

import resource
import socket

from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import DLBAError
from dlba.routing import links
from dlba.routing.needs import Address
from dlba.routing.tun import Tun
from tests import namespaces
from tests.routing.machines import ADDRESS, MAC, VIP, MachineTest, dump


class LinkTests(MachineTest, SynchronousTestCase):
    skip = namespaces.missing(tun=True)

    def control(self) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(made.close)
        return made

    def test_interface(self):
        found = links.look_up("eth0")
        self.assertEqual((found.name, found.mac, found.mtu), ("eth0", MAC, 1500))
        self.assertEqual((found.addresses, found.up, found.carrier), ((ADDRESS,), True, True))
        self.assertTrue(found.ethernet)
        namespaces.ip("link set eth0 down mtu 9000", f"address add {VIP}/24 dev eth0")
        found = links.look_up("eth0")
        self.assertEqual((found.mtu, found.up, found.carrier), (9000, False, False))
        self.assertEqual(found.addresses, (ADDRESS, VIP))

    def test_mtu(self):
        control = self.control()
        self.assertEqual((links.mtu("eth0", control), links.mtu("eth9", control)), (1500, None))
        namespaces.ip("link set eth0 mtu 9000")
        self.assertEqual(links.mtu("eth0", control), 9000)

    def test_other_kinds(self):
        self.addCleanup(Tun("dlba7").close)
        for name, mac in (("lo", bytes(6)), ("dlba7", b"")):
            found = links.look_up(name)
            self.assertEqual((found.ethernet, found.mac), (False, mac))

    def test_no_such_interface(self):
        self.assertIsNone(links.find("eth9"))
        error = self.assertRaises(DLBAError, links.look_up, "eth9")
        self.assertIn("eth9: expected a network interface, got none", str(error))

    def test_carrier(self):
        control = self.control()
        self.assertTrue(links.carrier("eth0", control))
        with self.other.entered():
            namespaces.ip("link set peer down")
        self.assertFalse(links.carrier("eth0", control))
        with self.other.entered():
            namespaces.ip("link set peer up")
        self.assertTrue(links.carrier("eth0", control))
        namespaces.ip("link set eth0 down")
        self.assertFalse(links.carrier("eth0", control))
        self.assertFalse(links.carrier("eth9", control))

    def test_without_a_free_descriptor(self):
        control = self.control()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        self.assertRaises(OSError, socket.socket)
        self.assertTrue(links.carrier("eth0", control))
        self.assertEqual(links.mtu("eth0", control), 1500)

    def test_addresses_of_all(self):
        namespaces.ip(f"address add {VIP}/32 dev lo label lo:x")
        namespaces.ip("address add 192.0.2.1 peer 192.0.2.2 dev eth0")
        self.assertEqual(
            set(links.addresses()),
            {
                Address("lo", "127.0.0.1", 8, "lo"),
                Address("lo", VIP, 32, "lo:x"),
                Address("eth0", ADDRESS, 24, "eth0"),
                Address("eth0", "192.0.2.1", 32, "eth0"),
            },
        )

    def test_an_address_comes_and_goes(self):
        for _ in range(2):
            links.add_address("lo", VIP, "lo:dlba")
        self.assertIn(f"{VIP}/32 scope host lo:dlba", dump()["addresses"])
        for _ in range(2):
            links.remove_address("lo", VIP)
        self.assertEqual(dump(), self.before)
        links.add_address("lo", VIP)
        self.assertIn(Address("lo", VIP, 32, "lo"), links.addresses())

    def test_what_fails_is_an_oserror(self):
        for change in (links.add_address, links.remove_address):
            self.assertRaises(OSError, change, "eth9", VIP)
        self.assertRaises(OSError, links.bring_up, "eth9")

    def test_bring_up(self):
        namespaces.ip("link set eth0 down")
        links.bring_up("eth0")
        self.assertTrue(links.look_up("eth0").up)
