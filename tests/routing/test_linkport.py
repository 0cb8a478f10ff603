"""Tests of dlba.routing.linkport: which kind of port is opened."""

import socket

from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.linkport import enlarge, open_port
from dlba.routing.tun import Tun
from tests import namespaces
from tests.routing.frames import OWN, SCHEDULER, VIP, address, mac


class OpenTests(SynchronousTestCase):
    skip = namespaces.missing(tun=True)

    def test_kinds(self) -> None:
        with namespaces.private():
            namespaces.pair()
            device = Tun()
            self.addCleanup(device.close)
            for packets in ("auto", "packet"):
                port = open_port(packets, "two", address(VIP), mac(OWN), mac(SCHEDULER), device)
                self.addCleanup(port.close)
                self.assertEqual(port.name, "packet")


class BufferTests(SynchronousTestCase):
    def test_without_the_capability_as_much_as_the_system_allows(self) -> None:
        class Refusing(socket.socket):
            def setsockopt(self, level, option, value):
                if option == 33:  # SO_RCVBUFFORCE
                    raise PermissionError
                super().setsockopt(level, option, value)

        with Refusing(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            enlarge(sock, socket.SO_RCVBUF, before // 4)
            self.assertEqual(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), before // 4 * 2)
