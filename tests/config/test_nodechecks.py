"""Tests of dlba.config.nodechecks. § stands before each place of an expected problem."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.config.checks import check
from dlba.config.nodechecks import array_warnings
from dlba.config.nodes import locate
from dlba.config.shapes import Reading, read_mapping
from dlba.config.values import NodeConfig
from tests.config.samples import node_of
from tests.config.test_checks import marked

A = 'a: {number: 0, address: 192.0.2.11, mac: "02:00:00:00:00:0a"}'
B = 'b: {number: 1, address: 192.0.2.12, mac: "02:00:00:00:00:0b"}'
WEB = """\
  web:
    listen: [{port: 80}, {port: 443}]
    sites: [{hosts: ['*'], pool: app}]
    pools: {app: {backends: {x: {address: '198.51.100.1:80'}}}}
"""


def array(*nodes: str, vip: str = "192.0.2.10", node: str = "a", more: str = "") -> str:
    lines = "".join(f"    {line}\n" for line in nodes)
    vip_line = f"  vip: {vip}\n" if vip else ""
    return f"node: {node}\ninterface: eth0\narray:\n{vip_line}  nodes:\n{lines}{more}"


class Case(SynchronousTestCase):
    def found(self, text, of=check):
        """What is wrong, each as line:column and message; the text's marks say where."""
        plain, places = marked(text)
        root = node_of(plain)
        reading = Reading()
        config = read_mapping(NodeConfig, root, reading)
        mapping = locate(root, "array")
        if of is check:
            problems = list(check(config, root, mapping, lambda _: False))
        else:
            problems = list(of(config, mapping))
        self.assertEqual([f"{p.line}:{p.column}" for p in sorted(problems)], places)
        return [problem.message for problem in sorted(problems)]


class ProblemTests(Case):
    def test_nothing_wrong(self):
        self.assertEqual(self.found(array(A, B)), [])
        self.assertEqual(self.found(array(A)), [])
        own = array(A, B, more="  routing: {own_mac: true}\n")
        self.assertEqual(self.found(own), [])

    def test_vip(self):
        for wrong in ("2001:db8::1", "0.0.0.0", "127.0.0.1", "224.0.0.5", "255.255.255.255"):
            (message,) = self.found(array(A, vip=f"§{wrong}"))
            self.assertIn("expected an IPv4 address of a machine with an interface", message)
        text = array(A, vip="").replace("  nodes", "  §nodes")
        self.assertEqual(self.found(text), ['expected a key "vip" with an interface, got none'])
        text = text.replace("interface: eth0\n", "")
        self.assertEqual(self.found(text), ['expected a key "vip" with nodes, got none'])

    def test_an_interface_needs_nodes(self):
        (message,) = self.found("node: a\ninterface: §eth0\narray: {vip: 192.0.2.10}\n")
        self.assertEqual(message, "expected nodes in the array with an interface, got none")

    def test_this_node_is_one_of_them(self):
        text = array(A, B, node="§c")
        self.assertEqual(self.found(text), ['expected one of a, b, got "c"'])

    def test_number_and_address_twice(self):
        second = 'b: {number: §0, address: §192.0.2.11, mac: "02:00:00:00:00:0b"}'
        self.assertEqual(
            self.found(array(A, second)),
            [
                "expected a number of its own, got that of node a",
                "expected an address of its own, got that of node a",
            ],
        )
        (message,) = self.found(array(A.replace("192.0.2.11", "§192.0.2.10")))
        self.assertEqual(message, "expected an address of its own, got that of the VIP")

    def test_mac_twice(self):
        second = 'b: {number: 1, address: 192.0.2.12, mac: §"02:00:00:00:00:0a"}'
        messages = self.found(array(A, second.replace("b: {", "b: §{").replace('§"', '§"')))
        self.assertEqual(
            sorted(messages),
            [
                "expected a MAC address of its own, got that of node a",
                "expected a scheduler MAC of its own, got 06:00:00:00:00:0a, "
                "that of node a as scheduler",
            ],
        )

    def test_scheduler_mac_of_another(self):
        # Derived: 06:00:00:00:00:0a is a's as scheduler.
        second = 'b: §{number: 1, address: 192.0.2.12, mac: "04:00:00:00:00:0a"}'
        third = 'b: {number: 1, address: 192.0.2.12, mac: "02:00:00:00:00:0b", scheduler_mac: §"02:00:00:00:00:0a"}'  # noqa: E501
        (message,) = self.found(array(A, second.replace("04:", "00:")))
        self.assertIn("got 06:00:00:00:00:0a, that of node a as scheduler", message)
        (message,) = self.found(array(A, third))
        self.assertIn("that of node a", message)

    def test_own_mac_has_no_second_one(self):
        node = A.replace("}", ', scheduler_mac: §"06:00:00:00:00:0a"}')
        (message,) = self.found(array(node, more="  routing: {own_mac: true}\n"))
        self.assertEqual(message, "expected no scheduler_mac with routing.own_mac, got one")

    def test_somebody_is_enabled(self):
        text = array(A.replace("}", ", enabled: false}"))
        text = text.replace("    a:", "    §a:")
        self.assertEqual(self.found(text), ["expected one node or more that is enabled, got none"])

    def test_ports_once(self):
        text = array(A, more="  routing: {ports: [80, 443, §80]}\n")
        self.assertEqual(self.found(text), ["expected each port once, got 80 again"])

    def test_any_line_may_be_missing_or_of_a_wrong_type(self):
        """The rest is checked all the same, and nothing raises."""
        whole = array(A, B, more="  routing: {own_mac: false, ports: [80]}\n" + WEB)
        lines = whole.splitlines()
        for index in range(len(lines)):
            for instead in ([], ["  nodes: [x]"], ["    a: 7"], ["  vip: x"], ["interface: /"]):
                text = "\n".join([*lines[:index], *instead, *lines[index + 1 :]])
                try:
                    root = node_of(text)
                except AssertionError:
                    continue
                config = read_mapping(NodeConfig, root, Reading())
                mapping = locate(root, "array")
                list(check(config, root, mapping, lambda _: False))
                list(array_warnings(config, mapping))


class WarningTests(Case):
    def test_nothing_to_say(self):
        self.assertEqual(self.found(array(A, more=WEB), array_warnings), [])
        self.assertEqual(self.found(array(A), array_warnings), [])
        alone = "node: a\narray:\n" + WEB.replace("80}", "8080}")
        self.assertEqual(self.found(alone, array_warnings), [])

    def test_listener_that_nobody_is_sent_to(self):
        text = array(A, more=WEB.replace("{port: 80}", "{port: §8080}, {port: 80}"))
        (message,) = self.found(text, array_warnings)
        self.assertEqual(
            message, "expected one of routing.ports, got 8080: no client's frame gets there"
        )
        elsewhere = WEB.replace("{port: 80}", "{port: 8080, address: 192.0.2.11}, {port: 80}")
        self.assertEqual(self.found(array(A, more=elsewhere), array_warnings), [])

    def test_nobody_takes_a_client(self):
        nodes = (A.replace("}", ", weight: 0}"), B.replace("}", ", enabled: false}"))
        text = array(*nodes).replace("    a:", "    §a:")
        (message,) = self.found(text, array_warnings)
        self.assertIn("expected an enabled node with a weight above 0, got none", message)

    def test_port_without_a_listener(self):
        text = array(A, more="  routing: {ports: [80, 443, §8443]}\n" + WEB)
        (message,) = self.found(text, array_warnings)
        self.assertEqual(message, "expected a port of web.listen, got 8443: nobody answers there")
