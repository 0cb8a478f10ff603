"""Decides whether a request head is valid, and what of it reaches a backend.

One regular expression checks the grammar of the whole head, a second one finds the fields that a
rule needs; every other byte stays as it came, so that case and order reach the backend. Framing,
hop-by-hop and forwarding fields are cut out, so that what goes on has exactly one framing: ours.

Source: web.md rules 3 and 7; RFC 9112 2–7, RFC 9110 5.5, 7.2, 7.6, 10.1.1. Stricter than the RFC:
bare LF, obs-fold and an empty Host are refused, a Content-Length stands once. Looser: HTAB and
0x80–FF in values, HTTP/1.2 and above count as 1.1.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

from dlba.errors import HeadError

__all__ = ["CHUNKED", "HEAD_END", "HeadLimits", "RequestHead", "parse_request"]

#: What ends a head.
HEAD_END: Final = b"\r\n\r\n"
#: `RequestHead.length` and `ResponseHead.length` of a chunked body.
CHUNKED: Final = -1

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
#: Any number of field lines, each with the CRLF before it. The body of this possessive group may
#: not backtrack: only literals and possessive sets (CPython before 3.11.5, gh-106052).
FIELD_LINES: Final = rb"(?:\r\n" + TOKEN + rb"++:[\t -~\x80-\xff]*+)*+"
#: Methods are tokens; 32 bytes hold every registered one (the longest has 18).
_HEAD: Final = re.compile(
    rb"(" + TOKEN + rb"{1,32}+) ([!-\"$-~]++) HTTP/(\d)\.(\d)(" + FIELD_LINES + rb")"
).fullmatch
_REQUEST_LINE: Final = re.compile(rb"(" + TOKEN + rb"{1,32}) ([!-~]+) HTTP/(\d)\.(\d)").fullmatch

_LONG_METHOD: Final = re.compile(TOKEN + rb"{33,} ").match

#: Fields that don't go on; split() gives what is kept, a name and a value by turns, in one pass.
#: The look-ahead spares the alternatives for every other field. Names with `_` are those that
#: CGI and WSGI can't tell from the right ones: they are dropped, whatever they say.
_CUT: Final = re.compile(
    rb"\r\n(?=[ctekuhpfxCTEKUHPFX])(connection|content[-_]length|transfer[-_]encoding|te|trailer"
    rb"|expect|upgrade|keep-alive|proxy-connection|http2-settings|forwarded|x[-_]real[-_]ip"
    rb"|x[-_]forwarded(?:[-_]" + TOKEN + rb"+)?):([^\r]*+)",
    re.IGNORECASE,
).split
_HOSTS: Final = re.compile(rb"\r\nhost:([^\r]*+)", re.IGNORECASE).findall
_COOKIE: Final = re.compile(rb"\r\ncookie:", re.IGNORECASE).search

_HOST: Final = re.compile(rb"([0-9A-Za-z._~\-]+|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?").fullmatch
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE).fullmatch
_DIGITS: Final = re.compile(rb"[0-9]{1,18}").fullmatch
#: First letters of the forwarding fields: no other field that is cut begins with them.
_FORWARDING: Final = b"xf"
#: Of a request that brings none.
_NONE: Final[list[tuple[bytes, bytes]]] = []
#: Connection options that name no field to cut, or one that is cut anyway.
_PLAIN_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade", b"te", b"host", b""})


class HeadLimits:
    """How large a head may be: `target` in bytes, `fields` in lines. The reader bounds the rest."""

    __slots__ = ("fields", "target")

    def __init__(self, target: int, fields: int) -> None:
        self.target = target
        self.fields = fields


class RequestHead:
    """A valid request head.

    `method`, `target` (origin form or `*`, as received), `line` (the request line as received);
    `host` (lower case, without port and final dot; b"" when HTTP/1.0 sent none) and `host_field`
    (the Host value that goes on); `fields` (the field lines that go on, each with the CRLF before
    it, without framing, hop-by-hop and forwarding fields); `length` (bytes of the body, `CHUNKED`,
    or None when no body was announced); `minor` (0 or 1); `keep_alive` (the client asks for it);
    `expects_continue`; `cookies` (a Cookie line stands in `fields`); `upgrade` (the Upgrade value
    where Connection names it, of HTTP/1.1 without a body; else b""); `forwarding` (the forwarding
    fields that were cut out, lower-case name and value, in order).
    """

    __slots__ = (
        "cookies",
        "expects_continue",
        "fields",
        "forwarding",
        "host",
        "host_field",
        "keep_alive",
        "length",
        "line",
        "method",
        "minor",
        "target",
        "upgrade",
    )

    def __init__(self, line: bytes, method: bytes, target: bytes, minor: int) -> None:
        self.line = line
        self.method = method
        self.target = target
        self.minor = minor
        self.host = b""
        self.host_field = b""
        self.fields = b""
        self.length: int | None = None
        self.keep_alive = minor > 0
        self.expects_continue = False
        self.cookies = False
        self.upgrade = b""
        self.forwarding = _NONE


def parse_request(head: bytes, limits: HeadLimits) -> RequestHead:
    """Check `head` (all before its CRLFCRLF) and take from it what the rules need.

    Raises `HeadError` with the status to answer: 400, 405, 414, 417, 431, 501 or 505.
    """
    match = _HEAD(head)
    if match is None:
        raise _why_invalid(head, limits)
    method, target, major, digit, block = match.groups()
    if major != b"1":
        raise HeadError(505, "only HTTP/1.0 and HTTP/1.1 are served here")
    if len(target) > limits.target:
        raise HeadError(414, "the request target is too long")
    if block.count(b"\r\n") > limits.fields:
        raise HeadError(431, "too many header fields")
    request = RequestHead(head[: match.start(5)], method, target, 0 if digit == b"0" else 1)
    _take_fields(request, block)
    if request.minor and not request.host_field:
        raise HeadError(400, "an HTTP/1.1 request needs a Host")
    if target[0] != 0x2F or method in _NOT_SERVED:  # 0x2F: "/", origin form
        _take_target(request)
    return request


_NOT_SERVED: Final = frozenset({b"CONNECT", b"TRACE"})


def _take_fields(request: RequestHead, block: bytes) -> None:
    """Read the needed fields of `block` into `request`, cut out those that don't go on."""
    hosts = _HOSTS(block)
    if hosts:
        request.host_field = value = hosts[0].strip(b" \t")
        if len(hosts) > 1 or not value:
            raise HeadError(400, "exactly one Host is allowed")
        request.host = host_of(value)
    parts = _CUT(block)
    if len(parts) > 1:
        block = _take_cut(request, b"".join(parts[::3]), parts[1::3], parts[2::3])
    request.fields = block
    request.cookies = _COOKIE(block) is not None


def _take_cut(request: RequestHead, block: bytes, names: list[bytes], values: list[bytes]) -> bytes:
    """Read the fields that were cut out; `block` without those that Connection names."""
    named: bytes | None = None
    coding: bytes | None = None
    expectation: bytes | None = None
    upgrade: bytes | None = None
    forwarding: list[tuple[bytes, bytes]] = []
    for name, value in zip(names, values, strict=True):
        name = name.lower()
        if name == b"connection":
            named = value if named is None else named + b"," + value
        elif name == b"content-length":
            value = value.strip(b" \t")
            if request.length is not None or not _DIGITS(value):
                raise HeadError(400, "Content-Length must stand once, as 1 to 18 digits")
            request.length = int(value)
        elif name == b"transfer-encoding":
            coding = value if coding is None else coding + b"," + value
        elif name == b"expect":
            expectation = value if expectation is None else expectation + b"," + value
        elif name == b"upgrade":
            upgrade = value if upgrade is None else upgrade + b"," + value
        elif name[0] in _FORWARDING:
            forwarding.append((name, value.strip(b" \t")))
    if forwarding:
        request.forwarding = forwarding
    if coding is not None:
        _take_coding(request, coding)
    if expectation is not None and request.minor:
        if expectation.strip(b" \t").lower() != b"100-continue":
            raise HeadError(417, "the only expectation met here is 100-continue")
        request.expects_continue = True
    if named is None:
        return block
    options, fields = connection_options(named)
    request.keep_alive = b"close" not in options and (request.minor > 0 or b"keep-alive" in options)
    if upgrade is not None and b"upgrade" in options and request.minor and not request.length:
        request.upgrade = upgrade
    return cut_named(block, fields) if fields else block


