"""Decides what the bytes of one backend connection are: interim heads, the final head, the body.

In any pieces, in bounded memory. Says how a body ends and whether the connection may carry another
request afterwards. Pure. Every mistake is a `BackendError`: the client gets a 502, or a response
that breaks off. Source: web.md rule 8; RFC 9112 6.3; RFC 9110 15.2.
"""

from __future__ import annotations

from typing import Final

from dlba.errors import BackendError
from dlba.web.body import ChunkedReader
from dlba.web.head import HEAD_END
from dlba.web.response import UNTIL_CLOSE, ResponseHead, parse_response

__all__ = ["HEAD_LIMIT", "INTERIM_LIMIT", "ResponseReader"]

#: Bytes of a head, and of all interim heads of one response together.
HEAD_LIMIT: Final = 64 * 1024
_BEGIN: Final = b"HTTP/1."
#: How many 1xx responses, 100 aside, may come before the final one.
INTERIM_LIMIT: Final = 16


class ResponseReader:
    """The response to one request.

    `held`: bytes of what hasn't come to its end. `heard`: a byte of a response has come.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_chunks",
        "_interim_bytes",
        "_interims",
        "_left",
        "_scanned",
        "_to_head",
    )

    def __init__(self, to_head: bool) -> None:
        """`to_head`: the request's method was HEAD."""
        self._to_head = to_head
        self._buffer = b""
        #: Bytes of the buffer in which no head ends.
        self._scanned = 0
        self._interims = 0
        self._interim_bytes = 0
        self._left = 0
        self._chunks: ChunkedReader | None = None
        #: What came behind the head that was read last.
        self._body = b""

    @property
    def held(self) -> int:
        """Bytes kept of a head, or of a line of the chunked coding, whose end hasn't come."""
        return len(self._buffer) if self._chunks is None else self._chunks.held

    @property
    def heard(self) -> bool:
        """Whether anything of a response has come."""
        return bool(self._buffer or self._interim_bytes)

    def head(self, data: bytes) -> ResponseHead | None:
        """The next head: an interim one (status 101 to 199), or the final one.

        None: its end hasn't come. After an interim one call again with b"". 100s are dropped.
        Behind a final one, and behind a 101, `rest()` is what came of the body.
        Raises BackendError.
        """
        buffer = self._buffer + data if self._buffer else data
        while True:
            end = buffer.find(HEAD_END, max(self._scanned - 3, 0))
            if end < 0 or end > HEAD_LIMIT:
                self._check_begun(buffer)
                self._buffer = buffer
                return None
            self._scanned = 0
            response = parse_response(buffer[:end], self._to_head)
            buffer = buffer[end + 4 :]
            if response.status >= 200 or response.status == 101:
                self._buffer = b""
                self._body = buffer
                self._left = response.length
                return response
            # 100s are dropped, so only their bytes count.
            self._interims += response.status != 100
            self._interim_bytes += end + len(HEAD_END)
            if self._interims > INTERIM_LIMIT or self._interim_bytes > HEAD_LIMIT:
                raise BackendError("head", "too many interim responses")
            if response.status != 100:
                self._buffer = buffer
                return response

    def _check_begun(self, buffer: bytes) -> None:
        """Raise BackendError where the head that has begun can't become a good one."""
        # Without these, what isn't HTTP, or has bare LF, would be waited for until a time-out.
        # What was looked at isn't looked at again, or a dripped head would cost its square.
        start = self._scanned
        if start < len(_BEGIN) and not buffer.startswith(_BEGIN[: len(buffer)]):
            raise BackendError("head", "the response isn't HTTP/1")
        if start and buffer[start - 1] == 0x0D:
            start -= 1
        self._scanned = len(buffer)
        if buffer.count(b"\n", start) != buffer.count(b"\r\n", start):
            raise BackendError("head", "a line of the response's head doesn't end in CRLF")
        if len(buffer) > HEAD_LIMIT:
            raise BackendError("head", "the response's head is too large")

    def rest(self) -> bytes:
        """What came behind the final head, or a 101; b"" when asked again."""
        rest, self._body = self._body, b""
        return rest

    def body(self, response: ResponseHead, data: bytes) -> tuple[bytes, bool, bool]:
        """The body in `data`, decoded; whether it is complete; whether more came behind it.

        Raises BackendError for a mistake in the chunked coding. A body until close is never
        complete here.
        """
        length = response.length
        if length >= 0:
            left = self._left
            if len(data) <= left:
                self._left = left = left - len(data)
                return data, not left, False
            self._left = 0
            return data[:left], True, True
        if length == UNTIL_CLOSE:
            return data, False, False
        chunks = self._chunks
        if chunks is None:
            chunks = self._chunks = ChunkedReader()
        try:
            body = b"".join(chunks.feed(data))
        except ValueError as error:
            raise BackendError("body", str(error)) from None
        return body, chunks.done, bool(chunks.rest)
