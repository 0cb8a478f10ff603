"""Tests of dlba.draining: what is asked for, kept and applied."""

import errno
from pathlib import Path
from unittest import mock

import attrs
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dlba.draining import Draining
from dlba.errors import DLBAError
from dlba.state import load_drained, make_state

PEER = "uid 7, pid 8"


@attrs.define
class Row:
    pool: str
    name: str
    weight: int = 1
    open_connections: int = 0
    drained: bool = False

    @property
    def draining(self) -> bool:
        return self.drained or not self.weight


class DrainingTests(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp())
        make_state(self.folder)
        self.rows = [Row("app", "a", 1, 3), Row("app", "b", 0), Row("other", "a")]
        self.lines = []
        globalLogPublisher.addObserver(self.see)
        self.addCleanup(globalLogPublisher.removeObserver, self.see)
        self.draining = self.made()

    def see(self, event):
        self.lines.append(event["log_format"].format(**event))

    def made(self):
        def apply(drained):
            for row in self.rows:
                row.drained = (row.pool, row.name) in drained

        draining = Draining(self.folder, lambda: self.rows, apply)
        draining.load()
        return draining

    def drained(self):
        return {f"{row.pool}/{row.name}" for row in self.rows if row.drained}

    def test_drain_and_resume(self):
        answer = self.draining.drain({"backend": "app/a"}, PEER)
        expected = {
            "backend": "app/a",
            "changed": True,
            "draining": True,
            "weight": 1,
            "open_connections": 3,
        }
        self.assertEqual(answer, expected)
        self.assertEqual(self.drained(), {"app/a"})
        self.assertEqual(load_drained(self.folder), {("app", "a")})
        again = self.draining.drain({"backend": "app/a"}, PEER)
        self.assertEqual(again, expected | {"changed": False})
        answer = self.draining.resume({"backend": "app/a"}, PEER)
        self.assertEqual(answer, expected | {"draining": False})
        self.assertEqual((self.drained(), load_drained(self.folder)), (set(), set()))
        again = self.draining.resume({"backend": "app/a"}, PEER)
        self.assertEqual((again["changed"], again["draining"]), (False, False))
        asked = [f"{what} backend app/a, by {PEER}" for what in ("drain", "resume")]
        self.assertEqual(self.lines, [asked[0]] * 2 + [asked[1]] * 2)

    def test_weight_0(self):
        self.draining.drain({"backend": "app/b"}, PEER)
        answer = self.draining.resume({"backend": "app/b"}, PEER)
        self.assertEqual((answer["draining"], answer["weight"]), (True, 0))

    def test_what_there_isn_t(self):
        for command in (self.draining.drain, self.draining.resume):
            error = self.assertRaises(DLBAError, command, {"backend": "app/x"}, PEER)
            self.assertEqual(
                str(error), 'backend: expected one of app/a, app/b, other/a, got "app/x"'
            )
            for wrong in (None, 1, "", "app", "a/b/c", ["app", "a"], "app/\x1b[2J"):
                error = self.assertRaises(DLBAError, command, {"backend": wrong}, PEER)
                self.assertIn("backend: expected", str(error))
                self.assertTrue(str(error).isprintable())
            self.assertRaises(DLBAError, command, {"node": "a"}, PEER)
        self.rows = []
        error = self.assertRaises(DLBAError, self.draining.drain, {"backend": "app/x"}, PEER)
        self.assertIn("expected a node with a proxy", str(error))
        self.assertEqual(load_drained(self.folder), set())

    def test_a_restart(self):
        self.draining.drain({"backend": "app/a"}, PEER)
        self.draining.drain({"backend": "other/a"}, PEER)
        self.rows = [Row("app", "a"), Row("app", "c")]
        self.lines.clear()
        again = self.made()
        self.assertEqual(self.drained(), {"app/a"})
        self.assertEqual(self.lines, ["draining, as asked for before: app/a, other/a"])
        # What was removed meanwhile is remembered, until it is taken back.
        again.drain({"backend": "app/c"}, PEER)
        self.assertEqual(load_drained(self.folder), {("app", "a"), ("app", "c"), ("other", "a")})
        answer = again.resume({"backend": "other/a"}, PEER)
        self.assertEqual((answer["changed"], answer["weight"]), (True, None))
        self.assertEqual(load_drained(self.folder), {("app", "a"), ("app", "c")})
        self.assertRaises(DLBAError, again.resume, {"backend": "other/a"}, PEER)

    def test_a_disk_that_takes_nothing(self):
        self.draining.drain({"backend": "app/a"}, PEER)
        with mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left")):
            for command, name in (
                (self.draining.drain, "other/a"),
                (self.draining.resume, "app/a"),
            ):
                error = self.assertRaises(DLBAError, command, {"backend": name}, PEER)
                self.assertIn("expected to keep it on disk, got: No space left", str(error))
        self.assertEqual(self.drained(), {"app/a"})
        self.assertEqual(load_drained(self.folder), {("app", "a")})

    def test_a_damaged_file(self):
        (self.folder / "drained").write_text("nonsense")
        draining = self.made()
        self.assertIn("drained backends not known: ", self.lines[-1])
        draining.drain({"backend": "app/a"}, PEER)
        self.assertEqual(load_drained(self.folder), {("app", "a")})
