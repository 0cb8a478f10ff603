"""Tests of dlba.config.fields."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.addresses import Endpoint
from dlba.config import fields as f
from dlba.config.nodes import Place, Scalar, Source
from dlba.config.shapes import INVALID, Reading
from tests.config.samples import BASE, no_resolver, node_of

PLACE = Place(Source("n", BASE), 3, 5, ("a",))


class FieldCase(SynchronousTestCase):
    """Reads single values."""

    def read(self, reader, text):
        """Value, and the message if there is a problem."""
        reading = Reading(resolve=no_resolver)
        value = reader.read(Scalar(PLACE, text), reading)
        self.assertEqual(value is INVALID, len(reading.problems) == 1, text)
        for problem in reading.problems:
            self.assertEqual((problem.line, problem.column, problem.key), (3, 5, "a"))
        return value, "".join(problem.message for problem in reading.problems)

    def takes(self, reader, *pairs):
        for text, expected in pairs:
            value, message = self.read(reader, text)
            self.assertEqual((value, type(value)), (expected, type(expected)), (text, message))

    def refuses(self, reader, expected, *texts):
        for text in texts:
            got = "nothing" if text == "" else None
            value, message = self.read(reader, text)
            self.assertIs(value, INVALID, text)
            self.assertTrue(message.startswith(f"expected {expected}, got "), message)
            if got:
                self.assertTrue(message.endswith(", got nothing"), message)


class FieldTests(FieldCase):
    def test_ipv4_address(self):
        self.takes(f.ipv4_address(), ("192.0.2.1", "192.0.2.1"), ("10.0.0.254", "10.0.0.254"))
        wrong = ("2001:db8::1", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "a")
        self.refuses(f.ipv4_address(), "an IPv4 address of a machine", *wrong)

    def test_mac_address(self):
        self.takes(f.mac_address(), ("02:00:00:00:00:0A", b"\2\0\0\0\0\x0a"))
        # The last one is a number to YAML 1.1, and a MAC address as written.
        self.takes(f.mac_address(), ("10:20:30:40:50:55", bytes.fromhex("102030405055")))
        wrong = ("ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00", "02:00:00", "")
        self.refuses(f.mac_address(), "a unicast MAC address such as 02:00:00:00:00:0a", *wrong)

    def test_interface_name(self):
        for text in ("eth0", "enp3s0.100", "br-lan", "wl@x", "a" * 15):
            self.takes(f.interface_name(), (text, text))
        wrong = ("", "a" * 16, "a/b", "a b", ".", "..", "eth0:1", "é")
        self.refuses(
            f.interface_name(), "the name of a network interface (at most 15 characters)", *wrong
        )

    def test_text(self):
        self.takes(f.text(), ("a b", "a b"), ("bü", "bü"))
        self.takes(f.text(empty=True), ("", ""))
        self.refuses(f.text(3), "text of at most 3 characters", "", "abcd", "a\n", "\x00", "\x85")

    def test_name(self):
        self.takes(f.name(), ("app_1.b-c", "app_1.b-c"), ("1", "1"), ("x" * 63, "x" * 63))
        expected = "a name of letters, digits, _ . - (at most 63)"
        self.refuses(f.name(), expected, "", "-a", "a b", "a/b", "ü", "x" * 64, "a\n")

    def test_integer(self):
        self.takes(f.integer(-5, 10), ("-5", -5), ("10", 10), ("007", 7))
        self.refuses(
            f.integer(-5, 10),
            "an integer from -5 to 10",
            *("", "-6", "11", "1.0", "1_0", "0x1", "+1", "1e1", "ten", "٣", "9" * 10_000),
        )

    def test_boolean(self):
        self.takes(f.boolean(), ("true", True), ("false", False))
        self.refuses(
            f.boolean(), "true or false", "", "on", "yes", "True", "TRUE", "1", "null", "~"
        )

    def test_duration(self):
        self.takes(
            f.duration(),
            ("10", 10.0),
            ("1.5", 1.5),
            ("300ms", 0.3),
            ("1.5s", 1.5),
            ("5m", 300.0),
            ("1h", 3600.0),
            ("2d", 172800.0),
            ("5 m", 300.0),
            ("366d", f.LONGEST),
        )
        self.refuses(
            f.duration(),
            "a time such as 10, 1.5, 300ms, 5m from 0.001 s to 366 days",
            *("", "0", "-1", "1,5", ".5", "5.", "5M", "5min", "367d", "inf", "nan", "1e3"),
            *("0.5ms", "1:30", "9" * 10_000),
        )
        self.takes(f.duration(low=0), ("0", 0.0))

    def test_whole_seconds(self):
        self.takes(f.whole_seconds(), ("0", 0), ("1d", 86400), ("1.0", 1), ("1000ms", 1))
        self.refuses(f.whole_seconds(), "a whole number of seconds", "1.5", "300ms")
        expected = "a time such as 10, 1.5, 300ms, 5m from 0 s to 400 days"
        self.refuses(f.whole_seconds(), expected, "", "401d", "x")

    def test_size(self):
        self.takes(
            f.size(),
            ("0", 0),
            ("4096", 4096),
            ("12B", 12),
            ("64KiB", 65536),
            ("1MiB", 1 << 20),
            ("1GiB", 1 << 30),
            ("1 GiB", 1 << 30),
        )
        self.refuses(
            f.size(1, 1 << 20),
            "a size such as 4096, 64KiB, 1MiB from 1 to 1048576 bytes",
            *("", "0", "2MiB", "64KB", "64k", "64kib", "1.5MiB", "-1", "0x10", "9" * 10_000),
        )

    def test_choice(self):
        reader = f.choice("cookie", "url")
        self.takes(reader, ("url", "url"))
        self.refuses(reader, "one of cookie, url", "", "Url", "cookies")
        self.assertEqual(
            self.read(reader, "cokie")[1],
            'expected one of cookie, url, got "cokie" (did you mean "cookie"?)',
        )

    def test_unless(self):
        reader = f.unless("auto", f.integer(1, 9))
        self.takes(reader, ("auto", None), ("3", 3))
        self.refuses(reader, "an integer from 1 to 9, or auto", "", "Auto", "0", "none")

    def test_host_pattern(self):
        self.takes(
            f.host_pattern(),
            ("*", "*"),
            ("*.Shop.example.COM", "*.shop.example.com"),
            ("Shop.example.com.", "shop.example.com"),
            ("localhost", "localhost"),
            ("10.0.0.1", "10.0.0.1"),
            ("[2001:DB8::0:1]", "[2001:db8::1]"),
        )
        self.refuses(
            f.host_pattern(),
            "a host name without port, *.host or *",
            *("", "a.com:80", "https://a.com", "a.com/", "*a.com", "a.*.com", "*.", "*.*.com"),
            *("::1", "[10.0.0.1]", "[a]", "a b", "bücher.de", "a..b"),
        )

    def test_path_prefix(self):
        self.takes(
            f.path_prefix(),
            *(
                (path, path)
                for path in ("/", "/static/", "/a;b=c", "/a%2Fb", "/~x/.hidden", "/a.b")
            ),
        )
        self.refuses(
            f.path_prefix(),
            "a path from / on, of visible ASCII without ? # and escaped letters or dot segments",
            *("", "static", "/a b", "/a?b", "/a#b", "/ü", "/a/../b", "/.", "/a/..", "/%41", "/%7e"),
            *("/a%2d", "/a\x7f"),
        )
        value, _ = self.read(f.path_prefix(forbidden=";"), "/a;b")
        self.assertIs(value, INVALID)

    def test_every_unreserved_escape_is_refused_and_no_other(self):
        unreserved = set(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
        )  # RFC 3986 section 2.3
        for byte in range(256):
            for escape in (f"/a%{byte:02X}", f"/a%{byte:02x}"):
                value, _ = self.read(f.path_prefix(), escape)
                self.assertEqual(value is INVALID, byte in unreserved, escape)

    def test_cookie_name(self):
        self.takes(f.cookie_name(), ("DLBA", "DLBA"), ("__Host-a.b", "__Host-a.b"), ("!#$", "!#$"))
        expected = "a cookie name of letters, digits and !#$%&'*+.^_`|~- (at most 64)"
        self.refuses(f.cookie_name(), expected, "", "a b", "a=b", "a;b", 'a"', "ü", "(", "a\n")

    def test_cookie_domain(self):
        self.takes(f.cookie_domain(), (".Example.com", "example.com"), ("a.b", "a.b"))
        self.refuses(f.cookie_domain(), "a domain name", "", "*.a", "10.0.0.1", "a b")

    def test_port(self):
        self.takes(f.port(), ("1", 1), ("65535", 65535))
        self.takes(f.port(low=0), ("0", 0))
        self.refuses(f.port(), "a port from 1 to 65535", "", "0", "65536", "http", "-1", "80.0")

    def test_ip_address(self):
        self.takes(f.ip_address(), ("10.0.0.1", "10.0.0.1"), ("2001:DB8::1", "2001:db8::1"))
        self.refuses(f.ip_address(), "an IP address", "", "10.0.0.256", "a.com", "[::1]", "10.1")

    def test_local_endpoint(self):
        self.takes(
            f.local_endpoint(),
            ("127.0.0.1:0", Endpoint("127.0.0.1", 0)),
            ("[::]:80", Endpoint("::", 80)),
        )
        expected = "IP:port or [IPv6]:port"
        self.refuses(f.local_endpoint(), expected, "", ":80", "a.test:80", "127.0.0.1", "::1:80")

    def test_remote_endpoint(self):
        self.takes(
            f.remote_endpoint(),
            ("10.0.0.1:80", Endpoint("10.0.0.1", 80)),
            ("[::1]:80", Endpoint("::1", 80)),
            ("App.test:80", Endpoint("192.0.2.77", 80)),
        )
        expected = "host:port, IP:port or [IPv6]:port"
        self.refuses(
            f.remote_endpoint(), expected, "", "10.0.0.1", "10.0.0.1:0", "a b:80", "::1:80"
        )
        self.refuses(
            f.remote_endpoint(), "an address that can be connected to", "0.0.0.0:80", "[::]:80"
        )
        self.assertEqual(
            self.read(f.remote_endpoint(), "nowhere.example:80")[1],
            'expected a host name that resolves, got "nowhere.example": Name or service not known',
        )

    def test_file_path(self):
        self.takes(
            f.file_path(),
            ("a.pem", Path("/base/a.pem")),
            ("../a.pem", Path("/base/../a.pem")),
            ("/etc/a.pem", Path("/etc/a.pem")),
        )
        self.refuses(f.file_path(), "a path", "", "a\x00b", "a\nb")
        self.assertEqual(
            self.read(f.file_path(), "-----BEGIN PRIVATE KEY----- MHcCAQEE")[1],
            "expected the path of a file, got a PEM block",
        )

    READERS = (
        *(f.text(), f.name(), f.integer(0, 9), f.boolean(), f.duration(), f.whole_seconds()),
        *(f.size(), f.choice("a", "b"), f.unless("auto", f.size()), f.host_pattern()),
        *(f.path_prefix(), f.cookie_name(), f.cookie_domain(), f.port(), f.ip_address()),
        *(f.local_endpoint(), f.remote_endpoint(), f.file_path()),
    )

    def test_lists_and_mappings_are_refused(self):
        for reader in self.READERS:
            for text, got in (("[a]", "a list"), ("{a: b}", "a mapping")):
                reading = Reading()
                self.assertIs(reader.read(node_of(text), reading), INVALID)
                (problem,) = reading.problems
                self.assertEqual(problem.message, f"expected {reader.expected}, got {got}")

    @settings(deadline=None)
    @given(st.sampled_from(READERS), st.text(max_size=30))
    def test_any_text_gives_a_value_or_one_problem(self, reader, text):
        self.read(reader, text)
