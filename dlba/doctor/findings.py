"""Decides what is wrong with a machine that is to be a node, and how it is mended.

Pure: the configuration and the facts in, findings out, in the order in which a person would look.
The parts with many rules have modules of their own: `kernel`, `firewall`, `answers`. Each thing
that was looked at gives one finding at least, `ok` if all is well with it, so that what was not
looked at can be told from what is fine.

Source: the contract's `dlba doctor`; routing.md "The frame path".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from dlba.config.keys import needs_keys
from dlba.config.values import NodeConfig
from dlba.doctor.answers import Answers, answer_findings
from dlba.doctor.facts import Facts, Finding, Level, Unseen
from dlba.doctor.firewall import firewall_findings
from dlba.doctor.kernel import kernel_findings
from dlba.routing import needs
from dlba.routing.needs import Change, Interface

__all__ = ["findings", "has_problem", "safe_changes"]

#: In the order of their kinds: no kernel may have the VIP on lo and answer ARP for it.
_ORDER = ("sysctl", "feature", "address")


def findings(
    config: NodeConfig,
    facts: Facts,
    answers: Answers | Unseen | None = None,
    warnings: Iterable[str] = (),
) -> list[Finding]:
    """All that is to be said. `answers`: from the segment; `warnings`: of the configuration."""
    found = [*_configuration(config, warnings)]
    if config.interface is None:
        text = "none in node.yaml: a proxy alone, nothing to look at on a segment"
        found.append(Finding(Level.NOTE, "interface", text))
    else:
        found += _node(facts)
        found += _interface(config, facts)
    found += _capabilities(config, facts)
    if config.interface is not None:
        found += kernel_findings(config, facts)
        found += firewall_findings(config, facts)
        found += answer_findings(config, facts, answers)
    found += [*_secrets(config, facts), *_clock(facts)]
    if config.interface is not None and not _is_its_machine(config, facts):
        # No --fix on a machine, or in a network namespace, that this file is not for.
        found = [attrs.evolve(one, change=None) for one in found]
    return found


def _is_its_machine(config: NodeConfig, facts: Facts) -> bool:
    own, seen = config.array.nodes[config.node], facts.interface
    if isinstance(seen, Unseen):
        return False
    return not needs.interface_faults(config.interface or "", seen, own.mac, own.address)


def has_problem(found: Iterable[Finding]) -> bool:
    """Whether direct return is broken, or no node can start."""
    return any(finding.level is Level.PROBLEM for finding in found)


def safe_changes(found: Iterable[Finding]) -> list[Change]:
    """What `--fix` does, in this order; an address only when all before it is done."""
    changes = [finding.change for finding in found if finding.change is not None]
    return sorted(changes, key=lambda change: _ORDER.index(change.kind))


def _configuration(config: NodeConfig, warnings: Iterable[str]) -> Iterator[Finding]:
    about = "configuration"
    for text in warnings:
        yield Finding(Level.WARNING, about, text)
    array = config.array
    count = len(array.nodes) or 1
    of = f"one of {count} nodes" if count > 1 else "an array of one"
    yield Finding(Level.OK, about, f"node {config.node}, {of}, VIP {array.vip or 'none'}")


def _node(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.running, Unseen):
        text = f"whether it runs could not be looked at: {facts.running.why}"
        yield Finding(Level.WARNING, "node", text)
    elif not facts.running:
        yield Finding(Level.NOTE, "node", "doesn't run here; what it sets at its start is a note")
    elif facts.role == "fault":
        text = "runs in the role fault: expected its interface up, with a carrier"
        yield Finding(Level.PROBLEM, "node", text, "journalctl -u dlba -n 50")
    else:
        role = f", role {facts.role}" if facts.role else ", its monitor doesn't answer"
        yield Finding(Level.OK, "node", f"runs{role}")


def _interface(config: NodeConfig, facts: Facts) -> Iterator[Finding]:
    about, name, seen = "interface", config.interface or "", facts.interface
    own = config.array.nodes[config.node]
    if isinstance(seen, Unseen):
        yield Finding(Level.WARNING, about, f"{name}: could not be looked at: {seen.why}")
        return
    if seen is None or not seen.ethernet:
        for fault in needs.interface_faults(name, seen, own.mac, own.address):
            mend = "ip -br link    # then mend interface: in node.yaml"
            yield Finding(Level.PROBLEM, about, fault, mend)
        return
    bad = False
    for finding in _faults(name, seen, own.mac, own.address):
        bad = True
        yield finding
    if not bad:
        mac = seen.mac.hex(":")
        text = f"{name}: up, carrier, {mac}, {own.address}, MTU {seen.mtu}"
        yield Finding(Level.OK, about, text)


def _faults(name: str, seen: Interface, mac: bytes, address: str) -> Iterator[Finding]:
    about = "interface"
    if not seen.up:
        text, mend = f"{name}: expected it up, got down", f"ip link set dev {name} up"
        yield Finding(Level.PROBLEM, about, text, mend)
    elif not seen.carrier:
        text = f"{name}: expected a carrier, got none: cable, switch port?"
        yield Finding(Level.PROBLEM, about, text, f"ethtool {name}")
    # Each rule alone, with the rest as it should be.
    right = attrs.evolve(seen, mac=mac, addresses=(address,))
    for fault in needs.interface_faults(name, attrs.evolve(right, mac=seen.mac), mac, address):
        mend = f"ip link set dev {name} address {mac.hex(':')}    # or mend array.yaml everywhere"
        yield Finding(Level.PROBLEM, about, fault, mend)
    there = attrs.evolve(right, addresses=seen.addresses)
    for fault in needs.interface_faults(name, there, mac, address):
        mend = f"ip address add {address}/24 dev {name}    # with the segment's prefix length"
        yield Finding(Level.PROBLEM, about, fault, mend)


def _capabilities(config: NodeConfig, facts: Facts) -> Iterator[Finding]:
    about = "capabilities"
    wanted = ["CAP_NET_ADMIN", "CAP_NET_RAW"] if config.interface is not None else []
    listeners = config.array.web.listen if config.array.web is not None else ()
    if any(0 < listener.port < facts.first_free_port for listener in listeners):
        wanted.append("CAP_NET_BIND_SERVICE")
    missing = [name for name in wanted if name not in facts.capabilities]
    if missing:
        text = f"expected {', '.join(wanted)}, this process lacks {', '.join(missing)}"
        yield Finding(Level.PROBLEM, about, text, "sudo dlba doctor    # or as its unit runs it")
    elif wanted:
        yield Finding(Level.OK, about, ", ".join(wanted))


def _secrets(config: NodeConfig, facts: Facts) -> Iterator[Finding]:
    about = "secrets"
    path = config.state / "secrets" if config.secrets is None else config.secrets
    # Over a channel nodes tell each other their keys.
    several = len(config.array.nodes) > 1 and config.channel is None
    if not needs_keys(config):
        return
    if isinstance(facts.keys, Unseen):
        yield Finding(Level.PROBLEM, about, facts.keys.why)
    elif facts.keys is None and (several or config.secrets is not None):
        # As load_keys has it: keys that each node made for itself would be of no use.
        text = f"{path}: expected the array's secrets, the same on every node, got no file"
        yield Finding(Level.PROBLEM, about, text, _make_secrets(path))
    elif facts.keys is None:
        yield Finding(Level.NOTE, about, f"{path}: made at the node's first start")
    else:
        count = "1 key signs" if facts.keys == 1 else f"{facts.keys} keys sign"
        same = "; its sha256sum must be the same on every node" if several else ""
        text = f"{path}: {count}{same}"
        yield Finding(Level.OK, about, text)


def _make_secrets(path: Path) -> str:
    words = "umask 077; printf 'k1 '; openssl rand -hex 32; printf 'hash '; openssl rand -hex 32"
    return f"({words}) > {path}    # on one node, then copy it to all"


def _clock(facts: Facts) -> Iterator[Finding]:
    about = "clock"
    if isinstance(facts.synchronised, Unseen):
        yield Finding(Level.NOTE, about, f"could not be looked at: {facts.synchronised.why}")
    elif facts.synchronised:
        yield Finding(Level.OK, about, "synchronised")
    else:
        text = "nobody keeps it in step: logs and certificates of the nodes won't agree"
        yield Finding(Level.WARNING, about, text, "timedatectl set-ntp true")
