"""Tests of dlba.routing.path. scapy builds the frames and reads the answers."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.announce import Announcer
from dlba.routing.frame import link_header
from dlba.routing.hashtable import UNASSIGNED, ClientTable
from dlba.routing.path import ABSENT, COUNTERS, LOCAL, FramePath
from dlba.routing.placement import NodeRow
from dlba.routing.reach import Peer, Reach
from dlba.routing.scheduler import Scheduler
from tests.routing.frames import (
    CLIENT,
    CLIENT_NUMBER,
    MEMBERS,
    OWN,
    PORT,
    ROUTER,
    SCHEDULER,
    VIP,
    address,
    icmp_error,
    ip,
    link,
    mac,
    plain,
    rules,
    tcp,
)

BUCKETS = 64
OTHERS = dict(enumerate(MEMBERS, 1))  # node 0 is this one
HEADERS = {0: LOCAL} | {n: link_header(mac(to), mac(OWN)) for n, to in OTHERS.items()}


def frame_path(
    active: bool = True, absent_after: float = ABSENT, elected: bool = False, **changes
) -> FramePath:
    rows = [
        NodeRow(n, "abc"[n], mac([OWN, *MEMBERS][n]), f"10.99.0.{10 + n}", weight=1)
        for n in range(3)
    ]
    made = FramePath(
        rules(**changes),
        Scheduler(ClientTable(BUCKETS), rows, 300),
        Announcer(address(VIP), mac(SCHEDULER)),
        Reach(
            [Peer(n, mac(to), address(f"10.99.0.{10 + n}")) for n, to in OTHERS.items()],
            mac(OWN),
            address("10.99.0.10"),
            0.1,
            3,
        ),
        HEADERS,
        absent_after,
        elected,
    )
    if active:
        made.activate(True, 50.0)
    made.wake(50.0)
    return made


def view(frame) -> memoryview:
    return memoryview(bytearray(bytes(frame)))


class Case(SynchronousTestCase):
    def setUp(self):
        self.path = frame_path()

    def route(self, frame, merged=False):
        return self.path.route(view(frame), merged)

    def counted(self) -> dict[str, int]:
        """The counters that aren't 0."""
        return {name: count for name, count in self.path.counters().items() if count}

    def flow(self, number: int) -> bytes:
        """A frame of a flow of its own."""
        return bytes(link() / ip() / tcp(sport=PORT + number))


class RouteTests(Case):
    def test_flows_are_spread_and_stay(self):
        first = [self.route(self.flow(n)) for n in range(9)]
        self.assertEqual(first, [HEADERS[n % 3] for n in range(9)])
        self.assertEqual([self.route(self.flow(n)) for n in range(9)], first)
        self.assertEqual(
            self.counted(), {"frames_tcp": 18, "frames_forwarded": 12, "frames_own": 6}
        )

    def test_nothing_of_the_frame_changes(self):
        frame = view(plain(b"data"))
        before = bytes(frame)
        self.path.route(frame, False)
        self.assertEqual(bytes(frame), before)

    def test_nobody_is_left(self):
        for node in range(3):
            self.path.scheduler.fail(node)
        self.assertIs(self.route(plain()), None)
        self.assertEqual(self.counted(), {"frames_tcp": 1, "frames_nobody": 1})

    def test_late_frames_of_a_former_scheduler(self):
        late = link(src=MEMBERS[0]) / ip() / tcp()
        self.assertEqual(self.route(late), HEADERS[0])
        self.assertEqual(self.counted(), {"frames_late": 1, "frames_own": 1})

    def test_merged_frames_may_exceed_the_mtu(self):
        frame = plain(b"x" * 20000)
        self.assertIs(self.route(frame), None)
        self.assertEqual(self.route(frame, merged=True), LOCAL)
        self.assertEqual(self.counted(), {"frames_oversized": 1, "frames_tcp": 1, "frames_own": 1})

    def test_what_the_filter_left_of_a_tagged_frame(self):
        self.assertIs(self.route(plain()[:12]), None)
        self.assertIs(self.route(plain()[:11]), None)
        self.assertEqual(self.counted(), {"frames_vlan": 1, "frames_runt": 1})

    def test_other_ports_and_protocols(self):
        self.assertIs(self.route(link() / ip() / UDP()), None)
        self.path = frame_path(other_local=True)
        self.assertEqual(self.route(link() / ip() / UDP()), LOCAL)
        self.assertEqual(self.route(link() / ip() / tcp(dport=22)), LOCAL)
        self.assertEqual(self.counted(), {"frames_local": 2, "frames_own": 2})

    def test_rubbish(self):
        for frame in (b"", b"\0" * 20, link() / IPv6(), bytes(plain())[:40], plain() + b"x" * 3000):
            self.assertIs(self.route(frame), None)
        self.assertEqual(
            self.counted(),
            {
                "frames_runt": 1,
                "frames_other_mac": 1,
                "frames_ipv6": 1,
                "frames_truncated": 1,
                "frames_oversized": 1,
            },
        )


