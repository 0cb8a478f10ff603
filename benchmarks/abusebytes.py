"""Decides what attackers send: the opening bytes of each kind of attack, and what follows slowly.

Pure. `opening(name, host)` gives the bytes of one connection; attacks that speak no HTTP have none.
Sizes are just under DLBA's default limits where the request is meant to pass, far over them where
it is meant to be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["BIG", "DRIPS", "FIRST_ANSWER", "opening"]

KIB: Final = 1024
MIB: Final = 1024 * KIB

BIG: Final = 8 * MIB
"""Bytes of the backend's `/big`: more than all buffers between it and a client take."""

PASSING: Final = 56 * KIB
"""Bytes of a head that `limits.head` (64 KiB) lets through."""

FIRST_ANSWER: Final = b"HTTP/1.1 "


def _request(target: str, *lines: str, method: str = "GET") -> Callable[[], bytes]:
    head = "".join(f"{line}\r\n" for line in (f"{method} {target} HTTP/1.1", "Host: attacked"))
    head += "".join(f"{line}\r\n" for line in lines)
    return lambda: head.encode() + b"\r\n"


def _post(body: bytes, *lines: str, target: str = "/") -> Callable[[], bytes]:
    head = _request(target, *lines, method="POST")()
    return lambda: head + body


def _many(line: str, count: int) -> Callable[[], bytes]:
    return _request("/", *(line.format(number) for number in range(count)))


#: name → the opening.
_OPENINGS: Final[Mapping[str, Callable[[], bytes]]] = {
    "nothing": lambda: b"",
    "small": _request("/"),
    "half a head": lambda: b"GET / HTTP/1.1\r\nHost: attacked\r\nX-Slow: ",
    "slow body": _post(b"x", "Content-Length: 1000000"),
    "most of a body": _post(bytes(250 * KIB), f"Content-Length: {255 * KIB}"),
    "stuck upload": _post(bytes(4 * MIB), f"Content-Length: {64 * MIB}", target="/stuck"),
    "big": _request("/big"),
    "mute": _request("/mute"),
    "storm": _request("/storm"),
    "dead": _request("/dead"),
    "endless head": lambda: b"GET / HTTP/1.1\r\nHost: attacked\r\nX-Long: " + b"a" * MIB,
    "many headers": _many("X-Header-{}: value", 190),
    "too many headers": _many("a:{:04}", 5000),
    "many cookies": _request("/", "Cookie: " + "; ".join(f"c{n}=v" for n in range(PASSING // 8))),
    "long cookie": _request("/", "Cookie: c=" + "v" * PASSING),
    "own cookies": _request("/", "Cookie: " + "DLBA=abcdefgh; " * (PASSING // 15) + "a=b"),
    "chunk extensions": _post(b"1;e=" + b"a" * MIB, "Transfer-Encoding: chunked"),
    "trailers": _post(
        b"1\r\nx\r\n0\r\n" + b"T: tttt\r\n" * (MIB // 9), "Transfer-Encoding: chunked"
    ),
    "tiny chunks": _post(
        b"1\r\nx\r\n" * (32 * KIB) + b"0\r\n\r\n", "Transfer-Encoding: chunked"
    ),
    "pipeline": lambda: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 5000,
    "ranges": _request("/big", "Range: bytes=" + ",".join(f"{n}-{n}" for n in range(0, 2000, 2))),
    "refused": lambda: b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1\r\n",
    # After a ClientHello: records that TLS 1.3 takes and throws away.
    "empty records": lambda: b"\x14\x03\x03\x00\x01\x01" * 1000,
}  # fmt: skip

DRIPS: Final[Mapping[str, bytes]] = {"half a head": b"a", "slow body": b"b"}
"""What follows an opening, again and again."""


def opening(name: str) -> bytes:
    """What a connection of this kind sends at once. Raises KeyError for an unknown name."""
    return _OPENINGS[name]()
