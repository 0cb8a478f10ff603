"""Says what must come of a client's bytes: a model of web.md rules 3 and 7 on the strict reader.

No code of the proxy is used. `meant` gives the requests that may reach a backend, in order, each as
a backend must see it; nothing else of the client's bytes may ever reach one as a request.
"""

from typing import NamedTuple

from tests.web.strict import Message, authority_of, client_requests

#: Never sent on (RFC 9110 7.6.1, and what is ours to say: web.md rule 7).
CUT = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"),
        *(b"http2-settings", b"transfer-encoding", b"content-length", b"expect", b"forwarded"),
    }
)
#: Spellings of the framing that CGI and WSGI can't tell from the right ones.
LOOKALIKES = frozenset({b"content_length", b"transfer_encoding"})
#: What follows the client's own fields at the backend, by name.
ADDED = frozenset(
    {
        *(b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"content-length"),
        *(b"transfer-encoding", b"connection", b"upgrade"),
    }
)
#: How the proxy calls itself in Via, where it does.
OUR_NAME = b" fuzzed"
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"})


class Meant(NamedTuple):
    """A request as a backend must see it. `fields`: those of the client, in order.

    `whole` False: its end never came, so a backend may see the begin of it and never its end.
    `asked`: the client's own message.
    """

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    whole: bool
    asked: Message


def meant(data: bytes) -> tuple[list[Meant], Message | None]:
    """The requests in a client's bytes, the last one maybe not whole; and the begin of one more.

    That one is to be refused, or has no whole head.
    """
    reading = client_requests(data)
    messages = [(message, True) for message in reading.messages]
    last = reading.partial
    if last is not None and last.framed:
        messages.append((last, False))
    requests = []
    for message, whole in messages:
        if not_served(message):
            return requests, message
        requests.append(as_backend(message, whole))
        if not keeps(message):
            return requests, None
    return requests, None if last is not None and last.framed else last


def not_served(message: Message) -> bool:
    """Whether a valid request is refused all the same: its method, or what it expects."""
    expected = message.all(b"expect") if message.minor else []
    return (
        message.method in (b"CONNECT", b"TRACE")
        or len(message.method) > 32
        or (bool(expected) and b",".join(expected).lower() != b"100-continue")
    )


def offers(message: Message) -> bool:
    """Whether the client asks for a protocol that the proxy lets pass (`websocket`)."""
    named = b",".join(message.all(b"upgrade")).lower().split(b",")
    return (
        message.minor > 0
        and b"upgrade" in message.options()
        and b"websocket" in [word.strip(b" \t") for word in named]
        and message.framing != "chunked"
        and not message.body
    )


def keeps(message: Message) -> bool:
    """Whether the client asks for more requests on its connection."""
    options = message.options()
    return b"close" not in options and (message.minor > 0 or b"keep-alive" in options)


def as_backend(message: Message, whole: bool) -> Meant:
    """What a backend must see of `message`."""
    named = message.options() - {b"host"}
    fields = [(name, value) for name, value in message.fields if not is_cut(name.lower(), named)]
    target = message.target
    authority = authority_of(target)
    if target[:1] not in (b"/", b"*") and authority is not None:
        rest = target[target.index(b"//") + 2 + len(authority) :]
        if not rest:
            rest = b"*" if message.method == b"OPTIONS" else b"/"
        target = rest if rest[:1] in (b"/", b"*") else b"/" + rest
        if message.all(b"host"):
            fields = [
                (b"Host", authority) if name.lower() == b"host" else (name, value)
                for name, value in fields
            ]
        else:
            fields.append((b"Host", authority))
    return Meant(message.method, target, fields, bytes(message.body), whole, message)


def is_cut(name: bytes, named: set[bytes]) -> bool:
    """Whether a field (lower case) isn't for the backend. `named`: the connection options."""
    dashed = name.replace(b"_", b"-")
    return (
        name in CUT
        or name in LOOKALIKES
        or name in named
        or dashed == b"x-real-ip"
        or dashed == b"x-forwarded"
        or dashed.startswith(b"x-forwarded-")
    )


def is_loose(name: bytes, loose: frozenset[bytes]) -> bool:
    """Whether a field's name (lower case) is among `loose`, or is of a kind that is."""
    return name in loose or (b"forwarded" in loose and name.startswith(b"x-forwarded-"))


def difference(wanted: Meant, seen: Message, loose: frozenset[bytes] = frozenset()) -> str:
    """What a backend saw otherwise than meant; empty: nothing. `loose`: fields that may differ."""
    if (wanted.method, wanted.target) != (seen.method, seen.target):
        return (
            f"asked for {seen.method!r} {seen.target!r}, meant {wanted.method!r} {wanted.target!r}"
        )
    kept = [
        field
        for field in seen.fields
        if field[0].lower() not in ADDED
        and (wanted.asked.all(b"host") or field[0] != b"Host")
        and not (field[0] == b"Via" and field[1].endswith(OUR_NAME))
        and not is_loose(field[0].lower(), loose)
    ]
    mine = [
        field
        for field in wanted.fields
        if (wanted.asked.all(b"host") or field[0] != b"Host")
        and not is_loose(field[0].lower(), loose)
    ]
    if kept != mine:
        return f"fields {kept}, meant {mine}"
    if seen.trailers:
        return f"trailers {seen.trailers}"
    if seen.framing == "none" and wanted.asked.framing != "none":
        return "no framing"
    return ""
