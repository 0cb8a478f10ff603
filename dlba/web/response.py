"""Decides whether a backend's response head is valid, and what of it reaches the client.

The same two expressions as for requests (`dlba.web.head`), with what is tolerated of backends: a
missing reason phrase, bytes 0x80–FF, and a Content-Length repeated with the same value. Everything
else that is faulty makes the response a 502: Content-Length with Transfer-Encoding, obs-fold, bare
LF, a coding other than chunked. A status from 600 on is for the client to judge.

Source: web.md rules 7 and 8; RFC 9112 4, 6; RFC 9110 6.4.1, 8.6, 15.2.
"""

from __future__ import annotations

import re
from typing import Final

from dlba.errors import BackendError
from dlba.web.head import CHUNKED, FIELD_LINES, connection_options, cut_named

__all__ = ["UNTIL_CLOSE", "ResponseHead", "parse_response"]

#: `ResponseHead.length` of a body that ends when the backend closes.
UNTIL_CLOSE: Final = -2

_HEAD: Final = re.compile(
    rb"HTTP/1\.(\d) ([1-9]\d\d)(?: ([\t -~\x80-\xff]*+))?(" + FIELD_LINES + rb")"
).fullmatch
#: As `_CUT` in dlba.web.head.
_CUT: Final = re.compile(
    rb"\r\n(?=[ctkpuhCTKPUH])(connection|content-length|transfer-encoding"
    rb"|te|trailer|keep-alive|proxy-connection|upgrade|http2-settings):([^\r]*+)",
    re.IGNORECASE,
).split
_DATE: Final = re.compile(rb"\r\ndate:", re.IGNORECASE).search
_DATE_NAME: Final = frozenset({b"date"})
_DIGITS: Final = re.compile(rb"[0-9]{1,18}").fullmatch
_NO_BODY: Final = frozenset({204, 304})


class ResponseHead:
    """A valid response head.

    `status` (100 to 999); `reason` (may be b""); `fields` (the field lines that go on, each with
    the CRLF before it, without framing and hop-by-hop fields); `length` (bytes of the body that
    follows, `CHUNKED` or `UNTIL_CLOSE`); `announced` (the Content-Length to show the client, also
    where no body follows: HEAD, 304; None for none); `dated` (a Date stands in `fields`); `minor`
    (the backend's HTTP/1 version, 0 or 1); `keep_alive` (the backend lets the connection stay);
    `upgrade` (the Upgrade value where Connection names it, else b"").
    """

    __slots__ = (
        "announced",
        "dated",
        "fields",
        "keep_alive",
        "length",
        "minor",
        "reason",
        "status",
        "upgrade",
    )

    def __init__(self, status: int, reason: bytes) -> None:
        self.status = status
        self.reason = reason
        self.fields = b""
        self.length = UNTIL_CLOSE
        self.announced: int | None = None
        self.dated = False
        self.minor = 1
        self.keep_alive = True
        self.upgrade = b""


def parse_response(head: bytes, to_head: bool) -> ResponseHead:
    """Check `head` (all before its CRLFCRLF). `to_head`: the request's method was HEAD.

    Raises `BackendError("head")`: the backend is at fault, the client gets a 502.
    """
    match = _HEAD(head)
    if match is None:
        raise BackendError("head", "the response head isn't valid HTTP/1")
    minor, digits, reason, block = match.groups()
    status = int(digits)
    response = ResponseHead(status, reason or b"")
    if minor == b"0":
        response.minor = 0
        # It could be kept too; those who still speak HTTP/1.0 mean to close.
        response.keep_alive = False
    length: int | None = None
    coding: bytes | None = None
    named: bytes | None = None
    upgrade: bytes | None = None
    parts = _CUT(block)
    if len(parts) > 1:
        block = b"".join(parts[::3])
        for name, value in zip(parts[1::3], parts[2::3], strict=True):
            name = name.lower()
            if name == b"content-length":
                length = _length(value, length)
            elif name == b"connection":
                named = value if named is None else named + b"," + value
            elif name == b"transfer-encoding":
                coding = value if coding is None else coding + b"," + value
            elif name == b"upgrade":
                upgrade = value if upgrade is None else upgrade + b"," + value
        if named is not None:
            options, fields = connection_options(named)
            if b"close" in options:
                response.keep_alive = False
            if upgrade is not None and b"upgrade" in options:
                response.upgrade = upgrade
            # Date belongs to the message, not to the connection (RFC 9110 6.6.1).
            fields = fields - _DATE_NAME
            if fields:
                block = cut_named(block, fields)
    response.dated = b"\r\nDate:" in block or _DATE(block) is not None
    response.fields = block
    _frame(response, length, coding, minor, to_head)
    return response


def _length(value: bytes, before: int | None) -> int:
    """The number in a Content-Length `value`, the same as `before` where there was one.

    RFC 9110 8.6: a list of one number over and over is what a proxy makes of repeated lines.
    """
    for digits in value.split(b","):
        digits = digits.strip(b" \t")
        if not _DIGITS(digits) or (before is not None and int(digits) != before):
            raise BackendError("head", "Content-Length isn't one number of 1 to 18 digits")
        before = int(digits)
    assert before is not None
    return before


def _frame(
    response: ResponseHead, length: int | None, coding: bytes | None, minor: bytes, to_head: bool
) -> None:
    """Set how the body is delimited (RFC 9112 6.3)."""
    status = response.status
    if status < 200 or status == 204:
        # Whatever they announce: they have no body.
        response.length = 0
        return
    if coding is not None and length is not None:
        raise BackendError("head", "Content-Length and Transfer-Encoding exclude each other")
    if coding is not None:
        if coding.strip(b" \t").lower() != b"chunked" or minor == b"0":
            raise BackendError("head", "the only transfer coding taken is chunked, in HTTP/1.1")
    if to_head or status in _NO_BODY:
        response.length = 0
        response.announced = length
    elif coding is not None:
        response.length = CHUNKED
    elif length is not None:
        response.length = length
        response.announced = length
