"""Tests of dlba.lab.plan: who is where, and configurations that the configuration's code reads."""

import time
from ipaddress import ip_address, ip_network
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.addresses import Endpoint, scheduler_mac
from dlba.config.document import parse
from dlba.config.load import load_text
from dlba.config.nodes import Source, locate
from dlba.demo import write_certificate
from dlba.election import authority
from dlba.errors import ConfigError
from dlba.lab import plan as module
from dlba.lab.plan import (
    NodeState,
    array_text,
    array_values,
    change,
    has_channel,
    is_namespace_of,
    is_settled,
    namespace,
    node_text,
    packets,
    plan,
    ready_paths,
    scheduler_of,
)

FRONT, BACK = ip_network("203.0.113.0/24"), ip_network("10.0.1.0/24")


class PartTests(SynchronousTestCase):
    def test_three_nodes(self):
        lab = plan("lab", 3)
        self.assertEqual([part.name for part in lab.nodes], ["a", "b", "c"])
        self.assertEqual(
            [(part.name, part.address) for part in lab.backends],
            [("app1", "10.0.1.1"), ("app2", "10.0.1.2"), ("app3", "10.0.1.3")],
        )
        front, back = lab.nodes[1].links
        self.assertEqual(
            (front.interface, front.port, front.bridge, front.address, front.mac),
            ("eth0", "front-b", "front", "203.0.113.12", "02:00:cb:00:71:0c"),
        )
        self.assertEqual(
            (back.interface, back.port, back.bridge, back.address, back.mac),
            ("eth1", "back-b", "back", "10.0.1.102", "02:00:0a:00:01:66"),
        )
        self.assertEqual(lab.client.address, "203.0.113.200")
        names = ("switch", "a", "b", "c", "app1", "app2", "app3", "client")
        self.assertEqual(lab.namespaces, tuple(f"dlba-lab-{name}" for name in names))
        self.assertEqual(lab.part("b"), lab.nodes[1])
        self.assertEqual((lab.part("d"), lab.part("switch")), (None, None))

    def test_any_number(self):
        for count in range(1, 27):
            lab = plan("lab", count)
            links = [link for part in lab.parts for link in part.links]
            self.assertEqual(len(lab.nodes), count)
            for values in (
                [link.address for link in links] + [module.VIP],
                [link.port for link in links],
                [bytes.fromhex(link.mac.replace(":", "")) for link in links]
                + [
                    scheduler_mac(bytes.fromhex(part.links[0].mac.replace(":", "")))
                    for part in lab.nodes
                ],
                lab.namespaces,
            ):
                self.assertEqual(len(values), len(set(values)))
            for link in links:
                self.assertLessEqual(len(link.port), 15)
                network = {"front": FRONT, "back": BACK}[link.bridge]
                self.assertIn(ip_address(link.address), network)
                self.assertEqual(bytes.fromhex(link.mac.replace(":", ""))[0], 2)
            for part in (*lab.parts, lab.client):
                self.assertTrue(module.PART_NAME.fullmatch(part.name))
            for part in lab.programs:
                self.assertTrue(module.PROGRAM_NAME.fullmatch(part.name))

    def test_bounds(self):
        for name, count in (("x", 0), ("x", 27), ("", 1), ("a/b", 1), ("-x", 1), ("x" * 33, 1)):
            self.assertRaises(ValueError, plan, name, count)

    def test_names_of_labs_may_have_hyphens(self):
        for lab, text, expected in (
            ("x", "dlba-x-a", True),
            ("x", "dlba-x-app26", True),
            ("x", "dlba-x-switch", True),
            ("x", "dlba-x-a-a", False),
            ("x-a", "dlba-x-a-a", True),
            ("x-a", "dlba-x-a", False),
            ("x", "dlba-x-b2", False),
            ("x", "dlba-y-a", False),
            ("x", "other", False),
        ):
            self.assertIs(is_namespace_of(lab, text), expected, (lab, text))
        for name in plan("my-lab", 26).namespaces:
            self.assertTrue(is_namespace_of("my-lab", name))
        self.assertEqual(namespace("my-lab", "a"), "dlba-my-lab-a")


