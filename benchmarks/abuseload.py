"""Attacks a port of loopback in one of the ways of `abuseplan`, at a rate it is told, and counts.

    abuseload.py

A program of its own, which takes the processor only when nobody else wants it (SCHED_IDLE). Line by
line on its standard input:

    {"attack": {…}, "port": 8443, "lead": 1.0}

begins; `attack` has the fields of `abuseplan.Attack`. It prints `{"ready": true}` when as many
connections are held as asked, or after `lead` seconds of an attack that holds none. `finish` ends
all connections with resets and prints what became of them: `begun`, `cut` (by the other side),
`failed` (no connection), `answers` (how many first answers of each status), `lives` (seconds of
those that were cut: `median`, `longest`) and `oldest` (seconds of the one held longest at the end).
The end of the input ends it.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import ctypes.util
import errno
import json
import os
import resource
import select
import socket
import ssl
import statistics
import struct
import sys
import time
from pathlib import Path
from typing import Any, Final

# As a script, only this folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.abusebytes import DRIPS, FIRST_ANSWER, opening
from benchmarks.abuseplan import ANSWER, HELLO, KEY_UPDATES, OPEN, TLS, Attack

__all__ = ["Hostile", "Load", "main", "read_line"]

TICK: Final = 0.01
"""Seconds between two looks at the rate and at what drips."""

ADDRESSES: Final = 64
"""Source addresses, 127.0.1.1 and so on: `limits.per_client` is one client's share, not ours."""

MOST: Final = 2000
"""Connections at once of an attack that holds none."""

CREEP: Final = 256
"""Bytes that a creeping reader takes at a time."""

RECEIVE_BUFFER: Final = 4096
"""Bytes: what the kernel takes for those who don't read."""

UPDATES: Final = 2000
"""Key updates of one connection, a few at a time."""

_ABORT: Final = struct.pack("ii", 1, 0)
_GONE: Final = select.EPOLLHUP | select.EPOLLERR
_IDLE_CLASS: Final = getattr(os, "SCHED_IDLE", 5)


