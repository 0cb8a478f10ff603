"""The states of a node in the election, and what every event does in every one of them.

Pure data: the table is total, so nothing is left to an `else`. `dlba.election.machine` finds the
events, `dlba.election.role` carries the actions out; docs/election.md shows the diagram that
`diagram` makes.

Source: election.md "Time" to "Takeover".
"""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["TABLE", "Action", "Event", "State", "diagram"]


class State(Enum):
    """What a node is; the value is for people."""

    LISTENING = "new here, or back from a fault: listens for a scheduler, has no part yet"
    BACKUP = "follows the scheduler, or waits for one"
    CANDIDATE = "finds the scheduler dead: asks the others, pulls the table, probes the VIP"
    CLAIMANT = "has claimed the next term, waits for the others' answers"
    SCHEDULER = "owns the VIP on the wire"
    ABSENT = "was scheduler and then absent: silent until another node confirms its term"
    FAULT = "can't be scheduler: no link, a port failed, or the gateway is silent"
    LEAVING = "its process is about to end: no candidate; a scheduler passes late frames on"


class Event(Enum):
    """What can happen; the value is for people."""

    LISTENED = "listened long enough"
    FOLLOWED = "heard the scheduler that counts"
    DEAD = "evidence that the scheduler is dead, for as long as the rank asks"
    VETOED = "most others hear it, or it answers for the VIP, or the evidence is gone"
    WEIGHED = "nothing speaks against a claim"
    WON = "the claim stands"
    LOST = "the claim was refused, or too few granted it"
    OUTRANKED = "a better scheduler is there, or a later term"
    GAP = "this process did not run for longer than down_after"
    CONFIRMED = "another node confirms the term, or nobody is there to do so"
    MINORITY = "no answers from a majority (quorum: majority)"
    BROKEN = "a fault of this node"
    MENDED = "the fault is over"
    STOP = "the process was asked to end"


class Action(Enum):
    """What the node does at a transition."""

    NOTHING = "nothing"
    LISTEN = "listen anew"
    FOLLOW = "follow that scheduler"
    RESET = "evidence starts anew"
    WEIGH = "ask, pull, probe"
    WAIT = "try again later"
    CLAIM = "claim the next term"
    REIGN = "become scheduler"
    YIELD = "be scheduler no more"
    MUTE = "no frame, no ARP"
    UNMUTE = "go on as scheduler"
    RESIGN = "tell all, be scheduler no more"
    LEAVE = "tell all, answer no ARP, pass late frames on"


_S, _E, _A = State, Event, Action


def _row(
    state: State, changes: dict[Event, tuple[State, Action]]
) -> dict[tuple[State, Event], tuple[State, Action]]:
    """One state's row: what isn't named leaves it as it is."""
    return {(state, event): changes.get(event, (state, _A.NOTHING)) for event in _E}


_STOP: Final = {_E.STOP: (_S.LEAVING, _A.NOTHING)}
_COMMON: Final = {
    _E.FOLLOWED: (_S.BACKUP, _A.FOLLOW),
    _E.BROKEN: (_S.FAULT, _A.NOTHING),
    **_STOP,
}
_REIGNING: Final = {
    _E.OUTRANKED: (_S.BACKUP, _A.YIELD),
    _E.MINORITY: (_S.BACKUP, _A.RESIGN),
    _E.GAP: (_S.ABSENT, _A.MUTE),
    _E.BROKEN: (_S.FAULT, _A.RESIGN),
    _E.STOP: (_S.LEAVING, _A.LEAVE),
}

#: State and event → the next state, and what is done.
TABLE: Final[dict[tuple[State, Event], tuple[State, Action]]] = {
    **_row(
        _S.LISTENING,
        _COMMON | {_E.LISTENED: (_S.BACKUP, _A.NOTHING), _E.GAP: (_S.LISTENING, _A.LISTEN)},
    ),
    **_row(
        _S.BACKUP,
        _COMMON | {_E.DEAD: (_S.CANDIDATE, _A.WEIGH), _E.GAP: (_S.BACKUP, _A.RESET)},
    ),
    **_row(
        _S.CANDIDATE,
        _COMMON
        | {
            _E.VETOED: (_S.BACKUP, _A.WAIT),
            _E.WEIGHED: (_S.CLAIMANT, _A.CLAIM),
            _E.GAP: (_S.BACKUP, _A.RESET),
        },
    ),
    **_row(
        _S.CLAIMANT,
        _COMMON
        | {
            _E.VETOED: (_S.BACKUP, _A.WAIT),
            _E.LOST: (_S.BACKUP, _A.WAIT),
            _E.WON: (_S.SCHEDULER, _A.REIGN),
            _E.GAP: (_S.BACKUP, _A.RESET),
        },
    ),
    **_row(_S.SCHEDULER, _REIGNING),
    **_row(_S.ABSENT, _REIGNING | {_E.CONFIRMED: (_S.SCHEDULER, _A.UNMUTE)}),
    **_row(
        _S.FAULT,
        _STOP
        | {
            _E.FOLLOWED: (_S.FAULT, _A.FOLLOW),
            _E.MENDED: (_S.LISTENING, _A.LISTEN),
            _E.GAP: (_S.FAULT, _A.RESET),
        },
    ),
    **_row(_S.LEAVING, {_E.FOLLOWED: (_S.LEAVING, _A.FOLLOW)}),
}


def diagram() -> str:
    """The table as a Mermaid state diagram; events that change nothing are left out."""
    edges: dict[tuple[State, State], list[str]] = {}
    for (state, event), (then, action) in TABLE.items():
        if then is not state or (action is not _A.NOTHING and event is not _E.FOLLOWED):
            edges.setdefault((state, then), []).append(event.name)
    lines = ["stateDiagram-v2", f"    [*] --> {_S.LISTENING.name}"]
    lines += [
        f"    {one.name} --> {other.name}: {', '.join(events)}"
        for (one, other), events in edges.items()
    ]
    return "\n".join([*lines, f"    {_S.LEAVING.name} --> [*]"])
