"""How nodes become values: readers, records with one attrs field per key, lists, mappings.

Pure. A reader takes a node and returns a value; a wrong node is reported to the `Reading` and gives
`INVALID`, so that one run finds all problems. A record is a frozen attrs class; each of its fields
carries its `Key` as metadata and nothing else has to know of it: another key is another field.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, cast

import attrs

from dlba.config.nodes import Mapping, Node, Place, Scalar, Sequence, shown
from dlba.config.problems import Problem, quoted

T = TypeVar("T")
U = TypeVar("U")
Schema: TypeAlias = dict[str, Any]  # never changed
KEY = "dlba.config"  # where an attrs field's metadata holds its Key


class _Invalid:
    """Stands for a value that could not be read; a problem was reported for it.

    Whatever is asked of it is again invalid, false and empty, so that the cross checks go on with
    the rest of a partly wrong document. It never leaves `load`: any problem means no value.
    """

    def __getattr__(self, name: str) -> "_Invalid":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: object) -> "_Invalid":
        return self

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __repr__(self) -> str:
        return "INVALID"


INVALID: Any = _Invalid()


def known(*values: object) -> bool:
    """Whether all of `values` could be read: none is INVALID."""
    return all(value is not INVALID for value in values)


def _no_name(name: str) -> str:
    raise OSError(f"no look-up for {name}")


def _no_file(_: Scalar) -> Node | None:
    raise OSError("no files")


@attrs.define
class Reading:
    """One run over a configuration: what it found wrong, and what it may ask of the outside.

    `resolve` gives the IP literal for a host name or raises OSError; `include` gives the document
    in the file that a scalar names, None when it reported a problem; `state` is the folder for a
    node that names none.
    """

    problems: list[Problem] = attrs.field(factory=list)
    resolve: Callable[[str], str] = _no_name
    include: Callable[[Scalar], Node | None] = _no_file
    state: Path = Path("/nonexistent")

    def report(self, node: Node, expected: str, got: str | None = None, hint: str = "") -> None:
        """Note that `expected` should stand at `node`."""
        message = f"expected {expected}, got {shown(node) if got is None else got}"
        self.problems.append(node.place.problem(message + (f" ({hint})" if hint else "")))

    def wrong(self, node: Node, expected: str, got: str | None = None, hint: str = "") -> U:  # type: ignore[type-var]  # the caller's type: INVALID passes for any
        """As `report`; returns INVALID."""
        self.report(node, expected, got, hint)
        return cast(U, INVALID)


@attrs.frozen
class Reader(Generic[T]):
    """Turns a node into a value. `expected` names the type in messages, `unit` what it counts.

    `read` reports what is wrong to the Reading and returns INVALID then; it never raises. `schema`
    is the JSON Schema (draft 2020-12) of what it takes: for editors, so it may take more than
    `read` does. `records`: the classes that the schema refers to (see `reference`).
    """

    expected: str
    read: Callable[[Node, Reading], T]
    unit: str = ""
    schema: Schema = attrs.field(factory=dict)
    records: tuple[type, ...] = ()


@attrs.frozen
class Key:
    """What a configuration key is, for the reader and for the documentation.

    `about` is one sentence; `wrong` says what a bad value does, where that isn't plain; `default`
    says it in words where the value doesn't; `absent` gives the value of a missing key that
    depends on the run. `entry`: the value is the name under which the mapping holds the record.
    `beyond`: the contract doesn't show the key.
    """

    reader: Reader[Any]
    about: str
    wrong: str = ""
    default: str = ""
    absent: Callable[[Reading], Any] | None = None
    entry: bool = False
    beyond: bool = False


def read_by(reader: Reader[Any], about: str, **more: Any) -> dict[str, Key]:
    """Metadata of an attrs field that is a configuration key; arguments as of `Key`."""
    return {KEY: Key(reader, about, **more)}


def keys(cls: type) -> Iterator[tuple[str, "attrs.Attribute[Any]", Key]]:
    """Name, attrs field and Key of every configuration key of a record class, in order."""
    for field in attrs.fields(cls):
        if KEY in field.metadata:
            yield field.name, field, field.metadata[KEY]


def suggestion(text: str, words: Iterable[str]) -> str:
    """`did you mean "x"?` for the word nearest to `text`, empty when none is near."""
    # Long text is near to nothing, many words are no help, and difflib would take long for either.
    near = difflib.get_close_matches(text[:100], list(islice(words, 100)), n=1)
    return f"did you mean {quoted(near[0])}?" if near else ""


def read_mapping(cls: type[T], node: Node, reading: Reading, name: str | None = None) -> T:
    """A `cls` from the mapping `node`, INVALID if it is no mapping.

    Unknown keys and missing keys are reported; a field whose value is wrong holds INVALID. `name`
    is the name under which an outer mapping holds this one.
    """
    if not isinstance(node, Mapping):
        return reading.wrong(node, "a mapping")
    values: dict[str, Any] = {}
    names: list[str] = []
    readers: dict[str, Reader[Any]] = {}
    for field_name, field, about in keys(cls):
        if about.entry:
            values[field_name] = name
            continue
        names.append(field_name)
        readers[field_name] = about.reader
        if field_name in node.entries:
            values[field_name] = about.reader.read(node.entries[field_name].value, reading)
        elif about.absent is not None:
            values[field_name] = about.absent(reading)
        elif field.default is attrs.NOTHING:
            values[field_name] = reading.wrong(node, f"a key {quoted(field_name)}", "none")
    for text, entry in node.entries.items():
        if text not in names:
            near = suggestion(text, names)
            expected = "a known key" if near else f"one of the keys {', '.join(names)}"
            reading.report(entry.key, expected, hint=near)
    for entry in node.repeats:
        # Its value doesn't count, but its mistakes are told in this run too.
        if entry.key.text in readers:
            readers[entry.key.text].read(entry.value, reading)
    return cls(**values)


def reference(cls: type) -> Schema:
    """The schema that stands for the record `cls`, which is defined elsewhere in the document."""
    return {"$ref": f"#/$defs/{cls.__name__.removesuffix('Config')}"}


def record(cls: type[T]) -> Reader[T]:
    """A mapping with the keys of the attrs class `cls`."""

    def read(node: Node, reading: Reading) -> T:
        return read_mapping(cls, node, reading)

    return Reader("a mapping", read, schema=reference(cls), records=(cls,))


def record_or_file(cls: type[T]) -> Reader[T]:
    """A mapping as of `record`, or the path of a file that holds it."""

    def read(node: Node, reading: Reading) -> T:
        if isinstance(node, Scalar) and node.text:
            document = reading.include(node)
            if document is None:
                return cast(T, INVALID)
            return read_mapping(cls, document, reading)
        if not isinstance(node, Mapping):
            return reading.wrong(node, "a mapping or the path of a file")
        return read_mapping(cls, node, reading)

    schema = {"anyOf": [reference(cls), {"type": "string", "minLength": 1}]}
    return Reader("a mapping or the path of a file", read, schema=schema, records=(cls,))


def list_of(reader: Reader[T], at_least: int = 0, at_most: int = 0) -> Reader[tuple[T, ...]]:
    """A list of what `reader` reads, `at_least` so many; a wrong item stays in it as INVALID.

    `at_most`: 0 means any number.
    """
    expected = f"a list of {at_least} or more" if at_least else "a list"

    def read(node: Node, reading: Reading) -> tuple[T, ...]:
        if not isinstance(node, Sequence):
            return reading.wrong(node, "a list")
        if len(node.items) < at_least:
            return reading.wrong(node, expected, str(len(node.items)))
        if at_most and len(node.items) > at_most:
            return reading.wrong(node, f"a list of at most {at_most}", str(len(node.items)))
        return tuple(reader.read(item, reading) for item in node.items)

    schema: Schema = {"type": "array", "items": reader.schema}
    if at_least:
        schema["minItems"] = at_least
    if at_most:
        schema["maxItems"] = at_most
    each = f"{expected}, each {reader.expected}"
    return Reader(each, read, reader.unit, schema, reader.records)


def mapping_of(name: Reader[U], value: Reader[T], fold: bool = False) -> Reader[dict[U, T]]:
    """A mapping from what `name` reads to what `value` reads, without entries whose key is wrong.

    `fold`: two keys that differ in case alone are one key twice, an error.
    """
    expected = f"a mapping of {name.expected} to {value.expected}"

    def read(node: Node, reading: Reading) -> dict[U, T]:
        if not isinstance(node, Mapping):
            return reading.wrong(node, "a mapping")
        values: dict[U, T] = {}
        lines: dict[str, Place] = {}
        for text, entry in node.entries.items():
            key = name.read(entry.key, reading)
            item = value.read(entry.value, reading)
            first = lines.setdefault(text.lower() if fold else text, entry.key.place)
            if first is not entry.key.place:
                got = f"it again after line {first.line}"
                reading.report(entry.key, "each key once", got, "case makes no difference")
            if key is not INVALID:
                values[key] = item
        for entry in node.repeats:
            value.read(entry.value, reading)
        return values

    schema = {
        "type": "object",
        "propertyNames": name.schema,
        "additionalProperties": value.schema,
    }
    return Reader(expected, read, value.unit, schema, value.records)


def named(cls: type[T], name: Reader[str], at_least: int = 0) -> Reader[dict[str, T]]:
    """A mapping from a name, which `name` reads, to a record of `cls`; `at_least` so many."""

    def read(node: Node, reading: Reading) -> dict[str, T]:
        if not isinstance(node, Mapping):
            return reading.wrong(node, f"a mapping of {name.expected} to a mapping")
        if len(node.entries) < at_least:
            return reading.wrong(node, f"{at_least} or more entries", str(len(node.entries)))
        values = {}
        for text, entry in node.entries.items():
            name.read(entry.key, reading)
            values[text] = read_mapping(cls, entry.value, reading, text)
        for entry in node.repeats:
            read_mapping(cls, entry.value, reading, entry.key.text)
        return values

    schema: Schema = {
        "type": "object",
        "propertyNames": name.schema,
        "additionalProperties": reference(cls),
    }
    if at_least:
        schema["minProperties"] = at_least
    expected = f"a mapping of {name.expected} to a mapping"
    return Reader(expected, read, schema=schema, records=(cls,))


def named_tuple(cls: type[T], name: Reader[str], at_least: int = 0) -> Reader[tuple[T, ...]]:
    """As `named`, but the records alone, in the order of the file."""
    mapping = named(cls, name, at_least)

    def read(node: Node, reading: Reading) -> tuple[T, ...]:
        values = mapping.read(node, reading)
        return cast(tuple[T, ...], INVALID) if values is INVALID else tuple(values.values())

    return Reader(mapping.expected, read, schema=mapping.schema, records=mapping.records)
