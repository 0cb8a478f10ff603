"""Tests of dlba.addresses."""

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.addresses import (
    Endpoint,
    host_name,
    ip_literal,
    is_any,
    is_host,
    is_loopback,
    is_unicast,
    mac_address,
    parse_endpoint,
    port_number,
    same_family,
    scheduler_mac,
    split_endpoint,
)
from tests.routing.frames import OWN, mac


class LiteralTests(SynchronousTestCase):
    def test_one_spelling(self):
        for text, expected in (
            ("10.0.0.1", "10.0.0.1"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("::", "::"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("10.0.0.01", None),
            ("10.0.0.256", None),
            ("10.1", None),
            ("[::1]", None),
            ("", None),
            ("localhost", None),
        ):
            self.assertEqual(ip_literal(text), expected, text)

    def test_kinds(self):
        self.assertEqual([is_any(h) for h in ("0.0.0.0", "::", "10.0.0.1")], [True, True, False])
        self.assertEqual(
            [is_loopback(h) for h in ("127.0.0.9", "::1", "10.0.0.1")], [True, True, False]
        )
        self.assertTrue(same_family("::1", "fe80::1"))
        self.assertFalse(same_family("::1", "127.0.0.1"))


class NameTests(SynchronousTestCase):
    def test_names(self):
        for text, expected in (
            ("Shop.Example.COM.", "shop.example.com"),
            ("app_1", "app_1"),
            ("a-b", "a-b"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("-a", None),
            ("a-", None),
            ("a..b", None),
            (".a", None),
            ("", None),
            (".", None),
            ("a b", None),
            ("bücher", None),
            ("x" * 63, "x" * 63),
            ("x" * 64, None),
            (".".join(["x" * 49] * 5) + ".xyz", ".".join(["x" * 49] * 5) + ".xyz"),
            (".".join(["x" * 49] * 5) + ".wxyz", None),
        ):
            self.assertEqual(host_name(text), expected, text)

    def test_numbers_in_disguise_are_no_names(self):
        for text in ("127.1", "2130706433", "0x7f000001", "10.0.0.256", "a.0x1"):
            self.assertIsNone(host_name(text), text)


class PortTests(SynchronousTestCase):
    def test_bounds(self):
        for text, expected in (
            ("0", 0),
            ("65535", 65535),
            ("65536", None),
            ("-1", None),
            ("", None),
            ("8O", None),
            ("٣", None),
            (" 80", None),
        ):
            self.assertEqual(port_number(text), expected, text)


class EndpointTests(SynchronousTestCase):
    def test_split(self):
        for text, expected in (
            ("10.0.0.1:80", ("10.0.0.1", 80)),
            ("[::1]:80", ("::1", 80)),
            ("Shop.test:8080", ("shop.test", 8080)),
            ("::1:80", None),
            ("[10.0.0.1]:80", None),
            ("[shop]:80", None),
            ("[::1]80", None),
            ("10.0.0.1", None),
            ("10.0.0.1:", None),
            (":80", None),
            ("10.0.0.1:80:90", None),
            ("", None),
        ):
            self.assertEqual(split_endpoint(text), expected, text)

    def test_parse_takes_no_name(self):
        self.assertEqual(parse_endpoint("[::1]:0"), Endpoint("::1", 0))
        error = self.assertRaises(ValueError, parse_endpoint, "localhost:80")
        self.assertEqual(
            str(error), "endpoint: expected IP:port or [IPv6]:port, got 'localhost:80'"
        )

    def test_orders_by_host_then_port(self):
        low, middle, high = Endpoint("10.0.0.1", 9), Endpoint("10.0.0.1", 80), Endpoint("::1", 1)
        self.assertEqual(sorted([high, middle, low]), [low, middle, high])

    @settings(deadline=None)
    @given(st.ip_addresses(), st.integers(0, 65535))
    def test_what_is_written_is_read(self, address, port):
        endpoint = Endpoint(str(ipaddress.ip_address(address)), port)
        self.assertEqual(parse_endpoint(str(endpoint)), endpoint)

    @settings(deadline=None)
    @given(st.text(max_size=40))
    def test_any_text_is_split_or_refused(self, text):
        parts = split_endpoint(text)
        if parts is not None:
            host, port = parts
            self.assertTrue(ip_literal(host) == host or host_name(host) == host)
            self.assertLessEqual(port, 65535)


class SchedulerMacTests(SynchronousTestCase):
    def test_derived(self):
        for nic, expected in (
            ("02:99:00:00:00:10", "06:99:00:00:00:10"),
            ("06:99:00:00:00:10", "02:99:00:00:00:10"),
            ("00:1b:21:aa:bb:cc", "06:1b:21:aa:bb:cc"),
            ("52:54:00:12:34:56", "56:54:00:12:34:56"),
            ("fe:ff:ff:ff:ff:ff", "fa:ff:ff:ff:ff:ff"),
        ):
            self.assertEqual(scheduler_mac(mac(nic)), mac(expected))

    @given(st.binary(min_size=6, max_size=6))
    def test_unicast_local_and_another(self, nic):
        nic = bytes((nic[0] & 0xFE,)) + nic[1:]
        if any(nic):
            derived = scheduler_mac(nic)
            self.assertEqual(derived[0] & 3, 2)
            self.assertNotEqual(derived, nic)
            self.assertEqual(derived[1:], nic[1:])

    def test_override_and_own(self):
        self.assertEqual(
            scheduler_mac(mac(OWN), mac("06:99:00:00:00:11")), mac("06:99:00:00:00:11")
        )
        self.assertEqual(scheduler_mac(mac(OWN), own_mac=True), mac(OWN))

    def test_mistakes(self):
        for wrong in (b"", bytes(5), bytes(6), bytes(7), b"\xff" * 6, mac("03:00:00:00:00:01")):
            self.assertRaises(ValueError, scheduler_mac, wrong)
            self.assertRaises(ValueError, scheduler_mac, mac(OWN), wrong)
        self.assertRaises(ValueError, scheduler_mac, mac(OWN), mac(OWN))
        self.assertRaises(
            ValueError, scheduler_mac, mac(OWN), mac("06:99:00:00:00:11"), own_mac=True
        )


class HostTests(SynchronousTestCase):
    def test_of_one_machine(self):
        for text in ("192.0.2.1", "10.0.0.0", "1.2.3.4", "223.255.255.254"):
            self.assertTrue(is_host(text), text)
        for text in ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::1", "x", ""):
            self.assertFalse(is_host(text), text)


class MacAddressTests(SynchronousTestCase):
    def test_taken(self):
        for text in ("02:00:00:00:00:0a", "02-00-00-00-00-0A"):
            self.assertEqual(mac_address(text), b"\x02\0\0\0\0\x0a")

    def test_refused(self):
        wrong = [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:0a:0b",
            "02:00-00:00:00:0a",
            "0200.0000.000a",
        ]
        wrong += ["2:0:0:0:0:a", "02:00:00:00:00:0g", " 02:00:00:00:00:0a", "02:00:00:00:00:0a\n"]
        for text in wrong:
            self.assertIs(mac_address(text), None, text)

    def test_unicast(self):
        self.assertTrue(is_unicast(b"\x02\0\0\0\0\x0a"))
        self.assertFalse(is_unicast(bytes(6)))
        self.assertFalse(is_unicast(b"\xff" * 6))
        self.assertFalse(is_unicast(b"\x01\0\x5e\0\0\x01"))
