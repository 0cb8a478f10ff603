"""Decides how one finished request reads as one line of the access log.

Pure: a `Record` in, text out. Three formats: `combined` (Apache's and nginx's combined log),
`haproxy` (HAProxy's `option httplog` without the syslog header) and `json` (one object a line).

Lines are printable ASCII, whatever a client sends. In `combined` each other byte, quote and
backslash is `\\xHH` as nginx writes it; in `haproxy` it is `#HH` as HAProxy writes it, and so is
`#`; in `json` one byte is one character U+0000 to U+00FF, escaped by JSON's rules.

This is paid for every request: a record is a tuple, built from positional arguments; a line is one
f-string; dates are kept by the second; a regex tells whether a text must be escaped at all; header
values are only looked for by the formats that show them.

Keys of `json`, in this order: `time` (end, UTC, ISO 8601, ms), `client`, `client_port`, `port`,
`tls` (bool), `request` (null: none was read), `status` (null: none was sent), `bytes` (all that
was sent), `body_bytes`, `site`, `pool`, `backend` (null: none was chosen), `reason`, `head_time`,
`queue_time`, `connect_time`, `response_time`, `total_time` (seconds; null: never got there),
`retries`, `termination`, `connections`, `backend_connections`, `referer`, `user_agent` (null: the
request had none).

Sources: Apache mod_log_config, nginx ngx_http_log_module, HAProxy 2.6 configuration manual 8.2.3.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from json import dumps
from typing import NamedTuple

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# Requests that end together began within a minute or two of each other, so that many seconds are
# worth keeping; names come from the configuration, and a reload may bring new ones.
SECONDS_KEPT = 128
NAMES_KEPT = 4096

# fullmatch of what is allowed takes two thirds of the time of a search for what is not.
_plain = re.compile(r"[ !#-\[\]-~]*+").fullmatch
_plain_haproxy = re.compile(r"[ !$-\[\]-~]*+").fullmatch
_escape_backslash_x = re.compile(r"[^ !#-\[\]-~]").sub
_escape_number_sign = re.compile(r"[^ !$-\[\]-~]").sub
_escape_field = re.compile(r"[^!$-\[\]-~]").sub


class Record(NamedTuple):
    """One finished request. Build it from positional arguments: names cost four times as much.

    Durations are seconds as HAProxy's timers count them, -1 where the request never got there.
    """

    ended: float
    """Wall time of the end, seconds since the epoch."""
    client: str
    """The client's address, an IP literal."""
    client_port: int
    port: int
    """Local port of the listener."""
    tls: bool
    request: bytes
    """Request line as received, without its CRLF; empty: none was read."""
    head: bytes
    """Header lines as received, with or without the request line; searched only when needed."""
    status: int
    """Status sent to the client; 0 or -1: none was."""
    sent: int
    """Bytes sent to the client for this request, response head included."""
    body: int
    """Bytes of the body among them."""
    site: str | None
    pool: str | None
    backend: str | None
    reason: str
    """Why this backend: cookie, session, url, least, round-robin, reroute, or `-`."""
    head_time: float
    """TR: first byte of the request to the end of its head."""
    queue_time: float
    """Tw: end of the head to the first try to connect."""
    connect_time: float
    """Tc: that try to the established connection."""
    response_time: float
    """Tr: established connection to the end of the response head."""
    total_time: float
    """Ta: first byte of the request to the last byte of the response."""
    retries: int
    termination: str
    """HAProxy's termination state: two characters, or four with its two cookie states."""
    clients: int
    """Client connections open now."""
    backends: int
    """Backend connections open now."""


class _Kept(dict[int, str]):
    """Second → its text. Forgets all when full: refilling costs less than keeping an order."""

    def __init__(self, write: Callable[[int], str]) -> None:
        self._write = write

    def __missing__(self, second: int) -> str:
        if len(self) >= SECONDS_KEPT:
            self.clear()
        text = self[second] = self._write(second)
        return text


class _Names(dict[str | None, str]):
    """Name from the configuration → its text as one field of a `haproxy` line."""

    def __missing__(self, name: str | None) -> str:
        if len(self) >= NAMES_KEPT:
            self.clear()
        characters = str((name or "").encode("utf-8", "surrogatepass"), "latin-1")
        text = self[name] = _escape_field(_number_sign, characters)
        return text


class _Literals(dict[str | None, str]):
    """Name or None → its JSON text."""

    def __missing__(self, name: str | None) -> str:
        if len(self) >= NAMES_KEPT:
            self.clear()
        text = self[name] = "null" if name is None else _json_text(name)
        return text


def _backslash_x(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02X}"


def _json_text(value: str) -> str:
    # JSON lets DEL stand as it is; a terminal that shows the log needn't see it.
    return dumps(value).replace("\x7f", "\\u007f")


def _number_sign(match: re.Match[str]) -> str:
    return f"#{ord(match[0]):02X}"


def header(head: bytes, folded: bytes, name: bytes) -> str | None:
    """Return the first value of a header, one character a byte, or None where it is absent.

    `head: bytes`, header lines as received; `folded: bytes`, `head.lower()`, made once for several
    look-ups; `name: bytes`, a newline, the name in lower case and the colon: `b"\\nreferer:"`.
    """
    if folded.startswith(name[1:]):
        start = len(name) - 1
    else:
        start = folded.find(name)
        if start < 0:
            return None
        start += len(name)
    end = head.find(b"\n", start)
    return str(head[start : end if end >= 0 else None].strip(b" \t\r"), "latin-1")


