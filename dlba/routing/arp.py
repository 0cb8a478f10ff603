"""Reads and builds the ARP frames that concern the VIP.

Ethernet and IPv4 only. All frames that are built have the Ethernet source equal to the sender
hardware address, else switches learn nothing of the VIP's MAC and flood everything sent to it.

    offset  bytes  field                          offset  bytes  field
         0      6  Ethernet destination               22      6  sender MAC (SHA)
         6      6  Ethernet source                    28      4  sender address (SPA)
        12      2  EtherType 0x0806                   32      6  target MAC (THA)
        14      6  hardware 1, protocol 0x0800,       38      4  target address (TPA)
                   lengths 6 and 4                    42         end; zeros up to 60
        20      2  operation: 1 request, 2 reply

Forms (VIP as sender *and* target: an announcement):

    form                   destination  op  SPA  THA   TPA
    who-has                broadcast     1  own  0     asked
    probe (RFC 5227 2.1)   broadcast     1  0    0     asked
    answer                 the asker     2  VIP  asker asker's (0 for a probe)
    announcement, request  broadcast     1  VIP  0     VIP
    announcement, reply    broadcast     2  VIP  SHA   VIP

With THA ff:ff:ff:ff:ff:ff Linux ignores the reply form within a second of the last change; with
THA = SHA it doesn't (measured). Source: RFC 826, RFC 5227; routing.md "ARP".
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from dlba.addresses import is_unicast

__all__ = ["BROADCAST", "REPLY", "REQUEST", "ArpPacket", "announcements", "answer", "build"]
__all__ += ["claimant", "parse", "probe", "who_has"]

REQUEST: Final = 1
REPLY: Final = 2
BROADCAST: Final = b"\xff" * 6
_ZERO_MAC: Final = bytes(6)
_ZERO_ADDRESS: Final = bytes(4)

_PACKET: Final = Struct("!6s6s8sH6s4s6s4s")
#: EtherType ARP, hardware Ethernet, protocol IPv4, address lengths.
_FIXED: Final = bytes.fromhex("0806 0001 0800 06 04")
#: Bytes of the shortest frame without FCS (IEEE 802.3).
_SHORTEST: Final = 60


class ArpPacket(NamedTuple):
    """One ARP frame. MACs are 6 bytes, addresses 4; `operation` is REQUEST or REPLY."""

    destination: bytes
    source: bytes
    operation: int
    sender_mac: bytes
    sender: bytes
    target_mac: bytes
    target: bytes


def parse(frame: bytes | bytearray | memoryview) -> ArpPacket | None:
    """The ARP packet in `frame`, None if it isn't a request or reply for Ethernet and IPv4."""
    if len(frame) < _PACKET.size:
        return None
    destination, source, fixed, operation, *rest = _PACKET.unpack_from(frame)
    if fixed != _FIXED or operation not in (REQUEST, REPLY):
        return None
    return ArpPacket(destination, source, operation, *rest)


def build(packet: ArpPacket) -> bytes:
    """The frame of `packet`, zeros up to 60 bytes."""
    destination, source, *rest = packet
    return _PACKET.pack(destination, source, _FIXED, *rest).ljust(_SHORTEST, b"\0")


def who_has(asked: bytes, mac: bytes, address: bytes, to: bytes = BROADCAST) -> bytes:
    """The question for `asked` from a node with `mac` and `address`, to everyone or to one MAC."""
    return build(ArpPacket(to, mac, REQUEST, mac, address, _ZERO_MAC, asked))


def probe(asked: bytes, mac: bytes) -> bytes:
    """The question whether anyone holds `asked`, which fills no one's table (RFC 5227)."""
    return who_has(asked, mac, _ZERO_ADDRESS)


def answer(packet: ArpPacket, vip: bytes, mac: bytes) -> bytes | None:
    """The reply to `packet` that says `vip` is at `mac`, None if it doesn't ask for `vip`.

    Broadcast and unicast questions and probes are answered; an announcement is no question. The
    answer goes to the sender MAC, if that can be a station's.
    """
    if packet.operation != REQUEST or packet.target != vip or packet.sender == vip:
        return None
    asker = packet.sender_mac
    if not is_unicast(asker) or asker == mac:
        return None
    return build(ArpPacket(asker, mac, REPLY, mac, vip, asker, packet.sender))


def announcements(vip: bytes, mac: bytes) -> tuple[bytes, bytes]:
    """Both forms that tell everyone that `vip` is at `mac`: systems differ in which they heed."""
    return (
        build(ArpPacket(BROADCAST, mac, REQUEST, mac, vip, _ZERO_MAC, vip)),
        build(ArpPacket(BROADCAST, mac, REPLY, mac, vip, mac, vip)),
    )


def claimant(packet: ArpPacket, vip: bytes) -> bytes | None:
    """The MAC that `packet` says `vip` is at, None if it says nothing about that."""
    return packet.sender_mac if packet.sender == vip else None
