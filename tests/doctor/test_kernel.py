"""Tests of dlba.doctor.kernel: the VIP's place, sysctls, offloads, the TUN device."""

import re
from pathlib import Path

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.doctor.facts import Level, Unseen
from dlba.doctor.findings import safe_changes
from dlba.doctor.kernel import command_of, kernel_findings
from dlba.routing.needs import LABEL, Address, Change
from tests.doctor.samples import DLBA0, OFF, ON, ON_LO, SYSCTLS, bad, config, facts, fresh
from tests.routing.machines import VIP

ROOT = Path(__file__).resolve().parent.parent.parent


def found(about, configuration=None, given=None, **changes):
    given = given if given is not None else facts(**changes)
    return [one for one in kernel_findings(configuration or config(), given) if one.about == about]


def said(about, configuration=None, given=None, **changes):
    return [
        (str(one.level), one.found, one.mend)
        for one in found(about, configuration, given, **changes)
    ]


def sysctls(**changes):
    """As SYSCTLS; `all_arp_ignore=0`, `eth0_rp_filter=1` and so on."""
    values = dict(SYSCTLS)
    for name, value in changes.items():
        device, _, key = name.partition("_")
        values[device, key] = value
    return values


class VipTests(SynchronousTestCase):
    def test_where_it_should_be(self):
        self.assertEqual(said("VIP"), [("ok", f"{VIP}/32 is on lo alone", "")])
        by_hand = (attrs.evolve(ON_LO, label="lo"),)
        self.assertEqual(said("VIP", addresses=by_hand, running=False)[0][0], "ok")
        self.assertEqual(said("VIP", addresses=by_hand)[0][0], "ok")

    def test_nowhere(self):
        mend = f"ip address add {VIP}/32 dev lo scope host label {LABEL}"
        for running, level, why in (
            (True, "problem", ", changed since the node's start"),
            (False, "note", ": the node sets it at its start"),
            (Unseen("x"), "note", ": the node sets it at its start"),
        ):
            expected = [(level, f"lo: expected {VIP}/32, got none{why}", mend)]
            self.assertEqual(said("VIP", addresses=(), running=running), expected)

    def test_left_by_a_killed_node(self):
        ((level, text, mend),) = said("VIP", addresses=(ON_LO,), running=False)
        self.assertEqual((level, "the next start takes it over" in text), ("note", True))
        self.assertEqual(mend, f"ip address del {VIP}/32 dev lo")
        (one,) = found("VIP", addresses=(ON_LO,), running=False)
        self.assertIsNone(one.change)

    def test_elsewhere(self):
        for address in (
            Address("eth0", VIP, 24, "eth0"),
            Address("eth0", VIP, 32, "eth0"),
            Address("lo", VIP, 24, "lo"),
        ):
            ((level, text, mend),) = said("VIP", addresses=(ON_LO, address))
            start = f"{address.interface}: {VIP}/{address.length}: expected"
            self.assertEqual((level, text.startswith(start)), ("problem", True))
            where = f"{VIP}/{address.length} dev {address.interface}"
            self.assertEqual(mend, f"ip address del {where}")
        two = (Address("eth0", VIP, 24, ""), Address("eth1", VIP, 24, ""))
        self.assertEqual([level for level, *_ in said("VIP", addresses=two)], ["problem"] * 2)

    def test_unseen(self):
        self.assertEqual(said("VIP", addresses=Unseen("x"))[0][0], "warning")


