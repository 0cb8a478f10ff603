"""Tests of dlba.routing.linkwatch, over a segment and a poller that are recorders."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.linkwatch import LinkWatch
from tests.routing.frames import plain
from tests.routing.test_path import frame_path
from tests.routing.test_reader import RecordedPoller
from tests.routing.test_service import RecordedSegment


class LinkWatchTests(SynchronousTestCase):
    def setUp(self):
        self.poller, self.segment = RecordedPoller(), RecordedSegment()
        self.segment.open()
        self.segment.schedule(True)
        self.faults, self.wakes = [], []
        self.links = LinkWatch(
            self.poller,
            self.segment,
            frame_path(),
            "eth0",
            lambda: self.wakes.append(1),
            lambda: self.faults.append(self.links.fault),
        )
        self.links.read()

    def numbers(self) -> set[int]:
        return set(self.poller.readers)

    def test_every_port_is_read_once(self):
        both = {self.segment.arp.number, self.segment.frames.number}
        self.links.read()
        self.assertEqual(self.numbers(), both)
        self.links.leave(self.segment.frames)
        self.links.leave(None)
        self.assertEqual(self.numbers(), {self.segment.arp.number})
        self.links.read()
        self.assertEqual(self.numbers(), both)
        self.links.stop()
        self.links.stop()
        self.assertEqual(self.numbers(), set())

    def test_answers_alone(self):
        self.segment.arp.waiting = [b""]
        self.segment.frames.waiting = [plain()]
        self.links.read_answers()
        self.assertEqual((len(self.segment.arp.routed), len(self.segment.frames.routed)), (1, 0))
        self.assertEqual(self.wakes, [1])
        self.links.drain()
        self.assertEqual(len(self.segment.frames.routed), 1)
        self.assertEqual(self.wakes, [1])

    def test_a_port_that_fails(self):
        self.segment.frames.error = OSError(100, "Network is down")
        self.segment.back = False
        self.links.drain()
        self.assertEqual((self.numbers(), self.links.fault), (set(), "eth0: Network is down"))
        self.assertFalse(self.links.hears())
        # Tried again at once, then once a second.
        self.links.look(10.0)
        self.assertEqual(self.links.fault, "eth0: expected it, got none")
        self.segment.back = True
        self.links.look(10.9)
        self.assertEqual(self.numbers(), set())
        self.links.look(11.0)
        self.assertEqual((len(self.numbers()), self.links.fault), (2, ""))
        self.assertEqual(self.faults, ["eth0: Network is down", "eth0: expected it, got none", ""])

    def test_carrier(self):
        self.links.look(10.0)
        self.segment.link = False
        for _ in range(3):
            self.links.look(10.1)
        self.assertFalse(self.links.hears())
        self.segment.link = True
        self.links.look(10.2)
        self.assertTrue(self.links.hears())
        self.assertEqual(self.faults, ["eth0: no carrier", ""])
        self.assertEqual(len(self.numbers()), 2)

    def test_lost_answers(self):
        self.assertTrue(self.links.hears())
        self.segment.arp.lost = 3
        self.assertFalse(self.links.hears())
        self.assertTrue(self.links.hears())
