"""Reads what the command lines here have in common: bounded numbers, versions of programs."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["bounded", "processor", "said"]


def bounded(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""

    def number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {low} to {high}, got {value}")
        return value

    return number


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
