"""Tests of dlba.doctor.look: what is seen of a real machine, and that looking changes nothing."""

import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from shutil import which
from unittest import mock

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dlba.addresses import Endpoint
from dlba.config.load import load, load_text
from dlba.doctor import look as module
from dlba.doctor.facts import Unseen
from dlba.doctor.look import ask_role, is_held, is_synchronised, look
from dlba.routing.needs import LABEL, Address
from dlba.routing.settings import capabilities
from dlba.state import lock_state
from tests.doctor.samples import CAPABILITIES, WEB, text
from tests.doctor.segment import WAIT, SegmentTest, sysctl
from tests.routing.machines import ADDRESS, MAC, VIP, dump


class MachineTests(SegmentTest, SynchronousTestCase):
    def look(self, **changes):
        return look(self.write(**changes))

    def test_a_machine_before_its_first_start(self):
        facts = self.look()
        self.assertEqual(
            (facts.running, facts.role, facts.tun, facts.no_tun), (False,) + (None,) * 3
        )
        self.assertEqual(facts.interface.mac, MAC)
        self.assertEqual(facts.interface.addresses, (ADDRESS,))
        self.assertTrue(facts.interface.up)
        self.assertIn(Address("eth0", ADDRESS, 24, "eth0"), facts.addresses)
        self.assertEqual(facts.sysctls["all", "rp_filter"], 1)
        self.assertEqual(len(facts.sysctls), 6)
        self.assertEqual((facts.no_sysctls, facts.keys), (None, 1))
        self.assertIs(facts.features["rx-lro"].active, False)
        self.assertEqual(facts.capabilities, CAPABILITIES)
        self.assertEqual(facts.first_free_port, 1024)
        self.assertEqual(dump(), self.before)

    def test_a_machine_whose_node_runs(self):
        with self.running():
            before = dump()
            facts = look(load(self.file))
            self.assertIs(facts.running, True)
            self.assertEqual((facts.tun.name, facts.tun.addresses), ("dlba0", (VIP,)))
            self.assertTrue(facts.tun.up)
            self.assertIn(Address("lo", VIP, 32, LABEL), facts.addresses)
            self.assertEqual(facts.sysctls["dlba0", "rp_filter"], 2)
            self.assertEqual(dump(), before)
        self.assertEqual(dump(), self.before)

    def test_an_interface_that_is_not_there(self):
        facts = self.look(node={"interface": "eth9"})
        self.assertIsNone(facts.interface)
        self.assertIsInstance(facts.features, Unseen)
        self.assertEqual(
            set(facts.sysctls),
            {("all", key) for key in ("arp_ignore", "arp_announce", "rp_filter")},
        )

    def test_offloads_that_are_asked_for(self):
        facts = self.look(routing={"packets": "pcap"})
        self.assertEqual(set(facts.features), {"rx-lro", "rx-gro", "rx-gro-hw"})

    def test_ruleset(self):
        if not which("nft"):
            self.skipTest("nft (package nftables) is missing")
        rules = "table inet f { chain input { type filter hook input priority 0; policy drop; }; }"
        subprocess.run(["nft", rules], check=True, timeout=20)
        chains = [entry["chain"] for entry in self.look().ruleset if "chain" in entry]
        self.assertEqual([(one["name"], one["policy"]) for one in chains], [("input", "drop")])

    def test_without_nft(self):
        self.patch(module, "_PATH", "/nonexistent")
        self.assertIsNone(self.look().ruleset)

    def test_an_nft_that_fails(self):
        folder = self.state / "bin"
        folder.mkdir()
        self.patch(module, "_PATH", f"{folder}:/usr/bin:/bin")
        self.patch(module, "NFT_TIMEOUT", 0.2)
        for script, words in (
            ("echo 'Operation not  permitted' >&2; exit 1", "Operation not permitted"),
            ("exit 3", "exit code 3"),
            ("echo nothing", "expected a ruleset as JSON"),
            ("echo '{}'", "expected a ruleset as JSON"),
            ("exec sleep 60", "timed out"),
        ):
            (folder / "nft").write_text(f"#!/bin/sh\n{script}\n")
            (folder / "nft").chmod(0o755)
            found = self.look().ruleset
            self.assertIsInstance(found, Unseen)
            self.assertIn(words, found.why)

    def test_a_port_that_anybody_may_have(self):
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("80")
        self.assertEqual(self.look().first_free_port, 80)

    def test_what_cannot_be_read_hides_nothing(self):
        refused = mock.Mock(side_effect=OSError(13, "Permission denied"))
        for name in ("addresses", "find", "read_features", "is_held", "is_synchronised"):
            self.patch(module, name, refused)
        facts = self.look()
        for seen in (facts.addresses, facts.interface, facts.features, facts.running):
            self.assertEqual(seen, Unseen("Permission denied"))
        self.assertEqual((facts.tun, facts.keys), (Unseen("Permission denied"), 1))
        self.assertEqual(sysctl("all.rp_filter"), 1)


