"""Tests of dlba.election.hello."""

import json

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.election.hello import Hello, check, pack, pack_refusal, unpack, unpack_answer
from dlba.errors import PeerError

OWN = Hello(
    protocol=(1, 1),
    array="shop",
    node="a",
    number=0,
    incarnation="00" * 16,
    mac="02:00:00:00:00:0a",
    buckets=65536,
    hash="sum",
    config_version=0,
)
PEER = attrs.evolve(OWN, node="b", number=1, incarnation="01" * 16, mac="02:00:00:00:00:0b")


@attrs.frozen
class Node:
    name: str = "b"
    number: int = 1
    mac: str = "02:00:00:00:00:0b"


class CheckTests(SynchronousTestCase):
    def why(self, own=OWN, certificate="b", expected=None, **changes):
        peer = attrs.evolve(PEER, **changes)
        return check(own, peer, certificate, expected or Node())

    def test_fine(self):
        self.assertEqual(self.why(), "")

    def test_each_mismatch_by_name(self):
        for changes, why in (
            ({"array": "test"}, 'array: expected shop, got "test"'),
            ({"node": "c"}, 'node: expected b, got "c"'),
            ({"number": 2}, "number: expected 1, got 2"),
            (
                {"mac": "02:00:00:00:00:0c"},
                'mac: expected 02:00:00:00:00:0b, got "02:00:00:00:00:0c"',
            ),
            ({"buckets": 64}, "buckets: expected 65536, got 64"),
            ({"hash": "keyed 00"}, 'hash: expected sum, got "keyed 00"'),
            ({"protocol": (2, 3)}, "protocol: expected one of 1 to 1, got 2 to 3"),
            ({"incarnation": "00" * 16}, "incarnation: expected another process, got this one"),
        ):
            self.assertEqual(self.why(**changes), why)

    def test_the_certificate_counts(self):
        self.assertEqual(self.why(certificate="c"), 'node: expected c, got "b"')

    def test_protocols_that_meet(self):
        own = attrs.evolve(OWN, protocol=(1, 3))
        for protocol, fine in (((1, 1), True), ((3, 9), True), ((4, 9), False)):
            self.assertEqual(self.why(own, protocol=protocol) == "", fine)

    def test_what_may_differ(self):
        self.assertEqual(self.why(config_version=7), "")
        self.assertEqual(self.why(hash=""), "")
        self.assertEqual(self.why(attrs.evolve(OWN, hash="")), "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


class PackTests(SynchronousTestCase):
    def test_there_and_back(self):
        self.assertEqual(unpack(pack(PEER)), PEER)
        self.assertEqual(unpack_answer(pack(PEER)), PEER)

    def test_refusal(self):
        self.assertEqual(unpack_answer(pack_refusal("array: …")), "array: …")
        self.assertEqual(len(unpack_answer(pack_refusal("x" * 9999))), 256)
        self.assertRaises(PeerError, unpack, pack_refusal("why"))
        self.assertRaises(PeerError, unpack_answer, b'{"refused": 7}')
        self.assertRaises(PeerError, unpack_answer, b'{"refused": "a\\nb"}')

    @given(st.sampled_from([field.name for field in attrs.fields(Hello)]), JSON)
    def test_any_value_of_any_key_is_taken_or_a_peers_error(self, key, value):
        fields = {**json.loads(pack(PEER)), key: value}
        try:
            hello = unpack(json.dumps(fields).encode())
        except PeerError:
            return
        got = getattr(hello, key)
        self.assertEqual(list(got) if key == "protocol" else got, value)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data):
        self.assertRaises(PeerError, unpack, data)

    def test_wrong(self):
        good = json.loads(pack(PEER))
        for change in (
            {"number": True},
            {"number": -1},
            {"number": 1 << 53},
            {"buckets": 1.0},
            {"protocol": [2, 1]},
            {"protocol": [1]},
            {"incarnation": "xyz"},
            {"mac": "02-00-00-00-00-0a"},
            {"node": "a" * 300},
            {"node": "a\x1b"},
            {"more": 1},
        ):
            self.assertRaises(PeerError, unpack, json.dumps({**good, **change}).encode())
        for key in good:
            less = {name: value for name, value in good.items() if name != key}
            self.assertRaises(PeerError, unpack, json.dumps(less).encode())
        self.assertRaises(PeerError, unpack, pack(PEER) + b" " * 5000)
        self.assertRaises(PeerError, unpack, b"[" * 4000)
