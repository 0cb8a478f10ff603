"""Readers of what HTTP knows: header fields, upgrade tokens, statuses, networks, hosts to send.

Pure, and written like `dlba.config.fields`. Source: RFC 9110 sections 5.1, 5.5, 5.6.2, 7.2, 7.6.3
and 7.8; web.md rules 7 and 8.
"""

import ipaddress
import re
from typing import TypeAlias

from dlba.addresses import host_name, ip_literal, split_endpoint
from dlba.config.fields import IP, NAME, TOKEN, matching, scalar, whole
from dlba.config.nodes import Node, Scalar
from dlba.config.problems import quoted
from dlba.config.shapes import Reader, Reading

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Statuses that DLBA itself answers with a sentence, and so with a page of one's own.
OWN_STATUSES = (400, 404, 405, 408, 413, 414, 417, 431, 501, 502, 503, 504, 505)
LONGEST_VALUE = 4096  # characters of a header value that is set

_VALUE = re.compile(rf"[!-~](?:[ -~]{{0,{LONGEST_VALUE - 2}}}[!-~])?", re.ASCII)
_PATH = re.compile(r'/[!-"$-~]{0,1000}', re.ASCII)  # 0x21-0x7E without #
_PROTOCOL = rf"(?![hH]2[cC]$){TOKEN.pattern}"
_HOST = rf"(?:{NAME}|\[{IP}\])(?::[0-9]{{1,5}})?"
_PREFIX_LENGTH = re.compile(r"[0-9]{1,3}", re.ASCII)


def header_name() -> Reader[str]:
    """The name of a header field."""
    expected = "the name of a header field: letters, digits and !#$%&'*+.^_`|~- (at most 64)"
    return matching(expected, TOKEN)


def header_value() -> Reader[str]:
    """The value of a header field: visible ASCII, with spaces inside only."""
    expected = f"visible ASCII characters with spaces inside only (at most {LONGEST_VALUE})"
    return matching(expected, _VALUE)


def upgrade_token() -> Reader[str]:
    """A protocol that a client may ask to change to, in lower case."""
    expected = "the name of a protocol such as websocket"

    def read(node: Node, reading: Reading) -> str:
        if not isinstance(node, Scalar) or not TOKEN.fullmatch(node.text):
            return reading.wrong(node, expected)
        protocol = node.text.lower()
        if protocol == "h2c":
            why = "a backend that takes it serves requests that DLBA would not see"
            return reading.wrong(node, "another protocol", hint=why)
        return protocol

    return Reader(expected, read, schema={"type": "string", "pattern": whole(_PROTOCOL)})


def own_status() -> Reader[int]:
    """A status that DLBA itself answers."""
    statuses = {str(status): status for status in OWN_STATUSES}
    return scalar(f"one of {', '.join(statuses)}", statuses.get, enum=list(statuses))


def network() -> Reader[Network]:
    """An IP network `address/bits`; an address alone is the network of that one."""
    expected = "a network such as 10.0.0.0/8 or 2001:db8::/32, or an IP address"

    def read(node: Node, reading: Reading) -> Network:
        text = node.text if isinstance(node, Scalar) else ""
        address, slash, bits = text.partition("/")
        literal = ip_literal(address)
        # A zone (fe80::1%eth0) is no part of a peer's address as it is compared.
        if literal is None or "%" in text or (slash and not _PREFIX_LENGTH.fullmatch(bits)):
            return reading.wrong(node, expected)
        try:
            found = ipaddress.ip_network(f"{literal}{slash}{bits}", strict=False)
        except ValueError:
            return reading.wrong(node, expected)
        if str(found.network_address) != literal:
            near = f"did you mean {quoted(str(found))}?"
            return reading.wrong(node, "a network without bits behind its prefix", hint=near)
        return found

    schema = {"type": "string", "pattern": whole(f"{IP}(?:/[0-9]{{1,3}})?")}
    return Reader(expected, read, schema=schema)


def via_name() -> Reader[str]:
    """How DLBA calls itself in Via: a pseudonym, or a host with or without port."""

    def parse(written: str) -> str | None:
        return written if TOKEN.fullmatch(written) else _host_and_port(written)

    expected = "a name such as dlba or a host, with or without port"
    return scalar(expected, parse, pattern=rf"{TOKEN.pattern}|{_HOST}")


def sent_host() -> Reader[str]:
    """A value of Host: a host name or IP address (IPv6 in brackets), with or without port."""
    expected = "a host name or IP address, with or without port"
    return scalar(expected, _host_and_port, pattern=_HOST)


def is_sent_host(text: str) -> bool:
    """Whether `text` is a value that Host may have."""
    return _host_and_port(text) is not None


def _host_and_port(written: str) -> str | None:
    """The host as Host names it, lower case, with the port if there is one; None: neither."""
    if written.startswith("[") and written.endswith("]"):
        literal = ip_literal(written[1:-1])
        return f"[{literal}]" if literal and ":" in literal and "%" not in literal else None
    if ":" not in written:
        return ip_literal(written) or host_name(written)
    parts = split_endpoint(written)
    if parts is None or parts[1] == 0 or "%" in parts[0]:
        return None
    host, port = parts
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def request_path() -> Reader[str]:
    """The target of a request of ours: a path from / on, with or without a query."""
    expected = "a path from / on, of visible ASCII without # (at most 1001)"
    return matching(expected, _PATH)
