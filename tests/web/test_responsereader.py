"""What a backend's bytes are, in any pieces: heads, bodies, what may not be there."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import BackendError
from dlba.web.responsereader import HEAD_LIMIT, INTERIM_LIMIT, ResponseReader
from tests.web.oracles import Counted

EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"


def by_length(body: bytes) -> bytes:
    """A response with Content-Length."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;a=b\r\ndefg\r\n0\r\n\r\n"
)
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nabcdefg"


class Seen:
    """What a reader says of a stream that comes in `pieces`."""

    def __init__(self, pieces: list[bytes], to_head: bool = False) -> None:
        reader = ResponseReader(to_head)
        self.statuses: list[int] = []
        self.body = b""
        self.ended = self.more = False
        response = None
        for piece in pieces:
            if response is None:
                found = reader.head(piece)
                while found is not None and found.status < 200:
                    self.statuses.append(found.status)
                    if found.status == 101:
                        self.body = reader.rest()
                        return
                    found = reader.head(b"")
                if found is None:
                    continue
                response = found
                self.statuses.append(found.status)
                piece = reader.rest()
            body, self.ended, more = reader.body(response, piece)
            self.body += body
            self.more = self.more or more
        self.held = reader.held


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    """`stream` in pieces of these sizes, none empty, the rest as one."""
    pieces = []
    for size in sizes:
        if stream:
            pieces.append(stream[:size])
            stream = stream[size:]
    return [*pieces, stream] if stream else pieces


class Pieces(SynchronousTestCase):
    """Any pieces are read alike."""

    @given(
        st.sampled_from([by_length(b"abcdefg"), CHUNKED, UNTIL_CLOSE]), st.lists(st.integers(1, 30))
    )
    def test_interim_head_and_body(self, response: bytes, sizes: list[int]) -> None:
        seen = Seen(cut(CONTINUE + EARLY + CONTINUE + response, sizes))
        self.assertEqual(seen.statuses, [103, 200])
        self.assertEqual(seen.body, b"abcdefg")
        self.assertEqual(seen.ended, response != UNTIL_CLOSE)
        self.assertFalse(seen.more)

    def test_no_body(self) -> None:
        for head, to_head in (
            (b"HTTP/1.1 204 Gone\r\n\r\n", False),
            (b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", False),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", True),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        ):
            seen = Seen([head], to_head)
            self.assertEqual((seen.body, seen.ended, seen.more), (b"", True, False), head)

    def test_more_than_the_response(self) -> None:
        for stream in (by_length(b"abc") + b"x", CHUNKED + b"HTTP", by_length(b"") + b"y"):
            seen = Seen([stream])
            self.assertEqual((seen.ended, seen.more), (True, True), stream)
        reader = ResponseReader(False)
        response = reader.head(by_length(b"abc"))
        assert response is not None
        self.assertEqual(reader.body(response, reader.rest()), (b"abc", True, False))
        self.assertEqual(reader.body(response, b"z"), (b"", True, True))

    def test_switch_of_protocols(self) -> None:
        seen = Seen([EARLY + SWITCH + b"\x81\x00"])
        self.assertEqual((seen.statuses, seen.body), ([103, 101], b"\x81\x00"))

    def test_heard(self) -> None:
        reader = ResponseReader(False)
        self.assertFalse(reader.heard)
        self.assertIsNone(reader.head(b"H"))
        self.assertTrue(reader.heard)
        self.assertEqual(reader.held, 1)
        reader = ResponseReader(False)
        self.assertIsNone(reader.head(CONTINUE))
        self.assertTrue(reader.heard)


class Bounds(SynchronousTestCase):
    """What is too much."""

    def refused(self, *pieces: bytes) -> str:
        with self.assertRaises(BackendError) as caught:
            Seen(list(pieces))
        return caught.exception.kind

    def test_head(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nA: "
        fits = head + b"x" * (HEAD_LIMIT - len(head)) + b"\r\n\r\n"
        self.assertEqual(Seen([fits]).statuses, [200])
        self.assertEqual(self.refused(fits.replace(b"x", b"xx", 1)), "head")
        self.assertEqual(self.refused(head, b"x" * HEAD_LIMIT), "head")

    def test_no_http_is_refused_before_its_end(self) -> None:
        for pieces in (
            (b"HTTP/1.1 200 OK\nA: b\n\n",),
            (b"HTTP/1.1 200 OK\r", b"\nA: b", b"\n"),
            (b"SSH-2.0-OpenSSH\r\n",),
            (b"HT", b"ML"),
            (b"\r\n",),
            (b"HTTP/2 200\r\n",),
        ):
            self.assertEqual(self.refused(*pieces), "head", pieces)

    def test_a_dripped_head_is_looked_at_once(self) -> None:
        Counted.looked = 0
        reader = ResponseReader(False)
        head = b"HTTP/1.1 200 OK\r\nA: " + b"x" * 500
        self.assertIsNone(reader.head(Counted(head[:1])))
        for start in range(1, len(head)):
            self.assertIsNone(reader.head(head[start : start + 1]))
        self.assertLess(Counted.looked, 12 * len(head))

    def test_interim_responses(self) -> None:
        self.assertEqual(len(Seen([EARLY * INTERIM_LIMIT + by_length(b"")]).statuses), 17)
        self.assertEqual(self.refused(EARLY * (INTERIM_LIMIT + 1)), "head")
        many = HEAD_LIMIT // len(CONTINUE)
        self.assertEqual(Seen([CONTINUE] * many + [by_length(b"")]).statuses, [200])
        self.assertEqual(self.refused(*[CONTINUE] * (many + 1)), "head")

    def test_bad_chunk(self) -> None:
        self.assertEqual(self.refused(CHUNKED.replace(b"3\r\n", b"4\r\n")), "body")
