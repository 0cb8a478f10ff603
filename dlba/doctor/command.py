"""Runs `dlba doctor`: looks at this machine, says what breaks direct return, mends what is safe.

The configuration is looked for by `-c NODE.YAML`, beside the state folder of the socket that
DLBA_CONTROL names (`dlba lab exec` sets it), and at NODE_FILE, in this order. Exit codes: 0 no
problem, 1 problems, after `--fix` those that are left, 2 usage or configuration.

It takes a second (LISTEN), in which answers from the segment are waited for. After `--fix` the
machine is looked at again; nobody on the segment is asked once more: nothing changed there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dlba.errors import CommandError, ConfigError

if TYPE_CHECKING:
    from dlba.config.values import NodeConfig
    from dlba.doctor.answers import Answers
    from dlba.doctor.facts import Facts, Unseen

__all__ = ["add_doctor", "node_file"]

NODE_FILE: Final = "/etc/dlba/node.yaml"
#: Seconds in which answers from the segment are waited for.
LISTEN: Final = 1.0


def add_doctor(commands: Any) -> None:
    """Declare `dlba doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="look for what breaks direct return on this machine, and how to mend it",
        description="Look at this machine for what keeps a node from starting or breaks direct "
        "return: interface, VIP, sysctls, offloads, firewall, who answers ARP for the VIP, the "
        "nodes' MACs, secrets, clock. Run it as root, before a node's start or while it runs.",
    )
    parser.add_argument(
        "-c",
        "--config",
        metavar="NODE.YAML",
        type=Path,
        help="the node's configuration (default: that of the node of $DLBA_CONTROL, else "
        + NODE_FILE
        + ")",
    )
    parser.add_argument(
        "--fix",
        action="store_true",
        help="make the safe changes: sysctls, LRO and GRO off, the VIP on lo; until a reboot",
    )
    parser.add_argument("--json", action="store_true", help="print the findings for programs")
    parser.set_defaults(run=_run_doctor)


def node_file(config: Path | None, environ: Mapping[str, str]) -> Path:
    """Return where node.yaml is. `config`: from the command line.

    Raises CommandError with code 2 where nobody named one.
    """
    if config is not None:
        return config
    if environ.get("DLBA_CONTROL"):
        # The state folder is beside it in a lab, and wherever `state` isn't set.
        beside = Path(environ["DLBA_CONTROL"]).parent.parent / "node.yaml"
        if beside.exists():
            return beside
    if Path(NODE_FILE).exists():
        return Path(NODE_FILE)
    raise CommandError(
        f"dlba doctor: expected -c NODE.YAML, a node.yaml beside the folder of DLBA_CONTROL, or "
        f"{NODE_FILE}, got none of them",
        2,
    )


def _run_doctor(args: argparse.Namespace) -> int:
    from dlba.config.load import load
    from dlba.doctor.findings import findings, has_problem, safe_changes
    from dlba.doctor.look import look
    from dlba.doctor.mend import fix
    from dlba.doctor.report import document, text

    if sys.platform != "linux":
        raise CommandError(f"dlba doctor: expected Linux, got {sys.platform}", 1)
    warnings: list[str] = []
    try:
        config = load(
            node_file(args.config, os.environ), warn=lambda problem: warnings.append(str(problem))
        )
    except ConfigError as error:
        raise CommandError(str(error), 2) from None
    facts = look(config)
    answers = _ask(config, facts)
    found = findings(config, facts, answers, warnings)
    fixed = fix(safe_changes(found)) if args.fix else None
    if fixed:
        found = findings(config, look(config), answers, warnings)
    if args.json:
        sys.stdout.write(json.dumps(document(config.node, found, fixed), indent=2) + "\n")
    else:
        sys.stdout.write(text(found, fixed))
    return 1 if has_problem(found) else 0


def _ask(config: NodeConfig, facts: Facts) -> Answers | Unseen | None:
    """Who answers on the segment; None without an interface that could be asked on."""
    from dlba.doctor.answers import Answers, questions
    from dlba.doctor.ask import ask
    from dlba.doctor.facts import Unseen
    from dlba.routing.needs import Interface

    interface = facts.interface
    if not isinstance(interface, Interface) or not interface.ethernet:
        return None
    if not interface.up or not interface.carrier:
        return Unseen(f"{interface.name} has no link")
    frames = questions(config, interface)
    answers = Answers(frames)
    try:
        ask(interface.name, tuple(frames.values()), answers.hear, LISTEN)
    except OSError as error:
        return Unseen(error.strerror or str(error))
    return answers
