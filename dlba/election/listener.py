"""Takes connections of other nodes, and few of anybody else's.

An adapter. Whoever has not said hello yet holds a place; there are few for each address and few for
all addresses that are no node's. So strangers use up neither descriptors nor the nodes' places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Final

from twisted.internet.protocol import Factory

__all__ = ["Listener"]

#: Connections without hello: of one address, and of all addresses that are no node's.
EACH_LIMIT: Final = 8
STRANGERS_LIMIT: Final = 48


class Listener(Factory):
    """`factory`: of what speaks; `known`: addresses of nodes; `full`: told of one turned away."""

    noisy = False

    def __init__(self, factory: Factory, known: Collection[str], full: Callable[[], None]) -> None:
        self._factory = factory
        self._known = frozenset(known)
        self._full = full
        self._places: Counter[str] = Counter()

    def buildProtocol(self, addr: Any) -> Any:
        """A connection's protocol; None closes it."""
        host = addr.host
        # A handful of addresses: each has a place at least.
        strangers = sum(n for at, n in self._places.items() if at not in self._known)
        if self._places[host] >= EACH_LIMIT or (
            host not in self._known and strangers >= STRANGERS_LIMIT
        ):
            self._full()
            return None
        self._places[host] += 1
        return self._factory.buildProtocol(addr)

    def free(self, host: str) -> None:
        """A connection from `host` has said hello, or is gone before it did."""
        self._places[host] -= 1
        if self._places[host] <= 0:
            del self._places[host]
