"""Decides what DLBA's own answers look like: errors and redirections.

An error shows the operator's page for its status where there is one, else a small page of ours that
says one sentence. Status line, fields and framing are always ours. All but the date and the end of
the connection is made once, so that a flood of errors costs little.

Source: web.md rules 3, 6 and 10; the contract's `errors` and `redirect`; RFC 9110 15.4.9, 15.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from html import escape
from http import HTTPStatus
from typing import Final

__all__ = ["Answers", "https_location", "redirection"]

#: RFC 9110 15.5.6 asks for Allow in a 405.
_ALLOW: Final = b"\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_NO_STORE: Final = b"\r\nCache-Control: no-store"
_CLOSE: Final = b"\r\nConnection: close\r\n\r\n"
_END: Final = b"\r\n\r\n"
#: RFC 9110 names the last two otherwise than older versions of Python do.
_PHRASES: Final[dict[int, str]] = {
    **{status.value: status.phrase for status in HTTPStatus},
    413: "Content Too Large",
    414: "URI Too Long",
}
#: Ours says its encoding; what an operator's page is written in, it says itself.
_OURS: Final = b"text/html; charset=utf-8"
_THEIRS: Final = b"text/html"
_HTTPS_PORT: Final = 443

#: An answer in parts: the status line, the fields behind Date, the page.
_Parts = tuple[bytes, bytes, bytes]


class Answers:
    """DLBA's own answers with these `pages`: HTML by status."""

    __slots__ = ("_pages",)

    def __init__(self, pages: Mapping[int, bytes]) -> None:
        self._pages = {
            status: _parts(status, page, _THEIRS, _NO_STORE) for status, page in pages.items()
        }

    def answer(
        self, status: int, sentence: str, date: bytes, keep: bool, with_body: bool = True
    ) -> bytes:
        """A whole response: the page for `status`, else one that says `sentence` (plain text).

        `date`: the Date line, with the CRLF before it. `keep`: the connection stays. `with_body`
        False: the answer to a HEAD request.
        """
        line, fields, page = self._pages.get(status) or _our_parts(status, sentence)
        end = _END if keep else _CLOSE
        return b"".join((line, date, fields, end, page if with_body else b""))


def redirection(location: bytes, date: bytes, keep: bool, with_body: bool) -> bytes:
    """A whole response that sends the client to `location`, with method and body as they were.

    `location`: an absolute URL in printable ASCII. The rest as in `Answers.answer`.
    """
    link = escape(location.decode("latin-1"))
    page = _page(308, f'It is <a href="{link}">here</a>.')
    line, fields, _ = _parts(308, page, _OURS, b"\r\nLocation: " + location)
    end = _END if keep else _CLOSE
    return b"".join((line, date, fields, end, page if with_body else b""))


def https_location(host_field: bytes, target: bytes, port: int) -> bytes:
    """The URL of `target` on the HTTPS port `port` of the same host.

    `host_field`: a valid Host value, not empty; its port is dropped. `target`: origin form or `*`.
    """
    if host_field.startswith(b"["):
        host = host_field[: host_field.find(b"]") + 1]
    else:
        host = host_field.partition(b":")[0]
    shown = b"" if port == _HTTPS_PORT else b":%d" % port
    return b"https://" + host + shown + (b"/" if target == b"*" else target)


# Nearly every sentence is a constant of ours; 256 hold them all, and bound those that aren't.
@lru_cache(maxsize=256)
def _our_parts(status: int, sentence: str) -> _Parts:
    page = _page(status, escape(sentence, quote=False))
    return _parts(status, page, _OURS, _NO_STORE)


def _parts(status: int, page: bytes, content_type: bytes, more: bytes) -> _Parts:
    """The parts of an answer; `more`: field lines of its own, each with the CRLF before it."""
    fields = b"%b\r\nContent-Type: %b%b\r\nContent-Length: %d" % (
        _ALLOW if status == HTTPStatus.METHOD_NOT_ALLOWED else b"",
        content_type,
        more,
        len(page),
    )
    return b"HTTP/1.1 %d %b" % (status, _phrase(status).encode()), fields, page


def _page(status: int, text: str) -> bytes:
    """A page that says `text` (HTML)."""
    title = f"{status} {_phrase(status)}"
    return (
        f"<!DOCTYPE html>\n<html lang=en><title>{title}</title>"
        f"<h1>{title}</h1><p>{text}</p></html>\n"
    ).encode()


def _phrase(status: int) -> str:
    return _PHRASES.get(status, "Error")
