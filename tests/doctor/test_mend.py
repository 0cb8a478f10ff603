"""Tests of dlba.doctor.mend: changes on a real machine, and what happens when one fails."""

from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from dlba.config.load import load
from dlba.doctor import mend as module
from dlba.doctor.findings import findings, safe_changes
from dlba.doctor.look import look
from dlba.doctor.mend import fix
from dlba.routing.links import addresses
from dlba.routing.needs import LABEL, Change
from tests import namespaces
from tests.doctor.samples import bad
from tests.doctor.segment import SegmentTest, sysctl
from tests.routing.machines import VIP, dump

SYSCTL = Change("sysctl", "all", "arp_ignore", 0, 1)
ADDRESS = Change("address", "lo", VIP, 0, 1)


class FixTests(SegmentTest, SynchronousTestCase):
    def on_lo(self):
        return [(one.text, one.length, one.label) for one in addresses() if one.text == VIP]

    def test_each_kind(self):
        self.assertEqual(fix([SYSCTL, ADDRESS]), [(SYSCTL, None), (ADDRESS, None)])
        self.assertEqual(sysctl("all.arp_ignore"), 1)
        self.assertEqual(self.on_lo(), [(VIP, 32, LABEL)])
        gro = Change("feature", "eth0", "rx-gro", 1, 0)
        self.assertEqual(fix([gro]), [(gro, None)])
        self.assertNotEqual(dump()["rx-gro"], "True")

    def test_twice(self):
        fix([SYSCTL, ADDRESS])
        self.assertEqual(fix([SYSCTL, ADDRESS]), [(SYSCTL, None), (ADDRESS, None)])

    def test_the_command_lines_do_the_same(self):
        """Whoever types the mends instead has the same machine."""
        found = findings(load(self.file), look(load(self.file)))
        fix(safe_changes(found))
        fixed = dump()
        for change in safe_changes(found):
            if change.kind == "sysctl":
                sysctl(f"{change.device}.{change.key}", change.former)
        namespaces.ip(f"address del {VIP}/32 dev lo")
        for one in found:
            if one.mend.startswith("sysctl -w net.ipv4.conf."):
                name, value = one.mend.removeprefix("sysctl -w net.ipv4.conf.").split("=")
                sysctl(name, int(value))
            elif one.mend.startswith("ip "):
                namespaces.ip(one.mend.removeprefix("ip "))
        self.assertEqual(dump(), fixed)

    def test_a_node_starts_and_stops_afterwards(self):
        fix(safe_changes(findings(load(self.file), look(load(self.file)))))
        with self.running():
            found = findings(load(self.file), look(load(self.file)))
            self.assertLessEqual(set(bad(found)), {("warning", "clock")})
        self.assertEqual(self.on_lo(), [])

    def test_a_sysctl_that_fails_keeps_the_vip_away(self):
        """Else this machine's kernel would answer ARP for it."""
        refused = mock.Mock(side_effect=OSError(30, "Read-only file system"))
        self.patch(module, "write_sysctl", refused)
        gro = Change("feature", "eth0", "rx-gro", 1, 0)
        got = fix([SYSCTL, gro, ADDRESS])
        self.assertEqual(got[0], (SYSCTL, "Read-only file system"))
        self.assertEqual(got[1], (gro, None))
        self.assertEqual(got[2], (ADDRESS, "not tried after what failed before"))
        self.assertEqual(self.on_lo(), [])

    def test_an_offload_that_fails_keeps_nothing_away(self):
        absent = Change("feature", "eth9", "rx-gro", 1, 0)
        self.assertEqual(fix([absent, ADDRESS]), [(absent, "No such device"), (ADDRESS, None)])
