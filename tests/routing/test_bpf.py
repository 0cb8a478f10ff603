"""The filters, judged by an interpreter of classic BPF that is written here, and by the kernel."""

import ctypes
import select
import socket
import struct

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q
from scapy.packet import Raw
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.bpf import VLAN_MARK, arp_only, scheduler_filter
from tests import namespaces
from tests.routing.frames import OWN, ROUTER, SCHEDULER, VIP, address, ip, link, mac, mutated, tcp

BROADCAST = "ff:ff:ff:ff:ff:ff"
ASK = ARP(hwsrc=ROUTER, psrc="10.99.0.1", pdst=VIP)

ARP_ONLY = arp_only()
SECOND_MAC = scheduler_filter(address(VIP), mac(SCHEDULER), mac(OWN))
OWN_MAC = scheduler_filter(address(VIP), mac(OWN), mac(OWN))
SECOND_MAC_NO_ARP = scheduler_filter(address(VIP), mac(SCHEDULER), mac(OWN), arp=False)
OWN_MAC_NO_ARP = scheduler_filter(address(VIP), mac(OWN), mac(OWN), arp=False)


def run(program: bytes, frame: bytes, tag: int | None = None) -> int:
    """What classic BPF says of `frame` (filter.rst): bytes that are read. `tag`: VLAN, 16 bits."""
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    assert 0 < len(code) <= 4096
    a = at = 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        if operation == 0x06:
            return min(k, len(frame))
        elif operation in (0x20, 0x28, 0x30):
            size = {0x20: 4, 0x28: 2, 0x30: 1}[operation]
            if k == (-0x1000 + 44) % 2**32:
                a = tag or 0
            elif k == (-0x1000 + 48) % 2**32:
                a = int(tag is not None)
            elif k + size > len(frame):
                return 0
            else:
                a = int.from_bytes(frame[k : k + size], "big")
        elif operation == 0x15:
            at += if_true if a == k else if_false
        elif operation == 0x54:
            a &= k
        else:
            raise AssertionError(f"instruction {operation:#x} isn't known here")


def untagged(frame: bytes) -> tuple[bytes, int | None]:
    """The frame as the kernel shows it, and the tag that it takes out."""
    if frame[12:14] in (b"\x81\x00", b"\x88\xa8") and len(frame) >= 18:
        return frame[:12] + frame[16:], int.from_bytes(frame[14:16], "big")
    return frame, None


def expected(frame: bytes, own_mac: bool, scheduler: bool) -> int:
    """How many bytes of the frame the scheduler, or a backup, wants to read."""
    frame, tag = untagged(frame)
    destination, kind = frame[:6].hex(":"), frame[12:14].hex()
    tagged = bool(tag and tag % 4096)
    if own_mac:
        to_vip = kind == "0800" and frame[30:34] == address(VIP)
        ours = destination == OWN and to_vip
    else:
        ours = destination == SCHEDULER
    if scheduler and ours:
        return VLAN_MARK if tagged else len(frame)
    if kind == "0806":
        return 0 if tagged else len(frame)
    forged = frame[6:12].hex(":") == (OWN if own_mac else SCHEDULER)
    return 14 if scheduler and forged else 0


WHOLE, NOTHING, MARK, HEADER = "whole", "nothing", "mark", "header"
#: Frame; what becomes of it under ARP_ONLY, SECOND_MAC, OWN_MAC.
TABLE = (
    (link() / ip() / tcp(), NOTHING, WHOLE, NOTHING),
    (link() / ip(options=[b"\x01" * 4]) / tcp(), NOTHING, WHOLE, NOTHING),
    (link(dst=OWN) / ip() / tcp(), NOTHING, NOTHING, WHOLE),
    (link(dst=OWN) / ip(dst="10.99.0.10") / tcp(), NOTHING, NOTHING, NOTHING),
    (link() / ip(dst="10.99.0.10") / tcp(), NOTHING, WHOLE, NOTHING),
    (link(dst=BROADCAST) / ip() / tcp(), NOTHING, NOTHING, NOTHING),
    (link(dst="06:99:00:00:00:11") / ip() / tcp(), NOTHING, NOTHING, NOTHING),
    (link(dst="06:98:00:00:00:10") / ip() / tcp(), NOTHING, NOTHING, NOTHING),
    (link(dst=BROADCAST, src=SCHEDULER) / ip() / tcp(), NOTHING, HEADER, NOTHING),
    (link(dst=ROUTER, src=OWN) / ip() / tcp(), NOTHING, NOTHING, HEADER),
    (link(dst=BROADCAST, src=SCHEDULER) / ASK, WHOLE, WHOLE, WHOLE),
    (link() / IPv6() / tcp(), NOTHING, WHOLE, NOTHING),
    (link(dst=OWN) / IPv6() / tcp(), NOTHING, NOTHING, NOTHING),
    (link(type=0x88CC) / Raw(b"lldp"), NOTHING, WHOLE, NOTHING),
    (link(type=0x0800), NOTHING, WHOLE, NOTHING),
    (link(dst=OWN, type=0x0800) / Raw(b"\x45" + bytes(18)), NOTHING, NOTHING, NOTHING),
    (link(dst=BROADCAST) / ASK, WHOLE, WHOLE, WHOLE),
    (link(dst=SCHEDULER) / ASK, WHOLE, WHOLE, WHOLE),
    (link(dst=OWN) / ASK, WHOLE, WHOLE, WHOLE),
    (link(dst=BROADCAST, type=0x0806), WHOLE, WHOLE, WHOLE),
    (link() / Dot1Q(vlan=3) / ip() / tcp(), NOTHING, MARK, NOTHING),
    (link() / Dot1AD(vlan=3) / Dot1Q(vlan=4) / ip() / tcp(), NOTHING, MARK, NOTHING),
    (link(dst=OWN) / Dot1Q(vlan=3) / ip() / tcp(), NOTHING, NOTHING, MARK),
    (link(dst=OWN) / Dot1Q(vlan=3) / ip(dst="10.99.0.10"), NOTHING, NOTHING, NOTHING),
    (link(dst=BROADCAST) / Dot1Q(vlan=3) / ASK, NOTHING, NOTHING, NOTHING),
    (link(dst=SCHEDULER) / Dot1Q(vlan=3) / ASK, NOTHING, MARK, NOTHING),
    (link() / Dot1Q(vlan=0, prio=5) / ip() / tcp(), NOTHING, WHOLE, NOTHING),
    (link() / Dot1Q(vlan=4095, prio=5) / ip() / tcp(), NOTHING, MARK, NOTHING),
    (link(dst=BROADCAST) / Dot1Q(vlan=0, prio=5) / ASK, WHOLE, WHOLE, WHOLE),
)
PROGRAMS = (ARP_ONLY, SECOND_MAC, OWN_MAC)


