"""Whether a certificate and its private key can serve a TLS listener.

Takes the bytes of the PEM files and the time; an adapter only because it asks OpenSSL. Says what is
wrong in words of its own: an error of OpenSSL or of the key's parser may quote the key.
"""

from datetime import UTC, datetime
from typing import Any

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto

#: Curves of certificates that TLS clients offer (RFC 8446 4.2.3).
CURVES = ("secp256r1", "secp384r1", "secp521r1")


@attrs.frozen
class Finding:
    """Something about a pair of files: `key` is `certificate` or `key`; `fatal`: can't serve."""

    key: str
    message: str
    fatal: bool = True


def examine(certificate: bytes, private_key: bytes, now: float) -> tuple[Finding, ...]:
    """What is wrong with a pair of PEM files, at `now` seconds since 1970; empty when all is well.

    The certificate file holds the server's certificate first, then those of its issuers.
    """
    findings = []
    chain = _chain(certificate)
    if isinstance(chain, Finding):
        findings.append(chain)
    key = _private_key(private_key)
    if isinstance(key, Finding):
        findings.append(key)
    if isinstance(chain, Finding) or isinstance(key, Finding):
        return tuple(findings)
    if _public(key.public_key()) != _public(chain[0].public_key()):
        return (Finding("key", "expected the key of the certificate, got another key"),)
    curve = getattr(key, "curve", None)
    if curve is not None and curve.name not in CURVES:
        what = f"expected a key on {', '.join(CURVES)}, got {curve.name}: no client offers it"
        return (Finding("certificate", what),)
    refused = _refused(chain, key)
    if refused:
        return (Finding("certificate", f"expected a pair that TLS takes, got {refused}"),)
    return tuple(_dates(chain[0], now))


def _chain(pem: bytes) -> list[x509.Certificate] | Finding:
    try:
        chain = x509.load_pem_x509_certificates(pem)
        # Parsed when asked for, so ask here.
        chain[0].public_key()
        _ = chain[0].not_valid_before_utc, chain[0].not_valid_after_utc
    except (ValueError, IndexError, x509.InvalidVersion):
        return Finding("certificate", "expected a PEM certificate, got something else")
    except UnsupportedAlgorithm:
        return Finding("certificate", "expected an RSA or EC certificate, got another kind")
    return chain


def _private_key(pem: bytes) -> Any:
    """The private key in `pem`, or a Finding."""
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        return Finding("key", "expected a private key without a passphrase, got an encrypted one")
    except ValueError:
        return Finding("key", "expected a PEM private key, got something else")
    except UnsupportedAlgorithm:
        return Finding("key", "expected an RSA or EC key, got another kind")


def _public(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(serialization.Encoding.DER, form))


def _refused(chain: list[x509.Certificate], key: Any) -> str:
    """OpenSSL's reason to refuse the pair, such as a key that is too small; empty when it takes it.

    Only the reason is passed on: three words of OpenSSL's own table.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    try:
        context.use_certificate(crypto.X509.from_cryptography(chain[0]))
        for issuer in chain[1:]:
            context.add_extra_chain_cert(crypto.X509.from_cryptography(issuer))
        context.use_privatekey(crypto.PKey.from_cryptography_key(key))
        context.check_privatekey()
    except (SSL.Error, crypto.Error) as error:
        reasons = error.args[0] if error.args else []
        return str(reasons[-1][-1]) if reasons else "an error"
    except (TypeError, ValueError):
        return "a kind of key it doesn't know"
    return ""


def _dates(certificate: x509.Certificate, now: float) -> list[Finding]:
    at = datetime.fromtimestamp(now, UTC)
    if at > certificate.not_valid_after_utc:
        when = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        return [Finding("certificate", f"expected a valid certificate, got one to {when}", False)]
    if at < certificate.not_valid_before_utc:
        when = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        return [Finding("certificate", f"expected a valid certificate, got one from {when}", False)]
    return []
