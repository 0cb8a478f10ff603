"""Tests of dlba.config.changes."""

import json
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dlba.addresses import Endpoint
from dlba.config.changes import changes
from dlba.config.election import ChannelConfig
from dlba.config.load import load_text
from dlba.config.values import NodeConfig


def made(node: dict | None = None, array: dict | None = None, **web) -> NodeConfig:
    """A configuration; `web`: keys in place of those here."""
    backends = {name: {"address": f"192.0.2.{n}:80"} for n, name in enumerate("ab", 1)}
    proxy = {
        "listen": [{"port": 8080}],
        "sites": [{"hosts": ["a.example"], "pool": "app"}, {"hosts": ["*"], "pool": "app"}],
        "pools": {"app": {"backends": backends}},
    } | web
    whole = {"web": proxy} | (array or {})
    text = json.dumps({"node": "a", "array": {k: v for k, v in whole.items() if v}} | (node or {}))
    return load_text(text, Path("/tmp"), resolve=lambda name: "192.0.2.9", now=0.0)


def pool(**backends) -> dict:
    return {"app": {"backends": backends}}


class ChangesTests(SynchronousTestCase):
    def check(self, running: NodeConfig, read: NodeConfig, taken, later=()) -> NodeConfig:
        found = changes(running, read)
        self.assertEqual((list(found.taken), list(found.later)), (list(taken), list(later)))
        # What waits is named again the next time, what was taken is not.
        again = changes(found.config, read)
        self.assertEqual((again.taken, again.later), ((), found.later))
        return found.config

    def test_nothing(self):
        config = self.check(made(), made(), [])
        self.assertEqual(config, made())

    def test_the_proxy_is_taken(self):
        for read, taken in (
            (made(timeouts={"head": 3, "idle": 4}), ["web.timeouts.head", "web.timeouts.idle"]),
            (made(limits={"connections": 9}), ["web.limits.connections"]),
            (made(listen=[{"port": 8081}]), ["web.listen[0].port"]),
            (made(listen=[{"port": 8080}, {"port": 81}]), ["web.listen[1]"]),
            (
                made(sites=[{"hosts": ["a.example"], "pool": "app", "schedule": "url"}]),
                ["web.sites[0].schedule", "web.sites[1]"],
            ),
            (
                made(pools=pool(b={"address": "192.0.2.2:81"}, c={"address": "x:80"})),
                [
                    "web.pools.app.backends.a",
                    "web.pools.app.backends.b.address",
                    "web.pools.app.backends.c",
                ],
            ),
            (made(trusted_proxies=["192.0.2.0/24"]), ["web.trusted_proxies"]),
        ):
            self.assertEqual(self.check(made(), read, taken), read)

    def test_a_name_that_means_another_address_now(self):
        one = made(pools=pool(a={"address": "shop.internal:80"}))
        other = made(pools=pool(a={"address": "192.0.2.77:80"}))
        self.check(one, other, ["web.pools.app.backends.a.address"])

    def test_pools_and_pages_that_come_and_go(self):
        two = {"app": pool(a={"address": "192.0.2.1:80"})["app"]}
        two["x.y"] = {"backends": {"z": {"address": "192.0.2.8:80"}}}
        read = made(pools=two)
        self.check(made(), read, ["web.pools.app.backends.b", 'web.pools."x.y"'])
        self.check(read, made(), ["web.pools.app.backends.b", 'web.pools."x.y"'])

    def test_log_and_secrets(self):
        read = made(node={"log": {"access": "/tmp/access.log", "format": "json"}})
        self.assertEqual(self.check(made(), read, ["log.access", "log.format"]), read)

    def test_secrets(self):
        """With a channel the nodes have agreed upon keys, which the file can't change by itself."""
        one = made()
        other = attrs.evolve(one, secrets=Path("/tmp/secrets"))
        self.assertEqual(self.check(one, other, ["secrets"]), other)
        channel = ChannelConfig(
            listen=Endpoint("10.0.0.1", 7788),
            certificate=Path("/tmp/a.pem"),
            key=Path("/tmp/a.key"),
            authority=Path("/tmp/ca.pem"),
        )
        one, other = (attrs.evolve(config, channel=channel) for config in (one, other))
        self.assertEqual(self.check(one, other, [], ["secrets"]), one)

    def test_what_waits_for_the_next_start(self):
        read = made(
            node={"node": "b", "state": "/tmp/x", "monitor": {"listen": "127.0.0.1:9"}},
            array={"name": "shop", "vip": "203.0.113.10"},
            timeouts={"head": 3},
        )
        config = self.check(
            made(), read, ["web.timeouts.head"], ["node", "name", "vip", "state", "monitor"]
        )
        self.assertEqual((config.node, config.array.vip, config.monitor), ("a", None, None))
        self.assertEqual(config.array.web.timeouts.head, 3.0)

    def test_a_proxy_that_comes_or_goes(self):
        without = made(array={"web": None, "name": "x"})
        self.check(made(array={"name": "x"}), without, [], ["web"])
        config = self.check(without, made(array={"name": "x"}), [], ["web"])
        self.assertIsNone(config.array.web)

    def test_parts_of_a_key_that_waits(self):
        nodes = {
            name: {"number": n, "address": f"10.0.0.{n + 1}", "mac": f"02:00:00:00:00:0{n}"}
            for n, name in enumerate("ab")
        }
        array = {"vip": "203.0.113.10", "nodes": nodes}
        heavy = json.loads(json.dumps(array))
        heavy["nodes"]["b"]["weight"] = 7
        one = made(array=array)
        self.check(one, made(array=heavy), [], ["nodes.b.weight"])
