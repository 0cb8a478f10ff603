"""Who the other nodes are and where their channels are reached, by the configuration.

Pure.
"""

from __future__ import annotations

import attrs

from dlba.addresses import Endpoint
from dlba.config.values import NodeConfig

__all__ = ["PeerAddress", "peers_of"]


@attrs.frozen(kw_only=True)
class PeerAddress:
    """Another node: who it is, and where its channel is reached; `mac` as 02:00:00:00:00:0a."""

    number: int
    name: str
    mac: str
    host: str
    port: int


def peers_of(config: NodeConfig) -> tuple[PeerAddress, ...]:
    """All other nodes of the array, enabled or not; `config` must have a channel."""
    assert config.channel is not None
    port = config.channel.listen.port
    found = []
    for node in config.array.nodes.values():
        at = node.channel or Endpoint(node.address, port)
        mac = node.mac.hex(":")
        if node.name != config.node:
            peer = PeerAddress(
                number=node.number, name=node.name, mac=mac, host=at.host, port=at.port
            )
            found.append(peer)
    return tuple(found)
