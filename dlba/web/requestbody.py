"""Decides where a request's body ends, and when it is too large or too slow; keeps what has come.

By length or chunked, in any pieces; what comes behind the body is the next request. A body is too
slow when, after a time of grace, it has come with less than `RATE` bytes a second: a client that
drips a byte before each deadline holds a connection no longer than that. Time in which nobody read
doesn't count. Source: web.md rules 3 and 4; the contract's `timeouts.body`.
"""

from __future__ import annotations

from typing import Final

from dlba.errors import HeadError
from dlba.web.body import ChunkedReader
from dlba.web.head import CHUNKED

__all__ = ["Pace", "RequestBody"]

#: Bytes a second.
RATE: Final = 256


class Pace:
    """How fast a body comes. Time in which nobody read doesn't count."""

    __slots__ = ("_since", "_size")

    def __init__(self, now: float) -> None:
        """`now`: seconds, monotonic, as in all of this."""
        self._since = now
        self._size = 0

    def read_again(self, now: float, size: int) -> None:
        """Reading goes on after a pause that was not the client's. `size`: bytes so far."""
        self._since = now
        self._size = size

    def too_slow(self, now: float, grace: float, size: int) -> bool:
        """Whether the client sends too slowly to be waited for. `grace`: seconds."""
        seconds = now - self._since
        return seconds > grace and size - self._size < seconds * RATE


class RequestBody:
    """The body of one request.

    `length`: as in `RequestHead.length`, not None. `largest`: bytes, None for no limit.
    `trailer_bytes`, `trailers`: limits of the trailer section. `size`: bytes of the body so far,
    decoded. `complete`: it has been read to its end; then `rest` is what came behind it. `pieces`:
    chunks that were taken last. `collected`: the parts that wait for a backend, as one object.
    """

    __slots__ = (
        "_chunked",
        "_largest",
        "_left",
        "_pace",
        "collected",
        "complete",
        "pieces",
        "rest",
        "size",
    )

    def __init__(
        self, length: int, largest: int | None, trailer_bytes: int, trailers: int, now: float
    ) -> None:
        """Raises HeadError 413 when the announced length is too large."""
        if largest is not None and length > largest:
            raise HeadError(413, "the request's body is too large")
        self._largest = largest
        self._chunked = ChunkedReader(trailer_bytes, trailers) if length == CHUNKED else None
        self._left = length
        self._pace = Pace(now)
        self.size = 0
        self.pieces = 0
        self.collected: bytes | bytearray = b""
        self.complete = length == 0
        self.rest = b""

    def take(self, data: bytes) -> bytes:
        """The part of the body in `data`, decoded; maybe b"".

        Raises HeadError: 400 for a mistake in the chunked coding, 413 when it gets too large.
        """
        chunked = self._chunked
        if chunked is None:
            body = data if len(data) <= self._left else data[: self._left]
            self._left -= len(body)
            self.complete = not self._left
            self.rest = data[len(body) :]
        else:
            try:
                pieces = chunked.feed(data)
                self.pieces = len(pieces)
                body = b"".join(pieces)
            except ValueError as error:
                raise HeadError(400, str(error)) from None
            self.complete = chunked.done
            self.rest = chunked.rest
        self.size += len(body)
        if self._largest is not None and self.size > self._largest:
            raise HeadError(413, "the request's body is too large")
        return body

    def collect(self, part: bytes) -> None:
        """Keep `part`, as `take` has given it, behind what is kept already."""
        if not self.collected:
            self.collected = part
        else:
            if isinstance(self.collected, bytes):
                # One object, however small the parts are.
                self.collected = bytearray(self.collected)
            self.collected += part

    def give(self) -> bytes:
        """What was collected; it is kept no longer."""
        whole = bytes(self.collected)
        self.collected = b""
        return whole

    @property
    def held(self) -> int:
        """Bytes kept of the chunked coding, beside the body itself."""
        return 0 if self._chunked is None else self._chunked.held

    def read_again(self, now: float) -> None:
        """Reading goes on after a pause that was not the client's."""
        self._pace.read_again(now, self.size)

    def too_slow(self, now: float, grace: float) -> bool:
        """Whether the client sends too slowly to be waited for. `grace`: seconds."""
        return self._pace.too_slow(now, grace, self.size)
