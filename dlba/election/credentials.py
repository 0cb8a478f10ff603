"""By what a node proves who it is, and how it learns who a peer is: TLS on both sides.

An adapter. TLS 1.3 alone, a certificate of both ends, and as authority the array's own and no
other. No session is ever resumed: who comes back proves again who it is. A peer's name is what its
certificate says, which service-identity compares; what the peer says of itself counts for nothing.

Source: election.md; RFC 8446.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from zope.interface import implementer

from dlba.config.election import ChannelConfig
from dlba.config.nodecertificate import holder_of
from dlba.config.problems import quoted
from dlba.errors import DLBAError, PeerError

__all__ = ["Credentials", "Current", "load", "node_of", "unverified"]

#: OpenSSL's numbers of what is wrong with a certificate (x509_vfy.h), in words.
_FAULTS: Final = {
    9: "one that isn't valid yet",
    10: "one that has expired",
    18: "one of another authority",
    19: "one of another authority",
    20: "one of another authority",
    21: "one of another authority",
    26: "one for another purpose",
}


class _Connection(SSL.Connection):
    """Remembers what OpenSSL finds wrong with the peer's certificate."""

    def __init__(self, context: SSL.Context) -> None:
        super().__init__(context, None)
        self.faults: list[int] = []


@attrs.frozen
class Credentials:
    """This node's end of TLS; made by `load`."""

    _context: SSL.Context

    def connection(self) -> SSL.Connection:
        """A new connection, of either side."""
        return _Connection(self._context)


@implementer(IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator)
class Current:
    """For Twisted: connections by the credentials that `credentials` gives when they begin."""

    def __init__(self, credentials: Callable[[], Credentials]) -> None:
        self._credentials = credentials

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N803
        """A connection that dials."""
        return self._credentials().connection()

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N803
        """A connection that is dialled."""
        return self._credentials().connection()


def load(config: ChannelConfig) -> Credentials:
    """The credentials in the files of `config`.

    Raises OSError, or DLBAError that names the file which is wrong, never what stands in it.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
    try:
        chain = x509.load_pem_x509_certificates(config.certificate.read_bytes())
        context.use_certificate(crypto.X509.from_cryptography(chain[0]))
        for issuer in chain[1:]:
            context.add_extra_chain_cert(crypto.X509.from_cryptography(issuer))
    except (ValueError, SSL.Error, crypto.Error):
        raise DLBAError(f"{config.certificate}: expected a PEM certificate, got another") from None
    try:
        key = serialization.load_pem_private_key(config.key.read_bytes(), password=None)
        context.use_privatekey(crypto.PKey.from_cryptography_key(key))  # type: ignore[arg-type]
        context.check_privatekey()
    except (ValueError, TypeError, SSL.Error, crypto.Error):
        raise DLBAError(
            f"{config.key}: expected the key of {config.certificate}, got another"
        ) from None
    try:
        roots = x509.load_pem_x509_certificates(config.authority.read_bytes())
        store = context.get_cert_store()
        assert store is not None
        for root in roots:
            store.add_cert(crypto.X509.from_cryptography(root))
    except (ValueError, SSL.Error, crypto.Error):
        raise DLBAError(f"{config.authority}: expected a PEM certificate, got another") from None
    return Credentials(context)


def _verify(connection: SSL.Connection, _: Any, fault: int, depth: int, fine: int) -> bool:
    if not fine and isinstance(connection, _Connection):
        connection.faults.append(fault)
    return bool(fine)


def unverified(connection: SSL.Connection) -> str:
    """Why the peer's certificate wasn't taken, as "expected, got"; empty where none came or was."""
    faults = connection.faults if isinstance(connection, _Connection) else ()
    if not faults:
        return ""
    got = _FAULTS.get(faults[0], f"one that OpenSSL refuses ({faults[0]})")
    return f"certificate: expected one of the array's authority, got {got}"


def node_of(certificate: x509.Certificate | None, array: str, nodes: Collection[str]) -> str:
    """Which of `nodes` of the array `array` the holder of a verified certificate is.

    Raises PeerError where it is none.
    """
    if certificate is None:
        raise PeerError("certificate: expected one, got none")
    holder = holder_of(certificate)
    if holder.operator:
        raise PeerError("certificate: expected a node's, got an operator's")
    if holder.array != array:
        raise PeerError(f"certificate: expected the array {array}, got {quoted(holder.array)}")
    names = [name for name in holder.names if name in nodes]
    if len(names) != 1:
        got = ", ".join(map(quoted, holder.names[:3])) or "none"
        raise PeerError(f"certificate: expected the name of another node of the array, got {got}")
    try:
        verify_certificate_hostname(certificate, names[0])
    except (VerificationError, CertificateError, ValueError):
        raise PeerError(
            f"certificate: expected one that is valid for {names[0]}, got another"
        ) from None
    return names[0]
