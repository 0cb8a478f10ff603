"""Tests of dlba.config.problems."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.problems import SHOWN, Problem, dotted, printable, quoted


class ProblemTests(SynchronousTestCase):
    def test_text(self):
        problem = Problem("etc/array.yaml", 12, 15, "web.sites[1].pool", "expected a, got b")
        self.assertEqual(str(problem), "etc/array.yaml:12:15: web.sites[1].pool: expected a, got b")

    def test_without_a_key_it_is_about_the_document(self):
        self.assertEqual(str(Problem("n", 1, 1, "", "m")), "n:1:1: document: m")

    def test_sorts_by_file_line_column_as_numbers(self):
        def at(*place):
            return Problem(*place, "k", "m")

        ordered = [at("a", 2, 1), at("a", 10, 2), at("a", 10, 10), at("b", 1, 1)]
        self.assertEqual(sorted([ordered[i] for i in (2, 0, 3, 1)]), ordered)


class QuotedTests(SynchronousTestCase):
    def test_shows_escapes_and_cuts(self):
        self.assertEqual(quoted("ap"), '"ap"')
        self.assertEqual(quoted("bücher"), '"bücher"')
        self.assertEqual(quoted('a"b'), '"a\\"b"')
        self.assertEqual(quoted("a\nb\x1b\u202e"), '"a\\nb\\u001b\\u202e"')
        self.assertEqual(quoted("x " * 100), '"' + "x " * (SHOWN // 2) + '…"')

    def test_long_text_takes_no_longer(self):
        start = time.process_time()
        quoted("!" + "x" * 1_000_000)
        self.assertLess(time.process_time() - start, 1.0)
        self.assertEqual(quoted("x" * (SHOWN - 5) + "Ab0" * 100), "what looks like a key")

    def test_hides_what_looks_like_a_key(self):
        pem = "-----BEGIN EC PRIVATE KEY----- MHcCAQEEIOa1"
        self.assertEqual(quoted(pem), "a PEM block")
        body = "MHcCAQEEIBJkVbGH0h2mZfIiBv5oZ8fN7cJ9oAoGCCqGSM49AwEHoUQDQgAE"
        self.assertEqual(quoted(body), "what looks like a key")
        path = "/var/lib/dlba/certificates/shop/example/com/shop.pem"
        self.assertEqual(quoted(path), f'"{path}"')

    @settings(deadline=None)
    @given(st.text())
    def test_is_one_printable_line(self, text):
        self.assertTrue(quoted(text).isprintable())


class PrintableTests(SynchronousTestCase):
    def test_escapes_what_is_not_shown(self):
        self.assertEqual(printable("a ü\n\x1b\xa0\u2028"), "a ü\\n\\x1b\\xa0\\u2028")


class DottedTests(SynchronousTestCase):
    def test_paths(self):
        for path, expected in (
            ((), ""),
            (("web", "sites", 1, "pool"), "web.sites[1].pool"),
            ((0, "a"), "[0].a"),
            (("a.b", "c"), '"a.b".c'),
            (("a\nb",), '"a\\nb"'),
            (("",), '""'),
        ):
            self.assertEqual(dotted(path), expected)
