"""The pure parts of benchmarks/: what wrk and the kernel print, ratios, configurations, bounds."""

import contextlib
import importlib
import io
import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import l7, processes, setups
from benchmarks.measure import (
    Run,
    Spread,
    parse_schedstat,
    parse_stat,
    parse_wrk,
    ratios,
    report,
    spread,
)
from dlba.config.load import load_text
from dlba.demo import write_certificate

ROOT = Path(__file__).resolve().parent.parent

CLEAN = """\
Running 5s test @ https://127.0.0.1:41233/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.10ms    2.05ms  41.72ms   92.10%
    Req/Sec     8.02k   561.05     8.90k    74.00%
  Latency Distribution
     50%    3.70ms
     75%    4.21ms
     90%    5.50ms
     99%   12.08ms
  39894 requests in 5.00s, 48.77MB read
Requests/sec:   7976.59
Transfer/sec:      9.75MB
"""

BROKEN = """\
Running 2s test @ http://127.0.0.1:1/
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   812.00us    0.00us   1.20s   100.00%
    Req/Sec    12.00      0.00    12.00    100.00%
  Latency Distribution
     50%  812.00us
     99%    1.20s
  12 requests in 1.02m, 13.12KB read
  Socket errors: connect 1, read 20, write 300, timeout 4000
  Non-2xx or 3xx responses: 7
Requests/sec:      5.96
Transfer/sec:      6.53KB
"""


class WrkTests(SynchronousTestCase):
    """`parse_wrk` and what it thinks of a run."""

    def test_clean(self):
        seen = parse_wrk(CLEAN)
        self.assertEqual(seen.requests, 39894)
        self.assertEqual(seen.seconds, 5.0)
        self.assertAlmostEqual(seen.received, 48.77 * 1024 * 1024)
        self.assertAlmostEqual(seen.p50, 0.0037)
        self.assertAlmostEqual(seen.p99, 0.01208)
        self.assertEqual((seen.socket_errors, seen.bad_status), (0, 0))
        self.assertEqual(seen.problems(1024), [])

    def test_broken(self):
        seen = parse_wrk(BROKEN)
        self.assertEqual((seen.socket_errors, seen.bad_status), (4321, 7))
        self.assertAlmostEqual(seen.seconds, 61.2)
        self.assertAlmostEqual(seen.p50, 812e-6)
        self.assertAlmostEqual(seen.p99, 1.2)
        problems = seen.problems(1024)
        self.assertEqual(len(problems), 2)
        self.assertIn("4321", problems[0])
        self.assertIn("7", problems[1])

    def test_each_socket_error_counts(self):
        for kind in ("connect", "read", "write", "timeout"):
            line = "connect 0, read 0, write 0, timeout 0".replace(f"{kind} 0", f"{kind} 1")
            text = CLEAN.replace("Requests/sec", f"  Socket errors: {line}\nRequests/sec")
            self.assertEqual(parse_wrk(text).socket_errors, 1, kind)

    def test_units_of_bytes(self):
        for unit, factor in (("", 1), ("K", 2**10), ("M", 2**20), ("G", 2**30), ("T", 2**40)):
            text = f"  3 requests in 1.50s, 2.00{unit}B read\n"
            self.assertEqual(parse_wrk(text).received, 2 * factor)

    def test_no_latency_asked_for(self):
        seen = parse_wrk("  3 requests in 1.50s, 9.00KB read\n")
        self.assertEqual((seen.p50, seen.p99), (None, None))

    def test_no_response(self):
        problems = parse_wrk("  0 requests in 5.00s, 0.00B read\n").problems(1024)
        self.assertEqual(problems, ["wrk: expected responses, got none"])

    def test_short_bodies(self):
        # 200 and no socket error, but 500 bytes each.
        problems = parse_wrk("  1000 requests in 5.00s, 488.28KB read\n").problems(1024)
        self.assertEqual(problems, ["wrk: expected at least 1024 bytes a response, got 500"])

    def test_rounding_is_forgiven(self):
        # 1,030,000 bytes are 0.98 MB in wrk's words, 1,027,604 bytes.
        seen = parse_wrk("  1000 requests in 5.00s, 0.98MB read\n")
        self.assertEqual(seen.problems(1030), [])

    def test_no_summary(self):
        for text in ("", "unable to connect to 127.0.0.1:1 Connection refused\n"):
            with self.assertRaisesRegex(ValueError, "wrk: expected a line"):
                parse_wrk(text)


