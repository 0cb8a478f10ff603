"""Moves bytes through TLS: pyOpenSSL on the socket itself, and the contexts it uses.

No memory BIO: OpenSSL reads and writes the descriptor, which saves two copies and a turn of the
reactor (speed: docs/decisions/0001). What that asks for:

- AUTO_RETRY, which pyOpenSSL sets, is cleared: else one read works off any number of messages that
  carry no data (5.4 MB of key updates blocked 1.8 s). More than `DATALESS_LIMIT` such reads in a
  row close the connection.
- A read asks for a whole record (16 KiB), so nothing decrypted is ever left inside OpenSSL for
  epoll to be silent about.
- A blocked write is repeated with the same bytes; partial writes and moving buffers are on.
- After a fatal error nothing is called on the connection, not even shutdown; after the socket is
  closed neither: the alert would go to whoever got the descriptor next.

Settings: Mozilla intermediate 5.7 without DHE. TLS 1.2 and 1.3, no renegotiation, tickets on,
ALPN http/1.1 and http/1.0; whoever offers others only gets the alert of RFC 7301 3.2.
Source: web.md rule 2 and "TLS and sockets under the reactor"; RFC 8446, RFC 5246.
"""

from __future__ import annotations

import _socket
import contextlib
import hashlib
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from dlba.config.values import TLSConfig
from dlba.web.stream import PlainHTTPError, discard, reset

__all__ = ["DATALESS_LIMIT", "Certificates", "Contexts", "TLSStream", "build"]

#: Reads in a row without data (key updates, empty records) that a client may cause.
DATALESS_LIMIT: Final = 1000
#: The largest plaintext of a record (RFC 8446 5.1).
RECORD: Final = 16 * 1024

_CIPHERS: Final = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
_CIPHERSUITES: Final = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#: By ALPN, the best first. `curl --http1.0` offers the second alone.
_PROTOCOLS: Final = (b"http/1.1", b"http/1.0")
#: No finite fields: they cost a server far more than the client who asks for them (CVE-2002-20001).
_GROUPS: Final = b"X25519MLKEM768:X25519:P-256:P-384"
#: Sessions resume on every context, also after certificates were swapped.
_SESSION_CONTEXT: Final = b"dlba"


def _clear_auto_retry(connection: SSL.Connection) -> None:
    """pyOpenSSL sets AUTO_RETRY on each connection and has no public way to clear it."""
    library: Any = SSL._lib  # type: ignore[attr-defined]
    library.SSL_clear_mode(connection._ssl, library.SSL_MODE_AUTO_RETRY)


class TLSStream:
    """One TLS connection, server side. See `dlba.web.stream.Stream`."""

    __slots__ = (
        "_broken",
        "_dataless",
        "_recv",
        "_send",
        "_sock",
        "_ssl",
        "flooded",
        "wants_read",
        "wants_write",
    )

    read_size = RECORD
    #: What is left of a record inside OpenSSL would be out of the poller's sight.
    small_read = RECORD
    tls = True

    def __init__(self, sock: _socket.socket, context: SSL.Context) -> None:
        self._sock = sock
        self._ssl = SSL.Connection(context, sock)  # type: ignore[arg-type]
        self._ssl.set_accept_state()
        _clear_auto_retry(self._ssl)
        self._recv = self._ssl.recv
        self._send = self._ssl.send
        self._broken = False
        self._dataless = 0
        self.wants_write = False
        self.wants_read = False
        #: The connection was closed for messages that never carry data.
        self.flooded = False

    def handshake(self) -> bool:
        """See `Stream.handshake`."""
        try:
            self._ssl.do_handshake()
        except SSL.WantReadError:
            self._count_dataless()
            self.wants_write = False
            return False
        except SSL.WantWriteError:
            self.wants_write = True
            return False
        except SSL.Error as error:
            raise self._break(error) from None
        self._dataless = 0
        self.wants_write = False
        return True

    @property
    def resumed(self) -> bool:
        """Whether the handshake took up an earlier session."""
        library: Any = SSL._lib  # type: ignore[attr-defined]
        return bool(library.SSL_session_reused(self._ssl._ssl))

    def read(self, size: int) -> bytes | None:
        """See `Stream.read`. `size` must be at least `RECORD`."""
        try:
            data = self._recv(size)
        except SSL.WantReadError:
            self._count_dataless()
            self.wants_write = False
            return None
        except SSL.WantWriteError:
            self.wants_write = True
            return None
        except SSL.ZeroReturnError:
            return b""
        except SSL.Error as error:
            raise self._break(error) from None
        self._dataless = 0
        return data

    def write(self, data: bytes | memoryview) -> int:
        """See `Stream.write`: OpenSSL takes one record at a time."""
        taken = 0
        try:
            size = len(data)
            taken = self._send(data)
            if taken < size:
                view = memoryview(data)
                while taken < size:
                    taken += self._send(view[taken:])
        except SSL.WantWriteError:
            self.wants_read = False
        except SSL.WantReadError:
            self.wants_read = True
        except SSL.Error as error:
            raise self._break(error) from None
        return taken

    def end(self) -> None:
        """See `Stream.end`."""
        self._notify()
        self._broken = True
        self._sock.shutdown(socket.SHUT_WR)

    def discard(self) -> int | None:
        """See `Stream.discard`: OpenSSL isn't called again, so its bytes may be read under it."""
        return discard(self._sock)

    def close(self) -> None:
        """See `Stream.close`."""
        self._notify()
        self._broken = True
        self._sock.close()

    def reset(self) -> None:
        """See `Stream.reset`."""
        self._broken = True
        reset(self._sock)

    def _notify(self) -> None:
        if not self._broken:
            # A close_notify that finds no room is not worth waiting for.
            with contextlib.suppress(SSL.Error):
                self._ssl.shutdown()

    def _break(self, error: SSL.Error) -> OSError:
        self._broken = True
        # (library, function, reason) triples; a SysCallError has a number and a text instead.
        entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
        reasons = [str(entry[-1]) for entry in entries]
        kind = PlainHTTPError if "http request" in reasons else ConnectionAbortedError
        return kind(f"TLS: {', '.join(reasons) or type(error).__name__}")

    def _count_dataless(self) -> None:
        self._dataless += 1
        if self._dataless > DATALESS_LIMIT:
            self._broken = True
            self.flooded = True
            raise ConnectionAbortedError("TLS: too many messages without data")


