"""benchmarks/l2.py: its frames, ratios and tables, its sender, and a short run on real frames."""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import attrs
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from twisted.trial.unittest import SynchronousTestCase

from benchmarks import l2, l2lab, l2load, l2plan, l2stand
from benchmarks.l2measure import (
    FLOOD,
    STEADY,
    Comparison,
    Look,
    Run,
    busy_ticks,
    ratios,
    without,
)
from benchmarks.l2plan import Subject
from benchmarks.l2report import noise, report
from benchmarks.processes import BenchmarkError, Child, find_programs
from dlba.config.load import load_text
from dlba.routing.array import frame_path, scheduler_of
from tests import namespaces

ROOT = Path(__file__).resolve().parent.parent
OURS = Subject("dlba", 1)


class FrameTests(SynchronousTestCase):
    """What the client sends, as scapy sees it."""

    def test_frames_are_right(self):
        for size in l2plan.SIZES.values():
            for frame in l2plan.frames(OURS.scheduler_mac, OURS.vip, size, 50):
                self.assertEqual(len(frame), size)
                seen = Ether(frame)
                self.assertEqual(seen.dst, "06:00:00:00:03:01")
                self.assertEqual(seen.src, "02:00:00:00:01:01")
                self.assertEqual(seen[IP].dst, "198.18.0.101")
                self.assertTrue(seen[IP].src.startswith("198.19."))
                self.assertIn(seen[TCP].dport, (80, 443))
                self.assertEqual(seen[TCP].flags, "A")
                self.assertIn("Timestamp", dict(seen[TCP].options))
                self.assertEqual(len(seen[TCP].payload), size - 66)
                # Without their checksums scapy computes them.
                again = seen.copy()
                del again[IP].chksum, again[TCP].chksum
                self.assertEqual(bytes(again), frame)

    def test_every_flow_is_another_one(self):
        seen = l2plan.frames(OURS.scheduler_mac, OURS.vip, 66)
        self.assertEqual(len(seen), l2plan.FLOWS)
        self.assertEqual(len({frame[26:30] for frame in seen}), l2plan.FLOWS)
        ports = {int.from_bytes(frame[34:36], "big") for frame in seen}
        self.assertGreater(len(ports), l2plan.FLOWS * 0.9)
        self.assertTrue(all(32768 <= port < 61000 for port in ports))

    def test_checksum(self):
        # RFC 1071, section 3.
        self.assertEqual(l2plan.checksum(bytes.fromhex("0001f203f4f5f6f7")), 0xFFFF ^ 0xDDF2)


class ConfigurationTests(SynchronousTestCase):
    """What the schedulers are told."""

    def config(self, packets):
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        return load_text(l2plan.node_yaml(OURS, packets, folder / "state"), folder)

    def test_dlba_is_scheduler_and_gives_all_frames_to_the_nodes(self):
        config = self.config("packet")
        self.assertEqual(scheduler_of(config.array.nodes), config.node)
        self.assertEqual(config.interface, "eth0")
        self.assertIsNone(config.array.web)
        path = frame_path(config.array, config.node, 1500, None)
        path.activate(True, 1.0)
        path.wake(1.0)
        places = Counter()
        for frame in l2plan.frames(OURS.scheduler_mac, OURS.vip, 66):
            places[path.route(memoryview(bytearray(frame)), False)] += 1
        expected = {l2plan.node_mac(one) + OURS.mac for one in l2plan.NODES}
        self.assertEqual(set(places), expected)
        self.assertGreater(min(places.values()), l2plan.FLOWS * l2stand.LEAST_SHARE)

    def test_packets(self):
        for packets in ("packet", "pcap"):
            self.assertEqual(self.config(packets).array.routing.packets, packets)

    def test_nftables_has_the_same_work(self):
        rules = l2plan.nft_scheduler(OURS)
        for words in (
            "ether daddr 06:00:00:00:03:01",
            "ip daddr 198.18.0.101",
            "tcp dport { 80, 443 }",
            "ether saddr set 02:00:00:00:03:01",
            "{ 0 : 02:00:00:00:02:01, 1 : 02:00:00:00:02:02 }",
        ):
            self.assertIn(words, rules)

    def test_nobody_has_an_address_of_another(self):
        subjects = [Subject(name, at) for at, name in enumerate(l2stand.SUBJECTS, 1)]
        macs = [l2plan.CLIENT_MAC, *map(l2plan.node_mac, l2plan.NODES)]
        addresses = [*map(l2plan.node_address, l2plan.NODES)]
        for subject in subjects:
            macs += [subject.mac, subject.scheduler_mac]
            addresses += [subject.address, subject.vip]
        self.assertEqual(len(macs), len(set(macs)))
        self.assertEqual(len(addresses), len(set(addresses)))


