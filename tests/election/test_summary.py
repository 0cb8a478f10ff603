"""Tests of dlba.election.summary."""

import json

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.election.messages import DATA_LIMIT
from dlba.election.summary import ROWS_LIMIT, Row, Sum, pack_rows, summed, unpack_rows
from dlba.errors import PeerError

ROW = Row(
    pool="app",
    name="app1",
    address="10.0.1.1:8080",
    cookie_groups=17,
    hits=511,
    open_connections=3,
    average_response=0.011,
    failed=False,
    draining=True,
)
_INTS = st.integers(0, 2**53 - 1)
_TEXTS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20)
ROWS = st.lists(
    st.builds(
        Row,
        pool=_TEXTS,
        name=_TEXTS,
        address=_TEXTS,
        cookie_groups=_INTS,
        hits=_INTS,
        open_connections=_INTS,
        average_response=st.floats(0, 1e15),
        failed=st.booleans(),
        draining=st.booleans(),
    ),
    max_size=5,
    unique_by=lambda row: (row.pool, row.name, row.address),
)


class RowsTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(ROWS)
    def test_what_is_packed_comes_back(self, rows):
        self.assertEqual(unpack_rows(pack_rows(iter(rows))), tuple(rows))

    def test_wire(self):
        self.assertEqual(
            pack_rows([ROW]), b'[["app","app1","10.0.1.1:8080",17,511,3,0.011,false,true]]'
        )
        self.assertEqual(pack_rows([]), b"[]")

    def test_a_whole_number_of_seconds(self):
        (row,) = unpack_rows(pack_rows([attrs.evolve(ROW, average_response=2)]))
        self.assertIs(type(row.average_response), float)

    def test_as_many_rows_as_fit(self):
        many = [attrs.evolve(ROW, name=f"{n:064}", pool="p" * 64) for n in range(3000)]
        data = pack_rows(many)
        self.assertLessEqual(len(data), ROWS_LIMIT)
        self.assertLess(ROWS_LIMIT, DATA_LIMIT)
        found = unpack_rows(data)
        self.assertGreater(len(found), 1000)
        self.assertEqual(found, tuple(many[: len(found)]))

    def test_one_wrong_value(self):
        good = json.loads(pack_rows([ROW]))[0]
        for at, values in {
            0: ("", 7, None, "a\n", "a" * 257, ["a"]),
            3: (-1, 2**53, 1.0, True, "1", None, [1]),
            6: (-0.1, float("inf"), float("nan"), True, "1", None, 1e300, 10**400),
            7: (0, 1, "true", None),
        }.items():
            for value in values:
                line = [*good[:at], value, *good[at + 1 :]]
                with self.assertRaises(PeerError, msg=(at, value)):
                    unpack_rows(json.dumps([line]).encode())
        for lines in ([good[:-1]], [[*good, 1]], [good, good], [1], [None], [{}], {}, 7, None):
            with self.assertRaises(PeerError, msg=lines):
                unpack_rows(json.dumps(lines).encode())

    def test_what_is_no_table_at_all(self):
        for data in (b"", b"[", b"\xff", b"[" * 100_000, b"[" + b"9" * 5000 + b"]"):
            with self.assertRaises(PeerError, msg=data[:20]):
                unpack_rows(data)
        with self.assertRaisesRegex(PeerError, "bytes at most"):
            unpack_rows(b" " * (ROWS_LIMIT + 1))

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_table_or_an_error(self, data):
        try:
            self.assertIsInstance(unpack_rows(data), tuple)
        except PeerError:
            pass


class SumTests(SynchronousTestCase):
    def test_backends_of_all_nodes(self):
        other = attrs.evolve(ROW, name="app2", hits=1)
        again = attrs.evolve(ROW, cookie_groups=1, hits=2, open_connections=3, failed=True)
        moved = attrs.evolve(ROW, address="10.0.1.9:8080")

        def line(row, *counts):
            return Sum(
                pool=row.pool,
                name=row.name,
                address=row.address,
                cookie_groups=counts[0],
                hits=counts[1],
                open_connections=counts[2],
            )

        self.assertEqual(
            summed([[ROW, other], iter([moved, again])]),
            (line(ROW, 18, 513, 6), line(other, 17, 1, 3), line(moved, 17, 511, 3)),
        )
        self.assertEqual(summed([]), ())

    @settings(deadline=None)
    @given(st.lists(st.lists(st.tuples(st.integers(0, 2), *[st.integers(0, 99)] * 3)), max_size=5))
    def test_against_counting_by_one_key_at_a_time(self, tables):
        found = summed(
            [
                attrs.evolve(ROW, name=f"b{n}", cookie_groups=c, hits=h, open_connections=o)
                for n, c, h, o in table
            ]
            for table in tables
        )
        flat = [line for table in tables for line in table]
        self.assertEqual(sorted(one.name for one in found), sorted({f"b{n}" for n, *_ in flat}))
        for one in found:
            mine = [counts for n, *counts in flat if f"b{n}" == one.name]
            got = [one.cookie_groups, one.hits, one.open_connections]
            self.assertEqual(got, [sum(column) for column in zip(*mine, strict=True)])
