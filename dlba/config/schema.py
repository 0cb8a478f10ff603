"""JSON Schema (draft 2020-12) of node.yaml and array.yaml, made from the keys, for editors.

Pure. All is taken from the records: a reader has the schema of its value, a Key what it means. The
schema is not the judge: names that must exist, files and limits between keys are for `load`.
"""

from typing import Any

import attrs

from dlba.config.shapes import Key, Schema, keys
from dlba.config.values import ArrayConfig, NodeConfig

__all__ = ["array_schema", "described_default", "node_schema", "records"]

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def node_schema() -> Schema:
    """The schema of node.yaml, with the array in it or in a file of its own."""
    return _document(NodeConfig, "DLBA node.yaml")


def array_schema() -> Schema:
    """The schema of array.yaml."""
    return _document(ArrayConfig, "DLBA array.yaml")


def records(cls: type) -> list[type]:
    """The record classes under `cls`, without itself, each once, in the order of their keys."""
    found: list[type] = []
    for _, _, key in keys(cls):
        for below in key.reader.records:
            found += [item for item in (below, *records(below)) if item not in found]
    return found


def described_default(field: "attrs.Attribute[Any]") -> Any:
    """The default of a key as JSON has it; attrs.NOTHING where it needs words or there is none."""
    value: Any = field.default
    if hasattr(value, "factory"):
        value = value.factory()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, tuple):
        return list(value)
    simple = isinstance(value, (bool, int, float, str)) or value == {}
    return value if simple else attrs.NOTHING


def _document(cls: type, title: str) -> Schema:
    definitions = {item.__name__.removesuffix("Config"): _record(item) for item in records(cls)}
    return {"$schema": DRAFT, "title": title, **_record(cls), "$defs": definitions}


def _record(cls: type) -> Schema:
    properties: dict[str, Schema] = {}
    required = []
    for name, field, key in keys(cls):
        if key.entry:
            continue
        properties[name] = {"description": _description(key), **key.reader.schema}
        default = described_default(field)
        if default is not attrs.NOTHING:
            properties[name]["default"] = default
        elif field.default is attrs.NOTHING and key.absent is None:
            required.append(name)
    schema: Schema = {
        "type": "object",
        "description": (cls.__doc__ or "").partition("\n")[0],
        "properties": properties,
        "additionalProperties": False,
    }
    if required:
        schema["required"] = required
    return schema


def _description(key: Key) -> str:
    parts = [key.about]
    if key.default:
        parts.append(f"Default: {key.default}.")
    if key.wrong:
        parts.append(key.wrong)
    return " ".join(parts)
