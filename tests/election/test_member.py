"""Tests of dlba.election.member: one node, fed by hand; a second one answers where it must."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.commands import Drain, Hold, Lack, Schedule, Send, Sign, StatusOf, Store
from dlba.election.machine import Settings
from dlba.election.member import ALIVE_EVERY, Member, OwnReport
from dlba.election.messages import (
    Alive,
    Bye,
    Claim,
    Delta,
    Grant,
    Heartbeat,
    KeysHave,
    Piece,
    Pull,
    Question,
    Report,
    Resign,
)
from dlba.election.reign import NodeInfo
from dlba.election.replication import Position, term_of
from dlba.election.status import Sweep
from dlba.election.transitions import State
from dlba.errors import PeerError
from dlba.routing.hashtable import ClientTable

DOWN = 0.3
START = 100.0
BUCKETS = 16
EMPTY = Position(0, 0)


def made(number, nodes=3):
    infos = tuple(
        NodeInfo(n, f"n{n}", 100, True, bytes((2, 0, 0, 0, 1, n))) for n in range(1, nodes + 1)
    )
    settings = Settings(number=number, nodes=infos, heartbeat=0.1, down_after=DOWN, ping_every=0.1)
    table = ClientTable(BUCKETS)
    report = OwnReport(7, 3, 0.25, b"[]")
    return Member(settings, table, 0, -1, 0.05, Sweep(1.0, 2, 0.2), lambda: report, START), table


class Case(SynchronousTestCase):
    number = 2

    def setUp(self):
        self.member, self.table = made(self.number)
        self.now = START

    def gets(self, what, *args):
        return getattr(self.member, what)(*args, self.now)

    def takes(self, number, message):
        return self.gets("take", number, message)

    def run_for(self, seconds, answers=lambda _: ()):
        """Ticks, 10 ms apart; gives all commands. `answers`: more, from a Send."""
        out = []
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(self.now + 0.01, end)
            waiting = list(self.gets("tick"))
            while waiting:
                command = waiting.pop(0)
                out.append(command)
                if isinstance(command, Send):
                    waiting += answers(command)
        return out

    def messages(self, out, kind):
        return [
            (c.number, c.message) for c in out if isinstance(c, Send) and type(c.message) is kind
        ]

    def beat(self, term=5, version=0, parent=EMPTY, count=1, **fields):
        values = {"alone": False, "signing": "", "failed": ()} | fields
        return Heartbeat(
            term=term,
            version=version,
            parent_term=parent.term,
            parent_version=parent.version,
            count=count,
            **values,
        )

    def alive(self, **fields):
        election = self.member.election
        values = {
            "term": election.term,
            "reign_term": 0 if election.reign is None else election.reign.term,
            "scheduler": self.member.scheduler,
            "count": election.count,
            "table_term": 0,
            "version": 0,
            "able": True,
            "draining": False,
            "eligible": True,
        }
        return Alive(**values | fields)

    def connect(self, *numbers):
        return [c for number in numbers for c in self.gets("up", number, f"{number:x}")]

    def follow(self, number=1):
        self.connect(1, 3)
        return self.takes(number, self.beat())

    def grants(self, command):
        if isinstance(command.message, Claim):
            return self.takes(command.number, Grant(term=command.message.term))
        return ()

    def follows(self, command):
        """The other nodes answer each heartbeat."""
        if isinstance(command.message, Heartbeat):
            return self.takes(command.number, self.alive())
        return self.grants(command)

    def reign(self):
        self.connect(1, 3)
        out = self.run_for(1.2, self.follows)
        self.assertIs(self.member.state, State.SCHEDULER)
        return out


class BackupTests(Case):
    def test_a_heartbeat_is_answered(self):
        out = self.follow()
        ((number, answer),) = self.messages(out, Alive)
        self.assertEqual((number, answer.scheduler, answer.reign_term, answer.count), (1, 1, 5, 1))

    def test_one_that_is_not_followed_is_told_whom_this_node_follows(self):
        self.follow()
        out = self.takes(3, self.beat(term=4))
        ((number, answer),) = self.messages(out, Alive)
        self.assertEqual((number, answer.scheduler, answer.reign_term), (3, 1, 5))

    def test_it_tells_how_it_is_now_and_then_and_at_once_when_that_changes(self):
        self.connect(1, 3)
        self.run_for(0.1)
        out = self.run_for(3 * ALIVE_EVERY)
        self.assertEqual(len([n for n, _ in self.messages(out, Alive) if n == 1]), 3)
        self.member.able = False
        out = self.run_for(0.01)
        self.assertEqual([m.able for _, m in self.messages(out, Alive)], [False, False])

    def test_the_table_follows_deltas(self):
        self.follow()
        term = term_of(5, 1)
        leader = ClientTable(BUCKETS)
        leader.assign(4, 3)
        delta = leader.take_delta()
        self.takes(1, Delta(term=term, since=0, version=1, data=delta.changes))
        self.assertEqual(self.table.node_of(4), 3)
        self.assertEqual(self.member.position, Position(term, 1))

    def test_nobody_else_s(self):
        self.follow()
        out = self.takes(3, Delta(term=term_of(5, 3), since=0, version=1, data=bytes(8)))
        self.assertEqual((self.table.version, self.messages(out, Pull)), (0, []))

    def test_behind_it_pulls(self):
        self.follow()
        out = self.takes(1, self.beat(version=3, count=2))
        self.assertEqual(self.messages(out, Pull), [(1, Pull(first=0))])
        data = bytes(4) * BUCKETS
        self.takes(3, Piece(term=1, version=9, first=0, last=True, data=data))
        self.assertEqual(self.table.version, 0)
        term = term_of(5, 1)
        self.takes(1, Piece(term=term, version=3, first=0, last=True, data=data))
        self.assertEqual(self.member.position, Position(term, 3))
        self.assertEqual(self.table.node_of(0), 0)

    def test_it_answers_pulls_and_questions(self):
        self.follow()
        ((_, piece),) = self.messages(self.takes(3, Pull(first=0)), Piece)
        self.assertEqual((piece.first, piece.last, len(piece.data)), (0, True, 4 * BUCKETS))
        ((_, report),) = self.messages(self.takes(1, Question(id=9)), Report)
        self.assertEqual((report.id, report.hits, report.open_connections), (9, 7, 3))

    def test_it_learns_who_has_failed_and_what_signs(self):
        self.connect(1, 3)
        out = self.takes(1, self.beat(signing="ab", failed=(3,)))
        self.assertIn(Sign("ab"), out)
        self.assertEqual(self.member.failed, {3})
        self.assertNotIn(Sign("ab"), self.takes(1, self.beat(signing="ab", count=2)))
        self.assertEqual(self.member.failed, set())

    def test_what_is_none_of_its_business_breaks_the_rules(self):
        self.connect(1)
        self.assertRaises(PeerError, self.takes, 1, KeysHave(ids=()))
        self.assertRaises(PeerError, self.takes, 1, Pull(first=BUCKETS))

    def test_the_end(self):
        self.follow()
        out = self.gets("stop")
        self.assertEqual([m.draining for _, m in self.messages(out, Alive)], [True, True])
        self.assertIs(self.member.state, State.LEAVING)
        self.assertEqual(self.messages(self.gets("end"), Bye), [(1, Bye()), (3, Bye())])


class SchedulerTests(Case):
    def test_the_order_in_which_it_begins(self):
        out = self.reign()
        kinds = [type(c.message) if isinstance(c, Send) else type(c) for c in out]
        order = [kinds.index(kind) for kind in (Store, Claim, Lack, Schedule, Heartbeat)]
        self.assertEqual(order, sorted(order))

    def test_heartbeats_in_time_with_numbers(self):
        self.reign()
        out = self.run_for(1.0, self.follows)
        counts = [m.count for number, m in self.messages(out, Heartbeat) if number == 3]
        self.assertIn(len(counts), (9, 10, 11))
        self.assertEqual(counts, list(range(counts[0], counts[0] + len(counts))))

    def test_a_change_leaves_at_once_and_the_next_after_sync_every(self):
        self.reign()
        self.run_for(0.2, self.follows)
        self.table.assign(1, 3)
        out = self.gets("changed")
        self.assertEqual(len(self.messages(out, Delta)), 2)
        self.table.assign(2, 3)
        self.assertEqual(self.messages(self.gets("changed"), Delta), [])
        self.assertLessEqual(self.member.next_at(self.now), self.now + 0.05)
        (first, second) = [m for _, m in self.messages(self.run_for(0.06), Delta)]
        self.assertEqual((first.since, first.version), (1, 2))
        self.assertEqual(first, second)

    def test_a_delta_goes_before_the_heartbeat_that_tells_of_it(self):
        self.reign()
        self.table.assign(1, 3)
        out = self.run_for(0.12, self.follows)
        out = [c.message for c in out if isinstance(c, Send) and c.number == 3]
        delta = next(at for at, m in enumerate(out) if isinstance(m, Delta))
        beat = next(at for at, m in enumerate(out) if isinstance(m, Heartbeat) and m.version == 1)
        self.assertLess(delta, beat)

    def test_nobody_who_answers_has_failed_after_a_takeover(self):
        out = self.reign() + self.run_for(1.0, self.follows)
        self.assertEqual([c for c in out if isinstance(c, Lack) and c.on], [])

    def test_one_whose_process_is_gone_fails_at_once(self):
        self.reign()
        self.run_for(0.2, self.follows)
        self.assertIn(Hold(3, True), self.gets("down", 3))
        out = self.gets("refused", 3)
        self.assertIn(Lack(3, "channel", True, "its process is gone"), out)
        self.assertEqual(self.member.failed, {3})
        out = self.run_for(0.2, self.follows)
        self.assertEqual({m.failed for _, m in self.messages(out, Heartbeat)}, {(3,)})

    def test_so_does_one_that_says_good_bye(self):
        self.reign()
        self.run_for(0.2, self.follows)
        out = self.takes(3, Bye())
        self.assertIn(Lack(3, "channel", True, "its process is gone"), out)

    def test_one_that_comes_back_is_held_until_it_speaks(self):
        self.reign()
        self.run_for(0.2, self.follows)
        self.gets("down", 3)
        self.gets("refused", 3)
        out = self.gets("up", 3, "other")
        self.assertNotIn(3, [c.number for c in out if isinstance(c, Lack) and not c.on])
        out = self.takes(3, self.alive())
        self.assertIn(Lack(3, "channel", False), out)
        self.assertIn(Hold(3, False), out)

    def test_a_new_process_has_none_of_the_old_one_s_flows(self):
        self.reign()
        self.run_for(0.2, self.follows)
        out = self.gets("up", 3, "other")
        self.assertIn(Lack(3, "channel", True, "its process is a new one"), out)

    def test_one_that_is_silent_in_both_ways(self):
        self.reign()
        self.run_for(0.2, self.follows)
        one = lambda c: self.follows(c) if c.number == 1 else ()  # noqa: E731
        out = self.run_for(0.19, one)
        self.assertEqual([c for c in out if isinstance(c, Lack)], [])
        out = self.run_for(0.21, one)
        why = "it answers neither us nor echoes"
        self.assertEqual([c for c in out if isinstance(c, Lack)], [Lack(3, "channel", True, why)])

    def test_what_a_stall_left_unread_fails_nobody(self):
        self.reign()
        self.run_for(0.2, self.follows)
        self.now += 0.29
        out = list(self.gets("tick"))
        for number in (1, 3):
            out += self.takes(number, self.alive())
        out += self.run_for(0.3, self.follows)
        self.assertEqual([c for c in out if isinstance(c, Lack)], [])

    def test_what_a_node_says_of_itself_is_passed_on_once(self):
        self.reign()
        self.run_for(0.2, self.follows)
        out = self.takes(3, self.alive(draining=True, able=False))
        self.assertIn(Drain(3, True), out)
        self.assertIn(("able", True), [(c.what, c.on) for c in out if isinstance(c, Lack)])
        out = self.takes(3, self.alive(draining=True, able=False))
        self.assertEqual([c for c in out if isinstance(c, (Lack, Drain))], [])

    def test_the_sweep_asks_and_passes_on(self):
        self.reign()
        asked = []

        def reports(command):
            if isinstance(command.message, Question):
                asked.append(command.number)
                report = Report(
                    id=command.message.id,
                    hits=5,
                    open_connections=2,
                    average_response=0.5,
                    data=b"[]",
                )
                return self.takes(command.number, report)
            return self.follows(command)

        out = self.run_for(3.0, reports)
        self.assertEqual(asked[:4], [1, 3, 1, 3])
        self.assertIn(StatusOf(3, 5, 2, 0.5, b"[]"), out)
        self.assertIsNotNone(self.member.swept_at)

    def test_one_that_answers_heartbeats_only_gets_nothing_new(self):
        self.reign()
        out = self.run_for(4.0, self.follows)
        self.assertIn(Hold(3, True), out)
        self.assertEqual([c for c in out if isinstance(c, Lack) and c.on], [])

    def test_after_its_reign_its_table_is_a_copy(self):
        self.reign()
        self.table.assign(1, 3)
        self.run_for(0.2, self.follows)
        mine = self.member.position
        self.takes(3, self.beat(term=9, version=mine.version, parent=mine))
        self.assertIs(self.member.state, State.BACKUP)
        self.assertEqual(self.member.position, Position(term_of(9, 3), mine.version))
        self.assertEqual(self.messages(self.run_for(0.2), Heartbeat), [])
        self.assertIsNone(self.member.swept_at)

    def test_while_it_leaves_its_table_is_still_sent(self):
        self.reign()
        self.run_for(0.2, self.follows)
        self.assertEqual(len(self.messages(self.gets("stop"), Resign)), 2)
        self.run_for(0.1)
        self.table.assign(2, 1)
        self.assertEqual(len(self.messages(self.gets("changed"), Delta)), 2)
        self.takes(3, self.beat(term=9))
        self.table.assign(3, 1)
        self.assertEqual(self.messages(self.gets("changed"), Delta), [])


class CandidateTests(Case):
    def test_it_pulls_from_whoever_has_most(self):
        self.follow()
        self.gets("down", 1)
        out = list(self.gets("refused", 1))
        other, table = made(3)
        table.assign(2, 2)
        other._follower.start(term_of(5, 1))
        (ask,) = [c.message for c in out if isinstance(c, Send) and c.number == 3]
        (heard,) = [c.message for c in other.take(2, ask, self.now) if isinstance(c, Send)]
        out = self.takes(3, heard)
        self.assertEqual(self.messages(out, Pull), [(3, Pull(first=0))])
        (piece,) = [
            c.message for c in other.take(2, Pull(first=0), self.now) if isinstance(c, Send)
        ]
        self.takes(3, piece)
        self.assertEqual(self.table.node_of(2), 2)
        self.run_for(0.15, self.grants)
        self.assertIs(self.member.state, State.SCHEDULER)
        self.assertEqual(self.table.node_of(2), 2)
