"""Decides which kernel settings direct return needs, and which of them a node makes itself.

Pure: facts in, changes and faults out. A fault is what a node can't mend: the start fails with all
of them. The rules, for a node whose NIC is `eth0`:

    what                     enough            made where it isn't      fault
    arp_ignore, all          1, 2              1 for 0                  3 or more, also eth0's own
    arp_announce, all        2                 2 for 0 and 1            3 or more, also eth0's own
    rp_filter, eth0 and tun  effective 0, 2    the device's own to 2    -
    VIP                      VIP/32 on lo      added                    elsewhere, or a wider prefix
    rx-lro                   off               off                      on, and fixed by the driver
    rx-gro, rx-gro-hw        off, if frames    off                      on, and fixed by the driver
                             mustn't be merged

The kernel takes the greater of `all` and the device's own value for all three sysctls, so a value
that is too high can't be mended from the other side. arp_ignore 8 silences the node's own address,
too, and nobody would find the node; 3 to 7 and an arp_announce above 2 are as good as 0.
`all.rp_filter` is never touched: it is every other interface's business as well.

Source: routing.md "The frame path" 4; the kernel's ip-sysctl.rst.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import attrs

__all__ = ["LABEL", "TUN", "Address", "Change", "Feature", "Interface", "Plan"]
__all__ += ["address_plan", "effective", "feature_names", "feature_plan", "interface_faults"]
__all__ += ["rp_filter_plan", "shown", "sysctl_plan", "sysctls_of"]

#: The TUN device by which frames for the scheduler's own node reach its kernel.
TUN: Final = "dlba0"
#: Marks the VIP on lo as added by a node: what has another label isn't ours to remove.
LABEL: Final = "lo:dlba"

#: Offloads that merge frames: the driver's own merging, which loses what the packets were; and
#: merging that can be undone, as a packet socket with a virtio header sees it.
LRO: Final = ("rx-lro",)
GRO: Final = ("rx-gro", "rx-gro-hw")

_HIGHEST: Final = 2  # of arp_ignore and arp_announce: what is above means something else
_LOOSE: Final = 2  # rp_filter: some route leads back to the source, no matter by which device


@attrs.frozen
class Interface:
    """A network interface. `mac`: 6 bytes of an Ethernet one; `addresses`: its IPv4 addresses."""

    index: int
    name: str
    mac: bytes
    mtu: int
    up: bool
    carrier: bool
    addresses: tuple[str, ...]
    ethernet: bool = True


@attrs.frozen
class Address:
    """An IPv4 address that an interface has, with its prefix length and label."""

    interface: str
    text: str
    length: int
    label: str


@attrs.frozen
class Feature:
    """An offload: whether it works now, is asked for, and can be changed."""

    active: bool
    requested: bool
    changeable: bool


@attrs.frozen
class Change:
    """One setting: what it was and what it becomes.

    kind       device                 key                              values
    sysctl     `all` or an interface  last part of net.ipv4.conf.…     the sysctl's
    feature    an interface           ethtool's name of an offload     0 off, 1 on
    address    lo                     an IPv4 address                  0 not there, 1 there
    """

    kind: str
    device: str
    key: str
    former: int
    wanted: int


@attrs.frozen
class Plan:
    """What a node changes in this order, and what stops it, a sentence each."""

    changes: tuple[Change, ...] = ()
    faults: tuple[str, ...] = ()

    def __add__(self, other: Plan) -> Plan:
        return Plan(self.changes + other.changes, self.faults + other.faults)


def shown(change: Change) -> str:
    """The name of what is changed, as sysctl, ethtool and people write it."""
    if change.kind == "sysctl":
        return _sysctl(change.device, change.key)
    return f"{change.device}: {change.key}"


def _sysctl(device: str, key: str) -> str:
    # In sysctl's dotted names a slash stands for the dot of eth0.100.
    return f"net.ipv4.conf.{device.replace('.', '/')}.{key}"


def sysctls_of(device: str) -> tuple[tuple[str, str], ...]:
    """Device and key of each sysctl that `sysctl_plan` asks for."""
    return tuple(
        (where, key)
        for key in ("arp_ignore", "arp_announce", "rp_filter")
        for where in ("all", device)
    )


def effective(values: Mapping[tuple[str, str], int], device: str, key: str) -> int:
    """The value that holds for the device."""
    return max(values.get(("all", key), 0), values.get((device, key), 0))


def sysctl_plan(device: str, values: Mapping[tuple[str, str], int]) -> Plan:
    """What of the ARP sysctls and the reverse-path filter of `device` must change.

    `values`: by device and key, those of `sysctls_of`; one that lacks is 0.
    """
    return (
        _arp_plan(device, values, "arp_ignore", enough=(1, 2), wanted=1)
        + _arp_plan(device, values, "arp_announce", enough=(2,), wanted=2)
        + rp_filter_plan(device, values)
    )


def _arp_plan(
    device: str,
    values: Mapping[tuple[str, str], int],
    key: str,
    enough: tuple[int, ...],
    wanted: int,
) -> Plan:
    faults = tuple(
        f"{_sysctl(where, key)}: expected 0, 1 or 2, got {value}"
        for where in ("all", device)
        if (value := values.get((where, key), 0)) > _HIGHEST
    )
    former = values.get(("all", key), 0)
    if faults or former in enough:
        return Plan(faults=faults)
    return Plan((Change("sysctl", "all", key, former, wanted),))


def rp_filter_plan(device: str, values: Mapping[tuple[str, str], int]) -> Plan:
    """A strict reverse-path filter becomes loose: frames may come in where no route goes out."""
    if effective(values, device, "rp_filter") != 1:
        return Plan()
    former = values.get((device, "rp_filter"), 0)
    return Plan((Change("sysctl", device, "rp_filter", former, _LOOSE),))


def address_plan(vip: str, addresses: Iterable[Address], tun: str | None = None) -> Plan:
    """The VIP on lo, and nowhere else but on the node's own TUN device `tun`.

    An address with our label that is there already was left by a killed node: it is ours again.
    """
    there = [one for one in addresses if one.text == vip and one.interface != tun]
    faults = tuple(
        f"{one.interface}: {vip}/{one.length}: expected the VIP as {vip}/32 on lo alone"
        for one in there
        if one.interface != "lo" or one.length != 32
    )
    if faults or any(one.label != LABEL for one in there):
        return Plan(faults=faults)
    return Plan((Change("address", "lo", vip, 0, 1),))


def feature_names(merging: bool) -> tuple[str, ...]:
    """The offloads that must be off. `merging`: the port copes with frames that can be split."""
    return LRO if merging else LRO + GRO


def feature_plan(device: str, features: Mapping[str, Feature], merging: bool) -> Plan:
    """Which offloads of the device are switched off; one that it doesn't know is off."""
    changes: list[Change] = []
    faults: list[str] = []
    for name in feature_names(merging):
        feature = features.get(name)
        if feature is None or not (feature.active or feature.requested):
            continue
        if feature.changeable:
            changes.append(Change("feature", device, name, 1, 0))
        elif feature.active:
            faults.append(f"{device}: {name}: expected off, got on, fixed by the driver")
    return Plan(tuple(changes), tuple(faults))


def interface_faults(name: str, found: Interface | None, mac: bytes, address: str) -> list[str]:
    """What is wrong with this node's interface; `mac` and `address` as the array's file has them.

    Whether it is up and has a carrier doesn't matter: that comes and goes.
    """
    if found is None:
        return [f"interface: expected a network interface, got {name!r}, which isn't there"]
    if not found.ethernet:
        return [f"{name}: expected an Ethernet interface, got another kind"]
    faults = []
    if found.mac != mac:
        faults.append(f"{name}: MAC: expected {mac.hex(':')}, got {found.mac.hex(':')}")
    if address not in found.addresses:
        got = ", ".join(found.addresses) or "none"
        faults.append(f"{name}: address: expected this node's {address}, got {got}")
    return faults