class FragmentTests(Case):
    def fragments(self, **fields) -> list[bytes]:
        packet = ip(id=77, **fields) / tcp() / Raw(b"f" * 3000)
        return [bytes(link() / part) for part in fragment(packet, 1000)]

    def test_later_ones_go_where_the_first_went(self):
        self.route(self.flow(1))
        parts = self.fragments()
        self.assertGreater(len(parts), 2)
        self.assertEqual({self.route(part) for part in parts}, {HEADERS[1]})
        self.assertEqual(self.counted()["frames_later_fragment"], len(parts) - 1)

    def test_a_later_one_without_the_first_is_dropped(self):
        first, *later = self.fragments()
        self.assertIs(self.route(later[0]), None)
        self.assertEqual(self.path.scheduler.table.assigned, 0)
        self.route(first)
        self.path.wake(56.0)
        self.assertIs(self.route(later[0]), None)
        self.assertEqual(self.counted()["frames_unknown_fragment"], 2)
        self.assertNotIn("frames_later_fragment", self.counted())


class MtuTests(Case):
    def test_longer_frames_with_a_larger_mtu(self):
        frame = plain(b"x" * 5000)
        self.assertIs(self.route(frame), None)
        self.path.set_mtu(9000)
        self.assertEqual(self.route(frame), LOCAL)


class IcmpTests(Case):
    def test_an_error_goes_where_its_flow_went(self):
        self.route(self.flow(1))
        self.route(plain())
        self.assertEqual(self.route(plain()), HEADERS[1])
        inner = IP(src=VIP, dst=CLIENT) / tcp(sport=443, dport=PORT)
        self.assertEqual(self.route(icmp_error(inner)), HEADERS[1])

    def test_an_error_places_no_bucket(self):
        inner = IP(src=VIP, dst=CLIENT) / tcp(sport=443, dport=PORT)
        self.assertIs(self.route(icmp_error(inner)), None)
        self.assertEqual(self.path.scheduler.table.assigned, 0)
        self.assertEqual(self.counted(), {"frames_icmp_error": 1, "frames_no_flow": 1})

    def test_an_error_doesn_t_keep_a_bucket_alive(self):
        self.route(plain())
        self.path.wake(90.0)
        self.route(icmp_error(IP(src=VIP, dst=CLIENT) / tcp(sport=443, dport=PORT)))
        bucket = (CLIENT_NUMBER + PORT) % BUCKETS
        self.assertEqual(self.path.scheduler.table.last_of(bucket), 50)

    def test_echo_is_answered(self):
        self.assertIs(self.route(link() / ip() / ICMP(id=7, seq=9) / Raw(b"ping")), None)
        (raw,) = self.path.replies
        reply = Ether(raw)
        self.assertEqual((reply.dst, reply.src), (ROUTER, SCHEDULER))
        self.assertEqual((reply[IP].src, reply[IP].dst), (VIP, CLIENT))
        self.assertEqual((reply[ICMP].type, reply[ICMP].id, reply[ICMP].seq), (0, 7, 9))
        self.assertEqual(self.path.scheduler.table.assigned, 0)


