#!/usr/bin/env python3
"""Attacks DLBA, and on request its peers, and prints what ordinary clients notice of it.

Command line only; see README.md here for the method. Exit codes: 0 fine, 1 something doesn't start
or, with --check, a target was missed, 2 usage.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# As a script, only this folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import attrs

from benchmarks.abusemeasure import Result, missed
from benchmarks.abuseplan import ATTACKS, DEADLINES, QUICK_DEADLINES, Attack
from benchmarks.abusereport import document, groups, table
from benchmarks.abusestand import DLBA, PEERS, AbuseStand, Timing
from benchmarks.commandline import add_files, bounded, finish, processor, said
from benchmarks.processes import find_programs

# The load is bounded whatever is asked.
MAXIMUM_PASSES = 10
MAXIMUM_SECONDS = 30
MAXIMUM_RATE = 1000

PACKAGES = {
    "nginx": "nginx-light",
    "openssl": "openssl",
    "prlimit": "util-linux",
    "taskset": "util-linux",
}

QUICK = 0.1
"""Share of the connections that a quick run holds."""

WEAKNESSES = """\
Weaknesses: everything runs on one machine over loopback: attackers, ordinary clients and backends
share a core and are delayed by each other, which the times before an attack have in them only in
part; the attacker runs only when nobody else wants to, so it is late where the machine is busy. Who
stops reading learns of a cut only by a reset: peers that end such a connection in another way look
as if they didn't. A p99 of a few seconds is a few answers; ratios under 1.3 mean nothing."""


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with 2 when it is wrong."""
    names = [attack.name for attack in ATTACKS]
    parser = argparse.ArgumentParser(
        description="Attacks of many kinds on DLBA, and what ordinary clients notice."
    )
    parser.add_argument("--passes", type=bounded(1, MAXIMUM_PASSES), default=3, metavar="N")
    parser.add_argument(
        "--seconds",
        type=bounded(1, MAXIMUM_SECONDS),
        default=5,
        metavar="S",
        help="for which ordinary clients are watched before each attack, and under it",
    )
    parser.add_argument(
        "--rate",
        type=bounded(20, MAXIMUM_RATE),
        default=150,
        metavar="N",
        help="ordinary requests a second",
    )
    parser.add_argument(
        "--attack",
        action="append",
        choices=names,
        metavar="NAME",
        help="only this one; may be given again. One of: " + ", ".join(names),
    )
    parser.add_argument(
        "--peers", action="store_true", help="attack HAProxy and nginx in the same way, in turn"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="under a minute: one pass, fewer connections, short deadlines; no p99 is judged",
    )
    parser.add_argument("--check", action="store_true", help="exit code 1 if DLBA misses a target")
    add_files(parser)
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.passes = 1
    return arguments


def chosen(names: Sequence[str] | None, quick: bool) -> list[Attack]:
    """The attacks to run, no larger than this machine's limit on descriptors lets them be."""
    most = max((resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 500) // 2, 1)
    return [
        # To exhaust descriptors takes as many as there are, whatever the hurry.
        attack.scaled(QUICK if quick and not attack.exhausts else 1, most)
        for attack in ATTACKS
        if not names or attack.name in names
    ]


def run_passes(
    stand: AbuseStand, attacks: Sequence[Attack], subjects: Sequence[str], passes: int, how: Timing
) -> list[Result]:
    """All attacks on all subjects in turn, pass by pass; each pass begins with another subject."""
    results = []
    for number in range(1, passes + 1):
        shift = (number - 1) % len(subjects)
        for attack in attacks:
            for name in (*subjects[shift:], *subjects[:shift]):
                result = stand.attack(number, attack, name, how)
                results.append(result)
                problems = "; ".join(result.problems()) or "fine"
                print(
                    f"pass {number}/{passes}  {attack.name:<20}  {name:<8}  {problems}", flush=True
                )
    return results


def benchmark(arguments: argparse.Namespace) -> int:
    """Everything; returns the exit code."""
    peers = PEERS if arguments.peers else ()
    programs = find_programs({**PACKAGES, **({"haproxy": "haproxy"} if peers else {})})
    attacks = chosen(arguments.attack, arguments.quick)
    deadlines = QUICK_DEADLINES if arguments.quick else DEADLINES
    seconds = arguments.seconds
    timing = Timing(seconds, seconds, 1.0, arguments.rate)
    if arguments.quick:
        timing = Timing(0.15, 0.2, 0.15, arguments.rate, lead=0.3, patience=0.4)
    facts: dict[str, Any] = {
        "kernel": os.uname().release,
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "nginx": said([programs["nginx"], "-v"]),
        "load_before": os.getloadavg()[0],
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    if peers:
        facts["haproxy"] = said([programs["haproxy"], "-v"])
    with (
        tempfile.TemporaryDirectory(prefix="dlba-benchmark-") as name,
        AbuseStand.running(programs, Path(name), arguments.python, peers, deadlines) as stand,
    ):
        results = run_passes(stand, attacks, (DLBA, *peers), arguments.passes, timing)
    facts["load_after"] = os.getloadavg()[0]
    print(f"\n{table(results)}\n")
    for key, value in facts.items():
        print(f"{key:<12} {value}")
    print(f"\n{WEAKNESSES}")
    ours = [group for group in groups(results) if group[0].subject == DLBA]
    wrong = sum(len(missed(group)) for group in ours)
    if arguments.json is not None:
        whole = {
            "machine": facts,
            "deadlines": attrs.asdict(deadlines),
            "missed": wrong,
            "results": document(results),
        }
        arguments.json.write_text(json.dumps(whole, indent=1) + "\n")
    return 1 if wrong and arguments.check else 0


if __name__ == "__main__":
    finish(lambda: benchmark(parse_arguments(sys.argv[1:])))
