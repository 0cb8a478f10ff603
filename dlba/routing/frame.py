"""Decides what a received Ethernet frame is to the scheduler, and gives it new MAC addresses.

`classify()` looks at a frame (Ethernet II without FCS) under a `Filter` and returns a plain tuple
`(kind, address, port)`; see `dlba.routing.kinds`. It never raises, whatever the bytes are. It runs
for every frame: the plain case, a client's TCP frame without IP options or fragments, is one
`unpack_from`, comparisons of ints, and no object but the result (about 0.4 µs). Any other frame
goes through `judge()`, which asks in order and names the reason; on plain frames both agree.

    offset  bytes  field                         offset  bytes  field
         0      6  destination MAC                   18      2  identification
         6      6  source MAC                        20      2  flags (3 bits), fragment offset
        12      2  EtherType                         22      2  TTL, protocol
        14      1  version, header words (IHL)       24      2  header checksum
        15      1  type of service                   26      8  source, destination address
        16      2  total length                 14+4×IHL     4  source port, destination port

Checked: that the frame is for the scheduler MAC and the VIP, every length up to the ports, and the
IP header checksum, as RFC 1812 5.2.2 asks of a forwarder: a flow key from broken bytes would take
some other client's bucket along. In 32-bit words it costs under 0.1 µs (2¹⁶ ≡ 1 modulo 65,535, so a
sum of wider words modulo 65,535 is the one's complement sum). ICMP checksums are checked, since
answers and ways are taken from them. Not checked: TCP's checksum, which senders on the same machine
leave to a NIC that never comes; TCP's fields, the source address and the TTL of what is forwarded.
The node's kernel does all that, and the TTL stays as it is: this is a hop of the link layer.

Frames from members: a node answers from its own MAC, so that a frame from a member to the scheduler
MAC was passed on by a former scheduler. The scheduler takes it, anyone else drops it: two nodes
that take each other for the scheduler can't send a frame in a circle. With one MAC for both
(`own_mac`) such a frame is scheduled already and is the kernel's.

Limits: with `other_local`, later fragments of TCP packets for other ports stay unknown. A tap that
keeps VLAN tags beside the frame (AF_PACKET does) must drop tagged frames in its own filter.

Source: routing.md "The frame path"; RFC 791, 792, 1812; RFC 1858 for the whole TCP header in a
first fragment.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final, TypeAlias

import attrs

from dlba.routing.kinds import Kind

__all__ = [
    "Filter",
    "Frame",
    "Seen",
    "classify",
    "fragment_key",
    "judge",
    "link_header",
    "rewrite",
    "rewritten",
]

Frame: TypeAlias = bytes | bytearray | memoryview
#: Kind; client's address and port where the kind has them, else 0.
Seen: TypeAlias = tuple[Kind, int, int]

ETHERNET_HEADER: Final = 14  # bytes
IP_HEADER: Final = 20  # bytes, without options
TCP_HEADER: Final = 20  # bytes, without options
ICMP_HEADER: Final = 8  # bytes
ARP_FRAME: Final = 42  # bytes, without padding
_PLAIN: Final = ETHERNET_HEADER + IP_HEADER + TCP_HEADER

IPV4: Final = 0x0800
ARP: Final = 0x0806
IPV6: Final = 0x86DD
VLAN: Final = frozenset((0x8100, 0x88A8, 0x9100))  # 802.1Q, 802.1ad, its forerunner

ICMP: Final = 1
TCP: Final = 6
ECHO_REQUEST: Final = 8
#: Unreachable (path MTU among it), time exceeded, parameter problem. Not source quench: RFC 6633.
ICMP_ERRORS: Final = frozenset((3, 11, 12))

MORE_FRAGMENTS: Final = 0x2000
FRAGMENT_OFFSET: Final = 0x1FFF
_FRAGMENTED: Final = MORE_FRAGMENTS | FRAGMENT_OFFSET

# Both MACs as 16 and 32 bits; the IP header in bytes and 16 bits, but for its addresses, and both
# ports: small numbers, whose sums and comparisons cost less than those of 32 bits.
_fields = Struct("!HIHIHBBHHHHHIIHH").unpack_from
_link = Struct("!HIHIH").unpack_from
_words = Struct("!IIIII").unpack_from
_port_pair = Struct("!HH").unpack_from
_two_macs = Struct("6s6s").pack

_TCP: Final = Kind.TCP


def _number(mac: bytes) -> int:
    return int.from_bytes(mac, "big")


def _vip(value: int | bytes) -> int:
    number = value if isinstance(value, int) else int.from_bytes(value, "big")
    if not 0 <= number < 1 << 32 or (isinstance(value, bytes) and len(value) != 4):
        raise ValueError(f"vip: expected an IPv4 address of 32 bits or 4 bytes, got {value!r}")
    return number


def _ports(ports: Iterable[int]) -> frozenset[int]:
    return frozenset(ports)


def _macs(macs: Iterable[bytes]) -> frozenset[bytes]:
    return frozenset(macs)


def _unicast(_: object, attribute: attrs.Attribute[bytes], value: bytes) -> None:
    if len(value) != 6 or value[0] & 1 or not any(value):
        raise ValueError(
            f"{attribute.name}: expected a unicast MAC address of 6 bytes, got {value.hex(':')!r}"
        )


@attrs.frozen
class Filter:
    """What a node schedules: addresses, ports and MACs, prepared for `classify()`.

    `vip`: IPv4 address, an int or 4 bytes. `ports`: TCP ports of the VIP. MACs: 6 bytes each;
    `scheduler_mac` equals `own_mac` in own-MAC mode. `members`: the other nodes' MACs.
    `scheduler`: whether this node is scheduler now. `other_local`: other ports and protocols of
    the VIP go to this node's kernel. `mtu`: the interface's, bytes. Raises ValueError.
    """

    vip: int = attrs.field(converter=_vip)
    ports: frozenset[int] = attrs.field(converter=_ports)
    scheduler_mac: bytes = attrs.field(validator=_unicast)
    own_mac: bytes = attrs.field(validator=_unicast)
    members: frozenset[bytes] = attrs.field(
        converter=_macs, validator=attrs.validators.deep_iterable(_unicast)
    )
    scheduler: bool = True
    other_local: bool = False
    mtu: int = attrs.field(default=1500, validator=attrs.validators.ge(68))  # RFC 791's least

    #: The scheduler MAC's first 16 and last 32 bits.
    mac_high: int = attrs.field(init=False, repr=False, eq=False)
    mac_low: int = attrs.field(init=False, repr=False, eq=False)
    #: Last 32 bits of all sources that aren't clients: such frames go the long way.
    not_clients: frozenset[int] = attrs.field(init=False, repr=False, eq=False)
    #: Bytes of the longest frame.
    longest: int = attrs.field(init=False, repr=False, eq=False)

    @mac_high.default
    def _mac_high(self) -> int:
        return _number(self.scheduler_mac[:2])

    @mac_low.default
    def _mac_low(self) -> int:
        return _number(self.scheduler_mac[2:])

    @not_clients.default
    def _not_clients(self) -> frozenset[int]:
        macs = (*self.members, self.own_mac, self.scheduler_mac)
        return frozenset(_number(mac[2:]) for mac in macs)

    @longest.default
    def _longest(self) -> int:
        return self.mtu + ETHERNET_HEADER


def classify(frame: Frame, rules: Filter) -> Seen:
    """What `frame` is: `(kind, client address, client port)`; never raises.

    Address and port are those of the flow for TCP, LATE, FIRST_FRAGMENT and ICMP_ERROR (there the
    inner packet's); LATER_FRAGMENT and ECHO have the source address and port 0; others 0 and 0.
    """
    length = len(frame)
    if _PLAIN <= length <= rules.longest:
        # fmt: off
        (
            high, low, _, source_low, kind,
            version, service, total, identification, fragment, life_protocol, checksum,
            source, destination, client_port, port,
        ) = _fields(frame)
        # fmt: on
        if (
            kind == IPV4
            and version == 0x45
            and destination == rules.vip
            and life_protocol & 0xFF == TCP
            and port in rules.ports
            and low == rules.mac_low
            and high == rules.mac_high
            and not fragment & _FRAGMENTED
            and 40 <= total <= length - 14
            and source_low not in rules.not_clients
        ):
            words = 0x4500 + service + total + identification + fragment + life_protocol
            if not (words + checksum + source + destination) % 65535:
                return _TCP, source, client_port
    return judge(frame, rules)


def judge(frame: Frame, rules: Filter) -> Seen:
    """The same as `classify()`, asked step by step; for the frames that aren't plain."""
    length = len(frame)
    if length < ETHERNET_HEADER:
        return Kind.RUNT, 0, 0
    ether_type = _link(frame)[4]
    destination, source = bytes(frame[:6]), bytes(frame[6:12])
    if source in (rules.own_mac, rules.scheduler_mac):
        return Kind.LOOPED, 0, 0
    if ether_type == ARP:
        return (Kind.ARP if length >= ARP_FRAME else Kind.RUNT), 0, 0
    if destination != rules.scheduler_mac:
        return (Kind.OWN_MAC if destination == rules.own_mac else Kind.OTHER_MAC), 0, 0
    late = source in rules.members
    if late and (not rules.scheduler or rules.scheduler_mac == rules.own_mac):
        return Kind.FROM_MEMBER, 0, 0
    if ether_type != IPV4:
        if ether_type in VLAN:
            return Kind.VLAN, 0, 0
        return (Kind.IPV6 if ether_type == IPV6 else Kind.OTHER_TYPE), 0, 0
    if length > rules.longest:
        return Kind.OVERSIZED, 0, 0
    if length < ETHERNET_HEADER + IP_HEADER:
        return Kind.RUNT, 0, 0
    return _packet(frame, rules, late)


def _packet(frame: Frame, rules: Filter, late: bool) -> Seen:
    """An IPv4 packet for the scheduler MAC, at least 20 bytes of it."""
    w0, w1, w2, source, destination = _words(frame, ETHERNET_HEADER)
    header, total = (w0 >> 24 & 15) * 4, w0 & 0xFFFF
    if w0 >> 28 != 4:
        return Kind.IP_VERSION, 0, 0
    if header < IP_HEADER or total < header:
        return Kind.IP_LENGTH, 0, 0
    if total > len(frame) - ETHERNET_HEADER:
        return Kind.TRUNCATED, 0, 0
    start = ETHERNET_HEADER + header
    if int.from_bytes(frame[ETHERNET_HEADER:start], "big") % 65535:
        return Kind.IP_CHECKSUM, 0, 0
    if destination != rules.vip:
        return Kind.OTHER_ADDRESS, 0, 0
    protocol = w2 >> 16 & 0xFF
    if protocol == ICMP:
        if w1 & (MORE_FRAGMENTS | FRAGMENT_OFFSET):
            return Kind.ICMP_FRAGMENT, 0, 0
        return _icmp(frame[start : ETHERNET_HEADER + total], source, rules)
    if protocol != TCP:
        return (Kind.LOCAL if rules.other_local else Kind.OTHER_PROTOCOL), 0, 0
    if w1 & FRAGMENT_OFFSET:
        return Kind.LATER_FRAGMENT, source, 0
    if total < header + TCP_HEADER:
        return Kind.TCP_SHORT, 0, 0
    client_port, port = _port_pair(frame, start)
    if port not in rules.ports:
        return (Kind.LOCAL if rules.other_local else Kind.OTHER_PORT), 0, 0
    if w1 & MORE_FRAGMENTS:
        return Kind.FIRST_FRAGMENT, source, client_port
    return (Kind.LATE if late else Kind.TCP), source, client_port


def _icmp(message: Frame, source: int, rules: Filter) -> Seen:
    """A whole ICMP message to the VIP from `source`."""
    if len(message) < ICMP_HEADER:
        return Kind.ICMP_SHORT, 0, 0
    # An odd length counts as if a zero byte followed: 256 times as much, but no multiple of 65,535
    # becomes one or ceases to be one by that.
    if int.from_bytes(message, "big") % 65535:
        return Kind.ICMP_CHECKSUM, 0, 0
    if message[0] == ECHO_REQUEST:
        # "This network", loopback, multicast and beyond, ourselves: nobody to answer (RFC 1122).
        first = source >> 24
        if first in (0, 127) or first >= 224 or source == rules.vip:
            return Kind.ECHO_SOURCE, 0, 0
        return Kind.ECHO, source, 0
    if message[0] not in ICMP_ERRORS:
        return (Kind.LOCAL if rules.other_local else Kind.ICMP_OTHER), 0, 0
    return _error(message[ICMP_HEADER:], rules)


def _error(inner: Frame, rules: Filter) -> Seen:
    """The beginning of a packet that caused an ICMP error: one of ours to a client?"""
    if len(inner) < IP_HEADER:
        return Kind.ICMP_SHORT, 0, 0
    w0, w1, w2, source, client = _words(inner)
    header = (w0 >> 24 & 15) * 4
    ours = (
        w0 >> 28 == 4
        and header >= IP_HEADER
        and w2 >> 16 & 0xFF == TCP
        and not w1 & FRAGMENT_OFFSET
        and source == rules.vip
    )
    if ours:
        if len(inner) < header + 4:
            return Kind.ICMP_SHORT, 0, 0
        port, client_port = _port_pair(inner, header)
        if port in rules.ports:
            return Kind.ICMP_ERROR, client, client_port
    return (Kind.LOCAL if rules.other_local else Kind.ICMP_FOREIGN), 0, 0


def fragment_key(frame: Frame) -> int:
    """What all fragments of one packet share (RFC 791), as one int.

    Source and destination address, identification, protocol: 32, 32, 16 and 8 bits from the left.
    `frame`: one that `classify()` called FIRST_FRAGMENT or LATER_FRAGMENT.
    """
    _, w1, w2, source, destination = _words(frame, ETHERNET_HEADER)
    key: int = source << 56 | destination << 24 | w1 >> 16 << 8 | w2 >> 16 & 0xFF
    return key


def link_header(destination: bytes, source: bytes) -> bytes:
    """The first 12 bytes of a frame from `source` to `destination`; ValueError if not 6 bytes each.

    A tap keeps one for each node and writes it with `frame[:12] = header`.
    """
    if len(destination) != 6 or len(source) != 6:
        raise ValueError(
            f"MAC addresses: expected 6 bytes each, got {len(destination)} and {len(source)}"
        )
    return _two_macs(destination, source)


def rewrite(frame: bytearray | memoryview, destination: bytes, source: bytes) -> None:
    """Give `frame` new MAC addresses in place; from byte 12 on it stays byte for byte.

    `frame`: at least 12 bytes, writable. Raises ValueError as `link_header()` does.
    """
    frame[:12] = link_header(destination, source)


def rewritten(frame: Frame, destination: bytes, source: bytes) -> bytes:
    """A copy of `frame` with new MAC addresses. Raises ValueError as `link_header()` does."""
    return b"".join((link_header(destination, source), frame[12:]))
