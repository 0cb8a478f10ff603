"""Decides where the heads of a client's requests end in the bytes that come.

Keeps what came and wasn't taken yet: the beginning of a head, requests sent ahead, the first bytes
of a body. Heads come in any pieces and cost one look at each byte, whatever the drip. What never
becomes a head is refused as soon as that is plain: a line without CRLF, more than the limit.
Pure. Source: web.md rule 3; RFC 9112 2.2.
"""

from __future__ import annotations

from dlba.errors import HeadError
from dlba.web.head import HEAD_END, HeadLimits, RequestHead, parse_request

__all__ = ["HeadReader"]


class HeadReader:
    """The bytes of one client that wait to be read.

    `buffer`: what waits; whoever reads a body takes it and puts back what follows the body.
    """

    __slots__ = ("_blank", "_scanned", "buffer")

    def __init__(self) -> None:
        self.buffer = b""
        #: Bytes of the buffer in which no head ends, and whether an empty line stood before them.
        self._scanned = 0
        self._blank = False

    def take(self, longest: int, limits: HeadLimits) -> RequestHead | None:
        """The next request's head; None: its end hasn't come yet. `longest`: bytes.

        Raises HeadError: what waits is no request and never will be; see `line`.
        """
        buffer = self.buffer
        while buffer[0] < 33 and buffer.startswith(b"\r\n"):
            # RFC 9112 2.2: one empty line before a request is ignored.
            if self._blank:
                raise HeadError(400, "the request begins with empty lines")
            self._blank = True
            self._scanned = 0
            buffer = self.buffer = buffer[2:]
            if not buffer:
                return None
        end = buffer.find(HEAD_END, max(self._scanned - 3, 0))
        if end < 0 or end > longest:
            self._check_begun(buffer, longest, limits.target)
            return None
        request = parse_request(buffer[:end], limits)
        self._scanned = 0
        self._blank = False
        self.buffer = buffer[end + 4 :]
        return request

    def line(self) -> bytes:
        """The request line of what waits, for the log; b"" where its end hasn't come."""
        line, ended, _ = self.buffer.partition(b"\r\n")
        return line if ended and b"\n" not in line else b""

    def _check_begun(self, buffer: bytes, longest: int, target: int) -> None:
        """Raise HeadError where the head that has begun can't become a good one."""
        # What was looked at isn't looked at again, or a dripped head would cost its square.
        start = self._scanned
        if start and buffer[start - 1] == 0x0D:
            start -= 1
        self._scanned = len(buffer)
        if buffer.count(b"\n", start) != buffer.count(b"\r\n", start):
            # Without this, a head with bare LF would wait for a CRLF that never comes.
            raise HeadError(400, "a line doesn't end in CRLF")
        if len(buffer) > longest:
            line, ended, _ = buffer.partition(b"\r\n")
            if ended and max(len(word) for word in line.split(b" ")) <= target:
                raise HeadError(431, "the request's head is too large")
            raise HeadError(414, "the request target is too long")
