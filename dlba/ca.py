"""Runs `dlba ca`: makes the array's certificate authority and the certificates of its nodes.

Arguments in, text and exit codes out; `dlba.election.authority` makes the files. cryptography and
the configuration are imported only when it runs, so that other commands start at once.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from dlba.errors import CommandError, ConfigError, DLBAError

__all__ = ["add_ca"]


def add_ca(commands: Any) -> None:
    """Declare `dlba ca init` and `dlba ca issue`."""
    parser = commands.add_parser(
        "ca",
        help="make the certificates of the channel between the nodes",
        description="Make the certificate authority of one array, and the certificates by which "
        "its nodes know each other.",
    )
    tasks = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    init = tasks.add_parser(
        "init",
        help="make the authority: ca.pem and ca.key",
        description="Make the authority: ca.pem, for every node, and ca.key, for none of them.",
    )
    init.add_argument(
        "--array", metavar="NAME", help="the array's name (default: that in DIR/array.yaml)"
    )
    init.set_defaults(run=_run_init)
    issue = tasks.add_parser(
        "issue",
        help="make or renew a certificate: NAME.pem and NAME.key",
        description="Make the certificate of a node, or renew it with a new key.",
    )
    issue.add_argument("name", metavar="NAME", help="the node, as it is called in array.yaml")
    issue.add_argument("--operator", action="store_true", help="for a person instead of a node")
    issue.set_defaults(run=_run_issue)
    for task in (init, issue):
        task.add_argument(
            "--directory",
            metavar="DIR",
            type=Path,
            default=Path(),
            help="the folder of the authority (default: the current one)",
        )


def _run_init(args: argparse.Namespace) -> int:
    from dlba.config.load import load_array_name
    from dlba.election.authority import init

    try:
        if args.array is None:
            array = load_array_name(args.directory / "array.yaml")
        else:
            array = _name("--array", args.array)
        path = init(args.directory, array, time.time())
    except ConfigError as error:
        raise CommandError(f"{error}\ndlba ca init: --array names the array as well", 2) from None
    except CommandError:
        raise
    except (OSError, DLBAError) as error:
        raise CommandError(f"dlba ca init: {_words(error)}", 1) from None
    print(f"{path}: authority of the array {array}; copy it to every node")
    print(f"{path.with_suffix('.key')}: its key; keep it off the nodes")
    return 0


def _run_issue(args: argparse.Namespace) -> int:
    from dlba.election.authority import AUTHORITY, issue

    name = _name("NAME", args.name)
    try:
        path = issue(args.directory, name, args.operator, time.time())
    except FileNotFoundError as error:
        if Path(error.filename or "").stem != AUTHORITY:
            raise CommandError(f"dlba ca issue: {_words(error)}", 1) from None
        what = f"{error.filename}: expected an authority, got no file; make one: dlba ca init"
        raise CommandError(f"dlba ca issue: {what}", 1) from None
    except (OSError, DLBAError) as error:
        raise CommandError(f"dlba ca issue: {_words(error)}", 1) from None
    of = f"the operator {name}" if args.operator else f"node {name}"
    print(f"{path}: certificate of {of}")
    print(f"{path.with_suffix('.key')}: its key; for its owner alone")
    return 0


def _name(argument: str, text: str) -> str:
    """`text`, which must be a name as the configuration takes them; else CommandError."""
    from dlba.config.fields import name
    from dlba.config.nodes import Place, Scalar, Source
    from dlba.config.shapes import Reading

    reading = Reading()
    name().read(Scalar(Place(Source("", Path("/")), 1, 1), text), reading)
    if reading.problems:
        raise CommandError(f"dlba ca: {argument}: {reading.problems[0].message}", 2)
    return text


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
