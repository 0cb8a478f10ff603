"""Decides what of another configuration a running node takes over, and names what has changed.

Pure. The proxy and the log can change while the node runs. The rest decides what the node is to its
machine and to other nodes: it waits for the next start, and so does a proxy that comes or goes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from dlba.addresses import Endpoint
from dlba.config.nodes import KeyPath
from dlba.config.problems import dotted
from dlba.config.values import NodeConfig

__all__ = ["Changes", "changes"]


@attrs.frozen
class Changes:
    """What becomes of a node's configuration.

    `config`: what it runs with from now on; `taken`, `later`: the dotted keys, within their file,
    that are in force now, and those that the next start will take.
    """

    config: NodeConfig
    taken: tuple[str, ...]
    later: tuple[str, ...]


def changes(running: NodeConfig, read: NodeConfig) -> Changes:
    """What becomes of the configuration `running` when `read` is what the files say now."""
    array = running.array
    if array.web is not None and read.array.web is not None:
        array = attrs.evolve(array, web=read.array.web)
    config = attrs.evolve(running, array=array, log=read.log)
    if running.channel is None:
        # With a channel the keys are those that the nodes have agreed upon.
        config = attrs.evolve(config, secrets=read.secrets)
    return Changes(
        config, tuple(_differing(running, config, ())), tuple(_differing(config, read, ()))
    )


def _differing(one: Any, other: Any, path: KeyPath) -> Iterator[str]:
    """The dotted keys of all places where the values differ; `array` is another file's root."""
    if one == other:
        return
    entries = _entries(one), _entries(other)
    if type(one) is not type(other) or None in entries:
        yield dotted(path)
        return
    before, after = entries
    assert before is not None
    assert after is not None
    for key in [*before, *(key for key in after if key not in before)]:
        place = () if path == () and key == "array" else (*path, key)
        if key in before and key in after:
            yield from _differing(before[key], after[key], place)
        else:
            yield dotted(place)


def _entries(value: Any) -> Mapping[str | int, Any] | None:
    """What a value of the configuration consists of, by key; None: it is one that has no parts."""
    if attrs.has(type(value)) and not isinstance(value, Endpoint):
        return {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
    if isinstance(value, dict):
        return {key if isinstance(key, int | str) else str(key): value[key] for key in value}
    if isinstance(value, tuple) and value and all(attrs.has(type(item)) for item in value):
        if all(hasattr(item, "name") for item in value):
            return {item.name: item for item in value}
        return dict(enumerate(value))
    return None