class SenderTests(SynchronousTestCase):
    """`l2load` sends what it should, no more and no less."""

    def setUp(self):
        self.out, self.into = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.out.close)
        self.addCleanup(self.into.close)
        self.into.setblocking(False)

    def received(self):
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.into.recv(1 << 16))
        return found

    def test_many_frames_a_call_round_and_round(self):
        frames = [bytes([n]) * (n + 1) for n in range(7)]
        batch = l2load.Batch(frames)
        for _ in range(2):  # the queue of such a socket may be as short as 10
            self.assertEqual([batch.send(self.out.fileno(), 5) for _ in range(2)], [5, 2])
            self.assertEqual(self.received(), frames)

    def test_a_load_ends_at_its_count(self):
        batch = l2load.Batch([b"a", b"b", b"c"])
        for rate in (0, 1e6):
            result = l2load.load(batch, self.out.fileno(), 20.0, rate, 8)
            self.assertEqual((result["sent"], result["refused"]), (8, 0))
            self.assertEqual(len(self.received()), 8)

    def test_a_load_ends_at_its_time(self):
        batch = l2load.Batch([b"a"])
        result = l2load.load(batch, self.out.fileno(), 0.05, 20.0, 100)
        self.assertLess(result["sent"], 100)
        self.assertGreaterEqual(result["seconds"], 0.05)

    def test_what_is_refused_is_counted(self):
        batch = l2load.Batch([b"a", b"b"])
        self.into.close()
        result = l2load.load(batch, self.out.fileno(), 0.02, 0, 100)
        self.assertEqual(result["sent"], 0)
        self.assertGreater(result["refused"], 0)

    def test_a_child_that_talks(self):
        log = Path(self.mktemp()).absolute()
        code = "print(input().upper(), flush=True)"
        with Child("echo", [sys.executable, "-c", code], log, talks=True) as child:
            child.tell("hello")
            self.assertEqual(child.hear(), "HELLO")
            with self.assertRaisesRegex(BenchmarkError, "echo: expected a line, got none"):
                child.hear()


def run(number, subject, load=FLOOD, work="ack", **changes):
    made = Run(
        number=number,
        work=work,
        load=load,
        subject=subject,
        offered=1000.0,
        lost=0.0,
        frames=1000,
        wall=1.0,
        cpu=0.5,
        parties=1.0,
        machine=1.0,
        stolen=0.0,
    )
    return attrs.evolve(made, **changes)


class RunTests(SynchronousTestCase):
    """What two looks make, and what two runs."""

    def test_between(self):
        looks = (Look(10.0, 500, 1.0, 2.0, 3.0, 0.1), Look(12.0, 2500, 2.0, 4.5, 8.0, 0.3))
        made = Run.between((3, "mtu", FLOOD, "x"), looks, 1500.0, 0.25)
        self.assertEqual((made.number, made.work, made.load, made.subject), (3, "mtu", FLOOD, "x"))
        self.assertEqual((made.frames, made.wall, made.cpu), (2000, 2.0, 1.0))
        self.assertEqual((made.per_second, made.per_cpu_second), (1000, 2000))
        self.assertEqual((made.per_party_second, made.per_machine_second), (800, 400))
        self.assertEqual((made.busy, made.others), (0.5, 1.25))
        self.assertAlmostEqual(made.stolen, 0.2)

    def test_nothing_happened(self):
        nothing = Look(0, 0, 0, 0, 0, 0)
        made = Run.between((1, "ack", FLOOD, "x"), (nothing, nothing), 0, 0, ["dead"])
        for name in ("second", "cpu_second", "party_second", "machine_second"):
            self.assertEqual(getattr(made, f"per_{name}"), 0)
        self.assertEqual((made.busy, made.others, made.problems), (0, 0, ("dead",)))

    def test_ticks(self):
        text = "cpu  10 20 30 4000 500 6 7 8 9 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n"
        self.assertEqual(busy_ticks(text), (73, 8))
        for text in ("", "cpu 1 2\n", "intr 1 2 3 4 5 6 7 8\n"):
            self.assertRaises(ValueError, busy_ticks, text)

    def test_ratios_are_taken_within_a_pass(self):
        runs = [
            run(1, "ours", cpu=0.5),
            run(1, "peer", cpu=0.25),
            run(2, "ours", cpu=0.4),
            run(2, "peer", cpu=0.4),
            run(3, "ours"),
            run(3, "peer", problems=("x",)),
            run(4, "ours"),
            run(5, "ours"),
            run(5, "peer", cpu=0.0),
            run(6, "ours", load=STEADY),
            run(6, "peer", load=STEADY),
            run(7, "ours", work="mtu"),
            run(7, "peer", work="mtu"),
        ]
        one = Comparison("ours", "peer", FLOOD, "per_cpu_second")
        self.assertEqual(ratios(runs, "ack", one), [0.5, 1.0])

    def test_without_what_the_sender_costs(self):
        runs = [
            run(1, "ours", STEADY, parties=1.4),
            run(1, "peer", STEADY, parties=0.8),
            run(1, "base", STEADY, parties=0.6),
            # The base got half of the frames in its time, which cost half as much.
            run(2, "ours", STEADY, parties=1.4),
            run(2, "peer", STEADY, parties=0.8),
            run(2, "base", STEADY, parties=0.3, offered=500.0),
            run(3, "ours", STEADY),
            run(4, "ours", STEADY),
            run(4, "base", STEADY, problems=("x",)),
            run(5, "ours", FLOOD),
            run(5, "base", FLOOD),
        ]
        left = without(runs, "base")
        self.assertEqual([one.number for one in left], [1, 1, 2, 2])
        for one, expected in zip(left, (0.8, 0.2, 0.8, 0.2), strict=True):
            self.assertAlmostEqual(one.parties, expected)
        one = Comparison("ours", "peer", STEADY, "per_party_second", "base")
        for ratio in ratios(runs, "ack", one):
            self.assertAlmostEqual(ratio, 0.25)


