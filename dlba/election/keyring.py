"""Decides which keys a node verifies cookies with, which one signs, and which one hashes flows.

Pure. Nobody hands out a secrets file: every node offers the keys of its own to the others (`Keys`),
which verify with them from then on and say so (`KeysHave`). Only then may a key sign: the scheduler
names the first of its own that every connected node has confirmed, and all sign with that one. So a
cookie from any node is good at every other one. What was learned is kept on disk, so that a node
verifies as soon as it starts, and cookies outlive the node whose key signed them.

With `hash: keyed` all nodes must find the same bucket for a flow. The scheduler's key counts: who
follows it takes it over, goes on with it as scheduler and offers it to others.

An id is only unique within one node's file; two nodes may use one for different keys. Both verify.
Keys are never shown: messages name at most a line and an id.

Source: election.md "Configuration push"; `dlba.config.keys`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Final

from dlba.config.keys import HASH_ID, Keys, SecretKey, parse_keys
from dlba.errors import DLBAError, PeerError

__all__ = ["OWN", "Keyring"]

#: Instead of a node's number: this node.
OWN: Final = -1
_FORMAT: Final = 1


class Keyring:
    """`own`: of this node's secrets file; `stored`: what `stored` gave before, empty at first.

    Raises DLBAError for a `stored` that is damaged.
    """

    def __init__(self, own: Keys, stored: str = "") -> None:
        self._own = own
        self._learned: dict[int, Keys] = {}
        self._confirmed: dict[int, frozenset[str]] = {}
        self._named = ("", OWN)
        self._hash = own.hash
        if stored:
            self._restore(stored)

    @property
    def signing(self) -> tuple[SecretKey, ...]:
        """All keys that verify; the first one signs. None if no node has any."""
        keys = self._own.signing
        for number in sorted(self._learned):
            keys += self._learned[number].signing
        id_, number = self._named
        offered = self._keys_of(number).signing
        named = [key for key in (*offered, *keys) if key.id == id_]
        return tuple(dict.fromkeys((*named[:1], *keys)))

    @property
    def hash(self) -> bytes | None:
        """The key of the keyed hash, None without one."""
        return self._hash

    def offer(self) -> bytes:
        """The data of `Keys`, for every node that connects; again when `hash` has changed."""
        return _text(Keys(self._own.signing, self._hash)).encode("ascii")

    def learn(self, number: int, data: bytes) -> bool:
        """Node `number` offers keys, in place of those that it offered before. True: a change.

        Its confirmation is `ids_of`, once what changed is in use. Raises PeerError.
        """
        try:
            keys = _parse(data.decode("ascii"))
        except (UnicodeDecodeError, DLBAError) as error:
            why = "expected ASCII text" if isinstance(error, UnicodeDecodeError) else error
            raise PeerError(f"keys: {why}") from None
        before = self._learned.get(number)
        self._learned[number] = keys
        return self._adopt() or keys != before

    def ids_of(self, number: int) -> tuple[str, ...]:
        """The ids of the keys of node `number` that this one verifies with: its `KeysHave`."""
        return tuple(key.id for key in self._keys_of(number).signing)

    def confirmed(self, number: int, ids: Collection[str]) -> None:
        """Node `number` verifies with these of this node's keys."""
        self._confirmed[number] = frozenset(ids)

    def gone(self, number: int) -> None:
        """The channel to a node is gone: another process may come, which must confirm anew."""
        self._confirmed.pop(number, None)

    def choose(self, connected: Collection[int]) -> str:
        """The id that this node names as scheduler; empty: each node signs with its own key."""
        for key in self._own.signing:
            if all(key.id in self._confirmed.get(number, ()) for number in connected):
                return key.id
        return ""

    def name(self, id: str, number: int) -> bool:  # noqa: A002 - the message's word
        """The scheduler `number` (OWN: this node) names the key that signs. True: a change.

        A key that this node doesn't have (yet) is as none named: it signs with its own first one.
        """
        before = self.signing
        self._named = (id, number)
        return self._adopt() or self.signing != before

    def keep(self, numbers: Collection[int]) -> None:
        """Forget what nodes offered that aren't among `numbers`: they left the array."""
        for number in self._learned.keys() - set(numbers):
            del self._learned[number]

    def stored(self) -> str:
        """What to keep on disk, private, for the next start: what was learned."""
        nodes = {str(number): _text(keys) for number, keys in sorted(self._learned.items())}
        taken = None if self._hash is None else self._hash.decode("ascii")
        return json.dumps({"format": _FORMAT, "hash": taken, "nodes": nodes}) + "\n"

    def _restore(self, text: str) -> None:
        try:
            values = json.loads(text)
            if values["format"] != _FORMAT:
                raise ValueError("format")
            learned = {int(number): _parse(keys) for number, keys in values["nodes"].items()}
            taken = values["hash"]
            # By way of the file's own rules for a key.
            adopted = None if taken is None else parse_keys(f"k {taken}").signing[0].key
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, DLBAError):
            raise DLBAError("learned keys: expected what was written, got damaged text") from None
        except RecursionError:
            raise DLBAError("learned keys: expected what was written, got other text") from None
        self._learned = learned
        self._hash = self._own.hash if adopted is None else adopted

    def _keys_of(self, number: int) -> Keys:
        return self._own if number == OWN else self._learned.get(number, Keys(()))

    def _adopt(self) -> bool:
        """Take over the hash key of the scheduler that is followed. True: it is another one."""
        number = self._named[1]
        offered = None if number == OWN else self._keys_of(number).hash
        if offered is None or offered == self._hash:
            return False
        self._hash = offered
        return True


def _parse(text: str) -> Keys:
    """The keys in an offer; none at all is right too. Raises DLBAError."""
    return parse_keys(text) if text else Keys(())


def _text(keys: Keys) -> str:
    """The lines of a secrets file; empty where there is nothing to sign with."""
    lines = [f"{key.id} {key.key.decode('ascii')}\n" for key in keys.signing]
    if lines and keys.hash is not None:
        lines.append(f"{HASH_ID} {keys.hash.decode('ascii')}\n")
    return "".join(lines)
