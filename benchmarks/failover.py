#!/usr/bin/env python3
"""Kills and cuts off the active node of DLBA and of keepalived, prints outages and survivors.

Command line only; see README.md here for the method. Needs root. Exit codes: 0 fine, 1 a failed run
or a stand that doesn't start, 2 usage.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# As a script, only this folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import attrs

from benchmarks.commandline import bounded, finish, processor, said
from benchmarks.failovermeasure import Run, Survival, downloads_of, judge, tries_of
from benchmarks.failoverplan import DLBA, FAULTS, SUBJECTS
from benchmarks.failoverreport import report
from benchmarks.failoverstand import PACKAGES, Stand, running
from benchmarks.processes import BenchmarkError, Child, find_programs
from dlba import __version__
from dlba.errors import DLBAError
from dlba.lab.plan import VIP

# The load is bounded whatever is asked.
MAXIMUM_RUNS = 100
MAXIMUM_NODES = 5

DOWNLOADS = 100
#: Bytes of a download, and bytes a second of each until the outage is over. What buffers on the way
#: hold is far less, so its node has most of it before it still when the fault comes.
SIZE, RATE = 2 << 20, 64 << 10
#: Seconds of tries before the fault, and up to as many more: the fault is to meet every phase of
#: the slowest advertisements.
BEFORE, PHASE = 1.0, 1.0

WEAKNESSES = """\
Weaknesses: everything runs on one machine, whose processors client, nodes and backends share: a
takeover has to wait for its turn like all the rest. Nothing is lost or delayed on the links. A kill
here is one of processes; the kernel that stays behind refuses connections at once, which tells the
nodes of DLBA and helps no keepalived; a machine that loses its power is the link cut. keepalived
with HAProxy is a pair with one active node, so no download has a node that lives."""


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        description="Faults of the active node of DLBA and of keepalived, in network namespaces."
    )
    parser.add_argument("--runs", type=bounded(1, MAXIMUM_RUNS), default=20, metavar="N")
    parser.add_argument("--quick", action="store_true", help="one run of each")
    parser.add_argument(
        "--nodes", type=bounded(2, MAXIMUM_NODES), default=3, help="of DLBA's array (default: 3)"
    )
    parser.add_argument(
        "--subject",
        action="append",
        choices=SUBJECTS,
        help="only this one; may be given more than once",
    )
    parser.add_argument("--fault", action="append", choices=FAULTS, help="likewise")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.runs = 1
    return arguments


def machine(programs: dict[str, str]) -> dict[str, Any]:
    """Versions of all that takes part."""
    return {
        "dlba": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "keepalived": said([programs["keepalived"], "--version"], "Keepalived"),
        "haproxy": said([programs["haproxy"], "-v"], "version"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "downloads": f"{DOWNLOADS} of {SIZE:,} bytes at {RATE:,} bytes/s",
        "load_before": os.getloadavg()[0],
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


@attrs.frozen
class Client:
    """The two programs of the client."""

    probe: Child
    load: Child

    @classmethod
    @contextlib.contextmanager
    def of(cls, stand: Stand) -> Iterator[Client]:
        """They run during the block."""
        with (
            stand.client("failoverprobe.py", VIP, "80") as probe,
            stand.client("failoverload.py", VIP, str(stand.authority)) as load,
        ):
            yield cls(probe, load)

    def begin(self) -> list[int]:
        """Begin with downloads, then with tries; the ports of the downloads."""
        self.load.tell(json.dumps({"count": DOWNLOADS, "size": SIZE, "rate": RATE}))
        ports: list[int] = json.loads(self.load.hear())
        self.probe.tell("go")
        return ports


def run_once(stand: Stand, number: int, fault: str) -> Run:
    """One fault, from a whole array to a whole array."""
    what = (number, stand.name, fault)
    try:
        active = stand.wait_settled()
        with Client.of(stand) as client:
            ports = client.begin()
            nodes = stand.served_by(ports)
            time.sleep(BEFORE + random.random() * PHASE)
            moment = stand.hurt(active, fault)
            client.probe.tell(f"fault {moment}")
            tries = tries_of(json.loads(client.probe.hear()))
            client.load.tell("finish")
            downloads = downloads_of(json.loads(client.load.hear()), nodes)
        run = judge(what, tries, downloads, active, moment)
        stand.mend()
    except (BenchmarkError, DLBAError, OSError, ValueError) as error:
        nothing = Survival(0, 0, 0, 0)
        run = Run(*what, 0.0, 0.0, 0.0, 0, nothing, [str(error)])
        with contextlib.suppress(BenchmarkError, DLBAError, OSError):
            stand.mend()
    return run


def show(run: Run, runs: int) -> None:
    """A line about a run that is over."""
    count = run.survival
    result = "; ".join(run.problems) or (
        f"outage {run.outage * 1000:,.0f} ms, {count.all_survived} of {count.all} downloads, "
        f"{count.living_survived} of {count.living} whose node lives"
    )
    print(f"run {run.number}/{runs}  {run.subject:<17}  {run.fault:<8}  {result}", flush=True)


def benchmark(arguments: argparse.Namespace) -> int:
    """Everything; returns the exit code."""
    programs = find_programs(PACKAGES)
    facts = machine(programs)
    runs: list[Run] = []
    subjects = [name for name in SUBJECTS if name in (arguments.subject or SUBJECTS)]
    faults = [name for name in FAULTS if name in (arguments.fault or FAULTS)]
    for subject in subjects:
        with (
            tempfile.TemporaryDirectory(prefix="dlba-benchmark-") as name,
            running(subject, Path(name), programs, arguments.nodes) as stand,
        ):
            for number in range(1, arguments.runs + 1):
                for fault in faults:
                    runs.append(run_once(stand, number, fault))
                    show(runs[-1], arguments.runs)
    facts["nodes"] = f"{arguments.nodes} of {DLBA}, 2 of keepalived"
    facts["load_after"] = os.getloadavg()[0]
    text, figures = report(runs)
    print(f"\n{text}\n")
    for key, value in facts.items():
        print(f"{key:<16} {value}")
    print(f"\n{WEAKNESSES}")
    if arguments.json is not None:
        document = {
            "machine": facts,
            "options": {"runs": arguments.runs, "nodes": arguments.nodes},
            "runs": [attrs.asdict(run) for run in runs],
            **figures,
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if figures["failed"] else 0


if __name__ == "__main__":
    finish(lambda: benchmark(parse_arguments(sys.argv[1:])))
