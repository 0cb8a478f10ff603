"""Wires a node's part in the election: packet path, channel, disk, ICMP, status; decides nothing.

What the election asks of the packet path passes through `_Path`, which also says in the log which
node has failed and why: the path knows how many buckets that freed, the election knows the reason.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.application.service import MultiService, Service
from twisted.logger import Logger

from dlba.config.keys import Keys, SecretKey
from dlba.config.values import NodeConfig
from dlba.election.channel import Channel, peers_of
from dlba.election.commands import GATEWAY
from dlba.election.credentials import load
from dlba.election.hello import PROTOCOL, Hello
from dlba.election.icmp import Echo
from dlba.election.keyexchange import KeyExchange
from dlba.election.keyring import Keyring
from dlba.election.machine import Settings
from dlba.election.member import Member, OwnReport
from dlba.election.reign import NodeInfo
from dlba.election.service import ElectionService
from dlba.election.status import Sweep
from dlba.election.summary import Row, Sum, pack_rows, summed
from dlba.election.terms import Terms
from dlba.errors import DLBAError
from dlba.monitor.status import ArrayStatus, BackendRow, SummaryRow
from dlba.routing.array import mac_of_scheduler
from dlba.routing.elected import ElectedRouting
from dlba.state import load_learned, store_learned

__all__ = ["Electing", "array_status", "swept_at"]

#: Seconds in which a peer must answer, at least: a disk may take one.
PEER_TIMEOUT = 1.0


class _Path:
    """The packet path as the election sees it."""

    _log = Logger(namespace="dlba.election")

    def __init__(self, routing: ElectedRouting) -> None:
        self._routing = routing
        self._names = {row.number: row.name for row in routing.path.scheduler.rows}
        self.step_down = routing.step_down
        self.quiet = routing.quiet
        self.late = routing.late
        self.mute = routing.mute
        self.probe_vip = routing.probe_vip
        self.hold = routing.hold
        self.drain_node = routing.drain_node
        self.status_of = routing.status_of
        self.alive = routing.alive

    @property
    def fault(self) -> str:
        return self._routing.fault

    @property
    def able(self) -> bool:
        return self._routing.able

    def schedule(self, now: float) -> None:
        freed = self._routing.schedule(now)
        if freed:
            self._log.info("{count} buckets of failed nodes freed", count=freed)

    def lack(self, number: int, what: str, lacking: bool, why: str = "") -> None:
        count = self._routing.lack(number, what, lacking)
        if count is None:
            return
        name = self._names[number]
        if lacking:
            self._log.warn(
                "node {name} has failed: {why}; {count} buckets freed",
                name=name,
                why=why,
                count=count,
            )
        else:
            self._log.info("node {name} is back", name=name)


class _Echoes(Service):
    """Echo requests to the nodes and to the gateway, by number."""

    def __init__(self, reactor: Any, config: NodeConfig, heard: Callable[[int], None]) -> None:
        self._reactor = reactor
        self._heard = heard
        self._echo: Echo | None = None
        array = config.array
        self._addresses = {node.number: node.address for node in array.nodes.values()}
        if array.election.track.gateway is not None:
            self._addresses[GATEWAY] = array.election.track.gateway
        self._numbers = {address: number for number, address in self._addresses.items()}

    def privilegedStartService(self) -> None:
        """Open the socket. Raises DLBAError without the capability."""
        self._echo = Echo(self._reactor, self._answered)

    def stopService(self) -> None:
        """Close it."""
        self.undo()

    def undo(self) -> None:
        """Another part's start failed: as `stopService`."""
        if self._echo is not None:
            self._echo.close()
            self._echo = None

    def ask(self, number: int) -> None:
        """Send a request."""
        if self._echo is not None:
            self._echo.ask(self._addresses[number])

    def _answered(self, address: str) -> None:
        self._heard(self._numbers[address])


