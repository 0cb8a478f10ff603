"""Tests of dlba.election.messages."""

import json
import math

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.election import messages
from dlba.election.messages import (
    Alive,
    Bye,
    Delta,
    Heartbeat,
    Keys,
    KeysHave,
    Piece,
    Report,
    pack,
    unpack,
)
from dlba.errors import PeerError

_INTS = st.integers(0, 2**53 - 1)
_TEXTS = st.text(max_size=256).filter(str.isprintable)
_BY_TYPE = {
    "int": _INTS,
    "bool": st.booleans(),
    "str": _TEXTS,
    "float": st.floats(0, 1e15),
    "bytes": st.binary(max_size=50),
    "tuple[int, ...]": st.lists(_INTS, max_size=5).map(tuple),
    "tuple[str, ...]": st.lists(_TEXTS, max_size=5).map(tuple),
}


def made(cls):
    values = {field.name: _BY_TYPE[field.type] for field in attrs.fields(cls)}
    if cls not in (Delta, Piece):
        terms = values.keys() & {"term", "reign_term", "highest"}
        values |= dict.fromkeys(terms, st.integers(0, 2**40 - 1))
    return st.builds(cls, **values)


class MessagesTests(SynchronousTestCase):
    @given(st.one_of([made(cls) for cls in messages.Message.__args__]))
    def test_what_is_packed_comes_back(self, message):
        kind, head, data = pack(message)
        self.assertEqual(unpack(kind, head, data), message)
        self.assertEqual((type(kind), type(head), type(data)), (str, bytes, bytes))

    @given(
        st.sampled_from(sorted(cls.__name__.lower() for cls in messages.Message.__args__)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
    )
    def test_any_json_is_a_message_or_an_error(self, kind, value):
        try:
            message = unpack(kind, json.dumps(value).encode(), b"")
        except PeerError:
            return
        self.assertEqual(value, {})
        self.assertIn(message, (Bye(), Keys(data=b"")))

    def test_nobody_is_followed(self):
        alive = Alive(
            term=0,
            reign_term=0,
            scheduler=-1,
            count=0,
            table_term=0,
            version=0,
            able=True,
            draining=False,
            eligible=True,
        )
        self.assertEqual(unpack(*pack(alive)), alive)

    def test_one_wrong_value(self):
        heartbeat = Heartbeat(
            term=3,
            version=2,
            parent_term=1,
            parent_version=1,
            alone=False,
            count=7,
            signing="k1",
            failed=(1, 2),
        )
        good = json.loads(pack(heartbeat)[1])
        for name, values in {
            "term": (-1, 2**40, 1.0, True, "1", None, [1], math.inf),
            "alone": (0, 1, "true", None),
            "signing": ("a\n", "a" * 257, 7, None, ["a"]),
            "failed": (1, "12", {"1": 2}, [1, -1], [[1]], [True], list(range(1025))),
        }.items():
            for value in values:
                head = json.dumps(good | {name: value}).encode()
                with self.assertRaises(PeerError, msg=f"{name}: {value!r}"):
                    unpack("heartbeat", head, b"")
        for fields in (good | {"more": 1}, {k: v for k, v in good.items() if k != "count"}):
            with self.assertRaises(PeerError):
                unpack("heartbeat", json.dumps(fields).encode(), b"")
        self.assertEqual(unpack("heartbeat", json.dumps(good).encode(), b""), heartbeat)

    def test_what_is_no_message_at_all(self):
        for kind, head, data in (
            ("unknown", b"{}", b""),
            (b"bye", b"{}", b""),
            (None, b"{}", b""),
            ([], b"{}", b""),
            ("bye", "{}", b""),
            ("bye", b"{}", ""),
            ("bye", b"{}", b"x"),
            ("bye", b"{", b""),
            ("bye", b"\xff", b""),
            ("bye", b"[" * 5000, b""),
            ("bye", b" " * (messages.HEAD_LIMIT + 1), b""),
            ("delta", b'{"term":1,"since":0,"version":1}', bytes(messages.DATA_LIMIT + 1)),
            ("report", pack(_REPORT)[1].replace(b"0.5", b"NaN"), b""),
        ):
            with self.assertRaises(PeerError):
                unpack(kind, head, data)

    def test_data_travels_beside(self):
        data = bytes(messages.DATA_LIMIT)
        delta = Delta(term=1, since=0, version=1, data=data)
        self.assertIs(pack(delta)[2], data)
        self.assertEqual(unpack(*pack(delta)), delta)

    def test_longest_list_fits(self):
        have = KeysHave(ids=("a" * 16,) * 64)
        self.assertEqual(unpack(*pack(have)), have)


_REPORT = Report(id=1, hits=2, open_connections=3, average_response=0.5, data=b"")
