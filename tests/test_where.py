"""`dlba where`: against peers of every kind on a real unix socket, and a node's own socket."""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from dlba import where
from dlba.control import ControlService, flow_of
from dlba.errors import CommandError, DLBAError
from dlba.where import ask, control_path, read_client, read_port, where_text
from tests.test_cli import ROOT, WAIT, run

ANSWER = {
    "ok": True,
    "bucket": 4711,
    "owner": "b",
    "node": "b",
    "age": 3,
    "why": "HELD",
    "because": "its node keeps it: it was used within bucket_timeout",
    "role": "scheduler",
    "hash": "sum",
}
HELD = (
    "bucket 4711 -> node b: its node keeps it: it was used within bucket_timeout "
    "(last packet 3 s ago)\n"
)


def line(value):
    return json.dumps(value).encode() + b"\n"


class Case(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.path = self.folder / "control"

    def peer(self, *sends, reads=True, closes=True):
        """Serve one connection: read the request, send these bytes; `asked` has what came."""
        listening = socket.socket(socket.AF_UNIX)
        folder = os.open(self.path.parent, os.O_PATH)
        listening.bind(f"/proc/self/fd/{folder}/{self.path.name}")
        os.close(folder)
        listening.listen()
        listening.settimeout(WAIT)
        self.asked = []
        over = threading.Event()

        def serve():
            peer, _ = listening.accept()
            with peer, contextlib.suppress(OSError):
                peer.settimeout(WAIT)
                if reads:
                    self.asked.append(peer.recv(65536))
                for data in sends:
                    peer.sendall(data)
                if not closes:
                    over.wait(WAIT)

        thread = threading.Thread(target=serve)
        thread.start()

        def end():
            over.set()
            thread.join(WAIT)
            listening.close()
            self.path.unlink()

        return end

    def failure(self, *arguments, **more):
        error = self.assertRaises(CommandError, ask, self.path, {"command": "x"}, **more)
        self.assertEqual(error.code, 1)
        self.assertTrue(str(error).startswith(f"{self.path}: expected "), error)
        return str(error)


class Asking(Case):
    """What comes back, and every way in which it doesn't."""

    def test_answer(self):
        end = self.peer(line(ANSWER))
        self.assertEqual(ask(self.path, {"command": "where", "port": 1}), ANSWER)
        end()
        (asked,) = self.asked
        self.assertEqual(json.loads(asked), {"command": "where", "port": 1})
        self.assertTrue(asked.endswith(b"}\n"))

    def test_answer_in_pieces(self):
        end = self.peer(*(bytes([byte]) for byte in line(ANSWER)), b"more", closes=False)
        self.assertEqual(ask(self.path, {}), ANSWER)
        end()

    def test_refusal_is_the_nodes_own_words(self):
        end = self.peer(line({"ok": False, "error": "where: port: expected\x1b[2J"}))
        error = self.assertRaises(CommandError, ask, self.path, {})
        end()
        self.assertEqual((str(error), error.code), (r"'where: port: expected\x1b[2J'", 1))

    def test_answers_that_are_none(self):
        self.patch(where, "MAX_ANSWER", 2000)
        table = (
            (b"\n", "the answer of a node"),
            (b"SSH-2.0-x\r\n", "the answer of a node"),
            (b"\xff\xfe\n", "the answer of a node"),
            (b"[" * 1999 + b"\n", "the answer of a node"),
            (b"9" * 1999 + b"\n", "the answer of a node"),
            (b"[]\n", "the answer of a node"),
            (b"null\n", "the answer of a node"),
            (b"{}\n", "the answer of a node"),
            (b'{"ok": 1}\n', "the answer of a node"),
            (b'{"ok": "true"}\n', "the answer of a node"),
            (b'{"ok": false}\n', "the answer of a node"),
            (b'{"ok": false, "error": ["x"]}\n', "the answer of a node"),
            (b'{"ok": true, "x": NaN}\n', "the answer of a node"),
            (b"", "got the end of the connection"),
            (line(ANSWER)[:-1], "got the end of the connection"),
            (b"x" * 2001, "expected up to 2000 bytes, got more"),
            (b"x" * 2001 + b"\n", "expected up to 2000 bytes, got more"),
        )
        for data, expected in table:
            end = self.peer(data)
            self.assertIn(expected, self.failure(), data[:40])
            end()

    def test_deep_nesting(self):
        end = self.peer(b'{"ok": true, "x": ' + b"[" * 500_000 + b"\n")
        self.assertIn("the answer of a node", self.failure())
        end()

    def test_peer_that_says_nothing(self):
        end = self.peer(closes=False)
        self.assertIn("expected an answer within 0.2 s, got none", self.failure(timeout=0.2))
        end()

    def test_peer_that_never_ends(self):
        """The time-out is for all of the answer, not for each piece."""
        end = self.peer(*[b"x"] * 1_000_000, closes=False)
        self.assertIn("got", self.failure(timeout=0.3))
        end()

    def test_peer_that_closes_at_once(self):
        for more in ({"reads": False}, {}):
            end = self.peer(**more)
            self.assertIn("got the end of the connection", self.failure())
            end()

    def test_peer_that_refuses_before_it_reads(self):
        end = self.peer(line({"ok": False, "error": "control: too many"}), reads=False)
        error = self.assertRaises(CommandError, ask, self.path, {"x": "x" * 1_000_000})
        end()
        self.assertEqual(str(error), "control: too many")

    def test_queue_that_is_full(self):
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.path.relpath(self.path))
            listening.listen(0)
            with socket.socket(socket.AF_UNIX) as first:
                first.connect(os.path.relpath(self.path))
                self.assertIn("within 0.2 s, got none", self.failure(timeout=0.2))

    def test_nobody(self):
        no_file = "the control socket of a running node, got no file"
        self.assertIn(no_file, self.failure())
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(os.path.relpath(self.path))
        self.assertIn("got nobody who listens", self.failure())
        self.path.unlink()
        self.path.write_text("")
        self.assertIn("got nobody who listens", self.failure())
        self.path = self.path / "control"
        self.assertIn(no_file, self.failure())
        self.path = self.folder / ("x" * 300)
        self.assertIn("got: AF_UNIX path too long", self.failure())
        self.path = self.folder / "a\0b"
        error = self.assertRaises(CommandError, ask, self.path, {})
        self.assertIn(r"a\x00b", str(error))

    def test_no_permission(self):
        if os.geteuid():
            self.skipTest("expected root, who can become nobody, got another user")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.path.relpath(self.path))
            listening.listen()
            self.path.chmod(0o600)
            os.seteuid(65534)
            self.addCleanup(os.seteuid, 0)
            said = self.failure()
            os.seteuid(0)
        self.assertIn("expected to be the node's user or root, got no permission", said)

    def test_long_path(self):
        self.folder = self.folder.absolute() / ("x" * 120)
        self.folder.mkdir()
        self.path = self.folder / "control"
        self.assertIn("got no file", self.failure())
        end = self.peer(line(ANSWER))
        before = len(os.listdir("/proc/self/fd"))
        self.assertEqual(ask(self.path, {}), ANSWER)
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), before)
        end()


