"""What the scheduler needs to know of the array: its nodes and the client table.

Pure; part of `dlba.config.values`, and written like it. Source: the contract's array.yaml, the
seed's Fig. 5 (number, MAC, physical IP address, enabled and weight come from the configuration).
"""

from attrs import field, frozen

from dlba.addresses import Endpoint
from dlba.config import fields as f
from dlba.config.shapes import list_of, read_by

#: Node numbers are below this, in the client table and in messages too. An array is a handful of
#: nodes, so a larger number there is damage.
NODES_LIMIT = 1024
#: Buckets at most: 8 bytes each, and a snapshot of 4 bytes each that goes to every node.
BUCKETS_LIMIT = 1 << 24


@frozen(kw_only=True)
class ArrayNodeConfig:
    """One node of the array, as all nodes know it."""

    name: str = field(metadata=read_by(f.name(), "Name of the node.", entry=True))
    number: int = field(
        metadata=read_by(
            f.integer(0, NODES_LIMIT - 1),
            "Names the node in the client table; of equal nodes the lower number comes first.",
            wrong="Changed while the array runs: connections go to another node.",
        )
    )
    address: str = field(
        metadata=read_by(
            f.ipv4_address(),
            "Its own address on the array's segment, not the VIP.",
            wrong="Another machine's: the node counts as failed.",
        )
    )
    mac: bytes = field(
        metadata=read_by(
            f.mac_address(),
            "MAC address of its interface on the array's segment.",
            wrong="Frames for the node are lost; it checks its own at start.",
        )
    )
    scheduler_mac: bytes | None = field(
        default=None,
        metadata=read_by(
            f.mac_address(),
            "Its second MAC address, which the VIP has while the node is scheduler.",
            wrong="One that a machine on the segment has: the switch sends frames to either.",
            default="`mac` with the local bit set and bit 0x04 of the first octet flipped",
        ),
    )
    weight: int = field(
        default=1,
        metadata=read_by(
            f.integer(0, 1000),
            "Its share of new buckets; 0: none, as draining.",
            wrong="Too high: that node is the slow one.",
        ),
    )
    priority: int = field(
        default=100,
        metadata=read_by(
            f.integer(0, 1000),
            "Of those that may become scheduler the highest.",
            wrong="Equal for all: the lowest number is scheduler.",
        ),
    )
    enabled: bool = field(
        default=True,
        metadata=read_by(
            f.boolean(),
            "False: gets no new buckets, never scheduler.",
            wrong="False for all: an error.",
        ),
    )
    channel: Endpoint | None = field(
        default=None,
        metadata=read_by(
            f.remote_endpoint(),
            "Where the other nodes reach its channel.",
            beyond=True,
            wrong="Nobody answers there: the node counts as failed.",
            default="its address, with the port of the asking node's own `channel.listen`",
        ),
    )


@frozen(kw_only=True)
class RoutingConfig:
    """How frames for the VIP are spread over the nodes."""

    buckets: int = field(
        default=65536,
        metadata=read_by(
            f.integer(1, BUCKETS_LIMIT),
            "Slots of the client table; fixed while the array runs.",
            wrong="Few: flows of many clients move together. Each takes 16 bytes at most.",
        ),
    )
    bucket_timeout: float = field(
        default=300.0,
        metadata=read_by(
            f.duration(low=3),
            "Without a packet until a bucket may move to another node.",
            wrong="Short: idle connections break unless keepalive fits; ours probes at a third.",
        ),
    )
    placement: str = field(
        default="groups",
        metadata=read_by(
            f.choice("groups", "hits", "connections"),
            "What the least loaded node has least of.",
            wrong="Other than groups: a node with long requests may get more of them.",
        ),
    )
    ports: tuple[int, ...] = field(
        default=(80, 443),
        metadata=read_by(
            list_of(f.port(), at_least=1),
            "TCP ports of the VIP whose flows are spread.",
            wrong="One is missing: clients get no answer there.",
        ),
    )
    packets: str = field(
        default="auto",
        metadata=read_by(
            f.choice("auto", "pcap", "packet"),
            "How frames are read and written: libpcap or AF_PACKET; auto: the faster, AF_PACKET.",
            wrong="pcap: fewer frames a second.",
        ),
    )
    own_mac: bool = field(
        default=False,
        metadata=read_by(
            f.boolean(),
            "True: the VIP has the scheduler's own MAC; for networks that refuse a second one.",
            wrong="False in such a network: nobody gets a frame for the VIP.",
        ),
    )
    hash: str = field(
        default="sum",
        metadata=read_by(
            f.choice("sum", "keyed"),
            "Flow key to bucket: their sum, or a hash under the `hash` key of the secrets file.",
            wrong="sum: clients that choose their ports can meet on one node.",
        ),
    )
    other: str = field(
        default="drop",
        metadata=read_by(
            f.choice("drop", "local"),
            "Other ports and protocols of the VIP: dropped, or for the scheduler's own kernel.",
            beyond=True,
            wrong="local: services of the scheduler's kernel are open at the VIP.",
        ),
    )
