"""Tests of dlba.routing.settings, on the kernel's own settings in private namespaces."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from scapy.layers.l2 import ARP, Ether
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import DLBAError
from dlba.routing import guard, settings
from dlba.routing.guard import Guard
from dlba.routing.links import look_up
from dlba.routing.offloads import switch_feature
from dlba.routing.settings import FILE, KernelSettings, missing_privileges
from dlba.routing.tun import Tun
from tests import namespaces
from tests.routing.machines import ADDRESS, MAC, PEER, PEER_MAC, VIP, MachineTest, dump
from tests.routing.ports import raw_socket, received

ROOT = Path(__file__).resolve().parent.parent.parent


class Case(MachineTest, SynchronousTestCase):
    skip = namespaces.missing(tun=True)

    def setUp(self):
        super().setUp()
        self.told: list[str] = []

    def settings(self, **changes) -> KernelSettings:
        values = {"state": self.state, "interface": "eth0", "vip": VIP, "own_mac": MAC}
        values |= {"address": ADDRESS, "merging": True, "warn": self.told.append}
        return KernelSettings(**(values | changes))

    def sysctl(self, device: str, key: str) -> str:
        return Path(f"/proc/sys/net/ipv4/conf/{device}/{key}").read_text().strip()


class ApplyTests(Case):
    def test_made_and_put_back(self):
        made = self.settings()
        made.apply()
        during = dump()
        self.assertIn(f"{VIP}/32", during["addresses"])
        found = [self.sysctl("all", "arp_ignore"), self.sysctl("all", "arp_announce")]
        found += [self.sysctl("eth0", "rp_filter"), self.sysctl("all", "rp_filter")]
        self.assertEqual(found, ["1", "2", "2", "1"])
        self.assertEqual((self.state / FILE).stat().st_mode & 0o777, 0o600)
        made.undo()
        self.assertEqual(dump(), self.before)
        self.assertEqual(list(self.state.iterdir()), [])
        made.undo()
        self.assertEqual(dump(), self.before)
        self.assertEqual(self.told, [])

    def test_gro_goes_where_frames_mustn_t_be_merged(self):
        switch_feature("eth0", "rx-gro", True)
        self.before = dump()
        made = self.settings(merging=False)
        made.apply()
        self.assertEqual((self.before["rx-gro"], dump()["rx-gro"]), ("True", "False"))
        made.undo()
        self.assertEqual(dump(), self.before)

    def test_again_after_the_interface_was_made_anew(self):
        made = self.settings()
        made.apply()
        namespaces.ip("link del eth0")
        namespaces.pair("eth0", "peer", (MAC.hex(":"), PEER_MAC))
        namespaces.ip(f"address add {ADDRESS}/24 dev eth0")
        self.assertEqual(self.sysctl("eth0", "rp_filter"), "1")
        made.apply()
        self.assertEqual(self.sysctl("eth0", "rp_filter"), "2")
        made.undo()
        found = [self.sysctl("all", "arp_ignore"), self.sysctl("eth0", "rp_filter")]
        self.assertEqual((found, VIP in dump()["addresses"]), (["0", "1"], False))

    def test_put_back_where_the_interface_has_gone(self):
        made = self.settings(merging=False)
        made.apply()
        namespaces.ip("link del eth0")
        made.undo()
        self.assertEqual((self.sysctl("all", "arp_ignore"), self.told), ("0", []))
        self.assertEqual(list(self.state.iterdir()), [])

    def test_what_can_t_be_put_back_is_left_to_the_next_start(self):
        made = self.settings()
        made.apply()

        def failing(device: str, key: str, value: int) -> None:
            raise OSError(30, "Read-only file system")

        patched = self.patch(settings, "write_sysctl", failing)
        made.undo()
        self.assertEqual(
            self.told[-1],
            "net.ipv4.conf.all.arp_ignore: expected 0 again, got: Read-only file system",
        )
        self.assertNotIn(VIP, dump()["addresses"])
        patched.restore()
        self.settings().recover()
        self.assertEqual(dump(), self.before)
        self.assertEqual(list(self.state.iterdir()), [])

    def test_the_tun_device_gets_the_vip(self):
        made = self.settings()
        made.apply()
        tun = Tun("dlba0")
        made.tun_up("dlba0")
        self.assertEqual(self.sysctl("dlba0", "rp_filter"), "2")
        found = look_up("dlba0")
        self.assertEqual((found.addresses, found.up, found.ethernet), ((VIP,), True, False))
        v6 = Path("/proc/sys/net/ipv6/conf/dlba0/disable_ipv6")
        self.assertEqual(v6.read_text() if v6.exists() else "1\n", "1\n")
        tun.close()
        made.undo()
        self.assertEqual(dump(), self.before)

    def test_what_is_right_already_is_the_operator_s(self):
        namespaces.ip(f"address add {VIP}/32 dev lo")
        for device, key, value in (
            ("all", "arp_ignore", "2"),
            ("all", "arp_announce", "2"),
            ("eth0", "rp_filter", "2"),
        ):
            Path(f"/proc/sys/net/ipv4/conf/{device}/{key}").write_text(value)
        before = dump()
        made = self.settings()
        made.apply()
        self.assertEqual((dump(), (self.state / FILE).exists()), (before, False))
        made.undo()
        self.assertEqual(dump(), before)

    def test_what_the_operator_changes_meanwhile_stays(self):
        made = self.settings()
        made.apply()
        Path("/proc/sys/net/ipv4/conf/all/arp_ignore").write_text("2")
        namespaces.ip(f"address del {VIP}/32 dev lo", f"address add {VIP}/32 dev lo")
        made.undo()
        self.assertEqual(self.sysctl("all", "arp_ignore"), "2")
        self.assertEqual(self.sysctl("all", "arp_announce"), "0")
        self.assertIn(f"{VIP}/32", dump()["addresses"])

    def test_the_kernel_is_silent_for_the_vip_and_for_nothing_else(self):
        made = self.settings()
        made.apply()
        with self.other.entered():
            client = raw_socket("peer")
            self.addCleanup(client.close)
        asked = {}
        for wanted in (VIP, ADDRESS):
            question = ARP(hwsrc=PEER_MAC, psrc=PEER, pdst=wanted)
            client.send(bytes(Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / question))
            asked[wanted] = [Ether(frame)[ARP].psrc for frame in received(client)]
        self.assertEqual(asked, {VIP: [], ADDRESS: [ADDRESS]})
        made.undo()

    def test_the_vip_is_never_a_sender_of_questions(self):
        """Else everybody would take this node for the scheduler."""
        made = self.settings()
        made.apply()
        with self.other.entered():
            client = raw_socket("peer")
            self.addCleanup(client.close)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((VIP, 0))
            sock.sendto(b"x", ("203.0.113.77", 9))
        senders = {Ether(f)[ARP].psrc for f in received(client) if ARP in Ether(f)}
        self.assertEqual(senders, {ADDRESS})
        made.undo()


class FaultTests(Case):
    def fails(self, *parts: str, **changes) -> None:
        error = self.assertRaises(DLBAError, self.settings(**changes).apply)
        for part in parts:
            self.assertIn(part, str(error).split("\n"))
        self.assertEqual(dump(), self.before)
        self.assertEqual(list(self.state.iterdir()), [])

    def test_no_such_interface(self):
        self.fails(
            "interface: expected a network interface, got 'eth9', which isn't there",
            interface="eth9",
        )

    def test_another_mac_and_address_in_one_go(self):
        self.fails(
            "eth0: MAC: expected 02:00:00:00:00:0b, got 02:00:cb:00:71:0b",
            f"eth0: address: expected this node's 203.0.113.12, got {ADDRESS}",
            own_mac=b"\x02\0\0\0\0\x0b",
            address="203.0.113.12",
        )

    def test_all_in_one_go(self):
        self.patch(settings, "_TUN_FILE", "/nonexistent/tun")
        self.patch(guard, "_PATH", "/nonexistent")
        self.fails(
            "/nonexistent/tun: expected to be able to open it, got: No such file or directory",
            "own_mac: expected the program nft (Debian: nftables), got none",
            f"eth0: address: expected this node's 203.0.113.12, got {ADDRESS}",
            address="203.0.113.12",
            guarded=True,
        )

    def test_sysctls_that_can_t_be_set(self):
        self.patch(settings, "unwritable", lambda: "Read-only file system")
        self.fails(
            "sysctls: expected net.ipv4.conf.all.arp_ignore=1, net.ipv4.conf.all.arp_announce=2, "
            "net.ipv4.conf.eth0.rp_filter=2 or to be able to set them, got: Read-only file system"
        )
        for device, key, value in (
            ("all", "arp_ignore", "1"),
            ("all", "arp_announce", "2"),
            ("eth0", "rp_filter", "0"),
            ("all", "rp_filter", "0"),
        ):
            Path(f"/proc/sys/net/ipv4/conf/{device}/{key}").write_text(value)
        made = self.settings()
        made.apply()
        made.undo()

    def test_not_ethernet(self):
        tun = Tun("dlba7")
        self.addCleanup(tun.close)
        self.before = dump()
        self.fails("dlba7: expected an Ethernet interface, got another kind", interface="dlba7")

    def test_a_setting_that_doesn_t_take(self):
        self.patch(settings, "write_sysctl", lambda device, key, value: None)
        self.fails("net.ipv4.conf.all.arp_ignore: expected 1, got 0")

    def test_a_full_disk_changes_nothing(self):
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", full)
        self.assertRaises(OSError, self.settings().apply)
        self.assertEqual(dump(), self.before)
        self.assertFalse((self.state / FILE).exists())

    def test_vip_on_the_interface(self):
        namespaces.ip(f"address add {VIP}/24 dev eth0")
        self.before = dump()
        self.fails(f"eth0: {VIP}/24: expected the VIP as {VIP}/32 on lo alone")

    def test_sysctl_that_is_too_high(self):
        Path("/proc/sys/net/ipv4/conf/eth0/arp_ignore").write_text("8")
        self.before = dump()
        self.fails("net.ipv4.conf.eth0.arp_ignore: expected 0, 1 or 2, got 8")

    def test_half_made_is_undone(self):
        made = self.settings()
        calls = []

        def failing(device: str, key: str, value: int) -> None:
            calls.append(key)
            if len(calls) == 2:
                raise OSError(5, "Input/output error")
            Path(f"/proc/sys/net/ipv4/conf/{device}/{key}").write_text(str(value))

        self.patch(settings, "write_sysctl", failing)
        error = self.assertRaises(DLBAError, made.apply)
        self.assertEqual(str(error), "net.ipv4.conf.all.arp_announce: Input/output error")
        self.assertEqual(dump(), self.before)
        self.assertFalse((self.state / FILE).exists())


class RecoverTests(Case):
    def killed(self, after: int = 100) -> None:
        """Another process makes the settings and is killed, at the latest at the end.

        `after`: so many changes.
        """
        code = (
            "import os, sys; from pathlib import Path\n"
            "from dlba.routing import settings\n"
            f"made, write = [], settings._write\n"
            "def last(change, value):\n"
            f"    len(made) == {after} and os.kill(os.getpid(), 9)\n"
            "    made.append(change)\n"
            "    write(change, value)\n"
            "settings._write = last\n"
            f"settings.KernelSettings(Path(sys.argv[1]), 'eth0', '{VIP}', {MAC!r}, '{ADDRESS}', "
            "False).apply()\nos.kill(os.getpid(), 9)"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(self.state)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=60,
        )
        self.assertEqual(run.returncode, -signal.SIGKILL)
        self.assertEqual(dump() == self.before, after == 0)

    def test_killed_at_any_point(self):
        for after in range(5):
            self.killed(after)
            self.settings().recover()
            self.assertEqual(dump(), self.before)
            self.assertEqual((list(self.state.iterdir()), self.told), ([], []))

    def test_the_next_start_puts_back_what_a_killed_one_left(self):
        self.killed()
        made = self.settings()
        made.recover()
        self.assertEqual(dump(), self.before)
        made.apply()
        made.undo()
        self.assertEqual(dump(), self.before)

    def test_without_recovering_the_vip_is_known_as_ours(self):
        self.killed()
        (self.state / FILE).unlink()
        made = self.settings()
        made.apply()
        made.undo()
        self.assertNotIn(VIP, dump()["addresses"])

    def test_nothing_left(self):
        self.settings().recover()
        self.assertEqual(dump(), self.before)

    def test_a_file_of_another_boot_or_namespace(self):
        self.killed()
        during = dump()
        left = json.loads((self.state / FILE).read_text())
        for key, value in (("boot", "another"), ("namespace", 1)):
            (self.state / FILE).write_text(json.dumps(left | {key: value}))
            self.settings().recover()
            self.assertEqual(dump(), during)
            self.assertFalse((self.state / FILE).exists())

    def test_a_damaged_file_is_told_and_set_aside(self):
        (self.state / FILE).write_text("{")
        made = self.settings()
        made.recover()
        self.assertEqual(
            self.told,
            [
                f"{self.state / FILE}: expected the kernel's former settings, got something else: "
                "nothing is put back; it is kept as kernel.json.damaged"
            ],
        )
        self.assertEqual((self.state / "kernel.json.damaged").read_text(), "{")
        made.recover()
        made.apply()
        made.undo()
        self.assertEqual((dump(), len(self.told)), (self.before, 1))

    def test_it_is_told_to_the_log_by_default(self):
        (self.state / FILE).write_text("{")
        self.settings(warn=None).recover()
        (self.state / "kernel.json.damaged").unlink()

    def test_a_rule_that_was_left_on_another_interface(self):
        if guard.missing() is not None:
            self.skipTest(guard.missing())
        namespaces.pair("eth1", "peer1")
        left = Guard("eth1", socket.inet_aton(VIP), [])
        left.apply()
        self.killed()
        text = (self.state / FILE).read_text()
        (self.state / FILE).write_text(text.replace('"interface": "eth0"', '"interface": "eth1"'))
        self.settings().recover()
        run = subprocess.run(["nft", "list", "tables"], capture_output=True, timeout=20)
        self.assertEqual(run.stdout, b"")


class PrivilegeTests(SynchronousTestCase):
    skip = namespaces.missing(tun=True)

    def test_none_missing(self):
        self.assertEqual(missing_privileges(), [])

    def test_a_process_without_capabilities(self):
        code = (
            "import os\n"
            "from dlba.routing.settings import missing_privileges\n"
            "os.setgid(65534); os.setuid(65534)\n"  # and with root go its capabilities
            "print(*missing_privileges(), sep='\\n')\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(
            run.stdout.splitlines()[:2],
            [
                f"capabilities: expected {name}, got none (root, or the unit's AmbientCapabilities)"
                for name in ("CAP_NET_ADMIN", "CAP_NET_RAW")
            ],
            run.stderr,
        )
