"""Checks the files and folders that the configuration names, at the key that names them.

An adapter: it reads certificates, keys and secrets and looks at folders. What would stop the start
is a problem of the configuration, so that `-t` finds it first.
"""

import errno
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
from dlba.config.values import CertificateConfig, NodeConfig, WebConfig
from dlba.errors import DLBAError

PAGE_LIMIT = 64 * 1024  # bytes of a page of `errors`: they stay in memory


def file_problems(
    config: NodeConfig, root: Node, array: Node, now: float
) -> Iterator[tuple[bool, Problem]]:
    """Whether it is an error, and the problem, of each file and folder.

    `root`, `array`: the nodes of node.yaml and of the array's mapping; `now`: seconds since 1970.
    """
    yield from _certificates(config, array, now)
    yield from _pages(config, array)
    yield from _channel(config, root, now)
    yield from _secrets(config, root)
    yield from _folders(config, root)


def _pages(config: NodeConfig, array: Node) -> Iterator[tuple[bool, Problem]]:
    """As `file_problems`, of the pages of `web.errors`."""
    web = config.array.web
    for status, path in web.errors.items() if web else ():
        node = locate(array, "web", "errors", str(status))
        if not known(path) or not isinstance(node, Scalar):
            continue
        try:
            long = len(read_file(path, PAGE_LIMIT)) > PAGE_LIMIT
        except (OSError, ValueError) as error:
            yield True, node.place.problem(unreadable(error, node.text))
            continue
        if long:
            message = f"expected a page of at most {PAGE_LIMIT} bytes, got a longer one"
            yield True, node.place.problem(message)


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


def read_file(path: Path, largest: int = LARGEST) -> bytes:
    """The file's bytes, at most one more than `largest`, which is what a document may have.

    Never waits: raises OSError for what is no regular file, a FIFO among them.
    """
    with open(path, "rb", opener=_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "a device, FIFO or socket")
        return file.read(largest + 1)


def _at_once(path: str, flags: int) -> int:
    # Without NONBLOCK the open of a FIFO waits for somebody who writes.
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def read_pages(web: WebConfig) -> dict[int, bytes]:
    """The pages of `web.errors` by status. Raises OSError for one that can't be read."""
    return {status: read_file(path, PAGE_LIMIT) for status, path in web.errors.items()}


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
