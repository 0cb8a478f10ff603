"""Tests of dlba.election.terms, on real files."""

import os
import resource
import signal
import stat
from pathlib import Path
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.election import terms as terms_module
from dlba.election.messages import TERM_LIMIT
from dlba.election.terms import FILE, Terms
from dlba.errors import DLBAError


def load(folder: Path) -> Terms:
    """What a process has that starts now."""
    made = Terms(folder)
    made.load()
    return made


class Case(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.file = self.folder / FILE

    def kept(self) -> tuple[int, int | None]:
        """What the next process finds."""
        found = load(self.folder)
        return found.term, found.granted


class StoreTests(Case):
    def test_a_node_that_never_heard_of_a_term(self):
        self.assertEqual(self.kept(), (0, None))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_stores_in_a_row(self):
        made = load(self.folder)
        for term, granted in ((1, 0), (2, None), (2, 5), (9, 1023)):
            made.store(term, granted)
            self.assertEqual((made.term, made.granted), (term, granted))
            self.assertEqual(self.kept(), (term, granted))
        self.assertEqual([path.name for path in self.folder.iterdir()], [FILE])
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o600)

    def test_what_another_process_wrote_before_the_load_counts(self):
        """The one before still grants while this one waits for the folder."""
        made, before = Terms(self.folder), load(self.folder)
        before.store(6, 1)
        made.load()
        self.assertEqual((made.term, made.granted), (6, 1))
        self.assertRaises(ValueError, made.store, 6, 2)

    def test_the_last_term(self):
        load(self.folder).store(TERM_LIMIT - 1, 1)
        self.assertEqual(self.kept(), (TERM_LIMIT - 1, 1))

    def test_the_same_again_writes_nothing(self):
        made = load(self.folder)
        made.store(3, 1)
        before = self.file.stat().st_ino
        made.store(3, 1)
        self.assertEqual(self.file.stat().st_ino, before)

    def test_no_second_grant_and_no_way_back(self):
        made = load(self.folder)
        made.store(3, 1)
        for term, granted in ((3, 2), (3, None), (2, 1), (2, None)):
            self.assertRaises(ValueError, made.store, term, granted)
        again = load(self.folder)
        self.assertRaises(ValueError, again.store, 3, 2)
        self.assertEqual(self.kept(), (3, 1))

    def test_what_can_t_be(self):
        made = load(self.folder)
        for term, granted in ((-1, 0), (TERM_LIMIT, 0), (True, 0), (1, -1), (1, 1024), (1, True)):
            self.assertRaises(ValueError, made.store, term, granted)
        self.assertEqual(self.kept(), (0, None))

    def test_it_is_on_disk_before_it_returns(self):
        """File, then name, then folder: each synced, in this order."""
        calls = []
        real = {name: getattr(os, name) for name in ("fsync", "replace")}

        def fsync(fd):
            calls.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
            real["fsync"](fd)

        def replace(source, target):
            self.assertGreater(Path(source).stat().st_size, 64)
            calls.append("rename")
            real["replace"](source, target)

        made = load(self.folder)
        with mock.patch("os.fsync", fsync), mock.patch("os.replace", replace):
            made.store(1, 0)
        self.assertEqual(calls, ["file", "rename", "folder"])


class KillTests(Case):
    """The process is killed in the middle of a store: the old or the new one is there."""

    def kill_at(self, step: str, before: bool) -> tuple[int, int | None]:
        made = load(self.folder)
        made.store(4, 1)
        pid = os.fork()
        if not pid:  # a real process, really killed
            try:
                real = getattr(os, step)

                def last(*args):
                    if not before:
                        real(*args)
                    os.kill(os.getpid(), signal.SIGKILL)

                setattr(os, step, last)
                made.store(5, 2)
            finally:
                os._exit(0)
        self.assertEqual(os.WTERMSIG(os.waitpid(pid, 0)[1]), signal.SIGKILL)
        return self.kept()

    def test_each_step(self):
        for step, before, expected in (
            ("open", True, (4, 1)),
            ("open", False, (4, 1)),  # an empty file beside it
            ("fsync", True, (4, 1)),
            ("fsync", False, (4, 1)),
            ("replace", True, (4, 1)),
            ("replace", False, (5, 2)),
        ):
            with self.subTest(step=step, before=before):
                self.folder = Path(self.mktemp())
                self.folder.mkdir(parents=True)
                self.assertEqual(self.kill_at(step, before), expected)
                # What was left over doesn't stand in the way.
                again = load(self.folder)
                again.store(6, 3)
                self.assertEqual(self.kept(), (6, 3))
                self.assertEqual([path.name for path in self.folder.iterdir()], [FILE])


