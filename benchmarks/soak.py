#!/usr/bin/env python3
"""Runs mixed traffic through DLBA while backends die and files change, and shows what was lost.

Command line only; see README.md here for the method. Exit codes: 0 nothing was lost and nothing
grew, 1 something was or did, or doesn't start, 2 usage.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

# As a script, only this folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import attrs

from benchmarks import soakplan
from benchmarks.commandline import add_files, bounded, finish, processor
from benchmarks.processes import find_programs
from benchmarks.soakjudge import Sample, grew, is_cut, may_move, repeated
from benchmarks.soakstand import SoakStand

MAXIMUM_MINUTES = 24 * 60
MAXIMUM_CLIENTS = 8
MAXIMUM_THREADS = 32

EVERY: Final = 4.0
"""Seconds between two events."""

SAMPLED: Final = 10.0
"""Seconds between two lines."""

SETTLE: Final = 4.0
"""Seconds after the last client: lingering connections end."""

IDLE: Final = 40.0
"""Seconds that idle backend connections may stay: DLBA keeps them for 30."""

JUDGED: Final = 240.0
"""Seconds before which growth says nothing: a process grows into its size first."""

DESCRIPTORS: Final = 4
"""More at the end than at the beginning: the monitor's and the log's come and go."""

OBJECTS: Final = 3_000
"""More at the end than at the beginning, after a collection: bounded caches are full then. Counted
are objects made since the node was ready."""

WITHOUT: Final = {
    "kills": (soakplan.KILL,),
    "reloads": (soakplan.WEIGHTS, soakplan.TIMEOUTS, soakplan.CERTIFICATE, *soakplan.BAD),
    "drains": (soakplan.DRAIN, soakplan.RESUME),
    "abuse": (soakplan.ABUSE,),
}


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        description="Mixed traffic through DLBA, with kills, reloads, drains and abuse."
    )
    parser.add_argument("--minutes", type=_minutes, default=20.0, metavar="N")
    parser.add_argument(
        "--clients",
        type=bounded(1, MAXIMUM_CLIENTS),
        default=3,
        metavar="N",
        help="client processes",
    )
    parser.add_argument(
        "--threads",
        type=bounded(1, MAXIMUM_THREADS),
        default=6,
        metavar="N",
        help="clients at once in each",
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=0.1,
        metavar="S",
        help="seconds that each client rests between two things, on average",
    )
    parser.add_argument(
        "--without",
        action="append",
        choices=sorted(WITHOUT),
        default=[],
        help="leave these events out; may be given again",
    )
    add_files(parser)
    return parser.parse_args(words)


def _minutes(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= MAXIMUM_MINUTES:
        raise argparse.ArgumentTypeError(f"expected 0.1 to {MAXIMUM_MINUTES}, got {text}")
    return value


def events(without: Sequence[str]) -> list[str]:
    """What happens, in turn."""
    left_out = {event for group in without for event in WITHOUT[group]}
    return [event for event in soakplan.EVENTS if event not in left_out]


def line(stand: SoakStand, sample: Sample, happened: Sequence[str]) -> str:
    """What is shown every few seconds."""
    crowd = stand.crowd
    cut = sum(is_cut(failure, stand.kills) for failure in tuple(crowd.failures))
    lost = len(crowd.failures) - cut
    right = sum(crowd.counts.values())
    objects = "?" if sample.objects is None else f"{sample.objects:,}"
    return (
        f"{sample.at:6.0f} s  sent {crowd.sent:>8,}  right {right:>8,}  lost {lost}  cut {cut:>3}  "
        f"RSS {sample.rss / (1 << 20):6.1f} MiB  files {sample.descriptors:>4}  "
        f"objects {objects:>9}  {', '.join(happened)}"
    )


def run(stand: SoakStand, arguments: argparse.Namespace) -> list[Sample]:
    """Until the time is over; the samples meanwhile."""
    turns = events(arguments.without)
    began = time.monotonic()
    end = began + arguments.minutes * 60
    samples: list[Sample] = []
    happened: list[str] = []
    due, sampled, turn = began + 2.0, began + SAMPLED, 0
    stand.start_clients(arguments.clients, arguments.threads, arguments.pause)
    while (now := time.monotonic()) < end:
        if now >= sampled:
            sample = stand.sample(now - began)
            samples.append(sample)
            print(line(stand, sample, happened), flush=True)
            happened = []
            sampled += SAMPLED
        elif turns and now >= due:
            happened.append(stand.event(turns[turn % len(turns)]))
            turn += 1
            due = max(due + EVERY, time.monotonic())
        else:
            time.sleep(0.05)
    stand.stop_clients()
    sample = stand.sample(time.monotonic() - began)
    print(line(stand, sample, happened), flush=True)
    return samples


def faults(stand: SoakStand, samples: Sequence[Sample], first: Sample, last: Sample) -> list[str]:
    """Everything that must not be, a sentence each."""
    crowd = stand.crowd
    found = [
        f"lost: {f.kind}, waiting for its {f.stage}: {f.what}"
        for f in crowd.failures
        if not is_cut(f, stand.kills)
    ]
    found += [
        f"session moved from {moved.home} to {moved.to}, though {moved.home} lived"
        for moved in crowd.moved
        if not may_move(moved, stand.kills)
    ]
    journal = stand.journal()
    found += [f"body {identity} came to backends twice" for identity in repeated(journal)]
    found += [
        f"body {identity} was answered, and no backend has it"
        for identity in sorted(set(crowd.posted) - set(journal))
    ]
    found += crowd.broken + stand.problems
    memory, rate = grew(samples)
    if memory and samples[-1].at >= JUDGED:
        found.append(f"memory grows: {rate * 60 / 1024:.0f} KiB a minute over the second half")
    if last.descriptors > first.descriptors + DESCRIPTORS:
        found.append(f"descriptors: {first.descriptors} before, {last.descriptors} after")
    if first.objects and last.objects and last.objects > first.objects + OBJECTS:
        found.append(f"objects: {first.objects:,} before, {last.objects:,} after")
    errors = stand.status()["counters"]["internal_errors"]
    if errors:
        found.append(f"internal errors: {errors}")
    if "Traceback" in stand.node.output():
        found.append(f"an exception:\n{stand.node.output()}")
    return found


def settle(stand: SoakStand) -> None:
    """Wait for what is to end by itself: closes under way, and idle backend connections."""
    time.sleep(SETTLE)
    end = time.monotonic() + IDLE
    while stand.status()["counters"]["idle_backend_connections"] and time.monotonic() < end:
        time.sleep(0.5)


def benchmark(arguments: argparse.Namespace) -> int:
    """Everything; returns the exit code."""
    programs = find_programs({"openssl": "openssl"})
    facts: dict[str, Any] = {
        "kernel": os.uname().release,
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    with (
        tempfile.TemporaryDirectory(prefix="dlba-soak-") as name,
        SoakStand.running(programs, Path(name), arguments.python) as stand,
    ):
        first = stand.sample(0.0, collect=True)
        samples = run(stand, arguments)
        settle(stand)
        last = stand.sample(arguments.minutes * 60, collect=True)
        wrong = faults(stand, samples, first, last)
        counters = stand.status()["counters"]
    crowd = stand.crowd
    cut = [failure for failure in crowd.failures if is_cut(failure, stand.kills)]
    print("\nanswered rightly:")
    for kind, count in sorted(crowd.counts.items()):
        print(f"  {kind:<16} {count:>9,}")
    print(f"cut by kills, counted apart: {len(cut)} in {len(stand.kills)} kills")
    print(f"sessions moved, their backend killed: {len(crowd.moved)}")
    _, rate = grew(samples)
    short = "" if arguments.minutes * 60 > JUDGED else " (too short a run to say anything)"
    print(f"memory over the second half: {rate * 60 / 1024:+.0f} KiB a minute{short}")
    print(f"descriptors: {first.descriptors} before, {last.descriptors} after")
    print(f"objects after a collection: {first.objects} before, {last.objects} after")
    for fault in wrong:
        print(f"WRONG: {fault}")
    print("flat, and nothing was lost" if not wrong else f"{len(wrong)} faults")
    if arguments.json is not None:
        document = {
            "machine": facts,
            "options": {"minutes": arguments.minutes, "without": arguments.without},
            "sent": crowd.sent,
            "right": crowd.counts,
            "cut": [attrs.asdict(failure) for failure in cut],
            "faults": wrong,
            "kills": [attrs.asdict(kill) for kill in stand.kills],
            "samples": [attrs.asdict(sample) for sample in (first, *samples, last)],
            "counters": counters,
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    finish(lambda: benchmark(parse_arguments(sys.argv[1:])))
