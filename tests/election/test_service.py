"""Tests of dlba.election.service: on recorders, with a member that does as told or a real one."""

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.keys import Keys as OwnKeys
from dlba.config.keys import SecretKey
from dlba.election import commands as do
from dlba.election.allowance import EACH_SECOND
from dlba.election.keyexchange import KeyExchange
from dlba.election.keyring import Keyring
from dlba.election.leaving import LATE, LEAVE_LIMIT
from dlba.election.machine import Settings
from dlba.election.member import Member, OwnReport
from dlba.election.messages import (
    Alive,
    Bye,
    Claim,
    Grant,
    Keys,
    KeysHave,
    Pull,
    Report,
    Resign,
)
from dlba.election.notes import SELDOM
from dlba.election.reign import NodeInfo
from dlba.election.retries import RETRY
from dlba.election.service import AFTER_BUG, LINES_LIMIT, ElectionService
from dlba.election.status import Sweep
from dlba.election.summary import Row, pack_rows
from dlba.election.terms import Terms
from dlba.election.transitions import State
from dlba.errors import DLBAError, PeerError
from dlba.routing.hashtable import ClientTable

ROW = Row(
    pool="app",
    name="x",
    address="192.0.2.1:80",
    cookie_groups=1,
    hits=2,
    open_connections=3,
    average_response=0.5,
    failed=False,
    draining=False,
)
BACKUP = Alive(
    term=0,
    reign_term=0,
    scheduler=-1,
    count=0,
    table_term=0,
    version=0,
    able=True,
    draining=False,
    eligible=True,
)
RIVAL = bytes.fromhex("060000000001")


class Recorder:
    """The packet path, and everything else that commands go to: one list of what was done."""

    def __init__(self):
        self.done = []
        self.fault = ""
        self.able = True
        #: Name of what is called → what it raises, or does.
        self.on = {}

    def take(self):
        done, self.done = self.done, []
        return done

    def __getattr__(self, name):
        def called(*args, **_):
            self.done.append((name, *args))
            then = self.on.get(name)
            if isinstance(then, Exception):
                raise then
            return None if then is None else then()

        return called

    def kinds(self):
        return [one[0] for one in self.take()]


class Disk:
    """Terms that can't be written while `full`."""

    def __init__(self, path):
        self.term, self.granted = 0, None
        self.full = None
        self._path = path

    def store(self, term, granted):
        self._path.done.append(("store", term, granted))
        if self.full is not None:
            raise self.full
        self.term, self.granted = term, granted


class Scripted:
    """A member: writes down its inputs; `answers`: input → commands, or what it raises, once."""

    def __init__(self):
        self.state = State.BACKUP
        self.leading = False
        self.scheduler = -1
        self.failed = set()
        self.election = SimpleNamespace(reigning=False, watches={})
        self.able = None
        self.signing = ""
        self.due = 1000.0
        self.inputs = []
        self.answers = {}

    def next_at(self, now):
        return self.due

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)

        def taken(*args):
            self.inputs.append((name, *args))
            if name == "tick" and self.due <= args[0]:
                self.due = 1000.0
            answer = self.answers.pop(name, ())
            if isinstance(answer, Exception):
                raise answer
            return answer

        return taken

    def take_inputs(self):
        inputs, self.inputs = self.inputs, []
        return inputs


