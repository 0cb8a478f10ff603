"""Makes the kernel's settings what direct return needs, and puts them back.

An adapter; what must change, and what can't be mended, `dlba.routing.needs` says. The former values
are on disk (`kernel.json` in the state folder, with fsync) before the first one changes, so that
the next start can put back what a killed process left. A file of another boot or another network
namespace says nothing about this one and is dropped.

A value is put back only where it still is what was set: what the operator changed meanwhile stays.

Source: routing.md "The frame path" 4.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
from twisted.logger import Logger

from dlba.errors import DLBAError
from dlba.routing import needs
from dlba.routing.needs import LABEL, TUN, Address, Change, Interface, Plan
from dlba.routing.offloads import read_features, switch_feature
from dlba.routing.sysctls import read_all, read_sysctl, unwritable, write_sysctl

__all__ = ["FILE", "KernelSettings", "addresses", "carrier", "look_up"]

#: In the state folder.
FILE: Final = "kernel.json"

_SIOCGIFFLAGS: Final = 0x8913
_SIOCETHTOOL: Final = 0x8946
_GLINK: Final = 0x0A  # linux/ethtool.h
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40
_ETHERNET: Final = 1  # ARPHRD_ETHER
_CAP_NET_ADMIN: Final = 12
_CAP_NET_RAW: Final = 13


@contextlib.contextmanager
def _netlink() -> Iterator[Any]:
    # Late: a node without an interface doesn't need it.
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as link:
            yield link
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None


def addresses() -> list[Address]:
    """The IPv4 addresses of this network namespace. Raises OSError."""
    with _netlink() as link:
        names = {one["index"]: one.get_attr("IFLA_IFNAME") for one in link.get_links()}
        return [
            Address(
                names.get(one["index"], ""),
                # The peer's address stands in IFA_ADDRESS on point-to-point links.
                one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS"),
                one["prefixlen"],
                one.get_attr("IFA_LABEL") or "",
            )
            for one in link.get_addr(family=socket.AF_INET)
        ]


def look_up(interface: str) -> Interface:
    """What the kernel tells of an interface. Raises OSError, or DLBAError if there is none."""
    with _netlink() as link:
        indexes = link.link_lookup(ifname=interface)
        if not indexes:
            raise DLBAError(f"interface: {interface}: expected a network interface, got none")
        (one,) = link.get_links(indexes[0])
        own = link.get_addr(family=socket.AF_INET, index=indexes[0])
    mac = one.get_attr("IFLA_ADDRESS") or ""
    return Interface(
        index=one["index"],
        name=interface,
        mac=bytes.fromhex(mac.replace(":", "")),
        mtu=one.get_attr("IFLA_MTU"),
        up=bool(one["flags"] & _IFF_UP),
        carrier=bool(one["flags"] & _IFF_RUNNING),
        addresses=tuple(a.get_attr("IFA_LOCAL") or a.get_attr("IFA_ADDRESS") for a in own),
        ethernet=one["ifi_type"] == _ETHERNET,
    )


def carrier(interface: str) -> bool:
    """Whether the interface is up and its link is there; False if there is none."""
    name = interface.encode()[:15]
    # IFF_RUNNING follows up to a second late; what the driver says of its link doesn't.
    asked = ctypes.create_string_buffer(struct.pack("=II", _GLINK, 0), 8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            answer = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16s16x", name))
            flags = struct.unpack_from("16xH", answer)[0]
            if not flags & _IFF_UP:
                return False
            fcntl.ioctl(
                control, _SIOCETHTOOL, struct.pack("16sP16x", name, ctypes.addressof(asked))
            )
        except OSError as error:
            return error.errno == errno.EOPNOTSUPP and bool(flags & _IFF_RUNNING)
    return bool(struct.unpack_from("=4xI", asked)[0])


class KernelSettings:
    """`vip`, `address`: IPv4 addresses as text; `own_mac`: the configured one, 6 bytes.

    `merging`: the port copes with merged frames, so that only LRO is switched off.
    """

    _log = Logger()

    def __init__(
        self, state: Path, interface: str, vip: str, own_mac: bytes, address: str, merging: bool
    ) -> None:
        self._file = state / FILE
        self._interface = interface
        self._vip = vip
        self._own_mac = own_mac
        self._address = address
        self._merging = merging
        self._made: list[Change] = []

    def recover(self) -> None:
        """Put back what a killed predecessor left. A file that makes no sense is only logged."""
        try:
            text = self._file.read_text("utf-8")
        except FileNotFoundError:
            return
        try:
            left = json.loads(text)
            ours = left["boot"] == _boot() and left["namespace"] == _namespace()
            self._made = [Change(**fields) for fields in left["changes"]] if ours else []
        except (ValueError, KeyError, TypeError) as error:
            self._made = []
            self._log.warn(
                "{file}: expected what a former process changed, got {error!r}: not put back",
                file=self._file,
                error=error,
            )
        self.undo()

    def check(self) -> Plan:
        """What `apply` would change now. Raises DLBAError with all that is missing, or OSError."""
        plan = self._plan()
        if plan.faults:
            raise DLBAError("\n".join(("this machine isn't ready:", *plan.faults)))
        return plan

    def apply(self) -> None:
        """Make the settings; the TUN device's come later, by `tun_up`.

        Once more, after the interface was gone, it makes what is missing then. Raises DLBAError
        with all that is missing, or OSError; nothing has changed then.
        """
        plan = self.check()
        before = list(self._made)
        fresh = [change for change in plan.changes if change not in before]
        if fresh:
            self._save([*before, *fresh])
        try:
            for change in plan.changes:
                if change not in before:
                    self._made.append(change)
                _write(change, change.wanted)
        except BaseException:
            self._keep([*before, *self._put_back(self._made[len(before) :])])
            self._made = before
            raise

    def tun_up(self, name: str) -> None:
        """Give the TUN device `name` the VIP, and bring it up. Raises OSError.

        Nothing of it is to be put back: the device ends with the process.
        """
        with _netlink() as link:
            (index,) = link.link_lookup(ifname=name)
            link.addr("add", index=index, address=self._vip, prefixlen=32)
            link.link("set", index=index, state="up")
        plan = needs.rp_filter_plan(name, read_all(needs.sysctls_of(name)))
        for change in plan.changes:
            write_sysctl(change.device, change.key, change.wanted)

    def undo(self) -> None:
        """Put everything back, as far as it goes; as good twice as once."""
        made, self._made = self._made, []
        self._keep(self._put_back(made))

    def _keep(self, changes: list[Change]) -> None:
        """What is still to be put back, by this process or the next one."""
        try:
            if changes:
                self._save(changes)
            else:
                self._file.unlink(missing_ok=True)
        except OSError as error:
            self._log.warn("{file}: {error}", file=self._file, error=error.strerror or error)

    def _put_back(self, changes: list[Change]) -> list[Change]:
        """The last one first; gives those that could not be, after telling of them."""
        left: list[Change] = []
        for change in reversed(changes):
            try:
                if _read(change) == change.wanted:
                    _write(change, change.former)
            except OSError as error:
                left.insert(0, change)
                self._log.warn(
                    "{what}: expected {former} again, got: {error}",
                    what=needs.shown(change),
                    former=change.former,
                    error=error.strerror or error,
                )
        return left

    # ---------------------------------------------------------------- what must change

    def _plan(self) -> Plan:
        faults = _missing()
        try:
            found: Interface | None = look_up(self._interface)
        except DLBAError:
            found = None
        faults += needs.interface_faults(self._interface, found, self._own_mac, self._address)
        plan = Plan()
        if found is not None:
            names = needs.sysctls_of(self._interface)
            plan += needs.sysctl_plan(self._interface, read_all(names))
            features = read_features(self._interface, needs.feature_names(self._merging))
            plan += needs.feature_plan(self._interface, features, self._merging)
        # Last, and first to go: by then, and until then, no kernel answers ARP for it.
        plan += needs.address_plan(self._vip, addresses(), TUN)
        if any(change.kind == "sysctl" for change in plan.changes):
            why = unwritable()
            if why is not None:
                wanted = ", ".join(
                    f"{needs.shown(change)}={change.wanted}"
                    for change in plan.changes
                    if change.kind == "sysctl"
                )
                faults.append(f"sysctls: expected {wanted} or to be able to set them, got: {why}")
        return Plan(faults=tuple(faults)) + plan

    def _save(self, changes: list[Change]) -> None:
        """On the disk, whole or not at all, before anything changes. Raises OSError."""
        text = json.dumps(
            {
                "boot": _boot(),
                "namespace": _namespace(),
                "changes": [attrs.asdict(change) for change in changes],
            },
            indent=1,
        )
        new = self._file.with_name(FILE + ".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(new, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._file)
        folder = os.open(self._file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# ---------------------------------------------------------------- one setting


def _read(change: Change) -> int | None:
    """The value now, None if what has it isn't there (any more)."""
    if change.kind == "sysctl":
        return read_sysctl(change.device, change.key)
    if change.kind == "feature":
        try:
            feature = read_features(change.device, [change.key]).get(change.key)
        except OSError:
            return None
        return None if feature is None else int(feature.active or feature.requested)
    # Only what has our label is ours.
    return int(any(one.text == change.key and one.label == LABEL for one in addresses()))