def connection_options(value: bytes) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """The options in a Connection value, lower case, and those that name a field to cut."""
    # Nearly every message has one of a few short values.
    return _few_options(value) if len(value) <= 64 else _options(value)


def _options(value: bytes) -> tuple[frozenset[bytes], frozenset[bytes]]:
    options = frozenset(option.strip(b" \t") for option in value.lower().split(b","))
    return options, options - _PLAIN_OPTIONS


_few_options = lru_cache(maxsize=128)(_options)


def _take_coding(request: RequestHead, coding: bytes) -> None:
    codings = [word.strip(b" \t") for word in coding.lower().split(b",")]
    if request.minor == 0:
        raise HeadError(400, "Transfer-Encoding has no place in HTTP/1.0")
    if request.length is not None:
        raise HeadError(400, "Content-Length and Transfer-Encoding exclude each other")
    if codings != [b"chunked"]:
        before = codings[:-1]
        if codings[-1] == b"chunked" and any(before) and b"chunked" not in before:
            raise HeadError(501, "the only transfer coding served here is chunked")
        raise HeadError(400, "Transfer-Encoding must be chunked")
    request.length = CHUNKED


def _take_target(request: RequestHead) -> None:
    """Bring a target that isn't in origin form there, or refuse it."""
    target = request.target
    if request.method in _NOT_SERVED:
        raise HeadError(405, f"{request.method.decode()} isn't served here")
    if target == b"*":
        if request.method != b"OPTIONS":
            raise HeadError(400, "the target * belongs to OPTIONS")
        return
    match = _ABSOLUTE(target)
    if match is None:
        raise HeadError(400, "the target must be a path, or begin with http:// or https://")
    authority, rest = match.groups()
    request.host = host_of(authority)
    # RFC 9112 3.2.2: the authority replaces whatever Host says, before anything is chosen.
    line = b"\r\nHost: " + authority
    if request.host_field:
        request.fields = _HOST_LINE(line, request.fields, count=1)
    elif not request.minor:
        request.fields += line
    request.host_field = authority
    if not rest:
        request.target = b"*" if request.method == b"OPTIONS" else b"/"
    else:
        request.target = rest if rest[0] == 0x2F else b"/" + rest


_HOST_LINE: Final = re.compile(rb"\r\nhost:[^\r]*", re.IGNORECASE).sub


def host_of(value: bytes) -> bytes:
    """The name in a Host value: lower case, without port and final dot. 400 when it's none."""
    match = _HOST(value)
    if match is None or (match[1][0] == 0x5B and not _is_ipv6(match[1])):  # 0x5B: "["
        raise HeadError(400, "the Host isn't a host name or address")
    return match[1].lower().removesuffix(b".") or b"."


def _is_ipv6(literal: bytes) -> bool:
    """Whether `literal`, an address in brackets, is one."""
    try:
        IPv6Address(literal[1:-1].decode("ascii"))
    except ValueError:
        return False
    return True


def cut_named(block: bytes, names: frozenset[bytes]) -> bytes:
    """`block` without the fields `names` (lower case)."""
    lines = block.split(b"\r\n")
    return b"\r\n".join(
        line for line in lines if line[: max(line.find(b":"), 0)].lower() not in names
    )


def _why_invalid(head: bytes, limits: HeadLimits) -> HeadError:
    """The error for a head that the grammar refused: off the hot path, so it can look twice."""
    line, _, rest = head.partition(b"\r\n")
    match = _REQUEST_LINE(line)
    if match is not None and match[3] != b"1":
        return HeadError(505, "only HTTP/1.0 and HTTP/1.1 are served here")
    if len(line) > limits.target and line.count(b" ") == 2:
        return HeadError(414, "the request target is too long")
    if rest.count(b"\r\n") + 1 > limits.fields:
        return HeadError(431, "too many header fields")
    if _LONG_METHOD(line):
        # RFC 9112 3: longer than any that is implemented.
        return HeadError(501, "the method isn't known here")
    if match is None or b"#" in match[2]:
        return HeadError(400, "the request line isn't METHOD target HTTP/1.1")
    return HeadError(400, "a header field isn't NAME: value, or a line doesn't end in CRLF")
