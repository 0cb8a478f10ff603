"""Asks on the segment who has which address, and hears the answers.

An adapter over one AF_PACKET socket that reads untagged ARP alone. Each question is sent a few
times, since frames get lost, and whatever comes within the time is taken in. What the frames say
`dlba.doctor.answers` knows; they may come from anybody and in any number.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final

from dlba.routing.bpf import arp_only

__all__ = ["ask"]

#: How often each question is sent.
ROUNDS: Final = 3
#: Questions sent in a row before answers are read: they must fit into the socket's buffer.
BURST: Final = 32
#: Frames read between two bursts; more than answers to one, and an end to any flood.
WAITING: Final = 4 * BURST

# linux/if_packet.h, linux/if_ether.h, asm-generic/socket.h
_SOL_PACKET: Final = 263
_IGNORE_OUTGOING: Final = 23
_ETH_P_ALL: Final = 3
_SO_ATTACH_FILTER: Final = 26
_GONE: Final = (errno.ENETDOWN, errno.ENODEV, errno.ENXIO)
_LONGEST: Final = 2048  # bytes of a frame that are read; ARP has 60


def ask(
    interface: str,
    questions: Sequence[bytes],
    hear: Callable[[bytes], None],
    seconds: float,
) -> None:
    """Send the frames `questions`, give every ARP frame that comes to `hear`; takes `seconds`.

    Raises OSError where there is no such interface, it is down, or CAP_NET_RAW is missing.
    """
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        program = arp_only()
        code = ctypes.create_string_buffer(program, len(program))
        option = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
        sock.setblocking(False)
        # Nothing that we, or a node here, send.
        sock.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        # All protocols and a filter: a socket of one protocol gets frames without their VLAN tag.
        sock.bind((interface, _ETH_P_ALL))
        start = time.monotonic()
        for turn in range(ROUNDS):
            for at in range(0, len(questions), BURST):
                _send(sock, questions[at : at + BURST])
                _hear(sock, hear, time.monotonic())
            _hear(sock, hear, start + (turn + 1) * seconds / ROUNDS)


def _send(sock: socket.socket, frames: Sequence[bytes]) -> None:
    for frame in frames:
        try:
            sock.send(frame)
        except OSError as error:
            if error.errno in _GONE:
                raise
            # No room now; there is another round.


def _hear(sock: socket.socket, hear: Callable[[bytes], None], until: float) -> None:
    """Take in what comes until then, and of what waits already at least `WAITING` frames."""
    count = 0
    while count < WAITING or time.monotonic() < until:
        if not select.select([sock], [], [], max(until - time.monotonic(), 0))[0]:
            return
        with contextlib.suppress(BlockingIOError):
            hear(sock.recv(_LONGEST))
        count += 1
