"""Tests of dlba.routing.reach. scapy builds the answers and reads the questions."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import ARP, Ether
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing import arp
from dlba.routing.reach import Change, Peer, Reach
from tests.routing.frames import MEMBERS, OWN, ROUTER, address, mac

ADDRESS = "10.99.0.10"
PEERS = {1: "10.99.0.11", 2: "10.99.0.12"}
#: Seconds; none on the very edge of a whole round, where rounding decides.
LATE = st.one_of(st.floats(0, 0.099), st.floats(0.101, 0.3))
MACS = dict(zip(PEERS, MEMBERS, strict=True))


def reach(every: float = 0.1, retries: int = 3) -> Reach:
    peers = [Peer(number, mac(MACS[number]), address(where)) for number, where in PEERS.items()]
    return Reach(peers, mac(OWN), address(ADDRESS), every, retries)


def answer(number: int, **changes) -> arp.ArpPacket:
    fields = {"op": 2, "hwsrc": MACS[number], "psrc": PEERS[number], "hwdst": OWN, "pdst": ADDRESS}
    packet = ARP(**(fields | changes))
    return arp.parse(bytes(Ether(src=packet.hwsrc, dst=OWN) / packet))


class Case(SynchronousTestCase):
    def setUp(self):
        self.made = reach()
        self.now = 100.0
        self.made.start(self.now)

    def rounds(self, count: int, *answering: int) -> list[Change]:
        """So many rounds, a tenth of a second each, with these nodes answering."""
        changes = []
        for _ in range(count):
            self.made.due(self.now)
            for number in answering:
                self.made.hear(answer(number))
            changes += self.made.take_changes()
            self.now += 0.1
        return changes


class QuestionTests(Case):
    def test_each_other_node_is_asked_at_its_own_mac(self):
        frames = [Ether(frame) for frame in self.made.due(self.now)]
        asked = [(f.dst, f[ARP].op, f[ARP].hwsrc, f[ARP].psrc, f[ARP].pdst) for f in frames]
        self.assertEqual(asked, [(MACS[n], 1, OWN, ADDRESS, where) for n, where in PEERS.items()])
        self.assertEqual({f.src for f in frames}, {OWN})

    def test_one_that_is_silent_is_asked_by_broadcast_now_and_then(self):
        to = []
        for _ in range(23):
            first, second = (Ether(frame) for frame in self.made.due(self.now))
            to.append(second.dst)
            self.assertEqual((first.dst, second[ARP].pdst), (MACS[1], PEERS[2]))
            self.made.hear(answer(1))
            self.now += 0.1
        rounds = [n for n, mac_ in enumerate(to) if mac_ == "ff:ff:ff:ff:ff:ff"]
        self.assertEqual(rounds, [1, 11, 21])
        self.assertEqual(set(to), {MACS[2], "ff:ff:ff:ff:ff:ff"})

    def test_not_before_its_time(self):
        self.assertEqual(len(self.made.due(self.now)), 2)
        self.assertEqual(self.made.due(self.now + 0.09), ())
        self.assertAlmostEqual(self.made.next_at, self.now + 0.1)

    def test_alone_there_is_nobody_to_ask(self):
        alone = Reach([], mac(OWN), address(ADDRESS), 0.1, 3)
        alone.start(5.0)
        self.assertEqual((alone.next_at, alone.due(9.0)), (inf, ()))

    def test_stopped(self):
        self.made.stop()
        self.assertEqual((self.made.next_at, self.made.due(1e9)), (inf, ()))

    def test_what_can_t_be(self):
        for every, retries in ((0, 3), (-1, 3), (0.1, 0)):
            self.assertRaises(ValueError, reach, every, retries)


class VerdictTests(Case):
    def test_who_answers_lives(self):
        self.assertEqual(self.rounds(50, 1, 2), [])
        self.assertEqual(self.made.failed, frozenset())

    def test_who_is_silent_fails_after_its_retries_and_once(self):
        self.assertEqual(self.rounds(3, 1), [])
        self.assertEqual(self.rounds(1, 1), [Change(2, alive=False)])
        self.assertEqual(self.rounds(20, 1), [])
        self.assertEqual(self.made.failed, {2})

    def test_one_answer_starts_the_count_anew(self):
        for _ in range(10):
            self.assertEqual(self.rounds(2, 1), [])
            self.assertEqual(self.rounds(1, 1, 2), [])

    def test_who_answers_again_is_back_after_as_many(self):
        self.rounds(5)
        self.assertEqual(self.made.failed, {1, 2})
        self.assertEqual(self.rounds(2, 1), [])
        self.assertEqual(self.rounds(1, 1), [Change(1, alive=True)])
        self.assertEqual(self.made.failed, {2})

    def test_answers_with_gaps_bring_nobody_back(self):
        self.rounds(5, 1)
        for _ in range(5):
            self.assertEqual(self.rounds(2, 1, 2), [])
            self.assertEqual(self.rounds(1, 1), [])

    def test_what_is_no_answer(self):
        self.rounds(1)
        for packet in (
            answer(1, hwsrc=ROUTER),
            answer(1, hwsrc=MACS[2]),
            answer(1, op=1),
            answer(1, pdst="10.99.0.77"),
            answer(1, psrc="10.99.0.77"),
        ):
            for _ in range(4):
                self.made.hear(packet)
        self.assertEqual(self.rounds(3), [Change(1, alive=False), Change(2, alive=False)])

    def test_many_answers_to_one_question_are_one(self):
        self.rounds(5, 1)
        self.made.due(self.now)
        for _ in range(10):
            self.made.hear(answer(2))
        self.assertEqual(self.made.take_changes(), [])

    def test_an_answer_nobody_asked_for(self):
        for _ in range(10):
            self.made.hear(answer(1))
        self.assertEqual(self.rounds(4), [Change(1, alive=False), Change(2, alive=False)])


class AbsenceTests(Case):
    def test_our_own_absence_is_nobody_s_silence(self):
        for _ in range(20):
            self.rounds(2)
            self.now += 0.5  # stopped, starved
        self.assertEqual(self.made.failed, frozenset())

    def test_forgiven_rounds_don_t_count(self):
        for _ in range(20):
            self.rounds(2)
            self.made.forgive()
        self.assertEqual(self.made.failed, frozenset())
        self.rounds(4)
        self.assertEqual(self.made.failed, {1, 2})

    def test_a_restart_keeps_what_is_known(self):
        self.rounds(5, 1)
        self.made.stop()
        self.made.start(self.now + 60)
        self.assertEqual(self.made.failed, {2})

    def test_forgotten(self):
        self.rounds(5)
        self.assertEqual(self.made.failed, {1, 2})
        self.rounds(2, 1)
        self.made.due(self.now)
        self.made.hear(answer(1))  # a change that nobody has taken
        self.now += 0.1
        self.made.forget()
        self.assertEqual((self.made.failed, self.made.take_changes()), (frozenset(), []))
        self.assertEqual(self.rounds(3), [])
        self.assertEqual(len(self.rounds(1)), 2)

    @given(st.lists(st.tuples(LATE, st.sets(st.sampled_from([1, 2]))), max_size=60))
    def test_against_the_rule_by_itself(self, story):
        """A node fails only after `retries` rounds of silence in time; it returns after as many."""
        made, now = reach(), 0.0
        made.start(now)
        history = {1: [], 2: []}
        for late, answering in story:
            now = made.next_at + late
            lost = late > 0.1
            before = made.failed
            made.due(now)
            for number, told in history.items():
                if lost:
                    told.append("gap")
                silent = told[-3:] == ["no"] * 3
                self.assertEqual(number in made.failed, number in before or silent, (number, told))
            for number, told in history.items():
                if number in answering:
                    made.hear(answer(number))
                told.append("yes" if number in answering else "no")
                if number in made.failed:
                    recent = [word for word in told if word != "gap"][-3:]
                    self.assertNotEqual(recent, ["yes"] * 3)
