"""The command `dlba lab`: a whole array on one machine, made, shown, hurt and taken down.

Adapter: arguments in, text and exit codes out. What a lab is stands in `dlba.lab.plan`; network and
programs do the work. A command that changes a lab holds it meanwhile (`programs.held`), so that two
don't mix. `up` makes all or nothing; `down` works on whatever is left of a lab, each of its steps
whether or not the one before succeeded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from dlba.errors import CommandError, ConfigError, DLBAError
from dlba.lab import network, programs
from dlba.lab.plan import (
    LAB_NAME,
    NODE_NAME,
    NODES_LIMIT,
    PART_NAME,
    PROGRAM_NAME,
    SWITCH,
    Part,
    Plan,
    array_values,
    change,
    is_settled,
    namespace,
    packets,
    plan,
)
from dlba.lab.show import document, of, status_lines, to_try
from dlba.socketname import CONTROL

UP_TIMEOUT = 30.0  # seconds until all programs must be up, and for each node
UP_EACH = 3.0  # more: a busy machine with one core takes that for a node and its backend
SETTLE_TIMEOUT = 5.0  # seconds for the nodes to find each other; who is late is no failure
LINK_TIMEOUT = 3.0  # seconds for a carrier to come or go
WAIT = 120.0  # seconds for another command on the same lab; `up` takes the longest


def add_lab(commands: Any) -> None:
    """Add `lab` with its own commands."""
    parser = commands.add_parser(
        "lab",
        help="run a whole array in network namespaces on this machine",
        description="A switch, nodes, demo backends and a client in network namespaces on this "
        "Linux machine, to try and to test. Needs root. docs/lab.md shows what is made.",
    )
    parser.add_argument(
        "--name", type=_read(LAB_NAME, "a name"), default="lab", help="of the lab (default: lab)"
    )
    tasks = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    up = _task(tasks, _up, "up", "make a lab and start it")
    up.add_argument("--nodes", type=_read_count, default=3, help=f"1 to {NODES_LIMIT} (default: 3)")
    up.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change array.yaml, e.g. routing.bucket_timeout=30; null takes a key away",
    )
    up.add_argument("--json", action="store_true", help="print the status for programs")
    status = _task(tasks, _status, "status", "show who runs and who is scheduler")
    status.add_argument("--json", action="store_true", help="print it for programs")
    within = _task(tasks, _exec, "exec", "run a command as node, client, backend or switch")
    within.add_argument("part", metavar="NAME", type=_read(PART_NAME, "a, app1, client, switch…"))
    within.add_argument("command", metavar="-- COMMAND", nargs=argparse.REMAINDER)
    for run, word, text in (
        (_kill, "kill", "kill the program of a node or backend (SIGKILL)"),
        (_start, "start", "start the program of a node or backend again"),
        (_stop, "stop", "stop the program of a node or backend for a while (SIGSTOP)"),
        (_continue, "continue", "let it go on where it was stopped (SIGCONT)"),
    ):
        task = _task(tasks, run, word, text)
        task.add_argument("part", metavar="NAME", type=_read(PROGRAM_NAME, "a node or backend"))
    for run, word, text in (
        (_cut, "cut", "take the link of a node to the front segment down"),
        (_heal, "heal", "take it up again"),
    ):
        task = _task(tasks, run, word, text)
        task.add_argument("part", metavar="NODE", type=_read(NODE_NAME, "a node (a to z)"))
    _task(tasks, _down, "down", "end a lab and leave nothing behind")


def _task(
    tasks: Any, run: Callable[[argparse.Namespace], int], word: str, text: str
) -> argparse.ArgumentParser:
    task: argparse.ArgumentParser = tasks.add_parser(
        word, help=text, description=text[0].upper() + text[1:] + "."
    )
    # Also behind the word; without a default, which would undo what stands before it.
    task.add_argument(
        "--name", type=_read(LAB_NAME, "a name"), default=argparse.SUPPRESS, help="of the lab"
    )
    task.set_defaults(run=lambda args: _guarded(run, args))
    return task


def _read(pattern: re.Pattern[str], expected: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not pattern.fullmatch(text):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return text

    return read


def _read_count(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:9]) <= NODES_LIMIT:
        raise argparse.ArgumentTypeError(f"expected 1 to {NODES_LIMIT} nodes, got {text!r}")
    return int(text)


def _guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """The command, where it can work, with its errors as those of a command."""
    if sys.platform != "linux":
        raise CommandError(f"dlba lab: expected Linux, got {sys.platform}", 1)
    if os.geteuid() != 0:
        raise CommandError(f"dlba lab: expected root, got user id {os.geteuid()}", 1)
    try:
        return run(args)
    except (CommandError, BrokenPipeError):
        raise
    except ConfigError as error:
        raise CommandError(str(error), 2) from None
    except DLBAError as error:
        raise CommandError(f"dlba lab: {error}", 1) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CommandError(f"dlba lab: {where}{error.strerror or error}", 1) from None


#: What asks this command to end.
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def _signals(action: Any) -> Iterator[None]:
    """What asks this command to end does `action` instead, unless it is ignored anyway.

    What was set to be ignored meanwhile stays so.
    """
    before = {number: signal.getsignal(number) for number in ENDS}
    for number, former in before.items():
        if former != signal.SIG_IGN:
            signal.signal(number, action)
    try:
        yield
    finally:
        for number, former in before.items():
            if signal.getsignal(number) == action:
                signal.signal(number, former)


def _ignore_ends() -> None:
    for number in ENDS:
        signal.signal(number, signal.SIG_IGN)


# up and down


def _up(args: argparse.Namespace) -> int:
    name = args.name
    lab = plan(name, args.nodes)
    values = array_values(lab)
    for setting in args.set:
        try:
            change(values, setting)
        except ValueError as error:
            raise CommandError(f"dlba lab up: --set {error}", 2) from None
    with programs.held(name, make=True):
        if programs.exists(name):
            raise DLBAError(f"lab {name}: expected none, got one: `dlba lab{of(name)} down` first")
        try:
            with _signals(signal.default_int_handler):
                made = _make(lab, values, not args.json)
                seen = document(made)
                # From here on the lab is up and this command says so, whatever asks it to end.
                _ignore_ends()
        except BaseException as error:
            _take_down(name)
            if isinstance(error, KeyboardInterrupt):
                raise DLBAError(f"lab {name}: interrupted, and taken down") from None
            raise
    if args.json:
        print(json.dumps(seen, indent=2))
    else:
        print("\n".join([*status_lines(seen), *to_try(made)]))
    return 0


def _make(lab: Plan, values: dict[str, Any], talk: bool) -> programs.Lab:
    from dlba.config.load import load

    made = programs.write_files(lab, values)
    for node in lab.nodes:
        load(programs.folder(lab.name) / node.name / "node.yaml")
    if talk:
        count = len(lab.nodes)
        print(f"lab {lab.name}: starting {count} nodes and {count} backends", flush=True)
    with programs.together():
        network.create(lab.namespaces)
    network.build(lab, offloads=packets(values) != "pcap")
    started = {part.name: programs.start(lab.name, part) for part in lab.programs}
    programs.wait_ready(made, started, UP_TIMEOUT + UP_EACH * len(lab.nodes))
    _settle(made, [node.name for node in lab.nodes])
    return made


def _settle(lab: programs.Lab, names: Collection[str]) -> None:
    """Back when these nodes have found each other, or it takes too long."""
    end = time.monotonic() + SETTLE_TIMEOUT
    while time.monotonic() < end:
        documents = programs.ask_status(lab.plan.name, names)
        if is_settled(list(documents.values()), lab.web, lab.channel):
            return
        time.sleep(programs.POLL)


def _down(args: argparse.Namespace) -> int:
    name = args.name
    if not programs.folder(name).exists() and not network.names_of(name):
        print(f"lab {name}: nothing there")
        return 0
    here = network.identity_of_process("self")
    for inside in network.names_of(name):
        if network.identity(inside) == here:
            raise DLBAError(f"lab {name}: expected to be run outside of it, got {inside}")
    with programs.held(name, make=True, wait=WAIT):
        _take_down(name)
    print(f"lab {name}: down")
    return 0


def _take_down(name: str) -> None:
    """End and remove whatever there is of the lab, which is held."""
    problems = []
    # Asked to end half-way, it would leave the rest behind.
    with _signals(signal.SIG_IGN):
        removals = [lambda which=which: network.remove(which) for which in network.names_of(name)]
        steps: list[Callable[[], object]] = [lambda: programs.kill_all(name), *removals]
        for step in (*steps, lambda: programs.remove_files(name)):
            try:
                step()
            except (OSError, DLBAError) as error:
                problems.append(str(error))
    if problems:
        raise DLBAError(
            f"lab {name}: expected to leave nothing behind, got: " + "; ".join(problems)
        )


# status


def _status(args: argparse.Namespace) -> int:
    seen = document(programs.read_lab(args.name))
    print(json.dumps(seen, indent=2) if args.json else "\n".join(status_lines(seen)))
    return 0


# Single parts


@contextlib.contextmanager
def _changing(args: argparse.Namespace) -> Iterator[tuple[programs.Lab, Part]]:
    """The lab and the part of it that the arguments name, while nobody else changes the lab."""
    with programs.held(args.name, wait=WAIT):
        lab = programs.read_lab(args.name)
        yield lab, _part(lab, args.part)


def _part(lab: programs.Lab, name: str) -> Part:
    part = lab.plan.part(name)
    if part is None:
        names = ", ".join(part.name for part in lab.plan.parts)
        raise CommandError(f"dlba lab: lab {lab.plan.name}: expected one of {names}, got {name}", 2)
    return part


def _exec(args: argparse.Namespace) -> int:
    command: list[str] = args.command
    # Pythons differ in whether they leave the first -- in.
    command = command[1:] if command[:1] == ["--"] else command
    if not command:
        raise CommandError("dlba lab exec: expected NAME -- COMMAND, got no command", 2)
    lab = programs.read_lab(args.name)
    env = dict(os.environ)
    env.pop("DLBA_CONTROL", None)
    if args.part != SWITCH and _part(lab, args.part).kind == "node":
        state = programs.folder(args.name) / args.part / "state"
        env["DLBA_CONTROL"] = str(state / CONTROL)
    # So that dlba is found there as it was here, in a venv too.
    scripts = str(Path(sys.executable).parent)
    env["PATH"] = os.pathsep.join((env.get("PATH", os.defpath), scripts))
    network.enter(namespace(args.name, args.part))
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores it, and what is ignored stays so in the program that comes.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, env)  # noqa: S606 - the user's own command
    except OSError as error:
        raise CommandError(f"dlba lab exec: {command[0]}: {error.strerror}", 1) from None


def _kill(args: argparse.Namespace) -> int:
    with _changing(args) as (lab, part):
        programs.kill(lab.plan.name, part.name)
    print(f"{part.name}: killed")
    return 0


def _start(args: argparse.Namespace) -> int:
    name = args.name
    with _changing(args) as (lab, part):
        pid = programs.running(name, part.name)
        if pid is not None:
            raise DLBAError(f"lab {name}: {part.name}: expected no program, got process {pid}")
        started = programs.start(name, part)
        try:
            programs.wait_ready(lab, {part.name: started}, UP_TIMEOUT)
        except BaseException:
            with contextlib.suppress(DLBAError):  # it has ended by itself
                programs.kill(name, part.name)
            raise
        if part.kind == "node" and lab.channel:
            _settle(lab, _reachable(lab))
    print(f"{part.name}: running")
    return 0


def _reachable(lab: programs.Lab) -> list[str]:
    """The nodes that run and have a link: those that can find each other."""
    name = lab.plan.name
    pids = {node.name: programs.running(name, node.name) for node in lab.plan.nodes}
    return [
        node.name
        for node in lab.plan.nodes
        if (pid := pids[node.name]) is not None
        and not programs.is_stopped(pid)
        and network.has_link(namespace(name, node.name), node.links[0].interface)
    ]


def _stop(args: argparse.Namespace) -> int:
    with _changing(args) as (lab, part):
        programs.stop(lab.plan.name, part.name)
    print(f"{part.name}: stopped")
    return 0


def _continue(args: argparse.Namespace) -> int:
    with _changing(args) as (lab, part):
        programs.go_on(lab.plan.name, part.name)
    print(f"{part.name}: goes on")
    return 0


def _cut(args: argparse.Namespace) -> int:
    return _set_link(args, False)


def _heal(args: argparse.Namespace) -> int:
    return _set_link(args, True)


def _set_link(args: argparse.Namespace, up: bool) -> int:
    """Take the switch's port of a node's front link up or down; back when the node sees it."""
    with _changing(args) as (lab, node):
        front = node.links[0]
        network.set_port(lab.plan.name, front.port, up)
        end = time.monotonic() + LINK_TIMEOUT
        while network.has_link(namespace(lab.plan.name, node.name), front.interface) != up:
            if time.monotonic() > end:
                wanted = "a link" if up else "no link"
                raise DLBAError(f"lab {lab.plan.name}: {node.name}: expected {wanted}, got another")
            time.sleep(programs.POLL / 5)
    print(f"{node.name}: link {'up' if up else 'down'}")
    return 0
