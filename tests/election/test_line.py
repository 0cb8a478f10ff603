"""Tests of dlba.election.line: two lines in memory, and whatever comes instead of one."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.spread import banana
from twisted.trial.unittest import SynchronousTestCase

from dlba.election.line import EXPRESSION_LIMIT, Line
from dlba.errors import PeerError


class Events:
    def __init__(self):
        self.told = []
        self.answer = Deferred()

    def ready(self):
        self.told.append("ready")

    def asked(self, hello):
        self.told.append(("asked", hello))
        return self.answer

    def taken(self, kind, head, data):
        self.told.append((kind, head, data))


class Pair:
    """A line that dials and one that is dialled."""

    def __init__(self):
        self.events = Events(), Events()
        self.lines = Line(self.events[0], True), Line(self.events[1], False)
        self.transports = StringTransport(), StringTransport()
        for line, transport in zip(self.lines, self.transports, strict=True):
            line.makeConnection(transport)

    def pump(self, size=1 << 20):
        while any(transport.value() for transport in self.transports):
            for index in (0, 1):
                data = self.transports[index].value()
                self.transports[index].clear()
                for start in range(0, len(data), size):
                    self.lines[1 - index].dataReceived(data[start : start + size])


class LineTests(SynchronousTestCase):
    def test_calls_and_answers(self):
        for size in (1, 7, 1 << 20):
            pair = Pair()
            pair.pump(size)
            self.assertEqual(pair.events[0].told + pair.events[1].told, ["ready", "ready"])
            answers = []
            same = b"x"
            pair.lines[0].call("hello", b"\x00\x80\xff").addCallback(answers.append)
            pair.lines[0].call("take", same, same, b"").addCallback(answers.append)
            pair.lines[1].call("ping").addCallback(answers.append)
            pair.pump(size)
            self.assertEqual(
                pair.events[1].told[1:], [("asked", b"\x00\x80\xff"), (same, same, b"")]
            )
            pair.events[1].answer.callback(b"fine")
            pair.pump(size)
            self.assertEqual(answers.count(None), 2)
            self.assertIn(b"fine", answers)

    def test_pending_counts_one_expression(self):
        pair = Pair()
        pair.pump()
        for _ in range(5):
            pair.lines[0].call("take", b"k", b"h", b"d" * (512 * 1024))
            pair.pump(32768)
        self.assertEqual(len(pair.events[1].told), 6)
        self.assertLess(pair.lines[1].pending, 32768)

    def test_too_much(self):
        pair = Pair()
        pair.pump()
        with self.assertRaises(PeerError):
            for _ in range(EXPRESSION_LIMIT // 1000 + 1):
                pair.lines[1].dataReceived(banana.encode([b"x"] * 2)[:2] + b"\x64\x07\x82" * 333)

    def test_the_end_of_one_that_never_began(self):
        Line(Events(), True).connectionLost()

    @given(st.binary(max_size=300), st.booleans(), st.booleans())
    def test_any_bytes(self, data, dials, agreed):
        """They call nothing, and what is raised is an Exception for the connection to catch."""
        pair = Pair()
        if agreed:
            pair.pump()
        events = pair.events[0 if dials else 1]
        before = list(events.told)
        try:
            pair.lines[0 if dials else 1].dataReceived(data)
        except Exception:  # noqa: BLE001 - what it is, is the broker's
            pass
        self.assertEqual([told for told in events.told if told != "ready"], before[1:])

    values = st.recursive(
        st.integers(-5, 5)
        | st.binary(max_size=9)
        | st.sampled_from([b"message", b"root", b"take"]),
        lambda inner: st.lists(inner, max_size=7),
        max_leaves=12,
    )

    @given(values)
    def test_any_expression(self, expression):
        pair = Pair()
        pair.pump()
        if expression[:1] == [b"version"] if isinstance(expression, list) else False:
            return
        self.assertRaises(PeerError, pair.lines[1].dataReceived, banana.encode(expression))
        self.assertEqual(pair.events[1].told, ["ready"])
