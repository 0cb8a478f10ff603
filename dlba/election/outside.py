"""Names what the election needs of the rest of a node: the packet path and the channel.

Pure: protocols only. `dlba.electing` gives both.
"""

from __future__ import annotations

from typing import Protocol

from dlba.election.messages import Message

__all__ = ["Routing", "Wire"]


class Routing(Protocol):
    """What the election needs of the packet path; nodes by their numbers."""

    @property
    def fault(self) -> str:
        """Why this node can't be scheduler; empty: it can."""

    @property
    def able(self) -> bool:
        """Whether this node itself can take flows."""

    def alive(self, now: float) -> None:
        """First of all in a turn: was this process absent? `absent` is called from here then."""

    def schedule(self, now: float) -> None:
        """Be scheduler. Raises OSError or DLBAError if that can't be."""

    def step_down(self) -> None:
        """Be scheduler no more."""

    def quiet(self) -> None:
        """Announce nothing and answer no ARP, pass frames on as before."""

    def late(self) -> None:
        """Pass frames on by the table as it is, which is another node's to change."""

    def mute(self, on: bool) -> None:
        """No frame, no ARP; or both again, without the frames that waited meanwhile."""

    def probe_vip(self) -> None:
        """Ask by ARP who has the VIP."""

    def lack(self, number: int, what: str, lacking: bool, why: str = "") -> None:
        """A node has failed while it lacks anything."""

    def hold(self, number: int, on: bool) -> None:
        """A node gets nothing new."""

    def drain_node(self, number: int, on: bool) -> None:
        """A node drains."""

    def status_of(
        self, number: int, hits: int, open_connections: int, average_response: float
    ) -> None:
        """What a node said of itself."""


class Wire(Protocol):
    """What the election needs of the channel: see `dlba.election.channel`."""

    def send(self, number: int, message: Message) -> bool:
        """Send, or say that it can't be."""

    def hurry(self, number: int) -> None:
        """Try now to reach a node to which there is no channel."""
