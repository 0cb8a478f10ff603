"""Tests of dlba.config.shapes."""

from attrs import field, frozen
from twisted.trial.unittest import SynchronousTestCase

from dlba.config import fields as f
from dlba.config.nodes import Scalar
from dlba.config.shapes import (
    INVALID,
    Reading,
    keys,
    known,
    list_of,
    mapping_of,
    named,
    named_tuple,
    read_by,
    read_mapping,
    record,
    record_or_file,
    suggestion,
)
from tests.config.samples import node_of


@frozen(kw_only=True)
class Inner:
    name: str = field(metadata=read_by(f.name(), "Its name.", entry=True))
    size: int = field(default=7, metadata=read_by(f.size(), "Its size."))


@frozen(kw_only=True)
class Outer:
    word: str = field(metadata=read_by(f.text(), "A word."))
    flag: bool = field(default=False, metadata=read_by(f.boolean(), "A flag."))
    folder: str = field(
        metadata=read_by(f.text(), "A folder.", absent=lambda reading: str(reading.state))
    )
    inner: Inner | None = field(default=None, metadata=read_by(record(Inner), "An inner one."))
    note: str = field(default="not a key")


class Case(SynchronousTestCase):
    def read(self, reader, text, **reading):
        """Value and problems of reading YAML text."""
        run = Reading(**reading)
        value = reader.read(node_of(text), run)
        return value, [str(problem) for problem in run.problems]


class RecordTests(Case):
    def test_values_and_defaults(self):
        value, problems = self.read(record(Outer), "word: a\ninner: {size: 2KiB}\n")
        self.assertEqual(problems, [])
        self.assertEqual(
            value, Outer(word="a", folder="/nonexistent", inner=Inner(name=None, size=2048))
        )

    def test_all_problems_at_once(self):
        value, problems = self.read(record(Outer), "flag: on\nwrod: a\ninner:\n  size: x\n  q: 1\n")
        self.assertEqual(
            problems,
            [
                'node.yaml:1:1: document: expected a key "word", got none',
                'node.yaml:1:7: flag: expected true or false, got "on"',
                (
                    "node.yaml:4:9: inner.size: expected a size such as 4096, 64KiB, 1MiB "
                    f'from 0 to {f.LARGEST} bytes, got "x"'
                ),
                'node.yaml:5:3: inner.q: expected one of the keys size, got "q"',
                'node.yaml:2:1: wrod: expected a known key, got "wrod" (did you mean "word"?)',
            ],
        )
        self.assertFalse(known(value.flag))

    def test_wrong_kinds(self):
        for text, got in (("[a]", "a list"), ("a", '"a"'), ("---\n", "nothing")):
            value, problems = self.read(record(Outer), text)
            self.assertIs(value, INVALID)
            self.assertEqual(len(problems), 1)
            self.assertTrue(problems[0].endswith(f"expected a mapping, got {got}"), problems)

    def test_a_field_without_metadata_is_no_key(self):
        self.assertEqual([name for name, _, _ in keys(Outer)], ["word", "flag", "folder", "inner"])
        _, problems = self.read(record(Outer), "{word: a, note: b}")
        self.assertEqual(
            problems,
            [
                (
                    "node.yaml:1:11: note: expected one of the keys word, flag, folder, inner, "
                    'got "note"'
                )
            ],
        )

    def test_entry_key_is_not_read_from_the_mapping(self):
        run = Reading()
        self.assertEqual(read_mapping(Inner, node_of("{}"), run, "x"), Inner(name="x"))
        read_mapping(Inner, node_of("{name: y}"), run, "x")
        self.assertEqual(
            [p.message for p in run.problems], ['expected one of the keys size, got "name"']
        )


class RecordOrFileTests(Case):
    def test_reads_what_is_included(self):
        asked = []

        def include(node: Scalar):
            asked.append(node.text)
            return node_of("{word: b}", "other.yaml")

        value, problems = self.read(record_or_file(Outer), "other.yaml", include=include)
        self.assertEqual((value.word, problems, asked), ("b", [], ["other.yaml"]))

    def test_mapping_in_place(self):
        value, problems = self.read(record_or_file(Outer), "{word: b}")
        self.assertEqual((value.word, problems), ("b", []))

    def test_without_the_file_it_is_invalid_and_silent(self):
        value, problems = self.read(record_or_file(Outer), "x", include=lambda node: None)
        self.assertEqual((value, problems), (INVALID, []))

    def test_neither(self):
        for text, got in (("[]", "a list"), ("---\n", "nothing"), ('""', '""')):
            self.assertEqual(
                self.read(record_or_file(Outer), text)[1],
                [
                    (
                        f"node.yaml:{2 if got == 'nothing' else 1}:1: document: "
                        f"expected a mapping or the path of a file, got {got}"
                    )
                ],
            )


