"""Tests of dlba.routing.frame and dlba.routing.kinds. scapy builds and dissects the frames."""

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing import frame as frame_module
from dlba.routing import kinds
from dlba.routing.frame import (
    classify,
    fragment_key,
    judge,
    link_header,
    rewrite,
    rewritten,
)
from dlba.routing.kinds import COUNTERS, IGNORED, Kind
from tests.routing.frames import (
    CLIENT,
    CLIENT_NUMBER,
    INNER,
    MEMBERS,
    OWN,
    PORT,
    ROUTER,
    SCHEDULER,
    SEEDS,
    VIP,
    address,
    icmp_error,
    ip,
    link,
    mac,
    mutated,
    plain,
    rules,
    summed,
    tcp,
)
from tests.routing.oracles import kind_of

RULES = rules()
OTHER_LOCAL = rules(other_local=True)
BACKUP = rules(scheduler=False)
OWN_MAC = rules(scheduler_mac=mac(OWN))
FLOW = (CLIENT_NUMBER, PORT)


def resummed(frame: bytes, at: int, new: bytes) -> bytes:
    """`frame` with `new` at `at` and the IP header checksum put right."""
    return summed(frame[:at] + new + frame[at + len(new) :])


class FrameCase(SynchronousTestCase):
    def check(self, frame, kind: Kind, flow=(0, 0), by=RULES) -> None:
        """Both ways, and every kind of buffer, agree on `kind` and `flow`."""
        frame = bytes(frame)
        for buffer in (frame, bytearray(frame), memoryview(bytearray(b"?" + frame + b"?"))[1:-1]):
            for function in (classify, judge):
                self.assertEqual(function(buffer, by), (kind, *flow), function.__name__)
        self.assertIsInstance(classify(frame, by)[0], Kind)


class KindTests(SynchronousTestCase):
    def test_a_kind_is_the_index_of_its_counter(self):
        self.assertEqual(list(Kind), list(range(len(COUNTERS))))
        names = [f"frames_{kind.name.lower()}" for kind in Kind]
        self.assertEqual(list(COUNTERS), names)
        self.assertEqual(set(kinds._MEANING), set(Kind))
        self.assertTrue(all(COUNTERS.values()))

    def test_what_is_ignored(self):
        acted = [kind.name for kind in Kind if kind < IGNORED]
        self.assertEqual(
            " ".join(acted), "TCP LATE FIRST_FRAGMENT LATER_FRAGMENT ICMP_ERROR ECHO ARP LOCAL"
        )


