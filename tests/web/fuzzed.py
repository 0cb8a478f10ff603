"""Makes what hostile clients and broken backends send, out of a source of choices.

`choices` is a `random.Random`: of a seed where sockets are used, of hypothesis where a failure
should shrink. Requests are made by grammar, then changed at any byte. What they mean is for
`tests.web.strict` to say.
"""

from itertools import pairwise
from random import Random

#: What `tests.web.tricks` hide: nobody may ever be asked for it.
SMUGGLED = b"/smuggled"
HIDDEN = b"GET " + SMUGGLED + b" HTTP/1.1\r\nHost: a\r\n\r\n"
#: Stands in bodies that must not be taken for anything else.
POISON = b"HTTP/1.1 200 Poisoned\r\nX-Poison: 1\r\nContent-Length: 0\r\n\r\n"

METHODS = (b"GET", b"GET", b"GET", b"POST", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"X-Y")
#: What breaks readers: put in anywhere by `mutated`.
SHARDS = (
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b"\r\r\n", b"\r\n ", b"\r\n\t", b"\0"),
    *(
        b"\x0b",
        b"\x0c",
        b"\x1c",
        b"\x7f",
        b"\x80",
        b"\x85",
        b"\xa0",
        b"\xff",
        b"\xc5\xbf\xe2\x84\xaa",
    ),
    *(
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b'"',
        b"\\",
        b"=",
        b"0",
        b"+",
        b"-",
        b"_",
        b"0x",
        b"#",
        b"%00",
    ),
    *(b"chunked", b"Content-Length: 5", b"\r\nContent-Length: 5", b"\r\nContent-Length: 0"),
    *(b"\r\nTransfer-Encoding: chunked", b"\r\nTransfer-Encoding:\tchunked", b"\r\nHost: b"),
    *(b"\r\nConnection: close", b"\r\nConnection: keep-alive", b"\r\nConnection: content-length"),
    *(b"\r\nUpgrade: websocket\r\nConnection: upgrade", b"\r\nExpect: 100-continue"),
    *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"0\r\n\r\n", b"http://b", b"1" * 20, HIDDEN, POISON),
)
VALUES = (
    *(b"", b"1", b" x", b"\tx\t", b"a, b;c=d", b'"q\\"uoted"', b"caf\xc3\xa9", b"\x80\xff", b"a:b"),
    *(b"chunked", b"0", b"%0d%0aX: y", b"x" * 100),
)
NAMES = (
    *(b"Accept", b"User-Agent", b"X-A", b"x-b", b"Cookie", b"Content_Length", b"Transfer_Encoding"),
    *(b"X-Real-IP", b"X_Real_IP", b"X-Forwarded-For", b"X_Forwarded-For", b"X-Forwarded-Host"),
    *(b"Forwarded", b"TE", b"Trailer", b"Keep-Alive", b"Proxy-Connection", b"HTTP2-Settings"),
    *(b"Content-Length-X", b"X-Content-Length", b"!#$%&'*+-.^_`|~", b"Date", b"Range", b"Via"),
)
TRAILERS = (b"Content-Length", b"Transfer-Encoding", b"Host", b"X-Sum", b"X-Forwarded-For")
OPTIONS = (
    *(b"close", b"keep-alive", b"Keep-Alive, X-A", b"x-b", b"TE", b"host", b"content-length"),
    *(b"transfer-encoding", b"x-forwarded-for, connection", b",,", b"cookie"),
)


