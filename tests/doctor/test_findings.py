"""Tests of dlba.doctor.findings: what is said of a machine as a whole."""

from pathlib import Path

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.keys import needs_keys
from dlba.doctor.answers import Answers
from dlba.doctor.facts import Finding, Level, Unseen
from dlba.doctor.findings import findings, has_problem, safe_changes
from dlba.routing.arp import who_has
from dlba.routing.array import ipv4
from dlba.routing.needs import Change
from tests.doctor.samples import CAPABILITIES, ETH0, WEB, bad, config, facts, fresh
from tests.routing.machines import ADDRESS, MAC, PEER, PEER_MAC, VIP

ALL = (
    "configuration",
    "node",
    "interface",
    "capabilities",
    "sysctls",
    "offloads",
    "VIP",
    "TUN device",
    "firewall",
    "VIP's ARP",
    "nodes' MACs",
    "secrets",
    "clock",
)


def answers() -> Answers:
    """What the scheduler hears where all is well: the other node."""
    heard = Answers((ipv4(VIP), ipv4(ADDRESS), ipv4(PEER)))
    heard.hear(who_has(ipv4(ADDRESS), bytes.fromhex(PEER_MAC.replace(":", "")), ipv4(PEER)))
    return heard


class WholeTests(SynchronousTestCase):
    def about(self, found, subject):
        return [one for one in found if one.about == subject]

    def test_a_node_that_runs_well(self):
        found = findings(config(), facts(), answers())
        self.assertEqual(bad(found), [])
        self.assertEqual(tuple(one.about for one in found), ALL)
        self.assertFalse(has_problem(found))
        self.assertEqual(safe_changes(found), [])

    def test_a_machine_before_its_first_start(self):
        """Nothing is a problem that a start mends."""
        found = findings(config(), fresh(keys=2), answers())
        self.assertFalse(has_problem(found))
        self.assertEqual({one.level for one in found}, {Level.OK, Level.NOTE})
        changes = (
            Change("sysctl", "all", "arp_ignore", 0, 1),
            Change("sysctl", "all", "arp_announce", 0, 2),
            Change("sysctl", "eth0", "rp_filter", 1, 2),
            Change("address", "lo", VIP, 0, 1),
        )
        self.assertEqual(tuple(safe_changes(found)), changes)

    def test_a_proxy_alone(self):
        alone = config(node={"interface": None, "array": {"web": WEB}})
        found = findings(alone, facts(running=False, interface=None, keys=None))
        self.assertEqual(bad(found), [("note", "interface"), ("note", "secrets")])
        self.assertEqual(
            [one.about for one in found],
            ["configuration", "interface", "capabilities", "secrets", "clock"],
        )

    def test_warnings_of_the_configuration(self):
        found = findings(config(), facts(), answers(), ["x.pem: expected it valid, got expired"])
        self.assertEqual(bad(found), [("warning", "configuration")])
        self.assertFalse(has_problem(found))

    def test_no_fix_on_a_machine_that_is_not_the_nodes(self):
        """A file of another machine, or another network namespace: the interface tells."""
        for interface in (
            None,
            Unseen("x"),
            attrs.evolve(ETH0, mac=b"\x02\0\0\0\0\x99"),
            attrs.evolve(ETH0, addresses=()),
        ):
            found = findings(config(), fresh(interface=interface), answers())
            self.assertEqual(safe_changes(found), [])
            if interface is not None:
                self.assertIn("VIP", [one.about for one in found if one.mend])
        for link in ({"up": False}, {"carrier": False}):
            found = findings(config(), fresh(interface=attrs.evolve(ETH0, **link)))
            self.assertEqual(len(safe_changes(found)), 4)

    def test_addresses_come_last(self):
        """No kernel may get the VIP before it is silent about it."""
        kinds = ("address", "feature", "sysctl", "address", "sysctl")
        found = [
            Finding(Level.PROBLEM, "x", "x", "x", Change(kind, "lo", str(number), 0, 1))
            for number, kind in enumerate(kinds)
        ]
        got = [(change.kind, change.key) for change in safe_changes(found)]
        expected = [("sysctl", "2"), ("sysctl", "4"), ("feature", "1")]
        self.assertEqual(got, [*expected, ("address", "0"), ("address", "3")])

    @given(st.data())
    def test_nothing_raises_and_each_problem_has_a_mend(self, data):
        """Whatever could not be looked at is told, and hides nothing else."""
        unseen = st.just(Unseen("no such luck"))
        maybe = {
            "running": st.booleans() | unseen,
            "role": st.sampled_from(("scheduler", "backup", "fault", None)),
            "capabilities": st.frozensets(st.sampled_from(sorted(CAPABILITIES))),
            "interface": st.sampled_from((ETH0, None, attrs.evolve(ETH0, up=False))) | unseen,
            "tun": st.none() | unseen,
            "no_tun": st.sampled_from((None, "No such file or directory")),
            "addresses": st.just(()) | unseen,
            "sysctls": st.just({}),
            "no_sysctls": st.sampled_from((None, "Read-only file system")),
            "features": st.just({}) | unseen,
            "ruleset": st.sampled_from(((), None)) | unseen,
            "synchronised": st.booleans() | unseen,
            "keys": st.sampled_from((0, 1, None)),
        }
        changes = data.draw(st.fixed_dictionaries({}, optional=maybe))
        heard = data.draw(st.sampled_from((None, Unseen("down"), answers())))
        found = findings(config(), facts(**changes), heard)
        for one in found:
            self.assertTrue(one.about and one.found, one)
            if one.level is Level.PROBLEM:
                self.assertTrue(one.mend, one)
        subjects = {one.about for one in found}
        self.assertLessEqual({"configuration", "node", "interface", "capabilities"}, subjects)
        self.assertLessEqual({"VIP", "TUN device", "firewall", "secrets", "clock"}, subjects | {""})


