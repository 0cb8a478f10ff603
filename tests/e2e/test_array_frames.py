"""Frames that nobody should send, fragments, ICMP, a flood: all counted, and the rest goes on."""

from __future__ import annotations

import time

import pytest
from labs import CLIENT, CLIENT_MAC, MIB, NO_CHANNEL, VIP, lab_up, need_libpcap
from parts import wait_until
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, TCPerror, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw
from wire import HEADERS, SOON, Capture, captures, send

A = "203.0.113.11"
A_MAC, B_MAC = "02:00:cb:00:71:0b", "02:00:cb:00:71:0c"
SCHEDULER = "06:00:cb:00:71:0b"
TIMES = 3
#: Frames of a flood, and how many are sent at once.
FLOOD, PORTION = 20_000, 500
#: Ports of the flood, apart from those of other tests.
FLOOD_PORTS = range(33_000, 53_000)


@pytest.fixture(scope="module", params=["packet", "pcap"])
def lab(request):
    need_libpcap()
    with lab_up("frames", NO_CHANNEL, f"routing.packets={request.param}", nodes=2) as lab:
        assert f"frames by {request.param}" in lab.log("a")
        yield lab


def link(**fields):
    return Ether(**({"src": CLIENT_MAC, "dst": SCHEDULER} | fields))


def ip(**fields):
    return IP(**({"src": CLIENT, "dst": VIP} | fields))


def tcp(**fields):
    return TCP(**({"sport": 9000, "dport": 80, "flags": "A"} | fields))


def with_bytes(packet, at, data):
    """The frame with other bytes from `at` on."""
    frame = bytearray(bytes(packet))
    frame[at : at + len(data)] = data
    return bytes(frame)


def checked(packet, at, data):
    """The same, with the IP header checksum put right."""
    packet = Ether(with_bytes(packet, at, data))
    del packet[IP].chksum
    return bytes(packet)


PLAIN = link() / ip() / tcp()
INNER = IP(src=VIP, dst="198.51.100.1") / TCP(sport=80, dport=9000)
PTB = ICMP(type=3, code=4, nexthopmtu=1400)

