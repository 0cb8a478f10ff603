"""What nodes say to each other, as values, and how a value travels.

A message travels as three values: its kind (the class's name in lower case), the JSON object of
its fields, and data, the bytes of a table or a status, which is empty for most. So the channel
never gives anything else of a peer's to the broker, and `unpack` is the one place where a peer's
words are looked at: types and ranges, strictly; what is wrong is a `PeerError`.

| kind | from → to | says |
|---|---|---|
| heartbeat | scheduler → all | I am scheduler by this reign; here my table's position |
| alive | all → all | what I follow, and how I am; answers a heartbeat, else now and then |
| ask, heard | a candidate → all, back | do you hear the scheduler (or anybody's ARP for the VIP)? |
| claim, grant, refuse | a claimant → all, back | I become scheduler in this term |
| resign | scheduler → all | I am scheduler no more |
| bye | all → all | my process ends |
| delta, pull, piece | | the client table, see `replication` |
| question, report | scheduler → one, back | the status sweep, see `status` |
| keys, keyshave | all → all | the cookie keys, see `keyring` |

Source: election.md.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeAlias, get_type_hints

import attrs

from dlba.errors import PeerError
from dlba.routing.hashtable import NODES_LIMIT

__all__ = [
    "DATA_LIMIT",
    "HEAD_LIMIT",
    "TERM_LIMIT",
    "Alive",
    "Ask",
    "Bye",
    "Claim",
    "Delta",
    "Grant",
    "Heard",
    "Heartbeat",
    "Keys",
    "KeysHave",
    "Message",
    "Piece",
    "Pull",
    "Question",
    "Refuse",
    "Report",
    "Resign",
    "pack",
    "unpack",
]

#: Bytes of data at most: the largest delta. The broker refuses strings over 640 KiB.
DATA_LIMIT: Final = 512 * 1024
#: Bytes of a message's fields at most.
HEAD_LIMIT: Final = 8 * 1024
#: Characters of a text at most.
TEXT_LIMIT: Final = 256
#: Items of a list at most: ids of keys, numbers of nodes.
ITEMS_LIMIT: Final = NODES_LIMIT
#: Numbers are below this: JSON readers elsewhere keep that many bits.
NUMBER_LIMIT: Final = 1 << 53
#: Terms are below this, so that a position's (see `replication.term_of`) is a number as well.
TERM_LIMIT: Final = 1 << 40
_TERMS: Final = frozenset({"term", "reign_term", "highest"})
_POSITIONED: Final = frozenset({"delta", "piece"})


@attrs.frozen(kw_only=True)
class Heartbeat:
    """The scheduler's. Its reign is (`term`, the sender's number).

    `alone`: no node has granted the claim or followed it yet. `version`: of its table, in this
    term; `parent_term`, `parent_version`: where its table was when the reign began. `failed`:
    numbers of the nodes that it counts as failed. `signing`: id of the key that signs cookies, or
    empty. `count`: grows by one with each in a reign.
    """

    term: int
    version: int
    parent_term: int
    parent_version: int
    alone: bool
    count: int
    signing: str
    failed: tuple[int, ...]


@attrs.frozen(kw_only=True)
class Alive:
    """How the sender is.

    `term`: the highest it has seen; `reign_term`, `scheduler`: what it follows, scheduler -1 for
    nobody. `table_term`, `version`: position of its copy of the table. `able`: it can take flows.
    `eligible`: it may become scheduler (enabled, not in fault). `count`: of the last heartbeat of
    that scheduler that it has heard, so that an old answer is told from a new one.
    """

    term: int
    reign_term: int
    scheduler: int
    count: int
    table_term: int
    version: int
    able: bool
    draining: bool
    eligible: bool


@attrs.frozen(kw_only=True)
class Ask:
    """Do you hear the node `scheduler`, or (`vip`) does anybody answer ARP for the VIP?

    `scheduler` is -1 to ask for any scheduler.
    """

    id: int
    scheduler: int
    vip: bool


@attrs.frozen(kw_only=True)
class Heard:
    """The answer to `Ask`, and the position of the sender's copy of the table."""

    id: int
    heard: bool
    table_term: int
    version: int


@attrs.frozen(kw_only=True)
class Claim:
    """The sender becomes scheduler in `term` unless refused. `evidence`: see `watch.Evidence`."""

    term: int
    evidence: int


@attrs.frozen(kw_only=True)
class Grant:
    """The sender has granted `term` to the receiver, and will to nobody else."""

    term: int


@attrs.frozen(kw_only=True)
class Refuse:
    """The claim of `term` is refused. `highest`: the term to go beyond; `why`: for the log.

    `live`: the sender is scheduler.
    """

    term: int
    highest: int
    live: bool
    why: str