class TCPTests(FrameCase):
    def test_plain(self):
        for data in (b"", b"x", b"x" * 1460):
            self.check(plain(data), Kind.TCP, FLOW)

    def test_padding_doesn_t_matter(self):
        self.check(plain() + bytes(6), Kind.TCP, FLOW)

    def test_every_port_and_address(self):
        for text, number in (
            ("0.0.0.1", 1),
            ("255.255.255.254", 0xFFFFFFFE),
            ("1.2.3.4", 0x1020304),
        ):
            for port in (0, 1, 255, 256, 65535):
                frame = link() / ip(src=text) / tcp(sport=port, dport=80)
                self.check(frame, Kind.TCP, (number, port))

    def test_what_doesn_t_concern_a_scheduler(self):
        """TTL, DSCP, DF, flags, TCP's checksum and its header length are the node's business."""
        for frame in (
            link() / ip(ttl=0) / tcp(),
            link() / ip(tos=0xFF, id=0xFFFF, flags="DF") / tcp(),
            link() / ip(flags=4) / tcp(),
            link() / ip() / tcp(flags=0xFF, chksum=1),
            link() / ip() / tcp(dataofs=15),
            link() / ip() / tcp(dataofs=0),
        ):
            self.check(frame, Kind.TCP, FLOW)

    def test_options(self):
        """The ports stand after the options, wherever those end."""
        for words in range(1, 11):
            options = b"\x01" * 4 * words
            frame = link() / ip(ihl=5 + words, options=[options]) / tcp() / Raw(b"data")
            self.assertEqual(bytes(frame)[14], 0x45 + words)
            self.check(frame, Kind.TCP, FLOW)

    def test_other_ports(self):
        for port in (0, 79, 81, 444, 8443, PORT, 65535):
            frame = link() / ip() / tcp(sport=443, dport=port)
            self.check(frame, Kind.OTHER_PORT)
            self.check(frame, Kind.LOCAL, by=OTHER_LOCAL)

    def test_no_ports_at_all(self):
        self.check(plain(), Kind.OTHER_PORT, by=rules(ports=()))

    def test_a_whole_header_is_needed(self):
        packet = bytes(ip() / tcp())
        for length in range(20, 40):
            frame = bytes(link() / ip(len=length, proto=6) / Raw(packet[20:]))
            self.check(frame, Kind.TCP_SHORT)
            self.check(frame[: 14 + length], Kind.TCP_SHORT)

    def test_the_short_way(self):
        """Plain frames don't pay for the others."""
        self.patch(frame_module, "judge", None)
        for data in (b"", b"x" * 1460):
            self.assertEqual(classify(plain(data), RULES), (Kind.TCP, *FLOW))
        self.assertRaises(TypeError, classify, bytes(60), RULES)

    def test_other_addresses(self):
        for text in ("10.99.0.101", "10.99.0.10", "0.0.0.0", "255.255.255.255", CLIENT):
            for by in (RULES, OTHER_LOCAL):
                self.check(link() / ip(dst=text) / tcp(), Kind.OTHER_ADDRESS, by=by)

    def test_other_protocols(self):
        for packet in (ip() / UDP(sport=PORT, dport=443), ip(proto=132) / Raw(bytes(20))):
            self.check(link() / packet, Kind.OTHER_PROTOCOL)
            self.check(link() / packet, Kind.LOCAL, by=OTHER_LOCAL)

    def test_a_fragment_of_another_protocol(self):
        for part in fragment(ip() / UDP(dport=53) / Raw(bytes(3000)), fragsize=1400):
            self.check(link() / part, Kind.OTHER_PROTOCOL)
            self.check(link() / part, Kind.LOCAL, by=OTHER_LOCAL)