#: (what it is, the frame, its counter)
HOSTILE = [
    ("runt", bytes(PLAIN)[:33], "frames_runt"),
    ("no more than Ethernet", bytes(PLAIN)[:14], "frames_runt"),
    ("cut in the TCP header", bytes(PLAIN)[:50], "frames_truncated"),
    ("longer in its header", checked(PLAIN, 16, b"\x05\xdc"), "frames_truncated"),
    ("total below the header", checked(PLAIN, 16, b"\x00\x13"), "frames_ip_length"),
    ("header of 16 bytes", with_bytes(PLAIN, 14, b"\x44"), "frames_ip_length"),
    ("IP version 5", with_bytes(PLAIN, 14, b"\x55"), "frames_ip_version"),
    ("wrong checksum", with_bytes(PLAIN, 24, b"\x00\x01"), "frames_ip_checksum"),
    ("total below the TCP header", checked(PLAIN, 16, b"\x00\x27"), "frames_tcp_short"),
    ("VLAN 7", link() / Dot1Q(vlan=7) / ip() / tcp(), "frames_vlan"),
    ("double VLAN", link(type=0x88A8) / Dot1Q(vlan=7) / ip() / tcp(), "frames_vlan"),
    ("IPv6", link() / IPv6() / tcp(), "frames_ipv6"),
    ("neither IP nor ARP", link(type=0x88B5) / Raw(bytes(46)), "frames_other_type"),
    ("length in place of a type", link(type=100) / Raw(bytes(100)), "frames_other_type"),
    ("another address", link() / ip(dst=A) / tcp(), "frames_other_address"),
    ("another port", link() / ip() / tcp(dport=22), "frames_other_port"),
    ("UDP", link() / ip() / UDP(sport=9000, dport=443), "frames_other_protocol"),
    ("a protocol nobody has", link() / ip(proto=253) / Raw(bytes(30)), "frames_other_protocol"),
    ("a later fragment", link() / ip(frag=9, proto=6) / Raw(bytes(64)), "frames_unknown_fragment"),
    (
        "a first fragment without ports",
        link() / ip(flags="MF", proto=6) / Raw(bytes(16)),
        "frames_tcp_short",
    ),
    ("the scheduler's own source", link(src=A_MAC) / ip() / tcp(), "frames_looped"),
    ("ICMP cut", link() / ip(proto=1) / Raw(bytes(4)), "frames_icmp_short"),
    ("ICMP about nothing", link() / ip() / PTB, "frames_icmp_short"),
    (
        "ICMP about another host's flow",
        link() / ip() / PTB / IP(src=A, dst=CLIENT) / TCP(sport=80, dport=9000),
        "frames_icmp_foreign",
    ),
    (
        "ICMP about another port",
        link() / ip() / PTB / IP(src=VIP, dst=CLIENT) / TCP(sport=22, dport=9000),
        "frames_icmp_foreign",
    ),
    ("ICMP about a flow nobody has", link() / ip() / PTB / INNER, "frames_icmp_error"),
    ("ICMP with a wrong checksum", link() / ip() / ICMP(type=8, chksum=1), "frames_icmp_checksum"),
    ("ICMP of another type", link() / ip() / ICMP(type=13), "frames_icmp_other"),
    ("an ICMP fragment", link() / ip(flags="MF") / ICMP(type=8), "frames_icmp_fragment"),
    ("an echo from nobody", link() / ip(src="127.0.0.1") / ICMP(), "frames_echo_source"),
    ("an echo from a group", link() / ip(src="224.0.0.1") / ICMP(), "frames_echo_source"),
]
#: What nodes say to each other all the time, and what is told of a frame beside its kind.
OTHERWISE = ("frames_arp", "frames_nobody", "frames_no_flow", "frames_forwarded", "frames_own")


def frame_counters(lab, node="a"):
    """Counters of frames that are told apart, ARP aside."""
    counters = lab.counters(node).items()
    return {k: v for k, v in counters if k.startswith("frame") and k not in OTHERWISE}


def added(lab, before, node="a"):
    """What the counters have more than before."""
    now = frame_counters(lab, node)
    return {key: now[key] - before[key] for key in now if now[key] != before[key]}


