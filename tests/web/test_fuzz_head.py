"""Fuzzes dlba.web.head: what of a head is taken, and what goes on, judged by the strict reader.

DLBA_FUZZ_RUNS says how many are tried: see `tests.web.runs`.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import HeadError
from dlba.web.forward import added_fields, request_head
from dlba.web.head import CHUNKED, HeadLimits, parse_request
from tests.web.fuzzed import mutated, request
from tests.web.meant import Meant, difference, meant
from tests.web.oracles import assert_linear
from tests.web.runs import examples
from tests.web.strict import backend_requests
from tests.web.tricks import attacks

LIMITS = HeadLimits(target=16 * 1024, fields=200)
FORWARDED = b"\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http"
STATUSES = {400, 405, 414, 417, 431, 501, 505}


def taken(head: bytes):
    """What is made of a head: the request, or the status that refuses it."""
    try:
        return parse_request(head, LIMITS)
    except HeadError as error:
        assert error.reason
        return error.status


def sent_on(head, body: bytes = b"") -> bytes:
    """A request as a backend gets it; `body`: as it goes on."""
    ours = added_fields(head, FORWARDED, b"" if head.host_field else b"own:80")
    return request_head(head, head.fields, ours, head.length) + body


def without_body(data: bytes) -> tuple[bytes, Meant | None]:
    """The first head in `data`, and what it means; None: it is to be refused."""
    head = data.partition(b"\r\n\r\n")[0]
    head = head.removeprefix(b"\r\n")
    while head.endswith(b"\r\n"):
        # Its end hasn't come: let it be here.
        head = head[:-2]
    wanted, _ = meant(head + b"\r\n\r\n")
    return head, wanted[0] if wanted else None


class HeadTests(SynchronousTestCase):
    def judge(self, data: bytes) -> bool:
        """Compare the proxy with the strict reader over the first head in `data`."""
        head, wanted = without_body(data)
        got = taken(head)
        if isinstance(got, int):
            self.assertIn(got, STATUSES)
            self.assertIsNone(wanted, f"refused with {got}: {head!r}")
            return False
        self.assertIsNotNone(wanted, f"taken: {head!r}")
        length = got.length or 0
        body = b"0\r\n\r\n" if length == CHUNKED else bytes(min(length, 1000))
        data = sent_on(got, body)
        reading = backend_requests(data)
        self.assertIsNone(reading.refused, f"{head!r} goes on as {data!r}")
        if length <= 1000:
            self.assertIsNone(reading.partial, f"{head!r} goes on as {data!r}")
            (seen,) = reading.messages
        else:
            seen = reading.partial
        self.assertEqual(difference(wanted, seen), "", f"{head!r} goes on as {data!r}")
        self.assertEqual(seen.all(b"x-forwarded-for"), [b"192.0.2.1"])
        self.assertEqual(seen.all(b"x-forwarded-proto"), [b"http"])
        return True

    def test_every_trick(self):
        for trick in attacks(b"tag"):
            self.judge(trick)

    @examples(400)
    @given(st.randoms(use_true_random=False))
    def test_valid_heads_are_taken(self, choices):
        self.assertTrue(self.judge(request(choices, b"tag", 1)))

    @examples(600)
    @given(st.randoms(use_true_random=False))
    def test_changed_heads(self, choices):
        self.judge(mutated(choices, request(choices, b"tag", 1), choices.choice((1, 1, 2, 5))))

    @examples(300)
    @given(st.randoms(use_true_random=False), st.sampled_from(attacks(b"tag")))
    def test_changed_tricks(self, choices, trick):
        self.judge(mutated(choices, trick, 1))

    @examples(300)
    @given(st.binary(max_size=60), st.sampled_from((b"GET / HTTP/1.1\r\nHost: a\r\n", b"")))
    def test_any_bytes(self, data, begin):
        self.judge(begin + data)

    def test_time_grows_with_the_size(self):
        begin = b"GET / HTTP/1.1\r\nHost: a"
        for make in (
            lambda size: begin + b"\r\nTransfer-Encoding: chunked" * (size // 28),
            lambda size: begin + b"\r\nConnection: " + b"a," * (size // 2),
            lambda size: begin + b"\r\nConnection: " + b" " * size,
            lambda size: begin + b"\r\nX-Forwarded-" + b"a-" * (size // 2) + b" : b",
            lambda size: begin + b"\r\nx_forwarded:" * (size // 13) + b"\r\n",
            lambda size: b"OPTIONS http://" + b"a" * size + b"@ HTTP/1.1\r\nHost: a",
            lambda size: b"GET / HTTP/1.1\r\nHost: [" + b":" * size + b"]",
        ):
            limits = HeadLimits(target=10**6, fields=10**6)

            def parse(data, limits=limits):
                try:
                    parse_request(data, limits)
                except HeadError:
                    pass

            assert_linear(self, parse, make)
