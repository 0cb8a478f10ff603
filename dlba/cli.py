"""Runs the `dlba` command: one subcommand a task, output for people, `--json` for programs.

Exit codes: 0 fine, 1 runtime failure, 2 usage or configuration. Answers go to standard output,
complaints to standard error. A subcommand is one `_add_NAME` that declares its arguments and one
`_run_NAME` that takes them and returns the exit code. Twisted and the configuration are imported
only where a subcommand needs them, so that `dlba status` starts at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dlba import __version__
from dlba.addresses import Endpoint, ip_literal
from dlba.ca import add_ca
from dlba.doctor.command import add_doctor
from dlba.drain import add_drain, add_resume
from dlba.errors import CommandError
from dlba.lab.command import add_lab
from dlba.schema import add_schema
from dlba.status import add_status
from dlba.where import add_where, read_port

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
    from twisted.internet.task import react  # noqa: TID251 - a process of its own, this reactor is all it has

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


COMMANDS: tuple[Callable[[Any], None], ...] = (
    add_status,
    _add_backend,
    add_doctor,
    add_drain,
    add_lab,
    add_resume,
    add_where,
    add_ca,
    add_schema,
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