class ReportTests(SynchronousTestCase):
    """What people and programs get."""

    comparisons = (
        Comparison("ours", "peer", FLOOD, "per_cpu_second"),
        Comparison("ours", "peer", STEADY, "per_party_second", "base"),
    )

    def test_figures(self):
        runs = []
        for number, cpu in ((1, 0.5), (2, 0.4), (3, 0.8)):
            runs += [run(number, "ours", cpu=cpu), run(number, "peer", cpu=0.4)]
            runs += [run(number, "ours", STEADY, parties=1.5)]
            runs += [run(number, "peer", STEADY, parties=0.75, cpu=0.0)]
            runs += [run(number, "base", STEADY, parties=0.5, cpu=0.0)]
        text, figures = report(runs, self.comparisons, "base")
        self.assertEqual(figures["failed"], 0)
        first, second = figures["ratios"]
        numbers = [first[name] for name in ("median", "low", "high", "count")]
        for number, expected in zip(numbers, (0.8, 0.5, 1.0, 3), strict=True):
            self.assertAlmostEqual(number, expected)
        self.assertAlmostEqual(second["median"], 0.25)
        self.assertRegex(text, r"ack +ours +2,000 \(1,250 to 2,500\) +50% .*3 of 3")
        self.assertRegex(text, r"ack +peer +- +750,000 \(750,000 to 750,000\) +250,000 .*3 of 3")
        self.assertRegex(text, r"ack +ours / peer +flood +CPU second of the process +0\.80 \(0\.50")
        self.assertRegex(text, r"ours / peer +steady .*less base +0\.25 \(0\.25 to 0\.25\) +3")
        self.assertNotIn("FAILED", text)

    def test_failure_is_shown_and_not_counted(self):
        runs = [run(1, "ours", cpu=0.001, problems=("dead",)), run(1, "peer")]
        text, figures = report(runs, self.comparisons, "base")
        self.assertEqual(figures["failed"], 1)
        self.assertNotIn("median", figures["ratios"][0])
        self.assertIn("FAILED: pass 1, ack, flood, ours: dead", text)
        self.assertIn("0 of 1", text)
        self.assertNotIn("1,000,000", text)

    def test_noise(self):
        self.assertNotIn("NOT QUIET", noise([run(1, "ours", machine=1.04)]))
        self.assertIn("up to 50% of a core", noise([run(1, "x"), run(2, "x", machine=1.5)]))
        self.assertIn("NOT QUIET", noise([run(1, "ours", machine=1.06)]))
        self.assertIn("NOT QUIET", noise([run(1, "ours", stolen=0.06)]))

    def test_target(self):
        for cpu, words in ((0.5, "met"), (0.8, "MISSED")):
            runs = [
                run(1, name, work=work, cpu=used)
                for work in l2plan.SIZES
                for name, used in ((l2stand.DLBA, cpu), (l2stand.BARE, 0.4))
            ]
            self.assertTrue(l2.target(runs).endswith(words), l2.target(runs))


