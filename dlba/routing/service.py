"""Runs the scheduler's part of a node, whoever decides when it is scheduler.

An adapter. `dlba.routing.path` says what becomes of each frame, `linkwatch` keeps the ports read,
`turn` announces, asks and judges, `standing` keeps what each node lacks.

Who is scheduler says the configuration (`dlba.routing.configured`) or an election
(`dlba.routing.elected`): these two fill in what is left open here.

A port that fails, or a link without carrier, makes the node's role `fault` until it is back.

Source: routing.md "The frame path", "ARP"; election.md "Time", "Takeover".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.logger import Logger

from dlba.config.values import NodeConfig
from dlba.poller import Poller
from dlba.routing.array import frame_path
from dlba.routing.guardwatch import GuardWatch
from dlba.routing.hashtable import second_of
from dlba.routing.linkwatch import LinkWatch
from dlba.routing.needs import TUN
from dlba.routing.path import ABSENT
from dlba.routing.segment import Segment
from dlba.routing.standing import Standing
from dlba.routing.turn import Turn

__all__ = ["OwnStatus", "RoutingService"]

#: Seconds between own statuses, and looks at what changes seldom.
EVERY: Final = 1.0

#: Hits, open connections and average response (seconds) of this node.
OwnStatus = Callable[[], tuple[int, int, float]]


class RoutingService(Service):
    """`poller`: the data path's; `config`: with an interface, a VIP and nodes.

    `hash_key`: for `hash: keyed`; `own_status`: what this node's row says of it; `elected`: another
    node may become scheduler meanwhile.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        poller: Poller,
        config: NodeConfig,
        hash_key: bytes | None,
        own_status: OwnStatus,
        elected: bool,
    ) -> None:
        assert config.interface is not None
        assert config.array.vip is not None
        array = config.array
        self._reactor = reactor
        self._poller = poller
        self._array = array
        self.own = array.nodes[config.node].number
        self._own_status = own_status
        self.interface = config.interface
        self._every_second: Any = None
        self.segment = Segment(array, config.node, config.interface, config.state)
        own_mac = array.routing.own_mac
        self.guard_watch = GuardWatch(reactor, self.segment.guard) if own_mac else None
        self.path = path = frame_path(array, config.node, 1500, hash_key, elected)
        self.standing = Standing(path.scheduler, in_force=not elected)
        self.links = LinkWatch(
            poller, self.segment, path, config.interface, self.tell, self._fault_changed
        )
        absent_after = array.election.down_after if elected else ABSENT
        self.turn = Turn(
            reactor,
            path,
            self.segment,
            self.links,
            self.judge,
            config.array.vip,
            absent_after,
            self.tell,
        )

    # ---------------------------------------------------------------- life

    def privilegedStartService(self) -> None:
        """Bring the kernel into the state that direct return needs.

        Raises OSError or DLBAError that says what is missing; nothing has changed then.
        """
        super().privilegedStartService()
        self.segment.open()
        self.path.set_mtu(self.segment.mtu())

    def startService(self) -> None:
        """Read."""
        super().startService()
        self._poller.attach(self._reactor)
        self.begin()
        self._log.info(
            "{role} of {vip} on {interface}, frames by {port}",
            role=self.role,
            vip=self._array.vip,
            interface=self.interface,
            port=self.segment.arp.name if self.segment.arp else "nobody",
        )
        if self.guard_watch is not None:
            self.guard_watch.startService()
        self.links.read()
        self._second()
        self.turn.take()

    def stopService(self) -> None:
        """Give the role up and put the kernel's settings back."""
        super().stopService()
        self.turn.stop()
        if self._every_second is not None and self._every_second.active():
            self._every_second.cancel()
        self._every_second = None
        if self.path.active:
            self.end()
            self.path.activate(False, time.monotonic())
        self.links.stop()
        self._poller.detach()
        if self.guard_watch is not None:
            self.guard_watch.stopService()
        self.segment.close()

    def undo(self) -> None:
        """The start of another part failed: put everything back."""
        self.segment.close()

    def drain(self) -> None:
        """This node stops soon: it gets no new buckets."""
        self.path.scheduler.drain(self.own)

    # ---------------------------------------------------------------- for whoever decides the role

    def begin(self) -> None:
        """The service starts: take the role on, if it is this node's by now."""

    def end(self) -> None:
        """The service of a scheduler stops; its table is still there."""

    def tell(self) -> None:
        """A wake or a turn is over."""

    def judge(self, number: int, alive: bool) -> None:
        """A node doesn't answer ARP, or does again."""
        raise NotImplementedError

    def tell_of_fault(self, why: str) -> None:
        """The interface or a port has failed; `why` empty: it is back."""
        raise NotImplementedError

    def _fault_changed(self) -> None:
        if not self.links.fault:
            # Whoever forgot our MAC, a switch above all, learns it anew.
            self.path.announce(time.monotonic())
        self.tell_of_fault(self.links.fault)

    # ---------------------------------------------------------------- once a second

    def _second(self) -> None:
        """What may have changed about this node and its interface."""
        self._every_second = self._reactor.callLater(EVERY, self._second)
        self.path.scheduler.row(self.own).status(*self._own_status())
        self.path.set_mtu(self.segment.mtu())
        self._look_at_tun()

    # ---------------------------------------------------------------- for others

    def server_changed(self, alive: bool) -> None:
        """Prototype mode: this node's own server answers on the VIP, or no more."""
        self.standing.lack(self.own, "server", not alive)

    def _look_at_tun(self) -> None:
        """Without the TUN device no frame reaches this node's own kernel."""
        alive = self.segment.mend_tun()
        if alive != ("tun" not in self.standing.lacks(self.own)):
            if alive:
                self._log.info("{tun} is back", tun=TUN)
            else:
                self._log.error("{tun} is down: this node takes no flows of its own", tun=TUN)
            self.standing.lack(self.own, "tun", not alive)

    @property
    def role(self) -> str:
        """`scheduler`, `backup` or `fault`."""
        if self.links.fault:
            return "fault"
        return "scheduler" if self.path.active else "backup"

    def where(self, address: int, port: int) -> dict[str, Any]:
        """Where a client's flow goes now, and why, as `dlba where` is told; both as numbers."""
        scheduler = self.path.scheduler
        found = scheduler.where(address, port, second_of(time.monotonic()))
        names = {row.number: row.name for row in scheduler.rows}
        return {
            "bucket": found.bucket,
            "owner": names.get(found.owner),
            "node": names.get(found.node),
            "age": found.age,
            "why": found.why.name,
            "because": found.why.value,
            "hash": self._array.routing.hash,
        }

    def counters(self) -> dict[str, int]:
        """What the frames were, and what the ports count."""
        counters = self.path.counters() | self.segment.counters()
        if self.guard_watch is not None:
            counters["guard_restored"] = self.guard_watch.restored
        return counters
