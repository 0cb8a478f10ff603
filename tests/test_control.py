"""The control socket: real unix sockets with peers of every kind, and its limits on a clock."""

import contextlib
import errno
import functools
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from dlba import control
from dlba.control import (
    CONNECTIONS,
    LINE_LIMIT,
    TIME_OUT,
    ControlService,
    _Connection,
    answer,
    flow_of,
)
from dlba.errors import DLBAError

WAIT = 20.0  # seconds; generous, only a hang meets it
ECHO = b'{"command": "echo", "n": 1}\n'


def echo(request, peer):
    """Give the request back."""
    return {"request": request}


def refuse(request, peer):
    raise DLBAError("port: expected a good one, got a bad one")


def fail(request, peer):
    raise ZeroDivisionError("secret")


COMMANDS = {"echo": echo, "refuse": refuse, "fail": fail}


def in_thread(method):
    """Run a test method in a thread, beside the reactor."""

    @functools.wraps(method)
    def run(self):
        return deferToThread(method, self)

    return run


def pause(seconds):
    """Let the reactor run, in a thread."""
    blockingCallFromThread(reactor, deferLater, reactor, seconds)


def until(holds):
    """Let the reactor run, in a thread, until `holds()`."""
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        pause(0.01)


def answered(line, commands=COMMANDS):
    return json.loads(answer(line, commands))


