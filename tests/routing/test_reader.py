"""Tests of dlba.routing.reader, with a port and a reactor that are recorders."""

import errno
from itertools import count

from twisted.trial.unittest import SynchronousTestCase

from dlba.poller import READ
from dlba.routing.reader import BATCH, DRAIN, PortReader
from tests.routing.frames import plain
from tests.routing.test_path import ArpTests, frame_path, view


class RecordedPoller:
    """As `dlba.poller.Poller`: who reads, and how many use it."""

    def __init__(self):
        self.readers = {}
        self.users = 0

    def add(self, fd, mask, member):
        assert mask == READ and fd not in self.readers
        self.readers[fd] = member

    def remove(self, fd):
        del self.readers[fd]

    def attach(self, reactor):
        self.users += 1

    def detach(self):
        self.users -= 1


class Port:
    """A port whose frames are a list; what `route` said of each, and what was sent."""

    numbers = count(77)

    def __init__(self):
        self.number = next(self.numbers)
        self.waiting, self.routed, self.sent, self.limits = [], [], [], []
        self.error = None

    def fileno(self):
        return self.number

    def pump(self, route, limit):
        self.limits.append(limit)
        if self.error is not None:
            raise self.error
        frames, self.waiting = self.waiting, []
        for frame in frames:
            self.routed.append(route(view(frame), False))
        return len(frames)

    def send(self, frame):
        self.sent.append(frame)
        return True


class ReaderTests(SynchronousTestCase):
    def setUp(self):
        self.poller, self.port, self.path = RecordedPoller(), Port(), frame_path()
        self.lost = []
        self.reader = PortReader(
            self.poller, self.port, self.path, lambda *args: self.lost.append(args)
        )

    def test_it_reads_until_stopped(self):
        self.assertEqual(self.poller.readers, {self.port.fileno(): self.reader})
        self.port.waiting = [plain()]
        self.reader.on_event(READ)
        self.assertEqual(len(self.port.routed), 1)
        self.reader.stop()
        self.assertEqual(self.poller.readers, {})

    def test_frames_are_routed_and_replies_sent_once(self):
        self.port.waiting = [plain(), bytes(ArpTests.QUESTION), plain()]
        self.reader.read()
        self.assertEqual(self.port.limits, [BATCH])
        self.assertEqual(len(self.port.routed), 3)
        self.assertEqual(len(self.port.sent), 1)
        self.reader.read()
        self.assertEqual((len(self.port.sent), self.path.replies), (1, []))

    def test_a_port_that_fails(self):
        self.port.error = OSError(errno.ENETDOWN, "Network is down")
        self.reader.read()
        self.assertEqual(self.lost, [(self.port, self.port.error)])

    def test_an_exception_at_a_frame_is_counted_and_logged_seldom(self):
        self.port.error = RuntimeError("a bug")
        for _ in range(5):
            self.reader.read()
        self.assertEqual((self.path.counters()["frame_errors"], self.lost), (5, []))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.port.error, self.port.waiting = None, [plain()]
        self.reader.read()
        self.assertEqual(len(self.port.routed), 1)

    def test_who_comes_after_a_wake(self):
        path, told = self.path, []
        self.reader.stop()
        reader = PortReader(
            self.poller,
            self.port,
            path,
            lambda *_: told.append("lost"),
            lambda: told.append(len(self.port.sent)),
        )
        self.port.waiting = [bytes(ArpTests.QUESTION)]
        reader.on_event(READ)
        self.assertEqual(told, [1])  # the reply is out
        self.port.error = RuntimeError("a bug")
        reader.read()
        self.assertEqual(told, [1, 1])
        self.flushLoggedErrors(RuntimeError)
        self.port.error = OSError(errno.ENETDOWN, "Network is down")
        reader.read()
        self.assertEqual(told, [1, 1, "lost"])

    def test_a_drain_takes_what_waits_and_tells_nobody(self):
        counts = [BATCH, BATCH, 5, 7]
        self.port.pump = lambda route, limit: counts.pop(0)
        self.reader._after = lambda: self.fail("told")
        self.reader.drain()
        self.assertEqual(counts, [7])
        calls = []
        self.port.pump = lambda route, limit: calls.append(limit) or limit
        self.reader.drain()
        self.assertEqual(len(calls), DRAIN)
