"""One node of an array, as a process on a machine of its own: a private network namespace."""

import json
import os
import select
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from scapy.layers.l2 import ARP, Ether
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import CommandError
from dlba.where import ask
from tests import namespaces
from tests.routing.machines import ADDRESS, MAC, PEER, PEER_MAC, VIP, MachineTest, dump
from tests.routing.ports import raw_socket, received
from tests.test_tap import HERE, RUN, WAIT

MONITOR = "127.0.0.1:9080"
SCHEDULER = "06:00:cb:00:71:0b"


class ArrayNodeTests(MachineTest, SynchronousTestCase):
    skip = namespaces.missing(tun=True)

    def write(self, mac: bytes = MAC, web: bool = True, **array) -> None:
        nodes = {"a": {"number": 0, "address": ADDRESS, "mac": mac.hex(":")}}
        if web:
            array["web"] = {
                "listen": [{"port": 80}, {"port": 443}],
                "sites": [{"hosts": ["*"], "default": True, "pool": "app"}],
                "pools": {"app": {"backends": {"x": {"address": "127.0.0.1:1"}}}},
            }
        config = {"node": "a", "interface": "eth0", "state": "state"}
        config |= {"monitor": {"listen": MONITOR}, "array": {"vip": VIP, "nodes": nodes, **array}}
        (self.state / "node.yaml").write_text(json.dumps(config))

    def begin(self) -> subprocess.Popen:
        """The node's process, in this namespace like every child of this thread."""
        process = subprocess.Popen(
            [*RUN, "dlba", "-c", str(self.state / "node.yaml")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=HERE,
        )

        def end() -> None:
            process.kill()
            process.wait(WAIT)
            process.stdout.close()

        self.addCleanup(end)
        return process

    def ready(self) -> subprocess.Popen:
        process, end, said = self.begin(), time.monotonic() + WAIT, ""
        while "ready: pid" not in said:
            self.assertIsNone(process.poll(), said)
            self.assertLess(time.monotonic(), end, said)
            if select.select([process.stdout], [], [], 1)[0]:
                said += process.stdout.readline()
        return process

    def get(self, path: str) -> dict:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{MONITOR}{path}", timeout=20) as response:
            return json.load(response) if path == "/status" else {"status": response.status}

    @property
    def control(self) -> Path:
        return self.state / "state" / "control"

    def test_a_scheduler_from_start_to_stop(self):
        self.write()
        process = self.ready()
        self.assertEqual(self.get("/readyz"), {"status": 200})
        document = self.get("/status")
        self.assertEqual(document["role"], "scheduler")
        self.assertEqual(document["table"], {"buckets": 65536, "assigned": 0, "version": 0})
        (row,) = document["nodes"]
        self.assertEqual((row["name"], row["mac"], row["failed"]), ("a", MAC.hex(":"), False))
        with self.other.entered():
            client = raw_socket("peer")
            self.addCleanup(client.close)
        question = ARP(hwsrc=PEER_MAC, psrc=PEER, pdst=VIP)
        client.send(bytes(Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / question))
        answers = [Ether(frame) for frame in received(client) if ARP in Ether(frame)]
        self.assertIn((2, SCHEDULER), {(f[ARP].op, f[ARP].hwsrc) for f in answers})
        answer = ask(self.control, {"command": "where", "address": PEER, "port": 40000})
        self.assertEqual((answer["node"], answer["why"]), ("a", "PLACED"))
        for request in ({"command": "where", "address": "::1", "port": 1}, {"command": "x"}):
            self.assertRaises(CommandError, ask, self.control, request)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(WAIT), 0)
        self.assertEqual(dump(), self.before)
        self.assertFalse(self.control.exists())

    def test_a_second_process_with_the_same_state(self):
        self.write()
        first = self.ready()
        during = dump()
        second = self.begin()
        said, _ = second.communicate(timeout=WAIT)
        self.assertEqual(second.returncode, 1, said)
        self.assertIn("expected a state folder of its own, got that of a running node", said)
        self.assertEqual(dump(), during)
        self.assertIsNone(first.poll())
        self.assertEqual(self.get("/readyz"), {"status": 200})

    def test_after_a_kill(self):
        self.write()
        process = self.ready()
        os.kill(process.pid, signal.SIGKILL)
        process.wait(WAIT)
        self.assertIn(VIP, dump()["addresses"])
        process = self.ready()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(WAIT), 0)
        self.assertEqual(dump(), self.before)

    def test_a_start_that_fails_says_all_and_changes_nothing(self):
        self.write(mac=b"\x02\0\0\0\0\x77")
        namespaces.ip(f"address add {VIP}/24 dev eth0")
        before = dump()
        process = self.begin()
        said, _ = process.communicate(timeout=WAIT)
        self.assertEqual(process.returncode, 1, said)
        self.assertIn("MAC: expected 02:00:00:00:00:77", said)
        self.assertIn("expected the VIP as 203.0.113.10/32 on lo alone", said)
        self.assertEqual(dump(), before)

    def test_another_part_that_can_t_start_undoes_the_rest(self):
        self.write()
        taken = socket.create_server(("127.0.0.1", 9080))
        process = self.begin()
        said, _ = process.communicate(timeout=WAIT)
        self.assertEqual(process.returncode, 1, said)
        self.assertIn("in use", said)
        self.assertEqual(dump(), self.before)
        taken.close()

    def test_prototype_mode_waits_for_the_server(self):
        self.write(web=False, routing={"ports": [80]})
        self.ready()
        self.assertEqual(self.get("/status")["nodes"][0]["failed"], True)
        with self.assertRaises(urllib.error.HTTPError) as caught:
            self.get("/readyz")
        self.assertEqual(caught.exception.code, 503)
        server = socket.create_server((VIP, 80))
        self.addCleanup(server.close)
        end = time.monotonic() + WAIT
        while True:
            try:
                self.get("/readyz")
                break
            except urllib.error.HTTPError:
                self.assertLess(time.monotonic(), end)
                time.sleep(0.1)
        self.assertEqual(self.get("/status")["nodes"][0]["failed"], False)
