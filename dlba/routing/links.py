"""Looks at network interfaces and their IPv4 addresses, and sets addresses.

An adapter, mostly for netlink by pyroute2, which is imported late: a node without an interface runs
without it. All of it concerns the calling thread's network namespace; what fails raises OSError.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final

from dlba.errors import DLBAError
from dlba.routing.needs import Address, Interface
from dlba.routing.offloads import ethtool

__all__ = ["add_address", "addresses", "bring_up", "carrier", "find", "look_up", "remove_address"]

_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFMTU: Final = 0x8921
_GLINK: Final = 0x0A  # linux/ethtool.h
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40
_ETHERNET: Final = 1  # ARPHRD_ETHER
#: Scope of an address that is nobody's source but of those who bind to it (RT_SCOPE_HOST).
_HOST: Final = 254


@contextlib.contextmanager
def _netlink() -> Iterator[Any]:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None


def find(interface: str) -> Interface | None:
    """What the kernel tells of an interface, None if there is none of this name."""
    with _netlink() as route:
        indexes = route.link_lookup(ifname=interface)
        if not indexes:
            return None
        (one,) = route.link("get", index=indexes[0])
        own = [_local(a) for a in route.get_addr(family=socket.AF_INET, index=indexes[0])]
    return Interface(
        index=one["index"],
        name=interface,
        mac=bytes.fromhex((one.get_attr("IFLA_ADDRESS") or "").replace(":", "")),
        mtu=one.get_attr("IFLA_MTU"),
        up=bool(one["flags"] & _IFF_UP),
        carrier=bool(one["flags"] & _IFF_RUNNING),
        addresses=tuple(own),
        ethernet=one["ifi_type"] == _ETHERNET,
    )


def look_up(interface: str) -> Interface:
    """What the kernel tells of an interface; DLBAError if there is none of this name."""
    found = find(interface)
    if found is None:
        raise DLBAError(f"interface: {interface}: expected a network interface, got none")
    return found


def carrier(interface: str, control: socket.socket) -> bool:
    """Whether the interface is up and its link is there; False if there is none.

    `control`: any socket. Cheap, raises nothing, and takes no descriptor: there may be none left.
    """
    flags = 0
    try:
        request = struct.pack("16s24x", interface.encode()[:15])
        flags = struct.unpack_from("16xH", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[0]
        if not flags & _IFF_UP:
            return False
        # IFF_RUNNING follows up to a second late; what the driver says of its link doesn't.
        answer = ethtool(interface, struct.pack("=II", _GLINK, 0), control)
    except OSError as error:
        return error.errno == errno.EOPNOTSUPP and bool(flags & _IFF_RUNNING)
    return bool(struct.unpack_from("=4xI", answer)[0])


def mtu(interface: str, control: socket.socket) -> int | None:
    """The interface's MTU, bytes; None if there is none of this name. As of `carrier`."""
    try:
        answer = fcntl.ioctl(control, _SIOCGIFMTU, struct.pack("16s24x", interface.encode()[:15]))
    except OSError:
        return None
    return int(struct.unpack_from("16xi", answer)[0])


def addresses() -> tuple[Address, ...]:
    """The IPv4 addresses of all interfaces."""
    with _netlink() as route:
        names = {one["index"]: one.get_attr("IFLA_IFNAME") for one in route.get_links()}
        return tuple(
            Address(
                names.get(one["index"], ""),
                _local(one),
                one["prefixlen"],
                one.get_attr("IFA_LABEL") or "",
            )
            for one in route.get_addr(family=socket.AF_INET)
        )


def _local(address: Any) -> str:
    # On point-to-point links IFA_ADDRESS is the peer's.
    return address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS")


def add_address(interface: str, address: str, label: str | None = None) -> None:
    """Give the interface the IPv4 address `/32`; fine if it has it already."""
    fields: dict[str, Any] = {"index": socket.if_nametoindex(interface), "address": address}
    if label is not None:
        fields["label"] = label
    with contextlib.suppress(FileExistsError), _netlink() as route:
        route.addr("add", prefixlen=32, scope=_HOST, **fields)


def remove_address(interface: str, address: str) -> None:
    """Take the address `/32` away; fine if it has gone already."""
    try:
        with _netlink() as route:
            index = socket.if_nametoindex(interface)
            route.addr("del", index=index, address=address, prefixlen=32)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise


def bring_up(interface: str) -> None:
    """Set the interface up."""
    with _netlink() as route:
        route.link("set", index=socket.if_nametoindex(interface), state="up")