class CPUTimeTests(SynchronousTestCase):
    """Seconds from what the kernel shows."""

    def test_schedstat_adds_threads(self):
        texts = ["1500000000 77 12\n", "250000000 1 1\n", "1 0 1\n"]
        self.assertAlmostEqual(parse_schedstat(texts), 1.750000001, places=9)
        self.assertEqual(parse_schedstat([]), 0.0)

    def test_schedstat_faulty(self):
        for text in ("", "1 2", "1 2 3 4", "a 2 3", "1.5 2 3"):
            with self.assertRaises(ValueError):
                parse_schedstat([text])

    def test_stat_is_user_and_system(self):
        numbers = list(range(4, 53))
        for name in ("wrk", "a b", "a) R 1 (b", ")", "("):
            # Fields 14 and 15 by proc(5), counted from 1, are utime and stime.
            text = f"4242 ({name}) S " + " ".join(map(str, numbers)) + "\n"
            self.assertEqual(parse_stat(text, 100), (14 + 15) / 100, name)

    def test_stat_faulty(self):
        for text in ("", "1 wrk S 1 2 3", "1 (wrk) S 1 2 3", "1 (wrk) S " + "x " * 40):
            with self.assertRaises(ValueError):
                parse_stat(text, 100)

    def test_this_process(self):
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        ticks = os.sysconf("SC_CLK_TCK")
        before = sum(os.times()[:2])
        stat = parse_stat(Path("/proc/self/stat").read_text(), ticks)
        self.assertGreaterEqual(stat, before - 2 / ticks)
        self.assertLessEqual(stat, sum(os.times()[:2]) + 2 / ticks)
        files = [file.read_text() for file in Path("/proc/self/task").glob("*/schedstat")]
        if parse_schedstat(files) > 0:
            # Threads that ended are missing in it, and a tick of the running one.
            self.assertLessEqual(parse_schedstat(files), time.process_time() + 0.1)
            self.assertGreater(parse_schedstat(files), 0.03)


def run(number, setup, rate, work="tls", problems=(), **more):
    """A run of two CPU seconds in four."""
    values = {"requests": int(rate * 2), "wall": 4.0, "cpu": 2.0, "p50": 0.002, "p99": 0.01}
    return Run(number=number, work=work, setup=setup, problems=problems, **{**values, **more})


class ArithmeticTests(SynchronousTestCase):
    """Rates, medians, ratios within a pass."""

    def test_rate_and_share(self):
        one = run(1, "dlba", 12_000)
        self.assertEqual(one.per_cpu_second, 12_000)
        self.assertEqual(one.busy, 0.5)
        dead = run(1, "dlba", 0, wall=0.0, cpu=0.0)
        self.assertEqual((dead.per_cpu_second, dead.busy), (0.0, 0.0))

    def test_spread(self):
        self.assertIsNone(spread([]))
        self.assertEqual(spread([3.0]), Spread(3.0, 3.0, 3.0, 1))
        self.assertEqual(spread([9.0, 1.0, 2.0]), Spread(2.0, 1.0, 9.0, 3))
        self.assertEqual(spread([4.0, 1.0, 2.0, 9.0]), Spread(3.0, 1.0, 9.0, 4))

    def test_ratios_stay_within_their_pass(self):
        # The machine is half as fast in the second pass; ratios don't notice.
        runs = [
            run(1, "haproxy", 16_000),
            run(1, "dlba", 12_000),
            run(2, "dlba", 6_000),
            run(2, "haproxy", 8_000),
            run(1, "dlba", 1, work="plain"),
        ]
        random.Random(1).shuffle(runs)
        self.assertEqual(ratios(runs, "tls", "dlba", "haproxy"), [0.75, 0.75])
        self.assertEqual(ratios(runs, "tls", "haproxy", "dlba"), [4 / 3, 4 / 3])
        self.assertEqual(ratios(runs, "plain", "dlba", "haproxy"), [])

    def test_failed_passes_give_no_ratio(self):
        runs = [
            run(1, "haproxy", 16_000),
            run(1, "dlba", 99_000, problems=("wrk: expected only 2xx, got 5 others",)),
            run(2, "haproxy", 99_000, problems=("x",)),
            run(2, "dlba", 12_000),
            run(3, "haproxy", 16_000),
            run(3, "dlba", 8_000),
            run(4, "haproxy", 0),
            run(4, "dlba", 8_000),
            run(5, "dlba", 8_000),
        ]
        self.assertEqual(ratios(runs, "tls", "dlba", "haproxy"), [0.5])


