"""Decides which backend a key belongs to, the same on every node, with no state.

Weighted rendezvous hashing: each backend draws a number from a hash of the key and its own name;
the best draw wins, the next best comes after it. A backend that comes or goes moves only its own
share. The names count, not addresses or order, so all nodes agree.

The draw is BLAKE2b (8 bytes, keyed by `hash_key`) → u in (0, 1) → -ln(u) / weight, smallest first:
then the chance of winning is proportional to the weight. Source: web.md rule 5; Thaler and
Ravishankar 1998; the seed's "consistent hash". A small table keeps the ranking of recent keys,
since 16 backends cost 12 µs a key.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final

__all__ = ["Ring"]

#: Rankings kept. By digest, so that long keys cost no more: about 150 bytes each plus 8 a backend.
KEPT: Final = 4096


class Ring:
    """`backends`: (name, weight) pairs, weights above 0; `key`: secret or salt, cut at 64 bytes."""

    def __init__(self, backends: Sequence[tuple[str, float]], key: bytes = b"") -> None:
        self._names = [(name.encode(), weight) for name, weight in backends]
        self._key = key[:64]
        self._kept: dict[bytes, tuple[int, ...]] = {}

    def ranking(self, key: bytes) -> tuple[int, ...]:
        """The indices of the backends for `key`, best first."""
        digest = hashlib.blake2b(key, digest_size=16, key=self._key).digest()
        kept = self._kept
        found = kept.get(digest)
        if found is None:
            if len(kept) >= KEPT:
                # The oldest of a dictionary is its first: a queue is near enough to least used.
                del kept[next(iter(kept))]
            found = kept[digest] = self._rank(digest)
        return found

    def _rank(self, digest: bytes) -> tuple[int, ...]:
        draws = []
        for index, (name, weight) in enumerate(self._names):
            draw = hashlib.blake2b(digest + name, digest_size=8, key=self._key).digest()
            # +0.5 keeps u off 0 and 1, where the logarithm is infinite or 0.
            u = (int.from_bytes(draw, "big") + 0.5) / 2.0**64
            draws.append((-math.log(min(u, 1.0 - 2.0**-53)) / weight, name, index))
        draws.sort()
        return tuple(index for _, _, index in draws)
