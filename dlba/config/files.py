"""Checks the files and folders that the configuration names, at the key that names them.

An adapter: it reads certificates, keys and secrets and looks at folders. What would stop the start
is a problem of the configuration, so that `-t` finds it first.
"""

import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path

from dlba.config.certificates import examine
from dlba.config.document import LARGEST
from dlba.config.keys import parse_keys
from dlba.config.nodecertificate import examine_member
from dlba.config.nodes import Node, Scalar, locate
from dlba.config.problems import Problem, quoted
from dlba.config.shapes import known
from dlba.config.values import CertificateConfig, NodeConfig
from dlba.errors import DLBAError


def file_problems(
    config: NodeConfig, root: Node, array: Node, now: float
) -> Iterator[tuple[bool, Problem]]:
    """Whether it is an error, and the problem, of each file and folder.

    `root`, `array`: the nodes of node.yaml and of the array's mapping; `now`: seconds since 1970.
    """
    yield from _certificates(config, array, now)
    yield from _channel(config, root, now)
    yield from _secrets(config, root)
    yield from _folders(config, root)


def _secrets(config: NodeConfig, root: Node) -> Iterator[tuple[bool, Problem]]:
    path = config.secrets
    node = locate(root, "secrets")
    if path is None or not known(path) or not isinstance(node, Scalar):
        return
    try:
        parse_keys(read_file(path).decode("ascii"))
    except OSError as error:
        yield True, node.place.problem(unreadable(error, node.text))
    except UnicodeDecodeError:
        yield True, node.place.problem("expected a file of ASCII text, got something else")
    except DLBAError as error:
        yield True, node.place.problem(str(error))


def _folders(config: NodeConfig, root: Node) -> Iterator[tuple[bool, Problem]]:
    log = locate(root, "log", "access")
    if config.log.access is not None and known(config.log.access) and isinstance(log, Scalar):
        folder = config.log.access.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            yield True, log.place.problem("expected a file in a folder that can be written to")
        elif config.log.access.is_dir():
            yield True, log.place.problem("expected a file, got a folder")
    state = locate(root, "state")
    if isinstance(state, Scalar) and known(config.state) and config.state.exists():
        if not config.state.is_dir():
            yield True, state.place.problem("expected a folder, got something else")


def read_file(path: Path) -> bytes:
    """The file's bytes, at most one more than a document may have."""
    with open(path, "rb") as file:
        return file.read(LARGEST + 1)


def unreadable(error: OSError | ValueError, name: str = "") -> str:
    """The message for a file that couldn't be read; `name`: as the user wrote it."""
    what = error.strerror if isinstance(error, OSError) and error.strerror else "no such file"
    return f"expected a readable file, got {quoted(name) + ': ' if name else ''}{what}"


def _certificates(config: NodeConfig, array: Node, now: float) -> Iterator[tuple[bool, Problem]]:
    """Whether it is an error, and the problem, of each certificate file of each listener."""
    web = config.array.web
    for index, listener in enumerate(web.listen if web else ()):
        for number, pair in enumerate(listener.tls.certificates if listener.tls else ()):
            place = ("web", "listen", index, "tls", "certificates", number)
            yield from _pair(pair, locate(array, *place), now)


def _channel(config: NodeConfig, root: Node, now: float) -> Iterator[tuple[bool, Problem]]:
    """As `_certificates`, of the files of the channel."""
    channel = config.channel
    if channel is None or not known(channel):
        return
    node = locate(root, "channel")
    paths = {"certificate": channel.certificate, "key": channel.key, "authority": channel.authority}
    contents = yield from _contents(paths, node)
    if {"certificate", "key"} <= contents.keys():
        for finding in examine(contents["certificate"], contents["key"], now):
            yield finding.fatal, locate(node, finding.key).place.problem(finding.message)
    name = config.array.name
    if {"certificate", "authority"} <= contents.keys() and known(name, config.node) and name:
        pems = contents["certificate"], contents["authority"]
        for finding in examine_member(*pems, name, config.node, now):
            yield finding.fatal, locate(node, finding.key).place.problem(finding.message)


def _pair(pair: CertificateConfig, node: Node, now: float) -> Iterator[tuple[bool, Problem]]:
    paths = {"certificate": pair.certificate, "key": pair.key}
    contents = yield from _contents(paths, node)
    if len(contents) == 2:
        for finding in examine(contents["certificate"], contents["key"], now):
            yield finding.fatal, locate(node, finding.key).place.problem(finding.message)


def _contents(
    paths: dict[str, Path], node: Node
) -> Generator[tuple[bool, Problem], None, dict[str, bytes]]:
    """Reads the files that the keys of `node` name; returns the bytes of those that it could."""
    contents = {}
    for key, path in paths.items():
        name = locate(node, key)
        if not known(path) or not isinstance(name, Scalar):
            continue
        try:
            contents[key] = read_file(path)
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:
            yield True, name.place.problem(unreadable(error, name.text))
            continue
        if key == "key" and mode & stat.S_IROTH:
            message = "expected a key that only its owner can read, got one that everybody can"
            yield False, name.place.problem(message)
    return contents
