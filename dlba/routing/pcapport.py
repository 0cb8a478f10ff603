"""Moves frames between one interface and the rules by libpcap, through scapy's socket.

The one place of scapy; it is imported when a port is opened. scapy opens the capture and owns it;
frames are read and written by libpcap's own functions on its handle, since scapy's `recv_raw` makes
a list of numbers of every frame. Frames are plain: no header tells of merged packets or of missing
checksums, so offloads that merge have to be off here, and checksum offload at senders on the same
machine.

What scapy leaves out is set while it activates the capture:
- immediate mode, else a frame waits for others up to 100 ms;
- a snapshot length just over the MTU: each slot of the ring has that size, and scapy's 64 KiB leave
  room for 32 frames. A longer frame comes cut, and too long for the MTU all the same;
- a buffer of `RECEIVE_BUFFER` bytes.

The filter is that of `dlba.routing.bpf`. libpcap puts a VLAN tag back into the frame: of
one of another VLAN come the MAC addresses and the tag, one with a priority alone comes whole, but
as tagged. A frame that libpcap hands out is gone with the next one.

CPU a frame for the whole loop, with classification and client table, on a veth, in ratios to the
packet port of one run: 1.5 (1.4 for frames of 1,400 bytes), not counting what the kernel copies
before; with scapy's own methods 2.2 (8.6); with libpcap's callbacks no less. So `auto` is the
packet port.

Source: routing.md "The frame path" 5; pcap(3PCAP).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from ctypes.util import find_library
from typing import Any, Final

from dlba.errors import DLBAError
from dlba.routing.bpf import arp_only, scheduler_filter
from dlba.routing.linkport import RECEIVE_BUFFER, SEND_BUFFER, Route, enlarge
from dlba.routing.tun import VNET_HEADER, Tun

__all__ = ["PcapPort"]

_ETHERNET: Final = 14
#: Bytes over the MTU that are read: the headers of a tagged frame, and enough to be too long.
_OVER_MTU: Final = 32
_SIOCGIFFLAGS, _SIOCGIFMTU = 0x8913, 0x8921  # linux/sockios.h
_IFF_UP: Final = 1
_NAME: Final = 16  # bytes of the name in struct ifreq
_D_IN: Final = 1  # PCAP_D_IN, pcap/pcap.h
_WRITABLE: Final = 0x200  # PyBUF_WRITE, CPython's pybuffer.h
_NO_OFFLOADS: Final = bytes(VNET_HEADER)

_statistics = struct.Struct("=III")  # struct pcap_stat
_program = struct.Struct("@IP").pack  # struct bpf_program


class PcapPort:
    """Frames by libpcap, none of them merged.

    `vip`: 4 bytes, MACs: 6 bytes each, equal in own-MAC mode; else the interface is promiscuous as
    long as the port is open. `tun`: of either kind.
    """

    name = "pcap"

    def __init__(
        self, interface: str, vip: bytes, own_mac: bytes, scheduler_mac: bytes, tun: Tun
    ) -> None:
        """Raises DLBAError that says what is missing; the interface has to be up."""
        self._vip, self._own_mac, self._scheduler_mac = vip, own_mac, scheduler_mac
        self._tun = tun
        self._in_front = _NO_OFFLOADS if tun.vnet else b""
        self._request = _ifreq(interface)
        self._dropped = 0
        self.unsent = self.undelivered = self.unread = 0
        self._pcap = _libpcap()
        try:
            self._capture = _open(self._pcap, interface, own_mac != scheduler_mac)
        except (OSError, ImportError) as error:
            raise DLBAError(f"packets: {interface}: {error}") from error
        wrapper = self._capture.pcap_fd
        #: The pcap_t; None after `close`.
        self._handle = ctypes.cast(wrapper.pcap, ctypes.c_void_p).value
        #: Where libpcap puts the addresses of a frame's `struct pcap_pkthdr` and bytes.
        self._header, self._data = type(wrapper.header)(), ctypes.c_void_p()
        try:
            self._filter(arp_only())
            self._checked(self._pcap.pcap_setdirection(self._handle, _D_IN))
            self._checked(self._pcap.pcap_setnonblock(self._handle, 1, bytes(256)))
            with socket.socket(fileno=os.dup(self.fileno())) as same:
                enlarge(same, socket.SO_SNDBUF, SEND_BUFFER)
        except OSError as error:
            self.close()
            raise DLBAError(f"packets: {interface}: {error}") from error

    def _checked(self, result: int) -> None:
        """Raise what libpcap says if `result` is an error."""
        if result < 0:
            raise OSError(errno.ENETDOWN, self._pcap.pcap_geterr(self._handle).decode())

    def _filter(self, program: bytes) -> None:
        """Filter by `program` from now on, in place of the one before."""
        code = ctypes.create_string_buffer(program, len(program))
        whole = _program(len(program) // 8, ctypes.addressof(code))
        self._checked(self._pcap.pcap_setfilter(self._handle, whole))

    def _look(self) -> None:
        """Woken for nothing: libpcap takes the news of an interface that is down, and goes on."""
        request = fcntl.ioctl(self.fileno(), _SIOCGIFFLAGS, self._request)
        if not struct.unpack_from("=H", request, _NAME)[0] & _IFF_UP:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))

    def fileno(self) -> int:
        return -1 if self._handle is None else self._capture.fileno()

    def schedule(self, active: bool, arp: bool = True) -> None:
        if active:
            self._filter(scheduler_filter(self._vip, self._scheduler_mac, self._own_mac, arp))
        else:
            self._filter(arp_only())

    def pump(self, route: Route, limit: int) -> int:
        handle = self._handle
        if handle is None:
            raise OSError(errno.EBADF, "the port is closed")
        next_frame, inject, view = self._pcap.pcap_next_ex, self._pcap.pcap_inject, _view
        header, data = self._header, self._data
        header_at, data_at = ctypes.byref(header), ctypes.byref(data)
        for read in range(limit):
            found = next_frame(handle, header_at, data_at)
            if found <= 0:
                self._checked(found)
                if not read:
                    self._look()
                return read
            at, size = data.value, header.contents.caplen
            frame = view(at, size, _WRITABLE)
            answer = route(frame, False)
            if answer:
                frame[:12] = answer
                if inject(handle, at, size) < 0:
                    self.unsent += 1
            elif answer is not None:
                if not self._tun.write(self._in_front + frame[_ETHERNET:]):
                    self.undelivered += 1
        return limit

    def send(self, frame: bytes) -> bool:
        if self._handle is None or self._pcap.pcap_inject(self._handle, frame, len(frame)) < 0:
            self.unsent += 1
            return False
        return True

    def dropped(self) -> int:
        if self._handle is not None:
            numbers = ctypes.create_string_buffer(_statistics.size)
            if self._pcap.pcap_stats(self._handle, numbers) == 0:
                self._dropped = _statistics.unpack(numbers)[1]
        return self._dropped

    def close(self) -> None:
        if self._handle is not None:
            self._handle = None
            self._capture.close()


def _libpcap() -> Any:
    """The functions of libpcap that scapy doesn't bind, or not as they are needed here."""
    name = find_library("pcap")
    if name is None:
        raise DLBAError("packets: pcap: expected libpcap (Debian package libpcap0.8), got none")
    # Nothing here waits, so the interpreter need not be let go.
    library = ctypes.PyDLL(name)
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for function, arguments in (
        ("pcap_set_immediate_mode", (pointer, number)),
        ("pcap_set_snaplen", (pointer, number)),
        ("pcap_set_buffer_size", (pointer, number)),
        ("pcap_setdirection", (pointer, number)),
        ("pcap_setnonblock", (pointer, number, pointer)),
        ("pcap_setfilter", (pointer, pointer)),
        ("pcap_next_ex", (pointer, pointer, pointer)),
        ("pcap_inject", (pointer, pointer, ctypes.c_size_t)),
        ("pcap_stats", (pointer, pointer)),
        ("pcap_geterr", (pointer,)),
    ):
        getattr(library, function).argtypes = arguments
    library.pcap_geterr.restype = ctypes.c_char_p
    return library


