"""Keeps a node's state folder: made private, held by one process, with the secrets in it.

An adapter. `load_keys` reads the secrets; where none are named and the node is an array of one,
they are made at the first start. In an array of several they are the operator's to hand out: keys
that each node made for itself would make a client lose its backend with every other node.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import tempfile
import time
from pathlib import Path

from dlba.config.keys import HASH_ID, Keys, parse_keys
from dlba.config.values import NodeConfig
from dlba.errors import DLBAError

__all__ = ["load_keys", "lock_state", "make_state"]

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
    """The keys in the secrets file; made at first start in the state folder of an array of one.

    A file that the configuration names must be there, and a `hash` key in it where flows are hashed
    by one. Raises OSError, or DLBAError with the file and line at fault.
    """
    path = config.state / "secrets" if config.secrets is None else config.secrets
    if config.secrets is None:
        make_state(config.state)
        if not path.exists():
            if len(config.array.nodes) > 1:
                raise DLBAError(
                    f"{path}: expected the array's secrets, the same on every node, got no file"
                )
            _make_secrets(path)
    keys = _read_keys(path)
    if config.array.nodes and config.array.routing.hash == "keyed" and keys.hash is None:
        raise DLBAError(f"{path}: expected a key with the id {HASH_ID} (hash: keyed), got none")
    return keys


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