@pytest.mark.parametrize(
    ("frame", "counter"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
def test_a_hostile_frame_adds_to_its_counter_alone(lab, frame, counter):
    settle(lab)
    before = frame_counters(lab)
    table = lab.status()["table"]
    send(lab, *[frame] * TIMES)
    wait_until("the frames", lambda: sum(added(lab, before).values()) >= TIMES, SOON)
    assert added(lab, before) == {counter: TIMES}
    assert lab.status()["table"] == table
    assert lab.counters()["frame_errors"] == 0


def settle(lab):
    """Wait until no frame of an earlier test is on its way."""

    def quiet():
        before = frame_counters(lab)
        time.sleep(0.05)
        return not added(lab, before)

    wait_until("quiet", quiet, SOON)


def test_frames_for_a_backup_are_not_scheduled(lab):
    """A node that isn't scheduler takes no frame but ARP, and its kernel drops the others."""
    before = frame_counters(lab, "b")
    tcp_before = lab.counters()["frames_tcp"]
    with Capture(lab, "client", "eth0") as capture:
        send(lab, *[link(dst="06" + B_MAC[2:]) / ip() / tcp(flags="S")] * TIMES)
        time.sleep(0.3)
    assert [f for f in capture.frames if not f.out and f.of(9000)] == []
    assert added(lab, before, "b") == {}
    assert lab.counters()["frames_tcp"] == tcp_before


def test_the_kernel_of_the_scheduler_answers_nothing(lab):
    """Ports that aren't scheduled get no reset: the frame never reaches the kernel."""
    with Capture(lab, "client", "eth0") as capture:
        send(lab, *[link() / ip() / tcp(dport=22, flags="S")] * TIMES)
        time.sleep(0.3)
    assert [f for f in capture.frames if not f.out and f.of(9000)] == []


def test_a_frame_that_a_former_scheduler_passes_on(lab):
    """From a member's MAC: scheduled once more, and never in a circle."""
    settle(lab)
    before = frame_counters(lab)
    with captures(lab, front_b=HEADERS) as seen:
        send(lab, *[link(src=B_MAC) / ip() / tcp(sport=9001)] * TIMES, part="b")
        wait_until("the frames", lambda: added(lab, before), SOON)
        settle(lab)
    assert added(lab, before) == {"frames_late": TIMES}
    forwarded = [f for f in seen["b"].of(9001) if f.out and f.packet.src == A_MAC]
    owner = lab.where(9001)["owner"]
    assert len(forwarded) == (TIMES if owner == "b" else 0)


def test_a_frame_longer_than_the_interface_allows(lab):
    """4 bytes over: what a switch lets pass because it may be a VLAN tag."""
    settle(lab)
    before = frame_counters(lab)
    frame = bytes(PLAIN / Raw(bytes(1518 - len(PLAIN))))
    lab.tell("client", "ip", "link", "set", "eth0", "mtu", "1504")
    try:
        send(lab, *[frame] * TIMES)
        wait_until("the frames", lambda: added(lab, before), SOON)
    finally:
        lab.tell("client", "ip", "link", "set", "eth0", "mtu", "1500")
    settle(lab)
    assert added(lab, before) == {"frames_oversized": TIMES}


@pytest.mark.parametrize("kind", ["in order", "overlapping"])
@pytest.mark.parametrize("node", ["a", "b"])
def test_fragments_follow_the_first_one(lab, node, kind):
    with lab.session_on(node) as session:
        port = session.port
    whole = ip(id=port) / tcp(sport=port, flags="PA") / Raw(bytes(range(256)) * 8)
    first, *later = (link() / part for part in fragment(whole, fragsize=600))
    assert later
    if kind == "overlapping":
        twice = later[0].copy()
        twice[IP].frag -= 10
        del twice[IP].chksum
        later.insert(1, twice)
    settle(lab)
    before = frame_counters(lab)
    with captures(lab, front_b=2000) as seen:
        send(lab, first, *later)
        wait_until("the fragments", lambda: sum(added(lab, before).values()) > len(later), SOON)
        settle(lab)
    assert added(lab, before) == {"frames_first_fragment": 1, "frames_later_fragment": len(later)}
    got = [f.data[12:] for f in seen["b"].frames if f.out and f.packet.src == A_MAC]
    got = [data for data in got if Ether(bytes(12) + data).haslayer(IP)]
    sent = [bytes(f)[12:] for f in (first, *later)]
    assert got == (sent if node == "b" else [])


def test_a_later_fragment_that_comes_first_is_dropped(lab):
    whole = ip(id=7) / tcp(sport=9002, flags="PA") / Raw(bytes(1600))
    first, *later = (link() / part for part in fragment(whole, fragsize=800))
    settle(lab)
    before = frame_counters(lab)
    send(lab, later[0], first, *later)
    wait_until("the fragments", lambda: sum(added(lab, before).values()) > len(later) + 1, SOON)
    assert added(lab, before) == {
        "frames_unknown_fragment": 1,
        "frames_first_fragment": 1,
        "frames_later_fragment": len(later),
    }


def test_a_path_mtu_reaches_the_node_that_sends(lab):
    """A router on the way says what fits; the node that has the connection sends no more."""
    with captures(lab, front_client=HEADERS, front_b=2000) as seen:
        with lab.session_on("b") as session:
            session.ask("/bytes/100")
            seen["client"].until("its answer", lambda frames: page_of(frames, session.port))
            inner = page_of(seen["client"].frames, session.port)[-1].packet[IP]
            # About what would come next: the kernel believes nothing about what was acknowledged.
            inner[TCP].seq += inner.len - 4 * inner.ihl - 4 * inner[TCP].dataofs
            # As a router sends it: the packet's IP header and 8 bytes.
            told = link() / ip() / ICMP(type=3, code=4, nexthopmtu=1000) / bytes(inner)[:28]
            send(lab, told)
            wait_until("its effect", lambda: "pmtu:1000" in sockets(lab, session), SOON)
            assert len(session.ask("/bytes/100000").body) == 100_000
    errors = [
        f for f in seen["b"].frames if f.out and ICMP in f.packet and f.packet[ICMP].type == 3
    ]
    assert [f.data[12:] for f in errors] == [bytes(told)[12:]]
    assert errors[0].packet[IPerror].src == VIP
    assert errors[0].packet[TCPerror].dport == session.port


def page_of(frames, port):
    """Frames to a client port that carry more than a handshake does."""
    return [f for f in list(frames) if f.size > 200 and f.of(port) == "out"]


def sockets(lab, session):
    """What the kernel of node b says of a connection."""
    return lab.tell("b", "ss", "-tinH", "dst", f"{CLIENT}:{session.port}")


def test_ping(lab):
    """The scheduler answers itself, byte for byte, whatever node would have the client."""
    request = link() / ip() / ICMP(id=7, seq=3) / Raw(b"some data, odd.")
    settle(lab)
    before = frame_counters(lab)
    with Capture(lab, "client", "eth0") as capture:
        send(lab, request)
        capture.until("an answer", lambda frames: any(replies(frames)))
    [reply] = replies(capture.frames)
    packet = reply.packet
    assert (packet.src, packet.dst) == (SCHEDULER, CLIENT_MAC)
    assert (packet[IP].src, packet[IP].dst) == (VIP, CLIENT)
    assert (packet[ICMP].id, packet[ICMP].seq) == (7, 3)
    assert packet[Raw].load.startswith(b"some data, odd.")
    fresh = Ether(reply.data)
    del fresh[IP].chksum, fresh[ICMP].chksum
    assert bytes(fresh) == reply.data
    assert added(lab, before) == {"frames_echo": 1}


def replies(frames):
    found = [f for f in frames if not f.out and ICMP in f.packet]
    return [f for f in found if f.packet[ICMP].type == 0]


# Many


def test_a_flood_fails_no_node_and_breaks_no_connection(lab):
    size = 20 * MIB
    frame = bytearray(bytes(link() / ip() / tcp(sport=0, flags="S", urgptr=0xFFFF)))
    frames = []
    for port in FLOOD_PORTS:
        # The urgent pointer, which means nothing here, keeps the checksum right.
        frame[34:36] = port.to_bytes(2, "big")
        frame[52:54] = (0xFFFF - port).to_bytes(2, "big")
        frames.append(bytes(frame))
    with lab.session_on("b") as session:
        before = lab.counters()
        for start in range(0, FLOOD, PORTION):
            send(lab, *frames[start : start + PORTION])
        session.download(size).check(size)
        now = lab.counters()
        assert session.node == "b"
    seen = now["frames_tcp"] - before["frames_tcp"]
    lost = now["frames_lost"] - before["frames_lost"]
    assert seen + lost >= FLOOD
    # Each takes its share of it, and answers.
    assert now["frames_forwarded"] - before["frames_forwarded"] > seen / 3
    assert "doesn't answer" not in lab.log("a")
    assert "fault" not in lab.log("a")
    lab.check_works()


def test_it_all_works_afterwards(lab):
    lab.check_works()
    with lab.session_on("b", tls=True) as session:
        session.download(MIB).check(MIB)
