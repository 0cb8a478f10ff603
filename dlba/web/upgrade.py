"""Decides which protocols a client may switch to, and whether a backend did what was asked.

Only the protocols that a site names are offered to its backend; a 101 is believed only where it
names one of them. Pure. Source: web.md rule 8; RFC 9110 7.8; RFC 6455 4.
"""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["offered", "switched"]


def _protocols(value: bytes) -> list[bytes]:
    return [word for word in (part.strip(b" \t") for part in value.split(b",")) if word]


def offered(value: bytes, allowed: Collection[bytes]) -> bytes:
    """The Upgrade value for the backend: what of the client's `value` is in `allowed`.

    `allowed`: lower case. b"": nothing of it, the request is an ordinary one.
    """
    return b", ".join(word for word in _protocols(value) if word.lower() in allowed)


def switched(value: bytes, offer: bytes) -> bool:
    """Whether a 101 with the Upgrade `value` names protocols of the `offer`, and only those."""
    words = [word.lower() for word in _protocols(value)]
    return bool(words) and set(words) <= {word.lower() for word in _protocols(offer)}
