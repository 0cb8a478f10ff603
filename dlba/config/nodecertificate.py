"""Who a certificate of the array's own authority is for, and whether it fits this node.

An adapter only because it asks OpenSSL whether the authority issued it. Subject O is the name of
the array, the one DNS name among the alternative names that of the node. An operator's certificate
is marked by OU `operator` and a URI, and has no DNS name: it is never taken for a node's.
"""

from datetime import UTC, datetime
from typing import Final

import attrs
from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

from dlba.config.certificates import Finding
from dlba.config.problems import quoted

__all__ = ["OPERATOR", "OPERATOR_URI", "Holder", "examine_member", "holder_of"]

#: Subject OU of an operator's certificate.
OPERATOR: Final = "operator"
#: With the operator's name behind it, the alternative name of an operator's certificate.
OPERATOR_URI: Final = "dlba:operator:"


@attrs.frozen
class Holder:
    """Who a certificate says its holder is: `array` (empty: none or several), DNS names."""

    array: str
    names: tuple[str, ...]
    operator: bool


def holder_of(certificate: x509.Certificate) -> Holder:
    """The holder; a field that can't be read counts as absent. Nothing is verified here."""
    try:
        arrays = _texts(certificate.subject, NameOID.ORGANIZATION_NAME)
        units = _texts(certificate.subject, NameOID.ORGANIZATIONAL_UNIT_NAME)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = names.get_values_for_type(x509.DNSName)
        marks = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        hosts, marks = [], []
    except (
        ValueError,
        TypeError,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        x509.InvalidVersion,
    ):
        return Holder("", (), False)
    operator = OPERATOR in units or any(mark.startswith(OPERATOR_URI) for mark in marks)
    return Holder(arrays[0] if len(arrays) == 1 else "", tuple(hosts), operator)


def _texts(name: x509.Name, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in name.get_attributes_for_oid(oid)]


def examine_member(
    certificate: bytes, authority: bytes, array: str, node: str, now: float
) -> tuple[Finding, ...]:
    """What is wrong with the PEM certificate of the node `node` of the array `array`.

    `authority`: PEM; `now`: seconds since 1970. A certificate that isn't PEM, and its dates, are
    `dlba.config.certificates.examine`'s to report.
    """
    try:
        chain = x509.load_pem_x509_certificates(certificate)
    except ValueError:
        return ()
    try:
        roots = x509.load_pem_x509_certificates(authority)
        is_authority = all(_is_authority(root) for root in roots)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return (Finding("authority", "expected a PEM certificate, got something else"),)
    if not is_authority:
        return (Finding("authority", "expected the certificate of an authority, got another"),)
    found = []
    holder = holder_of(chain[0])
    if holder.operator:
        return (Finding("certificate", "expected a node's certificate, got an operator's"),)
    if node not in holder.names:
        got = ", ".join(map(quoted, holder.names[:3])) or "none"
        found.append(Finding("certificate", f"expected the DNS name {quoted(node)}, got {got}"))
    if holder.array != array:
        what = f"expected subject O {quoted(array)} as the array's name, got {quoted(holder.array)}"
        found.append(Finding("certificate", what))
    if why := _unverified(chain, roots, now):
        what = f"expected one that this node's certificate is from, got another: {why}"
        found.append(Finding("authority", what))
    return tuple(found)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca


def _unverified(chain: list[x509.Certificate], roots: list[x509.Certificate], now: float) -> str:
    """OpenSSL's reason to take `chain` for nobody's; empty when it is of one of `roots`."""
    try:
        store = crypto.X509Store()
        for root in roots:
            store.add_cert(crypto.X509.from_cryptography(root))
        # Whether they have expired is told apart, as a warning: look when all are valid.
        first = max(one.not_valid_before_utc for one in [*chain, *roots])
        last = min(one.not_valid_after_utc for one in [*chain, *roots])
        at = min(max(datetime.fromtimestamp(now, UTC), first), last)
        store.set_time(at.replace(tzinfo=None))
        leaf, *issuers = map(crypto.X509.from_cryptography, chain)
        crypto.X509StoreContext(store, leaf, issuers).verify_certificate()
    except crypto.X509StoreContextError as error:
        return str(error)
    except (crypto.Error, ValueError):
        return "damaged"
    return ""
