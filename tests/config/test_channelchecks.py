"""Tests of dlba.config.channelchecks. § stands before each place of an expected problem."""

import string

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, DNSPattern, verify_service_identity
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.channelchecks import channel_problems, is_verifiable
from dlba.config.checks import check
from dlba.config.fields import name as name_reader
from dlba.config.nodes import Place, Scalar, Source, locate
from dlba.config.shapes import Reading, read_mapping
from dlba.config.values import NodeConfig
from tests.config.samples import BASE, node_of
from tests.config.test_checks import marked

CHANNEL = "channel: {listen: '192.0.2.11:7788', certificate: a.pem, key: a.key, authority: ca.pem}"
NODES = """\
  nodes:
    a: {number: 0, address: 192.0.2.11, mac: "02:00:00:00:00:0a"}
    b: {number: 1, address: 192.0.2.12, mac: "02:00:00:00:00:0b"}
    c: {number: 2, address: 192.0.2.13, mac: "02:00:00:00:00:0c"}
"""


def whole(channel: str = CHANNEL, nodes: str = NODES, name: str = "  name: shop\n", more: str = ""):
    return f"node: a\ninterface: eth0\n{channel}\narray:\n  vip: 192.0.2.10\n{name}{nodes}{more}"


class Case(SynchronousTestCase):
    def found(self, text):
        """What is wrong, each as line:column and message; the text's marks say where."""
        plain, places = marked(text)
        root = node_of(plain)
        config = read_mapping(NodeConfig, root, Reading())
        problems = list(check(config, root, locate(root, "array"), lambda _: False))
        self.assertEqual([f"{p.line}:{p.column}" for p in sorted(problems)], places)
        return [problem.message for problem in sorted(problems)]


class ProblemTests(Case):
    def test_nothing_wrong(self):
        self.assertEqual(self.found(whole()), [])
        self.assertEqual(self.found(whole(more="  election: {quorum: majority}\n")), [])
        self.assertEqual(self.found("node: a\narray: {}\n"), [])

    def test_a_channel_needs_a_name_and_an_interface(self):
        marked_channel = CHANNEL.replace("{", "§{")
        self.assertEqual(
            self.found(whole(marked_channel, name="")),
            ['expected a key "name" in the array with a channel, got none'],
        )
        (message,) = self.found(whole(marked_channel).replace("interface: eth0\n", ""))
        self.assertIn('expected a key "interface" with a channel, got none', message)

    def test_nodes_are_missed_once(self):
        """By the interface, which a channel needs."""
        text = whole(nodes="").replace("interface: ", "interface: §")
        self.assertEqual(
            self.found(text), ["expected nodes in the array with an interface, got none"]
        )

    def test_a_port_that_others_know(self):
        (message,) = self.found(whole(CHANNEL.replace("'192.0.2.11:7788'", "§'192.0.2.11:0'")))
        self.assertEqual(message, "expected a port that the other nodes know, got 0")

    def test_down_after(self):
        for heartbeat, after, fine in (
            ("100ms", "200ms", True),
            ("100ms", "199ms", False),
            ("150ms", "0.3", True),
            ("200ms", "§0.3", False),
        ):
            mark = "" if fine else "§"
            after = after.lstrip("§")
            keys = f"  election: {{heartbeat: {heartbeat}, down_after: {mark}{after}}}\n"
            self.assertEqual(len(self.found(whole(more=keys))), not fine, (heartbeat, after))
        (message,) = self.found(whole(more="  election: §{heartbeat: 1}\n"))
        self.assertIn("expected at least twice election.heartbeat (1 s), got 0.3 s", message)

    def test_majority(self):
        more = "  election: {quorum: §majority}\n"
        two = NODES.replace('"02:00:00:00:00:0c"', '"02:00:00:00:00:0c", enabled: false')
        (message,) = self.found(whole(nodes=two, more=more))
        self.assertIn("expected 3 enabled nodes or more with majority, got 2", message)

    def test_names_that_no_certificate_proves(self):
        for bad in ("12", "1_0", "192.0.2.1"):
            (message,) = self.found(whole(nodes=NODES.replace("b: {", f"'{bad}': §{{")))
            self.assertIn("expected a name with a letter with a channel", message)
            self.assertEqual(self.found(whole("", nodes=NODES.replace("b: {", f"'{bad}': {{"))), [])

    def test_two_nodes_with_one_channel(self):
        nodes = NODES.replace('0b"', '0b", channel: §"192.0.2.11:7788"')
        (message,) = self.found(whole(nodes=nodes))
        self.assertEqual(
            message, "expected a channel of its own, got 192.0.2.11:7788, that of node a"
        )
        self.assertEqual(self.found(whole(nodes=nodes.replace("§", "").replace(":77", ":78"))), [])

    def test_any_line_may_be_missing_or_of_a_wrong_type(self):
        """The rest is checked all the same, and nothing raises."""
        lines = whole(more="  election: {quorum: majority}\n").splitlines()
        for index in range(len(lines)):
            for instead in ([], ["  nodes: [x]"], ["    a: 7"], ["channel: 7"], ["  election: x"]):
                text = "\n".join([*lines[:index], *instead, *lines[index + 1 :]])
                try:
                    root = node_of(text)
                except AssertionError:
                    continue
                config = read_mapping(NodeConfig, root, Reading())
                list(channel_problems(config, root, locate(root, "array")))


NAMES = st.one_of(
    st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=63),
    st.text(string.digits + "_.", min_size=1, max_size=16),
    st.ip_addresses(v=4).map(str),
)


class NameTests(SynchronousTestCase):
    @settings(max_examples=300)
    @given(NAMES)
    def test_what_service_identity_can_verify(self, name):
        reading = Reading()
        name_reader().read(Scalar(Place(Source("n", BASE), 1, 1), name), reading)
        if reading.problems:
            return
        try:
            pattern = x509.DNSName(name).value.encode()
            verify_service_identity([DNSPattern.from_bytes(pattern)], [DNS_ID(name)], [])
        except (CertificateError, VerificationError, ValueError):
            verified = False
        else:
            verified = True
        self.assertEqual(is_verifiable(name), verified)
