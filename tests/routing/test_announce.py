"""Tests of dlba.routing.announce. Frames are told apart by scapy."""

from itertools import pairwise
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.l2 import ARP, Ether
from twisted.trial.unittest import SynchronousTestCase

from dlba.addresses import scheduler_mac
from dlba.routing import arp
from dlba.routing.announce import CONFLICT, COUNTERS, DEFEND, Announcer
from tests.routing.frames import CLIENT, MEMBERS, OWN, ROUTER, SCHEDULER, VIP, address, mac

ADDRESS = address(VIP)
RIVAL = "06:99:00:00:00:11"
PAIR = [(1, SCHEDULER, "00:00:00:00:00:00"), (2, SCHEDULER, SCHEDULER)]
#: A later round: somebody who answers without announcing shows himself.
ROUND = [("probe", SCHEDULER, "00:00:00:00:00:00"), *PAIR]


def claim(who: str = RIVAL) -> bytes:
    return bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=who) / ARP(op=1, hwsrc=who, psrc=VIP, pdst=VIP))


def reply(who: str = RIVAL) -> bytes:
    packet = ARP(op=2, hwsrc=who, psrc=VIP, hwdst=SCHEDULER, pdst="10.99.0.10")
    return bytes(Ether(dst=SCHEDULER, src=who) / packet)


def question(wanted: str = VIP) -> bytes:
    return bytes(Ether(src=ROUTER) / ARP(hwsrc=ROUTER, psrc=CLIENT, pdst=wanted))


def forms(frames) -> list[tuple[int | str, str, str]]:
    """(operation, sender MAC, target MAC) of announcements and probes; fails for anything else."""
    found = []
    for frame in frames:
        ether = Ether(frame)
        packet = ether[ARP]
        probe = packet.psrc == "0.0.0.0" and packet.op == 1
        sender = packet.psrc if not probe else VIP
        if (sender, packet.pdst, ether.dst) != (VIP, VIP, "ff:ff:ff:ff:ff:ff"):
            raise AssertionError(ether.show(dump=True))
        if ether.src != packet.hwsrc:
            raise AssertionError("switches learn the Ethernet source")
        found.append(("probe" if probe else packet.op, packet.hwsrc, packet.hwdst))
    return found


class AnnouncerCase(SynchronousTestCase):
    def setUp(self):
        self.announcer = Announcer(ADDRESS, mac(SCHEDULER))

    def hear(self, frame: bytes, now: float = 0.0) -> str:
        counter, answer = self.announcer.hear(frame, now)
        self.assertEqual(answer is not None, counter == "arp_answered")
        return counter


class ProbeTests(SynchronousTestCase):
    def test_probes_come_first_and_fill_no_one_s_table(self):
        announcer = Announcer(ADDRESS, mac(SCHEDULER))
        announcer.start(5.0, probes=2)
        for at in (5.0, 5.01):
            self.assertAlmostEqual(announcer.next_at, at)
            (frame,) = announcer.due(at)
            packet = Ether(frame)[ARP]
            asked = (packet.op, packet.hwsrc, packet.psrc, packet.pdst)
            self.assertEqual(asked, (1, SCHEDULER, "0.0.0.0", VIP))
        self.assertEqual(forms(announcer.due(5.02)), PAIR * 3)
        self.assertAlmostEqual(announcer.next_at, 6.02)

    def test_an_answer_is_a_conflict(self):
        announcer = Announcer(ADDRESS, mac(SCHEDULER))
        announcer.start(5.0, probes=3)
        announcer.due(5.0)
        self.assertEqual(announcer.hear(reply(), 5.001), (CONFLICT, None))
        self.assertEqual(announcer.rival, mac(RIVAL))
        # It ends neither the probes nor the role.
        sent = [announcer.due(5.01 + step / 100) for step in range(3)]
        self.assertEqual([len(frames) for frames in sent], [1, 1, 6])


