"""Runs `dlba where`: asks a node which bucket and which node a client's flow goes to, and why.

`ask` is the client of a node's control socket (`dlba.control` is the other end) and waits in plain
sockets: Twisted would take longer to load than the node to answer. What the answer is made of is
checked before it is printed; whatever listens there, the command ends with words and a code.

The socket is looked for by `--control PATH`, `-c NODE.YAML` (`control` in that node's state
folder), the variable DLBA_CONTROL, and NODE_FILE, in this order.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from dlba.addresses import ip_literal, port_number
from dlba.errors import CommandError, ConfigError
from dlba.socketname import CONTROL, socket_name

__all__ = ["NODE_FILE", "add_where", "ask", "control_path", "where_text"]

NODE_FILE: Final = "/etc/dlba/node.yaml"
MAX_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of an answer's line; thousands of nodes and backends stay below."""

RETRY: Final = 0.02
"""Seconds until a node whose queue was full is tried again."""


# Asking


def ask(path: Path, request: Mapping[str, Any], timeout: float = 5.0) -> dict[str, Any]:
    """Return what the node whose control socket is `path` answers to `request`; waits for it.

    `timeout`: seconds for all of it. Raises CommandError with code 1 where the node can't be asked,
    answers no such thing, or answers that it can't (`ok` false: the text is the node's).
    """
    line = _exchange(path, json.dumps(request, allow_nan=False).encode() + b"\n", timeout)
    try:
        answer = json.loads(line.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict) and answer.get("ok") is True:
        return answer
    if isinstance(answer, dict) and answer.get("ok") is False:
        error = answer.get("error")
        if isinstance(error, str):
            raise CommandError(_printable(error), 1)
    raise _failure(path, "expected the answer of a node, got something else")


def _exchange(path: Path, line: bytes, timeout: float) -> bytes:
    """The line that comes back for `line`, without line feed."""
    deadline = time.monotonic() + timeout
    received = bytearray()
    try:
        with socket_name(path) as name, socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(timeout)
            _connect(peer, name, deadline)
            peer.settimeout(_left(deadline))
            with suppress(BrokenPipeError, ConnectionResetError):
                # Whoever closes before he has read all may have said why.
                peer.sendall(line)
            while b"\n" not in received[-65536:]:
                peer.settimeout(_left(deadline))
                data = peer.recv(65536)
                if not data:
                    raise ConnectionResetError
                received += data
                if len(received) > MAX_ANSWER:
                    raise _failure(path, f"expected up to {MAX_ANSWER} bytes, got more")
    except (FileNotFoundError, NotADirectoryError):
        raise _failure(path, "expected the control socket of a running node, got no file") from None
    except ConnectionRefusedError:
        raise _failure(path, "expected a running node, got nobody who listens") from None
    except PermissionError:
        raise _failure(path, "expected to be the node's user or root, got no permission") from None
    except (TimeoutError, BlockingIOError):
        raise _failure(path, f"expected an answer within {timeout:g} s, got none") from None
    except ConnectionResetError:
        raise _failure(path, "expected an answer, got the end of the connection") from None
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or error
        raise _failure(path, f"expected a node's control socket, got: {got}") from None
    return bytes(received.partition(b"\n")[0])


def _connect(peer: socket.socket, name: str, deadline: float) -> None:
    """Connect; a queue that is full is tried again until the deadline."""
    while True:
        try:
            return peer.connect(name)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(RETRY)


def _left(deadline: float) -> float:
    """Seconds until then; never 0, which would mean not to wait at all."""
    return max(deadline - time.monotonic(), 0.001)


def _failure(path: Path, text: str) -> CommandError:
    return CommandError(f"{_printable(str(path))}: {text}", 1)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def control_path(control: Path | None, config: Path | None, environ: Mapping[str, str]) -> Path:
    """Return where the control socket is. `control`, `config`: from the command line.

    Raises CommandError with code 2 for a node.yaml that can't be read or that nobody named.
    """
    from dlba.config.load import load_state

    if control is not None:
        return control
    if config is None:
        if environ.get("DLBA_CONTROL"):
            return Path(environ["DLBA_CONTROL"])
        config = Path(NODE_FILE)
        if not config.exists():
            raise CommandError(
                f"dlba: expected --control PATH, -c NODE.YAML, DLBA_CONTROL or {NODE_FILE}, "
                "got none of them",
                2,
            )
    try:
        return load_state(config) / CONTROL
    except ConfigError as error:
        raise CommandError(str(error), 2) from None


# Where


def where_text(answer: Mapping[str, Any]) -> str:
    """Return what `where` answered, for people: one line, before it one about a node that isn't
    scheduler. Raises ValueError for an answer that lacks something.
    """
    bucket, age = answer.get("bucket"), answer.get("age")
    owner, node = answer.get("owner"), answer.get("node")
    because, role = answer.get("because"), answer.get("role")
    if (
        not _is_number(bucket)
        or not (age is None or _is_number(age))
        or not all(name is None or isinstance(name, str) for name in (owner, node))
        or not isinstance(because, str)
        or not isinstance(role, str)
    ):
        raise ValueError("where: expected bucket, owner, node, age, because and role")
    facts = []
    if owner is not None and owner != node:
        facts.append(f"now node {_printable(owner)}'s")
    if age is not None:
        facts.append(f"last packet {age} s ago")
    target = "no node" if node is None else f"node {_printable(node)}"
    line = f"bucket {bucket} -> {target}: {_printable(because)}"
    if facts:
        line += f" ({', '.join(facts)})"
    if role != "scheduler":
        line = f"the table of a {_printable(role)}, not of the scheduler:\n{line}"
    return line + "\n"


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def add_where(commands: Any) -> None:
    """Declare `dlba where`."""
    parser = commands.add_parser(
        "where",
        help="tell which node a client's flow goes to, and why",
        description="Tell which bucket and which node the next packet of a client goes to, and "
        "why. Ask the scheduler: another node tells from its copy of the table.",
    )
    parser.add_argument("address", metavar="IP", type=read_client, help="the client's address")
    parser.add_argument("port", metavar="PORT", type=read_port, help="the client's port")
    parser.add_argument("--json", action="store_true", help="print the answer for programs")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--control", metavar="PATH", type=Path, help="the node's control socket")
    source.add_argument(
        "-c",
        "--config",
        metavar="NODE.YAML",
        type=Path,
        help="find the socket by this file (default: by $DLBA_CONTROL, else by " + NODE_FILE + ")",
    )
    parser.set_defaults(run=_run_where)


def _run_where(args: argparse.Namespace) -> int:
    path = control_path(args.control, args.config, os.environ)
    answer = ask(path, {"command": "where", "address": args.address, "port": args.port})
    try:
        text = where_text(answer)
    except ValueError as error:
        raise _failure(path, str(error)) from None
    if args.json:
        text = json.dumps(answer, indent=2) + "\n"
    sys.stdout.write(text)
    return 0


def read_client(text: str) -> str:
    """Return an IPv4 address in its one spelling; ArgumentTypeError otherwise."""
    address = ip_literal(text)
    if address is None:
        raise argparse.ArgumentTypeError(f"expected an IPv4 address, got {text!r}")
    if ":" in address:
        raise argparse.ArgumentTypeError(
            f"expected an IPv4 address, got one of IPv6, which isn't scheduled yet: {address}"
        )
    return address


def read_port(text: str) -> int:
    """Return a port, 0 to 65535; ArgumentTypeError otherwise."""
    port = port_number(text)
    if port is None:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return port
