"""Asks other machines for an ICMP echo, and believes only answers to its own questions.

An adapter for one raw socket. A question goes to a node's address now and then; `on_reply` is
called with that address when the answer comes. An answer counts when its source, identifier,
sequence number and nonce are those of one of the last `OPEN` questions to that address, and once
only: nobody who doesn't see the question can make a machine seem alive. The sending side never
fails: a question that can't be sent is one that stays unanswered.

    offset  bytes  field                            offset  bytes  field
         0      1  type: 8 question, 0 answer            4      2  identifier, of this process
         1      1  code 0                                6      2  sequence number
         2      2  checksum (RFC 1071)                   8     16  nonce, a new one each time

A raw socket gets every echo reply that reaches the machine, checksums unlooked at, with the IP
header in front; its filter (raw(7), ICMP_FILTER) keeps the other types away.

Source: election.md "Heartbeat and evidence of death"; RFC 792.
"""

from __future__ import annotations

import secrets
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from dlba.errors import DLBAError

__all__ = ["Echo"]

#: Questions to one address that an answer may still be to.
OPEN: Final = 4
#: Packets read in one wake: more wait for the next, so that a flood doesn't hold up the rest.
BATCH: Final = 64
#: Bytes of a packet that are looked at: a longer one isn't an answer to ours.
_SIZE: Final = 128
_NONCE: Final = 16  # bytes

_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1  # linux/icmp.h
_REPLY: Final = 0
_REQUEST: Final = 8
_HEADER: Final = struct.Struct("!BBHHH")


@implementer(IReadDescriptor)
class Echo:
    """`on_reply(address)`: an answer has come from the address that was asked."""

    def __init__(self, reactor: Any, on_reply: Callable[[str], None]) -> None:
        """Raises DLBAError without the capability, OSError when there is no descriptor left."""
        self._reactor = reactor
        self._on_reply = on_reply
        self._id = secrets.randbelow(1 << 16)
        self._sequence = 0
        #: Address → (sequence number, nonce) of its open questions, oldest first.
        self._open: dict[str, deque[tuple[int, bytes]]] = {}
        flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            self._socket = socket.socket(socket.AF_INET, flags, socket.IPPROTO_ICMP)
        except PermissionError as error:
            raise DLBAError("echo: expected the capability CAP_NET_RAW, got none") from error
        # Bits of types that are kept away.
        wanted = struct.pack("=I", 0xFFFFFFFF & ~(1 << _REPLY))
        self._socket.setsockopt(_SOL_RAW, _ICMP_FILTER, wanted)
        reactor.addReader(self)

    def ask(self, address: str) -> None:
        """Send a question to `address`, IPv4. Without a way there, or after `close`: silence."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        nonce = secrets.token_bytes(_NONCE)
        questions = self._open.setdefault(address, deque(maxlen=OPEN))
        questions.append((self._sequence, nonce))
        try:
            self._socket.sendto(_question(self._id, self._sequence, nonce), (address, 0))
        except OSError:
            # No route, no buffer, link down: it is unanswered, and that is all that counts.
            pass

    def close(self) -> None:
        """Read no more; as good twice as once."""
        if self._socket.fileno() >= 0:
            self._reactor.removeReader(self)
            self._socket.close()
        self._open.clear()

    # ---------------------------------------------------------------- IReadDescriptor

    def fileno(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return self._socket.fileno()

    def doRead(self) -> None:
        """Packets wait; nothing that they hold raises."""
        for _ in range(BATCH):
            try:
                packet, (source, _) = self._socket.recvfrom(_SIZE)
            except BlockingIOError:
                return
            except OSError:
                continue  # an error that waited at the socket is read by this
            if self._is_answer(packet, source):
                self._on_reply(source)
                if self._socket.fileno() < 0:
                    return  # closed by that

    def connectionLost(self, reason: object = None) -> None:
        """The reactor ends."""
        self.close()

    def logPrefix(self) -> str:
        """What Twisted's log context calls us."""
        return "echo"

    def _is_answer(self, packet: bytes, source: str) -> bool:
        questions = self._open.get(source)
        if not questions:
            return False
        found = _answer(packet)
        if found is None or found[0] != self._id or found[1:] not in questions:
            return False
        questions.remove(found[1:])
        return True


def _question(identifier: int, sequence: int, nonce: bytes) -> bytes:
    """An ICMP echo request."""
    message = _HEADER.pack(_REQUEST, 0, 0, identifier, sequence) + nonce
    # 2**16 is 1 modulo 65535: the number modulo that is the one's complement sum of its words.
    checksum = -int.from_bytes(message, "big") % 65535
    return _HEADER.pack(_REQUEST, 0, checksum, identifier, sequence) + nonce


def _answer(packet: bytes) -> tuple[int, int, bytes] | None:
    """Identifier, sequence number and nonce of an IP packet with an echo reply; None for others."""
    if len(packet) < 20:
        return None
    message = packet[(packet[0] & 15) * 4 :]
    if len(message) != _HEADER.size + _NONCE or int.from_bytes(message, "big") % 65535:
        return None
    kind, code, _, identifier, sequence = _HEADER.unpack_from(message)
    if kind != _REPLY or code:
        return None
    return identifier, sequence, message[_HEADER.size :]
