"""Tests of dlba.doctor.ask: questions and answers on a real segment."""

import socket
from time import monotonic

from scapy.layers.l2 import ARP, Dot1Q, Ether
from twisted.trial.unittest import SynchronousTestCase

from dlba.doctor.ask import BURST, ROUNDS, ask
from dlba.routing.arp import probe
from dlba.routing.array import ipv4
from tests import namespaces
from tests.doctor.segment import SegmentTest
from tests.routing.machines import ADDRESS, MAC, PEER, PEER_MAC, VIP

BROADCAST = "ff:ff:ff:ff:ff:ff"
STRANGER = "52:54:00:12:34:56"
#: Seconds; enough on a busy machine, and each test takes them whole.
SHORT = 0.3


def claim(address=VIP, mac=STRANGER):
    return bytes(Ether(dst=BROADCAST, src=mac) / ARP(op=2, hwsrc=mac, psrc=address))


class AskTests(SegmentTest, SynchronousTestCase):
    def ask(self, *questions, seconds=SHORT):
        heard = []
        ask("eth0", questions, heard.append, seconds)
        return heard

    def test_a_kernel_answers(self):
        for frame in self.ask(probe(ipv4(PEER), MAC)):
            packet = Ether(frame)[ARP]
            got = (packet.op, packet.psrc, packet.hwsrc, packet.hwdst)
            self.assertEqual(got, (2, PEER, PEER_MAC, MAC.hex(":")))
        self.assertEqual(self.ask(probe(ipv4(VIP), MAC)), [])

    def test_each_question_is_sent_a_few_times(self):
        questions = [probe(ipv4(f"203.0.113.{n}"), MAC) for n in range(20, 20 + BURST + 8)]
        with self.answering(lambda _: []) as seen:
            self.ask(*questions)
        self.assertEqual(seen, questions * ROUNDS)

    def test_what_is_lost_is_asked_again(self):
        calls = []

        def answer(frame):
            calls.append(frame)
            return [claim()] if len(calls) == ROUNDS else []

        with self.answering(answer):
            heard = self.ask(probe(ipv4(VIP), MAC))
        self.assertEqual(heard, [claim().ljust(len(heard[0]), b"\0")])

    def test_frames_of_another_vlan_and_of_our_own_are_nobodys(self):
        tagged = bytes(
            Ether(dst=BROADCAST, src=STRANGER) / Dot1Q(vlan=7) / ARP(op=2, hwsrc=STRANGER, psrc=VIP)
        )
        own = claim(ADDRESS, MAC.hex(":"))
        with self.answering(lambda _: [tagged]) as seen:
            heard = self.ask(probe(ipv4(VIP), MAC), own)
        self.assertIn(own, seen)
        self.assertEqual(heard, [])

    def test_a_flood_ends_with_the_time(self):
        """As many frames as come, and then no more, however many wait."""
        frames = [claim(mac=f"02:00:00:00:00:{n:02x}") for n in range(200)]
        questions = [probe(ipv4(VIP), MAC)] * (3 * BURST)
        start = monotonic()
        with self.answering(lambda _: frames):
            heard = self.ask(*questions)
        self.assertGreater(len(heard), 200)
        # Not a bound on speed: without an end it would go on for as long as frames come.
        self.assertLess(monotonic() - start, 20)

    def test_no_link(self):
        namespaces.ip("link set eth0 down")
        error = self.assertRaises(OSError, self.ask, probe(ipv4(VIP), MAC))
        self.assertEqual(error.strerror, "Network is down")
        namespaces.ip("link del eth0")
        self.assertRaises(OSError, self.ask, probe(ipv4(VIP), MAC))

    def test_nothing_stays(self):
        """Neither an open socket nor a MAC that the interface listens to."""
        self.ask(probe(ipv4(VIP), MAC))
        self.assertEqual(namespaces.promiscuity("eth0"), 0)
        with open("/proc/thread-self/net/packet") as file:
            self.assertEqual(len(file.readlines()), 1)
        self.assertEqual(socket.if_nametoindex("eth0") > 0, True)