class NodeTests(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)

    def test_whether_it_runs(self):
        self.assertIs(is_held(self.folder), False)
        self.assertIs(is_held(self.folder / "none"), False)
        self.assertEqual(list(self.folder.iterdir()), [])
        held = lock_state(self.folder)
        self.assertIs(is_held(self.folder), True)
        os.close(held)
        self.assertIs(is_held(self.folder), False)
        # Looking doesn't keep a node from starting.
        os.close(lock_state(self.folder))

    def test_whether_it_runs_is_not_for_everybody(self):
        if os.geteuid():
            self.skipTest("expected root, who can become nobody, got another user")
        os.close(lock_state(self.folder))
        (self.folder / "lock").chmod(0o600)
        os.seteuid(65534)
        self.addCleanup(os.seteuid, 0)
        self.assertRaises(PermissionError, is_held, self.folder)
        os.seteuid(0)

    def keys(self, config):
        found = look(attrs.evolve(config, interface=None)).keys
        return found.why if isinstance(found, Unseen) else found

    def test_keys(self):
        config = load_text(text(), self.folder)
        self.assertIsNone(self.keys(config))
        self.assertEqual(list(self.folder.iterdir()), [])
        config.state.mkdir()
        secrets = config.state / "secrets"
        for words, expected in (
            ("k1 " + "x" * 40, 1),
            ("k2 " + "y" * 40 + "\nk1 " + "x" * 40, 2),
            ("k1 short", "line 1: expected an id"),
            ("hash " + "x" * 40, "expected 1 to 64 keys, got 0"),
        ):
            secrets.write_text(words)
            got = self.keys(config)
            if isinstance(expected, str):
                self.assertIn(f"{secrets}: ", got)
                self.assertIn(expected, got)
                self.assertNotIn("xxxx", got)
            else:
                self.assertEqual(got, expected)
        self.assertEqual([path.name for path in config.state.iterdir()], ["secrets"])
        config.state.chmod(0o777)
        self.assertIn("not everybody can write", self.keys(config))

    def test_keys_that_hash(self):
        config = load_text(text(routing={"hash": "keyed"}), self.folder)
        config.state.mkdir()
        (config.state / "secrets").write_text("k1 " + "x" * 40)
        self.assertIn("expected a key with the id hash", self.keys(config))

    def test_keys_that_nobody_reads(self):
        self.assertIsNone(self.keys(load_text(text(web=False), self.folder)))

    def test_a_proxy_alone(self):
        """Of a node without an interface nothing on the machine is looked at."""
        config = load_text(json.dumps({"node": "a", "array": {"web": WEB}}), self.folder)
        for name in ("addresses", "find", "read_features", "read_ruleset"):
            self.patch(module, name, None)
        facts = look(config)
        self.assertEqual((facts.interface, facts.running), (None, False))


class MonitorTests(SynchronousTestCase):
    """The role that whoever listens there tells."""

    def role(self, body, status=200):
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        with HTTPServer(("127.0.0.1", 0), Answer) as server:
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            try:
                return ask_role(Endpoint(*server.server_address))
            finally:
                thread.join(WAIT)

    def test_role(self):
        self.assertEqual(self.role(b'{"node": "a", "role": "backup"}'), "backup")

    def test_none(self):
        for body in (b"", b"[]", b"{}", b'{"role": 1}', b'{"role": null}', b"[" * 100_000, b"\xff"):
            self.assertIsNone(self.role(body), body[:20])

    def test_nobody(self):
        with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
            free = server.server_address
        self.assertIsNone(ask_role(Endpoint(*free)))


class ProcessTests(SynchronousTestCase):
    def test_capabilities(self):
        """Against what the kernel tells a child in another form."""
        run = subprocess.run(
            ["sh", "-c", "grep CapEff /proc/self/status"], capture_output=True, text=True
        )
        mask = int(run.stdout.split()[1], 16)
        for name, bit in (("CAP_NET_BIND_SERVICE", 10), ("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13)):
            self.assertEqual(name in capabilities(), bool(mask & 1 << bit), name)

    def test_clock(self):
        self.assertIn(is_synchronised(), (True, False))

    def test_clock_by_the_kernels_words(self):
        def kernel(state, status):
            def adjtimex(timex):
                timex._obj.status = status
                return state

            return mock.Mock(adjtimex=adjtimex)

        for state, status, expected in (
            (0, 0x2001, True),
            (5, 0x40, False),
            (0, 0x40, False),
            (5, 0, False),
        ):
            with mock.patch.object(module.ctypes, "CDLL", return_value=kernel(state, status)):
                self.assertIs(is_synchronised(), expected)
        with mock.patch.object(module.ctypes, "CDLL", return_value=kernel(-1, 0)):
            self.assertRaises(OSError, is_synchronised)

    def test_tables_of_iptables(self):
        path = Path(self.mktemp())
        self.patch(module, "_LEGACY_TABLES", str(path))
        self.assertEqual(module._legacy_tables(), ())
        path.write_text("filter\nnat\n")
        self.assertEqual(module._legacy_tables(), ("filter", "nat"))
