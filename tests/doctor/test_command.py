"""`dlba doctor` from its arguments to its exit code, on real machines and segments."""

import json
import os
from pathlib import Path

from scapy.layers.l2 import ARP, Ether
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.load import load
from dlba.doctor import command, look
from dlba.doctor.command import node_file
from dlba.errors import CommandError
from dlba.routing.arp import announcements, answer, parse
from dlba.routing.array import ipv4, mac_of_scheduler
from tests import namespaces
from tests.doctor.samples import OTHER
from tests.doctor.segment import SegmentTest, sysctl
from tests.routing.machines import ADDRESS, MAC, PEER, PEER_MAC, VIP, dump
from tests.test_cli import run

STRANGER = "52:54:00:12:34:56"
PEER_NODE = {"number": 1, "address": PEER, "mac": PEER_MAC}


class DoctorTests(SegmentTest, SynchronousTestCase):
    def setUp(self):
        super().setUp()
        self.patch(command, "LISTEN", 0.5)
        # The machine that runs the tests may have any clock.
        self.patch(look, "is_synchronised", lambda: True)

    def doctor(self, *arguments, code=0):
        got, out, err = run("doctor", "-c", str(self.file), *arguments)
        self.assertEqual((got, err), (code, ""), out)
        return out

    def levels(self, code=0):
        """What isn't ok, as level and subject."""
        document = json.loads(self.doctor("--json", code=code))
        found = [(one["level"], one["about"]) for one in document["findings"]]
        self.assertEqual(document["problems"], [level for level, _ in found].count("problem"))
        return [one for one in found if one[0] != "ok"]

    def scheduler_b(self):
        """Node b is scheduler and answers for the VIP."""
        self.write(nodes={"a": {"number": 2, "address": ADDRESS, "mac": MAC.hex(":")}, "b": OTHER})
        mac = mac_of_scheduler(load(self.file).array, "b")

        def respond(frame):
            packet = parse(frame)
            reply = None if packet is None else answer(packet, ipv4(VIP), mac)
            return [] if reply is None else [reply]

        return self.answering(respond)

    # ------------------------------------------------------------ all is well

    def test_the_scheduler(self):
        with self.running():
            out = self.doctor()
            self.assertTrue(out.endswith("\nno problem\n"), out)
            self.assertEqual([line.split()[0] for line in out.splitlines()[:-1]], ["ok"] * 13)
            self.assertEqual(self.levels(), [])

    def test_a_backup(self):
        with self.scheduler_b(), self.running():
            self.assertEqual(self.levels(), [])

    def test_before_the_first_start(self):
        notes = [("note", about) for about in ("node", *["sysctls"] * 3, "VIP", "VIP's ARP")]
        self.assertEqual(self.levels(), notes)
        self.assertEqual(dump(), self.before)

    def test_nothing_is_left_behind(self):
        files = sorted(path.name for path in self.state.rglob("*"))
        self.doctor()
        self.assertEqual(sorted(path.name for path in self.state.rglob("*")), files)

    # ------------------------------------------------------------ what is planted is found

    def test_a_second_answerer(self):
        with self.other.entered():
            namespaces.ip(f"address add {VIP}/32 dev peer")
        with self.running():
            self.assertEqual(self.levels(1), [("problem", "VIP's ARP")])
            self.assertIn(f"got {PEER_MAC} (node b itself)", self.doctor(code=1))
        with self.scheduler_b(), self.running():
            self.assertEqual(self.levels(1), [("problem", "VIP's ARP")])
        self.assertIn(("problem", "VIP's ARP"), self.levels(1))

    def test_somebody_who_announces(self):
        """An answer isn't all that takes the VIP away."""
        request, _ = announcements(ipv4(VIP), bytes.fromhex(STRANGER.replace(":", "")))
        with self.answering(lambda _: [request]), self.running():
            self.assertIn(f"{STRANGER} (nobody of the array)", self.doctor(code=1))

    def test_a_node_at_another_mac(self):
        nodes = {
            "a": {"number": 0, "address": ADDRESS, "mac": MAC.hex(":")},
            "b": PEER_NODE | {"mac": STRANGER},
        }
        self.write(nodes=nodes)
        with self.running():
            self.assertEqual(self.levels(1), [("problem", "nodes' MACs")])
            self.assertIn(f"expected {STRANGER}, got {PEER_MAC}", self.doctor(code=1))

    def test_two_machines_with_the_address_of_a_node(self):
        def spoof(frame):
            if Ether(frame)[ARP].pdst != PEER:
                return []
            claim = ARP(op=2, hwsrc=STRANGER, psrc=PEER, hwdst=MAC.hex(":"), pdst=ADDRESS)
            return [bytes(Ether(dst=MAC.hex(":"), src=STRANGER) / claim)]

        with self.answering(spoof), self.running():
            self.assertEqual(self.levels(1), [("problem", "nodes' MACs")])

    def test_rubbish_on_the_segment(self):
        rubbish = [
            bytes(14),
            b"\xff" * 12 + b"\x08\x06",
            b"\xff" * 12 + b"\x08\x06" + os.urandom(50),
        ]
        with self.answering(lambda _: rubbish), self.running():
            self.assertEqual(self.levels(), [])

    def test_this_nodes_address_elsewhere(self):
        with self.other.entered():
            namespaces.ip(f"address add {ADDRESS}/32 dev peer")
        with self.running():
            # A kernel doesn't answer somebody who has its own address.
            silent = ("warning", "nodes' MACs")
            self.assertEqual(self.levels(1), [("problem", "own address"), silent])

    def test_the_vip_on_the_interface(self):
        namespaces.ip(f"address add {VIP}/24 dev eth0")
        self.assertIn(("problem", "VIP"), self.levels(1))
        self.assertIn(f"ip address del {VIP}/24 dev eth0\n", self.doctor(code=1))

    def test_the_wrong_mac(self):
        with self.running():
            namespaces.ip("link set eth0 address 02:00:00:00:00:99")
            self.assertIn(("problem", "interface"), self.levels(1))

    def test_no_link(self):
        with self.other.entered():
            namespaces.ip("link set peer down")
        found = self.levels(1)
        self.assertIn(("problem", "interface"), found)
        self.assertIn(("warning", "ARP"), found)

    def test_no_interface(self):
        namespaces.ip("link del eth0")
        found = self.levels(1)
        self.assertIn(("problem", "interface"), found)
        self.assertNotIn("ARP", [about for _, about in found])

    # ------------------------------------------------------------ --fix

    def test_fix_while_the_node_runs(self):
        with self.running():
            before = dump()
            sysctl("all.arp_ignore", 0)
            sysctl("eth0.rp_filter", 1)
            sysctl("dlba0.rp_filter", 1)
            namespaces.ip(f"address del {VIP}/32 dev lo")
            problems = [("problem", about) for about in ("sysctls", "sysctls", "VIP", "TUN device")]
            self.assertEqual(self.levels(1), problems)
            out = self.doctor("--fix")
            fixed = [line for line in out.splitlines() if line.startswith("fixed")]
            self.assertEqual(len(fixed), 4)
            self.assertIn("net.ipv4.conf.all.arp_ignore: 0 -> 1", fixed[0])
            self.assertIn("hold until the next reboot; etc/dlba.sysctl.conf", out)
            self.assertEqual(dump(), before)
            self.assertEqual(self.levels(), [])
            self.assertIn("nothing that is safe to change", self.doctor("--fix"))
        # The node still puts back what it found at its start.
        self.assertEqual(dump(), self.before)

    def test_fix_before_the_first_start(self):
        out = self.doctor("--fix")
        self.assertEqual(out.count("fixed "), 4)
        self.assertEqual(sysctl("all.arp_ignore"), 1)
        with self.running():
            self.assertEqual(self.levels(), [])

    def test_fix_on_a_machine_that_is_not_the_nodes(self):
        namespaces.ip("link set eth0 address 02:00:00:00:00:99")
        before = dump()
        self.assertIn("nothing that is safe to change", self.doctor("--fix", code=1))
        self.assertEqual(dump(), before)

    def test_fix_leaves_what_is_not_safe(self):
        namespaces.ip(f"address add {VIP}/24 dev eth0")
        document = json.loads(self.doctor("--fix", "--json", code=1))
        self.assertEqual(document["problems"], 1)
        self.assertEqual(len(document["fixed"]), 3)
        self.assertIn(f"{VIP}/24", dump()["addresses"])


