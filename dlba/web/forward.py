"""Decides how a head reads when it goes on: to a backend, or to the client.

To a backend: `METHOD target HTTP/1.1`, the client's fields as they came, ours, one framing field,
`Connection: close`, since a connection carries one request. To the client: the backend's fields,
Date where it was missing, one framing field, and what becomes of the connection. Also the small
answers that DLBA gives itself.

Source: web.md rules 7, 8, 10 and 11; RFC 9110 6.6.1, 15; RFC 9112 9.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from dlba.web.head import CHUNKED, RequestHead
from dlba.web.response import UNTIL_CLOSE, ResponseHead

__all__ = ["answer", "interim_head", "request_head", "response_head"]

#: RFC 9110 15.5.6 asks for Allow in a 405.
_ALLOW: Final = b"\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
#: RFC 9110 names these otherwise than older versions of Python do.
_PHRASES: Final = {413: "Content Too Large", 414: "URI Too Long"}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def request_head(
    request: RequestHead, forwarded: bytes, own_host: bytes, length: int | None
) -> bytes:
    """The head for a backend, with its CRLFCRLF.

    `forwarded`: the field lines X-Forwarded-For and X-Forwarded-Proto of this client, each with the
    CRLF before it. `own_host`: the Host for a client that sent none. `length`: bytes of the body
    that follows, `CHUNKED`, or None for no framing field.
    """
    host = request.host_field
    parts = [request.method, b" ", request.target, b" HTTP/1.1", request.fields, forwarded]
    if host:
        parts += (b"\r\nX-Forwarded-Host: ", host)
    else:
        parts += (b"\r\nHost: ", own_host)
    if length is None:
        parts.append(b"\r\nConnection: close\r\n\r\n")
    elif length == CHUNKED:
        parts.append(b"\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
    else:
        parts.append(b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % length)
    return b"".join(parts)


def response_head(
    response: ResponseHead, fields: bytes, date: bytes, minor: int, keep: bool
) -> tuple[bytes, bool, bool]:
    """The head for the client, whether its body is chunked there, and whether the connection stays.

    `fields`: the response's, after injection. `date`: the Date line to add, with the CRLF before
    it. `minor`: the client's HTTP/1 version. `keep`: the connection may stay.
    """
    chunked = False
    if response.announced is not None:
        framing = b"\r\nContent-Length: %d" % response.announced
    elif response.length == CHUNKED or response.length == UNTIL_CLOSE:
        chunked = minor > 0
        keep = keep and chunked
        framing = b"\r\nTransfer-Encoding: chunked" if chunked else b""
    else:
        framing = b""
    if keep:
        # HTTP/1.1 keeps by default; HTTP/1.0 wants to hear it.
        connection = b"" if minor else b"\r\nConnection: keep-alive"
    else:
        connection = b"\r\nConnection: close"
    head = b"HTTP/1.1 %d %b%b%b%b%b\r\n\r\n" % (
        response.status,
        response.reason,
        fields,
        b"" if response.dated else date,
        framing,
        connection,
    )
    return head, chunked, keep


def interim_head(response: ResponseHead) -> bytes:
    """A 1xx response for the client: fields, no framing, no connection options."""
    return b"HTTP/1.1 %d %b%b\r\n\r\n" % (response.status, response.reason, response.fields)


def answer(status: int, sentence: str, date: bytes, keep: bool, with_body: bool = True) -> bytes:
    """A whole response of DLBA's own: a small page that says `sentence`.

    `with_body` False: the answer to a HEAD request.
    """
    phrase = _PHRASES.get(status) or HTTPStatus(status).phrase
    page = (
        f"<!DOCTYPE html>\n<html lang=en><title>{status} {phrase}</title>"
        f"<h1>{status} {phrase}</h1><p>{sentence}</p></html>\n"
    ).encode()
    return b"".join(
        (
            f"HTTP/1.1 {status} {phrase}".encode(),
            date,
            _ALLOW if status == HTTPStatus.METHOD_NOT_ALLOWED else b"",
            b"\r\nContent-Type: text/html; charset=utf-8\r\nCache-Control: no-store",
            b"\r\nContent-Length: %d" % len(page),
            b"" if keep else b"\r\nConnection: close",
            b"\r\n\r\n",
            page if with_body else b"",
        )
    )
