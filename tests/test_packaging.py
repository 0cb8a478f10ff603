"""What pip installs and twistd shows: setup.py, the plugin, and the README's two commands."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import dlba

ROOT = Path(__file__).resolve().parent.parent


def setup_keywords() -> dict[str, ast.expr]:
    """The keyword arguments of the one call of `setup`, unevaluated."""
    calls = [
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "setup"
    ]
    if len(calls) != 1:
        raise AssertionError(f"setup.py: expected one call of setup, got {len(calls)}")
    return {keyword.arg: keyword.value for keyword in calls[0].keywords if keyword.arg}


def fenced_blocks(heading: str) -> list[list[str]]:
    """The fenced blocks of README.md between `heading` and the next one, as lines."""
    blocks: list[list[str]] = []
    inside = fenced = False
    for line in (ROOT / "README.md").read_text("utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
            if inside and fenced:
                blocks.append([])
        elif line.startswith("## ") and not fenced:
            inside = line == heading
        elif inside and fenced and line.strip():
            blocks[-1].append(line)
    return blocks


class SetupTests(SynchronousTestCase):
    def test_every_package_is_listed(self) -> None:
        there = {
            ".".join(path.parent.relative_to(ROOT).parts)
            for path in (ROOT / "dlba").rglob("__init__.py")
        }
        listed = ast.literal_eval(setup_keywords()["packages"])
        self.assertEqual(sorted(there | {"twisted.plugins"}), sorted(listed))

    def test_the_editable_install_is_of_the_plain_path_kind(self) -> None:
        options = ast.literal_eval(setup_keywords()["options"])
        self.assertEqual(options["editable_wheel"]["mode"], "compat")

    def test_the_floors_of_what_has_known_holes(self) -> None:
        needs = ast.literal_eval(setup_keywords()["install_requires"])
        self.assertIn("twisted>=26.10", needs)
        self.assertIn("pyopenssl>=26.2", needs)

    def test_the_version_is_one_and_valid(self) -> None:
        self.assertRegex(dlba.__version__, r"^\d+\.\d+\.\d+(\.dev\d+|rc\d+)?$")
        source = (ROOT / "dlba/__init__.py").read_text("utf-8")
        found = re.findall(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
        self.assertEqual(found, [dlba.__version__])


class PluginTests(SynchronousTestCase):
    def twistd(self, *arguments: str) -> tuple[str, set[str]]:
        """What `twistd ARGUMENTS` prints, in a fresh interpreter, and the modules it loaded."""
        code = (
            "import sys\n"
            "from twisted.scripts.twistd import run\n"
            f"sys.argv = ['twistd', *{arguments!r}]\n"
            "try:\n    run()\n"
            "except SystemExit as end:\n    assert not end.code, end\n"
            "print('modules:', *sys.modules)\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        text, mark, modules = run.stdout.rpartition("modules: ")
        self.assertTrue(mark)
        return text, set(modules.split())

    def test_help_lists_dlba_and_imports_nothing_of_it(self) -> None:
        text, modules = self.twistd("--help")
        self.assertRegex(text, r"(?m)^ +dlba +One node of a DLBA array")
        loaded = {name for name in modules if name.split(".")[0] in ("dlba", "scapy", "OpenSSL")}
        self.assertEqual(loaded, set())

    def test_the_command_has_a_help_text(self) -> None:
        text, modules = self.twistd("dlba", "--help")
        self.assertIn("--demo", text)
        self.assertIn("dlba.tap", modules)
        self.assertNotIn("scapy", modules)

    def test_attributes(self) -> None:
        space: dict[str, object] = {}
        path = ROOT / "twisted/plugins/dlba_plugin.py"
        exec(compile(path.read_text("utf-8"), str(path), "exec"), space)
        plugins = [value for value in space.values() if IPlugin.providedBy(value)]
        self.assertEqual(len(plugins), 1)
        (plugin,) = plugins
        verifyObject(IPlugin, plugin)
        self.assertTrue(IServiceMaker.providedBy(plugin))
        self.assertEqual((plugin.tapname, plugin.module), ("dlba", "dlba.tap"))
        self.assertTrue(plugin.description)


class ReadmeTests(SynchronousTestCase):
    """The two commands that people, and .ci/run, take from the README."""

    def command(self, heading: str) -> str:
        block = fenced_blocks(heading)[0]
        self.assertEqual(len(block), 1, block)
        return block[0]

    def test_run(self) -> None:
        command = self.command("## Run")
        self.assertIn("pip install -q -e . ", command)
        self.assertTrue(command.endswith("twistd -n --pidfile= dlba --demo"), command)

    def test_test(self) -> None:
        command = self.command("## Test")
        self.assertIn("pip install -q -e '.[test]' ", command)
        self.assertTrue(command.endswith("python -m twisted.trial tests"), command)

    def test_links_lead_somewhere(self) -> None:
        for name in ("README.md", "CONTRIBUTING.md"):
            targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text("utf-8"))
            self.assertTrue(targets)
            gone = [t for t in targets if "://" not in t and not (ROOT / t).exists()]
            self.assertEqual(gone, [], name)