def any_bytes(choices: Random, size: int) -> bytes:
    """Bytes that may look like a message of their own."""
    kind = choices.randrange(4)
    if kind == 0:
        piece = HIDDEN
    elif kind == 1:
        piece = POISON
    elif kind == 2:
        piece = b"0\r\n\r\n" + HIDDEN
    else:
        piece = bytes(choices.randrange(256) for _ in range(min(size, 8))) or b"x"
    return (piece * (size // len(piece) + 1))[:size]


def size_of_body(choices: Random, largest: int) -> int:
    """Mostly small, where `largest` is."""
    some = choices.randrange(largest + 1)
    return choices.choice((0, 1, 2, 5, 60, some, some))


def fields(choices: Random, names: tuple[bytes, ...] = NAMES, most: int = 4) -> list[bytes]:
    """Some valid field lines."""
    return [
        choices.choice(names) + b":" + choices.choice((b" ", b"", b"\t ")) + choices.choice(VALUES)
        for _ in range(choices.randrange(most + 1))
    ]


def extension(choices: Random) -> bytes:
    """A valid chunk extension, mostly none."""
    plain = (b"", b"", b"", b"", b";a", b";a=b", b' ; a = "b\\"c;\t"', b";a;b;c=d", b';A=""')
    return choices.choice(plain)


def chunked(choices: Random, body: bytes, plain: bool = False) -> bytes:
    """`body` in valid chunks of any size; `plain`: without extensions and trailers."""
    out = bytearray()
    at = 0
    while at < len(body):
        size = choices.choice((1, 2, 7, 30, 1000, len(body)))
        piece = body[at : at + size]
        digits = choices.choice((b"%x", b"%X", b"0%x", b"0000%x")) % len(piece)
        out += digits + (b"" if plain else extension(choices)) + b"\r\n" + piece + b"\r\n"
        at += size
    out += choices.choice((b"0", b"0", b"000")) + (b"" if plain else extension(choices)) + b"\r\n"
    if not plain:
        for line in fields(choices, TRAILERS, choices.choice((0, 0, 2))):
            out += line + b"\r\n"
    return bytes(out + b"\r\n")


def target(choices: Random, tag: bytes) -> bytes:
    """A path of its own, `tag` in it, in origin or absolute form."""
    path = b"/" + tag + choices.choice((b"", b"", b"/", b"?a=b", b"/%2e/..;x", b"?http://", b"//"))
    form = choices.randrange(8)
    if form == 0:
        return choices.choice((b"http://", b"HTTPS://")) + b"c.example:81" + path
    return path


def request(choices: Random, tag: bytes, largest: int = 600) -> bytes:
    """A valid request whose target names `tag`."""
    minor = choices.choice((b"1", b"1", b"1", b"1", b"1", b"1", b"0", b"2"))
    lines = fields(choices)
    if choices.randrange(4) == 0:
        lines.append(b"Connection: " + choices.choice(OPTIONS))
    if minor == b"0" and choices.randrange(2):
        lines.append(b"Connection: keep-alive")
    if minor != b"0" or choices.randrange(2):
        lines.append(b"Host: " + choices.choice((b"a", b"A.example", b"[::1]:80", b"a:81")))
    framing = choices.randrange(4)
    body = b""
    if framing == 0:
        body = any_bytes(choices, size_of_body(choices, largest))
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == 1 and minor != b"0":
        body = chunked(choices, any_bytes(choices, size_of_body(choices, largest)))
        lines.append(
            choices.choice((b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED\t"))
        )
    if body and choices.randrange(6) == 0:
        lines.append(b"Expect: 100-continue")
    if not body and choices.randrange(5) == 0:
        lines.append(b"Upgrade: " + choices.choice((b"websocket", b"h2c, WebSocket", b"h2c", b"")))
        lines.append(b"Connection: " + choices.choice((b"upgrade", b"Upgrade, x-a", b"keep-alive")))
    choices.shuffle(lines)
    method = choices.choice(METHODS)
    line = method + b" " + target(choices, tag) + b" HTTP/1." + minor
    blank = b"\r\n" if choices.randrange(10) == 0 else b""
    return blank + b"\r\n".join((line, *lines)) + b"\r\n\r\n" + body


def mutated(choices: Random, data: bytes, times: int = 1) -> bytes:
    """`data` with some of it changed."""
    for _ in range(times):
        at = choices.randrange(len(data) + 1)
        length = choices.choice((1, 1, 1, 2, 4, 20))
        kind = choices.randrange(8)
        if kind <= 2:
            data = data[:at] + choices.choice(SHARDS) + data[at:]
        elif kind == 3:
            data = data[:at] + choices.choice(SHARDS) + data[at + length :]
        elif kind == 4:
            data = data[:at] + data[at + length :]
        elif kind == 5:
            data = data[:at] + data[at : at + length] + data[at:]
        elif kind == 6:
            data = data[:at] + bytes([choices.randrange(256)]) + data[at + 1 :]
        else:
            # Behind a line's end or a colon, where it matters most.
            places = [n for n, byte in enumerate(data) if byte in b"\n:,"] or [0]
            at = choices.choice(places) + choices.randrange(2)
            data = data[:at] + choices.choice(SHARDS) + data[at:]
    return data


def pieces(choices: Random, data: bytes) -> list[bytes]:
    """`data` cut anywhere: mostly in few pieces, sometimes byte by byte."""
    if not data:
        return []
    kind = choices.randrange(8)
    if kind == 0:
        return [data]
    if kind == 1 and len(data) < 2000:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted({choices.randrange(len(data)) for _ in range(choices.choice((1, 2, 5, 12)))})
    if kind == 2:
        # Where readers are in between: around a line's end.
        ends = [at for at in range(len(data)) if data[at] in b"\r\n"][:200]
        cuts = sorted({choices.choice(ends) for _ in range(6)} | set(cuts)) if ends else cuts
    edges = [0, *(cut for cut in cuts if cut), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]
