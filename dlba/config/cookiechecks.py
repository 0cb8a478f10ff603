"""What must hold between the persistence cookies of sites, and what browsers do with their names.

Pure, and part of `dlba.config.checks`: generators of problems over the read values and the
document. Values may be `INVALID` where a problem was reported already: they are skipped.
Source: web.md rule 9, RFC 6265bis section 4.1.3 for the cookie prefixes.
"""

from collections.abc import Iterator

from dlba.config.hosts import Hosts, wider
from dlba.config.nodes import Node, locate
from dlba.config.problems import Problem, quoted
from dlba.config.shapes import known
from dlba.config.sites import PersistenceConfig, SiteConfig
from dlba.config.web import WebConfig

__all__ = ["cookie_problems"]


def cookie_problems(web: WebConfig, array: Node) -> Iterator[Problem]:
    """All problems of persistence cookies. `array`: as of `dlba.config.checks.check`."""
    yield from _names(web, array)
    for index, site in enumerate(web.sites):
        place = ("web", "sites", index, "persistence")
        for key, message in _attribute_faults(site.persistence) if known(site.persistence) else ():
            yield locate(array, *place, key).place.problem(message)


def _names(web: WebConfig, array: Node) -> Iterator[Problem]:
    """Two pools with a common host and cookie name would take each other's tokens for unknown."""
    whole = {host for site in web.sites if site.paths == () for host in site.hosts if known(host)}
    hosts: dict[str, Hosts] = {}  # by name of the cookie
    # The default site also takes what the paths of others leave; they meet it there.
    default: tuple[int, SiteConfig] | None = None
    left: dict[str, Hosts] = {}
    for index, site in enumerate(web.sites):
        name = site.persistence.cookie
        if site.schedule != "cookie" or not known(name, site.pool):
            continue
        found = []
        mine = hosts.setdefault(name, Hosts())
        for host in site.hosts if known(site.hosts) else ():
            if known(host):
                found.append(mine.meets(site.pool, host))
                mine.add(index, site.pool, host)
        rest = _left_to_others(site, whole)
        if rest is not None:
            if default and default[1].persistence.cookie == name and default[1].pool != site.pool:
                found.append((default[0], default[1].pool, rest))
            # All that is left belongs to the default site, so all of it meets there.
            left.setdefault(name, Hosts()).add(index, site.pool, rest)
        if site.default and default is None:
            default = index, site
            found.append(left[name].meets(site.pool, "*") if name in left else None)
        first = min((one for one in found if one), default=None, key=lambda owner: owner[0])
        if first is not None:
            message = (
                f"expected another cookie name than web.sites[{first[0]}] has for {first[2]}, "
                f"as pools {first[1]} and {site.pool} differ, got {quoted(name)} for both"
            )
            place = locate(array, "web", "sites", index, "persistence", "cookie").place
            yield place.problem(message)


def _left_to_others(site: SiteConfig, whole: set[str]) -> str | None:
    """A host of which a site with paths leaves other paths to the default site, else None."""
    if not site.paths:
        return None
    for host in site.hosts:
        if known(host) and not any(pattern in whole for pattern in wider(host)):
            return host
    return None


def _attribute_faults(persistence: PersistenceConfig) -> Iterator[tuple[str, str]]:
    """Key and message of what browsers, or we, can't do with the cookie."""
    cookie = persistence.cookie or ""
    if cookie and persistence.session_cookie == cookie:
        yield "session_cookie", f"expected another name than our cookie's, got {quoted(cookie)}"
    unsure = persistence.secure is None or persistence.secure is False
    got = "false" if persistence.secure is False else "no such key"
    if persistence.same_site == "None" and unsure:
        yield "same_site", f"expected `secure: true` with None, got {got}"
    prefix = cookie.lower()
    if prefix.startswith(("__secure-", "__host-")) and unsure:
        yield "cookie", f"expected `secure: true` with the name {quoted(cookie)}, got {got}"
    if prefix.startswith("__host-"):
        if persistence.path and persistence.path != "/":
            yield (
                "path",
                f"expected / with the name {quoted(cookie)}, got {quoted(persistence.path)}",
            )
        if persistence.domain:
            yield "domain", f"expected no domain with the name {quoted(cookie)}, got one"
