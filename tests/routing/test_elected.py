"""Tests of dlba.routing.elected: on recorders, then as a process with real frames."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from time import monotonic, sleep
from unittest import mock

import attrs
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.election import ElectionConfig
from dlba.config.values import NodeConfig
from dlba.errors import DLBAError
from dlba.routing.elected import ElectedRouting
from dlba.routing.hashtable import UNASSIGNED
from dlba.routing.keyedhash import KeyedHash
from tests import namespaces
from tests.routing import machines
from tests.routing.frames import (
    CLIENT,
    CLIENT_NUMBER,
    MEMBERS,
    OWN,
    PORT,
    ROUTER,
    SCHEDULER,
    VIP,
    plain,
)
from tests.routing.test_array import array
from tests.routing.test_path import HEADERS
from tests.routing.test_service import Case

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
QUESTION = bytes(
    Ether(src=ROUTER, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=ROUTER, psrc=CLIENT, pdst=VIP)
)


def claim(mac: str) -> bytes:
    return bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=2, hwsrc=mac, psrc=VIP, pdst=VIP))


class Events:
    """What was told, in order."""

    def __init__(self):
        self.told = []

    def vip_claimed(self, mac):
        self.told.append(("claimed", mac.hex(":")))

    def fault(self, why):
        self.told.append(("fault", why))

    def absent(self, gap):
        self.told.append(("absent", round(gap, 1)))

    def arp(self, number, silent):
        self.told.append(("arp", number, silent))

    def table_changed(self):
        self.told.append("table")

    def take(self):
        told, self.told = self.told, []
        return told


class ElectedCase(Case):
    def setUp(self):
        super().setUp()
        self.path, self.segment = self.made.path, self.made.segment
        self.table = self.path.scheduler.table
        self.events = self.made.events
        self.said()

    def service(self, **routing) -> ElectedRouting:
        made = attrs.evolve(array(**routing), election=ElectionConfig())
        config = NodeConfig(node=self.node, array=made, interface="eth0", state=self.state)
        service = ElectedRouting(self.reactor, self.poller, config, None, lambda: (7, 3, 0.5))
        service.events = Events()
        return service

    def schedule(self) -> int:
        return self.made.schedule(self.reactor.seconds())

    def vip_frames(self) -> list[str]:
        """What was sent about the VIP since the last call."""
        kinds = []
        for frame in self.segment.arp.sent:
            packet = Ether(frame)[ARP]
            if VIP in (packet.pdst, packet.psrc):
                kinds.append({"0.0.0.0": "probe"}.get(packet.psrc, f"op {packet.op}"))
        self.segment.arp.sent.clear()
        return kinds

    def wake(self, port, *frames) -> list:
        """What becomes of these, which the poller tells of."""
        port.waiting = list(frames)
        port.routed.clear()
        (reader,) = [one for one in self.poller.readers.values() if one.port is port]
        reader.on_event(1)
        return list(port.routed)


class RoleTests(ElectedCase):
    def test_it_starts_as_a_backup(self):
        """Though the configuration would make it scheduler."""
        self.assertEqual((self.made.role, self.segment.calls), ("backup", ["open"]))
        self.pass_(3)
        self.assertEqual((self.vip_frames(), self.failed(), self.events.take()), ([], set(), []))

    def test_a_kept_table_is_dropped_and_none_is_kept(self):
        (self.state / "table").touch()
        made = self.service()
        made.privilegedStartService()
        made.startService()
        made.schedule(self.reactor.seconds())
        made.path.scheduler.table.assign(5, 1)
        made.stopService()
        self.assertEqual(list(self.state.iterdir()), [])

    def test_announced_and_read_when_schedule_returns(self):
        self.table.assign(5, 1)
        self.schedule()
        self.assertEqual(self.made.role, "scheduler")
        self.assertEqual(self.vip_frames(), ["op 1", "op 2"] * 3)  # no probe
        self.assertEqual(self.table.last_of(5), int(self.reactor.seconds()))
        self.assertEqual(self.wake(self.segment.frames, plain()), [HEADERS[0]])
        self.wake(self.segment.arp, QUESTION)
        self.assertEqual(self.vip_frames(), ["op 2"])
        self.assertEqual(self.schedule(), 0)  # twice is as good as once
        self.assertEqual(self.vip_frames(), [])
        self.pass_(1.1, 1, 2)
        self.assertEqual(self.failed(), set())

    def test_the_next_announcement_comes_in_time(self):
        self.schedule()
        self.vip_frames()
        for _ in range(98):
            self.reactor.advance(0.01)
        self.assertEqual(self.vip_frames(), [])
        for _ in range(3):
            self.reactor.advance(0.01)
        self.assertEqual(self.vip_frames(), ["op 1", "op 2"] * 3)

    def test_who_lacks_anything_loses_its_buckets_only_then(self):
        for bucket in range(9):
            self.table.assign(bucket, bucket % 3)
        version = self.table.version
        self.assertEqual(self.made.lack(2, "process", True), 0)
        self.assertEqual((self.table.version, self.failed()), (version, {"c"}))
        self.assertEqual(self.schedule(), 3)
        self.assertEqual([self.table.node_of(b) for b in (1, 2, 5)], [1, UNASSIGNED, UNASSIGNED])
        self.assertEqual(self.made.lack(1, "status", True), 3)
        self.made.lack(2, "process", False)
        self.assertEqual(self.failed(), {"b"})

    def test_a_port_that_can_t_be_opened(self):
        def refuse(active):
            self.segment.calls.append(("schedule", active))
            if active:
                raise OSError(24, "Too many open files")

        with mock.patch.object(self.segment, "schedule", refuse):
            self.assertRaises(OSError, self.schedule)
        self.assertEqual(self.segment.calls[-2:], [("schedule", True), ("schedule", False)])
        self.assertEqual((self.made.role, self.vip_frames()), ("backup", []))
        self.schedule()
        self.assertEqual(self.made.role, "scheduler")

    def test_step_down(self):
        self.schedule()
        self.made.lack(2, "process", True)
        self.vip_frames()
        frames = self.segment.frames

        def schedule(active):
            # Silent before the port is closed, which takes its time.
            self.assertFalse(self.path.announcer.active)
            self.assertNotIn(frames.number, self.poller.readers)
            self.segment.frames = None

        with mock.patch.object(self.segment, "schedule", schedule):
            self.made.step_down()
        self.assertEqual((self.made.role, self.segment.frames), ("backup", None))
        self.events.take()
        self.wake(self.segment.arp, QUESTION)
        self.pass_(20)
        # Nobody is asked any more.
        self.assertEqual((self.vip_frames(), self.events.take()), ([], []))
        self.made.step_down()
        version = self.table.version
        self.made.lack(1, "process", True)
        self.assertEqual(self.table.version, version)
        self.schedule()
        self.assertEqual(self.vip_frames(), ["op 1", "op 2"] * 3)

    def test_silence_doesn_t_come_back_with_the_role(self):
        self.schedule()
        self.pass_(1, 1)
        self.assertEqual(self.events.take(), [("arp", 2, True)])
        self.made.step_down()
        self.schedule()
        self.pass_(0.05)
        self.assertEqual(self.events.take(), [])
        self.pass_(1, 1)
        self.assertEqual(self.events.take(), [("arp", 2, True)])

    def test_probe(self):
        self.made.probe_vip()
        (frame,) = self.segment.arp.sent
        packet = Ether(frame)
        # From the node's own MAC, which its interface hears.
        self.assertEqual((packet.src, packet[ARP].hwsrc), (OWN, OWN))
        self.assertEqual((packet[ARP].psrc, packet[ARP].pdst), ("0.0.0.0", VIP))

    def test_quiet(self):
        self.schedule()
        self.made.quiet()
        self.vip_frames()
        self.wake(self.segment.arp, QUESTION)
        self.assertEqual(self.wake(self.segment.frames, plain()), [HEADERS[0]])
        self.pass_(20, 1, 2)
        self.assertEqual(self.vip_frames(), [])

    def test_late(self):
        """Another node is scheduler by now: its table is here, and only it changes that."""
        self.schedule()
        self.table.assign(5, 0)
        self.made.quiet()
        self.made.late()
        version = self.table.version
        self.assertEqual(self.wake(self.segment.frames, plain()), [None])
        self.events.take()
        self.made.server_changed(False)
        self.pass_(2)
        self.assertEqual((self.table.version, self.table.node_of(5)), (version, 0))
        self.assertEqual((self.vip_frames(), self.events.take()), ([], []))
        self.made.server_changed(True)
        self.made.step_down()
        self.schedule()
        self.assertNotEqual(self.wake(self.segment.frames, plain()), [None])

    def test_a_node_says_that_it_drains(self):
        self.schedule()
        self.made.drain_node(0, True)
        self.assertEqual(self.made.where(1, 1)["node"], "b")
        self.made.drain_node(0, False)
        self.assertEqual(self.made.where(1, 1)["node"], "a")

    def test_another_hash_key(self):
        made = attrs.evolve(array(hash="keyed"), election=ElectionConfig())
        config = NodeConfig(node=self.node, array=made, interface="eth0", state=self.state)
        other = ElectedRouting(self.reactor, self.poller, config, b"A" * 32, lambda: (0, 0, 0.0))
        scheduler = other.path.scheduler
        flows = [(n << 8, 40000 - n) for n in range(20)]

        def found():
            return [other.where(*flow)["bucket"] for flow in flows]

        for key in (b"A" * 32, b"B" * 32, b"B" * 32, b"A" * 32):
            other.rehash(key)
            keyed = KeyedHash(scheduler.table.buckets, key)
            self.assertEqual(found(), [keyed(*flow) for flow in flows])
        # A frame too goes by the key of the moment.
        keyed = KeyedHash(scheduler.table.buckets, b"B" * 32)
        other.rehash(b"B" * 32)
        other.path.activate(True, 9.0)
        other.path.wake(9.0)
        other.path.route(memoryview(plain()), 0)
        self.assertGreaterEqual(scheduler.table.node_of(keyed(CLIENT_NUMBER, PORT)), 0)
        self.assertEqual(scheduler.table.assigned, 1)

    def test_held_and_status(self):
        self.schedule()
        self.made.hold(0, True)
        self.assertEqual(self.made.where(1, 1)["node"], "b")
        self.made.hold(0, False)
        self.assertEqual(self.made.where(1, 1)["node"], "a")
        self.made.status_of(1, 90, 4, 0.5)
        row = self.path.scheduler.row(1)
        self.assertEqual((row.hits, row.open_connections, row.average_response), (90, 4, 0.5))

    def test_able(self):
        self.assertTrue(self.made.able)
        self.made.server_changed(False)
        self.assertFalse(self.made.able)
        self.made.server_changed(True)
        self.segment.tun = False
        self.pass_(1.1)
        self.assertFalse(self.made.able)


class EventTests(ElectedCase):
    def test_claims(self):
        self.wake(self.segment.arp, claim(ROUTER), claim(ROUTER), claim(MEMBERS[0]), QUESTION)
        self.assertEqual(self.events.take(), [("claimed", ROUTER), ("claimed", MEMBERS[0])])
        self.schedule()
        self.wake(self.segment.arp, claim(MEMBERS[1]), claim(SCHEDULER))
        self.assertEqual(self.events.take(), [("claimed", MEMBERS[1])])
        self.wake(self.segment.arp, QUESTION)
        self.assertEqual(self.events.take(), [])

    def test_who_doesn_t_answer_arp_is_told_of_and_not_judged(self):
        self.schedule()
        self.table.assign(5, 2)
        self.pass_(1, 1, 2)
        self.events.take()
        self.said()
        self.pass_(1, 1)
        self.assertEqual(self.events.take(), [("arp", 2, True)])
        self.assertEqual((self.failed(), self.table.node_of(5)), (set(), 2))
        self.pass_(1, 1, 2)
        self.assertEqual(self.events.take(), [("arp", 2, False)])
        self.assertEqual(self.said(), ["node c doesn't answer ARP", "node c answers ARP again"])

    def test_an_answer_that_no_poller_told_of(self):
        self.segment.arp.waiting = [claim(ROUTER)]
        self.reactor.advance(0.1)
        self.assertEqual(self.events.take(), [("claimed", ROUTER)])

    def test_the_table(self):
        self.schedule()
        self.wake(self.segment.frames, plain(), plain())
        self.assertEqual(self.events.take(), ["table"])
        self.wake(self.segment.frames, plain())
        self.assertEqual(self.events.take(), [])
        self.pass_(1, 2)
        self.assertEqual(self.events.take(), [("arp", 1, True)])  # which has failed nobody
        self.made.step_down()
        self.table.assign(77, 1)  # a delta from the scheduler
        self.reactor.advance(0.2)
        self.assertEqual(self.events.take(), [])

    def test_a_lost_carrier_is_a_fault_within_a_turn(self):
        self.schedule()
        self.said()
        self.segment.link = False
        self.reactor.advance(0.1)
        self.assertEqual(self.events.take(), [("fault", "eth0: no carrier")])
        self.assertEqual(self.said(), [])  # whom it is told logs it
        self.assertEqual(self.made.fault, "eth0: no carrier")
        self.made.step_down()
        self.segment.link = True
        self.segment.arp.sent.clear()
        self.reactor.advance(0.1)
        self.assertEqual(self.events.take(), [("fault", "")])
        self.assertEqual(self.segment.arp.sent, [])

    def test_a_lost_interface(self):
        self.schedule()
        self.segment.back = False
        self.events.fault = lambda why: why and self.made.step_down()  # at once, as it may
        self.segment.frames.error = OSError(100, "Network is down")
        self.wake(self.segment.frames)
        self.assertEqual((self.made.role, self.made.fault), ("fault", "eth0: Network is down"))
        self.assertFalse(self.path.active)
        error = self.assertRaises(DLBAError, self.schedule)
        self.assertIn("eth0: ", str(error))
        self.made.probe_vip()
        self.segment.back = True
        self.pass_(1.1)
        self.assertEqual(self.made.role, "backup")
        self.assertEqual(self.vip_frames(), [])


class AbsenceTests(ElectedCase):
    def setUp(self):
        super().setUp()
        self.schedule()
        self.pass_(2, 1, 2)
        self.vip_frames()
        self.events.take()

    def stopped(self, seconds: float) -> None:
        """The clock goes on; no timer of ours has run."""
        self.reactor.rightNow += seconds

    def test_frames_that_waited_are_discarded(self):
        self.stopped(0.5)
        self.segment.arp.waiting = [QUESTION, claim(ROUTER)]
        self.assertEqual(self.wake(self.segment.frames, plain(), plain()), [None, None])
        self.assertEqual(self.events.take(), [("absent", 0.5)])  # what waited claims nothing
        self.assertEqual((self.segment.arp.waiting, self.vip_frames()), ([], []))
        self.assertEqual(self.made.counters()["frames_absent"], 2)
        self.assertEqual(self.made.role, "scheduler")
        # Still so until somebody decides.
        self.pass_(30, 1, 2)
        self.wake(self.segment.arp, QUESTION)
        self.assertEqual(self.wake(self.segment.frames, plain()), [None])
        self.assertEqual((self.vip_frames(), self.failed()), ([], set()))
        self.assertEqual(self.events.take(), [])
        self.made.mute(False)
        self.assertEqual(self.vip_frames(), ["op 1", "op 2"] * 3)
        self.assertEqual(self.wake(self.segment.frames, plain()), [HEADERS[0]])

    def test_the_timer_comes_first(self):
        self.stopped(0.5)
        self.segment.frames.waiting = [plain()]
        self.segment.arp.waiting = [QUESTION]
        self.said()
        self.reactor.advance(0)
        self.assertEqual(self.events.take(), [("absent", 0.5)])
        self.assertEqual(self.said(), [])
        self.assertEqual(self.segment.frames.routed, [None])
        self.assertEqual(self.vip_frames(), [])

    def test_somebody_else_s_timer_comes_first(self):
        self.stopped(0.5)
        self.segment.frames.waiting = [plain()]
        self.made.alive(self.reactor.seconds())
        self.assertEqual(self.events.take(), [("absent", 0.5)])
        self.assertEqual(self.segment.frames.routed, [None])
        self.made.alive(self.reactor.seconds())
        self.assertEqual(self.events.take(), [])

    def test_a_bounded_number_of_frames_is_discarded(self):
        """What comes faster than it can be read doesn't keep the process from going on."""
        port = self.segment.frames
        self.stopped(0.5)
        with mock.patch.object(port, "pump", lambda route, limit: limit):
            self.made.alive(self.reactor.seconds())
        self.assertEqual(self.events.take(), [("absent", 0.5)])

    def test_a_short_gap_is_none(self):
        self.stopped(0.29)
        self.assertEqual(self.wake(self.segment.frames, plain()), [HEADERS[0]])
        self.assertEqual(self.events.take(), ["table"])

    def test_stepping_down_after_it(self):
        self.stopped(0.5)
        self.events.absent = lambda gap: self.made.step_down()  # at once, as it may
        self.wake(self.segment.frames, plain())
        self.assertEqual(self.made.role, "backup")
        self.made.mute(False)  # late
        self.pass_(2)
        self.assertEqual(self.vip_frames(), [])
        self.schedule()
        self.assertEqual(self.vip_frames(), ["op 1", "op 2"] * 3)

    def test_a_link_that_comes_back_doesn_t_announce(self):
        self.stopped(0.5)
        self.reactor.advance(0)
        for link in (False, True):
            self.segment.link = link
            self.reactor.advance(0.1)
        self.assertEqual(self.vip_frames(), [])

    def test_a_backup_tells_of_it_too(self):
        self.made.step_down()
        self.stopped(5)
        self.segment.arp.waiting = [claim(ROUTER)]
        self.reactor.advance(0)
        self.assertEqual(self.events.take(), [("absent", 5.0)])
        self.schedule()
        self.assertEqual(self.vip_frames(), ["op 1", "op 2"] * 3)