class ArpTests(Case):
    QUESTION = Ether(src=ROUTER, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=ROUTER, psrc=CLIENT, pdst=VIP)

    def test_who_has_the_vip(self):
        self.assertIs(self.route(self.QUESTION), None)
        (raw,) = self.path.replies
        self.assertEqual((Ether(raw)[ARP].op, Ether(raw)[ARP].hwsrc), (2, SCHEDULER))
        self.assertEqual(self.counted(), {"frames_arp": 1, "arp_answered": 1})

    def test_another_answerer_is_a_conflict(self):
        claim = Ether(src=ROUTER, dst=SCHEDULER) / ARP(op=2, hwsrc=ROUTER, psrc=VIP, pdst=CLIENT)
        self.route(claim)
        self.assertEqual((self.path.conflicts, self.path.announcer.rival), (1, mac(ROUTER)))

    def test_answers_of_nodes_are_heard(self):
        reach = self.path.reach
        reach.start(50.0)
        for step in range(6):
            reach.due(50 + step / 10)
            answer = ARP(op=2, hwsrc=MEMBERS[0], psrc="10.99.0.11", hwdst=OWN, pdst="10.99.0.10")
            self.route(Ether(src=MEMBERS[0], dst=OWN) / answer)
        self.assertEqual(reach.failed, {2})


class OwnSourceTests(Case):
    """Frames from outside with this node's own MAC: switches have learnt another place for it."""

    def setUp(self):
        super().setUp()
        for step in range(5):
            self.path.announcer.due(50 + step / 50)
        self.path.announcer.due(60.0)
        self.path.wake(60.2)

    def test_announced_again_soon(self):
        self.assertGreater(self.path.announcer.next_at, 65)
        self.assertIs(self.route(Ether(dst=ROUTER, src=SCHEDULER) / ip() / tcp()), None)
        self.assertEqual(self.path.announcer.next_at, 61.0)
        self.assertEqual(self.counted(), {"frames_looped": 1})

    def test_a_claim_in_it_is_a_conflict(self):
        claim = ARP(op=2, hwsrc=ROUTER, psrc=VIP, hwdst=ROUTER, pdst=CLIENT)
        self.route(Ether(dst="ff:ff:ff:ff:ff:ff", src=SCHEDULER) / claim)
        self.assertEqual((self.path.conflicts, self.path.announcer.rival), (1, mac(ROUTER)))
        self.assertEqual(self.counted(), {"frames_looped": 1, "arp_conflicts": 1})

    def test_our_own_announcement_that_comes_back_is_none(self):
        own = ARP(op=2, hwsrc=SCHEDULER, psrc=VIP, hwdst=SCHEDULER, pdst=VIP)
        self.route(Ether(dst="ff:ff:ff:ff:ff:ff", src=SCHEDULER) / own)
        self.assertEqual(self.path.conflicts, 0)


class AbsenceTests(Case):
    def setUp(self):
        super().setUp()
        self.bucket = (CLIENT_NUMBER + PORT) % BUCKETS
        self.path.scheduler.fail(1)
        self.path.scheduler.fail(2)
        for number in range(9):
            self.route(self.flow(number))
        self.path.scheduler.recover(1)

    def test_frames_that_waited_meanwhile_find_their_buckets_used(self):
        self.path.alive(50.0)
        self.path.wake(500.0)
        self.assertEqual(self.route(plain()), LOCAL)
        self.assertEqual(self.path.scheduler.table.last_of((self.bucket + 5) % BUCKETS), 500)

    def test_without_a_gap_a_silent_bucket_moves(self):
        for second in range(50, 500):
            self.path.alive(float(second))
        self.path.wake(500.0)
        self.assertEqual(self.route(plain()), HEADERS[1])


class BackupTests(Case):
    def setUp(self):
        self.path = frame_path(active=False)

    def test_it_is_silent_and_routes_nothing(self):
        self.assertIs(self.route(ArpTests.QUESTION), None)
        self.assertIs(self.route(plain()), None)
        self.assertIs(self.route(link() / ip() / ICMP()), None)
        self.assertIs(self.route(link(src=MEMBERS[0]) / ip() / tcp()), None)
        self.assertEqual(self.path.replies, [])
        self.assertEqual(self.path.scheduler.table.assigned, 0)
        self.assertEqual(
            self.counted(),
            {
                "frames_arp": 1,
                "arp_other": 1,
                "frames_not_scheduler": 2,
                "frames_from_member": 1,
            },
        )

    def test_becoming_scheduler_and_giving_it_up(self):
        table = self.path.scheduler.table
        table.assign(5, 2)
        self.path.activate(True, 70.0)
        self.assertEqual((table.node_of(5), table.last_of(5)), (2, 70))
        frames = [self.path.announcer.due(70 + step / 50) for step in range(4)]
        self.assertEqual([len(due) for due in frames], [1, 1, 1, 6])  # probes, then a burst
        self.route(ArpTests.QUESTION)
        self.assertEqual(len(self.path.replies), 1)
        self.path.activate(False, 71.0)
        self.assertEqual(self.path.announcer.due(1e6), ())
        self.assertIs(self.route(plain()), None)