class Node(TestCase):
    """The two ends together."""

    timeout = 120

    async def test_ask(self):
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        path = folder / "control"
        service = ControlService(reactor, path, {"where": lambda r, _: {"flow": flow_of(r)}})
        service.startService()
        self.addCleanup(service.stopService)
        request = {"command": "where", "address": "192.0.2.7", "port": 40000}
        got = await deferToThread(ask, path, request)
        self.assertEqual(got, {"ok": True, "flow": [0xC0000207, 40000]})
        for wrong, expected in (
            ({"port": -1}, "where: port: expected a number from 0 to 65535"),
            ({"command": "were"}, "control: command: expected one of where, got"),
            ({"more": "x" * 65536}, "control: expected a line of at most 65536 bytes"),
            ({"more": "x" * 10_000_000}, "control: expected a line of at most 65536 bytes"),
        ):
            error = await self.assertFailure(
                deferToThread(ask, path, {**request, **wrong}), CommandError
            )
            self.assertIn(expected, str(error))

    async def test_many_at_once(self):
        """More than the node serves at a time: each is answered or told so."""
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        path = folder / "control"
        service = ControlService(reactor, path, {"where": lambda r, _: {"flow": flow_of(r)}})
        service.startService()
        self.addCleanup(service.stopService)
        request = {"command": "where", "address": "192.0.2.7", "port": 40000}

        def burst():
            results = []

            def one():
                for _ in range(5):
                    try:
                        results.append(ask(path, request, WAIT)["ok"])
                    except DLBAError as error:
                        results.append(str(error))

            threads = [threading.Thread(target=one) for _ in range(40)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(WAIT)
            return results

        results = await deferToThread(burst)
        self.assertEqual(len(results), 200)
        refused = "control: expected at most 16 connections, got more"
        self.assertLessEqual(set(results), {True, refused})
        self.assertIn(True, results)


class Paths(SynchronousTestCase):
    """Where the socket is looked for."""

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.patch(os, "environ", {})
        self.node = self.folder / "node.yaml"
        self.node.write_text("state: s\nnonsense: 1\n")
        self.other = self.folder / "other.yaml"
        self.other.write_text("state: o\n")
        self.patch(where, "NODE_FILE", str(self.other))

    def test_order(self):
        control = Path("x/control")
        environ = {"DLBA_CONTROL": "/y/control"}
        self.assertEqual(control_path(control, self.node, environ), control)
        self.assertEqual(control_path(None, self.node, environ), self.folder / "s/control")
        self.assertEqual(control_path(None, None, environ), Path("/y/control"))
        for environ in ({}, {"DLBA_CONTROL": ""}):
            self.assertEqual(control_path(None, None, environ), self.folder / "o/control")

    def test_nothing_to_go_by(self):
        self.other.unlink()
        error = self.assertRaises(CommandError, control_path, None, None, {})
        self.assertEqual(error.code, 2)
        self.assertIn("--control PATH, -c NODE.YAML, DLBA_CONTROL or", str(error))

    def test_bad_files(self):
        self.node.write_text("state: []\n")
        error = self.assertRaises(CommandError, control_path, None, self.node, {})
        self.assertEqual(error.code, 2)
        self.assertIn("node.yaml:1:8: state: expected a path", str(error))
        error = self.assertRaises(CommandError, control_path, None, self.folder / "none", {})
        self.assertIn("No such file", str(error))


class Texts(SynchronousTestCase):
    """The answer for people."""

    def text(self, **more):
        return where_text({**ANSWER, **more})

    def test_texts(self):
        self.assertEqual(self.text(), HELD)
        self.assertEqual(
            self.text(owner=None, node="c", age=None, because="unassigned: it goes on"),
            "bucket 4711 -> node c: unassigned: it goes on\n",
        )
        self.assertEqual(
            self.text(node="c", age=400, because="silent"),
            "bucket 4711 -> node c: silent (now node b's, last packet 400 s ago)\n",
        )
        self.assertEqual(
            self.text(owner=None, node=None, age=None, because="no node is enabled"),
            "bucket 4711 -> no node: no node is enabled\n",
        )
        self.assertEqual(
            self.text(node=None, because="no node is enabled"),
            "bucket 4711 -> no node: no node is enabled (now node b's, last packet 3 s ago)\n",
        )

    def test_other_roles(self):
        self.assertEqual(
            self.text(role="backup"), f"the table of a backup, not of the scheduler:\n{HELD}"
        )

    def test_nothing_reaches_the_terminal_as_control(self):
        for key in ("owner", "node", "because", "role"):
            text = self.text(**{key: "a\x1b[2J\r\n"})
            self.assertTrue(all(part.isprintable() for part in text.split("\n")), ascii(text))

    def test_answers_that_lack_something(self):
        for key in ("bucket", "because", "role"):
            self.assertRaises(ValueError, self.text, **{key: None})
        for more in ({"bucket": True}, {"bucket": "1"}, {"age": 1.5}, {"owner": 1}, {"node": {}}):
            self.assertRaises(ValueError, self.text, **more)

    values = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none())
    )

    @given(st.dictionaries(st.sampled_from(sorted(ANSWER)), values))
    def test_anything(self, more):
        try:
            text = self.text(**more)
        except ValueError:
            return
        self.assertTrue(all(part.isprintable() for part in text.split("\n")), ascii(text))


