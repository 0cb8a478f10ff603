"""What requests and responses have in common for `tests.web.strict`: lines, fields, chunks.

One byte after the other, a method a state: it takes the byte and may set the next state. Written
from RFC 9112 5 to 7 and RFC 9110 5; nothing is shared with `dlba`.
"""

from typing import NamedTuple

CR, LF, SP, HT = 0x0D, 0x0A, 0x20, 0x09
QUOTE, BACKSLASH, COLON, SEMICOLON, EQUALS = 0x22, 0x5C, 0x3A, 0x3B, 0x3D

#: Which bytes are what, by number (RFC 5234 B.1, RFC 9110 5.5 and 5.6.2, RFC 3986).
IS_DIGIT = [0x30 <= byte <= 0x39 for byte in range(256)]
IS_ALPHA = [0x41 <= (byte & 0xDF) <= 0x5A and byte < 128 for byte in range(256)]
IS_HEX = [IS_DIGIT[byte] or (0x41 <= (byte & 0xDF) <= 0x46 and byte < 128) for byte in range(256)]
IS_TOKEN = [IS_DIGIT[b] or IS_ALPHA[b] or chr(b) in "!#$%&'*+-.^_`|~" for b in range(256)]
IS_SPACE = [byte in (SP, HT) for byte in range(256)]
IS_VALUE = [byte == HT or 0x20 <= byte <= 0x7E or byte >= 0x80 for byte in range(256)]
IS_TARGET = [0x21 <= byte <= 0x7E and chr(byte) != "#" for byte in range(256)]
IS_QUOTED = [IS_VALUE[byte] and byte not in (QUOTE, BACKSLASH) for byte in range(256)]


class RefusedError(Exception):
    """What was read isn't HTTP, or isn't plain enough. `at`: the byte's number."""

    def __init__(self, at: int, why: str) -> None:
        super().__init__(f"byte {at}: {why}")
        self.at = at
        self.why = why


class Message:
    """A request or a response, as far as it has come.

    `fields`, `trailers`: (name as it came, value without the space around it). `framing`: "none",
    "length", "chunked" or "close". `minor`: HTTP/1's. `headed`: its head has come whole;
    `framed`: and it is valid. `start`, `end`: its place among the bytes. Of a request `method`,
    `target`; of a response `status`, `reason`, and `interim`, the 1xx responses before it.
    """

    def __init__(self, start: int) -> None:
        self.method = b""
        self.target = b""
        self.status = 0
        self.reason = b""
        self.minor = 1
        self.fields: list[tuple[bytes, bytes]] = []
        self.trailers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.framing = "none"
        self.headed = self.framed = False
        self.interim: list[Message] = []
        self.start = start
        self.end = start

    def all(self, name: bytes) -> list[bytes]:
        """The values of every field of that name (lower case)."""
        return [value for key, value in self.fields if key.lower() == name]

    def options(self) -> set[bytes]:
        """The connection options, in lower case."""
        return {
            option.strip(b" \t").lower()
            for value in self.all(b"connection")
            for option in value.split(b",")
        }

    def __repr__(self) -> str:
        line = self.status or self.method.decode("latin-1")
        return f"<{line} {self.target!r} {self.fields} {self.framing} {len(self.body)} bytes>"


class Reading(NamedTuple):
    """`messages`: the whole ones. `partial`: the begin of one more, if any.

    `refused`: why what follows isn't one.
    """

    messages: list[Message]
    partial: Message | None
    refused: RefusedError | None