class Case(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.clock.advance(100)
        self.path = Recorder()
        self.disk = Disk(self.path)
        self.lines = []
        log = Logger(observer=self.lines.append)
        patched = mock.patch.object(ElectionService, "_log", log)
        patched.start()
        self.addCleanup(patched.stop)

    def service(self, make, terms=None):
        echo = self.path.echo
        names = {0: "a", 1: "b", 2: "c"}
        service = ElectionService(self.clock, make, terms or self.disk, self.path, echo, names)
        service.wire = SimpleNamespace(send=self.path.send)
        ring = Keyring(OwnKeys((SecretKey("ka", b"A" * 32),)))
        self.ring = ring
        service.keys = KeyExchange(ring, self.path.send, self.path.apply, self.path.keep)
        return service

    def said(self):
        """Level and text of each line since the last call; a failure's text is its exception."""
        lines = [
            (e["log_level"].name, repr(e["log_failure"].value) if "log_failure" in e else e["text"])
            for e in self.lines
        ]
        self.lines.clear()
        return lines


class ScriptedCase(Case):
    """A service that has started."""

    def setUp(self):
        super().setUp()
        self.member = Scripted()
        self.made_at = []

        def make(now):
            self.made_at.append(now)
            return self.member

        self.made = self.service(make)
        self.begin()

    def begin(self):
        self.made.startService()
        self.member.take_inputs()
        self.path.take()

    def give(self, *commands):
        """An input that brings these about."""
        self.member.answers["changed"] = commands
        self.made.table_changed()


class StartTests(ScriptedCase):
    def begin(self):
        pass

    def test_start(self):
        self.made.startService()
        self.assertEqual(self.made_at, [100.0])
        self.assertEqual(self.member.inputs, [("tick", 100.0)])
        self.assertEqual(self.path.done, [("alive", 100.0)])

    def test_what_the_path_tells_before_that(self):
        """It is there first; its fault is still there when the service starts."""
        self.made.fault("eth0: no carrier")
        self.made.absent(1.0)
        self.made.vip_claimed(RIVAL)
        self.made.table_changed()
        self.made.up(1, "bb")
        self.made.down(1, "gone")
        self.made.message(1, Keys(data=b""))
        self.made.leave()
        self.assertEqual((self.member.inputs, self.path.done), ([], []))
        self.path.fault = "eth0: no carrier"
        self.made.startService()
        self.assertEqual(
            self.member.inputs, [("broken", "link", "eth0: no carrier", 100.0), ("tick", 100.0)]
        )


class InputTests(ScriptedCase):
    def test_what_happens_reaches_the_member(self):
        alive = Pull(first=0)
        self.made.up(1, "bb")
        self.made.refused(2)
        self.made.message(1, alive)
        self.made.echoed(do.GATEWAY)
        self.made.vip_claimed(RIVAL)
        self.made.fault("eth0: no carrier")
        self.made.fault("")
        self.made.absent(0.5)
        self.made.arp(1, True)
        self.made.arp(1, False)
        self.made.table_changed()
        self.made.down(1, "gone")
        self.made.leave()
        self.assertEqual(
            self.member.take_inputs(),
            [
                ("up", 1, "bb", 100.0),
                ("refused", 2, 100.0),
                ("take", 1, alive, 100.0),
                ("echoed", -1, 100.0),
                ("vip_claimed", RIVAL, 100.0),
                ("broken", "link", "eth0: no carrier", 100.0),
                ("broken", "link", "", 100.0),
                ("absent", 0.5, 100.0),
                ("arp", 1, True, 100.0),
                ("arp", 1, False, 100.0),
                ("changed", 100.0),
                ("down", 1, 100.0),
                ("stop", 100.0),
            ],
        )

    def test_keys_are_not_the_member_s(self):
        self.member.answers["up"] = (do.Hold(1, True),)
        self.made.up(1, "bb")
        offer = Keyring(OwnKeys((SecretKey("kb", b"B" * 32),))).offer()
        self.made.message(1, Keys(data=offer))
        self.made.message(1, KeysHave(ids=("ka",)))
        self.assertEqual([one[0] for one in self.member.take_inputs()], ["up"])
        self.assertEqual(self.path.kinds(), ["hold", "send", "apply", "keep", "send"])
        self.assertEqual(self.ring.choose([1]), "ka")
        self.made.down(1, "gone")
        self.assertEqual(self.ring.choose([1]), "")
        self.assertRaises(PeerError, self.made.message, 1, Keys(data=b"nonsense"))

    def test_a_broken_rule_goes_out_to_the_channel(self):
        self.member.answers["take"] = PeerError("grant: not expected here")
        # What the member found before it read the message is done nevertheless.
        self.member.answers["flush"] = (do.Mute(True),)
        self.assertRaises(PeerError, self.made.message, 1, Grant(term=1))
        self.assertEqual(self.path.take(), [("mute", True)])
        self.assertEqual(self.member.inputs[-1], ("flush", 100.0))
        self.give(do.Mute(False))
        self.assertEqual(self.path.take(), [("mute", False)])

    def test_a_flood_goes_no_further(self):
        for _ in range(EACH_SECOND):
            self.made.message(1, Bye())
        self.member.take_inputs()
        self.assertRaises(PeerError, self.made.message, 1, Bye())
        self.assertEqual(self.member.take_inputs(), [])
        self.made.message(2, Bye())
        self.assertEqual(len(self.member.take_inputs()), 1)

    def test_rows_that_break_the_rules_too_behind_the_rest(self):
        good = do.StatusOf(1, 5, 6, 0.25, pack_rows([ROW]))
        self.member.answers["take"] = (good, do.ProbeVip())
        report = Report(id=1, hits=5, open_connections=6, average_response=0.25, data=b"")
        self.made.message(1, report)
        self.assertEqual(self.path.take(), [("status_of", 1, 5, 6, 0.25), ("probe_vip",)])
        self.assertEqual(list(self.made.rows()), [(ROW,)])
        bad = do.StatusOf(1, 5, 6, 0.25, b"[1]")
        self.member.due = 100.5
        self.member.answers["take"] = (bad, do.ProbeVip())
        self.assertRaises(PeerError, self.made.message, 1, report)
        # The rest doesn't wait for another input, and time goes on.
        self.assertEqual(self.path.take(), [("probe_vip",)])
        self.assertEqual(list(self.made.rows()), [(ROW,)])
        self.clock.advance(0.5)
        self.assertEqual(self.member.inputs[-1], ("tick", 100.5))


class TimeTests(ScriptedCase):
    def test_a_turn(self):
        """First of all the path learns that this process runs."""
        self.path.able = False
        self.member.due = 100.25
        self.made.table_changed()
        self.member.take_inputs()
        self.clock.advance(0.2)
        self.assertEqual(self.member.inputs, [])
        self.member.due = 101.0
        self.path.on["alive"] = lambda: self.made.absent(0.5)
        self.clock.advance(0.05)
        self.assertEqual(self.member.take_inputs(), [("absent", 0.5, 100.25), ("tick", 100.25)])
        self.assertEqual((self.member.able, self.member.signing), (False, ""))

    def test_a_scheduler_names_a_key(self):
        self.member.election.reigning = True
        self.member.due = 100.1
        self.made.table_changed()
        self.clock.advance(0.1)
        self.assertEqual(self.member.signing, "ka")
        self.made.up(1, "bb")
        self.member.due = 100.2
        self.made.table_changed()
        self.clock.advance(0.2)
        self.assertEqual(self.member.signing, "")  # not confirmed

    def test_the_timer_is_what_the_member_says(self):
        def due(at):
            self.member.due = at
            self.made.table_changed()
            (call,) = self.clock.getDelayedCalls()
            return round(call.getTime() - 100, 3)

        self.assertEqual(due(105.0), 5.0)
        self.assertEqual(due(103.0), 3.0)
        self.assertEqual(due(104.0), 3.0)  # one turn too many does no harm
        self.assertEqual(due(99.0), 0.0)
        self.member.due = 200.0
        self.clock.advance(0)
        self.assertEqual(self.member.inputs[-1], ("tick", 100.0))
        (call,) = self.clock.getDelayedCalls()
        self.assertEqual(call.getTime(), 200.0)

    def test_a_turn_that_a_bug_ends(self):
        self.member.due = 100.0
        self.member.answers["tick"] = ZeroDivisionError("bug")
        self.made.table_changed()
        self.clock.advance(0)
        self.assertEqual(self.said(), [("critical", "ZeroDivisionError('bug')")])
        self.member.take_inputs()
        self.member.due = 200.0
        self.clock.advance(AFTER_BUG)
        self.assertEqual(self.member.take_inputs(), [("tick", 100 + AFTER_BUG)])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.path.on["alive"] = ZeroDivisionError("bug")
        self.clock.advance(200)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertEqual(self.member.take_inputs(), [])
        del self.path.on["alive"]
        self.clock.advance(AFTER_BUG)
        self.assertEqual(len(self.member.take_inputs()), 1)


class CommandTests(ScriptedCase):
    def test_in_order(self):
        alive = Pull(first=0)
        self.member.scheduler = 1
        self.give(
            do.Store(3, 0),
            do.Send(1, alive),
            do.Schedule(3),
            do.StepDown(),
            do.Quiet(),
            do.Late(),
            do.Mute(True),
            do.Mute(False),
            do.ProbeVip(),
            do.Echo(2),
            do.Echo(do.GATEWAY),
            do.Lack(1, "channel", True, "its process is gone"),
            do.Hold(2, True),
            do.Drain(2, True),
            do.StatusOf(1, 5, 6, 0.25, b"[]"),
            do.Sign("kx"),
            do.Tell("warn", "so it is"),
        )
        self.assertEqual(
            self.path.take(),
            [
                ("store", 3, 0),
                ("send", 1, alive),
                ("schedule", 100.0),
                ("step_down",),
                ("quiet",),
                ("late",),
                ("mute", True),
                ("mute", False),
                ("probe_vip",),
                ("echo", 2),
                ("echo", -1),
                ("lack", 1, "channel", True, "its process is gone"),
                ("hold", 2, True),
                ("drain_node", 2, True),
                ("status_of", 1, 5, 6, 0.25),
            ],
        )
        self.assertEqual(self.said(), [("warn", "so it is")])

    def test_every_command_can_be_carried_out(self):
        self.assertEqual(set(ElectionService._CARRY_OUT), set(do.Command.__args__))

    def test_the_key_that_the_scheduler_names(self):
        self.made.message(1, Keys(data=Keyring(OwnKeys((SecretKey("kb", b"B" * 32),))).offer()))
        self.member.scheduler = 1
        self.give(do.Sign("kb"))
        self.assertEqual([key.id for key in self.ring.signing], ["kb", "ka"])

    def test_what_a_command_brings_about_comes_behind_the_others(self):
        """The member learns of it at once, but commands don't mix."""
        self.member.answers["broken"] = (do.Lack(2, "x", True), do.Quiet())
        self.path.on["step_down"] = lambda: self.made.fault("eth0: Network is down")
        self.give(do.StepDown(), do.Hold(1, True), do.Hold(2, True))
        self.assertEqual(self.path.kinds(), ["step_down", "hold", "hold", "lack", "quiet"])
        self.assertEqual([one[0] for one in self.member.inputs], ["changed", "broken"])

    def test_an_exception_ends_one_command(self):
        self.path.on["probe_vip"] = ZeroDivisionError("bug")
        self.path.on["mute"] = OSError(105, "No buffer space available")
        self.member.due = 100.5
        self.give(do.ProbeVip(), do.Mute(True), do.Hold(1, True))
        self.assertEqual(self.path.kinds(), ["probe_vip", "mute", "hold"])
        self.assertEqual(
            self.said(),
            [
                ("critical", "ZeroDivisionError('bug')"),
                ("error", "mute: [Errno 105] No buffer space available"),
            ],
        )
        self.clock.advance(0.5)
        self.assertEqual(self.member.inputs[-1], ("tick", 100.5))

    def test_a_bug_in_what_a_command_brings_about(self):
        self.member.answers["broken"] = ZeroDivisionError("bug")
        self.path.on["step_down"] = lambda: self.made.fault("x")
        self.give(do.StepDown(), do.Hold(1, True))
        self.assertEqual(self.path.kinds(), ["step_down", "hold"])
        self.assertEqual(self.said(), [("critical", "ZeroDivisionError('bug')")])

    def test_lines_are_said_seldom(self):
        tell = do.Tell("info", "again and again")
        self.give(tell, tell, do.Tell("error", "another"), tell)
        self.assertEqual(self.said(), [("info", "again and again"), ("error", "another")])
        self.clock.advance(SELDOM - 0.1)
        self.give(tell)
        self.assertEqual(self.said(), [])
        self.clock.advance(0.1)
        self.give(tell)
        self.assertEqual(self.said(), [("info", "again and again")])

    def test_a_bounded_number_of_lines_is_remembered(self):
        self.give(*(do.Tell("info", f"line {n}") for n in range(3 * LINES_LIMIT)))
        self.assertEqual(len(self.said()), 3 * LINES_LIMIT)
        self.assertLessEqual(len(self.made._said), LINES_LIMIT)

    def test_the_first_line_of_a_machine_that_has_just_started(self):
        """Whatever 0.3 - 10 + 10 is."""
        self.clock.rightNow = 0.3
        self.give(do.Tell("info", "here"))
        self.assertEqual(self.said(), [("info", "here")])


class DiskTests(ScriptedCase):
    FULL = DLBAError("/state/term: term not stored: No space left on device")

    def refuse(self, *more):
        self.disk.full = self.FULL
        self.member.answers["broken"] = more
        self.give(do.Hold(1, True), do.Store(7, 1), do.Send(1, Grant(term=7)), do.Schedule(7))

    def test_nothing_leaves_that_is_not_on_disk(self):
        resign = do.Send(1, Resign(term=6, why="fault"))
        self.refuse(resign, do.StepDown())
        self.assertEqual(
            self.path.take(),
            [("hold", 1, True), ("store", 7, 1), ("send", 1, resign.message), ("step_down",)],
        )
        self.assertEqual(self.member.inputs[-1], ("broken", "disk", str(self.FULL), 100.0))

    def test_what_is_this_node_s_own_is_done_all_the_same(self):
        self.disk.full = self.FULL
        own = (do.Lack(1, "channel", True), do.Hold(1, True), do.Quiet(), do.StepDown())
        more = (do.Send(1, Grant(term=7)), do.Store(8, 1), do.Mute(False), do.Mute(True))
        self.give(do.Store(7, 1), *more, *own)
        self.assertEqual(self.path.kinds(), ["store", "mute", "lack", "hold", "quiet", "step_down"])

    def test_nor_when_it_is_said_again(self):
        self.refuse()
        self.path.take()
        self.give(do.Send(1, Grant(term=7)), do.Send(2, Claim(term=7, evidence=1)))
        self.assertEqual(self.path.take(), [])
        self.give(do.Send(1, Pull(first=0)))
        self.assertEqual(self.path.kinds(), ["send"])
        self.disk.term = 7
        self.give(do.Send(1, Grant(term=7)))
        self.assertEqual(self.path.kinds(), ["send"])

    def test_it_mends_by_itself(self):
        self.refuse()
        self.member.take_inputs()
        self.path.take()
        self.clock.advance(RETRY)
        self.assertEqual(self.path.take(), [("store", 7, 1)])
        self.assertEqual(self.member.take_inputs(), [])
        self.disk.full = None
        self.clock.advance(RETRY)
        self.assertEqual(self.path.take(), [("store", 7, 1)])
        self.assertEqual(self.member.take_inputs(), [("broken", "disk", "", 110.0)])
        self.clock.advance(10 * RETRY)
        self.assertEqual((self.path.take(), self.member.take_inputs()), ([], []))

    def test_the_last_of_several_terms_mends_it(self):
        for term in range(8, 60):
            self.refuse()
            self.give(do.Store(term, 2), do.Send(2, Grant(term=term)))
        self.assertEqual(len(self.clock.getDelayedCalls()), 2)  # this one and the turn's
        self.disk.full = None
        self.member.take_inputs()
        self.path.take()
        self.clock.advance(RETRY)
        self.assertEqual(self.path.take(), [("store", 59, 2)])
        self.assertEqual(self.member.take_inputs(), [("broken", "disk", "", 105.0)])

    def test_a_later_term_is_on_disk_already(self):
        self.refuse()
        self.disk.full = None
        self.give(do.Store(9, 2))
        self.path.take()
        self.clock.advance(RETRY)
        self.assertEqual(self.path.take(), [])
        self.assertEqual(self.disk.term, 9)
        self.assertEqual(self.member.inputs[-1], ("broken", "disk", "", 105.0))

    def test_a_second_grant_is_not_let_through(self):
        """Terms raises ValueError for a bug like that."""
        self.disk.full = ValueError("term: expected one above 7 (granted to 1), got 7 for 2")
        self.give(do.Store(7, 2), do.Send(2, Grant(term=7)))
        self.assertEqual(self.path.kinds(), ["store"])
        self.assertEqual(self.member.inputs[-1][:2], ("broken", "disk"))
        self.assertEqual(len(self.said()), 1)


class ScheduleTests(ScriptedCase):
    def test_a_role_that_can_not_be_taken_on(self):
        for error in (OSError(24, "Too many open files"), DLBAError("eth0: gone"), KeyError(1)):
            self.path.on["schedule"] = error
            self.member.answers["broken"] = (do.StepDown(),)
            self.give(do.Hold(1, True), do.Schedule(7), do.Send(1, Pull(first=0)))
            self.assertEqual(self.path.kinds(), ["hold", "schedule", "step_down"])
            now = self.clock.seconds()
            self.assertEqual(self.member.inputs[-1], ("broken", "port", str(error), now))
            self.clock.advance(RETRY)
            self.assertEqual(self.member.inputs[-1], ("broken", "port", "", now + RETRY))
            self.member.take_inputs()
        self.assertEqual(self.said(), [("critical", "KeyError(1)")])

    def test_an_error_without_a_text_is_a_fault_too(self):
        self.path.on["schedule"] = OSError()
        self.give(do.Schedule(7))
        self.assertEqual(self.member.inputs[-1], ("broken", "port", "OSError", 100.0))


class StopTests(ScriptedCase):
    def test_stop(self):
        self.disk.full = DLBAError("full")
        self.path.on["schedule"] = OSError("no")
        self.give(do.Store(7, 1))
        self.give(do.Schedule(7))
        self.path.take()
        self.member.take_inputs()
        self.member.answers["end"] = (do.Send(1, Bye()),)
        self.made.stopService()
        self.assertEqual(self.path.take(), [("send", 1, Bye())])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.member.take_inputs()
        self.made.message(1, Pull(first=0))
        self.made.message(1, Keys(data=b"nonsense"))
        self.made.up(1, "bb")
        self.made.down(1, "gone")
        self.made.refused(1)
        self.made.echoed(1)
        self.made.fault("eth0: no carrier")
        self.made.absent(1.0)
        self.made.leave()
        self.made.stopService()
        self.assertEqual((self.member.inputs, self.path.done), ([], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LeaveTests(ScriptedCase):
    def leave(self):
        self.member.state = State.LEAVING
        self.member.leading = True
        return self.made.leave()

    def test_who_is_not_scheduler_may_go_at_once(self):
        left = self.made.leave()
        self.assertEqual(self.member.take_inputs(), [("stop", 100.0)])
        self.successResultOf(left)

    def test_a_scheduler_waits_for_its_successor_and_late_frames(self):
        left = self.leave()
        self.clock.advance(0.05)
        self.member.leading = False
        self.made.table_changed()  # any input: the heartbeat of another one
        self.clock.advance(LATE - 0.01)
        self.made.table_changed()
        self.assertNoResult(left)
        self.clock.advance(0.02)
        self.successResultOf(left)

    def test_nobody_comes(self):
        left = self.leave()
        self.clock.advance(LEAVE_LIMIT - 0.01)
        self.assertNoResult(left)
        self.clock.advance(0.02)
        self.successResultOf(left)
        self.member.leading = False
        self.made.table_changed()

    def test_stop_in_between(self):
        self.leave()
        self.made.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_out_of_a_command(self):
        self.path.on["probe_vip"] = self.made.stopService
        self.give(do.ProbeVip())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class PeopleTests(ScriptedCase):
    def test_role(self):
        roles = {}
        for self.member.state in State:
            roles.setdefault(self.made.role, set()).add(self.member.state)
        self.assertEqual(
            {role: roles.get(role) for role in ("scheduler", "fault")},
            {"scheduler": {State.SCHEDULER}, "fault": {State.FAULT}},
        )
        self.assertEqual(set(roles), {"scheduler", "fault", "backup"})

    def test_scheduler(self):
        self.assertIsNone(self.made.scheduler)
        self.member.scheduler = 2
        self.assertEqual(self.made.scheduler, "c")

    def test_rows_of_a_node_that_has_failed(self):
        data = pack_rows([ROW])
        self.give(do.StatusOf(1, 1, 1, 0.0, data), do.StatusOf(2, 1, 1, 0.0, b"[]"))
        self.assertEqual(list(self.made.rows()), [(ROW,), ()])
        self.member.failed = {1}
        self.assertEqual(list(self.made.rows()), [()])

    def test_rows_of_an_earlier_reign(self):
        self.give(do.StatusOf(1, 1, 1, 0.0, pack_rows([ROW])), do.Schedule(7))
        self.assertEqual(list(self.made.rows()), [])

    def test_peers(self):
        infos = {1: "b", 2: "c"}
        self.member.election.watches = {
            number: SimpleNamespace(info=SimpleNamespace(name=name), up=number == 1)
            for number, name in infos.items()
        }
        self.member.failed = {2}
        self.assertEqual(
            self.made.peers(),
            {
                "b": {"connected": True, "failed": False},
                "c": {"connected": False, "failed": True},
            },
        )


class MemberTests(Case):
    """With a member that decides, and terms on disk: node a of a and b."""

    DOWN_AFTER = 0.3

    def setUp(self):
        super().setUp()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.terms = Terms(self.folder)
        infos = [
            NodeInfo(number, name, 100, True, bytes([6, 0, 0, 0, 0, number]))
            for number, name in enumerate("ab")
        ]
        settings = Settings(
            number=0, nodes=tuple(infos), heartbeat=0.1, down_after=self.DOWN_AFTER, ping_every=0.1
        )

        def make(now):
            own = OwnReport(0, 0, 0.0, b"[]")
            return Member(
                settings, ClientTable(64), 0, -1, 0.05, Sweep(1.0, 2, 1.0), lambda: own, now
            )

        self.made = self.service(make, self.terms)
        self.made.startService()
        self.addCleanup(self.made.stopService)

    def pass_(self, seconds):
        for _ in range(round(seconds / 0.005)):
            self.clock.advance(0.005)

    def reign(self):
        self.pass_(2)
        self.assertEqual(self.made.role, "scheduler")
        self.assertEqual((self.terms.term, self.terms.granted), (1, 0))
        self.path.take()

    def test_alone_it_becomes_scheduler(self):
        self.reign()
        self.assertEqual(self.made.scheduler, "a")

    def test_an_absence_that_the_path_tells_of(self):
        self.reign()
        self.clock.rightNow += 1.0  # no timer has run
        self.made.absent(1.0)
        self.assertEqual(self.made.role, "backup")
        self.assertEqual([one for one in self.path.take() if one[0] == "mute"], [("mute", True)])
        self.pass_(self.DOWN_AFTER - 0.02)
        self.assertNotIn(("mute", False), self.path.take())
        self.pass_(0.04)  # nobody is there who could confirm the term
        self.assertEqual([one for one in self.path.take() if one[0] == "mute"], [("mute", False)])
        self.assertEqual(self.made.role, "scheduler")

    def test_an_absence_that_is_over_already(self):
        """The member has run meanwhile, and found nothing: only the path was late."""
        self.reign()
        self.said()
        self.made.absent(0.4)
        self.assertEqual(self.path.take(), [("mute", False)])
        line = "absent for 0.40 s: frames that waited are discarded"
        self.assertEqual(self.said(), [("warn", line)])

    def test_a_scheduler_that_leaves_still_passes_late_frames_on(self):
        self.made.up(1, "bb")
        self.made.message(1, BACKUP)
        self.reign()
        self.made.leave()
        self.path.take()
        self.clock.rightNow += 1.0
        self.made.absent(1.0)
        self.assertEqual([one for one in self.path.take() if one[0] == "mute"], [("mute", False)])

    def test_a_message_that_breaks_the_rules_after_an_absence(self):
        self.reign()
        self.made.up(1, "bb")
        self.clock.rightNow += 1.0
        self.path.take()
        self.assertRaises(PeerError, self.made.message, 1, Pull(first=9999))
        self.assertIn(("mute", True), self.path.take())

    def test_a_backup_that_was_absent_has_nothing_to_unmute(self):
        self.made.absent(0.4)
        self.assertNotIn("mute", self.path.kinds())

    def test_a_grant_and_a_full_disk(self):
        self.made.up(1, "bb")
        (self.folder / "term.new").mkdir()  # can't be written then
        self.path.take()
        claim = Claim(term=1, evidence=5)
        self.made.message(1, claim)
        self.made.message(1, claim)
        self.assertEqual(self.grants(), [])
        self.assertEqual((self.made.role, self.stored().term), ("fault", 0))
        self.pass_(RETRY + 0.1)
        self.assertEqual(self.made.role, "fault")
        (self.folder / "term.new").rmdir()
        self.pass_(RETRY)
        self.assertEqual(self.made.role, "backup")
        self.assertEqual(self.stored().granted, 1)
        self.made.message(1, claim)
        self.assertEqual(self.grants(), [1])
        self.made.message(1, Claim(term=2, evidence=5))
        self.assertEqual(self.grants(), [2])

    def stored(self):
        found = Terms(self.folder)
        found.load()
        return found

    def grants(self):
        return [m.term for kind, *_, m in self.path.take() if kind == "send" and type(m) is Grant]

    def test_a_claim_and_a_full_disk(self):
        (self.folder / "term.new").mkdir()
        self.made.up(1, "bb")
        self.made.message(
            1,
            BACKUP,
        )
        self.pass_(4)
        done = self.path.take()
        self.assertFalse([one for one in done if one[0] == "schedule"])
        self.assertFalse([one for one in done if one[0] == "send" and type(one[2]) is Claim])
        self.assertEqual(self.made.role, "fault")
