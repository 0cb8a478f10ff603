"""Tests of dlba.web.idle."""

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.web.deadlines import TICK, Deadlines
from dlba.web.idle import IDLE, LIMIT, PER_BACKEND, IdleSides


@attrs.define(eq=False)
class Side:
    """A connection that, as the real one does, tells when it is closed."""

    idle: IdleSides
    backend: str
    deadline: float = 0.0
    slot: int = -1
    closed: int = 0

    def reset(self) -> None:
        self.closed += 1
        self.idle.forget(self)

    def expire(self, now: float) -> None:
        self.reset()


class IdleTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.begin()

    def begin(self, limit: int = LIMIT) -> None:
        self.deadlines = Deadlines(0.0)
        self.idle = IdleSides(self.deadlines, limit)

    def park(self, backend: str, now: float = 0.0) -> Side:
        side = Side(self.idle, backend)
        self.idle.park(side, now)
        return side

    def sweep(self, now: float) -> None:
        for side in self.deadlines.expired(now):
            side.expire(now)


class IdleTests(IdleTest):
    def test_newest_first_and_none_twice(self):
        sides = [self.park("a", now) for now in (1.0, 2.0, 3.0)]
        other = self.park("b", 4.0)
        self.assertEqual(len(self.idle), 4)
        self.assertEqual([self.idle.take("a") for _ in range(4)], [*reversed(sides), None])
        self.assertIs(self.idle.take("b"), other)
        self.assertIsNone(self.idle.take("b"))
        self.assertIsNone(self.idle.take("unknown"))
        self.assertEqual((len(self.idle), len(self.deadlines)), (0, 0))
        self.assertEqual([side.closed for side in sides], [0, 0, 0])

    def test_one_that_is_parked_again_is_the_newest(self):
        first, second = self.park("a"), self.park("a")
        self.idle.forget(first)
        self.idle.park(first, 5.0)
        self.assertEqual([self.idle.take("a"), self.idle.take("a")], [first, second])

    def test_expires(self):
        side = self.park("a", 100.0)
        self.sweep(100.0 + IDLE - 0.001)
        self.assertEqual((side.closed, len(self.idle)), (0, 1))
        self.sweep(100.0 + IDLE + TICK)
        self.assertEqual((side.closed, len(self.idle), len(self.deadlines)), (1, 0, 0))
        self.assertIsNone(self.idle.take("a"))

    def test_one_that_was_taken_doesn_t_expire(self):
        side = self.park("a", 100.0)
        self.idle.take("a")
        self.sweep(1000.0)
        self.assertEqual(side.closed, 0)

    def test_forget(self):
        first, second = self.park("a"), self.park("a")
        self.idle.forget(second)
        self.idle.forget(second)
        self.idle.forget(Side(self.idle, "unknown"))
        self.assertEqual((len(self.idle), len(self.deadlines)), (1, 1))
        self.assertIs(self.idle.take("a"), first)
        self.assertEqual(second.closed, 0)

    def test_a_full_backend_drops_its_own_oldest(self):
        other = self.park("b")
        sides = [self.park("a") for _ in range(PER_BACKEND + 3)]
        self.assertEqual([side.closed for side in sides], [1] * 3 + [0] * PER_BACKEND)
        self.assertEqual((other.closed, len(self.idle)), (0, PER_BACKEND + 1))
        self.assertIs(self.idle.take("a"), sides[-1])

    def test_when_all_is_full_the_oldest_of_all_goes(self):
        self.begin(limit=3)
        a, b, c = (self.park(name) for name in "abc")
        d = self.park("d")
        self.assertEqual([side.closed for side in (a, b, c, d)], [1, 0, 0, 0])
        # The one backend's last connection makes room for its next.
        self.begin(limit=1)
        first, second = self.park("a"), self.park("a")
        self.assertEqual((first.closed, second.closed, len(self.idle)), (1, 0, 1))
        self.assertIs(self.idle.take("a"), second)

    def test_drop_oldest(self):
        sides = [self.park(name) for name in "abab"]
        self.assertTrue(self.idle.drop_oldest())
        self.assertTrue(self.idle.drop_oldest())
        self.assertEqual([side.closed for side in sides], [1, 1, 0, 0])
        self.idle.take("a")
        self.assertTrue(self.idle.drop_oldest())
        self.assertEqual([side.closed for side in sides], [1, 1, 0, 1])
        self.assertFalse(self.idle.drop_oldest())

    def test_drop_backend(self):
        sides = [self.park(name) for name in "aba"]
        self.idle.drop_backend("a")
        self.idle.drop_backend("unknown")
        self.assertEqual([side.closed for side in sides], [1, 0, 1])
        self.assertEqual((len(self.idle), len(self.deadlines)), (1, 1))

    def test_drop_all(self):
        sides = [self.park(name) for name in "aba"]
        self.idle.drop_all()
        self.assertEqual([side.closed for side in sides], [1, 1, 1])
        self.assertEqual((len(self.idle), len(self.deadlines)), (0, 0))


class PropertyTests(IdleTest):
    @settings(deadline=None, max_examples=100)
    @given(
        st.integers(1, 5),
        st.lists(
            st.tuples(
                st.sampled_from(["park", "park", "take", "oldest", "backend", "lost", "sweep"]),
                st.sampled_from("abc"),
                st.floats(0, IDLE / 3),
            ),
            max_size=40,
        ),
    )
    def test_a_naive_list_agrees(self, limit, events):
        self.begin(limit)
        now = 0.0
        kept: list[tuple[float, Side]] = []
        every: list[Side] = []
        for event, backend, seconds in events:
            now += seconds
            mine = [entry for entry in kept if entry[1].backend == backend]
            if event == "park":
                if len(kept) == limit:
                    kept.pop(0)
                side = self.park(backend, now)
                kept.append((now, side))
                every.append(side)
            elif event == "take":
                wanted = mine[-1][1] if mine else None
                self.assertIs(self.idle.take(backend), wanted)
                kept = [entry for entry in kept if entry[1] is not wanted]
                every = [side for side in every if side is not wanted]
            elif event == "oldest":
                self.assertEqual(self.idle.drop_oldest(), bool(kept))
                kept = kept[1:]
            elif event == "backend":
                self.idle.drop_backend(backend)
                kept = [entry for entry in kept if entry[1].backend != backend]
            elif event == "lost" and mine:
                mine[0][1].reset()
                kept.remove(mine[0])
            elif event == "sweep":
                self.sweep(now)
                late = [entry for entry in kept if entry[0] + IDLE <= now - TICK]
                gone = [entry for entry in kept if entry[1].closed]
                self.assertTrue(set(late) <= set(gone))
                self.assertTrue(all(entry[0] + IDLE <= now for entry in gone))
                kept = [entry for entry in kept if entry not in gone]
            stays = [side for _, side in kept]
            for side in every:
                self.assertEqual(side.closed, 0 if side in stays else 1)
            self.assertEqual((len(self.idle), len(self.deadlines)), (len(kept), len(kept)))
