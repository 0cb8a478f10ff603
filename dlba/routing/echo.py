"""Builds the scheduler's answer to an echo request (ping) for the VIP.

The answer goes back to the MAC the request came from, with the request's identifier, sequence
number and data; its IP header is new: no options, TTL 64, don't fragment, the request's DSCP. It is
never longer than the request (but for Ethernet's 60 bytes), so nobody gets more than they sent, and
the interface's MTU bounds it as it bounds the request.

Source: RFC 792, RFC 1122 3.2.2.6, RFC 6864 (identification 0 when nothing may be fragmented).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

__all__ = ["echo_reply"]

_ETHERNET: Final = 14
_HEADER: Final = Struct("!BBHHHBBH4s4s")
_TTL: Final = 64  # hops, the assigned numbers' default
_DONT_FRAGMENT: Final = 0x4000
_ICMP: Final = 1
_SHORTEST: Final = 60  # bytes, IEEE 802.3 without FCS


def echo_reply(frame: bytes | bytearray | memoryview, mac: bytes) -> bytes:
    """The frame that answers `frame`, sent from `mac` (6 bytes).

    `frame`: one that `frame.classify()` called ECHO; its lengths are not checked again here.
    """
    request = bytes(frame)
    start = _ETHERNET + (request[14] & 15) * 4
    end = _ETHERNET + int.from_bytes(request[16:18], "big")
    rest = request[start + 4 : end]
    message = bytes(2) + _checksum(rest) + rest
    address, vip = request[26:30], request[30:34]
    fields = (0x45, request[15] & 0xFC, _HEADER.size + len(message), 0, _DONT_FRAGMENT, _TTL, _ICMP)
    checksum = int.from_bytes(_checksum(_HEADER.pack(*fields, 0, vip, address)), "big")
    header = _HEADER.pack(*fields, checksum, vip, address)
    return (request[6:12] + mac + b"\x08\x00" + header + message).ljust(_SHORTEST, b"\0")


def _checksum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071) of `data`, whose own checksum field is zero or left out."""
    number = int.from_bytes(data, "big") << 8 * (len(data) & 1)
    # 2¹⁶ ≡ 1 modulo 65,535, so the number modulo that is the one's complement sum of its words.
    return (-number % 65535 if number else 0xFFFF).to_bytes(2, "big")