class ScheduleTests(AnnouncerCase):
    def test_three_at_once_again_after_a_second_then_every_ten(self):
        self.announcer.start(100.0)
        sent = []
        for _ in range(5):
            now = self.announcer.next_at
            self.assertEqual(self.announcer.due(now - 0.001), ())
            sent.append((now, forms(self.announcer.due(now))))
        bursts, later = sent[:2], sent[2:]
        self.assertEqual(bursts, [(100.0, PAIR * 3), (101.0, PAIR * 3)])
        self.assertEqual(later, [(111.0, ROUND), (121.0, ROUND), (131.0, ROUND)])

    def test_late_calls_don_t_pile_up(self):
        self.announcer.start(0.0)
        for now, count in ((5.0, 6), (500.0, 6), (5000.0, 3)):
            self.assertEqual(len(self.announcer.due(now)), count)
            self.assertEqual(self.announcer.due(now), ())
            self.assertGreater(self.announcer.next_at, now)

    def test_silent_until_started_and_once_stopped(self):
        for _ in range(2):
            self.assertEqual((self.announcer.active, self.announcer.next_at), (False, inf))
            self.assertEqual(self.announcer.due(1e9), ())
            self.assertEqual(self.hear(question()), "arp_other")
            self.announcer.start(0.0)
            self.assertTrue(self.announcer.active)
            self.announcer.due(0.0)
            self.announcer.stop()

    def test_started_again(self):
        self.announcer.start(0.0)
        for now in (0.0, 1.0, 11.0):
            self.announcer.due(now)
        self.announcer.start(12.0)
        self.assertEqual(len(self.announcer.due(12.0)), 6)
        self.assertEqual(self.announcer.next_at, 13.0)

    def test_own_mac_mode(self):
        announcer = Announcer(ADDRESS, scheduler_mac(mac(OWN), own_mac=True))
        announcer.start(0.0)
        self.assertEqual({form[1] for form in forms(announcer.due(0.0))}, {OWN})

    def test_mistakes(self):
        self.assertRaises(ValueError, Announcer, bytes(5), mac(OWN))
        self.assertRaises(ValueError, Announcer, ADDRESS, b"")


class AnswerTests(AnnouncerCase):
    def test_only_the_scheduler_answers(self):
        self.assertEqual(self.announcer.hear(question(), 0.0), ("arp_other", None))
        self.announcer.start(0.0)
        counter, answer = self.announcer.hear(question(), 0.0)
        packet = Ether(answer)[ARP]
        self.assertEqual(counter, "arp_answered")
        self.assertEqual(
            (packet.op, packet.hwsrc, packet.psrc, packet.hwdst, packet.pdst),
            (2, SCHEDULER, VIP, ROUTER, CLIENT),
        )
        self.assertEqual(self.announcer.hear(question("10.99.0.101"), 0.0), ("arp_other", None))

    def test_malformed(self):
        for _ in range(2):
            for frame in (b"", question()[:41], question()[:20] + b"\0\3" + question()[22:]):
                self.assertEqual(self.hear(frame), "arp_malformed")
            self.announcer.start(0.0)


class ConflictTests(AnnouncerCase):
    def setUp(self):
        super().setUp()
        self.announcer.start(0.0)
        for now in (0.0, 1.0, 11.0):
            self.announcer.due(now)

    def test_noticed_and_answered_at_once(self):
        for number, frame in enumerate((claim(), reply(), claim(ROUTER), reply(ROUTER)), 6):
            now = 2.0 * number
            self.assertEqual(self.hear(frame, now), "arp_conflicts")
            self.assertEqual(self.announcer.rival, mac(Ether(frame).src))
            self.assertEqual(self.announcer.next_at, now)
            self.assertEqual(forms(self.announcer.due(now)), ROUND)
            self.assertEqual(self.announcer.holder, mac(SCHEDULER), "a claim changes no role")
        self.assertEqual(self.announcer.next_at, now + 10)

    def test_defended_without_a_claim(self):
        self.announcer.defend(11.5)
        self.assertEqual((self.announcer.next_at, self.announcer.rival), (12.0, None))
        self.announcer.stop()
        self.announcer.defend(13.0)
        self.assertEqual(self.announcer.next_at, inf)

    def test_at_most_once_a_second(self):
        sent = []
        for step in range(1, 1001):
            now = 11.0 + step / 100
            self.assertEqual(self.hear(claim(), now), "arp_conflicts")
            if self.announcer.due(now):
                sent.append(now)
        gaps = [after - before for before, after in pairwise(sent)]
        self.assertEqual(sent[0], 12.0)
        self.assertEqual(len(sent), 10)
        self.assertGreaterEqual(min(gaps), DEFEND)

    def test_a_conflict_doesn_t_put_off_what_is_due(self):
        self.announcer.start(50.0)
        self.assertEqual(self.hear(claim(), 50.0), "arp_conflicts")
        self.assertEqual(len(self.announcer.due(50.0)), 6)
        self.hear(claim(), 50.5)
        self.hear(claim(), 50.9)
        self.assertEqual(self.announcer.next_at, 51.0)
        self.hear(claim(), 51.5)
        self.assertEqual(self.announcer.next_at, 51.0)
        self.assertEqual(len(self.announcer.due(51.5)), 6)

    def test_a_claim_from_no_station_s_mac(self):
        for who in ("ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"):
            frame = bytes(Ether(src=ROUTER) / ARP(op=2, hwsrc=who, psrc=VIP, pdst=VIP))
            self.assertEqual(self.hear(frame, 30.0), "arp_conflicts")
            self.assertEqual(self.announcer.rival, mac(who))

    def test_our_own_are_none(self):
        for frame in (*arp.announcements(ADDRESS, mac(SCHEDULER)), reply(SCHEDULER)):
            self.assertEqual(self.hear(frame, 30.0), "arp_other")
        self.assertIsNone(self.announcer.rival)

    def test_forgotten_with_the_role(self):
        self.hear(claim(), 12.0)
        self.announcer.stop()
        self.assertIsNone(self.announcer.rival)
        self.hear(claim(), 12.0)
        self.announcer.start(20.0)
        self.assertIsNone(self.announcer.rival)


