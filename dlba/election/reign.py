"""What a reign is, and which of two schedulers goes on when they meet.

Pure. A reign is one node's time as scheduler in one term. Two reigns meet when a split heals, or
when a scheduler that was stopped comes back. Then, in this order:

1. one that another node has granted or followed comes before one that is alone,
2. the higher term, 3. the higher priority, 4. the lower node number.

Source: election.md "Takeover".
"""

from __future__ import annotations

import attrs

__all__ = ["NodeInfo", "Reign", "better"]


@attrs.frozen
class NodeInfo:
    """What all nodes know of one from the configuration. `mac`: what the VIP has if it reigns."""

    number: int
    name: str
    priority: int
    enabled: bool
    mac: bytes


@attrs.frozen
class Reign:
    """`number`: the scheduler's; `alone`: no other node has granted or followed it."""

    term: int
    number: int
    alone: bool
    priority: int


def better(one: Reign, other: Reign) -> bool:
    """Whether `one` goes on and `other` ends, if they meet. Of two different ones one is better."""
    return _key(one) > _key(other)


def _key(reign: Reign) -> tuple[bool, int, int, int]:
    return not reign.alone, reign.term, reign.priority, -reign.number
