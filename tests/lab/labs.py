"""Real namespaces for tests of the lab, in a folder of the test's own, with stand-ins for programs.

Nothing appears under /run, so tests don't meet each other or a lab that somebody runs.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dlba.lab import command, network, programs
from dlba.lab.plan import BACKEND_PORT, MONITOR, array_values, namespace, plan
from tests import namespaces

NAME = "t-1"

#: Stands in for a node or a backend: answers 200 with what lies in the file `answer`, if it is
#: there, else 503 with nothing.
SERVER = """
import http.server, pathlib, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = pathlib.Path('answer')
        body = path.read_bytes() if path.exists() else b''
        self.send_response(200 if body else 503)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Answer).serve_forever()
"""


def stand_in(part):
    """The command line of SERVER in the place of a part's program."""
    host, port = MONITOR if part.kind == "node" else (part.address, BACKEND_PORT)
    return [sys.executable, "-S", "-c", SERVER, host, str(port)]


def ended(pid):
    """Whether the process has ended, whoever has asked after it."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    return True


class LabCase(SynchronousTestCase):
    """One lab, `self.lab`, that a test may make whole or in part; all of it is taken down."""

    skip = namespaces.missing()

    def setUp(self):
        # Not in trial's folder, whose path may be too long or lie on what can't be mounted on.
        self.folder = Path(tempfile.mkdtemp(prefix="dlba-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.patch(network, "FOLDER", self.folder / "netns")
        self.patch(programs, "FOLDER", self.folder / "labs")
        self.links = self.links_here()
        self.lab = plan(NAME, 1)
        self.a, self.app1 = self.lab.programs[1], self.lab.programs[0]
        self.addCleanup(self.end)

    def end(self):
        with programs.held(NAME, make=True):
            command._take_down(NAME)
        self.assertEqual(list(self.folder.iterdir()), [])
        # Of the machine's own links none has come or gone.
        self.assertEqual(self.links_here(), self.links)

    def links_here(self):
        return sorted(line.split(":")[0] for line in Path("/proc/net/dev").open())

    def files(self, **values):
        """The files of the lab, with these values in array.yaml."""
        programs.folder(NAME).mkdir(parents=True)
        self.made = programs.write_files(self.lab, {**array_values(self.lab), **values})
        return self.made

    def connected(self, offloads=True):
        """The namespaces and links of the lab."""
        network.create(self.lab.namespaces)
        network.build(self.lab, offloads)

    def stand_in(self, **answers):
        """From now on stand-ins are started for the programs; `answers` by name of the part."""
        self.patch(programs, "_command", lambda here, part: self.answering(here, part, answers))

    def answering(self, here, part, answers):
        body = answers.get(part.name, "fine")
        if body is not None:
            (here / "answer").write_text(body)
        return stand_in(part)

    def sleeper(self, part):
        """A process of somebody who sits in a namespace of the lab; its pid."""
        with network.inside(namespace(NAME, part)):
            process = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL)
        self.addCleanup(process.wait, 20)
        self.addCleanup(process.kill)
        return process.pid

    def until(self, what, holds):
        end = time.monotonic() + 20
        while not holds():
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.01)

    def script(self, *argv):
        """Run `dlba ARGV` as a process of its own, in this test's folders."""
        code = (
            "import sys, pathlib\n"
            "from dlba import cli\n"
            "from dlba.lab import network, programs\n"
            f"network.FOLDER = pathlib.Path({str(network.FOLDER)!r})\n"
            f"programs.FOLDER = pathlib.Path({str(programs.FOLDER)!r})\n"
            "sys.exit(cli.main(sys.argv[1:]))\n"
        )
        root = str(Path(__file__).resolve().parent.parent.parent)
        return subprocess.run(
            [sys.executable, "-c", code, *argv],
            env={**os.environ, "PYTHONPATH": root},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