_view: Any = ctypes.PyDLL(None).PyMemoryView_FromMemory
_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_view.restype = ctypes.py_object


def _ifreq(interface: str) -> bytes:
    """A `struct ifreq` that asks about `interface`."""
    return struct.pack(f"{_NAME}s24x", os.fsencode(interface))


def _open(library: Any, interface: str, promiscuous: bool) -> Any:
    """scapy's socket on `interface`, with what scapy leaves out. Raises OSError, ImportError."""
    from scapy.config import conf

    if not conf.use_pcap:
        conf.logLevel = 40  # errors; it warns of interfaces that aren't its business
        conf.use_pcap = True
    from scapy.arch.libpcap import L2pcapSocket
    from scapy.libs import winpcapy

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = fcntl.ioctl(sock, _SIOCGIFMTU, _ifreq(interface))
        mtu = struct.unpack_from("=i", request, _NAME)[0]
    activate = winpcapy.pcap_activate

    def prepare(handle: Any) -> int:
        at = ctypes.cast(handle, ctypes.c_void_p)
        library.pcap_set_immediate_mode(at, 1)
        library.pcap_set_snaplen(at, mtu + _OVER_MTU)
        library.pcap_set_buffer_size(at, RECEIVE_BUFFER)
        result: int = activate(handle)
        return result

    winpcapy.pcap_activate = prepare  # type: ignore[assignment]
    try:
        return L2pcapSocket(iface=interface, promisc=promiscuous, nofilter=1)
    finally:
        winpcapy.pcap_activate = activate
