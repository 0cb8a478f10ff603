import os
from ctypes.util import find_library
from time import monotonic

from scapy.libs import winpcapy
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import DLBAError
from dlba.routing import pcapport
from dlba.routing.linkport import open_port
from dlba.routing.pcapport import PcapPort
from dlba.routing.tun import Tun
from tests import namespaces
from tests.routing.frames import OWN, SCHEDULER, VIP, address, mac
from tests.routing.ports import FORWARDED, PortTests, Recorder, Transfer, offloads_off, waits

LIBRARY = None if find_library("pcap") else "libpcap (Debian package libpcap0.8) is missing"


class PcapPortTests(PortTests, SynchronousTestCase):
    skip = LIBRARY or namespaces.missing(tun=True)
    opener = PcapPort
    vnet = False
    vlan_mark = 16

    def setUp(self) -> None:
        super().setUp()
        offloads_off("one", "two")

    def test_a_flood(self) -> None:
        self.patch(pcapport, "RECEIVE_BUFFER", 100_000)
        self.flood(self.scheduling())

    def test_a_frame_comes_at_once(self) -> None:
        port = self.scheduling()
        began = monotonic()
        for _ in range(5):
            self.outside.send(FORWARDED[0])
            self.assertTrue(waits(port))
            self.assertEqual(port.pump(Recorder(None), 9), 1)
        # Without immediate mode each would take 100 ms.
        self.assertLess(monotonic() - began, 0.4)

    def test_a_long_frame_comes_too_long(self) -> None:
        port = self.scheduling()
        namespaces.ip("link set one mtu 9000", "link set two mtu 9000")
        (frame,) = self.read(port, FORWARDED[0] + bytes(4000))
        self.assertGreater(len(frame), 1514)
        self.assertLess(len(frame), 1600)

    def test_a_tun_with_headers(self) -> None:
        self.tun.close()
        self.tun = Tun()
        self.addCleanup(self.tun.close)
        self.test_own_kernel()

    def test_scapy_is_left_as_it_was(self) -> None:
        before = winpcapy.pcap_activate
        self.open().close()
        self.assertRaises(DLBAError, self.open, interface="none")
        self.assertIs(winpcapy.pcap_activate, before)

    def test_closed(self) -> None:
        port = self.open()
        port.close()
        self.assertEqual(port.fileno(), -1)
        self.assertFalse(port.send(FORWARDED[0]))
        self.assertRaises(OSError, port.pump, Recorder(), 1)

    def test_without_libpcap(self) -> None:
        self.patch(pcapport, "find_library", lambda name: None)
        self.assertIn("libpcap0.8", str(self.assertRaises(DLBAError, self.open)))

    def test_down(self) -> None:
        namespaces.ip("link set two down")
        self.assertIn("two", str(self.assertRaises(DLBAError, self.open)))

    def test_no_descriptor_is_left(self) -> None:
        self.open().close()
        before = len(os.listdir("/proc/self/fd"))
        self.assertRaises(DLBAError, self.open, interface="none")
        self.open().close()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_by_name(self) -> None:
        values = address(VIP), mac(OWN), mac(SCHEDULER), self.tun
        port = open_port("pcap", "two", *values)
        self.addCleanup(port.close)
        self.assertEqual(port.name, "pcap")


class PcapTransferTests(Transfer, SynchronousTestCase):
    skip = LIBRARY or namespaces.missing(tun=True, bridge=True)
    opener = PcapPort
    vnet = False
    offloads = False
