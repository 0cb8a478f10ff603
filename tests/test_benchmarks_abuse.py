"""benchmarks/abuse.py: what attackers send, what is judged, the tables, and its two programs."""

import collections
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from benchmarks import abuse, abusebytes, abuseplan, abusesetups
from benchmarks.abusemeasure import MEMORY, Load, Result, Usage, Window, missed, percentile, ratio
from benchmarks.abuseplan import ATTACKS, DEADLINES, SLACK
from benchmarks.abusereport import document, table
from benchmarks.abusestand import usage_of
from benchmarks.processes import BenchmarkError, find_programs
from benchmarks.setups import Ports
from dlba.config.load import load_text
from dlba.demo import write_certificate

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = abusesetups.Backends(1001, 1002, 1003, 1004, (1005, 1006))
ATTACK = {attack.name: attack for attack in ATTACKS}


class PlanTests(SynchronousTestCase):
    """The attacks."""

    def test_all_can_be_carried_out(self):
        self.assertEqual(len(ATTACK), len(ATTACKS))
        for attack in ATTACKS:
            self.assertIsInstance(abusebytes.opening(attack.sends), bytes)
            if attack.every and attack.reads:
                self.assertIn(attack.sends, abusebytes.DRIPS)
            self.assertTrue(attack.hold or attack.deadline or attack.ends != abuseplan.HOLD)
            self.assertTrue(attack.work())

    def test_due(self):
        self.assertEqual(ATTACK["slow heads"].due(DEADLINES), DEADLINES.head)
        self.assertEqual(ATTACK["still readers"].due(DEADLINES), 2 * DEADLINES.write)
        self.assertIsNone(ATTACK["creeping readers"].due(DEADLINES))
        late = ATTACK["unread pipelines"]
        self.assertEqual(late.due(DEADLINES), 2 * DEADLINES.write + late.late)

    def test_scaled(self):
        held = ATTACK["idle plain"]
        self.assertEqual(held.scaled(0.1, 10_000).hold, 500)
        self.assertEqual(held.scaled(1, 700).hold, 700)
        self.assertEqual(held.scaled(0.00001, 700).hold, 1)
        self.assertEqual(ATTACK["resets"].scaled(0.1, 700), ATTACK["resets"])

    def test_what_should_pass_is_within_the_limits(self):
        for name in ("small", "many headers", "many cookies", "long cookie", "own cookies"):
            data = abusebytes.opening(name)
            self.assertLess(data.index(b"\r\n\r\n"), 64 * 1024, name)
            self.assertLessEqual(data.count(b"\r\n"), 202, name)
        self.assertGreater(len(abusebytes.opening("many cookies")), 48 * 1024)

    def test_what_should_not_is_far_over_them(self):
        self.assertGreater(len(abusebytes.opening("endless head")), 1 << 20)
        self.assertGreater(abusebytes.opening("too many headers").count(b"\r\n"), 4000)
        self.assertGreater(abusebytes.opening("trailers").count(b"\r\n"), 100_000)


