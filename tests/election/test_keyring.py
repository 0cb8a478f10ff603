"""Tests of dlba.election.keyring."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.keys import KEYS_LIMIT, Keys, SecretKey
from dlba.election.keyring import OWN, Keyring
from dlba.election.messages import DATA_LIMIT, KeysHave, pack, unpack
from dlba.election.messages import Keys as Offer
from dlba.errors import DLBAError, PeerError


def key(id_, letter=None):
    return SecretKey(id_, (letter or id_[-1]).encode() * 32)


def keys(*ids, hash_=None):
    return Keys(tuple(key(id_) for id_ in ids), None if hash_ is None else hash_.encode() * 32)


A, B, C = keys("ka", "oa", hash_="A"), keys("kb", hash_="B"), keys("kc", hash_="C")


def ids(ring):
    return [one.id for one in ring.signing]


class KeyringTests(SynchronousTestCase):
    def test_alone(self):
        ring = Keyring(A)
        self.assertEqual((ring.signing, ring.hash), (A.signing, b"A" * 32))
        self.assertEqual(ring.choose([]), "ka")
        self.assertEqual(Keyring(Keys(())).signing, ())
        self.assertEqual((Keyring(Keys(())).choose([]), Keyring(Keys(())).offer()), ("", b""))

    def test_what_is_learned_verifies_and_does_not_sign(self):
        ring = Keyring(A)
        self.assertTrue(ring.learn(1, Keyring(B).offer()))
        self.assertTrue(ring.learn(2, Keyring(C).offer()))
        self.assertEqual(ring.signing, (*A.signing, *B.signing, *C.signing))
        self.assertEqual((ring.ids_of(1), ring.ids_of(2), ring.ids_of(3)), (("kb",), ("kc",), ()))
        self.assertFalse(ring.learn(1, Keyring(B).offer()), "nothing new")
        self.assertEqual(ring.hash, b"A" * 32)

    def test_an_offer_replaces_the_one_before(self):
        ring = Keyring(A)
        ring.learn(1, Keyring(keys("x1", "x2")).offer())
        self.assertTrue(ring.learn(1, Keyring(keys("x2", "x3")).offer()))
        self.assertEqual(ids(ring), ["ka", "oa", "x2", "x3"])
        self.assertTrue(ring.learn(1, b""), "nothing to sign with")
        self.assertEqual(ids(ring), ["ka", "oa"])

    def test_a_key_signs_when_every_connected_node_has_confirmed_it(self):
        ring = Keyring(A)
        self.assertEqual(ring.choose([1, 2]), "")
        ring.confirmed(1, ["ka", "oa"])
        self.assertEqual((ring.choose([1]), ring.choose([1, 2])), ("ka", ""))
        ring.confirmed(2, ["oa"])
        self.assertEqual(ring.choose([1, 2]), "oa", "the first that all have")
        ring.confirmed(2, ["oa", "ka"])
        self.assertEqual(ring.choose([1, 2]), "ka")
        ring.gone(2)
        self.assertEqual((ring.choose([1, 2]), ring.choose([1])), ("", "ka"))
        ring.gone(2)

    def test_the_key_that_the_scheduler_names_signs(self):
        ring = Keyring(B)
        ring.learn(0, Keyring(A).offer())
        self.assertTrue(ring.name("oa", 0))
        self.assertEqual(ids(ring), ["oa", "kb", "ka"])
        self.assertFalse(ring.name("oa", 0))
        self.assertTrue(ring.name("", 0))
        self.assertEqual(ids(ring), ["kb", "ka", "oa"])
        ring.name("oa", 0)
        self.assertTrue(ring.name("kb", OWN), "scheduler itself")
        self.assertEqual(ids(ring)[0], "kb")

    def test_a_key_that_is_named_before_it_is_learned(self):
        ring = Keyring(B)
        ring.name("ka", 0)
        self.assertEqual(ids(ring), ["kb"])
        self.assertTrue(ring.learn(0, Keyring(A).offer()))
        self.assertEqual(ids(ring)[0], "ka")

    def test_one_id_for_two_keys(self):
        mine, theirs = Keys((key("k", "m"),)), Keys((key("k", "t"),))
        ring = Keyring(mine)
        ring.learn(1, Keyring(theirs).offer())
        self.assertEqual(ring.signing, (*mine.signing, *theirs.signing), "both verify")
        ring.name("k", 1)
        self.assertEqual(ring.signing, (*theirs.signing, *mine.signing), "the scheduler's is meant")
        ring.name("k", OWN)
        self.assertEqual(ring.signing, (*mine.signing, *theirs.signing))

    def test_the_same_file_on_every_node(self):
        ring = Keyring(A)
        ring.learn(1, Keyring(A).offer())
        self.assertEqual(ring.signing, A.signing)

    def test_the_schedulers_hash_counts(self):
        ring = Keyring(B)
        ring.learn(0, Keyring(A).offer())
        ring.learn(2, Keyring(C).offer())
        self.assertEqual(ring.hash, b"B" * 32)
        self.assertTrue(ring.name("", 0))
        self.assertEqual(ring.hash, b"A" * 32)
        ring.name("", OWN)
        self.assertEqual(ring.hash, b"A" * 32, "a takeover moves no flow")
        other = Keyring(C)
        other.learn(1, ring.offer())
        other.name("", 1)
        self.assertEqual(other.hash, b"A" * 32, "nor does whom it is learned from")
        self.assertEqual(Keyring(B, ring.stored()).hash, b"A" * 32, "nor a restart")

    def test_a_hash_key_that_comes_later(self):
        ring = Keyring(keys("kb"))
        self.assertIsNone(ring.hash)
        ring.name("", 0)
        self.assertTrue(ring.learn(0, Keyring(A).offer()))
        self.assertEqual(ring.hash, b"A" * 32)
        ring.learn(0, Keyring(keys("ka")).offer())
        self.assertEqual(ring.hash, b"A" * 32, "kept")

    def test_a_restarted_node_verifies_at_once(self):
        ring = Keyring(A)
        ring.learn(1, Keyring(B).offer())
        ring.learn(2, Keyring(keys("kc")).offer())
        again = Keyring(A, ring.stored())
        self.assertEqual((again.signing, again.hash), (ring.signing, ring.hash))
        self.assertEqual(again.stored(), ring.stored())
        self.assertEqual(again.choose([1]), "", "who confirms must say so again")
        again.keep([2, 5])
        self.assertEqual(ids(again), ["ka", "oa", "kc"])
        self.assertEqual(ids(Keyring(keys("n"), Keyring(keys("n")).stored())), ["n"])

    def test_what_was_stored_and_is_damaged(self):
        good = json.loads(Keyring(A, "").stored())
        for text in (
            "{",
            "[]",
            "7",
            "null",
            "{}",
            "[" * 100_000,
            json.dumps(good | {"format": 2}),
            json.dumps(good | {"nodes": []}),
            json.dumps(good | {"nodes": {"x": "a " + "k" * 32}}),
            json.dumps(good | {"nodes": {"1": "a short"}}),
            json.dumps(good | {"nodes": {"1": 7}}),
            json.dumps(good | {"hash": "secret"}),
            json.dumps(good | {"hash": 7}),
        ):
            error = self.assertRaises(DLBAError, Keyring, A, text)
            self.assertNotIn("secret", str(error))

    def test_offers_that_can_not_be(self):
        ring = Keyring(A)
        ring.learn(1, Keyring(B).offer())
        before = ring.stored()
        secret = b"s" * 31
        for data in (
            b"a " + secret,
            b"\xff" * 40,
            b"a " + b"k" * 32 + b"\na " + b"k" * 33,
            b"hash " + b"k" * 32,
            b"# nothing",
            b"\n",
            b"".join(b"k%d %s\n" % (n, b"k" * 32) for n in range(KEYS_LIMIT + 1)),
        ):
            with self.assertRaises(PeerError) as caught:
                ring.learn(1, data)
            self.assertNotIn(secret.decode(), str(caught.exception))
            self.assertEqual(ring.stored(), before)

    def test_the_longest_offer_travels(self):
        most = Keys(
            tuple(SecretKey(f"k{n:015}", b"k" * 512) for n in range(KEYS_LIMIT)), b"h" * 512
        )
        data = Keyring(most).offer()
        self.assertLess(len(data), DATA_LIMIT)
        message = Offer(data=data)
        self.assertEqual(unpack(*pack(message)), message)
        ring = Keyring(A)
        ring.learn(1, data)
        have = KeysHave(ids=ring.ids_of(1))
        self.assertEqual(unpack(*pack(have)), have)
        self.assertEqual(len(have.ids), KEYS_LIMIT)

    def test_keys_are_not_shown(self):
        ring = Keyring(A)
        ring.learn(1, Keyring(B).offer())
        for shown in (repr(ring), repr(ring.signing), repr(Offer(data=ring.offer()))):
            self.assertNotIn("aaaa", shown)
            self.assertNotIn("bbbb", shown)

    @settings(deadline=None, max_examples=150)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["link", "offer", "cut", "reign"]),
                st.integers(0, 2),
                st.integers(0, 2),
            ),
            max_size=30,
        )
    )
    def test_what_signs_is_verified_by_all_who_hear_its_scheduler(self, steps):
        """Offers, confirmations and names in any order, on nodes with keys of their own."""
        rings = [Keyring(keys(f"k{n}")) for n in "abc"]
        links: set[tuple[int, int]] = set()
        for what, a, b in steps:
            if a == b and what != "reign":
                continue
            if what == "link":
                links |= {(a, b), (b, a)}
            elif what == "cut":
                links -= {(a, b), (b, a)}
                rings[a].gone(b)
                rings[b].gone(a)
            elif what == "offer" and (a, b) in links:
                rings[b].learn(a, rings[a].offer())
                rings[a].confirmed(b, rings[b].ids_of(a))
            elif what == "reign":
                peers = [n for n in range(3) if (a, n) in links]
                named = rings[a].choose(peers)
                rings[a].name(named, OWN)
                for n in peers:
                    rings[n].name(named, a)
                if named:
                    signs = {rings[n].signing[0] for n in (a, *peers)}
                    self.assertEqual(signs, {key(named)})
                    for n in (a, *peers):
                        self.assertIn(key(named), rings[n].signing)
