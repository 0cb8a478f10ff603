"""Fuzzes what reads a client's stream: heads, bodies and what follows them, in any pieces.

`Front` puts the pure parts together as the proxy does, without sockets. Whatever comes, the
requests it takes are those that the strict reader finds, to the byte, and so are the begun ones;
how the stream is cut changes nothing.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import HeadError
from dlba.web.body import ChunkedReader, chunk
from dlba.web.head import CHUNKED, HeadLimits
from dlba.web.headreader import HeadReader
from dlba.web.requestbody import RequestBody
from tests.web.fuzzed import chunked, mutated, pieces, request
from tests.web.held import held
from tests.web.meant import difference, meant
from tests.web.oracles import assert_linear
from tests.web.runs import examples
from tests.web.strict import backend_requests, client_requests
from tests.web.test_fuzz_head import STATUSES, sent_on
from tests.web.tricks import attacks

LIMITS = HeadLimits(target=16 * 1024, fields=200)
LARGEST = 64 * 1024


class Front:
    """Reads one client's stream.

    `got`: each request's head and body, and whether it is whole; `status`: what refused the rest,
    0 for nothing. `keeps` False: the client has asked for the end, and nothing more is read.
    """

    def __init__(self) -> None:
        self.got: list = []
        self.status = 0
        self.keeps = True
        self._heads = HeadReader()
        self._body: RequestBody | None = None

    def feed(self, data: bytes) -> None:
        """More of the stream; never empty."""
        try:
            if self._body is not None:
                self._take(data)
            else:
                self._heads.buffer += data
            while self._heads.buffer and self._body is None and self.keeps and not self.status:
                if not self._next():
                    break
        except HeadError as error:
            assert error.reason
            self.status = error.status

    def _next(self) -> bool:
        head = self._heads.take(LARGEST, LIMITS)
        if head is None:
            return False
        self.keeps = head.keep_alive
        self.got.append([head, b"", not head.length])
        if head.length:
            self._body = RequestBody(head.length, None, LARGEST, 200, 0.0)
            data, self._heads.buffer = self._heads.buffer, b""
            if data:
                self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        if self.status or (not self.keeps and self._body is None):
            return
        body = self._body
        self.got[-1][1] += body.take(data)
        if body.complete:
            self.got[-1][2] = True
            self._body = None
            self._heads.buffer = body.rest

    def heard(self):
        """All that may not depend on how the stream was cut.

        What came of a body before its mistake does, and which of two mistakes is met first.
        """
        refused = self.status > 0
        return refused, [
            (one.line, one.fields, b"" if refused and not whole else body, whole)
            for one, body, whole in self.got
        ]


def hear(parts) -> Front:
    front = Front()
    for part in parts:
        if front.status or (not front.keeps and front.got[-1][2]):
            break
        front.feed(part)
    return front


class StreamTests(SynchronousTestCase):
    def judge(self, choices, data: bytes) -> None:
        at_once = hear([data]) if data else Front()
        self.compare(at_once, data)
        for parts in (pieces(choices, data), [data[n : n + 1] for n in range(len(data))]):
            other = hear(parts)
            self.assertEqual(at_once.heard(), other.heard(), f"{data!r} in {parts}")

    def compare(self, front: Front, data: bytes) -> None:
        wanted, last = meant(data)
        if front.status:
            self.assertIn(front.status, STATUSES)
        self.assertEqual(len(front.got), len(wanted), f"{front.heard()} of {data!r}: {wanted}")
        for (head, body, whole), one in zip(front.got, wanted, strict=True):
            self.assertEqual(whole, one.whole, f"{data!r}")
            if whole:
                self.assertEqual(body, one.body, f"{data!r}")
            else:
                # The mistake may stand behind bytes that one of the two has given out already.
                self.assertTrue(one.body.startswith(body) or body.startswith(one.body), f"{data!r}")
            goes_on = chunk(body) if head.length == CHUNKED and body else body
            if whole and head.length == CHUNKED:
                goes_on += b"0\r\n\r\n"
            reading = backend_requests(sent_on(head, goes_on))
            self.assertIsNone(reading.refused, f"{data!r}")
            seen = reading.messages[0] if whole else reading.partial
            self.assertEqual(difference(one, seen), "", f"{data!r}")
            self.assertEqual((bytes(seen.body), len(reading.messages)), (body, int(whole)))
        if last is None and client_requests(data).refused is None:
            self.assertEqual(front.status, 0, f"{data!r}")

    def test_every_trick(self):
        for trick in attacks(b"tag"):
            self.compare(hear([trick]), trick)
            self.compare(hear([trick[n : n + 1] for n in range(len(trick))]), trick)

    @examples(150)
    @given(st.randoms(use_true_random=False))
    def test_valid_streams(self, choices):
        stream = b"".join(request(choices, b"%d" % n, 100) for n in range(choices.randrange(1, 4)))
        self.judge(choices, stream)

    @examples(500)
    @given(st.randoms(use_true_random=False))
    def test_changed_streams(self, choices):
        stream = b"".join(request(choices, b"%d" % n, 60) for n in range(choices.randrange(1, 3)))
        self.judge(choices, mutated(choices, stream, choices.choice((1, 1, 2, 4))))

    @examples(200)
    @given(st.randoms(use_true_random=False), st.sampled_from(attacks(b"tag")))
    def test_changed_tricks(self, choices, trick):
        self.judge(choices, mutated(choices, trick, 1))

    @examples(300)
    @given(st.randoms(use_true_random=False), st.binary(max_size=60))
    def test_changed_chunks(self, choices, body):
        """Only the chunked body is changed, so that every change meets its reader."""
        coded = chunked(choices, body)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.judge(choices, head + mutated(choices, coded, choices.choice((1, 1, 2))))


class BoundTests(SynchronousTestCase):
    #: What a reader may hold of a line, and of what it costs to hold it.
    BOUND = 2 * 64 * 1024 + 4096

    def test_memory(self):
        for begin, again in (
            (b"", b"0"),
            (b"1;a=", b"x"),
            (b'1;a="', b"x"),
            (b"", b"1;a=b\r\nx\r\n"),
            (b"0\r\n", b"a:\r\n"),
            (b"0\r\na: ", b"x"),
            (b"1" * 15 + b"\r\n", b"x"),
            (b"1\r\nx", b"\r"),
        ):
            for size in (1, 7, 4096):
                reader = ChunkedReader()
                piece = (again * size)[:size]
                try:
                    reader.feed(begin or b"1\r\nx\r\n")
                    for _ in range(300_000 // (size * 20 if size < 9 else size)):
                        reader.feed(piece)
                        self.assertLess(reader.held, self.BOUND)
                    self.assertLess(held(reader), self.BOUND)
                except ValueError:
                    pass

    def test_time_grows_with_the_size(self):
        for make in (
            lambda size: b"1" + b";a" * (size // 2),
            lambda size: b"1" + b" " * size,
            lambda size: b"1;a" + b" " * size + b"=",
            lambda size: b'1;a="' + b"\\a" * (size // 2),
            lambda size: b'1;a="' + b" " * size,
            lambda size: b"1" + b' ;a="b"' * (size // 7) + b"\0\r\n",
            lambda size: b"0\r\n" + b"a:\r\n" * (size // 4),
            lambda size: b"1\r\nx\r\n" * (size // 6),
        ):

            def read(data):
                reader = ChunkedReader(10**6, 10**6)
                try:
                    for at in range(0, len(data), 1000):
                        reader.feed(data[at : at + 1000])
                except ValueError:
                    pass

            assert_linear(self, read, make)
