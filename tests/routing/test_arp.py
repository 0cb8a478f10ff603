"""Tests of dlba.routing.arp. scapy builds the questions and dissects the answers."""

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Padding
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing import arp
from tests.routing.frames import CLIENT, MEMBERS, OWN, ROUTER, SCHEDULER, VIP, address, mac

BROADCAST = "ff:ff:ff:ff:ff:ff"
ZERO = "00:00:00:00:00:00"
MINE = address(VIP), mac(SCHEDULER)


def fields(frame: bytes) -> tuple:
    """All that scapy finds in an ARP frame; fails if something is left over."""
    ether = Ether(frame)
    packet = ether[ARP]
    fixed = (ether.type, packet.hwtype, packet.ptype, packet.hwlen, packet.plen)
    if fixed != (0x0806, 1, 0x0800, 6, 4) or len(frame) != 60 or any(frame[42:]):
        raise AssertionError(frame.hex())
    return (
        *(ether.dst, ether.src, packet.op),
        *(packet.hwsrc, packet.psrc, packet.hwdst, packet.pdst),
    )


def asked(destination: str = BROADCAST, **changes) -> bytes:
    packet = {"hwsrc": ROUTER, "psrc": CLIENT, "hwdst": ZERO, "pdst": VIP} | changes
    return bytes(Ether(dst=destination, src=ROUTER) / ARP(op=packet.pop("op", 1), **packet))


def answered(frame: bytes) -> bytes | None:
    packet = arp.parse(frame)
    assert packet is not None
    return arp.answer(packet, *MINE)


class BuildTests(SynchronousTestCase):
    def test_who_has(self):
        frame = arp.who_has(address(VIP), mac(OWN), address("10.99.0.10"))
        self.assertEqual(fields(frame), (BROADCAST, OWN, 1, OWN, "10.99.0.10", ZERO, VIP))

    def test_probe(self):
        frame = arp.probe(address(VIP), mac(OWN))
        self.assertEqual(fields(frame), (BROADCAST, OWN, 1, OWN, "0.0.0.0", ZERO, VIP))

    def test_announcements(self):
        request, reply = arp.announcements(*MINE)
        common = BROADCAST, SCHEDULER
        self.assertEqual(fields(request), (*common, 1, SCHEDULER, VIP, ZERO, VIP))
        self.assertEqual(fields(reply), (*common, 2, SCHEDULER, VIP, SCHEDULER, VIP))


class ParseTests(SynchronousTestCase):
    PACKET = arp.ArpPacket(
        mac(BROADCAST), mac(ROUTER), 1, mac(OWN), address(CLIENT), bytes(6), address(VIP)
    )

    def test_scapy_s_frame(self):
        frame = asked(hwsrc=OWN)
        for padding in (b"", bytes(18), b"rubbish" * 300):
            for buffer in (frame + padding, memoryview(bytearray(frame + padding))):
                self.assertEqual(arp.parse(buffer), self.PACKET)

    def test_there_and_back(self):
        self.assertEqual(arp.parse(arp.build(self.PACKET)), self.PACKET)
        self.assertEqual(Ether(arp.build(self.PACKET))[Padding].load, bytes(18))

    def test_what_isn_t_ours_to_read(self):
        for frame in (
            asked(hwtype=6),
            asked(ptype=0x86DD, psrc="::", pdst="::"),
            asked(hwlen=8),
            asked(plen=16),
            *(asked(op=number) for number in (0, 3, 4, 8, 9, 257)),
            *(asked()[:length] for length in range(42)),
            asked()[:12] + b"\x08\x00" + asked()[14:],
        ):
            self.assertIsNone(arp.parse(frame))

    @settings(deadline=None, max_examples=500)
    @given(st.binary(max_size=60), st.booleans())
    def test_never_an_exception(self, data, plausible):
        frame = asked()[:20] + data if plausible else data
        packet = arp.parse(frame)
        if packet is not None:
            self.assertEqual(arp.build(packet)[:42], frame[:42])
            arp.claimant(packet, address(VIP))
            reply = arp.answer(packet, *MINE)
            self.assertTrue(reply is None or len(reply) == 60)


class AnswerTests(SynchronousTestCase):
    def test_broadcast_and_unicast_questions(self):
        expected = (ROUTER, SCHEDULER, 2, SCHEDULER, VIP, ROUTER, CLIENT)
        for destination in (BROADCAST, SCHEDULER):
            self.assertEqual(fields(answered(asked(destination))), expected)

    def test_what_is_put_as_target_mac_doesn_t_matter(self):
        for target in (BROADCAST, OWN, SCHEDULER):
            self.assertIsNotNone(answered(asked(hwdst=target)))

    def test_a_probe(self):
        expected = (ROUTER, SCHEDULER, 2, SCHEDULER, VIP, ROUTER, "0.0.0.0")
        self.assertEqual(fields(answered(asked(psrc="0.0.0.0"))), expected)

    def test_to_the_sender_not_the_ethernet_source(self):
        reply = fields(answered(asked(hwsrc=MEMBERS[0])))
        self.assertEqual((reply[0], reply[5]), (MEMBERS[0], MEMBERS[0]))

    def test_nothing_else(self):
        for frame in (
            asked(pdst="10.99.0.101"),
            asked(pdst=CLIENT),
            asked(pdst="0.0.0.0"),
            asked(op=2),
            asked(op=2, psrc=VIP),
            asked(psrc=VIP),
            *(asked(hwsrc=who) for who in (BROADCAST, ZERO, SCHEDULER, "01:00:5e:00:00:01")),
        ):
            self.assertIsNone(answered(frame))


class ClaimantTests(SynchronousTestCase):
    def test_who_says_they_have_it(self):
        vip = address(VIP)
        for frame, who in (
            (asked(op=2, hwsrc=OWN, psrc=VIP, pdst=CLIENT), OWN),
            (asked(op=1, hwsrc=OWN, psrc=VIP), OWN),
            (asked(op=1, hwsrc=OWN, psrc=VIP, pdst=CLIENT), OWN),
            (arp.announcements(vip, mac(OWN))[0], OWN),
            (arp.announcements(vip, mac(OWN))[1], OWN),
            (asked(), None),
            (asked(op=2, psrc=CLIENT), None),
            (asked(psrc="0.0.0.0"), None),
        ):
            found = arp.claimant(arp.parse(frame), vip)
            self.assertEqual(found, who and mac(who))
