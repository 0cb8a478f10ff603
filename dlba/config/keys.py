"""Reads the secrets file: the keys that sign route tokens, and the key of the keyed hash.

Pure. Text lines `id key`, newest first; empty lines and lines that begin with # don't count. The id
`hash` names the key under which flows are hashed to buckets: one, the same on all nodes, and never
rotated while the array runs, since that would move every connection; it signs nothing. A message
names the line at fault, never what stands in it.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from dlba.config.values import NodeConfig
from dlba.errors import DLBAError

__all__ = ["HASH_ID", "KEYS_LIMIT", "Keys", "SecretKey", "needs_keys", "parse_keys"]

_LINE: Final = re.compile(r"([0-9A-Za-z]{1,16})[ \t]+(\S{32,512})").fullmatch
#: Keys in one file: rotation needs two or three; more would only slow a change of the pools.
KEYS_LIMIT: Final = 64
#: The id of the key of the keyed hash.
HASH_ID: Final = "hash"


@attrs.frozen(repr=False)
class SecretKey:
    """One key: `id` (letters and digits, shown in tokens) and `key` (its bytes, secret)."""

    id: str
    key: bytes


@attrs.frozen(repr=False)
class Keys:
    """A secrets file. `signing`: newest first, none where nobody signs; `hash`: None without it."""

    signing: tuple[SecretKey, ...]
    hash: bytes | None = None


def needs_keys(config: NodeConfig) -> bool:
    """Whether the node reads its secrets: the proxy signs with them, `hash: keyed` hashes."""
    keyed = config.interface is not None and config.array.routing.hash == "keyed"
    return config.array.web is not None or keyed


def parse_keys(text: str) -> Keys:
    """The keys in a secrets file. Raises DLBAError with the line at fault."""
    keys: list[SecretKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        match = _LINE(words)
        if match is None:
            raise DLBAError(
                f"line {number}: expected an id (1 to 16 letters and digits) and a key "
                "(32 to 512 characters without spaces)"
            )
        if any(key.id == match[1] for key in keys):
            raise DLBAError(f"line {number}: the id {match[1]} stands twice")
        keys.append(SecretKey(match[1], match[2].encode()))
    signing = tuple(key for key in keys if key.id != HASH_ID)
    if not 1 <= len(signing) <= KEYS_LIMIT:
        raise DLBAError(f"expected 1 to {KEYS_LIMIT} keys, got {len(signing)}")
    return Keys(signing, next((key.key for key in keys if key.id == HASH_ID), None))
