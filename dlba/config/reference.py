"""Writes docs/configuration.md from the configuration keys: `python -m dlba.config.reference`.

Pure but for what it writes to standard output when it is run. Every mapping of the files is a
section, every key a row; nothing about a key stands here.
"""

import sys
from collections.abc import Iterator
from typing import Any

import attrs

from dlba.config.schema import described_default
from dlba.config.shapes import Key, Reader, keys
from dlba.config.values import ArrayConfig, NodeConfig

__all__ = ["reference_text"]

_HEAD = """\
# Configuration

Made from the code by `python -m dlba.config.reference`; change the keys there.
[etc/node.yaml](../etc/node.yaml) and [etc/array.yaml](../etc/array.yaml) show them in place,
`dlba schema` prints a JSON Schema for editors.

`twistd dlba -c node.yaml -t` checks the files and ends with 0, or with 2 and one
`file:line:column: key: what was expected` a line for all that is wrong. Unknown keys, keys that
stand twice, missing keys and values of a wrong type or out of bounds are errors: the node doesn't
start, and at a reload it keeps the configuration that it has. The last column says what a value
does that is possible and yet wrong.

Times are seconds, sizes bytes; also `300ms`, `5m`, `64KiB`. Paths start in the folder of the file
that names them. Host names in addresses are resolved when the file is loaded. Quotes make no
difference; YAML's tags and merge keys (`<<`) are errors.
"""
#: A sentence for keys that the outside contract doesn't show.
_BEYOND = "Beyond what the contract shows."


def reference_text() -> str:
    """The whole of docs/configuration.md."""
    lines = [_HEAD.rstrip()]
    for title, cls in (("node.yaml", NodeConfig), ("array.yaml", ArrayConfig)):
        about = (cls.__doc__ or "").partition("\n")[0].rpartition(":")[0]
        lines += ["", f"# {title}", "", f"{about}.", "", *_table(cls)]
        for path, below, key in _sections(cls, ""):
            lines += ["", f"## {path}", "", key.about, "", *_table(below)]
    return "\n".join(lines) + "\n"


def _sections(cls: type, path: str) -> Iterator[tuple[str, type, Key]]:
    """Path, record and key of every mapping under `cls`, which is at `path`; not of the array's."""
    for name, _, key in keys(cls):
        for below in key.reader.records:
            if below is not ArrayConfig:
                place = f"{path}.{name}{_step(key.reader)}".lstrip(".")
                yield place, below, key
                yield from _sections(below, place)


def _step(reader: Reader[Any]) -> str:
    """What stands in a path between the key of `reader` and the keys of its records."""
    return {"array": "[]", "object": ".NAME"}.get(reader.schema.get("type", ""), "")


def _table(cls: type) -> list[str]:
    rows = [
        ("Key", "Type", "Unit", "Default", "Meaning", "Where it is wrong"),
        ("---",) * 6,
        *(_row(name, field, key) for name, field, key in keys(cls) if not key.entry),
    ]
    return ["| " + " | ".join(row) + " |" for row in rows]


def _row(name: str, field: "attrs.Attribute[Any]", key: Key) -> tuple[str, ...]:
    about = f"{key.about} {_BEYOND}" if key.beyond else key.about
    return (
        f"`{name}`",
        _cell(key.reader.expected),
        key.reader.unit,
        _cell(_default(field, key)),
        _cell(about),
        _cell(key.wrong or ("See its keys." if key.reader.records else "An error.")),
    )


def _cell(text: str) -> str:
    """`text` in a table of Markdown: patterns hold signs that would mean something there."""
    return "".join("\\" + sign if sign in "|*<" else sign for sign in text)


def _default(field: "attrs.Attribute[Any]", key: Key) -> str:
    if key.default:
        return key.default
    value = described_default(field)
    if value is not attrs.NOTHING:
        return _shown(value, key.reader.unit)
    if field.default is attrs.NOTHING:
        return "required" if key.absent is None else ""
    return "those of its keys"


def _shown(value: object, unit: str) -> str:
    """A default as one would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and unit == "bytes":
        for name, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value and value % size == 0:
                return f"{value // size}{name}"
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return str(value) if value != "" else '""'


if __name__ == "__main__":
    sys.stdout.write(reference_text())
