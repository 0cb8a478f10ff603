"""Decides which proxies in front of us are believed, and what their forwarding fields become.

A peer outside the trusted networks is a client: whatever it says of others is dropped and ours
stands alone. A peer inside them tells about its client: its list of addresses gets its own address
appended, the scheme and host that its client used are kept, and so is what else it says. Spellings
with `_` are always dropped, since CGI and WSGI can't tell them from the right ones.

Where it says something twice and differently, or what can't be, nobody knows what the backend would
believe: what we know ourselves stands there instead.

Source: web.md rule 7; the contract's `trusted_proxies`; RFC 7239 4, 6 and 7.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from dlba.errors import HeadError
from dlba.web.head import TOKEN, host_of

__all__ = ["Forwarding"]

_FOR: Final = b"x-forwarded-for"
_PROTO: Final = b"x-forwarded-proto"
_HOST: Final = b"x-forwarded-host"

#: An address in a list: IPv6 in brackets or IPv4, both maybe with a port, or IPv6 as it is.
_ADDRESS: Final = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15}))(?::[0-9]{1,5})?|([0-9A-Fa-f:.]{2,45})"
).fullmatch
#: What the peers of one connection speak; some proxies tell WebSockets by their own scheme.
_SCHEMES: Final = frozenset({b"http", b"https", b"ws", b"wss"})
_SECURE: Final = frozenset({b"https", b"wss"})

#: Only sets are possessive here: groups that are may not backtrack within (see FIELD_LINES). Each
#: byte says what it belongs to, so that nothing is tried twice.
_PAIR: Final = (
    TOKEN + rb"++=(?:" + TOKEN + rb'++|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*")'
)
_ELEMENT: Final = rb"(?:" + _PAIR + rb")?(?:;(?:" + _PAIR + rb")?)*"
#: A Forwarded list. An open quote in it would swallow the element that we append.
_FORWARDED: Final = re.compile(_ELEMENT + rb"(?:[ \t]*+,[ \t]*+" + _ELEMENT + rb")*").fullmatch
_IS_TOKEN: Final = re.compile(TOKEN + rb"+").fullmatch


class Forwarding:
    """The networks whose forwarding fields count.

    `received` is in each method what the head's parser cut out: lower-case names and values of all
    fields `Forwarded`, `X-Real-IP` and `X-Forwarded…`, in order.
    """

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        self._networks = tuple(networks)

    def trusts(self, host: str) -> bool:
        """Whether the peer at the address `host` is believed."""
        if not self._networks:
            return False
        address = _address(host.partition("%")[0].encode())
        return address is not None and self._inside(address)

    def client(self, values: list[bytes], peer: str) -> str:
        """The address of the client: the last one in `values` that isn't trusted.

        `values`: of all X-Forwarded-For lines, in order. `peer`: the trusted peer's address, which
        is the answer where `values` say nothing. What isn't an address ends the search, since what
        stands before it can't be believed: then it is the address after it.
        """
        found = peer
        for element in _backwards(values):
            address = _address(element)
            if address is None:
                break
            found = str(address)
            if not self._inside(address):
                break
        return found

    def https(self, received: list[tuple[bytes, bytes]]) -> bool:
        """Whether the trusted peer says that its client spoke HTTPS."""
        said = [value for name, value in received if name == _PROTO]
        return _one(said, _is_scheme).lower() in _SECURE

    def fields(
        self, received: list[tuple[bytes, bytes]], peer: str, tls: bool, host_field: bytes
    ) -> bytes:
        """The forwarding fields for the backend, each line with the CRLF before it.

        `peer`: the trusted peer's address; `tls`: it speaks TLS with us; `host_field`: the Host
        that it sent, b"" for none.
        """
        said: dict[bytes, list[bytes]] = {_FOR: [], _PROTO: [], _HOST: [], b"forwarded": []}
        passed = b""
        for name, value in received:
            if b"_" in name:
                continue
            value = value.strip(b" \t")
            if name in said:
                if value:
                    said[name].append(value)
            else:
                spelled = b"X-Real-IP" if name == b"x-real-ip" else name.title()
                passed += b"\r\n" + spelled + b": " + value
        address = peer.encode()
        scheme = b"https" if tls else b"http"
        shown = _one(said[_HOST], _is_host) or host_field
        lines = [
            b"\r\nX-Forwarded-For: " + b", ".join((*said[_FOR], address)),
            b"\r\nX-Forwarded-Proto: " + (_one(said[_PROTO], _is_scheme) or scheme),
            b"\r\nX-Forwarded-Host: " + shown if shown else b"",
            passed,
        ]
        if said[b"forwarded"]:
            lines.append(_appended(said[b"forwarded"], address, scheme, host_field))
        return b"".join(lines)

    def _inside(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _backwards(values: list[bytes]) -> Iterator[bytes]:
    """The elements of a list in several lines, the last one first, without empty ones.

    One by one: of thousands, only the last few are looked at.
    """
    for value in reversed(values):
        end = len(value)
        while end >= 0:
            comma = value.rfind(b",", 0, end)
            element = value[comma + 1 : end].strip(b" \t")
            if element:
                yield element
            end = comma


def _address(text: bytes) -> IPv4Address | IPv6Address | None:
    """The address in `text`, without its port; IPv4 where it was mapped into IPv6."""
    match = _ADDRESS(text)
    if match is None:
        return None
    try:
        if match[2]:
            return IPv4Address(match[2].decode())
        address = IPv6Address((match[1] or match[3]).decode())
    except ValueError:
        return None
    return address.ipv4_mapped or address


def _one(values: list[bytes], valid: Callable[[bytes], bool]) -> bytes:
    """What `values` say, b"" when they say nothing, nothing valid, or different things."""
    said = b""
    for value in values:
        for element in value.split(b","):
            element = element.strip(b" \t")
            if not said:
                said = element
            elif element and element.lower() != said.lower():
                return b""
    return said if said and valid(said) else b""


def _appended(received: list[bytes], address: bytes, scheme: bytes, host_field: bytes) -> bytes:
    """The line Forwarded with our element at its end: what we know of the peer (RFC 7239 4)."""
    element = b"for=" + _quoted(b"[%b]" % address if b":" in address else address)
    if host_field:
        element += b";host=" + _quoted(host_field)
    elements = [*received, element + b";proto=" + scheme]
    if not all(map(_FORWARDED, received)):
        del elements[:-1]
    return b"\r\nForwarded: " + b", ".join(elements)


def _is_scheme(value: bytes) -> bool:
    return value.lower() in _SCHEMES


def _is_host(value: bytes) -> bool:
    try:
        host_of(value)
    except HeadError:
        return False
    return True


def _quoted(value: bytes) -> bytes:
    """A value of a Forwarded pair. Hosts and addresses hold nothing that needs a backslash."""
    return value if _IS_TOKEN(value) else b'"' + value + b'"'
