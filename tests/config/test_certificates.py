"""Tests of dlba.config.certificates."""

import re

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.certificates import Finding, examine
from tests.config.samples import NOW, certificate_pem, key_pem, new_key

DAY = 86400.0
KEY = new_key()
OTHER = new_key()
PEM = certificate_pem(KEY)
KEY_PEM = key_pem(KEY)


class ExamineTests(SynchronousTestCase):
    def finds(self, certificate, key, *expected, now=NOW):
        self.assertEqual(examine(certificate, key, now), expected)

    def test_a_good_pair(self):
        self.finds(PEM, KEY_PEM)

    def test_good_pairs_of_other_kinds(self):
        rsa = new_key("2048")
        self.finds(certificate_pem(rsa), key_pem(rsa))

    def test_curves_that_clients_offer(self):
        for curve, fine in (
            (ec.SECP384R1(), True),
            (ec.SECP521R1(), True),
            (ec.SECP256K1(), False),
            (ec.BrainpoolP256R1(), False),
        ):
            key = ec.generate_private_key(curve)
            found = examine(certificate_pem(key), key_pem(key), NOW)
            self.assertEqual(found == (), fine, (curve.name, found))
            if not fine:
                self.assertTrue(found[0].fatal)
                self.assertIn(f"got {curve.name}: no client offers it", found[0].message)

    def test_chain_and_both_in_one_file(self):
        self.finds(PEM + certificate_pem(OTHER), KEY_PEM)
        self.finds(KEY_PEM + PEM, KEY_PEM + PEM)
        self.finds(PEM + KEY_PEM, PEM + KEY_PEM)

    def test_leaf_comes_first(self):
        self.finds(
            certificate_pem(OTHER) + PEM,
            KEY_PEM,
            Finding("key", "expected the key of the certificate, got another key"),
        )

    def test_another_key(self):
        self.finds(
            PEM,
            key_pem(OTHER),
            Finding("key", "expected the key of the certificate, got another key"),
        )

    def test_neither_is_what_it_should_be(self):
        self.finds(
            KEY_PEM,
            PEM,
            Finding("certificate", "expected a PEM certificate, got something else"),
            Finding("key", "expected a PEM private key, got something else"),
        )
        self.finds(
            b"",
            b"",
            Finding("certificate", "expected a PEM certificate, got something else"),
            Finding("key", "expected a PEM private key, got something else"),
        )

    def test_encrypted_key_asks_nobody(self):
        self.finds(
            PEM,
            key_pem(KEY, b"secret"),
            Finding("key", "expected a private key without a passphrase, got an encrypted one"),
        )

    def test_a_key_that_openssl_refuses(self):
        weak = new_key("1024")
        self.finds(
            certificate_pem(weak),
            key_pem(weak),
            Finding("certificate", "expected a pair that TLS takes, got ee key too small"),
        )

    def test_dates_only_warn(self):
        self.finds(
            PEM,
            KEY_PEM,
            Finding(
                "certificate",
                "expected a valid certificate, got one to 2027-10-31 00:00 UTC",
                False,
            ),
            now=NOW + 365 * DAY,
        )
        self.finds(
            PEM,
            KEY_PEM,
            Finding(
                "certificate",
                "expected a valid certificate, got one from 2026-10-31 00:00 UTC",
                False,
            ),
            now=NOW - 2 * DAY,
        )

    @settings(deadline=None)
    @given(st.integers(0, len(KEY_PEM) - 1), st.integers(0, 255))
    def test_a_damaged_key_is_found_and_not_shown(self, index, byte):
        damaged = KEY_PEM[:index] + bytes([byte]) + KEY_PEM[index + 1 :]
        findings = examine(PEM, damaged, NOW)
        secret = re.findall(rb"[A-Za-z0-9+/]{20,}", KEY_PEM)
        for finding in findings:
            self.assertEqual(finding.key, "key")
            self.assertFalse(any(part.decode()[:12] in finding.message for part in secret))

    @settings(deadline=None)
    @given(st.integers(0, len(PEM) - 1), st.integers(0, 255))
    def test_a_damaged_certificate_raises_nothing(self, index, byte):
        damaged = PEM[:index] + bytes([byte]) + PEM[index + 1 :]
        self.assertIsInstance(examine(damaged, KEY_PEM, NOW), tuple)

    def test_a_key_of_another_kind(self):
        pem = key_pem(ed25519.Ed25519PrivateKey.generate())
        self.finds(PEM, pem, Finding("key", "expected the key of the certificate, got another key"))