class Reader:
    """Takes bytes, one state after the other. A state takes a byte and may set the next state."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.messages: list[Message] = []
        self.message = Message(0)
        self.state = self.start
        self.begun = False
        #: Bytes of a body or a chunk that are still to come.
        self.left = 0
        self.text = bytearray()
        self.name = b""
        self.size = 0
        self.digits = 0
        self.in_trailers = False

    def read(self) -> Reading:
        data = self.data
        size = len(data)
        try:
            while self.at < size:
                if self.left:
                    piece = data[self.at : self.at + self.left]
                    self.message.body += piece
                    self.at += len(piece)
                    self.left -= len(piece)
                    if not self.left:
                        self.after_data_ends()
                else:
                    self.state(data[self.at])
                    self.at += 1
                    if self.state == self.ended:
                        self.state = self.start
                        self.begun = False
                        self.finish()
        except RefusedError as refused:
            return Reading(self.messages, self.message if self.begun else None, refused)
        return Reading(self.messages, self.message if self.begun else None, None)

    def refuse(self, why: str) -> RefusedError:
        return RefusedError(self.at, why)

    def finish(self) -> None:
        self.message.end = self.at
        self.messages.append(self.message)
        self.message = Message(self.at)

    def ended(self, byte: int) -> None:
        raise AssertionError("no state of its own")

    def after_data_ends(self) -> None:
        if self.message.framing == "length":
            self.state = self.start
            self.begun = False
            self.finish()
        else:
            self.state = self.data_cr

    # The first line: see the children

    def start(self, byte: int) -> None:
        raise NotImplementedError

    def headed(self) -> None:
        raise NotImplementedError

    # Field lines

    def line_lf(self, byte: int) -> None:
        if byte != LF:
            raise self.refuse("a CR without its LF")
        self.state = self.field_start

    def field_start(self, byte: int) -> None:
        if byte == CR:
            self.state = self.section_lf
        elif IS_TOKEN[byte]:
            self.text = bytearray([byte])
            self.state = self.field_name
        elif IS_SPACE[byte]:
            raise self.refuse("a folded line")
        else:
            raise self.refuse("a field begins with what is no token")

    def field_name(self, byte: int) -> None:
        if IS_TOKEN[byte]:
            self.text.append(byte)
        elif byte == COLON:
            self.name = bytes(self.text)
            self.text = bytearray()
            self.state = self.field_value
        else:
            raise self.refuse("a field's name holds what is no token")

    def field_value(self, byte: int) -> None:
        if byte == CR:
            self.state = self.field_lf
        elif IS_VALUE[byte]:
            self.text.append(byte)
        else:
            raise self.refuse("a field's value holds a control byte")

    def field_lf(self, byte: int) -> None:
        self.line_lf(byte)
        section = self.message.trailers if self.in_trailers else self.message.fields
        value = bytes(self.text)
        while value and IS_SPACE[value[0]]:
            value = value[1:]
        while value and IS_SPACE[value[-1]]:
            value = value[:-1]
        section.append((self.name, value))

    def section_lf(self, byte: int) -> None:
        if byte != LF:
            raise self.refuse("a CR without its LF")
        if self.in_trailers:
            self.in_trailers = False
            self.state = self.ended
        else:
            message = self.message
            message.headed = True
            self.headed()
            message.framed = True

    def length(self, plain: bool) -> int | None:
        """The one Content-Length. `plain`: as a careful sender writes it."""
        values = self.message.all(b"content-length")
        if not values:
            return None
        if len(values) > 1:
            raise self.refuse("Content-Length twice")
        value = values[0]
        if not value or not all(IS_DIGIT[byte] for byte in value):
            raise self.refuse("Content-Length isn't digits")
        if len(value) > 18:
            raise self.refuse("Content-Length is too long to be counted")
        if plain and len(value) > 1 and value[0] == 0x30:
            raise self.refuse("Content-Length begins with 0")
        number = 0
        for byte in value:
            number = number * 10 + byte - 0x30
        return number

    def chunked(self, plain: bool) -> bool:
        """Whether the body is chunked. `plain`: as a careful sender writes it."""
        values = self.message.all(b"transfer-encoding")
        if not values:
            return False
        if len(values) > 1:
            raise self.refuse("Transfer-Encoding twice")
        if (values[0] if plain else values[0].lower()) != b"chunked":
            raise self.refuse("a coding that isn't chunked")
        if self.message.minor == 0:
            raise self.refuse("Transfer-Encoding in HTTP/1.0")
        if self.message.all(b"content-length"):
            raise self.refuse("Content-Length beside Transfer-Encoding")
        return True

    def body_of(self, length: int | None, chunked: bool) -> None:
        if chunked:
            self.message.framing = "chunked"
            self.begin_size()
        elif length is not None:
            self.message.framing = "length"
            self.left = length
            self.state = self.start if length else self.ended
        else:
            self.state = self.ended

    # The chunked coding (RFC 9112 7.1)

    #: Chunk extensions may stand there.
    extensions = True

    def begin_size(self) -> None:
        self.size = self.digits = 0
        self.state = self.chunk_size

    def chunk_size(self, byte: int) -> None:
        if IS_HEX[byte]:
            self.digits += 1
            if self.digits > 15:
                raise self.refuse("a chunk's size is too long to be counted")
            value = byte - 0x30 if IS_DIGIT[byte] else (byte & 0xDF) - 0x41 + 10
            self.size = self.size * 16 + value
            return
        if not self.digits:
            raise self.refuse("a chunk's size isn't hex digits")
        self.size_ends(byte, spaces=True)

    def size_ends(self, byte: int, spaces: bool) -> None:
        """Behind a size or a whole extension."""
        if byte == CR:
            self.state = self.size_lf
        elif byte == SEMICOLON and self.extensions:
            self.state = self.extension_begin
        elif IS_SPACE[byte] and spaces and self.extensions:
            self.state = self.extension_space
        else:
            raise self.refuse("a chunk's size is followed by something else")

    def extension_space(self, byte: int) -> None:
        """Space that must lead to a semicolon."""
        if byte == SEMICOLON:
            self.state = self.extension_begin
        elif not IS_SPACE[byte]:
            raise self.refuse("a space behind a chunk's size leads nowhere")

    def extension_begin(self, byte: int) -> None:
        if IS_TOKEN[byte]:
            self.state = self.extension_name
        elif not IS_SPACE[byte]:
            raise self.refuse("a chunk extension without a name")

    def extension_name(self, byte: int) -> None:
        if byte == EQUALS:
            self.state = self.extension_equals
        elif IS_SPACE[byte]:
            self.state = self.extension_named
        elif not IS_TOKEN[byte]:
            self.size_ends(byte, spaces=False)

    def extension_named(self, byte: int) -> None:
        """Space that leads to a semicolon or an equals sign."""
        if byte == EQUALS:
            self.state = self.extension_equals
        else:
            self.extension_space(byte)

    def extension_equals(self, byte: int) -> None:
        if byte == QUOTE:
            self.state = self.quoted
        elif IS_TOKEN[byte]:
            self.state = self.extension_value
        elif not IS_SPACE[byte]:
            raise self.refuse("a chunk extension without a value")

    def extension_value(self, byte: int) -> None:
        if not IS_TOKEN[byte]:
            self.size_ends(byte, spaces=True)

    def quoted(self, byte: int) -> None:
        if byte == QUOTE:
            self.state = self.quoted_end
        elif byte == BACKSLASH:
            self.state = self.quoted_pair
        elif not IS_QUOTED[byte]:
            raise self.refuse("a control byte in a quoted string")

    def quoted_pair(self, byte: int) -> None:
        if not IS_VALUE[byte]:
            raise self.refuse("a control byte in a quoted string")
        self.state = self.quoted

    def quoted_end(self, byte: int) -> None:
        self.size_ends(byte, spaces=True)

    def size_lf(self, byte: int) -> None:
        if byte != LF:
            raise self.refuse("a CR without its LF")
        if self.size:
            self.left = self.size
        else:
            self.in_trailers = True
            self.state = self.field_start

    def data_cr(self, byte: int) -> None:
        if byte != CR:
            raise self.refuse("a chunk is longer than its size")
        self.state = self.data_lf

    def data_lf(self, byte: int) -> None:
        if byte != LF:
            raise self.refuse("a chunk isn't followed by CRLF")
        self.begin_size()
