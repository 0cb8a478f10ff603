"""Tests of dlba.election.credentials; whole handshakes are in test_channel."""

from pathlib import Path

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from dlba.election.authority import issue
from dlba.election.credentials import load, node_of
from dlba.errors import DLBAError, PeerError
from tests.config.samples import NOW, certificate_pem, new_key
from tests.election.certificates import files, forge, make


class Case(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp())
        make(self.folder, "a", "b")


class LoadTests(Case):
    def test_fine(self):
        load(files(self.folder, "a")).connection()

    def test_another_key(self):
        (self.folder / "b.key").replace(self.folder / "a.key")
        error = self.assertRaises(DLBAError, load, files(self.folder, "a"))
        self.assertIn("a.key: expected the key of", str(error))

    def test_something_else(self):
        for name in ("a.pem", "a.key", "ca.pem"):
            path = self.folder / name
            before = path.read_bytes()
            for text in (
                b"",
                b"x",
                b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----",
            ):
                path.write_bytes(text)
                error = self.assertRaises(DLBAError, load, files(self.folder, "a"))
                self.assertIn(f"{name}: expected", str(error))
            path.unlink()
            self.assertRaises(OSError, load, files(self.folder, "a"))
            path.write_bytes(before)


class NodeOfTests(Case):
    def of(self, stem, array="shop"):
        pem = (self.folder / f"{stem}.pem").read_bytes()
        return node_of(x509.load_pem_x509_certificate(pem), array, {"b", "c", "B_1.x-"})

    def fails(self, words, *arguments):
        self.assertIn(words, str(self.assertRaises(PeerError, self.of, *arguments)))

    def test_a_node(self):
        self.assertEqual(self.of("b"), "b")
        issue(self.folder, "B_1.x-", False, NOW)
        self.assertEqual(self.of("B_1.x-"), "B_1.x-")

    def test_nobody(self):
        self.fails("expected the name of another node of the array, got", "a")
        self.fails('expected the array test, got "shop"', "b", "test")
        issue(self.folder, "c", True, NOW)
        self.fails("expected a node's, got an operator's", "c")
        for stem, names in (("two", ("b", "c")), ("wild", ("*",)), ("none", ()), ("case", ("B",))):
            forge(self.folder, stem, names)
            self.fails("expected the name of another node of the array, got", stem)
        (self.folder / "web.pem").write_bytes(certificate_pem(new_key()))
        self.fails("expected the array shop", "web")
        self.assertRaises(PeerError, node_of, None, "shop", {"b"})

    def test_names_that_are_no_nodes_do_not_harm(self):
        forge(self.folder, "more", ("b", "b.example.com"))
        self.assertEqual(self.of("more"), "b")
