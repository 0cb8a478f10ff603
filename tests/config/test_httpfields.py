"""Tests of dlba.config.httpfields."""

import ipaddress
from http import HTTPStatus

from dlba.config import httpfields as h
from tests.config.test_fields import FieldCase


class HeaderTests(FieldCase):
    def test_name(self):
        for text in ("X-Debug", "x_debug", "Strict-Transport-Security", "!#$%&'*+.^_`|~", "a" * 64):
            self.takes(h.header_name(), (text, text))
        expected = "the name of a header field: letters, digits and !#$%&'*+.^_`|~- (at most 64)"
        wrong = ("", "a" * 65, "X Debug", "X:", "X\r\nY", "é", "X-(", "a\0", "X\n")
        self.refuses(h.header_name(), expected, *wrong)

    def test_value(self):
        for text in ("a", "max-age=31536000", 'a, b; c="d"', "~" * 4096, "a" + " " * 4094 + "b"):
            self.takes(h.header_value(), (text, text))
        expected = "visible ASCII characters with spaces inside only (at most 4096)"
        wrong = ("", " a", "a ", "a\tb", "a\r\nX: y", "a\nb", "a\n", "\0", "é", "\x7f", "a" * 4097)
        self.refuses(h.header_value(), expected, *wrong)


class UpgradeTests(FieldCase):
    def test_tokens_in_lower_case(self):
        self.takes(h.upgrade_token(), ("WebSocket", "websocket"), ("x-y", "x-y"))
        expected = "the name of a protocol such as websocket"
        self.refuses(h.upgrade_token(), expected, "", "a b", "websocket, h2c", "TLS/1.0", "é")

    def test_h2c_is_told_why(self):
        for text in ("h2c", "H2C"):
            self.assertEqual(
                self.read(h.upgrade_token(), text)[1],
                f'expected another protocol, got "{text}" (a backend that takes it serves '
                "requests that DLBA would not see)",
            )


class StatusTests(FieldCase):
    def test_those_that_there_are(self):
        for status in h.OWN_STATUSES:
            self.takes(h.own_status(), (str(status), status))
            self.assertGreaterEqual(HTTPStatus(status), 400)
        wrong = ("", "200", "301", "500", "0503", "503.0", "5xx", "-503", "٥٠٣")
        for text in wrong:
            self.assertIn("expected one of 400, 404, ", self.read(h.own_status(), text)[1])


class NetworkTests(FieldCase):
    def test_networks_and_addresses(self):
        for text, network in (
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7/32", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("2001:db8:0::1", "2001:db8::1/128"),
            ("::/0", "::/0"),
        ):
            self.takes(h.network(), (text, ipaddress.ip_network(network)))

    def test_what_is_none(self):
        expected = "a network such as 10.0.0.0/8 or 2001:db8::/32, or an IP address"
        wrong = ("", "10/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "10.0.0.0/-1")
        wrong += (
            "a.example",
            "::/129",
            "fe80::1%eth0",
            "fe80::%a/64",
            "10.0.0.0/8/8",
            "10.0.0.0/٨",
        )
        self.refuses(h.network(), expected, *wrong)

    def test_bits_behind_the_prefix(self):
        for text, near in (("10.0.0.1/8", "10.0.0.0/8"), ("2001:db8::1/32", "2001:db8::/32")):
            self.assertEqual(
                self.read(h.network(), text)[1],
                f'expected a network without bits behind its prefix, got "{text}" '
                f'(did you mean "{near}"?)',
            )


class HostTests(FieldCase):
    GOOD = (
        ("A.example", "a.example"),
        ("a.example:80", "a.example:80"),
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:8080", "192.0.2.1:8080"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
        ("[::1]:80", "[::1]:80"),
    )
    WRONG = (
        "",
        "a b",
        "a:",
        "a:0",
        "a:65536",
        "::1",
        "[a]",
        "[fe80::1%e]",
        "[::1",
        "é",
        "a,b",
        "/",
    )

    def test_host_to_send(self):
        self.takes(h.sent_host(), *self.GOOD)
        expected = "a host name or IP address, with or without port"
        self.refuses(h.sent_host(), expected, *self.WRONG, "http://a", "a@b", "1.2")
        for text in ("a.example", "[::1]:80"):
            self.assertTrue(h.is_sent_host(text))
        self.assertFalse(h.is_sent_host("a b"))

    def test_via(self):
        self.takes(h.via_name(), ("DLBA", "DLBA"), ("a_b!", "a_b!"), *self.GOOD[1:])
        expected = "a name such as dlba or a host, with or without port"
        self.refuses(h.via_name(), expected, *self.WRONG, "1.1 dlba", "dlba (x)", "a\r\nb")


class PathTests(FieldCase):
    def test_path_with_query(self):
        for text in ("/", "/health", "/h?a=1&b=%20", "/" + "a" * 1000):
            self.takes(h.request_path(), (text, text))
        expected = "a path from / on, of visible ASCII without # (at most 1001)"
        self.refuses(h.request_path(), expected, "", "a", "/a b", "/#", "/é", "/\r\n", "/" * 1002)