class SysctlTests(SynchronousTestCase):
    def test_right(self):
        text = "eth0: arp_ignore 1, arp_announce 2, rp_filter 2"
        self.assertEqual(said("sysctls"), [("ok", text, "")])

    def test_changed_while_a_node_runs(self):
        why = ", changed since the node's start"
        for change, name, wanted, got in (
            ({"all_arp_announce": 0}, "all.arp_announce", 2, 0),
            ({"eth0_rp_filter": 1}, "eth0.rp_filter", 2, 1),
            ({"eth0_rp_filter": 0}, "eth0.rp_filter", 2, 0),
        ):
            text = f"net.ipv4.conf.{name}: expected {wanted}, got {got}{why}"
            mend = f"sysctl -w net.ipv4.conf.{name}={wanted}"
            self.assertEqual(said("sysctls", sysctls=sysctls(**change)), [("problem", text, mend)])

    def test_a_kernel_that_answers_for_the_vip(self):
        """Whether or not a node runs: it takes the VIP from the scheduler."""
        silent_no_more = sysctls(all_arp_ignore=0)
        for running, addresses, level in (
            (True, (ON_LO,), "problem"),
            (False, (ON_LO,), "problem"),
            (False, (Address("eth0", VIP, 24, ""),), "problem"),
            (False, (Address("dlba0", VIP, 32, ""),), "note"),
            (False, (), "note"),
        ):
            given = facts(running=running, addresses=addresses, sysctls=silent_no_more)
            ((got, text, _),) = said("sysctls", given=given)
            self.assertEqual(got, level)
            kernel = "this machine's kernel answers ARP for the VIP" in text
            self.assertEqual(kernel, level == "problem")

    def test_too_high(self):
        """What no node mends is a problem always, in one step to what it must be."""
        for change, name, got, wanted in (
            ({"all_arp_ignore": 8}, "all.arp_ignore", 8, 1),
            ({"eth0_arp_ignore": 3, "all_arp_ignore": 1}, "eth0.arp_ignore", 3, 0),
            ({"all_arp_announce": 3}, "all.arp_announce", 3, 2),
        ):
            for running in (True, False):
                values = sysctls(**change)
                ((level, text, mend),) = said("sysctls", sysctls=values, running=running)
                expected = f"net.ipv4.conf.{name}: expected 0, 1 or 2, got {got}"
                self.assertEqual((level, text), ("problem", expected))
                self.assertEqual(mend, f"sysctl -w net.ipv4.conf.{name}={wanted}")

    def test_that_cannot_be_set(self):
        why = "Read-only file system"
        levels = {level for level, *_ in said("sysctls", given=fresh(no_sysctls=why))}
        self.assertEqual(levels, {"problem"})
        self.assertEqual(said("sysctls", no_sysctls=why)[0][0], "ok")

    def test_that_could_not_be_read(self):
        self.assertEqual(said("sysctls", sysctls={})[0][0], "warning")

    values = st.fixed_dictionaries({name: st.integers(0, 9) for name in SYSCTLS})

    @given(values, st.booleans())
    def test_after_the_mends_all_is_well(self, before, running):
        """Against the rules of the kernel: the greater of both values holds."""
        after = dict(before)
        first = kernel_findings(config(), facts(sysctls=before, running=running))
        for change in safe_changes(first):
            if change.kind == "sysctl":
                self.assertEqual(after[change.device, change.key], change.former)
                after[change.device, change.key] = change.wanted
        again = kernel_findings(config(), facts(sysctls=after, running=running))
        self.assertEqual(next(one for one in again if one.about == "sysctls").level, Level.OK)
        for key, right in (("arp_ignore", (1, 2)), ("arp_announce", (2,))):
            self.assertIn(max(after["all", key], after["eth0", key]), right)
        self.assertNotEqual(max(after["all", "rp_filter"], after["eth0", "rp_filter"]), 1)
        self.assertEqual(after["all", "rp_filter"], before["all", "rp_filter"])

    def test_the_file_for_sysctl_d_is_enough(self):
        """With it, a node writes nothing: not on a strict machine, and not to dlba0."""
        lines = (ROOT / "etc/dlba.sysctl.conf").read_text("utf-8").splitlines()
        settings = dict(
            re.fullmatch(r"-?net\.ipv4\.conf\.(\S+) = (\d)", line).groups()
            for line in lines
            if line and not line.startswith("#")
        )
        values = dict.fromkeys(SYSCTLS, 0)
        for device in ("all", "eth0", "dlba0"):
            values[device, "rp_filter"] = 1
        values["dlba0", "rp_filter"] = int(settings.pop("default.rp_filter"))
        for name, value in settings.items():
            self.assertIn(tuple(name.split(".")), values)
            values[tuple(name.split("."))] = int(value)
        given = facts(sysctls=values, no_sysctls="Read-only file system")
        self.assertEqual(bad(kernel_findings(config(), given)), [])


