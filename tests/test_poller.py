"""The poller: dispatch, its boundary for exceptions, and both ways to run inside a reactor."""

import select
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from dlba.poller import BATCH, READ, WRITE, Poller
from tests.web.harness import GET, ProxyTest, configuration, in_thread


class Member:
    """Notes its events; `act` is called for each."""

    def __init__(self, act=lambda mask: None) -> None:
        self.events: list[int] = []
        self.aborted = 0
        self.act = act

    def on_event(self, mask: int) -> None:
        self.events.append(mask)
        self.act(mask)

    def abort(self) -> None:
        self.aborted += 1


def fail(mask: int) -> None:
    raise ZeroDivisionError("a bug of ours")


class Dispatch(SynchronousTestCase):
    """Alone, without a reactor."""

    def setUp(self) -> None:
        self.failed = 0
        self.poller = Poller(self.count)
        self.addCleanup(self.poller.detach)

    def count(self) -> None:
        self.failed += 1

    def pair(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        for sock in pair:
            sock.setblocking(False)
            self.addCleanup(sock.close)
        return pair

    def test_readable_and_writable(self):
        mine, other = self.pair()
        member = Member()
        self.poller.add(mine.fileno(), READ, member)
        self.poller.iterate(0)
        self.assertEqual(member.events, [])
        other.send(b"x")
        self.poller.iterate(5)
        self.assertEqual(member.events, [READ])
        self.poller.change(mine.fileno(), READ | WRITE)
        self.poller.iterate(0)
        self.assertEqual(member.events[1], READ | WRITE)
        self.poller.change(mine.fileno(), WRITE)
        self.poller.iterate(0)
        self.assertEqual(member.events[2], WRITE)

    def test_hang_up_is_told_without_being_asked_for(self):
        mine, other = self.pair()
        member = Member()
        self.poller.add(mine.fileno(), 0, member)
        other.close()
        self.poller.iterate(5)
        self.assertTrue(member.events[0] & select.EPOLLHUP)

    def test_remove_and_add_again(self):
        mine, other = self.pair()
        member = Member()
        self.poller.add(mine.fileno(), READ, member)
        other.send(b"x")
        self.poller.remove(mine.fileno())
        self.poller.remove(mine.fileno())
        self.poller.iterate(0)
        self.assertEqual(member.events, [])
        self.poller.add(mine.fileno(), READ, member)
        self.poller.iterate(0)
        self.assertEqual(member.events, [READ])

    def test_no_wait_in_vain(self):
        """What is put off is work: the turn doesn't wait for events first."""
        member = Member()
        self.poller.later(member)
        begun = time.monotonic()
        self.poller.iterate(20)
        self.assertLess(time.monotonic() - begun, 10)
        self.assertEqual(member.events, [READ])
        self.poller.iterate(0)
        self.assertEqual(member.events, [READ])

    def test_put_off_again_waits_for_its_next_turn(self):
        member = Member(lambda mask: self.poller.later(member))
        self.poller.later(member)
        for turn in range(1, 4):
            self.poller.iterate(0)
            self.assertEqual(len(member.events), turn)

    def test_put_off_comes_behind_the_others(self):
        order = []
        mine, other = self.pair()
        self.poller.add(mine.fileno(), READ, Member(lambda mask: order.append("event")))
        self.poller.later(Member(lambda mask: order.append("later")))
        other.send(b"x")
        self.poller.iterate(0)
        self.assertEqual(order, ["event", "later"])

    def test_exception_ends_its_member_alone(self):
        bad, good = Member(fail), Member()
        for member in (bad, good):
            mine, other = self.pair()
            self.poller.add(mine.fileno(), READ, member)
            other.send(b"x")
        self.poller.later(bad)
        self.poller.iterate(0)
        self.assertEqual((bad.aborted, self.failed), (2, 2))
        self.assertEqual((good.events, good.aborted), ([READ], 0))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_exception_while_aborting(self):
        class Worse(Member):
            def abort(self) -> None:
                raise ValueError("another")

        self.poller.later(Worse(fail))
        self.poller.iterate(0)
        self.assertEqual(self.failed, 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError, ValueError)), 2)

    def test_forgotten_within_the_batch(self):
        """Both are ready; whoever comes first closes the other: nobody is told of that one."""
        pairs = [self.pair() for _ in range(2)]
        members = []
        for index, (mine, other) in enumerate(pairs):

            def act(mask, theirs=pairs[1 - index][0]) -> None:
                self.poller.forget(theirs.fileno())
                theirs.close()

            members.append(Member(act))
            self.poller.add(mine.fileno(), READ, members[-1])
            other.send(b"x")
        self.poller.iterate(0)
        self.assertEqual(sorted(len(member.events) for member in members), [0, 1])

    def test_more_than_a_batch(self):
        members = []
        for _ in range(BATCH + 20):
            mine, other = self.pair()
            members.append(Member(lambda mask, mine=mine: mine.recv(1)))
            self.poller.add(mine.fileno(), READ, members[-1])
            other.send(b"x")
        self.poller.iterate(0)
        self.poller.iterate(0)
        self.assertEqual({len(member.events) for member in members}, {1})


