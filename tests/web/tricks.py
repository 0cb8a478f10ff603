"""The known ways to smuggle a request past a proxy, each once, by construction.

Each trick is a request with another one, `HIDDEN`, where two readers could disagree: both framings
in any order, codings and lengths that only some understand, chunks that only some end there, line
ends and spaces that only some take, request lines with more than one reading. Some are legal: then
`HIDDEN` is their body, to be carried as one.
"""

from tests.web.fuzzed import HIDDEN

CHUNKED = b"Transfer-Encoding: chunked"
CODINGS = (
    *(
        b"Transfer-Encoding: " + value
        for value in (
            *(
                b"",
                b"xchunked",
                b"chunked, identity",
                b"identity, chunked",
                b"chunked\x0b",
                b"gzip",
            ),
            *(b"\x0bchunked", b"\x0cchunked", b"\0chunked", b"chunked\x85", b"\xa0chunked"),
            *(b"chunKed\xff", b"chun\xe2\x84\xaaed", b'"chunked"', b"chunked;a=b", b",chunked"),
            *(
                b"chunked,",
                b"chunked, chunked",
                b"chunked\nX: y",
                b"chunked\rX: y",
                b"\r\n chunked",
            ),
            *(b"chunked\r\n" + CHUNKED, b"chunked\r\nTransfer-Encoding: x", b"x\r\n" + CHUNKED),
        )
    ),
    *(
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding\t: chunked",
        b"Transfer-Encoding\0: chunked",
    ),
    *(before + CHUNKED for before in (b" ", b"\0", b"X: y\n", b"X: y\r", b"X: y\r\n\t")),
    b"Transfer\xadEncoding: chunked\r\nX y: z",
)
LENGTHS = (
    *(
        b"Content-Length: " + value
        for value in (
            *(b"", b"+0", b"-0", b"-1", b"0x0", b"0,0", b"0, 5", b"0 0", b"0;", b"0.0", b"1e0"),
            *(b"0\x0b", b"\x0c0", b"\x850", b"0\xa0", b"0\0", b"0\n", b"\r\n 0", b"0_0", b"0\r"),
            *(b'"0"', b"\xb2", b"18446744073709551616", b"9" * 19, b"9" * 300, b"\xd9\xa0"),
        )
    ),
    *(b"Content-Length : 0", b"Content-Length\x0b: 0", b"Content-Length", b": 0"),
    b"Content-Length\r\n: 0",
)
#: %(n)b the size of %(h)b in hex digits.
CHUNKS = (
    *(
        b"0x0\r\n\r\n%(h)b",
        b"+0\r\n\r\n%(h)b",
        b"-0\r\n\r\n%(h)b",
        b" 0\r\n\r\n%(h)b",
        b"0 \r\n\r\n%(h)b",
    ),
    *(b"0\n\r\n%(h)b", b"0\r\n\n%(h)b", b"0\n\n%(h)b", b"0\r\r\n\r\n%(h)b", b"0\x0b\r\n\r\n%(h)b"),
    *(b"0\x85\r\n\r\n%(h)b", b"0\xa0\r\n\r\n%(h)b", b"0\0\r\n\r\n%(h)b", b"\r\n0\r\n\r\n%(h)b"),
    *(
        b"10000000000000000\r\n%(h)b",
        b"ffffffffffffffffff\r\n%(h)b",
        b"0000000000000000\r\n\r\n%(h)b",
    ),
    *(b"-1\r\n%(h)b", b"0_0\r\n\r\n%(h)b", b"g\r\n%(h)b", b"\r\n\r\n%(h)b", b";a\r\n\r\n%(h)b"),
    *(
        b"1\r\nab\r\n0\r\n\r\n%(h)b",
        b"1\r\na0\r\n\r\n%(h)b",
        b"1\r\na\n0\r\n\r\n%(h)b",
        b"1\r\na\r0\r\n\r\n%(h)b",
    ),
    *(
        b"1;a\nb\r\nx\r\n0\r\n\r\n%(h)b",
        b"1;\r\nx\r\n0\r\n\r\n%(h)b",
        b"1;a\rb\r\nx\r\n0\r\n\r\n%(h)b",
    ),
    *(
        b'1;a="\r\nx\r\n0\r\n\r\n%(h)b',
        b'1;a="b\nc"\r\nx\r\n0\r\n\r\n%(h)b',
        b"1;a=\0\r\nx\r\n0\r\n\r\n%(h)b",
    ),
    *(
        b"0\r\nA : b\r\n\r\n%(h)b",
        b"0\r\n A: b\r\n\r\n%(h)b",
        b"0\r\nA\r\n\r\n%(h)b",
        b"0\r\nA: b\n\r\n%(h)b",
    ),
    *(b"0\r\nA: b\r\n c\r\n\r\n%(h)b", b"0\r\nA: \0\r\n\r\n%(h)b", b"%(n)b\n%(h)b\n0\n\n"),
    # These are legal: the body is %(h)b.
    *(b"%(n)b\r\n%(h)b\r\n0\r\n\r\n", b"000%(n)b;a=b\r\n%(h)b\r\n0\r\nContent-Length: 5\r\n\r\n"),
    *(b"%(n)b\r\n%(h)b\r\n0\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n",),
)
ODD_FIELDS = (
    *(
        b"Host: b",
        b"Host:",
        b"Host : a",
        b"HOST: a",
        b"X: y\r\n folded",
        b" X: y",
        b"X y: z",
        b": z",
    ),
    *(
        b"X\0: y",
        b"X: \0",
        b"X: \x1b",
        b"X: a\nb",
        b"X: a\rb",
        b"X: a\r\rb",
        b"X",
        b"\x85X: y",
        b"X\xff: y",
    ),
    *(
        b"X: a\x7f",
        b"\nX: y",
        b"X: y\n\nGET /smuggled HTTP/1.1",
        b"X: y\r\n\nGET /smuggled HTTP/1.1",
    ),
    # These are legal.
    *(
        b"Content_Length: 0",
        b"Transfer_Encoding: chunked",
        b"Connection: content-length",
        b"X: \x85",
    ),
    *(
        b"Connection: transfer-encoding",
        b"Connection: host",
        b"X-Forwarded-For: 127.9.9.9",
        b"TE: chunked",
    ),
    *(
        b"X_Forwarded_For: 127.9.9.9",
        b"Forwarded: for=127.9.9.9",
        b"Content-Length-: 0",
        b"X: Content-Length: 0",
    ),
    *(
        b"Keep-Alive: 5",
        b"Upgrade: h2c\r\nHTTP2-Settings: AAM\r\nConnection: Upgrade, HTTP2-Settings",
    ),
    *(
        b"Trailer: Content-Length",
        b"Proxy-Connection: keep-alive",
        b"Connection: close, x-forwarded-for",
    ),
)


