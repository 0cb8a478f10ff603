"""One node: its keys on disk, its services together, its status and its access log."""

import json
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path
from time import monotonic
from unittest import mock

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from dlba.config.load import load_text
from dlba.config.values import LogConfig, NodeConfig
from dlba.counters import WEB_COUNTERS
from dlba.election.terms import Terms
from dlba.errors import CommandError, DLBAError
from dlba.node import Node, prepare
from dlba.poller import Poller
from dlba.state import lock_state, make_state, store_learned
from dlba.where import ask
from tests import namespaces
from tests.election.certificates import make
from tests.election.test_channel import free_ports
from tests.election.wholenode import VIP, RecordingRouting, config
from tests.web.harness import (
    GET,
    Backend,
    ProxyTest,
    closed_port,
    configuration,
    eventually,
    in_thread,
)


class NodeTest(ProxyTest):
    """A node as `dlba.tap` starts it."""

    def start(
        self, backends: list[Backend | int], folder: Path | None = None, **node: object
    ) -> Node:
        """`folder`: one where a node has run before."""
        self.folder = folder or Path(self.mktemp())
        self.folder.mkdir(exist_ok=True)
        self._remember_descriptors()
        self.monitor_port = closed_port()
        node = {"monitor": {"listen": f"127.0.0.1:{self.monitor_port}"}, **node}
        text = configuration(
            backends, node=node, site={"schedule": "cookie"}, pool={"fail_timeout": 60}
        )
        self.node = self.on_reactor(Node, reactor, load_text(text, self.folder))
        self.on_reactor(self.node.privilegedStartService)
        self.on_reactor(self.node.startService)
        self.service = self.node.web
        self.proxy = self.service.proxy
        self.port = self.service.listeners[0].port
        return self.node

    def stop(self) -> None:
        done: list[object] = []

        def begin() -> None:
            stopped: Deferred[object] = self.node.stopService()
            stopped.addCallback(lambda _: done.append(1))

        self.on_reactor(begin)
        eventually(lambda: done, "the stop")

    def get(self, path: str) -> tuple[int, bytes]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.monitor_port}{path}", headers={"Connection": "close"}
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    @in_thread
    def test_status_says_what_happened(self):
        alive = self.backend()
        dead = closed_port()
        self.start([alive, dead])
        for _ in range(4):
            self.assertEqual(self.ask().status, 200)
        self.soon(lambda: self.proxy.counters.responses, 4)
        eventually(lambda: not self.proxy.clients, "no client")
        status, body = self.get("/status")
        document = json.loads(body)
        self.assertEqual(status, 200)
        self.assertEqual(
            (document["node"], document["role"], document["vip"]), ("a", "alone", None)
        )
        rows = {row["name"]: row for row in document["backends"]}
        self.assertEqual(set(rows), {"app1", "b1"})
        self.assertEqual((rows["app1"]["hits"], rows["app1"]["cookie_groups"]), (4, 4))
        self.assertEqual(rows["app1"]["address"], f"127.0.0.1:{alive.port}")
        self.assertEqual((rows["app1"]["failed"], rows["b1"]["failed"]), (False, True))
        self.assertEqual(rows["b1"]["hits"], 0)
        self.assertGreater(rows["app1"]["average_response"], 0)
        counters = document["counters"]
        self.assertLessEqual(set(WEB_COUNTERS), set(counters))
        self.assertEqual((counters["requests"], counters["reroutes"]), (4, 1))
        self.assertEqual(counters["open_clients"], 0)
        self.assertEqual((counters["buffer_memory"], counters["buffer_memory_filled"]), (0, 0))
        self.assertEqual(counters["idle_backend_connections"], 0)
        self.stop()

    @in_thread
    def test_health_and_readiness(self):
        self.start([self.backend()])
        self.assertEqual(self.get("/healthz")[0], 200)
        self.assertEqual(self.get("/readyz")[0], 200)
        self.assertIn(b"app1", self.get("/")[1])
        self.assertTrue(self.on_reactor(self.node.ready))
        self.stop()
        self.assertFalse(self.node.ready())

    @in_thread
    def test_access_log_in_three_formats(self):
        for name in ("combined", "haproxy", "json"):
            self.start([self.backend()], log={"access": "access.log", "format": name})
            self.ask(GET.replace(b"/ ", b"/page?q ").replace(b"a\r\n", b"a\r\nReferer: r\r\n", 1))
            self.ask(b"nonsense\r\n\r\n")
            eventually(lambda: not self.proxy.clients, "no client")
            self.stop()
            lines = (self.folder / "access.log").read_text().splitlines()
            self.assertEqual(len(lines), 2, lines)
            self.assertIn("GET /page?q HTTP/1.1", lines[0])
            self.assertIn("400", lines[1])
            if name == "json":
                record = json.loads(lines[0])
                self.assertEqual((record["status"], record["referer"]), (200, "r"))
                self.assertEqual(record["body_bytes"], len(record["backend"]))
            if name == "haproxy":
                self.assertIn(" app/", lines[0])

    @in_thread
    def test_reopened_log(self):
        self.start([self.backend()], log={"access": "access.log"})
        path = self.folder / "access.log"
        self.ask()
        eventually(lambda: not self.proxy.clients, "no client")
        moved = path.rename(self.folder / "access.log.1")
        self.on_reactor(self.node.reopen_logs)
        self.ask()
        eventually(lambda: not self.proxy.clients, "no client")
        self.stop()
        self.assertEqual([len(p.read_text().splitlines()) for p in (moved, path)], [1, 1])

    @in_thread
    def test_log_gets_the_requests_that_the_stop_waits_for(self):
        """The log is closed behind the last request, not before it."""
        backend = self.backend()
        gate = []

        def script(wire) -> None:
            backend.take(wire)
            eventually(lambda: gate, "the gate")
            wire.send(b"HTTP/1.1 204 None\r\n\r\n")

        backend.script = script
        self.start([backend], log={"access": "access.log"})
        client = self.client()
        client.send(GET)
        eventually(lambda: backend.requests, "the request")
        done: list[object] = []
        self.assertEqual(self.get("/readyz")[0], 200)
        self.on_reactor(lambda: bool(self.node.stopService().addCallback(done.append)))
        # While it drains, the monitor tells so.
        self.assertEqual(self.get("/readyz")[0], 503)
        self.assertEqual(self.get("/healthz")[0], 200)
        counters = json.loads(self.get("/status")[1])["counters"]
        self.assertEqual((counters["open_clients"], counters["log_lines_lost"]), (1, 0))
        gate.append(1)
        self.assertEqual(client.response().status, 204)
        client.close()
        eventually(lambda: done, "the stop")
        self.assertIn(" 204 ", (self.folder / "access.log").read_text())

    def logged(self, *more: str) -> list[str]:
        """The lines of the node's own log so far that hold one of these texts."""
        return [line for line in self.lines if any(text in line for text in more)]

    def observe(self) -> None:
        self.lines: list[str] = []

        def see(event) -> None:
            if event["log_namespace"].startswith("dlba."):
                self.lines.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(see)
        self.addCleanup(globalLogPublisher.removeObserver, see)

    def read(self, backends: list[Backend | int], **options) -> NodeConfig:
        """A configuration in the folder of the node that runs."""
        node = {"monitor": {"listen": f"127.0.0.1:{self.monitor_port}"}, **options.pop("node", {})}
        options = {"site": {"schedule": "cookie"}, "pool": {"fail_timeout": 60}, **options}
        return load_text(configuration(backends, node=node, **options), self.folder)

    def reload(self, config: NodeConfig) -> None:
        self.on_reactor(self.node.reload, prepare(config))

    def command(self, **request) -> dict:
        return ask(self.folder / "state" / "control", request)

    @in_thread
    def test_a_proxy_alone_has_a_control_socket(self):
        self.start([self.backend(), self.backend()])
        document = self.command(command="status")
        self.assertEqual([row["name"] for row in document["backends"]], ["app1", "app2"])
        with self.assertRaisesRegex(CommandError, "one of drain, resume, status, got"):
            self.command(command="where", address="192.0.2.7", port=1)
        with self.assertRaises(DLBAError):
            lock_state(self.folder / "state")
        self.stop()
        os.close(lock_state(self.folder / "state"))
        self.assertFalse((self.folder / "state" / "control").exists())

    @in_thread
    def test_drained_over_reloads_and_restarts(self):
        self.observe()
        backends = [self.backend(), self.backend()]
        self.start(backends)
        answer = self.command(command="drain", backend="app/app1")
        self.assertEqual((answer["changed"], answer["draining"]), (True, True))
        who = f"uid {os.getuid()}, pid {os.getpid()}"
        self.assertEqual(self.logged("drain backend"), [f"drain backend app/app1, by {who}"])

        def check(*draining: bool) -> None:
            rows = self.command(command="status")["backends"]
            self.assertEqual([row["draining"] for row in rows], list(draining))
            found = {self.ask().body for _ in range(6)}
            names = [b"app1", b"app2"]
            self.assertEqual(
                found, {n for n, drains in zip(names, draining, strict=True) if not drains}
            )

        check(True, False)
        self.reload(self.read(backends, timeouts={"idle": 7}))
        check(True, False)
        folder = self.folder
        eventually(lambda: not self.proxy.clients, "no client")
        self.stop()
        self.start(backends, folder)
        check(True, False)
        self.command(command="resume", backend="app/app1")
        check(False, False)
        eventually(lambda: not self.proxy.clients, "no client")
        self.stop()

    @in_thread
    def test_a_proxy_alone_without_its_state_folder_serves(self):
        self.observe()
        secrets = Path(self.mktemp())
        secrets.write_text("k " + "x" * 32)
        backend = self.backend()
        held = Path(self.mktemp()).absolute()
        make_state(held)
        lock = lock_state(held)
        for state, words in (
            ("/proc/nowhere", "/proc/nowhere: No such file or directory"),
            (str(held), f"{held}: expected a state folder of its own, got that of a running node"),
        ):
            self.lines.clear()
            self.start([backend], state=state, secrets=str(secrets.absolute()))
            self.assertEqual(self.logged("control", "drained"), [f"no control socket: {words}"])
            self.assertEqual(self.ask().status, 200)
            eventually(lambda: not self.proxy.clients, "no client")
            self.stop()
        os.close(lock)

    @in_thread
    def test_reload(self):
        self.observe()
        one, other = self.backend(), self.backend()
        self.start([one], log={"access": "access.log"})
        client = self.client()
        client.send(GET)
        self.assertEqual(client.response().body, b"app1")
        log = {"access": "second.log", "format": "json"}
        self.reload(self.read([other], node={"log": log, "state": "elsewhere"}))
        self.assertEqual(
            self.logged("reloaded", "takes effect"),
            [
                "reloaded: web.pools.app.backends.app1, web.pools.app.backends.app2, log.access, "
                "log.format",
                "state: changed: takes effect at the next start",
            ],
        )
        client.send(GET)
        self.assertEqual(client.response().body, b"app2")
        client.close()
        eventually(lambda: not self.proxy.clients, "no client")
        self.lines.clear()
        self.reload(self.read([other], node={"log": log}))
        self.reload(self.read([other]))
        self.assertEqual(
            self.logged("reloaded", "takes effect"),
            ["reloaded: nothing has changed", "reloaded: log.access, log.format"],
        )
        self.assertEqual(self.ask().status, 200)
        eventually(lambda: not self.proxy.clients, "no client")
        self.reload(self.read([other], node={"log": log}))
        self.assertEqual(self.ask().status, 200)
        eventually(lambda: not self.proxy.clients, "no client")
        self.stop()
        names = ("access.log", "second.log")
        logs = [(self.folder / name).read_text().splitlines() for name in names]
        self.assertEqual([len(lines) for lines in logs], [1, 2])
        self.assertIn('"GET / HTTP/1.1"', logs[0][0])
        self.assertEqual(json.loads(logs[1][0])["backend"], "app2")

    @in_thread
    def test_a_reload_that_fails_changes_nothing(self):
        backend = self.backend()
        self.start([backend], log={"access": "access.log"})
        before = self.node._config
        with socket.create_server(("127.0.0.1", 0)) as taken:
            config = self.read([backend, 9], node={"log": {"access": "second.log"}})
            listen = attrs.evolve(config.array.web.listen[0], port=taken.getsockname()[1])
            web = attrs.evolve(config.array.web, listen=(listen,))
            config = attrs.evolve(config, array=attrs.evolve(config.array, web=web))
            with self.assertRaises(DLBAError):
                self.reload(config)
        gone = attrs.evolve(before, log=LogConfig(access=self.folder / "no" / "access.log"))
        with self.assertRaises(OSError):
            self.reload(gone)
        self.assertIs(self.node._config, before)
        self.assertEqual(len(list(self.proxy.backends())), 1)
        self.assertEqual(self.ask().status, 200)
        eventually(lambda: not self.proxy.clients, "no client")
        self.stop()
        self.assertEqual(len((self.folder / "access.log").read_text().splitlines()), 1)

    @in_thread
    def test_cookie_keys_that_change(self):
        self.observe()
        self.start([self.backend()])
        path = self.folder / "state" / "secrets"
        path.write_text("new " + "x" * 32 + "\n" + path.read_text())
        self.reload(self.read(self.backends))
        self.assertEqual(self.logged("reloaded"), ["reloaded: cookie keys"])
        self.assertIn(b"DLBA=new.", self.ask().get(b"Set-Cookie"))
        # Without the file the keys stay: other ones would end all sessions.
        path.unlink()
        self.reload(self.read(self.backends))
        self.assertFalse(path.exists())
        self.assertIn(b"DLBA=new.", self.ask().get(b"Set-Cookie"))
        eventually(lambda: not self.proxy.clients, "no client")
        self.stop()

    @in_thread
    def test_no_reload_once_it_stops(self):
        self.start([self.backend()])
        before = self.node._config
        config = self.read([9])
        self.stop()
        self.reload(config)
        self.assertIs(self.node._config, before)

    @in_thread
    def test_unwritable_log_stops_the_start(self):
        folder = Path(self.mktemp())
        folder.mkdir()
        config = load_text(configuration([9]), folder)
        # Gone between the check of the configuration and the start.
        config = attrs.evolve(config, log=LogConfig(access=folder / "no" / "access.log"))
        with self.assertRaises(OSError):
            Node(reactor, config)

    @in_thread
    def test_taken_monitor_port_stops_the_start(self):
        backend = self.backend()
        folder = Path(self.mktemp())
        folder.mkdir()
        text = configuration([9], node={"monitor": {"listen": f"127.0.0.1:{backend.port}"}})
        node = self.on_reactor(Node, reactor, load_text(text, folder))
        with self.assertRaises(Exception) as caught:
            self.on_reactor(node.privilegedStartService)
        self.assertIn(str(backend.port), str(caught.exception))
        self.on_reactor(node.web._close_listeners)
        self.on_reactor(node.web.proxy.poller.detach)

    def test_without_web_there_is_nothing_to_be_ready_for(self):
        folder = Path(self.mktemp())
        folder.mkdir()
        config = load_text('{"node": "a", "array": {"name": "x"}}', folder)
        node = Node(reactor, attrs.evolve(config))
        self.assertFalse(node.ready())
        self.assertEqual(node.status()["backends"], [])
        node.abort()
        node.reopen_logs()


