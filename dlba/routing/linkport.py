"""Names what a node wants of a port: one interface's frames, in and out.

`dlba.routing.packetport` does it with an AF_PACKET socket, `dlba.routing.pcapport` with libpcap.
What a frame is, and who gets it, the `Route` says. Source: routing.md "The frame path" 5.
"""

from __future__ import annotations

import _socket
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from dlba.routing.tun import Tun

__all__ = ["LinkPort", "Route", "enlarge", "open_port"]

#: Option → the one that isn't bounded by the system's settings (asm-generic/socket.h).
_FORCE: Final = {_socket.SO_SNDBUF: 32, _socket.SO_RCVBUF: 33}
#: Bytes of frames that wait for a busy process: some 10,000 small ones.
RECEIVE_BUFFER: Final = 8 << 20
#: Bytes of frames that wait for the interface: more than one `pump` leaves.
SEND_BUFFER: Final = 4 << 20

#: (frame without FCS, writable; not 0 if the kernel merged several packets into it) → 12 bytes, the
#: new destination and source MAC: rewrite and send; empty: to this node's own kernel; None:
#: nothing more to do. Of a frame of another VLAN come `bpf.VLAN_MARK` bytes. The view lasts as long
#: as the call.
Route: TypeAlias = Callable[[memoryview, int], bytes | None]


class LinkPort(Protocol):
    """One interface's frames, in and out. It reads ARP alone until `schedule(True)`."""

    #: "packet" or "pcap", for people.
    name: str
    #: Frames that the kernel did not take.
    unsent: int
    #: Frames for this node that the TUN device did not take.
    undelivered: int
    #: Frames that were there and could not be read.
    unread: int

    def fileno(self) -> int:
        """Readable when frames wait, or when the interface is gone."""

    def schedule(self, active: bool, arp: bool = True) -> None:
        """Active: read frames for the scheduler MAC, and ARP unless another port does; else ARP.

        What waits already is read as before. Raises OSError.
        """

    def pump(self, route: Route, limit: int) -> int:
        """Read up to `limit` frames, do with each what `route` says; how many were read.

        Never blocks, never raises for a frame. Raises OSError (ENETDOWN, ENODEV, ENXIO) when the
        interface is down or gone: close the port, and open another one when it is back. What
        `route` raises comes out; of the frames that were fetched along none is lost by that.
        """

    def send(self, frame: bytes) -> bool:
        """Send a frame of our own, Ethernet without FCS; False: not taken, and counted."""

    def dropped(self) -> int:
        """Frames lost for want of socket buffer since the start."""

    def close(self) -> None:
        """Let go of the interface; as good twice as once."""


def enlarge(sock: _socket.socket, option: int, size: int) -> None:
    """Give `sock` a buffer of `size` bytes, SO_RCVBUF or SO_SNDBUF by `option`.

    Without CAP_NET_ADMIN it gets as much as the system allows everybody.
    """
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _FORCE[option], size)
    except PermissionError:
        sock.setsockopt(_socket.SOL_SOCKET, option, size)


def open_port(
    packets: str, interface: str, vip: bytes, own_mac: bytes, scheduler_mac: bytes, tun: Tun
) -> LinkPort:
    """A port of the kind `packets`: "packet", "pcap", or "auto" for the faster one.

    Raises DLBAError that says what is missing. The faster one is "packet", see `pcapport`.
    """
    if packets == "pcap":
        from dlba.routing.pcapport import PcapPort

        return PcapPort(interface, vip, own_mac, scheduler_mac, tun)
    from dlba.routing.packetport import PacketPort

    return PacketPort(interface, vip, own_mac, scheduler_mac, tun)
