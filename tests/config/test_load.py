"""Tests of dlba.config.load: files, certificates, everything wrong at once, anything as input."""

import os
import re
import socket
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.addresses import Endpoint
from dlba.config.files import read_pages
from dlba.config.load import (
    _Resolver,
    is_local,
    load,
    load_monitor,
    load_state,
    load_text,
)
from dlba.errors import ConfigError
from tests.config.samples import (
    ARRAY,
    NODE,
    NOW,
    certificate_pem,
    inline,
    key_pem,
    new_key,
    no_resolver,
    write_pair,
)

ROOT = Path(__file__).resolve().parents[2]
NO_FILE = "No such file or directory"


class Case(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.patch(os, "environ", {})

    def write(self, **files):
        """Writes NAME.yaml for each keyword."""
        for name, text in files.items():
            self.folder.joinpath(f"{name}.yaml").write_text(text)

    def problems_of(self, call, *arguments):
        error = self.assertRaises(ConfigError, call, *arguments, resolve=no_resolver, now=NOW)
        self.assertEqual(list(error.problems), sorted(error.problems))
        return [str(problem) for problem in error.problems]

    def load_problems(self):
        """The problems of node.yaml, without the folder."""
        found = self.problems_of(load, self.folder / "node.yaml")
        return [line.replace(f"{self.folder}/", "") for line in found]


class LoadTests(Case):
    def test_a_node_and_its_array(self):
        self.write(node=NODE, array=ARRAY)
        write_pair(self.folder, "a")
        warnings = []
        config = load(self.folder / "node.yaml", resolve=no_resolver, warn=warnings.append, now=NOW)
        self.assertEqual(warnings, [])
        self.assertEqual((config.node, config.array.name), ("a", "shop"))
        self.assertEqual(config.monitor.listen, Endpoint("127.0.0.1", 9080))
        self.assertEqual(config.state, self.folder / "state")
        (certificate,) = config.array.web.listen[1].tls.certificates
        self.assertEqual(certificate.key, self.folder / "a.key")
        self.assertEqual(list(config.array.web.pools), ["app", "caches"])

    def test_array_in_place_is_the_same(self):
        self.write(node=NODE, array=ARRAY, other=NODE.replace("array.yaml", "./array.yaml"))
        write_pair(self.folder, "a")
        first = load(self.folder / "node.yaml", now=NOW)
        text = inline() + 'monitor: {listen: "127.0.0.1:9080"}\n'
        self.assertEqual(load_text(text, self.folder, now=NOW), first)
        self.assertEqual(load(str(self.folder / "other.yaml"), now=NOW), first)

    def test_paths_start_at_the_file_that_names_them(self):
        sub = self.folder / "sub"
        sub.mkdir()
        self.write(node="node: a\narray: sub/array.yaml\nlog: {access: log/access}\n")
        sub.joinpath("array.yaml").write_text(ARRAY)
        self.folder.joinpath("log").mkdir()
        write_pair(sub, "a")
        config = load(self.folder / "node.yaml", now=NOW)
        self.assertEqual(config.log.access, self.folder / "log/access")
        (certificate,) = config.array.web.listen[1].tls.certificates
        self.assertEqual(certificate.certificate, sub / "a.pem")

    def test_state_from_the_environment(self):
        text = "node: a\narray: {}\n"
        os.environ["STATE_DIRECTORY"] = "/var/lib/dlba:/var/lib/other"
        self.assertEqual(load_text(text, self.folder).state, Path("/var/lib/dlba"))
        self.assertEqual(load_text(text + "state: s\n", self.folder).state, self.folder / "s")

    def test_a_relative_path_gives_absolute_values(self):
        self.write(node="node: a\narray: {}\nsecrets: s\n")
        self.folder.joinpath("s").write_text("k1 " + "x" * 32)
        config = load(os.path.relpath(self.folder / "node.yaml"))
        self.assertEqual(config.secrets, self.folder / "s")

    def test_names_are_resolved(self):
        text = inline(re.sub(".*8443.*\n", "", ARRAY)).replace("192.0.2.1:80", "App.test:80")
        config = load_text(text, self.folder, resolve=no_resolver)
        self.assertEqual(
            config.array.web.pools["app"].backends[0].address, Endpoint("192.0.2.77", 80)
        )

    def test_nothing_to_serve_is_a_warning(self):
        warnings = []
        load_text("node: a\narray: {}\n", self.folder, warn=warnings.append)
        self.assertEqual(
            [str(problem) for problem in warnings],
            ['<demo>:2:8: array: expected a key "web", got none: nothing is served'],
        )

    def test_what_nobody_is_sent_to_is_a_warning(self):
        text = inline(re.sub(".*8443.*\n", "", ARRAY)).replace("weight: 2", "weight: 0")
        text = text.replace("[shop.example.com]", "[a]").replace(
            "default: true", "paths: [/static/]"
        )
        warnings = []
        load_text(text, self.folder, warn=warnings.append)
        self.assertEqual(
            [str(problem).partition(": expected ")[0] for problem in warnings],
            ["<demo>:12:9: array.web.sites[1]", "<demo>:21:11: array.web.pools.caches.backends"],
        )


class MissingFileTests(Case):
    def test_node(self):
        self.assertEqual(
            self.load_problems(),
            [f"node.yaml:1:1: document: expected a readable file, got {NO_FILE}"],
        )

    def test_node_is_a_folder(self):
        self.folder.joinpath("node.yaml").mkdir()
        self.assertEqual(
            self.load_problems(),
            ["node.yaml:1:1: document: expected a readable file, got Is a directory"],
        )

    def test_node_that_is_no_file(self):
        os.mkfifo(self.folder / "node.yaml")
        self.assertEqual(
            self.load_problems(),
            [
                "node.yaml:1:1: document: expected a readable file, got a device, FIFO or socket",
            ],
        )

    def test_array(self):
        self.write(node="node: a\narray:  x.yaml\nmonitor: 3\n")
        self.assertEqual(
            self.load_problems(),
            [
                f'node.yaml:2:9: array: expected a readable file, got "x.yaml": {NO_FILE}',
                'node.yaml:3:10: monitor: expected a mapping, got "3"',
            ],
        )

    def test_array_that_no_file_can_be_called(self):
        self.write(node='node: a\narray: "a\\0b"\n')
        self.assertEqual(
            self.load_problems(),
            ['node.yaml:2:8: array: expected a readable file, got "a\\u0000b": no such file'],
        )

    def test_array_that_is_no_yaml(self):
        self.write(node=NODE, array="name: [\n")
        self.assertEqual(
            self.load_problems(),
            [
                (
                    "array.yaml:2:1: document: expected YAML, got an error while parsing a flow "
                    "node: expected the node content, but found '<stream end>'"
                )
            ],
        )

    def test_array_that_includes_itself(self):
        self.write(node="node: a\narray: node.yaml\n")
        self.assertEqual(
            [line.split(":")[1:4] for line in self.load_problems()],
            [["1", "1", " node"], ["2", "1", " array"]],
        )

    def test_files_are_called_as_the_user_called_them(self):
        self.write(node=NODE, array="name: /\n")
        name = os.path.relpath(self.folder / "node.yaml")
        (found,) = self.problems_of(load, name)
        self.assertTrue(found.startswith(f"{os.path.dirname(name)}/array.yaml:1:7: name: "), found)


class EverythingWrongTests(Case):
    def test_both_files_in_one_run(self):
        self.write(
            node="node: a\nnode: b\nmontor: {}\narray: array.yaml\nlog: {format: jsn}\n",
            array=ARRAY.replace("pool: caches", "pool: cache")
            .replace("name: shop", "nmae: shop")
            .replace("192.0.2.2:80, weight: 2", "nowhere.example:80, weight: 1001")
            .replace('"192.0.2.2:80", weight: 2', '"nowhere.example:80", weight: 1001')
            .replace("  sites:", "  timeouts: {idle: 1 week}\n  sites:"),
        )
        write_pair(self.folder, "a")
        self.folder.joinpath("a.key").unlink()
        self.assertEqual(
            self.load_problems(),
            [
                'array.yaml:1:1: nmae: expected a known key, got "nmae" (did you mean "name"?)',
                (
                    "array.yaml:5:67: web.listen[1].tls.certificates[0].key: "
                    f'expected a readable file, got "a.key": {NO_FILE}'
                ),
                (
                    "array.yaml:6:20: web.timeouts.idle: expected a time such as 10, 1.5, 300ms, "
                    '5m from 0.001 s to 366 days, got "1 week"'
                ),
                (
                    "array.yaml:10:13: web.sites[0].pool: expected one of app, caches, "
                    'got "cache" (did you mean "caches"?)'
                ),
                (
                    "array.yaml:21:27: web.pools.caches.backends.cache1.address: expected a host "
                    'name that resolves, got "nowhere.example": Name or service not known'
                ),
                (
                    "array.yaml:21:57: web.pools.caches.backends.cache1.weight: "
                    'expected an integer from 0 to 1000, got "1001"'
                ),
                "node.yaml:2:1: node: expected each key once, got it again after line 1",
                (
                    'node.yaml:3:1: montor: expected a known key, got "montor" '
                    '(did you mean "monitor"?)'
                ),
                (
                    "node.yaml:5:15: log.format: expected one of combined, haproxy, json, "
                    'got "jsn" (did you mean "json"?)'
                ),
            ],
        )

    def test_a_repeated_key_and_what_is_wrong_in_it(self):
        self.write(
            node="node: a\narray: {}\nlog: {format: json}\nlog: {format: jsn, acess: x}\n"
            "monitor: {listen: x}\nmonitor: {listen: y}\n"
        )
        found = [line.partition(": expected ")[0] for line in self.load_problems()]
        self.assertEqual(
            found,
            [
                "node.yaml:4:1: log",
                "node.yaml:4:15: log.format",
                "node.yaml:4:20: log.acess",
                "node.yaml:5:19: monitor.listen",
                "node.yaml:6:1: monitor",
                "node.yaml:6:19: monitor.listen",
            ],
        )

    def test_what_is_wrong_in_a_repeated_entry(self):
        array = re.sub(".*8443.*\n", "", ARRAY) + "  errors: {503: a, 500: b, 503: []}\n"
        self.write(node=NODE, array=array)
        self.assertEqual(
            self.load_problems(),
            [
                f'array.yaml:20:17: web.errors.503: expected a readable file, got "a": {NO_FILE}',
                "array.yaml:20:20: web.errors.500: expected one of 400, 404, 405, 408, 413, 414, "
                '417, 431, 501, 502, 503, 504, 505, got "500"',
                "array.yaml:20:28: web.errors.503: expected each key once, "
                "got it again after line 20",
                "array.yaml:20:33: web.errors.503: expected a path, got a list",
            ],
        )

    def test_the_same_through_an_alias_is_told_for_each_use(self):
        text = "node: a\narray:\n  name: &x a/b\n  vip: *x\n"
        self.assertEqual(
            self.problems_of(load_text, text, self.folder),
            [
                (
                    "<demo>:3:9: array.name: expected a name of letters, digits, _ . - "
                    '(at most 63), got "a/b"'
                ),
                '<demo>:3:9: array.vip: expected an IP address, got "a/b"',
            ],
        )


class CertificateTests(Case):
    KEY = new_key()

    def setUp(self):
        super().setUp()
        self.write(node=NODE, array=ARRAY)
        self.put(certificate_pem(self.KEY), key_pem(self.KEY))

    def put(self, certificate, key, mode=0o600):
        self.folder.joinpath("a.pem").write_bytes(certificate)
        self.folder.joinpath("a.key").write_bytes(key)
        self.folder.joinpath("a.key").chmod(mode)

    def warnings(self, now=NOW):
        found = []
        load(self.folder / "node.yaml", warn=found.append, now=now)
        return [str(problem).replace(f"{self.folder}/", "") for problem in found]

    def test_wrong_pair(self):
        self.put(certificate_pem(self.KEY), key_pem(new_key()))
        self.assertEqual(
            self.load_problems(),
            [
                (
                    "array.yaml:5:67: web.listen[1].tls.certificates[0].key: "
                    "expected the key of the certificate, got another key"
                )
            ],
        )

    def test_key_instead_of_its_path_is_not_shown(self):
        body = key_pem(self.KEY).decode()
        for pasted in (body, body.replace("\n", " "), body.splitlines()[1]):
            quoted = '"' + pasted.replace("\n", "\\n") + '"'
            self.write(array=ARRAY.replace("key: a.key", f"key: {quoted}"))
            (found,) = self.load_problems()
            self.assertTrue(found.startswith("array.yaml:5:67: "), found)
            for part in re.findall("[A-Za-z0-9+/]{20,}", body):
                self.assertNotIn(part[:20], found)

    def test_expired_is_a_warning(self):
        self.assertEqual(
            self.warnings(NOW + 1e9),
            [
                (
                    "array.yaml:5:55: web.listen[1].tls.certificates[0].certificate: "
                    "expected a valid certificate, got one to 2027-10-31 00:00 UTC"
                )
            ],
        )

    def test_a_key_for_everybody_is_a_warning(self):
        self.put(certificate_pem(self.KEY), key_pem(self.KEY), mode=0o644)
        self.assertEqual(
            self.warnings(),
            [
                (
                    "array.yaml:5:67: web.listen[1].tls.certificates[0].key: "
                    "expected a key that only its owner can read, got one that everybody can"
                )
            ],
        )

    def test_the_clock_is_the_systems_unless_told(self):
        start = time.time()
        self.put(certificate_pem(self.KEY, start=start - 100.0, days=1), key_pem(self.KEY))
        self.assertEqual(self.warnings(now=None), [])
        self.assertEqual(len(self.warnings(now=start - 200.0)), 1)


class NamedFileTests(Case):
    """What would stop the start is found before it, at the key that names it."""

    def problem(self, line):
        self.write(node=inline() + line)
        write_pair(self.folder, "a")
        problems = self.load_problems()
        self.assertEqual(len(problems), 1, problems)
        return problems[0]

    def test_secrets(self):
        for text, expected in (
            (b"", "1 to 64 keys, got 0"),
            (b"k1 short", "line 1: expected an id"),
            (b"k1 " + b"x" * 32 + b"\nk1 " + b"y" * 32, "line 2: the id k1 stands twice"),
            ("k1 é".encode(), "ASCII"),
        ):
            (self.folder / "keys").write_bytes(text)
            problem = self.problem("secrets: keys\n")
            self.assertIn(": secrets: ", problem)
            self.assertIn(expected, problem)
        (self.folder / "keys").unlink()
        self.assertIn("No such file", self.problem("secrets: keys\n"))
        (self.folder / "keys").mkdir()
        self.assertIn("Is a directory", self.problem("secrets: keys\n"))

    def test_pages(self):
        array = re.sub(".*8443.*\n", "", ARRAY) + "  errors: {404: e.html, 503: e.html}\n"
        self.write(node=NODE, array=array)
        page = self.folder / "e.html"
        page.write_bytes(b"x" * 65536)
        web = load(self.folder / "node.yaml").array.web
        self.assertEqual(web.errors, {404: page, 503: page})
        self.assertEqual(read_pages(web), {404: b"x" * 65536, 503: b"x" * 65536})
        page.write_bytes(b"x" * 65537)
        expected = "expected a page of at most 65536 bytes, got a longer one"
        self.assertEqual(
            self.load_problems(),
            [
                f"array.yaml:20:17: web.errors.404: {expected}",
                f"array.yaml:20:30: web.errors.503: {expected}",
            ],
        )
        page.unlink()
        page.mkdir()
        self.assertEqual(len(self.load_problems()), 2)
        self.assertIn('got "e.html": Is a directory', self.load_problems()[0])
        self.assertRaises(OSError, read_pages, web)

    def test_access_log(self):
        for name, expected in (("no/log", "a file in a folder"), (".", "a file, got a folder")):
            problem = self.problem(f"log: {{access: {name}}}\n")
            self.assertIn(f"log.access: expected {expected}", problem)

    def test_state(self):
        (self.folder / "taken").write_text("")
        self.assertIn("state: expected a folder", self.problem("state: taken\n"))


class MonitorTests(Case):
    """The monitor's address, for whoever may not read the rest."""

    def test_whatever_else_is_wrong(self):
        self.write(node='monitor: {listen: "127.0.0.1:9"}\narray: {web: 1}\nfoo: bar\n')
        monitor = load_monitor(self.folder / "node.yaml")
        self.assertEqual(str(monitor.listen), "127.0.0.1:9")

    def test_none(self):
        self.write(node="node: a\n")
        self.assertIsNone(load_monitor(self.folder / "node.yaml"))

    def test_wrong(self):
        self.write(node="monitor: {listen: x}\n")
        error = self.assertRaises(ConfigError, load_monitor, self.folder / "node.yaml")
        self.assertIn(":1:19: monitor.listen: expected", str(error))
        self.assertRaises(ConfigError, load_monitor, self.folder / "none.yaml")


class StateTests(Case):
    """The state folder, for whoever may not read the rest."""

    def state_of(self, text):
        self.write(node=text)
        return load_state(self.folder / "node.yaml")

    def test_whatever_else_is_wrong(self):
        text = "state: s\narray: none.yaml\nmonitor: 3\nfoo: bar\n"
        self.assertEqual(self.state_of(text), self.folder / "s")
        self.assertEqual(self.state_of("state: /var/lib/dlba\nstate: 3\n"), Path("/var/lib/dlba"))

    def test_the_same_as_the_nodes_own(self):
        write_pair(self.folder, "a")
        for line in ("", "state: s\n", "state: ../s\n", "state: /s\n"):
            for folders in ("", "/var/lib/dlba:/var/lib/other"):
                os.environ["STATE_DIRECTORY"] = folders
                self.write(node=NODE + line, array=ARRAY)
                config = load(self.folder / "node.yaml", resolve=no_resolver, now=NOW)
                self.assertEqual(load_state(str(self.folder / "node.yaml")), config.state)

    def test_a_relative_path_gives_an_absolute_folder(self):
        self.write(node="node: a\n")
        name = os.path.relpath(self.folder / "node.yaml")
        self.assertEqual(load_state(name), self.folder / "state")

    def test_wrong(self):
        for text, expected in (
            ("state: []\n", ":1:8: state: expected a path, got a list"),
            ("state:\n", ":1:7: state: expected a path, got nothing"),
            ("hello\n", ':1:1: document: expected a mapping, got "hello"'),
            ("[\n", ": document: expected YAML"),
        ):
            error = self.assertRaises(ConfigError, self.state_of, text)
            self.assertIn(expected, str(error))
        error = self.assertRaises(ConfigError, load_state, self.folder / "none.yaml")
        self.assertIn(NO_FILE, str(error))


class ResolverTests(SynchronousTestCase):
    def test_asks_once_and_remembers_failures(self):
        asked = []

        def getaddrinfo(name, port, **more):
            asked.append(name)
            if name == "bad":
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.9", 0))]

        self.patch(socket, "getaddrinfo", getaddrinfo)
        resolver = _Resolver()
        for _ in range(2):
            self.assertEqual(resolver("good"), "192.0.2.9")
            error = self.assertRaises(OSError, resolver, "bad")
            self.assertEqual(error.strerror, "Name or service not known")
        self.assertEqual(asked, ["good", "bad"])

    def test_a_resolver_that_takes_long_is_given_up(self):
        now = [0.0]

        def getaddrinfo(name, port, **more):
            now[0] += 15.0
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        self.patch(socket, "getaddrinfo", getaddrinfo)
        self.patch(time, "monotonic", lambda: now[0])
        resolver = _Resolver()
        told = [str(self.assertRaises(OSError, resolver, name).strerror) for name in "abcd"]
        self.assertEqual(told[:2], ["Temporary failure in name resolution"] * 2)
        self.assertEqual(told[2:], ["not asked for, as other names took 30 s"] * 2)

    def test_the_hosts_file_is_asked(self):
        self.assertIn(_Resolver()("localhost"), ("127.0.0.1", "::1"))


class IsLocalTests(SynchronousTestCase):
    def test_own_and_other(self):
        self.assertTrue(is_local("127.0.0.1"))
        # Addresses for documentation belong to nobody.
        self.assertFalse(is_local("192.0.2.1"))
        self.assertFalse(is_local("2001:db8::1"))


class ExampleTests(Case):
    def test_the_examples_load(self):
        examples = ROOT / "etc"
        names = sorted(path.name for path in examples.glob("*.yaml"))
        if not names:
            self.skipTest("etc/: expected examples, got none")
        for name in names:
            text = examples.joinpath(name).read_text()
            self.folder.joinpath(name).write_text(text.replace("/var/log/dlba", str(self.folder)))
        for name in names:
            text = examples.joinpath(name).read_text()
            for stem in re.findall(r"certificate: (\S+)\.pem", text):
                write_pair(self.folder, stem)
        nodes = [name for name in names if re.search("(?m)^node:", self.read(name))]
        self.assertIn("node.yaml", nodes)
        for name in nodes:
            warnings = []
            load(self.folder / name, resolve=no_resolver, warn=warnings.append, now=NOW)
            self.assertEqual(warnings, [])

    def read(self, name):
        return self.folder.joinpath(name).read_text()


WHOLE = inline(re.sub(".*8443.*\n", "", ARRAY))
WORDS = re.findall(r"[\w.]+|[^\w\s]|\s+", WHOLE)
YAML = (
    "",
    "&x ",
    "*x",
    "<<",
    "!!int ",
    "---\n",
    "\t",
    "- ",
    "? ",
    "[",
    "}",
    "~",
    "'",
    '"',
    "#",
    "|\n",
)
VALUES = ("a.test:80", "127.0.0.1:8080", "8080", "0", "-1", "1e9", "null")
PIECES = st.sampled_from((*sorted(set(WORDS)), *YAML, *VALUES))


class AnythingTests(SynchronousTestCase):
    def loads_or_tells(self, text):
        """The values, or None when there are problems; nothing else may come out."""
        start = time.process_time()
        try:
            config = load_text(text, Path("/nonexistent"), resolve=no_resolver, now=NOW)
        except ConfigError as error:
            config = None
            self.assertTrue(error.problems)
            for problem in error.problems:
                self.assertRegex(str(problem), r"\A\S+:[1-9]\d*:[1-9]\d*: .+: expected .*, got ")
                self.assertTrue(str(problem).isprintable())
        self.assertLess(time.process_time() - start, 5.0)
        return config

    def test_the_text_that_is_varied_is_right(self):
        self.assertEqual(self.loads_or_tells(WHOLE).node, "a")

    @settings(deadline=None)
    @given(st.binary(max_size=300))
    def test_bytes(self, data):
        self.loads_or_tells(data)

    @settings(deadline=None)
    @given(st.text(max_size=300))
    def test_text(self, text):
        self.loads_or_tells(text)

    @settings(deadline=None)
    @given(st.text(st.characters(exclude_categories=()), max_size=20))
    def test_any_scalar(self, text):
        escaped = "".join(f"\\U{ord(character):08x}" for character in text)
        self.loads_or_tells(f'node: "{escaped}"\narray: "{escaped}"\n"{escaped}": 1\n')

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, len(WORDS) - 1), PIECES), min_size=1, max_size=4))
    def test_changed_words(self, changes):
        words = list(WORDS)
        for index, piece in changes:
            words[index] = piece
        self.loads_or_tells("".join(words))

    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, len(WHOLE)), st.integers(0, 40), st.text(max_size=3))
    def test_cut_and_filled(self, start, length, filling):
        self.loads_or_tells(WHOLE[:start] + filling + WHOLE[start + length :])
