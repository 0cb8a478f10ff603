"""Decides what a route token is: the opaque word that names a backend at the client.

A token is `KEY-ID.MAC`: MAC is the first 128 bits of HMAC-SHA256 over the pool's and the backend's
name under a secret key, in base64url (22 characters). Nobody can forge one, it tells no address,
and every node with the same keys makes the same one, so no table of sessions exists anywhere. As
pools and keys are few, all valid tokens are computed once; checking one is a dictionary look-up.

Keys are text lines `id key`, newest first: the first one signs, all of them verify. Source: web.md
rule 9; the seed's "Cookie Injection".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final

import attrs

from dlba.errors import DLBAError

__all__ = ["SecretKey", "Tokens", "parse_keys"]

_LINE: Final = re.compile(r"([0-9A-Za-z]{1,16})[ \t]+(\S{32,512})").fullmatch
#: Keys in one file: rotation needs two or three; more would only slow a change of the pools.
KEYS_LIMIT: Final = 64


@attrs.frozen(repr=False)
class SecretKey:
    """One key: `id` (letters and digits, shown in tokens) and `key` (its bytes, secret)."""

    id: str
    key: bytes


def parse_keys(text: str) -> tuple[SecretKey, ...]:
    """The keys in a secrets file, newest first. Raises DLBAError with the line at fault."""
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
    if not 1 <= len(keys) <= KEYS_LIMIT:
        raise DLBAError(f"expected 1 to {KEYS_LIMIT} keys, got {len(keys)}")
    return tuple(keys)


class Tokens:
    """All tokens of all backends under all keys.

    `backends`: (pool name, backend name) pairs.
    """

    def __init__(self, keys: tuple[SecretKey, ...], backends: Iterable[tuple[str, str]]) -> None:
        self._named: dict[bytes, tuple[str, str]] = {}
        self._newest: dict[tuple[str, str], bytes] = {}
        for backend in backends:
            for key in reversed(keys):
                token = _token(key, *backend)
                self._named[token] = backend
                self._newest[backend] = token

    def backend(self, token: bytes) -> tuple[str, str] | None:
        """The (pool, backend) that `token` names, or None if it is no token of ours."""
        return self._named.get(token)

    def token(self, pool: str, backend: str) -> bytes:
        """The token to give out for a backend, under the newest key."""
        return self._newest[pool, backend]


def _token(key: SecretKey, pool: str, backend: str) -> bytes:
    # Names hold no NUL (the configuration sees to it), so the pair can't be read in two ways.
    message = b"dlba route token\0" + pool.encode() + b"\0" + backend.encode()
    digest = hmac.digest(key.key, message, hashlib.sha256)[:16]
    return key.id.encode() + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")