class HolderTests(AnnouncerCase):
    def test_who_the_scheduler_is(self):
        self.assertIsNone(self.announcer.holder)
        for who in (RIVAL, "06:99:00:00:00:12"):
            for frame in (claim(who), reply(who)):
                self.assertEqual(self.hear(frame), "arp_claims")
                self.assertEqual(self.announcer.holder, mac(who))
        self.assertEqual(self.hear(question()), "arp_other")
        self.assertEqual(self.announcer.holder, mac("06:99:00:00:00:12"))
        self.assertEqual(self.announcer.next_at, inf)

    def test_no_station_is_no_scheduler(self):
        self.hear(claim())
        for who in ("ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"):
            frame = bytes(Ether(src=MEMBERS[0]) / ARP(op=2, hwsrc=who, psrc=VIP, pdst=VIP))
            self.assertEqual(self.hear(frame), "arp_other")
        self.assertEqual(self.announcer.holder, mac(RIVAL))

    def test_over_a_takeover(self):
        self.hear(claim())
        self.announcer.start(0.0)
        self.assertEqual(self.announcer.holder, mac(SCHEDULER))
        self.announcer.stop()
        self.hear(claim())
        self.assertEqual(self.announcer.holder, mac(RIVAL))


class PropertyTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=300)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["start", "stop", "wait", "claim", "question", "rubbish"]),
                st.sampled_from([0.0, 0.05, 0.5, 1.0, 3.0, 30.0]),
                st.binary(max_size=60),
            ),
            max_size=40,
        )
    )
    def test_any_history(self, events):
        """One counter a frame; silent without the role; never long without an announcement."""
        announcer = Announcer(ADDRESS, mac(SCHEDULER))
        now, active, sent = 100.0, False, -inf
        for event, seconds, data in events:
            now += seconds
            frames = announcer.due(now)
            self.assertLessEqual(len(frames), 6)
            self.assertFalse(frames and not active)
            sent = now if frames else sent
            if event == "start":
                announcer.start(now)
                active, sent = True, now
            elif event == "stop":
                announcer.stop()
                active = False
            elif event != "wait":
                rubbish = question()[: len(data)] + data
                frame = {"claim": claim(), "question": question()}.get(event, rubbish)
                counter, answer = announcer.hear(frame, now)
                self.assertIn(counter, COUNTERS)
                self.assertFalse(answer and not active)
                if event == "claim":
                    self.assertEqual(counter, "arp_conflicts" if active else "arp_claims")
                    self.assertTrue(not active or announcer.next_at <= max(now, sent + DEFEND))
            self.assertEqual(announcer.active, active)
            self.assertEqual(announcer.next_at < inf, active)
            self.assertTrue(not active or announcer.next_at <= max(now, sent + 10.0))
