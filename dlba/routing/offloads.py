"""Reads and switches the offloads of an interface, by ethtool's ioctl.

An adapter. Offloads have names, and each kernel numbers them as it likes, so the names are read
first. Layouts (linux/ethtool.h), all of u32 in the machine's own order but for `mask` (u64):

    0x37 GSSET_INFO  command, 0, mask of string sets, one count for each that is known
    0x1b GSTRINGS    command, string set, count, 32 bytes a name
    0x3a GFEATURES   command, blocks, each: available, requested, active, never changed
    0x3b SFEATURES   command, blocks, each: valid, requested

A block holds 32 features, the lowest bit first.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from collections.abc import Iterable
from typing import Final

from dlba.routing.needs import Feature

__all__ = ["ethtool", "read_features", "switch_feature"]

_SIOCETHTOOL: Final = 0x8946
_GSSET_INFO, _GSTRINGS, _GFEATURES, _SFEATURES = 0x37, 0x1B, 0x3A, 0x3B
_FEATURES: Final = 4  # the string set of their names
_NAME: Final = 32  # bytes
_BITS: Final = 32


def read_features(interface: str, names: Iterable[str]) -> dict[str, Feature]:
    """The offloads of these names; those that the kernel doesn't know are left out.

    Raises OSError: ENODEV if there is no such interface.
    """
    numbers = _numbers(interface)
    blocks = -(-len(numbers) // _BITS)
    answer = ethtool(interface, struct.pack("=II", _GFEATURES, blocks) + bytes(16 * blocks))
    found = {}
    for name in names:
        if name in numbers:
            block, bit = divmod(numbers[name], _BITS)
            available, requested, active, fixed = struct.unpack_from("=4I", answer, 8 + 16 * block)
            mask = 1 << bit
            found[name] = Feature(
                active=bool(active & mask),
                requested=bool(requested & mask),
                changeable=bool(available & ~fixed & mask),
            )
    return found


def switch_feature(interface: str, name: str, on: bool) -> None:
    """Ask for the offload, or for none. Raises OSError.

    The driver may do otherwise without an error: read it again.
    """
    numbers = _numbers(interface)
    blocks = -(-len(numbers) // _BITS)
    block, bit = divmod(numbers[name], _BITS)
    request = bytearray(struct.pack("=II", _SFEATURES, blocks) + bytes(8 * blocks))
    struct.pack_into("=II", request, 8 + 8 * block, 1 << bit, on << bit)
    ethtool(interface, bytes(request))


def _numbers(interface: str) -> dict[str, int]:
    """The number of each feature by its name."""
    answer = ethtool(interface, struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _FEATURES, 0))
    mask, count = struct.unpack_from("=QI", answer, 8)
    if not mask:
        return {}
    answer = ethtool(
        interface, struct.pack("=III", _GSTRINGS, _FEATURES, count) + bytes(_NAME * count)
    )
    names = (answer[12 + _NAME * i : 12 + _NAME * (i + 1)] for i in range(count))
    return {name.rstrip(b"\0").decode("ascii", "replace"): i for i, name in enumerate(names)}


def ethtool(interface: str, request: bytes, control: socket.socket | None = None) -> bytes:
    """The kernel's answer, as long as `request` and in its place; both begin with the command.

    `control`: any socket, None: one for this question. Raises OSError: ENODEV if there is no such
    interface, EOPNOTSUPP where it can't tell.
    """
    if control is None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            return ethtool(interface, request, control)
    buffer = ctypes.create_string_buffer(request, len(request))
    argument = struct.pack("16sP16x", interface.encode()[:15], ctypes.addressof(buffer))
    fcntl.ioctl(control, _SIOCETHTOOL, argument)
    return buffer.raw