class InFront(TestCase):
    """Around trial's own reactor, where that is the epoll reactor; else within it."""

    timeout = 30

    async def test_timers_calls_and_events(self):
        poller = Poller()
        poller.attach(reactor)
        mine, other = socket.socketpair()
        try:
            member = Member(lambda mask: mine.recv(1))
            poller.add(mine.fileno(), READ, member)
            later = Member()
            other.send(b"x")
            poller.later(later)
            await deferLater(reactor, 0.05)
            self.assertEqual((member.events, later.events), ([READ], [READ]))
            called: list[int] = []
            reactor.callFromThread(called.append, 1)
            await deferLater(reactor, 0)
            await deferLater(reactor, 0)
            self.assertEqual(called, [1])
        finally:
            poller.detach()
            mine.close()
            other.close()
        self.assertNotIn("doIteration", vars(reactor))
        # And it goes on without us.
        await deferLater(reactor, 0.01)

    async def test_the_last_of_several_users_detaches(self):
        poller = Poller()
        poller.attach(reactor)
        poller.attach(reactor)
        poller.detach()
        member = Member()
        poller.later(member)
        await deferLater(reactor, 0.01)
        self.assertEqual(member.events, [READ])
        poller.detach()
        self.assertNotIn("doIteration", vars(reactor))

    async def test_several_in_one_reactor(self):
        """Each hears of its own at once, whoever came first, and whoever goes first."""
        for first_to_go in (0, 1):
            pollers = Poller(), Poller()
            heard: list[tuple[int, float]] = []
            pairs = [socket.socketpair() for _ in pollers]

            def hear(index: int, mask: int, heard=heard, pairs=pairs) -> None:
                pairs[index][0].recv(1)
                heard.append((index, time.monotonic()))

            for index, poller in enumerate(pollers):
                poller.attach(reactor)
                poller.add(pairs[index][0].fileno(), READ, Member(partial(hear, index)))
            try:
                for index in (0, 1):
                    start = time.monotonic()
                    threading.Timer(0.05, pairs[index][1].send, [b"x"]).start()
                    await deferLater(reactor, 0.6)
                    self.assertEqual([who for who, _ in heard], [index])
                    self.assertLess(heard.pop()[1] - start, 0.4)
                pollers[first_to_go].detach()
                threading.Timer(0.05, pairs[1 - first_to_go][1].send, [b"x"]).start()
                await deferLater(reactor, 0.2)
                self.assertEqual([who for who, _ in heard], [1 - first_to_go])
            finally:
                pollers[1 - first_to_go].detach()
                for sock in (*pairs[0], *pairs[1]):
                    sock.close()
            self.assertNotIn("doIteration", vars(reactor))

    async def test_detach_with_something_put_off(self):
        poller = Poller()
        poller.attach(reactor)
        member = Member()
        poller.later(member)
        poller.detach()
        await deferLater(reactor, 0.02)
        self.assertEqual(member.events, [])


SCRIPT = """
import sys
from twisted.internet import {name}reactor
{name}reactor.install()
from twisted.internet import reactor
from pathlib import Path
from dlba.config.load import load_text
from dlba.web.service import WebService
from dlba.config.keys import SecretKey
web = load_text(sys.stdin.read(), Path("/"), "<test>").array.web
service = WebService(reactor, web, None, (SecretKey("a", b"0" * 32),), None)
service.privilegedStartService()
service.startService()
print(service.listeners[0].port, type(reactor).__name__, service.proxy.poller._front, flush=True)

def stop():
    def done(_):
        print("stopped", service.proxy.counters.responses, flush=True)
        reactor.stop()
    service.stopService().addCallback(done)

reactor.callWhenRunning(lambda: reactor.callInThread(
    lambda: (sys.stdin.close(), input_end.wait(), reactor.callFromThread(stop))))
import threading, os, signal
input_end = threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: input_end.set())
reactor.run()
"""


class Nested(ProxyTest):
    """Inside reactors of other kinds, in processes of their own."""

    def under(self, name: str, kind: str, front: bool) -> None:
        backend = self.backend()
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT.replace("{name}", name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        try:
            process.stdin.write(configuration([backend], site={"hosts": ["a"], "default": False}))
            process.stdin.close()
            port, reactor_name, in_front = process.stdout.readline().split()
            self.assertEqual((reactor_name, in_front), (kind, str(front)))
            client = self.client(port=int(port))
            # Own answers in bursts need `later`; the rest needs events.
            client.send((GET + GET.replace(b"Host: a", b"Host: b") * 40) * 3)
            for _ in range(3):
                self.assertEqual(client.response().status, 200)
                for _ in range(40):
                    self.assertEqual(client.response().status, 404)
            process.send_signal(10)
            self.assertEqual(client.end(), "eof")
            self.assertEqual(process.stdout.readline().split(), ["stopped", "3"])
            self.assertEqual(process.wait(20), 0)
        finally:
            process.kill()
            process.wait(20)
            process.stdout.close()

    @in_thread
    def test_select(self):
        self.under("select", "SelectReactor", False)

    @in_thread
    def test_poll(self):
        self.under("poll", "PollReactor", False)

    @in_thread
    def test_epoll(self):
        self.under("epoll", "EPollReactor", True)
