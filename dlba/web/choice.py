"""Decides which site serves a request and which backend answers it.

Sites are tried in their order, by host and path; the default site takes the rest. The path is
matched on a copy with unreserved escapes decoded and dot segments resolved, and forwarded as it
came. Within the site: a valid route token, else a session id, else the pool's way of scheduling.

Source: web.md rule 5; RFC 3986 6.2.2; the seed's "cookie/session id" and "URL based" scheduling.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from dlba.config.values import PersistenceConfig, SiteConfig
from dlba.web.cookie import CookieRule, cookie_values
from dlba.web.head import RequestHead
from dlba.web.headerchanges import HeaderChanges
from dlba.web.pool import Backend, Pool
from dlba.web.tokens import Tokens

__all__ = ["Site", "Sites", "choose", "cookie_rule", "normal_path"]

_UNRESERVED: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


class Site:
    """One site, compiled: its pool, its cookie and what the data path asks of it."""

    __slots__ = (
        "_exact",
        "_paths",
        "_suffixes",
        "cookie",
        "default",
        "max_body",
        "name",
        "pool",
        "request_buffer",
        "request_headers",
        "response_headers",
        "schedule",
        "tokens",
        "upgrade",
    )

    def __init__(self, config: SiteConfig, pool: Pool, tokens: Tokens, all_tls: bool) -> None:
        self.name = config.hosts[0]
        self.pool = pool
        self.tokens = tokens
        self.default = config.default
        self.schedule = config.schedule
        self.max_body = config.max_body
        self.request_buffer = config.request_buffer
        self.cookie = cookie_rule(config.persistence, all_tls)
        #: None: nothing is to be changed.
        self.request_headers = HeaderChanges(config.request_headers) or None
        self.response_headers = HeaderChanges(config.response_headers) or None
        #: Lower case.
        self.upgrade = frozenset(token.encode() for token in config.upgrade)
        hosts = [host.encode() for host in config.hosts]
        self._exact = frozenset(host for host in hosts if not host.startswith(b"*"))
        #: b"" stands for every host: every name ends with it.
        self._suffixes = tuple(host[1:] for host in hosts if host.startswith(b"*"))
        self._paths = tuple(path.encode() for path in config.paths)

    @property
    def has_paths(self) -> bool:
        """Whether the path matters to this site."""
        return bool(self._paths)

    def takes(self, host: bytes, path: bytes) -> bool:
        """Whether the site is named for `host` (as in `RequestHead.host`) and normal `path`."""
        if host not in self._exact and not host.endswith(self._suffixes):
            return False
        return not self._paths or path.startswith(self._paths)


class Sites:
    """All sites in order."""

    def __init__(self, sites: Collection[Site]) -> None:
        self._sites = tuple(sites)
        self._default = next((site for site in self._sites if site.default), None)
        self._by_path = any(site.has_paths for site in self._sites)

    def site(self, request: RequestHead) -> Site | None:
        """The site for `request`; None: no site takes it, which is a 404."""
        host = request.host
        # HTTP/1.0 without a Host names no site: only the default one can be meant.
        if not host and self._default is not None:
            return self._default
        path = normal_path(request.target) if self._by_path else b""
        for site in self._sites:
            if site.takes(host, path):
                return site
        return self._default


def normal_path(target: bytes) -> bytes:
    """The path of `target` without query, unreserved escapes decoded, dot segments resolved."""
    path = target.partition(b"?")[0]
    if b"%" in path:
        path = _ESCAPE.sub(_decode, path)
    if b"/." not in path:
        return path
    kept: list[bytes] = []
    segments = path.split(b"/")
    for segment in segments[1:]:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def _decode(escape: re.Match[bytes]) -> bytes:
    byte = int(escape[1], 16)
    return bytes((byte,)) if byte in _UNRESERVED else escape[0]


def cookie_rule(config: PersistenceConfig, all_tls: bool) -> CookieRule:
    """How a site gives out its cookie. `all_tls`: every listener is TLS, or redirects to it."""
    attributes = f"; Path={config.path}"
    if config.domain is not None:
        attributes += f"; Domain={config.domain}"
    if config.max_age is not None:
        attributes += f"; Max-Age={config.max_age}"
    attributes += f"; HttpOnly; SameSite={config.same_site}"
    # With Secure, the cookie couldn't serve HTTP and HTTPS alike, which the seed wants.
    if config.secure or (config.secure is None and all_tls):
        attributes += "; Secure"
    session = None if config.session_cookie is None else config.session_cookie.encode()
    return CookieRule(config.cookie.encode(), attributes.encode(), session)


def choose(
    site: Site, request: RequestHead, values: list[bytes], now: float, tried: Collection[Backend]
) -> tuple[Backend | None, str]:
    """The backend for `request` and why: cookie, session, url, least, round-robin or reroute.

    `values`: what stood in the site's persistence cookie. `tried`: backends that this request
    couldn't reach. None: there is no backend left to try.
    """
    pool = site.pool
    schedule = site.schedule
    if schedule == "url":
        key = request.host + request.target
        return pool.hashed(key, now, tried), "reroute" if tried else "url"
    if schedule == "round-robin":
        return pool.round_robin(now, tried), "reroute" if tried else "round-robin"
    if schedule == "cookie":
        if not tried:
            for value in values:
                named = site.tokens.backend(value)
                if named is not None and named[0] == pool.name:
                    backend = pool.named(named[1], now)
                    if backend is not None:
                        return backend, "cookie"
        if request.cookies and site.cookie.session is not None:
            sessions = [v for v in cookie_values(request.fields, site.cookie.session) if v]
            if sessions:
                # Also on a reroute, so that the sessions of a dead backend stay together.
                return pool.hashed(sessions[0], now, tried), "reroute" if tried else "session"
    return pool.least(now, tried), "reroute" if tried else "least"
