"""Tests of dlba.web.deadlines."""

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.web.deadlines import TICK, Deadlines


@attrs.define(eq=False)
class Item:
    deadline: float = 0.0
    slot: int = -1


class DeadlineTests(SynchronousTestCase):
    def setUp(self):
        self.deadlines = Deadlines(100.0)

    def watch(self, deadline: float) -> Item:
        item = Item(deadline)
        self.deadlines.watch(item)
        return item

    def test_late_by_a_tick_at_most_never_early(self):
        for late in (0.0, 0.01, TICK / 2, TICK - 0.001):
            item = self.watch(101.0 + late)
            when = next(
                now
                for now in (100.0 + step * 0.001 for step in range(3000))
                if list(self.deadlines.expired(now)) == [item]
            )
            self.assertTrue(item.deadline <= when <= item.deadline + TICK + 0.0011, (late, when))
            self.assertEqual((len(self.deadlines), item.slot), (0, -1))
            self.deadlines = Deadlines(100.0)

    def test_expires_once(self):
        item = self.watch(101.0)
        self.assertEqual(list(self.deadlines.expired(102.0)), [item])
        self.assertEqual(list(self.deadlines.expired(103.0)), [])

    def test_moving_later_needs_no_word(self):
        item = self.watch(101.0)
        item.deadline = 200.0
        for now in (101.5, 110.0, 199.9):
            self.assertEqual(list(self.deadlines.expired(now)), [])
            self.assertEqual(len(self.deadlines), 1)
        self.assertEqual(list(self.deadlines.expired(200.0 + TICK)), [item])

    def test_moving_earlier_needs_one(self):
        for tell in ("watch", "hasten"):
            self.deadlines = Deadlines(100.0)
            item = self.watch(200.0)
            item.deadline = 101.0
            getattr(self.deadlines, tell)(item)
            self.assertEqual(len(self.deadlines), 1)
            self.assertEqual(list(self.deadlines.expired(101.0 + TICK)), [item])

    def test_hasten_leaves_alone_what_need_not_move(self):
        item = self.watch(101.0)
        slot = item.slot
        item.deadline = 200.0
        self.deadlines.hasten(item)
        self.assertEqual(item.slot, slot)

    def test_hasten_watches_what_isn_t_watched(self):
        item = Item(101.0)
        self.deadlines.hasten(item)
        self.assertEqual(list(self.deadlines.expired(101.0 + TICK)), [item])

    def test_a_deadline_in_the_past(self):
        list(self.deadlines.expired(150.0))
        item = self.watch(3.0)
        self.assertEqual(list(self.deadlines.expired(150.0 + TICK)), [item])

    def test_forget(self):
        item = self.watch(101.0)
        for _ in range(2):
            self.deadlines.forget(item)
            self.assertEqual((len(self.deadlines), item.slot), (0, -1))
        self.deadlines.forget(Item(5.0))
        self.assertEqual(list(self.deadlines.expired(110.0)), [])

    def test_watching_twice_is_watching_once(self):
        item = self.watch(101.0)
        self.deadlines.watch(item)
        item.deadline = 105.0
        self.deadlines.watch(item)
        self.assertEqual(len(self.deadlines), 1)
        self.assertEqual(list(self.deadlines.expired(110.0)), [item])

    def test_the_caller_may_change_anything_meanwhile(self):
        items = [self.watch(101.0 + n / 100) for n in range(20)]
        found = []
        for item in self.deadlines.expired(102.0):
            found.append(item)
            for other in items[:10]:
                if other not in found:
                    self.deadlines.forget(other)
            # A new deadline for the one that has just expired, in the past even.
            item.deadline = 50.0
            self.deadlines.watch(item)
        self.assertEqual(len(set(found)), len(found), "each once in one sweep")
        self.assertGreaterEqual(set(found), set(items[10:]))
        # The first that came forgot the other nine.
        self.assertLessEqual(len(set(found) & set(items[:10])), 1)
        self.assertEqual(set(self.deadlines.expired(102.0 + TICK)), set(found))

    def test_after_a_long_pause(self):
        items = {self.watch(101.0 + n) for n in range(5)}
        later = self.watch(1e6 + 10)
        self.assertEqual(set(self.deadlines.expired(1e6)), items)
        self.assertEqual(list(self.deadlines.expired(1e6 + 10 + TICK)), [later])

    def test_time_that_stands_still_or_goes_back(self):
        item = self.watch(101.0)
        for now in (100.0, 99.0, 0.0, 100.0):
            self.assertEqual(list(self.deadlines.expired(now)), [])
        self.assertEqual(list(self.deadlines.expired(101.0 + TICK)), [item])

    def test_nothing_is_left_behind(self):
        for n in range(1000):
            item = self.watch(100.0 + n / 10)
            item.deadline += 5
            list(self.deadlines.expired(100.0 + n / 10))
            self.deadlines.forget(item)
        self.assertEqual((len(self.deadlines), len(self.deadlines._slots)), (0, 0))

    def test_requests_cost_nothing_at_the_sweep(self):
        """Items whose tick hasn't come aren't looked at."""

        class Untouched:
            slot = -1
            reads = 0

            @property
            def deadline(self):
                self.reads += 1
                return 500.0

        items = [Untouched() for _ in range(10)]
        for item in items:
            self.deadlines.watch(item)
            item.reads = 0
        for step in range(100):
            self.assertEqual(list(self.deadlines.expired(100.0 + step)), [])
        self.assertEqual(sum(item.reads for item in items), 0)


class PropertyTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=300)
    @given(
        st.floats(0, 1000),
        st.lists(
            st.tuples(
                st.sampled_from(["watch", "hasten", "later", "forget", "sweep"]),
                st.integers(0, 4),
                st.floats(0, 3),
            ),
            max_size=40,
        ),
    )
    def test_a_dictionary_agrees(self, now, events):
        """Known: item → since when the sweeper could know of its present deadline."""
        deadlines = Deadlines(now)
        items = [Item() for _ in range(5)]
        known: dict[Item, float] = {}
        for event, number, seconds in events:
            item = items[number]
            if event in ("watch", "hasten"):
                item.deadline = now + seconds
                getattr(deadlines, event)(item)
                known[item] = now
            elif event == "later":
                item.deadline += seconds
            elif event == "forget":
                deadlines.forget(item)
                known.pop(item, None)
            else:
                now += seconds / 4
                found = list(deadlines.expired(now))
                self.assertEqual(len(set(found)), len(found))
                for one in found:
                    self.assertIn(one, known)
                    self.assertLessEqual(one.deadline, now, "early")
                    del known[one]
                for one, since in known.items():
                    self.assertGreater(max(one.deadline, since) + TICK + 1e-9, now, "late")
            self.assertEqual(len(deadlines), len(known))
        now = max([now, *(item.deadline for item in items)]) + TICK
        self.assertEqual(set(deadlines.expired(now)), set(known))
