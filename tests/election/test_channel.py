"""Tests of dlba.election.channel over real sockets and real TLS, with nodes that keep the rules."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import attrs
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from dlba.addresses import Endpoint
from dlba.election.channel import Channel, PeerAddress
from dlba.election.connection import CALLS_LIMIT
from dlba.election.credentials import load
from dlba.election.hello import Hello
from dlba.election.messages import DATA_LIMIT, Delta, Grant, Keys, Pull
from dlba.errors import DLBAError, PeerError
from tests.election.certificates import files, make

NAMES = ("a", "b", "c")
PATIENCE = 20  # seconds; only a hang meets it
_made: list[Path] = []


def certificates() -> Path:
    """A folder with the certificates of all nodes; made once."""
    if not _made:
        folder = Path("channel-certificates").absolute()
        make(folder, *NAMES)
        _made.append(folder)
    return _made[0]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Events:
    """Writes down what a channel tells; `raises`: what `message` raises."""

    def __init__(self):
        self.list = []
        self.raises = None
        #: Numbers of the nodes to which there is a channel.
        self.connected = set()

    def up(self, number, hello):
        self.connected.add(number)
        self.list.append(("up", number, hello.incarnation))

    def down(self, number, why):
        self.connected.discard(number)
        self.list.append(("down", number, why))

    def refused(self, number):
        if ("refused", number) not in self.list[-1:]:
            self.list.append(("refused", number))

    def message(self, number, message):
        self.list.append(("message", number, message))
        if self.raises is not None:
            raise self.raises

    def of(self, kind):
        return [event[1:] for event in self.list if event[0] == kind]


class Case(TestCase):
    timeout = 60

    def setUp(self):
        self.folder = certificates()
        self.ports = free_ports(len(NAMES))
        self.started = []

    async def tearDown(self):
        await gatherResults([channel.stopService() for channel in self.started if channel.running])

    def address(self, number):
        name = NAMES[number]
        mac = f"02:00:00:00:00:0{number}"
        return PeerAddress(
            number=number, name=name, mac=mac, host="127.0.0.1", port=self.ports[number]
        )

    def hello(self, number, incarnation="", **changes):
        hello = Hello(
            protocol=(1, 1),
            array="shop",
            node=NAMES[number],
            number=number,
            incarnation=incarnation or f"{number:02}" * 16,
            mac=self.address(number).mac,
            buckets=64,
            hash="",
            config_version=0,
        )
        return attrs.evolve(hello, **changes)

    def channel(self, number, incarnation="", timeout=5.0, port=None, peers=(0, 1, 2), **changes):
        """A channel that isn't started; its events are at `.told`."""
        port = self.ports[number] if port is None else port
        told = Events()
        channel = Channel(
            reactor,
            self.hello(number, incarnation, **changes),
            load(files(self.folder, NAMES[number])),
            Endpoint("127.0.0.1", port),
            [self.address(peer) for peer in peers if peer != number],
            told,
            timeout,
        )
        channel.told = told
        return channel

    def start(self, *channels):
        for channel in channels:
            channel.privilegedStartService()
            channel.startService()
            self.started.append(channel)

    async def until(self, condition, what=""):
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                told = [channel.told.list[-8:] for channel in self.started]
                self.fail(f"expected {what or 'it'} within {PATIENCE} s, got {told}")
            await deferLater(reactor, 0.005)

    async def pair(self, **options):
        """Channels of a and b, connected."""
        a, b = (self.channel(number, peers=(0, 1), **options) for number in (0, 1))
        self.start(a, b)
        await self.until(lambda: a.told.connected and b.told.connected, "a pair")
        return a, b

    def deafen(self, channel, number):
        """The connection takes nothing from its socket any more."""
        channel._peers[number].current.transport.transport.stopReading()


