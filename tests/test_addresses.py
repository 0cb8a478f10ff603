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
    is_loopback,
    parse_endpoint,
    port_number,
    same_family,
    split_endpoint,
)


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
