#!/usr/bin/env python3
"""Runs nftables and bare loops beside DLBA's frame path and prints frames per CPU second, ratios.

Command line only; see README.md here for the method. Needs root. Exit codes: 0 fine, 1 a failed
pass or a stand that doesn't start, 2 usage.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# As a script, only this folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import attrs

from benchmarks.commandline import bounded, finish, processor, said
from benchmarks.l2lab import PACKAGES
from benchmarks.l2measure import FLOOD, STEADY, Comparison, Run, ratios
from benchmarks.l2plan import FLOWS, SIZES
from benchmarks.l2report import noise, report
from benchmarks.l2stand import (
    BARE,
    DISCARD,
    DLBA,
    DLBA_PCAP,
    NFTABLES,
    PLAIN,
    PORT,
    SUBJECTS,
    Stand,
)
from benchmarks.processes import BenchmarkError, find_programs
from tests.namespaces import missing

COMPARISONS = (
    Comparison(DLBA, BARE, FLOOD, "per_cpu_second"),
    Comparison(DLBA, PLAIN, FLOOD, "per_cpu_second"),
    Comparison(DLBA, PORT, FLOOD, "per_cpu_second"),
    Comparison(DLBA, BARE, STEADY, "per_party_second"),
    Comparison(DLBA, NFTABLES, FLOOD, "per_second"),
    Comparison(DLBA, NFTABLES, STEADY, "per_machine_second"),
    Comparison(DLBA, NFTABLES, STEADY, "per_party_second"),
    Comparison(DLBA, NFTABLES, STEADY, "per_party_second", DISCARD),
    Comparison(DLBA_PCAP, DLBA, FLOOD, "per_cpu_second"),
    Comparison(DLBA_PCAP, DLBA, STEADY, "per_party_second"),
)

# The load is bounded whatever is asked.
MAXIMUM_PASSES = 20
MAXIMUM_SECONDS = 10

#: Frames per CPU second of the bare loop that DLBA should reach.
TARGET = 0.7
#: Of what the slowest subject managed while warming up.
STEADY_SHARE = 0.5
WEAKNESSES = """\
Weaknesses: no network card takes part, only veth links and a bridge of one kernel, and what these
do is paid for by whoever sends: by the client as far as the scheduler's socket, or with nftables as
far as the node; by the scheduler's process from there on. So a process's own CPU time leaves out
the half of the kernel's work that a real NIC's interrupts would be charged for, and nftables has no
process: only the whole machine's CPU time has all of it, but also whatever else runs here, and it
comes in ticks of the clock. A full socket makes the kernel drop frames at once, so losing many of a
flood is cheap. The bare loops give all frames to one node. One kind of frame at a time, sent by one
process, says nothing of caches under mixed traffic. Differences under 0.05 mean nothing, and on a
machine that isn't quiet, less."""

VERSIONS = """
import importlib.metadata as about, json, platform, sys
print(json.dumps({
    "dlba": about.version("dlba"),
    "python": platform.python_implementation() + " " + platform.python_version(),
    "executable": sys.executable,
    "twisted": about.version("twisted"),
    "scapy": about.version("scapy"),
}))
"""


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        description="nftables and bare loops beside DLBA's frame path, in network namespaces."
    )
    parser.add_argument("--passes", type=bounded(1, MAXIMUM_PASSES), default=5, metavar="N")
    parser.add_argument(
        "--seconds",
        type=bounded(1, MAXIMUM_SECONDS),
        default=1,
        metavar="S",
        help="of each load of each subject in each pass",
    )
    parser.add_argument("--quick", action="store_true", help="one pass of one second")
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="FILE",
        help="the interpreter for DLBA and the bare loops, with DLBA's requirements installed "
        "(default: this one)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.passes, arguments.seconds = 1, 1
    return arguments