@attrs.frozen
class Contexts:
    """The contexts for the certificates of one listener, by the names that they are good for.

    `wildcard`: by the name without its first label, from the dot on; `first`: the files of the
    first certificate; `digest`: of all files.
    """

    exact: dict[bytes, SSL.Context]
    wildcard: dict[bytes, SSL.Context]
    default: SSL.Context
    first: tuple[Path, Path]
    digest: bytes


def build(config: TLSConfig) -> Contexts:
    """Read the files and make contexts of them; also in another thread than the reactor's.

    Raises OSError, ValueError or SSL.Error when a file can't be read or used.
    """
    by_name: dict[bytes, dict[str, tuple[Path, Path]]] = {}
    #: Those of the default: the first certificate, and such of other kinds of key for its names.
    first: dict[str, tuple[Path, Path]] = {}
    first_names: frozenset[bytes] = frozenset()
    digest = hashlib.sha256()
    for certificate in config.certificates:
        files = (certificate.certificate, certificate.key)
        for file in files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        kind, names = _kind_and_names(certificate.certificate)
        if not first:
            first_names = frozenset(names)
        if not first or not first_names.isdisjoint(names):
            first.setdefault(kind, files)
        for name in names:
            by_name.setdefault(name, {}).setdefault(kind, files)
    built: dict[tuple[tuple[Path, Path], ...], SSL.Context] = {}

    def context(files: Iterable[tuple[Path, Path]]) -> SSL.Context:
        key = tuple(sorted(files))
        if key not in built:
            built[key] = _context(list(key))
        return built[key]

    contexts = {name: context(kinds.values()) for name, kinds in by_name.items()}
    return Contexts(
        exact={name: c for name, c in contexts.items() if not name.startswith(b"*.")},
        wildcard={name[1:]: c for name, c in contexts.items() if name.startswith(b"*.")},
        default=context(first.values()),
        first=(config.certificates[0].certificate, config.certificates[0].key),
        digest=digest.digest(),
    )


class Certificates:
    """The contexts of one TLS listener, chosen by the name that the client asks for (SNI).

    The base context lives as long as the listener: it has the keys of the session tickets.
    `contexts` are those that the servername callback swaps in, for clients that name no server as
    well: other ones are for all handshakes to come and touch no connection. A context holds one
    certificate a kind of key, so that RSA and ECDSA stand side by side.
    """

    def __init__(self, contexts: Contexts) -> None:
        """Raises OSError or SSL.Error when a file can't be read or used any more."""
        self.contexts = contexts
        self.context = _context([contexts.first])
        self.context.set_tlsext_servername_callback(self._choose)

    def _choose(self, connection: SSL.Connection) -> None:
        """The servername callback: a wildcard stands for exactly one label (RFC 6125 6.4.3)."""
        name = (connection.get_servername() or b"").lower().removesuffix(b".")
        contexts = self.contexts
        chosen = contexts.exact.get(name)
        if chosen is None:
            chosen = contexts.wildcard.get(name[max(name.find(b"."), 0) :], contexts.default)
        connection.set_context(chosen)


def _kind_and_names(certificate: Path) -> tuple[str, list[bytes]]:
    """The kind of key and the DNS names (lower case) of the first certificate in a file."""
    leaf = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    kind = "ecdsa" if isinstance(leaf.public_key(), ec.EllipticCurvePublicKey) else "rsa"
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return kind, []
    return kind, [name.lower().encode() for name in names.get_values_for_type(x509.DNSName)]


def _context(files: list[tuple[Path, Path]]) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_CIPHERS)
    context.set_tls13_ciphersuites(_CIPHERSUITES)
    _set_groups(context)
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    # A FIN without close_notify is the end of what the client says, as over plain TCP: HTTP knows
    # by itself whether a request is whole.
    context.set_options(SSL.OP_IGNORE_UNEXPECTED_EOF)
    # The buffers of an idle connection are given back: 16 KiB and more each.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_id(_SESSION_CONTEXT)
    context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
    context.set_alpn_select_callback(_select_protocol)
    for certificate, key in files:
        context.use_certificate_chain_file(str(certificate))
        context.use_privatekey_file(str(key))
        context.check_privatekey()
    return context


def _set_groups(context: SSL.Context) -> None:
    """pyOpenSSL has no public way; of TLS 1.2 and 1.3 alike."""
    library: Any = SSL._lib  # type: ignore[attr-defined]
    if library.SSL_CTX_set1_curves_list(context._context, _GROUPS) != 1:
        raise SSL.Error([("SSL routines", "", "unknown group")])


def _select_protocol(connection: SSL.Connection, offered: list[bytes]) -> Any:
    for protocol in _PROTOCOLS:
        if protocol in offered:
            return protocol
    # Raising is how the callback asks for the alert. pyOpenSSL raises it again out of the
    # handshake, where it is an end like any other.
    raise SSL.Error([("SSL routines", "", "no application protocol")])