class ReportTests(SynchronousTestCase):
    """What people and programs get."""

    def test_figures(self):
        runs = [
            run(number, name, rate, work=work)
            for number, ours in ((1, 12_000), (2, 10_000), (3, 14_000))
            for work in ("plain", "tls")
            for name, rate in (("haproxy", 20_000), ("dlba", ours))
        ]
        text, figures = report(runs, [("dlba", "haproxy")])
        expected = {"median": 0.6, "low": 0.5, "high": 0.7, "count": 3}
        for work in ("plain", "tls"):
            self.assertEqual(figures["ratios"][work], {"dlba / haproxy": expected})
            self.assertEqual(figures["per_cpu_second"][work]["dlba"]["median"], 12_000)
        self.assertEqual(figures["failed"], 0)
        self.assertRegex(text, r"tls +dlba / haproxy +0\.60  \(0\.50 to 0\.70\)  3")
        self.assertRegex(
            text, r"plain +dlba +12,000  \(10,000 to 14,000\) +50% +2\.00 +10\.00  3 of 3"
        )
        self.assertNotIn("FAILED", text)

    def test_failure_is_shown_and_not_counted(self):
        runs = [
            run(1, "haproxy", 20_000),
            run(1, "dlba", 90_000, problems=("wrk: expected no socket errors, got 3",)),
        ]
        text, figures = report(runs, [("dlba", "haproxy")])
        self.assertEqual(figures["failed"], 1)
        self.assertEqual(figures["ratios"], {})
        self.assertNotIn("dlba", figures["per_cpu_second"]["tls"])
        self.assertIn("FAILED: pass 1, tls, dlba: wrk: expected no socket errors, got 3", text)
        self.assertNotIn("90,000", text)
        self.assertIn("0 of 1", text)


class SetupTests(SynchronousTestCase):
    """The configurations ask both proxies for the same work."""

    ports = setups.Ports(30001, 30002)

    def test_ports(self):
        self.assertEqual((self.ports.of("plain"), self.ports.of("tls")), (30001, 30002))

    def test_body(self):
        self.assertEqual(len(setups.BODY), 1024)
        self.assertIn(setups.BODY.decode(), setups.nginx(Path("/x"), 30003))

    def test_dlba(self):
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        certificate, key = folder / "a.pem", folder / "a.key"
        write_certificate(certificate, key)
        log = folder / "access.log"
        for access in (log, None):
            text = setups.dlba(self.ports, 30003, certificate, key, folder / "state", access)
            config = load_text(text, folder)
            self.assertEqual(config.log.access, access)
            web = config.array.web
            self.assertEqual([one.port for one in web.listen], [30001, 30002])
            self.assertEqual([one.tls is not None for one in web.listen], [False, True])
            self.assertEqual({one.address for one in web.listen}, {"127.0.0.1"})
            # Persistence is what HAProxy is told to do as well.
            self.assertEqual([site.schedule for site in web.sites], ["cookie"])
            backends = web.pools["app"].backends
            self.assertEqual([str(one.address) for one in backends], ["127.0.0.1:30003"])

    def test_haproxy(self):
        silent = setups.haproxy(self.ports, 30003, Path("/x/both.pem"), None)
        logging = setups.haproxy(self.ports, 30003, Path("/x/both.pem"), 30004)
        for text in (silent, logging):
            lines = [line.strip() for line in text.splitlines()]
            for wanted in ("nbthread 1", "http-reuse never", "option http-server-close"):
                self.assertIn(wanted, lines)
        self.assertIsNone(re.search(r"\blog\b|httplog", silent))
        added = set(logging.splitlines()) - set(silent.splitlines())
        self.assertEqual(
            {line.strip() for line in added},
            {"log 127.0.0.1:30004 local0", "log global", "option httplog"},
        )


