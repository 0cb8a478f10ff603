"""Decides what our cookie does to a request's Cookie and a response's Set-Cookie lines.

Inward: our cookie is cut out of every Cookie line, the rest stays byte for byte, an empty line
goes.
Outward: either our cookie follows every Set-Cookie of the application's session cookie, with the
same life and reach, or it is given to a client that has none. A response that carries it isn't for
shared caches; one that is meant for them gets no cookie.

Source: web.md rule 9, RFC 6265bis 4.1, 5.2, RFC 9111 5.2.2; the seed's "Cookie Injection".
"""

from __future__ import annotations

import re
from calendar import timegm
from email.utils import parsedate
from functools import lru_cache
from typing import Final

import attrs

__all__ = ["CookieRule", "cookie_values", "cut_cookie", "inject"]

_COOKIE_LINE: Final = re.compile(rb"\r\ncookie:[\t ]*([^\r]*)", re.IGNORECASE)
#: Possessive: a hostile line costs one pass. The name may stand in blanks; strip it.
_SET_COOKIE: Final = re.compile(rb"\r\nset-cookie:([^=;\r]*+)=([^;\r]*+)([^\r]*+)", re.IGNORECASE)
_CACHE_LINE: Final = re.compile(
    rb"\r\n(cache-control|cdn-cache-control|surrogate-control):([^\r]*)", re.IGNORECASE
)
#: Attributes of the session cookie that ours takes over. HttpOnly is always set.
_MIRRORED: Final = frozenset(
    {b"expires", b"max-age", b"path", b"domain", b"secure", b"samesite", b"partitioned"}
)


@lru_cache(maxsize=64)
def _pairs_of(name: bytes) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """What finds the values of the cookie `name`, and what finds its pairs, in a Cookie value.

    In one pass of C: a hostile client sends thousands of pairs a request. Few names are configured.
    """
    key = rb"(?:^|;)[ \t]*+" + re.escape(name) + rb"[ \t]*+"
    return re.compile(key + rb"=([^;]*+)"), re.compile(key + rb"(?:=[^;]*+|(?=;)|$)")


def cookie_values(fields: bytes, name: bytes) -> list[bytes]:
    """Every value of the cookie `name` in the Cookie lines of `fields`, in order."""
    find = _pairs_of(name)[0].findall
    return [
        value.strip(b" \t") for line in _COOKIE_LINE.finditer(fields) for value in find(line[1])
    ]


def cut_cookie(fields: bytes, name: bytes) -> bytes:
    """`fields` without the cookie `name`, everything else byte for byte."""
    ours = _pairs_of(name)[1]

    def without(line: re.Match[bytes]) -> bytes:
        rest, count = ours.subn(b"", line[1])
        if not count:
            return line[0]
        if line[1][:1] != b";" and ours.match(line[1]):
            # The first pair is gone: what parted it from the next goes too.
            rest = rest.removeprefix(b";")
        rest = rest.lstrip(b" \t")
        # The Cookie line as it came, up to its value.
        return line[0][: line.start(1) - line.start()] + rest if rest.strip(b" \t;") else b""

    return _COOKIE_LINE.sub(without, fields)


@attrs.frozen
class CookieRule:
    """How one site gives out its cookie.

    `name`; `attributes`: what follows the value, from `; Path=/` on, where no session is followed;
    `session`: the name of the application's session cookie, or None.
    """

    name: bytes
    attributes: bytes
    session: bytes | None = None


def inject(
    fields: bytes, rule: CookieRule, token: bytes, needed: bool, now: float
) -> tuple[bytes, int]:
    """The response's `fields` with our cookie where it belongs, and how many name a backend.

    `token` names the backend that answered; `needed`: the client has no valid token for it. `now`:
    wall time, seconds since 1970, to tell a deletion by Expires.
    """
    if rule.name in fields:
        fields = _drop_own(fields, rule.name)
    if rule.session is not None:
        if rule.session not in fields:
            return fields, 0
        return _follow(fields, rule, token, now)
    if not needed:
        return fields, 0
    cache = _CACHE_LINE.findall(fields)
    if cache and _shared(cache):
        return fields, 0
    line = b"\r\nSet-Cookie: " + rule.name + b"=" + token + rule.attributes
    return fields + line + _privacy(cache), 1


