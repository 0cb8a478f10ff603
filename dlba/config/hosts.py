"""Which host patterns of sites take the same hosts: a name, `*.name` for those under it, `*`.

Pure. Patterns are looked up by what they lie under instead of compared with each other: a file of
a megabyte may have tens of thousands of them, and its pairs would take minutes.
Source: web.md rule 5.
"""

from collections.abc import Iterator
from typing import TypeAlias

import attrs

__all__ = ["Hosts", "Owner", "wider"]

#: A site's index, the name of its pool, and the pattern in question.
Owner: TypeAlias = tuple[int, str, str]


def wider(host: str) -> Iterator[str]:
    """All patterns that take whatever `host` takes, itself first."""
    yield host
    rest = host.removeprefix("*.")
    while "." in rest and not host.startswith("["):
        rest = rest.partition(".")[2]
        yield f"*.{rest}"
    if host != "*":
        yield "*"


@attrs.frozen
class Hosts:
    """Patterns of sites that were added in their order; finds the first with another pool."""

    _exact: dict[str, list[Owner]] = attrs.field(factory=dict, init=False)
    _under: dict[str, list[Owner]] = attrs.field(factory=dict, init=False)

    def add(self, index: int, pool: str, host: str) -> None:
        """Note that the site `index`, served by `pool`, takes `host`."""
        _note(self._exact, host, (index, pool, host))
        for pattern in wider(host):
            _note(self._under, pattern, (index, pool, host))

    def meets(self, pool: str, host: str) -> Owner | None:
        """The first site with another pool than `pool` that takes a host that `host` takes.

        With the narrower one of the two patterns; None if there is no such site.
        """
        found = [
            (index, other, host)
            for pattern in wider(host)
            for index, other, _ in self._exact.get(pattern, ())
            if other != pool
        ]
        found += [owner for owner in self._under.get(host, ()) if owner[1] != pool]
        return min(found, default=None, key=lambda owner: owner[0])


def _note(owners: dict[str, list[Owner]], pattern: str, owner: Owner) -> None:
    """Keep the first owner, and the first with another pool: one of them has another than asked."""
    known = owners.setdefault(pattern, [])
    if not known or (len(known) == 1 and known[0][1] != owner[1]):
        known.append(owner)