class Command(Case):
    """The subcommand from its arguments to its exit code."""

    def run_where(self, *arguments):
        return run("where", *arguments, "--control", str(self.path))

    def test_text(self):
        end = self.peer(line(ANSWER))
        self.assertEqual(self.run_where("192.0.2.7", "40000"), (0, HELD, ""))
        end()
        request = {"command": "where", "address": "192.0.2.7", "port": 40000}
        self.assertEqual(json.loads(self.asked[0]), request)

    def test_json(self):
        end = self.peer(line(ANSWER))
        code, out, err = self.run_where("192.0.2.7", "40000", "--json")
        end()
        self.assertEqual((code, json.loads(out), err), (0, ANSWER, ""))

    def test_socket_of_a_configuration(self):
        self.path = self.folder / "state" / "control"
        self.path.parent.mkdir()
        node = self.folder / "node.yaml"
        node.write_text("node: a\n")
        end = self.peer(line(ANSWER))
        self.patch(os, "environ", {**os.environ, "STATE_DIRECTORY": ""})
        self.assertEqual(run("where", "192.0.2.7", "1", "-c", str(node)), (0, HELD, ""))
        end()

    def test_failures(self):
        code, out, err = self.run_where("192.0.2.7", "1")
        self.assertEqual((code, out, err.count("\n")), (1, "", 1))
        self.assertIn(f"{self.path}: expected", err)
        for answer, expected in (
            ({"ok": False, "error": "where: no scheduler here"}, "where: no scheduler here\n"),
            ({"ok": True}, "where: expected bucket, owner, node, age, because and role"),
        ):
            for more in ((), ("--json",)):
                end = self.peer(line(answer))
                code, out, err = self.run_where("192.0.2.7", "1", *more)
                end()
                self.assertEqual((code, out), (1, ""))
                self.assertIn(expected, err)

    def test_wrong_usage(self):
        table = (
            ((), "required: IP, PORT"),
            (("192.0.2.7",), "required: PORT"),
            (("::1", "1"), "expected an IPv4 address, got one of IPv6"),
            (("::ffff:192.0.2.7", "1"), "expected an IPv4 address, got one of IPv6"),
            (("localhost", "1"), "expected an IPv4 address, got 'localhost'"),
            (("192.0.2.256", "1"), "expected an IPv4 address"),
            (("192.0.2.7:80", "1"), "expected an IPv4 address"),
            (("3221225991", "1"), "expected an IPv4 address"),
            (("", "1"), "expected an IPv4 address, got ''"),
            (("192.0.2.7", "65536"), "expected a port from 0 to 65535, got '65536'"),
            (("192.0.2.7", "-1"), "got '-1'"),
            (("192.0.2.7", "http"), "got 'http'"),
            (("192.0.2.7", "٣"), "expected a port"),
            (("192.0.2.7", "1", "-c", "x"), "not allowed with"),
        )
        for argv, text in table:
            code, out, err = self.run_where(*argv)
            self.assertEqual((code, out), (2, ""), argv)
            self.assertIn(text, err)

    def test_types(self):
        self.assertEqual((read_client("192.0.2.7"), read_port("0")), ("192.0.2.7", 0))
        self.assertRaises(argparse.ArgumentTypeError, read_client, "x")

    def test_imports_no_twisted(self):
        script = (
            "import sys, dlba.where\n"
            "try: dlba.where.ask(dlba.where.Path('/nonexistent'), {})\n"
            "except dlba.where.CommandError: print([m for m in sys.modules if m == 'twisted'])"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=WAIT
        )
        self.assertEqual((done.stdout, done.returncode), (b"[]\n", 0), done.stderr)
