"""Tests of dlba.ca: the command's words and exit codes."""

import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dlba.config.load import load
from dlba.errors import ConfigError
from tests.test_cli import run


class Case(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def run_in(self, *argv):
        return run("ca", *argv, "--directory", str(self.folder))


class InitTests(Case):
    def test_named_by_the_command(self):
        code, out, err = self.run_in("init", "--array", "shop")
        self.assertEqual((code, err), (0, ""))
        self.assertIn(f"{self.folder}/ca.pem: authority of the array shop", out)
        self.assertIn(f"{self.folder}/ca.key: its key", out)

    def test_named_by_the_array_file(self):
        (self.folder / "array.yaml").write_text("name: shop\nnodes: [wrong]\n")
        code, out, _ = self.run_in("init")
        self.assertEqual(code, 0)
        self.assertIn("array shop", out)

    def test_not_named(self):
        for text in (None, "vip: 192.0.2.1\n", "name: a b\n", "[]\n"):
            if text is not None:
                (self.folder / "array.yaml").write_text(text)
            code, out, err = self.run_in("init")
            self.assertEqual((code, out), (2, ""))
            self.assertIn("array.yaml:1:", err)
            self.assertIn("--array names the array as well", err)
        code, _, err = self.run_in("init", "--array", "a/b")
        self.assertEqual(code, 2)
        self.assertIn("dlba ca: --array: expected a name of letters", err)

    def test_not_twice(self):
        self.run_in("init", "--array", "shop")
        code, out, err = self.run_in("init", "--array", "shop")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("dlba ca init: ", err)
        self.assertIn("expected no authority, got one", err)

    def test_no_folder(self):
        code, _, err = run("ca", "init", "--array", "x", "--directory", str(self.folder / "no"))
        self.assertEqual(code, 1)
        self.assertIn("No such file or directory", err)


class IssueTests(Case):
    def test_a_node_that_loads(self):
        self.run_in("init", "--array", "shop")
        code, out, err = self.run_in("issue", "a")
        self.assertEqual((code, err), (0, ""))
        self.assertIn(f"{self.folder}/a.pem: certificate of node a\n", out)
        self.assertEqual(stat.S_IMODE(os.stat(self.folder / "a.key").st_mode), 0o600)
        node = self.folder / "node.yaml"
        node.write_text(
            "node: a\ninterface: eth0\n"
            "channel: {listen: '127.0.0.1:7788', certificate: a.pem, key: a.key, "
            "authority: ca.pem}\n"
            "array:\n  name: shop\n  vip: 192.0.2.10\n  nodes:\n"
            '    a: {number: 0, address: 192.0.2.11, mac: "02:00:00:00:00:0a"}\n'
        )
        self.assertEqual(load(node).channel.key, self.folder / "a.key")
        self.run_in("issue", "b")
        (self.folder / "b.key").replace(self.folder / "a.key")
        error = self.assertRaises(ConfigError, load, node)
        self.assertIn(
            "node.yaml:3:62: channel.key: expected the key of the certificate, got another key",
            str(error),
        )
        node.write_text(node.read_text().replace("a.pem, key: a.key", "b.pem, key: a.key"))
        error = self.assertRaises(ConfigError, load, node)
        self.assertIn('channel.certificate: expected the DNS name "a", got "b"', str(error))
        (self.folder / "ca.pem").unlink()
        error = self.assertRaises(ConfigError, load, node)
        self.assertIn("channel.authority: expected a readable file", str(error))

    def test_an_operator(self):
        self.run_in("init", "--array", "shop")
        code, out, _ = self.run_in("issue", "ann", "--operator")
        self.assertEqual(code, 0)
        self.assertIn("certificate of the operator ann", out)
        code, _, err = self.run_in("issue", "ann")
        self.assertEqual(code, 1)
        self.assertIn("expected a node's certificate to renew, got an operator's", err)

    def test_no_authority(self):
        code, out, err = self.run_in("issue", "a")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("ca.pem: expected an authority, got no file; make one: dlba ca init", err)

    def test_a_name_that_leaves_the_folder(self):
        self.run_in("init", "--array", "shop")
        for name in ("../a", "a/b", ".a", ""):
            code, _, err = self.run_in("issue", name)
            self.assertEqual(code, 2)
            self.assertIn("dlba ca: NAME: expected a name of letters", err)

    def test_usage(self):
        self.assertEqual(run("ca")[0], 2)
