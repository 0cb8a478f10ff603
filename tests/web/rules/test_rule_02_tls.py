"""web.md rule 2: what a TLS handshake agrees on, and what it refuses.

Shown elsewhere, in tests.web.test_tls:
- versions, and the refusal of older ones: `test_versions`,
  `test_old_versions_and_ciphers_are_refused`
- no renegotiation: `test_no_renegotiation`
- certificates by name and by kind: `test_server_name_chooses_the_certificate`,
  `test_rsa_and_ecdsa_side_by_side`; their swap: `test_reload_touches_no_connection`
- ALPN and resumption: `test_alpn`, `test_resumption`
"""

import ssl

from tests.web.harness import certificate, client_context, in_thread
from tests.web.rules.table import OK, Row, RuleTest, head, request

#: Mozilla's intermediate configuration 5.7, without its two DHE suites.
SUITES_12 = {
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
}
SUITES_13 = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}

GROUPS = {"X25519", "prime256v1", "secp384r1"}
OTHER_GROUPS = {"secp521r1", "X448", "secp224r1", "brainpoolP256r1"}
OTHER_GROUPS |= {"ffdhe2048", "ffdhe3072", "ffdhe4096", "ffdhe6144", "ffdhe8192"}


class Agreed(RuleTest):
    """With an ECDSA and an RSA certificate."""

    def begin(self) -> None:
        self.app = self.recorder()
        pairs = [certificate(kind, "a.example.com") for kind in ("ecdsa", "rsa")]
        self.serve(tls=pairs)

    def shaken(self, context: ssl.SSLContext) -> str | None:
        """The suite that is agreed on; None: refused."""
        try:
            client = self.client(context)
        except (ssl.SSLError, ConnectionError):
            return None
        suite = client.sock.cipher()
        client.close()
        return suite and suite[0]

    @in_thread
    def test_suites(self):
        """Each suite that this machine's OpenSSL knows, one at a time."""
        self.begin()
        every = client_context(ssl.TLSVersion.TLSv1_2)
        every.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
        names = {c["name"] for c in every.get_ciphers() if not c["name"].startswith("TLS_")}
        self.assertTrue(names > SUITES_12, "some to be refused")
        agreed = set()
        for name in names:
            context = client_context(ssl.TLSVersion.TLSv1_2)
            context.set_ciphers(f"{name}:@SECLEVEL=0")
            agreed.add(self.shaken(context))
        self.assertEqual(agreed - {None}, SUITES_12)
        self.assertIn(self.shaken(client_context(ssl.TLSVersion.TLSv1_3)), SUITES_13)

    @in_thread
    def test_key_exchange(self):
        """Elliptic curves alone, in TLS 1.3 too."""
        self.begin()
        asked, agreed = set(), set()
        for name in GROUPS | OTHER_GROUPS:
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = client_context(version)
                try:
                    context.set_ecdh_curve(name)
                except (ValueError, ssl.SSLError):
                    # Older versions of Python can ask for the curves of NIST alone.
                    self.assertNotIn(name, ("prime256v1", "secp384r1", "secp521r1"))
                    continue
                asked.add((name, version.name))
                if self.shaken(context):
                    agreed.add((name, version.name))
        self.assertEqual(agreed, {pair for pair in asked if pair[0] in GROUPS})

    @in_thread
    def test_the_client_s_order_of_suites_counts(self):
        """Phones without AES in hardware put ChaCha20 first."""
        self.begin()
        for first in ("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-AES256-GCM-SHA384"):
            context = client_context(ssl.TLSVersion.TLSv1_2)
            others = sorted(SUITES_12 - {first})
            context.set_ciphers(":".join([first, *others]))
            self.assertEqual(self.shaken(context), first)

    @in_thread
    def test_http_1_1_is_offered_and_spoken(self):
        self.begin()
        get = head(b"GET / HTTP/1.1", b"Host: a")
        row = Row("ALPN", get, OK, request(b"GET / HTTP/1.1", b"Host: a"), "kept")
        context = client_context()
        context.set_alpn_protocols(["x", "http/1.1"])
        self.check([row], self.app, context=context)
        self.done()
