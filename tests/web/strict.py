"""A strict reader of HTTP/1.1, to see with other eyes what the proxy sends.

Written from RFC 9112 and RFC 9110 alone: one byte after the other, a method a state, nothing shared
with `dlba`. Whatever two recipients could read in two ways is refused with the place: both
framings, a framing twice, a bare CR or LF, folded lines, a space before a colon, codings other than
chunked, control bytes. Three readers:

- `client_requests`: what a client asked for. Takes what RFC 9112 lets a server take.
- `backend_requests`: what a backend was sent. Only what a careful client would send.
- `responses`: what a client was answered, in its view: one final response a request, in order.

Each gives the whole messages and, where the bytes stop in the middle, what there is of the last.
"""

from ipaddress import IPv6Address

from tests.web.strictbytes import (
    COLON,
    CR,
    IS_ALPHA,
    IS_DIGIT,
    IS_HEX,
    IS_TARGET,
    IS_TOKEN,
    IS_VALUE,
    LF,
    SP,
    Message,
    Reader,
    Reading,
    RefusedError,
)

#: What a host is made of, if it isn't an address in brackets (of RFC 3986, without escapes).
IS_HOST = [IS_DIGIT[b] or IS_ALPHA[b] or chr(b) in "-._~" for b in range(256)]

#: A field that must not stand in what we send on (RFC 9110 7.6.1); Connection and
#: Transfer-Encoding are looked at by themselves.
NOT_SENT = frozenset({b"keep-alive", b"proxy-connection", b"te", b"trailer", b"http2-settings"})


class _Requests(Reader):
    """`careful`: what we send to a backend, not what a client sent."""

    def __init__(self, data: bytes, careful: bool) -> None:
        super().__init__(data)
        self.careful = careful
        self.extensions = not careful
        self.word = 0
        self.blank = False

    def start(self, byte: int) -> None:
        if byte == CR and not self.careful and not self.blank:
            # RFC 9112 2.2: a server should ignore at least one.
            self.blank = True
            self.state = self.blank_lf
            return
        self.blank = False
        if not IS_TOKEN[byte]:
            raise self.refuse("a request begins with what is no method")
        self.begun = True
        self.message.start = self.at
        self.message.method = bytes([byte])
        self.state = self.method

    def blank_lf(self, byte: int) -> None:
        if byte != LF:
            raise self.refuse("a CR without its LF")
        self.state = self.start

    def method(self, byte: int) -> None:
        if IS_TOKEN[byte]:
            self.message.method += bytes([byte])
        elif byte == SP:
            self.text = bytearray()
            self.state = self.target
        else:
            raise self.refuse("a method holds what is no token")

    def target(self, byte: int) -> None:
        if IS_TARGET[byte]:
            self.text.append(byte)
        elif byte == SP and self.text:
            self.message.target = bytes(self.text)
            self.word = 0
            self.state = self.version
        else:
            raise self.refuse("a target holds what belongs to none")

    def version(self, byte: int) -> None:
        """`HTTP/1.` and a digit."""
        place = self.word
        self.word += 1
        if place < 7:
            if byte != b"HTTP/1."[place]:
                raise self.refuse("the version isn't HTTP/1")
        elif place == 7:
            if not IS_DIGIT[byte] or (self.careful and byte != 0x31):
                raise self.refuse("the version isn't HTTP/1.1")
            self.message.minor = 0 if byte == 0x30 else 1
        elif byte == CR:
            self.state = self.line_lf
        else:
            raise self.refuse("something stands behind the version")

    def headed(self) -> None:
        message = self.message
        hosts = message.all(b"host")
        if len(hosts) > 1:
            raise self.refuse("Host twice")
        if hosts and not valid_host(hosts[0]):
            raise self.refuse("Host isn't a host")
        if not hosts and message.minor:
            raise self.refuse("no Host")
        self.check_target()
        if self.careful:
            self.check_careful()
        self.body_of(self.length(self.careful), self.chunked(self.careful))

    def check_target(self) -> None:
        target = self.message.target
        if target[:1] == b"/":
            return
        if target == b"*":
            if self.message.method != b"OPTIONS":
                raise self.refuse("the target * belongs to OPTIONS")
            return
        if self.message.method == b"CONNECT":
            return
        authority = authority_of(target)
        if self.careful or authority is None or not valid_host(authority):
            raise self.refuse("the target isn't a path")

    def check_careful(self) -> None:
        message = self.message
        for name, _ in message.fields:
            if name.lower() in NOT_SENT or name.lower() == b"expect":
                raise self.refuse(f"{name!r} isn't for the next hop")
        options = message.options()
        if not options <= {b"close", b"keep-alive", b"upgrade"}:
            raise self.refuse(f"Connection has {options}")
        if (b"upgrade" in options) != bool(message.all(b"upgrade")):
            raise self.refuse("Upgrade without its option, or the option without it")


