"""Tests of dlba.routing.needs."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.needs import (
    LABEL,
    Address,
    Change,
    Feature,
    Interface,
    Plan,
    address_plan,
    effective,
    feature_plan,
    interface_faults,
    rp_filter_plan,
    shown,
    sysctl_plan,
    sysctls_of,
)

VIP = "192.0.2.10"
MAC = b"\x02\0\0\0\0\x0a"


def values(ignore=(0, 0), announce=(0, 0), rp_filter=(0, 0)) -> dict[tuple[str, str], int]:
    """The sysctls, each as (all, eth0)."""
    pairs = {"arp_ignore": ignore, "arp_announce": announce, "rp_filter": rp_filter}
    return {
        (where, key): pair[index]
        for key, pair in pairs.items()
        for index, where in enumerate(("all", "eth0"))
    }


class SysctlTests(SynchronousTestCase):
    def test_a_fresh_machine(self):
        plan = sysctl_plan("eth0", values())
        self.assertEqual(
            plan.changes,
            (
                Change("sysctl", "all", "arp_ignore", 0, 1),
                Change("sysctl", "all", "arp_announce", 0, 2),
            ),
        )
        self.assertEqual(plan.faults, ())

    def test_what_is_enough_stays(self):
        self.assertEqual(sysctl_plan("eth0", values((1, 0), (2, 0), (2, 1))), Plan())
        self.assertEqual(sysctl_plan("eth0", values((2, 0), (2, 1), (0, 0))), Plan())

    def test_too_high_can_t_be_mended(self):
        plan = sysctl_plan("eth0", values((0, 8), (3, 0)))
        self.assertEqual(plan.changes, ())
        self.assertEqual(
            plan.faults,
            (
                "net.ipv4.conf.eth0.arp_ignore: expected 0, 1 or 2, got 8",
                "net.ipv4.conf.all.arp_announce: expected 0, 1 or 2, got 3",
            ),
        )

    @given(
        *[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2, st.tuples(*[st.integers(0, 2)] * 2)
    )
    def test_after_the_changes_all_is_well(self, ignore, announce, rp_filter):
        """Against the rules of the kernel: the greater of both values holds."""
        before = values(ignore, announce, rp_filter)
        plan = sysctl_plan("eth0", before)
        if plan.faults:
            self.assertGreater(max(*ignore, *announce), 2)
            return
        after = dict(before)
        for change in plan.changes:
            self.assertEqual(before[change.device, change.key], change.former)
            after[change.device, change.key] = change.wanted
        self.assertIn(effective(after, "eth0", "arp_ignore"), (1, 2))
        self.assertEqual(effective(after, "eth0", "arp_announce"), 2)
        self.assertIn(effective(after, "eth0", "rp_filter"), (0, 2))
        self.assertEqual(after["all", "rp_filter"], before["all", "rp_filter"])
        self.assertEqual(sysctl_plan("eth0", after), Plan())

    def test_rp_filter_of_every_pair(self):
        for both in product(range(3), repeat=2):
            plan = rp_filter_plan("eth0", values(rp_filter=both))
            self.assertEqual(bool(plan.changes), max(both) == 1, both)

    def test_names(self):
        self.assertEqual(
            shown(Change("sysctl", "eth0.100", "rp_filter", 1, 2)),
            "net.ipv4.conf.eth0/100.rp_filter",
        )
        self.assertEqual(shown(Change("feature", "eth0", "rx-lro", 1, 0)), "eth0: rx-lro")
        self.assertEqual(len(sysctls_of("eth0")), 6)


class AddressTests(SynchronousTestCase):
    ADD = Change("address", "lo", VIP, 0, 1)

    def test_added_where_it_isn_t(self):
        loopback = Address("lo", "127.0.0.1", 8, "lo")
        self.assertEqual(address_plan(VIP, [loopback]).changes, (self.ADD,))

    def test_the_operator_s_stays_the_operator_s(self):
        self.assertEqual(address_plan(VIP, [Address("lo", VIP, 32, "lo")]), Plan())

    def test_what_a_killed_node_left_is_ours_again(self):
        self.assertEqual(address_plan(VIP, [Address("lo", VIP, 32, LABEL)]).changes, (self.ADD,))

    def test_elsewhere_or_wider_is_a_fault(self):
        for wrong in (Address("eth0", VIP, 24, "eth0"), Address("lo", VIP, 24, "lo")):
            plan = address_plan(VIP, [wrong])
            self.assertEqual(plan.changes, ())
            self.assertIn(f"expected the VIP as {VIP}/32 on lo alone", plan.faults[0])

    def test_the_tun_device_has_it_too(self):
        there = [Address("dlba0", VIP, 32, "dlba0")]
        self.assertEqual(address_plan(VIP, there, "dlba0").changes, (self.ADD,))
        self.assertTrue(address_plan(VIP, there).faults)


class FeatureTests(SynchronousTestCase):
    ON, OFF = Feature(True, True, True), Feature(False, False, True)

    def test_lro_always_gro_where_frames_mustn_t_be_merged(self):
        features = {"rx-lro": self.ON, "rx-gro": self.ON, "rx-gro-hw": self.OFF}
        lro, gro = (Change("feature", "eth0", name, 1, 0) for name in ("rx-lro", "rx-gro"))
        self.assertEqual(feature_plan("eth0", features, True).changes, (lro,))
        self.assertEqual(feature_plan("eth0", features, False).changes, (lro, gro))

    def test_one_that_the_driver_has_fixed(self):
        plan = feature_plan("eth0", {"rx-lro": Feature(True, True, False)}, True)
        self.assertEqual(plan.faults, ("eth0: rx-lro: expected off, got on, fixed by the driver",))

    def test_unknown_ones_are_off(self):
        self.assertEqual(feature_plan("eth0", {}, False), Plan())


class InterfaceTests(SynchronousTestCase):
    def faults(self, **changes):
        fields = {"index": 2, "name": "eth0", "mac": MAC, "mtu": 1500, "up": True}
        fields |= {"carrier": True, "addresses": ("192.0.2.11",)}
        return interface_faults("eth0", Interface(**(fields | changes)), MAC, "192.0.2.11")

    def test_as_configured(self):
        self.assertEqual(self.faults(), [])
        self.assertEqual(self.faults(up=False, carrier=False), [])

    def test_each_fault(self):
        self.assertIn("isn't there", interface_faults("eth9", None, MAC, "192.0.2.11")[0])
        self.assertIn("another kind", self.faults(ethernet=False)[0])
        faults = self.faults(mac=b"\x02\0\0\0\0\x0b", addresses=())
        self.assertEqual(
            faults,
            [
                "eth0: MAC: expected 02:00:00:00:00:0a, got 02:00:00:00:00:0b",
                "eth0: address: expected this node's 192.0.2.11, got none",
            ],
        )
