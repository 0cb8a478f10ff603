"""Tests of dlba.web.pool."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.addresses import Endpoint
from dlba.config.values import BackendConfig, PoolConfig
from dlba.web.pool import Backend, Pool
from dlba.web.ring import Ring


def backend_config(name: str, number: int = 1, **settings) -> BackendConfig:
    return BackendConfig(name=name, address=Endpoint("192.0.2.1", 8000 + number), **settings)


def pool_of(*backends: BackendConfig, **settings) -> Pool:
    return Pool(PoolConfig(name="app", backends=backends, **settings))


def pool(*weights: int, **settings) -> Pool:
    """Backends b0, b1, … with these weights."""
    return pool_of(
        *(backend_config(f"b{n}", n, weight=w) for n, w in enumerate(weights)), **settings
    )


def name(backend: Backend | None) -> str | None:
    return None if backend is None else backend.name


class RowTests(SynchronousTestCase):
    def test_a_new_row(self):
        made = Pool(
            PoolConfig(name="app", backends=(backend_config("a", 5, weight=3, backup=True),)),
            lambda pool, name: f"{pool}/{name}".encode(),
        )
        (row,) = made.backends
        self.assertEqual((row.name, row.pool, row.token), ("a", "app", b"app/a"))
        self.assertEqual((row.address, str(row.endpoint)), (("192.0.2.1", 8005), "192.0.2.1:8005"))
        self.assertEqual(
            (row.weight, row.backup, row.enabled, row.draining), (3, True, True, False)
        )
        self.assertEqual((row.hits, row.open_connections, row.cookie_groups), (0, 0, 0))
        self.assertEqual((row.average_response, row.failed, row.down), (0.0, False, False))

    def test_average_response(self):
        row = pool(1).backends[0]
        row.answered(0.8)
        self.assertEqual((row.hits, row.average_response), (1, 0.8))
        row.answered(0.0)
        self.assertEqual((row.hits, round(row.average_response, 9)), (2, 0.7))
        for _ in range(100):
            row.answered(0.2)
        self.assertTrue(abs(row.average_response - 0.2) < 1e-5)
        self.assertEqual(row.hits, 102)


class NamedTests(SynchronousTestCase):
    def test_who_may_be_named(self):
        made = pool_of(
            backend_config("plain"),
            backend_config("drained", weight=0),
            backend_config("spare", backup=True),
            backend_config("off", enabled=False),
        )
        for wanted in ("plain", "drained", "spare"):
            self.assertEqual(name(made.named(wanted, 0)), wanted)
        self.assertIsNone(made.named("off", 0))
        self.assertIsNone(made.named("unknown", 0))

    def test_a_failed_one_counts_as_none_until_it_is_due(self):
        made = pool(1, 1, fail_timeout=10.0)
        made.fail(made.backends[0], 100.0)
        self.assertIsNone(made.named("b0", 109.9))
        self.assertEqual(name(made.named("b0", 110.0)), "b0")
        # That was the probe: nobody else until it is known what came of it.
        self.assertIsNone(made.named("b0", 110.0))
        self.assertIsNone(made.named("b0", 119.9))
        made.recover(made.backends[0])
        self.assertEqual(name(made.named("b0", 111.0)), "b0")


def naive_candidates(made: Pool, now: float, tried) -> list[Backend]:
    """Ordinary ones that work, else backups that work, else those not down, else any."""
    rows = [b for b in made.backends if b.enabled and not b.draining and b not in tried]
    works = [b for b in rows if not b.down and (not b.failed or now >= b.retry_at)]
    for choice in (
        [b for b in works if not b.backup],
        [b for b in works if b.backup],
        [b for b in rows if not b.down and not b.backup],
        [b for b in rows if not b.down],
        [b for b in rows if not b.backup],
    ):
        if choice:
            return choice
    return rows


class CandidateTests(SynchronousTestCase):
    """The same for each way of choosing."""

    ways = (
        lambda made, now, tried: made.least(now, tried),
        lambda made, now, tried: made.round_robin(now, tried),
        lambda made, now, tried: made.hashed(b"key", now, tried),
    )

    def drawn(self, way, made: Pool, now: float, tried=()) -> set[str | None]:
        """Who is chosen in several goes, the failed not being probed by them."""
        found = set()
        for number in range(12):
            marks = [(row, row.retry_at) for row in made.backends]
            row = way(made, now, tried) if number else self.ways[2](made, now, tried)
            found.add(name(row))
            for row, retry_at in marks:
                row.retry_at = retry_at
        return found

    def test_each_once_then_none(self):
        for way in self.ways:
            made = pool(1, 2, 3)
            tried: list[Backend] = []
            for now in (1.0, 1.1, 1.2):
                row = way(made, now, tried)
                self.assertNotIn(row, tried)
                made.fail(row, now)
                tried.append(row)
            self.assertIsNone(way(made, 1.3, tried))

    def test_disabled_and_drained_get_nothing_new(self):
        for way in self.ways:
            made = pool_of(
                backend_config("a"),
                backend_config("off", enabled=False),
                backend_config("drained", weight=0),
            )
            self.assertEqual(self.drawn(way, made, 0), {"a"})
            self.assertIsNone(way(made, 0, [made.backends[0]]))
            made.fail(made.backends[0], 0)
            self.assertEqual(self.drawn(way, made, 1), {"a"})

    def test_backups_only_when_no_other_is_left(self):
        for way in self.ways:
            made = pool_of(
                backend_config("a"), backend_config("spare", backup=True), backend_config("b")
            )
            a, _, b = made.backends
            self.assertLessEqual(self.drawn(way, made, 0), {"a", "b"})
            self.assertEqual(self.drawn(way, made, 0, [a]), {"b"})
            self.assertEqual(self.drawn(way, made, 0, [a, b]), {"spare"})
            made.fail(a, 0)
            self.assertEqual(self.drawn(way, made, 1), {"b"})
            made.fail(b, 0)
            self.assertEqual(self.drawn(way, made, 1), {"spare"})
            made.recover(a)
            self.assertEqual(self.drawn(way, made, 1), {"a"})

    def test_if_all_are_marked_all_are_tried(self):
        for way in self.ways:
            made = pool(1, 1, fail_timeout=10.0)
            for row in made.backends:
                made.fail(row, 0.0)
            tried: list[Backend] = []
            for _ in made.backends:
                tried.append(way(made, 1.0, tried))
            self.assertEqual({name(row) for row in tried}, {"b0", "b1"})
            self.assertIsNone(way(made, 1.0, tried))

    def test_one_request_probes(self):
        for way in self.ways:
            made = pool(1, 1, fail_timeout=10.0)
            failed = self.ways[2](made, 0.0, ())
            made.fail(failed, 0.0)
            other = next(row for row in made.backends if row is not failed)
            self.assertEqual({name(way(made, 9.9, ())) for _ in range(9)}, {other.name})
            other.open_connections = 5
            chosen = [name(way(made, 10.0, ())) for _ in range(20)]
            self.assertEqual(chosen.count(failed.name), 1, chosen)
            # It failed again: the next probe is due by that.
            made.fail(failed, 12.0)
            self.assertEqual({name(way(made, 21.9, ())) for _ in range(9)}, {other.name})
            self.assertIn(failed.name, [name(way(made, 22.0, ())) for _ in range(20)])
            made.recover(failed)
            self.assertFalse(failed.failed)
            other.open_connections = 0
            self.assertIn(failed.name, [name(way(made, 22.1, ())) for _ in range(20)])

    def test_one_that_is_down_gets_nothing_and_isn_t_probed(self):
        for way in self.ways:
            made = pool(1, 1, fail_timeout=10.0)
            down = self.ways[2](made, 0.0, ())
            other = next(row for row in made.backends if row is not down)
            made.set_down(down, True)
            for now in (0.0, 1000.0):
                self.assertEqual({name(way(made, now, ())) for _ in range(20)}, {other.name})
                self.assertIsNone(made.named(down.name, now))
            made.set_down(down, False)
            self.assertEqual(
                self.drawn(way, made, 1), {"b0", "b1"} if way != self.ways[2] else {down.name}
            )
            self.assertEqual(name(made.named(down.name, 1)), down.name)

    def test_of_marked_ones_those_down_come_last(self):
        for way in self.ways:
            made = pool_of(
                backend_config("down"),
                backend_config("failed"),
                backend_config("spare", backup=True),
            )
            down, failed, spare = made.backends
            made.set_down(down, True)
            made.fail(failed, 0.0)
            made.fail(spare, 0.0)
            tried: list[Backend] = []
            for wanted in ("failed", "spare", "down"):
                tried.append(way(made, 1.0, tried))
                self.assertEqual(name(tried[-1]), wanted)
            self.assertIsNone(way(made, 1.0, tried))

    def test_both_marks_are_one_failure(self):
        made = pool(1, 1)
        first = made.backends[0]

        def chosen() -> set[str | None]:
            return {name(made.round_robin(1000.0)) for _ in range(4)}

        steps = {
            "fail": lambda: made.fail(first, 1e9),
            "recover": lambda: made.recover(first),
            "down": lambda: made.set_down(first, True),
            "up": lambda: made.set_down(first, False),
        }
        for order in itertools.product(steps, repeat=4):
            for step in order:
                steps[step]()
                self.assertEqual(first.marked, first.failed or first.down)
                self.assertEqual(chosen(), {"b1"} if first.marked else {"b0", "b1"}, order)

    def test_marks_are_counted_once(self):
        made = pool(1, 1)
        first = made.backends[0]
        made.fail(first, 0.0)
        made.fail(first, 1.0)
        made.recover(first)
        made.recover(first)
        self.assertEqual({name(made.round_robin(1.0)) for _ in range(4)}, {"b0", "b1"})
        made.fail(first, 2.0)
        self.assertEqual({name(made.round_robin(3.0)) for _ in range(4)}, {"b1"})


class ConfigureTests(SynchronousTestCase):
    """Another configuration in place, while requests are under way."""

    def configured(self, made: Pool, *backends: BackendConfig, **settings) -> dict[str, Backend]:
        made.configure(PoolConfig(name="app", backends=backends, **settings))
        return {row.name: row for row in made.backends}

    def test_rows_of_the_same_name_and_address_go_on(self):
        made = pool(1, 1, 1)
        b0, b1, b2 = made.backends
        b0.open_connections, b0.hits, b0.cookie_groups = 3, 7, 2
        b0.answered(0.5)
        made.fail(b0, 10.0)
        rows = self.configured(
            made,
            backend_config("new", 9),
            backend_config("b0", 0, weight=5),
            backend_config("b1", 77),
            connect_total=9.0,
        )
        self.assertEqual(list(rows), ["new", "b0", "b1"])
        self.assertIs(rows["b0"], b0)
        self.assertEqual((b0.hits, b0.open_connections, b0.failed, b0.weight), (8, 3, True, 5))
        self.assertIsNot(rows["b1"], b1, "another address is another backend")
        self.assertEqual((rows["b1"].address[1], b1.address[1]), (8077, 8001))
        self.assertIsNone(made.named("b2", 0))
        self.assertEqual(made.config.connect_total, 9.0)
        # Those that are gone still fail and recover, which is of no account.
        made.fail(b2, 10.0)
        made.recover(b1)
        made.recover(b0)
        self.assertEqual({name(made.round_robin(11.0)) for _ in range(20)}, {"new", "b0", "b1"})

    def test_one_that_comes_back_before_its_requests_are_done(self):
        made = pool(1, 1)
        _, b1 = made.backends
        b1.open_connections = 1
        b0 = backend_config("b0", 0)
        self.configured(made, b0)
        self.assertTrue(made.busy)
        self.configured(made, b0, backend_config("other", 7))
        self.assertIs(self.configured(made, b0, backend_config("b1", 1))["b1"], b1)
        b1.open_connections = 0
        self.configured(made, b0)
        self.assertFalse(made.busy)
        self.configured(made, b0, backend_config("b1", 1))
        self.assertIsNot(made.backends[1], b1, "nothing was under way")

    def test_a_new_one_doesn_t_get_what_it_missed(self):
        for way in (Pool.least, Pool.round_robin):
            made = pool(1, 1)
            for _ in range(100):
                way(made, 0)
            self.configured(
                made, *(backend_config(f"b{n}", n) for n in range(2)), backend_config("new", 9)
            )
            chosen = [name(way(made, 0)) for _ in range(30)]
            self.assertEqual(sorted(map(chosen.count, set(chosen))), [10, 10, 10])

    def test_kinds_change(self):
        for way in CandidateTests.ways:
            made = pool(1, 1)
            off = backend_config("b0", 0, enabled=False)
            b1 = backend_config("b1", 1)
            self.configured(made, off, b1)
            self.assertEqual(name(way(made, 0, ())), "b1")
            self.assertIsNone(made.named("b0", 0))
            self.configured(made, backend_config("b0", 0, weight=0), b1)
            self.assertEqual(name(way(made, 0, ())), "b1")
            self.assertEqual(name(made.named("b0", 0)), "b0")
            self.configured(made, backend_config("b0", 0), backend_config("b1", 1, backup=True))
            self.assertEqual(name(way(made, 0, ())), "b0")

    def test_the_hash_moves_only_what_it_must(self):
        made = pool(1, 1, 1)
        keys = [b"k%d" % n for n in range(300)]
        before = {key: name(made.hashed(key, 0)) for key in keys}
        ring = made._ring
        self.configured(made, *(backend_config(f"b{n}", n) for n in range(3)), fail_timeout=1.0)
        self.assertIs(made._ring, ring, "its rankings are kept")
        self.configured(made, *(backend_config(f"b{n}", n + 10) for n in (2, 0)))
        after = {key: name(made.hashed(key, 0)) for key in keys}
        for key in keys:
            self.assertTrue(after[key] == before[key] or before[key] == "b1")
        self.configured(made, *(backend_config(f"b{n}", n) for n in range(3)), hash_key="other")
        self.assertNotEqual(before, {key: name(made.hashed(key, 0)) for key in keys})

    def test_tokens(self):
        made = Pool(
            PoolConfig(name="app", backends=(backend_config("a", 1),)),
            lambda pool, name: f"1/{pool}/{name}".encode(),
        )
        made.sign(lambda pool, name: f"2/{pool}/{name}".encode())
        rows = self.configured(made, backend_config("a", 1), backend_config("b", 2))
        self.assertEqual([row.token for row in rows.values()], [b"2/app/a", b"2/app/b"])


class DrainedTests(SynchronousTestCase):
    def test_nothing_new_but_what_is_named(self):
        for way in CandidateTests.ways:
            made = pool(1, 1)
            made.set_drained(["b0", "nobody"])
            self.assertEqual({name(way(made, 0, ())) for _ in range(6)}, {"b1"})
            self.assertEqual(name(made.named("b0", 0)), "b0")
            self.assertEqual([row.draining for row in made.backends], [True, False])
            # Not even where it is the last one: as in HAProxy, backups are next, then nobody.
            self.assertIsNone(way(made, 0, [made.backends[1]]))
            made.set_drained([])
            made.fail(made.backends[1], 0)
            self.assertEqual(name(way(made, 0, ())), "b0")
            self.assertEqual([row.draining for row in made.backends], [False, False])

    def test_all_of_them(self):
        for way in CandidateTests.ways:
            made = pool_of(backend_config("a", 1), backend_config("spare", 2, backup=True))
            made.set_drained(["a"])
            self.assertEqual(name(way(made, 0, ())), "spare")
            made.set_drained(["a", "spare"])
            self.assertIsNone(way(made, 0, ()))

    def test_kept_over_configurations(self):
        made = pool(1, 1)
        made.set_drained(["b0", "later"])
        made.configure(
            PoolConfig(
                name="app",
                backends=(
                    backend_config("b0", 0, weight=7),
                    backend_config("later", 5),
                    backend_config("b1", 1),
                ),
            )
        )
        self.assertEqual([row.draining for row in made.backends], [True, True, False])
        made.set_drained(["later"])
        self.assertEqual([row.draining for row in made.backends], [False, True, False])

    def test_weight_0_goes_on_draining(self):
        made = pool(0, 1)
        made.set_drained(["b0"])
        made.set_drained([])
        self.assertEqual([row.draining for row in made.backends], [True, False])

    def test_one_that_is_back_doesn_t_get_what_it_missed(self):
        made = pool(1, 1)
        made.set_drained(["b0"])
        for _ in range(100):
            made.round_robin(0)
        made.set_drained([])
        chosen = [name(made.round_robin(0)) for _ in range(10)]
        self.assertLessEqual(chosen.count("b0"), 6, chosen)


class LeastTests(SynchronousTestCase):
    def test_fewest_open_connections(self):
        made = pool(1, 1, 1)
        for row, connections in zip(made.backends, (3, 1, 2), strict=True):
            row.open_connections = connections
        self.assertEqual(name(made.least(0)), "b1")

    def test_by_weight(self):
        made = pool(1, 4)
        made.backends[0].open_connections = 1
        made.backends[1].open_connections = 3
        self.assertEqual(name(made.least(0)), "b1")
        made.backends[1].open_connections = 5
        self.assertEqual(name(made.least(0)), "b0")

    def test_connections_that_stay_follow_the_weights(self):
        made = pool(1, 2, 5)
        for _ in range(800):
            made.least(0).open_connections += 1
        self.assertEqual([row.open_connections for row in made.backends], [100, 200, 500])

    def test_an_idle_pool_spreads_too(self):
        made = pool(1, 2, 5)
        chosen = [name(made.least(0)) for _ in range(800)]
        for row in made.backends:
            self.assertLessEqual(abs(chosen.count(row.name) - 100 * row.weight), 2)


class RoundRobinTests(SynchronousTestCase):
    def test_turns(self):
        made = pool(1, 1, 1)
        chosen = [name(made.round_robin(0)) for _ in range(9)]
        for start in range(7):
            self.assertEqual(len(set(chosen[start : start + 3])), 3, chosen)

    def test_every_round_has_each_by_its_weight(self):
        made = pool(1, 2, 4)
        for _ in range(20):
            chosen = [name(made.round_robin(0)) for _ in range(7)]
            self.assertEqual([chosen.count(n) for n in ("b0", "b1", "b2")], [1, 2, 4])

    def test_weights_mix(self):
        """The heavy one doesn't get all its turns in a row."""
        made = pool(1, 1, 2)
        chosen = "".join(name(made.round_robin(0))[1] for _ in range(40))
        self.assertNotIn("222", chosen)

    def test_one_that_comes_back_doesn_t_get_what_it_missed(self):
        made = pool(1, 1)
        back = made.backends[0]
        made.fail(back, 0.0)
        for _ in range(100):
            self.assertEqual(name(made.round_robin(1.0)), "b1")
        made.recover(back)
        chosen = [name(made.round_robin(2.0)) for _ in range(10)]
        self.assertLessEqual(chosen.count("b0"), 6, chosen)
        self.assertGreaterEqual(chosen.count("b0"), 4, chosen)


