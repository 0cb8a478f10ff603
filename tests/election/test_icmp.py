"""Tests of dlba.election.icmp: a real raw socket, in a network namespace of its own.

The namespace's kernel doesn't answer echoes but where a test lets it; other answers are made by
scapy, and come over a veth pair.
"""

import select
import socket
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, IPOption_NOP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from twisted.internet.interfaces import IReadDescriptor
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dlba.election import icmp
from dlba.election.icmp import BATCH, OPEN, Echo
from dlba.errors import DLBAError
from tests import namespaces

OWN, PEER = "10.99.0.10", "10.99.0.11"
OWN_MAC, PEER_MAC = "02:99:00:00:01:01", "02:99:00:00:01:02"


class Readers:
    """As a reactor: who reads."""

    def __init__(self):
        self.readers = []

    def addReader(self, reader):
        self.readers.append(reader)

    def removeReader(self, reader):
        self.readers.remove(reader)


class Case(SynchronousTestCase):
    skip = namespaces.missing()

    def setUp(self):
        stack = ExitStack()
        self.addCleanup(stack.close)
        stack.enter_context(namespaces.private())
        namespaces.pair(macs=(OWN_MAC, PEER_MAC))
        namespaces.ip(
            f"address add {OWN}/24 dev one", f"neigh replace {PEER} lladdr {PEER_MAC} dev one"
        )
        Path("/proc/sys/net/ipv4/icmp_echo_ignore_all").write_text("1")
        self.outside = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300))
        self.outside.bind(("two", 3))
        self.outside.settimeout(1)
        self.reactor, self.replies = Readers(), []
        self.echo = Echo(self.reactor, self.replies.append)
        self.addCleanup(self.echo.close)

    def question(self) -> Ether:
        """The next question that comes out."""
        while True:
            frame = Ether(self.outside.recv(2048))
            if ICMP in frame and frame[ICMP].type == 8:
                return frame

    def asked(self, address: str = PEER) -> Ether:
        self.echo.ask(address)
        return self.question()

    def answer(self, question: Ether, **changes) -> Ether:
        """The frame that answers, with these fields changed."""
        message = question[ICMP]
        made = (
            Ether(src=PEER_MAC, dst=OWN_MAC)
            / IP(src=changes.pop("src", PEER), dst=OWN)
            / ICMP(type=0, id=message.id, seq=message.seq)
            / Raw(changes.pop("data", bytes(message.payload)))
        )
        for name, value in changes.items():
            setattr(made[ICMP], name, value)
        return made

    def read(self, *frames: Ether) -> list[str]:
        """Whose answers count when these come in, the last of them after all others."""
        for frame in frames:
            self.outside.send(bytes(frame))
        self.pump()
        got, self.replies[:] = list(self.replies), []
        return got

    def pump(self) -> None:
        until = monotonic() + 1
        while select.select([self.echo], [], [], 0.05)[0] and monotonic() < until:
            self.echo.doRead()


class EchoTests(Case):
    def test_what_is_sent(self):
        for n in (1, 2):
            frame = self.asked()
            self.assertEqual((frame[IP].src, frame[IP].dst), (OWN, PEER))
            self.assertEqual((frame[ICMP].code, frame[ICMP].seq), (0, n))
            sent = bytes(frame[ICMP])
            del frame[ICMP].chksum
            self.assertEqual(bytes(frame[ICMP]), sent)  # scapy's checksum is ours

    def test_a_kernel_answers(self):
        Path("/proc/sys/net/ipv4/icmp_echo_ignore_all").write_text("0")
        for _ in range(3):
            self.echo.ask("127.0.0.1")
            self.pump()
        self.assertEqual(self.replies, ["127.0.0.1"] * 3)

    def test_each_answer_counts_once(self):
        answer = self.answer(self.asked())
        self.assertEqual(self.read(answer, answer), [PEER])
        self.assertEqual(self.read(answer), [])

    def test_answers_to_the_last_questions_count(self):
        answers = [self.answer(self.asked()) for _ in range(OPEN + 1)]
        self.assertEqual(self.read(answers[0]), [])
        self.assertEqual(self.read(*answers[:0:-1]), [PEER] * OPEN)

    def test_ip_options(self):
        answer = self.answer(self.asked())
        answer[IP].options = [IPOption_NOP()] * 4
        self.assertEqual(self.read(answer), [PEER])

    def test_nobody_to_ask(self):
        namespaces.ip("link set one down")
        self.echo.ask(PEER)
        self.echo.ask("203.0.113.1")  # no route
        self.echo.ask("255.255.255.255")  # not permitted
        self.pump()
        self.assertEqual(self.replies, [])
        namespaces.up("one")
        namespaces.ip(f"neigh replace {PEER} lladdr {PEER_MAC} dev one")
        self.assertEqual(self.read(self.answer(self.asked())), [PEER])

    def test_no_buffer(self):
        with mock.patch.object(self.echo, "_socket", mock.Mock()) as sock:
            sock.sendto.side_effect = OSError(105, "No buffer space available")
            self.echo.ask(PEER)
        self.assertEqual(self.read(self.answer(self.asked())), [PEER])

    def test_close(self):
        self.assertEqual(self.reactor.readers, [self.echo])
        verifyObject(IReadDescriptor, self.echo)
        self.echo.close()
        self.echo.close()
        self.assertEqual((self.reactor.readers, self.echo.fileno()), ([], -1))
        self.echo.ask(PEER)

    def test_closed_by_an_answer(self):
        self.echo._on_reply = lambda address: self.echo.close()
        for answer in [self.answer(self.asked()) for _ in range(3)]:
            self.outside.send(bytes(answer))
        self.assertTrue(select.select([self.echo], [], [], 1)[0])
        self.echo.doRead()
        self.assertEqual(self.echo.fileno(), -1)


