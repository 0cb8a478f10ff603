"""Tests of dlba.web.memory."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from dlba.web.memory import MANY, SHED_AFTER, Memory


class Waiting:
    """Notes its name in `woken`, and does what the test wants done meanwhile."""

    def __init__(self, name, woken, then=lambda: None):
        self.name = name
        self.woken = woken
        self.then = then

    def resume_memory(self):
        self.woken.append(self.name)
        self.then()


class LimitTests(SynchronousTestCase):
    def seen(self, memory):
        return memory.used, memory.tight, memory.full

    def test_up_and_down(self):
        memory = Memory(800)
        for amount, expected in (
            (0, (0, False, False)),
            (599, (599, False, False)),
            (1, (600, True, False)),
            (199, (799, True, False)),
            (1, (800, True, True)),
            (500, (1300, True, True)),
            (-600, (700, True, True)),
            (-1, (699, True, False)),
            (100, (799, True, False)),
            (-199, (600, True, False)),
            (-1, (599, False, False)),
            (201, (800, True, True)),
            (-800, (0, False, False)),
        ):
            memory.change(amount)
            self.assertEqual(self.seen(memory), expected)
        self.assertEqual(memory.filled, 2)

    @given(st.integers(1, 100))
    def test_fractions_are_exact(self, limit):
        memory = Memory(limit)
        self.assertEqual(self.seen(memory), (0, False, False))
        for used in range(1, limit):
            memory.change(1)
            tight = used >= Fraction(3, 4) * limit
            self.assertEqual(self.seen(memory), (used, tight, False))
        memory.change(1)
        for used in range(limit, -1, -1):
            tight = used >= Fraction(3, 4) * limit
            full = used >= Fraction(7, 8) * limit
            self.assertEqual(self.seen(memory), (used, tight, full))
            memory.change(-1)

    def test_another_limit(self):
        woken = []
        memory = Memory(800)
        memory.change(700)
        memory.set_limit(700)
        self.assertEqual((memory.limit, *self.seen(memory)), (700, 700, True, True))
        memory.wait(Waiting("a", woken))
        memory.set_limit(800)
        # Between seven eighths and the limit what was full stays full.
        self.assertEqual((memory.full, woken), (True, []))
        memory.set_limit(801)
        self.assertEqual((memory.tight, memory.full, woken), (True, False, ["a"]))
        memory.set_limit(10_000)
        self.assertEqual(self.seen(memory), (700, False, False))


class WaitTests(SynchronousTestCase):
    def setUp(self):
        self.memory = Memory(80)
        self.woken = []

    def member(self, name, then=lambda: None):
        return Waiting(name, self.woken, then)

    def waiting(self, *members):
        self.memory.change(80)
        for member in members:
            self.memory.wait(member)
        self.assertEqual(self.woken, [])

    def test_in_order_and_once(self):
        a, b, c = (self.member(name) for name in "abc")
        self.waiting(b, a, b, c)
        self.memory.change(-10)
        self.assertEqual(self.woken, [])
        self.memory.change(-1)
        self.assertEqual(self.woken, ["b", "a", "c"])
        self.memory.change(80)
        self.memory.change(-80)
        self.assertEqual(self.woken, ["b", "a", "c"])

    def test_not_full(self):
        self.memory.change(79)
        self.memory.wait(self.member("a"))
        self.assertEqual(self.woken, ["a"])

    def test_forgotten(self):
        a, b, c = (self.member(name) for name in "abc")
        self.waiting(a, b, c)
        self.memory.forget(b)
        self.memory.forget(self.member("unknown"))
        self.memory.change(-80)
        self.assertEqual(self.woken, ["a", "c"])

    def test_forgotten_by_one_that_is_woken(self):
        c = self.member("c")
        self.waiting(self.member("a", lambda: self.memory.forget(c)), self.member("b"), c)
        self.memory.change(-80)
        self.assertEqual(self.woken, ["a", "b"])

    def test_one_that_fills_it_leaves_the_rest(self):
        fill = self.member("b", lambda: self.memory.change(75))
        self.waiting(self.member("a"), fill, self.member("c"))
        self.memory.change(-70)
        self.assertEqual((self.woken, self.memory.full), (["a", "b"], True))
        self.memory.wait(self.member("d"))
        self.memory.change(-75)
        self.assertEqual(self.woken, ["a", "b", "c", "d"])

    def test_one_that_fills_it_waits_again(self):
        def again():
            if len(self.woken) < 5:
                self.memory.change(75)
                self.memory.wait(fill)

        fill = self.member("fill", again)
        self.waiting(fill, self.member("b"))
        for expected in (["fill"], ["fill", "b", "fill"], ["fill", "b", "fill", "fill"]):
            self.memory.change(10 - self.memory.used)
            self.assertEqual(self.woken, expected)

    def test_members_that_fill_and_empty_in_thousands(self):
        def both():
            self.memory.change(80)
            self.memory.change(-80)

        self.waiting(*(self.member(n, both) for n in range(5000)))
        self.memory.change(-80)
        self.assertEqual(self.woken, list(range(5000)))

    def test_after_an_exception_the_rest_is_not_lost(self):
        self.waiting(self.member("a", lambda: 1 / 0), self.member("b"))
        self.assertRaises(ZeroDivisionError, self.memory.change, -80)
        self.memory.change(80)
        self.memory.change(-80)
        self.assertEqual(self.woken, ["a", "b"])


class MemoryMachine(RuleBasedStateMachine):
    """Any order of events, against a model that does everything the slow way."""

    def __init__(self):
        super().__init__()
        self.limit = 64
        self.memory = Memory(self.limit)
        self.kept = []
        self.full = False
        self.queue = []
        self.woken = []
        self.expected = []
        self.named = 0

    def settle(self):
        used = sum(self.kept)
        if self.full and used < Fraction(7, 8) * self.limit:
            self.full = False
        elif not self.full and used >= self.limit:
            self.full = True
        while self.queue and not self.full:
            member, takes = self.queue.pop(0)
            self.expected.append(member.name)
            if takes:
                self.kept.append(takes)
                self.settle()

    @rule(amount=st.integers(0, 90))
    def keep(self, amount):
        self.kept.append(amount)
        self.memory.change(amount)
        self.settle()

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def give_back(self, data):
        amount = self.kept.pop(data.draw(st.integers(0, len(self.kept) - 1)))
        self.settle_after(lambda: self.memory.change(-amount))

    @rule(limit=st.integers(1, 100))
    def another_limit(self, limit):
        self.limit = limit
        self.settle_after(lambda: self.memory.set_limit(limit))

    def settle_after(self, act):
        act()
        self.settle()

    @rule(takes=st.sampled_from([0, 0, 5, 40]))
    def wait(self, takes):
        self.named += 1
        member = Waiting(self.named, self.woken, lambda: takes and self.memory.change(takes))
        self.queue.append((member, takes))
        self.memory.wait(member)
        self.settle()

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def wait_again_or_forget(self, data):
        at = data.draw(st.integers(0, len(self.queue) - 1))
        member, _ = self.queue[at]
        if data.draw(st.booleans()):
            self.memory.wait(member)
        else:
            del self.queue[at]
            self.memory.forget(member)

    @invariant()
    def agrees(self):
        used = sum(self.kept)
        assert self.memory.used == used
        assert self.memory.tight == (used >= Fraction(3, 4) * self.limit)
        assert self.memory.full == self.full
        assert self.woken == self.expected
        assert self.full or not self.queue


class AnyOrderTests(SynchronousTestCase):
    def test_agrees_with_the_model(self):
        run_state_machine_as_test(
            MemoryMachine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None)
        )


class Holder:
    """Keeps bytes until it is shed."""

    def __init__(self, memory: Memory, size: int) -> None:
        self.memory = memory
        self.size = size
        self.gone = False
        memory.keeps(self)
        memory.change(size)

    @property
    def kept(self) -> int:
        return self.size

    def shed(self) -> None:
        assert not self.gone
        self.gone = True
        self.memory.keeps_none(self)
        self.memory.change(-self.size)


class Shedding(SynchronousTestCase):
    """A full memory doesn't last."""

    def test_the_oldest_go_until_there_is_room(self) -> None:
        memory = Memory(100)
        holders = []
        for now in range(10):
            memory.tick(float(now))
            holders.append(Holder(memory, 10))
        self.assertTrue(memory.full)
        memory.tick(10.0)
        # 87 are less than seven eighths of 100: two have to go.
        self.assertEqual([holder.gone for holder in holders], [True] * 2 + [False] * 8)
        self.assertFalse(memory.full)

    def test_nobody_goes_while_it_is_not_full(self) -> None:
        memory = Memory(100)
        holder = Holder(memory, 99)
        memory.tick(1e6)
        self.assertFalse(holder.gone)

    def test_who_keeps_for_a_short_time_stays(self) -> None:
        memory = Memory(100)
        memory.tick(0.0)
        early = Holder(memory, 60)
        memory.tick(1.5)
        late = Holder(memory, 60)
        memory.tick(SHED_AFTER)
        self.assertEqual((early.gone, late.gone, memory.full), (False, False, True))
        memory.tick(SHED_AFTER + 0.1)
        self.assertEqual((early.gone, late.gone, memory.full), (True, False, False))

    def test_who_keeps_little_goes_last(self) -> None:
        memory = Memory(10 * MANY)
        memory.tick(0.0)
        little = Holder(memory, MANY - 1)
        many = [Holder(memory, 3 * MANY) for _ in range(3)]
        memory.change(1)
        memory.tick(3.0)
        self.assertEqual([holder.gone for holder in (little, *many)], [False, True, False, False])
        memory.change(10 * MANY)
        memory.tick(6.0)
        self.assertEqual([holder.gone for holder in (little, *many)], [True] * 4)

    def test_kept_anew_counts_anew(self) -> None:
        memory = Memory(100)
        memory.tick(0.0)
        again, still = Holder(memory, 50), Holder(memory, 50)
        memory.tick(1.0)
        memory.keeps_none(again)
        memory.keeps(again)
        memory.tick(SHED_AFTER + 0.5)
        self.assertEqual((again.gone, still.gone), (False, True))
