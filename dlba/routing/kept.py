"""Keeps the client table on disk from a scheduler's orderly stop to its next start.

An adapter for one file of the state folder, `table`, mode 0600:

    a line of JSON     {"format": 1, "boot": "UUID", "buckets": 65536, "hash": "sum",
                        "second": 4711.5, "nodes": {"a": 0, …}, "version": 812}
    4 bytes a bucket   the snapshot of the client table
    32 bytes           BLAKE2b of all before

`second` is CLOCK_BOOTTIME's, which goes on while the machine sleeps. A table is good for one start:
`take` and `drop` remove it before anything else is done with it, so none is taken up twice, nor
after a crash, when it would tell of connections that have moved since.

Another boot, number of buckets or hash, or an age above `bucket_timeout`, when any bucket might
have moved: the whole is refused. Buckets of a node that is gone or has another number only become
unassigned. That takes no more code than a refusal, and taking a node out of the file needs a
restart of the scheduler, which the others' connections shall survive.

Source: routing.md "The table".
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Any, Final

from twisted.logger import Logger

from dlba.routing.hashtable import ClientTable, second_of

__all__ = ["FILE", "drop", "keep", "name_of_hash", "take"]

#: In the state folder.
FILE: Final = "table"

_FORMAT: Final = 1
_DIGEST_SIZE: Final = 32  # bytes
#: Bytes of the first line at most: 1024 nodes with names of 63 characters take 75 KiB.
_LINE_LIMIT: Final = 128 * 1024

_log: Final = Logger()


def name_of_hash(kind: str, key: bytes | None) -> str:
    """What tells two hashes apart: `sum`, or `keyed` with a digest that gives no key away.

    `kind`: `hash` in the array file; `key`: for `keyed`, 32 bytes or more.
    """
    if kind != "keyed" or key is None:
        return kind
    return f"{kind} {hashlib.blake2b(key, digest_size=16, person=b'dlba table hash').hexdigest()}"


def keep(
    folder: Path, table: ClientTable, numbers: Mapping[str, int], hash_name: str, now: float
) -> None:
    """Write `table` down, which no frame may change any more; a failure is only logged.

    `numbers`: of every node, by name; `hash_name`: from `name_of_hash`; `now`: seconds of
    CLOCK_BOOTTIME.
    """
    version, snapshot = table.snapshot()
    head = {**_wanted(table, hash_name), "second": now, "nodes": dict(numbers), "version": version}
    fresh = folder / (FILE + ".new")  # one process at a time has the folder
    try:
        line = json.dumps({"boot": _boot(), **head}).encode("ascii") + b"\n"
        fresh.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(fresh, flags, 0o600), "wb") as file:
            file.writelines((line, snapshot, _digest(line, snapshot)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, folder / FILE)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        _log.error("client table not kept: {error}", error=error)
    else:
        _log.info("client table of {count} buckets kept", count=table.assigned)


def take(
    folder: Path,
    table: ClientTable,
    numbers: Mapping[str, int],
    hash_name: str,
    bucket_timeout: float,
    now: float,
) -> bool:
    """Make `table` what `keep` wrote down; False, and no change, if that isn't there or no good.

    Never raises: what is wrong is logged. `now`: seconds of CLOCK_BOOTTIME, where all last accesses
    are then; a frame path touches them by its own clock when it becomes active.
    """
    try:
        data = _remove(folder, _LINE_LIMIT + 4 * table.buckets + _DIGEST_SIZE)
        if data is None:
            return False
        head, snapshot = _parse(data)
        wanted = {"boot": _boot(), **_wanted(table, hash_name)}
        for key, value in wanted.items():
            if head[key] != value:
                raise ValueError(f"{key}: expected {value}, got {head[key]}")
        age = now - head["second"]
        if not 0 <= age <= bucket_timeout:
            raise ValueError(f"expected one of the last {bucket_timeout:g} s, got {age:.1f} s")
        same = {number for name, number in head["nodes"].items() if numbers.get(name) == number}
        table.restore(index(head["version"]), snapshot, second_of(now))
    except (OSError, ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        _log.warn("client table not taken up: {error}", error=error)
        return False
    for number in table.groups.keys() - same:
        table.release(number)
    _log.info("client table of {count} buckets taken up", count=table.assigned)
    return True


def drop(folder: Path) -> None:
    """Remove what was kept, if anything: this node starts as something else than scheduler."""
    try:
        (folder / FILE).unlink(missing_ok=True)
    except OSError as error:
        _log.warn("client table not removed: {error}", error=error)


def _wanted(table: ClientTable, hash_name: str) -> dict[str, Any]:
    """What must be the same at both ends, besides the boot."""
    return {"format": _FORMAT, "buckets": table.buckets, "hash": hash_name}


def _remove(folder: Path, limit: int) -> bytes | None:
    """At most `limit` bytes of the file, which is gone then; None if there is none.

    Raises OSError, ValueError for what isn't a file or is longer.
    """
    path = folder / FILE
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"{path}: expected a file")
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    finally:
        path.unlink(missing_ok=True)
    if len(data) > limit:
        raise ValueError(f"{path}: expected at most {limit} bytes, got more")
    return data


def _parse(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The first line's values and the snapshot. ValueError if `keep` didn't write them."""
    end = data.find(b"\n", 0, _LINE_LIMIT) + 1
    if not end or _digest(memoryview(data)[:-_DIGEST_SIZE]) != data[-_DIGEST_SIZE:]:
        raise ValueError("expected the file as it was written, got a damaged one")
    try:
        return json.loads(data[:end]), data[end:-_DIGEST_SIZE]
    except RecursionError:
        raise ValueError("expected a line of values, got something else") from None


def _digest(*parts: bytes | memoryview) -> bytes:
    state = hashlib.blake2b(digest_size=_DIGEST_SIZE, person=b"dlba table")
    for part in parts:
        state.update(part)
    return state.digest()


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
