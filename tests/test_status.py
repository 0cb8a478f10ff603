"""Tests of `dlba status`: what it prints, whom it asks, and peers of every kind."""

import contextlib
import http.server
import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from dlba import cli, status
from dlba.control import ControlService
from dlba.monitor.status import BackendRow, status_document
from dlba.status import status_text
from tests.test_cli import ROOT, WAIT, run

NODE = {
    "name": "a",
    "number": 0,
    "mac": "02:00:00:00:00:0a",
    "address": "10.0.0.1",
    "enabled": True,
    "weight": 1,
    "groups": 271,
    "average_response": 0.0124,
    "hits": 90412,
    "open_connections": 31,
    "failed": False,
    "draining": False,
}
SCHEDULER = {
    "node": "a",
    "role": "scheduler",
    "term": 4,
    "vip": "203.0.113.10",
    "config_version": 7,
    "table": {"buckets": 65536, "assigned": 812, "version": 1041},
    "swept_at": 1790000000.0,
    "nodes": [NODE],
    "backends": [],
    "summary": [
        {
            "pool": "app",
            "name": "app1",
            "address": "10.0.1.1:8080",
            "cookie_groups": 17,
            "hits": 1502,
            "open_connections": 9,
        }
    ],
    "counters": {"frames_forwarded": 12},
}


def alone():
    """The document of an array of one, as a node's monitor makes it."""
    rows = [
        BackendRow("app", "app1", "10.0.1.1:8080", 0.011, 511, 3, False, False, 17),
        BackendRow("app", "app20", "[::1]:80", 0.0, 0, 0, True, False, 0),
    ]
    return status_document("a", None, rows, {"requests": 511, "accepts": 40})


def free_port():
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Monitor(http.server.BaseHTTPRequestHandler):
    """Stands in for a node's monitor."""

    def do_GET(self):
        status, body = self.server.answer
        self.server.asked.append(self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *args):
        """Say nothing."""


