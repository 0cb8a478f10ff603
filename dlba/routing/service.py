"""Runs the scheduler's part of a node: reads frames, answers ARP, asks who is there.

An adapter. Frames are read in wakes of at most `BATCH`; `dlba.routing.path` says what becomes of
each. One timer serves announcements and questions: it reads the answers that wait before anybody is
judged by their absence, and judges nobody while this node's own link is down or answers were lost.

A port that fails, or a link without carrier, makes the node's role `fault` until it is back.

Source: routing.md "The frame path", "ARP"; election.md "Time".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Any, Final

from twisted.application.service import Service
from twisted.logger import Logger

from dlba.config.values import NodeConfig
from dlba.poller import Poller
from dlba.routing import kept
from dlba.routing.array import frame_path, scheduler_of
from dlba.routing.guardwatch import GuardWatch
from dlba.routing.hashtable import second_of
from dlba.routing.linkport import LinkPort
from dlba.routing.needs import TUN
from dlba.routing.reader import PortReader
from dlba.routing.segment import Segment

__all__ = ["RoutingService"]

#: Seconds between two looks whether a lost interface is back, and between own statuses.
EVERY: Final = 1.0
#: Seconds between two log lines of one kind that others can cause.
SELDOM: Final = 10.0

#: Hits, open connections and average response (seconds) of this node.
OwnStatus = Callable[[], tuple[int, int, float]]


class RoutingService(Service):
    """`poller`: the data path's; `config`: with an interface, a VIP and nodes.

    `hash_key`: for `hash: keyed`; `own_status`: what this node's row says of it.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        poller: Poller,
        config: NodeConfig,
        hash_key: bytes | None,
        own_status: OwnStatus,
    ) -> None:
        assert config.interface is not None
        self._reactor = reactor
        self._poller = poller
        self._array = config.array
        self._own = config.array.nodes[config.node].number
        self._own_status = own_status
        self._interface = config.interface
        self._is_scheduler = scheduler_of(config.array.nodes) == config.node
        self.segment = Segment(config.array, config.node, config.interface, config.state)
        own_mac = config.array.routing.own_mac
        self.guard_watch = GuardWatch(reactor, self.segment.guard) if own_mac else None
        self.path = frame_path(config.array, config.node, 1500, hash_key)
        self._state = config.state
        self._numbers = {node.name: node.number for node in config.array.nodes.values()}
        self._hash_name = kept.name_of_hash(config.array.routing.hash, hash_key)
        self._readers: list[PortReader] = []
        self._timer: Any = None
        self._every_second: Any = None
        self._answers_lost = 0
        self._conflicts = 0
        self._conflict_told = -inf
        self._fault = ""
        #: What this node lacks to take flows itself.
        self._lacking: set[str] = set()

    # ---------------------------------------------------------------- life

    def privilegedStartService(self) -> None:
        """Bring the kernel into the state that direct return needs.

        Raises OSError or DLBAError that says what is missing; nothing has changed then.
        """
        super().privilegedStartService()
        self.segment.open()
        self.path.set_mtu(self.segment.mtu())
        if self._is_scheduler:
            # Here, where what can't be done stops the start; it is read from `startService` on.
            self.segment.schedule(True)

    def startService(self) -> None:
        """Read, and be scheduler if the configuration says so."""
        super().startService()
        self._poller.attach(self._reactor)
        if self._is_scheduler:
            self._take_table()
            self._activate()
        else:
            kept.drop(self._state)  # others schedule meanwhile
        self._log.info(
            "{role} of {vip} on {interface}, frames by {port}",
            role=self.role,
            vip=self._array.vip,
            interface=self._interface,
            port=self.segment.arp.name if self.segment.arp else "nobody",
        )
        if self.guard_watch is not None:
            self.guard_watch.startService()
        self._read()
        self._second()
        self._tick()

    def stopService(self) -> None:
        """Give the role up and put the kernel's settings back."""
        super().stopService()
        for call in (self._timer, self._every_second):
            if call is not None and call.active():
                call.cancel()
        self._timer = self._every_second = None
        if self.path.active:
            self._keep_table()
            self.path.activate(False, time.monotonic())
        self._stop_reading()
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

    # ---------------------------------------------------------------- reading

    def _read(self) -> None:
        for port in (self.segment.arp, self.segment.frames):
            if port is not None:
                self._readers.append(PortReader(self._poller, port, self.path, self._lose))

    def _stop_reading(self) -> None:
        for reader in self._readers:
            reader.stop()
        self._readers.clear()

    def _lose(self, port: LinkPort, error: OSError) -> None:
        """A port has failed."""
        self._set_fault(f"{self._interface}: {error.strerror or error}")
        self._stop_reading()
        self.segment.lose()

    def _set_fault(self, why: str) -> None:
        if why and why != self._fault:
            self._log.error("fault: {why}", why=why)
        elif self._fault and not why:
            self._log.info("{interface} is back", interface=self._interface)
        self._fault = why

    # ---------------------------------------------------------------- timers

    def _second(self) -> None:
        """Once a second: what may have changed about this node and its interface."""
        self._every_second = self._reactor.callLater(EVERY, self._second)
        self.path.scheduler.row(self._own).status(*self._own_status())
        self.path.set_mtu(self.segment.mtu())
        self._look_at_tun()
        if self.segment.arp is None:
            why = self.segment.reopen()
            if why:
                self._set_fault(why)
                return
            self._read()
        if not self.segment.carrier():
            self._set_fault(f"{self._interface}: no carrier")
        elif self._fault:
            self._set_fault("")
            if self.path.active:
                # Whoever forgot our MAC, a switch above all, learns it anew.
                self.path.announcer.start(time.monotonic())

    def _tick(self) -> None:
        """Announcements and questions that are due; verdicts about nodes."""
        if not self.running:
            return
        try:
            self._act(time.monotonic())
        except Exception:  # noqa: BLE001 - a bug here must not end announcements for good
            self._log.failure("an exception at a turn of the scheduler")
        due = min(self.path.announcer.next_at, self.path.reach.next_at)
        wait = min(max(due - time.monotonic(), 0.001), EVERY)
        self._timer = self._reactor.callLater(wait, self._tick)

    def _act(self, now: float) -> None:
        path = self.path
        path.alive(now)
        for reader in tuple(self._readers):
            if reader.port is self.segment.arp:
                reader.read()
        arp = self.segment.arp  # None if reading has lost it
        if now >= path.reach.next_at and not self._hears(arp):
            path.reach.forgive()
        frames = (*path.announcer.due(now), *path.reach.due(now))
        if arp is not None:
            for frame in frames:
                arp.send(frame)
        for change in path.reach.take_changes():
            self._judge(change.number, change.alive)
        self._tell_of_conflicts(now)

    def _hears(self, arp: LinkPort | None) -> bool:
        """Whether silence since the last question is that of others."""
        if arp is None or not self.segment.carrier():
            return False
        lost, self._answers_lost = self._answers_lost, arp.dropped()
        return lost == self._answers_lost

    def _judge(self, number: int, alive: bool) -> None:
        scheduler = self.path.scheduler
        name = scheduler.row(number).name
        if alive:
            scheduler.recover(number)
            self._log.info("node {name} answers again", name=name)
        else:
            count = scheduler.fail(number)
            self._log.warn(
                "node {name} doesn't answer: failed, {count} buckets freed", name=name, count=count
            )

    def _tell_of_conflicts(self, now: float) -> None:
        count = self.path.conflicts - self._conflicts
        if count and now >= self._conflict_told + SELDOM:
            rival = self.path.announcer.rival or b""
            self._log.error(
                "{vip} is claimed by {mac} too ({count} frames, its or others'): announced again",
                vip=self._array.vip,
                mac=rival.hex(":"),
                count=count,
            )
            self._conflicts += count
            self._conflict_told = now

    # ---------------------------------------------------------------- for others

    def server_changed(self, alive: bool) -> None:
        """Prototype mode: this node's own server answers on the VIP, or no more."""
        self._set_own("server", alive)

    def _set_own(self, what: str, alive: bool) -> None:
        """One thing without which this node can take no flow works, or no more."""
        scheduler, before = self.path.scheduler, bool(self._lacking)
        (self._lacking.discard if alive else self._lacking.add)(what)
        if bool(self._lacking) != before:
            (scheduler.fail if self._lacking else scheduler.recover)(self._own)

    def _look_at_tun(self) -> None:
        """Without the TUN device no frame reaches this node's own kernel."""
        alive = self.segment.mend_tun()
        if alive != ("tun" not in self._lacking):
            if alive:
                self._log.info("{tun} is back", tun=TUN)
            else:
                self._log.error("{tun} is down: this node takes no flows of its own", tun=TUN)
            self._set_own("tun", alive)

    @property
    def role(self) -> str:
        """`scheduler`, `backup` or `fault`."""
        if self._fault:
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
            "role": self.role,
            "hash": self._array.routing.hash,
        }

    def counters(self) -> dict[str, int]:
        """What the frames were, and what the ports count."""
        counters = self.path.counters() | self.segment.counters()
        if self.guard_watch is not None:
            counters["guard_restored"] = self.guard_watch.restored
        return counters
