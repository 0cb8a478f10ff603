"""Where heads end, in any pieces, and what is refused before its end has come."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import HeadError
from dlba.web.head import HeadLimits
from dlba.web.headreader import HeadReader
from tests.web.oracles import Counted

LIMITS = HeadLimits(target=100, fields=10)
LONGEST = 200
GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"


def feed(reader: HeadReader, data: bytes) -> list[bytes]:
    """The targets of the requests that `data` completes."""
    reader.buffer += data
    found = []
    while reader.buffer:
        request = reader.take(LONGEST, LIMITS)
        if request is None:
            break
        found.append(request.target)
    return found


class Pieces(SynchronousTestCase):
    """What comes in one piece or many is the same."""

    def test_requests_in_a_row(self) -> None:
        reader = HeadReader()
        self.assertEqual(feed(reader, GET % 1 + GET % 2 + GET[:9]), [b"/1", b"/2"])
        self.assertEqual(reader.buffer, GET[:9])

    @given(st.lists(st.integers(1, 40), max_size=40))
    def test_any_pieces(self, sizes: list[int]) -> None:
        stream = b"\r\n" + GET % 1 + GET % 2 + b"\r\n" + GET % 3
        reader = HeadReader()
        found = []
        for size in sizes:
            piece, stream = stream[:size], stream[size:]
            found += feed(reader, piece)
        found += feed(reader, stream)
        self.assertEqual(found, [b"/1", b"/2", b"/3"])
        self.assertEqual(reader.buffer, b"")

    def test_what_follows_stays(self) -> None:
        reader = HeadReader()
        reader.buffer = GET % 1 + b"\0any bytes\n"
        request = reader.take(LONGEST, LIMITS)
        assert request is not None
        self.assertEqual(reader.buffer, b"\0any bytes\n")


class Refusals(SynchronousTestCase):
    """What never becomes a head."""

    def refused(self, *pieces: bytes) -> tuple[int, bytes]:
        """Status and logged line of what the last piece makes plain."""
        reader = HeadReader()
        for piece in pieces[:-1]:
            self.assertEqual(feed(reader, piece), [])
        with self.assertRaises(HeadError) as caught:
            feed(reader, pieces[-1])
        return caught.exception.status, reader.line()

    def test_bare_line_feed(self) -> None:
        for pieces in (
            (b"GET / HTTP/1.1\n",),
            (b"GET / HTTP/1.1", b"\n"),
            (b"GET / HTTP/1.1\r\nA: b\r", b"\nC: d\n"),
        ):
            self.assertEqual(self.refused(*pieces)[0], 400, pieces)

    def test_carriage_return_and_line_feed_in_two_pieces(self) -> None:
        self.assertEqual(feed(HeadReader(), b"GET / HTTP/1.1\r"), [])
        reader = HeadReader()
        self.assertEqual(feed(reader, b"GET / HTTP/1.1\r"), [])
        self.assertEqual(feed(reader, b"\nHost: a\r"), [])
        self.assertEqual(feed(reader, b"\n\r\n"), [b"/"])

    def test_second_empty_line(self) -> None:
        self.assertEqual(self.refused(b"\r\n\r\n"), (400, b""))
        self.assertEqual(self.refused(b"\r\n", b"\r\n"), (400, b""))

    def test_too_long_without_an_end(self) -> None:
        line = b"GET / HTTP/1.1"
        head = line + b"\r\nA: "
        self.assertEqual(self.refused(head, b"x" * LONGEST), (431, line))
        self.assertEqual(self.refused(b"GET /", b"x" * LONGEST), (414, b""))
        long_target = b"GET /%b HTTP/1.1" % (b"x" * 100)
        self.assertEqual(self.refused(long_target + b"\r\nA: ", b"x" * LONGEST), (414, long_target))

    def test_longest_head(self) -> None:
        head = b"GET / HTTP/1.1\r\nHost: a\r\nA: "
        reader = HeadReader()
        self.assertEqual(feed(reader, head + b"x" * (LONGEST - len(head)) + b"\r\n\r\n"), [b"/"])
        whole = head + b"x" * (LONGEST - len(head) + 1) + b"\r\n\r\n"
        self.assertEqual(self.refused(whole), (431, b"GET / HTTP/1.1"))

    def test_bad_head_leaves_its_line(self) -> None:
        self.assertEqual(self.refused(b"GET  / HTTP/1.1\r\n\r\n"), (400, b"GET  / HTTP/1.1"))


class Cost(SynchronousTestCase):
    """A dripped head costs one look at each byte."""

    def test_bytes_looked_at(self) -> None:
        Counted.looked = 0
        reader = HeadReader()
        begun = (GET % 1)[:-4] + b"\r\nA: " + b"x" * 100
        for end in range(1, len(begun)):
            reader.buffer = Counted(begun[:end])
            self.assertIsNone(reader.take(LONGEST, LIMITS))
        # Each byte: once for the end of the head with 3 before it, twice for line ends with 1.
        self.assertLess(Counted.looked, 12 * len(begun))