class DamageTests(Case):
    def assert_refused(self, text: str) -> None:
        error = str(self.assertRaises(DLBAError, load, self.folder))
        self.assertIn(str(self.file), error)
        self.assertIn(text, error)

    def test_every_bit_counts(self):
        made = load(self.folder)
        made.store(5, 2)
        data = self.file.read_bytes()
        for at in range(len(data)):
            for bit in (0x01, 0x20):
                self.file.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
                self.assert_refused("damaged")
        for end in range(len(data)):
            self.file.write_bytes(data[:end])
            self.assert_refused("damaged")
        self.file.write_bytes(data + b"\n")
        self.assert_refused("damaged")
        self.file.write_bytes(data)
        self.assertEqual(self.kept(), (5, 2))

    def test_it_says_what_to_do(self):
        self.file.write_bytes(b"")
        self.assert_refused("remove it while the array's other nodes run")
        self.file.write_bytes(b"x" * 10_000)
        self.assert_refused("remove it")

    def test_a_term_that_no_message_can_carry(self):
        line = b'{"format": 1, "term": %d, "granted": 2}\n' % TERM_LIMIT
        self.file.write_bytes(line + terms_module._digest(line) + b"\n")
        self.assert_refused(f"expected a term from 0 to {TERM_LIMIT - 1}, got {TERM_LIMIT}: remove")
        self.assert_refused("if it is so on every node, remove it on all of them while none runs")

    def test_written_whole_but_not_by_this_version(self):
        for line in (
            b'{"format": 2, "term": 5, "granted": 2}\n',
            b'{"format": 1, "term": -5, "granted": 2}\n',
            b'{"format": 1, "term": 5.0, "granted": 2}\n',
            b'{"format": 1, "term": 5, "granted": 5000}\n',
            b'{"format": 1}\n',
            b"[1]\n",
        ):
            self.file.write_bytes(line + terms_module._digest(line) + b"\n")
            self.assert_refused("remove it")

    @given(st.binary(max_size=600))
    def test_rubbish(self, data):
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
        self.file.write_bytes(data)
        self.assertRaises(DLBAError, load, self.folder)

    def test_no_file_but_something_else(self):
        self.file.mkdir()
        self.assert_refused("Is a directory")
        self.file.rmdir()
        self.file.symlink_to("/etc/passwd")
        self.assert_refused("symbolic links")
        self.file.unlink()
        os.mkfifo(self.file)
        self.assert_refused("expected a file")


class FullDiskTests(Case):
    def test_no_room(self):
        made = load(self.folder)
        made.store(4, 1)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            error = self.assertRaises(DLBAError, made.store, 5, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        self.assertIn(f"{self.file}: term not stored: File too large", str(error))
        self.assertEqual((made.term, made.granted), (4, 1))
        self.assertEqual(self.kept(), (4, 1))
        self.assertEqual([path.name for path in self.folder.iterdir()], [FILE])
        made.store(5, 2)
        self.assertEqual(self.kept(), (5, 2))

    def test_a_disk_that_doesn_t_sync(self):
        made = load(self.folder)
        for number in range(1, 3):  # of the file, of the folder
            effects = [None] * (number - 1) + [OSError(5, "Input/output error")]
            with mock.patch("os.fsync", side_effect=effects):
                self.assertRaises(DLBAError, made.store, number, 2)
            # Whatever is on disk: this process doesn't count on it.
            self.assertEqual((made.term, made.granted), (0, None))

    def test_the_folder_is_gone(self):
        made = load(self.folder)
        self.folder.rmdir()
        error = self.assertRaises(DLBAError, made.store, 1, 0)
        self.assertIn("No such file or directory", str(error))
