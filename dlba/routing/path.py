"""Decides what becomes of each frame that the scheduler gets: which node, which answer, or nothing.

One call of `route` a frame. Client frames are classified, their flow's bucket names the node, and
the answer is the 12 bytes of MAC addresses that take the frame there; `LOCAL` is this node itself.
What needs an answer of ours (ARP, echo) puts it into `replies`, which the adapter sends after the
wake. Every frame adds one to exactly one counter, by its kind; where a routed one ended is counted
beside that.

| kind | becomes |
|---|---|
| TCP, LATE | its bucket's node, placed if it has none |
| FIRST_FRAGMENT | the same, and its later fragments learn of it |
| LATER_FRAGMENT | where the first one went; unknown: dropped |
| ICMP_ERROR | the node that has the flow; it never places a bucket |
| ECHO | answered |
| LOCAL | this node's kernel |
| ARP | taken in by `announce` and `reach`, answered where it asks for the VIP |
| LOOPED | dropped; the VIP is announced again, since switches have learnt another place for it |
| the others | dropped |

A node that isn't scheduler routes nothing: frames for its scheduler MAC, if any come, are late.

An elected scheduler that was absent (stopped, starved) may have been replaced meanwhile. The first
wake after the gap mutes it before any frame is looked at: what has waited is discarded, no ARP is
answered and nothing announced until whoever decides its role says `mute(False)`.

Pure: frames and `now` in, values out. Source: routing.md "The frame path", "ARP".
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final

import attrs

from dlba.routing import announce, arp, kinds
from dlba.routing.announce import Announcer
from dlba.routing.bpf import VLAN_MARK
from dlba.routing.echo import echo_reply
from dlba.routing.fragments import Fragments
from dlba.routing.frame import Filter, classify, fragment_key
from dlba.routing.hashtable import UNASSIGNED, second_of
from dlba.routing.kinds import IGNORED, Kind
from dlba.routing.reach import Reach
from dlba.routing.scheduler import Scheduler

__all__ = ["ABSENT", "COUNTERS", "LOCAL", "FramePath"]

#: Questions whether anyone holds the VIP, before the first announcement.
PROBES: Final = 3
#: Seconds between two signs of life, above which a node was absent that nobody else replaces.
ABSENT: Final = 2.0
#: The link header that stands for this node's own kernel.
LOCAL: Final = b""

_TCP: Final = Kind.TCP
_NAMES: Final = tuple(kinds.COUNTERS)
#: Kinds whose frames go to a node.
_ROUTED: Final = (
    Kind.TCP,
    Kind.LATE,
    Kind.FIRST_FRAGMENT,
    Kind.LATER_FRAGMENT,
    Kind.ICMP_ERROR,
)

#: Counter name → what one more of it means.
COUNTERS: Final[dict[str, str]] = {
    "frames_forwarded": "frames given to another node",
    "frames_own": "frames given to this node's own kernel",
    "frames_nobody": "frames of a flow that no node can take: all failed, disabled or draining;"
    " or that none has, at a scheduler that stops while another one is there",
    "frames_no_flow": "ICMP errors about a flow that no node has",
    "frames_not_scheduler": "clients' frames while this node isn't scheduler",
    "frames_absent": "clients' frames that waited while this node was absent: discarded",
    **kinds.COUNTERS,
    **announce.COUNTERS,
    "frame_errors": "exceptions caught at a frame: a bug, see the log",
    "fragments_evicted": "first fragments forgotten before their time: a sign of a flood",
}


class FramePath:
    """What one node does with frames, scheduler or not.

    `rules`: of this node; `scheduler`: the client table and the server status table; `announcer`:
    its part in ARP; `reach`: who is there; `headers`: node number → link header
    (`frame.link_header`) of every node of the array, `LOCAL` for this one. `absent_after`: seconds
    between two signs of life above which this node was absent; `elected`: others may become
    scheduler meanwhile. Starts as no scheduler.
    """

    def __init__(
        self,
        rules: Filter,
        scheduler: Scheduler,
        announcer: Announcer,
        reach: Reach,
        headers: Mapping[int, bytes],
        absent_after: float = ABSENT,
        elected: bool = False,
    ) -> None:
        self._active = attrs.evolve(rules, scheduler=True)
        # What offloads have merged was several frames within the MTU.
        self._merged = attrs.evolve(self._active, mtu=0xFFFF)
        self._idle = attrs.evolve(rules, scheduler=False)
        self._choose = scheduler.choose
        self._table = scheduler.table
        self._fragments = Fragments()
        self._headers = dict(headers)
        self._now = 0.0
        self._alive_at = inf  # until told
        self._second = 0
        self._counts = [0] * len(_NAMES)
        self._arp_counts = dict.fromkeys(announce.COUNTERS, 0)
        self._own = self._nobody = self._no_flow = self._not_scheduler = self._absent = 0
        self._absent_after = absent_after
        self._elected = elected
        #: Active and not mute: the one question that each frame asks.
        self._routes = False
        self._quiet = False
        self.scheduler = scheduler
        self.announcer = announcer
        self.reach = reach
        #: Whether this node is scheduler.
        self.active = False
        #: Whether it keeps still all the same.
        self.muted = False
        #: Seconds that an elected node was absent; who has seen to it sets it to 0.
        self.gap = 0.0
        #: MACs that have the VIP by ARP frames of this wake, for an elected node; the adapter
        #: empties it.
        self.claims: dict[bytes, None] = {}
        #: Frames to send after the wake, in order.
        self.replies: list[bytes] = []
        #: Exceptions at a frame, which the adapter caught.
        self.errors = 0

    def set_mtu(self, mtu: int) -> None:
        """The interface's MTU is `mtu` bytes."""
        if mtu == self._active.mtu:
            return
        self._active = attrs.evolve(self._active, mtu=mtu)
        self._idle = attrs.evolve(self._idle, mtu=mtu)

    def activate(self, active: bool, now: float, probes: int = PROBES) -> None:
        """Be scheduler from now on, or no more. Buckets count as just used (seed).

        `probes`: before the first announcement; a candidate that has probed needs none.
        """
        self.active = self._routes = active
        self.muted = self._quiet = False
        self._choose = self.scheduler.choose
        if active:
            self.scheduler.table.touch_all(second_of(now))
            self.announcer.start(now, probes)
        else:
            self.announcer.stop()
            self.replies.clear()

    def mute(self, on: bool, now: float) -> None:
        """A scheduler discards all frames, answers and announces nothing, or goes on."""
        if not self.active or on == self.muted:
            return
        self.muted = on
        self._routes = not on
        if on:
            self.announcer.stop()
            self.replies.clear()
        elif not self._quiet:
            self.announcer.start(now)

    def quiet(self) -> None:
        """Another node becomes scheduler: no ARP from here on; frames go on till they stop."""
        self._quiet = True
        self.announcer.stop()
        self.replies.clear()

    def late(self) -> None:
        """Another node is scheduler: frames go by the table, a copy of its own, and place nothing.

        What comes here is on the way since before, or from who has missed the announcements.
        """
        if self.active:
            self._choose = self._known

    def _known(self, address: int, port: int, now: int) -> int:
        """The node that has the flow; UNASSIGNED: none."""
        return self._table.node_of(self.scheduler.bucket_of(address, port))

    def announce(self, now: float) -> None:
        """Announce all over again: whoever forgot our MAC, a switch above all, learns it anew."""
        if self._routes and not self._quiet:
            self.announcer.start(now)

    def alive(self, now: float) -> None:
        """This node runs at `now`; told several times in `absent_after` seconds.

        After a longer gap (stopped, starved) frames have waited meanwhile, so how long a bucket was
        silent is unknown: all count as just used. An elected node's `gap` says so.
        """
        if now > self._alive_at + self._absent_after:
            self.scheduler.table.touch_all(second_of(now))
            if self._elected:
                self.gap = max(self.gap, now - self._alive_at)
                self.mute(True, now)
        self._alive_at = now

    def wake(self, now: float) -> None:
        """The time of the frames that follow. `now`: seconds, monotonic."""
        self._now = now
        self._second = second_of(now)
        if now > self._alive_at + self._absent_after:
            self.alive(now)

    # ---------------------------------------------------------------- for every frame

    def route(self, frame: memoryview, merged: int) -> bytes | None:
        """Where `frame` goes: a link header, `LOCAL`, or None for nowhere. Never raises.

        `merged`: not 0 if the kernel's offloads made it out of several.
        """
        if not self._routes:
            self._pass_by(frame, merged)
            return None
        kind, address, port = classify(frame, self._merged if merged else self._active)
        if kind is _TCP:
            self._counts[0] += 1
            header = self._headers.get(self._choose(address, port, self._second))
            if header:
                return header
            if header is None:
                self._nobody += 1
            else:
                self._own += 1
            return header
        return self._other(kind, address, port, frame)

    def _other(self, kind: Kind, address: int, port: int, frame: memoryview) -> bytes | None:
        """What isn't plain TCP."""
        if kind is Kind.ARP:
            self._hear(frame)
            return None
        node = UNASSIGNED
        if kind is Kind.LATE:
            node = self._choose(address, port, self._second)
        elif kind is Kind.FIRST_FRAGMENT:
            self._fragments.teach(fragment_key(frame), port, self._now)
            node = self._choose(address, port, self._second)
        elif kind is Kind.LATER_FRAGMENT:
            port = self._fragments.port(fragment_key(frame), self._now)
            if port < 0:
                kind = Kind.UNKNOWN_FRAGMENT
            else:
                node = self._choose(address, port, self._second)
        elif kind is Kind.ICMP_ERROR:
            node = self._table.node_of(self.scheduler.bucket_of(address, port))
        elif kind is Kind.RUNT and len(frame) == VLAN_MARK:
            kind = Kind.VLAN
        elif kind is Kind.LOOPED:
            self._looped(frame)
        self._counts[kind] += 1
        if kind >= IGNORED:
            return None
        if kind is Kind.ECHO:
            self.replies.append(echo_reply(frame, self._active.scheduler_mac))
            return None
        header = LOCAL if kind is Kind.LOCAL else self._headers.get(node)
        if header is None:
            if kind is Kind.ICMP_ERROR:
                self._no_flow += 1
            else:
                self._nobody += 1
        elif not header:
            self._own += 1
        return header

    def _hear(self, frame: memoryview) -> None:
        self._counts[Kind.ARP] += 1
        counter, reply = self.announcer.hear(frame, self._now)
        self._arp_counts[counter] += 1
        self._claimed(counter)
        packet = arp.parse(frame)
        if packet is not None:
            self.reach.hear(packet)
        if reply is not None:
            self.replies.append(reply)

    def _looped(self, frame: memoryview) -> None:
        """A frame from outside with our own source."""
        packet = arp.parse(frame)
        if packet is not None:
            # Another MAC may claim the VIP in it.
            counter, _ = self.announcer.hear(frame, self._now)
            if counter == announce.CONFLICT:
                self._arp_counts[counter] += 1
                self._claimed(counter)
        self.announcer.defend(self._now)

    def _claimed(self, counter: str) -> None:
        """Keep whose MAC the VIP has by a frame that the announcer has just heard."""
        if self._elected:
            who = self.announcer
            mac = {announce.CLAIM: who.holder, announce.CONFLICT: who.rival}.get(counter)
            if mac is not None:
                self.claims[mac] = None

    def _pass_by(self, frame: memoryview, merged: int) -> None:
        """A frame while this node isn't scheduler, or is mute."""
        if self.active:
            kind, _, _ = classify(frame, self._merged if merged else self._active)
        else:
            kind, _, _ = classify(frame, self._idle)
        if kind is Kind.ARP:
            self._hear(frame)
        elif kind < IGNORED and self.active:
            self._absent += 1
        elif kind < IGNORED:
            self._not_scheduler += 1
        else:
            self._counts[kind] += 1

    # ---------------------------------------------------------------- for people

    @property
    def conflicts(self) -> int:
        """Frames by which another MAC claimed the VIP while this node was scheduler."""
        return self._arp_counts[announce.CONFLICT]

    def counters(self) -> dict[str, int]:
        """Every counter of `COUNTERS`, as of now."""
        counts = dict(zip(_NAMES, self._counts, strict=True))
        routed = sum(self._counts[kind] for kind in _ROUTED) + self._counts[Kind.LOCAL]
        return {
            "frames_forwarded": routed - self._own - self._nobody - self._no_flow,
            "frames_own": self._own,
            "frames_nobody": self._nobody,
            "frames_no_flow": self._no_flow,
            "frames_not_scheduler": self._not_scheduler,
            "frames_absent": self._absent,
            **counts,
            **self._arp_counts,
            "frame_errors": self.errors,
            "fragments_evicted": self._fragments.evicted,
        }