def _drop_own(fields: bytes, name: bytes) -> bytes:
    return _SET_COOKIE.sub(lambda line: b"" if line[1].strip(b" \t") == name else line[0], fields)


def _follow(fields: bytes, rule: CookieRule, token: bytes, now: float) -> tuple[bytes, int]:
    """Our cookie behind each Set-Cookie of the session's name."""
    given = followed = 0

    def with_ours(line: re.Match[bytes]) -> bytes:
        nonlocal given, followed
        if line[1].strip(b" \t") != rule.session:
            return line[0]
        followed += 1
        attributes, deleted = _mirror(line[3], now)
        given += not deleted
        ours = b"\r\nSet-Cookie: " + rule.name + b"=" + (b"" if deleted else token) + attributes
        return line[0] + ours

    fields = _SET_COOKIE.sub(with_ours, fields)
    if followed:
        fields = _CACHE_LINE.sub(_not_shared, fields)
        fields += _privacy(_CACHE_LINE.findall(fields))
    return fields, given


def _mirror(attributes: bytes, now: float) -> tuple[bytes, bool]:
    """The attributes of our cookie beside one with `attributes`, and whether it is a deletion."""
    kept = [b""]
    #: Whether the last valid Max-Age, the last valid Expires deletes.
    aged: bool | None = None
    expired = False
    for attribute in attributes.split(b";"):
        key, _, value = attribute.partition(b"=")
        key = key.strip(b" \t").lower()
        if key in _MIRRORED:
            kept.append(b" " + attribute.strip(b" \t"))
        if key == b"max-age":
            digits = value.strip(b" \t")
            if re.fullmatch(rb"-?[0-9]+", digits):
                aged = digits.startswith(b"-") or not digits.strip(b"0")
        elif key == b"expires":
            past = _past(value.strip(b" \t"), now)
            expired = expired if past is None else past
    kept.append(b" HttpOnly")
    return b";".join(kept), expired if aged is None else aged


def _past(expires: bytes, now: float) -> bool | None:
    """Whether the date is past; None: it can't be read. RFC 6265bis 5.1.1: always UTC."""
    parsed = parsedate(expires.decode("latin-1"))
    if parsed is None:
        return None
    try:
        return timegm(parsed) <= now
    except (ValueError, OverflowError):
        return None


_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?')


def _directives(value: bytes) -> list[bytes]:
    # A quoted list of field names isn't a list of directives; private="" stays qualified.
    value = _QUOTED.sub(b'""', value) if b'"' in value else value
    return [word.strip(b" \t").lower() for word in value.split(b",")]


def _shared(cache: list[tuple[bytes, bytes]]) -> bool:
    """Whether these lines mark the response for shared caches."""
    return any(
        name.lower() != b"cache-control"
        or any(word == b"public" or word.startswith(b"s-maxage") for word in _directives(value))
        for name, value in cache
    )


def _privacy(cache: list[tuple[bytes, bytes]]) -> bytes:
    """The line that keeps the response out of shared caches, b"" if one does so already."""
    for name, value in cache:
        if name.lower() == b"cache-control":
            words = _directives(value)
            if b"private" in words or b"no-store" in words:
                return b""
    return b"\r\nCache-Control: private"


def _not_shared(line: re.Match[bytes]) -> bytes:
    """A cache line without what marks the response for shared caches."""
    if line[1].lower() != b"cache-control":
        return b""
    kept = [
        word.strip(b" \t")
        for word in line[2].split(b",")
        if not re.fullmatch(rb"[ \t]*(?:public|s-maxage.*)[ \t]*", word, re.IGNORECASE)
    ]
    return b"\r\n" + line[1] + b": " + b", ".join(kept) if any(kept) else b""
