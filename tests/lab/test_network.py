"""Tests of dlba.lab.network in real namespaces; `ip` is the independent eye."""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import threading
from pathlib import Path

from dlba.errors import DLBAError
from dlba.lab import network
from dlba.lab.plan import SYSCTLS, namespace
from tests.lab.labs import NAME, LabCase

SWITCH, A, APP1, CLIENT = (namespace(NAME, x) for x in ("switch", "a", "app1", "client"))
#: ethtool's questions, from linux/ethtool.h: TX checksums, TCP and generic segmentation.
GTXCSUM, GTSO, GGSO = 0x16, 0x1E, 0x23


def ask_ip(*arguments):
    done = subprocess.run(
        ["ip", "-j", *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return json.loads(done.stdout)


class NamespaceTests(LabCase):
    def test_made_and_removed(self):
        network.create((A, CLIENT))
        self.assertEqual(network.names_of(NAME), [A, CLIENT])
        self.assertEqual((network.names_of("t"), network.names_of("t-1-a")), ([], []))
        one, two = network.identity(A), network.identity(CLIENT)
        own = network.identity_of_process("self")
        self.assertEqual(len({one, two, own, None}), 4)
        with network.inside(A):
            self.assertEqual(
                network.identity_of_process(f"self/task/{threading.get_native_id()}"), one
            )
            self.assertEqual(os.stat("/proc/thread-self/ns/net").st_ino, one[1])
        self.assertEqual(network.identity_of_process("self"), own)
        network.remove(A)
        network.remove(A)
        self.assertEqual(network.names_of(NAME), [CLIENT])
        self.assertIsNone(network.identity(A))

    def test_thread_comes_back_whatever_happens(self):
        network.create((A,))
        own = network.identity_of_process("self")
        with contextlib.suppress(ZeroDivisionError):
            with network.inside(A):
                raise ZeroDivisionError
        self.assertEqual(network.identity_of_process("self"), own)
        with self.assertRaises(FileNotFoundError):
            with network.inside(CLIENT):
                self.fail("entered what isn't there")
        self.assertEqual(network.identity_of_process("self"), own)

    def test_name_that_is_taken(self):
        network.create((A,))
        before = network.identity(A)
        error = self.assertRaises(OSError, network.create, (CLIENT, A))
        self.assertEqual(error.errno, errno.EEXIST)
        self.assertEqual(network.identity(A), before)

    def test_half_made_name(self):
        network.create((A,))
        (network.FOLDER / CLIENT).touch()
        self.assertEqual(network.names_of(NAME), [A, CLIENT])
        self.assertIsNone(network.identity(CLIENT))
        with self.assertRaises(OSError):
            network.enter(CLIENT)
        self.assertFalse(network.has_link(CLIENT, "eth0"))
        network.remove(CLIENT)
        self.assertEqual(network.names_of(NAME), [A])

    def test_folder_of_our_own_goes_when_it_is_empty(self):
        network.create((A,))
        self.assertTrue(os.path.ismount(network.FOLDER))
        network.tidy()
        self.assertIsNotNone(network.identity(A))
        network.remove(A)
        network.tidy()
        self.assertFalse(network.FOLDER.exists())
        network.tidy()

    def test_folder_of_others_stays(self):
        network.FOLDER.mkdir()
        network.create((A,))
        self.assertFalse(os.path.ismount(network.FOLDER))
        network.remove(A)
        network.tidy()
        self.assertTrue(network.FOLDER.exists())
        network.FOLDER.rmdir()


class LinkTests(LabCase):
    def setUp(self):
        super().setUp()
        self.connected()

    def test_links_addresses_and_settings(self):
        for name, expected in (
            (
                A,
                {
                    "eth0": ("02:00:cb:00:71:0b", ["203.0.113.11/24"]),
                    "eth1": ("02:00:0a:00:01:65", ["10.0.1.101/24"]),
                },
            ),
            (APP1, {"eth0": ("02:00:0a:00:01:01", ["10.0.1.1/24"])}),
            (CLIENT, {"eth0": ("02:00:cb:00:71:c8", ["203.0.113.200/24"])}),
        ):
            with network.inside(name):
                links = {link["ifname"]: link for link in ask_ip("addr")}
                settings = [
                    (path.read_text().strip(), value)
                    for path, value in ((Path("/proc/sys/net", n), v) for n, v in SYSCTLS)
                    if path.exists()
                ]
            self.assertEqual(set(links) - {"lo"}, set(expected))
            self.assertIn("UP", links["lo"]["flags"])
            for interface, (mac, addresses) in expected.items():
                link = links[interface]
                self.assertEqual((link["address"], link["operstate"]), (mac, "UP"))
                shown = [f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"]]
                self.assertEqual(shown, addresses)
            self.assertEqual([got for got, _ in settings], [value for _, value in settings])

    def test_switch(self):
        with network.inside(SWITCH):
            links = {link["ifname"]: link for link in ask_ip("-d", "link")}
        ports = {name: link["master"] for name, link in links.items() if "master" in link}
        self.assertEqual(
            ports,
            {"front-a": "front", "front-client": "front", "back-a": "back", "back-app1": "back"},
        )
        self.assertEqual(set(links) - set(ports), {"lo", "front", "back"})
        for name in ("front", "back"):
            data = links[name]["linkinfo"]["info_data"]
            self.assertEqual((data["stp_state"], data["forward_delay"]), (0, 0))
        for link in links.values():
            self.assertIn("UP", link["flags"])

    def test_frames_pass_at_once_and_each_on_its_segment(self):
        for server, address, client, passes in (
            (A, "203.0.113.11", CLIENT, True),
            (APP1, "10.0.1.1", A, True),
            (A, "10.0.1.101", APP1, True),
            (APP1, "10.0.1.1", CLIENT, False),
        ):
            with network.inside(server):
                listening = socket.create_server((address, 7000))
            with listening, network._open_socket(client) as sock:
                sock.settimeout(5)
                if passes:
                    sock.connect((address, 7000))
                else:
                    self.assertRaises(OSError, sock.connect, (address, 7000))

    def test_cut_and_heal(self):
        self.assertTrue(network.has_link(A, "eth0"))
        for up in (False, False, True, True):
            network.set_port(NAME, "front-a", up)
            self.until(f"carrier {up}", lambda up=up: network.has_link(A, "eth0") == up)
            self.assertTrue(network.has_link(A, "eth1"))
            self.assertTrue(network.has_link(CLIENT, "eth0"))
        self.assertFalse(network.has_link(A, "eth7"))

    def test_a_port_that_is_not_there(self):
        self.assertRaises(OSError, network.set_port, NAME, "front-z", False)

    def test_links_that_are_there_already(self):
        error = self.assertRaises(DLBAError, network.build, self.lab, True)
        self.assertIn("switch: expected links of kind bridge and veth, got: ", str(error))


class OffloadTests(LabCase):
    def offloads(self, name, interface):
        values = []
        with network.inside(name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for question in (GTXCSUM, GTSO, GGSO):
                value = ctypes.create_string_buffer(struct.pack("=II", question, 9), 8)
                asked = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
                fcntl.ioctl(sock, 0x8946, asked)
                values.append(struct.unpack("=II", value.raw)[1])
        return values

    def test_left_on(self):
        self.connected()
        self.assertEqual(self.offloads(A, "eth0"), [1, 1, 1])

    def test_switched_off_on_the_front_segment(self):
        self.connected(offloads=False)
        for name in (A, CLIENT):
            self.assertEqual(self.offloads(name, "eth0"), [0, 0, 0], name)
        self.assertEqual(self.offloads(A, "eth1"), [1, 1, 1])
        self.assertEqual(self.offloads(APP1, "eth0"), [1, 1, 1])


class AskTests(LabCase):
    """Servers of one answer each, in the nodes' namespaces."""

    def setUp(self):
        super().setUp()
        self.patch(network, "ASK_TIMEOUT", 0.4)
        self.connected()

    def serve(self, name, answer):
        """Answer the first connection with these bytes; None: never. What was asked."""
        with network.inside(name):
            server = socket.create_server(("127.0.0.1", 9080))
        asked = []

        def run():
            with server:
                while select.select([server, stop], [], [])[0] != [stop]:
                    peer, _ = server.accept()
                    held.enter_context(peer)
                    if answer is not None:
                        asked.append(peer.recv(4096))
                        peer.sendall(answer)
                        peer.shutdown(socket.SHUT_WR)

        held = contextlib.ExitStack()
        stop, end = socket.socketpair()
        thread = threading.Thread(target=run)
        thread.start()
        for close in (stop.close, end.close, held.close, thread.join, lambda: end.send(b"x")):
            self.addCleanup(close)
        return asked

    def test_answers(self):
        page = network.Page("127.0.0.1", 9080, "/status")
        asked = self.serve(A, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        self.serve(APP1, b"HTTP/1.0 503 No\r\n\r\nno")
        self.serve(CLIENT, None)
        answers = network.ask(NAME, dict.fromkeys(("client", "a", "app1", "b"), page))
        expected = {"client": None, "a": (200, b"hi"), "app1": (503, b"no"), "b": None}
        self.assertEqual(answers, expected)
        self.assertEqual(asked, [b"GET /status HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"])

    def test_what_is_no_answer(self):
        page = network.Page("127.0.0.1", 9080, "/")
        self.serve(A, b"SSH-2.0-x\r\n")
        self.serve(APP1, b"")
        answers = network.ask(NAME, dict.fromkeys(("a", "app1", "client"), page))
        self.assertEqual(set(answers.values()), {None})
