"""Tests of dlba.config.values."""

import ipaddress
import subprocess
import sys
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dlba.addresses import Endpoint
from dlba.config import election, pools, scheduling, sites, values, web
from dlba.config.nodes import Place, Scalar, Source
from dlba.config.shapes import INVALID, KEY, Reading, keys, read_mapping
from tests.config.samples import ARRAY, BASE, inline, node_of

CLASSES = [
    item
    for module in (values, web, sites, pools, scheduling, election)
    for item in vars(module).values()
    if isinstance(item, type) and attrs.has(item) and item.__module__ == module.__name__
]
KIB = 1024


class KeyTests(SynchronousTestCase):
    def test_every_field_is_a_described_key(self):
        self.assertEqual(len(CLASSES), 23)
        for cls in CLASSES:
            for field in attrs.fields(cls):
                self.assertIn(KEY, field.metadata, f"{cls.__name__}.{field.name}")
                about = field.metadata[KEY].about
                self.assertRegex(about, r"^[^a-z].*[.]$", f"{cls.__name__}.{field.name}")
                self.assertNotRegex(about, r"[.] [A-Z]", "one sentence")

    def test_none_is_explained(self):
        for cls in CLASSES:
            for name, field, about in keys(cls):
                if field.default is None:
                    self.assertTrue(about.default, f"{cls.__name__}.{name}")

    def test_values_are_frozen_and_made_by_keyword(self):
        for cls in CLASSES:
            self.assertTrue(all(field.kw_only for field in attrs.fields(cls)), cls)
        with self.assertRaises(attrs.exceptions.FrozenInstanceError):
            values.LogConfig().format = "json"

    def test_defaults_are_what_their_readers_take(self):
        """A default written out in the file gives the same value."""
        place = Place(Source("n", BASE), 1, 1)
        for cls in CLASSES:
            for name, field, about in keys(cls):
                default = field.default
                if isinstance(default, (str, int, float)):
                    text = {True: "true", False: "false"}.get(default, str(default))
                    if isinstance(default, (int, float)) and not isinstance(default, bool):
                        text = str(default)
                    reading = Reading()
                    value = about.reader.read(Scalar(place, text), reading)
                    self.assertEqual((value, reading.problems), (default, []), f"{cls}.{name}")
                    self.assertIs(type(value), type(default))


