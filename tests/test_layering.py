"""Keeps the directions of imports: who may import whom, and what pure modules stay away from.

The rules are data, at the top; a new module gets its place there. Sources are parsed, not run, so
imports inside functions and under TYPE_CHECKING count as well. What only running can show (scapy
stays out of a started node) is asked of a fresh interpreter.
"""

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------ the rules

LEAVES = (
    "dlba.addresses",
    "dlba.config",
    "dlba.counters",
    "dlba.errors",
    "dlba.poller",
    "dlba.socketname",
)

#: Module or package → what of dlba it may import besides itself, and why; the longest name counts.
MAY_IMPORT: dict[str, tuple[tuple[str, ...], str]] = {
    "dlba": ((), "the package only tells its version"),
    "dlba.errors": (("dlba.config.problems",), "a leaf; the problems are a type of its argument"),
    "dlba.counters": ((), "a leaf"),
    "dlba.addresses": (("dlba.errors",), "a leaf"),
    "dlba.socketname": ((), "a leaf"),
    "dlba.poller": ((), "a leaf: it knows descriptors, not what they are for"),
    "dlba.config": (("dlba.addresses", "dlba.errors"), "a leaf: text to values"),
    "dlba.web": (LEAVES, "the three parts don't know each other; dlba.node joins them"),
    "dlba.routing": (LEAVES, "the three parts don't know each other; dlba.node joins them"),
    "dlba.election": (
        (*LEAVES, "dlba.routing.hashtable"),
        "the three parts don't know each other; the table's deltas are what election carries",
    ),
    "dlba.monitor": (LEAVES, "it gets values and callables from dlba.node"),
    "dlba.backend": (LEAVES, "the demo's web servers also run alone"),
    "dlba.demo": ((*LEAVES, "dlba.backend"), "dlba.tap runs it; it knows no part of a node"),
    "dlba.state": (LEAVES, "the node's folder on disk"),
    "dlba.control": (LEAVES, "a socket for commands; what they do comes as callables"),
    "dlba.draining": ((*LEAVES, "dlba.state"), "which backends drain; it gets them as callables"),
    "dlba.drain": ((*LEAVES, "dlba.where"), "the command asks a node, it doesn't contain one"),
    "dlba.reload": (LEAVES, "what is read and who gets it comes as callables"),
    "dlba.where": ((*LEAVES, "dlba.control"), "the command asks a node, it doesn't contain one"),
    "dlba.status": ((*LEAVES, "dlba.where"), "the command asks a node, it doesn't contain one"),
    "dlba.doctor": (
        (*LEAVES, "dlba.routing", "dlba.state"),
        "it looks at this machine as a scheduler would; it runs nothing of a node",
    ),
    "dlba.lab": (
        (*LEAVES, "dlba.demo", "dlba.election.authority"),
        "it starts nodes as processes and asks them as anybody would",
    ),
    "dlba.ca": (
        (*LEAVES, "dlba.election.authority"),
        "the command makes files; it asks no node",
    ),
    "dlba.schema": (LEAVES, "the command prints what the keys say"),
    "dlba.cli": (
        (
            *LEAVES,
            "dlba.backend",
            "dlba.ca",
            "dlba.doctor",
            "dlba.drain",
            "dlba.lab",
            "dlba.schema",
            "dlba.status",
            "dlba.where",
        ),
        "the command asks a node, it doesn't contain one",
    ),
    "dlba.electing": (
        (*LEAVES, "dlba.election", "dlba.monitor", "dlba.routing", "dlba.state"),
        "the part of the joining that is the election's",
    ),
    "dlba.node": (
        (
            *LEAVES,
            "dlba.control",
            "dlba.draining",
            "dlba.electing",
            "dlba.state",
            "dlba.web",
            "dlba.routing",
            "dlba.election",
            "dlba.monitor",
        ),
        "it joins the parts; who starts it is not its business",
    ),
    "dlba.tap": (
        (*LEAVES, "dlba.node", "dlba.demo", "dlba.reload"),
        "twistd's options and service; the joining is dlba.node's",
    ),
}

