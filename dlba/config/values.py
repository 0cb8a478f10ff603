"""The configuration as frozen values: what keys there are, with reader, default and meaning.

Pure. Every key is one attrs field here and nothing elsewhere: its metadata (`shapes.Key`) says how
it is read and what it means. Times are float seconds, sizes int bytes, paths absolute, sequences
tuples; the dicts are never changed after load. Instances are made with keyword arguments.
Source: the contract's node.yaml and array.yaml; `etc/` has a commented example of each.
"""

from pathlib import Path

from attrs import field, frozen

from dlba.addresses import Endpoint
from dlba.config import fields as f
from dlba.config.election import ChannelConfig, ElectionConfig, StatusConfig
from dlba.config.scheduling import ArrayNodeConfig, RoutingConfig
from dlba.config.shapes import list_of, named, named_tuple, read_by, record, record_or_file

KIB = 1024  # bytes


@frozen(kw_only=True)
class CertificateConfig:
    """One certificate of a TLS listener."""

    certificate: Path = field(
        metadata=read_by(f.file_path(), "PEM file with the certificate, then those of its issuers.")
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

    port: int = field(metadata=read_by(f.port(low=0), "TCP port; 0: one that the system chooses."))
    address: str | None = field(
        default=None,
        metadata=read_by(
            f.ip_address(),
            "Address to listen on.",
            default="the VIP; without one, all addresses",
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
        ),
    )
    write: float = field(
        default=30.0, metadata=read_by(f.duration(), "Without progress in sending to a client.")
    )
    idle: float = field(
        default=60.0, metadata=read_by(f.duration(), "Between requests on a kept connection.")
    )
    response: float = field(
        default=30.0,
        metadata=read_by(
            f.duration(),
            "For a backend's response head, and between reads of its body; stopped while we pause.",
            wrong="Short: slow pages end in 504.",
        ),
    )
    stop: float = field(
        default=30.0,
        metadata=read_by(f.duration(low=0), "For open requests to end when the node stops."),
    )


@frozen(kw_only=True)
class LimitsConfig:
    """What clients may use up."""

    connections: int | None = field(
        default=None,
        metadata=read_by(
            f.unless("auto", f.integer(1, 10_000_000)),
            "Client connections at once; at the limit nobody is accepted until one ends.",
            default="auto: from the limit on open files",
        ),
    )
    per_client: int = field(
        default=1000,
        metadata=read_by(f.integer(1, 10_000_000), "Connections at once from one client address."),
    )
    head: int = field(
        default=64 * KIB,
        metadata=read_by(f.size(KIB, 1024 * KIB), "Longest head of a request."),
    )
    target: int = field(
        default=16 * KIB,
        metadata=read_by(f.size(64, 1024 * KIB), "Longest request target; longer ones get 414."),
    )
    headers: int = field(
        default=200, metadata=read_by(f.integer(1, 10_000), "Header fields in a head.")
    )


@frozen(kw_only=True)
class PersistenceConfig:
    """The cookie that keeps a client with its backend."""

    cookie: str = field(default="DLBA", metadata=read_by(f.cookie_name(), "Name of our cookie."))
    session_cookie: str | None = field(
        default=None,
        metadata=read_by(
            f.cookie_name(),
            "The application's session cookie: ours is set, renewed and deleted with it.",
            default="ours is set on a client's first response",
        ),
    )
    max_age: int | None = field(
        default=None,
        metadata=read_by(
            f.whole_seconds(low=1),
            "Max-Age of our cookie where it follows no session cookie.",
            default="until the browser closes",
        ),
    )
    path: str = field(
        default="/", metadata=read_by(f.path_prefix(forbidden=";"), "Path of our cookie.")
    )
    domain: str | None = field(
        default=None,
        metadata=read_by(f.cookie_domain(), "Domain of our cookie.", default="the host alone"),
    )
    same_site: str = field(
        default="Lax",
        metadata=read_by(
            f.choice("Lax", "Strict", "None"),
            "SameSite of our cookie.",
            wrong="None needs `secure: true`: browsers drop the cookie otherwise.",
        ),
    )
    secure: bool | None = field(
        default=None,
        metadata=read_by(
            f.boolean(),
            "Whether our cookie is sent over HTTPS only.",
            wrong="True with a plain listener: no persistence over HTTP.",
            default="true where every listener is TLS",
        ),
    )


@frozen(kw_only=True)
class SiteConfig:
    """Host names and paths served by one pool with one way of scheduling."""

    hosts: tuple[str, ...] = field(
        metadata=read_by(
            list_of(f.host_pattern(), at_least=1),
            "Hosts of the site: a name, *.name for the names under it, * for all.",
        )
    )
    paths: tuple[str, ...] = field(
        default=(),
        metadata=read_by(list_of(f.path_prefix()), "Path prefixes.", default="all paths"),
    )
    default: bool = field(
        default=False,
        metadata=read_by(
            f.boolean(), "Also takes what no site matches; without one that gets 404."
        ),
    )
    pool: str = field(metadata=read_by(f.name(), "Name of the pool that serves the site."))
    schedule: str = field(
        default="cookie",
        metadata=read_by(
            f.choice("cookie", "url", "connections", "round-robin"),
            "What chooses the backend: our cookie, a hash of the URL, least connections, turns.",
            wrong="Other than cookie: a client's session meets changing backends.",
        ),
    )
    persistence: PersistenceConfig = field(
        factory=PersistenceConfig,
        metadata=read_by(record(PersistenceConfig), "The cookie of `schedule: cookie`."),
    )
    max_body: int | None = field(
        default=None,
        metadata=read_by(
            f.size(), "Longest request body; longer ones get 413.", default="no limit"
        ),
    )
    request_buffer: int = field(
        default=256 * KIB,
        metadata=read_by(
            f.size(0, 1024 * 1024 * KIB),
            "Body that is read before a backend is connected; the rest is streamed.",
            wrong="Large: memory for each slow upload.",
        ),
    )


@frozen(kw_only=True)
class BackendConfig:
    """A web server or cache behind the nodes."""

    name: str = field(metadata=read_by(f.name(), "Name of the backend.", entry=True))
    address: Endpoint = field(
        metadata=read_by(
            f.remote_endpoint(), "Where it listens; a name is resolved when the file is loaded."
        )
    )
    weight: int = field(
        default=1,
        metadata=read_by(f.integer(1, 1000), "Its share, against the pool's other weights."),
    )
    backup: bool = field(
        default=False, metadata=read_by(f.boolean(), "Used only when no other backend is left.")
    )
    enabled: bool = field(
        default=True, metadata=read_by(f.boolean(), "False: gets no requests, its clients move.")
    )


@frozen(kw_only=True)
class PoolConfig:
    """Backends that serve the same content."""

    name: str = field(metadata=read_by(f.name(), "Name of the pool.", entry=True))
    backends: tuple[BackendConfig, ...] = field(
        metadata=read_by(named_tuple(BackendConfig, f.name(), at_least=1), "The backends by name.")
    )
    connect_timeout: float = field(
        default=1.0,
        metadata=read_by(
            f.duration(), "For one connection; a backend that takes longer has failed."
        ),
    )
    connect_total: float = field(
        default=5.0, metadata=read_by(f.duration(), "For all tries to connect of one request.")
    )
    fail_timeout: float = field(
        default=10.0,
        metadata=read_by(f.duration(), "Until a failed backend is tried by one request again."),
    )
    backend_close: str = field(
        default="reset",
        metadata=read_by(
            f.choice("reset", "wait"),
            "How a finished connection ends: at once, or with up to 1 s for the backend to close.",
            wrong="wait with backends that keep connections: each leaves a port in TIME_WAIT.",
        ),
    )
    hash_key: str = field(
        default="",
        metadata=read_by(
            f.text(empty=True),
            "Key of the URL hash, the same on all nodes.",
            wrong="Empty: clients can find URLs that meet on one backend.",
        ),
    )


@frozen(kw_only=True)
class WebConfig:
    """The proxy."""

    listen: tuple[ListenerConfig, ...] = field(
        metadata=read_by(list_of(record(ListenerConfig), at_least=1), "Ports for clients.")
    )
    timeouts: TimeoutsConfig = field(
        factory=TimeoutsConfig,
        metadata=read_by(record(TimeoutsConfig), "How long things may take."),
    )
    limits: LimitsConfig = field(
        factory=LimitsConfig, metadata=read_by(record(LimitsConfig), "What clients may use up.")
    )
    sites: tuple[SiteConfig, ...] = field(
        metadata=read_by(list_of(record(SiteConfig), at_least=1), "Sites; the first match serves.")
    )
    pools: dict[str, PoolConfig] = field(
        metadata=read_by(named(PoolConfig, f.name(), at_least=1), "The pools by name.")
    )


@frozen(kw_only=True)
class ArrayConfig:
    """What is the same on every node: array.yaml."""

    name: str | None = field(
        default=None,
        metadata=read_by(
            f.name(), "Name of the array, also in its certificates.", default="none: no channel"
        ),
    )
    vip: str | None = field(
        default=None,
        metadata=read_by(
            f.ip_address(), "The virtual IP address.", default="listen on all addresses"
        ),
    )
    nodes: dict[str, ArrayNodeConfig] = field(
        factory=dict,
        metadata=read_by(
            named(ArrayNodeConfig, f.name(), at_least=1),
            "The nodes of the array by name.",
            default="an array of one",
        ),
    )
    routing: RoutingConfig = field(
        factory=RoutingConfig,
        metadata=read_by(record(RoutingConfig), "How the scheduler spreads frames."),
    )
    election: ElectionConfig = field(
        factory=ElectionConfig,
        metadata=read_by(record(ElectionConfig), "How nodes watch each other."),
    )
    status: StatusConfig = field(
        factory=StatusConfig,
        metadata=read_by(record(StatusConfig), "How the scheduler asks the nodes how they are."),
    )
    web: WebConfig | None = field(
        default=None,
        metadata=read_by(
            record(WebConfig),
            "The proxy.",
            default="none: each node runs some other server on the VIP",
        ),
    )


@frozen(kw_only=True)
class MonitorConfig:
    """The read-only status pages."""

    listen: Endpoint = field(
        metadata=read_by(
            f.local_endpoint(),
            "Where they are served.",
            wrong="Not on loopback: everybody who gets there reads them.",
        )
    )


@frozen(kw_only=True)
class LogConfig:
    """The access log."""

    access: Path | None = field(
        default=None, metadata=read_by(f.file_path(), "File of the access log.", default="none")
    )
    format: str = field(
        default="combined",
        metadata=read_by(f.choice("combined", "haproxy", "json"), "Form of its lines."),
    )


@frozen(kw_only=True)
class NodeConfig:
    """What differs from node to node: node.yaml."""

    node: str = field(metadata=read_by(f.name(), "This node's name in the array."))
    array: ArrayConfig = field(
        metadata=read_by(record_or_file(ArrayConfig), "The array's configuration or its file.")
    )
    interface: str | None = field(
        default=None,
        metadata=read_by(
            f.interface_name(),
            "Network interface on the array's segment.",
            default="none: a proxy alone, never scheduler",
        ),
    )
    channel: ChannelConfig | None = field(
        default=None,
        metadata=read_by(
            record(ChannelConfig),
            "The channel to the other nodes, over which they elect the scheduler.",
            default="none: the configuration names the scheduler",
        ),
    )
    state: Path = field(
        metadata=read_by(
            f.file_path(),
            "Folder for what the node keeps, made with mode 0700.",
            default="$STATE_DIRECTORY, else `state` beside this file",
            absent=lambda reading: reading.state,
        )
    )
    secrets: Path | None = field(
        default=None,
        metadata=read_by(
            f.file_path(),
            'Cookie keys, "id key" a line, the newest first.',
            default="`secrets` in the state folder, made at first start",
        ),
    )
    monitor: MonitorConfig | None = field(
        default=None, metadata=read_by(record(MonitorConfig), "The status pages.", default="none")
    )
    log: LogConfig = field(factory=LogConfig, metadata=read_by(record(LogConfig), "Logs."))
