"""Checks of backends: what counts as good, what results do to requests, when they are made."""

import contextlib
import os
import re
import resource
import socket
import threading
import time
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.logger import formatEvent, globalLogPublisher

from dlba import __version__
from dlba.web import health
from dlba.web.checker import Check
from tests.web.harness import (
    WAIT,
    Backend,
    ProxyTest,
    Wire,
    closed_port,
    eventually,
    in_thread,
    reply,
)

#: Quick: the shortest time between checks that the configuration takes.
CHECK = {"every": 0.1, "rise": 2, "fall": 3, "timeout": 5.0}
OK = reply(b"fine", 200, b"Connection: close")
BUSY = reply(b"", 503)


class CheckTest(ProxyTest):
    """A proxy whose one pool is checked."""

    def setUp(self) -> None:
        super().setUp()
        self.told: list[str] = []

        def observe(event: dict[str, Any]) -> None:
            if event["log_namespace"] == "dlba.web.proxy.Proxy":
                self.told.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    async def _tear_down(self) -> None:
        if self.proxy is not None:
            self.service._running.checker.stop()
        await super()._tear_down()

    def check(self, *backends: Backend | int, pool: dict[str, Any] | None = None, **check) -> None:
        """Serve, with these settings of `check`."""
        self.serve(*backends, pool={"check": CHECK | check} | (pool or {}))

    def row(self, name: str = "app1") -> Any:
        return next(row for row in self.proxy.backends() if row.name == name)

    def marks(self) -> dict[str, tuple[bool, bool]]:
        """name → (failed, down)."""
        return {row.name: (row.failed, row.down) for row in self.proxy.backends()}

    def says(self, backend: Backend, *answers: bytes) -> None:
        """Answer the checks with these in turn, again and again; requests with the name."""
        numbers = iter(range(1_000_000))

        def script(wire: Wire) -> None:
            request = backend.take(wire)
            if request.line.startswith(b"GET /up "):
                wire.send(answers[next(numbers) % len(answers)])
            else:
                wire.send(reply(backend.name.encode()))

        backend.script = script

    def checks(self) -> int:
        """How many checks have ended."""
        return self.proxy.counters.checks

    def wait_for_checks(self, number: int) -> None:
        """Until so many more checks have ended."""
        wanted = self.checks() + number
        eventually(lambda: self.checks() >= wanted, "checks")


def until_gone(wire: Wire) -> None:
    """Wait until the other side has closed."""
    with contextlib.suppress(OSError):
        while wire.sock.recv(65536):
            pass


def asked(*answers: bytes):
    """A script: take the request, send these pieces, close."""

    def script(wire: Wire) -> None:
        wire.request()
        for answer in answers:
            wire.send(answer)

    return script


def then_hang(script):
    """Go on after `script` without a word until the check closes."""

    def hang(wire: Wire) -> None:
        script(wire)
        until_gone(wire)

    return hang


def repeat(data: bytes, first: bytes = b"", seconds: float = 0.0):
    """A script: take the request, send `first`, then `data` until the check closes."""

    def script(wire: Wire) -> None:
        wire.request()
        wire.send(first)
        with contextlib.suppress(OSError):
            while True:
                wire.send(data)
                time.sleep(seconds)

    return script


def resets(wire: Wire) -> None:
    wire.reset()


def resets_amid(wire: Wire) -> None:
    wire.request()
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    wire.reset()


LATE = "no response in time"
INVALID = "the response head isn't valid HTTP/1"

