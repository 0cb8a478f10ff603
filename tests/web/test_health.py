"""Tests of dlba.web.health."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.web.health import OPEN_LIMIT, Change, Health, Rota, is_good

UP, DOWN, NONE = Change.UP, Change.DOWN, Change.NONE


def changes(health: Health, results: str, failed: bool = False) -> str:
    """What each of `results` (+ good, - bad) changes: U, D or a dot."""
    return "".join(
        (health.passed(failed) if result == "+" else health.missed()).name[0].replace("N", ".")
        for result in results
    )


class HealthTests(SynchronousTestCase):
    #: rise, fall, results, what they change, whether it is down at the end
    TABLE = (
        (2, 3, "", "", False),
        # The first check decides alone, then three in a row.
        (2, 3, "-", "D", True),
        (2, 3, "+--", "...", False),
        (2, 3, "+---", "...D", True),
        (2, 3, "+--+--", "......", False),
        (2, 3, "+--+---", "......D", True),
        (2, 3, "-+", "D.", True),
        (2, 3, "-++", "D.U", False),
        # A bad one between starts anew, either way.
        (2, 3, "-+-+-++", "D.....U", False),
        (2, 3, "-++---", "D.U..D", True),
        (2, 3, "-------++", "D.......U", False),
        (1, 1, "+-+-+", ".DUDU", False),
        (1, 1, "-+", "DU", False),
        (3, 1, "-++-+++-", "D.....UD", True),
    )

    def test_in_a_row(self):
        for rise, fall, results, wanted, down in self.TABLE:
            health = Health(rise, fall)
            self.assertEqual(changes(health, results), wanted, (rise, fall, results))
            self.assertEqual(health.down, down, (rise, fall, results))

    def test_good_ones_clear_the_mark_of_requests(self):
        for rise, results, wanted in (
            (2, "++", ".U"),
            (2, "+-++", "...U"),
            (1, "+", "U"),
            (3, "+++", "..U"),
        ):
            health = Health(rise, 3)
            health.passed(False)
            self.assertEqual(changes(health, results, failed=True), wanted)
            self.assertFalse(health.down)

    def test_what_was_good_before_the_mark_doesn_t_count(self):
        health = Health(2, 3)
        self.assertEqual(changes(health, "+++"), "...")
        self.assertEqual(changes(health, "+", failed=True), ".")
        self.assertEqual(changes(health, "+", failed=True), "U")

    def test_other_numbers_count_from_the_next_check_on(self):
        health = Health(2, 3)
        self.assertEqual(changes(health, "+--"), "...")
        health.configure(2, 5)
        self.assertEqual(changes(health, "--"), "..")
        health.configure(3, 2)
        self.assertEqual(changes(health, "-++"), "D..")
        health.configure(1, 2)
        self.assertEqual(changes(health, "+"), "U")

    @settings(deadline=None)
    @given(st.integers(1, 5), st.integers(1, 5), st.text("+-", max_size=40))
    def test_as_haproxy_counts(self, rise, fall, results):
        """There one number says all: below `rise` is down, and it begins just above."""
        health, number = Health(rise, fall), rise
        for result in results:
            was_up = number >= rise
            if result == "+":
                number = min(number + 1, rise + fall - 1)
                number = rise + fall - 1 if number >= rise else number
            else:
                number = number - 1 if number > rise else 0
            change = (UP if number >= rise else DOWN) if was_up != (number >= rise) else NONE
            self.assertIs(health.passed(False) if result == "+" else health.missed(), change)
            self.assertEqual(health.down, number < rise)

    def test_which_status_is_good(self):
        good = {status for status in range(1000) if is_good(status)}
        self.assertEqual(good, set(range(200, 400)))


class RotaTests(SynchronousTestCase):
    def taken(self, rota: Rota, now: float) -> list:
        return list(iter(lambda: rota.take(now), None))

    def run_on(self, rota: Rota, start: float, end: float, lasts) -> list[tuple[float, object]]:
        """(when, who) of each check begun from `start` to `end`; one of key lasts `lasts(key)`."""
        begun, open_until = [], {}
        now = start
        while now < end:
            for key, until in sorted(open_until.items()):
                if until <= now:
                    del open_until[key]
                    rota.ended(key, now)
            for key in self.taken(rota, now):
                self.assertNotIn(key, open_until, "overlaps itself")
                begun.append((now, key))
                open_until[key] = now + lasts(key)
            self.assertLessEqual(len(open_until), OPEN_LIMIT)
            wait = rota.wait(now)
            times = [*open_until.values(), *([now + wait] if wait is not None else [])]
            now = max(min(times, default=end), now + 1e-6)
        return begun

    def test_nobody(self):
        rota = Rota()
        self.assertEqual((rota.take(5.0), rota.wait(5.0)), (None, None))
        rota.configure([], 5.0)
        self.assertEqual((rota.take(9.0), rota.wait(9.0)), (None, None))
        rota.ended("unknown", 9.0)

    def test_each_once_in_every_from_the_start(self):
        for count in (1, 2, 3, 10, 100, 1000):
            rota = Rota()
            rota.configure([(number, 5.0) for number in range(count)], 100.0)
            begun = self.run_on(rota, 100.0, 120.0, lambda key: 0.001)
            for start in (100.0, 105.0, 110.0, 114.99):
                window = [key for when, key in begun if start <= when < start + 5.0]
                self.assertEqual(sorted(window), list(range(count)))

    def test_spread_over_the_time_between(self):
        for count in (2, 10, 100, 1000):
            rota = Rota()
            rota.configure([(number, 5.0) for number in range(count)], 0.0)
            times = sorted(when for when, _ in self.run_on(rota, 0.0, 5.0, lambda key: 0.0001))
            gaps = [after - before for before, after in itertools.pairwise([*times, 5.0])]
            # Twice the even gap at most, and no two in one moment.
            self.assertLessEqual(max(gaps), 5.0 / count * 2)
            self.assertGreater(min(gaps), 5.0 / count / 4)

    def test_the_same_each_time(self):
        runs = []
        for _ in range(2):
            rota = Rota()
            rota.configure([(number, 2.0 + number % 3) for number in range(20)], 7.0)
            runs.append(self.run_on(rota, 7.0, 20.0, lambda key: 0.1))
        self.assertEqual(*runs)

    def test_a_long_check_skips_and_keeps_its_moment(self):
        rota = Rota()
        rota.configure([("a", 5.0)], 100.0)
        self.assertEqual(self.taken(rota, 100.0), ["a"])
        self.assertEqual((rota.take(111.0), rota.wait(111.0)), (None, None))
        rota.ended("a", 112.0)
        self.assertIsNone(rota.take(114.9))
        self.assertEqual(round(rota.wait(112.0), 6), 3.0)
        self.assertEqual(self.taken(rota, 115.0), ["a"])
        rota.ended("a", 115.0)
        self.assertEqual(round(rota.wait(115.0), 6), 5.0)

    def test_bounded_and_in_order(self):
        rota = Rota(3)
        rota.configure([(number, 1.0) for number in range(10)], 0.0)
        by_time = sorted(range(10), key=lambda number: number * 0.6180339887498949 % 1)
        self.assertEqual(self.taken(rota, 5.0), by_time[:3])
        self.assertIsNone(rota.wait(5.0))
        rota.ended(by_time[1], 5.0)
        self.assertEqual(rota.wait(5.0), 0.0)
        self.assertEqual(self.taken(rota, 5.0), [by_time[3]])

    def test_those_that_hang_leave_room_for_all(self):
        """As OPEN_LIMIT's comment promises."""
        rota = Rota()
        rota.configure([(number, 5.0) for number in range(160)], 0.0)
        begun = self.run_on(rota, 0.0, 60.0, lambda key: 2.0)
        for start in (0.0, 30.0, 49.0):
            window = {key for when, key in begun if start <= when < start + 10.0}
            self.assertEqual(window, set(range(160)))

    def test_another_configuration(self):
        rota = Rota()
        rota.configure([("stays", 5.0), ("open", 5.0), ("slower", 5.0), ("goes", 5.0)], 0.0)
        self.assertEqual(self.taken(rota, 4.0), ["stays", "slower", "open"])
        rota.ended("stays", 4.0)
        rota.ended("slower", 4.0)
        rota.configure([("new", 5.0), ("stays", 5.0), ("open", 5.0), ("slower", 50.0)], 4.5)
        self.assertEqual(self.taken(rota, 4.5), ["new"])
        self.assertEqual(round(rota.wait(4.5), 6), 0.5)
        self.assertEqual(self.taken(rota, 5.0), ["stays"])
        rota.ended("open", 5.1)
        self.assertEqual(self.taken(rota, 12.0), ["open"])
        self.assertEqual(self.taken(rota, 60.0), ["slower"])
        rota.ended("goes", 60.0)
        self.assertEqual(self.taken(rota, 99.0), [])

    @settings(deadline=None, max_examples=60)
    @given(
        st.integers(1, 4),
        st.lists(
            st.one_of(
                st.tuples(st.just("end"), st.integers(0, 7), st.floats(0, 3)),
                st.tuples(st.just("take"), st.just(0), st.floats(0, 3)),
                st.tuples(st.just("set"), st.integers(0, 255), st.floats(0, 3)),
            ),
            max_size=40,
        ),
    )
    def test_a_naive_list_agrees(self, limit, events):
        rota, now = Rota(limit), 0.0
        known: set[int] = set()
        open_now: set[int] = set()
        for event, number, seconds in events:
            now += seconds
            if event == "set":
                known = {key for key in range(8) if number >> key & 1}
                # What goes has been cut off by the caller.
                open_now &= known
                rota.configure([(key, 1.0 + key) for key in sorted(known)], now)
            elif event == "end":
                rota.ended(number, now)
                open_now.discard(number)
            else:
                for key in self.taken(rota, now):
                    self.assertIn(key, known - open_now)
                    open_now.add(key)
                self.assertLessEqual(len(open_now), limit)
            wait = rota.wait(now)
            if wait is None:
                self.assertTrue(len(open_now) >= limit or open_now == known)
            else:
                self.assertLess(len(open_now), limit)
                self.assertLessEqual(wait, 8.0)
