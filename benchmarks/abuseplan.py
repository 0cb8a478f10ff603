"""Decides who is attacked how: the attacks, their sizes, the deadlines, the targets.

Pure. An attack is defined by what it does, not by what it can: so many connections held at once, so
many new ones a second. That is little enough for one core to offer: what is measured is what the
attacked process makes of it, and not who gets the processor.
"""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["ATTACKS", "DEADLINES", "FEW", "QUICK_DEADLINES", "SLACK", "Attack", "Deadlines"]

SLACK: Final = 0.75
"""Seconds: how late a cut may be seen. DLBA looks at deadlines eight times a second."""


FEW: Final = 300
"""Descriptors of a process that is to run out of them."""


@attrs.frozen
class Deadlines:
    """`timeouts` of whoever is attacked, in seconds: shorter than in production, to be met here."""

    handshake: float
    head: float
    body: float
    write: float
    idle: float
    response: float


DEADLINES: Final = Deadlines(handshake=4, head=4, body=4, write=3, idle=20, response=4)
QUICK_DEADLINES: Final = Deadlines(
    handshake=0.5, head=0.5, body=0.5, write=0.3, idle=1.6, response=0.5
)

# How a connection begins, and when its attacker ends it.
PLAIN, HELLO, TLS, KEY_UPDATES = "plain", "hello", "tls", "key updates"
HOLD, ANSWER, OPEN = "hold", "answer", "open"


@attrs.frozen
class Attack:
    """One way to attack."""

    name: str
    sends: str
    """The opening, a name of `abusebytes`."""
    rate: float
    """New connections a second at most."""
    hold: int = 0
    """Connections at once; those that are cut are replaced. 0: as many as the rate brings."""
    begins: str = PLAIN
    """PLAIN; HELLO: a ClientHello, and nothing encrypted after it; TLS; KEY_UPDATES."""
    tls: bool = False
    """At the TLS port."""
    ends: str = HOLD
    """HOLD: never; ANSWER: with a reset when the first bytes come; OPEN: when all is sent."""
    reads: bool = True
    every: float = 0.0
    """Seconds between two bytes sent or, where nothing is read, a few read; 0: never."""
    deadline: str = ""
    """The one of `Deadlines` that must end a connection; empty: none need."""
    times: float = 1.0
    """How often the deadline may pass before."""
    late: float = 0.0
    """Seconds of progress before the deadline of a connection begins: until buffers are full."""
    answered: bool = False
    """An answer counts as the end."""
    exhausts: bool = False
    """Takes all descriptors of a process that has few: others have to wait until it is over."""

    def scaled(self, factor: float, most: int) -> Attack:
        """With fewer connections at once, at most `most`. The rate stays."""
        hold = min(max(int(self.hold * factor), 1), most) if self.hold else 0
        return attrs.evolve(self, hold=hold)

    def due(self, deadlines: Deadlines) -> float | None:
        """Seconds after which a connection must be gone; None: whenever."""
        if not self.deadline:
            return None
        seconds: float = getattr(deadlines, self.deadline)
        return seconds * self.times + self.late

    def work(self) -> str:
        """What it does, in words."""
        text = f"{self.hold:,} held, " if self.hold else ""
        text += f"{self.rate:,.0f} new a second"
        if self.every:
            text += f", {'a byte' if self.reads else '256 B read'} every {self.every:g} s"
        return text


ATTACKS: Final = (
    # What is slow.
    Attack("slow heads", "half a head", 250, 1000, every=1.0, deadline="head"),
    Attack("slow bodies", "slow body", 200, 500, every=0.5, deadline="body"),
    Attack("half bodies", "most of a body", 50, 200, deadline="body"),
    # The kernel is asked twice whether a client takes anything.
    Attack("still readers", "big", 50, 100, reads=False, deadline="write", times=2),
    Attack("creeping readers", "big", 50, 100, reads=False, every=0.25),
    Attack("unread pipelines", "pipeline", 1, 4, reads=False, deadline="write", times=2, late=6),
    Attack("silent connections", "nothing", 250, 1000, deadline="head"),
    Attack("idle plain", "small", 1000, 5000, deadline="idle"),
    # TLS.
    Attack("silent TLS", "nothing", 250, 1000, tls=True, deadline="handshake"),
    Attack("broken handshakes", "nothing", 200, begins=HELLO, tls=True, ends=ANSWER),
    Attack("handshakes", "nothing", 100, begins=TLS, tls=True, ends=OPEN),
    Attack("empty records", "empty records", 50, begins=HELLO, tls=True, deadline="handshake"),
    Attack("key updates", "nothing", 5, begins=KEY_UPDATES, tls=True, deadline="head"),
    Attack("idle TLS", "small", 400, 5000, begins=TLS, tls=True, deadline="idle"),
    # What is large, or many.
    Attack("endless heads", "endless head", 20, deadline="head"),
    Attack("many headers", "many headers", 50, ends=ANSWER),
    Attack("too many headers", "too many headers", 50, deadline="head"),
    Attack("many cookies", "many cookies", 50, ends=ANSWER),
    Attack("long cookies", "long cookie", 50, ends=ANSWER),
    Attack("our cookies", "own cookies", 50, ends=ANSWER),
    Attack("chunk extensions", "chunk extensions", 20, deadline="body"),
    Attack("trailers", "trailers", 20, deadline="body"),
    Attack("tiny chunks", "tiny chunks", 5, ends=ANSWER),
    Attack("ranges", "ranges", 5, ends=ANSWER),
    Attack("refused requests", "refused", 100, deadline="head"),
    # What is cut off.
    Attack("resets", "nothing", 500, ends=OPEN),
    Attack("aborted downloads", "big", 50, ends=ANSWER),
    # Backends that don't do as they should.
    Attack("interim storms", "storm", 20, ends=ANSWER),
    Attack("dead backends", "dead", 50, ends=ANSWER),
    Attack("mute backends", "mute", 50, 200, deadline="response", answered=True),
    Attack("stuck uploads", "stuck upload", 10, 20, deadline="response"),
    Attack("no descriptors", "nothing", 1000, 600, exhausts=True),
)
