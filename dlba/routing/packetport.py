"""Moves frames by an AF_PACKET socket, many a system call, with what offloads did to them.

`PacketPort.pump` runs for every frame: one `recvmmsg` fetches up to `BATCH` of them, each into a
slot of its own, the route is called with a view of each, 12 bytes are written in place, and one
`sendmmsg` sends those that go on. With PACKET_VNET_HDR a header of 10 bytes (see
`dlba.routing.tun`) goes along: what offloads have merged, or left without a checksum, is cut and
summed where it is sent, so that no offload of this node or of a sender's need be off, but LRO,
whose packets can't be cut again. A merged frame may be longer than the MTU. Its packets keep their
bytes but for the IP identification, where a sender gave several the same.

    offset  bytes  the slot as received        as forwarded    as handed to the TUN device
         0     10  virtio header               the same
        10     12  MAC addresses               new ones
        14     10                                              virtio header, offsets 14 less
        22      2  EtherType                   the same
        24         packet                      the same        the same

Before the socket is bound to the interface it has its filter, so it reads nothing else (protocol 0
until then).

CPU a frame for the whole loop, with classification and client table, on a veth, in ratios of one
run: 1 in these batches while 64 or more frames wait; 1.23 with one system call a frame each way;
1.18 so from a plain socket with PACKET_QDISC_BYPASS, so the header costs little; 1.06 from an
mmap'ed ring, not counting what the kernel copies before, so that a ring is not worth its slots. A
wake for a lone frame costs 1.4 of one call each way (2.5 µs more), one for four as much.

Source: routing.md "The frame path"; packet(7).
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import os
from struct import Struct
from typing import Final

from dlba.errors import DLBAError
from dlba.routing.bpf import arp_only, scheduler_filter
from dlba.routing.linkport import RECEIVE_BUFFER, SEND_BUFFER, Route, enlarge
from dlba.routing.messages import BATCH, STEP, Messages, receive, send
from dlba.routing.tun import VNET_HEADER, Tun

__all__ = ["PacketPort"]

# linux/if_packet.h, asm-generic/socket.h
_SOL_PACKET: Final = 263
_ADD_MEMBERSHIP, _DROP_MEMBERSHIP, _STATISTICS = 1, 2, 6
_VNET_HDR, _IGNORE_OUTGOING = 15, 23
_MR_UNICAST: Final = 3
_SO_ATTACH_FILTER: Final = 26
_ETH_P_ALL: Final = 3
_DONTWAIT: Final = _socket.MSG_DONTWAIT

#: Bytes of a slot: the virtio header, and 64 KiB of packet with an Ethernet header.
_SLOT: Final = 66 << 10

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
        self._incoming, self._outgoing = Messages(), Messages()
        buffer = bytearray(_SLOT * BATCH)
        at, view = ctypes.addressof(ctypes.c_char.from_buffer(buffer)), memoryview(buffer)
        #: Address and view of each slot.
        self._slots = tuple((at + n, view[n : n + _SLOT]) for n in range(0, len(buffer), _SLOT))
        for index, (at, _) in enumerate(self._slots):
            self._incoming.parts[2 * index] = at
            self._incoming.parts[2 * index + 1] = _SLOT
        #: The second byte of each slot: whether its frame is a merged one.
        self._merged = view[1::_SLOT]
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
            enlarge(self._socket, _socket.SO_RCVBUF, RECEIVE_BUFFER)
            enlarge(self._socket, _socket.SO_SNDBUF, SEND_BUFFER)
            self._socket.setblocking(False)
            self._index = _socket.if_nametoindex(interface)
            self._socket.bind((interface, _ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            raise DLBAError(f"packets: {interface}: {error.strerror or error}") from error

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
        fd, slots, parts = self._socket.fileno(), self._slots, self._outgoing.parts
        incoming, lengths = self._incoming.address, self._incoming.lengths
        failed: Exception | None = None
        read = 0
        while read < limit:
            wanted = min(limit - read, BATCH)
            count = receive(fd, incoming, wanted, _DONTWAIT, None)
            if count < 0:
                if not self._is_unread():
                    break
                read += 1
                continue
            last = 0
            sizes, flags = lengths[:count].tolist(), bytes(self._merged[:count])
            for (at, slot), size, merged in zip(slots, sizes, flags, strict=False):
                frame = slot[VNET_HEADER:size]
                try:
                    header = route(frame, merged)
                except Exception as error:  # noqa: BLE001 - raised when its neighbours are done
                    failed = failed or error
                    continue
                if header:
                    frame[:12] = header
                    parts[last] = at
                    parts[last + 1] = size
                    last += 2
                elif header is not None:
                    self._deliver(slot, size)
            if last:
                self._forward(fd, last // 2)
            read += count
            if failed is not None:
                raise failed
            if count < wanted:
                break
        return read

    def _is_unread(self) -> bool:
        """Whether a frame was there and couldn't be read; False if none waits."""
        number = ctypes.get_errno()
        if number == errno.EAGAIN:
            return False
        # A frame merged in a way that the header has no word for.
        if number != errno.EINVAL:
            raise OSError(number, os.strerror(number))
        self.unread += 1
        return True

    def _forward(self, fd: int, count: int) -> None:
        """Send the first `count` messages."""
        sent = 0
        fresh = True
        while sent < count:
            done = send(fd, self._outgoing.address + sent * STEP, count - sent, _DONTWAIT)
            if done > 0:
                sent += done
                continue
            number = ctypes.get_errno()
            if number in _GONE:
                # The news belongs to the next receive, which won't have it now.
                self.unsent += count - sent
                raise OSError(number, os.strerror(number))
            if number == errno.EINVAL and fresh:
                # The last receive's, most likely: a frame that couldn't be read ended it.
                fresh = False
                self.unread += 1
                continue
            self.unsent += 1
            sent += 1

    def _deliver(self, slot: memoryview, size: int) -> None:
        """Hand the packet in the slot to this node's own kernel."""
        flags, merged, headers, payload, start, offset = _vnet.unpack_from(slot)
        headers = max(headers - _ETHERNET, 0)
        start = max(start - _ETHERNET, 0)
        _vnet.pack_into(slot, _ETHERNET, flags, merged, headers, payload, start, offset)
        if not self._tun.write(slot[_ETHERNET:size]):
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