class ShapeTests(SynchronousTestCase):
    def read(self, text):
        reading = Reading(state=Path("/base/state"))
        config = read_mapping(values.NodeConfig, node_of(text), reading)
        return config, reading.problems

    def test_the_least(self):
        text = "node: a\narray: {}\n"
        config = values.NodeConfig(node="a", array=values.ArrayConfig(), state=BASE / "state")
        self.assertEqual(self.read(text), (config, []))
        self.assertEqual(config.log, values.LogConfig(access=None, format="combined"))

    def test_defaults(self):
        config, problems = self.read(inline(ARRAY))
        self.assertEqual(problems, [])
        web = config.array.web
        self.assertEqual(
            web.timeouts,
            values.TimeoutsConfig(
                handshake=10.0,
                head=10.0,
                body=30.0,
                write=30.0,
                idle=60.0,
                response=30.0,
                tunnel=3600.0,
                stop=30.0,
            ),
        )
        self.assertEqual(
            web.limits,
            values.LimitsConfig(
                connections=None,
                per_client=1000,
                head=64 * KIB,
                target=16 * KIB,
                headers=200,
                buffer_memory=256 * KIB * KIB,
            ),
        )
        self.assertEqual((web.trusted_proxies, web.errors, web.via), ((), {}, None))
        self.assertEqual(web.listen[0].redirect, None)
        self.assertEqual(
            web.sites[1],
            values.SiteConfig(
                hosts=("shop.example.com",),
                paths=(),
                default=True,
                pool="app",
                schedule="cookie",
                persistence=values.PersistenceConfig(
                    cookie="DLBA",
                    session_cookie=None,
                    max_age=None,
                    path="/",
                    domain=None,
                    same_site="Lax",
                    secure=None,
                ),
                request_headers=values.HeaderChangesConfig(set={}, remove=()),
                response_headers=values.HeaderChangesConfig(set={}, remove=()),
                upgrade=(),
                max_body=None,
                request_buffer=256 * KIB,
            ),
        )
        self.assertEqual(
            web.pools["app"],
            values.PoolConfig(
                name="app",
                backends=(
                    values.BackendConfig(
                        name="app1",
                        address=Endpoint("192.0.2.1", 80),
                        weight=1,
                        backup=False,
                        enabled=True,
                    ),
                ),
                connect_timeout=1.0,
                connect_total=5.0,
                fail_timeout=10.0,
                check=None,
                reuse=False,
                backend_close="reset",
                hash_key="",
            ),
        )

    def test_everything(self):
        text = """\
node: a
state: /var/lib/dlba
secrets: secrets
monitor: {listen: "[::1]:9080"}
log: {access: access.log, format: haproxy}
array:
  name: shop
  vip: 203.0.113.10
  web:
    listen:
      - {port: 443, address: "2001:DB8::1", tls: {certificates: [{certificate: a, key: b}]}}
      - {port: 80, redirect: https}
    timeouts: {handshake: 1, head: 2s, body: 300ms, write: 4, idle: 5m, response: 6.5, stop: 0,
               tunnel: 1d}
    limits: {connections: 10, per_client: 5, head: 32KiB, target: 8KiB, headers: 100,
             buffer_memory: 1GiB}
    trusted_proxies: [10.0.0.0/8, "2001:db8::1"]
    errors: {503: busy.html}
    via: shop
    sites:
      - hosts: ["*.A.example", b.example]
        paths: [/x, /y]
        default: true
        pool: p
        schedule: round-robin
        max_body: 1GiB
        request_buffer: 0
        persistence: {cookie: C, session_cookie: S, max_age: 1h, path: /x, domain: a.example,
                      same_site: None, secure: true}
        request_headers: {set: {X-Site: "a, b"}, remove: [X-Debug]}
        response_headers: {set: {X-B: "1"}}
        upgrade: [WebSocket]
    pools:
      p:
        backends: {b: {address: "10.0.0.1:80", weight: 3, backup: true, enabled: false}}
        connect_timeout: 500ms
        connect_total: 2
        fail_timeout: 1m
        backend_close: wait
        hash_key: k
        check: {path: "/health?x", every: 1, rise: 1, fall: 2, timeout: 500ms, host: A.example}
        reuse: true
"""
        v = values
        web = v.WebConfig(
            listen=(
                v.ListenerConfig(
                    port=443,
                    address="2001:db8::1",
                    tls=v.TLSConfig(
                        certificates=(v.CertificateConfig(certificate=BASE / "a", key=BASE / "b"),)
                    ),
                ),
                v.ListenerConfig(port=80, redirect="https"),
            ),
            timeouts=v.TimeoutsConfig(
                handshake=1.0,
                head=2.0,
                body=0.3,
                write=4.0,
                idle=300.0,
                response=6.5,
                tunnel=86400.0,
                stop=0.0,
            ),
            limits=v.LimitsConfig(
                connections=10,
                per_client=5,
                head=32 * KIB,
                target=8 * KIB,
                headers=100,
                buffer_memory=1 << 30,
            ),
            trusted_proxies=(
                ipaddress.ip_network("10.0.0.0/8"),
                ipaddress.ip_network("2001:db8::1/128"),
            ),
            errors={503: BASE / "busy.html"},
            via="shop",
            sites=(
                v.SiteConfig(
                    hosts=("*.a.example", "b.example"),
                    paths=("/x", "/y"),
                    default=True,
                    pool="p",
                    schedule="round-robin",
                    max_body=1 << 30,
                    request_buffer=0,
                    persistence=v.PersistenceConfig(
                        cookie="C",
                        session_cookie="S",
                        max_age=3600,
                        path="/x",
                        domain="a.example",
                        same_site="None",
                        secure=True,
                    ),
                    request_headers=v.HeaderChangesConfig(
                        set={"X-Site": "a, b"}, remove=("X-Debug",)
                    ),
                    response_headers=v.HeaderChangesConfig(set={"X-B": "1"}),
                    upgrade=("websocket",),
                ),
            ),
            pools={
                "p": v.PoolConfig(
                    name="p",
                    backends=(
                        v.BackendConfig(
                            name="b",
                            address=Endpoint("10.0.0.1", 80),
                            weight=3,
                            backup=True,
                            enabled=False,
                        ),
                    ),
                    connect_timeout=0.5,
                    connect_total=2.0,
                    fail_timeout=60.0,
                    backend_close="wait",
                    hash_key="k",
                    check=v.CheckConfig(
                        path="/health?x",
                        every=1.0,
                        rise=1,
                        fall=2,
                        timeout=0.5,
                        host="a.example",
                    ),
                    reuse=True,
                )
            },
        )
        config = v.NodeConfig(
            node="a",
            array=v.ArrayConfig(name="shop", vip="203.0.113.10", web=web),
            state=Path("/var/lib/dlba"),
            secrets=BASE / "secrets",
            monitor=v.MonitorConfig(listen=Endpoint("::1", 9080)),
            log=v.LogConfig(access=BASE / "access.log", format="haproxy"),
        )
        self.assertEqual(self.read(text), (config, []))

    def test_nothing_where_something_is_needed(self):
        text = "node: a\narray: {web: {listen: [], sites: [], pools: {}}}\n"
        config, problems = self.read(text)
        self.assertEqual(
            [str(problem) for problem in problems],
            [
                "node.yaml:2:23: array.web.listen: expected a list of 1 or more, got 0",
                "node.yaml:2:34: array.web.sites: expected a list of 1 or more, got 0",
                "node.yaml:2:45: array.web.pools: expected 1 or more entries, got 0",
            ],
        )
        self.assertIs(config.array.web.pools, INVALID)


class ImportTests(SynchronousTestCase):
    def test_values_need_neither_yaml_nor_twisted_nor_tls(self):
        code = (
            "import sys, dlba.config.values; "
            "print({'yaml', 'twisted', 'OpenSSL', 'ssl'} & set(sys.modules))"
        )
        root = Path(values.__file__).parents[2]
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
        )
        self.assertEqual((run.stdout, run.stderr), ("set()\n", ""))