class Process:
    """`tests.routing.electednode` in the namespace that is entered."""

    def __init__(self, state, buckets: int = 1024):
        command = [sys.executable, "-m", "tests.routing.electednode", str(state), str(buckets)]
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, bufsize=0
        )
        self.events = []
        self.expect("ready")

    def expect(self, what: str):
        """The value with which this is told next."""
        while True:
            readable, _, _ = select.select([self.popen.stdout], [], [], 20)
            line = self.popen.stdout.readline() if readable else b""
            if not line:
                raise AssertionError(f"expected {what}, got nothing: {self.events}")
            word, value, at = json.loads(line)
            if word == what:
                return value
            self.events.append((word, value, at))

    def ask(self, command: str):
        self.popen.stdin.write(command.encode("ascii") + b"\n")
        return self.expect(command.partition(" ")[0])

    def close(self) -> None:
        self.popen.stdin.close()
        try:
            self.popen.wait(10)
        finally:
            self.popen.kill()
            self.popen.stdout.close()


class WireTests(machines.MachineTest, SynchronousTestCase):
    skip = namespaces.missing(tun=True)

    NODE_B = "02:00:cb:00:71:0c"
    SCHEDULER = "06:00:cb:00:71:0b"

    def setUp(self):
        super().setUp()
        self.node = Process(self.state)
        self.addCleanup(self.node.close)
        with self.other.entered():
            self.outside = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300)
            self.addCleanup(self.outside.close)
            self.outside.bind(("peer", 3))
            self.outside.setsockopt(263, 23, 1)  # what comes in alone

    def heard(self, seconds: float) -> list[Ether]:
        """What comes from the node within this time, but for what isn't about the VIP."""
        frames, until = [], monotonic() + seconds
        while (left := until - monotonic()) > 0:
            self.outside.settimeout(left)
            try:
                frame = Ether(self.outside.recv(2048))
            except TimeoutError:
                break
            if (ARP in frame and machines.VIP in (frame[ARP].psrc, frame[ARP].pdst)) or (
                TCP in frame
            ):
                frames.append(frame)
        return frames

    def ask_vip(self) -> None:
        question = ARP(hwsrc=machines.PEER_MAC, psrc=machines.PEER, pdst=machines.VIP)
        self.outside.send(bytes(Ether(src=machines.PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / question))

    def clients(self, first: int, count: int) -> None:
        """Frames of so many flows."""
        for port in range(first, first + count):
            packet = IP(src="198.51.100.7", dst=machines.VIP) / TCP(sport=port, dport=80)
            self.outside.send(bytes(Ether(src=machines.PEER_MAC, dst=self.SCHEDULER) / packet))

    def forwarded(self, frames) -> set[int]:
        """The flows that went to the other node."""
        return {frame[TCP].sport for frame in frames if TCP in frame and frame.dst == self.NODE_B}

    def kinds(self, frames) -> set[str]:
        """What was said about the VIP by ARP."""
        return {
            "announced" if frame.dst == "ff:ff:ff:ff:ff:ff" else "answered"
            for frame in frames
            if ARP in frame and frame[ARP].hwsrc == self.SCHEDULER
        }

    def test_the_role_on_the_wire(self):
        self.ask_vip()
        self.clients(1000, 10)
        self.assertEqual(self.heard(0.3), [])
        self.node.ask("schedule")
        self.ask_vip()
        self.clients(2000, 10)
        frames = self.heard(0.5)
        self.assertEqual(self.kinds(frames), {"announced", "answered"})
        self.assertEqual(len(self.forwarded(frames)), 5)
        self.node.ask("step_down")
        self.heard(0.05)
        self.ask_vip()
        self.clients(3000, 10)
        self.assertEqual(self.heard(1.5), [])

    def test_a_stopped_scheduler_that_goes_on(self):
        self.node.ask("schedule")
        self.clients(1000, 10)
        self.assertEqual(len(self.forwarded(self.heard(0.5))), 5)
        self.node.popen.send_signal(signal.SIGSTOP)
        sleep(0.05)
        self.clients(2000, 2000)
        for _ in range(20):
            self.ask_vip()
        self.assertEqual(self.heard(0.6), [])
        self.node.popen.send_signal(signal.SIGCONT)
        # All that had waited, and what comes while nobody has decided.
        self.assertGreater(self.node.expect("absent"), 0.6)
        self.clients(6000, 10)
        self.ask_vip()
        self.assertEqual(self.heard(1.5), [])
        self.assertEqual(self.node.ask("counters")["frames_absent"], 2010)
        self.node.ask("unmute")
        self.ask_vip()
        self.clients(7000, 10)
        frames = self.heard(0.5)
        self.assertEqual(self.kinds(frames), {"announced", "answered"})
        self.assertEqual(self.forwarded(frames) - set(range(7000, 7010)), set())
        self.assertEqual(len(self.forwarded(frames)), 5)

    def test_somebody_answers_a_probe(self):
        self.node.ask("probe")
        (question,) = self.heard(0.3)
        self.assertEqual(question.src, machines.MAC.hex(":"))
        rival = "06:00:cb:00:71:0c"
        answer = ARP(op=2, hwsrc=rival, psrc=machines.VIP, hwdst=question.src, pdst="0.0.0.0")
        self.outside.send(bytes(Ether(src=rival, dst=question.src) / answer))
        self.assertEqual(self.node.expect("vip_claimed"), rival)

    def test_a_cable_is_pulled(self):
        self.node.ask("schedule")
        self.assertEqual(self.kinds(self.heard(0.2)), {"announced"})
        began = monotonic()
        with self.other.entered():
            namespaces.ip("link set peer down")
        self.assertIn("eth0", self.node.expect("fault"))
        self.assertLess(monotonic() - began, 1)
        self.node.ask("step_down")
        with self.other.entered():
            namespaces.ip("link set peer up")
        self.assertEqual(self.node.expect("fault"), "")
        self.outside.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # of our own end
        self.assertEqual(self.heard(0.5), [])
