"""Addresses as text and as values: IP literals, host names, `host:port`, MAC addresses.

Pure leaf: no look-ups and no sockets. An IP literal has one spelling here, that of `ipaddress`, so
that equal addresses compare equal as text. A MAC address is 6 bytes.
"""

import ipaddress
import re

import attrs

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
# What inet_aton would take for an address in disguise (127.1, 0x7f000001): never a name.
_NUMERIC_LABEL = re.compile(r"\d+|0x[0-9a-f]*", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_MAC = re.compile(r"[0-9a-fA-F]{2}(?:([:-])[0-9a-fA-F]{2})(?:\1[0-9a-fA-F]{2}){4}", re.ASCII)
_LOCAL_BIT = 0x02
_SCHEDULER_BIT = 0x04
_NAME_LENGTH = 253  # characters, RFC 1035 section 2.3.4 without the final dot


@attrs.frozen(order=True)
class Endpoint:
    """An address and a port of TCP. `host` is an IP literal without brackets, `port` 0 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def ip_literal(text: str) -> str | None:
    """The one spelling of the IPv4 or IPv6 address in `text` (no brackets), None if it is none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def is_host(text: str) -> bool:
    """Whether `text` is an IPv4 address that one machine can have: no loopback, no multicast."""
    literal = ip_literal(text)
    if literal is None or ":" in literal:
        return False
    first = int(literal.partition(".")[0])
    return first not in (0, 127) and first < 224


def host_name(text: str) -> str | None:
    """`text` as a host name in lower case without the final dot, None if it isn't a name.

    Letters, digits, hyphen and underscore; the last label isn't a number.
    """
    name = text.lower().removesuffix(".")
    if len(name) > _NAME_LENGTH or not _NAME.fullmatch(name):
        return None
    return None if _NUMERIC_LABEL.fullmatch(name.rpartition(".")[2]) else name


def port_number(text: str) -> int | None:
    """The port, 0 to 65535, that `text` writes in decimal, else None."""
    if not _PORT.fullmatch(text) or int(text) > 65535:
        return None
    return int(text)


def split_endpoint(text: str) -> tuple[str, int] | None:
    """Host and port of `host:port` or `[v6]:port`, None if `text` is neither.

    The host is an IP literal in its one spelling, or a name in lower case. An IPv6 address needs
    its brackets: without them nobody can tell its last group from a port.
    """
    host, colon, tail = text.rpartition(":")
    port = port_number(tail)
    if not colon or port is None:
        return None
    if host.startswith("[") and host.endswith("]"):
        literal = ip_literal(host[1:-1])
        return (literal, port) if literal is not None and ":" in literal else None
    known = None if ":" in host else ip_literal(host) or host_name(host)
    return None if known is None else (known, port)


def parse_endpoint(text: str) -> Endpoint:
    """The endpoint that `text` writes as `1.2.3.4:80` or `[::1]:80`.

    Raises ValueError when it is anything else, a name among them; the caller reports its text.
    """
    parts = split_endpoint(text)
    if parts is None or ip_literal(parts[0]) is None:
        raise ValueError(f"endpoint: expected IP:port or [IPv6]:port, got {text!r}")
    return Endpoint(*parts)


def is_any(host: str) -> bool:
    """Whether the IP literal `host` stands for all addresses (0.0.0.0, ::)."""
    return ipaddress.ip_address(host).is_unspecified


def is_loopback(host: str) -> bool:
    """Whether the IP literal `host` is an address of the loopback network."""
    return ipaddress.ip_address(host).is_loopback


def same_family(one: str, other: str) -> bool:
    """Whether two IP literals are both IPv4 or both IPv6."""
    return (":" in one) == (":" in other)


def mac_address(text: str) -> bytes | None:
    """The MAC address that `text` writes as `02:00:00:00:00:0a` or `02-00-…`, else None."""
    return bytes.fromhex(text.replace("-", "").replace(":", "")) if _MAC.fullmatch(text) else None


def is_unicast(mac: bytes) -> bool:
    """Whether `mac` can belong to one station: not zero, not broadcast or multicast."""
    return not mac[0] & 1 and any(mac)


def scheduler_mac(nic: bytes, override: bytes | None = None, own_mac: bool = False) -> bytes:
    """The MAC by which a node with the MAC `nic` receives for the VIP as scheduler.

    `nic` with the local bit set and bit 0x04 of its first octet flipped (02:… gives 06:…);
    `override` instead if there is one; `nic` itself in own-MAC mode. Two NICs whose MACs differ in
    the local bit only would get the same: the configuration must give one of them an override.
    Raises ValueError for what isn't a unicast MAC, for both options at once, and for an override
    that equals `nic`.
    """
    for mac in (nic, nic if override is None else override):
        if len(mac) != 6 or not is_unicast(mac):
            raise ValueError(f"MAC address: expected 6 bytes, unicast, got {mac.hex(':')!r}")
    if override is not None:
        if own_mac or override == nic:
            raise ValueError("scheduler_mac: expected another MAC than the NIC's, or own_mac alone")
        return override
    if own_mac:
        return nic
    return bytes(((nic[0] | _LOCAL_BIT) ^ _SCHEDULER_BIT,)) + nic[1:]
