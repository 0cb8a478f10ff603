"""What tests of heads compare with: naive parsers that go line by line, and a check of the cost."""

import ipaddress
import time

TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
VALUE = frozenset(b"\t") | frozenset(range(0x20, 0x7F)) | frozenset(range(0x80, 0x100))
TARGET = frozenset(range(0x21, 0x7F)) - frozenset(b"#")
HOST = frozenset(b"-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
DIGITS = frozenset(b"0123456789")

#: RFC 9110 7.6.1, with what older clients send: none of them may go on.
HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"http2-settings"),
    }
)


def made_of(text: bytes, characters: frozenset[int]) -> bool:
    """`text` isn't empty and holds nothing but `characters`."""
    return bool(text) and set(text) <= characters


def naive_lines(head: bytes) -> list[bytes]:
    """The lines of a head without its final CRLFCRLF. ValueError: one holds a bare CR or LF."""
    lines = head.split(b"\r\n")
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise ValueError("bare CR or LF")
    return lines


def naive_fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """(lower-case name, stripped value) of each line. ValueError: one isn't a field."""
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not made_of(name, TOKEN) or not set(value) <= VALUE:
            raise ValueError(f"not a field: {line!r}")
        fields.append((name.lower(), value.strip(b" \t")))
    return fields


def naive_request(head: bytes) -> tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]]]:
    """Method, target, version ("1.1") and fields. ValueError: it isn't a request head."""
    lines = naive_lines(head)
    words = lines[0].split(b" ")
    if len(words) != 3:
        raise ValueError("not three words")
    method, target, version = words
    if not made_of(method, TOKEN) or len(method) > 32 or not made_of(target, TARGET):
        raise ValueError("method or target")
    number = version[5:]
    if version[:5] != b"HTTP/" or len(number) != 3 or number[1:2] != b".":
        raise ValueError("version")
    if not made_of(number[:1] + number[2:], DIGITS):
        raise ValueError("version")
    return method, target, number, naive_fields(lines[1:])


def naive_host(value: bytes) -> bytes | None:
    """The host of a Host value in lower case, without port and final dot. None: it is none."""
    if value.startswith(b"["):
        name, bracket, port = value[1:].partition(b"]")
        try:
            ipaddress.IPv6Address(name.decode("latin-1"))
        except ValueError:
            return None
        if not bracket or b"%" in name or not (port == b"" or port.startswith(b":")):
            return None
        name, port = b"[" + name + b"]", port[1:]
    else:
        name, _, port = value.partition(b":")
        if not made_of(name, HOST):
            return None
    if port and (not made_of(port, DIGITS) or len(port) > 5):
        return None
    name = name.lower()
    return name[:-1] if name.endswith(b".") and len(name) > 1 else name


def options_of(fields: list[tuple[bytes, bytes]]) -> set[bytes]:
    """The connection options, in lower case."""
    values = b",".join(value for name, value in fields if name == b"connection")
    return {option.strip(b" \t").lower() for option in values.split(b",")}


def values_of(fields: list[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    """All values of one field."""
    return [value for name, value in fields if name == wanted]


def cost(call, enough: float = 0.0) -> float:
    """Seconds of processor time of one call: the least of five, or the first below `enough`."""
    least = float("inf")
    for _ in range(5):
        begun = time.process_time()
        call()
        least = min(least, time.process_time() - begun)
        if least < enough:
            break
    return least


def assert_linear(case, call, make) -> None:
    """`call(make(size))` takes time in proportion to the size of what `make` gives.

    Generous by 8 times, and by what a clock can't tell; a square is 256 times dearer at the end.
    It fails at the first size that shows it, so that a cubic rule doesn't run for hours.
    """
    small = 256
    limit = 0.0
    for size in (small, 1024, 4096, 16384, 65536):
        data = make(size)
        spent = cost(lambda data=data: call(data), limit * size)
        limit = limit or max(spent, 20e-6) * 8 / small
        case.assertLess(spent, limit * size, f"{size} bytes of {data[:40]!r}…")


class Counted(bytes):
    """Bytes that count, in `looked`, how many of them each search looks at."""

    looked = 0

    def find(self, sub: bytes, start: int = 0) -> int:  # type: ignore[override]
        Counted.looked += len(self) - start
        return bytes(self).find(sub, start)

    def count(self, sub: bytes, start: int = 0) -> int:  # type: ignore[override]
        Counted.looked += len(self) - start
        return bytes(self).count(sub, start)

    def __add__(self, more: bytes) -> "Counted":
        return Counted(bytes(self) + more)
