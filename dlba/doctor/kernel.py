"""Judges the kernel's settings: the VIP's place, ARP, the reverse-path filter, offloads, the TUN.

Pure. What is right `dlba.routing.needs` says, as it does to a node at its start. What a node makes
itself at its start is a note while none runs here, else a problem: somebody has changed it since.

Two things are problems without a node, too: a sysctl that must be set and can't be, since the start
would fail; and a machine with the VIP whose kernel answers ARP for it, since it takes the VIP from
whoever is scheduler.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlba.config.values import NodeConfig
from dlba.doctor.facts import Facts, Finding, Level, Unseen
from dlba.routing import needs
from dlba.routing.needs import LABEL, TUN, Change, Interface

__all__ = ["command_of", "kernel_findings", "merging"]

RESTART = "systemctl restart dlba"


def merging(config: NodeConfig) -> bool:
    """Whether frames that were merged can be read: libpcap has no words for them."""
    return config.array.routing.packets != "pcap"


def command_of(change: Change) -> str:
    """The command line that makes the change."""
    if change.kind == "sysctl":
        return f"sysctl -w {needs.shown(change)}={change.wanted}"
    if change.kind == "feature":
        return f"ethtool -K {change.device} {change.key} {'on' if change.wanted else 'off'}"
    return f"ip address add {change.key}/32 dev {change.device} scope host label {LABEL}"


def kernel_findings(config: NodeConfig, facts: Facts) -> list[Finding]:
    """All of them, of a node with an interface and a VIP."""
    assert config.interface is not None and config.array.vip is not None
    found: list[Finding] = []
    if isinstance(facts.interface, Interface):
        found += _sysctls(config.interface, config.array.vip, facts)
        found += _offloads(config, facts)
    # After the sysctls, for whoever types the mends from the top: the kernel must be silent first.
    found += _vip(config.array.vip, facts)
    return [*found, *_tun(config.array.vip, facts)]


def _made_at_start(facts: Facts) -> tuple[Level, str]:
    if facts.running is True:
        return Level.PROBLEM, ", changed since the node's start"
    return Level.NOTE, ": the node sets it at its start"


def _vip(vip: str, facts: Facts) -> Iterator[Finding]:
    about = "VIP"
    if isinstance(facts.addresses, Unseen):
        yield Finding(Level.WARNING, about, f"addresses could not be read: {facts.addresses.why}")
        return
    astray = False
    for address in facts.addresses:
        for fault in needs.address_plan(vip, [address], TUN).faults:
            astray = True
            where = f"{vip}/{address.length} dev {address.interface}"
            yield Finding(Level.PROBLEM, about, fault, f"ip address del {where}")
    changes = needs.address_plan(vip, facts.addresses, TUN).changes
    on_lo = _has_vip(vip, facts)
    for change in changes:
        if not on_lo:
            level, why = _made_at_start(facts)
            text = f"lo: expected {vip}/32, got none{why}"
            yield Finding(level, about, text, command_of(change), change)
        elif facts.running is not True:
            text = f"{vip}/32 is on lo, left by a node or by --fix: the next start takes it over"
            yield Finding(Level.NOTE, about, text, f"ip address del {vip}/32 dev lo")
    if on_lo and not astray and (facts.running is True or not changes):
        yield Finding(Level.OK, about, f"{vip}/32 is on lo alone")


def _has_vip(vip: str, facts: Facts) -> bool:
    """Whether this machine's kernel takes the VIP for its own, by whatever interface."""
    if isinstance(facts.addresses, Unseen):
        return False
    return any(one.text == vip and one.interface != TUN for one in facts.addresses)


