"""Tests of dlba.routing.guardwatch: a real nft in a namespace, programs instead of it, a Clock."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing import guard, guardwatch
from dlba.routing import service as service_module
from dlba.routing.guard import TIMEOUT, Guard
from dlba.routing.guardwatch import EVERY, GLANCE, GuardWatch
from tests import namespaces
from tests.routing.machines import VIP, MachineTest
from tests.routing.test_service import Case, RecordedSegment

MEMBER = b"\x02\0\xcb\0\x71\x0c"
GONE = "Error: No such file or directory\nlist table netdev dlba_eth0"
BACK = "own_mac: the drop rule was gone: put back"


def nft(*words: str) -> str:
    run = subprocess.run(["nft", *words], capture_output=True, text=True, check=True, timeout=20)
    return run.stdout


class WatchTest:
    """`watch` on `clock`, started, and what it says."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.guard = Guard("eth0", socket.inet_aton(VIP), [MEMBER])
        self.watch = GuardWatch(self.clock, self.guard)
        logs = capturedLogs()
        self.log = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.watch.startService()
        self.addCleanup(self.watch.stopService)

    def look(self) -> list[str]:
        """One look, and what comes of it; what was said."""
        self.clock.advance(EVERY)
        while self.watch._process is not None:
            self.watch._process.wait(20)
            self.clock.advance(GLANCE)
        return self.said()

    def said(self) -> list[str]:
        texts = [formatEvent(event) for event in self.log]
        self.log.clear()
        return texts


class KernelTests(WatchTest, MachineTest, SynchronousTestCase):
    skip = namespaces.missing() or (
        None if shutil.which("nft", path=guard._PATH) else "nft is missing (Debian: nftables)"
    )

    def setUp(self) -> None:
        super().setUp()
        self.guard.apply()

    def test_nothing_is_lost(self):
        for _ in range(3):
            self.assertEqual(self.look(), [])
        self.assertEqual(self.watch.restored, 0)

    def test_every_kind_of_loss(self):
        full = nft("list", "ruleset")
        self.assertIn("drop", full)
        losses = (
            ["flush", "ruleset"],
            ["delete", "table", "netdev", "dlba_eth0"],
            ["flush", "table", "netdev", "dlba_eth0"],
            ["flush ruleset; table netdev dlba_eth0 { chain ingress { }; }"],
        )
        for count, loss in enumerate(losses, 1):
            nft(*loss)
            self.assertNotEqual(nft("list", "ruleset"), full)
            self.assertEqual(self.look(), [BACK])
            self.assertEqual(nft("list", "ruleset"), full)
            self.assertEqual(self.look(), [])
            self.assertEqual(self.watch.restored, count)

    def test_tables_of_others_are_theirs(self):
        nft("flush ruleset; table ip other { chain c { }; }")
        self.assertEqual(self.look(), [BACK])
        self.assertIn("table ip other", nft("list", "tables"))

    def test_array_of_one(self):
        single = Guard("eth0", socket.inet_aton(VIP), [])
        single.apply()
        listing = nft("list", "table", "netdev", "dlba_eth0")
        self.assertTrue(single.is_in(listing))
        self.assertFalse(Guard("eth0", socket.inet_aton("203.0.113.1"), []).is_in(listing))


class ProgramTests(WatchTest, SynchronousTestCase):
    def program(self, text: str) -> None:
        """What `nft` is now: a program for the shell."""
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        file = folder / "nft"
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        path = f"{folder.absolute()}:{os.defpath}"
        self.patch(guardwatch, "ENVIRONMENT", {"PATH": path})

    def test_one_that_hangs_is_ended(self):
        self.program("exec sleep 600")
        self.clock.advance(EVERY)
        process = self.watch._process
        self.clock.pump([GLANCE] * int(TIMEOUT / GLANCE - 2))
        self.assertIs(self.watch._process, process)  # no second one meanwhile
        self.assertIsNone(process.poll())
        self.clock.pump([GLANCE] * 4)
        self.assertEqual(process.poll(), -9)
        text = "own_mac: nft: expected to see the drop rule, got: no answer within 10 s"
        self.assertEqual(self.said(), [text])
        self.program(f"[ $1 = -- ] || {{ echo '{GONE}' >&2; exit 1; }}")
        self.assertEqual(self.look(), [BACK])

    def test_more_than_a_pipe_holds(self):
        self.program("exec cat /dev/zero")
        self.clock.advance(EVERY)
        self.clock.pump([GLANCE] * int(TIMEOUT / GLANCE + 2))
        self.assertIsNone(self.watch._process)
        self.assertEqual(len(self.said()), 1)

    def test_stopped_meanwhile(self):
        self.program("exec sleep 600")
        self.clock.advance(EVERY)
        process = self.watch._process
        self.watch.stopService()
        self.assertEqual(process.poll(), -9)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.said(), [])

    def test_it_can_t_be_put_back(self):
        self.program(
            f"[ $1 = -- ] && echo Could not process rule: No such device || echo '{GONE}'; exit 1"
        )
        text = (
            "own_mac: the drop rule is gone, and nft says: Could not process rule: No such device"
        )
        self.assertEqual(self.look(), [text])
        self.assertEqual(self.look(), [])
        self.assertEqual(self.watch.restored, 0)
        self.program(f"[ $1 = -- ] || {{ echo '{GONE}'; exit 1; }}")
        self.assertEqual(self.look(), [BACK])
        self.assertEqual(self.watch.restored, 1)

    def test_what_nft_complains_of(self):
        self.program("echo Operation not permitted >&2; exit 1")
        text = "own_mac: nft: expected to see the drop rule, got: Operation not permitted"
        self.assertEqual(self.look(), [text])
        self.assertEqual(self.look(), [])
        self.program("exit 3")
        (text,) = self.look()
        self.assertTrue(text.endswith(", got: exit code 3"), text)
        self.assertEqual(self.watch.restored, 0)

    def test_without_nft(self):
        self.patch(guardwatch, "ENVIRONMENT", {"PATH": "/nonexistent"})
        (text,) = self.look()
        self.assertIn("No such file or directory: 'nft'", text)
        self.assertEqual(self.look(), [])


class WatchRecorder:
    def __init__(self, reactor, guard):
        self.calls = [guard]

    def startService(self):
        self.calls.append("start")

    def stopService(self):
        self.calls.append("stop")


class ServiceTests(Case):
    def setUp(self):
        RecordedSegment.guard = "the guard"
        self.addCleanup(delattr, RecordedSegment, "guard")
        self.patch(service_module, "GuardWatch", WatchRecorder)
        super().setUp()

    def test_with_own_mac_alone(self):
        self.assertIsNone(self.made.guard_watch)
        self.made.stopService()
        made = self.service(own_mac=True)
        made.privilegedStartService()
        self.assertEqual(made.guard_watch.calls, ["the guard"])
        made.startService()
        made.stopService()
        self.assertEqual(made.guard_watch.calls, ["the guard", "start", "stop"])
