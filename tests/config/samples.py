"""A whole valid configuration, its nodes, and certificates for it, made new for each run."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from dlba.config.document import parse
from dlba.config.nodes import Node, Source

NOW = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
BASE = Path("/base")

NODE = """\
node: a
array: array.yaml
monitor: {listen: "127.0.0.1:9080"}
"""

ARRAY = """\
name: shop
web:
  listen:
    - {port: 8080}
    - {port: 8443, tls: {certificates: [{certificate: a.pem, key: a.key}]}}
  sites:
    - hosts: ["*"]
      paths: ["/static/"]
      pool: caches
      schedule: url
    - hosts: [shop.example.com]
      default: true
      pool: app
  pools:
    app:
      backends:
        app1: {address: "192.0.2.1:80"}
    caches:
      backends:
        cache1: {address: "192.0.2.2:80", weight: 2}
"""


def node_of(text: str, name: str = "node.yaml") -> Node:
    """The node for YAML text that must be right."""
    problems = []
    node = parse(text.encode(), Source(name, BASE), problems)
    assert node is not None and not problems, problems
    return node


def inline(array: str = ARRAY) -> str:
    """NODE with the array's mapping in its place; its lines begin at 3, columns two further."""
    body = "".join(f"  {line}\n" for line in array.splitlines())
    return f"node: a\narray:\n{body}"


def no_resolver(name: str) -> str:
    """Resolves *.test to an address for documentation, nothing else; no packet is sent."""
    if name.endswith(".test"):
        return "192.0.2.77"
    raise OSError(-2, "Name or service not known")


def new_key(kind: str = "ec"):
    if kind == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=int(kind))


def certificate_pem(key, days: int = 365, start: float = NOW - 86400.0) -> bytes:
    """A self-signed certificate valid for `days` from `start`, seconds since 1970."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop.example.com")])
    begin = datetime.fromtimestamp(start, UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key, passphrase: bytes | None = None) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption(),
    )


def write_pair(folder: Path, stem: str) -> None:
    """STEM.pem and STEM.key in `folder`, the key for its owner alone."""
    key = new_key()
    folder.joinpath(f"{stem}.pem").write_bytes(certificate_pem(key))
    folder.joinpath(f"{stem}.key").write_bytes(key_pem(key))
    folder.joinpath(f"{stem}.key").chmod(0o600)
