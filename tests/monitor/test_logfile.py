"""The log file: when it writes, what a failing disk or pipe costs, rotation."""

import os
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dlba.monitor import logfile
from dlba.monitor.logfile import BATCH, PERIOD, RECORDS, LogFile


class LogFileTests(SynchronousTestCase):
    """A log file on a clock of its own."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "access.log"
        self.clock = Clock()
        self.reports: list[str] = []

    def opened(self, path: Path | None = None) -> LogFile:
        file = LogFile(path or self.path, self.clock, self.reports.append, str)
        self.addCleanup(file.close)
        return file

    def test_lines_wait_for_the_period(self) -> None:
        file = self.opened()
        file.write("one")
        self.clock.advance(PERIOD / 2)
        file.write("two")
        self.assertEqual(self.path.read_text(), "")
        self.clock.advance(PERIOD / 2)
        self.assertEqual(self.path.read_text(), "one\ntwo\n")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        file.write("three")
        self.clock.advance(PERIOD)
        self.assertEqual(self.path.read_text(), "one\ntwo\nthree\n")

    def test_a_full_batch_does_not_wait(self) -> None:
        """Memory is bounded by one batch and one line."""
        file = self.opened()
        line = "x" * 1023
        for _ in range(BATCH // 1024 - 1):
            file.write(line)
        self.assertEqual(self.path.stat().st_size, 0)
        file.write(line)
        self.assertEqual(self.path.stat().st_size, BATCH)
        file.write("last")
        self.clock.advance(PERIOD)
        self.assertEqual(self.path.stat().st_size, BATCH + 5)

    def test_appends(self) -> None:
        self.path.write_text("old\n")
        file = self.opened()
        file.write("new")
        file.close()
        self.assertEqual(self.path.read_text(), "old\nnew\n")

    def test_close_writes_and_stops_the_timer(self) -> None:
        file = self.opened()
        file.write("one")
        file.close()
        file.close()
        self.assertEqual(self.path.read_text(), "one\n")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        file.write("late")
        file.reopen()
        file.flush()
        self.assertEqual((file.lost, self.path.read_text()), (1, "one\n"))

    def test_not_for_everybody(self) -> None:
        self.opened()
        self.assertEqual(self.path.stat().st_mode & 0o007, 0)

    def test_cannot_open(self) -> None:
        self.assertRaises(
            FileNotFoundError,
            LogFile,
            self.folder / "no" / "log",
            self.clock,
            self.reports.append,
            str,
        )

    def test_records_become_lines_together(self) -> None:
        made: list[int] = []

        def line(record: int) -> str:
            made.append(record)
            return f"<{record}>"

        file = LogFile(self.path, self.clock, self.reports.append, line)
        self.addCleanup(file.close)
        for record in range(RECORDS - 1):
            file.write(record)
        self.assertEqual(made, [])
        file.write(RECORDS - 1)
        self.assertEqual(made, list(range(RECORDS)))
        file.write(RECORDS)
        self.clock.advance(PERIOD)
        expected = "".join(f"<{record}>\n" for record in range(RECORDS + 1))
        self.assertEqual(self.path.read_text(), expected)

    def test_reopen(self) -> None:
        file = self.opened()
        file.write("one")
        moved = self.folder / "access.log.1"
        self.path.rename(moved)
        file.write("two")
        file.reopen()
        file.write("three")
        file.flush()
        self.assertEqual(moved.read_text(), "one\ntwo\n")
        self.assertEqual(self.path.read_text(), "three\n")

    def test_reopen_that_fails_keeps_the_old_file(self) -> None:
        file = self.opened()
        moved = self.folder / "access.log.1"
        self.path.rename(moved)
        self.path.mkdir()
        file.reopen()
        file.write("one")
        file.flush()
        self.assertEqual(moved.read_text(), "one\n")
        self.assertEqual(
            self.reports, [f"access log: {self.path}: expected to reopen, got Is a directory"]
        )

    def test_write_error(self) -> None:
        """Reported once, counted, and over when the file can be written again."""
        if not os.path.exists("/dev/full"):
            self.skipTest("/dev/full is missing")
        self.path.symlink_to("/dev/full")
        file = self.opened()
        for _ in range(2):
            file.write("one")
            file.write("two")
            self.clock.advance(PERIOD)
        self.assertEqual(file.lost, 4)
        report = (
            f"access log: {self.path}: expected to write, got No space left on device; "
            "lines are dropped and counted"
        )
        self.assertEqual(self.reports, [report])
        self.path.unlink()
        file.reopen()
        file.write("three")
        file.flush()
        self.assertEqual((file.lost, self.path.read_text()), (4, "three\n"))

    def test_disk_full_in_the_middle_of_a_line(self) -> None:
        """The cut line is ended before the next; only what wasn't written whole is lost."""
        file = self.opened()
        write = os.write
        room = 6

        def full_disk(descriptor: int, data: memoryview) -> int:
            nonlocal room
            if not room:
                raise OSError(28, "No space left on device")
            written = write(descriptor, data[:room])
            room -= written
            return written

        self.patch(logfile.os, "write", full_disk)
        for line in ("aaa", "bbb", "ccc"):
            file.write(line)
        file.flush()
        self.assertEqual((file.lost, self.path.read_text()), (2, "aaa\nbb"))
        file.write("ddd")
        file.flush()
        self.assertEqual((file.lost, self.path.read_text()), (3, "aaa\nbb"))
        room = 100
        file.write("eee")
        file.flush()
        self.assertEqual((file.lost, self.path.read_text()), (3, "aaa\nbb\neee\n"))

    def test_full_pipe_stops_nothing(self) -> None:
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        file = self.opened()
        for _ in range(64):
            file.write("x" * (BATCH - 1))
        self.assertGreater(file.lost, 0)
        self.assertEqual(len(self.reports), 1)

        def drained() -> bytes:
            pieces = []
            try:
                while piece := os.read(reader, 1 << 20):
                    pieces.append(piece)
            except BlockingIOError:
                pass
            return b"".join(pieces)

        lines = drained().split(b"\n")
        self.assertEqual(lines.count(b"x" * (BATCH - 1)), 64 - file.lost)
        file.write("after")
        file.flush()
        self.assertTrue(drained().endswith(b"after\n"))

    def test_text_that_is_not_ascii(self) -> None:
        file = self.opened()
        file.write("é\udcff")
        file.flush()
        self.assertEqual(self.path.read_bytes(), "é\\udcff\n".encode())