class MonitorCase(SynchronousTestCase):
    def monitor(self, document, status=200):
        """Serve `document` (bytes, or a value for JSON); returns HOST:PORT."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Monitor)
        server.answer, server.asked = (status, body), []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        self.server = server
        return f"127.0.0.1:{server.server_port}"


class UsageTests(SynchronousTestCase):
    def test_wrong_usage(self):
        table = (
            (("status", "--monitor", "nowhere"), "expected HOST:PORT, got 'nowhere'"),
            (("status", "--monitor", "a/b:1"), "expected HOST:PORT, got 'a/b:1'"),
            (("status", "--monitor", "::1:80"), "expected HOST:PORT, got '::1:80'"),
            (("status", "--monitor", "a:1", "-c", "x"), "not allowed with"),
            (("status", "--control", "a", "-c", "x"), "not allowed with"),
        )
        for argv, text in table:
            code, out, err = run(*argv)
            self.assertEqual((code, out), (2, ""), argv)
            self.assertIn(text, err)


class TextTests(SynchronousTestCase):
    def test_alone(self):
        self.assertEqual(
            status_text(alone()).splitlines(),
            [
                "node a  role alone  term 0  scheduler -  vip -  configuration 0",
                "",
                "backends of this node",
                "pool  name   address        response  hits  cookies  open  failed  draining",
                "app   app1   10.0.1.1:8080   11.0 ms   511       17     3  no      no",
                "app   app20  [::1]:80         0.0 ms     0        0     0  yes     no",
                "",
                "counter   value",
                "accepts      40",
                "requests    511",
            ],
        )

    def test_scheduler(self):
        left = "name  number  address   mac                "
        right = "a          0  10.0.0.1  02:00:00:00:00:0a  "
        self.assertEqual(
            status_text(SCHEDULER).splitlines(),
            [
                "node a  role scheduler  term 4  vip 203.0.113.10  configuration 7",
                "client table: 812 of 65536 buckets assigned, version 1041",
                "last status sweep: 2026-09-21 14:13:20 UTC",
                "",
                "nodes",
                left + "weight  groups  response   hits  open  enabled  failed  draining",
                right + "     1     271   12.4 ms  90412    31  yes      no      no",
                "",
                "backends, all nodes",
                "pool  name  address        cookies  hits  open",
                "app   app1  10.0.1.1:8080       17  1502     9",
                "",
                "counter           value",
                "frames_forwarded     12",
            ],
        )

    def test_backup_that_knows_scheduler_and_peers(self):
        peers = [{"name": "a", "connected": True}, {"name": "c", "connected": False, "why": "x"}]
        text = status_text({**alone(), "scheduler": "a", "peers": peers, "backends": []})
        lines = text.splitlines()
        facts = "node a  role alone  term 0  scheduler a  vip -  configuration 0"
        self.assertEqual(lines[0], facts)
        self.assertEqual(
            lines[2:6],
            [
                "peers on the channel",
                "name  connected  why",
                "a     yes        -",
                "c     no         x",
            ],
        )
        text = status_text({**alone(), "scheduler": None})
        self.assertIn("scheduler -", text.splitlines()[0])

    def test_moments_that_are_none(self):
        for moment in ("x", 1e300, float("nan"), True, [], "\x1b[2J"):
            text = status_text({"node": "a", "swept_at": moment})
            self.assertTrue(all(line.isprintable() for line in text.split("\n")), ascii(text))
            self.assertIn("last status sweep: ", text)

    values = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none())
    )
    rows = st.lists(st.dictionaries(st.sampled_from(sorted(NODE)) | st.text(), values), max_size=3)

    @given(
        st.dictionaries(st.sampled_from(sorted(SCHEDULER)) | st.text(), values),
        st.dictionaries(st.sampled_from(("nodes", "peers", "backends", "summary")), rows),
    )
    def test_anything(self, facts, tables):
        document = {**facts, "node": "a", **tables}
        if status._is_status(document):
            text = status_text(document)
            self.assertTrue(all(line.isprintable() for line in text.split("\n")), ascii(text))

    def test_what_lacks_shows_as_a_dash(self):
        text = status_text({"node": "a", "backends": [{"name": "x"}, {"pool": "p", "hits": 1}]})
        lines = text.splitlines()
        self.assertEqual(lines[0], "node a  role -  term -  vip -  configuration -")
        columns = [title for _, title in status.BACKEND_COLUMNS]
        self.assertEqual(lines[3].split(), columns)
        self.assertEqual(lines[4].split(), ["-", "x", "-", "-", "-", "-", "-", "-", "-"])
        self.assertEqual(lines[5].split(), ["p", "-", "-", "-", "1", "-", "-", "-", "-"])

    def test_counters_that_are_0_are_only_numbered(self):
        text = status_text({"node": "a", "counters": {"b": 0, "a": 2, "c": 0}})
        self.assertEqual(
            text.splitlines()[2:],
            ["counter  value", "a            2", "(2 more are 0: --json shows them)"],
        )

    def test_nothing_reaches_the_terminal_as_control(self):
        text = status_text({"node": "a\x1b[2J", "counters": {"b\rc": 1}})
        self.assertTrue(all(line.isprintable() for line in text.split("\n")), ascii(text))
        self.assertIn(r"'a\x1b[2J'", text)


class StatusTests(MonitorCase):
    def test_text(self):
        monitor = self.monitor(alone())
        self.assertEqual(run("status", "--monitor", monitor), (0, status_text(alone()), ""))
        self.assertEqual(self.server.asked, ["/status"])

    def test_json(self):
        code, out, err = run("status", "--json", "--monitor", self.monitor(SCHEDULER))
        self.assertEqual((code, json.loads(out), err), (0, SCHEDULER, ""))

    def test_environment_has_no_say(self):
        monitor = self.monitor(alone())
        nobody = f"http://127.0.0.1:{free_port()}"
        proxies = {"http_proxy": nobody, "HTTP_PROXY": nobody, "no_proxy": "", "NO_PROXY": ""}
        self.patch(os, "environ", {**os.environ, **proxies})
        self.assertEqual(run("status", "--monitor", monitor)[0], 0)

    def test_node_that_is_not_there(self):
        monitor = f"127.0.0.1:{free_port()}"
        code, out, err = run("status", "--monitor", monitor)
        self.assertEqual((code, out), (1, ""))
        self.assertIn(f"monitor {monitor}: GET /status: expected an answer, got: ", err)
        self.assertEqual(err.count("\n"), 1)

    def test_peer_that_is_no_monitor(self):
        self.patch(status, "MAX_STATUS", 2000)
        table = (
            (404, b"{}", "expected status 200, got 404"),
            (200, b"<html>", "expected a status document"),
            (200, b"\xff\xfe", "expected a status document"),
            (200, b"[]", "expected a status document"),
            (200, b'{"other": 1}', "expected a status document"),
            (200, b'{"node": "a", "backends": {"x": 1}}', "expected a status document"),
            (200, b'{"node": "a", "nodes": [1]}', "expected a status document"),
            (200, b'{"node": "a", "table": [1]}', "expected a status document"),
            (200, b"[" * 1999, "expected a status document"),
            (200, b"x" * 2001, "expected up to 2000 bytes"),
        )
        for code_sent, body, text in table:
            code, out, err = run("status", "--monitor", self.monitor(body, code_sent))
            self.assertEqual((code, out), (1, ""), body)
            self.assertIn(text, err)

    def test_peer_that_speaks_no_http(self):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer():
                peer, _ = server.accept()
                with peer:
                    peer.recv(4096)
                    peer.sendall(b"SSH-2.0-x\r\n")

            thread = threading.Thread(target=answer)
            thread.start()
            monitor = f"127.0.0.1:{server.getsockname()[1]}"
            code, _, err = run("status", "--monitor", monitor)
            thread.join()
        self.assertEqual(code, 1)
        self.assertIn("expected an answer, got: ", err)

    def test_reader_that_has_gone(self):
        reading, writing = os.pipe()
        os.close(reading)
        monitor = self.monitor(alone())
        with os.fdopen(writing, "wb") as out:
            done = subprocess.run(
                [sys.executable, "-m", "dlba.cli", "status", "--monitor", monitor],
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.PIPE,
                timeout=WAIT,
            )
        self.assertEqual((done.returncode, done.stderr), (1, b""))


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self):
        return True


class WatchTests(MonitorCase):
    """`dlba status --watch` until Ctrl-C."""

    def watch(self, *answers, out=None, more=()):
        """Let the monitor give these in turn (a status, or a document), then Ctrl-C."""
        monitor = self.monitor(alone())
        slept = []

        def answer():
            what = answers[len(slept)]
            code, document = (what, {}) if isinstance(what, int) else (200, what)
            self.server.answer = code, json.dumps(document).encode()

        def sleep(seconds):
            slept.append(seconds)
            if len(slept) == len(answers):
                raise KeyboardInterrupt
            answer()

        answer()
        self.patch(status, "time", types.SimpleNamespace(sleep=sleep))
        out, err = out or io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(("status", "--watch", "--monitor", monitor, *more))
        self.assertEqual(set(slept), {1.0} if slept else set())
        return code, out.getvalue(), err.getvalue()

    def test_no_terminal(self):
        first, second = status_text(alone()), status_text(SCHEDULER)
        got = self.watch(alone(), SCHEDULER, alone())
        self.assertEqual(got, (0, f"{first}\n{second}\n{first}", ""))

    def test_terminal(self):
        first, second = status_text(alone()), status_text(SCHEDULER)
        got = self.watch(alone(), SCHEDULER, out=Terminal())
        self.assertEqual(got, (0, f"\x1b[2J\x1b[H{first}\x1b[2J\x1b[H{second}", ""))

    def test_json(self):
        code, out, err = self.watch(alone(), SCHEDULER, out=Terminal(), more=("--json",))
        first, second = out.split("\n\n")
        self.assertEqual((json.loads(first), json.loads(second)), (alone(), SCHEDULER))
        self.assertEqual((code, err), (0, ""))

    def test_node_that_is_not_there_at_the_start(self):
        code, out, err = self.watch(503, alone())
        self.assertEqual((code, out), (1, ""))
        self.assertIn("GET /status: expected status 200, got 503", err)

    def test_node_that_goes_and_comes_back(self):
        text = status_text(alone())
        code, out, err = self.watch(alone(), 503, 503, alone())
        self.assertEqual((code, out), (0, f"{text}\n{text}"))
        self.assertEqual(err.count("expected status 200, got 503\n"), 2)
        code, out, err = self.watch(alone(), 503, alone(), out=Terminal())
        self.assertEqual((code, err), (0, ""))
        shown = out.split("\x1b[2J\x1b[H")
        self.assertEqual((shown[1], shown[3]), (text, text))
        self.assertRegex(shown[2], "^monitor .*: expected status 200, got 503\n$")

    def test_on_a_real_terminal_until_a_signal(self):
        monitor = self.monitor(alone())
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "dlba.cli", "status", "--watch", "--monitor", monitor],
            cwd=ROOT,
            stdout=theirs,
            stderr=subprocess.PIPE,
        )
        os.close(theirs)
        try:
            shown = b""
            while shown.count(b"requests") < 2:
                shown += os.read(ours, 4096)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=WAIT)
        finally:
            process.kill()
            process.wait(WAIT)
            os.close(ours)
        self.assertEqual((process.returncode, err), (0, b""))
        self.assertTrue(shown.startswith(b"\x1b[2J\x1b[Hnode a  role alone"))


class ConfigTests(MonitorCase):
    def write(self, text):
        path = Path(self.mktemp())
        path.write_text(text)
        return str(path)

    def test_monitor_from_a_file(self):
        monitor = self.monitor(alone())
        path = self.write(f'node: a\narray: {{name: x}}\nmonitor: {{listen: "{monitor}"}}\n')
        self.assertEqual(run("status", "-c", path), (0, status_text(alone()), ""))

    def test_file_without_monitor(self):
        """Then its control socket is asked, which isn't there."""
        path = self.write("node: a\narray: {name: x}\nstate: s\n")
        code, out, err = run("status", "-c", path)
        self.assertEqual((code, out), (1, ""))
        control = Path(path).absolute().parent / "s" / "control"
        self.assertIn(f"{control}: expected the control socket of a running node", err)

    def test_bad_file(self):
        path = self.write("node: a\nmonitor: {listen: x}\n")
        code, out, err = run("status", "-c", path)
        self.assertEqual((code, out), (2, ""))
        self.assertIn(f"{path}:2:19: monitor.listen: expected", err)

    def test_mistakes_elsewhere_do_not_matter(self):
        monitor = self.monitor(alone())
        path = self.write(f'nonsense: 1\nmonitor: {{listen: "{monitor}"}}\nsecrets: /none\n')
        self.assertEqual(run("status", "-c", path), (0, status_text(alone()), ""))

    def test_no_file(self):
        code, out, err = run("status", "-c", self.mktemp())
        self.assertEqual((code, out), (2, ""))
        self.assertIn("No such file", err)


