"""Keeps a node's state folder: made private, held by one process, with the secrets in it.

An adapter. `load_keys` reads the secrets; where none are named and the node is an array of one or
has a channel, they are made at the first start. Over a channel nodes tell each other their keys; in
an array of several without one they are the operator's to hand out: keys that each node made for
itself would make a client lose its backend with every other node.

What was learned over the channel (`dlba.election.keyring`) is kept in the file `learned`, which
backends were asked to drain in `drained`; mode 0600 as the secrets are.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

import attrs

from dlba.config.keys import HASH_ID, Keys, parse_keys
from dlba.config.values import NodeConfig
from dlba.errors import DLBAError

__all__ = [
    "load_drained",
    "load_keys",
    "load_learned",
    "lock_state",
    "make_state",
    "reload_keys",
    "store_drained",
    "store_learned",
]

#: What other nodes told of their keys; in the state folder.
LEARNED = "learned"
#: Bytes of it at most: 64 keys of 512 characters from 32 nodes.
LEARNED_LIMIT = 1 << 20

#: Which backends were asked to drain; in the state folder.
DRAINED = "drained"
#: Bytes of it at most: some thousand names.
DRAINED_LIMIT = 1 << 20

#: Times that a start looks, 50 ms apart, whether the folder is free.
LOOKS = 5


def make_state(folder: Path) -> None:
    """Make the folder with mode 0700. Raises OSError, or DLBAError where everybody can write."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        # A folder that was there keeps its mode: it may be somebody else's, even /tmp.
        if folder.stat().st_mode & stat.S_IWOTH:
            raise DLBAError(
                f"{folder}: expected a folder that not everybody can write to"
            ) from None


def lock_state(folder: Path) -> int:
    """Hold the folder for this process; gives the descriptor that keeps it, until it is closed.

    Raises OSError, or DLBAError while another process holds it.
    """
    # Whoever looks whether a node runs holds it for a moment (dlba doctor).
    for _ in range(LOOKS):
        with contextlib.suppress(BlockingIOError):
            return _lock(folder)
        time.sleep(0.05)
    raise DLBAError(f"{folder}: expected a state folder of its own, got that of a running node")


def _lock(folder: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder / "lock", flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def load_keys(config: NodeConfig) -> Keys:
    """The keys in the secrets file; made at first start in the state folder, of an array of one or
    with a channel.

    A file that the configuration names must be there, and a `hash` key in it where flows are hashed
    by one; with a channel one is made up in its place, as the scheduler's counts. Raises OSError,
    or DLBAError with the file and line at fault.
    """
    path = config.state / "secrets" if config.secrets is None else config.secrets
    if config.secrets is None:
        make_state(config.state)
        if not path.exists():
            if len(config.array.nodes) > 1 and config.channel is None:
                raise DLBAError(
                    f"{path}: expected the array's secrets, the same on every node, got no file"
                )
            _make_secrets(path)
    keys = _read_keys(path)
    if config.array.nodes and config.array.routing.hash == "keyed" and keys.hash is None:
        if config.channel is not None:
            return attrs.evolve(keys, hash=secrets.token_hex(32).encode())
        raise DLBAError(f"{path}: expected a key with the id {HASH_ID} (hash: keyed), got none")
    return keys


def reload_keys(config: NodeConfig) -> Keys | None:
    """The keys that are in the secrets file now; None where it is gone from the state folder.

    Nothing is made up: new keys would end all sessions. Raises OSError, or DLBAError with the file
    and line at fault.
    """
    path = config.state / "secrets" if config.secrets is None else config.secrets
    return None if config.secrets is None and not path.exists() else _read_keys(path)


def load_learned(folder: Path) -> str:
    """What `store_learned` kept; empty if nothing. Raises OSError, or DLBAError for other data."""
    return _load(folder / LEARNED, LEARNED_LIMIT)


def store_learned(folder: Path, text: str) -> None:
    """Keep ASCII `text`, private; whatever breaks off leaves the old one. Raises OSError."""
    _store(folder, LEARNED, text)


def load_drained(folder: Path) -> frozenset[tuple[str, str]]:
    """What `store_drained` kept; empty if nothing. Raises OSError, or DLBAError for other data."""
    text = _load(folder / DRAINED, DRAINED_LIMIT)
    if not text:
        return frozenset()
    try:
        document = json.loads(text)
        names = [tuple(name.split("/")) for name in document["backends"]]
        if document["format"] != 1 or not all(len(name) == 2 for name in names):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        what = "expected the names of backends as a node writes them, got other data"
        raise DLBAError(f"{folder / DRAINED}: {what}") from None
    return frozenset((pool, name) for pool, name in names)


def store_drained(folder: Path, backends: Collection[tuple[str, str]]) -> None:
    """Keep `backends`, (pool, name) each; whatever breaks off leaves the old ones. Raises OSError.

    What is kept is on disk when this returns.
    """
    names = sorted(f"{pool}/{name}" for pool, name in backends)
    _store(folder, DRAINED, json.dumps({"format": 1, "backends": names}) + "\n")


def _load(path: Path, limit: int) -> str:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return ""
    if len(data) > limit or not data.isascii():
        raise DLBAError(f"{path}: expected at most {limit} bytes of ASCII, got other data")
    return data.decode("ascii")


def _store(folder: Path, file_name: str, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=f"{file_name}.")
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, folder / file_name)
    except BaseException:
        os.unlink(name)
        raise
    # Only then does the name outlive a loss of power.
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _make_secrets(path: Path) -> None:
    # Whole or not at all, whatever breaks off in between, and whoever else makes it.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix="secrets.")
    try:
        with open(descriptor, "w") as file:
            for word in (secrets.token_hex(2), HASH_ID):
                file.write(f"{word} {secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)


def _read_keys(path: Path) -> Keys:
    try:
        return parse_keys(path.read_text("ascii"))
    except UnicodeDecodeError:
        raise DLBAError(f"{path}: expected ASCII text") from None
    except DLBAError as error:
        raise DLBAError(f"{path}: {error}") from None
