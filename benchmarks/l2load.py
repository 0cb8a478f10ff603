"""Sends frames as fast as it can, or at a rate, by sendmmsg: the client of l2.py.

A program of its own; it runs in the client's namespace until its standard input ends. Each line
there is one load, a JSON object:

    {"to": "06:…", "vip": "198.18.0.101", "size": 66, "seconds": 1.5, "rate": 0, "frames": 1000000}

`rate`: frames a second, 0: as many as go; a load ends after `seconds` or `frames`, whichever comes
first. It answers `ready` when it begins to send, and at the end a line of JSON: `sent`, `refused`
(sendmmsg calls that sent nothing) and `seconds`. Nothing is allocated while it sends.
"""

from __future__ import annotations

import ctypes
import json
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

# As a script, only this folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.l2plan import INTERFACE, frames

__all__ = ["Batch", "load", "packet_socket"]

#: The load is bounded whatever is asked.
MAXIMUM_SECONDS: Final = 60.0
MAXIMUM_FRAMES: Final = 100_000_000
#: Frames of one call at full speed: the clock is read about every 0.2 ms.
FLOOD: Final = 256
#: Frames of one call at a rate, and seconds between two looks at the clock.
STEADY: Final = 16
PAUSE: Final = 0.0002

_SOL_PACKET: Final = 263
_QDISC_BYPASS: Final = 20  # linux/if_packet.h
_SO_SNDBUFFORCE: Final = 32
_SEND_BUFFER: Final = 4 << 20


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Head(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("head", _Head), ("sent", ctypes.c_uint))


_sendmmsg: Final = ctypes.CDLL(None, use_errno=True).sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


class Batch:
    """Frames laid out in memory for sendmmsg; they go round and round."""

    def __init__(self, laid_out: Sequence[bytes]) -> None:
        self._count = len(laid_out)
        self._next = 0
        self._bytes = ctypes.create_string_buffer(b"".join(laid_out))
        self._vectors = (_Vector * self._count)()
        self._messages = (_Message * self._count)()
        at = ctypes.addressof(self._bytes)
        for vector, message, frame in zip(self._vectors, self._messages, laid_out, strict=True):
            vector.base, vector.length = at, len(frame)
            message.head.vectors = ctypes.pointer(vector)
            message.head.vector_count = 1
            at += len(frame)

    def send(self, descriptor: int, count: int) -> int:
        """Send the next `count` frames, fewer at the end of a round; how many went."""
        count = min(count, self._count - self._next)
        at = ctypes.addressof(self._messages) + self._next * ctypes.sizeof(_Message)
        sent: int = _sendmmsg(descriptor, at, count, 0)
        # A frame that was refused isn't tried again: the load is what it is.
        self._next = (self._next + max(sent, 1)) % self._count
        return max(sent, 0)


def packet_socket() -> socket.socket:
    """A socket that sends frames by the interface, past its queue, and receives none."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    found.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)
    found.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
    found.bind((INTERFACE, 0))
    return found


def load(
    batch: Batch, descriptor: int, seconds: float, rate: float, count: int
) -> dict[str, float]:
    """Send for `seconds` or until `count` frames went; what became of it.

    `rate`: frames a second, 0: as many as go. A rate that can't be kept is caught up with.
    """
    clock, sleep = time.perf_counter, time.sleep
    count = min(count, MAXIMUM_FRAMES)
    begin = clock()
    end = begin + min(seconds, MAXIMUM_SECONDS)
    sent = refused = 0
    while (now := clock()) < end and sent < count:
        due = min(FLOOD if not rate else int((now - begin) * rate) - sent, count - sent)
        if due <= 0:
            sleep(PAUSE)
            continue
        went = batch.send(descriptor, min(due, STEADY if rate else FLOOD))
        sent += went
        refused += not went
    return {"sent": sent, "refused": refused, "seconds": clock() - begin}


def main() -> None:
    """Take loads from standard input until it ends."""
    batches: dict[tuple[Any, ...], Batch] = {}
    with packet_socket() as opened:
        for line in sys.stdin:
            order = json.loads(line)
            key = (order["to"], order["vip"], order["size"])
            if key not in batches:
                to = bytes.fromhex(order["to"].replace(":", ""))
                batches[key] = Batch(frames(to, order["vip"], order["size"]))
            print("ready", flush=True)
            rest = (order["seconds"], order["rate"], order["frames"])
            print(json.dumps(load(batches[key], opened.fileno(), *rest)), flush=True)


if __name__ == "__main__":
    main()
