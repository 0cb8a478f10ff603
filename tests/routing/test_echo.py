"""Tests of dlba.routing.echo. scapy builds the requests and dissects the answers."""

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import checksum
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.echo import echo_reply
from dlba.routing.frame import classify
from dlba.routing.kinds import Kind
from tests.routing.frames import CLIENT, ROUTER, SCHEDULER, VIP, ip, link, mac, rules


class EchoTests(SynchronousTestCase):
    def answer(self, request) -> Ether:
        """The answer, once its lengths and checksums have been found right."""
        frame = bytes(request)
        self.assertEqual(classify(frame, rules(mtu=9000))[0], Kind.ECHO)
        raw = echo_reply(frame, mac(SCHEDULER))
        self.assertEqual(echo_reply(memoryview(frame), mac(SCHEDULER)), raw)
        reply = Ether(raw)
        total = reply[IP].len
        self.assertEqual(len(raw), max(60, 14 + total))
        self.assertEqual((checksum(raw[14:34]), checksum(raw[34 : 14 + total])), (0, 0))
        # And as scapy would have built it.
        rebuilt = Ether(raw[: 14 + total])
        del rebuilt[IP].chksum, rebuilt[ICMP].chksum, rebuilt[IP].len
        self.assertEqual(bytes(rebuilt), raw[: 14 + total])
        return reply

    def test_fields(self):
        request = link() / ip(id=7, ttl=3, tos=0xBB) / ICMP(id=0x1234, seq=9) / Raw(b"ping" * 14)
        reply = self.answer(request)
        self.assertEqual((reply.dst, reply.src, reply.type), (ROUTER, SCHEDULER, 0x0800))
        packet = reply[IP]
        self.assertEqual((packet.src, packet.dst, packet.proto), (VIP, CLIENT, 1))
        self.assertEqual((packet.version, packet.ihl, packet.ttl, packet.tos), (4, 5, 64, 0xB8))
        self.assertEqual((packet.id, str(packet.flags), packet.frag), (0, "DF", 0))
        message = packet[ICMP]
        self.assertEqual((message.type, message.code, message.id, message.seq), (0, 0, 0x1234, 9))
        self.assertEqual(message[Raw].load, b"ping" * 14)

    def test_options_stay_behind(self):
        request = link() / ip(ihl=7, options=[b"\x01" * 8]) / ICMP(id=5) / Raw(b"data")
        reply = self.answer(request)
        self.assertEqual((reply[IP].ihl, reply[Raw].load[:4], reply[IP].len), (5, b"data", 32))

    def test_padding_isn_t_answered(self):
        request = bytes(link() / ip() / ICMP() / Raw(b"odd"))
        self.assertEqual(self.answer(request + b"padding" * 3), self.answer(request))

    def test_never_much_longer_than_the_request(self):
        for size in (0, 1, 17, 18, 19, 1472, 8972):
            request = bytes(link() / ip() / ICMP() / Raw(bytes(size)))
            self.assertLessEqual(len(bytes(self.answer(request))), max(60, len(request)))

    def test_rare_checksums(self):
        """A message of zeros sums to 0xFFFF, one that sums to all ones to 0."""
        zeros = self.answer(link() / ip() / ICMP(id=0, seq=0) / Raw(bytes(8)))
        ones = self.answer(link() / ip() / ICMP(id=0xFFFE, seq=1) / Raw(bytes(8)))
        self.assertEqual((zeros[ICMP].chksum, ones[ICMP].chksum), (0xFFFF, 0))

    @settings(deadline=None, max_examples=150)
    @given(
        st.binary(max_size=100),
        st.integers(0, 65535),
        st.integers(0, 65535),
        st.integers(0x01000000, 0x7EFFFFFF),
    )
    def test_any_request(self, data, number, sequence, source):
        dotted = ".".join(map(str, source.to_bytes(4, "big")))
        if dotted == VIP:
            return
        request = link() / ip(src=dotted) / ICMP(id=number, seq=sequence) / Raw(data)
        reply = self.answer(request)
        message = reply[ICMP]
        self.assertEqual((reply[IP].dst, message.id, message.seq), (dotted, number, sequence))
        self.assertEqual(bytes(message.payload)[: len(data)], data)
