"""Tests of dlba.web.forwarding."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.web.forwarding import Forwarding
from tests.web.oracles import TOKEN, VALUE, assert_linear

NETWORKS = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "192.0.2.7/32", "fd00::/8")]
PEER = "10.0.0.9"
#: Names that the head's parser cuts out.
CUT = [
    *("forwarded", "x-real-ip", "x_real_ip", "x-forwarded-for", "x-forwarded-proto"),
    *("x-forwarded-host", "x-forwarded", "x-forwarded-a", "x-forwarded_for"),
]


def received(*lines: str) -> list[tuple[bytes, bytes]]:
    """As the head's parser cuts them out."""
    pairs = (line.encode("latin-1").partition(b":") for line in lines)
    return [(name.lower(), value) for name, _, value in pairs]


def block(*lines: str) -> bytes:
    """Field lines as heads hold them, each with the CRLF before it."""
    return "".join(f"\r\n{line}" for line in lines).encode("latin-1")


def naive_address(text: str) -> str | None:
    """The address in an element, step by step."""
    if text.startswith("["):
        inside, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in inside:
            return None
        text = inside
        if port and port[0] != ":":
            return None
        port = port[1:] if port else None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if "." not in text:
            return None
    else:
        port = None
    if port is not None and not (port.isdecimal() and len(port) <= 5):
        return None
    if "%" in text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def naive_client(values: list[str], peer: str) -> str:
    """All elements first, then from the end."""
    elements = [e.strip(" \t") for e in ",".join(values).split(",")]
    found = peer
    for element in [e for e in elements if e][::-1]:
        address = naive_address(element)
        if address is None:
            return found
        found = address
        if not any(ipaddress.ip_address(address) in network for network in NETWORKS):
            return found
    return found


def naive_forwarded(text: bytes) -> bool:
    """Whether `text` is a Forwarded list (RFC 7239 4, RFC 9110 5.6), sign by sign."""
    state = "start"
    for sign in text:
        char = bytes((sign,))
        if state == "start":
            if sign in TOKEN:
                state = "name"
            elif char not in (b";", b","):
                # A blank may stand around commas only.
                if char not in (b" ", b"\t"):
                    return False
                state = "before comma"
            elif char == b",":
                state = "after comma"
        elif state == "after comma":
            if sign in TOKEN:
                state = "name"
            elif char == b";":
                state = "start"
            elif char not in (b",", b" ", b"\t"):
                return False
        elif state == "name":
            if char == b"=":
                state = "value"
            elif sign not in TOKEN:
                return False
        elif state == "value":
            if char == b'"':
                state = "quoted"
            elif sign in TOKEN:
                state = "token"
            else:
                return False
        elif state == "quoted":
            if char == b"\\":
                state = "escaped"
            elif char == b'"':
                state = "end"
            elif sign not in VALUE:
                return False
        elif state == "escaped":
            if sign not in VALUE:
                return False
            state = "quoted"
        elif state in ("token", "end"):
            if char == b";":
                state = "start"
            elif char == b",":
                state = "after comma"
            elif char in (b" ", b"\t"):
                state = "before comma"
            elif state == "end" or sign not in TOKEN:
                return False
        elif state == "before comma":
            if char == b",":
                state = "after comma"
            elif char not in (b" ", b"\t"):
                return False
    return state in ("start", "after comma", "token", "end")


class ForwardingCase(SynchronousTestCase):
    def setUp(self):
        self.forwarding = Forwarding(NETWORKS)


class TrustTests(ForwardingCase):
    def test_trusts(self):
        for host, expected in (
            ("10.0.0.1", True),
            ("10.255.255.255", True),
            ("11.0.0.0", False),
            ("9.255.255.255", False),
            ("192.0.2.7", True),
            ("192.0.2.8", False),
            ("fd12::1", True),
            ("fe00::1", False),
            ("fd12::1%eth0", True),
            ("::ffff:10.0.0.1", True),
            ("::ffff:11.0.0.1", False),
            ("::10.0.0.1", False),
            ("", False),
            ("unix", False),
            ("10.0.0", False),
        ):
            self.assertIs(self.forwarding.trusts(host), expected, host)

    def test_nobody(self):
        nobody = Forwarding(())
        self.assertFalse(nobody.trusts("127.0.0.1"))

    def test_everybody(self):
        everybody = Forwarding([ipaddress.ip_network("0.0.0.0/0")])
        self.assertTrue(everybody.trusts("203.0.113.1"))
        self.assertFalse(everybody.trusts("2001:db8::1"))


