"""Runs `dlba status`: a node's status document as tables for people, or as JSON for programs.

The document is what the node's monitor answers at `/status` and its control socket to the command
`status`. Where to ask: `--monitor`, `--control` or `-c NODE.YAML` (its monitor, without one its
control socket), else the control socket that the variable DLBA_CONTROL names, else a monitor at
MONITOR. Twisted isn't imported: the command starts at once.

Nodes of several versions may answer: keys that lack show as `-` or not at all, and columns of the
table of peers are those that come.
"""

from __future__ import annotations

import argparse
import datetime as dt
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

from dlba.addresses import Endpoint, split_endpoint
from dlba.errors import CommandError
from dlba.where import ask, control_path

__all__ = ["add_status", "read_monitor", "status_text"]

MONITOR = "127.0.0.1:9080"  # where a node's monitor listens unless told otherwise
TIMEOUT = 5.0  # seconds; a monitor on the same machine answers in milliseconds
MAX_STATUS = 16 * 1024 * 1024  # bytes; thousands of backends stay far below
REDRAW = 1.0  # seconds between two tables of `dlba status --watch`
CLEAR = "\x1b[2J\x1b[H"  # ECMA-48: erase the screen, go to its first cell

# Keys of the status document and the words shown for them; those in NEW are left out where they
# lack, in the documents of older nodes.
NEW = ("scheduler",)
NODE_FACTS = (
    ("node", "node"),
    ("role", "role"),
    ("term", "term"),
    ("scheduler", "scheduler"),
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
    facts = [fact for fact in NODE_FACTS if fact[0] in document or fact[0] not in NEW]
    lines = ["  ".join(f"{title} {cell(key, document.get(key))}" for key, title in facts)]
    buckets = document.get("table")
    if buckets:
        lines.append(
            f"client table: {cell('assigned', buckets.get('assigned'))} of "
            f"{cell('buckets', buckets.get('buckets'))} buckets assigned, "
            f"version {cell('version', buckets.get('version'))}"
        )
    if document.get("swept_at") is not None:
        lines.append(f"last status sweep: {_moment(document['swept_at'])}")
    sections = (
        ("nodes", "nodes", NODE_COLUMNS),
        ("peers", "peers on the channel", _columns(document.get("peers") or [])),
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


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Columns for rows whose keys this command doesn't know: all, in the order they come in."""
    return tuple((key, cell("", key)) for key in dict.fromkeys(key for row in rows for key in row))


def _moment(seconds: object) -> str:
    """Seconds since 1970 as a date and time of UTC."""
    try:
        moment = dt.datetime.fromtimestamp(float(str(seconds)), dt.UTC)
    except (ValueError, OverflowError, OSError):
        return cell("", seconds)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


# Where the document comes from


def ask_status(control: Path) -> dict[str, Any]:
    """Return the status document of the node whose control socket is `control`.

    Raises CommandError with code 1 if the node can't be reached or answers anything else.
    """
    document = ask(control, {"command": "status"}, TIMEOUT)
    document.pop("ok")
    if not _is_status(document):
        text = f"{cell('', control)}: expected a status document, got something else"
        raise CommandError(text, 1)
    return document


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
    for key in ("nodes", "peers", "backends", "summary"):
        rows = document.get(key) or []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return False
    return all(isinstance(document.get(key) or {}, dict) for key in ("table", "counters"))


def source_of(args: argparse.Namespace, environ: Mapping[str, str]) -> Callable[[], dict[str, Any]]:
    """What gives the document, by the command's arguments; CommandError with code 2."""
    if args.monitor is not None:
        return lambda: fetch_status(args.monitor)
    if args.config is not None:
        monitor = _monitor_of(args.config)
        if monitor is not None:
            return lambda: fetch_status(monitor)
    elif args.control is None and not environ.get("DLBA_CONTROL"):
        return lambda: fetch_status(MONITOR)
    path = control_path(args.control, args.config, environ)
    return lambda: ask_status(path)


def _monitor_of(path: Path) -> str | None:
    from dlba.config.load import load_monitor
    from dlba.errors import ConfigError

    try:
        monitor = load_monitor(path)
    except ConfigError as error:
        raise CommandError(str(error), 2) from None
    return None if monitor is None else str(monitor.listen)


def add_status(commands: Any) -> None:
    """Declare `dlba status`."""
    parser = commands.add_parser(
        "status",
        help="print the status tables of a node",
        description="Print the status tables of a node, read from its monitor or control socket.",
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
        help=f"the node's monitor (default: the socket $DLBA_CONTROL, else {MONITOR})",
    )
    source.add_argument("--control", metavar="PATH", type=Path, help="the node's control socket")
    source.add_argument(
        "-c",
        "--config",
        metavar="NODE.YAML",
        type=Path,
        help="read the monitor's address from this file; if it has none, ask its control socket",
    )
    parser.set_defaults(run=_run_status)


def _run_status(args: argparse.Namespace) -> int:
    fetch = source_of(args, os.environ)

    def draw() -> str:
        document = fetch()
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


def read_monitor(text: str) -> str:
    """Return `HOST:PORT` or `[V6]:PORT`, as a URL can carry it; ArgumentTypeError otherwise."""
    parts = split_endpoint(text)
    if parts is None:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text!r}")
    return str(Endpoint(*parts))
