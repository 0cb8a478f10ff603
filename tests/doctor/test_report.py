"""Tests of dlba.doctor.report: the same findings for people and for programs."""

import json

from twisted.trial.unittest import SynchronousTestCase

from dlba.doctor.facts import Finding, Level
from dlba.doctor.report import document, summary, text
from dlba.routing.needs import Change

RP_FILTER = Change("sysctl", "eth0", "rp_filter", 1, 2)
LRO = Change("feature", "eth0", "rx-lro", 1, 0)
FOUND = (
    Finding(Level.OK, "node", "runs"),
    Finding(Level.PROBLEM, "sysctls", "rp_filter: expected 2, got 1", "sysctl -w x=2", RP_FILTER),
    Finding(Level.WARNING, "clock", "nobody keeps it in step"),
)
TEXT = """\
ok       node     runs
problem  sysctls  rp_filter: expected 2, got 1
                    sysctl -w x=2
warning  clock    nobody keeps it in step
1 problem, 1 warning
"""
FIXED = """\
fixed   sysctl   net.ipv4.conf.eth0.rp_filter: 1 -> 2
failed  feature  eth0: rx-lro: 1 -> 0: Operation not supported
note    fixes    hold until the next reboot; etc/dlba.sysctl.conf in /etc/sysctl.d keeps the sysctls
ok      node     runs
no problem
"""


class TextTests(SynchronousTestCase):
    def test_findings(self):
        self.assertEqual(text(FOUND, None), TEXT)

    def test_what_was_fixed(self):
        fixed = [(RP_FILTER, None), (LRO, "Operation not supported")]
        self.assertEqual(text(FOUND[:1], fixed), FIXED)
        self.assertIn("note  fixes  nothing that is safe to change\n", text(FOUND[:1], []))

    def test_nothing_reaches_the_terminal_as_control(self):
        hostile = Finding(Level.NOTE, "a\x1b[2J", "b\r\nc", "d\x9b")
        out = text([hostile], [(Change("sysctl", "e\x1b", "f", 0, 1), "g\x07")])
        self.assertTrue(all(line.isprintable() for line in out.split("\n")), ascii(out))

    def test_summary(self):
        notes = [Finding(Level.NOTE, "x", "x")] * 2
        problems = [Finding(Level.PROBLEM, "x", "x")] * 3
        for found, words in (
            ([], "no problem"),
            (notes, "no problem, 2 notes"),
            ([*problems, *notes[:1]], "3 problems, 1 note"),
        ):
            self.assertEqual(summary(found), words)


class DocumentTests(SynchronousTestCase):
    def test_document(self):
        got = document("a", FOUND, [(RP_FILTER, None), (LRO, "why")])
        self.assertEqual(json.loads(json.dumps(got)), got)
        self.assertEqual((got["node"], got["problems"], len(got["findings"])), ("a", 1, 3))
        first, second, _ = got["findings"]
        expected = {"level": "ok", "about": "node", "found": "runs", "mend": None, "fixable": False}
        self.assertEqual(first, expected)
        self.assertEqual((second["mend"], second["fixable"]), ("sysctl -w x=2", True))
        name = "net.ipv4.conf.eth0.rp_filter"
        self.assertEqual(
            got["fixed"],
            [
                {"what": name, "former": 1, "now": 2, "failed": None},
                {"what": "eth0: rx-lro", "former": 1, "now": 0, "failed": "why"},
            ],
        )
        self.assertEqual(document("a", [], None)["fixed"], [])
