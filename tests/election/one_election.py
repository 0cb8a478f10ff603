"""One node's election, fed by hand: for the tests of dlba.election.machine and of its parts."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.commands import Send
from dlba.election.machine import Election, Settings
from dlba.election.messages import Alive, Ask, Claim, Grant, Heard, Heartbeat, Refuse, Resign
from dlba.election.reign import NodeInfo
from dlba.election.replication import Position
from dlba.election.transitions import State

DOWN = 0.3
START = 100.0


def mac(number):
    return bytes((2, 0, 0, 0, 1, number))


def beat(term, count=1, alone=False):
    return Heartbeat(
        term=term,
        version=0,
        parent_term=0,
        parent_version=0,
        alone=alone,
        count=count,
        signing="",
        failed=(),
    )


def alive(term=1, scheduler=-1, reign_term=0, count=1, eligible=True):
    return Alive(
        term=term,
        reign_term=reign_term,
        scheduler=scheduler,
        count=count,
        table_term=0,
        version=0,
        able=True,
        draining=False,
        eligible=eligible,
    )


class Case(SynchronousTestCase):
    """One election; each test is a subclass's."""

    nodes = 3
    number = 2
    term = 4
    majority = False
    disabled = 0
    gateway = False

    def setUp(self):
        infos = [
            NodeInfo(n, f"n{n}", 100, n != self.disabled, mac(n)) for n in range(1, self.nodes + 1)
        ]
        self.position = Position(0, 0)
        self.began, self.ended = [], []
        self.now = START
        self.election = Election(
            Settings(
                number=self.number,
                nodes=tuple(infos),
                heartbeat=0.1,
                down_after=DOWN,
                ping_every=0.1,
                majority=self.majority,
                gateway=self.gateway,
            ),
            self.term,
            -1,
            lambda: self.position,
            lambda now, dead: self.began.append(dead),
            self.ended.append,
            START,
        )

    # ---------------------------------------------------------------- what a test says

    def taken(self, kind=object):
        """The commands of that kind, or the messages of that kind with their receivers."""
        out = list(self.election.out)
        self.election.out.clear()
        if issubclass(kind, (Alive, Ask, Claim, Grant, Heard, Heartbeat, Refuse, Resign)):
            return [
                (one.number, one.message)
                for one in out
                if isinstance(one, Send) and isinstance(one.message, kind)
            ]
        return [one for one in out if isinstance(one, kind)]

    def run_for(self, seconds, every=lambda: None):
        """Ticks, 10 ms apart."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(self.now + 0.01, end)
            every()
            self.election.tick(self.now)

    def gets(self, what, *args):
        return getattr(self.election, what)(*args, self.now)

    def connect(self, *numbers):
        for number in numbers:
            self.gets("up", number, f"{number:x}")

    def follow(self, number=1, term=5):
        """A backup of that scheduler, with channels to all."""
        self.connect(*self.election.watches)
        self.gets("heartbeat", number, beat(term))
        self.assertIs(self.election.state, State.BACKUP)
        self.taken()

    def reign(self):
        """Scheduler, granted by all."""
        self.connect(*self.election.watches)
        self.run_for(1.2, self._grant)
        self.assertIs(self.election.state, State.SCHEDULER)
        for number in self.election.watches:
            self.confirm(number)
        self.taken()

    def _grant(self):
        for number, message in self.taken(Ask):
            self.gets("heard", number, Heard(id=message.id, heard=False, table_term=0, version=0))
        if self.election.state is State.CLAIMANT:
            for number in self.election.watches:
                self.gets("grant", number, Grant(term=self.election.term))

    def confirm(self, number, sends=True):
        if sends:
            self.election.beats(self.now)
        own = self.election
        self.gets(
            "alive",
            number,
            alive(own.term, own.own.number, own.reign.term, own.count),
        )

    def answer(self, heard=False):
        for number, message in self.taken(Ask):
            self.gets("heard", number, Heard(id=message.id, heard=heard, table_term=0, version=0))