class Electing(MultiService):
    """The election's service, with its channel, its echoes and its keys.

    `service`: the election's own.
    """

    _log = Logger(namespace="dlba.election")

    def __init__(
        self,
        reactor: Any,
        config: NodeConfig,
        routing: ElectedRouting,
        keys: Keys,
        sign: Callable[[tuple[SecretKey, ...]], None],
        report: Callable[[], tuple[int, int, float]],
        backends: Callable[[], Sequence[BackendRow]],
    ) -> None:
        super().__init__()
        array = config.array
        assert config.channel is not None
        assert array.name is not None
        self._terms = terms = Terms(config.state)

        def echoed(number: int) -> None:
            self.service.echoed(number)  # which is made after these

        self._echoes = _Echoes(reactor, config, echoed)

        def own() -> OwnReport:
            hits, open_connections, average = report()
            data = pack_rows(_row(backend) for backend in backends())
            return OwnReport(hits, open_connections, average, data)

        def make(now: float) -> Member:
            status = array.status
            return Member(
                _settings(config),
                routing.path.scheduler.table,
                terms.term,
                -1 if terms.granted is None else terms.granted,
                array.election.sync_every,
                Sweep(status.every, status.retries, status.timeout),
                own,
                now,
            )

        names = {node.number: node.name for node in array.nodes.values()}
        self.service = ElectionService(
            reactor, make, terms, _Path(routing), self._echoes.ask, names
        )
        routing.events = self.service
        keyed = array.routing.hash == "keyed"

        def apply(ring: Keyring) -> None:
            if ring.signing:
                sign(ring.signing)
            if keyed and ring.hash is not None:
                routing.rehash(ring.hash)

        self._state = config.state
        self._own_keys = keys
        self._apply = apply
        node = array.nodes[config.node]
        self._others = names.keys() - {node.number}
        hello = Hello(
            protocol=PROTOCOL,
            array=array.name,
            node=config.node,
            number=node.number,
            incarnation=secrets.token_hex(16),
            mac=node.mac.hex(":"),
            buckets=array.routing.buckets,
            # The key may differ: it is the scheduler's that counts, see `keyring`.
            hash=array.routing.hash,
            config_version=0,
        )
        self.channel = Channel(
            reactor,
            hello,
            load(config.channel),
            config.channel.listen,
            peers_of(config),
            _Events(self.service),
            max(PEER_TIMEOUT, 3 * array.election.down_after),
        )
        self.service.wire = self.channel
        # The last one is the first to stop: its good-bye needs the channel.
        for part in (self._echoes, self.channel, self.service):
            part.setServiceParent(self)

    def privilegedStartService(self) -> None:
        """Read the folder, which this process holds by now: the one before may have written it.

        Raises DLBAError, or OSError, if that or opening a port fails.
        """
        self._terms.load()
        self.service.keys = KeyExchange(
            self._ring(), self.channel.send, self._apply, self._keep_keys
        )
        super().privilegedStartService()

    def startService(self) -> None:
        """Put what is known of keys in force, then take part."""
        # Not before: the web, which verifies with them, is made after this.
        self.service.keys.start()
        super().startService()

    def _ring(self) -> Keyring:
        """Own keys, and those that other nodes of the array have told of before."""
        try:
            ring = Keyring(self._own_keys, load_learned(self._state))
        except (OSError, DLBAError) as error:
            # They come again with the first channel; cookies under them don't count until then.
            self._log.error("learned keys not read: {error}", error=error)
            return Keyring(self._own_keys)
        before = ring.stored()
        ring.keep(self._others)
        if ring.stored() != before:
            # Whoever has the keys of a node that left the array must not mint tokens with them.
            self._keep_keys(ring.stored())
        return ring

    def _keep_keys(self, text: str) -> None:
        try:
            store_learned(self._state, text)
        except OSError as error:
            self._log.error("learned keys not kept: {error}", error=error)

    def undo(self) -> None:
        """The start of another part failed."""
        self.channel.undo()
        self._echoes.undo()


class _Events:
    """What the channel tells, for the election."""

    def __init__(self, election: ElectionService) -> None:
        self._election = election
        self.down = election.down
        self.refused = election.refused
        self.message = election.message

    def up(self, number: int, hello: Hello) -> None:
        self._election.up(number, hello.incarnation)


def _settings(config: NodeConfig) -> Settings:
    array = config.array
    return Settings(
        number=array.nodes[config.node].number,
        nodes=tuple(
            NodeInfo(
                node.number,
                node.name,
                node.priority,
                node.enabled,
                mac_of_scheduler(array, node.name),
            )
            for node in array.nodes.values()
        ),
        heartbeat=array.election.heartbeat,
        down_after=array.election.down_after,
        ping_every=array.election.ping.every,
        majority=array.election.quorum == "majority",
        gateway=array.election.track.gateway is not None,
    )


def _row(backend: BackendRow) -> Row:
    return Row(**attrs.asdict(backend))


def array_status(election: ElectionService, backends: Sequence[BackendRow]) -> ArrayStatus:
    """What `/status` says of the array. `backends`: this node's own rows."""
    sums: Sequence[Sum] = ()
    if election.role == "scheduler":  # nobody else asks the others for their rows
        sums = summed([[_row(backend) for backend in backends], *election.rows()])
    return ArrayStatus(
        term=election.member.term,
        scheduler=election.scheduler,
        peers=election.peers(),
        summary=[SummaryRow(**attrs.asdict(one)) for one in sums],
    )


def swept_at(election: ElectionService, now: float) -> float | None:
    """Seconds since 1970 of the last sweep's end. `now`: seconds, monotonic."""
    at = election.member.swept_at
    return None if at is None else time.time() - (now - at)
