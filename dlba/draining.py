"""Keeps which backends were asked to drain: on disk, in the proxy, and for who asks by command.

Drained by command is not drained by `weight: 0` of the configuration: either is enough, and each
ends on its own. What was asked for is kept over restarts and reloads until it is taken back, also
for a backend that the configuration doesn't have at the moment. It is on disk before it counts.
Source: the contract's `dlba drain`, web.md rules 5 and 9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from twisted.logger import Logger

from dlba.config.problems import quoted
from dlba.errors import DLBAError
from dlba.state import load_drained, store_drained

__all__ = ["Draining"]


class Row(Protocol):
    """A backend as the proxy has it."""

    pool: str
    name: str
    weight: int
    draining: bool
    open_connections: int


class Draining:
    """What was asked for. `rows`: gives the backends; `apply`: makes exactly these drain."""

    _log = Logger()

    def __init__(
        self,
        folder: Path,
        rows: Callable[[], Iterable[Row]],
        apply: Callable[[frozenset[tuple[str, str]]], None],
    ) -> None:
        self._folder = folder
        self._rows = rows
        self._apply = apply
        self._drained: frozenset[tuple[str, str]] = frozenset()

    def load(self) -> None:
        """Take up what was asked for before this start; a file that can't be read is logged."""
        try:
            self._drained = load_drained(self._folder)
        except (OSError, DLBAError) as error:
            self._log.error("drained backends not known: {error}", error=error)
            return
        if self._drained:
            names = ", ".join(sorted("/".join(pair) for pair in self._drained))
            self._log.info("draining, as asked for before: {names}", names=names)
        self._apply(self._drained)

    def drain(self, request: Mapping[str, Any], peer: str) -> dict[str, Any]:
        """The command: `backend`, POOL/NAME, gets nothing new but what a token brings."""
        pair = self._pair(request)
        if self._row(pair) is None:
            raise self._unknown(pair)
        return self._change("drain", pair, self._drained | {pair}, peer)

    def resume(self, request: Mapping[str, Any], peer: str) -> dict[str, Any]:
        """The command: `backend`, POOL/NAME, gets its share again."""
        pair = self._pair(request)
        if self._row(pair) is None and pair not in self._drained:
            raise self._unknown(pair)
        return self._change("resume", pair, self._drained - {pair}, peer)

    def _pair(self, request: Mapping[str, Any]) -> tuple[str, str]:
        name = request.get("backend")
        pair = tuple(name.split("/")) if isinstance(name, str) else ()
        if len(pair) != 2:
            got = quoted(name) if isinstance(name, str) else "no text"
            raise DLBAError(f"backend: expected POOL/NAME, got {got}")
        return pair

    def _row(self, pair: tuple[str, str]) -> Row | None:
        return next((row for row in self._rows() if (row.pool, row.name) == pair), None)

    def _unknown(self, pair: tuple[str, str]) -> DLBAError:
        names = [f"{row.pool}/{row.name}" for row in self._rows()]
        known = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        expected = f"one of {known}" if names else "a node with a proxy"
        return DLBAError(f"backend: expected {expected}, got {quoted('/'.join(pair))}")

    def _change(
        self, command: str, pair: tuple[str, str], drained: frozenset[tuple[str, str]], peer: str
    ) -> dict[str, Any]:
        name = "/".join(pair)
        changed = drained != self._drained
        if changed:
            try:
                store_drained(self._folder, drained)
            except OSError as error:
                got = error.strerror or error
                what = "expected to keep it on disk"
                raise DLBAError(f"{self._folder}: {what}, got: {got}") from None
            self._drained = drained
            self._apply(drained)
        self._log.info("{command} backend {name}, by {peer}", command=command, name=name, peer=peer)
        row = self._row(pair)
        return {
            "backend": name,
            "changed": changed,
            "draining": row is not None and row.draining,
            "weight": None if row is None else row.weight,
            "open_connections": 0 if row is None else row.open_connections,
        }
