"""Tests of dlba.routing.turn: time that is a Clock, a segment that is a recorder.

What its turns do on a whole node is tested with `dlba.routing.service` and `elected`.
"""

from unittest import mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.linkwatch import LinkWatch
from dlba.routing.turn import Turn
from tests.routing.test_path import frame_path
from tests.routing.test_reader import RecordedPoller
from tests.routing.test_service import RecordedSegment


class TurnTests(SynchronousTestCase):
    def setUp(self):
        self.reactor, segment = Clock(), RecordedSegment()
        self.reactor.advance(50)
        patched = mock.patch("time.monotonic", self.reactor.seconds)
        patched.start()
        self.addCleanup(patched.stop)
        segment.open()
        self.path, self.taken = frame_path(active=False), []
        links = LinkWatch(RecordedPoller(), segment, self.path, "eth0", None, lambda: None)
        self.judged = []
        self.arp = segment.arp
        self.after = lambda: self.taken.append(round(self.reactor.seconds() - 50, 3))
        judge = lambda *args: self.judged.append(args)  # noqa: E731
        self.turn = Turn(self.reactor, self.path, segment, links, judge, "VIP", 0.3, self.call)

    def call(self) -> None:
        self.after()

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.reactor.advance(0.01)

    def test_a_turn_ten_times_a_second_at_least(self):
        self.turn.take()
        self.steps(32)
        self.assertIn(len(self.taken), (3, 4))  # steps of a clock that counts in tenths of tenths

    def test_a_turn_when_something_is_due(self):
        self.turn.take()
        self.path.announcer.start(50.04)
        self.turn.soon()
        self.steps(3)
        self.assertEqual((len(self.taken), self.arp.sent), (1, []))
        self.steps(2)
        self.assertEqual((len(self.taken), len(self.arp.sent)), (2, 6))

    def test_no_more(self):
        self.turn.take()
        self.turn.stop()
        self.turn.stop()
        self.turn.soon()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_no_more_from_within_a_turn(self):
        self.after = self.turn.stop
        self.turn.take()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_an_exception_ends_no_turns(self):
        def fail():
            self.taken.append("fails")
            raise ZeroDivisionError

        self.after = fail
        self.turn.take()
        self.steps(32)
        self.assertGreaterEqual(len(self.taken), 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), len(self.taken))
