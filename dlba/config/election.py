"""What nodes need to know to watch each other: the channel, the election, the status sweep.

Pure; part of `dlba.config.values`, and written like it. Source: the contract's node.yaml and
array.yaml, election.md.
"""

from pathlib import Path

from attrs import field, frozen

from dlba.addresses import Endpoint
from dlba.config import fields as f
from dlba.config.shapes import read_by, record


@frozen(kw_only=True)
class ChannelConfig:
    """This node's end of the channels to the other nodes: mutual TLS."""

    listen: Endpoint = field(
        metadata=read_by(
            f.local_endpoint(),
            "Where the other nodes reach this one.",
            wrong="Not reachable for them: this node counts as failed.",
        )
    )
    certificate: Path = field(
        metadata=read_by(
            f.file_path(),
            "PEM file with this node's certificate, then those of its issuers.",
            wrong="Without the array's and node's name in it: the node doesn't start.",
        )
    )
    key: Path = field(
        metadata=read_by(f.file_path(), "PEM file with its private key, unencrypted.")
    )
    authority: Path = field(
        metadata=read_by(
            f.file_path(),
            "PEM file with the certificate of the authority of this array, and of no other.",
            wrong="A public one: whoever it certifies under this array's name is a node.",
        )
    )


@frozen(kw_only=True)
class PingConfig:
    """The questions by which a node learns whether another one is there."""

    every: float = field(
        default=0.1,
        metadata=read_by(
            f.duration(low=0.02, high=60),
            "Between two of them.",
            wrong="Long: a dead node gets frames for longer.",
        ),
    )
    retries: int = field(
        default=3,
        metadata=read_by(
            f.integer(1, 100),
            "Unanswered ones after which the node has failed.",
            wrong="Few: one lost frame fails a node.",
        ),
    )


@frozen(kw_only=True)
class TrackConfig:
    """What must be reached for a node to be fit as scheduler."""

    gateway: str | None = field(
        default=None,
        metadata=read_by(
            f.ipv4_address(),
            "Address on the segment; a scheduler that it doesn't answer gives the role up.",
            wrong="Nobody's: no node is fit as scheduler.",
            default="none: only the carrier counts",
        ),
    )


@frozen(kw_only=True)
class ElectionConfig:
    """How nodes watch each other."""

    heartbeat: float = field(
        default=0.1,
        metadata=read_by(
            f.duration(low=0.01, high=60),
            "Between two messages that show the scheduler is there.",
            wrong="Long: a dead scheduler is noticed later.",
        ),
    )
    down_after: float = field(
        default=0.3,
        metadata=read_by(
            f.duration(low=0.02, high=600),
            "Without a heartbeat and an echo until the scheduler counts as dead.",
            wrong="Short: a node that is busy for a moment loses the role.",
        ),
    )
    ping: PingConfig = field(
        factory=PingConfig, metadata=read_by(record(PingConfig), "Whether a machine is there.")
    )
    sync_every: float = field(
        default=0.05,
        metadata=read_by(
            f.duration(low=0.001, high=60),
            "Changes of the client table leave this often at most.",
            wrong="Long: a new scheduler doesn't know the newest connections.",
        ),
    )
    quorum: str = field(
        default="reachable",
        metadata=read_by(
            f.choice("reachable", "majority"),
            "Who may elect: those that reach each other, or only a majority of the enabled nodes.",
            wrong="reachable: each side of a network cut in two has a scheduler.",
        ),
    )
    track: TrackConfig = field(
        factory=TrackConfig,
        metadata=read_by(record(TrackConfig), "What a scheduler must be able to reach."),
    )


@frozen(kw_only=True)
class StatusConfig:
    """The sweep by which the scheduler asks all nodes, one after another, how they are."""

    every: float = field(
        default=1.0,
        metadata=read_by(
            f.duration(low=0.05, high=3600),
            "From the end of one to the next.",
            wrong="Long: load and failures of nodes are known later.",
        ),
    )
    retries: int = field(
        default=2,
        metadata=read_by(
            f.integer(0, 100),
            "Further questions to a silent node.",
            wrong="0: a node that is busy for a moment has failed.",
        ),
    )
    timeout: float = field(
        default=1.0,
        metadata=read_by(
            f.duration(low=0.01, high=60),
            "For the answer to one question.",
            wrong="Short: a busy node has failed.",
        ),
    )