def _combined(zone: tzinfo | None) -> Callable[[Record], str]:
    def date(second: int) -> str:
        at = datetime.fromtimestamp(second, zone)
        at = at.astimezone() if zone is None else at
        return f"{at.day:02d}/{MONTHS[at.month - 1]}/{at:%Y:%H:%M:%S %z}"

    dates = _Kept(date)

    def line(record: Record) -> str:
        request = str(record.request, "latin-1") or "-"
        if not _plain(request):
            request = _escape_backslash_x(_backslash_x, request)
        head = record.head
        folded = head.lower()
        referer = header(head, folded, b"\nreferer:")
        if referer is None:
            referer = "-"
        elif not _plain(referer):
            referer = _escape_backslash_x(_backslash_x, referer)
        agent = header(head, folded, b"\nuser-agent:")
        if agent is None:
            agent = "-"
        elif not _plain(agent):
            agent = _escape_backslash_x(_backslash_x, agent)
        status = record.status
        return (
            f'{record.client} - - [{dates[int(record.ended)]}] "{request}" '
            f'{status if status > 0 else "000"} {record.body} "{referer}" "{agent}"'
        )

    return line


def _haproxy(zone: tzinfo | None) -> Callable[[Record], str]:
    def date(second: int) -> str:
        at = datetime.fromtimestamp(second, zone)
        return f"{at.day:02d}/{MONTHS[at.month - 1]}/{at:%Y:%H:%M:%S}"

    dates = _Kept(date)
    names = _Names()

    def line(record: Record) -> str:
        (
            ended, client, client_port, port, tls, request_bytes, _, status, sent, _,
            site, pool, backend, reason, head, queue, connect, response, total,
            retries, termination, clients, backends,
        ) = record  # fmt: skip
        # HAProxy dates a line by the first byte of the request.
        second, ms = divmod(int((ended - total if total > 0 else ended) * 1000), 1000)
        request = str(request_bytes, "latin-1") or "<BADREQ>"
        if not _plain_haproxy(request):
            request = _escape_number_sign(_number_sign, request)
        if len(termination) == 2:
            termination += "--"
        # Before a site is known the listener is all there is to name; HAProxy, too, names the
        # frontend in place of a backend that was never chosen.
        frontend = f"{names[site] or port}{'~' if tls else ''}"
        return (
            f"{client}:{client_port} [{dates[second]}.{ms:03d}] {frontend} "
            f"{names[pool] or frontend}/{names[backend] or '<NOSRV>'} "
            f"{int(head * 1000) if head >= 0 else -1}/{int(queue * 1000) if queue >= 0 else -1}/"
            f"{int(connect * 1000) if connect >= 0 else -1}/"
            f"{int(response * 1000) if response >= 0 else -1}/"
            f"{int(total * 1000) if total >= 0 else -1} "
            f"{status if status > 0 else -1} {sent} - - {termination} "
            f"{clients}/{clients}/{backends}/{backends}/"
            f"{'+' if reason == 'reroute' else ''}{retries} 0/0 "
            f'"{request}"'
        )

    return line


def _json(_: tzinfo | None) -> Callable[[Record], str]:
    def date(second: int) -> str:
        return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"

    dates = _Kept(date)
    literals = _Literals()

    def text(value: str) -> str:
        return f'"{value}"' if _plain(value) else _json_text(value)

    def line(record: Record) -> str:
        (
            ended, client, client_port, port, tls, request, head_bytes, status, sent, body,
            site, pool, backend, reason, head, queue, connect, response, total,
            retries, termination, clients, backends,
        ) = record  # fmt: skip
        second, ms = divmod(int(ended * 1000), 1000)
        folded = head_bytes.lower()
        referer = header(head_bytes, folded, b"\nreferer:")
        agent = header(head_bytes, folded, b"\nuser-agent:")
        return (
            f'{{"time": "{dates[second]}.{ms:03d}Z", "client": "{client}", '
            f'"client_port": {client_port}, "port": {port}, "tls": {"true" if tls else "false"}, '
            f'"request": {text(str(request, "latin-1")) if request else "null"}, '
            f'"status": {status if status > 0 else "null"}, "bytes": {sent}, '
            f'"body_bytes": {body}, "site": {literals[site]}, "pool": {literals[pool]}, '
            f'"backend": {literals[backend]}, "reason": "{reason}", '
            f'"head_time": {f"{head:.6f}" if head >= 0 else "null"}, '
            f'"queue_time": {f"{queue:.6f}" if queue >= 0 else "null"}, '
            f'"connect_time": {f"{connect:.6f}" if connect >= 0 else "null"}, '
            f'"response_time": {f"{response:.6f}" if response >= 0 else "null"}, '
            f'"total_time": {f"{total:.6f}" if total >= 0 else "null"}, '
            f'"retries": {retries}, "termination": "{termination}", "connections": {clients}, '
            f'"backend_connections": {backends}, '
            f'"referer": {"null" if referer is None else text(referer)}, '
            f'"user_agent": {"null" if agent is None else text(agent)}}}'
        )

    return line


FORMATS: dict[str, Callable[[tzinfo | None], Callable[[Record], str]]] = {
    "combined": _combined,
    "haproxy": _haproxy,
    "json": _json,
}


def formatter(name: str, zone: tzinfo | None = None) -> Callable[[Record], str]:
    """Return the function that turns a Record into its line, text without a line end.

    `name: str`, a key of FORMATS; anything else raises ValueError (the configuration has checked
    it before). `zone: tzinfo | None`, for the dates of `combined` and `haproxy`; None: the
    machine's local time, as the peers write it.
    """
    if name not in FORMATS:
        raise ValueError(f"access log: format: expected {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name](zone)