#: Values in, values out.
PURE = (
    "dlba",
    "dlba.addresses",
    "dlba.config",
    "dlba.config.changes",
    "dlba.config.channelchecks",
    "dlba.config.checks",
    "dlba.config.cookiechecks",
    "dlba.config.document",
    "dlba.config.election",
    "dlba.config.fields",
    "dlba.config.hosts",
    "dlba.config.httpfields",
    "dlba.config.keys",
    "dlba.config.nodechecks",
    "dlba.config.nodes",
    "dlba.config.pools",
    "dlba.config.problems",
    "dlba.config.reference",
    "dlba.config.scheduling",
    "dlba.config.schema",
    "dlba.config.shapes",
    "dlba.config.sites",
    "dlba.config.values",
    "dlba.config.web",
    "dlba.config.webchecks",
    "dlba.counters",
    "dlba.doctor",
    "dlba.doctor.answers",
    "dlba.doctor.facts",
    "dlba.doctor.findings",
    "dlba.doctor.firewall",
    "dlba.doctor.kernel",
    "dlba.doctor.report",
    "dlba.election",
    "dlba.election.allowance",
    "dlba.election.ballot",
    "dlba.election.candidacy",
    "dlba.election.census",
    "dlba.election.commands",
    "dlba.election.following",
    "dlba.election.hello",
    "dlba.election.keyring",
    "dlba.election.machine",
    "dlba.election.mandate",
    "dlba.election.member",
    "dlba.election.others",
    "dlba.election.outside",
    "dlba.election.peers",
    "dlba.election.probes",
    "dlba.election.reign",
    "dlba.election.role",
    "dlba.election.transitions",
    "dlba.election.voter",
    "dlba.election.watch",
    "dlba.election.messages",
    "dlba.election.replication",
    "dlba.election.status",
    "dlba.election.summary",
    "dlba.errors",
    "dlba.lab",
    "dlba.lab.plan",
    "dlba.monitor",
    "dlba.monitor.accesslog",
    "dlba.monitor.page",
    "dlba.monitor.status",
    "dlba.routing",
    "dlba.routing.announce",
    "dlba.routing.array",
    "dlba.routing.arp",
    "dlba.routing.bpf",
    "dlba.routing.echo",
    "dlba.routing.events",
    "dlba.routing.fragments",
    "dlba.routing.frame",
    "dlba.routing.hashtable",
    "dlba.routing.keyedhash",
    "dlba.routing.kinds",
    "dlba.routing.needs",
    "dlba.routing.path",
    "dlba.routing.placement",
    "dlba.routing.reach",
    "dlba.routing.scheduler",
    "dlba.routing.standing",
    "dlba.web",
    "dlba.web.answers",
    "dlba.web.body",
    "dlba.web.choice",
    "dlba.web.cookie",
    "dlba.web.deadlines",
    "dlba.web.forward",
    "dlba.web.forwarding",
    "dlba.web.front",
    "dlba.web.head",
    "dlba.web.headreader",
    "dlba.web.idle",
    "dlba.web.health",
    "dlba.web.headerchanges",
    "dlba.web.keeping",
    "dlba.web.memory",
    "dlba.web.pool",
    "dlba.web.requestbody",
    "dlba.web.response",
    "dlba.web.responsereader",
    "dlba.web.ring",
    "dlba.web.tokens",
    "dlba.web.upgrade",
)