class ConnectTests(Case):
    async def test_everybody_to_everybody(self):
        channels = [self.channel(number) for number in range(3)]
        self.start(*channels)
        await self.until(lambda: all(len(each.told.connected) == 2 for each in channels))
        for number, channel in enumerate(channels):
            others = {other for other in range(3) if other != number}
            self.assertEqual(channel.told.connected, others)
            self.assertEqual(
                sorted(channel.told.of("up")), [(other, f"{other:02}" * 16) for other in others]
            )
            self.assertEqual(channel.told.of("down"), [])

    async def test_messages_in_order_both_ways(self):
        a, b = await self.pair()
        ends = {0: (a, b), 1: (b, a)}
        sent = [Pull(first=index) for index in range(200)]
        for index, message in enumerate(sent):
            self.assertTrue(a.send(1, message))
            self.assertTrue(b.send(0, message))
            if index == 100:
                await deferLater(reactor, 0.01)
        await self.until(lambda: all(len(each.told.of("message")) == 200 for each in (a, b)))
        for number, (_, far) in ends.items():
            self.assertEqual(far.told.of("message"), [(number, message) for message in sent])

    async def test_the_largest_message(self):
        a, b = await self.pair()
        message = Keys(data=bytes(range(256)) * (DATA_LIMIT // 256))
        self.assertTrue(a.send(1, message))
        await self.until(lambda: b.told.of("message"))
        self.assertEqual(b.told.of("message"), [(0, message)])
        self.assertFalse(a.send(1, Keys(data=bytes(DATA_LIMIT + 1))))
        self.assertTrue(a.send(1, Pull(first=0)))

    async def test_nobody_there(self):
        a = self.channel(0)
        b = self.channel(1)
        self.start(b)
        await self.until(lambda: b.told.of("refused"))
        self.assertEqual({number for (number,) in b.told.of("refused")} - {0, 2}, set())
        self.assertFalse(b.send(0, Pull(first=0)))
        self.assertFalse(b.send(7, Pull(first=0)))
        self.start(a)
        await self.until(lambda: b.told.connected)
        self.assertIn(0, b.told.connected)

    async def test_both_sides_learn_that_a_process_is_gone(self):
        for gone in (0, 1):
            a, b = await self.pair()
            left, number = (b, 0) if gone == 0 else (a, 1)
            await (a, b)[gone].stopService()
            await self.until(lambda left=left: left.told.list[-1][0] == "refused")
            kinds = [event[:2] for event in left.told.list]
            self.assertEqual(kinds[-2:], [("down", number), ("refused", number)])
            self.assertEqual(left.told.connected, set())
            await left.stopService()

    async def test_a_new_process_is_another_incarnation(self):
        a, b = await self.pair()
        await b.stopService()
        again = self.channel(1, "ab" * 8, peers=(0, 1))
        self.start(again)
        await self.until(lambda: len(a.told.of("up")) == 2)
        self.assertEqual(a.told.of("up"), [(1, "01" * 16), (1, "ab" * 8)])

    async def test_the_last_words_arrive(self):
        a, b = await self.pair()
        sent = [Keys(data=bytes(100_000)) for _ in range(10)]
        for message in sent:
            self.assertTrue(b.send(0, message))
        await b.stopService()
        await self.until(lambda: a.told.of("down"))
        self.assertEqual(len(a.told.of("message")), 10)

    async def test_a_mismatch_is_refused_by_name(self):
        a, b = (self.channel(n, peers=(0, 1), buckets=64 << n) for n in (0, 1))
        said = []
        self.patch(b._notes, "say", lambda *words: said.append(words))
        self.start(a, b)
        await self.until(lambda: said)
        self.assertEqual(
            said[0],
            ("refused", "a", "the peer refuses this node: buckets: expected 64, got 128"),
        )
        self.assertEqual(a.told.of("up") + b.told.of("up"), [])

    async def test_hello_and_credentials_may_change(self):
        a, b = await self.pair()
        a.hello = attrs.evolve(a.hello, hash="sum")
        b.hello = attrs.evolve(b.hello, hash="keyed 1")
        b.credentials = load(files(self.folder, "c"))
        said = []
        self.patch(a._notes, "say", lambda kind, who, text: said.append((who, text)))
        a.told.raises = PeerError("test")
        b.send(0, Pull(first=0))
        await self.until(lambda: any("the name of another node" in text for _, text in said))
        a.told.raises = None
        b.credentials = load(files(self.folder, "b"))
        await self.until(lambda: any("hash: expected sum" in text for _, text in said))
        b.hello = attrs.evolve(b.hello, hash="sum")
        await self.until(lambda: a.told.connected)


class StartTests(Case):
    def test_a_port_that_is_taken(self):
        a = self.channel(0)
        with socket.create_server(("127.0.0.1", self.ports[0])):
            error = self.assertRaises(DLBAError, a.privilegedStartService)
        self.assertEqual(
            str(error),
            f"channel: {a._listen}: expected a free port, got: Address already in use",
        )

    async def test_undo(self):
        a = self.channel(0)
        a.privilegedStartService()
        a.undo()
        await deferLater(reactor, 0)
        socket.create_server(("127.0.0.1", self.ports[0])).close()

    async def test_stop_and_start_again(self):
        a, b = await self.pair()
        await a.stopService()
        await self.until(lambda: not b.told.connected)
        self.start(a)
        await self.until(lambda: b.told.connected)


class SilenceTests(Case):
    async def test_a_peer_that_answers_nothing_is_cut_off(self):
        a, b = await self.pair(timeout=0.4)
        self.deafen(b, 0)
        self.assertTrue(a.send(1, Pull(first=1)))
        await self.until(lambda: a.told.of("down"))
        self.assertEqual(a.told.of("down"), [(1, "expected an answer within 0.4 s, got none")])
        # It doesn't hear of that: it learns by its own call, and dials again.
        self.assertTrue(b.send(0, Pull(first=1)))
        await self.until(lambda: len(a.told.of("up")) == 2)

    async def test_silence_that_nobody_asked_to_break_is_fine(self):
        a, b = await self.pair(timeout=0.1)
        await deferLater(reactor, 0.5)
        self.assertEqual(a.told.of("down") + b.told.of("down"), [])

    async def test_own_absence_is_nobody_elses_fault(self):
        a, b = await self.pair(timeout=0.4)
        self.assertTrue(a.send(1, Pull(first=1)))
        time.sleep(1.0)  # as a stopped process does
        await deferLater(reactor, 0.3)
        self.assertEqual(b.told.of("message"), [(0, Pull(first=1))])
        self.assertEqual(a.told.of("down") + b.told.of("down"), [])

    async def test_the_backlog_is_bounded(self):
        a, b = await self.pair(timeout=30)
        self.deafen(b, 0)
        sent = 0
        while a.send(1, Pull(first=1)):
            sent += 1
            self.assertLessEqual(sent, CALLS_LIMIT)
        self.assertEqual(sent, CALLS_LIMIT)
        self.assertEqual(a.told.connected, {1})
        b._peers[0].current.transport.transport.startReading()
        await self.until(lambda: len(b.told.of("message")) == sent)
        await self.until(lambda: a.send(1, Pull(first=1)))

    async def test_the_backlog_is_bounded_in_bytes(self):
        a, b = await self.pair(timeout=30)
        self.deafen(b, 0)
        sent = 0
        while a.send(1, Keys(data=bytes(DATA_LIMIT))):
            sent += 1
        self.assertEqual(sent, 7)
        self.assertTrue(a.send(1, Pull(first=1)))

    async def test_a_peer_that_takes_no_answer_is_cut_off(self):
        a, b = await self.pair(timeout=0.4)
        b._peers[0].current.check = lambda *_: None
        for channel, number, option in ((a, 1, socket.SO_SNDBUF), (b, 0, socket.SO_RCVBUF)):
            # The kernel holds little then, so that little needs to be sent.
            handle = channel._peers[number].current.transport.transport.socket
            handle.setsockopt(socket.SOL_SOCKET, option, 4096)
        self.deafen(b, 0)
        for _ in range(2000):
            # Past the bound of `send`: what b sends is answered, and b takes no answer.
            for _ in range(400):
                b._peers[0].current._line.call("ping").addErrback(lambda _: None)
            await deferLater(reactor, 0.001)
            if a.told.of("down"):
                break
        self.assertEqual(a.told.of("down"), [(1, "expected an answer within 0.4 s, got none")])


class IncarnationTests(Case):
    async def second(self, a, incarnation):
        """Another process that is b; its port is taken, so it listens elsewhere."""
        (port,) = free_ports(1)
        other = self.channel(1, incarnation, peers=(0, 1), port=port)
        self.start(other)
        return other

    async def test_a_second_one_is_refused_while_the_first_answers(self):
        a, b = await self.pair()
        said = []
        self.patch(a._notes, "say", lambda kind, who, text: said.append((kind, who, text)))
        other = await self.second(a, "cd" * 8)
        await self.until(lambda: said)
        self.assertEqual(said[0][:2], ("refused", "b"))
        self.assertIn(
            "incarnation: expected one process, got a second while one answers", said[0][2]
        )
        self.assertEqual(a.told.of("down") + other.told.of("up"), [])
        self.assertTrue(b.send(0, Grant(term=1)))
        await self.until(lambda: a.told.of("message"))

    async def test_it_is_taken_when_the_first_is_silent(self):
        a, b = await self.pair(timeout=30)
        self.deafen(b, 0)
        await self.second(a, "cd" * 8)
        await self.until(lambda: len(a.told.of("up")) == 2)
        events = [event[:2] for event in a.told.list if event[0] != "refused"]
        self.assertEqual(events, [("up", 1), ("down", 1), ("up", 1)])
        self.assertEqual(a.told.of("up")[1], (1, "cd" * 8))
        await b.stopService()

    async def test_the_same_one_replaces_its_connection(self):
        a, b = await self.pair(timeout=30)
        self.deafen(b, 0)
        same = await self.second(a, b.hello.incarnation)
        await self.until(lambda: len(a.told.of("up")) == 2)
        self.assertEqual(a.told.of("down"), [])
        await b.stopService()
        self.assertTrue(a.send(1, Pull(first=3)))
        await self.until(lambda: same.told.of("message"))


class EventTests(Case):
    async def test_a_message_that_breaks_the_rules_cuts_one_peer_off(self):
        channels = a, b, c = [self.channel(number) for number in range(3)]
        self.start(*channels)
        await self.until(lambda: all(len(each.told.connected) == 2 for each in channels))
        a.told.raises = PeerError("grant: expected a claim before, got none")
        b.send(0, Grant(term=1))
        await self.until(lambda: a.told.of("down"))
        self.assertEqual(a.told.of("down"), [(1, "grant: expected a claim before, got none")])
        a.told.raises = None
        self.assertTrue(c.send(0, Grant(term=2)))
        await self.until(lambda: (2, Grant(term=2)) in a.told.of("message"))
        await self.until(lambda: 1 in a.told.connected)

    async def test_a_bug_of_ours_is_logged_and_the_process_goes_on(self):
        a, b = await self.pair()
        a.told.raises = RuntimeError("secret")
        b.send(0, Grant(term=1))
        await self.until(lambda: a.told.of("down"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(a.told.of("down"), [(1, "internal error")])
        a.told.raises = None
        await self.until(lambda: a.told.connected)

    async def test_what_follows_in_the_same_bytes_is_not_told(self):
        a, b = await self.pair()
        a.told.raises = PeerError("no")
        for _ in range(5):
            b.send(0, Grant(term=1))
        await self.until(lambda: a.told.of("down"))
        self.assertEqual(len(a.told.of("message")), 1)

    async def test_sending_out_of_an_event(self):
        a, b = await self.pair()
        a.told.message = lambda number, message: [a.send(number, message) for _ in range(2)]
        b.send(0, Delta(term=1, since=0, version=1, data=b"x" * 6))
        await self.until(lambda: len(b.told.of("message")) == 2)


class ProcessTests(Case):
    """A node in a process of its own, stopped, continued and killed."""

    async def test_stopped_and_killed(self):
        a = self.channel(0, timeout=0.5, peers=(0, 1))
        self.start(a)
        where = [str(self.folder), *map(str, self.ports)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, str(Path(__file__).with_name("one_node.py").absolute()), *where]
        process = subprocess.Popen(command, env=environment)
        try:
            await self.until(lambda: a.told.connected, "the process")
            os.kill(process.pid, signal.SIGSTOP)
            self.assertTrue(a.send(1, Pull(first=1)))
            await self.until(lambda: a.told.of("down"))
            # The kernel still takes connections for a process that is stopped.
            await deferLater(reactor, 0.3)
            ((_, why),) = a.told.of("down")
            self.assertEqual(why, "expected an answer within 0.5 s, got none")
            self.assertNotEqual(a.told.list[-1], ("refused", 1))
            os.kill(process.pid, signal.SIGCONT)
            await self.until(lambda: len(a.told.of("up")) == 2)
            self.assertEqual(len(set(a.told.of("up"))), 1, "one incarnation")
            os.kill(process.pid, signal.SIGKILL)
            await self.until(lambda: a.told.list[-1] == ("refused", 1))
            self.assertEqual(a.told.list[-2][:2], ("down", 1))
        finally:
            process.kill()
            process.wait()
