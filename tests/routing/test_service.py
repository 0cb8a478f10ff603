"""Tests of dlba.routing.service: a segment that is a recorder, time that is a Clock.

The role comes from the configuration, whose own part is tested with `dlba.routing.configured`.
"""

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import attrs
from scapy.layers.l2 import ARP, Ether
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.election import ElectionConfig
from dlba.config.values import NodeConfig
from dlba.routing import service as service_module
from dlba.routing.configured import ConfiguredRouting
from dlba.routing.service import RoutingService
from tests.routing.frames import MEMBERS, OWN, ROUTER, SCHEDULER, VIP, plain
from tests.routing.test_array import array
from tests.routing.test_path import HEADERS
from tests.routing.test_reader import Port, RecordedPoller


class RecordedPort(Port):
    name = "recorded"
    lost = 0

    def dropped(self):
        return self.lost


class RecordedSegment:
    """As `Segment`: what was asked of it, and two ports whose frames a test puts in."""

    def __init__(self, *_):
        self.calls = []
        self.arp = self.frames = None
        self.link = self.tun = True
        self.back = True
        self.interface = SimpleNamespace(mtu=1500)

    def open(self):
        self.calls.append("open")
        self.arp = RecordedPort()

    def schedule(self, active):
        self.calls.append(("schedule", active))
        self.frames = RecordedPort() if active else None

    def carrier(self):
        return self.arp is not None and self.link

    def mend_tun(self):
        return self.tun

    def mtu(self):
        return self.interface.mtu

    def lose(self):
        self.calls.append("lose")
        self.arp = self.frames = None

    def reopen(self):
        if self.back:
            self.arp, self.frames = RecordedPort(), RecordedPort()
        return "" if self.back else "eth0: expected it, got none"

    def close(self):
        self.calls.append("close")

    def counters(self):
        return {"frames_unsent": 0}


class Case(SynchronousTestCase):
    node = "a"

    def setUp(self):
        self.reactor, self.poller = Clock(), RecordedPoller()
        self.reactor.advance(1000)
        self.patch(service_module, "Segment", RecordedSegment)
        for module in ("configured", "service", "reader"):
            patched = mock.patch(f"dlba.routing.{module}.time.monotonic", self.reactor.seconds)
            patched.start()
            self.addCleanup(patched.stop)
        self.state = Path(self.mktemp())
        self.state.mkdir(parents=True)
        self.made = self.service()
        self.log = []
        logs = capturedLogs()
        self.log = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.made.privilegedStartService()
        self.made.startService()

    def service(self, **routing) -> RoutingService:
        made = attrs.evolve(array(**routing), election=ElectionConfig())
        config = NodeConfig(node=self.node, array=made, interface="eth0", state=self.state)
        return ConfiguredRouting(self.reactor, self.poller, config, None, lambda: (7, 3, 0.5))

    def pass_(self, seconds: float, *answering: int) -> None:
        """Time goes by in steps of 10 ms; these nodes answer whatever they are asked."""
        for _ in range(round(seconds * 100)):
            self.reactor.advance(0.01)
            self.answer(*answering)

    def answer(self, *answering: int) -> None:
        port = self.made.segment.arp
        if port is None:
            return
        for frame in port.sent:
            packet = Ether(frame)[ARP]
            for number in answering:
                if packet.op == 1 and packet.pdst == f"10.99.0.{10 + number}":
                    reply = ARP(op=2, hwsrc=MEMBERS[number - 1], psrc=packet.pdst)
                    reply.hwdst, reply.pdst = OWN, packet.psrc
                    port.waiting.append(bytes(Ether(src=reply.hwsrc, dst=OWN) / reply))
        port.sent.clear()

    def said(self) -> list[str]:
        texts = [formatEvent(event) for event in self.log]
        self.log.clear()
        return texts

    def failed(self) -> set[str]:
        return {row.name for row in self.made.path.scheduler.rows if row.failed}