class ConfigurationTests(SynchronousTestCase):
    """What those who are attacked are told."""

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.pem, self.key = self.folder / "a.pem", self.folder / "a.key"
        write_certificate(self.pem, self.key)

    def test_dlba_takes_it(self):
        for few in (False, True):
            text = abusesetups.dlba(
                Ports(8080, 8443), 9080, BACKENDS, DEADLINES, self.pem, self.key,
                self.folder / "state", few,
            )  # fmt: skip
            web = load_text(text, self.folder).array.web
            self.assertEqual(web.timeouts.idle, DEADLINES.idle)
            self.assertEqual(web.limits.connections is None, not few)
            self.assertEqual([site.pool for site in web.sites][-1], "app")
            self.assertEqual(len(web.pools["dead"].backends), 2)

    def test_peers_take_it(self):
        try:
            found = find_programs({"haproxy": "haproxy", "nginx": "nginx-light"})
        except BenchmarkError as error:
            self.skipTest(str(error))
        self.pem.write_bytes(self.pem.read_bytes() + self.key.read_bytes())
        file = self.folder / "cfg"
        file.write_text(abusesetups.haproxy(Ports(1080, 1443), BACKENDS, DEADLINES, self.pem, 100))
        done = subprocess.run([found["haproxy"], "-c", "-f", file], capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        files = (self.pem, self.key)
        for text in (
            abusesetups.nginx(
                self.folder, Ports(1080, 1443), BACKENDS, DEADLINES, files, "nginx", 100
            ),
            abusesetups.backend(self.folder, 1001),
        ):
            file.write_text(text)
            command = [found["nginx"], "-t", "-c", file, "-p", self.folder]
            done = subprocess.run(
                [*command, "-e", self.folder / "log"], capture_output=True, timeout=60
            )
            self.assertEqual(done.returncode, 0, done.stderr)


def window(p99=0.01, failed=0, count=1000):
    return Window((0.001,) * (count - count // 50) + (p99,) * (count // 50), failed)


LOAD = Load(10, 0, 5, 5, {"408": 5}, 4.0, 4.1, 3.0)


def result(name="slow heads", **more):
    values = {
        "number": 1,
        "subject": "dlba",
        "attack": ATTACK[name],
        "due": ATTACK[name].due(DEADLINES),
        "quiet": window(),
        "under": window(0.015),
        "after": window(),
        "load": LOAD,
        "before": Usage(50 << 20, 20),
        "peak": Usage(70 << 20, 1020),
        "left": Usage(55 << 20, 22),
        "back": 0.01,
        "settled": 0.2,
    }
    return Result(**{**values, **more})


class MeasureTests(SynchronousTestCase):
    """What is judged."""

    def test_percentile(self):
        self.assertIsNone(percentile([], 0.5))
        times = list(range(1, 101))
        self.assertEqual([percentile(times, share) for share in (0.5, 0.99, 1)], [50, 99, 100])
        self.assertEqual(percentile([7], 0.01), 7)

    @given(st.lists(st.floats(0, 10), min_size=1), st.floats(0, 1))
    def test_percentile_is_one_of_them_and_so_many_are_below(self, times, share):
        times.sort()
        found = percentile(times, share)
        self.assertIn(found, times)
        self.assertGreaterEqual(sum(time <= found for time in times) / len(times), share - 1e-9)

    def test_window(self):
        got = Window.of({"times": {"a": [0.3, 0.4], "b": [0.1]}, "failed": 2, "errors": ["x"]})
        self.assertEqual(got, Window((0.1, 0.3, 0.4), 2, ("x",)))
        self.assertEqual((got.p50, got.p99), (0.3, 0.4))

    def test_nothing_missed(self):
        self.assertEqual(missed([result()]), [])
        # Nobody need cut those.
        endless = attrs.evolve(LOAD, longest=None, oldest=30.0)
        self.assertEqual(missed([result("creeping readers", load=endless)]), [])

    def problem(self, expected, **more):
        (found,) = result(**more).problems()
        self.assertIn(expected, found)

    def test_each_target(self):
        self.problem("they weren't", load=attrs.evolve(LOAD, longest=None, oldest=4.3))
        self.problem("took 9.0 s", load=attrs.evolve(LOAD, longest=9.0))
        self.problem("took 6.0 s", load=attrs.evolve(LOAD, oldest=6.0))
        self.problem("failed under attack", under=window(failed=1))
        self.problem("failed afterwards", after=window(failed=1))
        self.problem("got never", back=None)
        self.problem("got 1.5 s", back=1.5)
        self.problem("descriptors: 980 more", settled=None, left=Usage(50 << 20, 1000))
        self.problem("memory", left=Usage((51 << 20) + MEMORY, 20))
        self.problem("internal errors: 3", internal_errors=3)
        self.problem("all 300", name="no descriptors", peak=Usage(60 << 20, 240), due=None)
        self.assertEqual(result("no descriptors", peak=Usage(60 << 20, 300)).problems(), [])
        self.problem("went wrong", problem="went wrong")

    def test_a_cut_within_the_slack_is_fine(self):
        load = attrs.evolve(LOAD, longest=DEADLINES.head + SLACK - 0.01)
        self.assertEqual(result(load=load).problems(), [])

    def test_ratio_is_the_median_of_passes(self):
        passes = [result(under=window(p99)) for p99 in (0.011, 0.5, 0.012)]
        self.assertEqual(round(ratio(passes), 3), 1.2)
        self.assertEqual(missed(passes), [])
        found = missed([result(under=window(0.021))])
        self.assertEqual(found, ["p99 of others: expected at most 2 times, got 2.1 times"])

    def test_no_ratio_of_too_few(self):
        self.assertIsNone(ratio([result(under=window(1.0, count=100))]))
        self.assertIsNone(ratio([result("no descriptors", under=window(1.0))]))
        self.assertIsNone(ratio([result(problem="x")]))

    def test_usage_of_this_process(self):
        got = usage_of(os.getpid())
        self.assertGreater(got.rss, 10 << 20)
        self.assertGreater(got.descriptors, 2)


class ReportTests(SynchronousTestCase):
    """The table, and the document."""

    def test_table(self):
        results = [
            result(),
            result(number=2, under=window(0.5)),
            result(subject="nginx"),
            result("creeping readers", problem="it broke"),
        ]
        lines = table(results).splitlines()
        (ours,) = [line for line in lines if line.startswith("slow heads") and "  dlba" in line]
        self.assertIn(" 25.75 ", ours)
        self.assertTrue(ours.endswith(" 1"), ours)
        self.assertIn("  creeping readers, dlba: pass 1: it broke", lines)
        work = "1,000 held, 250 new a second, a byte every 1 s"
        self.assertIn(f"  slow heads            {work}", lines)
        self.assertIn("Nothing missed its target.", table([result()]))

    def test_document(self):
        (got,) = json.loads(json.dumps(document([result()])))
        self.assertEqual(got["attack"]["name"], "slow heads")
        self.assertEqual((got["quiet"]["answers"], got["under"]["p99"]), (1000, 0.015))
        self.assertEqual((got["cut_after"], got["problems"]), (4.1, []))


class CommandLineTests(SynchronousTestCase):
    """Bounds, and what is chosen."""

    def parse(self, *words):
        with contextlib.redirect_stderr(io.StringIO()):
            return abuse.parse_arguments(words)

    def test_defaults(self):
        got = self.parse()
        self.assertEqual((got.passes, got.seconds, got.rate, got.peers), (3, 5, 150, False))
        self.assertEqual(self.parse("--quick").passes, 1)

    def test_bounds(self):
        for words in (("--passes", "0"), ("--seconds", "31"), ("--rate", "1"), ("--attack", "x")):
            self.assertEqual(self.assertRaises(SystemExit, self.parse, *words).code, 2)

    def test_chosen(self):
        self.assertEqual([a.name for a in abuse.chosen(["resets"], False)], ["resets"])
        self.assertEqual(len(abuse.chosen(None, False)), len(ATTACKS))
        quick = {attack.name: attack for attack in abuse.chosen(None, True)}
        self.assertEqual(quick["slow heads"].hold, 100)
        self.assertEqual(quick["no descriptors"], ATTACK["no descriptors"])

    def test_starts_as_script(self):
        done = subprocess.run(
            [sys.executable, ROOT / "benchmarks/abuse.py", "--help"],
            capture_output=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stderr)


class Web(threading.Thread):
    """A server on loopback: `answer(connection)` in a thread for each."""

    def __init__(self, answer):
        super().__init__(daemon=True)
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listening.getsockname()[1]
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        with contextlib.suppress(OSError), peer:
            self._answer(peer)

    def close(self):
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


class ProgramTests(SynchronousTestCase):
    """Attackers and ordinary clients, against a server that is no proxy."""

    def program(self, name):
        process = subprocess.Popen(
            [sys.executable, ROOT / f"benchmarks/{name}.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait, 20)
        self.addCleanup(process.stdin.close)
        return process

    def test_attackers(self):
        def answer(peer):
            # Until enough dripped; then the answer, and the end.
            seen = b""
            while not seen.endswith(b"aaa"):
                seen += peer.recv(4096)
            peer.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")

        web = Web(answer)
        self.addCleanup(web.close)
        process = self.program("abuseload")
        attack = abuseplan.Attack("x", "half a head", 200, 5, every=0.02)
        order = {"attack": attrs.asdict(attack), "port": web.port, "lead": 0.1}
        print(json.dumps(order), file=process.stdin)
        self.assertEqual(json.loads(process.stdout.readline()), {"ready": True})
        threading.Event().wait(0.5)
        print("finish", file=process.stdin)
        got = Load(**json.loads(process.stdout.readline()))
        self.assertGreater(got.cut, 5)
        self.assertEqual(set(got.answers), {"408"})
        self.assertEqual((got.failed, got.begun), (0, got.cut + got.held))
        self.assertGreater(got.median, 0.05)

    def test_ordinary_clients(self):
        def answer(peer):
            while b"Host: ordinary" in peer.recv(4096):
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")

        web = Web(answer)
        self.addCleanup(web.close)
        process = self.program("abuseclients")
        # Nobody there speaks TLS: those requests fail, and the others don't.
        order = {"plain": web.port, "tls": web.port, "rate": 200, "length": 3}
        print(json.dumps(order), file=process.stdin)
        answered, failed = collections.Counter(), 0
        until = time.monotonic() + 20
        while time.monotonic() < until and (
            answered["kept plain"] < 20 or answered["new plain"] < 5 or failed < 5
        ):
            threading.Event().wait(0.2)
            print("mark", file=process.stdin)
            got = json.loads(process.stdout.readline())
            answered.update({kind: len(times) for kind, times in got["times"].items()})
            failed += got["failed"]
        print("stop", file=process.stdin)
        self.assertGreaterEqual(min(answered["kept plain"] / 20, answered["new plain"] / 5), 1)
        self.assertEqual(answered["kept TLS"] + answered["new TLS"], 0)
        self.assertGreaterEqual(failed, 5)
