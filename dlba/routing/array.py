"""Makes what the scheduler works with out of the array's configuration.

Pure: frozen configuration values in; rows, rules, link headers and the frame path out. Which node
is scheduler comes from the configuration where nodes don't elect it: of the enabled ones that with
the highest priority, of equals the lowest number.
"""

from __future__ import annotations

from collections.abc import Mapping

from dlba.addresses import scheduler_mac
from dlba.config.scheduling import ArrayNodeConfig
from dlba.config.values import ArrayConfig
from dlba.routing.announce import Announcer
from dlba.routing.frame import Filter, link_header
from dlba.routing.hashtable import ClientTable
from dlba.routing.keyedhash import KeyedHash
from dlba.routing.path import ABSENT, LOCAL, FramePath
from dlba.routing.placement import NodeRow
from dlba.routing.reach import Peer, Reach
from dlba.routing.scheduler import Scheduler

__all__ = ["frame_path", "ipv4", "mac_of_scheduler", "scheduler_of"]


def ipv4(text: str) -> bytes:
    """The 4 bytes of an IPv4 address."""
    return bytes(map(int, text.split(".")))


def scheduler_of(nodes: Mapping[str, ArrayNodeConfig]) -> str:
    """The name of the node that is scheduler. ValueError if none is enabled."""
    enabled = [node for node in nodes.values() if node.enabled]
    if not enabled:
        raise ValueError("nodes: expected one or more that is enabled, got none")
    return min(enabled, key=lambda node: (-node.priority, node.number)).name


def mac_of_scheduler(array: ArrayConfig, name: str) -> bytes:
    """The MAC that the VIP has while the node `name` is scheduler."""
    node = array.nodes[name]
    return scheduler_mac(node.mac, node.scheduler_mac, array.routing.own_mac)


def frame_path(
    array: ArrayConfig, name: str, mtu: int, hash_key: bytes | None, elected: bool = False
) -> FramePath:
    """What the node `name` does with frames, over a client table of its own.

    `array.vip`: IPv4; `mtu`: bytes, of its interface; `hash_key`: for `hash: keyed`; `elected`: the
    nodes choose their scheduler.
    """
    if array.vip is None or (array.routing.hash == "keyed" and hash_key is None):
        raise ValueError("frame path: expected a VIP, and a key for the keyed hash")
    own = array.nodes[name]
    routing = array.routing
    vip = ipv4(array.vip)
    others = [node for node in array.nodes.values() if node is not own]
    rules = Filter(
        vip=vip,
        ports=routing.ports,
        scheduler_mac=mac_of_scheduler(array, name),
        own_mac=own.mac,
        members=[node.mac for node in others],
        scheduler=False,
        other_local=routing.other == "local",
        mtu=mtu,
    )
    keyed = None
    if routing.hash == "keyed" and hash_key is not None:
        keyed = KeyedHash(routing.buckets, hash_key)
    scheduler = Scheduler(
        ClientTable(routing.buckets),
        [_row(node) for node in array.nodes.values()],
        routing.bucket_timeout,
        routing.placement,  # type: ignore[arg-type]  # one of the words of `By`: checked at load
        keyed,
    )
    reach = Reach(
        [Peer(node.number, node.mac, ipv4(node.address)) for node in others],
        own.mac,
        ipv4(own.address),
        array.election.ping.every,
        array.election.ping.retries,
    )
    headers = {node.number: link_header(node.mac, own.mac) for node in others}
    headers[own.number] = LOCAL
    absent_after = array.election.down_after if elected else ABSENT
    announcer = Announcer(vip, rules.scheduler_mac)
    return FramePath(rules, scheduler, announcer, reach, headers, absent_after, elected)


def _row(node: ArrayNodeConfig) -> NodeRow:
    return NodeRow(
        node.number, node.name, node.mac, node.address, node.weight, enabled=node.enabled
    )
