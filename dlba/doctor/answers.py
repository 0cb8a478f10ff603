"""Judges who answers ARP for the VIP and for the nodes' addresses.

Pure: frames in, findings out. The VIP must be at one MAC, the scheduler's; with another answerer
clients go now here, now there ("it works sometimes"). Each node must be at the MAC that the
configuration gives it, else frames for it are lost.

A node doesn't hear itself: not its own answers, since what goes out doesn't come in. So on the
scheduler every answer for the VIP is somebody else's, even one from this node's own MAC.

Whoever answers may be anybody: of each address a few MACs are kept, and nothing else of a frame.

Source: routing.md "ARP"; RFC 5227.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from dlba.addresses import is_unicast
from dlba.config.values import ArrayConfig, NodeConfig
from dlba.doctor.facts import Facts, Finding, Level, Unseen
from dlba.routing import arp
from dlba.routing.array import ipv4, mac_of_scheduler, scheduler_of
from dlba.routing.needs import Interface

__all__ = ["Answers", "answer_findings", "questions"]

#: MACs kept of one address: two are a problem already.
KEPT: Final = 8
#: Names shown in a row.
SHOWN: Final = 10


class Answers:
    """The MACs from which each of some addresses (4 bytes) was claimed, in the order heard."""

    def __init__(self, asked: Iterable[bytes]) -> None:
        self._macs: dict[bytes, list[bytes]] = {address: [] for address in asked}

    def hear(self, frame: bytes) -> None:
        """Take in a frame, whatever it is. Questions tell where the asker is, too."""
        packet = arp.parse(frame)
        if packet is None or not is_unicast(packet.sender_mac):
            return
        macs = self._macs.get(packet.sender)
        if macs is not None and packet.sender_mac not in macs and len(macs) < KEPT:
            macs.append(packet.sender_mac)

    def macs(self, address: str) -> list[bytes]:
        """Where `address`, IPv4, was claimed from; empty: nowhere."""
        return self._macs.get(ipv4(address), [])


def questions(config: NodeConfig, interface: Interface) -> dict[bytes, bytes]:
    """For each address that is asked for (4 bytes) the frame that asks: the VIP, all nodes.

    Questions for others come from this node's own address if the interface has it, so that nobody
    learns a wrong one; else they are probes, which teach nobody anything.
    """
    array, own = config.array, config.array.nodes[config.node]
    assert array.vip is not None
    asked = {ipv4(address): b"" for address in (array.vip, own.address)}
    asked |= {ipv4(node.address): b"" for node in array.nodes.values()}
    at_home = own.address in interface.addresses
    for address in asked:
        if at_home and address not in (ipv4(array.vip), ipv4(own.address)):
            asked[address] = arp.who_has(address, interface.mac, ipv4(own.address))
        else:
            asked[address] = arp.probe(address, interface.mac)
    return asked


def answer_findings(
    config: NodeConfig, facts: Facts, answers: Answers | Unseen | None
) -> list[Finding]:
    """All of them, of a node with an interface and a VIP. `answers` None: nobody was asked."""
    if answers is None:
        return []
    if isinstance(answers, Unseen):
        return [Finding(Level.WARNING, "ARP", f"nobody was asked: {answers.why}")]
    return [*_vip(config, facts, answers), *_own(config, facts, answers), *_peers(config, answers)]


def _shown(macs: Iterable[bytes]) -> str:
    return ", ".join(mac.hex(":") for mac in macs)


def _vip(config: NodeConfig, facts: Facts, answers: Answers) -> Iterator[Finding]:
    about, array = "VIP's ARP", config.array
    assert array.vip is not None
    macs = answers.macs(array.vip)
    here = _is_scheduler(config, facts)
    scheduler = scheduler_of(array.nodes)
    rightful = {mac_of_scheduler(array, name): name for name in array.nodes}
    ours = rightful.keys() & {mac_of_scheduler(array, config.node)}
    if here and not macs:
        yield Finding(Level.OK, about, "nobody else answers; this node is scheduler")
    elif not macs:
        level = Level.WARNING if facts.running is True else Level.NOTE
        yield Finding(level, about, f"nobody answers for {array.vip}: node {scheduler} isn't up?")
    elif here or len(macs) > 1 or macs[0] not in rightful or macs[0] in ours:
        expected = "nobody but this node, the scheduler," if here else "one scheduler MAC"
        if ours & set(macs):
            expected += " and no machine with this node's MAC"
        text = f"{array.vip}: expected {expected} to answer, got {_named(array, macs)}"
        yield Finding(Level.PROBLEM, about, text, _search(config, macs))
    elif rightful[macs[0]] != scheduler:
        text = f"{array.vip}: expected node {scheduler} to answer, got {_named(array, macs)}"
        yield Finding(Level.WARNING, about, text, "sha256sum array.yaml    # on both, to compare")
    else:
        yield Finding(Level.OK, about, f"{_named(array, macs)} answers")


def _named(array: ArrayConfig, macs: Iterable[bytes]) -> str:
    """Each MAC and whose it is. In own-MAC mode a node's is that of the scheduler, too."""
    whose = {node.mac: f"node {name} itself" for name, node in array.nodes.items()}
    whose |= {mac_of_scheduler(array, name): f"node {name} as scheduler" for name in array.nodes}
    return ", ".join(f"{mac.hex(':')} ({whose.get(mac, 'nobody of the array')})" for mac in macs)