#: The known files where I/O lives.
ADAPTERS = (
    "dlba.backend",
    "dlba.ca",
    "dlba.cli",
    "dlba.config.certificates",
    "dlba.config.files",
    "dlba.config.load",
    "dlba.config.nodecertificate",
    "dlba.control",
    "dlba.demo",
    "dlba.doctor.ask",
    "dlba.doctor.command",
    "dlba.doctor.look",
    "dlba.doctor.mend",
    "dlba.drain",
    "dlba.draining",
    "dlba.electing",
    "dlba.election.authority",
    "dlba.election.channel",
    "dlba.election.connection",
    "dlba.election.credentials",
    "dlba.election.dialer",
    "dlba.election.icmp",
    "dlba.election.keyexchange",
    "dlba.election.leaving",
    "dlba.election.line",
    "dlba.election.listener",
    "dlba.election.notes",
    "dlba.election.retries",
    "dlba.election.service",
    "dlba.election.terms",
    "dlba.lab.command",
    "dlba.lab.network",
    "dlba.lab.programs",
    "dlba.lab.show",
    "dlba.monitor.logfile",
    "dlba.monitor.server",
    "dlba.node",
    "dlba.poller",
    "dlba.reload",
    "dlba.routing.check",
    "dlba.routing.configured",
    "dlba.routing.elected",
    "dlba.routing.former",
    "dlba.routing.guard",
    "dlba.routing.guardwatch",
    "dlba.routing.kept",
    "dlba.routing.linkport",
    "dlba.routing.messages",
    "dlba.routing.packetport",
    "dlba.routing.links",
    "dlba.routing.linkwatch",
    "dlba.routing.pcapport",
    "dlba.routing.reader",
    "dlba.routing.segment",
    "dlba.routing.service",
    "dlba.routing.settings",
    "dlba.routing.offloads",
    "dlba.routing.sysctls",
    "dlba.routing.tun",
    "dlba.routing.turn",
    "dlba.schema",
    "dlba.socketname",
    "dlba.state",
    "dlba.status",
    "dlba.tap",
    "dlba.web.backendside",
    "dlba.web.checker",
    "dlba.web.clientsocket",
    "dlba.web.delivery",
    "dlba.web.ending",
    "dlba.web.exchange",
    "dlba.web.http1",
    "dlba.web.http1request",
    "dlba.web.listener",
    "dlba.web.proxy",
    "dlba.web.requestlog",
    "dlba.web.resource",
    "dlba.web.running",
    "dlba.web.service",
    "dlba.web.siteclient",
    "dlba.web.sitefront",
    "dlba.web.stream",
    "dlba.web.tls",
    "dlba.web.tunnel",
    "dlba.where",
)

#: What pure modules don't import, and what they do instead.
IMPURE: dict[str, str] = {
    "OpenSSL": "TLS is an adapter's",
    "asyncio": "I/O is an adapter's",
    "logging": "return what happened; the adapter logs",
    "multiprocessing": "processes are an adapter's",
    "os": "files and environment are an adapter's",
    "pyroute2": "I/O is an adapter's",
    "random": "take the choice as a parameter",
    "scapy": "frames are bytes here",
    "secrets": "take the random bytes as a parameter",
    "select": "I/O is an adapter's",
    "selectors": "I/O is an adapter's",
    "signal": "signals are an adapter's",
    "socket": "I/O is an adapter's",
    "_socket": "I/O is an adapter's",
    "ssl": "TLS is an adapter's",
    "subprocess": "processes are an adapter's",
    "tempfile": "files are an adapter's",
    "threading": "nothing here is shared by threads",
    "time": "take `now`, in seconds, as a parameter",
    "twisted": "I/O is an adapter's",
    "urllib.request": "I/O is an adapter's",
    "uuid": "take the random bytes as a parameter",
    "zope": "interfaces are for adapters",
}
#: Parts of the above that touch nothing outside.
PURE_PARTS = ("os.path", "time.gmtime", "time.strftime")
#: Calls that reach outside without an import of the above.
IMPURE_CALLS = {
    "open": "files are an adapter's",
    "input": "I/O is an adapter's",
    "print": "return what happened; the adapter shows it",
    "datetime.now": "take `now`, in seconds, as a parameter",
    "datetime.utcnow": "take `now`, in seconds, as a parameter",
    "datetime.today": "take `now`, in seconds, as a parameter",
    "date.today": "take `now`, in seconds, as a parameter",
}

