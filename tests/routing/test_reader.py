"""Tests of dlba.routing.reader, with a port and a reactor that are recorders."""

import errno

from twisted.internet.interfaces import IReadDescriptor
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dlba.routing.reader import BATCH, PortReader
from tests.routing.frames import plain
from tests.routing.test_path import ArpTests, frame_path, view


class Reactor:
    def __init__(self):
        self.readers = []

    def addReader(self, reader):
        self.readers.append(reader)

    def removeReader(self, reader):
        self.readers.remove(reader)


class Port:
    """A port whose frames are a list; what `route` said of each, and what was sent."""

    def __init__(self):
        self.waiting, self.routed, self.sent, self.limits = [], [], [], []
        self.error = None

    def fileno(self):
        return 77

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
        self.reactor, self.port, self.path = Reactor(), Port(), frame_path()
        self.lost = []
        self.reader = PortReader(
            self.reactor, self.port, self.path, lambda *args: self.lost.append(args)
        )

    def test_it_reads_until_stopped(self):
        verifyObject(IReadDescriptor, self.reader)
        self.assertEqual((self.reactor.readers, self.reader.fileno()), ([self.reader], 77))
        self.reader.stop()
        self.assertEqual(self.reactor.readers, [])

    def test_frames_are_routed_and_replies_sent_once(self):
        self.port.waiting = [plain(), bytes(ArpTests.QUESTION), plain()]
        self.reader.doRead()
        self.assertEqual(self.port.limits, [BATCH])
        self.assertEqual(len(self.port.routed), 3)
        self.assertEqual(len(self.port.sent), 1)
        self.reader.doRead()
        self.assertEqual((len(self.port.sent), self.path.replies), (1, []))

    def test_a_port_that_fails(self):
        self.port.error = OSError(errno.ENETDOWN, "Network is down")
        self.reader.doRead()
        self.assertEqual(self.lost, [(self.port, self.port.error)])

    def test_an_exception_at_a_frame_is_counted_and_logged_seldom(self):
        self.port.error = RuntimeError("a bug")
        for _ in range(5):
            self.reader.doRead()
        self.assertEqual((self.path.counters()["frame_errors"], self.lost), (5, []))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.port.error, self.port.waiting = None, [plain()]
        self.reader.doRead()
        self.assertEqual(len(self.port.routed), 1)
