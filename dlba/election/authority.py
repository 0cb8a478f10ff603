"""The array's own certificate authority: what `dlba ca` makes and keeps in a folder.

An adapter. `ca.pem` and `ca.key` are the authority, `NAME.pem` and `NAME.key` a node's or an
operator's certificate; keys are on P-256 and readable by their owner alone. What marks which is
read by `dlba.config.nodecertificate`. Every file is whole or absent, whatever breaks off: it is
written under another name, brought to the disk and then renamed.

A node needs its own pair and `ca.pem`. `ca.key` belongs on no node.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dlba.config.channelchecks import is_verifiable
from dlba.config.nodecertificate import OPERATOR, OPERATOR_URI, holder_of
from dlba.config.problems import quoted
from dlba.errors import DLBAError

__all__ = ["AUTHORITY", "init", "issue"]

#: The authority's own files are `ca.pem` and `ca.key`, so no node can be called so.
AUTHORITY: Final = "ca"
#: Days that an authority and its certificates are valid.
AUTHORITY_DAYS: Final = 3650
DAYS: Final = 730
#: Clocks of the nodes may be behind by this much.
SKEW: Final = timedelta(hours=1)


def init(folder: Path, array: str, now: float) -> Path:
    """Make the authority of the array `array` in `folder`; returns its certificate's path.

    `now`: seconds since 1970. Raises OSError, or DLBAError where there is one already.
    """
    files = _files(folder, AUTHORITY)
    for path in files:
        if path.exists():
            raise DLBAError(f"{path}: expected no authority, got one; it is never overwritten")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, array),
            # At most 64 characters (RFC 5280 A.1), which an array's name may nearly fill.
            x509.NameAttribute(NameOID.COMMON_NAME, "authority of the array"),
        ]
    )
    begin = datetime.fromtimestamp(int(now), UTC) - SKEW
    certificate = (
        _builder(name, name, key.public_key(), begin, begin + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _store(files, certificate, key)
    return files[0]


def issue(folder: Path, name: str, operator: bool, now: float) -> Path:
    """Make or renew the certificate of the node, or operator, `name`; returns its path.

    `folder`: the authority's; `name`: as the configuration reads names; `now`: seconds since 1970.
    Each time with a new key; the old pair stays until the new one is written whole. Raises OSError,
    or DLBAError for a name that can't be and files that aren't this authority's.
    """
    if name.lower() == AUTHORITY or not is_verifiable(name):
        raise DLBAError(f"name: expected a name with a letter other than ca, got {quoted(name)}")
    authority, authority_key = _authority(folder, now)
    array = holder_of(authority).array
    files = _files(folder, name)
    _check_old(files[0], authority, operator)
    key = ec.generate_private_key(ec.SECP256R1())
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, OPERATOR)] if operator else []
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, array),
            *units,
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    alternative: x509.GeneralName = x509.UniformResourceIdentifier(OPERATOR_URI + name)
    if not operator:
        # A node dials some of its peers and is dialled by the others.
        uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
        alternative = x509.DNSName(name)
    begin = datetime.fromtimestamp(int(now), UTC) - SKEW
    end = min(begin + timedelta(days=DAYS), authority.not_valid_after_utc)
    issuer_key = authority_key.public_key()
    certificate = (
        _builder(subject, authority.subject, key.public_key(), begin, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    _store(files, certificate, key)
    return files[0]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Any, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(sign: bool) -> x509.KeyUsage:
    """Signing certificates, or else handshakes."""
    return x509.KeyUsage(
        digital_signature=not sign,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.pem", folder / f"{name}.key"


def _authority(folder: Path, now: float) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    path, key_path = _files(folder, AUTHORITY)
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        end = certificate.not_valid_after_utc
    except ValueError:
        raise DLBAError(f"{path}: expected a PEM certificate, got something else") from None
    try:
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    except (ValueError, TypeError):
        raise DLBAError(f"{key_path}: expected a PEM key, got something else") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not holder_of(certificate).array:
        raise DLBAError(f"{path}: expected an authority made by dlba ca init, got another one")
    if certificate.public_key() != key.public_key():
        raise DLBAError(f"{key_path}: expected the key of {path.name}, got another key")
    if datetime.fromtimestamp(now, UTC) >= end:
        raise DLBAError(f"{path}: expected a valid authority, got one to {end:%Y-%m-%d %H:%M} UTC")
    return certificate, key


def _check_old(path: Path, authority: x509.Certificate, operator: bool) -> None:
    """Whether what is to be renewed is of the same authority and kind; raises DLBAError."""
    try:
        old = x509.load_pem_x509_certificate(path.read_bytes())
        old.verify_directly_issued_by(authority)
    except FileNotFoundError:
        return
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise DLBAError(
            f"{path}: expected a certificate of this authority to renew, got something else"
        ) from None
    if holder_of(old).operator != operator:
        words = ("a node's", "an operator's")
        wanted, got = words[operator], words[not operator]
        raise DLBAError(f"{path}: expected {wanted} certificate to renew, got {got}")


def _store(files: tuple[Path, Path], certificate: x509.Certificate, key: Any) -> None:
    """Write both files, each to the disk, before the first gets its name."""
    contents = (
        (files[0], certificate.public_bytes(serialization.Encoding.PEM), 0o644),
        (
            files[1],
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            0o600,
        ),
    )
    with contextlib.ExitStack() as undo:
        fresh = []
        for path, data, mode in contents:
            descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            undo.callback(Path(new).unlink, missing_ok=True)
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            fresh.append(new)
        for new, (path, _, _) in zip(fresh, contents, strict=True):
            os.replace(new, path)
    folder = os.open(files[0].parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
