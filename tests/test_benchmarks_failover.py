"""benchmarks/failover.py: what tries say, tables, its clients, and a short run on a real pair."""

import contextlib
import io
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from benchmarks import failover, failoverload, failoverplan, failoverprobe, failoverstand
from benchmarks.failovermeasure import (
    Download,
    Run,
    Survival,
    Try,
    downloads_of,
    judge,
    longest_gap,
    survival,
    tries_of,
)
from benchmarks.failoverplan import CUT, KEEPALIVED, KILL
from benchmarks.failoverreport import report
from benchmarks.processes import BenchmarkError, find_programs
from dlba.demo import write_certificate
from dlba.lab import network
from dlba.lab.plan import plan

ROOT = Path(__file__).resolve().parent.parent
WHAT = (1, "dlba", KILL)


def steady(begin, end, every=0.005, took=0.001):
    """Tries that succeed or, with `took` None, fail; from `begin` to before `end`."""
    count = round((end - begin) / every)
    return [Try(begin + number * every, took) for number in range(count)]


class MeasureTests(SynchronousTestCase):
    """Tries and downloads to figures."""

    def test_longest_gap(self):
        self.assertEqual(longest_gap([], 0), 0.0)
        self.assertEqual(longest_gap([1.0], 0), 0.0)
        # In whatever order they come.
        self.assertEqual(longest_gap([5.0, 1.0, 2.0], 0), 3.0)
        self.assertEqual(longest_gap([1.0, 9.0, 10.0, 12.0], 9.5), 2.0)
        # One that began before the fault and ends after it counts whole.
        self.assertEqual(longest_gap([1.0, 9.0, 10.0], 8.0), 8.0)
        self.assertEqual(longest_gap([1.0, 9.0, 10.0], 0.0, until=9.5), 8.0)
        self.assertEqual(longest_gap([1.0, 9.0, 10.0], 0.0, until=8.5), 0.0)

    @given(st.lists(st.floats(0, 100), min_size=2), st.floats(0, 100))
    def test_longest_gap_is_one_between_neighbours(self, moments, since):
        gap = longest_gap(moments, since)
        self.assertLessEqual(gap, max(moments) - min(moments))
        self.assertGreaterEqual(gap, 0.0)
        if max(moments) > since >= min(moments):
            after = min(moment for moment in moments if moment > since)
            before = max(moment for moment in moments if moment <= since)
            self.assertGreaterEqual(gap, after - before)

    def test_an_outage(self):
        fault = 11.0
        tries = steady(10, 11) + steady(11, 11.2, took=None) + steady(11.2, 14)
        downloads = [Download(1, "a", "reset"), Download(2, "b", ""), Download(3, "c", "")]
        run = judge(WHAT, tries, downloads, "a", fault)
        self.assertEqual(run.problems, [])
        self.assertAlmostEqual(run.outage, 0.205)
        self.assertAlmostEqual(run.answers, 0.205)
        self.assertAlmostEqual(run.before, 0.005)
        self.assertEqual(run.failed, 40)
        self.assertEqual(run.survival, Survival(3, 2, 2, 2))

    def test_a_try_that_had_to_wait(self):
        """By its beginning there is no outage; by its answer there is one."""
        tries = steady(10, 11) + [Try(11.0 + n * 0.005, 0.2 - n * 0.005) for n in range(40)]
        run = judge(WHAT, tries + steady(11.2, 14), [], "a", 11.0)
        self.assertAlmostEqual(run.outage, 0.005)
        self.assertAlmostEqual(run.answers, 0.204)

    def test_no_fault(self):
        run = judge(WHAT, steady(10, 14), [], "a", 11.0)
        self.assertAlmostEqual(run.outage, 0.005)
        self.assertEqual((run.failed, run.problems), (0, []))

    def test_two_outages_the_longer_counts(self):
        tries = steady(10, 11) + steady(11.1, 12) + steady(12.3, 14)
        self.assertAlmostEqual(judge(WHAT, tries, [], "a", 11.0).outage, 0.305)

    def problem(self, tries, downloads=()):
        [found] = judge(WHAT, tries, downloads, "a", 11.0).problems
        return found

    def test_runs_that_say_nothing(self):
        lost = steady(11, 14, took=None)
        self.assertIn("to be over 3.0 s after", self.problem(steady(10, 11) + lost))
        half = [Try(one.began, None if n % 2 else 0.001) for n, one in enumerate(steady(11, 14))]
        self.assertIn("to be over", self.problem(steady(10, 11) + half))
        before = steady(10, 11, took=None) + steady(11, 14)
        self.assertIn("to succeed before the fault", self.problem(before))
        self.assertIn("before the fault, got 0", self.problem(steady(11, 14)))
        ghost = [Download(1, "a", ""), Download(2, "b", "")]
        self.assertIn("downloads of a to end with it, got 1", self.problem(steady(10, 14), ghost))
        self.assertEqual(len(judge(WHAT, [], [], "a", 11.0).problems), 2)

    def test_survival(self):
        found = [Download(n, "abc"[n % 3], "x" if n in (0, 1) else "") for n in range(6)]
        self.assertEqual(survival(found, "a"), Survival(6, 4, 4, 3))
        self.assertEqual(survival([], "a"), Survival(0, 0, 0, 0))
        self.assertEqual(Survival(1, 2, 3, 4) + Survival(5, 6, 7, 8), Survival(6, 8, 10, 12))

    def test_what_the_programs_tell(self):
        self.assertEqual(tries_of([[1.5, None], [2.5, 0.1]]), [Try(1.5, None), Try(2.5, 0.1)])
        told = [{"port": 7, "wrong": ""}, {"port": 8, "wrong": "x"}]
        found = downloads_of(told, {7: "a", 8: None})
        self.assertEqual(found, [Download(7, "a", ""), Download(8, "", "x")])