class SchedulerTests(Case):
    def test_start(self):
        self.assertEqual(self.made.role, "scheduler")
        self.assertEqual(self.made.segment.calls, ["open", ("schedule", True)])
        self.assertEqual(self.said(), [f"scheduler of {VIP} on eth0, frames by recorded"])
        self.assertEqual(len(self.poller.readers), 2)

    def test_probes_then_announcements(self):
        port, kinds = self.made.segment.arp, []
        for _ in range(120):
            kinds += [
                "probe" if Ether(f)[ARP].psrc == "0.0.0.0" else "announcement"
                for f in port.sent
                if Ether(f)[ARP].pdst == VIP
            ]
            port.sent.clear()
            self.reactor.advance(0.01)
        self.assertEqual(kinds, ["probe"] * 3 + ["announcement"] * 12)

    def test_client_frames_go_to_nodes(self):
        port = self.made.segment.frames
        port.waiting = [plain()]
        (reader,) = [one for one in self.poller.readers.values() if one.port is port]
        reader.read()
        self.assertEqual(port.routed, [HEADERS[0]])
        self.assertEqual(self.made.counters()["frames_own"], 1)

    def test_nobody_is_judged_without_a_link(self):
        self.pass_(0.5, 1, 2)
        self.made.segment.link = False
        self.pass_(3)
        self.assertEqual((self.failed(), self.made.role), (set(), "fault"))
        self.made.segment.link = True
        self.pass_(1.5, 1, 2)
        self.assertEqual((self.failed(), self.made.role), (set(), "scheduler"))

    def test_nobody_is_judged_while_answers_are_lost(self):
        for _ in range(40):
            self.made.segment.arp.lost += 1
            self.pass_(0.1)
        self.assertEqual(self.failed(), set())

    def test_answers_that_wait_are_read_before_anybody_is_judged(self):
        self.pass_(0.5, 1, 2)
        for _ in range(20):
            self.answer(1, 2)  # they wait; no reader was told
            self.reactor.advance(0.1)
        self.assertEqual(self.failed(), set())

    def test_a_rival_is_told_seldom_and_changes_no_role(self):
        self.pass_(2.0, 1, 2)
        self.said()
        claim = ARP(op=2, hwsrc=ROUTER, psrc=VIP, hwdst=SCHEDULER, pdst="10.99.0.1")
        for _ in range(50):
            self.made.segment.arp.waiting.append(bytes(Ether(src=ROUTER, dst=SCHEDULER) / claim))
            self.pass_(0.1, 1, 2)
        self.pass_(0.2, 1, 2)
        (line,) = self.said()
        self.assertIn(f"{VIP} is claimed by {ROUTER} too", line)
        self.assertEqual(self.made.role, "scheduler")
        self.assertEqual(self.made.counters()["arp_conflicts"], 50)
        self.pass_(10.0, 1, 2)
        (line,) = self.said()
        self.assertRegex(line, r"\(4\d frames, ")

    def test_own_row(self):
        row = self.made.path.scheduler.row(0)
        self.assertEqual((row.hits, row.open_connections, row.average_response), (7, 3, 0.5))

    def test_where(self):
        answer = self.made.where(0xC0A80709, 51515)
        self.assertEqual((answer["owner"], answer["node"], answer["why"]), (None, "a", "PLACED"))
        self.assertEqual((answer["hash"], answer["age"]), ("sum", None))

    def test_draining_and_another_server(self):
        self.made.server_changed(False)
        self.assertEqual(self.made.where(1, 1)["node"], "b")
        self.made.server_changed(True)
        self.assertEqual(self.made.where(1, 1)["node"], "a")
        self.made.drain()
        self.assertEqual(self.made.where(1, 1)["node"], "b")

    def test_without_its_tun_device_it_takes_no_flows(self):
        self.made.segment.tun = False
        self.pass_(1.1, 1, 2)
        self.assertEqual(self.failed(), {"a"})
        self.assertIn("dlba0 is down: this node takes no flows of its own", self.said())
        self.made.server_changed(False)
        self.made.segment.tun = True
        self.pass_(1.1, 1, 2)
        self.assertEqual(self.failed(), {"a"})
        self.made.server_changed(True)
        self.assertEqual((self.failed(), self.said()), (set(), ["dlba0 is back"]))

    def test_after_an_absence_buckets_count_as_used(self):
        table = self.made.path.scheduler.table
        table.assign(5, 1)
        self.pass_(1.0, 1, 2)
        before = table.last_of(5)
        self.reactor.advance(400)
        self.assertGreaterEqual(table.last_of(5), before + 400)

    def test_a_bug_in_a_turn_doesn_t_end_announcements(self):
        self.pass_(0.5, 1, 2)
        announcer = self.made.path.announcer
        with mock.patch.object(announcer, "due", side_effect=ZeroDivisionError):
            self.pass_(0.5, 1, 2)
        self.assertGreater(len(self.flushLoggedErrors(ZeroDivisionError)), 0)
        announcer.start(self.reactor.seconds())
        self.made.segment.arp.sent.clear()
        self.reactor.advance(0.3)
        self.assertGreater(len(self.made.segment.arp.sent), 0)

    def test_another_mtu(self):
        frame = plain(b"x" * 5000)
        port = self.made.segment.frames
        self.made.segment.interface.mtu = 9000
        self.pass_(1.1, 1, 2)
        port.waiting = [frame]
        (reader,) = [one for one in self.poller.readers.values() if one.port is port]
        reader.read()
        self.assertEqual(port.routed, [HEADERS[0]])

    def test_stop(self):
        self.made.stopService()
        self.assertEqual(self.made.segment.calls[-1], "close")
        self.assertEqual(self.poller.readers, {})
        self.assertEqual((self.reactor.getDelayedCalls(), self.poller.users), ([], 0))
        self.assertFalse(self.made.path.active)


class FaultTests(Case):
    def lose(self) -> None:
        (reader,) = [r for r in self.poller.readers.values() if r.port is self.made.segment.frames]
        reader.port.error = OSError(100, "Network is down")
        reader.read()

    def test_a_lost_interface(self):
        self.pass_(1.5, 1, 2)
        self.said()
        self.made.segment.back = False
        self.lose()
        self.assertEqual(self.made.role, "fault")
        self.assertEqual(self.said(), ["fault: eth0: Network is down"])
        self.assertEqual(self.poller.readers, {})
        self.pass_(5)
        self.assertEqual((self.failed(), self.made.role), (set(), "fault"))
        # What stands in the way now is told once.
        self.assertEqual(self.said(), ["fault: eth0: expected it, got none"])
        self.made.segment.back = True
        self.pass_(1.2, 1, 2)
        self.assertEqual(self.made.role, "scheduler")
        self.assertEqual(self.said(), ["eth0 is back"])
        self.assertEqual(len(self.poller.readers), 2)

    def test_lost_while_the_timer_reads(self):
        self.made.segment.back = False
        self.made.segment.arp.error = OSError(19, "No such device")
        self.pass_(0.5)
        self.assertEqual(self.made.role, "fault")


class BackupTests(Case):
    node = "b"

    def test_start(self):
        self.assertEqual((self.made.role, self.made.segment.calls), ("backup", ["open"]))
        self.pass_(3)
        self.assertEqual(self.made.segment.arp.sent, [])
        self.assertEqual((self.failed(), len(self.poller.readers)), (set(), 1))

    def test_the_start_of_another_part_fails(self):
        other = self.service()
        other.privilegedStartService()
        other.undo()
        self.assertEqual(other.segment.calls, ["open", "close"])
