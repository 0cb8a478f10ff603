"""Hands IP packets to this node's own kernel, through a TUN device.

A frame for the scheduler MAC whose node is the scheduler itself can't be sent: no switch gives a
frame back. So the IP packet goes in by a device of our own, and the kernel takes it as received
there: VIP on it or on lo, reverse-path filter 0 or 2 (`dlba.routing.settings` sees to both).

With `vnet` each packet has the 10 bytes of `struct virtio_net_hdr` (linux/virtio_net.h) in front,
in the machine's byte order, offsets from the IP header on. By it packets that were merged, or whose
checksum the sender left to a NIC, go in as they came.

    offset  bytes  field
         0      1  flags: 1 checksum from csum_start on is to be computed, 2 it is right
         1      1  gso_type: 0 one packet, else several in one
         2      2  hdr_len: bytes of all headers
         4      2  gso_size: bytes of payload a packet
         6      4  csum_start, csum_offset from there

The device is gone with the process. What the kernel sends to it is never read.

Source: routing.md "The frame path" 3; Linux Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from dlba.errors import DLBAError

__all__ = ["VNET_HEADER", "Tun"]

#: Bytes of `struct virtio_net_hdr`.
VNET_HEADER: Final = 10

_DEVICE: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
#: Of a device's name in `struct ifreq`, without the zero.
_LONGEST_NAME: Final = 15
_WORDS: Final[dict[int | None, str]] = {
    errno.EPERM: "expected the capability CAP_NET_ADMIN, got none",
    errno.EBUSY: "expected no such device, got one that another process uses (a second node?)",
    errno.EINVAL: "expected no such device, or a tun of the same kind, got another one",
}


class Tun:
    """One TUN device, as long as it is open. Somebody else gives it addresses and brings it up."""

    def __init__(self, name: str = "dlba0", vnet: bool = True) -> None:
        """Make the device `name`. Raises DLBAError that says what is missing."""
        encoded = os.fsencode(name)
        if not 0 < len(encoded) <= _LONGEST_NAME:
            raise DLBAError(f"tun: name: expected 1 to {_LONGEST_NAME} bytes, got {name!r}")
        self.name = name
        self.vnet = vnet
        #: Packets that the kernel didn't take: the device is down, or they are no IP packets.
        self.undelivered = 0
        self._fd = self._open()

    def _open(self) -> int:
        try:
            fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DLBAError(
                f"tun: {_DEVICE}: expected a device that this process may open "
                f"(kernel module tun), got {error.strerror}"
            ) from error
        flags = _IFF_TUN | _IFF_NO_PI | (_IFF_VNET_HDR if self.vnet else 0)
        try:
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", os.fsencode(self.name), flags))
        except OSError as error:
            os.close(fd)
            raise DLBAError(f"tun: {self.name}: {_WORDS.get(error.errno, str(error))}") from error
        return fd

    def renew(self) -> None:
        """Make the device again after somebody removed it. Raises DLBAError as at the start."""
        fd = self._open()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd

    def fileno(self) -> int:
        """The device's descriptor, -1 after `close`."""
        return self._fd

    def write(self, packet: bytes | bytearray | memoryview) -> bool:
        """Hand one IP packet in, behind its header if `vnet`; False: not taken, and counted."""
        try:
            os.write(self._fd, packet)
        except OSError:
            self.undelivered += 1
            return False
        return True

    def close(self) -> None:
        """Remove the device; as good twice as once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
