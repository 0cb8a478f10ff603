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
from dlba.routing.offloads import switch_feature
from dlba.routing.settings import FILE, KernelSettings, carrier, look_up
from dlba.routing.tun import Tun
from tests import namespaces
from tests.routing.machines import ADDRESS, MAC, PEER, PEER_MAC, VIP, MachineTest, dump
from tests.routing.ports import raw_socket, received

ROOT = Path(__file__).resolve().parent.parent.parent


class Case(MachineTest, SynchronousTestCase):
    skip = namespaces.missing(tun=True)

    def settings(self, **changes) -> KernelSettings:
        values = {"state": self.state, "interface": "eth0", "vip": VIP, "own_mac": MAC}
        values |= {"address": ADDRESS, "merging": True}
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

    def test_gro_goes_where_frames_mustn_t_be_merged(self):
        switch_feature("eth0", "rx-gro", True)
        self.before = dump()
        made = self.settings(merging=False)
        made.apply()
        self.assertEqual((self.before["rx-gro"], dump()["rx-gro"]), ("True", "False"))
        made.undo()
        self.assertEqual(dump(), self.before)

    def test_the_tun_device_gets_the_vip(self):
        made = self.settings()
        made.apply()
        tun = Tun("dlba0")
        made.tun_up("dlba0")
        self.assertEqual(self.sysctl("dlba0", "rp_filter"), "2")
        found = look_up("dlba0")
        self.assertEqual((found.addresses, found.up, found.ethernet), ((VIP,), True, False))
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
            self.assertIn(part, str(error))
        self.assertEqual(dump(), self.before)
        self.assertEqual(list(self.state.iterdir()), [])

    def test_no_such_interface(self):
        self.fails("got 'eth9', which isn't there", interface="eth9")

    def test_another_mac_and_address_in_one_go(self):
        self.fails(
            "eth0: MAC: expected 02:00:00:00:00:0b, got 02:00:cb:00:71:0b",
            f"eth0: address: expected this node's 203.0.113.12, got {ADDRESS}",
            own_mac=b"\x02\0\0\0\0\x0b",
            address="203.0.113.12",
        )

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

        self.patch(sys.modules["dlba.routing.settings"], "write_sysctl", failing)
        self.assertRaises(OSError, made.apply)
        self.assertEqual(dump(), self.before)
        self.assertFalse((self.state / FILE).exists())


class RecoverTests(Case):
    def killed(self) -> None:
        """Another process makes the settings and is killed."""
        code = (
            "import os, sys; from pathlib import Path\n"
            "from dlba.routing.settings import KernelSettings\n"
            f"KernelSettings(Path(sys.argv[1]), 'eth0', '{VIP}', {MAC!r}, '{ADDRESS}', False)"
            ".apply()\nos.kill(os.getpid(), 9)"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(self.state)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=60,
        )
        self.assertEqual(run.returncode, -signal.SIGKILL)
        self.assertNotEqual(dump(), self.before)

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

    def test_a_damaged_file_is_told_and_dropped(self):
        for text in ("", "{", "[]", '{"boot": 1}', "\xff", '{"changes": 7}'):
            (self.state / FILE).write_text(text)
            self.settings().recover()
            self.assertEqual(dump(), self.before)
        left = {"boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip()}
        left |= {"namespace": os.stat("/proc/thread-self/ns/net").st_ino}
        for changes in (7, [7], [{"kind": "sysctl"}], {"a": 1}):
            (self.state / FILE).write_text(json.dumps(left | {"changes": changes}))
            self.settings().recover()
            self.assertEqual(dump(), self.before)


class LookTests(Case):
    def test_interface(self):
        found = look_up("eth0")
        self.assertEqual((found.name, found.mac, found.mtu), ("eth0", MAC, 1500))
        self.assertEqual((found.addresses, found.up, found.carrier), ((ADDRESS,), True, True))
        self.assertTrue(found.ethernet)
        error = self.assertRaises(DLBAError, look_up, "eth9")
        self.assertIn("eth9: expected a network interface, got none", str(error))

    def test_carrier(self):
        self.assertTrue(carrier("eth0"))
        with self.other.entered():
            namespaces.ip("link set peer down")
        self.assertFalse(carrier("eth0"))
        self.assertFalse(carrier("eth9"))
