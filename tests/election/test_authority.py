"""Tests of dlba.election.authority: what it writes, and that nothing is lost on the way."""

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.certificates import examine
from dlba.config.nodecertificate import examine_member
from dlba.election import authority
from dlba.election.authority import init, issue
from dlba.errors import DLBAError
from tests.config.samples import NOW

DAY = 86400.0


class Case(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def read(self, name):
        return x509.load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes())

    def names(self):
        return sorted(path.name for path in self.folder.iterdir())

    def fails(self, words, call, *arguments):
        error = self.assertRaises(DLBAError, call, self.folder, *arguments)
        self.assertIn(words, str(error))


class InitTests(Case):
    def test_an_authority(self):
        path = init(self.folder, "shop", NOW)
        self.assertEqual(path, self.folder / "ca.pem")
        self.assertEqual(self.names(), ["ca.key", "ca.pem"])
        self.assertEqual(stat.S_IMODE((self.folder / "ca.key").stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o644)
        ca = self.read("ca")
        (array,) = ca.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        self.assertEqual(array.value, "shop")
        constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
        self.assertEqual((constraints.critical, constraints.value.ca), (True, True))
        self.assertEqual(constraints.value.path_length, 0)
        begin = datetime.fromtimestamp(NOW, UTC)
        self.assertLess(ca.not_valid_before_utc, begin)
        self.assertGreater(ca.not_valid_after_utc, begin + timedelta(days=3640))

    def test_it_is_never_overwritten(self):
        init(self.folder, "shop", NOW)
        before = (self.folder / "ca.key").read_bytes()
        self.fails("ca.pem: expected no authority, got one", init, "shop", NOW)
        (self.folder / "ca.pem").unlink()
        self.fails("ca.key: expected no authority, got one", init, "shop", NOW)
        self.assertEqual((self.folder / "ca.key").read_bytes(), before)

    def test_the_longest_name(self):
        init(self.folder, "x" * 63, NOW)
        issue(self.folder, "y" * 63, False, NOW)

    def test_no_folder(self):
        self.assertRaises(OSError, init, self.folder / "none", "shop", NOW)


class IssueTests(Case):
    def setUp(self):
        super().setUp()
        init(self.folder, "shop", NOW)

    def usable(self, name, now=NOW):
        files = [(self.folder / f"{stem}").read_bytes() for stem in (f"{name}.pem", f"{name}.key")]
        found = examine(*files, now)
        ca = (self.folder / "ca.pem").read_bytes()
        return found + examine_member(files[0], ca, "shop", name, now)

    def test_a_node(self):
        path = issue(self.folder, "a_B.c", False, NOW)
        self.assertEqual(path, self.folder / "a_B.c.pem")
        self.assertEqual(self.usable("a_B.c"), ())
        self.assertEqual(self.names(), ["a_B.c.key", "a_B.c.pem", "ca.key", "ca.pem"])
        self.assertEqual(stat.S_IMODE((self.folder / "a_B.c.key").stat().st_mode), 0o600)
        uses = self.read("a_B.c").extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(
            set(uses), {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
        )

    def test_an_operator(self):
        issue(self.folder, "ann", True, NOW)
        certificate = self.read("ann")
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(list(uses), [ExtendedKeyUsageOID.CLIENT_AUTH])
        (finding,) = self.usable("ann")
        self.assertIn("got an operator's", finding.message)

    def test_renewal_has_a_new_key(self):
        issue(self.folder, "a", False, NOW)
        first = self.read("a")
        issue(self.folder, "a", False, NOW + 600 * DAY)
        second = self.read("a")
        self.assertNotEqual(first.public_key(), second.public_key())
        self.assertNotEqual(first.serial_number, second.serial_number)
        self.assertEqual(self.usable("a", NOW + 700 * DAY), ())

    def test_it_ends_with_its_authority(self):
        issue(self.folder, "a", False, NOW + 3500 * DAY)
        self.assertEqual(self.read("a").not_valid_after_utc, self.read("ca").not_valid_after_utc)
        self.fails("expected a valid authority", issue, "b", False, NOW + 3660 * DAY)

    def test_a_renewal_that_breaks_off_leaves_the_old_pair(self):
        issue(self.folder, "a", False, NOW)
        before = {path: path.read_bytes() for path in self.folder.iterdir()}
        calls = []

        def full(descriptor):
            calls.append(descriptor)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")

        self.patch(os, "fsync", full)
        self.assertRaises(OSError, issue, self.folder, "a", False, NOW)
        self.assertEqual({path: path.read_bytes() for path in self.folder.iterdir()}, before)

    def test_names_that_cannot_be(self):
        for name in ("ca", "CA", "12", "10.0.0.1"):
            self.fails("name: expected a name with a letter other than ca", issue, name, False, NOW)

    def test_a_node_never_becomes_an_operator(self):
        issue(self.folder, "a", False, NOW)
        words = "a.pem: expected an operator's certificate to renew, got a node's"
        self.fails(words, issue, "a", True, NOW)

    def test_what_is_not_of_this_authority_stays(self):
        (self.folder / "a.pem").write_bytes(b"mine")
        self.fails("a.pem: expected a certificate of this authority", issue, "a", False, NOW)
        self.assertEqual((self.folder / "a.pem").read_bytes(), b"mine")

    def test_no_authority_or_a_broken_one(self):
        (self.folder / "ca.key").write_bytes(b"x")
        self.fails("ca.key: expected a PEM key, got something else", issue, "a", False, NOW)
        other = self.folder / "other"
        other.mkdir()
        init(other, "shop", NOW)
        (other / "ca.key").replace(self.folder / "ca.key")
        self.fails("ca.key: expected the key of ca.pem, got another", issue, "a", False, NOW)
        (self.folder / "ca.pem").write_bytes(b"x")
        self.fails("ca.pem: expected a PEM certificate", issue, "a", False, NOW)
        (self.folder / "ca.pem").unlink()
        self.assertRaises(FileNotFoundError, issue, self.folder, "a", False, NOW)

    def test_its_key_is_on_a_curve_that_tls_takes(self):
        key = load_pem_private_key((self.folder / "ca.key").read_bytes(), None)
        self.assertIsInstance(key.curve, ec.SECP256R1)
        self.assertEqual(authority.AUTHORITY, "ca")
