"""Names a node's control socket, also where its path is too long for a socket's address.

A leaf that touches nothing but a folder's descriptor: the system takes 107 bytes of a path, state
folders may be deeper. Both ends of the control socket need it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["CONTROL", "socket_name"]

#: The name of a node's control socket in its state folder.
CONTROL: Final = "control"

#: Bytes of a unix socket's address on Linux, without the zero behind it.
ADDRESS_LIMIT: Final = 107


@contextmanager
def socket_name(path: Path) -> Iterator[str]:
    """A name of `path` that fits into a socket's address. Raises OSError without its folder."""
    if len(os.fsencode(path)) <= ADDRESS_LIMIT:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
