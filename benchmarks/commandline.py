"""What the command lines here have in common: bounded numbers, versions of programs, an end."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks.processes import BenchmarkError

__all__ = ["add_files", "bounded", "finish", "processor", "said"]


def bounded(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""

    def number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {low} to {high}, got {value}")
        return value

    return number


def add_files(parser: argparse.ArgumentParser) -> None:
    """Declare which interpreter runs DLBA, and where the figures go."""
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="FILE",
        help="the interpreter for DLBA, with its requirements installed (default: this one)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")


def said(command: Sequence[str], wanted: str = "") -> str:
    """The first line of a program's output, on whichever side, that contains `wanted`."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    for line in (done.stdout + done.stderr).splitlines():
        if wanted in line and line.strip():
            return line.strip()
    return "unknown"


def processor() -> str:
    """What the kernel calls the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def finish(benchmark: Callable[[], int]) -> NoReturn:
    """Run it and exit with its code; TERM and HUP end all children as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    try:
        code = benchmark()
    except (BenchmarkError, OSError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("benchmark: interrupted", file=sys.stderr)
        code = 1
    sys.exit(code)