class ConfigurationCase(SynchronousTestCase):
    def read(self, values, node=0):
        """What a node of the lab reads from its files with these values in array.yaml."""
        base = Path(self.mktemp())
        own = base / "a"
        own.mkdir(parents=True)
        write_certificate(base / "lab.pem", base / "lab.key", (module.VIP,))
        (base / "secrets").write_text(f"k1 {'x' * 32}\nhash {'h' * 32}\n")
        (base / "array.yaml").write_text(array_text(values))
        (base / "ca").mkdir()
        authority.init(base / "ca", "lab", time.time())
        for name in ("a", "b"):
            authority.issue(base / "ca", name, False, time.time())
        text = node_text(plan("lab", 2).nodes[node], has_channel(values))
        return load_text(text, own), own.absolute()


class TextTests(ConfigurationCase):
    def test_is_read_as_it_is_meant(self):
        config, own = self.read(array_values(plan("lab", 2)), 1)
        self.assertEqual(
            (config.node, config.interface, config.state), ("b", "eth0", own / "state")
        )
        self.assertEqual(config.monitor.listen, Endpoint("127.0.0.1", 9080))
        self.assertEqual(config.log.access, own / "access.log")
        self.assertIsNone(config.secrets)
        channel = config.channel
        self.assertEqual(channel.listen, Endpoint("203.0.113.12", 7788))
        certificate = own.parent / "ca" / "b.pem"
        self.assertEqual(channel.certificate.resolve(), certificate)
        array = config.array
        self.assertEqual((array.name, array.vip), ("lab", "203.0.113.10"))
        self.assertEqual(
            [(n.name, n.number, n.address, n.mac.hex(":")) for n in array.nodes.values()],
            [
                ("a", 0, "203.0.113.11", "02:00:cb:00:71:0b"),
                ("b", 1, "203.0.113.12", "02:00:cb:00:71:0c"),
            ],
        )
        plain, secure = array.web.listen
        self.assertEqual((plain.port, plain.tls, plain.address), (80, None, None))
        (pair,) = secure.tls.certificates
        self.assertEqual((secure.port, pair.key.resolve()), (443, own.parent / "lab.key"))
        self.assertEqual(
            [(s.paths, s.pool, s.schedule, s.default) for s in array.web.sites],
            [(("/static/",), "caches", "url", False), ((), "app", "cookie", True)],
        )
        for pool in array.web.pools.values():
            self.assertEqual(
                [(b.name, str(b.address)) for b in pool.backends],
                [("app1", "10.0.1.1:8080"), ("app2", "10.0.1.2:8080")],
            )

    def test_other_values(self):
        values = array_values(plan("lab", 2))
        for setting in (
            "routing.bucket_timeout=30",
            "routing.packets=pcap",
            "routing.own_mac=true",
            "nodes.b={weight: 2, number: 7, address: 203.0.113.99, mac: 10:20:30:40:50:55}",
            "web.listen.0.port=8080",
            "web.pools.app.hash_key='30'",
        ):
            change(values, setting)
        array = self.read(values)[0].array
        routing = array.routing
        self.assertEqual(
            (routing.bucket_timeout, routing.packets, routing.own_mac), (30.0, "pcap", True)
        )
        b = array.nodes["b"]
        self.assertEqual((b.weight, b.number, b.address), (2, 7, "203.0.113.99"))
        self.assertEqual(b.mac.hex(":"), "10:20:30:40:50:55")
        self.assertEqual(array.web.listen[0].port, 8080)
        self.assertEqual(array.web.pools["app"].hash_key, "30")

    def test_without_a_channel(self):
        """Its nodes' configuration names the scheduler."""
        for setting in ("name=null", "name=''", "name=a b", "name={}", "name=true"):
            values = array_values(plan("lab", 2))
            change(values, setting)
            self.assertIs(has_channel(values), False, setting)
        values = array_values(plan("lab", 2))
        change(values, "name=null")
        config, own = self.read(values)
        self.assertIsNone(config.channel)
        self.assertEqual(config.secrets.resolve(), own.parent / "secrets")
        change(values, "name=x")
        change(values, "nodes=null")
        self.assertIs(has_channel(values), False)

    def test_prototype_mode(self):
        values = array_values(plan("lab", 2))
        change(values, "web=null")
        self.assertIsNone(self.read(values)[0].array.web)

    def test_a_wrong_key_is_told_at_its_place(self):
        values = array_values(plan("lab", 2))
        change(values, "routing.bukets=3")
        error = self.assertRaises(ConfigError, self.read, values)
        self.assertIn("routing.bukets: expected a known key", str(error))


