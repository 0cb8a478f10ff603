"""Carries the cookie keys between the nodes: offers, takes, confirms; the rules are `keyring`'s.

An adapter over callables: what has changed is put in force and kept on disk before it is confirmed
to the node that offered it, since that node may sign with it from then on.

Source: election.md "Configuration push", its last sentence.
"""

from __future__ import annotations

from collections.abc import Callable

from dlba.election.keyring import OWN, Keyring
from dlba.election.messages import Keys, KeysHave

__all__ = ["KeyExchange"]


class KeyExchange:
    """`send(number, message)`: over the channel; `apply`: puts the ring's keys in force.

    `keep(text)`: writes down what was learned; it may fail, and says so itself.
    """

    def __init__(
        self,
        ring: Keyring,
        send: Callable[[int, Keys | KeysHave], object],
        apply: Callable[[Keyring], None],
        keep: Callable[[str], None],
    ) -> None:
        self._ring = ring
        self._send = send
        self._apply = apply
        self._keep = keep
        self._connected: set[int] = set()
        self._offered = ring.offer()
        self._kept = ring.stored()

    def start(self) -> None:
        """Put in force what the ring knows from the start."""
        self._apply(self._ring)

    def up(self, number: int) -> None:
        """The channel to a node is there."""
        self._connected.add(number)
        self._send(number, Keys(data=self._offered))

    def down(self, number: int) -> None:
        """The channel to a node is gone."""
        self._connected.discard(number)
        self._ring.gone(number)

    def came(self, number: int, message: Keys | KeysHave) -> None:
        """A node offers keys, or confirms ours. Raises PeerError."""
        if isinstance(message, KeysHave):
            self._ring.confirmed(number, message.ids)
            return
        if self._ring.learn(number, message.data):
            self._change()
        self._send(number, KeysHave(ids=self._ring.ids_of(number)))

    def named(self, key: str, number: int) -> None:
        """The scheduler `number` names the id of the key that signs."""
        self._name(key, number)

    def choose(self) -> str:
        """This node is scheduler: the id that it names, in force here already."""
        key = self._ring.choose(self._connected)
        self._name(key, OWN)
        return key

    def _name(self, key: str, number: int) -> None:
        if self._ring.name(key, number):
            self._change()

    def _change(self) -> None:
        self._apply(self._ring)
        stored = self._ring.stored()
        if stored != self._kept:
            self._kept = stored
            self._keep(stored)
        offer = self._ring.offer()
        if offer != self._offered:
            # The hash key has become another: who follows this node one day must know it.
            self._offered = offer
            for number in self._connected:
                self._send(number, Keys(data=offer))
