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
from dlba.config.pools import BackendConfig, CheckConfig, PoolConfig
from dlba.config.scheduling import ArrayNodeConfig, RoutingConfig
from dlba.config.shapes import named, read_by, record, record_or_file
from dlba.config.sites import HeaderChangesConfig, PersistenceConfig, SiteConfig
from dlba.config.web import (
    CertificateConfig,
    LimitsConfig,
    ListenerConfig,
    TimeoutsConfig,
    TLSConfig,
    WebConfig,
)

__all__ = [
    "ArrayConfig",
    "ArrayNodeConfig",
    "BackendConfig",
    "CertificateConfig",
    "ChannelConfig",
    "CheckConfig",
    "ElectionConfig",
    "HeaderChangesConfig",
    "LimitsConfig",
    "ListenerConfig",
    "LogConfig",
    "MonitorConfig",
    "NodeConfig",
    "PersistenceConfig",
    "PoolConfig",
    "RoutingConfig",
    "SiteConfig",
    "StatusConfig",
    "TLSConfig",
    "TimeoutsConfig",
    "WebConfig",
]


@frozen(kw_only=True)
class ArrayConfig:
    """What is the same on every node: array.yaml."""

    name: str | None = field(
        default=None,
        metadata=read_by(
            f.name(),
            "Name of the array, also in its certificates.",
            wrong="Another than in the certificates: no channel is accepted.",
            default="none: no channel",
        ),
    )
    vip: str | None = field(
        default=None,
        metadata=read_by(
            f.ip_address(),
            "The virtual IP address.",
            wrong="An address that another machine has: it takes the clients.",
            default="listen on all addresses",
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
        default=None,
        metadata=read_by(
            f.file_path(),
            "File of the access log.",
            wrong="On a full disk: lines are lost.",
            default="none",
        ),
    )
    format: str = field(
        default="combined",
        metadata=read_by(
            f.choice("combined", "haproxy", "json"),
            "Form of its lines.",
            wrong="Another one: programs that read the log don't understand it.",
        ),
    )


@frozen(kw_only=True)
class NodeConfig:
    """What differs from node to node: node.yaml."""

    node: str = field(
        metadata=read_by(
            f.name(),
            "This node's name in the array.",
            wrong="Another node's: both claim its frames and its place in the election.",
        )
    )
    array: ArrayConfig = field(
        metadata=read_by(record_or_file(ArrayConfig), "The array's configuration or its file.")
    )
    interface: str | None = field(
        default=None,
        metadata=read_by(
            f.interface_name(),
            "Network interface on the array's segment.",
            wrong="Another one: no frame for the VIP arrives.",
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
            wrong="Lost or emptied: without `secrets` all cookies lose their backends.",
            default="$STATE_DIRECTORY, else `state` beside this file",
            absent=lambda reading: reading.state,
        )
    )
    secrets: Path | None = field(
        default=None,
        metadata=read_by(
            f.file_path(),
            'Cookie keys, "id key" a line, the newest first.',
            wrong="Another file than on the other nodes: each takes their cookies for unknown.",
            default="`secrets` in the state folder, made at first start",
        ),
    )
    monitor: MonitorConfig | None = field(
        default=None, metadata=read_by(record(MonitorConfig), "The status pages.", default="none")
    )
    log: LogConfig = field(factory=LogConfig, metadata=read_by(record(LogConfig), "Logs."))
