"""Tests of dlba.config.nodecertificate; the certificates are of dlba.election.authority."""

from base64 import b64encode
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.certificates import Finding
from dlba.config.nodecertificate import Holder, examine_member, holder_of
from dlba.election.authority import init, issue
from tests.config.samples import NOW, certificate_pem, new_key


class Case(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp())
        self.other = self.folder / "other"
        self.other.mkdir(parents=True)
        for folder in (self.folder, self.other):
            init(folder, "shop", NOW)
            issue(folder, "a", False, NOW)
        issue(self.folder, "ann", True, NOW)

    def pem(self, name, folder=None):
        return ((folder or self.folder) / f"{name}.pem").read_bytes()

    def found(self, certificate, authority=None, array="shop", node="a", now=NOW):
        return examine_member(certificate, authority or self.pem("ca"), array, node, now)


class HolderTests(Case):
    def test_node_and_operator(self):
        for name, holder in (
            ("a", Holder("shop", ("a",), False)),
            ("ann", Holder("shop", (), True)),
            ("ca", Holder("shop", (), False)),
        ):
            self.assertEqual(holder_of(x509.load_pem_x509_certificate(self.pem(name))), holder)

    def test_a_certificate_of_the_web(self):
        web = x509.load_pem_x509_certificate(certificate_pem(new_key()))
        self.assertEqual(holder_of(web), Holder("", (), False))


class ExamineMemberTests(Case):
    def test_fine(self):
        self.assertEqual(self.found(self.pem("a")), ())

    def test_dates_are_not_told_here(self):
        for years in (-5, 5, 20):
            self.assertEqual(self.found(self.pem("a"), now=NOW + years * 365 * 86400), ())

    def test_another_authority(self):
        (finding,) = self.found(self.pem("a", self.other))
        self.assertEqual((finding.key, finding.fatal), ("authority", True))
        self.assertIn(
            "expected one that this node's certificate is from, got another", str(finding)
        )

    def test_another_node_or_array(self):
        self.assertEqual(
            self.found(self.pem("a"), array="test", node="b"),
            (
                Finding("certificate", 'expected the DNS name "b", got "a"'),
                Finding(
                    "certificate", 'expected subject O "test" as the array\'s name, got "shop"'
                ),
            ),
        )

    def test_an_operator(self):
        self.assertEqual(
            self.found(self.pem("ann"), node="ann"),
            (Finding("certificate", "expected a node's certificate, got an operator's"),),
        )

    def test_no_authority(self):
        for authority, words in (
            (b"x", "expected a PEM certificate"),
            (self.pem("a"), "expected the certificate of an authority"),
            (certificate_pem(new_key()), "expected the certificate of an authority"),
        ):
            (finding,) = self.found(self.pem("a"), authority)
            self.assertEqual(finding.key, "authority")
            self.assertIn(words, finding.message)

    def test_a_name_that_openssl_does_not_read(self):
        certificate = x509.load_pem_x509_certificate(self.pem("a"))
        der = certificate.public_bytes(serialization.Encoding.DER)
        damaged = b64encode(der.replace(b"shop", b"\xff\xfe\xfd\xfc")).decode()
        pem = f"-----BEGIN CERTIFICATE-----\n{damaged}\n-----END CERTIFICATE-----\n".encode()
        self.assertTrue(self.found(pem))

    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_a_damaged_file_raises_nothing(self, data):
        pem = self.pem("a")
        index = data.draw(st.integers(0, len(pem) - 1))
        damaged = pem[:index] + bytes([data.draw(st.integers(0, 255))]) + pem[index + 1 :]
        self.assertIsInstance(self.found(damaged), tuple)
        self.assertIsInstance(self.found(pem, damaged), tuple)
