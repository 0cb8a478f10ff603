"""Moves frames between one interface and the rules that say where each goes.

`LinkPort` is what the node knows of a port; `PacketPort` here does it with an AF_PACKET socket,
`dlba.routing.pcapport` with libpcap. What a frame is, and who gets it, the `Route` says.

`PacketPort.pump` runs for every frame: one `recv_into` into the same buffer, one call of the route
on a view of the frame, 12 bytes written in place, one `send`. With PACKET_VNET_HDR a header of 10
bytes (see `dlba.routing.tun`) goes along: what offloads have merged, or left without a checksum, is
cut and summed where it is sent, so that no offload of this node or of a sender's need be off, but
LRO, whose packets can't be cut again. A merged frame may be longer than the MTU. Its packets keep
their bytes but for the IP identification, where a sender gave several the same.

    offset  bytes  the buffer as received      as forwarded    as handed to the TUN device
         0     10  virtio header               the same
        10     12  MAC addresses               new ones
        14     10                                              virtio header, offsets 14 less
        22      2  EtherType                   the same
        24         packet                      the same        the same

Before the socket is bound to the interface it has its filter, so it reads nothing else (protocol 0
until then). Measured on a veth, in ratios of one run: with the header and through the qdisc 1.04 of
the CPU a frame of a plain socket with PACKET_QDISC_BYPASS (0.98 with the views below); an mmap'ed
ring in place of `recv_into`, 0.95 of what is here: not worth a second way for long frames.

Source: routing.md "The frame path"; packet(7).
"""

from __future__ import annotations

import _socket
import ctypes
import errno
from collections.abc import Callable
from struct import Struct
from typing import Final, Protocol, TypeAlias

from dlba.errors import DLBAError
from dlba.routing.bpf import VLAN_MARK, arp_only, scheduler_filter
from dlba.routing.tun import VNET_HEADER, Tun

__all__ = ["VLAN_MARK", "LinkPort", "PacketPort", "Route", "open_port"]

