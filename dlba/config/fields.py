"""Readers of single values: what text each kind of key takes and what it becomes.

Pure: a reader sees the text as written, never YAML's idea of its type; quotes make no difference.
Times become float seconds, sizes int bytes, addresses IP literals, paths absolute.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs

from dlba.addresses import (
    Endpoint,
    host_name,
    ip_literal,
    is_any,
    is_host,
    is_unicast,
    parse_endpoint,
    port_number,
    split_endpoint,
)
from dlba.addresses import mac_address as mac_of
from dlba.config.nodes import Node, Scalar
from dlba.config.problems import quoted
from dlba.config.shapes import INVALID, Reader, Reading, Schema, suggestion

T = TypeVar("T")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?(ms|s|m|h|d)?", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,15}) ?(B|KiB|MiB|GiB)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", re.ASCII)
_INTERFACE = re.compile(r"(?!\.{1,2}$)[!-.0-9;-~]{1,15}", re.ASCII)  # no / : or space
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", re.ASCII)  # RFC 9110 section 5.6.2
_PREFIX = re.compile(r'/[!-"$->@-~]{0,1000}', re.ASCII)  # 0x21-0x7E without # and ?
_UNRESERVED = re.compile(r"%(?:2[DE]|3[0-9]|[46][1-9A-F]|[57][0-9A]|5F|7E)", re.ASCII | re.I)

#: For schemas, where readers do better: an IP address, a host name, an address with its port.
IP = r"[0-9A-Fa-f:.]+"
NAME = r"[A-Za-z0-9_.-]+"
_ENDPOINT = rf"(?:\[{IP}(?:%.+)?\]|{NAME}):[0-9]{{1,5}}"
#: Types besides text that an editor may take a word for: `1`, `1.5` and `true` are names here.
WORD = ("number", "boolean")

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
LONGEST = 366 * 86400.0  # seconds; a longer time is a slip, and timers far out lose precision
MAX_AGE = 400 * 86400.0  # seconds; browsers cut a cookie's life there (RFC 6265bis section 5.5)
LARGEST = 1 << 50  # bytes


def whole(pattern: str | re.Pattern[str]) -> str:
    """`pattern` for a schema, where it is searched for: bound to all of the text."""
    return f"^(?:{pattern if isinstance(pattern, str) else pattern.pattern})$"


def scalar(
    expected: str,
    parse: Callable[[str], T | None],
    unit: str = "",
    *,
    pattern: str | re.Pattern[str] = "",
    also: tuple[str, ...] = (),
    **schema: Any,
) -> Reader[T]:
    """A reader of scalars; `parse` gives None for text that isn't `expected`.

    For its schema: `pattern` of the text, `also` the types besides text that an editor may take it
    for (YAML makes 80 a number), and further keywords.
    """
    described: Schema = {"type": ["string", *also] if also else "string", **schema}
    if pattern:
        described["pattern"] = whole(pattern)

    def read(node: Node, reading: Reading) -> T:
        value = parse(node.text) if isinstance(node, Scalar) else None
        return reading.wrong(node, expected) if value is None else value

    return Reader(expected, read, unit, described)


def text(longest: int = 1000, empty: bool = False) -> Reader[str]:
    """Printable text of at most `longest` characters."""

    def parse(written: str) -> str | None:
        good = (written or empty) and len(written) <= longest and not _CONTROL.search(written)
        return written if good else None

    expected = f"text of at most {longest} characters"
    bounds: Schema = {"maxLength": longest, "minLength": 0 if empty else 1}
    return scalar(expected, parse, also=WORD, **bounds)


def matching(expected: str, pattern: re.Pattern[str]) -> Reader[str]:
    """Text that `pattern` matches as a whole."""

    def parse(written: str) -> str | None:
        return written if pattern.fullmatch(written) else None

    return scalar(expected, parse, pattern=pattern, also=WORD)


def name() -> Reader[str]:
    """The name of a node, an array, a pool or a backend."""
    expected = "a name of letters, digits, _ . - (at most 63)"
    return matching(expected, _NAME)


def integer(low: int, high: int, unit: str = "") -> Reader[int]:
    """A decimal integer from `low` to `high`, both included."""

    def parse(written: str) -> int | None:
        value = int(written) if _INTEGER.fullmatch(written) else None
        return value if value is not None and low <= value <= high else None

    bounds = {"minimum": low, "maximum": high}
    expected = f"an integer from {low} to {high}"
    return scalar(expected, parse, unit, pattern=_INTEGER, also=("integer",), **bounds)


def boolean() -> Reader[bool]:
    """`true` or `false`, nothing else."""
    words = {"true": True, "false": False}
    # Quoted words are booleans too, but none that an editor should offer.
    return attrs.evolve(scalar("true or false", words.get), schema={"type": "boolean"})


def duration(low: float = 0.001, high: float = LONGEST) -> Reader[float]:
    """Seconds from `low` to `high`, written as seconds or with ms, s, m, h, d."""

    def parse(written: str) -> float | None:
        found = _DURATION.fullmatch(written)
        value = float(found[1]) * _SECONDS[found[2] or "s"] if found else None
        return value if value is not None and low <= value <= high else None

    bounds = f"from {low:g} s to " + (f"{high / 86400:g} days" if high >= 86400 else f"{high:g} s")
    expected = f"a time such as 10, 1.5, 300ms, 5m {bounds}"
    limits = {"minimum": low, "maximum": high}
    return scalar(expected, parse, "s", pattern=_DURATION, also=("number",), **limits)


def whole_seconds(low: int = 0, high: float = MAX_AGE) -> Reader[int]:
    """A time as of `duration` that is a whole number of seconds."""
    seconds = duration(low, high)

    def read(node: Node, reading: Reading) -> int:
        value = seconds.read(node, reading)
        if value is INVALID:
            return cast(int, INVALID)
        if not value.is_integer():
            return reading.wrong(node, "a whole number of seconds")
        return int(value)

    return Reader(seconds.expected, read, "s", seconds.schema)


def size(low: int = 0, high: int = LARGEST) -> Reader[int]:
    """Bytes from `low` to `high`, written as bytes or with KiB, MiB, GiB."""

    def parse(written: str) -> int | None:
        found = _SIZE.fullmatch(written)
        value = int(found[1]) * _BYTES[found[2] or "B"] if found else None
        return value if value is not None and low <= value <= high else None

    expected = f"a size such as 4096, 64KiB, 1MiB from {low} to {high} bytes"
    limits = {"minimum": low, "maximum": high}
    return scalar(expected, parse, "bytes", pattern=_SIZE, also=("integer",), **limits)


def choice(*words: str) -> Reader[str]:
    """One of `words`."""
    expected = f"one of {', '.join(words)}"

    def read(node: Node, reading: Reading) -> str:
        if isinstance(node, Scalar) and node.text in words:
            return node.text
        near = suggestion(node.text, words) if isinstance(node, Scalar) else ""
        return reading.wrong(node, expected, hint=near)

    return Reader(expected, read, schema={"enum": list(words)})


def unless(word: str, reader: Reader[T]) -> Reader[T | None]:
    """What `reader` reads, or `word`, which becomes None."""
    expected = f"{reader.expected}, or {word}"

    def read(node: Node, reading: Reading) -> T | None:
        if isinstance(node, Scalar) and node.text == word:
            return None
        trial = Reading(resolve=reading.resolve)
        value = reader.read(node, trial)
        return reading.wrong(node, expected) if trial.problems else value

    schema = {"anyOf": [{"const": word}, reader.schema]}
    return Reader(expected, read, reader.unit, schema, reader.records)


def host_pattern() -> Reader[str]:
    """A Host as requests name it: `x.y`, `*.x.y`, `*`, an IPv4 address or `[IPv6]`; lower case."""

    def parse(written: str) -> str | None:
        if written == "*":
            return written
        if written.startswith("*."):
            host = host_name(written[2:])
            return f"*.{host}" if host else None
        if written.startswith("[") and written.endswith("]"):
            literal = ip_literal(written[1:-1])
            return f"[{literal}]" if literal and ":" in literal else None
        if literal := ip_literal(written):
            return None if ":" in literal else literal
        return host_name(written)

    pattern = rf"\*|(?:\*\.)?{NAME}|\[{IP}\]"
    return scalar("a host name without port, *.host or *", parse, pattern=pattern)


def path_prefix(forbidden: str = "") -> Reader[str]:
    """The beginning of a URL's path, in the form in which paths are compared."""
    plain = "a path from / on, of visible ASCII without ? # and escaped letters or dot segments"

    def parse(written: str) -> str | None:
        whole = _PREFIX.fullmatch(written) and not _UNRESERVED.search(written)
        dots = {".", ".."} & set(written.split("/"))
        return written if whole and not dots and not set(forbidden) & set(written) else None

    return scalar(plain, parse, pattern=_PREFIX)


