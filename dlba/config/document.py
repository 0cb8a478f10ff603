"""YAML text to positioned nodes: one document, each key once, nothing executed, bounded.

Pure. Works on PyYAML's events, not on its nodes: there a document's depth and size are known before
anything is built, so that deep nesting and aliases that multiply (a billion laughs) end in a
problem, not in a full memory. Anchors and aliases are allowed. Tags and merge keys (`<<`) are not:
a tag asks for a type that the key already has, and what a merge does to duplicate keys and to
positions surprises. Scalars keep their text as written.
"""

import re
from typing import Any

import attrs
import yaml
from yaml.events import (
    AliasEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from dlba.config.nodes import Entry, KeyPath, Mapping, Node, Place, Scalar, Sequence, Source
from dlba.config.problems import Problem, printable, quoted

LARGEST = 1 << 20  # bytes of text: far over any configuration; PyYAML takes about 1 s for it
DEEPEST = 32  # levels of nesting; the deepest key there is lies 8 deep
MOST = 50_000  # nodes, those counted again that aliases repeat

_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # YAML's, so that lines are PyYAML's
_SURROGATE = re.compile("[\ud800-\udfff]")


class _UnusableError(Exception):
    """The document can't be read on; carries its problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def parse(data: bytes, source: Source, problems: list[Problem]) -> Node | None:
    """The root node of the YAML document in `data`, UTF-8 with or without a byte order mark.

    Adds what is wrong to `problems`. None when the text is no YAML or passes a limit; with a
    duplicate key, a merge key or a tag the rest of the document is still returned.
    """
    try:
        if len(data) > LARGEST:
            raise _UnusableError(
                Place(source, 1, 1).problem(f"expected at most {LARGEST} bytes, got more")
            )
        return _Composer(_decoded(data, source), source, problems).document()
    except _UnusableError as unusable:
        problems.append(unusable.problem)
        return None


def _decoded(data: bytes, source: Source) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8", "replace")
        raise _UnusableError(
            _after(before, source).problem(f"expected UTF-8, got {error.reason}")
        ) from None
    return text


def _after(text: str, source: Source) -> Place:
    """The place behind `text`."""
    lines = _BREAK.split(text)
    return Place(source, len(lines), len(lines[-1]) + 1)


class _Composer:
    """Builds nodes from the events of one text."""

    def __init__(self, text: str, source: Source, problems: list[Problem]) -> None:
        self._source = source
        self._problems = problems
        self._anchors: dict[str, Node | None] = {}  # None: still being built
        self._count = 0
        try:
            self._loader: Any = yaml.SafeLoader(text)
        except yaml.reader.ReaderError as error:
            place = _after(text[: error.position], source)
            got = f"the character U+{ord(text[error.position]):04X}"
            raise _UnusableError(place.problem(f"expected printable text, got {got}")) from None

    def document(self) -> Node:
        self._next()  # StreamStart
        start = self._next()
        if isinstance(start, StreamEndEvent):
            raise _UnusableError(
                Place(self._source, 1, 1).problem("expected a mapping, got nothing")
            )
        root = self._node(self._next(), (), 0)
        self._next()  # DocumentEnd
        following = self._next()
        if not isinstance(following, StreamEndEvent):
            place = self._place(following, ())
            raise _UnusableError(place.problem("expected one document, got another"))
        return root

    def _next(self) -> Any:
        """The next event; raises _UnusableError where the text is no YAML."""
        try:
            return self._loader.get_event()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            context = f" {error.context}" if error.context else ""
            message = printable(f"expected YAML, got an error{context}: {error.problem}")
        except (ValueError, OverflowError):
            # chr() and int() on an escape or a directive that PyYAML doesn't bound.
            mark = self._loader.get_mark()
            message = "expected YAML, got an escape or number out of range"
        place = Place(self._source, mark.line + 1, mark.column + 1) if mark else None
        raise _UnusableError((place or Place(self._source, 1, 1)).problem(message))

    def _place(self, event: Any, path: KeyPath) -> Place:
        mark = event.start_mark
        return Place(self._source, mark.line + 1, mark.column + 1, path)

    def _bounded(self, place: Place, depth: int) -> None:
        self._count += 1
        if depth > DEEPEST:
            raise _UnusableError(place.problem(f"expected at most {DEEPEST} levels, got more"))
        if self._count > MOST:
            raise _UnusableError(place.problem(f"expected at most {MOST} values, got more"))

    def _node(self, event: Any, path: KeyPath, depth: int) -> Node:
        place = self._place(event, path)
        self._bounded(place, depth)
        if isinstance(event, AliasEvent):
            return self._alias(str(event.anchor), place, depth)
        if event.tag is not None:
            self._problems.append(place.problem(f"expected no tag, got {quoted(event.tag)}"))
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        node: Node
        if isinstance(event, ScalarEvent):
            node = self._scalar(event, place)
        elif isinstance(event, SequenceStartEvent):
            node = self._sequence(place, depth)
        else:
            node = self._mapping(place, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, anchor: str, place: Place, depth: int) -> Node:
        if anchor not in self._anchors:
            raise _UnusableError(
                place.problem(f"expected a known alias, got {quoted('*' + anchor)}")
            )
        node = self._anchors[anchor]
        if node is None:
            raise _UnusableError(
                place.problem(f"expected no alias to itself, got {quoted('*' + anchor)}")
            )
        return self._moved(node, place.path, depth)

    def _moved(self, node: Node, path: KeyPath, depth: int) -> Node:
        """A copy of `node` under another path; its lines stay those where the text stands."""
        self._bounded(node.place, depth)
        place = attrs.evolve(node.place, path=path)
        if isinstance(node, Scalar):
            return Scalar(place, node.text, node.plain)
        if isinstance(node, Sequence):
            items = enumerate(node.items)
            return Sequence(place, tuple(self._moved(n, (*path, i), depth + 1) for i, n in items))

        def moved(entry: Entry) -> Entry:
            below = (*path, entry.key.text)
            key = attrs.evolve(entry.key, place=attrs.evolve(entry.key.place, path=below))
            return Entry(key, self._moved(entry.value, below, depth + 1))

        entries = {key: moved(entry) for key, entry in node.entries.items()}
        return Mapping(place, entries, tuple(moved(entry) for entry in node.repeats))

    def _scalar(self, event: Any, place: Place) -> Scalar:
        if _SURROGATE.search(event.value):
            raise _UnusableError(place.problem("expected Unicode text, got half a surrogate pair"))
        return Scalar(place, event.value, event.style is None)

    def _sequence(self, place: Place, depth: int) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := self._next(), SequenceEndEvent):
            items.append(self._node(event, (*place.path, len(items)), depth + 1))
        return Sequence(place, tuple(items))

    def _mapping(self, place: Place, depth: int) -> Mapping:
        entries: dict[str, Entry] = {}
        repeats: list[Entry] = []
        while not isinstance(event := self._next(), MappingEndEvent):
            key = self._node(event, place.path, depth + 1)
            if not isinstance(key, Scalar):
                raise _UnusableError(key.place.problem("expected a key, got a list or mapping"))
            path = (*place.path, key.text)
            value = self._node(self._next(), path, depth + 1)
            key = attrs.evolve(key, place=attrs.evolve(key.place, path=path))
            if key.text == "<<" and key.plain:
                message = "expected a key, got a merge (write the keys out)"
                self._problems.append(key.place.problem(message))
            elif key.text in entries:
                first = entries[key.text].key.place.line
                message = f"expected each key once, got it again after line {first}"
                self._problems.append(key.place.problem(message))
                repeats.append(Entry(key, value))
            else:
                entries[key.text] = Entry(key, value)
        return Mapping(place, entries, tuple(repeats))
