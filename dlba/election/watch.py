"""What a node knows of every other one, and when that is evidence that a scheduler is dead.

Pure. Evidence, in the order of `Evidence`:

1. GONE: the channel closed and a fresh connect was refused, or the node says hello with another
   incarnation, or it said itself that it ends or resigns: at once.
2. SILENT: no heartbeat for `down_after`, and ICMP echoes unanswered as long: the machine is gone.
3. HUNG: no heartbeat for 3 × `down_after` though its kernel answers: the process hangs.
4. UNANSWERED: nobody answers ARP for the VIP for `VIP_SILENCE`: the role is not being played.
5. NOBODY: there is no scheduler at all.

All times are seconds, monotonic. Source: election.md "Heartbeat and evidence of death".
"""

from __future__ import annotations

from enum import IntEnum
from math import inf
from typing import Final

from dlba.election.messages import Alive
from dlba.election.reign import NodeInfo

__all__ = ["HUNG_AFTER", "VIP_SILENCE", "Evidence", "Watch", "rank"]

#: A process hangs when it is silent for so many `down_after`.
HUNG_AFTER: Final = 3
#: Seconds without an answer for the VIP.
VIP_SILENCE: Final = 2.0


class Evidence(IntEnum):
    """Why a scheduler counts as dead; travels in a claim."""

    GONE = 1
    SILENT = 2
    HUNG = 3
    UNANSWERED = 4
    NOBODY = 5


class Watch:
    """What is known of one other node."""

    __slots__ = (
        "alive",
        "alive_at",
        "answered",
        "beat",
        "echo",
        "gone",
        "incarnation",
        "info",
        "up",
    )

    def __init__(self, info: NodeInfo, now: float) -> None:
        self.info = info
        #: Whether the channel to it is there.
        self.up = False
        #: Of the last process that said hello; empty before the first.
        self.incarnation = ""
        #: Its process is gone, and no other one has said hello since.
        self.gone = False
        #: What it last said of itself, over the channel that is there now.
        self.alive: Alive | None = None
        self.alive_at = -inf
        #: When it last followed this node's reign.
        self.answered = -inf
        #: Its last heartbeat as a scheduler.
        self.beat = now
        #: Its kernel's last answer to an echo request.
        self.echo = now

    def reset(self, now: float) -> None:
        """This node was absent itself: silence is counted from here."""
        self.beat = self.echo = now
        self.alive_at = max(self.alive_at, now)
        self.answered = now

    def shift(self, gap: float) -> None:
        """This node did nothing else for `gap` seconds: silence of that time doesn't count."""
        self.beat += gap
        self.echo += gap

    def evidence(self, down_after: float) -> tuple[Evidence, float]:
        """Evidence 2 or 3 against it as scheduler, whichever comes first, and when it is complete.

        That is, if nothing more is heard of it.
        """
        silent = max(self.beat, self.echo) + down_after
        hung = self.beat + HUNG_AFTER * down_after
        return (Evidence.SILENT, silent) if silent <= hung else (Evidence.HUNG, hung)

    def dead(self, now: float, down_after: float) -> bool:
        """Evidence 1 or 2 against it as a backup."""
        return self.gone or now > max(self.alive_at, self.echo) + down_after

    @property
    def eligible(self) -> bool:
        """Whether it may become scheduler, as far as is known here."""
        return self.up and self.info.enabled and (self.alive is None or self.alive.eligible)

    @property
    def draining(self) -> bool:
        """Whether it says that it drains."""
        return self.alive is not None and self.alive.draining


def rank(own: NodeInfo, draining: bool, others: dict[int, Watch], dead: int) -> int:
    """How many of the `others` come before this node when a scheduler is wanted.

    `draining`: whether this node drains; `dead`: the number of the one that doesn't count.
    """
    mine = (draining, -own.priority, own.number)
    return sum(
        watch.eligible and (watch.draining, -watch.info.priority, number) < mine
        for number, watch in others.items()
        if number != dead
    )
