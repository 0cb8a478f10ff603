"""Makes what backends answer: good responses, and all that breaks readers and keeps connections.

An `Answer` is a script made of a source of choices and the request: what to send, in which pieces,
when to wait and how to end. `tests.web.traffic` plays it.
"""

from random import Random

from tests.web.fuzzed import POISON, any_bytes, chunked, fields, mutated, pieces
from tests.web.strict import Message

RESPONSE_NAMES = (
    *(b"Server", b"Set-Cookie", b"Date", b"X-A", b"Keep-Alive", b"Proxy-Connection", b"Trailer"),
    *(b"Cache-Control", b"Content_Length", b"Upgrade", b"TE", b"Vary"),
)
BAD_FRAMING = (
    *(b"\r\nContent-Length: 3\r\nTransfer-Encoding: chunked", b"\r\nContent-Length: 3, 4"),
    *(b"\r\nContent-Length: 1\r\nContent-Length: 2", b"\r\nTransfer-Encoding: gzip, chunked"),
    *(b"\r\nContent-Length: -1", b"\r\nContent-Length: +1", b"\r\nTransfer-Encoding: chunked\x0b"),
    *(b"\r\n folded", b"\nX: y", b"\r\nX : y", b"\r\nX: \0", b"\r\nContent-Length: " + b"9" * 20),
    *(
        b"\r\nTransfer-Encoding: identity",
        b"\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ),
)


def choice_of_size(choices: Random) -> int:
    return choices.choice((0, 1, 5, 60, 60, 300, 300, 2000, choices.choice((2000, 200_000))))


class Answer:
    """What a backend does when it is asked for `target`: `actions` in order.

    `early`: at the request's head, not at its end. `faulty`: not HTTP, or maybe not; `bad`: for
    certain. `status`, `body`: of the final response; `whole`: it is complete; `keep`: the
    connection stays behind it.
    """

    def __init__(self, choices: Random, request: Message, again: int) -> None:
        self.early = False
        self.faulty = self.bad = False
        self.whole = True
        self.switches = False
        self.status = 0
        self.body = b""
        self.actions: list = []
        kind = choices.randrange(20)
        if again and kind < 16:
            kind = 0
        data = self._response(choices, request)
        asks = request.all(b"upgrade")
        if asks and choices.randrange(3):
            data = self._switch(choices, request)
        elif kind == 8:
            self.early = True
        elif kind == 9:
            data = mutated(choices, data, choices.choice((1, 2, 5)))
            self.faulty = True
        elif kind == 10:
            data = data[: choices.randrange(len(data) + 1)]
            self.whole = False
        elif kind == 11:
            count = choices.choice((3, 16, 17, 40))
            lines = (
                b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\n",
            )
            data = choices.choice(lines) * count + data
            self.faulty = True
        elif kind == 12:
            size = choices.choice((1, 20, 500, 70_000))
            data = choices.choice((b"", b"HTTP/1.1 ", POISON[:30])) + any_bytes(choices, size)
            self.faulty = True
        elif kind == 13:
            head, _, body = data.partition(b"\r\n\r\n")
            data = head + choices.choice(BAD_FRAMING) + b"\r\n\r\n" + body
            self.faulty = True
            # Of interim responses and 204 the framing is dropped, whatever it is.
            self.bad = not data.startswith(b"HTTP/1.1 1") and self.status != 204
        elif kind == 14:
            data = b""
            self.whole = False
        elif kind == 15:
            self.actions.append(choices.randrange(50))
        cut = pieces(choices, data)
        self.more_at_once = kind == 17 and bool(cut) and not self.until_close
        if self.more_at_once:
            cut[-1] += POISON
        for piece in cut:
            self.actions += [piece, choices.choice((0, 0, 2))]
        if self.more_at_once:
            self.actions[-1] = "said more"
        elif kind == 16:
            # More than was asked for, at once or later: it belongs to nobody.
            self.actions += [choices.choice((0, 1, 9)), "spare"]
        if not self.keep or self.faulty or not self.whole or choices.randrange(4) == 0:
            self.actions += [choices.choice((0, 0, 3)), choices.choice(("close", "close", "reset"))]
        self.resets = self.actions[-1:] == ["reset"]

    def spared(self) -> None:
        """More was sent than the response: with no end of its own it is its body."""
        if self.until_close:
            self.body += POISON

    def gives(self, body: bytes, whole: bool) -> bool:
        """Whether a client may have got `body`. `whole`: as the whole of it."""
        if not whole:
            return self.body.startswith(body)
        if self.until_close:
            # Its end is that of the connection, if that was no reset.
            return not self.resets and self.body.startswith(body)
        return self.body == body

    def _switch(self, choices: Random, request: Message) -> bytes:
        """A 101: mostly a good one."""
        self.status = 101
        self.until_close, self.keep = True, False
        self.body = any_bytes(choices, choice_of_size(choices))
        named = choices.choice((b"websocket", b"websocket", b"WebSocket", b"h2c", b"", b"a, b"))
        self.switches = named.lower() == b"websocket"
        self.faulty = not self.switches
        return b"HTTP/1.1 101 S\r\nX-Tag: %b\r\nUpgrade: %b\r\nConnection: upgrade\r\n\r\n%b" % (
            request.target,
            named,
            self.body,
        )

    def _response(self, choices: Random, request: Message) -> bytes:
        self.status = choices.choice((200, 200, 200, 201, 404, 500, 204, 304, 302, 408))
        self.body = any_bytes(choices, choice_of_size(choices))
        lines = [b"X-Tag: " + request.target, *fields(choices, RESPONSE_NAMES, 3)]
        framing = choices.randrange(4)
        self.keep = framing < 3 and choices.randrange(3) > 0
        if framing < 2:
            lines.append(b"Content-Length: %d" % len(self.body))
            data = self.body
        elif framing == 2:
            lines.append(b"Transfer-Encoding: " + choices.choice((b"chunked", b"Chunked")))
            data = chunked(choices, self.body)
        else:
            data = self.body
        if not self.keep:
            lines.append(b"Connection: close")
        choices.shuffle(lines)
        self.until_close = framing == 3
        if request.method == b"HEAD" or self.status in (204, 304):
            self.body = data = b""
            self.until_close = False
        interim = choices.choice(
            (b"", b"", b"", b"HTTP/1.1 100 \r\n\r\n", b"HTTP/1.1 103 H\r\nA: b\r\n\r\n")
        )
        phrase = choices.choice((b" OK", b" ", b"", b" \xe9\t"))
        return (
            interim
            + b"\r\n".join((b"HTTP/1.1 %d" % self.status + phrase, *lines))
            + b"\r\n\r\n"
            + data
        )
