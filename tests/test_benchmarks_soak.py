"""benchmarks/soak.py: what counts as lost, what grew, good and bad files, its clients."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from benchmarks import soak, soakplan
from benchmarks.processes import free_ports
from benchmarks.setups import Ports
from benchmarks.soakbackend import accept_key, pattern
from benchmarks.soakclient import REFUSED, Client, Output, Wire, WrongError
from benchmarks.soakjudge import (
    LEAST_GROWTH,
    Failure,
    Kill,
    Moved,
    Sample,
    grew,
    is_cut,
    may_move,
    repeated,
    slope,
    summed,
)
from benchmarks.soakstand import Crowd
from dlba.config.load import load_text
from dlba.demo import write_certificate
from dlba.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
FIRST = soakplan.Change()
KILL = Kill("app1", at=10.0, gone=10.1, back=12.5)


def failure(**more):
    values = {
        "kind": "GET, new",
        "method": "GET",
        "began": 9.9,
        "ended": 10.3,
        "stage": "head",
        "status": 0,
        "backend": "",
        "what": "x",
    }
    return Failure(**{**values, **more})


class JudgeTests(SynchronousTestCase):
    """Lost or cut, moved, twice."""

    def test_a_get_without_answer_is_lost(self):
        self.assertFalse(is_cut(failure(), [KILL]))
        self.assertFalse(is_cut(failure(status=502), [KILL]))
        self.assertFalse(is_cut(failure(stage="connect"), [KILL]))

    def test_an_answer_that_had_begun(self):
        begun = failure(stage="body", status=200, backend="app1")
        self.assertTrue(is_cut(begun, [KILL]))
        # Another backend lived.
        self.assertFalse(is_cut(attrs.evolve(begun, backend="app2"), [KILL]))
        self.assertFalse(is_cut(begun, []))
        # Before and after the kill.
        self.assertFalse(is_cut(attrs.evolve(begun, ended=9.95), [KILL]))
        self.assertFalse(is_cut(attrs.evolve(begun, began=10.2), [KILL]))
        # It came whole, but other bytes: no kill explains that.
        self.assertFalse(is_cut(attrs.evolve(begun, stage="whole"), [KILL]))

    def test_a_post_under_way(self):
        post = failure(method="POST", status=502)
        self.assertTrue(is_cut(post, [KILL]))
        self.assertFalse(is_cut(attrs.evolve(post, status=0), [KILL]))
        self.assertFalse(is_cut(attrs.evolve(post, status=503), [KILL]))
        # The backend was gone already: it must have gone to the next one.
        self.assertFalse(is_cut(attrs.evolve(post, began=10.2), [KILL]))

    def test_moved(self):
        moved = Moved("app1", "app2", since=9.0, ended=10.5)
        self.assertTrue(may_move(moved, [KILL]))
        self.assertTrue(may_move(attrs.evolve(moved, since=15.0, ended=15.1), [KILL]))
        self.assertFalse(may_move(attrs.evolve(moved, since=15.6, ended=15.7), [KILL]))
        self.assertFalse(may_move(attrs.evolve(moved, ended=9.9), [KILL]))
        self.assertFalse(may_move(attrs.evolve(moved, home="app3"), [KILL]))
        still = attrs.evolve(KILL, back=None)
        self.assertTrue(may_move(attrs.evolve(moved, since=99.0, ended=99.1), [still]))

    def test_repeated(self):
        self.assertEqual(repeated(["a", "b", "c"]), [])
        self.assertEqual(repeated(["a", "b", "a", "a"]), ["a", "a"])

    def test_summed(self):
        self.assertEqual(summed([{"a": 1}, {"a": 2, "b": 3}]), {"a": 3, "b": 3})


class GrowthTests(SynchronousTestCase):
    """The line through memory."""

    @given(
        st.floats(-1000, 1000),
        st.floats(-1000, 1000),
        st.lists(st.integers(0, 1000), min_size=2, unique=True),
    )
    def test_slope_of_a_line(self, rate, start, moments):
        points = [(moment, start + rate * moment) for moment in moments]
        self.assertLess(abs(slope(points) - rate), 1e-6 * max(abs(rate), 1000))

    def test_slope_of_too_few(self):
        self.assertEqual([slope([]), slope([(1, 2)]), slope([(1, 2), (1, 3)])], [0.0, 0.0, 0.0])

    def samples(self, rss):
        return [Sample(at, int(rss(at)), 20, 1000) for at in range(10, 1201, 10)]

    def test_flat(self):
        base = 100 << 20
        self.assertEqual(grew([]), (False, 0.0))
        self.assertFalse(grew(self.samples(lambda at: base))[0])
        # It grows into its size in the first half.
        self.assertFalse(grew(self.samples(lambda at: base + min(at, 500) * (1 << 18)))[0])
        # A spike is no slope.
        spike = self.samples(lambda at: base + (LEAST_GROWTH if at == 900 else 0))
        self.assertFalse(grew(spike)[0])

    def test_a_leak(self):
        grown, rate = grew(self.samples(lambda at: (100 << 20) + at * 20_000))
        self.assertTrue(grown)
        self.assertEqual(round(rate), 20_000)
        self.assertFalse(grew(self.samples(lambda at: (100 << 20) + at * 5_000))[0])


class PlanTests(SynchronousTestCase):
    """Events, good and bad files."""

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        for number in range(2):
            write_certificate(*(self.folder / f"web-{number}.{end}" for end in ("pem", "key")))
        self.backends = dict(zip(soakplan.BACKENDS, range(1001, 1005), strict=True))

    def configuration(self, change=FIRST):
        return soakplan.configuration(self.folder, Ports(8080, 8443), 9080, self.backends, change)

    def test_good_files(self):
        change = soakplan.Change()
        for number, what in enumerate(
            (soakplan.WEIGHTS, soakplan.TIMEOUTS, soakplan.CERTIFICATE), start=1
        ):
            before, change = change, change.next(what)
            self.assertEqual(change.generation, number)
            self.assertNotEqual(attrs.evolve(before, generation=number), change)
            web = load_text(json.dumps(self.configuration(change)), self.folder).array.web
            self.assertEqual(web.sites[0].response_headers.set, {soakplan.GENERATION: str(number)})
            self.assertEqual(tuple(b.weight for b in web.pools["app"].backends), change.weights)

    def test_bad_files(self):
        for what in soakplan.BAD:
            text = soakplan.bad(self.configuration(), what)
            self.assertRaises(ConfigError, load_text, text, self.folder)

    def test_events(self):
        self.assertEqual(set(soakplan.BAD) - set(soakplan.EVENTS), set())
        self.assertEqual(set(soak.events(["kills", "reloads", "drains"])), {soakplan.ABUSE})
        self.assertEqual(soak.events(list(soak.WITHOUT)), [])
        self.assertEqual(soak.events([]), list(soakplan.EVENTS))
        # Each drain ends before the next one.
        drains = [e for e in soakplan.EVENTS if e in (soakplan.DRAIN, soakplan.RESUME)]
        self.assertEqual(drains, [soakplan.DRAIN, soakplan.RESUME] * (len(drains) // 2))


class CrowdTests(SynchronousTestCase):
    """What clients say."""

    def test_lines(self):
        crowd = Crowd()
        crowd.take(0, {"counts": {"a": 1}, "sent": 2})
        crowd.take(1, {"counts": {"a": 1, "b": 1}, "sent": 3})
        crowd.take(0, {"counts": {"a": 5}, "sent": 6})
        crowd.take(0, {"failure": attrs.asdict(failure())})
        crowd.take(1, {"moved": attrs.asdict(Moved("a", "b", 1.0, 2.0))})
        crowd.take(1, {"posted": ["1.0-1"]})
        self.assertEqual((crowd.sent, crowd.counts), (9, {"a": 6, "b": 1}))
        self.assertEqual((crowd.failures, crowd.posted), ([failure()], ["1.0-1"]))
        self.assertEqual(crowd.moved, [Moved("a", "b", 1.0, 2.0)])


class ClientTests(SynchronousTestCase):
    """The clients, against a backend without a proxy."""

    def setUp(self):
        self.journal = Path(self.mktemp()).absolute()
        (self.port,) = free_ports(1)
        command = [sys.executable, ROOT / "benchmarks/soakbackend.py", "app1"]
        self.process = subprocess.Popen([*command, str(self.port), self.journal])
        self.addCleanup(self.process.wait, 20)
        self.addCleanup(self.process.kill)
        until = time.monotonic() + 20
        while True:
            try:
                Wire(self.port, None).close()
                break
            except WrongError:
                self.assertLess(time.monotonic(), until)
                time.sleep(0.02)
        self.output = Output()
        self.said = []
        self.output.say = lambda **line: self.said.append(line)
        self.client = Client(self.port, self.port, "t", self.output)
        self.client._contexts = (None, None)
        self.addCleanup(self.client.close)

    def test_everything_is_right(self):
        client = self.client
        for thing in (
            client.get_new, client.get_kept, client.get_kept, client.session, client.session,
            client.post_new, client.post_kept, client.pipeline, client.old, client.head_only,
            client.tunnel, client.download, client.slow_page,
        ):  # fmt: skip
            thing()
        self.assertEqual(self.said, [])
        counts = self.output.counts
        self.assertEqual(sum(counts.values()), self.output.sent)
        self.assertEqual((counts["GET, kept"], counts["pipelined"], counts["WebSocket"]), (2, 5, 1))
        self.output.tell()
        (posted,) = [line["posted"] for line in self.said if "posted" in line]
        self.assertEqual(posted, self.journal.read_text().split())

    def test_nobody_there(self):
        self.process.kill()
        self.process.wait()
        self.client.get_new()
        ((said),) = self.said
        self.assertEqual(said["failure"]["stage"], "connect")
        self.assertEqual(sum(self.output.counts.values()), 0)

    def test_moved(self):
        self.client._home = "app2"
        self.client.session()
        (said,) = self.said
        self.assertEqual((said["moved"]["home"], said["moved"]["to"]), ("app2", "app1"))

    def test_what_is_refused_is_asked(self):
        """This backend isn't strict, so nothing is refused as it should be."""
        self.client._random.choice = lambda _: REFUSED[0]
        self.client.refused()
        (said,) = self.said
        self.assertEqual(said["failure"]["kind"], "refused")

    def test_wrong_bytes(self):
        with Wire(self.port, None) as wire:
            wire.send(b"GET /bytes/10 HTTP/1.1\r\nHost: a\r\n\r\n")
            error = self.assertRaises(WrongError, self.client._answer, wire, 200, 10, "another")
        self.assertEqual((error.stage, error.backend), ("whole", "app1"))

    def test_an_answer_that_breaks_off(self):
        with Wire(self.port, None) as wire:
            wire.send(b"GET /bytes/50000000 HTTP/1.1\r\nHost: a\r\n\r\n")
            status, fields = wire.head()
            self.process.kill()
            error = self.assertRaises(WrongError, wire.body, status, fields)
        self.assertEqual((error.stage, error.status, error.backend), ("body", 200, "app1"))