class ConfigurationTests(SynchronousTestCase):
    """What keepalived and HAProxy are told."""

    def setUp(self):
        self.lab = plan("x", failoverplan.PAIR)

    def test_down_after(self):
        """RFC 5798: three advertisements and the skew of priority 100."""
        self.assertEqual([round(pair.down_after, 3) for pair in KEEPALIVED], [3.609, 0.361])

    def test_texts(self):
        texts = [failoverplan.keepalived(node, n, 0.1) for n, node in enumerate(self.lab.nodes)]
        self.assertIn("advert_int 0.1\n", texts[0])
        self.assertIn("203.0.113.10/32", texts[1])
        self.assertNotEqual(*(text.partition("priority ")[2][:3] for text in texts))
        said = failoverplan.haproxy(Path("/x/both.pem"), self.lab.backends)
        self.assertIn("server app2 10.0.1.2:8080", said)

    def test_haproxy_takes_it(self):
        try:
            found = find_programs(failoverstand.PACKAGES)
        except BenchmarkError as error:
            self.skipTest(str(error))
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        pem, key = folder / "lab.pem", folder / "lab.key"
        write_certificate(pem, key, ("203.0.113.10",))
        pem.write_bytes(pem.read_bytes() + key.read_bytes())
        web = folder / "haproxy.cfg"
        web.write_text(failoverplan.haproxy(pem, self.lab.backends))
        done = subprocess.run([found["haproxy"], "-c", "-f", web], capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)


def run_of(number=1, subject="dlba", fault=KILL, outage=0.1, problems=(), **more):
    values = {"answers": outage, "before": 0.006, "failed": 20}
    values["survival"] = Survival(100, 67, 67, 67)
    return Run(number, subject, fault, outage, **{**values, **more}, problems=problems)


