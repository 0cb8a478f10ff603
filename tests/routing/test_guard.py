"""Tests of dlba.routing.guard: what the kernel really drops."""

import shutil
import socket
import subprocess

from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import DLBAError
from dlba.routing import guard
from dlba.routing.guard import Guard
from tests import namespaces
from tests.routing.machines import ADDRESS, MAC, PEER, PEER_MAC, VIP, MachineTest
from tests.routing.ports import raw_socket, received

MEMBER = "02:00:cb:00:71:0c"


class GuardTests(MachineTest, SynchronousTestCase):
    skip = namespaces.missing() or (
        None if shutil.which("nft", path=guard._PATH) else "nft is missing (Debian: nftables)"
    )

    def setUp(self):
        super().setUp()
        namespaces.ip(f"address add {VIP}/32 dev lo")
        with self.other.entered():
            self.client = raw_socket("peer")
        self.addCleanup(self.client.close)
        self.guard = Guard("eth0", socket.inet_aton(VIP), [bytes.fromhex(MEMBER.replace(":", ""))])

    def answered(self, to: str, source: str = PEER_MAC, tag: Packet | None = None) -> bool:
        """Whether the kernel answers an echo request for `to`."""
        echo = IP(src=PEER, dst=to) / ICMP(id=7)
        if tag is not None:
            echo = tag / echo
        self.client.send(bytes(Ether(src=source, dst=MAC.hex(":")) / echo))
        frames = [Ether(frame) for frame in received(self.client)]
        for frame in frames:
            if ARP in frame and frame[ARP].pdst == PEER:  # the kernel looks for the client
                answer = ARP(op=2, hwsrc=PEER_MAC, psrc=PEER, hwdst=MAC.hex(":"), pdst=ADDRESS)
                self.client.send(bytes(Ether(src=PEER_MAC, dst=MAC.hex(":")) / answer))
                frames += [Ether(raw) for raw in received(self.client)]
        return any(ICMP in frame and frame[ICMP].type == 0 for frame in frames)

    def tables(self) -> str:
        run = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, timeout=20)
        return run.stdout

    def test_vip_frames_get_through_from_members_alone(self):
        self.assertTrue(self.answered(VIP))
        self.guard.apply()
        self.assertFalse(self.answered(VIP))
        self.assertTrue(self.answered(VIP, source=MEMBER))
        self.assertTrue(self.answered(ADDRESS))
        self.guard.remove()
        self.assertTrue(self.answered(VIP))
        self.assertEqual(self.tables(), "")

    def test_a_tag_that_is_a_priority_alone(self):
        # VLAN 0: this LAN's own frames (IEEE 802.1Q, priority-tagged); the kernel takes them.
        for others in (self.guard, Guard("eth0", socket.inet_aton(VIP), [])):
            others.remove()
            for tag in (Dot1Q(vlan=0), Dot1Q(vlan=0, prio=5), Dot1AD(vlan=0)):
                self.assertTrue(self.answered(VIP, tag=tag))
                others.apply()
                self.assertFalse(self.answered(VIP, tag=tag))
                self.assertEqual(self.answered(VIP, MEMBER, tag), others is self.guard)
                self.assertTrue(self.answered(ADDRESS, tag=tag))
                others.remove()

    def test_another_vlan_is_left_alone(self):
        for others in (self.guard, Guard("eth0", socket.inet_aton(VIP), [])):
            others.apply()
            for vlan in (1, 5, 4094):
                self.answered(VIP, tag=Dot1Q(vlan=vlan))
            self.assertIn("counter packets 0 ", self.listed())
            self.answered(VIP)
            self.assertIn("counter packets 1 ", self.listed())

    def listed(self) -> str:
        command = ["nft", "list", "table", "netdev", "dlba_eth0"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout

    def test_a_former_rule_is_replaced(self):
        self.guard.apply()
        self.guard.apply()
        self.assertEqual(self.tables().count("table netdev"), 1)
        Guard("eth0", socket.inet_aton(VIP), []).remove()
        self.assertEqual(self.tables(), "")

    def test_nothing_to_remove(self):
        self.guard.remove()
        self.assertEqual(self.tables(), "")

    def test_an_array_of_one(self):
        Guard("eth0", socket.inet_aton(VIP), []).apply()
        self.assertFalse(self.answered(VIP, source=MEMBER))

    def test_names_of_interfaces(self):
        namespaces.pair("eth0.100", "other")
        Guard("eth0.100", socket.inet_aton(VIP), []).apply()
        self.assertIn("dlba_eth0_100", self.tables())

    def test_what_nft_complains_of(self):
        error = self.assertRaises(DLBAError, Guard("eth0", b"\x01\x02", []).apply)
        self.assertIn("own_mac: nft: expected the rule to be taken, got: ", str(error))

    def test_without_nft(self):
        self.patch(guard, "_PATH", "/nonexistent")
        error = self.assertRaises(DLBAError, self.guard.apply)
        self.assertIn("Debian: nftables", str(error))
        self.guard.remove()

    def test_a_rule_that_stays_is_told(self):
        self.guard.apply()
        run = Guard._run
        self.patch(Guard, "_run", lambda g, text: "busy" if "delete" in text else run(g, text))
        told = []
        observer = told.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.guard.remove()
        texts = [formatEvent(event) for event in told]
        self.assertEqual(texts, ["own_mac: nft: table netdev dlba_eth0 stays: busy"])
        run(self.guard, "delete table netdev dlba_eth0\n")
        self.guard.remove()  # whoever complains where there is none isn't heard
        self.assertEqual(len(told), 1)