class BytesTests(SynchronousTestCase):
    """The body, and the word of RFC 6455."""

    @given(st.integers(0, 10_000), st.integers(0, 65536))
    def test_pattern(self, start, size):
        got = pattern(start, size)
        self.assertEqual(len(got), size)
        self.assertEqual(got[:3], bytes((start + n) % 251 for n in range(min(size, 3))))

    def test_accept_key(self):
        # RFC 6455 1.3
        self.assertEqual(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")


class CommandLineTests(SynchronousTestCase):
    """Bounds."""

    def parse(self, *words):
        with contextlib.redirect_stderr(io.StringIO()):
            return soak.parse_arguments(words)

    def test_defaults(self):
        got = self.parse()
        self.assertEqual((got.minutes, got.clients, got.threads, got.without), (20.0, 3, 6, []))
        self.assertEqual(self.parse("--minutes", "0.5").minutes, 0.5)

    def test_bounds(self):
        for words in (("--minutes", "0"), ("--clients", "9"), ("--without", "rain")):
            self.assertEqual(self.assertRaises(SystemExit, self.parse, *words).code, 2)

    def test_starts_as_script(self):
        command = [sys.executable, ROOT / "benchmarks/soak.py", "--help"]
        done = subprocess.run(command, capture_output=True, timeout=60, env=dict(os.environ))
        self.assertEqual(done.returncode, 0, done.stderr)
