"""Decides what stands on the benchmark's segment: who is where, the frames, the configurations.

Pure. One switch; a client that sends, two nodes that take, and beside them the subjects: each a
scheduler of its own with its own VIP, interface and namespace, so that all of them are there at
once and the destination of the frames alone says which one works.

    who             MAC address        address             VIP
    client          02:00:00:00:01:01  -                   -
    node 1, 2       02:00:00:00:02:0N  198.18.0.N          -
    subject N       02:00:00:00:03:0N  198.18.0.(10 + N)   198.18.0.(100 + N)
      as scheduler  06:00:00:00:03:0N

Clients' addresses are in 198.19.0.0/16; both networks are set aside for benchmarks (RFC 2544).
Frames are Ethernet II without FCS, with right checksums: an acknowledgement of 66 bytes, with the
timestamps that Linux sends, and a full one of 1514 bytes.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Final

import attrs

__all__ = [
    "CLIENT_MAC",
    "FLOWS",
    "INTERFACE",
    "NODES",
    "SIZES",
    "Subject",
    "checksum",
    "frames",
    "nft_node",
    "nft_scheduler",
    "node_address",
    "node_mac",
    "node_yaml",
]

#: Name of everybody's interface on the segment.
INTERFACE: Final = "eth0"
CLIENT_MAC: Final = bytes.fromhex("020000000101")
#: Numbers of the nodes that take frames; the scheduler itself is number 0 and takes none.
NODES: Final = (1, 2)
PORTS: Final = (80, 443)
#: Flows of one load, each with its own client address and port.
FLOWS: Final = 4096
#: Work → bytes a frame.
SIZES: Final = {"ack": 66, "mtu": 1514}

_ETHERNET: Final = 14
_HEADERS: Final = 66  # Ethernet, IP without options, TCP with timestamps
_ACK: Final = 0x10


@attrs.frozen
class Subject:
    """One that passes frames on; `number`: from 1."""

    name: str
    number: int

    @property
    def mac(self) -> bytes:
        """Its interface's."""
        return bytes((2, 0, 0, 0, 3, self.number))

    @property
    def scheduler_mac(self) -> bytes:
        """Where frames for its VIP go."""
        return bytes((6, 0, 0, 0, 3, self.number))

    @property
    def address(self) -> str:
        """Its own."""
        return f"198.18.0.{10 + self.number}"

    @property
    def vip(self) -> str:
        """Its VIP."""
        return f"198.18.0.{100 + self.number}"


def node_mac(number: int) -> bytes:
    """The MAC of a node that takes frames."""
    return bytes((2, 0, 0, 0, 2, number))


def node_address(number: int) -> str:
    """The address of a node that takes frames."""
    return f"198.18.0.{number}"


def checksum(data: bytes) -> int:
    """The Internet checksum of an even number of bytes (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def frames(to: bytes, vip: str, size: int, flows: int = FLOWS) -> list[bytes]:
    """One frame of `size` bytes for each of `flows` flows, from the client to the MAC `to`.

    `size`: even, 66 or more; `flows`: 65,535 at most. The flows are the same in every call.
    """
    destination = bytes(map(int, vip.split(".")))
    payload = bytes(size - _HEADERS)
    return [_frame(to, destination, payload, flow) for flow in range(flows)]


def _frame(to: bytes, vip: bytes, payload: bytes, flow: int) -> bytes:
    # By an odd number: no two flows have the same address, and neighbours lie far apart.
    source = bytes((198, 19)) + ((flow + 1) * 40503 & 0xFFFF).to_bytes(2, "big")
    port = 32768 + flow * 7919 % 28232  # Linux's ephemeral ports
    total = 20 + 32 + len(payload)
    # Identification 0 with "don't fragment", as Linux sends it on a connection.
    ip = struct.pack("!BBHHHBBH", 0x45, 0, total, 0, 0x4000, 64, 6, 0) + source + vip
    ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
    timestamps = struct.pack("!BBBBII", 1, 1, 8, 10, 1000 + flow, 2000 + flow)
    words = (port, PORTS[flow % 2], flow * 1460, flow * 500, 8 << 4, _ACK, 502, 0, 0)
    tcp = struct.pack("!HHIIBBHHH", *words) + timestamps + payload
    pseudo = source + vip + struct.pack("!HH", 6, len(tcp))
    tcp = tcp[:16] + checksum(pseudo + tcp).to_bytes(2, "big") + tcp[18:]
    return to + CLIENT_MAC + b"\x08\x00" + ip + tcp


# ---------------------------------------------------------------- configurations


def _table(rule: str) -> str:
    return f"""\
table netdev benchmark {{
 chain in {{
  type filter hook ingress device "{INTERFACE}" priority -500; policy accept;
  {rule}
 }}
}}
"""


def nft_node() -> str:
    """A node that takes frames forgets IP packets as early as it can; ARP it answers."""
    return _table("meta protocol ip drop")


def nft_scheduler(subject: Subject) -> str:
    """The peer: nftables chooses a node by a hash of the flow key, without any state."""
    nodes = ", ".join(f"{at} : {node_mac(one).hex(':')}" for at, one in enumerate(NODES))
    return _table(
        f"ether daddr {subject.scheduler_mac.hex(':')} ip daddr {subject.vip} "
        f"tcp dport {{ {', '.join(map(str, PORTS))} }} ether saddr set {subject.mac.hex(':')} "
        f"ether daddr set jhash ip saddr . tcp sport mod {len(NODES)} map {{ {nodes} }} "
        f'fwd to "{INTERFACE}"'
    )


def node_yaml(subject: Subject, packets: str, state: Path) -> str:
    """node.yaml of a scheduler that takes no frame itself; all else is as by default.

    JSON is YAML and needs no quoting rules of ours.
    """
    nodes = {
        f"node{one}": {"number": one, "address": node_address(one), "mac": node_mac(one).hex(":")}
        for one in NODES
    }
    nodes["scheduler"] = {
        "number": 0,
        "address": subject.address,
        "mac": subject.mac.hex(":"),
        "scheduler_mac": subject.scheduler_mac.hex(":"),
        "weight": 0,
        "priority": 1000,
    }
    array = {
        "vip": subject.vip,
        "nodes": nodes,
        "routing": {"packets": packets, "ports": list(PORTS)},
    }
    node = {"node": "scheduler", "interface": INTERFACE, "state": str(state), "array": array}
    return json.dumps(node, indent=1) + "\n"
