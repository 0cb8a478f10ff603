"""What must hold between the keys of `web` beyond names and addresses: redirects, header changes.

Pure, and part of `dlba.config.checks`: generators of problems over the read values and the
document. Values may be `INVALID` where a problem was reported already: they are skipped.
Source: web.md rules 5 to 9; RFC 9110 sections 5.3, 7.2 and 7.6.1.
"""

from collections.abc import Iterator
from itertools import product

from dlba.config.hosts import wider
from dlba.config.httpfields import is_sent_host
from dlba.config.nodes import Mapping, Node, Place, locate
from dlba.config.problems import Problem, quoted
from dlba.config.shapes import known
from dlba.config.sites import HeaderChangesConfig
from dlba.config.web import WebConfig

__all__ = ["web_problems", "web_warnings"]

#: Hosts times paths of a site above which nobody asks whether it is reached.
MOST_PAIRS = 10_000

#: Fields that say where a message ends or belong to one connection: never a site's to change.
_FRAMING = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


def web_problems(web: WebConfig, array: Node) -> Iterator[Problem]:
    """All problems of these keys. `array`: as of `dlba.config.checks.check`."""
    yield from _redirects(web, array)
    for index, site in enumerate(web.sites):
        if not known(site):
            continue
        for key, changes in (
            ("request_headers", site.request_headers),
            ("response_headers", site.response_headers),
        ):
            if known(changes):
                node = locate(array, "web", "sites", index, key)
                yield from _header_changes(changes, node, key == "request_headers")


def web_warnings(web: WebConfig, array: Node) -> Iterator[Problem]:
    """What is no error and yet surely not meant: sites and backends that nobody is sent to."""
    yield from _sites_reached(web, array)
    yield from _pools_serve(web, array)


def _redirects(web: WebConfig, array: Node) -> Iterator[Problem]:
    tls = any(not known(listener, listener.tls) or listener.tls for listener in web.listen)
    for index, listener in enumerate(web.listen):
        if not known(listener, listener.redirect) or listener.redirect is None:
            continue
        where = locate(array, "web", "listen", index, "redirect").place
        if not known(listener.tls) or listener.tls is not None:
            yield where.problem("expected no redirect on a listener with tls, got one")
        elif not tls:
            yield where.problem("expected a listener with tls to redirect to, got none")


def _header_changes(changes: HeaderChangesConfig, node: Node, request: bool) -> Iterator[Problem]:
    written = locate(node, "set")
    names: dict[str, str] = {}
    for name, value in changes.set.items():
        place = _key_place(written, name)
        names.setdefault(name.lower(), name)
        if why := _not_a_sites(name, request):
            yield place.problem(f"expected another header field, got {quoted(name)} ({why})")
        elif request and name.lower() == "host" and known(value) and not is_sent_host(value):
            where = locate(written, name).place
            yield where.problem(f"expected a host with or without port, got {quoted(value)}")
    for index, name in enumerate(changes.remove):
        if not known(name):
            continue
        place = locate(node, "remove", index).place
        why = _not_a_sites(name, request)
        if not why and request and name.lower() == "host":
            why = "every request has one; it may be set"
        if why:
            yield place.problem(f"expected another header field, got {quoted(name)} ({why})")
        elif name.lower() in names:
            message = f"expected a field that `set` doesn't name, got {quoted(name)}"
            yield place.problem(f"{message} (set replaces what is there)")


def _key_place(mapping: Node, name: str) -> Place:
    """The place of the key `name` of `mapping`, of the mapping where there is none."""
    if isinstance(mapping, Mapping) and name in mapping.entries:
        return mapping.entries[name].key.place
    return mapping.place


def _not_a_sites(name: str, request: bool) -> str:
    """Why a site may not touch the field `name` of requests, else responses; empty when it may.

    Many servers take `_` for `-`, so X_Forwarded_For is as good a forgery as the real one.
    """
    name = name.lower().replace("_", "-")
    if name in _FRAMING:
        return "DLBA itself writes what frames a message or belongs to one connection"
    if request and name.startswith("x-forwarded-"):
        return "X-Forwarded-* say who the client is; see web.trusted_proxies"
    if not request and name == "date":
        return "it is the backend's, and added where it is missing"
    if not request and name == "set-cookie":
        return "there may be several, and one may be the persistence cookie"
    return ""


def _sites_reached(web: WebConfig, array: Node) -> Iterator[Problem]:
    """Sites of which earlier ones take all hosts and paths; a default site still gets the rest."""
    earlier: dict[str, dict[str, int]] = {}  # pattern: path prefix: its first site
    for index, site in enumerate(web.sites):
        if not known(site, site.hosts, site.paths, *site.hosts, *site.paths):
            continue
        prefixes = site.paths or ("",)
        if len(site.hosts) * len(prefixes) > MOST_PAIRS:
            continue
        takers = []
        for host, prefix in product(site.hosts, prefixes):
            taker = _taker(earlier, host, prefix)
            if taker is None:
                break
            takers.append(taker)
        else:
            if known(site.default) and not site.default:
                names = ", ".join(f"web.sites[{first}]" for first in sorted(set(takers))[:5])
                message = "expected a host or path that no earlier site takes, got those of"
                yield locate(array, "web", "sites", index).place.problem(f"{message} {names}")
        for host, prefix in product(site.hosts, prefixes):
            earlier.setdefault(host, {}).setdefault(prefix, index)


def _taker(earlier: dict[str, dict[str, int]], host: str, path: str) -> int | None:
    """An earlier site that takes all of `host` and of the paths under `path`, None: none does."""
    for pattern in wider(host):
        prefixes = earlier.get(pattern)
        if prefixes is not None:
            for length in range(len(path) + 1):
                if path[:length] in prefixes:
                    return prefixes[path[:length]]
    return None


def _pools_serve(web: WebConfig, array: Node) -> Iterator[Problem]:
    for name, pool in web.pools.items():
        if not known(pool, pool.backends) or not known(*pool.backends):
            continue
        where = locate(array, "web", "pools", name, "backends").place
        enabled = [backend for backend in pool.backends if backend.enabled]
        if not enabled:
            yield where.problem("expected an enabled backend, got none: all requests get 503")
        elif all(backend.weight == 0 for backend in enabled):
            message = "expected an enabled backend with a weight above 0, got none"
            yield where.problem(f"{message}: nobody takes a new client")
        elif all(backend.backup for backend in enabled):
            message = "expected an enabled backend that is no backup, got none"
            yield where.problem(f"{message}: the backups take all requests")
