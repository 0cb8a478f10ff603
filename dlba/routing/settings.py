"""Makes the kernel's settings what direct return needs, and puts the former ones back.

An adapter; what must change, and what can't be mended, `dlba.routing.needs` says. What was there
before is on the disk before the first change (`dlba.routing.former`), so that the next start can
put back what a killed process left. A value goes back only where it still is what was set: what the
operator changed meanwhile stays, as does a VIP on lo that was there before.

Order: sysctls come before the VIP, else the kernel would answer ARP for it in between; they go
back after it. It is `all.arp_ignore`, not the interface's own, because a second interface on the
same segment must be silent as well.

Source: routing.md "The frame path" 4.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from twisted.logger import Logger

from dlba.errors import DLBAError
from dlba.routing import guard, needs
from dlba.routing.former import FILE, FormerSettings
from dlba.routing.links import add_address, addresses, bring_up, find, remove_address
from dlba.routing.needs import LABEL, TUN, Change, Plan, shown
from dlba.routing.offloads import read_features, switch_feature
from dlba.routing.sysctls import read_all, read_sysctl, silence_ipv6, unwritable, write_sysctl

__all__ = ["FILE", "KernelSettings", "capabilities", "missing_privileges", "no_tun"]

#: Bits of linux/capability.h, and what a node must be capable of.
_CAPABILITIES: Final = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
_NEEDED: Final = ("CAP_NET_ADMIN", "CAP_NET_RAW")
_TUN_FILE: Final = "/dev/net/tun"


class KernelSettings:
    """`vip`, `address`: IPv4 addresses as text; `own_mac`: the configured one, 6 bytes.

    `state`: the state folder, made already. `merging`: the port copes with merged frames, so that
    only LRO is switched off. `guarded`: own-MAC mode, which needs nft. `warn`: is told what can't
    be put back, a sentence each; the log by default.
    """

    _log = Logger()

    def __init__(
        self,
        state: Path,
        interface: str,
        vip: str,
        own_mac: bytes,
        address: str,
        merging: bool,
        guarded: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._former = FormerSettings(state)
        self._interface = interface
        self._vip = vip
        self._own_mac = own_mac
        self._address = address
        self._merging = merging
        self._guarded = guarded
        self._warn = self._tell if warn is None else warn
        self._made: list[Change] = []

    def recover(self) -> None:
        """Put back what a killed predecessor left. Raises OSError.

        Its drop rule is removed as well, if the interface was another one then. A file that makes
        no sense is told and set aside.
        """
        try:
            left = self._former.read()
        except DLBAError as error:
            aside = self._former.set_aside()
            self._warn(f"{error}: nothing is put back; it is kept as {aside.name}")
            return
        if left is None:
            self._former.remove()
            return
        interface, changes = left
        if interface != self._interface:
            guard.Guard(interface, bytes(4), ()).remove()
        self._keep(self._put_back(changes))

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
            self._former.write(self._interface, [*before, *fresh])
        try:
            for change in plan.changes:
                if change not in before:
                    self._made.append(change)
                _make(change)
        except BaseException:
            self._keep([*before, *self._put_back(self._made[len(before) :])])
            self._made = before
            raise

    def tun_up(self, name: str) -> None:
        """Give the TUN device `name` the VIP, and bring it up. Raises OSError or DLBAError.

        Nothing of it is to be put back: the device ends with the process.
        """
        silence_ipv6(name)
        for change in needs.rp_filter_plan(name, read_all(needs.sysctls_of(name))).changes:
            _make(change)
        # Reverse-path filter 2 takes nothing from a device without an address.
        add_address(name, self._vip)
        bring_up(name)

    def undo(self) -> None:
        """Put everything back, as far as it goes; as good twice as once."""
        made, self._made = self._made, []
        if made:
            self._keep(self._put_back(made))

    def _plan(self) -> Plan:
        found = find(self._interface)
        faults = missing_privileges()
        faults += needs.interface_faults(self._interface, found, self._own_mac, self._address)
        without_nft = guard.missing() if self._guarded else None
        if without_nft is not None:
            faults.append(without_nft)
        plan = Plan()
        if found is not None:
            plan += needs.sysctl_plan(self._interface, read_all(needs.sysctls_of(self._interface)))
            why = unwritable() if plan.changes else None
            if why is not None:
                wanted = ", ".join(f"{shown(one)}={one.wanted}" for one in plan.changes)
                faults.append(f"sysctls: expected {wanted} or to be able to set them, got: {why}")
            features = read_features(self._interface, needs.feature_names(self._merging))
            plan += needs.feature_plan(self._interface, features, self._merging)
        # Last, and first to go: by then, and until then, no kernel answers ARP for it.
        return Plan(faults=tuple(faults)) + plan + needs.address_plan(self._vip, addresses(), TUN)

    def _put_back(self, changes: Iterable[Change]) -> list[Change]:
        """The last one first; gives those that could not be, after telling of them."""
        left: list[Change] = []
        for change in reversed(list(changes)):
            try:
                if _read(change) == change.wanted:
                    _write(change, change.former)
            except OSError as error:
                left.insert(0, change)
                words = error.strerror or error
                self._warn(f"{shown(change)}: expected {change.former} again, got: {words}")
        return left

    def _keep(self, changes: list[Change]) -> None:
        """What is still to be put back, by this process or the next one."""
        try:
            if changes:
                self._former.write(self._interface, changes)
            else:
                self._former.remove()
        except OSError as error:
            self._warn(f"{self._former.path}: {error.strerror or error}")

    def _tell(self, text: str) -> None:
        self._log.warn("{text}", text=text)


def missing_privileges() -> list[str]:
    """What this process can't do and a node must be able to, a sentence each."""
    there = capabilities()
    faults = [
        f"capabilities: expected {name}, got none (root, or the unit's AmbientCapabilities)"
        for name in _NEEDED
        if name not in there
    ]
    why = no_tun()
    if why is not None:
        faults.append(f"{_TUN_FILE}: expected to be able to open it, got: {why}")
    return faults


