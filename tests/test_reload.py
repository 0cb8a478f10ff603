"""Tests of dlba.reload: on the reactor, with a thread that reads when told."""

import threading

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from dlba.config.problems import Problem
from dlba.errors import ConfigError, DLBAError
from dlba.reload import Reload

WAIT = 20.0


class ReloadTests(TestCase):
    timeout = 60

    def setUp(self):
        self.gate = threading.Semaphore(0)
        self.begun = 0
        self.result: object = "read"
        self.threads: list[threading.Thread] = []
        self.applied: list[object] = []
        self.raises: Exception | None = None
        self.lines: list[str] = []
        self.reload = Reload(reactor, self.read, self.apply, (OSError, DLBAError), self.words)
        globalLogPublisher.addObserver(self.see)
        self.addCleanup(globalLogPublisher.removeObserver, self.see)
        self.addCleanup(self.gate.release, 100)

    def see(self, event):
        if event["log_namespace"].startswith("dlba.reload") and "log_failure" not in event:
            self.lines.append(event["log_format"].format(**event))

    def read(self):
        self.begun += 1
        self.threads.append(threading.current_thread())
        self.gate.acquire(timeout=WAIT)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def apply(self, read):
        self.assertIs(threading.current_thread(), threading.main_thread())
        self.applied.append(read)
        if self.raises is not None:
            raise self.raises

    def words(self, error):
        return f"words for\n{error}"

    async def until(self, condition):
        for _ in range(2000):
            if condition():
                return
            await deferLater(reactor, 0.01)
        self.fail(f"never happened: {self.lines}")

    async def test_reads_in_a_thread_and_applies_on_the_reactor(self):
        self.reload.ask()
        await self.until(lambda: self.begun)
        self.assertEqual(self.applied, [])
        self.gate.release()
        await self.until(lambda: self.applied)
        self.assertEqual(self.applied, ["read"])
        (thread,) = self.threads
        # A node that stops doesn't wait for it.
        self.assertTrue(thread.daemon)
        self.assertIsNot(thread, threading.main_thread())

    async def test_asked_again_meanwhile(self):
        """However often: one more, and what was read by then counts, too."""
        for _ in range(5):
            self.reload.ask()
        await self.until(lambda: self.begun == 1)
        self.gate.release()
        await self.until(lambda: self.begun == 2)
        self.assertEqual(len(self.applied), 1)
        self.gate.release(5)
        await self.until(lambda: len(self.applied) == 2)
        await deferLater(reactor, 0.05)
        self.assertEqual(self.begun, 2)
        self.reload.ask()
        await self.until(lambda: len(self.applied) == 3)

    async def test_stopped_meanwhile(self):
        self.reload.ask()
        self.reload.ask()
        await self.until(lambda: self.begun)
        self.reload.stop()
        self.gate.release(5)
        self.threads[0].join(WAIT)
        await deferLater(reactor, 0.05)
        self.reload.ask()
        await deferLater(reactor, 0.05)
        self.assertEqual((self.begun, self.applied, self.lines), (1, [], []))

    async def test_what_can_t_be_read(self):
        problems = tuple(Problem("node.yaml", line, 1, "x", "expected y, got z") for line in (3, 7))
        last = "not reloaded: the configuration stays as it is"
        self.gate.release(100)
        for result, raises, expected in (
            (ConfigError(problems), None, [str(problem) for problem in problems]),
            (OSError("no"), None, ["words for", "no"]),
            ("read", DLBAError("one\ntwo"), ["words for", "one", "two"]),
        ):
            self.lines.clear()
            self.result, self.raises = result, raises
            self.reload.ask()
            await self.until(lambda: last in self.lines)
            self.assertEqual(self.lines, [*expected, last])

    async def test_a_fault_of_ours(self):
        self.gate.release(100)
        for result, raises in ((ZeroDivisionError(), None), ("read", ZeroDivisionError())):
            self.result, self.raises = result, raises
            self.reload.ask()
            await self.until(lambda: not self.reload._reading)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        # The next one is read all the same.
        self.result, self.raises = "good", None
        self.reload.ask()
        await self.until(lambda: self.applied[-1] == "good")
