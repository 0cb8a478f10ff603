"""Tests of dlba.routing.packetport, on real frames."""

import ctypes
import errno
import os
import socket
import struct

from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import DLBAError
from dlba.routing import packetport
from dlba.routing.bpf import VLAN_MARK
from dlba.routing.frame import link_header
from dlba.routing.messages import BATCH
from dlba.routing.packetport import PacketPort
from dlba.routing.tun import Tun
from tests import namespaces
from tests.namespaces import ip
from tests.routing import frames
from tests.routing.frames import MEMBERS, OWN, mac
from tests.routing.ports import (
    FORWARDED,
    HEADER,
    PortTests,
    Recorder,
    Transfer,
    pump_all,
    received,
    waits,
)


class PacketPortTests(PortTests, SynchronousTestCase):
    skip = namespaces.missing(tun=True)
    opener = PacketPort
    vnet = True
    vlan_mark = VLAN_MARK

    def test_a_flood(self) -> None:
        self.patch(packetport, "RECEIVE_BUFFER", 100_000)
        self.flood(self.scheduling())

    def test_goes_on_after_down_and_up(self) -> None:
        port = self.scheduling()
        ip("link set two down")
        self.assertEqual(self.gone(port).errno, errno.ENETDOWN)
        namespaces.up("two")
        self.assertEqual(self.read(port, FORWARDED[0]), [FORWARDED[0]])

    def test_opened_while_down(self) -> None:
        ip("link set two down")
        port = self.scheduling()
        self.assertEqual(self.gone(port).errno, errno.ENETDOWN)
        namespaces.up("two")
        self.assertEqual(self.read(port, FORWARDED[0]), [FORWARDED[0]])

    def test_a_send_has_the_news_that_the_link_is_down(self) -> None:
        port = self.scheduling()
        self.outside.send(FORWARDED[0])
        self.assertTrue(waits(port))

        def route(frame: memoryview, merged: bool) -> bytes:
            ip("link set two down")
            return HEADER

        error = self.assertRaises(OSError, port.pump, route, 256)
        self.assertEqual((error.errno, port.unsent), (errno.ENETDOWN, 1))

    def failing(self, name: str, *numbers: int) -> None:
        """The first calls of this system call fail so."""
        real = getattr(packetport, name)
        left = list(numbers)

        def call(*arguments: object) -> int:
            if left:
                ctypes.set_errno(left.pop(0))
                return -1
            return real(*arguments)

        self.patch(packetport, name, call)

    def test_a_frame_that_cant_be_read(self) -> None:
        port = self.scheduling()
        self.failing("receive", errno.EINVAL)
        self.outside.send(FORWARDED[0])
        recorder = Recorder()
        self.assertEqual(port.pump(recorder, 256), 2)
        self.assertEqual((recorder.seen, port.unread), ([FORWARDED[0]], 1))

    def test_a_send_has_the_news_of_a_frame_that_cant_be_read(self) -> None:
        port = self.scheduling()
        self.failing("send", errno.EINVAL)
        self.outside.send(FORWARDED[0])
        self.assertEqual(port.pump(Recorder(), 256), 1)
        self.assertEqual((port.unread, port.unsent), (1, 0))
        self.assertEqual(received(self.outside), [HEADER + FORWARDED[0][12:]])

    def test_sends_that_fail(self) -> None:
        port = self.scheduling()
        self.failing("send", errno.ENOBUFS, errno.EAGAIN, errno.EINVAL, errno.EINVAL)
        for frame in FORWARDED:
            self.outside.send(frame)
        self.assertEqual(port.pump(Recorder(), 256), len(FORWARDED))
        self.assertEqual(port.unsent, 3)
        self.assertEqual(received(self.outside), [HEADER + frame[12:] for frame in FORWARDED[3:]])

    def test_another_error(self) -> None:
        port = self.scheduling()
        self.failing("receive", errno.ENOMEM)
        self.assertEqual(self.assertRaises(OSError, port.pump, Recorder(), 1).errno, errno.ENOMEM)
        port.close()
        self.assertEqual(self.assertRaises(OSError, port.pump, Recorder(), 1).errno, errno.EBADF)

    def test_more_than_a_batch(self) -> None:
        port = self.scheduling()
        sent = [frames.plain(bytes([n]) * n) for n in range(2 * BATCH + 10)]
        for frame in sent:
            self.outside.send(frame)
        self.assertTrue(waits(port))
        recorder = Recorder()
        self.assertEqual(port.pump(recorder, BATCH + 9), BATCH + 9)
        self.assertEqual(port.pump(recorder, 256), BATCH + 1)
        self.assertEqual(recorder.seen, sent)
        self.assertEqual(received(self.outside), [HEADER + frame[12:] for frame in sent])

    def test_answers_of_all_kinds_in_one_batch(self) -> None:
        port = self.scheduling()
        other = link_header(mac(MEMBERS[1]), mac(OWN))
        answers = [HEADER, None, b"", other, None, HEADER]
        sent = [frames.plain(bytes([n])) for n in range(6)]
        for frame in sent:
            self.outside.send(frame)
        self.assertTrue(waits(port))
        left = iter(answers)
        self.assertEqual(port.pump(lambda frame, merged: next(left), 256), 6)
        expected = [
            answer + frame[12:] for answer, frame in zip(answers, sent, strict=True) if answer
        ]
        self.assertEqual(received(self.outside), expected)
        self.assertEqual(port.undelivered, 1)  # the device is down

    def test_what_the_route_raises(self) -> None:
        port = self.scheduling()
        for _ in range(5):
            self.outside.send(FORWARDED[0])
        self.assertTrue(waits(port))
        turns = iter((HEADER, 0, HEADER, 0, HEADER))

        def route(frame: memoryview, merged: bool) -> bytes:
            return next(turns) or self.fail("a bug")

        self.assertRaises(self.failureException, port.pump, route, 256)
        self.assertEqual(len(received(self.outside)), 3)
        self.assertEqual(port.pump(route, 256), 0)

    def test_a_merged_frame(self) -> None:
        port = self.scheduling()
        sender = self.keep(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        sender.setsockopt(263, 15, 1)  # PACKET_VNET_HDR
        sender.bind(("one", 0))
        frame = FORWARDED[2] + bytes(30_000)
        frame = frame[:16] + (len(frame) - 14).to_bytes(2, "big") + frame[18:]
        # TCP over IPv4, checksum left out, 54 bytes of headers, 1000 bytes a packet.
        sender.send(struct.pack("=BBHHHH", 1, 1, 54, 1000, 34, 16) + frame)
        recorder = Recorder(None)
        self.assertEqual(pump_all(port, recorder), 1)
        self.assertEqual((recorder.merged, len(recorder.seen[0])), ([True], len(frame)))
        self.assertEqual(recorder.seen[0], frame)

    def test_wants_headers_at_the_tun(self) -> None:
        plain = Tun("plain", vnet=False)
        self.addCleanup(plain.close)
        self.assertRaises(ValueError, self.open, tun=plain)

    def test_without_the_capability(self) -> None:
        class Refusing:
            def __init__(self, *arguments: int) -> None:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        self.patch(packetport._socket, "socket", Refusing)
        self.assertIn("CAP_NET_RAW", str(self.assertRaises(DLBAError, self.open)))

    def test_no_descriptor_is_left(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        self.assertRaises(DLBAError, self.open, interface="none")
        self.open().close()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class PacketTransferTests(Transfer, SynchronousTestCase):
    skip = namespaces.missing(tun=True, bridge=True)
    opener = PacketPort
    vnet = True
    offloads = True


class PlainTransferTests(PacketTransferTests):
    """Links without offloads, as many virtual machines have."""

    offloads = False
