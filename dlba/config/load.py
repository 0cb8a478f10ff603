"""Reads node.yaml, array.yaml and the files they name; gives the values or all problems at once.

The one module of `config` that touches files, the resolver and the clock. It runs at start, at
reload and for `-t`, never on the data path: resolving blocks.
"""

import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from dlba.config.certificates import examine
from dlba.config.checks import check
from dlba.config.document import LARGEST, parse
from dlba.config.nodes import Mapping, Node, Place, Scalar, Source, locate
from dlba.config.problems import Problem, quoted
from dlba.config.shapes import Reading, known, read_mapping
from dlba.config.values import CertificateConfig, NodeConfig
from dlba.errors import ConfigError

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
    name = os.fspath(path)
    source = Source(name, Path(name).absolute().parent)
    try:
        data = _read(Path(name))
    except (OSError, ValueError) as error:
        where = Place(source, 1, 1)
        raise ConfigError((where.problem(_unreadable(error)),)) from None
    return _load(data, source, resolve or _Resolver(), warn, now)


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
        for fatal, problem in _certificates(config, array, at):
            (problems if fatal else warnings).append(problem)
        if isinstance(array, Mapping) and "web" not in array.entries:
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
        data = _read(path)
    except (OSError, ValueError) as error:
        problems.append(node.place.problem(_unreadable(error, node.text)))
        return None
    name = os.path.join(os.path.dirname(node.place.source.name), node.text)
    return parse(data, Source(name, path.parent), problems)


def _read(path: Path) -> bytes:
    """The file's bytes, at most one more than a document may have."""
    with open(path, "rb") as file:
        return file.read(LARGEST + 1)


def _unreadable(error: OSError | ValueError, name: str = "") -> str:
    what = error.strerror if isinstance(error, OSError) and error.strerror else "no such file"
    return f"expected a readable file, got {quoted(name) + ': ' if name else ''}{what}"


def _state(source: Source) -> Path:
    # systemd gives several folders separated by colons; the unit of DLBA names one.
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(given).absolute() if given else source.folder / "state"


@attrs.define
class _Resolver:
    """The system's resolver; asks once for each name."""

    known: dict[str, str | OSError] = attrs.field(factory=dict)

    def __call__(self, name: str) -> str:
        if name not in self.known:
            try:
                found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                self.known[name] = str(found[0][4][0])
            except (OSError, UnicodeError) as error:
                what = error.strerror if isinstance(error, OSError) else None
                self.known[name] = OSError(0, what or "no valid name")
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


def _certificates(config: NodeConfig, array: Node, now: float) -> Iterator[tuple[bool, Problem]]:
    """Whether it is an error, and the problem, of each certificate file of each listener."""
    web = config.array.web
    for index, listener in enumerate(web.listen if web else ()):
        for number, pair in enumerate(listener.tls.certificates if listener.tls else ()):
            place = ("web", "listen", index, "tls", "certificates", number)
            yield from _pair(pair, locate(array, *place), now)


def _pair(pair: CertificateConfig, node: Node, now: float) -> Iterator[tuple[bool, Problem]]:
    contents = {}
    for key, path in (("certificate", pair.certificate), ("key", pair.key)):
        name = locate(node, key)
        if not known(path) or not isinstance(name, Scalar):
            continue
        try:
            contents[key] = _read(path)
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:
            yield True, name.place.problem(_unreadable(error, name.text))
            continue
        if key == "key" and mode & stat.S_IROTH:
            message = "expected a key that only its owner can read, got one that everybody can"
            yield False, name.place.problem(message)
    if len(contents) == 2:
        for finding in examine(contents["certificate"], contents["key"], now):
            yield finding.fatal, locate(node, finding.key).place.problem(finding.message)