class ClientTests(ForwardingCase):
    def client(self, *values):
        return self.forwarding.client([value.encode("latin-1") for value in values], PEER)

    def test_client(self):
        for values, expected in (
            ([], PEER),
            ([""], PEER),
            ([" , ,\t"], PEER),
            (["203.0.113.5"], "203.0.113.5"),
            # What the client itself says stands to the left of what the proxy saw.
            (["1.1.1.1, 203.0.113.5"], "203.0.113.5"),
            (["203.0.113.5, 10.0.0.1, fd00::1,192.0.2.7"], "203.0.113.5"),
            (["203.0.113.5", "10.0.0.1"], "203.0.113.5"),
            (["10.0.0.1", "203.0.113.5"], "203.0.113.5"),
            (["203.0.113.5,", ",10.0.0.1, ,"], "203.0.113.5"),
            (["10.0.0.2,10.0.0.1"], "10.0.0.2"),
            (["203.0.113.5:4711"], "203.0.113.5"),
            (["[2001:DB8::1]:4711"], "2001:db8::1"),
            (["[2001:db8:0::1]"], "2001:db8::1"),
            (["2001:db8::1"], "2001:db8::1"),
            (["::ffff:203.0.113.5"], "203.0.113.5"),
            (["203.0.113.5, ::ffff:10.0.0.1"], "203.0.113.5"),
            (["203.0.113.5, unknown"], PEER),
            (["203.0.113.5, unknown, 10.0.0.1"], "10.0.0.1"),
            (["203.0.113.5, _hidden, fd00::1"], "fd00::1"),
        ):
            self.assertEqual(self.client(*values), expected, values)

    def test_what_is_no_address(self):
        for bad in (
            *("unknown", "1.2.3", "1.2.3.256", "01.2.3.4", "1.2.3.4.5", "1.2.3.4:", "1.2.3.4:x"),
            *("[1.2.3.4]", "[::1", "::1]", "[::1]80", "[::1]:", ":::", "fe80::1%eth0", "1.2.3.4 5"),
            *('"1.2.3.4"', "1.2.3.4:123456", "\xff", "1:2:3:4:5:6:7:8:9", "[fe80::1%25\x01]", "."),
        ):
            self.assertEqual(self.client(f"203.0.113.5, {bad}"), PEER, bad)

    @given(st.data())
    def test_as_step_by_step(self, data):
        address = st.one_of(
            st.sampled_from(["10.0.0.1", "203.0.113.5", "fd00::2", "::1", "::ffff:10.1.1.1", "x"]),
            st.ip_addresses().map(str),
            st.text("0123456789abcdef:.[]%g", max_size=12),
        )
        form = st.sampled_from(["{}", "[{}]", "{}:80", "[{}]:4711", " {}\t", "{}:"])
        element = st.builds(lambda form, text: form.format(text), form, address)
        values = data.draw(st.lists(st.lists(element, max_size=4).map(",".join), max_size=3))
        self.assertEqual(
            Forwarding(NETWORKS).client([value.encode() for value in values], PEER),
            naive_client(values, PEER),
        )

    def test_cost_is_linear(self):
        for unit in (b"10.0.0.1,", b",", b" ", b"1", b":", b" ,", b"[", b"10.0.0.1:1,"):
            assert_linear(
                self,
                lambda value: self.forwarding.client([value], PEER),
                lambda n, u=unit: u * (n // len(u)),
            )


class FieldTests(ForwardingCase):
    def fields(self, *lines, peer=PEER, tls=False, host=b"shop.example"):
        return self.forwarding.fields(received(*lines), peer, tls, host)

    def expect(self, lines, *expected, **given):
        self.assertEqual(self.fields(*lines, **given), block(*expected), lines)

    def test_nothing_came(self):
        ours = "X-Forwarded-For: 10.0.0.9", "X-Forwarded-Proto: http"
        self.expect([], *ours, "X-Forwarded-Host: shop.example")
        self.expect([], *ours, host=b"")
        self.expect(
            [],
            "X-Forwarded-For: fd00::9",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: a:81",
            peer="fd00::9",
            tls=True,
            host=b"a:81",
        )

    def test_for_is_one_line(self):
        rest = "X-Forwarded-Proto: http", "X-Forwarded-Host: shop.example"
        for lines, expected in (
            (["X-Forwarded-For: 1.1.1.1"], "1.1.1.1, 10.0.0.9"),
            (["x-forwarded-for:a , b\t", "X-FORWARDED-FOR: c"], "a , b, c, 10.0.0.9"),
            (["X-Forwarded-For:", "X-Forwarded-For: \t"], "10.0.0.9"),
            (["X-Forwarded-For: \xff\x80"], "\xff\x80, 10.0.0.9"),
        ):
            self.expect(lines, f"X-Forwarded-For: {expected}", *rest)

    def said(self, name, *values, **given):
        """The value of the line `name` that the backend gets."""
        lines = self.fields(*(f"{name}:{value}" for value in values), **given).split(b"\r\n")
        found = [
            line.partition(b": ")[2] for line in lines if line.startswith(name.encode() + b":")
        ]
        self.assertEqual(len(found), 1)
        return found[0].decode("latin-1")

    def test_proto(self):
        for values, expected in (
            ([" https"], "https"),
            (["HTTPS\t"], "HTTPS"),
            (["wss"], "wss"),
            (["http"], "http"),
            (["https", "HTTPS", ""], "https"),
            (["https, https"], "https"),
            ([",https"], "https"),
            ([], "ours"),
            ([""], "ours"),
            ([","], "ours"),
            (["https", "http"], "ours"),
            (["http,https"], "ours"),
            (["ftp"], "ours"),
            (["https;x"], "ours"),
            (["https://"], "ours"),
            (["\xff"], "ours"),
        ):
            for tls in (False, True):
                ours = "https" if tls else "http"
                said = self.said("X-Forwarded-Proto", *values, tls=tls)
                self.assertEqual(said, ours if expected == "ours" else expected, values)
            lines = received(*(f"X-Forwarded-Proto:{value}" for value in values))
            secure = expected.lower() in ("https", "wss")
            self.assertIs(self.forwarding.https(lines), secure, values)

    def test_https_by_nothing_else(self):
        for line in ("X_Forwarded_Proto: https", "X-Forwarded-Ssl: on", "Forwarded: proto=https"):
            self.assertFalse(self.forwarding.https(received(line)))
        self.assertFalse(self.forwarding.https([]))

    def test_host(self):
        for values, expected in (
            ([" Outside.example:8443 "], "Outside.example:8443"),
            (["[2001:db8::1]:80"], "[2001:db8::1]:80"),
            (["a", "A"], "a"),
            (["a", "b"], "shop.example"),
            (["a,b"], "shop.example"),
            ([""], "shop.example"),
            (["a b"], "shop.example"),
            (["a/b"], "shop.example"),
            (["[::g]"], "shop.example"),
            (["<script>"], "shop.example"),
        ):
            self.assertEqual(self.said("X-Forwarded-Host", *values), expected, values)
        self.assertEqual(self.said("X-Forwarded-Host", "a", host=b""), "a")

    def test_others_pass(self):
        lines = [
            "X-Forwarded-PORT:443",
            "x-real-ip: 1.1.1.1",
            "X-Forwarded: a",
            "x-forwarded-port:\t8",
        ]
        self.expect(
            lines,
            "X-Forwarded-For: 10.0.0.9",
            "X-Forwarded-Proto: http",
            "X-Forwarded-Host: shop.example",
            *(
                "X-Forwarded-Port: 443",
                "X-Real-IP: 1.1.1.1",
                "X-Forwarded: a",
                "X-Forwarded-Port: 8",
            ),
        )

    def test_underscores_are_dropped(self):
        names = [
            "X_Forwarded_For",
            "x-forwarded_for",
            "X_Real_IP",
            "x-real_ip",
            "X_Forwarded-Proto",
        ]
        names += ["X_Forwarded", "X-Forwarded_Host", "X-Forwarded-A_B"]
        self.assertEqual(self.fields(*(f"{name}: https" for name in names)), self.fields())

    def test_forwarded(self):
        ours = "for=10.0.0.9;host=shop.example;proto=http"
        for values, expected in (
            (["for=1.1.1.1;by=x"], f"for=1.1.1.1;by=x, {ours}"),
            ([' For="[::1]:80" , for=_x ', "proto=a"], f'For="[::1]:80" , for=_x, proto=a, {ours}'),
            (['a="\\",";b=c'], f'a="\\",";b=c, {ours}'),
            (["for=1.1.1.1,"], f"for=1.1.1.1,, {ours}"),
            # An open quote would swallow what we say.
            (['for="1.1.1.1'], ours),
            (["for=1.1.1.1", 'for="'], ours),
            (['for="a\\"'], ours),
            (["for"], ours),
            (["for=a b"], ours),
            (["for =a"], ours),
        ):
            self.assertEqual(self.said("Forwarded", *values), expected, values)
        self.assertEqual(
            self.said("Forwarded", "a=b", peer="fd00::9", tls=True, host=b"x:81"),
            'a=b, for="[fd00::9]";host="x:81";proto=https',
        )
        said = self.said("Forwarded", "a=b", host=b"")
        self.assertEqual(said, "a=b, for=10.0.0.9;proto=http")
        self.assertEqual(self.fields("Forwarded: "), self.fields())

    @given(st.text('ab=";,\\ \t:\xff', max_size=14))
    def test_forwarded_as_sign_by_sign(self, text):
        text = text.strip(" \t")
        got = Forwarding(NETWORKS).fields(received(f"Forwarded:{text}"), PEER, False, b"")
        ours = "for=10.0.0.9;proto=http"
        line = got.decode("latin-1").partition("\r\nForwarded: ")[2]
        if not text:
            self.assertEqual(line, "")
        else:
            valid = naive_forwarded(text.encode("latin-1"))
            self.assertEqual(line, f"{text}, {ours}" if valid else ours)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(CUT),
                st.text(
                    st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")
                ),
            ),
            max_size=6,
        ),
        st.booleans(),
    )
    def test_any_input_gives_lines_with_ours(self, pairs, tls):
        lines = [(name.encode(), value.encode("latin-1")) for name, value in pairs]
        got = Forwarding(NETWORKS).fields(lines, PEER, tls, b"shop.example")
        names = []
        for line in got.split(b"\r\n")[1:]:
            name, colon, value = line.partition(b": ")
            self.assertTrue(colon and set(name) <= TOKEN and set(value) <= VALUE, line)
            self.assertNotIn(b"_", name)
            names.append(name.lower())
            if name == b"X-Forwarded-For":
                self.assertEqual(value.rsplit(b", ", 1)[-1], PEER.encode())
            if name == b"Forwarded":
                self.assertTrue(naive_forwarded(value))
                self.assertTrue(value.endswith(b"proto=https" if tls else b"proto=http"))
        for once in (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"):
            self.assertEqual(names.count(once), 1)
        self.assertLessEqual(names.count(b"forwarded"), 1)

    def test_cost_is_linear(self):
        units = (
            b"a=b,",
            b'a="',
            b" ",
            b",",
            b" ,",
            b" , ;",
            b'a="\\',
            b";",
            b"a",
            b'a="",',
            b"a=b ,\t",
        )
        for name in (b"forwarded", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-for"):
            for unit in units:
                assert_linear(
                    self,
                    lambda value, n=name: self.forwarding.fields([(n, value)], PEER, False, b"h"),
                    lambda n, u=unit: u * (n // len(u)) + b"(",
                )