#: What → the only modules that may import it, and why.
ONLY_IN: dict[str, tuple[tuple[str, ...], str]] = {
    "twisted.internet.reactor": (("dlba.tap",), "take the reactor as a parameter"),
    "twisted.internet.task.react": (("dlba.cli",), "it starts the global reactor"),
    "scapy": (("dlba.routing.pcapport",), "only the packet adapter of libpcap may"),
    "pyroute2": (
        ("dlba.lab.network", "dlba.routing.links"),
        "addresses and links are set in few places, so that they are put back",
    ),
    "twisted.web": (
        ("dlba.backend", "dlba.monitor.server", "dlba.web.resource"),
        "the data path speaks HTTP itself; only what a Twisted site holds needs it",
    ),
    "twisted.web.proxy": ((), "it speaks HTTP/1.0; the data path is dlba.web"),
}

#: Words that say nothing, in names of modules, classes and functions.
EMPTY_WORDS = ("handler", "manager", "engine", "helper", "util", "utils", "helpers")

# ------------------------------------------------------------------ the checker


class Import(NamedTuple):
    line: int
    name: str  # dotted; for `from a import b`, `a.b`


class Module(NamedTuple):
    name: str
    package: bool
    source: str


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def imports(module: Module) -> Iterator[Import]:
    """Every import of the module, wherever it stands, and what is imported by a literal name."""
    package = module.name if module.package else module.name.rpartition(".")[0]
    for node in ast.walk(ast.parse(module.source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parts = package.split(".")
                up = ".".join(parts[: len(parts) - node.level + 1])
                start = f"{up}.{start}" if start else up
            for alias in node.names:
                yield Import(node.lineno, start if alias.name == "*" else f"{start}.{alias.name}")
        elif isinstance(node, ast.Call) and called(node).split(".")[-1] in (
            "import_module",
            "__import__",
            "namedAny",
            "namedModule",
        ):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield Import(node.lineno, argument.value)


def called(node: ast.Call) -> str:
    """The dotted name that is called, its last two parts at most; empty if it isn't a name."""
    match node.func:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id=left) | ast.Attribute(attr=left), attr=right):
            return f"{left}.{right}"
    return ""


