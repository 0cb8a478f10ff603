"""Tests of dlba.config.schema, with a JSON Schema validator of other people."""

import re
from pathlib import Path

import jsonschema
import yaml
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.load import load_text
from dlba.config.schema import array_schema, node_schema
from dlba.errors import ConfigError
from tests.config.samples import ARRAY, NODE, NOW, inline, no_resolver

ROOT = Path(__file__).resolve().parents[2]
VALIDATOR = jsonschema.Draft202012Validator


class Core(yaml.SafeLoader):
    """YAML 1.2's types, as editors have them: no `on`, no 10:20:30 that is a number."""


Core.yaml_implicit_resolvers = {
    first: [(tag, what) for tag, what in found if tag.endswith((":null", ":merge"))]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Core.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false$"), list("tf"))
Core.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile("[-+]?[0-9]+$"), list("-+0123456789")
)
Core.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+\.[0-9]+$"), list("-+0123456789")
)


def as_json(value):
    """Keys are text in JSON."""
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list) else value


def complaints(schema, text):
    """Where the schema finds something wrong."""
    # A document made of aliases is no test of ours: S506 - the loader is a SafeLoader.
    value = as_json(yaml.load(text, Core))
    return sorted(error.json_path for error in VALIDATOR(schema).iter_errors(value))


class SchemaTests(SynchronousTestCase):
    def test_is_a_schema(self):
        for schema in (node_schema(), array_schema()):
            VALIDATOR.check_schema(schema)

    def test_examples_pass(self):
        node, array = (
            ROOT.joinpath("etc", f"{name}.yaml").read_text() for name in ("node", "array")
        )
        for schema, text in (
            (node_schema(), node),
            (array_schema(), array),
            (node_schema(), NODE),
            (node_schema(), inline()),
            (array_schema(), ARRAY),
            (array_schema(), "{}"),
        ):
            self.assertEqual(complaints(schema, text), [])

    def test_commented_examples_pass(self):
        """Also what etc/ shows behind a #: one key at a time is taken in."""
        for name, schema in (("node", node_schema()), ("array", array_schema())):
            text = ROOT.joinpath("etc", f"{name}.yaml").read_text()
            lines = text.splitlines()
            for index, line in enumerate(lines):
                found = re.match(r"( *)# ([a-z_]+: \S.*)", line)
                if found and not re.search(r"[.:] +#|: [a-z]+ [a-z]+ ", found[2]):
                    changed = [*lines[:index], found[1] + found[2], *lines[index + 1 :]]
                    try:
                        self.assertEqual(complaints(schema, "\n".join(changed)), [], line)
                    except yaml.YAMLError:
                        continue

    def test_what_the_schema_takes_and_refuses_the_loader_does_too(self):
        base = re.sub(".*8443.*\n", "", ARRAY)
        for old, new, place in (
            ("name: shop", "name: 1", None),
            ("name: shop", "name: a b", "$.name"),
            ("name: shop", "nmae: shop", "$"),
            ("port: 8080", 'port: "8080"', None),
            ("port: 8080", "port: 65536", "$.web.listen[0].port"),
            ("port: 8080", "port: http", "$.web.listen[0].port"),
            ("port: 8080", "prot: 8080", "$.web.listen[0]"),
            ("port: 8080", "port: 8080, redirect: http", "$.web.listen[0].redirect"),
            ("schedule: url", "schedule: round-robin", None),
            ("schedule: url", "schedule: uri", "$.web.sites[0].schedule"),
            ("schedule: url", "schedule: url\n      max_body: 1GiB", None),
            ("schedule: url", "schedule: url\n      max_body: 1.5", "$.web.sites[0].max_body"),
            ("schedule: url", "schedule: url\n      max_body: 1 GB", "$.web.sites[0].max_body"),
            ("schedule: url", "schedule: url\n      upgrade: [websocket]", None),
            ("schedule: url", "schedule: url\n      upgrade: [h2c]", "$.web.sites[0].upgrade[0]"),
            (
                "schedule: url",
                "schedule: url\n      request_headers: {set: {X-A: b}, remove: [X-B]}",
                None,
            ),
            (
                "schedule: url",
                "request_headers: {set: {X A: b}}",
                "$.web.sites[0].request_headers.set",
            ),
            (
                "schedule: url",
                'schedule: url\n      request_headers: {set: {X-A: "a\\nb"}}',
                "$.web.sites[0].request_headers.set['X-A']",
            ),
            ("weight: 2", "weight: 1001", "$.web.pools.caches.backends.cache1.weight"),
            ("weight: 2", "weight: yes", "$.web.pools.caches.backends.cache1.weight"),
            ("weight: 2", "backup: true", None),
            ("weight: 2", "backup: 1", "$.web.pools.caches.backends.cache1.backup"),
            ("192.0.2.2:80", "[2001:db8::1]:80", None),
            ("192.0.2.2:80", "192.0.2.2", "$.web.pools.caches.backends.cache1.address"),
            ("  sites:", "  timeouts: {idle: 5m, head: 1.5}\n  sites:", None),
            ("  sites:", "  timeouts: {idle: 5 years}\n  sites:", "$.web.timeouts.idle"),
            ("  sites:", "  limits: {connections: auto}\n  sites:", None),
            ("  sites:", "  limits: {connections: many}\n  sites:", "$.web.limits.connections"),
            ("  sites:", "  trusted_proxies: [10.0.0.0/8, '::1']\n  sites:", None),
            ("  sites:", "  trusted_proxies: [localhost]\n  sites:", "$.web.trusted_proxies[0]"),
            ("  sites:", "  errors: {500: a}\n  sites:", "$.web.errors"),
            ("  sites:", "  errors: [a]\n  sites:", "$.web.errors"),
            ("  sites:", "  via: shop:80\n  sites:", None),
            ("    - hosts", "    - {}\n    - hosts", "$.web.sites[0]"),
        ):
            self.assertIn(old, base)
            text = base.replace(old, new, 1)
            found = complaints(array_schema(), text)
            self.assertEqual(set(found), {place} if place else set(), new)
            try:
                load_text(inline(text), ROOT, resolve=no_resolver, now=NOW)
                refused = False
            except ConfigError:
                refused = True
            self.assertEqual(refused, bool(place), new)

    def test_defaults_and_meanings_are_told(self):
        limits = node_schema()["$defs"]["Limits"]["properties"]
        self.assertEqual(limits["per_client"]["default"], 1000)
        self.assertEqual(limits["buffer_memory"]["default"], 256 << 20)
        self.assertIn("Default: auto: from the limit", limits["connections"]["description"])
        site = node_schema()["$defs"]["Site"]
        self.assertEqual(site["required"], ["hosts", "pool"])
        self.assertIn("Hosts of the site", site["properties"]["hosts"]["description"])

    def test_nothing_is_open(self):
        for schema in (node_schema(), *node_schema()["$defs"].values()):
            self.assertIs(schema["additionalProperties"], False)
