"""Names what an elected node's routing tells whoever decides its role.

All of it comes from the reactor, after the wake or turn in which it happened, never from within a
call of theirs, but for `fault`, which `RoutingService.startService` may tell as well. They may call
the service's own methods (`schedule`, `step_down`, `mute`, …) at once.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["RoutingEvents"]


class RoutingEvents(Protocol):
    """Who decides about this node's role."""

    def vip_claimed(self, mac: bytes) -> None:
        """An ARP frame says that the VIP is at `mac`: an announcement, or an answer (to a probe,
        too). Anybody can send one. Once a wake for each MAC; never for this node's own frames.
        """

    def fault(self, why: str) -> None:
        """This node can't be scheduler, in words for the log; empty: it can again."""

    def absent(self, gap: float) -> None:
        """This process didn't run for `gap` seconds.

        A scheduler is mute by now, and the frames that waited are discarded: `mute(False)` when
        its role is sure again, or `step_down`.
        """

    def arp(self, number: int, silent: bool) -> None:
        """Node `number` doesn't answer this scheduler's ARP requests, or does again.

        Each node counts as answering when a reign begins. It may still live: see `Member.arp`.
        """

    def table_changed(self) -> None:
        """The scheduler's client table has another version than at the last call."""