class CommandLineTests(SynchronousTestCase):
    """The load is bounded whatever is asked."""

    def test_defaults(self):
        arguments = l2.parse_arguments([])
        self.assertEqual((arguments.passes, arguments.seconds), (5, 1))

    def test_bounds(self):
        for option, most in (("--passes", 20), ("--seconds", 10)):
            self.assertEqual(getattr(l2.parse_arguments([option, str(most)]), option[2:]), most)
            for value in (0, -1, most + 1, "x"):
                with contextlib.redirect_stderr(io.StringIO()) as said:
                    with self.assertRaises(SystemExit) as caught:
                        l2.parse_arguments([f"{option}={value}"])
                self.assertEqual(caught.exception.code, 2)
                self.assertIn(option, said.getvalue())

    def test_who_is_compared_is_there(self):
        for one in l2.COMPARISONS:
            for name in {one.ours, one.peer, one.base or one.peer}:
                self.assertIn(name, l2stand.SUBJECTS)
            self.assertTrue(hasattr(run(1, "x"), one.figure))

    def test_what_is_missing_is_named(self):
        self.patch(l2, "missing", lambda tun, bridge: "root needed")
        self.patch(l2, "find_programs", lambda packages: {})
        with self.assertRaisesRegex(BenchmarkError, "root needed"):
            l2.benchmark(l2.parse_arguments([]))
        self.patch(shutil, "which", lambda name, path: None)
        with self.assertRaisesRegex(BenchmarkError, r"nft \(Debian package nftables\)"):
            find_programs(l2lab.PACKAGES)

    def test_starts_as_script_and_as_module(self):
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        for words in (["benchmarks/l2.py"], ["-m", "benchmarks.l2"]):
            done = subprocess.run(
                [sys.executable, *words, "--help"],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("--quick", done.stdout)


class CounterTests(SynchronousTestCase):
    """/proc/net/dev."""

    text = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo:       0       0    0    0    0     0          0         0        0       0    0    0
  eth0: 9999999   12345    1    2    0     0          0         0     7777     888    0    0
"""

    def test_received(self):
        self.assertEqual(l2lab.received(self.text, "eth0"), 12345)
        for name in ("eth1", "eth", "face |bytes"):
            self.assertRaises(ValueError, l2lab.received, self.text, name)


def lacking():
    """What keeps this machine from a real run, None if nothing does."""
    try:
        find_programs(l2lab.PACKAGES)
    except BenchmarkError as error:
        return str(error)
    return namespaces.missing(tun=True, bridge=True)


def bridge_settings():
    """What the switches of this namespace are told; nothing where br_netfilter isn't loaded."""
    return {path: path.read_text() for path in Path("/proc/sys/net/bridge").glob("*")}


class RealRunTests(SynchronousTestCase):
    """Real frames in private namespaces: short, and no word about speed."""

    skip = lacking()

    def setUp(self):
        self.before = bridge_settings()

    def stand(self, *names):
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        return l2stand.Stand.running(find_programs(l2lab.PACKAGES), folder, sys.executable, names)

    def test_each_subject_is_verified_and_measured(self):
        processes = (l2stand.DLBA, l2stand.PORT, l2stand.BARE, l2stand.PLAIN)
        names = (*processes, l2stand.NFTABLES, l2stand.DISCARD)
        with self.stand(*names) as stand:
            stand.verify()
            for name in names:
                made = stand.measure(1, "ack", STEADY, name, 0.2, 2000)
                self.assertEqual(made.problems, ())
                self.assertGreater(made.frames, 0)
                self.assertEqual(made.cpu > 0, name in processes)
                self.assertGreater(made.parties, made.cpu)
            # The machine's own switches are left as they are.
            self.assertEqual(bridge_settings(), self.before)
            children = [child.pid for child in (*stand._children.values(), stand._load)]
        for pid in children:
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def test_one_that_does_nothing_is_found_out(self):
        self.patch(l2stand, "nft_scheduler", lambda subject: l2plan.nft_node())
        self.patch(l2stand, "START_SECONDS", 2.0)
        with self.stand(l2stand.NFTABLES) as stand:
            with self.assertRaisesRegex(BenchmarkError, "expected 4096 frames, got 0"):
                stand.verify()

    def test_one_that_changes_a_frame_is_found_out(self):
        def wrong(subject):
            rules = l2plan.nft_scheduler(subject)
            return rules.replace("ether saddr set", "ip ttl set 63 ether saddr set")

        self.patch(l2stand, "nft_scheduler", wrong)
        self.patch(l2stand, "START_SECONDS", 2.0)
        with self.stand(l2stand.NFTABLES) as stand:
            with self.assertRaisesRegex(BenchmarkError, "all but the MAC addresses as sent"):
                stand.verify()

    def test_one_that_ends_is_a_failed_run_with_its_words(self):
        with self.stand(l2stand.BARE) as stand:
            child = stand._children[l2stand.BARE]
            child._process.kill()
            child._process.wait()
            made = stand.measure(1, "ack", STEADY, l2stand.BARE, 0.1, 2000)
        self.assertIn("expected it to run, got exit code -9", made.problems[0])
