"""Tests of dlba.web.ring."""

import hashlib
import math
from decimal import Decimal, localcontext

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.web import ring
from dlba.web.ring import Ring

KEYS = [b"shop.example.com/page/%d?q=1" % n for n in range(8000)]
FOUR = [("app1", 1), ("app2", 2), ("app3", 3), ("spare", 4)]


def naive_ranking(backends, key: bytes, secret: bytes) -> tuple[int, ...]:
    """Each backend's draw u to the power of 1/weight, the largest first, in 40 digits."""
    digest = hashlib.blake2b(key, digest_size=16, key=secret).digest()
    with localcontext() as context:
        context.prec = 40
        scores = []
        for name, weight in backends:
            draw = hashlib.blake2b(digest + name.encode(), digest_size=8, key=secret).digest()
            u = (Decimal(int.from_bytes(draw, "big")) + Decimal("0.5")) / Decimal(2**64)
            scores.append(u.ln() / Decimal(weight))
        return tuple(sorted(range(len(backends)), key=lambda index: -scores[index]))


def first(backends, keys=KEYS, secret=b"") -> list[str]:
    """The name of the best backend for each key."""
    made = Ring(backends, secret)
    return [backends[made.ranking(key)[0]][0] for key in keys]


class RingTests(SynchronousTestCase):
    def near(self, found: float, expected: float, distance: float) -> None:
        self.assertLess(abs(found - expected), distance, (found, expected))

    @settings(deadline=None, max_examples=150)
    @given(
        st.dictionaries(st.text("ab1", min_size=1, max_size=4), st.integers(1, 1000), max_size=8),
        st.binary(max_size=20),
        st.binary(max_size=64),
    )
    def test_the_naive_ring_agrees(self, backends, key, secret):
        pairs = list(backends.items())
        made = Ring(pairs, secret)
        expected = naive_ranking(pairs, key, secret)
        self.assertEqual(made.ranking(key), expected)
        self.assertEqual(made.ranking(key), expected, "kept")

    def test_order_is_of_no_account(self):
        for secret in (b"", b"secret"):
            self.assertEqual(first(FOUR, secret=secret), first(FOUR[::-1], secret=secret))

    def test_the_key_matters(self):
        one, other = first(FOUR, secret=b"a"), first(FOUR, secret=b"b")
        same = sum(a == b for a, b in zip(one, other, strict=True)) / len(KEYS)
        # Two draws by weights of 1 to 4 tenths meet in 1+4+9+16 of 100 cases.
        self.near(same, 0.30, 0.04)
        self.assertEqual(first(FOUR, secret=b"x" * 64), first(FOUR, secret=b"x" * 64 + b"y"))

    def test_shares_follow_the_weights(self):
        found = first(FOUR)
        for name, weight in FOUR:
            share = weight / 10
            deviation = math.sqrt(share * (1 - share) / len(KEYS))
            self.near(found.count(name) / len(KEYS), share, 4 * deviation)

    def test_second_places_follow_the_weights_too(self):
        made = Ring(FOUR)
        second = [made.ranking(key)[1] for key in KEYS if made.ranking(key)[0] == 3]
        for index, weight in ((0, 1), (1, 2), (2, 3)):
            self.near(second.count(index) / len(second), weight / 6, 0.04)

    def test_only_the_share_of_one_that_goes_moves(self):
        before = first(FOUR)
        for gone, _ in FOUR:
            left = [pair for pair in FOUR if pair[0] != gone]
            for was, now in zip(before, first(left), strict=True):
                self.assertTrue(now == was or was == gone, (was, now, gone))

    def test_those_behind_keep_their_order(self):
        made, fewer = Ring(FOUR), Ring(FOUR[1:])
        for key in KEYS[:500]:
            left = tuple(index - 1 for index in made.ranking(key) if index != 0)
            self.assertEqual(fewer.ranking(key), left)

    def test_one_that_comes_takes_its_share_and_no_more(self):
        before, after = first(FOUR), first([*FOUR, ("new", 10)])
        moved = [now for was, now in zip(before, after, strict=True) if was != now]
        self.assertEqual(set(moved), {"new"})
        self.near(len(moved) / len(KEYS), 0.5, 0.03)

    def test_a_weight_that_grows_draws_keys_to_it_alone(self):
        before, after = first(FOUR), first([("app1", 11), *FOUR[1:]])
        moved = {now for was, now in zip(before, after, strict=True) if was != now}
        self.assertEqual(moved, {"app1"})
        self.near(after.count("app1") / len(KEYS), 11 / 20, 0.03)

    def test_nothing_to_choose_from(self):
        self.assertEqual(Ring([]).ranking(b"a"), ())
        self.assertEqual(Ring([("a", 1)]).ranking(b""), (0,))

    def test_what_is_kept_is_bounded_and_right(self):
        self.patch(ring, "KEPT", 50)
        made = Ring(FOUR)
        fresh = [Ring(FOUR).ranking(key) for key in KEYS[:200]]
        for _ in range(2):
            self.assertEqual([made.ranking(key) for key in KEYS[:200]], fresh)
            self.assertEqual(len(made._kept), 50)
        long_key = b"x" * 1_000_000
        self.assertEqual(made.ranking(long_key), naive_ranking(FOUR, long_key, b""))
        self.assertLess(max(map(len, made._kept)), 65)