def _write(change: Change, value: int) -> None:
    """Make it `value`. Raises OSError."""
    if change.kind == "sysctl":
        write_sysctl(change.device, change.key, value)
    elif change.kind == "feature":
        switch_feature(change.device, change.key, bool(value))
    else:
        _write_address(change, bool(value))


def _write_address(change: Change, there: bool) -> None:
    with _netlink() as link:
        (index,) = link.link_lookup(ifname=change.device)
        command: Callable[..., Any] = link.addr
        try:
            command(
                "add" if there else "del",
                index=index,
                address=change.key,
                prefixlen=32,
                **({"label": LABEL} if there else {}),
            )
        except Exception as error:
            # Left there with our label by a killed node, or gone already.
            if getattr(error, "code", None) not in ((17,) if there else (99,)):
                raise


def _missing() -> list[str]:
    """Capabilities that aren't there, in words."""
    effective = 0
    with open("/proc/thread-self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("CapEff:"):
                effective = int(line.split()[1], 16)
    names = {"CAP_NET_ADMIN": _CAP_NET_ADMIN, "CAP_NET_RAW": _CAP_NET_RAW}
    return [
        f"capabilities: expected {name}, got none (root, or the unit's AmbientCapabilities)"
        for name, bit in names.items()
        if not effective >> bit & 1
    ]


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _namespace() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino
