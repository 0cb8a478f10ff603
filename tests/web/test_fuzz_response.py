"""Fuzzes what reads a backend's stream and what of it goes to a client, in any pieces.

`Relay` puts the pure parts together as the proxy does, without sockets. Whatever a backend sends,
its client reads valid HTTP: the strict reader sees one answer, which ends or is seen to be cut.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import BackendError
from dlba.web.body import chunk
from dlba.web.forward import interim_head, response_head
from dlba.web.response import UNTIL_CLOSE
from dlba.web.responsereader import HEAD_LIMIT, ResponseReader
from tests.web.fuzzed import mutated, pieces
from tests.web.held import held
from tests.web.oracles import assert_linear
from tests.web.runs import examples
from tests.web.scripts import Answer
from tests.web.strict import Message, responses

DATE = b"\r\nDate: Tue, 24 Nov 2026 00:00:00 GMT"


class Relay:
    """Reads one backend's stream. `out`: what goes to the client.

    `failed`: the backend is at fault; `ended`: the response is complete; `more`: and bytes came
    that belong to nothing. `closes`: the client's connection is to end behind it.
    """

    def __init__(self, method: bytes, minor: int) -> None:
        self.out = b""
        self.minor = minor
        self.failed = self.ended = self.more = False
        self.closes = False
        self.response = None
        self._chunked = False
        self._reader = ResponseReader(method == b"HEAD")

    def feed(self, data: bytes) -> None:
        """More of the stream; never empty."""
        try:
            if self.response is None:
                data = self._head(data)
                if self.response is None:
                    return
            self._body(data)
        except BackendError as error:
            assert error.reason
            self.failed = True

    def end(self) -> None:
        """The backend has closed: an end for a body until then, a fault else."""
        if self.response is not None and self.response.length == UNTIL_CLOSE:
            self.ended = True
            self.out += b"0\r\n\r\n" if self._chunked else b""
        else:
            self.failed = True

    def _head(self, data: bytes) -> bytes:
        response = self._reader.head(data)
        while response is not None and response.status < 200:
            if response.status == 101:
                raise BackendError("head", "nobody asked for a switch")
            if self.minor:
                self.out += interim_head(response)
            response = self._reader.head(b"")
        if response is None:
            return b""
        self.response = response
        head, self._chunked, keep = response_head(response, response.fields, DATE, self.minor, True)
        self.out += head
        self.closes = not keep
        return self._reader.rest()

    def _body(self, data: bytes) -> None:
        body, self.ended, self.more = self._reader.body(self.response, data)
        if body:
            self.out += chunk(body) if self._chunked else body
        if self.ended and self._chunked:
            self.out += b"0\r\n\r\n"


def relay(parts, method: bytes, minor: int, closed: bool) -> Relay:
    one = Relay(method, minor)
    for part in parts:
        one.feed(part)
        if one.failed or one.ended:
            break
    else:
        if closed:
            one.end()
    return one


class ResponseTests(SynchronousTestCase):
    def judge(self, choices, data: bytes, method: bytes) -> Relay:
        minor = choices.choice((1, 1, 0))
        at_once = relay([data] if data else [], method, minor, True)
        reading = responses(at_once.out, [(method, minor)], not at_once.failed)
        self.assertIsNone(reading.refused, f"{data!r} goes on as {at_once.out!r}")
        if at_once.failed:
            self.assertEqual(reading.messages, [], f"{data!r} goes on as {at_once.out!r}")
        else:
            (message,) = reading.messages
            self.assertEqual(message.status, at_once.response.status)
            self.assertEqual(len(message.all(b"date")) > 0, True)
        for parts in (pieces(choices, data), [data[n : n + 1] for n in range(len(data))]):
            other = relay(parts, method, minor, True)
            self.assertEqual(self.heard(at_once), self.heard(other), f"{data!r} in {parts}")
        return at_once

    def heard(self, one: Relay):
        """All that may not depend on how the stream was cut."""
        reading = responses(one.out, [(b"GET", one.minor)], False)
        seen = reading.messages[0] if reading.messages else reading.partial
        if one.failed:
            return True
        return one.response.status, one.response.fields, seen and bytes(seen.body)

    def answer(self, choices, method: bytes) -> tuple[Answer, bytes]:
        asked = Message(0)
        asked.method = method
        asked.target = b"/a"
        answer = Answer(choices, asked, 0)
        sent = b"".join(action for action in answer.actions if isinstance(action, bytes))
        return answer, sent[:3000]

    @examples(250)
    @given(st.randoms(use_true_random=False), st.sampled_from((b"GET", b"HEAD", b"POST")))
    def test_answers(self, choices, method):
        answer, data = self.answer(choices, method)
        got = self.judge(choices, data, method)
        if not answer.faulty and answer.whole and len(data) < 3000:
            self.assertFalse(got.failed, f"{data!r}")
            self.assertEqual(got.response.status, answer.status)

    @examples(500)
    @given(st.randoms(use_true_random=False), st.sampled_from((b"GET", b"HEAD")))
    def test_changed_answers(self, choices, method):
        _, data = self.answer(choices, method)
        self.judge(choices, mutated(choices, data[:600], choices.choice((1, 1, 2, 4))), method)

    @examples(200)
    @given(st.randoms(use_true_random=False), st.binary(max_size=80))
    def test_any_bytes(self, choices, data):
        self.judge(choices, choices.choice((b"", b"HTTP/1.1 200 ")) + data, b"GET")


class BoundTests(SynchronousTestCase):
    def test_memory(self):
        for begin, again in (
            (b"", b"H"),
            (b"HTTP/1.1 200 ", b"x"),
            (b"HTTP/1.1 200 OK\r\n", b"a:\r\n"),
            (b"", b"HTTP/1.1 100 C\r\n\r\n"),
            (b"", b"HTTP/1.1 103 E\r\nA: b\r\n\r\n"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a:\r\n"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=", b"x"),
        ):
            one = Relay(b"GET", 1)
            data = begin + again * 16_000
            for at in range(0, len(data), 4096):
                one.feed(data[at : at + 4096])
                if one.failed:
                    break
                one.out = one.out[-1000:]
                self.assertLess(held(one._reader), 3 * HEAD_LIMIT, begin)

    def test_time_grows_with_the_size(self):
        for make in (
            lambda size: b"HTTP/1.1 200 " + b" " * size,
            lambda size: b"HTTP/1.1 200 OK\r\nContent-Length: 1" * (size // 30),
            lambda size: b"HTTP/1.1 200 OK\r\nContent-Length: 1" + b", 1" * (size // 3),
            lambda size: b"HTTP/1.1 200 OK\r\nConnection: " + b"a," * (size // 2),
            lambda size: b"HTTP/1.1 103 E\r\n\r\n" * (size // 18),
        ):
            for step in (64, 65536):

                def read(data, step=step):
                    one = Relay(b"GET", 1)
                    for at in range(0, min(len(data), HEAD_LIMIT), step):
                        one.feed(data[at : at + step])
                        if one.failed:
                            break

                assert_linear(self, read, make)
