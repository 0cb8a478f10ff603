"""Decides how a head reads when it goes on: to a backend, or to the client.

To a backend: `METHOD target HTTP/1.1`, the client's fields as they came, ours, one framing field,
and `Connection: close` where a connection carries one request. To the client: the backend's fields,
Date where it was missing, one framing field, and what becomes of the connection.

Source: web.md rules 7, 8, 10 and 11; RFC 9110 6.6.1, 15; RFC 9112 9.
"""

from __future__ import annotations

from typing import Final

from dlba.web.head import CHUNKED, HEAD_END, RequestHead
from dlba.web.response import UNTIL_CLOSE, ResponseHead

__all__ = [
    "CLOSE",
    "CONTINUE",
    "KEEP",
    "added_fields",
    "forwarded_fields",
    "host_value",
    "interim_head",
    "request_head",
    "response_head",
    "switch_head",
    "switch_request",
]

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Ends of a head for a backend: the connection carries this request only, or may carry another.
CLOSE: Final = b"\r\nConnection: close\r\n\r\n"
KEEP: Final = HEAD_END


def request_head(
    request: RequestHead, fields: bytes, ours: bytes, length: int | None, end: bytes = CLOSE
) -> bytes:
    """The head for a backend, with its CRLFCRLF.

    `fields`: the client's that go on; `ours`: the forwarding fields and what else we add; lines,
    each with the CRLF before it. `length`: bytes of the body that follows, `CHUNKED`, or None for
    no framing field. `end`: the fields of the connection and the CRLFCRLF.
    """
    if length is None:
        framing = b""
    elif length == CHUNKED:
        framing = b"\r\nTransfer-Encoding: chunked"
    else:
        framing = b"\r\nContent-Length: %d" % length
    return b"".join(
        (request.method, b" ", request.target, b" HTTP/1.1", fields, ours, framing, end)
    )


def forwarded_fields(host: str, tls: bool) -> bytes:
    """X-Forwarded-For and -Proto of the client `host`, lines each with the CRLF before it."""
    proto = "https" if tls else "http"
    return f"\r\nX-Forwarded-For: {host}\r\nX-Forwarded-Proto: {proto}".encode()


def host_value(host: str, port: int) -> bytes:
    """An address of ours as a Host value; IPv4 may come as the kernel maps it to IPv6."""
    host = host.removeprefix("::ffff:")
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()


def added_fields(request: RequestHead, forwarded: bytes, own_host: bytes) -> bytes:
    """The field lines that we add to a client's request, each with the CRLF before it.

    `forwarded`: what `forwarded_fields` gives for this client. `own_host`: the Host for a
    request that came without one; b"": none is needed.
    """
    host = request.host_field
    if host:
        return forwarded + b"\r\nX-Forwarded-Host: " + host
    return forwarded + b"\r\nHost: " + own_host if own_host else forwarded


def switch_request(offer: bytes) -> bytes:
    """The end of a head for a backend that may switch to one of the protocols in `offer`."""
    return b"\r\nConnection: upgrade\r\nUpgrade: " + offer + HEAD_END


def switch_head(response: ResponseHead, fields: bytes) -> bytes:
    """The head of a 101 for the client, with its CRLFCRLF. `fields`: as of `response_head`."""
    return b"HTTP/1.1 101 %b%b\r\nConnection: upgrade\r\nUpgrade: %b\r\n\r\n" % (
        response.reason,
        fields,
        response.upgrade.strip(b" \t"),
    )


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
