"""Decides what a route token is: the opaque word that names a backend at the client.

A token is `KEY-ID.MAC`: MAC is the first 128 bits of HMAC-SHA256 over the pool's and the backend's
name under a secret key, in base64url (22 characters). Nobody can forge one, it tells no address,
and every node with the same keys makes the same one, so no table of sessions exists anywhere. As
pools and keys are few, all valid tokens are computed once; checking one is a dictionary look-up.

The first key signs, all of them verify (`dlba.config.keys`); keys and backends may change at any
time.
Source: web.md rule 9; the seed's "Cookie Injection".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

from dlba.config.keys import SecretKey

__all__ = ["Tokens"]


class Tokens:
    """All tokens of all backends under all keys.

    `backends`: (pool name, backend name) pairs.
    """

    def __init__(self, keys: tuple[SecretKey, ...], backends: Iterable[tuple[str, str]]) -> None:
        self._keys = keys
        self._backends = tuple(backends)
        self._named: dict[bytes, tuple[str, str]] = {}
        self._newest: dict[tuple[str, str], bytes] = {}
        self._make()

    def renew(self, keys: tuple[SecretKey, ...]) -> None:
        """From now on `keys[0]` signs and all of `keys` verify."""
        self._keys = keys
        self._make()

    def configure(self, backends: Iterable[tuple[str, str]]) -> None:
        """From now on there are tokens of these backends, and no others count."""
        self._backends = tuple(backends)
        self._make()

    def _make(self) -> None:
        named: dict[bytes, tuple[str, str]] = {}
        newest: dict[tuple[str, str], bytes] = {}
        for backend in self._backends:
            for key in reversed(self._keys):
                token = _token(key, *backend)
                named[token] = backend
                newest[backend] = token
        self._named, self._newest = named, newest

    def backend(self, token: bytes) -> tuple[str, str] | None:
        """The (pool, backend) that `token` names, or None if it is no token of ours."""
        return self._named.get(token)

    def token(self, pool: str, backend: str) -> bytes:
        """The token to give out for a backend, under the key that signs."""
        return self._newest[pool, backend]


def _token(key: SecretKey, pool: str, backend: str) -> bytes:
    # Names hold no NUL (the configuration sees to it), so the pair can't be read in two ways.
    message = b"dlba route token\0" + pool.encode() + b"\0" + backend.encode()
    digest = hmac.digest(key.key, message, hashlib.sha256)[:16]
    return key.id.encode() + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")
