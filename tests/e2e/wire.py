"""Frames of a lab, seen and sent: what passes an interface, and what scapy has built.

Plain AF_PACKET sockets do the reading and writing; what a frame is, scapy says. Frames that the
kernel merges on the way are seen as it has them, up to 64 KiB long.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Self

from labs import CLIENT_MAC, VIP, Lab
from parts import WAIT, wait_until
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
OUTGOING = 4  # PACKET_OUTGOING
BUFFER = 64 << 20  # bytes that may wait
LONGEST = 1 << 17
#: Bytes that hold all headers.
HEADERS = 128
#: Seconds without a frame after which all have come.
QUIET = 0.1
#: Seconds for what takes milliseconds.
SOON = 10.0
BROADCAST = "ff:ff:ff:ff:ff:ff"
#: Who asks by ARP: not the client, whose kernel asks as well.
ASKER = "203.0.113.201"


class Seen:
    """One frame. `out`: it left by the interface; `at`: time.monotonic(); `size`: whole bytes."""

    def __init__(self, at: float, out: bool, size: int, data: bytes) -> None:
        self.at = at
        self.out = out
        self.size = size
        self.data = data

    @cached_property
    def packet(self) -> Packet:
        return Ether(self.data)

    def of(self, port: int) -> str | None:
        """`in` if it is TCP from this client port to the VIP, `out` if back, else None."""
        packet = self.packet
        if TCP in packet:
            if packet[IP].dst == VIP and packet[TCP].sport == port:
                return "in"
            if packet[IP].src == VIP and packet[TCP].dport == port:
                return "out"
        return None


class Capture:
    """What passes `interface` of a part of the lab during the block; `frames` afterwards.

    `keep`: bytes of each frame that are kept.
    """

    def __init__(self, lab: Lab, part: str, interface: str, keep: int = LONGEST) -> None:
        self.frames: list[Seen] = []
        self._keep = keep
        with lab.inside(part):
            self._socket = packet_socket(interface)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        buffer = bytearray(LONGEST)
        self._socket.settimeout(QUIET)
        while True:
            # Asked first: what came before the end is read, too.
            last = self._end.is_set()
            try:
                size, address = self._socket.recvfrom_into(buffer)
            except TimeoutError:
                if last:
                    return
                continue
            data = bytes(buffer[: min(size, self._keep)])
            self.frames.append(Seen(time.monotonic(), address[2] == OUTGOING, size, data))

    def until(
        self, what: str, holds: Callable[[list[Seen]], object], seconds: float = WAIT
    ) -> None:
        """Wait for frames while it goes on."""
        wait_until(what, lambda: holds(list(self.frames)), seconds)

    def of(self, port: int) -> list[Seen]:
        """Those of one client port's TCP with the VIP."""
        return [frame for frame in self.frames if frame.of(port)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(WAIT)
        dropped = statistics(self._socket)
        self._socket.close()
        assert not self._thread.is_alive()
        assert not dropped, f"{dropped} frames were not seen: the capture says nothing"


def packet_socket(interface: str) -> socket.socket:
    """Everything that passes an interface of the namespace this thread is in."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    sock.bind((interface, ETH_P_ALL))
    return sock


def statistics(sock: socket.socket) -> int:
    """How many frames the socket has lost since it was asked last."""
    return struct.unpack("=II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]


@contextlib.contextmanager
def captures(lab: Lab, **kept: int) -> Iterator[dict[str, Capture]]:
    """Captures on ports of the switch, `front_a=HEADERS` for port front-a, by X of front-X."""
    with contextlib.ExitStack() as opened:
        made = {}
        for port, keep in kept.items():
            name = port.removeprefix("front_")
            made[name] = opened.enter_context(Capture(lab, "switch", f"front-{name}", keep))
        yield made


def send(lab: Lab, *frames: Packet | bytes, part: str = "client") -> None:
    """Send frames as they are from eth0 of a part."""
    with lab.inside(part), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind(("eth0", 0))
        for frame in frames:
            sock.send(bytes(frame))


def who_has(address: str, destination: str = BROADCAST, **fields: str) -> Packet:
    """A question who has an address, from the client's MAC but another address."""
    asked = {"op": 1, "hwsrc": CLIENT_MAC, "psrc": ASKER, "pdst": address} | fields
    return Ether(src=CLIENT_MAC, dst=destination) / ARP(**asked)


def answers(lab: Lab, question: Packet, seconds: float = 0.5) -> list[Packet]:
    """Every ARP answer that the client gets to a question within some seconds."""
    with Capture(lab, "client", "eth0") as capture:
        send(lab, question)
        time.sleep(seconds)
    got = [frame.packet for frame in capture.frames if not frame.out]
    asked = question[ARP]
    return [
        p
        for p in got
        if ARP in p and (p[ARP].op, p[ARP].psrc, p[ARP].pdst) == (2, asked.pdst, asked.psrc)
    ]
