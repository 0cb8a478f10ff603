"""A configuration document as values: every node knows its file, line, column and key path.

Pure. A scalar keeps its text as written: 10:20:30 stays text and `on` is no boolean, whatever
YAML 1.1 makes of them.
"""

from pathlib import Path
from typing import TypeAlias

import attrs

from dlba.config.problems import Problem, dotted, quoted

KeyPath: TypeAlias = tuple[str | int, ...]


@attrs.frozen
class Source:
    """A file: `name` as the user wrote it, `folder` (absolute) that its relative paths start in."""

    name: str
    folder: Path


@attrs.frozen
class Place:
    """A position in a document: line and column from 1, path from the document's root."""

    source: Source
    line: int
    column: int
    path: KeyPath = ()

    def problem(self, message: str) -> Problem:
        """The problem `message` at this place."""
        return Problem(self.source.name, self.line, self.column, dotted(self.path), message)


@attrs.frozen
class Scalar:
    """A single value, its text as written; `plain` without quotes."""

    place: Place
    text: str
    plain: bool = True


@attrs.frozen
class Sequence:
    """A list."""

    place: Place
    items: tuple["Node", ...]


@attrs.frozen
class Entry:
    """A key with its value, each at its own position; both have the path of the value."""

    key: Scalar
    value: "Node"


@attrs.frozen
class Mapping:
    """Keys in the order of the file, each once; `repeats`: those that come again, an error each."""

    place: Place
    entries: dict[str, Entry]
    repeats: tuple[Entry, ...] = ()


Node: TypeAlias = Scalar | Sequence | Mapping


def shown(node: Node) -> str:
    """What stands at `node`, for "got ..." in a message."""
    match node:
        case Mapping():
            return "a mapping"
        case Sequence():
            return "a list"
        case Scalar(text="", plain=True):
            return "nothing"
        case Scalar(text=text):
            return quoted(text)


def locate(node: Node, *path: str | int) -> Node:
    """The node at `path` under `node`, or the deepest one on the way that exists."""
    for part in path:
        if isinstance(node, Mapping) and part in node.entries:
            node = node.entries[str(part)].value
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            break
    return node
