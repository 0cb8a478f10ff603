"""Judges the firewall: whether it lets in what comes by the TUN device.

Pure: what `nft -j list ruleset` lists in, findings out. The scheduler's own flows reach its kernel
by the TUN device, where a firewall that was written before knows nothing of it. An input chain that
drops what no rule accepts is a warning, unless a rule of its table names the device, or one of its
rules accepts the VIP's ports by whatever interface they come. More isn't read: a ruleset can say
anything, and a doctor that guesses is worse than one that asks.

In own-MAC mode a running node has a rule of its own (`dlba.routing.guard`), which must be there.

Source: docs/operations.md "Firewall"; libnftables-json(5).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dlba.config.values import NodeConfig
from dlba.doctor.facts import Facts, Finding, Level, Unseen
from dlba.doctor.kernel import RESTART
from dlba.routing.needs import TUN

__all__ = ["firewall_findings"]

_ABOUT: Final = "firewall"
_FAMILIES: Final = ("ip", "inet")
#: Statements that decide nothing about a packet.
_SILENT: Final = ("counter", "log", "limit", "comment")
#: What a rule that accepts any client may match on: left sides, as nft writes them.
_PLAIN: Final = (
    {"payload": {"protocol": "ip", "field": "daddr"}},
    {"payload": {"protocol": "ip", "field": "protocol"}},
    {"meta": {"key": "l4proto"}},
    {"meta": {"key": "nfproto"}},
)
_PORT: Final = {"payload": {"protocol": "tcp", "field": "dport"}}
_STATE: Final = {"ct": {"key": "state"}}


def firewall_findings(config: NodeConfig, facts: Facts) -> list[Finding]:
    """All of them, of a node with an interface and a VIP."""
    found: list[Finding] = []
    if isinstance(facts.ruleset, Unseen):
        text = f"nft: could not be looked at: {facts.ruleset.why}"
        found.append(Finding(Level.WARNING, _ABOUT, text))
    elif facts.ruleset is None:
        # Rules may be there without the program; a node needs it in own-MAC mode alone.
        level = Level.PROBLEM if config.array.routing.own_mac else Level.NOTE
        text = "could not be looked at: expected the program nft, got none"
        found.append(Finding(level, _ABOUT, text, "apt-get install nftables"))
    else:
        found += _inputs(facts.ruleset, config)
        found += _guard(facts.ruleset, config, facts)
    if facts.legacy_tables:
        names = ", ".join(facts.legacy_tables)
        text = f"iptables-legacy has tables ({names}), which are not looked at: {TUN} must pass"
        found.append(Finding(Level.NOTE, _ABOUT, text, "iptables-legacy -S INPUT"))
    return found


def _inputs(ruleset: Sequence[Mapping[str, Any]], config: NodeConfig) -> Iterator[Finding]:
    chains = [entry["chain"] for entry in ruleset if isinstance(entry.get("chain"), dict)]
    closed = 0
    for chain in chains:
        if chain.get("hook") != "input" or chain.get("family") not in _FAMILIES:
            continue
        if _is_closed(chain, ruleset) and not _lets_in(chain, ruleset, config):
            closed += 1
            where = f"{chain.get('family')} {chain.get('table')} {chain.get('name')}"
            text = f"chain {where} drops what no rule accepts, and none names {TUN}"
            yield Finding(Level.WARNING, _ABOUT, text, _mend(chain, config))
    if not closed:
        yield Finding(Level.OK, _ABOUT, f"nft: no input chain that keeps {TUN} out")


def _mend(chain: Mapping[str, Any], config: NodeConfig) -> str:
    # In front: behind a last rule that rejects everything it would never be asked.
    words = ("family", "table", "name")
    where = " ".join(shlex.quote(str(chain.get(word))) for word in words)
    ports = ", ".join(map(str, config.array.routing.ports))
    return (
        f"nft insert rule {where} iifname {{ {config.interface}, {TUN} }} "
        f"ip daddr {config.array.vip} tcp dport {{ {ports} }} accept"
    )


def _of_table(
    kind: str, chain: Mapping[str, Any], ruleset: Sequence[Mapping[str, Any]]
) -> Iterator[Mapping[str, Any]]:
    for entry in ruleset:
        one = entry.get(kind)
        if isinstance(one, dict) and all(
            one.get(word) == chain.get(word) for word in ("family", "table")
        ):
            yield one


def _expressions(
    chain: Mapping[str, Any], ruleset: Sequence[Mapping[str, Any]]
) -> list[list[Mapping[str, Any]]]:
    """The statements of each of the chain's rules, without those that decide nothing."""
    rules: list[list[Mapping[str, Any]]] = []
    for rule in _of_table("rule", chain, ruleset):
        if rule.get("chain") == chain.get("name") and isinstance(rule.get("expr"), list):
            parts = [part for part in rule["expr"] if isinstance(part, dict)]
            rules.append([part for part in parts if not any(word in part for word in _SILENT)])
    return rules