def capabilities() -> frozenset[str]:
    """Those of this process that matter to a node, by name."""
    status = ""
    with contextlib.suppress(OSError):
        status = Path("/proc/thread-self/status").read_text("utf-8", "replace")
    mask = int((status.partition("CapEff:")[2].split() or ["0"])[0], 16)
    return frozenset(name for name, bit in _CAPABILITIES.items() if mask >> bit & 1)


def no_tun() -> str | None:
    """Why no TUN device can be made, None if one can."""
    try:
        os.close(os.open(_TUN_FILE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror
    return None


# ---------------------------------------------------------------- one setting


def _make(change: Change) -> None:
    """Make it as wanted. Raises OSError, or DLBAError where it doesn't become so."""
    try:
        _write(change, change.wanted)
    except OSError as error:
        raise DLBAError(f"{shown(change)}: {error.strerror or error}") from None
    got = _read(change)
    if got != change.wanted:
        raise DLBAError(f"{shown(change)}: expected {change.wanted}, got {got}")


def _read(change: Change) -> int | None:
    """The value now, None if what has it isn't there (any more)."""
    if change.kind == "sysctl":
        return read_sysctl(change.device, change.key)
    if change.kind == "feature":
        try:
            feature = read_features(change.device, (change.key,)).get(change.key)
        except OSError:
            return None
        return None if feature is None else int(feature.active or feature.requested)
    # Only what has our label is ours.
    ours = (change.device, change.key, LABEL)
    return int(any((one.interface, one.text, one.label) == ours for one in addresses()))


def _write(change: Change, value: int) -> None:
    """Make it `value`. Raises OSError."""
    if change.kind == "sysctl":
        write_sysctl(change.device, change.key, value)
    elif change.kind == "feature":
        switch_feature(change.device, change.key, bool(value))
    elif value:
        add_address(change.device, change.key, LABEL)
    else:
        remove_address(change.device, change.key)
