"""Tests of dlba.web.tokens."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.keys import SecretKey
from dlba.web.tokens import Tokens

BACKENDS = [("app", "app1"), ("app", "app2"), ("other", "app1")]
OLD = SecretKey("k1", b"0123456789abcdef0123456789abcdef")
NEW = SecretKey("k2", b"fedcba9876543210fedcba9876543210")


class TokenTests(SynchronousTestCase):
    def test_a_key_isn_t_shown(self):
        self.assertNotIn("0123456789", repr(Tokens((OLD,), BACKENDS)))

    def test_every_token_names_its_backend(self):
        tokens = Tokens((NEW, OLD), BACKENDS)
        seen = set()
        for pool, name in BACKENDS:
            token = tokens.token(pool, name)
            self.assertTrue(re.fullmatch(rb"k2\.[A-Za-z0-9_-]{22}", token), token)
            self.assertEqual(tokens.backend(token), (pool, name))
            seen.add(token)
        self.assertEqual(len(seen), len(BACKENDS))

    def test_form(self):
        # By openssl: printf 'dlba route token\0app\0app1' | openssl dgst -sha256 -mac HMAC …
        # The first 16 bytes in base64url. A node with another form would lose all sessions.
        self.assertEqual(
            Tokens((OLD,), BACKENDS).token("app", "app1"), b"k1.FrebUiiXDuLrzHFCrAyfcQ"
        )

    def test_same_on_every_node(self):
        one = Tokens((NEW, OLD), BACKENDS)
        other = Tokens((NEW, OLD), iter([*BACKENDS[::-1], ("app", "app3")]))
        for backend in BACKENDS:
            self.assertEqual(one.token(*backend), other.token(*backend))

    def test_rotation(self):
        """A new key signs, the old one verifies until it goes."""
        before, during, after = (Tokens(keys, BACKENDS) for keys in ((OLD,), (NEW, OLD), (NEW,)))
        old, new = before.token("app", "app1"), during.token("app", "app1")
        self.assertNotEqual(old, new)
        self.assertEqual(new, after.token("app", "app1"))
        found = [tokens.backend(t) for tokens in (before, during, after) for t in (old, new)]
        named = ("app", "app1")
        self.assertEqual(found, [named, None, named, named, None, named])

    def test_backends_that_change(self):
        tokens = Tokens((NEW, OLD), BACKENDS)
        kept, gone = tokens.token("app", "app1"), tokens.token("other", "app1")
        tokens.configure([("app", "app1"), ("app", "new")])
        self.assertEqual(tokens.token("app", "app1"), kept)
        self.assertEqual(tokens.backend(kept), ("app", "app1"))
        self.assertEqual(tokens.backend(tokens.token("app", "new")), ("app", "new"))
        self.assertIsNone(tokens.backend(gone))
        tokens.renew((OLD,))
        self.assertEqual(
            tokens.token("app", "new"), Tokens((OLD,), [("app", "new")]).token("app", "new")
        )
        self.assertIsNone(tokens.backend(gone))

    def test_keys_that_change(self):
        """As if it had been made with the new ones."""
        tokens = Tokens((OLD,), iter(BACKENDS))
        old = tokens.token("app", "app1")
        for keys in ((OLD, NEW), (NEW, OLD), (NEW,), (OLD,)):
            tokens.renew(keys)
            fresh = Tokens(keys, BACKENDS)
            self.assertEqual(
                [tokens.token(*b) for b in BACKENDS], [fresh.token(*b) for b in BACKENDS]
            )
            self.assertEqual(tokens.backend(old), fresh.backend(old))
        self.assertIsNone(tokens.backend(Tokens((NEW,), BACKENDS).token("app", "app1")))

    def test_key_and_id_both_count(self):
        token = Tokens((OLD,), BACKENDS).token("app", "app1")
        other_key = SecretKey(OLD.id, NEW.key)
        other_id = SecretKey("k9", OLD.key)
        for key in (other_key, other_id):
            self.assertIsNone(Tokens((key,), BACKENDS).backend(token))

    def test_names_can_t_be_read_in_two_ways(self):
        pairs = [("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc"), ("a", "b"), ("b", "a")]
        tokens = Tokens((OLD,), pairs)
        self.assertEqual(len({tokens.token(*pair) for pair in pairs}), len(pairs))

    def test_no_other_backend(self):
        tokens = Tokens((OLD,), BACKENDS)
        gone = Tokens((OLD,), BACKENDS[1:]).backend(tokens.token("app", "app1"))
        self.assertIsNone(gone)
        self.assertRaises(KeyError, tokens.token, "app", "unknown")

    @settings(deadline=None, max_examples=300)
    @given(st.data())
    def test_nothing_else_is_a_token(self, data):
        tokens = Tokens((NEW, OLD), BACKENDS)
        token = tokens.token("app", "app2")
        at = data.draw(st.integers(0, len(token) - 1))
        forged = data.draw(
            st.one_of(
                st.binary(max_size=40),
                st.integers(0, 255).map(lambda b: token[:at] + bytes((b,)) + token[at + 1 :]),
                st.sampled_from(
                    [token[:at], token + b"=", token + b" ", b'"' + token + b'"', token.swapcase()]
                ),
            )
        )
        expected = ("app", "app2") if forged == token else None
        self.assertEqual(tokens.backend(forged), expected)
