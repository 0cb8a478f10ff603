"""Reads node.yaml, array.yaml and the files they name; gives the values or all problems at once.

With `dlba.config.files` the only part of `config` that touches files, the resolver and the clock.
It runs at start, at reload and for `-t`, never on the data path: resolving blocks.
"""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from dlba.config.checks import check
from dlba.config.document import parse
from dlba.config.fields import file_path, name
from dlba.config.files import file_problems, read_file, unreadable
from dlba.config.nodechecks import array_warnings
from dlba.config.nodes import Mapping, Node, Place, Scalar, Source, locate
from dlba.config.problems import Problem
from dlba.config.shapes import Reading, read_mapping
from dlba.config.values import MonitorConfig, NodeConfig
from dlba.config.webchecks import web_warnings
from dlba.errors import ConfigError

#: Seconds for all names together; a resolver that doesn't answer takes some for each of them.
PATIENCE = 20.0

Resolve = Callable[[str], str]
Warn = Callable[[Problem], None]


def load(
    path: Path | str,
    *,
    resolve: Resolve | None = None,
    warn: Warn | None = None,
    now: float | None = None,
) -> NodeConfig:
    """The configuration in the node.yaml at `path` and the files that it names.

    Raises ConfigError with every problem of all files, sorted. `warn` gets what is no error: a
    certificate that has expired, a key that others can read, a node with nothing to do. `resolve`
    stands in for the system's resolver, `now` (seconds since 1970) for its clock.
    """
    source, data = _open(path)
    return _load(data, source, resolve or _Resolver(), warn, now)


def load_monitor(path: Path | str) -> MonitorConfig | None:
    """What the node.yaml at `path` says of the monitor, whatever else is in it; None: nothing.

    For a user who asks a running node, and who may not read all the files that it serves with.
    Raises ConfigError when the file or that part of it can't be read.
    """
    _, root = _root(path)
    monitor = locate(root, "monitor")
    if monitor is root:
        return None
    problems: list[Problem] = []
    config = read_mapping(MonitorConfig, monitor, Reading(problems))
    if problems:
        raise ConfigError(tuple(problems))
    return config


def load_state(path: Path | str) -> Path:
    """The state folder of the node that the node.yaml at `path` is for, whatever else is in it.

    As `load_monitor`, for a user who asks a running node. Raises ConfigError when the file or that
    part of it can't be read.
    """
    source, root = _root(path)
    reading = Reading()
    if not isinstance(root, Mapping):
        folder: Path = reading.wrong(root, "a mapping")
    elif "state" not in root.entries:
        folder = _state(source)
    else:
        folder = file_path().read(root.entries["state"].value, reading)
    if reading.problems:
        raise ConfigError(tuple(reading.problems))
    return folder


def load_array_name(path: Path | str) -> str:
    """The name of the array in the array.yaml at `path`, whatever else is in it.

    For a command that makes what the whole file is to name. Raises ConfigError when the file or
    that part of it can't be read.
    """
    _, root = _root(path)
    reading = Reading()
    if isinstance(root, Mapping) and "name" in root.entries:
        array: str = name().read(root.entries["name"].value, reading)
    else:
        array = reading.wrong(root, 'a key "name"', "none")
    if reading.problems:
        raise ConfigError(tuple(reading.problems))
    return array


def load_text(
    text: str | bytes,
    base: Path,
    name: str = "<demo>",
    *,
    resolve: Resolve | None = None,
    warn: Warn | None = None,
    now: float | None = None,
) -> NodeConfig:
    """As `load`, for the text of a node.yaml; `base` is where relative paths start."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return _load(data, Source(name, base.absolute()), resolve or _Resolver(), warn, now)


def _open(path: Path | str) -> tuple[Source, bytes]:
    file = os.fspath(path)
    source = Source(file, Path(file).absolute().parent)
    try:
        return source, read_file(Path(file))
    except (OSError, ValueError) as error:
        where = Place(source, 1, 1)
        raise ConfigError((where.problem(unreadable(error)),)) from None


def _root(path: Path | str) -> tuple[Source, Node]:
    """The document in the file at `path`; raises ConfigError where it is none."""
    problems: list[Problem] = []
    source, data = _open(path)
    root = parse(data, source, problems)
    if root is None:
        raise ConfigError(tuple(problems))
    return source, root


def _load(
    data: bytes, source: Source, resolve: Resolve, warn: Warn | None, now: float | None
) -> NodeConfig:
    problems: list[Problem] = []
    warnings: list[Problem] = []
    included: list[Node] = []

    def include(node: Scalar) -> Node | None:
        document = _include(node, problems)
        if document is not None:
            included.append(document)
        return document

    root = parse(data, source, problems)
    if root is not None:
        reading = Reading(problems, resolve, include, _state(source))
        config = read_mapping(NodeConfig, root, reading)
        array = included[0] if included else locate(root, "array")
        problems += check(config, root, array, is_local)
        at = time.time() if now is None else now
        for fatal, problem in file_problems(config, root, array, at):
            (problems if fatal else warnings).append(problem)
        warnings += array_warnings(config, array)
        if config.array.web:
            warnings += web_warnings(config.array.web, array)
        if isinstance(array, Mapping) and not {"web", "nodes"} & array.entries.keys():
            warnings.append(
                array.place.problem('expected a key "web", got none: nothing is served')
            )
    if problems or root is None:
        raise ConfigError(tuple(sorted(set(problems))))
    for problem in sorted(warnings):
        if warn is not None:
            warn(problem)
    return config


def _include(node: Scalar, problems: list[Problem]) -> Node | None:
    """The document in the file that the scalar names, None with a problem when there is none."""
    folder = node.place.source.folder
    path = folder / node.text
    try:
        data = read_file(path)
    except (OSError, ValueError) as error:
        problems.append(node.place.problem(unreadable(error, node.text)))
        return None
    file = os.path.join(os.path.dirname(node.place.source.name), node.text)
    return parse(data, Source(file, path.parent), problems)


def _state(source: Source) -> Path:
    # systemd gives several folders separated by colons; the unit of DLBA names one.
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(given).absolute() if given else source.folder / "state"


@attrs.define
class _Resolver:
    """The system's resolver; asks once for each name, and no more when that took too long."""

    known: dict[str, str | OSError] = attrs.field(factory=dict)
    spent: float = 0.0  # seconds

    def __call__(self, name: str) -> str:
        if name not in self.known:
            start = time.monotonic()
            try:
                if self.spent > PATIENCE:
                    raise OSError(0, f"not asked for, as other names took {self.spent:.0f} s")
                found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                # IPv4 first: `localhost` is both, and few servers listen on [::1].
                found.sort(key=lambda entry: entry[0] != socket.AF_INET)
                self.known[name] = str(found[0][4][0])
            except (OSError, UnicodeError) as error:
                what = error.strerror if isinstance(error, OSError) else None
                self.known[name] = OSError(0, what or "no valid name")
            self.spent += time.monotonic() - start
        answer = self.known[name]
        if isinstance(answer, OSError):
            raise answer
        return answer


def is_local(host: str) -> bool:
    """Whether the IP literal `host` is an address of this machine.

    Asks the routing table: to an own address the kernel answers from that address. Nothing is sent.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return bool(probe.getsockname()[0] == host)
    except OSError:
        return False
