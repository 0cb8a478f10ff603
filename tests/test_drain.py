"""`dlba drain` and `dlba resume`: what they say, and a node that they ask."""

import json
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from dlba.control import ControlService
from dlba.drain import drain_text
from dlba.errors import DLBAError
from tests.test_cli import run

ANSWER = {
    "ok": True,
    "backend": "app/app1",
    "changed": True,
    "draining": True,
    "weight": 1,
    "open_connections": 2,
}


class TextTests(SynchronousTestCase):
    def test_texts(self):
        for command, more, expected in (
            (
                "drain",
                {},
                "app/app1 drains: nothing new but clients with its cookie; 2 connections open\n",
            ),
            (
                "drain",
                {"changed": False, "open_connections": 1},
                "app/app1 drains already: "
                "nothing new but clients with its cookie; 1 connection open\n",
            ),
            ("resume", {"draining": False}, "app/app1 gets its share again\n"),
            (
                "resume",
                {"draining": False, "changed": False},
                "app/app1 was not drained by command\n",
            ),
            (
                "resume",
                {"weight": 0},
                "app/app1 goes on draining: its weight is 0 in the configuration\n",
            ),
            (
                "resume",
                {"backend": "\x1b[2J", "draining": False},
                "'\\x1b[2J' gets its share again\n",
            ),
        ):
            self.assertEqual(drain_text(command, ANSWER | more), expected)

    def test_another_answer(self):
        for key in ("backend", "changed", "draining", "open_connections"):
            for value in (None, [], 1.5):
                self.assertRaises(ValueError, drain_text, "drain", ANSWER | {key: value})


class UsageTests(SynchronousTestCase):
    def test_nodes_come_later(self):
        for command in ("drain", "resume"):
            code, out, err = run(command, "node", "a", "--control", "/nonexistent")
            self.assertEqual((code, out), (2, ""))
            self.assertIn(f"dlba {command} node: expected a backend: nodes can't", err)

    def test_wrong_usage(self):
        for argv, text in (
            (("drain",), "required: what, NAME"),
            (("drain", "backend"), "required: NAME"),
            (("resume", "pool", "x"), "invalid choice: 'pool'"),
            (("drain", "backend", "a/b", "--control", "x", "-c", "y"), "not allowed with"),
        ):
            code, out, err = run(*argv)
            self.assertEqual((code, out), (2, ""), argv)
            self.assertIn(text, err)

    def test_no_node(self):
        code, out, err = run("drain", "backend", "a/b", "--control", "/nonexistent/control")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("expected the control socket of a running node, got no file", err)


class NodeTests(TestCase):
    timeout = 60

    async def test_asks_a_node(self):
        folder = Path(self.mktemp()).absolute()
        (folder / "state").mkdir(parents=True, mode=0o700)
        (folder / "node.yaml").write_text("node: a\n")
        asked = []

        def command(request, peer):
            asked.append(request)
            if request["backend"] == "app/x":
                raise DLBAError("backend: expected another")
            return {key: value for key, value in ANSWER.items() if key != "ok"}

        commands = {"drain": command, "resume": command}
        service = ControlService(reactor, folder / "state" / "control", commands)
        service.startService()
        self.addCleanup(service.stopService)
        control = ("--control", str(folder / "state" / "control"))
        by_file = ("-c", str(folder / "node.yaml"))
        got = await deferToThread(run, "drain", "backend", "app/app1", *control)
        self.assertEqual(got, (0, drain_text("drain", ANSWER), ""))
        got = await deferToThread(run, "resume", "backend", "app/app1", "--json", *by_file)
        self.assertEqual((got[0], json.loads(got[1])), (0, ANSWER))
        got = await deferToThread(run, "drain", "backend", "app/x", *by_file)
        self.assertEqual(got, (1, "", "drain: backend: expected another\n"))
        names = ["app/app1", "app/app1", "app/x"]
        self.assertEqual([request["backend"] for request in asked], names)
        self.assertEqual([r["command"] for r in asked], ["drain", "resume", "drain"])
