"""What must hold for the channel between nodes, and between the times of the election.

Pure, and part of `dlba.config.checks`: generators of problems over the read values and the
document. Values may be `INVALID` where a problem was reported already: they are skipped.
Source: election.md; the rule for names is that of the package service-identity, which compares a
certificate's names with a node's.
"""

import re
from collections.abc import Iterator

from dlba.addresses import Endpoint, ip_literal
from dlba.config.nodes import Node, locate
from dlba.config.problems import Problem, quoted
from dlba.config.shapes import known
from dlba.config.values import ArrayConfig, NodeConfig

__all__ = ["channel_problems", "is_verifiable"]

_INTEGER = re.compile(r"[0-9]+(?:_[0-9]+)*", re.ASCII)
#: Nodes below which no majority is left when one of them dies.
MAJORITY_LEAST = 3


def is_verifiable(name: str) -> bool:
    """Whether a certificate can prove that its holder is the node `name` (as `fields.name` reads).

    All but what could be an address: numbers, 1_0 among them, and IP addresses.
    """
    return not _INTEGER.fullmatch(name) and ip_literal(name) is None


def channel_problems(config: NodeConfig, root: Node, array: Node) -> Iterator[Problem]:
    """All problems of the channel and the election. `root`, `array`: as of `checks.check`."""
    if not known(config.array):
        return
    yield from _times(config.array, array)
    yield from _majority(config.array, array)
    if config.channel is None or not known(config.channel):
        return
    yield from _what_it_needs(config, root, array)
    yield from _addresses_differ(config, array)


def _times(config: ArrayConfig, array: Node) -> Iterator[Problem]:
    election = config.election
    if not known(election, election.heartbeat, election.down_after):
        return
    # Half a float's rounding is no reason: 0.3 is at least twice 0.15 for who writes it.
    if election.down_after < 2 * election.heartbeat - 1e-9:
        message = (
            f"expected at least twice election.heartbeat ({election.heartbeat:g} s), "
            f"got {election.down_after:g} s: one late heartbeat would end a scheduler"
        )
        yield locate(array, "election", "down_after").place.problem(message)


def _majority(config: ArrayConfig, array: Node) -> Iterator[Problem]:
    if not known(config.nodes, config.election) or config.election.quorum != "majority":
        return
    nodes = [node for node in config.nodes.values() if known(node)]
    if any(not known(node.enabled) for node in nodes) or len(nodes) < len(config.nodes):
        return
    enabled = sum(node.enabled for node in nodes)
    if enabled < MAJORITY_LEAST:
        message = (
            f"expected {MAJORITY_LEAST} enabled nodes or more with majority, got {enabled}: "
            "when one dies, no majority is left"
        )
        yield locate(array, "election", "quorum").place.problem(message)


def _what_it_needs(config: NodeConfig, root: Node, array: Node) -> Iterator[Problem]:
    where = locate(root, "channel").place
    if config.interface is None:
        message = (
            'expected a key "interface" with a channel, got none: '
            "a proxy alone has no part in the election"
        )
        yield where.problem(message)
    if config.array.name is None:
        yield where.problem('expected a key "name" in the array with a channel, got none')
    listen = config.channel.listen if config.channel else None
    if known(listen) and listen is not None and listen.port == 0:
        message = "expected a port that the other nodes know, got 0"
        yield locate(root, "channel", "listen").place.problem(message)
    for name, node in config.array.nodes.items():
        if known(node) and not is_verifiable(name):
            message = (
                "expected a name with a letter with a channel, as no certificate proves a number "
                f"or an address, got {quoted(name)}"
            )
            yield locate(array, "nodes", name).place.problem(message)


def _addresses_differ(config: NodeConfig, array: Node) -> Iterator[Problem]:
    """No two nodes with the same channel: one of them would only ever be refused."""
    assert config.channel is not None
    taken: dict[Endpoint, str] = {}
    for name, node in config.array.nodes.items():
        if not known(node) or not known(node.address, node.channel, config.channel.listen):
            continue
        at = node.channel or Endpoint(node.address, config.channel.listen.port)
        first = taken.setdefault(at, name)
        if first != name:
            message = f"expected a channel of its own, got {at}, that of node {first}"
            yield locate(array, "nodes", name, "channel").place.problem(message)