class Beside:
    """The reactor, for a data path that doesn't take its place: only one of them could."""

    def __getattr__(self, name):
        return getattr(reactor, name)


class PollerBeside(Poller):
    def attach(self, reactor):
        super().attach(Beside())


class ChannelTests(TestCase):
    """Nodes of one array, whole but for the segment, which `RecordingRouting` stands for."""

    timeout = 120
    skip = namespaces.missing()  # echoes need what interfaces need
    WAIT = 30

    def setUp(self):
        for name, made in (("ElectedRouting", RecordingRouting), ("Poller", PollerBeside)):
            patched = mock.patch(f"dlba.node.{name}", made)
            patched.start()
            self.addCleanup(patched.stop)
        self.folder = Path(self.mktemp()).absolute()
        make(self.folder, "a", "b")
        self.ports = free_ports(2)
        self.backend = Backend("app1")
        self.addCleanup(self.backend.join)
        self.addCleanup(self.backend.stop)
        self.nodes: dict[str, Node] = {}

    async def tearDown(self):
        await gatherResults([node.stopService() for node in self.nodes.values() if node.running])

    def make(self, name: str) -> Node:
        address = f"127.0.0.1:{self.backend.port}"
        site = {"hosts": ["*"], "default": True, "pool": "app", "schedule": "cookie"}
        web = {
            "listen": [{"port": 8080}],
            "sites": [site],
            "pools": {"app": {"backends": {"app1": {"address": address}}}},
        }
        made = config(self.folder, name, self.ports, web=web)
        # A port of its own for each, as long as they share a machine.
        listen = tuple(
            attrs.evolve(one, port=0, address="127.0.0.1") for one in made.array.web.listen
        )
        array = attrs.evolve(made.array, web=attrs.evolve(made.array.web, listen=listen))
        return Node(reactor, attrs.evolve(made, array=array))

    def start(self, name: str) -> Node:
        node = self.nodes[name] = self.make(name)
        node.privilegedStartService()
        node.startService()
        return node

    async def until(self, condition, what: str) -> None:
        end = monotonic() + self.WAIT
        while not condition():
            self.assertLess(monotonic(), end, f"expected {what}")
            await deferLater(reactor, 0.02)

    async def elect(self) -> tuple[Node, Node]:
        """The scheduler and the other one."""
        nodes = self.start("a"), self.start("b")
        await self.until(
            lambda: (
                sorted(node.role for node in nodes) == ["backup", "scheduler"]
                and len({node.election.service.scheduler for node in nodes}) == 1
            ),
            "one scheduler",
        )
        return nodes if nodes[0].role == "scheduler" else nodes[::-1]

    async def ask(self, node: Node, cookie: str = "") -> str:
        """The cookie that a request to this node is answered with; empty: none."""
        port = node.web.listeners[0].port

        def get() -> str:
            fields = {"Connection": "close"} | ({"Cookie": cookie} if cookie else {})
            request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=fields)
            with urllib.request.urlopen(request, timeout=20) as response:
                return (response.headers["Set-Cookie"] or "").partition(";")[0]

        return await deferToThread(get)

    async def test_status_of_a_scheduler_and_of_a_backup(self):
        first, other = await self.elect()
        await self.ask(first)
        await self.ask(other)
        await self.until(
            lambda: first.status()["summary"][0]["hits"] == 2, "the requests of both nodes"
        )
        of, by = json.loads(json.dumps(first.status())), json.loads(json.dumps(other.status()))
        name, rest = first._config.node, other._config.node
        for document in (of, by):
            self.assertEqual((document["vip"], document["scheduler"]), (VIP, name))
            self.assertEqual(document["term"], of["term"])
        self.assertGreater(of["term"], 0)
        self.assertEqual((of["role"], by["role"]), ("scheduler", "backup"))
        self.assertEqual(of["peers"], [{"name": rest, "connected": True, "failed": False}])
        self.assertEqual(by["peers"], [{"name": name, "connected": True, "failed": False}])
        self.assertEqual([row["name"] for row in of["nodes"]], ["a", "b"])
        self.assertEqual([row["failed"] for row in of["nodes"]], [False, False])
        self.assertEqual(of["summary"][0]["cookie_groups"], 2)
        self.assertIsInstance(of["swept_at"], float)
        self.assertEqual((by["nodes"], by["summary"], by["swept_at"]), ([], [], None))
        self.assertEqual(by["backends"][0]["hits"], 1)
        self.assertTrue(first.ready() and other.ready())

    async def test_a_cookie_is_good_at_every_node(self):
        first, other = await self.elect()
        # Each node has made secrets of its own.
        secrets = {
            (self.folder / f"state-{name}" / "secrets").read_text().split()[0] for name in "ab"
        }
        self.assertEqual(len(secrets), 2)
        for node, again in ((first, other), (other, first)):
            cookie = await self.ask(node)
            self.assertIn("=", cookie)
            self.assertEqual(await self.ask(again, cookie), "", "a cookie in its place")

    async def test_learned_keys_are_good_from_the_start(self):
        """Nobody else is there to tell of them."""
        other = await self.cookie_of_b()
        self.assertNotEqual(await self.ask(self.start("a")), "")
        self.assertNotEqual(await self.ask(self.nodes["a"], other), "", "keys of nobody")
        await self.nodes.pop("a").stopService()
        make_state(self.folder / "state-a")
        lines = (self.folder / "state-b" / "secrets").read_text()
        learned = {"format": 1, "hash": None, "nodes": {"1": lines}}
        store_learned(self.folder / "state-a", json.dumps(learned))
        self.assertEqual(await self.ask(self.start("a"), other), "")

    async def cookie_of_b(self) -> str:
        node = self.start("b")
        cookie = await self.ask(node)
        del self.nodes["b"]
        await node.stopService()
        return cookie

    async def test_a_fault_is_not_ready_and_passes_the_role_on(self):
        first, other = await self.elect()
        first.routing.fail("eth9: no carrier")
        self.assertEqual((first.role, first.ready()), ("fault", False))
        self.assertEqual(first.status()["role"], "fault")
        await self.until(lambda: other.role == "scheduler", "the other one")
        first.routing.fail("")
        await self.until(
            lambda: first.election.service.scheduler == other._config.node and first.ready(),
            "the first as a backup",
        )

    async def test_where_tells_the_role_that_status_tells(self):
        first, other = await self.elect()
        request = {"address": "192.0.2.7", "port": 40000}
        for node in (first, other):
            self.assertEqual(node._where(request)["role"], node.role)
        first.election.service._broken(
            "gateway", "the gateway is silent"
        )  # nothing of the packet path's
        self.assertEqual((first._where(request)["role"], first.role), ("fault", "fault"))

    async def test_a_stop_passes_the_role_on(self):
        first, other = await self.elect()
        first.routing.take()
        stopped = first.stopService()
        self.assertEqual(first.routing.calls[0], "quiet")
        await stopped
        await self.until(lambda: other.role == "scheduler", "the other one")
        self.assertFalse(first.ready())
        self.assertEqual(other.status()["scheduler"], other._config.node)

    async def test_the_folder_is_read_once_it_is_held(self):
        """Until then the process before may still grant a term, or learn a key."""
        done = []
        node = self.make("a")

        def lock(folder):
            done.append("lock")
            return lock_state(folder)

        with (
            mock.patch("dlba.node.lock_state", lock),
            mock.patch.object(Terms, "load", lambda _: done.append("term")),
            mock.patch("dlba.electing.load_learned", lambda _: done.append("keys") or ""),
        ):
            node.privilegedStartService()
        self.addCleanup(node.stopService)
        self.assertEqual(done, ["lock", "term", "keys"])

    async def test_a_taken_channel_port_stops_the_start(self):
        self.start("a")
        self.ports.reverse()
        node = self.make("b")
        with self.assertRaises(DLBAError) as caught:
            node.privilegedStartService()
        self.assertIn("channel: ", str(caught.exception))
        self.assertIn("undo", node.routing.calls)
        # Nothing is left of it: the lock, the ports and the socket of the echoes.
        self.ports.reverse()
        self.start("b")