class ReportTests(SynchronousTestCase):
    """The table and the targets."""

    PEER = "keepalived 100 ms"

    def test_figures(self):
        runs = [run_of(n, outage=outage) for n, outage in enumerate((0.1, 0.12, 0.3))]
        runs += [run_of(1, self.PEER, outage=0.31, survival=Survival(100, 0, 0, 0))]
        text, figures = report(runs)
        ours, peer = text.splitlines()[1:3]
        self.assertEqual(
            ours.split(),
            [
                "dlba",
                "kill",
                "120",
                "300",
                "300",
                "20",
                "201",
                "of",
                "300",
                "(67%)",
                "201",
                "of",
                "201",
                "(100%)",
                "6",
                "3",
                "of",
                "3",
            ],
        )
        self.assertEqual(
            peer.split(), f"{self.PEER} kill 310 310 310 20 0 of 100 (0%) - 6 1 of 1".split()
        )
        self.assertEqual(figures["failed"], 0)
        self.assertEqual(figures["lines"][0]["survival"]["living"], 201)

    def test_targets(self):
        def said(*runs):
            return report(runs)[1]["targets"]

        limit, better, whole = said(run_of(outage=0.1), run_of(1, self.PEER, outage=0.3))
        self.assertTrue(limit.endswith("met") and better.endswith("met"), (limit, better))
        self.assertIn("67 of 67: met", whole)
        for outages, expected in (
            ((0.1, 0.151, 0.3), ["MISSED", "met"]),
            ((0.31, 0.31, 0.3), ["MISSED", "MISSED"]),
        ):
            runs = [run_of(n, outage=outage) for n, outage in enumerate(outages[:2])]
            got = said(*runs, run_of(1, self.PEER, outage=outages[2]))
            self.assertEqual([line.rpartition(" ")[2] for line in got[:2]], expected)
        lost = said(run_of(survival=Survival(100, 66, 67, 66)))
        self.assertIn("66 of 67: MISSED", lost[-1])
        self.assertIn("0 of 0: MISSED", said(run_of(survival=Survival(100, 0, 0, 0)))[-1])
        # A cut may last longer.
        self.assertIn("met", said(run_of(fault=CUT, outage=0.44))[0])
        self.assertEqual(said(run_of(1, self.PEER)), [])

    def test_failure_is_shown_and_not_counted(self):
        text, figures = report([run_of(), run_of(2, outage=9.0, problems=["no end"])])
        self.assertIn("FAILED: run 2, dlba, kill: no end", text)
        self.assertIn("1 of 2", text)
        self.assertEqual((figures["failed"], figures["lines"][0]["worst"]), (1, 0.1))
        text, figures = report([run_of(problems=["no end"])])
        self.assertEqual((figures["targets"], figures["lines"][0]["median"]), ([], None))


class CommandLineTests(SynchronousTestCase):
    """Bounds, and what is missing."""

    def parse(self, *words):
        with contextlib.redirect_stderr(io.StringIO()):
            return failover.parse_arguments(words)

    def test_defaults(self):
        got = self.parse()
        self.assertEqual((got.runs, got.nodes, got.subject, got.json), (20, 3, None, None))
        self.assertEqual(self.parse("--quick").runs, 1)

    def test_bounds(self):
        for words in (
            ("--runs", "0"),
            ("--runs", "101"),
            ("--nodes", "1"),
            ("--nodes", "6"),
            ("--subject", "heartbeat"),
            ("--fault", "flood"),
        ):
            error = self.assertRaises(SystemExit, self.parse, *words)
            self.assertEqual(error.code, 2)

    def test_starts_as_script(self):
        done = subprocess.run(
            [sys.executable, ROOT / "benchmarks/failover.py", "--help"],
            capture_output=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stderr)


class Web(threading.Thread):
    """A web server on loopback: `answer(connection)` for each, until `close`."""

    def __init__(self, answer, context=None):
        super().__init__(daemon=True)
        self._answer, self._context = answer, context
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listening.getsockname()[1]
        self.start()

    def run(self):
        while True:
            try:
                peer, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        with contextlib.suppress(OSError), peer:
            if self._context is not None:
                peer = self._context.wrap_socket(peer, server_side=True)
            with peer:
                peer.recv(4096)
                self._answer(peer)

    def close(self):
        # A thread in accept wakes up by this alone.
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


