"""Decides when the VIP is announced, which ARP frames are answered, and what is a conflict.

The scheduler answers who-has VIP and announces the VIP: a burst at once (or after a few probes,
10 ms apart, which bring a rival to light), again a second later, then every ten seconds, so that a
host or switch that missed the first ones learns it. Each later round begins with a probe: who
answers for the VIP without announcing it shows itself no other way. Anyone else is silent and only
notes whose MAC the VIP has. While this node is scheduler, an answer or announcement for the VIP
from another MAC is a conflict: counted, its MAC kept in `rival` for the log and the election, and
answered by announcing again, at most once a second, lest two nodes chase each other. It never
changes a role: anyone can send such a frame.

Timers are data: the adapter sends what `due(now)` returns and calls again at `next_at`. Late calls
don't pile up: what was missed is sent once. Source: routing.md "ARP"; RFC 5227 section 2.4.
"""

from __future__ import annotations

from math import inf
from typing import Final

from dlba.addresses import is_unicast
from dlba.routing import arp

__all__ = ["CONFLICT", "COUNTERS", "Announcer"]

#: Pairs of announcements at a takeover and once more after `SECOND`: frames get lost.
BURST: Final = 3
#: Seconds between two probes.
PROBE_GAP: Final = 0.01
#: Seconds from the first burst to the second: Linux holds on to a fresh entry for one (locktime).
SECOND: Final = 1.0
#: Seconds between later announcements: below the shortest usual ageing of switches and ARP tables.
EVERY: Final = 10.0
#: Seconds between announcements in a conflict, at least.
DEFEND: Final = 1.0

ANSWERED: Final = "arp_answered"
CONFLICT: Final = "arp_conflicts"
CLAIM: Final = "arp_claims"
OTHER: Final = "arp_other"
MALFORMED: Final = "arp_malformed"

#: Counter → what one more of it means. `Announcer.hear()` names exactly one for a frame.
COUNTERS: Final[dict[str, str]] = {
    ANSWERED: "questions for the VIP answered",
    CONFLICT: "frames by which another MAC claims the VIP while this node is scheduler",
    CLAIM: "frames that tell who has the VIP while this node isn't scheduler",
    OTHER: "ARP frames that need nothing done",
    MALFORMED: "ARP frames that aren't requests or replies for Ethernet and IPv4",
}


class Announcer:
    """One node's part in ARP for the VIP. `vip`: 4 bytes; `mac`: its scheduler MAC, 6 bytes."""

    def __init__(self, vip: bytes, mac: bytes) -> None:
        if len(vip) != 4 or len(mac) != 6:
            raise ValueError(f"announcer: expected 4 and 6 bytes, got {len(vip)} and {len(mac)}")
        self._vip = vip
        self._mac = mac
        self._pair = arp.announcements(vip, mac)
        self._question = arp.probe(vip, mac)
        self._probes = 0  # still to come
        self._bursts = 0  # still to come
        self._sent = -inf
        #: Seconds, monotonic: when `due()` has something to send; inf while not scheduler.
        self.next_at = inf
        #: The MAC that has the VIP by the last ARP frame that said so: who is scheduler.
        self.holder: bytes | None = None
        #: The last MAC in conflict with ours since `start()`.
        self.rival: bytes | None = None

    @property
    def active(self) -> bool:
        """Whether this node answers for the VIP."""
        return self.next_at != inf

    def start(self, now: float, probes: int = 0) -> None:
        """This node is scheduler: announce from now on. Once more: announce all over again.

        `probes`: how many come first. An answer to one is a conflict like any other.
        """
        self._probes = probes
        self._bursts = 2
        self.next_at = now
        self.holder = self._mac
        self.rival = None

    def stop(self) -> None:
        """This node isn't scheduler (any more): be silent."""
        self.next_at = inf
        self.rival = None

    def due(self, now: float) -> tuple[bytes, ...]:
        """The frames to send now, in order; empty before `next_at`."""
        if now < self.next_at:
            return ()
        if self._probes:
            self._probes -= 1
            self.next_at = now + PROBE_GAP
            return (self._question,)
        self._sent = now
        if not self._bursts:
            self.next_at = now + EVERY
            return (self._question, *self._pair)
        self._bursts -= 1
        self.next_at = now + (SECOND if self._bursts else EVERY)
        return self._pair * BURST

    def defend(self, now: float) -> None:
        """Somebody may have taught the network another place for our MAC or the VIP: announce soon.

        Not before `DEFEND` after the last announcement. Of no effect while not scheduler.
        """
        if self.active:
            self.next_at = min(self.next_at, max(now, self._sent + DEFEND))

    def hear(self, frame: bytes | bytearray | memoryview, now: float) -> tuple[str, bytes | None]:
        """Take in a received ARP frame: its counter, and the answer to send if it needs one.

        After `CONFLICT`, `next_at` may have come nearer, and `rival` is the other MAC.
        """
        packet = arp.parse(frame)
        if packet is None:
            return MALFORMED, None
        mac = arp.claimant(packet, self._vip)
        if not self.active:
            if mac is None or not is_unicast(mac):
                return OTHER, None
            self.holder = mac
            return CLAIM, None
        if mac is not None and mac != self._mac:
            self.rival = mac
            self.defend(now)
            return CONFLICT, None
        reply = arp.answer(packet, self._vip, self._mac)
        return (OTHER, None) if reply is None else (ANSWERED, reply)