def _search(config: NodeConfig, macs: Iterable[bytes]) -> str:
    """How to get rid of a wrong answerer, or to find it."""
    array = config.array
    for name, node in array.nodes.items():
        if node.mac in macs and not array.routing.own_mac and name != config.node:
            return f"dlba doctor --fix    # on node {name}, whose kernel answers"
    return f"arping -D -c 3 -I {config.interface} {array.vip}    # who is that?"


def _is_scheduler(config: NodeConfig, facts: Facts) -> bool:
    if facts.running is not True:
        return False
    if facts.role is not None:
        return facts.role == "scheduler"
    return scheduler_of(config.array.nodes) == config.node


def _own(config: NodeConfig, facts: Facts, answers: Answers) -> Iterator[Finding]:
    own = config.array.nodes[config.node]
    mac = facts.interface.mac if isinstance(facts.interface, Interface) else own.mac
    others = [one for one in answers.macs(own.address) if one != mac]
    if others:
        text = f"{own.address}, this node's, is at {_shown(others)} too"
        look = f"arping -D -c 3 -I {config.interface} {own.address}"
        yield Finding(Level.PROBLEM, "own address", text, look)


def _peers(config: NodeConfig, answers: Answers) -> Iterator[Finding]:
    about, right = "nodes' MACs", []
    for name, node in config.array.nodes.items():
        if name == config.node:
            continue
        macs, address = answers.macs(node.address), node.address
        expected = f"node {name}: {address}: expected {node.mac.hex(':')}"
        if macs == [node.mac]:
            right.append(name)
        elif not macs:
            level = Level.WARNING if node.enabled else Level.NOTE
            look = f"arping -c 3 -I {config.interface} {address}"
            yield Finding(level, about, f"node {name}: {address}: no answer", look)
        elif len(macs) > 1:
            text = f"{expected} alone, got {_shown(macs)}: two machines have the address"
            look = f"arping -c 3 -I {config.interface} {address}"
            yield Finding(Level.PROBLEM, about, text, look)
        else:
            # Which of the two is wrong is seen on the node: the file, or who has the address.
            look = f"ip -br link    # on node {name}; then mend its mac in array.yaml on every node"
            yield Finding(Level.PROBLEM, about, f"{expected}, got {_shown(macs)}", look)
    if right:
        more = f" and {len(right) - SHOWN} more" if len(right) > SHOWN else ""
        names = ", ".join(right[:SHOWN])
        yield Finding(Level.OK, about, f"{names}{more}: as configured")