def cookie_name() -> Reader[str]:
    """The name of a cookie: a token (RFC 6265 section 4.1.1)."""
    expected = "a cookie name of letters, digits and !#$%&'*+.^_`|~- (at most 64)"
    return matching(expected, TOKEN)


def cookie_domain() -> Reader[str]:
    """The Domain attribute of a cookie, without a leading dot."""
    expected = "a domain name"
    return scalar(expected, lambda written: host_name(written.removeprefix(".")), pattern=NAME)


def port(low: int = 1) -> Reader[int]:
    """A TCP port; `low` 0 allows the port that the system chooses."""

    def parse(written: str) -> int | None:
        value = port_number(written)
        return value if value is not None and value >= low else None

    limits: Schema = {"minimum": low, "maximum": 65535}
    expected = f"a port from {low} to 65535"
    return scalar(expected, parse, pattern="[0-9]{1,5}", also=("integer",), **limits)


def ip_address() -> Reader[str]:
    """An IPv4 or IPv6 address, no name."""
    return scalar("an IP address", ip_literal, pattern=f"{IP}(?:%.+)?")


def ipv4_address() -> Reader[str]:
    """An IPv4 address that one machine can have."""
    expected = "an IPv4 address of a machine"

    def parse(written: str) -> str | None:
        return ip_literal(written) if is_host(written) else None

    return scalar(expected, parse, pattern=r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")


def mac_address() -> Reader[bytes]:
    """The MAC address of one station, 6 bytes."""

    def parse(written: str) -> bytes | None:
        mac = mac_of(written)
        return mac if mac is not None and is_unicast(mac) else None

    expected = "a unicast MAC address such as 02:00:00:00:00:0a"
    return scalar(expected, parse, pattern="[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}")


def interface_name() -> Reader[str]:
    """The name of a network interface, as the kernel takes them."""
    expected = "the name of a network interface (at most 15 characters)"
    return matching(expected, _INTERFACE)


def local_endpoint() -> Reader[Endpoint]:
    """`IP:port` of ours to listen on; port 0 is one that the system chooses."""

    def parse(written: str) -> Endpoint | None:
        try:
            return parse_endpoint(written)
        except ValueError:
            return None

    return scalar("IP:port or [IPv6]:port", parse, pattern=_ENDPOINT)


def remote_endpoint() -> Reader[Endpoint]:
    """`host:port` to connect to; a name is resolved now, by `reading.resolve`."""
    expected = "host:port, IP:port or [IPv6]:port"

    def read(node: Node, reading: Reading) -> Endpoint:
        parts = split_endpoint(node.text) if isinstance(node, Scalar) else None
        if parts is None or parts[1] == 0:
            return reading.wrong(node, expected)
        host, number = parts
        if ip_literal(host) is None:
            try:
                host = reading.resolve(host)
            except OSError as error:
                what = error.strerror or str(error)
                return reading.wrong(node, "a host name that resolves", f"{quoted(host)}: {what}")
        if is_any(host):
            return reading.wrong(node, "an address that can be connected to")
        return Endpoint(host, number)

    return Reader(expected, read, schema={"type": "string", "pattern": whole(_ENDPOINT)})


def file_path() -> Reader[Path]:
    """The path of a file or folder; a relative one starts in the folder of the file it is in."""

    def read(node: Node, reading: Reading) -> Path:
        if not isinstance(node, Scalar) or not node.text or _CONTROL.search(node.text):
            return reading.wrong(node, "a path")
        if "-----BEGIN" in node.text:
            return reading.wrong(node, "the path of a file")
        return node.place.source.folder / node.text

    return Reader("a path", read, schema={"type": ["string", *WORD], "minLength": 1})
