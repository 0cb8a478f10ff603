"""Keeps this node's kernel from answering for flows of other nodes, in own-MAC mode.

There clients' frames for the VIP come with the scheduler's own MAC, so its kernel would take them,
too, and reset the connections of all other nodes. One nftables rule on the interface drops IPv4
frames for the VIP unless another member sent them: those a scheduler has passed on. A VLAN tag with
VLAN 0 is a priority and nothing else, and makes no difference; frames of other VLANs are left
alone. The packet socket sees frames before the rule does.

The rule outlives a killed process. Left alone it drops what nobody would serve anyway; it is
removed at every start, whatever the mode. `dlba.routing.guardwatch` puts it back when it is lost.
An adapter over the program `nft`, in one transaction.

Source: routing.md "The frame path" 1.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import Final

from twisted.logger import Logger

from dlba.errors import DLBAError

__all__ = ["ENVIRONMENT", "TIMEOUT", "Guard", "missing"]

#: Seconds for `nft`.
TIMEOUT: Final = 10.0
_PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
#: For `nft`: found where programs of root are, complaints in English.
ENVIRONMENT: Final = {"PATH": _PATH, "LC_ALL": "C"}


def missing() -> str | None:
    """What keeps a node from own-MAC mode, None if nothing does."""
    if shutil.which("nft", path=_PATH) is None:
        return "own_mac: expected the program nft (Debian: nftables), got none"
    return None


class Guard:
    """`vip`: 4 bytes; `members`: the MACs of the other nodes, 6 bytes each."""

    _log = Logger()

    def __init__(self, interface: str, vip: bytes, members: Iterable[bytes]) -> None:
        self._interface = interface
        # nft takes letters, digits and a few signs; an interface may be eth0.100 or br-lan.
        self.table = "dlba_" + re.sub(r"[^A-Za-z0-9_]", "_", interface)
        self._vip = ".".join(map(str, vip))
        self._members = [mac.hex(":") for mac in members]

    @property
    def rules(self) -> str:
        """What `nft` is told to put the rule up, in place of a former one."""
        others = f"ether saddr != {{ {', '.join(self._members)} }} " if self._members else ""
        return (
            f"table netdev {self.table}\n"
            f"delete table netdev {self.table}\n"
            f"table netdev {self.table} {{\n"
            "  chain ingress {\n"
            f'    type filter hook ingress device "{self._interface}" priority -500; '
            "policy accept;\n"
            # The kernel keeps the tag beside the frame: `ip daddr` alone asks for the ether type,
            # which is the tag's then; `meta protocol` is what comes after it.
            "    vlan id != 0 accept\n"
            f"    {others}meta protocol ip ip daddr {self._vip} counter drop\n"
            "  }\n"
            "}\n"
        )

    def is_in(self, listing: str) -> bool:
        """Whether the rule is in what `nft list table netdev` says of `table`."""
        rules = (line.split() for line in listing.splitlines())
        dropping = (rule for rule in rules if rule[-1:] == ["drop"])
        return "hook ingress" in listing and any(self._vip in rule for rule in dropping)

    def apply(self) -> None:
        """Put the rule up, in place of a former one. Raises DLBAError."""
        lacking = missing()
        if lacking is not None:
            raise DLBAError(lacking)
        problem = self._run(self.rules)
        if problem:
            raise DLBAError(f"own_mac: nft: expected the rule to be taken, got: {problem}")

    def remove(self) -> None:
        """Take the rule down if it is there; without `nft` there is none of ours.

        Tells the log, and goes on, when it stays: this node's kernel won't see a client then.
        """
        if missing() is not None:
            return
        # "table" first, so that there is one to delete: no error where there was none.
        table = f"table netdev {self.table}"
        problem = self._run(f"{table}\ndelete {table}\n")
        # A kernel without such tables complains as well, and is right.
        if problem and not self._run(f"list {table}\n"):
            self._log.error("own_mac: nft: {table} stays: {problem}", table=table, problem=problem)

    def _run(self, rules: str) -> str:
        """Give `nft` the rules; what it complains of, empty if it took them."""
        try:
            run = subprocess.run(
                ["nft", "-f", "-"],  # noqa: S607 - looked for in _PATH
                input=rules,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
                env=ENVIRONMENT,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if run.returncode:
            return " ".join(run.stderr.split())[:500] or f"exit code {run.returncode}"
        return ""