class HashedTests(SynchronousTestCase):
    def test_by_name_and_key(self):
        made = pool(1, 2, 3, hash_key="secret")
        ring = Ring([("b0", 1), ("b1", 2), ("b2", 3)], b"secret")
        plain = Ring([("b0", 1), ("b1", 2), ("b2", 3)])
        keys = [b"k%d" % n for n in range(200)]
        got = [name(made.hashed(key, 0)) for key in keys]
        self.assertEqual(got, [f"b{ring.ranking(key)[0]}" for key in keys])
        self.assertNotEqual(got, [f"b{plain.ranking(key)[0]}" for key in keys])

    def test_only_the_share_of_a_failed_one_moves(self):
        made = pool(1, 2, 3)
        keys = [b"k%d" % n for n in range(400)]
        before = {key: name(made.hashed(key, 0)) for key in keys}
        made.fail(made.backends[1], 0)
        during = {key: name(made.hashed(key, 1)) for key in keys}
        made.recover(made.backends[1])
        after = {key: name(made.hashed(key, 2)) for key in keys}
        self.assertEqual(before, after)
        for key in keys:
            self.assertTrue(during[key] == before[key] or before[key] == "b1")
            self.assertNotEqual(during[key], "b1")
        self.assertEqual({during[key] for key in keys if before[key] == "b1"}, {"b0", "b2"})

    def test_load_is_of_no_account(self):
        made = pool(1, 1)
        chosen = made.hashed(b"key", 0)
        chosen.open_connections = 1000
        for _ in range(20):
            self.assertIs(made.hashed(b"key", 0), chosen)


