"""Takes the chunked coding off a body, strictly, in any pieces, in bounded memory.

Sizes have 1 to 15 hex digits, every line ends in CRLF, extensions are checked against the grammar,
bounded over the whole message and dropped; trailers are checked under the head's grammar and
limits and dropped: they never become header fields.

Source: web.md rule 3; RFC 9112 7.1. Every mistake is a `ValueError` with a sentence: a client's
becomes a 400, a backend's breaks the response off.
"""

from __future__ import annotations

import re
from typing import Final

from dlba.web.head import TOKEN

__all__ = ["ChunkedReader", "chunk"]

#: Bytes of chunk extensions that one message may carry.
EXTENSIONS_LIMIT: Final = 16 * 1024
#: A size line: 15 digits and what may be left of the extensions.
_LINE_LIMIT: Final = EXTENSIONS_LIMIT + 64

# No possessive mark on a group: CPython before 3.11.5 forgets to go back when the body of such a
# group fails half-way (gh-106052). The alternatives differ in their first byte, so it stays linear.
_EXTENSION: Final = (
    rb"[ \t]*;[ \t]*" + TOKEN + rb"++(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"++"
    rb"|\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*\"))?"
)
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})((?:" + _EXTENSION + rb")*)").fullmatch
#: A chunk without extensions, up to its data; and chunks of one byte, as many as there are: a
#: hostile body is made of these.
_PLAIN_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n").match
_ONES: Final = re.compile(rb"(?:1\r\n[\s\S]\r\n)+").match
_TRAILER_LINE: Final = re.compile(TOKEN + rb"++:[\t -~\x80-\xff]*+").fullmatch

_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)


class ChunkedReader:
    """One chunked body. `feed()` it as bytes come; `done` tells when it is complete.

    `rest`: what came behind the body (the next pipelined message); b"" until `done`.
    """

    __slots__ = ("_extensions", "_left", "_line", "_state", "_trailer_bytes", "_trailers", "rest")

    def __init__(self, trailer_bytes: int = 64 * 1024, trailers: int = 200) -> None:
        self._state = _SIZE
        self._left = 0
        self._line = b""
        self._extensions = EXTENSIONS_LIMIT
        self._trailer_bytes = trailer_bytes
        self._trailers = trailers
        self.rest = b""

    @property
    def held(self) -> int:
        """Bytes kept of a line whose end hasn't come."""
        return len(self._line)

    @property
    def done(self) -> bool:
        """The last chunk and the trailers have been read."""
        return self._state == _DONE

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of the body in `data` (never empty ones). Raises ValueError on a mistake."""
        pieces: list[bytes] = []
        position = 0
        end = len(data)
        while position < end:
            state = self._state
            if state == _SIZE and not self._line:
                start = position
                position = self._take_whole(data, position, pieces)
                if position > start:
                    continue
            if state == _DATA:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END
                continue
            if state == _DONE:
                self.rest += data[position:]
                break
            newline = data.find(b"\n", position)
            if newline < 0:
                self._keep(data[position:])
                break
            line = self._line + data[position : newline + 1]
            self._line = b""
            position = newline + 1
            if not line.endswith(b"\r\n"):
                raise ValueError("a line of the chunked coding doesn't end in CRLF")
            self._take_line(line[:-2])
        return pieces

    @staticmethod
    def _take_whole(data: bytes, position: int, pieces: list[bytes]) -> int:
        """Take the whole chunks without extensions from `position` on; where they end.

        The last chunk, and whatever else there is, is for the others.
        """
        ones = _ONES(data, position)
        if ones is not None:
            pieces.append(data[position + 3 : ones.end() : 6])
            position = ones.end()
        while (line := _PLAIN_SIZE(data, position)) is not None:
            start = line.end()
            end = start + int(line[1], 16)
            if start == end or data[end : end + 2] != b"\r\n":
                break
            pieces.append(data[start:end])
            position = end + 2
        return position

    def _keep(self, part: bytes) -> None:
        """Hold back the beginning of a line until its end comes."""
        self._line += part
        if len(self._line) > self._limit() + 2:
            raise ValueError("a line of the chunked coding is too long")
        if self._state == _DATA_END and not b"\r".startswith(self._line):
            raise ValueError("a chunk is longer than its size")

    def _limit(self) -> int:
        if self._state == _DATA_END:
            return 0
        return _LINE_LIMIT if self._state == _SIZE else self._trailer_bytes

    def _take_line(self, line: bytes) -> None:
        if self._state == _SIZE:
            self._take_size(line)
        elif self._state == _DATA_END:
            if line:
                raise ValueError("a chunk is longer than its size")
            self._state = _SIZE
        elif not line:
            self._state = _DONE
        else:
            self._trailers -= 1
            self._trailer_bytes -= len(line) + 2
            if self._trailers < 0 or self._trailer_bytes < 0:
                raise ValueError("the trailers are too large")
            if _TRAILER_LINE(line) is None:
                raise ValueError("a trailer isn't NAME: value")

    def _take_size(self, line: bytes) -> None:
        match = _SIZE_LINE(line)
        if match is None:
            raise ValueError("a chunk's size isn't 1 to 15 hex digits with valid extensions")
        self._extensions -= len(match[2])
        if self._extensions < 0:
            raise ValueError("the chunk extensions are too large")
        self._left = int(match[1], 16)
        self._state = _DATA if self._left else _TRAILER


def chunk(data: bytes) -> bytes:
    """`data` (not empty) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
