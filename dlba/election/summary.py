"""Packs a node's web server status table for the scheduler, and adds up those of all nodes.

Pure. On the wire it is the data of a `Report`: a JSON list with a list for each backend, its values
in the order of `Row`'s fields. The sums are the summary status table.

Source: the seed's summary status table (Fig. 8).
"""

import json
from collections.abc import Iterable
from typing import Any, Final

import attrs

from dlba.election.messages import NUMBER_LIMIT, TEXT_LIMIT
from dlba.errors import PeerError

__all__ = ["ROWS_LIMIT", "Row", "Sum", "pack_rows", "summed", "unpack_rows"]

#: Bytes of a packed table at most: over a thousand backends, half of what a message carries.
ROWS_LIMIT: Final = 256 * 1024


@attrs.frozen(kw_only=True)
class Row:
    """One backend as one node sees it; fields as in `/status`, times in seconds."""

    pool: str
    name: str
    address: str
    cookie_groups: int
    hits: int
    open_connections: int
    average_response: float
    failed: bool
    draining: bool


@attrs.frozen(kw_only=True)
class Sum:
    """One line of the summary status table: a backend as all nodes together see it."""

    pool: str
    name: str
    address: str
    cookie_groups: int
    hits: int
    open_connections: int


_FIELDS: Final = tuple(attrs.fields_dict(Row).items())


def pack_rows(rows: Iterable[Row]) -> bytes:
    """A node's own table; rows that would make it longer than ROWS_LIMIT are left out."""
    lines: list[bytes] = []
    size = 2
    for row in rows:
        line = json.dumps(attrs.astuple(row), separators=(",", ":")).encode("ascii")
        size += len(line) + 1
        if size > ROWS_LIMIT:
            break
        lines.append(line)
    return b"[" + b",".join(lines) + b"]"


def unpack_rows(data: bytes) -> tuple[Row, ...]:
    """A peer's table. Raises PeerError for anything that `pack_rows` doesn't make."""
    if len(data) > ROWS_LIMIT:
        raise PeerError(f"report: expected {ROWS_LIMIT} bytes at most, got {len(data)}")
    try:
        lines = json.loads(data)
    except (ValueError, RecursionError):
        raise PeerError("report: expected JSON, got something else") from None
    if not isinstance(lines, list):
        raise PeerError("report: expected a list, got something else")
    rows: dict[tuple[str, str, str], Row] = {}
    for line in lines:
        if not isinstance(line, list) or len(line) != len(_FIELDS):
            raise PeerError(f"report: row: expected {len(_FIELDS)} values, got something else")
        row = _row(line)
        if rows.setdefault((row.pool, row.name, row.address), row) is not row:
            raise PeerError("report: expected each backend once, got one twice")
    return tuple(rows.values())


def summed(tables: Iterable[Iterable[Row]]) -> tuple[Sum, ...]:
    """The summary of all nodes' tables, each backend where it stood first.

    A backend whose address differs between nodes, as while a new configuration reaches them, has a
    line for each.
    """
    sums: dict[tuple[str, str, str], list[int]] = {}
    for rows in tables:
        for row in rows:
            one = sums.setdefault((row.pool, row.name, row.address), [0, 0, 0])
            one[0] += row.cookie_groups
            one[1] += row.hits
            one[2] += row.open_connections
    return tuple(
        Sum(
            pool=pool,
            name=name,
            address=address,
            cookie_groups=counts[0],
            hits=counts[1],
            open_connections=counts[2],
        )
        for (pool, name, address), counts in sums.items()
    )


def _row(line: list[Any]) -> Row:
    """One row of values, which have the types and lie in the ranges that they must."""
    for value, (name, field) in zip(line, _FIELDS, strict=True):
        kind: Any = field.type
        if kind is str:
            good = isinstance(value, str) and 0 < len(value) <= TEXT_LIMIT and value.isprintable()
        elif kind is bool:
            good = isinstance(value, bool)
        else:
            good = type(value) is int or (kind is float and type(value) is float)
            good = good and 0 <= value < NUMBER_LIMIT
        if not good:
            raise PeerError(f"report: {name}: expected {kind.__name__} in its range, got another")
    pool, name, address, cookie_groups, hits, open_connections, average, failed, draining = line
    return Row(
        pool=pool,
        name=name,
        address=address,
        cookie_groups=cookie_groups,
        hits=hits,
        open_connections=open_connections,
        average_response=float(average),
        failed=failed,
        draining=draining,
    )
