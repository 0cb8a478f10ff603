"""Tests of dlba.config.document."""

from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.document import DEEPEST, LARGEST, MOST, parse
from dlba.config.nodes import Mapping, Node, Scalar, Sequence, Source, locate
from tests.config.samples import node_of

SOURCE = Source("n", Path("/base"))


def plain(node: Node):
    """The node as dicts, lists and text."""
    match node:
        case Scalar():
            return node.text
        case Sequence():
            return [plain(item) for item in node.items]
        case Mapping():
            return {key: plain(entry.value) for key, entry in node.entries.items()}


class DocumentTests(SynchronousTestCase):
    def test_text_stays_as_written(self):
        node = node_of(
            "{mac: 10:20:30:40:50:55, version: 1.10, port: 0o17, on: yes, null: ~, q: 'x'}"
        )
        self.assertEqual(
            plain(node),
            {
                "mac": "10:20:30:40:50:55",
                "version": "1.10",
                "port": "0o17",
                "on": "yes",
                "null": "~",
                "q": "x",
            },
        )

    def test_places(self):
        node = node_of("a:\n  - b:  c\n  - [d,\n     e]\n")
        for path, at in (
            (("a",), (2, 3)),
            (("a", 0), (2, 5)),
            (("a", 0, "b"), (2, 9)),
            (("a", 1, 1), (4, 6)),
        ):
            place = locate(node, *path).place
            self.assertEqual((place.line, place.column, place.path), (*at, path))

    def test_keys_have_their_own_place(self):
        node = node_of("a:\n  bc: d\n")
        key = locate(node, "a").entries["bc"].key
        self.assertEqual((key.place.line, key.place.column), (2, 3))

    def test_byte_order_mark_and_crlf(self):
        problems = []
        node = parse(b"\xef\xbb\xbfa: b\r\nc: d\r\n", SOURCE, problems)
        self.assertEqual((plain(node), problems), ({"a": "b", "c": "d"}, []))
        self.assertEqual(locate(node, "c").place.line, 2)

    def test_alias_repeats_under_its_own_path(self):
        node = node_of("a: &x {b: [c]}\nd: *x\n")
        self.assertEqual(plain(node), {"a": {"b": ["c"]}, "d": {"b": ["c"]}})
        place = locate(node, "d", "b", 0).place
        self.assertEqual((place.line, place.path), (1, ("d", "b", 0)))


class ProblemTests(SynchronousTestCase):
    def problems_of(self, data: bytes):
        problems = []
        node = parse(data, SOURCE, problems)
        return node, [str(problem) for problem in problems]

    def test_unusable(self):
        for data, expected in (
            (b"", "n:1:1: document: expected a mapping, got nothing"),
            (b"# only this\n", "n:1:1: document: expected a mapping, got nothing"),
            (b"a: b\n--- \nc\n", "n:2:1: document: expected one document, got another"),
            (
                b"a: b: c",
                "n:1:5: document: expected YAML, got an error: mapping values are not allowed here",
            ),
            (
                b"a: [b",
                (
                    "n:1:6: document: expected YAML, got an error while parsing a flow sequence: "
                    "expected ',' or ']', but got '<stream end>'"
                ),
            ),
            (b"a: b\nc: \xff", "n:2:4: document: expected UTF-8, got invalid start byte"),
            (b"a: b\rc: \xff", "n:2:4: document: expected UTF-8, got invalid start byte"),
            (b"a: b\r\nc: \xff", "n:2:4: document: expected UTF-8, got invalid start byte"),
            (
                b"a:\n  \x07",
                "n:2:3: document: expected printable text, got the character U+0007",
            ),
            (b"a: *b", 'n:1:4: a: expected a known alias, got "*b"'),
            (b"a: &x [*x]", 'n:1:8: a[0]: expected no alias to itself, got "*x"'),
            (b"? [a]\n: b", "n:1:3: document: expected a key, got a list or mapping"),
            (
                b'a: "\\U99999999"',
                "n:1:7: document: expected YAML, got an escape or number out of range",
            ),
            (b'a: "\\ud800"', "n:1:4: a: expected Unicode text, got half a surrogate pair"),
            (
                b"%YAML " + b"9" * 5000 + b".1\n---\n",
                "n:1:7: document: expected YAML, got an escape or number out of range",
            ),
            (b" " * (LARGEST + 1), f"n:1:1: document: expected at most {LARGEST} bytes, got more"),
        ):
            self.assertEqual(self.problems_of(data), (None, [expected]), data[:30])

    def test_the_rest_is_still_read(self):
        for data, rest, expected in (
            (
                b"a: b\nc: d\na: e\n",
                {"a": "b", "c": "d"},
                "n:3:1: a: expected each key once, got it again after line 1",
            ),
            (
                b"a: &x {b: c}\nd:\n  <<: *x\n  e: f\n",
                {"a": {"b": "c"}, "d": {"e": "f"}},
                "n:3:3: d.<<: expected a key, got a merge (write the keys out)",
            ),
            (
                b"a: !!python/object/apply:os.system [b]\nc: d\n",
                {"a": ["b"], "c": "d"},
                'n:1:4: a: expected no tag, got "tag:yaml.org,2002:python/object/apply:os.system"',
            ),
        ):
            node, problems = self.problems_of(data)
            self.assertEqual((plain(node), problems), (rest, [expected]))

    def test_a_quoted_merge_key_is_a_key(self):
        self.assertEqual(self.problems_of(b'"<<": a')[1], [])


class BoundTests(SynchronousTestCase):
    def refused(self, text: str, expected: str):
        problems = []
        self.assertIsNone(parse(text.encode(), SOURCE, problems))
        self.assertEqual([problem.message for problem in problems], [expected])

    def test_depth(self):
        node_of("[" * DEEPEST + "]" * DEEPEST)
        expected = f"expected at most {DEEPEST} levels, got more"
        self.refused("[" * (DEEPEST + 2), expected)
        self.refused("- " * 10_000, expected)
        self.refused("? " * 10_000, expected)

    def test_depth_through_aliases(self):
        chain = "- &x0 [a]\n" + "".join(f"- &x{i + 1} [*x{i}]\n" for i in range(DEEPEST))
        self.refused(chain, f"expected at most {DEEPEST} levels, got more")

    def test_a_billion_laughs(self):
        lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
        lines += [f"a{i + 1}: &a{i + 1} [{','.join([f'*a{i}'] * 9)}]" for i in range(9)]
        self.refused("\n".join(lines), f"expected at most {MOST} values, got more")

    def test_number_of_values(self):
        self.refused("- x\n" * MOST, f"expected at most {MOST} values, got more")


SCALARS = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=8)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=10,
)


class AgainstPyYAMLTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(TREES)
    def test_what_pyyaml_writes_is_read_back(self, tree):
        problems = []
        written = yaml.safe_dump(tree, default_style='"', allow_unicode=True)
        # The style puts !!tags only on what isn't text; there is none.
        node = parse(written.encode(), SOURCE, problems)
        self.assertEqual((plain(node), problems), (tree, []))

    @settings(deadline=None)
    @given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
    def test_any_bytes_give_a_document_or_a_problem(self, data):
        problems = []
        node = parse(data, SOURCE, problems)
        self.assertTrue(node is not None or len(problems) == 1)

    @settings(deadline=None)
    @given(st.text(alphabet="ab:-[]{},&*!|>'\"%@?#<\\ \n\tU0", max_size=60))
    def test_any_yaml_like_text_gives_a_document_or_a_problem(self, text):
        problems = []
        node = parse(text.encode(), SOURCE, problems)
        self.assertTrue(node is not None or problems)