class ElectedTests(Case):
    CLAIM = Ether(src=ROUTER, dst=SCHEDULER) / ARP(op=2, hwsrc=ROUTER, psrc=VIP, pdst=CLIENT)

    def setUp(self):
        self.path = frame_path(absent_after=0.3, elected=True)
        self.path.alive(50.0)

    def test_after_a_gap_it_is_mute_before_any_frame(self):
        self.path.wake(50.29)
        self.assertEqual((self.path.muted, self.path.gap), (False, 0))
        self.path.wake(50.5)
        self.assertEqual((self.path.muted, self.path.gap), (True, 0.5))
        for frame in (plain(), plain(b"x" * 20000), link() / ip() / ICMP(), ArpTests.QUESTION):
            self.assertIs(self.route(frame, merged=True), None)
        self.assertEqual((self.path.replies, self.path.scheduler.table.assigned), ([], 0))
        self.assertEqual(self.path.announcer.due(1e6), ())
        self.path.announce(51.0)
        self.assertEqual(self.path.announcer.due(1e6), ())
        self.assertEqual(self.counted(), {"frames_absent": 3, "frames_arp": 1, "arp_other": 1})

    def test_a_second_gap_leaves_the_longer_one(self):
        self.path.alive(55.0)
        self.path.alive(56.0)
        self.assertEqual(self.path.gap, 5.0)

    def test_going_on(self):
        self.path.alive(55.0)
        self.path.mute(False, 56.0)
        self.assertEqual(len(self.path.announcer.due(56.0)), 6)  # no probes
        self.assertEqual(self.route(plain()), LOCAL)
        self.path.mute(False, 57.0)
        self.assertEqual(self.path.announcer.due(56.5), ())

    def test_mute_is_a_scheduler_s(self):
        self.path.mute(True, 51.0)
        self.path.activate(False, 52.0)
        self.assertFalse(self.path.muted)
        self.path.mute(True, 53.0)
        self.path.mute(False, 54.0)
        self.assertEqual((self.path.muted, self.path.announcer.active), (False, False))
        self.path.activate(True, 55.0, probes=0)
        self.assertEqual(len(self.path.announcer.due(55.0)), 6)
        self.assertEqual(self.route(plain()), LOCAL)

    def test_quiet_until_it_has_the_role_anew(self):
        self.route(ArpTests.QUESTION)
        self.path.quiet()
        self.assertEqual(self.path.replies, [])
        self.assertEqual(self.route(plain()), LOCAL)
        self.path.announce(51.0)
        self.path.mute(True, 51.0)
        self.path.mute(False, 52.0)
        self.route(ArpTests.QUESTION)
        self.assertEqual((self.path.replies, self.path.announcer.due(1e6)), ([], ()))
        self.assertEqual(self.route(plain()), LOCAL)
        self.path.activate(False, 53.0)
        self.path.activate(True, 54.0)
        self.route(ArpTests.QUESTION)
        self.assertEqual(len(self.path.replies), 1)

    def test_late_frames_go_by_the_table_and_place_nothing(self):
        self.path.late()  # not by a node that isn't scheduler
        self.path.activate(True, 50.0)
        placed = [self.route(self.flow(n)) for n in range(3)]
        self.assertEqual(placed, [HEADERS[n] for n in range(3)])
        self.path.quiet()
        self.path.late()
        self.path.mute(True, 51.0)
        self.path.mute(False, 51.0)
        table, scheduler = self.path.scheduler.table, self.path.scheduler
        version = table.version
        before = self.path.counters()["frames_nobody"]
        # Where the copy says, even if its row is marked failed, or the bucket was silent for long.
        scheduler.mark(1)
        self.path.wake(5000.0)
        self.path.mute(False, 5000.0)
        self.assertEqual([self.route(self.flow(n)) for n in range(3)], placed)
        for frame in (
            self.flow(3),
            bytes(link(src=MEMBERS[0]) / ip() / tcp(sport=PORT + 4)),
            bytes(fragment(ip() / tcp(sport=PORT + 5) / Raw(b"x" * 64), 32)[0]),
        ):
            self.assertIs(self.route(bytes(frame)), None)
        self.assertEqual(self.path.counters()["frames_nobody"], before + 2)
        self.assertEqual(table.version, version)
        # A delta of the new scheduler's, and this node's next reign.
        table.assign(scheduler.bucket_of(CLIENT_NUMBER, PORT + 3), 2)
        self.assertEqual(self.route(self.flow(3)), HEADERS[2])
        self.path.activate(False, 5001.0)
        self.path.activate(True, 5001.0, probes=0)
        self.assertIsNotNone(self.route(self.flow(7)))
        self.assertGreater(table.version, version + 1)

    def test_a_gap_of_a_node_that_isn_t_elected_mutes_nobody(self):
        self.path = frame_path()
        self.path.alive(50.0)
        self.path.wake(500.0)
        self.assertEqual((self.path.muted, self.path.gap), (False, 0))
        self.assertEqual(self.route(plain()), LOCAL)

    def test_replies_that_were_not_sent_are_none_any_more(self):
        for silence in (lambda: self.path.mute(True, 50.0), lambda: self.path.activate(False, 51)):
            self.route(ArpTests.QUESTION)
            self.assertEqual(len(self.path.replies), 1)
            silence()
            self.assertEqual(self.path.replies, [])
            self.path.mute(False, 50.0)

    def test_claims(self):
        self.route(self.CLAIM)
        self.route(self.CLAIM)
        self.route(ArpTests.QUESTION)
        self.route(Ether(src=SCHEDULER, dst=SCHEDULER) / ARP(op=2, hwsrc=SCHEDULER, psrc=VIP))
        self.assertEqual(list(self.path.claims), [mac(ROUTER)])
        self.path.claims = {}
        self.path.activate(False, 51.0)
        self.route(self.CLAIM)
        self.assertEqual(list(self.path.claims), [mac(ROUTER)])
        self.path = frame_path()
        self.route(self.CLAIM)
        self.assertEqual(self.path.claims, {})


