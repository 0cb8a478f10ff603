"""Decides which other nodes are there, by asking for their addresses with ARP again and again.

Each `every` seconds every other node is asked, by a frame to its own MAC alone, who has its
address; its kernel answers. One that was silent is now and then asked by broadcast instead: its
answer teaches switches anew where it is, should one have learnt otherwise. `retries` questions in a
row without an answer: the node has failed. As many in a row with one: it is back. An answer counts
when it comes from the MAC that the configuration gives the node, to a question of ours.

Silence means nothing while we ourselves were absent: asked later than a whole `every` after it was
due (a stopped or starved process), or when the adapter says so by `forgive` (no carrier, answers
lost for want of buffer), the questions of that round don't count.

It tells of machines, not of the servers on them: a kernel answers for a process that is dead.

Pure; time comes in as `now`, seconds, monotonic. Source: the seed's ping test ("whether the kernel
is running properly"), on the segment that frames take.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Final, NamedTuple

import attrs

from dlba.routing import arp

__all__ = ["Change", "Peer", "Reach"]

#: Of so many questions to one that is silent the first is by broadcast.
RARELY: Final = 10


@attrs.frozen
class Peer:
    """Another node. `mac`: 6 bytes; `address`: 4 bytes, IPv4."""

    number: int
    mac: bytes
    address: bytes


class Change(NamedTuple):
    """The node `number` has failed, or is back (`alive`)."""

    number: int
    alive: bool


class _Watched:
    """What is known of one peer."""

    __slots__ = ("answers", "asked", "call", "failed", "peer", "question", "silent")

    def __init__(self, peer: Peer, question: bytes, call: bytes) -> None:
        self.peer = peer
        self.question = question  # to its MAC
        self.call = call  # to all
        self.asked = False
        self.silent = 0
        self.answers = 0
        self.failed = False


class Reach:
    """`mac`, `address`: this node's, 6 and 4 bytes; `every`: seconds; `retries`: 1 or more."""

    def __init__(
        self, peers: Iterable[Peer], mac: bytes, address: bytes, every: float, retries: int
    ) -> None:
        if every <= 0 or retries < 1:
            raise ValueError(f"reach: expected above 0 and 1 or more, got {every}, {retries}")
        self._watched = {
            peer.address: _Watched(
                peer,
                arp.who_has(peer.address, mac, address, peer.mac),
                arp.who_has(peer.address, mac, address),
            )
            for peer in peers
        }
        self._address = address
        self._every = every
        self._retries = retries
        self._changes: list[Change] = []
        #: Seconds, monotonic: when `due` has something to send; inf while stopped.
        self.next_at = inf

    @property
    def failed(self) -> frozenset[int]:
        """The numbers of the nodes that have failed."""
        return frozenset(one.peer.number for one in self._watched.values() if one.failed)

    def start(self, now: float) -> None:
        """Ask from now on; what is known of the nodes stays."""
        self.forgive()
        self.next_at = now if self._watched else inf

    def stop(self) -> None:
        """Ask no more."""
        self.next_at = inf

    def forget(self) -> None:
        """Nothing is known of any node: all are there until they are silent."""
        self.forgive()
        self._changes.clear()
        for one in self._watched.values():
            one.answers = 0
            one.failed = False

    def forgive(self) -> None:
        """Questions that are open don't count, and silence is counted anew."""
        for one in self._watched.values():
            one.asked = False
            one.silent = 0

    def due(self, now: float) -> tuple[bytes, ...]:
        """The questions to send now; empty before `next_at`. What has changed: `take_changes`."""
        if now < self.next_at:
            return ()
        if now - self.next_at > self._every:
            self.forgive()
        self.next_at = now + self._every
        for one in self._watched.values():
            if one.asked:
                one.silent += 1
                one.answers = 0
                if one.silent >= self._retries and not one.failed:
                    one.failed = True
                    self._changes.append(Change(one.peer.number, alive=False))
            one.asked = True
        return tuple(
            one.call if one.silent % RARELY == 1 else one.question for one in self._watched.values()
        )

    def hear(self, packet: arp.ArpPacket) -> None:
        """Take in an ARP frame that was received; only answers to our questions count."""
        one = self._watched.get(packet.sender)
        if (
            one is None
            or not one.asked
            or packet.operation != arp.REPLY
            or packet.sender_mac != one.peer.mac
            or packet.target != self._address
        ):
            return
        one.asked = False
        one.silent = 0
        one.answers += 1
        if one.failed and one.answers >= self._retries:
            one.failed = False
            self._changes.append(Change(one.peer.number, alive=True))

    def take_changes(self) -> list[Change]:
        """What has changed since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes
