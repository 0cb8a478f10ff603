"""Tests of the `dlba` command: in the process where it answers, as a process where it serves."""

import contextlib
import io
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dlba import __version__, cli

ROOT = Path(cli.__file__).parent.parent
WAIT = 60  # seconds; generous, only a hang meets it


def run(*argv):
    """Exit code, standard output and standard error of one command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(argv)
        except SystemExit as ending:
            code = ending.code
    return code, out.getvalue(), err.getvalue()


class UsageTests(SynchronousTestCase):
    def test_version(self):
        self.assertEqual(run("--version"), (0, f"dlba {__version__}\n", ""))

    def test_help_names_every_command(self):
        code, out, _ = run("--help")
        self.assertEqual(code, 0)
        for name in ("status", "backend", "where", "schema", "drain", "resume"):
            self.assertIn(f"    {name} ", out)

    def test_wrong_usage(self):
        table = (
            ((), "required: COMMAND"),
            (("nonsense",), "invalid choice: 'nonsense'"),
            (("backend", "--name", "x"), "required: --port"),
            (("backend", "--port", "1"), "required: --name"),
            (("backend", "--name", "x", "--port", "65536"), "0 to 65535, got '65536'"),
            (("backend", "--name", "x", "--port", "-1"), "got '-1'"),
            (("backend", "--name", "x", "--port", "²"), "got '²'"),
            (
                ("backend", "--name", "x", "--port", "1", "--address", "localhost"),
                "expected an IP address, got 'localhost'",
            ),
            (("backend", "--name", "a b", "--port", "1"), "dlba backend: --name: expected 1 to 64"),
        )
        for argv, text in table:
            code, out, err = run(*argv)
            self.assertEqual((code, out), (2, ""), argv)
            self.assertIn(text, err)

    def test_status_imports_no_twisted(self):
        script = "import sys, dlba.cli; print([m for m in sys.modules if m == 'twisted'])"
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=WAIT
        )
        self.assertEqual((done.stdout, done.returncode), (b"[]\n", 0))


class BackendTests(SynchronousTestCase):
    def start(self, *argv):
        process = subprocess.Popen(
            [sys.executable, "-m", "dlba.cli", "backend", *argv],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait, WAIT)
        self.addCleanup(process.kill)
        return process

    def test_serves_until_a_signal(self):
        for ending in (signal.SIGTERM, signal.SIGINT):
            process = self.start("--port", "0", "--name", "app7")
            line = process.stdout.readline()
            match = re.fullmatch(r"backend app7: (http://127\.0\.0\.1:[0-9]+/)\n", line)
            self.assertIsNotNone(match, line)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(match[1], timeout=WAIT) as response:
                self.assertEqual(response.headers["X-Backend"], "app7")
                self.assertIn(b"app7", response.read())
            process.send_signal(ending)
            self.assertEqual(process.wait(WAIT), 0)
            self.assertEqual((process.stdout.read(), process.stderr.read()), ("", ""))

    def test_port_that_is_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            process = self.start("--port", str(port), "--name", "app7")
            self.assertEqual(process.wait(WAIT), 1)
        self.assertEqual(process.stdout.read(), "")
        self.assertEqual(
            process.stderr.read(),
            f"dlba backend: 127.0.0.1:{port}: expected a free port, got: Address already in use\n",
        )

    def test_address_that_is_not_ours(self):
        process = self.start("--port", "0", "--name", "x", "--address", "192.0.2.1")
        self.assertEqual(process.wait(WAIT), 1)
        self.assertIn("dlba backend: 192.0.2.1:0: expected", process.stderr.read())