def machine(programs: dict[str, str], python: str) -> dict[str, Any]:
    """Versions of all that takes part. Raises BenchmarkError if `python` can't run DLBA."""
    try:
        done = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, timeout=60)
    except OSError as error:
        raise BenchmarkError(f"--python {python}: {error.strerror}") from None
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise BenchmarkError(f"--python {python}: expected dlba's requirements, got {last}")
    return {
        **json.loads(done.stdout),
        "nft": said([programs["nft"], "--version"]),
        "iproute2": said([programs["ip"], "-V"]),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "frames": ", ".join(f"{name} {size} bytes" for name, size in SIZES.items()),
        "flows": FLOWS,
        "load_before": os.getloadavg()[0],
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def warm_up(stand: Stand) -> int:
    """Flood everybody once; the rate of the steady loads, in frames a second."""
    rates = []
    for work in SIZES:
        for name in SUBJECTS:
            if name != DISCARD:
                run = stand.measure(0, work, FLOOD, name, 1, 0)
                if run.problems:
                    raise BenchmarkError(f"{name}, {work}: " + "; ".join(run.problems))
                rates.append(run.per_second)
    return max(int(min(rates) * STEADY_SHARE) // 1000, 1) * 1000


def run_passes(stand: Stand, passes: int, seconds: int, rate: int) -> list[Run]:
    """All subjects in turn, pass by pass; each pass begins with another subject."""
    runs = []
    for number in range(1, passes + 1):
        shift = (number - 1) % len(SUBJECTS)
        for work in SIZES:
            for load in (FLOOD, STEADY):
                for name in (*SUBJECTS[shift:], *SUBJECTS[:shift]):
                    # What drops everything has nothing to show under a flood.
                    if load == STEADY or name != DISCARD:
                        run = stand.measure(number, work, load, name, seconds, rate)
                        runs.append(run)
                        result = "; ".join(run.problems) or f"{run.per_second:,.0f} frames/s"
                        print(
                            f"pass {number}/{passes}  {work}  {load:<6}  {name:<10}  {result}",
                            flush=True,
                        )
    return runs


def target(runs: Sequence[Run]) -> str:
    """Whether DLBA is as fast as it should be, in words."""
    main = COMPARISONS[0]
    found = {work: statistics.median(ratios(runs, work, main) or [0.0]) for work in SIZES}
    text = ", ".join(f"{work} {ratio:.2f}" for work, ratio in found.items())
    met = "met" if min(found.values()) >= TARGET else "MISSED"
    return f"Target: {main.ours} / {main.peer}, {main.load}: at least {TARGET}, got {text}: {met}"


def benchmark(arguments: argparse.Namespace) -> int:
    """Everything; returns the exit code."""
    programs = find_programs(PACKAGES)
    if (why := missing(tun=True, bridge=True)) is not None:
        raise BenchmarkError(why)
    facts = machine(programs, arguments.python)
    with (
        tempfile.TemporaryDirectory(prefix="dlba-benchmark-") as name,
        Stand.running(programs, Path(name), arguments.python) as stand,
    ):
        stand.verify()
        rate = warm_up(stand)
        count = arguments.passes * len(SIZES) * (2 * len(SUBJECTS) - 1)
        print(f"{count} runs of {arguments.seconds} s; steady: {rate:,} frames/s", flush=True)
        runs = run_passes(stand, arguments.passes, arguments.seconds, rate)
        facts["pinned"] = (
            "no: one core"
            if stand.subject_cores is None
            else f"subjects on core {stand.subject_cores}, load on {stand.load_cores}"
        )
    facts["load_after"] = os.getloadavg()[0]
    facts["disturbed by"] = noise(runs)
    text, figures = report(runs, COMPARISONS, DISCARD)
    print(f"\n{text}\n\n{target(runs)}\n")
    for key, value in facts.items():
        print(f"{key:<16} {value}")
    print(f"\n{WEAKNESSES}")
    if arguments.json is not None:
        document = {
            "machine": facts,
            "options": {k: getattr(arguments, k) for k in ("passes", "seconds")} | {"rate": rate},
            "runs": [attrs.asdict(run) for run in runs],
            **figures,
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if figures["failed"] else 0


if __name__ == "__main__":
    finish(lambda: benchmark(parse_arguments(sys.argv[1:])))
