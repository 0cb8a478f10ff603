"""What the election asks its adapter to do, as values, in the order in which it is to be done.

Pure. Node numbers name nodes. An adapter that can't carry out a `Store` drops what follows it, so
that no grant or claim leaves that isn't on disk.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

from dlba.election.messages import Message

__all__ = [
    "GATEWAY",
    "Command",
    "Dial",
    "Drain",
    "Echo",
    "Hold",
    "Lack",
    "Late",
    "Mute",
    "ProbeVip",
    "Quiet",
    "Schedule",
    "Send",
    "Sign",
    "StatusOf",
    "StepDown",
    "Store",
    "Tell",
]

#: In `Echo`: the tracked gateway instead of a node.
GATEWAY = -1


@attrs.frozen
class Send:
    """Over the channel, if there is one to `number` just now."""

    number: int
    message: Message


@attrs.frozen
class Store:
    """Write the term and whom it was granted to; on disk before anything that follows."""

    term: int
    granted: int


@attrs.frozen
class Schedule:
    """Be scheduler: packet path on, announce the VIP."""

    term: int


@attrs.frozen
class StepDown:
    """Be scheduler no more: first no announcement, then no frame."""


@attrs.frozen
class Quiet:
    """Announce nothing and answer no ARP any more, but pass frames on as before."""


@attrs.frozen
class Late:
    """After `Quiet`: another node's table counts now, this one's is a copy of it. Pass frames on by
    what it says, and place none.
    """


@attrs.frozen
class Mute:
    """No frame and no ARP (`on`), or both again."""

    on: bool


@attrs.frozen
class ProbeVip:
    """Ask by ARP who has the VIP."""


@attrs.frozen
class Echo:
    """Send an ICMP echo request to a node, or to the GATEWAY."""

    number: int


@attrs.frozen
class Dial:
    """The machine of a node is there, the channel to it isn't: try now, if that is rare enough."""

    number: int


@attrs.frozen
class Lack:
    """A node has failed while it lacks anything. `what`: one word; `why`: for the log."""

    number: int
    what: str
    on: bool
    why: str = ""


@attrs.frozen
class Hold:
    """A node gets nothing new while `on`."""

    number: int
    on: bool


@attrs.frozen
class Drain:
    """A node says that it drains, or no more."""

    number: int
    on: bool


@attrs.frozen
class StatusOf:
    """What a node has said of itself: see `messages.Report`."""

    number: int
    hits: int
    open_connections: int
    average_response: float
    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Sign:
    """The scheduler names the key that signs cookies: its id, or empty."""

    id: str


@attrs.frozen
class Tell:
    """A line for the log."""

    level: Literal["info", "warn", "error"]
    text: str


Command: TypeAlias = (
    Send
    | Store
    | Schedule
    | StepDown
    | Quiet
    | Late
    | Mute
    | ProbeVip
    | Echo
    | Dial
    | Lack
    | Hold
    | Drain
    | StatusOf
    | Sign
    | Tell
)
