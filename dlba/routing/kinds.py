"""Names what a received frame can be to the scheduler: one kind a frame, one counter a kind.

Kinds before `IGNORED` are acted upon; `IGNORED` and later ones are dropped. A kind is the index of
its counter, so that counting is `counts[kind] += 1` on a list of `len(COUNTERS)` zeros. Which frame
is of which kind is decided in `dlba.routing.frame`, but for `UNKNOWN_FRAGMENT`, which takes the
place of `LATER_FRAGMENT` when `dlba.routing.fragments` doesn't know the datagram.

Source: routing.md, "The frame path".
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = ["COUNTERS", "IGNORED", "Kind"]


class Kind(IntEnum):
    """What a frame is to the scheduler."""

    TCP = 0
    LATE = 1
    FIRST_FRAGMENT = 2
    LATER_FRAGMENT = 3
    ICMP_ERROR = 4
    ECHO = 5
    ARP = 6
    LOCAL = 7
    # From here on ignored.
    RUNT = 8
    LOOPED = 9
    OWN_MAC = 10
    OTHER_MAC = 11
    FROM_MEMBER = 12
    VLAN = 13
    IPV6 = 14
    OTHER_TYPE = 15
    OVERSIZED = 16
    IP_VERSION = 17
    IP_LENGTH = 18
    TRUNCATED = 19
    IP_CHECKSUM = 20
    OTHER_ADDRESS = 21
    OTHER_PROTOCOL = 22
    OTHER_PORT = 23
    TCP_SHORT = 24
    ICMP_FRAGMENT = 25
    ICMP_SHORT = 26
    ICMP_CHECKSUM = 27
    ICMP_FOREIGN = 28
    ICMP_OTHER = 29
    ECHO_SOURCE = 30
    UNKNOWN_FRAGMENT = 31


#: The first kind that is ignored: `kind >= IGNORED` is dropped.
IGNORED: Final = Kind.RUNT

_MEANING: Final[dict[Kind, str]] = {
    Kind.TCP: "clients' TCP frames for the VIP's ports",
    Kind.LATE: "the same, passed on by a former scheduler",
    Kind.FIRST_FRAGMENT: "first fragments of such packets: they teach the others' way",
    Kind.LATER_FRAGMENT: "later fragments of a packet whose first one was seen",
    Kind.ICMP_ERROR: "ICMP errors about a flow of the VIP's ports",
    Kind.ECHO: "echo requests to the VIP, answered by the scheduler",
    Kind.ARP: "ARP frames",
    Kind.LOCAL: "other ports and protocols, for this node's kernel (`other: local`)",
    Kind.RUNT: "frames too short for the headers they begin",
    Kind.LOOPED: "frames with this node's own MAC as source: the network sends them back",
    Kind.OWN_MAC: "frames for this node's own MAC: its kernel has them",
    Kind.OTHER_MAC: "frames for other MACs, broadcast and multicast among them",
    Kind.FROM_MEMBER: "frames from other nodes that must not be scheduled (again) here",
    Kind.VLAN: "VLAN-tagged frames: DLBA has to run on the VLAN's own interface",
    Kind.IPV6: "IPv6 packets",
    Kind.OTHER_TYPE: "frames that are neither IP nor ARP",
    Kind.OVERSIZED: "frames longer than the MTU allows: merged by receive offloads",
    Kind.IP_VERSION: "IPv4 frames whose packet says another version",
    Kind.IP_LENGTH: "packets whose header is under 20 bytes, or longer than the packet",
    Kind.TRUNCATED: "packets longer than their frame",
    Kind.IP_CHECKSUM: "packets with a wrong header checksum",
    Kind.OTHER_ADDRESS: "packets for another address than the VIP",
    Kind.OTHER_PROTOCOL: "packets for the VIP that are neither TCP nor ICMP",
    Kind.OTHER_PORT: "TCP packets for a port of the VIP that isn't scheduled",
    Kind.TCP_SHORT: "TCP packets, or first fragments, without a whole TCP header",
    Kind.ICMP_FRAGMENT: "fragments of ICMP messages",
    Kind.ICMP_SHORT: "ICMP messages under 8 bytes, errors without ports in their inner packet",
    Kind.ICMP_CHECKSUM: "ICMP messages with a wrong checksum",
    Kind.ICMP_FOREIGN: "ICMP errors about a packet that isn't of the VIP's scheduled ports",
    Kind.ICMP_OTHER: "ICMP messages that are neither errors nor echo requests",
    Kind.ECHO_SOURCE: "echo requests from an address that no host can have",
    Kind.UNKNOWN_FRAGMENT: "later fragments whose first one wasn't seen, or too long ago",
}

#: Counter name → what one more of it means, in the order of the kinds.
COUNTERS: Final[dict[str, str]] = {f"frames_{kind.name.lower()}": _MEANING[kind] for kind in Kind}
