"""What two nodes tell each other first, and whether they may go on.

Pure. The one that dials says hello, the other answers with its own hello or with the reason why it
refuses; both check. Who the other is stands in its certificate: a hello only has to agree with it.
Everything travels as one JSON object and is read strictly.

Source: election.md "Hello".
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, Protocol

import attrs

from dlba.config.problems import quoted
from dlba.election.messages import NUMBER_LIMIT, TEXT_LIMIT
from dlba.errors import PeerError

__all__ = [
    "PROTOCOL",
    "Expected",
    "Hello",
    "check",
    "pack",
    "pack_refusal",
    "unpack",
    "unpack_answer",
]

#: Lowest and highest version of the protocol that this version speaks.
PROTOCOL: Final = (1, 1)
#: Bytes of a hello at most.
LIMIT: Final = 4096

_INCARNATION = re.compile(r"[0-9a-f]{16,64}", re.ASCII)
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", re.ASCII)


@attrs.frozen(kw_only=True)
class Hello:
    """A node introduces itself.

    `protocol`: lowest and highest version that it speaks; `incarnation`: random hexadecimal digits
    of its process; `mac`: as 02:00:00:00:00:0a; `hash`: what flows are hashed by (see
    `dlba.routing.kept.name_of_hash`), empty where it doesn't know yet; `config_version`: of its
    configuration, which may differ while one is pushed.
    """

    protocol: tuple[int, int]
    array: str
    node: str
    number: int
    incarnation: str
    mac: str
    buckets: int
    hash: str
    config_version: int


class Expected(Protocol):
    """What the configuration says of a node."""

    @property
    def name(self) -> str: ...

    @property
    def number(self) -> int: ...

    @property
    def mac(self) -> str: ...


def check(own: Hello, peer: Hello, certificate: str, expected: Expected) -> str:
    """Why `peer` is refused, as `key: expected, got`; empty where it is fine.

    `certificate`: the node that the peer's certificate is for; `expected`: what our configuration
    says of that node.
    """
    low = max(own.protocol[0], peer.protocol[0])
    high = min(own.protocol[1], peer.protocol[1])
    if low > high:
        return (
            f"protocol: expected one of {own.protocol[0]} to {own.protocol[1]}, "
            f"got {peer.protocol[0]} to {peer.protocol[1]}"
        )
    if peer.incarnation == own.incarnation:
        return "incarnation: expected another process, got this one"
    wanted: tuple[tuple[str, object], ...] = (
        ("array", own.array),
        ("node", certificate),
        ("number", expected.number),
        ("mac", expected.mac),
        ("buckets", own.buckets),
    )
    for key, value in wanted:
        got = getattr(peer, key)
        if got != value:
            shown = quoted(got) if isinstance(got, str) else got
            return f"{key}: expected {value}, got {shown}"
    if own.hash and peer.hash and own.hash != peer.hash:
        return f"hash: expected {own.hash}, got {quoted(peer.hash)}"
    return ""


def pack(hello: Hello) -> bytes:
    """The JSON object of a hello."""
    return _json(attrs.asdict(hello))


def pack_refusal(why: str) -> bytes:
    """The answer to a hello that is refused; `why` is cut where it is long."""
    return _json({"refused": why[:TEXT_LIMIT]})


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def unpack(data: bytes) -> Hello:
    """The hello in `data`. Raises PeerError for anything that `pack` doesn't make."""
    return _hello(_object(data))


def unpack_answer(data: bytes) -> Hello | str:
    """The hello in the answer, or why ours is refused. Raises PeerError as `unpack` does."""
    fields = _object(data)
    if fields.keys() == {"refused"}:
        return _text("refused", fields["refused"])
    return _hello(fields)


def _object(data: bytes) -> dict[str, Any]:
    if len(data) > LIMIT:
        raise PeerError(f"hello: expected {LIMIT} bytes at most, got {len(data)}")
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise PeerError("hello: expected a JSON object, got something else")
    return fields


def _hello(fields: dict[str, Any]) -> Hello:
    names = [field.name for field in attrs.fields(Hello)]
    if fields.keys() != set(names):
        raise PeerError(f"hello: expected the fields {', '.join(names)}, got others")
    protocol = fields["protocol"]
    if not isinstance(protocol, list) or len(protocol) != 2:
        raise PeerError("hello: protocol: expected two numbers, got something else")
    low, high = (_number("protocol", value) for value in protocol)
    if low > high:
        raise PeerError("hello: protocol: expected the lower number first, got it last")
    texts = {
        key: _text(key, fields[key]) for key in ("array", "node", "hash", "incarnation", "mac")
    }
    if not _INCARNATION.fullmatch(texts["incarnation"]):
        raise PeerError("hello: incarnation: expected 16 to 64 hexadecimal digits, got others")
    if not _MAC.fullmatch(texts["mac"]):
        raise PeerError("hello: mac: expected a MAC address, got something else")
    numbers = {key: _number(key, fields[key]) for key in ("number", "buckets", "config_version")}
    values: dict[str, Any] = {**texts, **numbers}
    return Hello(protocol=(low, high), **values)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_LIMIT or not value.isprintable():
        raise PeerError(f"hello: {key}: expected text, got something else")
    return value


def _number(key: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < NUMBER_LIMIT:
        raise PeerError(f"hello: {key}: expected a number, got something else")
    return value