class ProgramTests(SynchronousTestCase):
    def test_table(self) -> None:
        for packet, *outcomes in TABLE:
            frame, tag = untagged(bytes(packet))
            sizes = {WHOLE: len(frame), NOTHING: 0, MARK: VLAN_MARK, HEADER: 14}
            for program, outcome in zip(PROGRAMS, outcomes, strict=True):
                self.assertEqual(run(program, frame, tag), sizes[outcome], (packet, outcome))

    @given(mutated(), st.none() | st.integers(0, 0xFFFF))
    def test_any_frame(self, frame: bytes, tag: int | None) -> None:
        if tag is not None:
            frame = frame[:12] + b"\x81\x00" + tag.to_bytes(2, "big") + frame[12:]
        if len(frame) < 14:
            return
        for own in (False, True):
            if own:
                frame = frame.replace(mac(SCHEDULER), mac(OWN), 1)
            programs = (ARP_ONLY, OWN_MAC if own else SECOND_MAC)
            for scheduler, program in enumerate(programs):
                got = run(program, *untagged(frame))
                self.assertEqual(got, expected(frame, own, bool(scheduler)))
            bare, tag = untagged(frame)
            got = run(OWN_MAC_NO_ARP if own else SECOND_MAC_NO_ARP, bare, tag)
            self.assertEqual(got, 0 if bare[12:14] == b"\x08\x06" else expected(frame, own, True))

    @given(st.binary(max_size=13))
    def test_less_than_a_header(self, frame: bytes) -> None:
        for program in (*PROGRAMS, SECOND_MAC_NO_ARP, OWN_MAC_NO_ARP):
            self.assertEqual(run(program, frame), 0)

    def test_wrong_lengths(self) -> None:
        for wrong in ((b"1", bytes(6), bytes(6)), (bytes(4), bytes(5), bytes(6))):
            self.assertRaises(ValueError, scheduler_filter, *wrong)


class KernelTests(SynchronousTestCase):
    """The same table, said by the kernel on a veth."""

    skip = namespaces.missing()

    def read(self, program: bytes) -> list[bytes]:
        """The frames of the table that a socket with the filter reads."""
        with (
            namespaces.private(),
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender,
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as reader,
        ):
            namespaces.pair()
            buffer = ctypes.create_string_buffer(program)
            fprog = struct.pack("HL", len(program) // 8, ctypes.addressof(buffer))
            reader.setsockopt(socket.SOL_SOCKET, 26, fprog)
            reader.setblocking(False)
            reader.bind(("two", 3))
            sender.bind(("one", 0))
            for packet, *_ in TABLE:
                sender.send(bytes(packet))
            frames = []
            while select.select([reader], [], [], 0.05)[0]:
                frames.append(reader.recv(4096))
            return frames

    def check(self, which: int) -> None:
        wanted = []
        for packet, *outcomes in TABLE:
            frame, _ = untagged(bytes(packet))
            if outcomes[which] != NOTHING:
                size = {WHOLE: len(frame), MARK: VLAN_MARK, HEADER: 14}[outcomes[which]]
                wanted.append(frame[:size])
        self.assertEqual(self.read(PROGRAMS[which]), wanted)

    def test_arp_only(self) -> None:
        self.check(0)

    def test_second_mac(self) -> None:
        self.check(1)

    def test_own_mac(self) -> None:
        self.check(2)