class UsageTests(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "state").mkdir(parents=True)
        self.patch(command, "NODE_FILE", str(self.folder / "default.yaml"))
        self.control = {"DLBA_CONTROL": str(self.folder / "state" / "control")}

    def test_which_file(self):
        given = Path("x.yaml")
        self.assertEqual(node_file(given, self.control), given)
        error = self.assertRaises(CommandError, node_file, None, {})
        self.assertEqual(error.code, 2)
        default = self.folder / "default.yaml"
        default.write_text("")
        self.assertEqual(node_file(None, {}), default)
        self.assertEqual(node_file(None, {"DLBA_CONTROL": ""}), default)
        self.assertEqual(node_file(None, self.control), default)
        beside = self.folder / "node.yaml"
        beside.write_text("")
        self.assertEqual(node_file(None, self.control), beside)
        self.assertEqual(node_file(given, self.control), given)

    def test_bad_files(self):
        path = self.folder / "node.yaml"
        for text, words in ((None, "No such file"), ("node: [", "expected"), ("x: 1", ":1:1: x:")):
            if text is not None:
                path.write_text(text)
            code, out, err = run("doctor", "-c", str(path))
            self.assertEqual((code, out), (2, ""))
            self.assertIn(words, err)

    def test_no_file(self):
        self.patch(os, "environ", {})
        code, _, err = run("doctor")
        self.assertEqual((code, "expected -c NODE.YAML, a node.yaml beside" in err), (2, True))

    def test_a_proxy_alone(self):
        """It needs no root, and nobody is asked."""
        path = self.folder / "node.yaml"
        backends = {"app1": {"address": "192.0.2.1:80"}}
        web = {
            "listen": [{"port": 8080, "address": "127.0.0.1"}],
            "sites": [{"hosts": ["*"], "default": True, "pool": "app"}],
            "pools": {"app": {"backends": backends}},
        }
        path.write_text(json.dumps({"node": "a", "array": {"web": web}}))
        code, out, err = run("doctor", "-c", str(path))
        self.assertEqual((code, err), (0, ""))
        self.assertIn("a proxy alone, nothing to look at on a segment\n", out)
        self.assertEqual([one.name for one in (self.folder / "state").iterdir()], [])

    def test_elsewhere_than_linux(self):
        self.patch(command.sys, "platform", "darwin")
        code, _, err = run("doctor", "-c", "x")
        self.assertEqual((code, err), (1, "dlba doctor: expected Linux, got darwin\n"))

    def test_help_is_cheap(self):
        """The `dlba` command loads the doctor's parts when it is asked for."""
        from tests.test_layering import loaded_by

        loaded = loaded_by("import dlba.cli")
        self.assertEqual(loaded & {"pyroute2", "twisted", "yaml"}, set())