class ListTests(Case):
    def test_items(self):
        self.assertEqual(self.read(list_of(f.port()), "[1, 2]"), ((1, 2), []))
        self.assertEqual(self.read(list_of(f.port()), "[]"), ((), []))

    def test_a_wrong_item_keeps_its_place(self):
        value, problems = self.read(list_of(f.port()), "[1, x, 3]")
        self.assertEqual(value, (1, INVALID, 3))
        self.assertEqual(problems, ['node.yaml:1:5: [1]: expected a port from 1 to 65535, got "x"'])

    def test_too_few_and_no_list(self):
        for text, message in (
            ("[]", "expected a list of 1 or more, got 0"),
            ("a", 'expected a list, got "a"'),
            ("{}", "expected a list, got a mapping"),
        ):
            self.assertEqual(
                self.read(list_of(f.port(), 1), text),
                (INVALID, [f"node.yaml:1:1: document: {message}"]),
            )

    def test_too_many(self):
        reader = list_of(f.port(), at_most=2)
        self.assertEqual(self.read(reader, "[1, 2]"), ((1, 2), []))
        self.assertEqual(
            self.read(reader, "[1, 2, 3]"),
            (INVALID, ["node.yaml:1:1: document: expected a list of at most 2, got 3"]),
        )


class MappingTests(Case):
    READER = mapping_of(f.port(), f.text())

    def test_keys_and_values_are_read(self):
        self.assertEqual(self.read(self.READER, "{1: a, 2: b}"), ({1: "a", 2: "b"}, []))
        self.assertEqual(self.read(self.READER, "{}"), ({}, []))

    def test_all_that_is_wrong_at_its_place(self):
        value, problems = self.read(self.READER, "1: a\nx: []\n2: []\n")
        self.assertEqual(value, {1: "a", 2: INVALID})
        self.assertEqual(
            sorted(problems),
            [
                'node.yaml:2:1: x: expected a port from 1 to 65535, got "x"',
                "node.yaml:2:4: x: expected text of at most 1000 characters, got a list",
                "node.yaml:3:4: 2: expected text of at most 1000 characters, got a list",
            ],
        )
        self.assertEqual(
            self.read(self.READER, "[]"),
            (INVALID, ["node.yaml:1:1: document: expected a mapping, got a list"]),
        )

    def test_keys_that_differ_in_case_alone(self):
        reader = mapping_of(f.name(), f.text(), fold=True)
        self.assertEqual(
            self.read(reader, "A: x\nb: y\na: z\n")[1],
            [
                "node.yaml:3:1: a: expected each key once, got it again after line 1 "
                "(case makes no difference)"
            ],
        )
        self.assertEqual(
            self.read(mapping_of(f.name(), f.text()), "{A: x, a: y}"), ({"A": "x", "a": "y"}, [])
        )


class NamedTests(Case):
    def test_names_go_into_the_records(self):
        text = "{a: {size: 1}, b: {}}"
        expected = {"a": Inner(name="a", size=1), "b": Inner(name="b")}
        self.assertEqual(self.read(named(Inner, f.name()), text), (expected, []))
        self.assertEqual(
            self.read(named_tuple(Inner, f.name()), text), (tuple(expected.values()), [])
        )

    def test_wrong_name_and_wrong_record(self):
        _, problems = self.read(named(Inner, f.name()), "a b: {}\nc: 1\n")
        self.assertEqual(
            problems,
            [
                (
                    'node.yaml:1:1: "a b": expected a name of letters, digits, _ . - '
                    '(at most 63), got "a b"'
                ),
                'node.yaml:2:4: c: expected a mapping, got "1"',
            ],
        )

    def test_too_few_and_no_mapping(self):
        for text, message in (
            ("{}", "expected 1 or more entries, got 0"),
            (
                "[]",
                (
                    "expected a mapping of a name of letters, digits, _ . - (at most 63) to a "
                    "mapping, got a list"
                ),
            ),
        ):
            for reader in (named(Inner, f.name(), 1), named_tuple(Inner, f.name(), 1)):
                self.assertEqual(
                    self.read(reader, text), (INVALID, [f"node.yaml:1:1: document: {message}"])
                )


class InvalidTests(SynchronousTestCase):
    def test_absorbs_what_checks_ask(self):
        self.assertFalse(INVALID)
        self.assertEqual(list(INVALID.sites), [])
        self.assertEqual(list(INVALID.pools.items()), [])
        self.assertFalse(known(INVALID.a.b))
        self.assertFalse(known(1, INVALID))
        self.assertTrue(known(None, 0, ""))


class SuggestionTests(SynchronousTestCase):
    def test_near_or_nothing(self):
        self.assertEqual(suggestion("ap", ["app", "caches"]), 'did you mean "app"?')
        self.assertEqual(suggestion("zzz", ["app", "caches"]), "")
        self.assertEqual(suggestion("a" * 10**6, ["a" * 100]), f'did you mean "{"a" * 60}…"?')