class _Responses(Reader):
    """`asked`: method and minor version of each request; beyond them anything, as 1.1."""

    def __init__(self, data: bytes, asked: list[tuple[bytes, int]]) -> None:
        super().__init__(data)
        self.asked = asked
        self.word = 0
        self.closing = False
        self.interim: list[Message] = []
        #: Behind a 101: bytes of another protocol.
        self.tunnel = False

    def start(self, byte: int) -> None:
        if self.closing:
            raise self.refuse("bytes behind a response that was to be the last")
        self.begun = True
        self.word = 0
        self.state = self.status_line
        self.status_line(byte)

    def status_line(self, byte: int) -> None:
        """`HTTP/1.1`, a space, three digits, a space."""
        place = self.word
        self.word += 1
        if place < 9:
            if byte != b"HTTP/1.1 "[place]:
                raise self.refuse("the version isn't HTTP/1.1")
        elif place < 12:
            if not IS_DIGIT[byte]:
                raise self.refuse("the status isn't three digits")
            self.message.status = self.message.status * 10 + byte - 0x30
        elif byte != SP:
            raise self.refuse("no space behind the status")
        else:
            # From 600 on a client takes it for a 5xx (RFC 9110 15).
            if self.message.status < 100:
                raise self.refuse("a status that isn't one")
            self.text = bytearray()
            self.state = self.reason

    def reason(self, byte: int) -> None:
        if byte == CR:
            self.message.reason = bytes(self.text)
            self.state = self.line_lf
        elif IS_VALUE[byte]:
            self.text.append(byte)
        else:
            raise self.refuse("a control byte in the reason")

    def headed(self) -> None:
        message = self.message
        number = len(self.messages)
        method, minor = self.asked[number] if number < len(self.asked) else (b"?", 1)
        for name, _ in message.fields:
            if name.lower() in NOT_SENT:
                raise self.refuse(f"{name!r} isn't for the next hop")
        length, chunked = self.length(plain=True), self.chunked(plain=True)
        options = message.options()
        if not options <= {b"close", b"keep-alive", b"upgrade"}:
            raise self.refuse(f"Connection has {options}")
        if message.status < 200:
            if length is not None or chunked:
                raise self.refuse("an interim response with a framing")
            if not minor:
                raise self.refuse("an interim response to HTTP/1.0")
            if message.status == 101:
                self.message.framing = "close"
                self.state = self.until_close
                return
            if options:
                raise self.refuse("an interim response with a connection option")
            self.interim.append(message)
            message.end = self.at + 1
            self.message = Message(self.at + 1)
            self.begun = False
            self.state = self.start
            return
        if chunked and not minor:
            raise self.refuse("chunked to HTTP/1.0")
        message.interim, self.interim = self.interim, []
        self.closing = b"close" in options or (not minor and b"keep-alive" not in options)
        if message.status in (204, 304) or method == b"HEAD":
            if message.status == 204 and (length is not None or chunked):
                raise self.refuse("a 204 with a framing")
            self.state = self.ended
        elif length is None and not chunked:
            if not self.closing:
                raise self.refuse("a body until the end on a connection that stays")
            message.framing = "close"
            self.state = self.until_close
        else:
            self.body_of(length, chunked)

    def until_close(self, byte: int) -> None:
        self.message.body.append(byte)
        # The rest in one piece: every byte of it is the body.
        self.message.body += self.data[self.at + 1 :]
        self.at = len(self.data) - 1


def valid_host(value: bytes) -> bool:
    """`uri-host [":" port]`, a name or an address, and not an empty one (RFC 9110 7.2)."""
    at = 0
    if value[:1] == b"[":
        close = value.find(b"]")
        inside = value[1:close] if close > 0 else b""
        if not all(IS_HEX[byte] or byte in b":." for byte in inside):
            return False
        try:
            IPv6Address(inside.decode())
        except ValueError:
            return False
        at = close + 1
    else:
        while at < len(value) and IS_HOST[value[at]]:
            at += 1
        if not at:
            return False
    port = value[at:]
    return not port or (
        port[0] == COLON and len(port) <= 6 and all(IS_DIGIT[byte] for byte in port[1:])
    )


def authority_of(target: bytes) -> bytes | None:
    """The authority of a target in absolute form; None: it isn't in that form."""
    for scheme in (b"http://", b"https://"):
        if target[: len(scheme)].lower() == scheme:
            rest = target[len(scheme) :]
            ends = [at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0]
            return rest[: min(ends, default=len(rest))]
    return None


def client_requests(data: bytes) -> Reading:
    """What a client asked for with these bytes, as far as nobody can read them otherwise."""
    return _Requests(data, careful=False).read()


def backend_requests(data: bytes) -> Reading:
    """What a backend was asked for: HTTP/1.1, a path, one framing, nothing for another hop."""
    return _Requests(data, careful=True).read()


def responses(data: bytes, asked: list[tuple[bytes, int]], clean: bool) -> Reading:
    """What a client was answered. `clean`: the connection ended without a reset.

    Bytes that stop in the middle of a response are refused at a clean end, since nobody could know
    that something is missing, or would take it for the whole. A body until the end is whole only
    at a clean one.
    """
    reader = _Responses(data, asked)
    reading = reader.read()
    if reading.refused is not None or reading.partial is None or not clean:
        return reading
    if reading.partial.headed and reading.partial.framing == "close":
        reader.at = len(data)
        reader.finish()
        return Reading(reader.messages, None, None)
    refused = RefusedError(len(data), "the connection ended cleanly in the middle of a response")
    return Reading(reading.messages, reading.partial, refused)