class PartTests(SynchronousTestCase):
    """One thing at a time."""

    def found(self, about, configuration=None, **changes):
        found = findings(configuration or config(), facts(**changes), answers())
        return [one for one in found if one.about == about]

    def only(self, about, configuration=None, **changes):
        (one,) = self.found(about, configuration, **changes)
        return str(one.level), one.found, one.mend

    def test_node(self):
        self.assertEqual(self.only("node")[:2], ("ok", "runs, role scheduler"))
        said = "runs, its monitor doesn't answer"
        self.assertEqual(self.only("node", role=None)[:2], ("ok", said))
        level, text, _ = self.only("node", role="fault")
        self.assertEqual((level, "in the role fault" in text), ("problem", True))
        self.assertEqual(self.only("node", running=False, role=None)[0], "note")
        level, text, _ = self.only("node", running=Unseen("Permission denied"))
        self.assertEqual((level, text.endswith(": Permission denied")), ("warning", True))

    def test_interface(self):
        text = f"eth0: up, carrier, {MAC.hex(':')}, {ADDRESS}, MTU 1500"
        self.assertEqual(self.only("interface"), ("ok", text, ""))
        wrong = b"\x02\0\0\0\0\x99"
        for change, words, mend in (
            ({"up": False}, "expected it up, got down", "ip link set dev eth0 up"),
            ({"carrier": False}, "expected a carrier, got none", "ethtool eth0"),
            (
                {"mac": wrong},
                f"expected {MAC.hex(':')}, got {wrong.hex(':')}",
                f"ip link set dev eth0 address {MAC.hex(':')}",
            ),
            (
                {"addresses": ("192.0.2.1",)},
                f"expected this node's {ADDRESS}, got 192.0.2.1",
                f"ip address add {ADDRESS}/24 dev eth0",
            ),
            ({"ethernet": False}, "expected an Ethernet interface", "ip -br link"),
        ):
            got = self.only("interface", interface=attrs.evolve(ETH0, **change))
            self.assertEqual(got[0], "problem")
            self.assertIn(words, got[1])
            self.assertTrue(got[2].startswith(mend), got)
        both = attrs.evolve(ETH0, mac=wrong, addresses=(), carrier=False)
        self.assertEqual(len(self.found("interface", interface=both)), 3)
        level, text, _ = self.only("interface", interface=None)
        self.assertEqual((level, "'eth0', which isn't there" in text), ("problem", True))
        self.assertEqual(self.only("interface", interface=Unseen("x"))[0], "warning")

    def test_capabilities(self):
        for name in CAPABILITIES:
            level, text, _ = self.only("capabilities", capabilities=CAPABILITIES - {name})
            self.assertEqual((level, text.endswith(f"lacks {name}")), ("problem", True))
        without = CAPABILITIES - {"CAP_NET_BIND_SERVICE"}
        for configuration, changes in (
            (config(web=False), {}),
            (config(), {"first_free_port": 80}),
        ):
            changes["capabilities"] = without
            self.assertEqual(self.only("capabilities", configuration, **changes)[0], "ok")

    def test_secrets(self):
        level, text, _ = self.only("secrets", keys=3)
        self.assertEqual((level, "3 keys sign; its sha256sum" in text), ("ok", True))
        self.assertIn("1 key signs;", self.only("secrets")[1])
        wrong = Unseen("/s: line 1: expected an id")
        self.assertEqual(self.only("secrets", keys=wrong)[:2], ("problem", wrong.why))
        alone = {"a": {"number": 0, "address": ADDRESS, "mac": MAC.hex(":")}}
        one, several = config(nodes=alone), config()
        for configuration, level in (
            (several, "problem"),
            (attrs.evolve(several, secrets=Path("/s")), "problem"),
            (one, "note"),
            (attrs.evolve(one, secrets=Path("/s")), "problem"),
        ):
            self.assertEqual(self.only("secrets", configuration, keys=None)[0], level)
        text = self.only("secrets", config(), keys=None)[1]
        expected = "expected the array's secrets, the same on every node, got no file"
        self.assertEqual(text, f"/none/state/secrets: {expected}")

    def test_with_a_channel_each_node_has_its_own_secrets(self):
        with_channel = attrs.evolve(config(), channel=object())
        self.assertEqual(self.only("secrets", with_channel, keys=None)[0], "note")
        self.assertNotIn("same on every node", self.only("secrets", with_channel)[1])

    def test_secrets_that_nobody_reads(self):
        for configuration, needed in (
            (config(), True),
            (config(web=False), False),
            (config(web=False, routing={"hash": "keyed"}), True),
        ):
            self.assertEqual(needs_keys(configuration), needed)
            self.assertEqual(len(self.found("secrets", configuration, keys=None)), int(needed))

    def test_clock(self):
        self.assertEqual(self.only("clock")[0], "ok")
        self.assertEqual(self.only("clock", synchronised=False)[0], "warning")
        self.assertEqual(self.only("clock", synchronised=Unseen("x"))[0], "note")

    def test_nobody_could_be_asked(self):
        found = findings(config(), facts(), Unseen("eth0 has no link"))
        self.assertEqual(bad(found), [("warning", "ARP")])
