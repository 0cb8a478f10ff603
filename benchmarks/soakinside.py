"""Runs twistd with an ear: whoever connects to a unix socket is told how many objects there are.

    soakinside.py SOCKET [twistd's arguments]

The node is the real one; the thread beside it sleeps until it is asked. A line `count` answers with
the objects that the garbage collector knows; `collect` collects first. Objects in reference counts
alone are freed as they go, so a count that grows for good is a leak.
"""

from __future__ import annotations

import gc
import socket
import sys
import threading
from typing import Final

from twisted.scripts.twistd import run

__all__ = ["ask", "main"]

TIMEOUT: Final = 20.0
"""Seconds for an answer: the process may be busy."""


def ask(path: str, what: str) -> int:
    """The count of a process that runs this; `what`: `count` or `collect`. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(path)
        sock.sendall(what.encode())
        return int(sock.recv(64) or b"0")


def _answer(listening: socket.socket) -> None:
    while True:
        peer, _ = listening.accept()
        with peer:
            if peer.recv(64) == b"collect":
                gc.collect()
            peer.sendall(str(len(gc.get_objects())).encode())


def main() -> None:
    """Listen, then be twistd."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(sys.argv[1])
    listening.listen(4)
    threading.Thread(target=_answer, args=(listening,), name="ear", daemon=True).start()
    sys.argv[:2] = ["twistd"]
    run()


if __name__ == "__main__":
    main()