@attrs.frozen(kw_only=True)
class Resign:
    """The sender, scheduler in `term`, is scheduler no more."""

    term: int
    why: str


@attrs.frozen(kw_only=True)
class Bye:
    """The sender's process ends; nothing of it is left when this is read."""


@attrs.frozen(kw_only=True)
class Delta:
    """Changes of the client table from `since` to `version` in `term`; data: packed pairs."""

    term: int
    since: int
    version: int
    data: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Pull:
    """Send me your client table from bucket `first` on, a piece of it."""

    first: int


@attrs.frozen(kw_only=True)
class Piece:
    """Part of the client table at position (`term`, `version`), from bucket `first` on.

    `last`: no more follows. Data: node numbers, 4 bytes a bucket, network byte order.
    """

    term: int
    version: int
    first: int
    last: bool
    data: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Question:
    """How are you? Of the status sweep."""

    id: int


@attrs.frozen(kw_only=True)
class Report:
    """The answer: this node's own numbers; `average_response` in seconds. Data: see `summary`."""

    id: int
    hits: int
    open_connections: int
    average_response: float
    data: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Keys:
    """The keys that the sender offers. Data: lines of a secrets file."""

    data: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class KeysHave:
    """The ids of the receiver's keys that the sender verifies with from now on."""

    ids: tuple[str, ...]


Message: TypeAlias = (
    Heartbeat
    | Alive
    | Ask
    | Heard
    | Claim
    | Grant
    | Refuse
    | Resign
    | Bye
    | Delta
    | Pull
    | Piece
    | Question
    | Report
    | Keys
    | KeysHave
)

_CLASSES: Final[dict[str, Any]] = {
    cls.__name__.lower(): (
        cls,
        {field.name: get_type_hints(cls)[field.name] for field in attrs.fields(cls)},
    )
    for cls in Message.__args__
}


def pack(message: Message) -> tuple[str, bytes, bytes]:
    """Kind, fields as JSON, and data of a message that we made."""
    kind = type(message).__name__.lower()
    head = {name: getattr(message, name) for name in _CLASSES[kind][1] if name != "data"}
    data: bytes = getattr(message, "data", b"")
    return kind, json.dumps(head, separators=(",", ":"), allow_nan=False).encode("ascii"), data


def unpack(kind: object, head: object, data: object) -> Message:
    """The message that a peer has sent. Raises PeerError for anything that `pack` doesn't make."""
    if not isinstance(kind, str) or kind not in _CLASSES:
        raise PeerError("message: expected a kind that is known, got another")
    if not isinstance(head, bytes) or not isinstance(data, bytes):
        raise PeerError(f"{kind}: expected bytes, got another type")
    if len(head) > HEAD_LIMIT or len(data) > DATA_LIMIT:
        raise PeerError(
            f"{kind}: expected {HEAD_LIMIT} and {DATA_LIMIT} bytes at most, "
            f"got {len(head)} and {len(data)}"
        )
    try:
        fields = json.loads(head)
    except (ValueError, RecursionError):
        raise PeerError(f"{kind}: expected JSON, got something else") from None
    cls, hints = _CLASSES[kind]
    wanted = hints.keys() - {"data"}
    if not isinstance(fields, dict) or fields.keys() != wanted:
        raise PeerError(f"{kind}: expected the fields {', '.join(sorted(wanted))}, got others")
    values = {name: _value(kind, name, hints[name], fields[name]) for name in wanted}
    if "data" in hints:
        values["data"] = data
    elif data:
        raise PeerError(f"{kind}: expected no data, got {len(data)} bytes")
    message: Message = cls(**values)
    return message


def _value(kind: str, name: str, hint: Any, value: object) -> object:
    """One field's value, which has the type and lies in the range that it must."""
    if hint is bool:
        good = isinstance(value, bool)
    elif hint is int:
        low = -1 if name == "scheduler" else 0
        term = name in _TERMS and kind not in _POSITIONED
        good = type(value) is int and low <= value < (TERM_LIMIT if term else NUMBER_LIMIT)
    elif hint is float:
        good = type(value) in (int, float) and 0 <= value < NUMBER_LIMIT  # type: ignore[operator]
        value = float(value) if good else value  # type: ignore[arg-type]
    elif hint is str:
        good = isinstance(value, str) and len(value) <= TEXT_LIMIT and value.isprintable()
    else:
        item = int if hint == tuple[int, ...] else str
        if not isinstance(value, list) or len(value) > ITEMS_LIMIT:
            raise PeerError(f"{kind}: {name}: expected a list, got something else")
        return tuple(_value(kind, name, item, one) for one in value)
    if not good:
        raise PeerError(f"{kind}: {name}: expected {hint.__name__} in its range, got another value")
    return value