class ChangeTests(SynchronousTestCase):
    def changed(self, setting):
        values = {"vip": "1", "web": {"listen": [{"port": 80}, {"port": 443}]}}
        change(values, setting)
        return values

    def test_places(self):
        web = {"listen": [{"port": 80}, {"port": 443}]}
        for setting, expected in (
            ("vip=x", {"vip": "x", "web": web}),
            ("a.b.c=5", {"vip": "1", "web": web, "a": {"b": {"c": 5}}}),
            ("vip=null", {"web": web}),
            ("vip=~", {"web": web}),
            ("none=null", {"vip": "1", "web": web}),
            ("web.listen.1.port=8", {"vip": "1", "web": {"listen": [{"port": 80}, {"port": 8}]}}),
            ("web.listen.1=x", {"vip": "1", "web": {"listen": [{"port": 80}, "x"]}}),
            ("web.listen.0=null", {"vip": "1", "web": {"listen": [{"port": 443}]}}),
        ):
            self.assertEqual(self.changed(setting), expected, setting)

    def test_values(self):
        for text, expected in (
            ("30", 30),
            ("0", 0),
            ("007", "007"),
            ("-1", "-1"),
            ("0.5", "0.5"),
            ("true", True),
            ("'true'", "true"),
            ('"null"', "null"),
            ("yes", "yes"),
            ("02:00:00:00:00:10", "02:00:00:00:00:10"),
            ("a=b", "a=b"),
            ("[80, {a: 'x'}]", [80, {"a": "x"}]),
            ("{a: [], b: {}}", {"a": [], "b": {}}),
            ("[null]", [None]),
        ):
            self.assertEqual(self.changed(f"x={text}")["x"], expected, text)

    def test_mistakes(self):
        for setting, message in (
            ("vip", 'expected KEY=VALUE, got "vip"'),
            ("=1", 'expected KEY=VALUE, got "=1"'),
            ("a..b=1", 'expected KEY=VALUE, got "a..b=1"'),
            ("vip=", "vip: expected a value, got nothing"),
            ("vip= ", "vip: expected a value, got nothing"),
            ("vip=[", "vip: expected YAML, got an error"),
            ("x={a: 1, a: 2}", "x: expected each key once"),
            ("x=!!int 3", "x: expected no tag"),
            ("vip.x=1", 'vip.x: expected something that has "x", got vip'),
            ("web.listen.2.port=1", 'web.listen.2.port: expected something that has "2"'),
            ("web.listen.x=1", 'web.listen.x: expected something that has "x", got web.listen'),
            ("web.listen.-1=1", 'expected something that has "-1"'),
        ):
            error = self.assertRaises(ValueError, self.changed, setting)
            self.assertIn(message, str(error))

    @given(st.from_regex(r"[0-9A-Za-z_.:/+-]{1,20}", fullmatch=True))
    def test_text_stays_as_it_is_written(self, text):
        """The configuration reads text, not YAML's idea of its type."""
        values = {}
        problems = []
        if text.startswith(("...", "---")):  # alone on a line they end a document
            return
        source = Source("x", Path("/"))
        written = parse(f"x: {text}".encode(), source, problems)
        if problems or not hasattr(locate(written, "x"), "text") or text in ("null", "~"):
            return
        change(values, f"x={text}")
        again = parse(array_text(values).encode(), source, problems)
        self.assertEqual((locate(again, "x").text, problems), (text, []))


