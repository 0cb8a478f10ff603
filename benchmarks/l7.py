#!/usr/bin/env python3
"""Runs HAProxy beside DLBA on small requests and prints the ratio of work per CPU second.

Command line only; see README.md here for the method. Exit codes: 0 fine, 1 a failed pass or a
stand that doesn't start, 2 usage.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# As a script, only this folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import attrs

from benchmarks.commandline import add_files, bounded, finish, processor, said
from benchmarks.measure import Run, report
from benchmarks.processes import BenchmarkError, find_programs
from benchmarks.stand import (
    DLBA,
    DLBA_SILENT,
    HAPROXY,
    HAPROXY_SILENT,
    ROOT,
    SETUPS,
    WORKS,
    Stand,
)

COMPARISONS = ((DLBA, HAPROXY), (DLBA, HAPROXY_SILENT), (DLBA_SILENT, HAPROXY_SILENT))

# The load is bounded whatever is asked.
MAXIMUM_PASSES = 20
MAXIMUM_SECONDS = 30
MAXIMUM_CONNECTIONS = 512

NOT_YET = "Backend reuse: not measured yet."

WEAKNESSES = """\
Weaknesses: everything runs on one machine over loopback, so the kernel does a part of the backend's
and the client's work on the CPU time of whoever sends, and no network card takes part. It is one
kind of request with few headers: large bodies, new TLS connections and slow clients look different.
HAProxy logs by UDP, DLBA to a file; each uses its own OpenSSL; a proxy that isn't kept busy wakes
up for fewer requests at a time and pays more for each. Differences under 0.08 mean nothing."""

VERSIONS = """
import json, platform, sys
import OpenSSL, cryptography, dlba, twisted
from OpenSSL import SSL
print(json.dumps({
    "dlba": dlba.__version__,
    "python": platform.python_implementation() + " " + platform.python_version(),
    "executable": sys.executable,
    "twisted": twisted.__version__,
    "pyopenssl": OpenSSL.__version__,
    "cryptography": cryptography.__version__,
    "dlba_openssl": SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode(),
}))
"""


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        description="HAProxy beside DLBA: 1 KiB over kept client connections, plain and TLS, "
        "a backend connection per request."
    )
    parser.add_argument("--passes", type=bounded(1, MAXIMUM_PASSES), default=5, metavar="N")
    parser.add_argument(
        "--seconds",
        type=bounded(1, MAXIMUM_SECONDS),
        default=5,
        metavar="S",
        help="of load for each setup in each pass",
    )
    parser.add_argument(
        "--connections", type=bounded(1, MAXIMUM_CONNECTIONS), default=32, metavar="N"
    )
    parser.add_argument("--quick", action="store_true", help="one pass of two seconds")
    add_files(parser)
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.passes, arguments.seconds = 1, 2
    return arguments


def machine(programs: dict[str, str], python: str) -> dict[str, Any]:
    """Versions of all that takes part. Raises BenchmarkError if `python` can't run DLBA."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            [python, "-c", VERSIONS], capture_output=True, text=True, timeout=60, env=environment
        )
    except OSError as error:
        raise BenchmarkError(f"--python {python}: {error.strerror}") from None
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise BenchmarkError(f"--python {python}: expected dlba's requirements, got {last}")
    return {
        **json.loads(done.stdout),
        "haproxy": said([programs["haproxy"], "-v"]),
        "haproxy_openssl": said([programs["haproxy"], "-vv"], "Running on OpenSSL"),
        "nginx": said([programs["nginx"], "-v"]),
        "wrk": said([programs["wrk"], "-v"]),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def run_passes(stand: Stand, passes: int, seconds: int, connections: int) -> list[Run]:
    """All setups in turn, pass by pass; each pass begins with another setup."""
    runs = []
    for number in range(1, passes + 1):
        shift = (number - 1) % len(SETUPS)
        for work in WORKS:
            for name in (*SETUPS[shift:], *SETUPS[:shift]):
                run = stand.measure(number, work, name, seconds, connections)
                runs.append(run)
                result = "; ".join(run.problems) or f"{run.per_cpu_second:,.0f} a CPU second"
                print(f"pass {number}/{passes}  {work:<5}  {name:<14}  {result}", flush=True)
    return runs


def benchmark(arguments: argparse.Namespace) -> int:
    """Everything; returns the exit code."""
    programs = find_programs()
    facts = machine(programs, arguments.python)
    count = arguments.passes * len(WORKS) * len(SETUPS)
    print(f"{count} runs of {arguments.seconds} s", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="dlba-benchmark-") as name,
        Stand.running(programs, Path(name), arguments.python) as stand,
    ):
        stand.verify()
        for work in WORKS:
            for setup in SETUPS:
                warm = stand.measure(0, work, setup, 1, arguments.connections)
                if warm.problems:
                    raise BenchmarkError(f"{setup}, {work}: " + "; ".join(warm.problems))
        runs = run_passes(stand, arguments.passes, arguments.seconds, arguments.connections)
        facts["tls"] = next(iter(stand.ciphers.values()))
        facts["pinned"] = (
            "no: one core"
            if stand.proxy_cores is None
            else f"proxy on core {stand.proxy_cores}, load and backend on {stand.load_cores}"
        )
    facts["load_after"] = os.getloadavg()[0]
    text, figures = report(runs, COMPARISONS)
    print(f"\n{text}\n\n{NOT_YET}\n")
    for key, value in facts.items():
        print(f"{key:<16} {value}")
    print(f"\n{WEAKNESSES}")
    if arguments.json is not None:
        document = {
            "machine": facts,
            "options": {k: getattr(arguments, k) for k in ("passes", "seconds", "connections")},
            "runs": [
                {**attrs.asdict(run), "per_cpu_second": run.per_cpu_second, "busy": run.busy}
                for run in runs
            ],
            **figures,
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if figures["failed"] else 0


if __name__ == "__main__":
    finish(lambda: benchmark(parse_arguments(sys.argv[1:])))
