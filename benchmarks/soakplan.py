"""Decides what happens during a soak, and with which configuration: events, good and bad files.

Pure. The events come in turn, one every few seconds, for as long as the soak goes on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks.setups import Ports
from benchmarks.soakjudge import FAIL_TIMEOUT

__all__ = ["BACKENDS", "BAD", "EVENTS", "GENERATION", "Change", "bad", "configuration"]

BACKENDS: Final = ("app1", "app2", "app3", "app4")
"""Four: with one drained and one killed there are two left."""

GENERATION: Final = "X-Generation"
"""Of every answer: which version of the file is in force."""

# What happens.
KILL, DRAIN, RESUME, ABUSE = "kill", "drain", "resume", "abuse"
WEIGHTS, TIMEOUTS, CERTIFICATE = "weights", "timeouts", "certificate"

#: The bad files, by what is wrong.
BAD: Final = ("unknown key", "broken YAML", "no certificate", "no pool")

EVENTS: Final = (
    KILL, WEIGHTS, ABUSE, KILL, "unknown key", DRAIN, KILL, TIMEOUTS, RESUME, ABUSE,
    KILL, CERTIFICATE, "broken YAML", KILL, ABUSE, WEIGHTS, "no certificate", KILL, DRAIN, ABUSE,
    TIMEOUTS, RESUME, KILL, "no pool", CERTIFICATE, ABUSE,
)  # fmt: skip


@attrs.frozen
class Change:
    """What a reload may change."""

    generation: int = 0
    weights: tuple[int, ...] = (1, 1, 1, 1)
    idle: float = 60.0
    reuse: bool = False
    certificate: int = 0
    """Which one: its files are `web-N.pem` and `web-N.key`."""

    def next(self, what: str) -> Change:
        """The one after it. `what`: WEIGHTS, TIMEOUTS or CERTIFICATE."""
        following = attrs.evolve(self, generation=self.generation + 1)
        if what == WEIGHTS:
            weights = (*self.weights[1:], self.weights[0] % 3 + 1)
            return attrs.evolve(following, weights=weights)
        if what == TIMEOUTS:
            # Never so short that a client's kept connection is likely to end as it asks.
            idle = 90.0 if self.idle == 60.0 else 60.0
            return attrs.evolve(following, idle=idle, reuse=not self.reuse)
        return attrs.evolve(following, certificate=self.certificate + 1)


def configuration(
    folder: Path, ports: Ports, monitor: int, backends: dict[str, int], change: Change
) -> dict[str, Any]:
    """node.yaml as a mapping. `backends`: name → port of loopback; `folder`: of all files."""
    certificate = {
        "certificate": str(folder / f"web-{change.certificate}.pem"),
        "key": str(folder / f"web-{change.certificate}.key"),
    }
    pool = {
        "backends": {
            name: {"address": f"127.0.0.1:{port}", "weight": weight}
            for (name, port), weight in zip(backends.items(), change.weights, strict=True)
        },
        "fail_timeout": FAIL_TIMEOUT,
        "reuse": change.reuse,
    }
    site = {
        "hosts": ["*"],
        "default": True,
        "pool": "app",
        "upgrade": ["websocket"],
        "max_body": "16MiB",
        "response_headers": {"set": {GENERATION: str(change.generation)}},
    }
    web = {
        "listen": [
            {"address": "127.0.0.1", "port": ports.plain},
            {"address": "127.0.0.1", "port": ports.tls, "tls": {"certificates": [certificate]}},
        ],
        "timeouts": {"idle": change.idle, "head": 5, "handshake": 5, "body": 5, "write": 5},
        "sites": [site],
        "pools": {"app": pool},
    }
    return {
        "node": "soak",
        "state": str(folder / "state"),
        "monitor": {"listen": f"127.0.0.1:{monitor}"},
        "log": {"access": str(folder / "access.log"), "format": "haproxy"},
        "array": {"web": web},
    }


def bad(good: dict[str, Any], what: str) -> str:
    """A file's text that must change nothing; `what`: one of BAD."""
    copy: dict[str, Any] = json.loads(json.dumps(good))
    web = copy["array"]["web"]
    # Were it taken, it would be seen.
    web["sites"][0]["response_headers"]["set"][GENERATION] = "bad"
    if what == "unknown key":
        web["nonsense"] = 1
    elif what == "no certificate":
        web["listen"][1]["tls"]["certificates"][0]["certificate"] += ".absent"
    elif what == "no pool":
        web["sites"][0]["pool"] = "absent"
    text = json.dumps(copy, indent=1)
    return text[: len(text) // 2] if what == "broken YAML" else text
