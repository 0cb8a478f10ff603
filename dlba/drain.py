"""Runs `dlba drain` and `dlba resume`: asks a node over its control socket, and says what follows.

Each node keeps for itself what it was asked for (`dlba.draining`). Twisted isn't imported.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlba.errors import CommandError
from dlba.where import NODE_FILE, ask, control_path

__all__ = ["add_drain", "add_resume", "drain_text"]

LATER = (
    "dlba {command} node: expected a backend: nodes can't be drained by command yet; "
    "a node that gets TERM drains and stops"
)


def drain_text(command: str, answer: Mapping[str, Any]) -> str:
    """Return what a node answered, for people: one line. Raises ValueError if something lacks."""
    name, draining, changed = (answer.get(key) for key in ("backend", "draining", "changed"))
    weight, connections = answer.get("weight"), answer.get("open_connections")
    if (
        not isinstance(name, str)
        or not isinstance(draining, bool)
        or not isinstance(changed, bool)
        or isinstance(connections, bool)
        or not isinstance(connections, int)
    ):
        raise ValueError(f"{command}: expected backend, draining, changed and open_connections")
    shown = name if name.isprintable() else ascii(name)
    if command == "drain":
        what = "drains" if changed else "drains already"
        count = "1 connection" if connections == 1 else f"{connections} connections"
        return f"{shown} {what}: nothing new but clients with its cookie; {count} open\n"
    if draining and weight == 0:
        return f"{shown} goes on draining: its weight is 0 in the configuration\n"
    return f"{shown} {'gets its share again' if changed else 'was not drained by command'}\n"


def add_drain(commands: Any) -> None:
    """Declare `dlba drain`."""
    _add(
        commands,
        "drain",
        "give a backend nothing new",
        "Give a backend nothing new. Clients that have its cookie keep it, and what it has under "
        "way ends in peace. Kept over restarts and reloads until `dlba resume`; each node of an "
        "array is asked on its own.",
    )


def add_resume(commands: Any) -> None:
    """Declare `dlba resume`."""
    _add(
        commands,
        "resume",
        "give a drained backend its share again",
        "Give a backend its share again after `dlba drain`.",
    )


def _add(commands: Any, command: str, text: str, description: str) -> None:
    parser = commands.add_parser(command, help=text, description=description)
    parser.add_argument("what", choices=("backend", "node"), help="what NAME is; node: not yet")
    parser.add_argument("name", metavar="NAME", help="the backend, as POOL/NAME")
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
    parser.set_defaults(run=_run, command=command)


def _run(args: argparse.Namespace) -> int:
    command: str = args.command
    if args.what == "node":
        raise CommandError(LATER.format(command=command), 2)
    path = control_path(args.control, args.config, os.environ)
    answer = ask(path, {"command": command, args.what: args.name})
    try:
        text = drain_text(command, answer)
    except ValueError as error:
        raise CommandError(str(error), 1) from None
    if args.json:
        text = json.dumps(answer, indent=2) + "\n"
    sys.stdout.write(text)
    return 0