ALL_ON = {"rx-lro": ON, "rx-gro": ON, "rx-gro-hw": ON}


class OffloadTests(SynchronousTestCase):
    def test_what_must_be_off(self):
        ((level, text, mend),) = said("offloads", features=ALL_ON)
        self.assertEqual((level, mend), ("problem", "ethtool -K eth0 rx-lro off"))
        self.assertEqual(text, "eth0: rx-lro: expected off, got on, changed since the node's start")
        pcap = config(routing={"packets": "pcap"})
        got = said("offloads", pcap, features=ALL_ON)
        self.assertEqual(
            [mend for *_, mend in got],
            [f"ethtool -K eth0 {name} off" for name in ("rx-lro", "rx-gro", "rx-gro-hw")],
        )
        got = said("offloads", pcap, features=ALL_ON, running=False)
        self.assertEqual([level for level, *_ in got], ["note"] * 3)

    def test_fixed_by_the_driver(self):
        fixed = attrs.evolve(ON, changeable=False)
        for running in (True, False):
            given = {"features": {"rx-lro": fixed}, "running": running}
            (one,) = found("offloads", **given)
            self.assertEqual((one.level, one.change), (Level.PROBLEM, None))
            self.assertIn("fixed by the driver", one.found)

    def test_off(self):
        self.assertEqual(said("offloads", features={"rx-lro": OFF})[0][0], "ok")
        self.assertEqual(said("offloads", features=Unseen("x"))[0][0], "warning")


class TunTests(SynchronousTestCase):
    def test_no_node(self):
        self.assertEqual(said("TUN device", tun=None, running=False)[0][0], "ok")
        ((level, _, mend),) = said("TUN device", running=False)
        self.assertEqual((level, mend), ("problem", "ip link delete dlba0"))
        self.assertEqual(said("TUN device", running=False, tun=Unseen("x"))[0][0], "warning")

    def test_closed(self):
        for running in (True, False):
            ((level, text, mend),) = said("TUN device", no_tun="No such file", running=running)
            self.assertEqual((level, mend), ("problem", "modprobe tun"))
            self.assertIn("got: No such file", text)

    def test_of_a_running_node(self):
        self.assertEqual(said("TUN device"), [("ok", f"dlba0: up, with {VIP}/32", "")])
        for tun, got in (
            (None, "none"),
            (attrs.evolve(DLBA0, up=False), "one that is down"),
            (attrs.evolve(DLBA0, addresses=("192.0.2.1",)), "one without the VIP"),
        ):
            ((level, text, mend),) = said("TUN device", tun=tun)
            self.assertEqual((level, mend), ("problem", "systemctl restart dlba"))
            self.assertTrue(text.endswith(f"got {got}"), text)

    def test_its_reverse_path_filter(self):
        ((level, _, mend),) = said("TUN device", sysctls=sysctls(dlba0_rp_filter=0))
        self.assertEqual((level, mend), ("problem", "sysctl -w net.ipv4.conf.dlba0.rp_filter=2"))
        eth0 = {name: value for name, value in SYSCTLS.items() if name[0] != "dlba0"}
        self.assertEqual(said("TUN device", sysctls=eth0)[0][0], "warning")


class CommandTests(SynchronousTestCase):
    def test_as_people_type_them(self):
        for change, command in (
            (Change("sysctl", "eth0.100", "rp_filter", 1, 2), "net.ipv4.conf.eth0/100.rp_filter=2"),
            (Change("feature", "eth0", "rx-lro", 1, 0), "ethtool -K eth0 rx-lro off"),
            (Change("address", "lo", VIP, 0, 1), f"ip address add {VIP}/32 dev lo"),
        ):
            self.assertIn(command, command_of(change))