class Hostile:
    """One connection of an attack."""

    def __init__(self, load: Load, number: int) -> None:
        attack = load.attack
        self._load = load
        self._attack = attack
        self._sock: Any = socket.socket()
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        if not attack.reads:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._sock.bind((f"127.0.1.{1 + number % ADDRESSES}", 0))
        self.fd: int = self._sock.fileno()
        self.begun = time.monotonic()
        self._left: memoryview | bytes = b""
        self._connected = False
        self._shaking = False
        self._read_any = False
        self._ssl: Any = None
        self._updates = 0
        code = self._sock.connect_ex(("127.0.0.1", load.port))
        if code not in (0, errno.EINPROGRESS):
            self._sock.close()
            raise OSError(code, os.strerror(code))
        self._mask = select.EPOLLOUT
        load.epoll.register(self.fd, self._mask)

    def on_event(self, mask: int) -> None:
        """Go on as far as possible."""
        try:
            if not self._connected:
                self._connect()
            elif self._shaking:
                self._shake_hands()
            elif self._ssl is not None:
                if mask & (_GONE | select.EPOLLRDHUP):
                    self._load.cut(self)
                else:
                    self._update_keys()
            else:
                if self._left:
                    self._send()
                if mask & (select.EPOLLIN | select.EPOLLRDHUP | _GONE):
                    self._read(mask)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError) as error:
            if self._shaking:
                write = isinstance(error, ssl.SSLWantWriteError)
                self._want(select.EPOLLOUT if write else select.EPOLLIN)
        except OSError:
            self._load.cut(self)

    def _connect(self) -> None:
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        self._connected = True
        self.begun = time.monotonic()
        attack = self._attack
        if attack.begins == TLS:
            self._shaking = True
            self._sock = self._load.context.wrap_socket(
                self._sock, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
            self._shake_hands()
        elif attack.begins == KEY_UPDATES:
            self._shaking = True
            self._ssl = KeyUpdates(self.fd)
            self._shake_hands()
        else:
            self._open()

    def _shake_hands(self) -> None:
        if self._ssl is None:
            self._sock.do_handshake()
        elif not self._ssl.handshake():
            self._want(select.EPOLLIN)
            return
        self._shaking = False
        self._open()

    def _open(self) -> None:
        self._left = memoryview(self._load.bytes)
        if self._ssl is None:
            self._send()
        else:
            self._want(select.EPOLLOUT | select.EPOLLRDHUP)

    def _send(self) -> None:
        while self._left:
            try:
                taken = self._sock.send(self._left)
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._want(select.EPOLLOUT | self._reading())
                return
            self._left = self._left[taken:]
        if self._attack.ends == OPEN:
            self._load.end(self)
            return
        self._want(self._reading())
        if self._attack.every:
            self._load.drips.append((time.monotonic() + self._attack.every, self))

    def _reading(self) -> int:
        return select.EPOLLIN | select.EPOLLRDHUP if self._attack.reads else select.EPOLLRDHUP

    def _read(self, mask: int) -> None:
        if not self._attack.reads:
            if mask & (_GONE | select.EPOLLRDHUP):
                self._load.cut(self)
            return
        data = self._sock.recv(65536)
        if not data:
            self._load.cut(self)
            return
        if not self._read_any:
            self._read_any = True
            if data.startswith(FIRST_ANSWER):
                self._load.answers[data[9:12].decode("latin-1")] += 1
            if self._attack.answered:
                self._load.cut(self)
            elif self._attack.ends == ANSWER:
                self._load.end(self)

    def drip(self) -> bool:
        """A byte more, or a few taken; False: it is over."""
        if self.fd < 0:
            return False
        try:
            if self._attack.reads:
                self._sock.send(DRIPS[self._attack.sends])
            elif not self._sock.recv(CREEP):
                self._load.cut(self)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self._load.cut(self)
        return self.fd >= 0

    def _update_keys(self) -> None:
        # Paced by the tick, so that it neither blocks nor hurries.
        self._updates += self._ssl.update(min(250, UPDATES - self._updates))
        if self._updates >= UPDATES:
            # It stays, to be cut.
            self._want(select.EPOLLRDHUP)

    def _want(self, mask: int) -> None:
        if mask != self._mask and self.fd >= 0:
            self._mask = mask
            self._load.epoll.modify(self.fd, mask)

    def close(self) -> None:
        """With a reset."""
        if self.fd >= 0:
            self.fd = -1
            if self._ssl is not None:
                self._ssl.free()
                self._ssl = None
            with contextlib.suppress(OSError):
                self._sock.close()


class KeyUpdates:
    """A TLS 1.3 client on the platform's libssl, which no Python binding asks for key updates."""

    _library: Any = None
    _context: Any = None

    def __init__(self, fd: int) -> None:
        library = self._load()
        self._connection = library.SSL_new(KeyUpdates._context)
        library.SSL_set_fd(self._connection, fd)
        library.SSL_set_connect_state(self._connection)

    @classmethod
    def _load(cls) -> Any:
        if cls._library is None:
            library = ctypes.CDLL(ctypes.util.find_library("ssl") or "libssl.so.3")
            pointer, integer = ctypes.c_void_p, ctypes.c_int
            for function, result, *arguments in (
                ("TLS_client_method", pointer),
                ("SSL_CTX_new", pointer, pointer),
                ("SSL_new", pointer, pointer),
                ("SSL_free", None, pointer),
                ("SSL_set_fd", integer, pointer, integer),
                ("SSL_set_connect_state", None, pointer),
                ("SSL_do_handshake", integer, pointer),
                ("SSL_get_error", integer, pointer, integer),
                ("SSL_key_update", integer, pointer, integer),
            ):
                call = getattr(library, function)
                call.restype = result
                call.argtypes = arguments
            cls._library = library
            cls._context = library.SSL_CTX_new(library.TLS_client_method())
        return cls._library

    def handshake(self) -> bool:
        """Whether it is done; OSError if it failed."""
        done = self._library.SSL_do_handshake(self._connection)
        if done == 1:
            return True
        # SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE
        if self._library.SSL_get_error(self._connection, done) in (2, 3):
            return False
        raise OSError(errno.ECONNRESET, "TLS failed")

    def update(self, count: int) -> int:
        """Send up to `count` key updates; how many went."""
        for done in range(count):
            # 0: SSL_KEY_UPDATE_NOT_REQUESTED, so that there are no answers to read.
            if self._library.SSL_key_update(self._connection, 0) != 1:
                # One waits for room.
                if not self.handshake():
                    return done
                continue
            if not self.handshake():
                return done
        return count

    def free(self) -> None:
        self._library.SSL_free(self._connection)


class Load:
    """One attack."""

    def __init__(self, attack: Attack, port: int, lead: float) -> None:
        self._lead = lead
        self.attack = attack
        self.port = port
        self.epoll = select.epoll()
        self.drips: collections.deque[tuple[float, Hostile]] = collections.deque()
        self.answers: collections.Counter[str] = collections.Counter()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Who attacks checks no certificate.
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.bytes = opening(attack.sends)
        if attack.begins == HELLO:
            self.bytes = self._hello() + self.bytes
        self._live: dict[int, Hostile] = {}
        self._lives: list[float] = []
        self._begun = 0
        self._failed = 0

    def _hello(self) -> bytes:
        """A ClientHello, the same for all."""
        outgoing = ssl.MemoryBIO()
        client = self.context.wrap_bio(ssl.MemoryBIO(), outgoing)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        return outgoing.read()

    def run(self) -> dict[str, Any]:
        """Until the next line of the input comes; what became of it."""
        self.epoll.register(sys.stdin.fileno(), select.EPOLLIN)
        began = last = time.monotonic()
        credit = 1.0
        ready = False
        while True:
            for fd, mask in self.epoll.poll(TICK, 256):
                if fd == sys.stdin.fileno():
                    return self._finish()
                hostile = self._live.get(fd)
                if hostile is not None:
                    hostile.on_event(mask)
            now = time.monotonic()
            credit = min(credit + (now - last) * self.attack.rate, max(self.attack.rate / 10, 1.0))
            last = now
            while credit >= 1 and len(self._live) < (self.attack.hold or MOST):
                credit -= 1
                self._begin()
            self._drip(now)
            if not ready and self._held(now - began):
                ready = True
                print(json.dumps({"ready": True}), flush=True)

    def _held(self, since: float) -> bool:
        """Whether the attack is as large as it gets, `since` seconds after its beginning."""
        hold = self.attack.hold
        if not hold:
            return since >= self._lead
        # Where as many are cut as begin, it never gets there.
        return len(self._live) >= hold or since >= 1.5 * hold / self.attack.rate + 0.5

    def _begin(self) -> None:
        self._begun += 1
        try:
            hostile = Hostile(self, self._begun)
        except OSError:
            self._failed += 1
            return
        self._live[hostile.fd] = hostile

    def _drip(self, now: float) -> None:
        drips = self.drips
        while drips and drips[0][0] <= now:
            due, hostile = drips.popleft()
            if hostile.drip():
                drips.append((due + self.attack.every, hostile))

    def cut(self, hostile: Hostile) -> None:
        """The other side ended it."""
        if hostile.fd >= 0:
            self._lives.append(time.monotonic() - hostile.begun)
            self.end(hostile)

    def end(self, hostile: Hostile) -> None:
        """We do."""
        if hostile.fd >= 0:
            del self._live[hostile.fd]
            hostile.close()

    def _finish(self) -> dict[str, Any]:
        now = time.monotonic()
        oldest = max((now - hostile.begun for hostile in self._live.values()), default=0.0)
        held = len(self._live)
        for hostile in self._live.values():
            hostile.close()
        self.epoll.close()
        lives = self._lives
        return {
            "begun": self._begun,
            "failed": self._failed,
            "cut": len(lives),
            "held": held,
            "answers": dict(self.answers),
            "median": statistics.median(lives) if lives else None,
            "longest": max(lives, default=None),
            "oldest": oldest,
        }


def read_line() -> str:
    """The next line without line feed, byte by byte so that none is taken early; "": the end."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(sys.stdin.fileno(), 1)
        if not data:
            return ""
        line += data
    return line[:-1].decode()


def main() -> None:
    """Read orders and carry them out."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, _IDLE_CLASS, os.sched_param(0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    while line := read_line():
        order = json.loads(line)
        result = Load(Attack(**order["attack"]), order["port"], order["lead"]).run()
        if read_line() != "finish":
            sys.exit(1)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