class ProcessTests(SynchronousTestCase):
    """Cores, ports, missing programs, children."""

    def test_cores(self):
        self.assertEqual(processes.split_cores([0]), (None, None))
        self.assertEqual(processes.split_cores([1, 0]), ("1", "0"))
        self.assertEqual(processes.split_cores([7, 2, 5]), ("7", "2,5"))

    def test_pinned(self):
        self.assertEqual(processes.pinned(["a", "b"], None), ["a", "b"])
        self.assertEqual(processes.pinned(["a"], "0,2"), ["taskset", "-c", "0,2", "a"])

    def test_ports_differ_and_are_free(self):
        ports = processes.free_ports(8)
        self.assertEqual(len(set(ports)), 8)
        with contextlib.ExitStack() as stack:
            for port in ports:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))

    def test_missing_programs_are_named_with_their_packages(self):
        self.patch(processes.shutil, "which", lambda name, path: None)
        with self.assertRaises(processes.BenchmarkError) as caught:
            processes.find_programs()
        for words in ("nginx (Debian package nginx-light)", "taskset (Debian package util-linux)"):
            self.assertIn(words, str(caught.exception))

    def child(self, code):
        log = Path(self.mktemp()).absolute()
        return processes.Child("child", [sys.executable, "-c", code], log)

    def test_child_is_ended_when_the_block_raises(self):
        with self.assertRaises(ZeroDivisionError):
            with self.child("import time; time.sleep(60)") as child:
                self.assertGreaterEqual(child.cpu_seconds(), 0)
                pid = child.pid
                raise ZeroDivisionError
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def test_child_is_asked_before_it_is_killed(self):
        code = (
            "import signal, sys, time\n"
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit('bye'))\n"
            "print('ready', flush=True)\n"
            "time.sleep(60)\n"
        )
        with self.child(code) as child:
            end = time.monotonic() + 20
            while child.output() != "ready\n" and time.monotonic() < end:
                time.sleep(0.01)
        self.assertEqual(child.output(), "ready\nbye\n")

    def test_deaf_child_is_killed_with_its_group(self):
        self.patch(processes, "END_SECONDS", 0.2)
        code = (
            "import os, signal, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "other = os.fork()\n"
            "if other: print(other, flush=True)\n"
            "time.sleep(60)\n"
        )
        with self.child(code) as child:
            pid = child.pid
            end = time.monotonic() + 20
            while not child.output().endswith("\n") and time.monotonic() < end:
                time.sleep(0.01)
            other = int(child.output())
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)
        self.assertTrue(gone(other))

    def test_child_that_ends_is_a_failure_with_its_words(self):
        with self.child("raise SystemExit('no such port')") as child:
            with self.assertRaisesRegex(processes.BenchmarkError, "exit code 1\nno such port"):
                child.wait_for(processes.free_ports(1)[0])

    def test_sink_takes_datagrams(self):
        sink = processes.SyslogSink()
        with sink.running(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(5):
                sender.sendto(b"<134>line", ("127.0.0.1", sink.port))
            end = time.monotonic() + 20
            while sink.datagrams < 5 and time.monotonic() < end:
                time.sleep(0.01)
        self.assertEqual(sink.datagrams, 5)


def gone(pid):
    """Whether no process `pid` runs any more, soon; one that nobody reaped yet doesn't."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


class CommandLineTests(SynchronousTestCase):
    """The load is bounded whatever is asked."""

    def refused(self, *words):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            with self.assertRaises(SystemExit) as caught:
                l7.parse_arguments(words)
        self.assertEqual(caught.exception.code, 2)
        return said.getvalue()

    def test_defaults(self):
        arguments = l7.parse_arguments([])
        self.assertEqual((arguments.passes, arguments.seconds), (5, 5))
        self.assertEqual(arguments.python, sys.executable)

    def test_quick(self):
        arguments = l7.parse_arguments(["--quick", "--passes", "9"])
        self.assertEqual((arguments.passes, arguments.seconds), (1, 2))

    def test_bounds(self):
        for option, most in (("--passes", 20), ("--seconds", 30), ("--connections", 512)):
            for value in (1, most):
                given = l7.parse_arguments([option, str(value)])
                self.assertEqual(getattr(given, option[2:]), value)
            for value in (0, -1, most + 1, "x", "1e3"):
                self.assertIn(option, self.refused(f"{option}={value}"))

    def test_starts_as_script_and_as_module(self):
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        for words in (["benchmarks/l7.py"], ["-m", "benchmarks.l7"]):
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

    def test_each_setup_is_compared(self):
        compared = {name for pair in l7.COMPARISONS for name in pair}
        self.assertEqual(compared, set(importlib.import_module("benchmarks.stand").SETUPS))
