"""Tests of dlba.config.nodes."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.config.nodes import locate, shown
from tests.config.samples import node_of


class LocateTests(SynchronousTestCase):
    def test_finds_or_stops_at_the_deepest(self):
        root = node_of("a:\n  - b: c\n")
        for path, at in (
            ((), (1, 1)),
            (("a",), (2, 3)),
            (("a", 0), (2, 5)),
            (("a", 0, "b"), (2, 8)),
            (("a", 0, "x", "y"), (2, 5)),
            (("a", 7, "b"), (2, 3)),
            (("a", "b"), (2, 3)),
            ((0,), (1, 1)),
        ):
            place = locate(root, *path).place
            self.assertEqual((place.line, place.column), at, path)


class ShownTests(SynchronousTestCase):
    def test_names_each_kind(self):
        for text, expected in (
            ("{a: b}", "a mapping"),
            ("[a]", "a list"),
            ("---\n", "nothing"),
            ('""', '""'),
            ("10:20:30", '"10:20:30"'),
        ):
            self.assertEqual(shown(node_of(text)), expected)


class PlaceTests(SynchronousTestCase):
    def test_a_problem_tells_file_position_and_key(self):
        place = locate(node_of("a:\n  - b: c\n", "etc/n.yaml"), "a", 0, "b").place
        self.assertEqual(str(place.problem("m")), "etc/n.yaml:2:8: a[0].b: m")
