"""Makes the changes that `dlba doctor --fix` asks for.

An adapter; which ones are safe, and in which order, `dlba.doctor.findings` says. They are those
that a node makes at its start, made in the same way, so that a node that starts or stops later
finds them as its own. Nothing is kept on the disk.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlba.routing.links import add_address
from dlba.routing.needs import LABEL, Change
from dlba.routing.offloads import switch_feature
from dlba.routing.sysctls import write_sysctl

__all__ = ["fix"]


def fix(changes: Sequence[Change]) -> list[tuple[Change, str | None]]:
    """Make the changes in their order; each with why it could not be made, None if it was.

    After a sysctl that failed no address is added: the kernel might answer ARP for it.
    """
    done: list[tuple[Change, str | None]] = []
    failed = False
    for change in changes:
        if failed and change.kind == "address":
            done.append((change, "not tried after what failed before"))
            continue
        try:
            _make(change)
        except OSError as error:
            failed = failed or change.kind == "sysctl"
            done.append((change, error.strerror or str(error)))
        else:
            done.append((change, None))
    return done


def _make(change: Change) -> None:
    if change.kind == "sysctl":
        write_sysctl(change.device, change.key, change.wanted)
    elif change.kind == "feature":
        switch_feature(change.device, change.key, bool(change.wanted))
    else:
        add_address(change.device, change.key, LABEL)
