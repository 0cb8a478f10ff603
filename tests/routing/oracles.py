"""What a frame is to the scheduler, told from the fields that scapy dissects."""

from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import checksum

from tests.routing.frames import VIP, address


def kind_of(frame: bytes, by) -> tuple[str, int, int]:
    """The rules once more, from the fields that scapy dissects."""
    if len(frame) < 14:
        return "RUNT", 0, 0
    ether = Ether(frame[:14])
    macs = {"own": by.own_mac.hex(":"), "scheduler": by.scheduler_mac.hex(":")}
    if ether.src in macs.values():
        return "LOOPED", 0, 0
    kind = ether.type if isinstance(ether, Ether) else ether.len  # scapy has 802.3 apart
    if kind == 0x0806:
        return "RUNT" if len(frame) < 42 else "ARP", 0, 0
    if ether.dst != macs["scheduler"]:
        return "OWN_MAC" if ether.dst == macs["own"] else "OTHER_MAC", 0, 0
    member = ether.src in {one.hex(":") for one in by.members}
    if member and (macs["own"] == macs["scheduler"] or not by.scheduler):
        return "FROM_MEMBER", 0, 0
    if kind in (0x8100, 0x88A8, 0x9100):
        return "VLAN", 0, 0
    if kind != 0x0800:
        return "IPV6" if kind == 0x86DD else "OTHER_TYPE", 0, 0
    if len(frame) > by.mtu + 14:
        return "OVERSIZED", 0, 0
    if len(frame) < 34:
        return "RUNT", 0, 0
    fields = IP(frame[14:34])  # its fixed part: scapy mustn't trip over options
    if fields.version != 4:
        return "IP_VERSION", 0, 0
    if not 20 <= 4 * fields.ihl <= fields.len:
        return "IP_LENGTH", 0, 0
    if 14 + fields.len > len(frame):
        return "TRUNCATED", 0, 0
    packet = frame[14 : 14 + fields.len]
    header, payload = packet[: 4 * fields.ihl], packet[4 * fields.ihl :]
    if checksum(header) not in (0, 0xFFFF):
        return "IP_CHECKSUM", 0, 0
    if fields.dst != VIP:
        return "OTHER_ADDRESS", 0, 0
    source = int.from_bytes(address(fields.src), "big")
    mended = "LOCAL" if by.other_local else None
    if fields.proto == 1:
        if fields.frag or fields.flags.MF:
            return "ICMP_FRAGMENT", 0, 0
        return icmp_kind(payload, fields.src, by)
    if fields.proto != 6:
        return mended or "OTHER_PROTOCOL", 0, 0
    if fields.frag:
        return "LATER_FRAGMENT", source, 0
    if len(payload) < 20:
        return "TCP_SHORT", 0, 0
    segment = TCP(payload[:20])
    if segment.dport not in by.ports:
        return mended or "OTHER_PORT", 0, 0
    if fields.flags.MF:
        return "FIRST_FRAGMENT", source, segment.sport
    return "LATE" if member else "TCP", source, segment.sport


def icmp_kind(payload: bytes, source: str, by) -> tuple[str, int, int]:
    mended = "LOCAL" if by.other_local else None
    if len(payload) < 8:
        return "ICMP_SHORT", 0, 0
    if checksum(payload) not in (0, 0xFFFF):
        return "ICMP_CHECKSUM", 0, 0
    message = ICMP(payload[:8])
    if message.type == 8:
        first = int(source.partition(".")[0])
        if first in (0, 127, *range(224, 256)) or source == VIP:
            return "ECHO_SOURCE", 0, 0
        return "ECHO", int.from_bytes(address(source), "big"), 0
    if message.type not in (3, 11, 12):
        return mended or "ICMP_OTHER", 0, 0
    if len(payload) < 28:
        return "ICMP_SHORT", 0, 0
    inner = IP(payload[8:28])
    if (inner.version, inner.proto, inner.frag, inner.src) != (4, 6, 0, VIP) or inner.ihl < 5:
        return mended or "ICMP_FOREIGN", 0, 0
    ports = payload[8 + 4 * inner.ihl :][:4]
    if len(ports) < 4:
        return "ICMP_SHORT", 0, 0
    if int.from_bytes(ports[:2], "big") not in by.ports:
        return mended or "ICMP_FOREIGN", 0, 0
    client = int.from_bytes(address(inner.dst), "big")
    return "ICMP_ERROR", client, int.from_bytes(ports[2:], "big")
