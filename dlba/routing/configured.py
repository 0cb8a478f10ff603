"""Runs the scheduler's part of a node whose role the configuration says.

An adapter. The scheduler keeps its client table over a restart (`kept`). It alone judges the other
nodes, by ARP, since nobody else tells it of them; its log says what happens to its link.

Source: routing.md "ARP".
"""

from __future__ import annotations

import time
from typing import Any, Final

from twisted.logger import Logger

from dlba.config.values import NodeConfig
from dlba.poller import Poller
from dlba.routing import kept
from dlba.routing.array import scheduler_of
from dlba.routing.service import OwnStatus, RoutingService

__all__ = ["ConfiguredRouting"]

#: What a node lacks that doesn't answer ARP.
ARP: Final = "arp"


class ConfiguredRouting(RoutingService):
    """As `RoutingService`."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        poller: Poller,
        config: NodeConfig,
        hash_key: bytes | None,
        own_status: OwnStatus,
    ) -> None:
        super().__init__(reactor, poller, config, hash_key, own_status, elected=False)
        array = config.array
        self._schedules = scheduler_of(array.nodes) == config.node
        self._timeout = array.routing.bucket_timeout
        self._state = config.state
        self._numbers = {node.name: node.number for node in array.nodes.values()}
        self._hash_name = kept.name_of_hash(array.routing.hash, hash_key)

    def privilegedStartService(self) -> None:
        """As `RoutingService`; a scheduler's port, too."""
        super().privilegedStartService()
        if self._schedules:
            # Here, where what can't be done stops the start; it is read from `startService` on.
            self.segment.schedule(True)

    def begin(self) -> None:
        """Be scheduler if the configuration says so."""
        if not self._schedules:
            kept.drop(self._state)  # others schedule meanwhile, or did
            return
        table = self.path.scheduler.table
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        kept.take(self._state, table, self._numbers, self._hash_name, self._timeout, since_boot)
        now = time.monotonic()
        self.path.activate(True, now)
        self.path.reach.start(now)

    def end(self) -> None:
        """The next start shall not break the other nodes' connections."""
        table = self.path.scheduler.table
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        kept.keep(self._state, table, self._numbers, self._hash_name, since_boot)

    def judge(self, number: int, alive: bool) -> None:
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

    def tell_of_fault(self, why: str) -> None:
        """Into the log."""
        if why:
            self._log.error("fault: {why}", why=why)
        else:
            self._log.info("{interface} is back", interface=self.interface)
