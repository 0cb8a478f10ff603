"""`twistd dlba` as a process: its options, exit codes, messages and signals."""

import json
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.web.harness import GET, Backend, Wire, closed_port, configuration, eventually, reply

HERE = Path(__file__).parents[1]
RUN = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
WAIT = 60


class TapTest(SynchronousTestCase):
    """Every process ends with its test."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def write(self, text: str) -> str:
        path = self.folder / "node.yaml"
        path.write_text(text)
        return str(path)

    def begin(self, *arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [*RUN, "dlba", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=HERE,
        )

        def end() -> None:
            process.kill()
            process.wait(WAIT)
            process.stdout.close()
            process.stderr.close()

        self.addCleanup(end)
        return process

    def run_(self, *arguments: str) -> tuple[int, str, str]:
        process = self.begin(*arguments)
        out, err = process.communicate(timeout=WAIT)
        return process.returncode, out, err


class Options(TapTest):
    """The command line. Each of these starts a process, so several cases share one test."""

    def test_check_a_good_file(self):
        path = self.write(configuration([9]))
        code, out, err = self.run_("-c", path, "-t")
        self.assertEqual((code, err), (0, ""))
        self.assertIn(path, out)
        # A check makes nothing and binds nothing.
        self.assertEqual([entry.name for entry in self.folder.iterdir()], ["node.yaml"])

    def test_check_a_bad_file(self):
        text = json.dumps(
            {
                "node": "a",
                "arry": 1,
                "array": {
                    "web": {
                        "listen": [{"port": 99999}],
                        "sites": [{"hosts": ["*"], "pool": "no"}],
                        "pools": {"app": {"backends": {"x": {"address": "1.2.3.4:80"}}}},
                    }
                },
            },
            indent=1,
        )
        path = self.write(text)
        for arguments in (("-c", path, "-t"), ("-c", path)):
            code, out, err = self.run_(*arguments)
            self.assertEqual((code, out), (2, ""))
            lines = err.splitlines()
            self.assertEqual(len(lines), 3, err)
            for line in lines:
                self.assertRegex(line, "^" + re.escape(path) + r":\d+:\d+: ")

    def test_no_such_file(self):
        code, _, err = self.run_("-c", str(self.folder / "none.yaml"))
        self.assertEqual(code, 2)
        self.assertIn("none.yaml", err)
        self.assertNotIn("Traceback", err)

    def test_usage(self):
        path = self.write(configuration([9]))
        for arguments in ((), ("-c", path, "--demo"), ("--demo", "-t"), ("--nonsense",)):
            code, _, err = self.run_(*arguments)
            self.assertEqual(code, 2, (arguments, err))
            self.assertIn("dlba", err)
            self.assertNotIn("Traceback", err)


class Start(TapTest):
    """What can't be started ends with code 1 and one clear line."""

    def fails(self, text: str, *words: str) -> None:
        code, out, err = self.run_("-c", self.write(text))
        self.assertEqual(code, 1, out + err)
        self.assertNotIn("Traceback", out + err)
        # By now twistd's log has taken the place of standard error.
        lines = [line for line in (out + err).splitlines() if "dlba: " in line]
        self.assertEqual(len(lines), 1, out + err)
        for word in words:
            self.assertIn(word, lines[0])

    def test_port_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            text = configuration([9]).replace('"port": 0', f'"port": {port}')
            self.fails(text, f"127.0.0.1:{port}", "in use")

    def test_monitor_port_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            text = configuration([9], node={"monitor": {"listen": f"127.0.0.1:{port}"}})
            self.fails(text, f"127.0.0.1:{port}", "in use")

    def test_state_that_everybody_can_write_to(self):
        text = configuration([9], node={"state": "open"})
        folder = Path(self.write(text)).parent / "open"
        folder.mkdir()
        folder.chmod(0o1777)
        self.fails(text, "not everybody can write")

    def test_secrets_missing_is_a_mistake_of_the_configuration(self):
        code, out, err = self.run_("-c", self.write(configuration([9], node={"secrets": "none"})))
        self.assertEqual((code, out), (2, ""))
        self.assertIn("secrets: expected a readable file", err)


class Signals(TapTest):
    """A node that runs."""

    def setUp(self) -> None:
        super().setUp()
        self.backend = Backend("app1")
        self.addCleanup(self.backend.join)
        self.addCleanup(self.backend.stop)

    def node(self, **options) -> subprocess.Popen:
        """A running node on `self.port`."""
        self.port = closed_port()
        text = configuration([self.backend], node={"log": {"access": "access.log"}}, **options)
        process = self.begin("-c", self.write(text.replace('"port": 0', f'"port": {self.port}')))
        end = time.monotonic() + WAIT
        self.output = ""
        while "ready: pid" not in self.output:
            self.assertIsNone(process.poll())
            self.assertLess(time.monotonic(), end, self.output)
            if select.select([process.stdout], [], [], 1)[0]:
                self.output += process.stdout.readline()
        return process

    def client(self) -> Wire:
        wire = Wire(socket.create_connection(("127.0.0.1", self.port), 20))
        self.addCleanup(wire.close)
        return wire

    def ask(self) -> None:
        client = self.client()
        client.send(GET)
        self.assertEqual(client.response().body, b"app1")
        client.close()

    def gated(self):
        """The backend answers when the list is filled."""
        gate: list[int] = []

        def script(wire: Wire) -> None:
            self.backend.take(wire)
            while not gate and wire.sock.fileno() >= 0:
                time.sleep(0.01)
            wire.send(reply(b"late"))

        self.backend.script = script
        return gate

    def test_usr1_reopens_the_log_and_hup_and_usr2_change_nothing(self):
        process = self.node()
        log = self.folder / "access.log"
        self.ask()
        moved = log.rename(self.folder / "access.log.1")
        process.send_signal(signal.SIGUSR1)
        eventually(log.exists, "a new log")
        process.send_signal(signal.SIGHUP)
        self.ask()
        process.send_signal(signal.SIGUSR2)
        self.ask()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(WAIT), 0)
        self.assertEqual([len(p.read_text().splitlines()) for p in (moved, log)], [1, 2])

    def test_term_drains_and_exits(self):
        gate = self.gated()
        process = self.node()
        idle, busy = self.client(), self.client()
        idle.send(b"")
        busy.send(GET)
        eventually(lambda: self.backend.requests, "the request")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(idle.end(), "eof")
        self.assertIsNone(process.poll())
        gate.append(1)
        response = busy.response()
        self.assertEqual((response.body, response.get(b"Connection")), (b"late", b"close"))
        busy.close()
        self.assertEqual(process.wait(WAIT), 0)
        self.assertEqual(len((self.folder / "access.log").read_text().splitlines()), 1)

    def test_second_term_stops_at_once(self):
        self.gated()
        process = self.node(timeouts={"stop": 600, "response": 600})
        busy, idle = self.client(), self.client()
        busy.send(GET)
        eventually(lambda: self.backend.requests, "the request")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(idle.end(), "eof")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(WAIT), 0)
        self.assertEqual(busy.end(), "reset")

    def test_int_stops_too(self):
        process = self.node()
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(WAIT), 0)

    def test_no_scapy(self):
        """A proxy alone doesn't need it."""
        code = "import dlba.tap, sys; print([m for m in sys.modules if m.startswith('scapy')])"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE, timeout=WAIT
        )
        self.assertEqual((done.returncode, done.stdout), (0, "[]\n"))
