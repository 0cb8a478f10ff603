"""Tests of dlba.web.headerchanges."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.web.headerchanges import HeaderChanges
from tests.web.oracles import assert_linear


def changes(remove=(), **to_set):
    named = {name.replace("_", "-"): value for name, value in to_set.items()}
    return HeaderChanges(SimpleNamespace(set=named, remove=tuple(remove)))


def block(*lines: str) -> bytes:
    """Field lines as heads hold them, each with the CRLF before it."""
    return "".join(f"\r\n{line}" for line in lines).encode("latin-1")


def naive(fields: bytes, to_set: dict[str, str], remove: list[str]) -> bytes:
    """The same, line by line."""
    gone = {name.lower() for name in [*to_set, *remove]}
    new = {name: f"{name}: {value}" for name, value in to_set.items()}
    host = next((name for name in to_set if name.lower() == "host"), None)
    kept = []
    for line in fields.decode("latin-1").split("\r\n")[1:]:
        name = line.partition(":")[0].lower()
        if name == "host" and host is not None:
            kept.append(new.pop(host))
        elif name not in gone:
            kept.append(line)
    if host in new:
        kept.append(new.pop(host))
    return block(*kept, *new.values())


class HeaderChangesTests(SynchronousTestCase):
    def test_nothing_to_do(self):
        self.assertFalse(changes())
        fields = block("Host: a", "X-A:1")
        self.assertIs(changes().apply(fields), fields)
        self.assertTrue(changes(X_A="1"))
        self.assertTrue(changes(["X-A"]))
        self.assertTrue(changes(Host="a"))

    def test_remove(self):
        fields = block("x-debug:1", "Host: a", "X-DEBUG: \t2 ", "X-Debugger: 3", "X-Debug:")
        self.assertEqual(changes(["X-Debug"]).apply(fields), block("Host: a", "X-Debugger: 3"))
        self.assertEqual(changes(["host-x", "ost"]).apply(fields), fields)
        self.assertEqual(changes(["X-Debug"]).apply(b""), b"")

    def test_set(self):
        fields = block("Host: a", "x-site: client's", "X-SITE: again", "Accept:  */* ")
        self.assertEqual(
            changes(X_Site="shop", x_other="").apply(fields),
            block("Host: a", "Accept:  */* ", "X-Site: shop", "x-other: "),
        )
        self.assertEqual(changes(X_Site="shop").apply(b""), block("X-Site: shop"))

    def test_set_and_removed(self):
        got = changes(["X-A", "X-B"], x_a="1").apply(block("X-A: 0", "X-B: 0", "C: 0"))
        self.assertEqual(got, block("C: 0", "x-a: 1"))

    def test_a_value_isn_t_looked_at(self):
        fields = block("A: X-Debug: 1", "B:X-Debug:", "C: \\1 \\g<0>")
        self.assertEqual(
            changes(["X-Debug"], X_A="\\1 \\g<0>").apply(fields), fields + b"\r\nX-A: \\1 \\g<0>"
        )

    def test_bytes_of_other_lines(self):
        fields = b"\r\nA:\x80\xff\t~\r\nX-A: \xff\r\nb:"
        self.assertEqual(
            changes(["x-a"], Name="\u20ac").apply(fields)[:12], b"\r\nA:\x80\xff\t~\r\nb:"
        )

    def test_names_of_any_token(self):
        every = "!#$%&'*+-.^_`|~09AZaz"
        for sign in every:
            one = HeaderChanges(SimpleNamespace(set={}, remove=(sign, sign + "x")))
            fields = block(*(f"{other}: 1" for other in every), f"{sign}x: 2", f"{sign}y: 3")
            left = [f"{other}: 1" for other in every if other.lower() != sign.lower()]
            self.assertEqual(one.apply(fields), block(*left, f"{sign}y: 3"), sign)

    def test_host(self):
        host = changes(Host="inside", X_A="1")
        self.assertEqual(host.host, b"inside")
        self.assertEqual(
            host.apply(block("A: 1", "hOST:outside", "X-Host: b")),
            block("A: 1", "Host: inside", "X-Host: b", "X-A: 1"),
        )
        # One that is the beginning of another, and none at all.
        self.assertEqual(changes(host="a").apply(block("Host: ab")), block("host: a"))
        self.assertEqual(changes(host="a").apply(block("B: 1")), block("B: 1", "host: a"))
        self.assertEqual(changes(host="a").apply(b""), block("host: a"))
        self.assertIsNone(changes(["X-A"], Hosts="1").host)

    @given(st.data())
    def test_as_line_by_line(self, data):
        names = ["A", "X-A", "X-B", "x", "Host", "Hos", "Via", "^-", "]", "a.b", "aXb"]
        cases = st.sampled_from([str, str.upper, str.lower])
        name = st.builds(lambda name, case: case(name), st.sampled_from(names), cases)
        value = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=6)
        plain = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6)
        pairs = st.lists(st.tuples(name, plain), max_size=4, unique_by=lambda pair: pair[0].lower())
        to_set = dict(data.draw(pairs))
        remove = data.draw(st.lists(name, max_size=3))
        lines = data.draw(st.lists(st.tuples(name, value), max_size=8))
        # A head has one Host at most.
        hosts = [line for line in lines if line[0].lower() == "host"]
        lines = [line for line in lines if line[0].lower() != "host" or line is hosts[0]]
        fields = block(*(f"{key}:{text}" for key, text in lines))
        ours = HeaderChanges(SimpleNamespace(set=to_set, remove=tuple(remove)))
        self.assertEqual(ours.apply(fields), naive(fields, to_set, remove))

    def test_cost_is_linear(self):
        for some in (changes(["X-A", "X-B"], X_C="1"), changes(["X-A"], Host="h")):
            for unit in (b"X-A:", b"\r\nX-A: 1", b"\r\nX-Aa", b"\r\n", b"\r\nHost:", b"\r\nx-"):
                assert_linear(self, some.apply, lambda n, u=unit: b"\r\nX-Aa: " + u * (n // len(u)))
