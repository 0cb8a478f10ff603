"""Tests of dlba.routing.events."""

import inspect

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.service import ElectionService
from dlba.routing.events import RoutingEvents


class EventsTests(SynchronousTestCase):
    def test_the_election_takes_every_event(self):
        names = [name for name, _ in inspect.getmembers(RoutingEvents, inspect.isfunction)]
        events = [name for name in names if not name.startswith("_")]
        self.assertEqual(events, ["absent", "arp", "fault", "table_changed", "vip_claimed"])
        for name in events:
            theirs = inspect.signature(getattr(ElectionService, name))
            self.assertEqual(theirs, inspect.signature(getattr(RoutingEvents, name)))
