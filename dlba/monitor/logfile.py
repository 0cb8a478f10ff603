"""Moves lines of text into a log file: collected, written in batches, never at the node's cost.

Records become lines RECORDS at a time: what makes a line stays in the processor's caches then,
which between two requests it does not. Lines wait in memory for at most PERIOD seconds or
BATCH bytes; then one `write` appends them. The file is opened with O_APPEND, so that other programs
may rotate it, and with O_NONBLOCK, so that a full pipe in its place loses lines and stops nothing.
A write that fails loses its lines: they are counted in `lost`, and the first such error on each
opened file is reported. A line that was cut in two by a full disk is ended before the next one
begins.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

PERIOD = 1.0
"""Seconds a line waits at most: short enough to watch a log live."""

RECORDS = 64
"""Records that wait to become lines; each holds its request's head, so this bounds memory too."""

BATCH = 64 * 1024
"""Bytes that are written without waiting: one write of this size costs about 30 µs."""

MODE = 0o640
"""Addresses and URLs of clients are nobody's business but the owner's and their group's."""


Record = TypeVar("Record")


class LogFile(Generic[Record]):
    """An open log file. The records and the file belong to it from construction to `close`.

    `path: Path`; `clock`: for the one timer; `report`: called with a message for people when the
    file can't be written or reopened; `line`: makes a record's line, without its end. Raises
    OSError when the file can't be opened: nothing is logged then, and the start should stop.
    """

    def __init__(
        self,
        path: Path,
        clock: IReactorTime,
        report: Callable[[str], None],
        line: Callable[[Record], str],
    ) -> None:
        self.lost = 0
        """Lines that were never written whole."""
        self._path = path
        self._clock = clock
        self._report = report
        self._reported = False
        self._line = line
        self._records: list[Record] = []
        self._lines: list[str] = []
        self._size = 0
        self._call: IDelayedCall | None = None
        self._torn = False
        self._descriptor = self._open()

    def write(self, record: Record) -> None:
        """Take one record. After `close` it counts as lost."""
        if self._descriptor < 0:
            self.lost += 1
            return
        self._records.append(record)
        if len(self._records) >= RECORDS:
            self._make_lines()
            if self._size >= BATCH:
                self.flush()
        if self._call is None:
            self._call = self._clock.callLater(PERIOD, self._on_period)

    def _make_lines(self) -> None:
        records, self._records = self._records, []
        lines = [self._line(record) for record in records]
        self._lines += lines
        self._size += sum(map(len, lines)) + len(lines)

    def flush(self) -> None:
        """Write all that waits. Never raises for the file's sake."""
        self._make_lines()
        if not self._lines:
            return
        self._lines.append("")
        text = "\n".join(self._lines)
        self._lines = []
        self._size = 0
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            if self._torn:
                os.write(self._descriptor, b"\n")
                self._torn = False
            while data:
                written = os.write(self._descriptor, data)
                self._torn = data[written - 1] != 0x0A if written else self._torn
                data = data[written:]
            self._reported = False
        except OSError as error:
            self.lost += bytes(data).count(b"\n")
            self._report_once(error)

    def reopen(self) -> None:
        """Go on in a new file of the same path, for rotation; the old file gets what waited.

        When the new one can't be opened the old one stays, and that is reported.
        """
        if self._descriptor < 0:
            return
        try:
            descriptor = self._open()
        except OSError as error:
            self._report(f"access log: {self._path}: expected to reopen, got {error.strerror}")
            return
        self.flush()
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._torn = False
        self._reported = False

    def close(self) -> None:
        """Write what waits and close the file; a second call does nothing."""
        if self._descriptor < 0:
            return
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.flush()
        os.close(self._descriptor)
        self._descriptor = -1

    def _open(self) -> int:
        # Python opens every descriptor with O_CLOEXEC.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(self._path, flags, MODE)

    def _on_period(self) -> None:
        self._call = None
        self.flush()

    def _report_once(self, error: OSError) -> None:
        if not self._reported:
            self._reported = True
            self._report(
                f"access log: {self._path}: expected to write, got {error.strerror}; "
                "lines are dropped and counted"
            )
