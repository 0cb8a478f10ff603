import os
import socket
import struct

from scapy.layers.inet import IP, UDP
from scapy.packet import Raw
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import DLBAError
from dlba.routing import tun
from dlba.routing.tun import VNET_HEADER, Tun
from tests import namespaces

ADDRESS = "10.99.0.100"


class TunTests(SynchronousTestCase):
    skip = namespaces.missing(tun=True)

    def setUp(self) -> None:
        private = namespaces.private()
        private.__enter__()
        self.addCleanup(private.__exit__, None, None, None)

    def up(self, vnet: bool) -> Tun:
        device = Tun(vnet=vnet)
        self.addCleanup(device.close)
        namespaces.ip(f"addr add {ADDRESS}/32 dev dlba0")
        namespaces.up("dlba0")
        return device

    def receiver(self) -> socket.socket:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(udp.close)
        udp.bind((ADDRESS, 0))
        udp.settimeout(1)
        return udp

    def packet(self, udp: socket.socket, data: bytes) -> bytes:
        inner = UDP(sport=9, dport=udp.getsockname()[1]) / Raw(data)
        return bytes(IP(src="192.168.7.9", dst=ADDRESS) / inner)

    def test_a_packet_arrives(self) -> None:
        for vnet in (False, True):
            device = self.up(vnet)
            udp = self.receiver()
            packet = self.packet(udp, b"hello")
            for form in (bytes, bytearray, memoryview):
                self.assertTrue(device.write(form(bytes(VNET_HEADER if vnet else 0) + packet)))
                self.assertEqual(udp.recvfrom(99), (b"hello", ("192.168.7.9", 9)))
            udp.close()
            device.close()
        self.assertEqual(device.undelivered, 0)

    def test_the_kernel_fills_a_checksum_in(self) -> None:
        device = self.up(True)
        udp = self.receiver()
        packet = bytearray(self.packet(udp, b"hello"))
        packet[26:28] = b"\0\1"  # wrong; with the header it isn't looked at
        self.assertTrue(device.write(bytes(VNET_HEADER) + packet))
        header = struct.pack("=BBHHHH", 1, 0, 0, 0, 20, 6)
        self.assertTrue(device.write(header + packet.replace(b"hello", b"right")))
        self.assertEqual(udp.recv(99), b"right")

    def test_what_isnt_taken_is_counted(self) -> None:
        device = self.up(False)
        self.assertFalse(device.write(b"\x99" * 40))
        namespaces.ip("link set dlba0 down")
        self.assertFalse(device.write(self.packet(self.receiver(), b"")))
        self.assertEqual(device.undelivered, 2)

    def test_gone_when_closed(self) -> None:
        device = Tun("other", False)
        self.assertIn("other", {name for _, name in socket.if_nameindex()})
        self.assertFalse(os.get_inheritable(device.fileno()))
        device.close()
        device.close()
        self.assertEqual(device.fileno(), -1)
        self.assertNotIn("other", {name for _, name in socket.if_nameindex()})
        self.assertFalse(device.write(b""))

    def test_names(self) -> None:
        for name in ("", "sixteen-bytes-xx"):
            self.assertIn("name", str(self.assertRaises(DLBAError, Tun, name)))

    def test_a_second_one(self) -> None:
        first = Tun()
        self.addCleanup(first.close)
        self.assertIn("another process", str(self.assertRaises(DLBAError, Tun)))
        namespaces.pair("left", "right")
        before = len(os.listdir("/proc/self/fd"))
        self.assertIn("left", str(self.assertRaises(DLBAError, Tun, "left")))
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_no_device_file(self) -> None:
        self.patch(tun, "_DEVICE", "/dev/net/none")
        self.assertIn("/dev/net/none", str(self.assertRaises(DLBAError, Tun)))
