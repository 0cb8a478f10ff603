"""Tests of dlba.routing.events."""

import inspect

from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.events import RoutingEvents, Unheard


class UnheardTests(SynchronousTestCase):
    def test_it_takes_every_event(self):
        names = [name for name, _ in inspect.getmembers(RoutingEvents, inspect.isfunction)]
        events = [name for name in names if not name.startswith("_")]
        self.assertEqual(events, ["absent", "arp", "fault", "table_changed", "vip_claimed"])
        for name in events:
            ours = inspect.signature(getattr(Unheard, name))
            self.assertEqual(ours, inspect.signature(getattr(RoutingEvents, name)))
