"""Frames built by scapy, and the addresses they are about."""

from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw
from scapy.utils import checksum

from dlba.routing.frame import Filter

VIP = "10.99.0.100"
CLIENT = "192.168.7.9"
CLIENT_NUMBER = 0xC0A80709
PORT = 51515
OWN = "02:99:00:00:00:10"
SCHEDULER = "06:99:00:00:00:10"
MEMBERS = ("02:99:00:00:00:11", "02:99:00:00:00:12")
ROUTER = "52:54:00:12:34:56"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def address(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


def rules(**changes) -> Filter:
    values = {
        "vip": address(VIP),
        "ports": {80, 443},
        "scheduler_mac": mac(SCHEDULER),
        "own_mac": mac(OWN),
        "members": map(mac, MEMBERS),
    }
    return Filter(**(values | changes))


def link(**fields) -> Ether:
    return Ether(**({"dst": SCHEDULER, "src": ROUTER} | fields))


def ip(**fields) -> IP:
    return IP(**({"src": CLIENT, "dst": VIP} | fields))


def tcp(**fields) -> TCP:
    return TCP(**({"sport": PORT, "dport": 443} | fields))


def plain(data: bytes = b"") -> bytes:
    return bytes(link() / ip() / tcp() / Raw(data))


def icmp_error(inner, message=None, **fields) -> bytes:
    """An ICMP error from a router about `inner`."""
    message = message or ICMP(type=3, code=4, nexthopmtu=1400)
    return bytes(link(**fields) / ip(src="172.16.0.1") / message / inner)


def summed(frame: bytes) -> bytes:
    """`frame`, of at least 34 bytes, with the IP header checksum put right."""
    header = max((frame[14] & 15) * 4, 20)
    words = frame[14:24] + b"\0\0" + frame[26 : 14 + header]
    return frame[:24] + checksum(words).to_bytes(2, "big") + frame[26:]


#: The beginning of a packet that an ICMP error is about.
INNER = IP(src=VIP, dst=CLIENT) / TCP(sport=443, dport=PORT)

SEEDS = (
    plain(b"some data"),
    bytes(link(src=MEMBERS[0]) / ip() / tcp()),
    bytes(link(dst=OWN) / ip() / tcp()),
    bytes(link() / ip(ihl=6, options=[b"\x01" * 4]) / tcp()),
    bytes(link() / ip(flags="MF") / tcp()),
    bytes(link() / ip(frag=9, proto=6) / Raw(bytes(30))),
    bytes(link() / ip() / ICMP() / Raw(b"odd")),
    bytes(link() / ip() / UDP()),
    icmp_error(INNER),
    bytes(link(dst="ff:ff:ff:ff:ff:ff") / ARP(pdst=VIP)),
    bytes(link() / Dot1Q(vlan=3) / ip() / tcp()),
    bytes(link() / IPv6() / tcp()),
    bytes(link(src=ROUTER) / ip() / tcp() / Raw(bytes(1460))),
)

#: Values that stand on the edges of the rules, for 1 and 2 bytes.
EDGES = st.sampled_from(
    [b"\0", b"\xff", b"\x45", b"\x46", b"\x4f", b"\x40", b"\x65", b"\x06", b"\x01", b"\x20"]
    + [
        value.to_bytes(2, "big")
        for value in (0, 1, 19, 20, 28, 39, 40, 41, 80, 443, 0x2000, 0x1FFF)
    ]
)


@st.composite
def mutated(draw):
    """A seed with a few bytes changed, most often with the header checksum put right, or cut."""
    frame = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(0, 3))):
        new = draw(st.one_of(EDGES, st.binary(min_size=1, max_size=3)))
        at = draw(st.one_of(st.integers(14, 37), st.integers(37, 80), st.integers(0, 11)))
        at = min(at, len(frame) - len(new))
        frame = frame[:at] + new + frame[at + len(new) :]
    if len(frame) >= 34 and draw(st.sampled_from([True] * 3 + [False])):
        frame = summed(frame)
    if draw(st.sampled_from([False] * 7 + [True])):
        frame = frame[: draw(st.integers(0, len(frame)))]
    return frame
