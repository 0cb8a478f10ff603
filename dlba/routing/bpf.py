"""Chooses which frames the kernel hands to the scheduler: socket filters in classic BPF.

A program is the bytes of an array of `struct sock_filter`, as SO_ATTACH_FILTER and libpcap's
`struct bpf_program` point at. It says of each frame how many bytes of it are read, 0 for none. A
load past the end of a frame ends the program with 0.

    offset  bytes  field of an instruction, in the machine's byte order
         0      2  code
         2      1  instructions to skip if the comparison holds
         3      1  instructions to skip if not
         4      4  operand

While scheduler, a node reads ARP and whatever is sent to its scheduler MAC, rubbish too, so that
each kind of it is counted in one place; `dlba.routing.frame` judges. Of frames that somebody else
sends with that MAC as source it reads the Ethernet header: switches learn from them. In own-MAC
mode that MAC gets all that the node itself receives, so only IPv4 packets for the VIP are read. ARP
may also be left to another socket, where no flood of frames delays it. A node that isn't scheduler
reads ARP alone.

The kernel takes a VLAN tag out of the frame before anybody sees it. Of a tagged frame that would
be read otherwise only `VLAN_MARK` bytes come, too few for a header, so that it is counted and never
taken for one of this LAN; tagged ARP isn't read. A tag with VLAN 0 is a priority and nothing else
(802.1Q): such a frame is read as if it had none, as the kernel does. The tag's own words are read
at offsets that name no byte of the frame, `SKF_AD_…` in linux/filter.h; of which size doesn't
matter to the kernel, while libpcap, which sometimes runs a program itself, wants bytes.

Source: routing.md "The frame path"; Linux Documentation/networking/filter.rst.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final, TypeAlias

__all__ = ["VLAN_MARK", "arp_only", "scheduler_filter"]

#: Bytes that are read of a VLAN-tagged frame: the MAC addresses.
VLAN_MARK: Final = 12

#: Code, operand; for a comparison also the label where it goes on if it holds, and if not ("": the
#: next instruction).
_Line: TypeAlias = tuple[int, int] | tuple[int, int, str, str]

_LOAD_32: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_LOAD_16: Final = 0x28  # BPF_LD | BPF_H | BPF_ABS
_LOAD_8: Final = 0x30  # BPF_LD | BPF_B | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_BESIDE: Final = 0xFFFFF000  # SKF_AD_OFF, -0x1000: what the kernel knows beside the frame
_TAG: Final = _BESIDE + 44  # SKF_AD_VLAN_TAG
_TAG_PRESENT: Final = _BESIDE + 48  # SKF_AD_VLAN_TAG_PRESENT
_VLAN_ID: Final = 0x0FFF  # of the tag's 16 bits

_SOURCE: Final = 6  # offset, bytes
_ETHER_TYPE: Final = 12  # offset, bytes
_HEADER: Final = 14  # bytes, Ethernet's
_IP_DESTINATION: Final = 30  # offset, bytes
_ARP: Final = 0x0806
_IPV4: Final = 0x0800
#: More than any frame has; libpcap's own bound.
_ALL: Final = 0x40000

_instruction = Struct("=HBBI").pack


def _tagged(if_tagged: str) -> tuple[_Line, ...]:
    """Go to `if_tagged` for a frame of another VLAN, to "whole" for any other."""
    return (
        (_LOAD_8, _TAG_PRESENT),
        (_EQUAL, 0, "whole", ""),
        (_LOAD_8, _TAG),
        (_AND, _VLAN_ID),
        (_EQUAL, 0, "whole", if_tagged),
    )


_ENDS: Final[dict[str, tuple[_Line, ...]]] = {
    "whole": ((_RETURN, _ALL),),
    "mark": ((_RETURN, VLAN_MARK),),
    "none": ((_RETURN, 0),),
}


def arp_only() -> bytes:
    """The program of a node that isn't scheduler: untagged ARP frames, whole."""
    asks: tuple[_Line, ...] = ((_LOAD_16, _ETHER_TYPE), (_EQUAL, _ARP, "", "none"))
    return _assemble({"other": (*asks, *_tagged("none")), **_ENDS})


def scheduler_filter(vip: bytes, scheduler_mac: bytes, own_mac: bytes, arp: bool = True) -> bytes:
    """The program of the scheduler; in own-MAC mode both MACs are the same.

    `vip`: 4 bytes, MACs: 6 bytes each; ValueError if not. `arp`: ARP frames too, else none.
    """
    if (len(vip), len(scheduler_mac), len(own_mac)) != (4, 6, 6):
        raise ValueError(
            "filter: expected an address of 4 bytes and MAC addresses of 6, "
            f"got {vip!r}, {scheduler_mac!r}, {own_mac!r}"
        )
    high, low = int.from_bytes(scheduler_mac[:4], "big"), int.from_bytes(scheduler_mac[4:], "big")
    ours: list[_Line] = [(_LOAD_32, 0), (_EQUAL, high, "", "other")]
    ours += [(_LOAD_16, 4), (_EQUAL, low, "", "other")]
    if scheduler_mac == own_mac:
        ours += [
            (_LOAD_16, _ETHER_TYPE),
            (_EQUAL, _IPV4, "", "other"),
            (_LOAD_32, _IP_DESTINATION),
            (_EQUAL, int.from_bytes(vip, "big"), "", "other"),
        ]
    source: tuple[_Line, ...] = (
        (_LOAD_32, _SOURCE),
        (_EQUAL, high, "", "none"),
        (_LOAD_16, _SOURCE + 4),
        (_EQUAL, low, "header", "none"),
    )
    blocks: dict[str, tuple[_Line, ...]] = {"ours": (*ours, *_tagged("mark"))}
    if arp:
        asks: tuple[_Line, ...] = ((_LOAD_16, _ETHER_TYPE), (_EQUAL, _ARP, "", "source"))
        blocks |= {"other": (*asks, *_tagged("none")), "whole": _ENDS["whole"], "source": source}
    else:
        blocks["ours"] = ((_LOAD_16, _ETHER_TYPE), (_EQUAL, _ARP, "none", ""), *blocks["ours"])
        blocks |= {"other": source, "whole": _ENDS["whole"]}
    return _assemble(blocks | {"header": ((_RETURN, _HEADER),)} | _ENDS)


def _assemble(blocks: Mapping[str, tuple[_Line, ...]]) -> bytes:
    """The program of the blocks in their order; comparisons lead to the beginning of later ones."""
    starts = {}
    at = 0
    for label, lines in blocks.items():
        starts[label] = at
        at += len(lines)
    program: list[bytes] = []
    for lines in blocks.values():
        for code, operand, *labels in lines:
            here = len(program) + 1
            skips = [starts[str(label)] - here if label else 0 for label in labels] or [0, 0]
            program.append(_instruction(code, *skips, operand))
    return b"".join(program)