@st.composite
def pools(draw) -> Pool:
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, 3), st.booleans(), st.sampled_from([True, True, False])),
            min_size=1,
            max_size=5,
        )
    )
    return pool_of(
        *(
            backend_config(f"b{n}", n, weight=weight, backup=backup, enabled=enabled)
            for n, (weight, backup, enabled) in enumerate(rows)
        ),
        fail_timeout=3.0,
    )


class PropertyTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=200)
    @given(
        pools(),
        st.lists(
            st.tuples(
                st.sampled_from(
                    ["least", "robin", "hash", "named", "fail", "recover", "down", "up", "close"]
                ),
                st.integers(0, 4),
                st.floats(0, 2),
                st.sets(st.integers(0, 4), max_size=2),
            ),
            max_size=25,
        ),
    )
    def test_the_naive_choice_agrees(self, made, events):
        now = 0.0
        ring = Ring([(row.name, row.weight or 1) for row in made.backends])
        for event, number, seconds, marked in events:
            now += seconds
            row = made.backends[number % len(made.backends)]
            tried = [b for n, b in enumerate(made.backends) if n in marked]
            candidates = naive_candidates(made, now, tried)
            due = [b for b in made.backends if not b.down and b.failed and now >= b.retry_at]
            turns = {b.name: b.turn for b in made.backends}
            chosen = None
            if event == "least":
                chosen = made.least(now, tried)
                loads = {b.name: b.open_connections / b.weight for b in candidates}
                best = [n for n in loads if loads[n] == min(loads.values())]
                wanted = min(best, key=turns.get, default=None)
                self.assertEqual(name(chosen), wanted)
            elif event == "robin":
                chosen = made.round_robin(now, tried)
                wanted = min((b.name for b in candidates), key=turns.get, default=None)
                self.assertEqual(name(chosen), wanted)
            elif event == "hash":
                key = b"%d" % number
                chosen = made.hashed(key, now, tried)
                ranked = [made.backends[n] for n in ring.ranking(key)]
                self.assertIs(chosen, next((b for b in ranked if b in candidates), None))
            elif event == "named":
                usable = row.enabled and (not row.marked or row in due)
                chosen = made.named(row.name, now)
                self.assertIs(chosen, row if usable else None)
            elif event == "fail":
                made.fail(row, now)
                self.assertEqual((row.failed, row.usable(now + 2.9)), (True, False))
                self.assertEqual(row.usable(now + 3.1), row.enabled and not row.down)
            elif event == "recover":
                made.recover(row)
                usable = row.enabled and not row.down
                self.assertEqual((row.failed, row.usable(now)), (False, usable))
            elif event in ("down", "up"):
                made.set_down(row, event == "down")
                self.assertEqual(row.down, event == "down")
            else:
                row.open_connections = max(row.open_connections - 1, 0)
            if chosen is not None:
                chosen.open_connections += 1
                self.assertEqual(chosen.usable(now), not chosen.marked)