#: What a backend does, and why that is bad; "" if it isn't.
BEHAVIOURS = {
    "200": (asked(OK), ""),
    "204": (asked(b"HTTP/1.1 204 None\r\n\r\n"), ""),
    "304": (asked(b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n"), ""),
    "399": (asked(reply(b"", 399)), ""),
    "302": (asked(reply(b"", 302, b"Location: /elsewhere")), ""),
    "old": (asked(b"HTTP/1.0 200 OK\r\n\r\nold"), ""),
    "chunked": (
        then_hang(
            asked(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        ),
        "",
    ),
    "kept": (then_hang(asked(reply(b"whole"))), ""),
    "interim": (asked(b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n" + OK), ""),
    "pieces": (asked(*(OK[n : n + 1] for n in range(len(OK)))), ""),
    "huge body": (repeat(b"x" * 65536, b"HTTP/1.1 200 OK\r\n\r\n"), ""),
    "drips body": (repeat(b"x", b"HTTP/1.1 200 OK\r\n\r\n", 0.02), ""),
    "hangs in body": (then_hang(asked(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")), ""),
    "resets in body": (resets_amid, ""),
    "wrong chunks": (asked(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"), ""),
    "404": (asked(reply(b"", 404)), "status 404"),
    "500": (asked(reply(b"", 500)), "status 500"),
    "busy": (asked(BUSY), "status 503"),
    "101": (then_hang(asked(b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\n\r\n")), "status 101"),
    "busy, endless": (repeat(b"x" * 65536, b"HTTP/1.1 503 No\r\n\r\n"), "status 503"),
    "600": (asked(reply(b"", 600)), "status 600"),
    "garbage": (asked(bytes(range(256))), "the response isn't HTTP/1"),
    "another protocol": (then_hang(asked(b"SSH-2.0-x\r\n")), "the response isn't HTTP/1"),
    "HTTP/2": (asked(b"HTTP/2 200 OK\r\n\r\n"), "the response isn't HTTP/1"),
    "HTTP/0.9": (asked(b"<html>"), "the response isn't HTTP/1"),
    "fold": (asked(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n"), INVALID),
    "both lengths": (
        asked(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        "Content-Length and Transfer-Encoding exclude each other",
    ),
    "closes": (lambda wire: None, ("closed without a response", "Connection reset by peer")),
    "closes amid": (asked(b"HTTP/1.1 200 OK\r\n"), "closed without a response"),
    "resets": (resets, ("Connection reset by peer", "Broken pipe")),
    "hangs": (until_gone, LATE),
    "hangs amid": (then_hang(asked(b"HTTP/1.1 200 OK\r\nA: ")), LATE),
    "drips head": (repeat(b"x", b"HTTP/1.1 200 OK\r\nA: ", 0.02), LATE),
    "endless head": (repeat(b"A: b\r\n" * 9999, b"HTTP/1.1 200 OK\r\n"), "head is too large"),
    "endless interim": (
        repeat(b"HTTP/1.1 100 Go\r\n\r\n" * 999),
        # As its pieces come: the bound of a response, or that of interim heads.
        ("the response's head is too large", "too many interim responses"),
    ),
    "endless hints": (repeat(b"HTTP/1.1 103 H\r\n\r\n" * 9), "too many interim responses"),
}


class ResultTests(CheckTest):
    """What a check makes of what a backend does."""

    @in_thread
    def test_every_behaviour(self):
        # Names in a configuration have no spaces.
        names = {
            key.replace(" ", "_").replace(",", "").replace("/", "-"): key for key in BEHAVIOURS
        }
        for name, key in names.items():
            self.backend(BEHAVIOURS[key][0], name=f"b-{name}")
        port = closed_port()
        # The first check decides. Each is checked once, all at the start.
        self.patch(health, "_STEP", 0.0)
        self.check(*self.backends, port, every=60, timeout=1.0)
        eventually(lambda: self.checks() == len(self.backends) + 1, "all results")
        self.on_reactor(lambda: None)  # the turn of the last one is over
        reasons = {
            match[1].removeprefix("b-"): match[2]
            for line in self.told
            if (match := re.fullmatch(r"backend app/(\S+) at \S+ failed: check: (.*)", line))
        }
        self.assertEqual(len(reasons), len(self.told), self.told)
        self.assertEqual(reasons.pop(f"b{len(names)}"), "Connection refused")
        for name, key in names.items():
            wanted = BEHAVIOURS[key][1]
            reason = reasons.pop(name, "")
            if isinstance(wanted, tuple):
                self.assertIn(reason, wanted, key)
            else:
                self.assertTrue(
                    reason.endswith(wanted) and bool(reason) == bool(wanted), (key, reason)
                )
            self.assertEqual(self.row(f"b-{name}").down, bool(wanted), key)
        self.assertEqual(reasons, {})
        counters = self.proxy.counters
        self.assertEqual(counters.checks_failed, sum(row.down for row in self.proxy.backends()))
        self.assertEqual((counters.backend_connects, counters.checks_put_off), (0, 0))
        # Nobody was led on by a redirect.
        self.assertEqual([len(backend.connections) for backend in self.backends], [1] * len(names))

    @in_thread
    def test_no_connection_in_time(self):
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            port = full.getsockname()[1]
            with contextlib.ExitStack() as stack:
                for _ in range(3):
                    sock = stack.enter_context(socket.socket())
                    sock.setblocking(False)
                    sock.connect_ex(("127.0.0.1", port))
                time.sleep(0.05)
                self.check(port, timeout=0.2)
                eventually(lambda: self.told, "a result")
                self.assertTrue(self.told[0].endswith("check: no connection in time"), self.told)
                self.on_reactor(self.service._running.checker.stop)

    @in_thread
    def test_what_is_read_is_bounded(self):
        sent = []

        def endless(wire: Wire) -> None:
            wire.request()
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
            with contextlib.suppress(OSError):
                while True:
                    sent.append(wire.sock.send(b"x" * 4096))

        taken = []
        original = Check._take

        def take(check: Check, data: bytes) -> bool:
            taken.append(len(data))
            return original(check, data)

        self.patch(Check, "_take", take)
        self.backend(endless)
        self.check(every=60)
        eventually(self.checks, "a result")
        self.assertLess(sum(taken), 2 * 64 * 1024)
        self.assertGreaterEqual(sum(taken), 64 * 1024)
        self.assertFalse(self.row().down)


class RequestTests(CheckTest):
    """The bytes of a check."""

    @in_thread
    def test_as_sent(self):
        backend = self.backend()
        self.check()
        eventually(lambda: backend.requests, "a check")
        self.assertEqual(
            backend.requests[0].head,
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: DLBA/%s (check)\r\n"
            b"Accept: */*\r\nConnection: close\r\n\r\n" % (backend.port, __version__.encode()),
        )

    @in_thread
    def test_path_and_host(self):
        backend = self.backend()
        self.check(path="/health?deep=1", host="shop.example:8080")
        eventually(lambda: backend.requests, "a check")
        self.assertEqual(backend.requests[0].line, b"GET /health?deep=1 HTTP/1.1")
        self.assertEqual(backend.requests[0].all(b"Host"), [b"shop.example:8080"])


class StateTests(CheckTest):
    """What results do to requests."""

    @in_thread
    def test_down_and_up_again(self):
        sick, well = self.backend(), self.backend()
        self.says(sick, OK)
        self.says(well, OK)
        self.check(path="/up")
        self.wait_for_checks(4)
        self.assertEqual({self.ask().body for _ in range(4)}, {b"app1", b"app2"})
        self.says(sick, BUSY)
        eventually(lambda: self.row().down, "app1 is down")
        self.assertEqual(self.marks(), {"app1": (False, True), "app2": (False, False)})
        self.assertEqual({self.ask().body for _ in range(6)}, {b"app2"})
        self.says(sick, OK)
        eventually(lambda: not self.row().down, "app1 is up")
        self.assertEqual({self.ask().body for _ in range(4)}, {b"app1", b"app2"})
        where = re.escape(f"127.0.0.1:{sick.port}")
        self.assertEqual(len(self.told), 2, self.told)
        self.assertRegex(self.told[0], f"^backend app/app1 at {where} failed: check: status 503$")
        self.assertRegex(self.told[1], "^backend app/app1 is back$")

    @in_thread
    def test_the_first_check_decides(self):
        self.says(self.backend(), BUSY)
        self.check(path="/up", every=60, fall=9)
        eventually(lambda: self.row().down, "app1 is down")
        self.assertEqual(self.checks(), 1)

    @in_thread
    def test_flapping_within_fall_changes_nothing(self):
        backend = self.backend()
        self.says(backend, OK, BUSY, BUSY)
        self.check(path="/up")
        self.wait_for_checks(5)
        self.assertEqual((self.marks(), self.told), ({"app1": (False, False)}, []))
        self.says(backend, BUSY, BUSY, BUSY, OK)
        eventually(lambda: self.row().down, "app1 is down")
        self.wait_for_checks(4)
        self.assertTrue(self.row().down)
        self.assertEqual(len(self.told), 1, self.told)

    def pool(self) -> Any:
        return self.proxy.pools["app"]

    @in_thread
    def test_checks_clear_the_mark_of_a_request(self):
        backend = self.backend()
        self.says(backend, OK)
        self.check(path="/up", pool={"fail_timeout": 3600})
        self.wait_for_checks(1)
        before = self.checks()
        self.on_reactor(lambda: self.pool().fail(self.row(), time.monotonic()))
        eventually(lambda: not self.row().failed, "the mark is gone")
        self.assertGreaterEqual(self.checks(), before + 2)
        self.assertRegex(self.told[-1], "^backend app/app1 is back$")

    @in_thread
    def test_no_request_probes_one_that_is_down(self):
        sick, well = self.backend(), self.backend()
        self.says(sick, BUSY)
        self.says(well, OK)
        self.check(path="/up", pool={"fail_timeout": 0.01})
        eventually(lambda: self.row().down, "app1 is down")
        self.on_reactor(lambda: self.pool().fail(self.row(), time.monotonic()))
        for _ in range(10):
            time.sleep(0.015)
            self.assertEqual(self.ask().body, b"app2")

    @in_thread
    def test_all_down_are_tried_all_the_same(self):
        backend = self.backend()
        self.says(backend, BUSY)
        self.check(path="/up")
        eventually(lambda: self.row().down, "app1 is down")
        self.assertEqual(self.ask().body, b"app1")
        self.on_reactor(lambda: self.pool().fail(self.row(), time.monotonic()))
        self.assertEqual(self.ask().body, b"app1")
        # A request clears its own kind of mark, and doesn't call that back.
        self.assertEqual(self.marks(), {"app1": (False, True)})
        self.assertEqual(len(self.told), 1, self.told)

    @in_thread
    def test_a_check_is_no_open_connection_and_no_hit(self):
        self.backend(until_gone)
        self.check(timeout=30)
        eventually(lambda: self.backends[0].connections, "a check")
        row = self.row()
        self.assertEqual((row.open_connections, row.hits, self.proxy.open_backends), (0, 0, 0))

    @in_thread
    def test_without_check_nothing_is_asked(self):
        backend = self.backend()
        self.serve()
        self.assertEqual(self.ask().body, b"app1")
        time.sleep(0.1)
        self.assertEqual((len(backend.connections), self.checks()), (1, 0))
        self.assertIsNone(self.service._running.checker._call)


class TimeTests(CheckTest):
    """When checks are made, and when they end."""

    @in_thread
    def test_never_two_at_once(self):
        lock, open_now, most = threading.Lock(), 0, 0

        def script(wire: Wire) -> None:
            nonlocal open_now, most
            with lock:
                open_now += 1
                most = max(most, open_now)
            time.sleep(0.25)  # a check ends after `every`
            with lock:
                open_now -= 1
            wire.request()
            wire.send(OK)

        self.backend(script)
        self.check()
        eventually(lambda: self.checks() >= 3, "checks")
        self.assertEqual(most, 1)

    @in_thread
    def test_stopped_amid_checks(self):
        """No timer, deadline, or descriptor stays; what was found stays."""
        for _ in range(3):
            self.backend(until_gone)
        before = len(self.proxy_timers())
        self.check(closed_port(), *self.backends, timeout=30)
        eventually(lambda: self.row("b0").down, "a result")
        eventually(lambda: all(backend.connections for backend in self.backends), "open checks")
        self.assertEqual(len(self.proxy.deadlines), 3)
        self.assertEqual(len(self.proxy_timers()), before + 1)
        self.on_reactor(self.service._running.checker.stop)
        self.assertEqual(len(self.proxy.deadlines), 0)
        self.assertEqual(self.proxy_timers(), [])
        number = self.checks()
        time.sleep(0.25)
        self.assertEqual(self.checks(), number)
        self.assertTrue(self.row("b0").down)
        self.on_reactor(self.service._running.checker.start)
        eventually(lambda: self.checks() > number, "checks go on")

    def proxy_timers(self) -> list[Any]:
        def timers() -> list[Any]:
            return [call for call in reactor.getDelayedCalls() if "Checker" in str(call.func)]

        return self.on_reactor(timers)

    @in_thread
    def test_an_answer_in_time_counts_though_we_are_late(self):
        """The reactor stands still across the time for a check, whose answer comes meanwhile."""
        go = threading.Event()

        def script(wire: Wire) -> None:
            wire.request()
            wires.append(wire)
            go.wait(20)
            wire.send(OK)

        wires: list[Wire] = []
        self.backend(script)
        self.check(timeout=0.4)
        eventually(lambda: wires, "the check has come")

        def stand_still() -> None:
            go.set()
            time.sleep(0.8)

        self.on_reactor(stand_still)
        eventually(self.checks, "a check")
        self.assertEqual(self.proxy.counters.checks_failed, 0)

    @in_thread
    def test_our_own_want_of_descriptors_marks_nobody(self):
        backend = self.backend()
        self.says(backend, OK)
        self.check(path="/up", fall=1)
        self.wait_for_checks(1)
        counters = self.proxy.counters

        def exhausted() -> None:
            # In the reactor's turn, so that nobody else goes without.
            held = []
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            highest = max(int(name) for name in os.listdir("/proc/self/fd"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
            try:
                with contextlib.suppress(OSError):
                    while True:
                        held.append(os.open("/dev/null", os.O_RDONLY))
                checker = self.service._running.checker
                for turn in checker._rota._waiting:
                    turn.due = 0.0
                if checker._call is not None:
                    checker._call.cancel()
                checker._begin()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for number in held:
                    os.close(number)

        before = counters.checks_put_off
        while counters.checks_put_off == before:
            self.on_reactor(exhausted)
        self.assertEqual((counters.checks_failed, self.marks()), (0, {"app1": (False, False)}))
        self.wait_for_checks(1)

    @in_thread
    def test_an_exception_of_ours_ends_one_check_alone(self):
        self.says(self.backend(), OK)
        original = Check._take
        failing = [True]

        def take(check: Check, data: bytes) -> bool:
            if failing:
                failing.pop()
                raise ZeroDivisionError
            return original(check, data)

        self.patch(Check, "_take", take)
        self.check(path="/up", fall=1)
        self.wait_for_checks(2)
        self.expected_internal_errors = 1
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((self.proxy.counters.checks_put_off, self.row().down), (1, False))


class ConfigureTests(CheckTest):
    """Another configuration while checks are made."""

    def reload(self, *backends: Backend | int, check: dict[str, Any] | None) -> None:
        web = self.service._web
        pool = web.pools["app"]
        config = None if check is None else attrs.evolve(self.first_check, **check)
        wanted = {backend.port for backend in backends if isinstance(backend, Backend)}
        rows = tuple(row for row in self.all_rows if row.address.port in wanted)
        pools = {"app": attrs.evolve(pool, check=config, backends=rows)}
        self.on_reactor(self.service.reload, attrs.evolve(web, pools=pools))

    def begin(self) -> tuple[Backend, Backend]:
        one, two = self.backend(), self.backend()
        self.says(one, BUSY)
        self.says(two, OK)
        self.check(path="/up")
        pool = self.service._web.pools["app"]
        self.first_check, self.all_rows = pool.check, pool.backends
        eventually(lambda: self.row().down, "app1 is down")
        return one, two

    @in_thread
    def test_what_is_known_stays(self):
        one, two = self.begin()
        row = self.row()
        self.reload(one, two, check={"path": "/elsewhere", "rise": 1})
        self.assertTrue(self.row() is row and row.down)
        eventually(
            lambda: any(b"/elsewhere" in request.line for request in two.requests), "another path"
        )
        # There it answers with its name.
        eventually(lambda: not row.down, "app1 is up")

    @in_thread
    def test_no_more_checks(self):
        one, two = self.begin()
        self.reload(one, two, check=None)
        self.assertEqual(self.marks(), {"app1": (False, False), "app2": (False, False)})
        number = self.checks()
        self.assertEqual({self.ask().body for _ in range(4)}, {b"app1", b"app2"})
        time.sleep(0.15)
        self.assertEqual(self.checks(), number)
        self.reload(one, two, check={})
        eventually(lambda: self.row().down, "app1 is down again")

    @in_thread
    def test_a_backend_goes_amid_its_check(self):
        one, two = self.begin()
        hangs = threading.Event()

        def hang(wire: Wire) -> None:
            hangs.set()
            until_gone(wire)

        one.script = hang
        self.assertTrue(hangs.wait(WAIT))
        self.reload(two, check={})
        self.assertEqual(self.marks(), {"app2": (False, False)})
        self.wait_for_checks(2)
        self.assertEqual(self.ask().body, b"app2")
        number = len(one.connections)
        time.sleep(0.15)
        self.assertEqual(len(one.connections), number)

    @in_thread
    def test_a_disabled_one_isn_t_asked(self):
        one, two = self.begin()
        self.all_rows = tuple(
            attrs.evolve(row, enabled=row.address.port != one.port) for row in self.all_rows
        )
        self.reload(one, two, check={})
        number = len(one.connections)
        self.wait_for_checks(2)
        self.assertEqual(len(one.connections), number)
        self.assertEqual(self.marks()["app1"], (False, False))