def odd_lines(tag: bytes) -> list[bytes]:
    """What may follow the method, up to the head's end; all of it has a body as long as HIDDEN."""
    rest = b"Content-Length: %d" % len(HIDDEN)
    host = b"\r\nHost: a\r\n" + rest
    path = b"/" + tag
    return [
        *(
            path + b" HTTP/1.1\n" + host[2:],
            path + b" HTTP/1.1\r" + host[2:],
            path + b"  HTTP/1.1" + host,
        ),
        *(path + b"\tHTTP/1.1" + host, path + b" HTTP/1.1 " + host, path + b"\x0bHTTP/1.1" + host),
        *(path + b" HTTP/1.1\r\n" + rest, path + b" HTTP/2.0" + host, path + b" HTTP/11" + host),
        *(path + b" http/1.1" + host, path + b" HTTP/1.10" + host, path + b" HTTP/01.1" + host),
        *(
            path + b" HTTP/-1.1" + host,
            path + b"\0 HTTP/1.1" + host,
            path + b"\x80 HTTP/1.1" + host,
        ),
        *(
            path + b"#x HTTP/1.1" + host,
            b"http:///" + tag + b" HTTP/1.1" + host,
            b"* HTTP/1.1" + host,
        ),
        *(b"http://u@a" + path + b" HTTP/1.1" + host, b"ftp://a" + path + b" HTTP/1.1" + host),
        *(
            tag + b" HTTP/1.1" + host,
            b"a:80 HTTP/1.1" + host,
            path + host,
            path + b" HTTP/1.1 x" + host,
        ),
        # These are legal.
        *(
            b"http://b" + path + b" HTTP/1.1" + host,
            path + b" HTTP/1.9" + host,
            b"//b" + path + b" HTTP/1.1" + host,
        ),
        *(b"http://b?" + tag + b" HTTP/1.1" + host, path + b"\\..\\ HTTP/1.1" + host),
    ]


def attacks(tag: bytes) -> list[bytes]:
    """Every known trick, once: a request for `tag` with `HIDDEN` in it, to be refused or carried.

    In none of them is `HIDDEN` a request, whoever reads: a proxy that lets a backend see one has
    been tricked.
    """
    line = b"POST /" + tag + b" HTTP/1.1\r\nHost: a\r\n"
    zero = b"0\r\n\r\n"
    hidden = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
    length = len(HIDDEN)
    both = [
        (
            b"Content-Length: %d" % (len(zero) + length),
            b"Transfer-Encoding: chunked",
            zero + HIDDEN,
        ),
        (b"Content-Length: 4", b"Transfer-Encoding: chunked", hidden),
        (b"Content-Length: 0", b"Transfer-Encoding: chunked", hidden),
        (b"Content-Length: %d" % length, b"Content-Length: 0", HIDDEN),
        (b"Content-Length: 0", b"Content-Length: %d" % length, HIDDEN),
        (b"Content-Length: %d" % length, b"Content-Length: %d" % length, HIDDEN),
    ]
    made = [
        line + b"\r\n".join(order) + b"\r\n\r\n" + body
        for a, b, body in both
        for order in ((a, b), (b, a))
    ]
    for coding in CODINGS:
        made.append(line + coding + b"\r\n\r\n" + zero + HIDDEN)
        made.append(line + b"Content-Length: 0\r\n" + coding + b"\r\n\r\n" + hidden)
    made += [line + value + b"\r\n\r\n" + HIDDEN for value in LENGTHS]
    made += [
        line + b"Transfer-Encoding: chunked\r\n\r\n" + body % {b"h": HIDDEN, b"n": b"%x" % length}
        for body in CHUNKS
    ]
    head = line + b"Content-Length: %d\r\n" % length
    made += [head + field + b"\r\n\r\n" + HIDDEN for field in ODD_FIELDS]
    made += [b"POST " + odd + b"\r\n\r\n" + HIDDEN for odd in odd_lines(tag)]
    # In HTTP/1.0 a coding means nothing: nobody may guess.
    made.append(
        b"POST /" + tag + b" HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + zero + HIDDEN
    )
    return made