def _is_closed(chain: Mapping[str, Any], ruleset: Sequence[Mapping[str, Any]]) -> bool:
    """Whether what no rule takes is dropped: by the policy, or by a last rule for everything."""
    rules = _expressions(chain, ruleset)
    last = rules[-1] if rules else []
    return chain.get("policy") == "drop" or (
        len(last) == 1 and any(word in last[0] for word in ("drop", "reject"))
    )


def _lets_in(
    chain: Mapping[str, Any], ruleset: Sequence[Mapping[str, Any]], config: NodeConfig
) -> bool:
    for kind in ("rule", "set", "map"):
        if any(_names_tun(one) for one in _of_table(kind, chain, ruleset)):
            return True
    rules = _expressions(chain, ruleset)
    ports = config.array.routing.ports
    return all(any(_accepts(rule, port) for rule in rules) for port in ports)


def _names_tun(value: object) -> bool:
    """Whether the device's name stands anywhere in it, or the beginning of it and a star."""
    if isinstance(value, str):
        return value == TUN or (value.endswith("*") and TUN.startswith(value[:-1]))
    if isinstance(value, dict):
        return any(map(_names_tun, value.values()))
    return isinstance(value, list) and any(map(_names_tun, value))


def _accepts(rule: Sequence[Mapping[str, Any]], port: int) -> bool:
    """Whether the rule accepts new connections to the port from anybody by any interface."""
    if not rule or "accept" not in rule[-1]:
        return False
    for part in rule[:-1]:
        match = part.get("match")
        if not isinstance(match, dict) or match.get("op") not in ("==", "in"):
            return False
        left, right = match.get("left"), match.get("right")
        if left == _PORT:
            if not _holds(right, port):
                return False
        elif left == _STATE:
            if not _holds(right, "new"):
                return False
        elif left not in _PLAIN:
            return False
    return True


def _holds(right: object, value: object) -> bool:
    """Whether `value` is the right side of a match, or in the set or range that it is."""
    if isinstance(right, dict):
        right = right.get("set", [right])
    for one in right if isinstance(right, list) else [right]:
        if isinstance(one, dict):
            match one.get("range"):
                case [int(low), int(high)] if isinstance(value, int) and low <= value <= high:
                    return True
        elif one == value:
            return True
    return False


def _guard(
    ruleset: Sequence[Mapping[str, Any]], config: NodeConfig, facts: Facts
) -> Iterator[Finding]:
    # Older nfts don't list the device.
    there = any(
        isinstance(chain := entry.get("chain"), dict)
        and chain.get("family") == "netdev"
        and str(chain.get("table")).startswith("dlba_")
        and chain.get("dev", config.interface) == config.interface
        for entry in ruleset
    )
    own_mac = config.array.routing.own_mac
    if facts.running is True and own_mac and not there:
        text = "own_mac: expected the node's rule on the interface, got none: flushed?"
        yield Finding(Level.PROBLEM, _ABOUT, text, RESTART)
    elif there and facts.running is True and not own_mac:
        text = "expected no table dlba_… without own_mac, got one: flows to this node are dropped"
        yield Finding(Level.PROBLEM, _ABOUT, text, RESTART)
    elif there and facts.running is not True:
        text = "a table dlba_… was left by a killed node: the next start removes it"
        yield Finding(Level.NOTE, _ABOUT, text)
