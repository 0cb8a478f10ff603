"""Keeps on disk the highest term that this node knows of, and the one node it granted that term.

An adapter for one file of the state folder, `term`, mode 0600:

    a line of JSON     {"format": 1, "term": 7, "granted": 2}    granted: a node number or null
    64 characters      BLAKE2b of that line, in hexadecimal, and a line feed

A grant or a claim leaves this node only after `store` has returned: what was said once holds over a
crash of the process and of the machine, so nobody is granted a term twice. The file is written
beside the old one, synced, renamed over it, and the folder is synced: a kill in between leaves the
old one or the new one, never half of one. No file means a node that has never heard of a term.

A store blocks the process until the disk has it: two syncs.

Source: election.md "Takeover".
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Final

from dlba.election.messages import TERM_LIMIT
from dlba.errors import DLBAError
from dlba.routing.hashtable import NODES_LIMIT

__all__ = ["FILE", "Terms"]

#: In the state folder.
FILE: Final = "term"

_FORMAT: Final = 1
#: Bytes of the file at most; what `store` writes is below 140.
_LIMIT: Final = 512
_MEND: Final = (
    "remove it while the array's other nodes run, so that this one learns the term from them; "
    "if it is so on every node, remove it on all of them while none runs"
)


class Terms:
    """`folder`: the state folder. Nothing counts before `load`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: The highest term stored; 0 before the first.
        self.term = 0
        #: The number of the node that was granted `term`, None while nobody was.
        self.granted: int | None = None

    def load(self) -> None:
        """Read what is on disk; this process holds the folder by now, so nobody else writes it.

        Raises DLBAError, with what to do, for a file that is damaged or can't be read: this node
        may have granted a term that it doesn't know any more.
        """
        path = self._folder / FILE
        try:
            data = _read(path)
        except OSError as error:
            raise DLBAError(f"{path}: {error.strerror or error}") from None
        except ValueError as error:
            raise DLBAError(f"{path}: {error}: {_MEND}") from None
        if data is None:
            return
        try:
            self.term, self.granted = _parse(data)
        except ValueError as error:
            raise DLBAError(f"{path}: {error}: {_MEND}") from None

    def store(self, term: int, granted: int | None) -> None:
        """Keep `term`, and whom it is granted to; on disk when this returns.

        Raises DLBAError when it can't be written: nothing may be granted or claimed then, and
        `term` and `granted` stay as they were. ValueError for a term below the stored one, or one
        that was granted to somebody else: that would be a second grant.
        """
        _check(term, granted)
        if term < self.term or (
            term == self.term and self.granted is not None and granted != self.granted
        ):
            raise ValueError(
                f"term: expected one above {self.term} (granted to {self.granted}), "
                f"got {term} for {granted}"
            )
        if (term, granted) == (self.term, self.granted):
            return
        path = self._folder / FILE
        fresh = self._folder / (FILE + ".new")  # one process at a time has the folder
        try:
            _write(fresh, _lines(term, granted))
            os.replace(fresh, path)
            _sync_folder(self._folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise DLBAError(f"{path}: term not stored: {error.strerror or error}") from None
        self.term, self.granted = term, granted


def _check(term: object, granted: object) -> None:
    """ValueError for what is no term or no node number."""
    if type(term) is not int or not 0 <= term < TERM_LIMIT:
        raise ValueError(f"expected a term from 0 to {TERM_LIMIT - 1}, got {term!r}")
    if granted is not None and (type(granted) is not int or not 0 <= granted < NODES_LIMIT):
        raise ValueError(f"expected a node number from 0 to {NODES_LIMIT - 1}, got {granted!r}")


def _lines(term: int, granted: int | None) -> bytes:
    line = json.dumps({"format": _FORMAT, "term": term, "granted": granted}).encode("ascii") + b"\n"
    return line + _digest(line) + b"\n"


def _parse(data: bytes) -> tuple[int, int | None]:
    """Term and grant. ValueError if `store` didn't write it."""
    line, _, digest = data.partition(b"\n")
    line += b"\n"
    if digest != _digest(line) + b"\n":
        raise ValueError("expected the file as it was written, got a damaged one")
    values = json.loads(line)
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise ValueError(f"expected format {_FORMAT}, got another")
    term, granted = values.get("term"), values.get("granted")
    _check(term, granted)
    return term, granted  # type: ignore[return-value]  # `_check` has looked


def _digest(line: bytes) -> bytes:
    made = hashlib.blake2b(line, digest_size=32, person=b"dlba term")
    return made.hexdigest().encode("ascii")


def _read(path: Path) -> bytes | None:
    """The file, None if there is none. Raises OSError, ValueError for what isn't such a file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("expected a file, got something else")
            data = file.read(_LIMIT + 1)
    except FileNotFoundError:
        return None
    if len(data) > _LIMIT:
        raise ValueError(f"expected at most {_LIMIT} bytes, got more")
    return data


def _write(path: Path, data: bytes) -> None:
    """A new file with `data`, on disk. One that a kill has left there is replaced."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """The folder's names are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
