"""Makes what the demo runs on: backends, a certificate, a private folder and the configuration.

Adapter: it binds the backends and writes files; the node itself is started by the caller with the
configuration that `Demo.start` returns. Needs no root and no other program. The addresses of the
listeners are fixed by the contract; the backends' ports are the kernel's choice. Everything that
was made is gone after `Demo.stop`.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet.defer import Deferred, DeferredList

from dlba.addresses import Endpoint, ip_literal
from dlba.backend import RunningBackend, listen
from dlba.config.values import (
    ArrayConfig,
    BackendConfig,
    CertificateConfig,
    ListenerConfig,
    MonitorConfig,
    NodeConfig,
    PoolConfig,
    SiteConfig,
    TLSConfig,
    WebConfig,
)
from dlba.socketname import CONTROL

HOST = "127.0.0.1"
HTTP_PORT = 8080
HTTPS_PORT = 8443
MONITOR_PORT = 9080
BACKENDS = ("app1", "app2", "app3")

CERTIFIED = ("localhost", "127.0.0.1", "::1")
CERTIFICATE_DAYS = 30  # longer than any demo; a forgotten one ends by itself
CLOCK_SLACK = dt.timedelta(hours=1)  # for a client whose clock is behind


def write_certificate(certificate: Path, key: Path, names: Sequence[str] = CERTIFIED) -> None:
    """Write a fresh self-signed ECDSA P-256 certificate and its key as PEM files.

    It is valid for CERTIFICATE_DAYS and for `names`, host names and IP literals. The key's file has
    mode 0600 from the start. Files of these names are replaced; OSError if they can't be written.
    """
    private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "DLBA demo")])
    now = dt.datetime.now(dt.UTC)
    certified = [
        x509.IPAddress(ipaddress.ip_address(text)) if ip_literal(text) else x509.DNSName(text)
        for text in names
    ]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + dt.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName(certified), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    pem = private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    key.unlink(missing_ok=True)
    with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def node_config(folder: Path, addresses: dict[str, Endpoint]) -> NodeConfig:
    """Return the demo's configuration: `addresses` are the backends' by name.

    Every site goes to the same backends: `/static/` by URL as pool `caches`, the rest by cookie
    as pool `app`. The certificate is expected as demo.pem and demo.key in `folder`.
    """
    backends = tuple(
        BackendConfig(name=name, address=address) for name, address in addresses.items()
    )
    certificate = CertificateConfig(certificate=folder / "demo.pem", key=folder / "demo.key")
    web = WebConfig(
        listen=(
            ListenerConfig(port=HTTP_PORT, address=HOST),
            ListenerConfig(
                port=HTTPS_PORT, address=HOST, tls=TLSConfig(certificates=(certificate,))
            ),
        ),
        sites=(
            SiteConfig(hosts=("*",), paths=("/static/",), pool="caches", schedule="url"),
            SiteConfig(hosts=("*",), default=True, pool="app"),
        ),
        pools={name: PoolConfig(name=name, backends=backends) for name in ("app", "caches")},
    )
    return NodeConfig(
        node="demo",
        array=ArrayConfig(web=web),
        state=folder / "state",
        monitor=MonitorConfig(listen=Endpoint(HOST, MONITOR_PORT)),
    )


class Demo:
    """The demo's surroundings: three backends in this process and a private folder.

    `folder`: where its files go, made if absent, and kept; None: a temporary one, removed at stop.
    """

    def __init__(self, reactor: Any, folder: Path | None = None) -> None:
        self._reactor = reactor
        self._given = folder
        self.folder: Path | None = None
        self.backends: tuple[RunningBackend, ...] = ()

    def start(self) -> NodeConfig:
        """Make the folder and the certificate, bind the backends, return the configuration.

        Raises OSError or CannotListenError, with nothing left behind.
        """
        try:
            self.folder = self._make_folder()
            write_certificate(self.folder / "demo.pem", self.folder / "demo.key")
            (self.folder / "state").mkdir(mode=0o700, exist_ok=True)
            for name in BACKENDS:
                self.backends += (listen(name, self._reactor, HOST),)
        except BaseException:
            self.stop()
            raise
        return node_config(self.folder, {b.name: b.address for b in self.backends})

    def stop(self) -> Deferred[None]:
        """Remove the temporary folder and end the backends; fires when their sockets are closed."""
        if self._given is None and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = None
        backends, self.backends = self.backends, ()
        stopped = DeferredList([b.stop() for b in backends], consumeErrors=True)
        return stopped.addCallback(lambda _: None)

    def banner(self) -> str:
        """Return what to show at the start: the addresses, and `curl` lines to try."""
        http, https = f"http://{HOST}:{HTTP_PORT}", f"https://{HOST}:{HTTPS_PORT}"
        monitor = f"http://{HOST}:{MONITOR_PORT}"
        control = "" if self.folder is None else str(self.folder / "state" / CONTROL)
        lines = ["DLBA demo: three web servers behind one address"]
        lines += [
            f"  {title:<8}  {text}"
            for title, text in (
                ("HTTP", f"{http}/"),
                ("HTTPS", f"{https}/  (self-signed certificate)"),
                ("monitor", f"{monitor}/"),
                ("backends", ", ".join(f"{b.name} at {b.address}" for b in self.backends)),
                ("control", control),
            )
        ]
        lines.append("Try:")
        lines += [
            f"  {command:<45}  # {text}"
            for command, text in (
                (
                    f"curl -ik {https}/",
                    "X-Backend: which web server; the cookie keeps it",
                ),
                (f"curl -k {https}/echo", "what reaches the web server"),
                (f"curl -i {http}/static/logo.png", "chosen by URL: always the same web server"),
                (f"curl {monitor}/status", "the status tables"),
                (f"dlba drain backend app/app1 --control {control}", "nothing new"),
            )
        ]
        return "\n".join(lines) + "\n"

    def _make_folder(self) -> Path:
        if self._given is None:
            return Path(tempfile.mkdtemp(prefix="dlba-demo-"))  # mode 0700
        self._given.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._given
