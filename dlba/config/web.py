"""The proxy towards its clients: listeners, deadlines, limits, and all under `web`.

Pure; part of `dlba.config.values`, and written like it. Source: the contract's array.yaml, web.md
rules 1, 7, 8 and 10.
"""

from pathlib import Path

from attrs import field, frozen

from dlba.config import fields as f
from dlba.config import httpfields as h
from dlba.config.httpfields import Network
from dlba.config.pools import PoolConfig
from dlba.config.shapes import list_of, mapping_of, named, read_by, record
from dlba.config.sites import SiteConfig

KIB = 1024  # bytes
MIB = 1024 * KIB


@frozen(kw_only=True)
class CertificateConfig:
    """One certificate of a TLS listener."""

    certificate: Path = field(
        metadata=read_by(
            f.file_path(),
            "PEM file with the certificate, then those of its issuers.",
            wrong="Without the issuers': some clients refuse it.",
        )
    )
    key: Path = field(
        metadata=read_by(f.file_path(), "PEM file with its private key, unencrypted.")
    )


@frozen(kw_only=True)
class TLSConfig:
    """How a listener speaks TLS."""

    certificates: tuple[CertificateConfig, ...] = field(
        metadata=read_by(
            list_of(record(CertificateConfig), at_least=1),
            "Certificates, chosen by the name the client asks for; the first is the default.",
        )
    )


@frozen(kw_only=True)
class ListenerConfig:
    """A port that clients connect to."""

    port: int = field(
        metadata=read_by(
            f.port(low=0),
            "TCP port; 0: one that the system chooses.",
            wrong="One that is taken: the node doesn't start.",
        )
    )
    address: str | None = field(
        default=None,
        metadata=read_by(
            f.ip_address(),
            "Address to listen on.",
            wrong="None of this machine's: the node doesn't start.",
            default="the VIP; without one, all addresses",
        ),
    )
    redirect: str | None = field(
        default=None,
        metadata=read_by(
            f.choice("https"),
            "Answers every request with 308 to the same URL at https.",
            wrong="Where clients reach TLS at another port than the node has: they get nowhere.",
            default="none: the sites are served",
        ),
    )
    tls: TLSConfig | None = field(
        default=None,
        metadata=read_by(record(TLSConfig), "Makes the port an HTTPS port.", default="plain HTTP"),
    )


@frozen(kw_only=True)
class TimeoutsConfig:
    """How long a client or a backend may take."""

    handshake: float = field(
        default=10.0,
        metadata=read_by(
            f.duration(), "For a TLS handshake.", wrong="Short: slow clients are lost."
        ),
    )
    head: float = field(
        default=10.0,
        metadata=read_by(
            f.duration(),
            "For a request's head, from accept or handshake, later from its first byte.",
            wrong="Long: a slow client holds a connection for longer.",
        ),
    )
    body: float = field(
        default=30.0,
        metadata=read_by(
            f.duration(),
            "Without a byte of a request's body; after it the body must also come at 256 B/s.",
            wrong="Short: uploads over bad networks end in 408.",
        ),
    )
    write: float = field(
        default=30.0,
        metadata=read_by(
            f.duration(),
            "Without progress in sending to a client.",
            wrong="Long: clients that stop reading hold memory and a backend for longer.",
        ),
    )
    idle: float = field(
        default=60.0,
        metadata=read_by(
            f.duration(),
            "Between requests on a kept connection.",
            wrong="Long: idle clients hold connections; short: handshakes again.",
        ),
    )
    response: float = field(
        default=30.0,
        metadata=read_by(
            f.duration(),
            "For a backend's response head, and between reads of its body; stopped while we pause.",
            wrong="Short: slow pages end in 504.",
        ),
    )
    tunnel: float = field(
        default=3600.0,
        metadata=read_by(
            f.duration(),
            "Without a byte in either direction after a change of protocol (WebSocket).",
            wrong="Short: quiet WebSockets are cut.",
        ),
    )
    stop: float = field(
        default=30.0,
        metadata=read_by(
            f.duration(low=0),
            "For open requests to end when the node stops.",
            wrong="Short: downloads are cut at a stop.",
        ),
    )


@frozen(kw_only=True)
class LimitsConfig:
    """What clients may use up."""

    connections: int | None = field(
        default=None,
        metadata=read_by(
            f.unless("auto", f.integer(1, 10_000_000)),
            "Client connections at once; at the limit nobody is accepted until one ends.",
            wrong="Above what open files allow: accepting pauses there instead.",
            default="auto: from the limit on open files",
        ),
    )
    per_client: int = field(
        default=1000,
        metadata=read_by(
            f.integer(1, 10_000_000),
            "Connections at once from one client address.",
            wrong="Low: clients behind one address (NAT, a proxy) are refused.",
        ),
    )
    head: int = field(
        default=64 * KIB,
        metadata=read_by(
            f.size(KIB, 1024 * KIB),
            "Longest head of a request.",
            wrong="Low: requests with many cookies get 431.",
        ),
    )
    target: int = field(
        default=16 * KIB,
        metadata=read_by(
            f.size(64, 1024 * KIB),
            "Longest request target; longer ones get 414.",
            wrong="Low: long queries get 414.",
        ),
    )
    headers: int = field(
        default=200,
        metadata=read_by(
            f.integer(1, 10_000),
            "Header fields in a head.",
            wrong="Low: requests that came through many proxies get 431.",
        ),
    )
    buffer_memory: int = field(
        default=256 * MIB,
        metadata=read_by(
            f.size(MIB),
            "For all buffers together: from 3/4 on bodies stream, past it who keeps bytes waits.",
            wrong="Small: clients wait for each other; large: the system may end the process.",
        ),
    )


@frozen(kw_only=True)
class WebConfig:
    """The proxy."""

    listen: tuple[ListenerConfig, ...] = field(
        metadata=read_by(
            list_of(record(ListenerConfig), at_least=1, at_most=256), "Ports for clients."
        )
    )
    timeouts: TimeoutsConfig = field(
        factory=TimeoutsConfig,
        metadata=read_by(record(TimeoutsConfig), "How long things may take."),
    )
    limits: LimitsConfig = field(
        factory=LimitsConfig, metadata=read_by(record(LimitsConfig), "What clients may use up.")
    )
    trusted_proxies: tuple[Network, ...] = field(
        default=(),
        metadata=read_by(
            list_of(h.network()),
            "Networks of proxies in front, whose X-Forwarded-* and Forwarded are believed.",
            default="none: what clients send of these is dropped",
            wrong="Too wide: clients there choose the address that backends and logs see.",
        ),
    )
    errors: dict[int, Path] = field(
        factory=dict,
        metadata=read_by(
            mapping_of(h.own_status(), f.file_path()),
            "HTML pages, at most 64 KiB each, for errors that DLBA itself answers, by status.",
            wrong="A file that is changed later counts at the next reload.",
            default="a sentence of ours",
        ),
    )
    via: str | None = field(
        default=None,
        metadata=read_by(
            h.via_name(),
            "What DLBA calls itself in a field Via of requests and responses.",
            beyond=True,
            wrong="Tells strangers what is here.",
            default="none: Via isn't added",
        ),
    )
    sites: tuple[SiteConfig, ...] = field(
        metadata=read_by(list_of(record(SiteConfig), at_least=1), "Sites; the first match serves.")
    )
    pools: dict[str, PoolConfig] = field(
        metadata=read_by(named(PoolConfig, f.name(), at_least=1), "The pools by name.")
    )
