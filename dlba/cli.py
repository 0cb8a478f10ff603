"""Runs the `dlba` command: one subcommand a task, output for people, `--json` for programs.

Exit codes: 0 fine, 1 runtime failure, 2 usage or configuration. Answers go to standard output,
complaints to standard error. A subcommand is one `_add_NAME` that declares its arguments and one
`_run_NAME` that takes them and returns the exit code. Twisted and the configuration are imported
only where a subcommand needs them, so that `dlba status` starts at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from dlba import __version__
from dlba.addresses import Endpoint, ip_literal, split_endpoint
from dlba.doctor.command import add_doctor
from dlba.errors import CommandError
from dlba.lab.command import add_lab
from dlba.where import add_where, read_port

MONITOR = "127.0.0.1:9080"  # where a node's monitor listens unless told otherwise
TIMEOUT = 5.0  # seconds; a monitor on the same machine answers in milliseconds
MAX_STATUS = 16 * 1024 * 1024  # bytes; thousands of backends stay far below
REDRAW = 1.0  # seconds between two tables of `dlba status --watch`
CLEAR = "\x1b[2J\x1b[H"  # ECMA-48: erase the screen, go to its first cell

# Keys of the status document and the words shown for them.
NODE_FACTS = (
    ("node", "node"),
    ("role", "role"),
    ("term", "term"),
    ("vip", "vip"),
    ("config_version", "configuration"),
)
NODE_COLUMNS = (
    ("name", "name"),
    ("number", "number"),
    ("address", "address"),
    ("mac", "mac"),
    ("weight", "weight"),
    ("groups", "groups"),
    ("average_response", "response"),
    ("hits", "hits"),
    ("open_connections", "open"),
    ("enabled", "enabled"),
    ("failed", "failed"),
    ("draining", "draining"),
)
BACKEND_COLUMNS = (
    ("pool", "pool"),
    ("name", "name"),
    ("address", "address"),
    ("average_response", "response"),
    ("hits", "hits"),
    ("cookie_groups", "cookies"),
    ("open_connections", "open"),
    ("failed", "failed"),
    ("draining", "draining"),
)
SUMMARY_COLUMNS = (
    ("pool", "pool"),
    ("name", "name"),
    ("address", "address"),
    ("cookie_groups", "cookies"),
    ("hits", "hits"),
    ("open_connections", "open"),
)


# Status: text from the monitor's document


def cell(key: str, value: object) -> str:
    """Return one value of the status document as text that can't disturb a terminal.

    Durations (key `average_response`, seconds) come out in milliseconds, truth as yes or no, null
    as `-`.
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "average_response" and isinstance(value, int | float):
        return f"{value * 1000:.1f} ms"
    text = str(value)
    return text if text.isprintable() else ascii(text)


