"""Tests of dlba.routing.array."""

import attrs
from scapy.layers.inet import IP
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.election import ElectionConfig, PingConfig
from dlba.config.scheduling import ArrayNodeConfig, RoutingConfig
from dlba.config.values import ArrayConfig
from dlba.routing.array import frame_path, ipv4, mac_of_scheduler, scheduler_of
from dlba.routing.frame import link_header
from dlba.routing.keyedhash import KeyedHash
from dlba.routing.path import LOCAL
from tests.routing.frames import CLIENT_NUMBER, MEMBERS, OWN, PORT, VIP, link, mac, tcp

MACS = dict(zip("abc", (OWN, *MEMBERS), strict=True))


def node(name: str, **more) -> ArrayNodeConfig:
    number = "abc".index(name)
    values = {"number": number, "address": f"10.99.0.{10 + number}", "mac": mac(MACS[name])}
    return ArrayNodeConfig(name=name, **(values | more))


def array(*nodes: ArrayNodeConfig, **routing) -> ArrayConfig:
    return ArrayConfig(
        vip=VIP,
        nodes={one.name: one for one in nodes or map(node, "abc")},
        routing=RoutingConfig(**routing),
        election=ElectionConfig(ping=PingConfig(every=0.5, retries=2)),
    )


class SchedulerTests(SynchronousTestCase):
    def test_lowest_enabled_number(self):
        a, b, c = map(node, "abc")
        self.assertEqual(scheduler_of({"c": c, "b": b, "a": a}), "a")
        off = attrs.evolve(a, enabled=False)
        self.assertEqual(scheduler_of({"a": off, "c": c, "b": b}), "b")
        self.assertRaises(ValueError, scheduler_of, {"a": off})

    def test_priority_comes_first(self):
        nodes = {"a": node("a"), "b": node("b", priority=101), "c": node("c", priority=101)}
        self.assertEqual(scheduler_of(nodes), "b")

    def test_its_mac(self):
        other = node("b", scheduler_mac=mac("0a:00:00:00:00:01"))
        made = array(node("a"), other)
        self.assertEqual(mac_of_scheduler(made, "a").hex(":"), "06" + OWN[2:])
        self.assertEqual(mac_of_scheduler(made, "b").hex(":"), "0a:00:00:00:00:01")
        self.assertEqual(mac_of_scheduler(array(own_mac=True), "a"), mac(OWN))


class PathTests(SynchronousTestCase):
    def routed(self, made, name="a", key=None, sport=PORT):
        """Where the first frame of a flow goes."""
        path = frame_path(made, name, 1500, key)
        path.activate(True, 9.0)
        path.wake(9.0)
        to = mac_of_scheduler(made, name).hex(":")
        frame = bytes(link(dst=to) / IP(src="192.168.7.9", dst=VIP) / tcp(sport=sport))
        return path, path.route(memoryview(bytearray(frame)), False)

    def test_headers_of_all_nodes(self):
        _, header = self.routed(array())
        self.assertEqual(header, LOCAL)
        _, header = self.routed(array(), "b")
        self.assertEqual(header, link_header(mac(OWN), mac(MEMBERS[0])))

    def test_disabled_and_weight_0_get_nothing(self):
        made = array(node("a", enabled=False), node("b", weight=0), node("c"))
        _, header = self.routed(made)
        self.assertEqual(header, link_header(mac(MEMBERS[1]), mac(OWN)))

    def test_values_of_the_configuration(self):
        made = array(buckets=128, placement="hits", ports=(8080,), other="local", bucket_timeout=9)
        path, header = self.routed(made)
        self.assertEqual((path.scheduler.table.buckets, path.scheduler.by), (128, "hits"))
        self.assertEqual(header, LOCAL)  # port 443 is another one now
        self.assertEqual(path.counters()["frames_local"], 1)
        path.reach.start(0.0)
        path.reach.due(0.0)
        self.assertEqual(path.reach.next_at, 0.5)

    def test_keyed_hash(self):
        key = b"k" * 32
        path, _ = self.routed(array(hash="keyed"), key=key)
        bucket = KeyedHash(65536, key)(CLIENT_NUMBER, PORT)
        self.assertNotEqual(bucket, (CLIENT_NUMBER + PORT) % 65536)
        self.assertEqual(path.scheduler.table.node_of(bucket), 0)
        self.assertRaises(ValueError, frame_path, array(hash="keyed"), "a", 1500, None)

    def test_without_a_vip(self):
        self.assertRaises(ValueError, frame_path, attrs.evolve(array(), vip=None), "a", 1500, None)

    def test_address(self):
        self.assertEqual(ipv4("10.99.0.255"), b"\x0a\x63\x00\xff")