class LinkTests(FrameCase):
    def test_other_macs(self):
        for text in (
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            MEMBERS[0],
            "06:99:00:00:00:11",
            "07:99:00:00:00:10",
            "06:98:00:00:00:10",
        ):
            self.check(link(dst=text) / ip() / tcp(), Kind.OTHER_MAC)

    def test_own_mac_is_the_kernel_s(self):
        self.check(link(dst=OWN) / ip() / tcp(), Kind.OWN_MAC)
        self.check(link(dst=OWN, src=MEMBERS[0]) / ip() / tcp(), Kind.OWN_MAC)

    def test_looped(self):
        for source in (OWN, SCHEDULER):
            for frame in (ip() / tcp(), ARP(psrc=VIP, pdst=VIP), Raw(bytes(60))):
                self.check(link(src=source) / frame, Kind.LOOPED)
                self.check(link(src=source, dst="ff:ff:ff:ff:ff:ff") / frame, Kind.LOOPED)

    def test_looped_with_macs_that_share_nothing(self):
        by = rules(scheduler_mac=mac("0a:00:00:00:00:01"))
        for source in (OWN, "0a:00:00:00:00:01"):
            frame = link(src=source, dst="0a:00:00:00:00:01") / ip() / tcp()
            self.check(frame, Kind.LOOPED, by=by)

    def test_from_members(self):
        for source in MEMBERS:
            frame = link(src=source) / ip() / tcp()
            self.check(frame, Kind.LATE, FLOW)
            self.check(frame, Kind.FROM_MEMBER, by=BACKUP)
            self.check(link(src=source) / Raw(bytes(50)), Kind.FROM_MEMBER, by=BACKUP)
        self.check(plain(), Kind.TCP, FLOW, by=BACKUP)

    def test_rubbish_from_members_is_rubbish(self):
        self.check(link(src=MEMBERS[0]) / ip(chksum=1) / tcp(), Kind.IP_CHECKSUM)
        self.check(link(src=MEMBERS[0]) / ip() / UDP(), Kind.OTHER_PROTOCOL)

    def test_fragments_from_members(self):
        first, later = fragment(ip() / tcp() / Raw(bytes(2000)), fragsize=1400)
        self.check(link(src=MEMBERS[0]) / first, Kind.FIRST_FRAGMENT, FLOW)
        self.check(link(src=MEMBERS[0]) / later, Kind.LATER_FRAGMENT, (CLIENT_NUMBER, 0))

    def test_a_source_that_only_resembles_a_member(self):
        """The short way compares 32 bits; what shares them with a member is a client still."""
        for text in ("52:99:00:00:00:11", "02:98:00:00:00:11", "52:54:00:00:00:10"):
            by = rules(members=[mac(MEMBERS[0]), b"\x02\x98" + mac(MEMBERS[1])[2:]])
            kind = Kind.TCP
            self.check(link(src=text) / ip() / tcp(), kind, FLOW, by=by)

    def test_own_mac_mode(self):
        """What members send to the one MAC is scheduled already, even for the scheduler."""
        frame = link(dst=OWN, src=MEMBERS[0]) / ip() / tcp()
        self.check(frame, Kind.FROM_MEMBER, by=OWN_MAC)
        self.check(link(dst=OWN) / ip() / tcp(), Kind.TCP, FLOW, by=OWN_MAC)
        self.check(plain(), Kind.OTHER_MAC, by=OWN_MAC)

    def test_types(self):
        self.check(link() / Dot1Q(vlan=7) / ip() / tcp(), Kind.VLAN)
        self.check(link() / Dot1AD(vlan=7) / Dot1Q(vlan=7) / ip() / tcp(), Kind.VLAN)
        self.check(link() / Dot1Q(prio=3, vlan=0) / ip() / tcp(), Kind.VLAN)
        self.check(link() / IPv6() / tcp(), Kind.IPV6)
        for number in (0, 46, 0x0801, 0x8863, 0x88CC, 0xFFFF):
            self.check(link(type=number) / Raw(bytes(ip() / tcp())), Kind.OTHER_TYPE)

    def test_arp_to_whom_ever(self):
        for destination in ("ff:ff:ff:ff:ff:ff", SCHEDULER, OWN, MEMBERS[0]):
            frame = bytes(link(dst=destination) / ARP(pdst=VIP))
            self.check(frame, Kind.ARP)
            self.check(frame + bytes(2000), Kind.ARP)
            self.check(frame[:41], Kind.RUNT)

    def test_oversized(self):
        for mtu in (1400, 1500, 9000):
            by = rules(mtu=mtu)
            self.check(plain(bytes(mtu - 40)), Kind.TCP, FLOW, by=by)
            self.check(plain(bytes(mtu - 39)), Kind.OVERSIZED, by=by)
            self.check(plain(bytes(60000)), Kind.OVERSIZED, by=by)

    def test_every_cut(self):
        """A frame cut short anywhere is ignored, and which counter tells is certain."""
        for frame in (plain(b"data"), bytes(link() / ip() / ICMP() / Raw(b"ping"))):
            for length in range(len(frame)):
                cut = frame[:length]
                self.check(cut, Kind.RUNT if length < 34 else Kind.TRUNCATED)