def table(columns: Sequence[tuple[str, str]], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return aligned lines: a head and one line a row; numbers to the right.

    `columns` are pairs of key and title; a key that a row lacks shows as `-`.
    """
    cells = [[cell(key, row.get(key)) for key, _ in columns] for row in rows]
    lines = [[title for _, title in columns], *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    right = [
        any(_is_number(row.get(key)) for row in rows)
        and all(row.get(key) is None or _is_number(row.get(key)) for row in rows)
        for key, _ in columns
    ]
    return [
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def status_text(document: Mapping[str, Any]) -> str:
    """Return the `/status` document as plain text with aligned tables; empty tables are left out.

    `document` is what the monitor answers; a key that it lacks shows as `-` or is left out.
    """
    lines = ["  ".join(f"{title} {cell(key, document.get(key))}" for key, title in NODE_FACTS)]
    buckets = document.get("table")
    if buckets:
        lines.append(
            f"client table: {cell('assigned', buckets.get('assigned'))} of "
            f"{cell('buckets', buckets.get('buckets'))} buckets assigned, "
            f"version {cell('version', buckets.get('version'))}"
        )
    sections = (
        ("nodes", "nodes", NODE_COLUMNS),
        ("backends", "backends of this node", BACKEND_COLUMNS),
        ("summary", "backends, all nodes", SUMMARY_COLUMNS),
    )
    for key, title, columns in sections:
        if document.get(key):
            lines += ["", title, *table(columns, document[key])]
    counters = document.get("counters")
    if counters:
        moved = sorted(name for name in counters if counters[name])
        rows = [{"counter": name, "value": counters[name]} for name in moved]
        lines += ["", *table((("counter", "counter"), ("value", "value")), rows)]
        if len(moved) < len(counters):
            lines.append(f"({len(counters) - len(moved)} more are 0: --json shows them)")
    return "\n".join(lines) + "\n"


def fetch_status(monitor: str) -> dict[str, Any]:
    """Return the `/status` document of the monitor at `monitor`, `HOST:PORT`.

    Raises CommandError with code 1 if the node can't be reached or answers anything else.
    """
    where = f"monitor {monitor}: GET /status"
    # A proxy from the environment must not stand between us and this machine's own node.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{monitor}/status", timeout=TIMEOUT) as response:
            text = response.read(MAX_STATUS + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise CommandError(f"{where}: expected status 200, got {error.code}", 1) from None
    except urllib.error.URLError as error:
        raise CommandError(f"{where}: expected an answer, got: {error.reason}", 1) from None
    except (OSError, HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise CommandError(f"{where}: expected an answer, got: {reason}", 1) from None
    if len(text) > MAX_STATUS:
        raise CommandError(f"{where}: expected up to {MAX_STATUS} bytes, got more", 1)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not _is_status(document):
        raise CommandError(f"{where}: expected a status document, got something else", 1)
    return document


def _is_status(document: object) -> bool:
    """Whether the tables have the shape that `status_text` walks; keys and values may lack."""
    if not isinstance(document, dict) or "node" not in document:
        return False
    for key in ("nodes", "backends", "summary"):
        rows = document.get(key) or []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return False
    return all(isinstance(document.get(key) or {}, dict) for key in ("table", "counters"))


def _monitor_of(path: Path) -> str:
    from dlba.config.load import load_monitor
    from dlba.errors import ConfigError

    try:
        monitor = load_monitor(path)
    except ConfigError as error:
        raise CommandError(str(error), 2) from None
    if monitor is None:
        raise CommandError(f"{path}: monitor: expected a listen address, got none", 2)
    return str(monitor.listen)


def _add_status(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="print the status tables of a node",
        description="Print the status tables of a node, read from its monitor.",
    )
    parser.add_argument("--json", action="store_true", help="print the document for programs")
    parser.add_argument(
        "--watch", action="store_true", help="print it again every second until Ctrl-C"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--monitor",
        metavar="HOST:PORT",
        type=read_monitor,
        default=MONITOR,
        help=f"the node's monitor (default: {MONITOR})",
    )
    source.add_argument(
        "-c",
        "--config",
        metavar="NODE.YAML",
        type=Path,
        help="read the monitor's address from this file",
    )
    parser.set_defaults(run=_run_status)


def _run_status(args: argparse.Namespace) -> int:
    monitor = args.monitor if args.config is None else _monitor_of(args.config)

    def draw() -> str:
        document = fetch_status(monitor)
        return json.dumps(document, indent=2) + "\n" if args.json else status_text(document)

    if args.watch:
        # For programs, and in a file, one follows the other.
        return watch(draw, clear=sys.stdout.isatty() and not args.json)
    sys.stdout.write(draw())
    return 0


def watch(draw: Callable[[], str], clear: bool) -> int:
    """Print what `draw` gives every REDRAW seconds until Ctrl-C; the exit code.

    `clear`: each on an empty screen, else an empty line stands between two. A CommandError at the
    first is the command's end, later ones are told in place of the text.
    """
    try:
        text = draw()
        sys.stdout.write(CLEAR + text if clear else text)
        while True:
            sys.stdout.flush()
            time.sleep(REDRAW)
            try:
                text = draw()
            except CommandError as error:
                if clear:
                    sys.stdout.write(f"{CLEAR}{error}\n")
                else:
                    print(error, file=sys.stderr)
            else:
                sys.stdout.write(CLEAR + text if clear else "\n" + text)
    except KeyboardInterrupt:
        return 0


# Backend


def _add_backend(commands: Any) -> None:
    parser = commands.add_parser(
        "backend",
        help="run one demo backend",
        description="Run one demo backend in the foreground until TERM or INT.",
    )
    parser.add_argument("--port", required=True, type=read_port, help="0: any free port")
    parser.add_argument("--name", required=True, help="what its pages and X-Backend say")
    parser.add_argument(
        "--address",
        type=read_address,
        default="127.0.0.1",
        help="the IP address to listen on (default: 127.0.0.1)",
    )
    parser.set_defaults(run=_run_backend)


def _run_backend(args: argparse.Namespace) -> int:
    from twisted.internet.defer import Deferred
    from twisted.internet.error import CannotListenError

    # A backend that runs alone is its own process: nobody else runs a reactor in it.
    from twisted.internet.task import react  # noqa: TID251 - as said

    from dlba.backend import check_name, listen

    try:
        check_name(args.name)
    except ValueError as error:
        raise CommandError(f"dlba backend: --{error}", 2) from None
    problem = ""

    def serve(reactor: Any) -> Deferred[None]:
        nonlocal problem
        done: Deferred[None] = Deferred()
        try:
            backend = listen(args.name, reactor, args.address, args.port)
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or error.socketError
            where = Endpoint(args.address, args.port)
            problem = f"dlba backend: {where}: expected a free port, got: {reason}"
            done.callback(None)
        else:
            print(f"backend {args.name}: http://{backend.address}/", flush=True)
        return done  # without a problem it stays open: a signal stops the reactor

    try:
        react(serve)
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    if problem:
        raise CommandError(problem, 1)
    return code


# Arguments


def read_address(text: str) -> str:
    """Return an IP address in its one spelling; ArgumentTypeError otherwise."""
    address = ip_literal(text)
    if address is None:
        raise argparse.ArgumentTypeError(f"expected an IP address, got {text!r}")
    return address


def read_monitor(text: str) -> str:
    """Return `HOST:PORT` or `[V6]:PORT`, as a URL can carry it; ArgumentTypeError otherwise."""
    parts = split_endpoint(text)
    if parts is None:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text!r}")
    return str(Endpoint(*parts))


COMMANDS: tuple[Callable[[Any], None], ...] = (
    _add_status,
    _add_backend,
    add_doctor,
    add_lab,
    add_where,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command; each subcommand sets `run`."""
    parser = argparse.ArgumentParser(
        prog="dlba",
        description="Look at and work with DLBA nodes. A node itself is started by twistd dlba.",
    )
    parser.add_argument("--version", action="version", version=f"dlba {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `dlba` command and return its exit code; `argv` without the program's name.

    Wrong usage raises SystemExit(2), `--help` and `--version` SystemExit(0), as argparse does.
    """
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except CommandError as error:
        print(error, file=sys.stderr)
        return error.code
    except BrokenPipeError:
        # The reader has gone; without this the interpreter complains once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