def names(module: Module) -> Iterator[tuple[int, str]]:
    """The module's own name, and every class and function that it defines."""
    yield 1, module.name.rpartition(".")[2]
    for node in ast.walk(ast.parse(module.source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name


def words(name: str) -> Iterator[str]:
    """`HTTPChannelManager_x` → http, channel, manager, x."""
    word = ""
    for i, letter in enumerate(name):
        follows = name[i + 1 : i + 2]
        if word and (
            letter == "_" or (letter.isupper() and (word[-1].islower() or follows.islower()))
        ):
            yield word.lower()
            word = ""
        if letter != "_":
            word += letter
    if word:
        yield word.lower()


def problems(module: Module) -> list[str]:
    """What breaks a rule in this module, each as `module:line: what: because`."""
    found: list[tuple[int, str]] = []
    row = max((key for key in MAY_IMPORT if within(module.name, key)), key=len)
    if row == "dlba" and module.name != "dlba":
        found.append((1, "has no row in MAY_IMPORT: give it one"))
    if (module.name in PURE) + (module.name in ADAPTERS) != 1:
        found.append((1, "expected in exactly one of PURE and ADAPTERS: say which it is"))
    allowed, because = MAY_IMPORT[row]
    pure = module.name in PURE
    for line, name in imports(module):
        for what, (where, reason) in ONLY_IN.items():
            if within(name, what) and module.name not in where:
                found.append((line, f"imports {name}: {reason}"))
        if within(name, "dlba") and name not in ("dlba", "dlba.__version__"):
            itself = row != "dlba" and within(name, row)
            if not itself and not any(within(name, prefix) for prefix in allowed):
                found.append((line, f"imports {name}: {because}"))
            if pure and any(within(name, adapter) for adapter in ADAPTERS):
                found.append((line, f"is pure and imports the adapter {name}"))
        if pure and not any(within(name, part) for part in PURE_PARTS):
            for what, reason in IMPURE.items():
                if within(name, what):
                    found.append((line, f"is pure and imports {name}: {reason}"))
    if pure:
        for node in ast.walk(ast.parse(module.source)):
            if isinstance(node, ast.Call) and called(node) in IMPURE_CALLS:
                reason = IMPURE_CALLS[called(node)]
                found.append((node.lineno, f"is pure and calls {called(node)}: {reason}"))
    for line, name in names(module):
        empty = sorted(set(words(name)) & set(EMPTY_WORDS))
        found.extend((line, f"is or defines {name}: {word!r} says nothing") for word in empty)
    return [f"{module.name}:{line}: {text}" for line, text in sorted(found)]


def modules() -> list[Module]:
    """Every module under dlba/, read from this tree."""
    result = []
    for path in sorted((ROOT / "dlba").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if package else parts)
        result.append(Module(name, package, path.read_text("utf-8")))
    return result


def loaded_by(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after running `code` in this tree."""
    run = subprocess.run(
        [sys.executable, "-c", code + "\nimport sys\nprint('\\n'.join(sys.modules))"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if run.returncode:
        raise AssertionError(f"{code!r}: expected exit code 0, got {run.returncode}: {run.stderr}")
    return {line.partition(".")[0] for line in run.stdout.splitlines()}


# ------------------------------------------------------------------ the tests


class TreeTests(SynchronousTestCase):
    """The tree as it is."""

    def test_every_module_keeps_the_rules(self) -> None:
        found = [text for module in modules() for text in problems(module)]
        self.assertEqual(found, [], "\n" + "\n".join(found))

    def test_there_are_modules_to_check(self) -> None:
        self.assertLessEqual({"dlba", "dlba.errors"}, {module.name for module in modules()})

    def test_nothing_hides_twisted_or_the_plugin(self) -> None:
        for folder in ("twisted", "twisted/plugins"):
            self.assertTrue((ROOT / folder).is_dir())
            self.assertFalse((ROOT / folder / "__init__.py").exists(), folder)

    def test_trial_leaves_the_end_to_end_tests_alone(self) -> None:
        self.assertFalse((ROOT / "tests/e2e/__init__.py").exists())

    def test_the_plugin_imports_nothing_of_dlba(self) -> None:
        source = (ROOT / "twisted/plugins/dlba_plugin.py").read_text("utf-8")
        got = {found.name for found in imports(Module("dlba_plugin", False, source))}
        self.assertEqual(got, {"twisted.application.service.ServiceMaker"})

    def test_mypy_is_strict_on_pure_modules(self) -> None:
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
        self.assertIs(settings["strict"], True)
        loose = [name for part in settings["overrides"] for name in part["module"]]
        self.assertEqual([n for n in PURE if any(fnmatchcase(n, p) for p in loose)], [])

    def test_a_node_starts_without_scapy_and_pyroute2(self) -> None:
        loaded = loaded_by("import dlba.tap, dlba.cli, dlba.demo")
        self.assertEqual(loaded & {"scapy", "pyroute2"}, set())

    def test_pure_modules_load_no_adapter_library(self) -> None:
        here = [module.name for module in modules() if module.name in PURE]
        loaded = loaded_by("import " + ", ".join(here))
        self.assertIn("dlba", loaded)
        self.assertEqual(loaded & {"twisted", "OpenSSL", "ssl", "scapy", "zope"}, set())


class CheckerTests(SynchronousTestCase):
    """The checker can fail: made-up sources and what it must say about them."""

    def check(self, name: str, source: str, *expected: str, package: bool = False) -> None:
        got = problems(Module(name, package, source))
        self.assertEqual(len(got), len(expected), got)
        for text, part in zip(got, expected, strict=True):
            self.assertIn(part, text)

    def test_allowed(self) -> None:
        self.check("dlba.web.head", "import re\nfrom dlba.errors import HeadError\n")
        self.check("dlba.web.pool", "from dlba.web import ring\nfrom dlba import __version__\n")
        self.check("dlba.web.tls", "import OpenSSL, socket, time\nfrom dlba.web.head import x\n")
        self.check("dlba.tap", "from twisted.internet import reactor\nimport dlba.node\n")
        self.check("dlba.web.choice", "import os.path\nfrom os import path\n")

    def test_directions(self) -> None:
        self.check(
            "dlba.web.head", "x = 1\nimport dlba.monitor.status\n", "dlba.web.head:2: imports"
        )
        self.check("dlba.web.tls", "from dlba import monitor\n", "imports dlba.monitor")
        self.check(
            "dlba.web.tls", "from dlba.routing.frame import x\n", "imports dlba.routing.frame"
        )
        self.check("dlba.monitor.server", "import dlba.web\n", "imports dlba.web")
        self.check("dlba.node", "from dlba import tap\n", "imports dlba.tap")
        self.check("dlba.counters", "from dlba.errors import E\n", "imports dlba.errors.E: a leaf")
        self.check(
            "dlba.demo", "def f():\n    import dlba.node\n", "dlba.demo:2: imports dlba.node"
        )

    def test_election_may_use_the_deltas_only(self) -> None:
        place = "expected in exactly one"
        self.check("dlba.election.sync", "from dlba.routing.hashtable import Delta\n", place)
        self.check(
            "dlba.election.sync", "import dlba.routing.frame\n", place, "imports dlba.routing"
        )

    def test_relative_and_computed_imports(self) -> None:
        self.check("dlba.web.head", "from ..monitor import status\n", "imports dlba.monitor.status")
        self.check("dlba.web", "from ..monitor import *\n", "imports dlba.monitor", package=True)
        self.check("dlba.web.head", "from . import ring\n")
        self.check(
            "dlba.web.tls", 'import importlib\nimportlib.import_module("dlba.tap")\n', "dlba.tap"
        )

    def test_purity(self) -> None:
        for source in (
            "import time\n",
            "from time import monotonic\n",
            "def f():\n    from os import environ\n",
            "from twisted.python.failure import Failure\n",
            "if TYPE_CHECKING:\n    from OpenSSL import SSL\n",
            "from _socket import socket\n",
            "import dlba.web.tls\n",
            "from dlba.web import tls\n",
            "def f(p):\n    return open(p)\n",
            "import datetime\nx = datetime.datetime.now(None)\n",
            "print(1)\n",
        ):
            self.check("dlba.web.head", source, "is pure and")
        self.check("dlba.web.head", "import timeit, os.path, socketserver\n")

    def test_the_global_reactor_and_scapy(self) -> None:
        self.check("dlba.node", "from twisted.internet import reactor\n", "take the reactor")
        self.check("dlba.node", "import twisted.internet.reactor as r\n", "take the reactor")
        self.check(
            "dlba.web.service", "def f():\n    from scapy.all import Ether\n", "packet adapter"
        )
        self.check("dlba.node", "from twisted.internet.task import react\n", "the global reactor")

    def test_a_module_without_a_place(self) -> None:
        self.check("dlba.new", "", "exactly one of PURE", "no row in MAY_IMPORT")
        self.check("dlba.web.new", "", "exactly one of PURE")

    def test_empty_words(self) -> None:
        self.check("dlba.web.head", "class HTTPManager: pass\n", "'manager' says nothing")
        self.check("dlba.web.head", "def parse_helper(): pass\n", "'helper' says nothing")
        self.check("dlba.web.head", "class Utility: pass\ndef enginery(): pass\n")
        self.check("dlba.web.util", "", "exactly one of PURE", "'util' says nothing")

    def test_the_tables_agree_with_each_other(self) -> None:
        self.assertEqual(set(PURE) & set(ADAPTERS), set())
        self.assertEqual([n for n in (*PURE, *ADAPTERS) if row_of(n) is None], [])
        for allowed, because in MAY_IMPORT.values():
            self.assertTrue(because)
            self.assertEqual([n for n in allowed if row_of(n) is None], [])


def row_of(name: str) -> str | None:
    rows: Iterable[str] = (k for k in MAY_IMPORT if within(name, k) and (k != "dlba" or name == k))
    return max(rows, key=len, default=None)