class HostileTests(Case):
    def refused(self, *frames: Ether) -> None:
        """None of these is the answer; the right one still counts after them."""
        self.assertEqual(self.read(*frames), [])

    def test_each_field_must_be_right(self):
        question = self.asked()
        message = question[ICMP]
        data = bytes(message.payload)
        namespaces.ip("neigh replace 10.99.0.12 lladdr 02:99:00:00:01:03 dev one")
        self.refused(
            self.answer(question, src="10.99.0.12"),
            self.answer(question, src=OWN),
            self.answer(question, id=message.id ^ 1),
            self.answer(question, seq=message.seq + 1),
            self.answer(question, data=b"\0" * len(data)),
            self.answer(question, data=data[:-1]),
            self.answer(question, data=data + b"\0"),
            self.answer(question, data=b""),
            self.answer(question, data=data + b"\0" * 1300),
            self.answer(question, chksum=0x1234),
            self.answer(question, code=1),
            self.answer(question, type=8),
            self.answer(question, type=13),
        )
        self.assertEqual(self.read(self.answer(question)), [PEER])

    def test_short_ones(self):
        question = self.asked()
        whole = bytes(self.answer(question)[IP])
        for size in range(20, len(whole)):
            part = IP(whole[:size])
            part.len = size
            del part.chksum
            self.refused(Ether(src=PEER_MAC, dst=OWN_MAC, type=0x0800) / Raw(bytes(part)))
        self.assertEqual(self.read(self.answer(question)), [PEER])

    def test_one_that_was_asked_something_else(self):
        first, second = self.asked("10.99.0.11"), None
        namespaces.ip(f"neigh replace 10.99.0.12 lladdr {PEER_MAC} dev one")
        second = self.asked("10.99.0.12")
        # The nonce of one is no answer of the other.
        self.refused(self.answer(first, src="10.99.0.12"), self.answer(second, src="10.99.0.11"))

    def test_a_flood_is_read_in_parts(self):
        question = self.asked()
        for _ in range(BATCH + 5):
            self.outside.send(bytes(self.answer(question, seq=99)))
        self.outside.send(bytes(self.answer(question)))
        self.assertTrue(select.select([self.echo], [], [], 1)[0])
        self.echo.doRead()
        self.assertEqual(self.replies, [])
        self.echo.doRead()
        self.assertEqual(self.replies, [PEER])

    def test_an_error_at_the_socket_is_no_news(self):
        with mock.patch.object(self.echo, "_socket", mock.Mock()) as sock:
            sock.recvfrom.side_effect = [OSError(101, "Network is unreachable"), BlockingIOError]
            self.echo.doRead()
        self.assertEqual(self.replies, [])


class WithoutSocketTests(SynchronousTestCase):
    def test_no_capability(self):
        with mock.patch("socket.socket", side_effect=PermissionError(1, "not permitted")):
            error = self.assertRaises(DLBAError, Echo, Readers(), print)
        self.assertIn("CAP_NET_RAW", str(error))

    @given(st.binary(max_size=80))
    def test_no_packet_raises(self, packet):
        icmp._answer(packet)

    @given(st.integers(0, 65535), st.integers(0, 65535), st.binary(min_size=16, max_size=16))
    def test_against_scapy(self, identifier, sequence, nonce):
        ours = icmp._question(identifier, sequence, nonce)
        theirs = bytes(ICMP(type=8, id=identifier, seq=sequence) / Raw(nonce))
        self.assertEqual(ours, theirs)
        reply = bytes(IP() / ICMP(type=0, id=identifier, seq=sequence) / Raw(nonce))
        self.assertEqual(icmp._answer(reply), (identifier, sequence, nonce))
