"""Decides which bucket a flow is in, with `hash: keyed`: nobody without the key can aim at one.

Pure. Source: routing.md "The table"; `docs/decisions/0005-key-of-the-keyed-hash.md`.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

__all__ = ["KeyedHash"]

_FLOW: Final = struct.Struct("!QH")


class KeyedHash:
    """The other way from a flow to its bucket: nobody without `key` can aim at one.

    `key`: the array's, the same on all nodes, at least a byte. `hash: keyed`; about 0.5 µs a call.
    """

    __slots__ = ("_buckets", "_keyed")

    def __init__(self, buckets: int, key: bytes) -> None:
        if not key:
            raise ValueError("client table: hash key: expected at least one byte, got none")
        # BLAKE2b takes keys up to 64 bytes: every byte of a longer one counts as well this way.
        inner = hashlib.blake2b(key, digest_size=32, person=b"dlba buckets").digest()
        self._keyed = hashlib.blake2b(digest_size=8, key=inner)
        self._buckets = buckets

    def __call__(self, address: int, port: int) -> int:
        """The bucket of a flow key. `address`: the client's, a number; `port`: the client's."""
        # A copy has the key worked in already: a third cheaper than a new one.
        keyed = self._keyed.copy()
        keyed.update(_FLOW.pack(address, port))
        # 64 bits over 2**24 buckets: the remainder favours none by more than 2**-40.
        return int.from_bytes(keyed.digest(), "big") % self._buckets