class ControlTests(TestCase):
    """The command and a node's control socket, on both ends."""

    timeout = 120

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.path = self.folder / "control"
        self.patch(os, "environ", {**os.environ, "DLBA_CONTROL": "", "STATE_DIRECTORY": ""})

    def serve(self, document):
        service = ControlService(reactor, self.path, {"status": lambda *_: document})
        service.startService()
        self.addCleanup(service.stopService)

    async def test_text_and_json(self):
        self.serve(SCHEDULER)
        arguments = ("status", "--control", str(self.path))
        got = await deferToThread(run, *arguments)
        self.assertEqual(got, (0, status_text(SCHEDULER), ""))
        code, out, err = await deferToThread(run, *arguments, "--json")
        self.assertEqual((code, json.loads(out), err), (0, SCHEDULER, ""))

    async def test_many_backends(self):
        """A document that is longer than what one read brings."""
        row = {"pool": "app", "name": "x" * 60, "address": "10.0.1.1:8080"}
        document = {**SCHEDULER, "backends": [row] * 20_000}
        self.serve(document)
        arguments = ("status", "--json", "--control", str(self.path))
        code, out, _ = await deferToThread(run, *arguments)
        self.assertEqual((code, json.loads(out)), (0, document))

    async def test_found_by_the_variable(self):
        self.serve(SCHEDULER)
        os.environ["DLBA_CONTROL"] = str(self.path)
        got = await deferToThread(run, "status")
        self.assertEqual(got, (0, status_text(SCHEDULER), ""))
        # Who names a monitor gets that one.
        monitor = f"127.0.0.1:{free_port()}"
        code, _, err = await deferToThread(run, "status", "--monitor", monitor)
        self.assertEqual(code, 1)
        self.assertIn(f"monitor {monitor}", err)

    async def test_found_by_a_file_without_monitor(self):
        self.serve(SCHEDULER)
        node = self.folder / "node.yaml"
        node.write_text("node: a\nstate: .\n")
        got = await deferToThread(run, "status", "-c", str(node))
        self.assertEqual(got, (0, status_text(SCHEDULER), ""))

    async def test_answers_that_are_none(self):
        for document in (
            {},
            {"other": 1},
            {"node": "a", "peers": [1]},
            {"node": "a", "table": [1]},
        ):
            service = ControlService(reactor, self.path, {"status": lambda *_, d=document: d})
            service.startService()
            code, out, err = await deferToThread(run, "status", "--control", str(self.path))
            self.assertEqual((code, out), (1, ""))
            self.assertEqual(err, f"{self.path}: expected a status document, got something else\n")
            await service.stopService()
        code, out, err = await deferToThread(run, "status", "--control", str(self.path))
        self.assertEqual((code, out), (1, ""))
        self.assertIn("got no file", err)
