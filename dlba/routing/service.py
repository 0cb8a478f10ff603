"""Runs the scheduler's part of a node: who reads frames, when it is scheduler, what it tells of it.

An adapter. `dlba.routing.path` says what becomes of each frame, `linkwatch` keeps the ports read,
`turn` announces, asks and judges, `standing` keeps what each node lacks.

Here the configuration says who is scheduler; where nodes elect it, see `dlba.routing.elected`.

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
from dlba.routing import kept
from dlba.routing.array import frame_path, scheduler_of
from dlba.routing.guardwatch import GuardWatch
from dlba.routing.hashtable import second_of
from dlba.routing.linkwatch import LinkWatch
from dlba.routing.needs import TUN
from dlba.routing.path import ABSENT
from dlba.routing.segment import Segment
from dlba.routing.standing import Standing
from dlba.routing.turn import Turn

__all__ = ["OwnStatus", "RoutingService"]

#: What a node lacks that doesn't answer ARP.
ARP: Final = "arp"
#: Seconds between own statuses, and looks at what changes seldom.
EVERY: Final = 1.0

#: Hits, open connections and average response (seconds) of this node.
OwnStatus = Callable[[], tuple[int, int, float]]


class RoutingService(Service):
    """`poller`: the data path's; `config`: with an interface, a VIP and nodes.

    `hash_key`: for `hash: keyed`; `own_status`: what this node's row says of it.
    """

    _log = Logger()
    #: Whether others say by calls when this node is scheduler.
    _elected = False

    def __init__(
        self,
        reactor: Any,
        poller: Poller,
        config: NodeConfig,
        hash_key: bytes | None,
        own_status: OwnStatus,
    ) -> None:
        assert config.interface is not None
        assert config.array.vip is not None
        array = config.array
        self._reactor = reactor
        self._poller = poller
        self._array = array
        self._own = array.nodes[config.node].number
        self._own_status = own_status
        self._interface = config.interface
        self._by_configuration = not self._elected and scheduler_of(array.nodes) == config.node
        self._state = config.state
        self._numbers = {node.name: node.number for node in array.nodes.values()}
        self._hash_name = kept.name_of_hash(array.routing.hash, hash_key)
        self._every_second: Any = None
        self.segment = Segment(array, config.node, config.interface, config.state)
        own_mac = array.routing.own_mac
        self.guard_watch = GuardWatch(reactor, self.segment.guard) if own_mac else None
        self.path = path = frame_path(array, config.node, 1500, hash_key, self._elected)
        self.standing = Standing(path.scheduler, in_force=not self._elected)
        tell = self._tell if self._elected else None
        self._links = LinkWatch(
            poller, self.segment, path, config.interface, tell, self._fault_changed
        )
        absent_after = array.election.down_after if self._elected else ABSENT
        self._turn = Turn(
            reactor,
            path,
            self.segment,
            self._links,
            self._judge,
            config.array.vip,
            absent_after,
            self._tell,
        )

    # ---------------------------------------------------------------- life

    def privilegedStartService(self) -> None:
        """Bring the kernel into the state that direct return needs.

        Raises OSError or DLBAError that says what is missing; nothing has changed then.
        """
        super().privilegedStartService()
        self.segment.open()
        self.path.set_mtu(self.segment.mtu())
        if self._by_configuration:
            # Here, where what can't be done stops the start; it is read from `startService` on.
            self.segment.schedule(True)

    def startService(self) -> None:
        """Read, and be scheduler if the configuration says so."""
        super().startService()
        self._poller.attach(self._reactor)
        if self._by_configuration:
            self._take_table()
            self._activate()
        else:
            kept.drop(self._state)  # others schedule meanwhile, or did
        self._log.info(
            "{role} of {vip} on {interface}, frames by {port}",
            role=self.role,
            vip=self._array.vip,
            interface=self._interface,
            port=self.segment.arp.name if self.segment.arp else "nobody",
        )
        if self.guard_watch is not None:
            self.guard_watch.startService()
        self._links.read()
        self._second()
        self._turn.take()

    def stopService(self) -> None:
        """Give the role up and put the kernel's settings back."""
        super().stopService()
        self._turn.stop()
        if self._every_second is not None and self._every_second.active():
            self._every_second.cancel()
        self._every_second = None
        if self.path.active:
            if not self._elected:
                self._keep_table()
            self.path.activate(False, time.monotonic())
        self._links.stop()
        self._poller.detach()
        if self.guard_watch is not None:
            self.guard_watch.stopService()
        self.segment.close()

    def undo(self) -> None:
        """The start of another part failed: put everything back."""
        self.segment.close()

    def drain(self) -> None:
        """This node stops soon: it gets no new buckets."""
        self.path.scheduler.drain(self._own)

    def _keep_table(self) -> None:
        """The next start shall not break the other nodes' connections."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        table = self.path.scheduler.table
        kept.keep(self._state, table, self._numbers, self._hash_name, now)

    def _take_table(self) -> None:
        now, table = time.clock_gettime(time.CLOCK_BOOTTIME), self.path.scheduler.table
        timeout = self._array.routing.bucket_timeout
        kept.take(self._state, table, self._numbers, self._hash_name, timeout, now)

    def _activate(self) -> None:
        now = time.monotonic()
        self.path.activate(True, now)
        self.path.reach.start(now)

    # ---------------------------------------------------------------- for whoever is elected

    def _tell(self) -> None:
        """A wake or a turn is over."""

    def _fault_changed(self) -> None:
        if not self._links.fault:
            # Whoever forgot our MAC, a switch above all, learns it anew.
            self.path.announce(time.monotonic())
        self._tell_of_fault(self._links.fault)

    def _tell_of_fault(self, why: str) -> None:
        if why:
            self._log.error("fault: {why}", why=why)
        else:
            self._log.info("{interface} is back", interface=self._interface)

    def _judge(self, number: int, alive: bool) -> None:
        """A node doesn't answer ARP, or does again: nobody else knows more of it."""
        name = self.path.scheduler.row(number).name
        count = self.standing.lack(number, ARP, not alive)
        if alive:
            self._log.info("node {name} answers again", name=name)
        else:
            self._log.warn(
                "node {name} doesn't answer: failed, {count} buckets freed",
                name=name,
                count=count or 0,
            )

    # ---------------------------------------------------------------- once a second

    def _second(self) -> None:
        """What may have changed about this node and its interface."""
        self._every_second = self._reactor.callLater(EVERY, self._second)
        self.path.scheduler.row(self._own).status(*self._own_status())
        self.path.set_mtu(self.segment.mtu())
        self._look_at_tun()

    # ---------------------------------------------------------------- for others

    def server_changed(self, alive: bool) -> None:
        """Prototype mode: this node's own server answers on the VIP, or no more."""
        self.standing.lack(self._own, "server", not alive)

    def _look_at_tun(self) -> None:
        """Without the TUN device no frame reaches this node's own kernel."""
        alive = self.segment.mend_tun()
        if alive != ("tun" not in self.standing.lacks(self._own)):
            if alive:
                self._log.info("{tun} is back", tun=TUN)
            else:
                self._log.error("{tun} is down: this node takes no flows of its own", tun=TUN)
            self.standing.lack(self._own, "tun", not alive)

    @property
    def role(self) -> str:
        """`scheduler`, `backup` or `fault`."""
        if self._links.fault:
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