class Answers(SynchronousTestCase):
    """One line in, one line out."""

    def test_a_command(self):
        got = answered(b'{"command": "echo", "port": 4}\r')
        self.assertEqual(got, {"ok": True, "request": {"command": "echo", "port": 4}})

    def test_a_command_that_refuses(self):
        self.assertEqual(
            answered(b'{"command": "refuse"}'),
            {"ok": False, "error": "refuse: port: expected a good one, got a bad one"},
        )

    def test_a_command_that_fails(self):
        """Whatever it raises or gives is logged and answered without a word about it."""
        deep = {}
        for _ in range(10_000):
            deep = {"x": deep}
        table = (
            (fail, ZeroDivisionError),
            (lambda *_: {"x": float("nan")}, ValueError),
            (lambda *_: {"x": b""}, TypeError),
            (lambda *_: None, TypeError),
            (lambda *_: deep, RecursionError),
        )
        for command, kind in table:
            got = answered(b'{"command": "x"}', {"x": command})
            self.assertEqual(got, {"ok": False, "error": "x: internal error, see the node's log"})
            self.assertEqual(len(self.flushLoggedErrors(kind)), 1)

    def test_lines_that_are_no_request(self):
        something = "control: expected a JSON object, got something else"
        value = "control: expected a JSON object, got another value"
        known = "control: command: expected one of echo, fail, refuse, got "
        table = (
            (b"", something),
            (b"\0", something),
            (b"GET / HTTP/1.1", something),
            (b"\xff\xfe{}", something),
            ('{"command": "echo"}'.encode("utf-16"), something),
            (b"[" * LINE_LIMIT, something),
            (b'{"a":' * (LINE_LIMIT // 5), something),
            (b"9" * 5000, something),
            (b'{"command": "echo", "x": NaN}', something),
            (b'{"command": "echo", "x": -Infinity}', something),
            (b'{"command": "echo"} {}', something),
            (b"[]", value),
            (b"null", value),
            (b'"echo"', value),
            (b"1" * 4000, value),
            (b"{}", known + "no text"),
            (b'{"command": 1}', known + "no text"),
            (b'{"command": ["echo"]}', known + "no text"),
            (b'{"command": {}}', known + "no text"),
            (b'{"command": "eche"}', known + '"eche"'),
            (b'{"command": "\\u001b[2J"}', known + '"\\u001b[2J"'),
            (b'{"command": "\\ud800"}', known + '"\\ud800"'),
            (b'{"command": "' + b"x" * 9999 + b'"}', known + '"' + "x" * 60 + '…"'),
        )
        for line, expected in table:
            self.assertEqual(answered(line), {"ok": False, "error": expected}, line[:40])

    def test_numbers_beyond_floats(self):
        """JSON's grammar has no bound: a command sees infinity and no answer can hold it."""
        got = answered(b'{"command": "echo", "x": 1e999}')
        self.assertEqual(got["error"], "echo: internal error, see the node's log")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )

    @given(st.dictionaries(st.text() | st.sampled_from(["command", "address", "port"]), values))
    def test_any_object(self, request):
        got = answered(json.dumps(request).encode(), {"where": lambda r, _: {"f": flow_of(r)}})
        self.assertIs(got["ok"], False)

    @given(st.binary())
    def test_anything(self, line):
        self.assertIs(answered(line, {"where": echo})["ok"], False)


class Flows(SynchronousTestCase):
    """The flow key in a request."""

    def test_flow(self):
        for address, number in (("192.0.2.7", 0xC0000207), ("0.0.0.0", 0), ("255.255.255.255", -1)):
            got = flow_of({"address": address, "port": 65535, "more": 1})
            self.assertEqual(got, (number % 2**32, 65535))

    def test_wrong(self):
        for address in (
            None,
            3221225991,
            b"192.0.2.7",
            "",
            "::1",
            "192.0.2",
            "localhost",
            "٣.1.1.1",
        ):
            error = self.assertRaises(DLBAError, flow_of, {"address": address, "port": 1})
            self.assertIn("address: expected an IPv4 address, got ", str(error))
        for port in (None, -1, 65536, 1.0, float("inf"), True, "1", 10**4000, [1]):
            error = self.assertRaises(DLBAError, flow_of, {"address": "192.0.2.7", "port": port})
            self.assertIn("port: expected a number from 0 to 65535", str(error))
        self.assertRaises(DLBAError, flow_of, {})


class Peer:
    """A blocking client of the socket."""

    def __init__(self, path, data=b""):
        self.socket = socket.socket(socket.AF_UNIX)
        # From the test's folder: a whole path may be too long for an address. While the node's
        # queue is full this waits, which a socket with a time-out doesn't.
        self.socket.connect(os.path.relpath(path))
        self.socket.settimeout(WAIT)
        self.received = b""
        if data:
            self.socket.sendall(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def line(self):
        """The next answer."""
        while b"\n" not in self.received:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(self.received)
            self.received += data
        line, _, self.received = self.received.partition(b"\n")
        return json.loads(line)

    def rest(self):
        """Every answer that comes until the node closes."""
        try:
            while data := self.socket.recv(65536):
                self.received += data
        except ConnectionResetError:
            pass  # it closed with bytes of ours unread
        assert self.received.endswith(b"\n") or not self.received
        return [json.loads(line) for line in self.received.splitlines()]


class Case(TestCase):
    """A service on the reactor, clients in a thread."""

    timeout = 120

    def setUp(self):
        self.folder = Path(self.mktemp())
        self.folder.mkdir(mode=0o700, parents=True)
        self.path = self.folder / "control"

    def service(self, commands=COMMANDS):
        service = ControlService(reactor, self.path, commands)
        self.addCleanup(service.stopService)
        service.privilegedStartService()
        service.startService()
        return service

    def mode(self):
        return stat.S_IMODE(self.path.stat().st_mode)


class Peers(Case):
    """What peers may do, and what becomes of it."""

    def setUp(self):
        super().setUp()
        self.running = self.service()

    @in_thread
    def test_who_asks(self):
        """By the kernel's word, whatever the request says."""
        asked = []
        blockingCallFromThread(reactor, self.running.stopService)

        def remember(request, peer):
            asked.append((request["peer"], peer))
            return {}

        self.service({"echo": remember})
        with Peer(self.path, b'{"command": "echo", "peer": "uid 0, pid 1"}\n') as peer:
            self.assertIs(peer.line()["ok"], True)
        self.assertEqual(asked, [("uid 0, pid 1", f"uid {os.getuid()}, pid {os.getpid()}")])

    def still_answers(self):
        with Peer(self.path, ECHO) as peer:
            self.assertIs(peer.line()["ok"], True)

    @in_thread
    def test_several_in_order(self):
        lines = [json.dumps({"command": "echo", "n": n}).encode() for n in range(1000)]
        lines[500] = b"nonsense"
        lines[501] = b'{"command": "fail"}'
        with Peer(self.path, b"\n".join(lines) + b"\n") as peer:
            got = [peer.line() for _ in lines]
        self.assertEqual([g["ok"] for g in got], [n not in (500, 501) for n in range(1000)])
        self.assertEqual(
            [g["request"]["n"] for g in got if g["ok"]],
            [n for n in range(1000) if n not in (500, 501)],
        )
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    @in_thread
    def test_byte_by_byte(self):
        with Peer(self.path) as peer:
            for byte in ECHO + b"[]\n":
                peer.socket.sendall(bytes([byte]))
            self.assertEqual([peer.line()["ok"], peer.line()["ok"]], [True, False])

    @in_thread
    def test_half_close(self):
        """All that was asked is answered, then the node closes too."""
        with Peer(self.path, ECHO * 3) as peer:
            peer.socket.shutdown(socket.SHUT_WR)
            self.assertEqual([a["ok"] for a in peer.rest()], [True] * 3)
        with Peer(self.path) as peer:
            peer.socket.shutdown(socket.SHUT_WR)
            self.assertEqual(peer.rest(), [])

    @in_thread
    def test_line_without_its_end(self):
        with Peer(self.path, ECHO + ECHO[:-1]) as peer:
            peer.socket.shutdown(socket.SHUT_WR)
            first, second = peer.rest()
        self.assertIs(first["ok"], True)
        self.assertEqual(second["error"], "control: expected a line, got one without its end")

    @in_thread
    def test_longest_line(self):
        start = ECHO[:-2] + b', "x": "'
        fits = start + b"x" * (LINE_LIMIT - len(start) - 2) + b'"}'
        self.assertEqual(len(fits), LINE_LIMIT)
        with Peer(self.path, fits + b"\n" + ECHO) as peer:
            self.assertEqual([peer.line()["ok"], peer.line()["ok"]], [True, True])
        for data in (fits[:-2] + b'x"}\n' + ECHO, b"x" * (LINE_LIMIT + 1), b"[" * 2 * LINE_LIMIT):
            with Peer(self.path, ECHO + data) as peer:
                first, second = peer.rest()
                self.assertIs(first["ok"], True)
                self.assertIn("expected a line of at most 65536 bytes", second["error"])

    @in_thread
    def test_endless_line(self):
        with Peer(self.path) as peer:
            try:
                for _ in range(1000):
                    peer.socket.sendall(b"x" * 65536)
                self.fail("expected the node to close")
            except BrokenPipeError:
                pass
            (got,) = peer.rest()
        self.assertIn("at most 65536 bytes", got["error"])

    @in_thread
    def test_peers_that_go_early(self):
        for data in (b"", b"{", ECHO, ECHO * 500, b"x" * (LINE_LIMIT + 1)):
            for _ in range(20):
                Peer(self.path, data).socket.close()
            self.still_answers()
        self.assertEqual(self.flushLoggedErrors(), [])

    @in_thread
    def test_descriptors_in_a_message(self):
        """Those that a peer sends along are closed."""
        before = len(os.listdir("/proc/self/fd"))
        with Peer(self.path) as peer, open(os.devnull) as file:
            socket.send_fds(peer.socket, [ECHO], [file.fileno()] * 100)
            self.assertIs(peer.line()["ok"], True)
        self.still_answers()
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), before + 2)

    @in_thread
    def test_many_connections(self):
        peers = [Peer(self.path) for _ in range(CONNECTIONS)]
        for peer in peers:
            peer.socket.sendall(ECHO)
            self.assertIs(peer.line()["ok"], True)
        for _ in range(30):
            with Peer(self.path) as late:
                (got,) = late.rest()
                self.assertEqual(got["error"], "control: expected at most 16 connections, got more")
        for peer in peers[1:]:
            peer.socket.close()
        until(lambda: len(self.running._peers) == 1)
        with Peer(self.path, ECHO) as peer, peers[0]:
            self.assertIs(peer.line()["ok"], True)

    @in_thread
    def test_peer_that_takes_no_answers(self):
        """It is cut off in time; until then others are served and little is kept for it."""
        self.patch(control, "TIME_OUT", 3.0)
        with Peer(self.path) as peer:
            peer.socket.setblocking(False)
            asked = 0

            def full():
                nonlocal asked
                with contextlib.suppress(BlockingIOError):
                    asked += peer.socket.send(ECHO * 1000)
                return any(one._full for one in list(self.running._peers))

            until(full)
            self.assertLess(asked, 10_000_000)
            (connection,) = (one for one in self.running._peers if one._full)
            self.assertLess(len(connection._buffer), 2 * LINE_LIMIT)
            self.still_answers()
            until(lambda: connection not in self.running._peers)
        self.still_answers()

    @in_thread
    def test_slow_peer(self):
        """A byte now and then buys no time."""
        self.patch(control, "TIME_OUT", 0.5)
        with Peer(self.path) as peer:
            sent = 0
            try:
                for byte in ECHO * 100:
                    peer.socket.sendall(bytes([byte]))
                    sent += 1
                    pause(0.1)
            except BrokenPipeError:
                pass
            self.assertLess(sent, len(ECHO))
            (got,) = peer.rest()
        self.assertIn("expected a line within ", got["error"])

    async def test_no_descriptor_left(self):
        """The node doesn't spin; the peer is served when there is one again."""
        self.patch(control, "PAUSE", 0.1)
        listener = self.running._listener

        class Full:
            left = 2

            def fileno(self):
                return listening.fileno()

            def accept(self):
                if self.left:
                    self.left -= 1
                    raise OSError(errno.EMFILE, "Too many open files")
                return listening.accept()

            def close(self):
                listening.close()

        listening, listener._socket = listener._socket, Full()
        await deferToThread(self.still_answers)
        self.assertEqual(listener._socket.left, 0)
        listener._socket.left = 1
        peer = Peer(self.path)
        await deferLater(reactor, 0.05)
        await self.running.stopService()
        peer.socket.close()