class PacketTests(FrameCase):
    def test_version(self):
        for version in (0, 5, 6, 15):
            self.check(link() / ip(version=version) / tcp(), Kind.IP_VERSION)

    def test_header_length(self):
        for words in range(5):
            self.check(link() / ip(ihl=words) / tcp(), Kind.IP_LENGTH)
        for words in range(11, 16):
            # 40 bytes in all: the header claims more.
            self.check(link() / ip(ihl=words) / tcp(), Kind.IP_LENGTH)

    def test_total_length(self):
        for total in (0, 1, 19):
            self.check(resummed(plain(), 16, total.to_bytes(2, "big")), Kind.IP_LENGTH)
        for total in (41, 1500, 65535):
            self.check(resummed(plain(), 16, total.to_bytes(2, "big")), Kind.TRUNCATED)

    def test_header_checksum(self):
        frame = plain(b"data")
        for bit in range(14 * 8, 34 * 8):
            broken = bytearray(frame)
            broken[bit // 8] ^= 1 << bit % 8
            kind = classify(broken, RULES)[0]
            self.assertGreaterEqual(kind, IGNORED, bit)
            if bit // 8 not in (14, 16, 17):
                self.check(broken, Kind.IP_CHECKSUM)

    def test_header_checksum_with_options(self):
        frame = bytearray(bytes(link() / ip(ihl=6, options=[b"\x01" * 4]) / tcp()))
        self.check(frame, Kind.TCP, FLOW)
        frame[36] ^= 1
        self.check(frame, Kind.IP_CHECKSUM)

    def test_every_checksum(self):
        """All headers that scapy sums up are right, the rare sums among them."""
        for number in range(0, 65536, 7):
            frame = resummed(plain(), 18, number.to_bytes(2, "big"))
            self.assertEqual(classify(frame, RULES), (Kind.TCP, *FLOW))


class FragmentTests(FrameCase):
    def test_first_and_later(self):
        parts = fragment(ip(id=4711) / tcp() / Raw(bytes(5000)), fragsize=1400)
        self.assertEqual(len(parts), 4)
        self.check(link() / parts[0], Kind.FIRST_FRAGMENT, FLOW)
        for part in parts[1:]:
            self.check(link() / part, Kind.LATER_FRAGMENT, (CLIENT_NUMBER, 0))
        key = 0xC0A80709_0A630064_1267_06
        self.assertEqual({fragment_key(bytes(link() / part)) for part in parts}, {key})

    def test_the_key_holds_all_four(self):
        same = {"id": 1, "frag": 3, "proto": 6}
        keys = {
            fragment_key(bytes(link() / ip(**(same | other)) / Raw(bytes(8))))
            for other in ({}, {"id": 2}, {"src": "1.2.3.4"}, {"dst": "1.2.3.4"}, {"proto": 17})
        }
        self.assertEqual(len(keys), 5)

    def test_a_later_fragment_s_payload_is_no_port(self):
        frame = link() / ip(frag=1, proto=6) / tcp(sport=80, dport=80)
        self.check(frame, Kind.LATER_FRAGMENT, (CLIENT_NUMBER, 0))
        for size in range(8):
            frame = link() / ip(frag=8191, flags="MF", proto=6) / Raw(bytes(size))
            self.check(frame, Kind.LATER_FRAGMENT, (CLIENT_NUMBER, 0))

    def test_a_tiny_first_fragment(self):
        frame = link() / ip(flags="MF", proto=6) / Raw(bytes(tcp())[:8])
        self.check(frame, Kind.TCP_SHORT)

    def test_a_first_fragment_for_another_port(self):
        frame = link() / ip(flags="MF") / tcp(dport=22)
        self.check(frame, Kind.OTHER_PORT)
        self.check(frame, Kind.LOCAL, by=OTHER_LOCAL)

    def test_first_fragment_with_options(self):
        frame = link() / ip(flags="MF", ihl=7, options=[b"\x01" * 8]) / tcp()
        self.check(frame, Kind.FIRST_FRAGMENT, FLOW)


class ICMPTests(FrameCase):
    def test_errors_name_the_flow(self):
        for message in (
            ICMP(type=3, code=4, nexthopmtu=1400),
            ICMP(type=3, code=1),
            ICMP(type=11, code=0),
            ICMP(type=12, code=0),
        ):
            self.check(icmp_error(INNER, message), Kind.ICMP_ERROR, FLOW)
            # RFC 792 promises the header and 8 bytes; the ports are enough.
            for length in (28, 24):
                inner = Raw(bytes(INNER)[:length])
                self.check(icmp_error(inner, message), Kind.ICMP_ERROR, FLOW)

    def test_inner_options(self):
        inner = IP(src=VIP, dst=CLIENT, ihl=8, options=[b"\x01" * 12]) / TCP(sport=80, dport=PORT)
        self.check(icmp_error(inner), Kind.ICMP_ERROR, FLOW)
        self.check(icmp_error(Raw(bytes(inner)[:35])), Kind.ICMP_SHORT)

    def test_outer_options(self):
        frame = link() / ip(src="172.16.0.1", ihl=6, options=[b"\x01" * 4]) / ICMP(type=3) / INNER
        self.check(frame, Kind.ICMP_ERROR, FLOW)

    def test_inner_first_fragment(self):
        inner = IP(src=VIP, dst=CLIENT, flags="MF") / TCP(sport=443, dport=PORT)
        self.check(icmp_error(inner), Kind.ICMP_ERROR, FLOW)

    def test_errors_about_something_else(self):
        for inner in (
            IP(src=CLIENT, dst=VIP) / TCP(sport=PORT, dport=443),
            IP(src=VIP, dst=CLIENT) / TCP(sport=22, dport=PORT),
            IP(src=VIP, dst=CLIENT) / UDP(sport=443, dport=PORT),
            IP(src=VIP, dst=CLIENT, frag=1, proto=6) / TCP(sport=443, dport=PORT),
            IP(src=VIP, dst=CLIENT, version=6) / TCP(sport=443, dport=PORT),
            IP(src="10.99.0.101", dst=CLIENT) / TCP(sport=443, dport=PORT),
            # Its fourth word has 443 where the port would be.
            IP(src=VIP, dst="1.187.0.1", ihl=4) / TCP(sport=443, dport=PORT),
        ):
            self.check(icmp_error(inner), Kind.ICMP_FOREIGN)
            self.check(icmp_error(inner), Kind.LOCAL, by=OTHER_LOCAL)

    def test_short(self):
        for length in range(24):
            frame = icmp_error(Raw(bytes(INNER)[:length]))
            self.check(frame, Kind.ICMP_SHORT)
        for length in range(8):
            self.check(
                link() / ip(proto=1) / Raw(bytes((3, 4, 0, 0, 0, 0, 0, 0))[:length]),
                Kind.ICMP_SHORT,
            )

    def test_checksum(self):
        for message in (ICMP(type=3, chksum=1) / INNER, ICMP(chksum=1), ICMP(type=13, chksum=1)):
            self.check(link() / ip() / message, Kind.ICMP_CHECKSUM)

    def test_padding_isn_t_part_of_the_message(self):
        frame = bytes(link() / ip() / ICMP() / Raw(b"odd"))
        self.check(frame + b"padding", Kind.ECHO, (CLIENT_NUMBER, 0))

    def test_echo(self):
        for data in (b"", b"x", b"ping" * 14, b"x" * 1472):
            self.check(link() / ip() / ICMP() / Raw(data), Kind.ECHO, (CLIENT_NUMBER, 0))

    def test_nobody_to_answer(self):
        for source in ("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", VIP):
            self.check(link() / ip(src=source) / ICMP(), Kind.ECHO_SOURCE)
        for source in ("1.0.0.0", "126.0.0.1", "128.0.0.1", "223.255.255.254"):
            kind, found, _ = classify(bytes(link() / ip(src=source) / ICMP()), RULES)
            self.assertEqual((kind, found), (Kind.ECHO, int.from_bytes(address(source), "big")))

    def test_other_messages(self):
        for number in (0, 4, 5, 9, 10, 13, 15, 17, 42, 255):
            frame = link() / ip() / ICMP(type=number) / INNER
            self.check(frame, Kind.ICMP_OTHER)
            self.check(frame, Kind.LOCAL, by=OTHER_LOCAL)

    def test_fragments(self):
        for part in fragment(ip() / ICMP() / Raw(bytes(3000)), fragsize=1400):
            for by in (RULES, OTHER_LOCAL):
                self.check(link() / part, Kind.ICMP_FRAGMENT, by=by)


class FilterTests(SynchronousTestCase):
    def test_vip_as_int_or_bytes(self):
        self.assertEqual(rules(vip=0x0A630064), RULES)
        for wrong in (-1, 1 << 32, b"", bytes(5), bytes(16)):
            self.assertIn("vip: expected", str(self.assertRaises(ValueError, rules, vip=wrong)))

    def test_macs(self):
        for wrong in (bytes(6), bytes(5), bytes(7), b"", b"\xff" * 6, mac("01:00:5e:00:00:01")):
            for name, value in (
                ("scheduler_mac", wrong),
                ("own_mac", wrong),
                ("members", [mac(OWN), wrong]),
            ):
                error = self.assertRaises(ValueError, rules, **{name: value})
                self.assertIn("expected a unicast MAC address of 6 bytes", str(error))

    def test_mtu(self):
        self.assertRaises(ValueError, rules, mtu=67)
        self.assertEqual(rules(mtu=68).longest, 82)


class RewriteTests(SynchronousTestCase):
    DESTINATION, SOURCE = mac(MEMBERS[1]), mac(OWN)

    def test_scapy_sees_new_macs_and_nothing_else(self):
        frame = link() / ip(ttl=1, tos=3, ihl=6, options=[b"\x01" * 4]) / tcp() / Raw(b"data")
        before = Ether(bytes(frame))
        after = Ether(rewritten(bytes(frame), self.DESTINATION, self.SOURCE))
        self.assertEqual((after.dst, after.src), (MEMBERS[1], OWN))
        self.assertEqual(bytes(after.payload), bytes(before.payload))
        self.assertEqual(after.type, before.type)

    @settings(deadline=None)
    @given(st.binary(min_size=12, max_size=200))
    def test_byte_for_byte(self, frame):
        expected = self.DESTINATION + self.SOURCE + frame[12:]
        self.assertEqual(rewritten(frame, self.DESTINATION, self.SOURCE), expected)
        self.assertEqual(rewritten(memoryview(frame), self.DESTINATION, self.SOURCE), expected)
        buffer = bytearray(frame)
        rewrite(buffer, self.DESTINATION, self.SOURCE)
        self.assertEqual(buffer, expected)
        buffer = bytearray(b"<" + frame + b">")
        rewrite(memoryview(buffer)[1:-1], self.DESTINATION, self.SOURCE)
        self.assertEqual(buffer, b"<" + expected + b">")

    def test_wrong_macs_change_nothing(self):
        for destination, source in ((b"", self.SOURCE), (self.DESTINATION, bytes(7))):
            buffer = bytearray(plain())
            self.assertRaises(ValueError, rewrite, buffer, destination, source)
            self.assertRaises(ValueError, rewritten, plain(), destination, source)
            self.assertRaises(ValueError, link_header, destination, source)
            self.assertEqual(buffer, plain())

    def test_a_rewritten_frame_isn_t_scheduled_again(self):
        frame = rewritten(plain(), self.DESTINATION, self.SOURCE)
        at_the_node = rules(
            own_mac=self.DESTINATION,
            scheduler_mac=mac("06:99:00:00:00:12"),
            members=[self.SOURCE],
        )
        self.assertEqual(classify(frame, at_the_node)[0], Kind.OWN_MAC)
        self.assertEqual(classify(frame, RULES)[0], Kind.LOOPED)


class PropertyTests(SynchronousTestCase):
    FILTERS = st.sampled_from([RULES, OTHER_LOCAL, BACKUP, OWN_MAC, rules(mtu=576)])

    def compare(self, frame: bytes, by) -> None:
        result = classify(frame, by)
        self.assertEqual(result, judge(frame, by))
        self.assertEqual((result[0].name, *result[1:]), kind_of(frame, by))
        self.assertEqual(classify(memoryview(frame), by), result)
        if result[0] >= IGNORED or result[0] in (Kind.ARP, Kind.LOCAL):
            self.assertEqual(result[1:], (0, 0))

    def test_the_seeds_are_of_many_kinds(self):
        self.assertGreater(len({classify(frame, RULES)[0] for frame in SEEDS}), 8)

    @settings(deadline=None, max_examples=1000)
    @given(mutated(), FILTERS)
    def test_mutated_frames(self, frame, by):
        self.compare(frame, by)

    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=120), FILTERS, st.booleans())
    def test_random_bytes(self, data, by, addressed):
        if addressed:
            data = by.scheduler_mac + mac(ROUTER) + b"\x08\x00" + data
        self.compare(data, by)
