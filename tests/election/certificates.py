"""Certificates of an array, right ones by dlba.election.authority, and wrong ones by hand."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dlba.addresses import Endpoint
from dlba.config.election import ChannelConfig
from dlba.election.authority import init, issue
from tests.config.samples import key_pem, new_key

BOTH = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


def make(folder: Path, *nodes: str, array: str = "shop") -> None:
    """An authority and certificates of `nodes` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    init(folder, array, time.time())
    for node in nodes:
        issue(folder, node, False, time.time())


def forge(
    folder: Path, stem: str, names=("b",), array: str = "shop", days=(-1, 1), uses=BOTH
) -> None:
    """STEM.pem and STEM.key by the authority in `folder`, with whatever is asked for."""
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    authority_key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    key = new_key()
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, array)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        .add_extension(x509.ExtendedKeyUsage(uses), False)
        .sign(authority_key, hashes.SHA256())
    )
    (folder / f"{stem}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{stem}.key").write_bytes(key_pem(key))


def files(folder: Path, stem: str, port: int = 7788, authority: Path | None = None):
    """The channel's configuration for the pair STEM."""
    return ChannelConfig(
        listen=Endpoint("127.0.0.1", port),
        certificate=folder / f"{stem}.pem",
        key=folder / f"{stem}.key",
        authority=(authority or folder) / "ca.pem",
    )
