"""Tests of dlba.counters."""

import ast
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import dlba
from dlba.counters import WEB_COUNTERS, Counters


class CounterTests(SynchronousTestCase):
    def test_all_start_at_nothing(self):
        self.assertEqual(Counters().snapshot(), dict.fromkeys(WEB_COUNTERS, 0))

    def test_each_is_a_counter_of_its_own(self):
        counters = Counters()
        for number, name in enumerate(WEB_COUNTERS, 1):
            for _ in range(number):
                setattr(counters, name, getattr(counters, name) + 1)
        self.assertEqual(
            list(counters.snapshot().items()),
            [(name, number) for number, name in enumerate(WEB_COUNTERS, 1)],
        )
        self.assertEqual(set(Counters().snapshot().values()), {0}, "shared with another")

    def test_a_snapshot_stays_as_it_was(self):
        counters = Counters()
        before = counters.snapshot()
        counters.requests += 1
        self.assertEqual((before["requests"], counters.snapshot()["requests"]), (0, 1))

    def test_no_other_names(self):
        with self.assertRaises(AttributeError):
            Counters().request = 1

    def test_hints_are_complete(self):
        self.assertEqual(list(Counters.__annotations__), list(WEB_COUNTERS))

    def test_each_says_what_it_counts(self):
        self.assertEqual(len(set(WEB_COUNTERS.values())), len(WEB_COUNTERS))
        for name, meaning in WEB_COUNTERS.items():
            self.assertTrue(name.isidentifier() and name.islower() and len(meaning) > 10, name)

    def test_every_counter_is_counted_somewhere_and_no_other_is(self):
        counted = set()
        for path in Path(dlba.__file__).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute):
                    owner = node.target.value
                    if getattr(owner, "attr", getattr(owner, "id", "")) == "counters":
                        counted.add(node.target.attr)
        self.assertEqual(counted, set(WEB_COUNTERS))
