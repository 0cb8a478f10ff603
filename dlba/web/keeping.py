"""Keeps what a peer doesn't take yet, and tells the memory of all buffers how much it is.

The base of both kinds of connection, a client's and a backend's. Bytes that the kernel doesn't take
are the backlog, in pieces, few enough to cost little more than their bytes. What is kept is counted
in blocks: most connections never keep one, which costs nothing on the path of a request.
Source: web.md rule 8 ("all buffers share `buffer_memory`").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dlba.web.memory import BLOCK

if TYPE_CHECKING:
    from dlba.web.memory import Memory

__all__ = ["Keeping"]

#: Pieces of a backlog before they become one: many small ones cost far more than their bytes.
PARTS: Final = 64


class Keeping:
    """`backlog`: bytes that the peer hasn't taken; `held`: bytes kept for another reason."""

    __slots__ = ("_blocks", "_memory", "_parts", "backlog", "held")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._parts: list[bytes | memoryview] = []
        self.backlog = 0
        self.held = 0
        #: What of both is counted in the memory of all buffers.
        self._blocks = 0

    @property
    def kept(self) -> int:
        """Bytes that are kept, as they are counted."""
        return self._blocks * BLOCK

    def hold(self, size: int) -> None:
        """`size` bytes are kept now beside the backlog."""
        self.held = size
        self._count()

    def _keep(self, data: bytes | memoryview) -> None:
        """Put `data` behind the backlog."""
        parts = self._parts
        if len(parts) >= PARTS:
            parts[:] = [b"".join(parts)]
        parts.append(data)
        self.backlog += len(data)
        self._count()

    def _keep_rest(self, data: bytes | memoryview, taken: int) -> None:
        """The kernel took so many bytes of `data`: the rest is the backlog, of which it was all."""
        self._parts[:] = [_rest(data, taken)]
        self.backlog = len(data) - taken
        self._count()

    def _took(self, taken: int) -> None:
        """The kernel took so many bytes of the first piece of the backlog."""
        parts = self._parts
        if taken < len(parts[0]):
            if taken:
                parts[0] = _rest(parts[0], taken)
        else:
            del parts[0]
        self.backlog -= taken

    def _drop(self) -> None:
        """Keep nothing any more."""
        if not self.backlog and not self.held:
            return
        self._parts.clear()
        self.backlog = self.held = 0
        self._count()

    def _count(self) -> None:
        """Tell the memory of all buffers what is kept now."""
        blocks = (self.backlog + self.held) // BLOCK
        before = self._blocks
        if blocks != before:
            memory = self._memory
            if not before:
                memory.keeps(self)
            elif not blocks:
                memory.keeps_none(self)
            self._blocks = blocks
            memory.change((blocks - before) * BLOCK)

    def shed(self) -> None:
        """End, and give back what is kept: memory is full."""
        raise NotImplementedError


def _rest(data: bytes | memoryview, taken: int) -> bytes | memoryview:
    """What is left of `data` behind the bytes that were `taken`.

    A copy where less than half is left of what it is part of: a view keeps all of that.
    """
    rest = memoryview(data)[taken:]
    whole = memoryview(rest.obj)
    return bytes(rest) if len(rest) * 2 < len(whole) else rest
