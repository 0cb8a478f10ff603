"""Decides how a site's own rules change the field lines of a request or a response.

Every line of a name that is set or removed goes, in any case; the lines that are set follow at the
end, spelled as configured. All other bytes stay as they came. Host alone is replaced where it
stands, since backends expect it first (RFC 9110 7.2). The names of framing and hop-by-hop fields
are refused by the configuration: those lines are cut before and made after, see `dlba.web.head`.

Source: the contract's `request_headers` and `response_headers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dlba.config.values import HeaderChangesConfig

__all__ = ["HeaderChanges"]

_HOST: Final = "host"


class HeaderChanges:
    """What is set and removed; falsy when there is nothing to do.

    `host`: the value that Host is set to, or None. Whoever adds a Host to a request that came
    without one doesn't need to then.
    """

    __slots__ = ("_added", "_apply", "_host_line", "host")

    def __init__(self, changes: HeaderChangesConfig) -> None:
        lines = {name: f"\r\n{name}: {value}".encode() for name, value in changes.set.items()}
        self.host: bytes | None = None
        self._host_line = b""
        for name in [name for name in lines if name.lower() == _HOST]:
            self._host_line = lines.pop(name)
            self.host = changes.set[name].encode()
        #: The lines that are set, all but Host.
        self._added = b"".join(lines.values())
        names = {name.lower() for name in (*changes.set, *changes.remove)}
        self._apply = _substitution(names, self._host_line) if names else None

    def __bool__(self) -> bool:
        return self._apply is not None

    def apply(self, fields: bytes) -> bytes:
        """`fields` changed: lines, each with the CRLF before it."""
        if self._apply is None:
            return fields
        fields = self._apply(fields)
        if self._host_line and self._host_line not in fields:
            # HTTP/1.0 may come without one.
            fields += self._host_line
        return fields + self._added


def _substitution(names: set[str], host_line: bytes) -> Callable[[bytes], bytes]:
    """What takes the lines of `names` (lower case) out; Host becomes `host_line` where set."""
    # The look-ahead spares the alternatives for most other fields.
    first = "".join(sorted({re.escape(name[0]) for name in names}))
    ordered = "|".join(re.escape(name) for name in sorted(names))
    pattern = rf"\r\n(?=[{first}])(?:{ordered}):[^\r]*+".encode()
    sub = re.compile(pattern, re.IGNORECASE).sub
    if not host_line:
        return lambda fields: sub(b"", fields)

    def replaced(line: re.Match[bytes]) -> bytes:
        return host_line if line[0][:7].lower() == b"\r\nhost:" else b""

    return lambda fields: sub(replaced, fields)