class Files(Case):
    """The socket's file, from the start to the stop."""

    def problem(self):
        service = ControlService(reactor, self.path, COMMANDS)
        error = self.assertRaises(DLBAError, service.privilegedStartService)
        self.assertTrue(str(error).startswith(f"{self.path}: expected "), error)
        return str(error)

    async def ask(self):
        def exchange():
            with Peer(self.path, ECHO) as peer:
                return peer.line()["ok"]

        self.assertIs(await deferToThread(exchange), True)

    async def test_private_from_the_first_moment(self):
        modes = []

        class Spy(socket.socket):
            def bind(self, name):
                super().bind(name)
                modes.append(stat.S_IMODE(os.stat(name).st_mode))

        self.addCleanup(os.umask, os.umask(0))
        self.patch(control.socket, "socket", Spy)
        service = self.service()
        self.assertEqual((modes, self.mode()), ([0o600], 0o600))
        self.assertEqual(os.umask(0), 0)
        await service.stopService()

    async def test_removed_at_stop(self):
        service = self.service()
        peer = Peer(self.path, ECHO[:-1])
        await self.ask()
        await service.stopService()
        self.assertFalse(self.path.exists())
        self.assertEqual(peer.rest(), [])
        peer.socket.close()
        await service.stopService()

    async def test_another_at_stop_stays(self):
        """A file or a socket that took the name in between isn't ours."""
        service = self.service()
        self.path.unlink()
        self.path.write_text("x")
        await service.stopService()
        self.assertEqual(self.path.read_text(), "x")
        self.path.unlink()
        first = self.service()
        self.path.unlink()
        second = self.service()
        await first.stopService()
        await self.ask()
        await second.stopService()
        self.assertFalse(self.path.exists())

    async def test_gone_at_stop(self):
        service = self.service()
        self.path.unlink()
        await service.stopService()
        service = self.service()
        self.folder.rename(self.folder.with_name("moved"))
        await service.stopService()

    async def test_start_again(self):
        service = self.service()
        await service.stopService()
        service.startService()
        await self.ask()

    async def test_killed_process(self):
        """Its socket is replaced; while it lived it wasn't."""
        code = (
            "import socket, sys\n"
            "s = socket.socket(socket.AF_UNIX); s.bind('control'); s.listen(0)\n"
            "print('up', flush=True); sys.stdin.read()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with process:
            self.assertEqual(process.stdout.readline(), b"up\n")
            for _ in range(3):  # the last ones while its queue is full
                self.assertIn("got one with which another process runs", self.problem())
            self.assertTrue(self.path.is_socket())
            process.send_signal(signal.SIGKILL)
            process.wait(WAIT)
        self.assertTrue(self.path.is_socket())
        self.service()
        await self.ask()
        self.assertEqual(self.mode(), 0o600)

    async def test_second_service(self):
        self.service()
        self.assertIn("got one with which another process runs", self.problem())
        await self.ask()

    def test_symbolic_links(self):
        """None is followed or replaced, wherever it leads."""
        target = self.folder / "target"
        self.path.symlink_to("target")
        with socket.socket(socket.AF_UNIX) as other:
            self.assertIn("got another file", self.problem())
            self.assertFalse(target.exists())
            other.bind(os.path.relpath(target))
            mode = target.stat().st_mode
            self.assertIn("got another file", self.problem())
            other.listen()
            self.assertIn("got another file", self.problem())
        self.assertIn("got another file", self.problem())
        self.assertEqual(target.stat().st_mode, mode)
        self.assertTrue(self.path.is_symlink())

    def test_other_files(self):
        self.path.write_text("precious")
        self.assertIn("got another file", self.problem())
        self.assertEqual(self.path.read_text(), "precious")
        self.path.unlink()
        self.path.mkdir()
        self.assertIn("got another file", self.problem())
        self.path.rmdir()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(os.path.relpath(self.path))
            self.assertIn("got: Protocol wrong type for socket", self.problem())
        self.path.unlink()

    def test_no_folder(self):
        self.folder.rmdir()
        self.assertIn("got: No such file or directory", self.problem())
        self.folder.write_text("")
        self.assertIn("got: Not a directory", self.problem())

    async def test_long_path(self):
        """Longer than the address of a unix socket."""
        self.folder = self.folder.absolute() / ("x" * 120)
        self.folder.mkdir()
        self.path = self.folder / "control"
        before = len(os.listdir("/proc/self/fd"))
        service = self.service()
        self.assertIn("another process runs", self.problem())
        self.assertEqual(len(os.listdir("/proc/self/fd")), before + 1)
        self.assertEqual(self.mode(), 0o600)
        await service.stopService()
        self.assertFalse(self.path.exists())
        with socket.socket(socket.AF_UNIX) as stale:
            folder = os.open(self.folder, os.O_PATH)
            stale.bind(f"/proc/self/fd/{folder}/control")
            os.close(folder)
        self.service()


class Limits(SynchronousTestCase):
    """One connection on a clock."""

    def setUp(self):
        self.clock = Clock()
        self.peers = set()

    def connected(self):
        connection = _Connection(self.clock, COMMANDS, self.peers)
        transport = StringTransport()
        connection.makeConnection(transport)
        return connection, transport

    def test_silence(self):
        connection, transport = self.connected()
        self.clock.advance(TIME_OUT - 0.1)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(transport.disconnecting)
        self.assertIn(b"expected a line within 10 s, got none", transport.value())
        self.assertFalse(transport.disconnected)
        self.clock.advance(TIME_OUT)  # and it doesn't take even that
        self.assertTrue(transport.disconnected)
        connection.connectionLost(Failure(connectionDone.value))
        self.assertEqual((self.clock.getDelayedCalls(), self.peers), ([], set()))

    def test_each_request_has_its_time(self):
        connection, transport = self.connected()
        for _ in range(5):
            self.clock.advance(TIME_OUT - 1)
            connection.dataReceived(ECHO)
        self.clock.advance(TIME_OUT - 1)
        self.assertFalse(transport.disconnecting)
        self.assertEqual(transport.value().count(b"\n"), 5)

    def test_one_answer_a_turn(self):
        connection, transport = self.connected()
        connection.dataReceived(ECHO * 3)
        self.assertEqual(transport.value().count(b"\n"), 1)
        self.assertEqual(transport.producerState, "paused")
        self.clock.advance(0)  # as many turns as there is something to do
        self.assertEqual(transport.value().count(b"\n"), 3)
        self.assertEqual(transport.producerState, "producing")

    def test_no_answer_that_is_not_taken(self):
        connection, transport = self.connected()
        connection.dataReceived(ECHO * 3)
        connection.pauseProducing()
        self.clock.advance(1)
        self.assertEqual(transport.value().count(b"\n"), 1)
        connection.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(transport.value().count(b"\n"), 3)
        connection.pauseProducing()
        self.clock.advance(TIME_OUT)
        self.assertTrue(transport.disconnected)

    def test_what_follows_an_error_is_not_read(self):
        connection, transport = self.connected()
        connection.dataReceived(b"x" * (LINE_LIMIT + 1))
        connection.dataReceived(b"\n" + ECHO)
        connection.readConnectionLost()
        self.clock.advance(1)
        self.assertEqual(transport.value().count(b"\n"), 1)
        self.assertTrue(transport.disconnecting)

    def test_lost_at_any_point(self):
        for data in (b"", b"{", ECHO, ECHO * 3, b"x" * (LINE_LIMIT + 1)):
            connection, transport = self.connected()
            connection.dataReceived(data)
            connection.connectionLost(Failure(connectionDone.value))
            said = transport.value()
            self.clock.advance(3 * TIME_OUT)
            self.assertEqual(transport.value(), said)
            self.assertEqual((self.clock.getDelayedCalls(), self.peers), ([], set()))
