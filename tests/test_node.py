"""One node: its keys on disk, its services together, its status and its access log."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from dlba.config.load import load_text
from dlba.config.values import LogConfig
from dlba.counters import WEB_COUNTERS
from dlba.node import Node
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

    def start(self, backends: list[Backend | int], **node) -> Node:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
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