class ProbeTests(SynchronousTestCase):
    """The tries, at servers of every kind."""

    def probe(self, port, seconds):
        class Fault:
            descriptor = -1
            moment = time.monotonic() - failoverprobe.MOST + seconds

        self.patch(failoverprobe, "CALM", 1 << 30)
        probe = failoverprobe.Probe("127.0.0.1", port)
        probe.run(Fault)
        probe.close()
        self.assertEqual((probe._open, len(probe._order)), ({}, 0))
        return tries_of(probe.tries)

    def serve(self, answer):
        web = Web(answer)
        self.addCleanup(web.close)
        return web.port

    def test_good_ones(self):
        port = self.serve(lambda peer: peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n"))
        tries = self.probe(port, 0.5)
        self.assertGreater(len(tries), 30)
        self.assertLessEqual(len(tries), 101)
        good = [one for one in tries if one.took is not None]
        self.assertGreater(len(good), len(tries) * 0.8)

    def test_bad_ones(self):
        answers = (
            lambda peer: peer.sendall(b"HTTP/1.1 503 x\r\n\r\n"),
            lambda peer: peer.close(),
            lambda peer: time.sleep(1.0),
        )
        for answer in answers:
            tries = self.probe(self.serve(answer), 0.4)
            self.assertGreater(len(tries), 20)
            self.assertEqual({one.took for one in tries}, {None})

    def test_nobody(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        tries = self.probe(port, 0.2)
        self.assertGreater(len(tries), 10)
        self.assertEqual({one.took for one in tries}, {None})

    def test_one_that_hangs_delays_no_other(self):
        turn = iter(range(1 << 20))

        def answer(peer):
            if next(turn) % 2:
                time.sleep(1.0)
            peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        tries = self.probe(self.serve(answer), 0.5)
        good = sum(one.took is not None for one in tries)
        self.assertGreater(good, len(tries) * 0.3)
        self.assertLess(good, len(tries) * 0.7)


class DownloadTests(SynchronousTestCase):
    """The downloads, by servers that send the right and the wrong."""

    SIZE = 50_000

    def setUp(self):
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        pem, key = folder / "lab.pem", folder / "lab.key"
        write_certificate(pem, key, ("127.0.0.1",))
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.server.load_cert_chain(pem, key)
        self.client = ssl.create_default_context(cafile=str(pem))

    def outcome(self, send):
        web = Web(send, self.server)
        self.addCleanup(web.close)
        download = failoverload.Download("127.0.0.1", self.client, self.SIZE, web.port)
        end = time.monotonic() + 20
        while download.wrong is None and time.monotonic() < end:
            download.read(4096)
            time.sleep(0.001)
        digest = failoverload.hashlib.sha256(failoverload.body(self.SIZE)).hexdigest()
        return download.result(digest)["wrong"]

    def test_outcomes(self):
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n"
        body = failoverload.body(self.SIZE)
        self.assertEqual(body[249:253], bytes([249, 250, 0, 1]))
        other = body[:-1] + b"\xff"
        self.assertEqual(self.outcome(lambda peer: peer.sendall(head + body)), "")
        for sent, expected in (
            (head + other, "expected the bytes that were sent, got others"),
            (head + body + b"x" * 20_000, "expected its end, got more"),
            (head + body[:-1000], "expected 1000 more bytes, got"),
        ):
            self.assertIn(expected, self.outcome(lambda peer, data=sent: peer.sendall(data)))

    def test_no_beginning(self):
        for sent in (b"", b"HTTP/1.1 503 Busy\r\n\r\n"):
            self.assertRaises(
                (ValueError, OSError), self.outcome, lambda peer, data=sent: peer.sendall(data)
            )


def lacking():
    if os.geteuid():
        return "expected root, who may make network namespaces"
    try:
        find_programs(failoverstand.PACKAGES)
    except BenchmarkError as error:
        return str(error)
    return None


class RealRunTests(SynchronousTestCase):
    """A pair with fast advertisements, killed once."""

    skip = lacking()

    def test_kill(self):
        self.patch(failover, "DOWNLOADS", 10)
        found = find_programs(failoverstand.PACKAGES)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with failoverstand.running(KEEPALIVED[1].name, folder, found, 3) as stand:
                lab = stand.lab.name
                run = failover.run_once(stand, 1, KILL)
                again = stand.wait_settled()
                pids = [
                    pid
                    for children in stand._children.values()
                    for child in children.values()
                    for pid in failoverstand.family(child.pid)
                ]
                self.assertGreaterEqual(len(pids), 6)
        self.assertEqual(run.problems, [], json.dumps(run.problems))
        self.assertGreater(run.outage, 0.0)
        self.assertLess(run.outage, 5.0)
        self.assertEqual(run.survival, Survival(10, 0, 0, 0))
        self.assertEqual(again, "b")
        self.assertEqual(network.names_of(lab), [])
        self.assertEqual([pid for pid in pids if Path(f"/proc/{pid}").exists()], [])
