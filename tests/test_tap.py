"""`twistd dlba` as a process: its options, exit codes, messages and signals."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
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

    def begin(self, *arguments: str, run: list[str] = RUN) -> subprocess.Popen:
        process = subprocess.Popen(
            [*run, "dlba", *arguments],
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
        self.until(process, "ready: pid")
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

    def until(self, process: subprocess.Popen, text: str) -> str:
        """Wait for `text` in the log; all of it since the last call."""
        end = time.monotonic() + WAIT
        output = ""
        while text not in output:
            self.assertIsNone(process.poll())
            self.assertLess(time.monotonic(), end, output)
            if select.select([process.stdout], [], [], 1)[0]:
                # Not by line: what the file object has read, select knows nothing of.
                output += os.read(process.stdout.fileno(), 65536).decode()
        return output

    def rewrite(self, backend: Backend, **options) -> None:
        """Another configuration in the node's file."""
        text = configuration([backend], **options)
        self.write(text.replace('"port": 0', f'"port": {self.port}'))

    def test_hup(self):
        """Taken over as a whole, or not at all."""
        other = Backend("app2")
        self.addCleanup(other.join)
        self.addCleanup(other.stop)
        process = self.node()
        kept = self.client()

        def answer() -> bytes:
            kept.send(GET)
            return kept.response().body

        self.assertEqual(answer(), b"app1")
        self.rewrite(other, timeouts={"head": 3})
        process.send_signal(signal.SIGHUP)
        lines = self.until(process, "reloaded: ")
        for key in ("app.backends.app1", "app.backends.app2", "timeouts.head", "log.access"):
            self.assertIn(key, lines)
        self.assertEqual(answer(), b"app2")
        bad = json.loads((self.folder / "node.yaml").read_text())
        bad["array"]["web"]["pools"]["app"]["backends"]["app2"]["adress"] = 1
        bad["array"]["web"]["sites"][0]["pool"] = "ap"
        self.write(json.dumps(bad, indent=1))
        process.send_signal(signal.SIGHUP)
        lines = self.until(process, "not reloaded: the configuration stays as it is")
        where = re.escape(str(self.folder / "node.yaml"))
        self.assertEqual(len(re.findall(rf" {where}:\d+:\d+: array\.web\.", lines)), 2, lines)
        self.assertEqual(answer(), b"app2")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            listen = f'"port": {port}, "address": "127.0.0.1"}}, {{"port": {self.port}'
            text = configuration([self.backend]).replace('"port": 0', listen)
            self.write(text)
            process.send_signal(signal.SIGHUP)
            lines = self.until(process, "not reloaded: the configuration stays as it is")
        self.assertIn(f"web.listen[0]: listen on 127.0.0.1:{port}: Address already in use", lines)
        self.assertEqual(answer(), b"app2")
        # Two in a row: what the file says at last counts.
        self.rewrite(self.backend)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        self.until(process, "reloaded: ")
        self.assertEqual(answer(), b"app1")
        kept.close()
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(WAIT), 0)

    def test_hup_before_it_is_ready(self):
        """The file may have changed since it was read."""
        code = (
            "import os, signal, dlba.node as n; from twisted.scripts.twistd import run; "
            "made = n.Node.privilegedStartService; "
            "n.Node.privilegedStartService = "
            "lambda self: (os.kill(os.getpid(), signal.SIGHUP), made(self)); run()"
        )
        path = self.write(configuration([self.backend]))
        process = self.begin("-c", path, run=[sys.executable, "-c", code, "-n", "--pidfile="])
        self.until(process, "reloaded: nothing has changed")

    def test_hup_under_load(self):
        """Backends and a port come and go, and no request fails."""
        other = Backend("app2")
        self.addCleanup(other.join)
        self.addCleanup(other.stop)
        process = self.node()
        second = closed_port()
        over = threading.Event()
        self.addCleanup(over.set)
        answers: list[bytes] = []
        faults: list[BaseException] = []

        def load(kept: bool) -> None:
            wire = None
            try:
                while not over.is_set():
                    if wire is None:
                        wire = Wire(socket.create_connection(("127.0.0.1", self.port), 20))
                    wire.send(GET)
                    answers.append(wire.response().body)
                    if not kept:
                        wire.close()
                        wire = None
            except BaseException as error:  # noqa: BLE001 - told below
                faults.append(error)
            if wire is not None:
                wire.close()

        threads = [threading.Thread(target=load, args=(kept,)) for kept in (True, False)]
        for thread in threads:
            thread.start()
        for number in range(6):
            text = configuration([(self.backend, other)[number % 2]])
            ports = f'"port": {self.port}'
            if number % 3:
                ports = f'"port": {second}, "address": "127.0.0.1"}}, {{{ports}'
            self.write(text.replace('"port": 0', ports))
            process.send_signal(signal.SIGHUP)
            self.until(process, "reloaded: ")
        over.set()
        for thread in threads:
            thread.join(WAIT)
        self.assertEqual(faults, [])
        self.assertEqual(set(answers), {b"app1", b"app2"})

    def test_usr1_reopens_the_log_and_usr2_changes_nothing(self):
        process = self.node()
        log = self.folder / "access.log"
        self.ask()
        moved = log.rename(self.folder / "access.log.1")
        process.send_signal(signal.SIGUSR1)
        eventually(log.exists, "a new log")
        process.send_signal(signal.SIGUSR2)
        self.ask()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(WAIT), 0)
        self.assertEqual([len(p.read_text().splitlines()) for p in (moved, log)], [1, 1])

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
