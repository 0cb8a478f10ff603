"""What must hold between keys: names that exist, listeners that don't meet.

Pure. Each check is a generator of problems over the read values and the document, which gives the
places. Values may be `INVALID` where a problem was reported already: they are skipped. Whether an
address is this machine's own is asked through a callable.
Source: web.md rules 1, 5 and 7.
"""

from collections.abc import Callable, Iterator

from dlba.addresses import is_any, is_loopback, same_family
from dlba.config.channelchecks import channel_problems
from dlba.config.cookiechecks import cookie_problems
from dlba.config.nodechecks import array_problems
from dlba.config.nodes import Node, locate
from dlba.config.problems import Problem, printable, quoted
from dlba.config.shapes import known, suggestion
from dlba.config.values import ArrayConfig, NodeConfig, WebConfig
from dlba.config.webchecks import web_problems

IsLocal = Callable[[str], bool]


def check(config: NodeConfig, root: Node, array: Node, is_local: IsLocal) -> Iterator[Problem]:
    """All problems between keys. `root` is the document of node.yaml, `array` the array's mapping.

    `is_local` tells whether an IP literal is an address of this machine.
    """
    yield from array_problems(config, root, array)
    yield from channel_problems(config, root, array)
    web = config.array.web
    if not web:
        return
    yield from _pools_exist(web, array)
    yield from _one_default(web, array)
    yield from _limits(web, array)
    yield from _listeners_differ(config.array, web, array)
    yield from _monitor_differs(config, web, root)
    yield from _backends_are_others(config.array, web, array, is_local)
    yield from cookie_problems(web, array)
    yield from web_problems(web, array)


def _problem(array: Node, path: tuple[str | int, ...], message: str) -> Problem:
    return locate(array, *path).place.problem(message)


def _pools_exist(web: WebConfig, array: Node) -> Iterator[Problem]:
    pools = printable(", ".join(web.pools))
    expected = f"one of {pools}" if len(pools) <= 200 else "the name of a pool"
    for index, site in enumerate(web.sites):
        if known(site.pool, web.pools) and site.pool not in web.pools:
            near = suggestion(site.pool, web.pools)
            hint = f" ({near})" if near else ""
            message = f"expected {expected}, got {quoted(site.pool)}{hint}"
            yield _problem(array, ("web", "sites", index, "pool"), message)


def _one_default(web: WebConfig, array: Node) -> Iterator[Problem]:
    defaults = [index for index, site in enumerate(web.sites) if site.default]
    for index in defaults[1:]:
        message = f"expected one default site, got another after web.sites[{defaults[0]}]"
        yield _problem(array, ("web", "sites", index, "default"), message)


def _limits(web: WebConfig, array: Node) -> Iterator[Problem]:
    limits = web.limits
    if known(limits.target, limits.head) and limits.target > limits.head:
        message = f"expected at most limits.head ({limits.head} bytes), got {limits.target}"
        yield _problem(array, ("web", "limits", "target"), message)


def _addresses(config: ArrayConfig, web: WebConfig) -> Iterator[tuple[int, str | None, int]]:
    """Index, address (None: all) and port of each listener whose address and port are known."""
    for index, listener in enumerate(web.listen):
        address = listener.address if listener.address is not None else config.vip
        if known(listener.port, address):
            yield index, address, listener.port


def _meet(one: str | None, other: str | None) -> bool:
    """Whether two listening addresses (None: all) can't have the same port."""
    if one is None or other is None or one == other:
        return True
    # [::] is bound for IPv6 alone, so it leaves IPv4 its ports.
    return same_family(one, other) and (is_any(one) or is_any(other))


def _listeners_differ(config: ArrayConfig, web: WebConfig, array: Node) -> Iterator[Problem]:
    taken: list[tuple[int, str | None, int]] = []
    for index, address, port in _addresses(config, web):
        for first, other, other_port in taken:
            if port and port == other_port and _meet(address, other):
                message = (
                    f"expected an address and port of its own, got those of web.listen[{first}]"
                )
                yield _problem(array, ("web", "listen", index, "port"), message)
                break
        taken.append((index, address, port))


def _monitor_differs(config: NodeConfig, web: WebConfig, root: Node) -> Iterator[Problem]:
    if not config.monitor or not known(config.monitor.listen):
        return
    listen = config.monitor.listen
    for index, address, port in _addresses(config.array, web):
        if port and port == listen.port and _meet(listen.host, address):
            message = f"expected an address and port of its own, got those of web.listen[{index}]"
            yield locate(root, "monitor", "listen").place.problem(message)
            return


def _backends_are_others(
    config: ArrayConfig, web: WebConfig, array: Node, is_local: IsLocal
) -> Iterator[Problem]:
    listeners = list(_addresses(config, web))
    for name in web.pools:
        for backend in web.pools[name].backends:
            address = backend.address
            for index, own, port in listeners if known(address) else ():
                if port == address.port and _reaches(own, address.host, is_local):
                    message = f"expected a backend, got our own listener web.listen[{index}]"
                    path = ("web", "pools", name, "backends", backend.name, "address")
                    yield _problem(array, path, message)
                    break


def _reaches(own: str | None, host: str, is_local: IsLocal) -> bool:
    """Whether a connection to `host` ends at a listener of ours on `own` (None: all)."""
    if own == host:
        return True
    if own is not None and not (is_any(own) and same_family(own, host)):
        return False
    return is_loopback(host) or is_local(host)
