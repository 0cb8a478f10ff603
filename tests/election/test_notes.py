"""Tests of dlba.election.notes."""

from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from dlba.election.notes import STRANGER, Notes


class NotesTests(SynchronousTestCase):
    def test_one_line_of_a_kind_and_peer_in_ten_seconds(self):
        clock = Clock()
        notes = Notes(clock.seconds)
        self.patch(Notes, "_log", Logger())
        with capturedLogs() as captured:
            for _ in range(50):
                notes.say("down", "b", "down: lost")
                notes.say("down", "c", "down: {lost}")
                notes.say("refused", STRANGER, "TLS: broken off")
                clock.advance(0.1)
            clock.advance(5.1)
            notes.say("down", "b", "down: again")
            notes.say("down", "b", "down: again")
        self.assertEqual(
            [formatEvent(event) for event in captured],
            [
                "channel to b: down: lost",
                "channel to c: down: {lost}",
                "channel to a stranger: TLS: broken off",
                "channel to b: down: again (49 more like it before)",
            ],
        )