#: (frame without FCS, writable; whether the kernel merged several packets into it) → 12 bytes, the
#: new destination and source MAC: rewrite and send; empty: to this node's own kernel; None:
#: nothing more to do. Of a frame of another VLAN come `VLAN_MARK` bytes.
Route: TypeAlias = Callable[[memoryview, bool], bytes | None]


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
        interface is down or gone: close the port, and open another one when it is back.
        """

    def send(self, frame: bytes) -> bool:
        """Send a frame of our own, Ethernet without FCS; False: not taken, and counted."""

    def dropped(self) -> int:
        """Frames lost for want of socket buffer since the start."""

    def close(self) -> None:
        """Let go of the interface; as good twice as once."""


# linux/if_packet.h, asm-generic/socket.h
_SOL_PACKET: Final = 263
_ADD_MEMBERSHIP, _DROP_MEMBERSHIP, _STATISTICS = 1, 2, 6
_VNET_HDR, _IGNORE_OUTGOING = 15, 23
_MR_UNICAST: Final = 3
_SO_ATTACH_FILTER, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 26, 32, 33
_ETH_P_ALL: Final = 3

#: Bytes of frames that wait for a busy process: some 10,000 small ones.
RECEIVE_BUFFER: Final = 8 << 20
#: Bytes of frames that wait for the interface: more than one `pump` leaves.
SEND_BUFFER: Final = 4 << 20
#: Bytes of the longest frame: merged ones have 64 KiB of packet and headers.
_LONGEST: Final = 1 << 17
#: Bytes of frames whose views are kept: those within any common MTU. 1.5 MB at most.
_COMMON: Final = 2048

_GONE: Final = (errno.ENETDOWN, errno.ENODEV, errno.ENXIO)
_ETHERNET: Final = 14
_NO_OFFLOADS: Final = bytes(VNET_HEADER)

_vnet = Struct("=BBHHHH")
_fprog = Struct("@HP").pack  # struct sock_fprog
_mreq = Struct("=iHH8s").pack  # struct packet_mreq
_statistics = Struct("=II")  # struct tpacket_stats


class PacketPort:
    """Frames by an AF_PACKET socket; merged ones too.

    `vip`: 4 bytes, MACs: 6 bytes each, equal in own-MAC mode. `tun`: with `vnet`.
    """

    name = "packet"

    def __init__(
        self, interface: str, vip: bytes, own_mac: bytes, scheduler_mac: bytes, tun: Tun
    ) -> None:
        """Raises DLBAError that says what is missing. On an interface that is down, `pump` says."""
        if not tun.vnet:
            raise ValueError("packet port: expected a TUN device with vnet, got one without")
        self._vip, self._own_mac, self._scheduler_mac = vip, own_mac, scheduler_mac
        self._tun = tun
        self._buffer = bytearray(_LONGEST)
        self._view = memoryview(self._buffer)
        #: Bytes received → views of all of it and of the frame.
        self._views: dict[int, tuple[memoryview, memoryview]] = {}
        self._dropped = 0
        self._member = False
        self.unsent = self.undelivered = self.unread = 0
        try:
            self._socket = _socket.socket(_socket.AF_PACKET, _socket.SOCK_RAW, 0)
        except PermissionError as error:
            raise DLBAError("packets: expected the capability CAP_NET_RAW, got none") from error
        try:
            self._attach(arp_only())
            self._socket.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
            self._socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            self._enlarge(_SO_RCVBUFFORCE, _socket.SO_RCVBUF, RECEIVE_BUFFER)
            self._enlarge(_SO_SNDBUFFORCE, _socket.SO_SNDBUF, SEND_BUFFER)
            self._socket.setblocking(False)
            self._index = _socket.if_nametoindex(interface)
            self._socket.bind((interface, _ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            raise DLBAError(f"packets: {interface}: {error.strerror or error}") from error

    def _enlarge(self, force: int, option: int, size: int) -> None:
        """A buffer of `size` bytes; without CAP_NET_ADMIN as much as the system allows."""
        try:
            self._socket.setsockopt(_socket.SOL_SOCKET, force, size)
        except PermissionError:
            self._socket.setsockopt(_socket.SOL_SOCKET, option, size)

    def _attach(self, program: bytes) -> None:
        """Filter by `program` from now on, in place of the one before."""
        code = ctypes.create_string_buffer(program, len(program))
        option = _fprog(len(program) // 8, ctypes.addressof(code))
        self._socket.setsockopt(_socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)

    def fileno(self) -> int:
        return self._socket.fileno()

    def schedule(self, active: bool, arp: bool = True) -> None:
        if active:
            self._attach(scheduler_filter(self._vip, self._scheduler_mac, self._own_mac, arp))
        # With its own MAC alone the interface has it already.
        if active != self._member and self._scheduler_mac != self._own_mac:
            request = _mreq(self._index, _MR_UNICAST, len(self._scheduler_mac), self._scheduler_mac)
            try:
                option = _ADD_MEMBERSHIP if active else _DROP_MEMBERSHIP
                self._socket.setsockopt(_SOL_PACKET, option, request)
            except OSError:
                # It goes with the interface.
                if active:
                    raise
            self._member = active
        if not active:
            self._attach(arp_only())

    def pump(self, route: Route, limit: int) -> int:
        buffer = self._buffer
        receive = self._socket.recv_into
        send = self._socket.send
        views = self._views
        for read in range(limit):
            try:
                size = receive(buffer)
            except BlockingIOError:
                return read
            except OSError as error:
                # A frame merged in a way that the header has no word for.
                if error.errno != errno.EINVAL:
                    raise
                self.unread += 1
                continue
            try:
                whole, frame = views[size]
            except KeyError:
                whole, frame = self._views_of(size)
            header = route(frame, buffer[1] != 0)
            if header:
                buffer[10:22] = header
                try:
                    send(whole)
                except OSError as error:
                    self.unsent += 1
                    # The send took the news that belongs to the next receive.
                    if error.errno in _GONE:
                        raise
            elif header is not None:
                self._deliver(size)
        return limit

    def _views_of(self, size: int) -> tuple[memoryview, memoryview]:
        """Views of all that was received, and of the frame; to make them costs 0.15 µs."""
        views = self._view[:size], self._view[VNET_HEADER:size]
        if size <= _COMMON:
            self._views[size] = views
        return views

    def _deliver(self, size: int) -> None:
        """Hand the packet in the buffer to this node's own kernel."""
        flags, merged, headers, payload, start, offset = _vnet.unpack_from(self._buffer)
        headers = max(headers - _ETHERNET, 0)
        start = max(start - _ETHERNET, 0)
        _vnet.pack_into(self._buffer, _ETHERNET, flags, merged, headers, payload, start, offset)
        if not self._tun.write(self._view[_ETHERNET:size]):
            self.undelivered += 1

    def send(self, frame: bytes) -> bool:
        try:
            self._socket.send(_NO_OFFLOADS + frame)
        except OSError:
            self.unsent += 1
            return False
        return True

    def dropped(self) -> int:
        if self._socket.fileno() >= 0:
            # Reading sets the kernel's numbers to 0.
            numbers = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, _statistics.size)
            self._dropped += _statistics.unpack(numbers)[1]
        return self._dropped

    def close(self) -> None:
        self._socket.close()


def open_port(
    packets: str, interface: str, vip: bytes, own_mac: bytes, scheduler_mac: bytes, tun: Tun
) -> LinkPort:
    """A port of the kind `packets`: "packet", "pcap", or "auto" for the faster one.

    Raises DLBAError that says what is missing. The faster one is "packet", see `pcapport`.
    """
    if packets == "pcap":
        from dlba.routing.pcapport import PcapPort

        return PcapPort(interface, vip, own_mac, scheduler_mac, tun)
    return PacketPort(interface, vip, own_mac, scheduler_mac, tun)