class EverythingTests(SynchronousTestCase):
    def test_names(self):
        self.assertEqual(list(frame_path().counters()), list(COUNTERS))

    @settings(max_examples=300)
    @given(
        st.binary(max_size=90),
        st.sampled_from([b"", mac(SCHEDULER), mac(OWN)]),
        st.sampled_from([b"", mac(ROUTER) + b"\x08\0", mac(ROUTER) + b"\x08\x06"]),
        st.booleans(),
        st.booleans(),
    )
    def test_no_frame_raises_and_each_counts_once(self, data, to, kind, active, merged):
        path = frame_path(active)
        header = path.route(view(to + kind + data), merged)
        self.assertIn(header, (None, *HEADERS.values()))
        counters = path.counters()
        once = [n for n in COUNTERS if n.startswith("frames_")][3:]  # after where they went
        self.assertEqual(sum(counters[name] for name in once), 1, counters)

    @settings(max_examples=200)
    @given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 65535)), max_size=50))
    def test_against_a_table_that_is_a_dict(self, story):
        """Least IP groups, lower number first; a bucket keeps its node."""
        path = frame_path()
        owners, groups = {}, dict.fromkeys(range(3), 0)
        for last, port in story:
            client = CLIENT_NUMBER & ~0xFF | last
            frame = bytearray(plain())
            struct.pack_into("!I", frame, 26, client)
            struct.pack_into("!H", frame, 34, port)
            packet = IP(bytes(frame[14:34]))
            del packet.chksum
            frame[14:34] = bytes(packet)[:20]
            bucket = (client + port) % BUCKETS
            if bucket not in owners:
                owners[bucket] = min(groups, key=lambda node: (groups[node], node))
                groups[owners[bucket]] += 1
            self.assertEqual(path.route(view(frame), False), HEADERS[owners[bucket]])
        table = path.scheduler.table
        found = {b: table.node_of(b) for b in range(BUCKETS) if table.node_of(b) != UNASSIGNED}
        self.assertEqual(found, owners)