class ReadyTests(SynchronousTestCase):
    def paths(self, *settings):
        lab = plan("lab", 2)
        values = array_values(lab)
        for setting in settings:
            change(values, setting)
        return ready_paths(values, lab)

    def test_paths(self):
        self.assertEqual(self.paths(), {"a": "/readyz", "b": "/readyz"})
        self.assertEqual(self.paths("web=null"), {"a": "/healthz", "b": "/healthz"})
        for setting in ("nodes.b.enabled=false", "nodes.b.weight=0"):
            self.assertEqual(self.paths(setting), {"a": "/readyz", "b": "/healthz"})
        for setting in ("nodes=x", "nodes.b=x", "nodes=null"):
            self.assertEqual(self.paths(setting), {"a": "/readyz", "b": "/readyz"})

    def test_packets(self):
        for values, expected in (
            ({}, "auto"),
            ({"routing": {"packets": "pcap"}}, "pcap"),
            ({"routing": {"hash": "sum"}}, "auto"),
            ({"routing": "x"}, "auto"),
        ):
            self.assertEqual(packets(values), expected)


class SeenTests(SynchronousTestCase):
    def test_scheduler(self):
        def state(name, role, link=True, term=None):
            return NodeState(name, "", "", True, link, role, None, term)

        for nodes, expected in (
            ((), None),
            ((state("a", None), state("b", "backup")), None),
            ((state("a", "backup"), state("b", "scheduler")), "b"),
            # The first hasn't noticed yet that its link is gone; the other has taken over.
            ((state("a", "scheduler", link=False, term=9), state("b", "scheduler")), "b"),
            ((state("a", "scheduler", term=3), state("b", "scheduler", term=4)), "b"),
            ((state("a", "scheduler", term=0), state("b", "scheduler", term=0)), "a"),
        ):
            self.assertEqual(scheduler_of(nodes), expected)

    def test_settled(self):
        alone, backup = {"role": "alone"}, {"role": "backup", "nodes": []}
        row = {"name": "b", "enabled": True, "failed": False}

        def scheduler(**change):
            return {"role": "scheduler", "nodes": [row, {**row, **change}]}

        for documents, web, expected in (
            ((), True, False),
            ((None, None), True, False),
            ((alone, alone), True, True),
            ((backup, backup), True, False),
            ((backup, None), True, False),
            ((backup, scheduler()), True, True),
            ((None, scheduler()), True, True),
            ((scheduler(failed=True), backup), True, False),
            ((scheduler(failed=True), backup), False, True),
            ((scheduler(failed=True, enabled=False), backup), True, True),
            (({"role": "scheduler"},), True, True),
        ):
            self.assertIs(is_settled(documents, web, False), expected, documents)

    def test_settled_by_election(self):
        """All name one, and that one is scheduler."""
        a = {"node": "a", "role": "scheduler", "term": 1, "scheduler": "a", "nodes": []}
        b = {"node": "b", "role": "backup", "term": 1, "scheduler": "a"}
        failed = {**a, "nodes": [{"name": "b", "enabled": True, "failed": True}]}
        for documents, expected in (
            ((a, b), True),
            ((b, a), True),
            ((a,), True),
            ((a, None), False),
            ((b, b), False),
            ((a, {**b, "scheduler": None}), False),
            ((a, {**b, "scheduler": "b"}), False),
            ((a, {**b, "role": "scheduler", "scheduler": "b"}), False),
            ((a, {**b, "term": 0, "scheduler": None}), False),
            (({**a, "scheduler": None}, {**b, "scheduler": None}), False),
            (({**a, "scheduler": "b"}, {**b, "scheduler": "b"}), False),
            ((a, {"node": "b", "role": "backup"}), False),
            ((failed, b), False),
            ((failed,), True),  # nobody waits for b
        ):
            self.assertIs(is_settled(documents, True, True), expected, documents)
        self.assertIs(is_settled((failed, b), False, True), True)
        self.assertIs(is_settled((a, {**b, "scheduler": None}), True, False), True)