def _sysctls(device: str, vip: str, facts: Facts) -> Iterator[Finding]:
    about = "sysctls"
    names = needs.sysctls_of(device)
    values = {name: facts.sysctls[name] for name in names if name in facts.sysctls}
    if len(values) < len(names):
        yield Finding(Level.WARNING, about, f"{device}: not all of them could be read")
        return
    mended, faults = dict(values), {}
    for name in names:
        alone = needs.sysctl_plan(device, {**dict.fromkeys(names, 0), name: values[name]}).faults
        if alone:
            faults[name] = alone[0]
            mended[name] = 0
    changes = {(c.device, c.key): c for c in needs.sysctl_plan(device, mended).changes}
    for name, fault in faults.items():
        # From there on to what the plan wants, in one step.
        wanted = changes.pop(name).wanted if name in changes else 0
        change = Change("sysctl", *name, values[name], wanted)
        yield Finding(Level.PROBLEM, about, fault, command_of(change), change)
    for change in changes.values():
        yield _sysctl(change, about, answers=_has_vip(vip, facts), facts=facts)
    if not faults and not changes:
        shown = ", ".join(
            f"{key} {needs.effective(values, device, key)}"
            for key in ("arp_ignore", "arp_announce", "rp_filter")
        )
        yield Finding(Level.OK, about, f"{device}: {shown}")


def _sysctl(change: Change, about: str, answers: bool, facts: Facts) -> Finding:
    level, why = _made_at_start(facts)
    if change.key == "arp_ignore" and answers:
        level, why = Level.PROBLEM, ": this machine's kernel answers ARP for the VIP"
    elif facts.no_sysctls is not None and level is Level.NOTE:
        level, why = Level.PROBLEM, f", and it can't be set: {facts.no_sysctls}"
    text = f"{needs.shown(change)}: expected {change.wanted}, got {change.former}{why}"
    return Finding(level, about, text, command_of(change), change)


def _offloads(config: NodeConfig, facts: Facts) -> Iterator[Finding]:
    about, device = "offloads", config.interface or ""
    if isinstance(facts.features, Unseen):
        yield Finding(Level.WARNING, about, f"{device}: could not be read: {facts.features.why}")
        return
    plan = needs.feature_plan(device, facts.features, merging(config))
    for change in plan.changes:
        level, why = _made_at_start(facts)
        text = f"{needs.shown(change)}: expected off, got on{why}"
        yield Finding(level, about, text, command_of(change), change)
    for fault in plan.faults:
        yield Finding(Level.PROBLEM, about, fault, f"ethtool -k {device}")
    if not plan.changes and not plan.faults:
        rest = ", others don't matter" if merging(config) else ""
        names = ", ".join(needs.feature_names(merging(config)))
        yield Finding(Level.OK, about, f"{device}: {names} off{rest}")


def _tun(vip: str, facts: Facts) -> Iterator[Finding]:
    about = "TUN device"
    if facts.no_tun is not None:
        text = f"/dev/net/tun: expected to be able to open it, got: {facts.no_tun}"
        yield Finding(Level.PROBLEM, about, text, "modprobe tun")
    elif isinstance(facts.tun, Unseen):
        yield Finding(Level.WARNING, about, f"{TUN}: could not be looked at: {facts.tun.why}")
    elif facts.running is True:
        yield from _tun_in_use(vip, facts.tun, facts)
    elif facts.tun is not None:
        text = f"{TUN}: expected no such device without a node, got one: another node's?"
        yield Finding(Level.PROBLEM, about, text, f"ip link delete {TUN}")
    else:
        yield Finding(Level.OK, about, "/dev/net/tun can be opened")


def _tun_in_use(vip: str, tun: Interface | None, facts: Facts) -> Iterator[Finding]:
    about = "TUN device"
    if tun is None or not tun.up or vip not in tun.addresses:
        got = "none" if tun is None else "one without the VIP" if tun.up else "one that is down"
        text = f"{TUN}: expected the running node's device, up, with {vip}/32, got {got}"
        yield Finding(Level.PROBLEM, about, text, RESTART)
        return
    values = facts.sysctls
    if not all(name in values for name in needs.sysctls_of(TUN)):
        yield Finding(Level.WARNING, about, f"{TUN}: its sysctls could not be read")
        return
    changes = needs.rp_filter_plan(TUN, values).changes
    for change in changes:
        yield _sysctl(change, about, answers=False, facts=facts)
    if not changes:
        yield Finding(Level.OK, about, f"{TUN}: up, with {vip}/32")
