"""A process for tests: one elected node's routing on eth0, told its role on standard input.

    python -m tests.routing.electednode STATE [BUCKETS]

Commands, a line each: `schedule`, `step_down`, `unmute`, `probe`, `fill` (all buckets assigned in
turn to both nodes), `lack NUMBER`, `counters`, `end`. It answers, and tells of its events, with one
line of JSON each: [what, value, seconds of the monotonic clock].
"""

import json
import sys
import time
from pathlib import Path

import attrs
from twisted.internet import reactor
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineReceiver

from dlba.config.election import ElectionConfig, PingConfig
from dlba.config.values import NodeConfig
from dlba.poller import Poller
from dlba.routing.elected import ElectedRouting
from tests.routing.test_segment import array


def tell(what: str, value: object = None) -> None:
    print(json.dumps([what, value, time.monotonic()]), flush=True)


class Told:
    """`RoutingEvents` that end up on standard output."""

    def vip_claimed(self, mac: bytes) -> None:
        tell("vip_claimed", mac.hex(":"))

    def fault(self, why: str) -> None:
        tell("fault", why)

    def absent(self, gap: float) -> None:
        tell("absent", gap)

    def arp(self, number: int, silent: bool) -> None:
        tell("arp", [number, silent])

    def table_changed(self) -> None:
        pass


class Commands(LineReceiver):
    delimiter = b"\n"

    def __init__(self, service: ElectedRouting) -> None:
        self.service = service

    def lineReceived(self, line: bytes) -> None:
        word, *more = line.decode("ascii").split()
        service = self.service
        table = service.path.scheduler.table
        value: object = None
        began = time.monotonic()
        if word == "schedule":
            service.schedule(began)
            value = [began, time.monotonic()]
        elif word == "step_down":
            service.step_down()
            value = [began, time.monotonic()]
        elif word == "unmute":
            service.mute(False)
        elif word == "probe":
            service.probe_vip()
        elif word == "fill":
            for bucket in range(table.buckets):
                table.assign(bucket, bucket & 1)
        elif word == "lack":
            service.lack(int(more[0]), "process", True)
        elif word == "counters":
            value = service.counters()
        elif word == "end":
            service.stopService()
            reactor.stop()
        tell(word, value)

    def connectionLost(self, reason: object = None) -> None:
        if reactor.running:
            reactor.callWhenRunning(lambda: reactor.running and reactor.stop())


def main(state: str, buckets: str = "1024") -> None:
    reactor.seconds = time.monotonic
    # Nobody answers for the other node, and it shall not fail for that.
    made = attrs.evolve(
        array(buckets=int(buckets)), election=ElectionConfig(ping=PingConfig(retries=100))
    )
    config = NodeConfig(node="a", array=made, interface="eth0", state=Path(state))
    service = ElectedRouting(reactor, Poller(), config, None, lambda: (0, 0, 0.0))
    service.events = Told()
    service.privilegedStartService()
    reactor.callWhenRunning(service.startService)
    StandardIO(Commands(service))
    reactor.callWhenRunning(tell, "ready")
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
