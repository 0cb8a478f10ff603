"""Tests of dlba.routing.placement."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.placement import NodeRow, better, least

COUNTED = ("groups", "hits", "connections")


def row(number: int, groups: int = 0, weight: int = 1, **columns) -> NodeRow:
    made = NodeRow(number, f"n{number}", bytes([2, 0, 0, 0, 0, number]), f"10.0.0.{number}", weight)
    made.counts = {number: groups}
    for name, value in columns.items():
        setattr(made, name, value)
    return made


def number(found: NodeRow | None) -> int | None:
    return None if found is None else found.number


class RowTests(SynchronousTestCase):
    def test_a_new_row(self):
        made = NodeRow(3, "c", b"\x02\0\0\0\0\x0c", "10.0.0.3", weight=5, enabled=False)
        self.assertEqual(
            (made.number, made.name, made.mac, made.address, made.weight, made.enabled),
            (3, "c", b"\x02\0\0\0\0\x0c", "10.0.0.3", 5, False),
        )
        self.assertEqual((made.draining, made.failed, made.groups), (False, False, 0))
        self.assertEqual((made.hits, made.open_connections, made.average_response), (0, 0, 0.0))
        self.assertIn("3 c", repr(made))

    def test_open_to_new(self):
        self.assertTrue(row(1).open_to_new)
        for column, value in (
            ("enabled", False),
            ("failed", True),
            ("held", True),
            ("draining", True),
            ("weight", 0),
        ):
            self.assertFalse(row(1, **{column: value}).open_to_new, column)

    def test_a_status_resets_what_was_placed_since(self):
        made = row(1, groups=4, placed_since=3)
        made.status(hits=90, open_connections=7, average_response=0.25)
        self.assertEqual((made.hits, made.open_connections, made.average_response), (90, 7, 0.25))
        self.assertEqual((made.placed_since, made.status_groups), (0, 4))


class LeastTests(SynchronousTestCase):
    def test_nobody(self):
        for by in COUNTED:
            self.assertIsNone(least([], by))
            closed = [row(1, weight=0), row(2, failed=True), row(3, draining=True)]
            self.assertIsNone(least([*closed, row(4, enabled=False)], by))

    def test_the_fewest_groups_by_weight(self):
        self.assertEqual(number(least([row(0, 5), row(1, 4), row(2, 6)], "groups")), 1)
        self.assertEqual(number(least([row(0, 5), row(1, 9, weight=2)], "groups")), 1)
        self.assertEqual(number(least([row(0, 5), row(1, 10, weight=2)], "groups")), 0)

    def test_of_equals_the_lower_number_in_any_order(self):
        rows = [row(7, 3, weight=3), row(2, 7, weight=7), row(4, 1)]
        self.assertEqual(number(least(rows, "groups")), 2)
        self.assertEqual(number(least(rows[::-1], "groups")), 2)

    def test_each_counts_its_own_column(self):
        rows = [
            row(0, groups=1, hits=30, open_connections=20, status_groups=1),
            row(1, groups=2, hits=10, open_connections=30, status_groups=2),
            row(2, groups=3, hits=20, open_connections=10, status_groups=3),
        ]
        self.assertEqual([number(least(rows, by)) for by in COUNTED], [0, 1, 2])

    def test_placements_count_at_the_nodes_own_mean(self):
        # 100 hits on 10 groups and 140 on 10: the fifth placement makes them level, to the lower.
        rows = [row(0, 10), row(1, 10)]
        rows[0].status(100, 0, 0)
        rows[1].status(140, 0, 0)
        taken = []
        for _ in range(8):
            found = least(rows, "hits")
            found.placed_since += 1
            taken.append(found.number)
        # Loads: 0 grows by 10, 1 by 14.
        self.assertEqual(taken, [0, 0, 0, 0, 0, 1, 0, 1])

    def test_a_node_without_a_mean_has_that_of_all(self):
        # 60 hits on 3 groups, live; the failed one's are of no account.
        rows = [row(0, 3), row(1), row(2, 9)]
        rows[0].status(60, 0, 0)
        rows[2].status(9000, 0, 0)
        rows[2].failed = True
        taken = []
        for _ in range(6):
            found = least(rows, "hits")
            found.placed_since += 1
            taken.append(found.number)
        self.assertEqual(taken, [1, 1, 1, 0, 1, 0])

    def test_without_any_mean_a_placement_counts_one(self):
        rows = [row(0), row(1), row(2, weight=2)]
        for by in ("hits", "connections"):
            for one in rows:
                one.placed_since = 0
            for _ in range(40):
                least(rows, by).placed_since += 1
            self.assertEqual([one.placed_since for one in rows], [10, 10, 20])

    def test_idle_nodes_take_turns(self):
        # A mean of 0 would send everything to one node: that of all counts, or else 1.
        for busy, expected in ((0, [3, 3, 3]), (900, [0, 5, 4])):
            rows = [row(n, 3) for n in range(3)]
            for one, hits in zip(rows, (busy, 0, 0), strict=True):
                one.status(hits, 0, 0)
            for _ in range(9):
                least(rows, "hits").placed_since += 1
            self.assertEqual([one.placed_since for one in rows], expected)

    def test_a_node_that_lost_its_buckets_counts_by_the_mean_of_all(self):
        rows = [row(0, 3), row(1, 3)]
        for one in rows:
            one.status(0, 30, 0)
        rows[1].open_connections = 3
        rows[1].placed_since = 5
        rows[1].lost()
        rows[1].counts = {}
        for _ in range(3):
            self.assertEqual(number(least(rows, "connections")), 1)
            rows[1].placed_since += 1
        # 3 + 3 * 10 is over the other's 30.
        self.assertEqual(number(least(rows, "connections")), 0)


class BetterTests(SynchronousTestCase):
    def check(self, target: NodeRow, owner: NodeRow, by: str, expected: bool) -> None:
        self.assertIs(better(target, owner, (target, owner), by), expected)

    def test_its_own_group_included(self):
        self.check(row(0, 3), row(1, 5), "groups", True)
        self.check(row(0, 4), row(1, 5), "groups", False)
        self.check(row(0, 9, weight=2), row(1, 5), "groups", False)
        self.check(row(0, 8, weight=2), row(1, 5), "groups", True)
        self.check(row(0, 0), row(0, 0), "groups", False)

    def test_an_owner_that_is_not_open_loses(self):
        for column, value in (("enabled", False), ("draining", True), ("weight", 0)):
            self.check(row(0, 90), row(1, 1, **{column: value}), "groups", True)

    def test_hits_and_connections_by_the_mean(self):
        for by, column in (("hits", "hits"), ("connections", "open_connections")):
            target, owner = (row(n, 10, status_groups=10) for n in (0, 1))
            setattr(target, column, 100)
            for known, expected in ((110, False), (111, True)):
                setattr(owner, column, known)
                self.check(target, owner, by, expected)
            target.placed_since = 1
            self.check(target, owner, by, False)


ROWS = st.lists(
    st.builds(
        dict,
        groups=st.integers(0, 6),
        weight=st.integers(0, 4),
        enabled=st.integers(0, 5).map(bool),
        failed=st.integers(0, 4).map(lambda n: n == 0),
        draining=st.integers(0, 4).map(lambda n: n == 0),
        hits=st.integers(0, 3),
        open_connections=st.integers(0, 8),
        placed_since=st.integers(0, 4),
        status_groups=st.integers(0, 6),
    ),
    max_size=6,
)


def exact(rows: list[dict], of: dict, by: str, more: int = 0) -> Fraction:
    """The load by weight of one of `rows`, in fractions, by the sentences of the design."""
    if by == "groups":
        return Fraction(of["groups"] + more, of["weight"])
    column = {"hits": "hits", "connections": "open_connections"}[by]
    if of[column] > 0 and of["status_groups"] > 0:
        mean = Fraction(of[column], of["status_groups"])
    else:
        known = [r for r in rows if not r["failed"] and r["status_groups"] > 0]
        total = sum(r[column] for r in known)
        mean = Fraction(total, sum(r["status_groups"] for r in known)) if total else Fraction(1)
    return (of[column] + (of["placed_since"] + more) * mean) / of["weight"]


class OracleTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=400)
    @given(ROWS, st.sampled_from(COUNTED), st.randoms(use_true_random=False))
    def test_fractions_agree(self, columns, by, shuffled):
        rows = [row(n, **c) for n, c in enumerate(columns)]
        candidates = [
            (exact(columns, c, by), n)
            for n, c in enumerate(columns)
            if c["enabled"] and not c["failed"] and not c["draining"] and c["weight"]
        ]
        expected = min(candidates)[1] if candidates else None
        shuffled.shuffle(mixed := list(rows))
        found = least(mixed, by)
        self.assertEqual(number(found), expected)
        if found is None:
            return
        for n, c in enumerate(columns):
            if n in {number for _, number in candidates}:
                wins = exact(columns, columns[expected], by, 1) < exact(columns, c, by)
            else:
                wins = True
            self.assertIs(better(found, rows[n], tuple(rows), by), wins)
