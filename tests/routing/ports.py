"""What holds for both kinds of port, on real frames; `test_linkport` and `test_pcapport` run it."""

import ctypes
import fcntl
import hashlib
import select
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic

from scapy.layers.inet import UDP
from scapy.layers.l2 import ARP, Dot1Q
from scapy.packet import Raw

from dlba.errors import DLBAError
from dlba.routing.frame import Filter, classify, link_header
from dlba.routing.kinds import Kind
from dlba.routing.linkport import LinkPort, Route
from dlba.routing.tun import Tun
from tests import namespaces
from tests.namespaces import Namespace, ip
from tests.routing import frames
from tests.routing.frames import MEMBERS, OWN, ROUTER, SCHEDULER, VIP, address, link, mac, tcp

BROADCAST = "ff:ff:ff:ff:ff:ff"
HEADER = link_header(mac(MEMBERS[0]), mac(OWN))
ASK = ARP(hwsrc=ROUTER, psrc="10.99.0.1", pdst=VIP)
QUESTION = bytes(link(dst=BROADCAST) / ASK)

#: A client's: small, padded, as long as the MTU, with IP options, a fragment, with a trailer.
FORWARDED = (
    frames.plain(),
    frames.plain().ljust(60, b"\0"),
    frames.plain(bytes(range(256)) * 5 + bytes(180)),
    bytes(link() / frames.ip(options=[b"\x01" * 8]) / tcp() / Raw(b"after options")),
    bytes(link() / frames.ip(flags="MF") / tcp() / Raw(bytes(700))),
    bytes(link() / frames.ip() / UDP() / Raw(b"any protocol")),
    frames.plain(b"trailer").ljust(80, b"\xaa"),
)


class Recorder:
    """A route that keeps what it was asked, and answers always the same."""

    def __init__(self, answer: bytes | None = HEADER) -> None:
        self.answer = answer
        self.seen: list[bytes] = []
        self.merged: list[bool] = []

    def __call__(self, frame: memoryview, merged: bool) -> bytes | None:
        self.seen.append(bytes(frame))
        self.merged.append(merged)
        return self.answer


def raw_socket(interface: str) -> socket.socket:
    """Sends frames, and receives all that come in."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(263, 23, 1)  # PACKET_IGNORE_OUTGOING
    sock.bind((interface, 3))
    sock.setblocking(False)
    return sock


def received(sock: socket.socket) -> list[bytes]:
    """All frames that wait."""
    result = []
    while select.select([sock], [], [], 0.02)[0]:
        result.append(sock.recv(1 << 16))
    return result


def waits(port: LinkPort, seconds: float = 1.0) -> bool:
    """Whether something is to be read within the time."""
    return bool(select.select([port], [], [], seconds)[0])


def pump_all(port: LinkPort, route: Route) -> int:
    """Read until nothing waits; how many frames."""
    count = 0
    while waits(port, 0.02):
        count += port.pump(route, 256)
    return count


def offloads_off(*interfaces: str) -> None:
    """No checksum is left to a NIC and nothing is merged: for a tap that knows of neither."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for interface in interfaces:
            # ETHTOOL_STXCSUM, STSO, SGSO, SGRO (linux/ethtool.h), each to 0, by SIOCETHTOOL
            for command in (0x17, 0x1F, 0x24, 0x2C):
                value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
                request = struct.pack("@16sP16x", interface.encode(), ctypes.addressof(value))
                fcntl.ioctl(sock, 0x8946, request)


class PortTests:
    """A veth pair in one namespace: `port` on its end "two", the outside on "one"."""

    opener: Callable[..., LinkPort]
    #: Whether the port wants a TUN device with headers.
    vnet: bool
    #: Bytes that are read of a frame of another VLAN.
    vlan_mark: int

    def setUp(self) -> None:
        stack = ExitStack()
        self.addCleanup(stack.close)
        self.keep = stack.enter_context
        self.keep(namespaces.private())
        namespaces.pair(macs=(ROUTER, OWN))
        self.outside = self.keep(raw_socket("one"))
        self.tun = Tun(vnet=self.vnet)
        stack.callback(self.tun.close)

    def open(self, **changes) -> LinkPort:
        values = {
            "interface": "two",
            "vip": address(VIP),
            "own_mac": mac(OWN),
            "scheduler_mac": mac(SCHEDULER),
            "tun": self.tun,
        }
        port = type(self).opener(**(values | changes))
        self.addCleanup(port.close)
        return port

    def scheduling(self, **changes) -> LinkPort:
        port = self.open(**changes)
        port.schedule(True)
        return port

    def read(self, port: LinkPort, *sent: bytes) -> list[bytes]:
        """What the port reads of these frames from outside."""
        for frame in sent:
            self.outside.send(frame)
        recorder = Recorder(None)
        pump_all(port, recorder)
        return recorder.seen

    # ---------------------------------------------------------------- forwarding

    def test_forwards_byte_for_byte(self) -> None:
        port = self.scheduling()
        for frame in FORWARDED:
            self.outside.send(frame)
        recorder = Recorder()
        self.assertEqual(pump_all(port, recorder), len(FORWARDED))
        self.assertEqual(recorder.seen, list(FORWARDED))
        self.assertEqual(recorder.merged, [False] * len(FORWARDED))
        self.assertEqual(received(self.outside), [HEADER + frame[12:] for frame in FORWARDED])
        self.assertEqual((port.unsent, port.undelivered, port.unread), (0, 0, 0))

    def test_none_is_the_end_of_a_frame(self) -> None:
        port = self.scheduling()
        self.assertEqual(self.read(port, *FORWARDED), list(FORWARDED))
        self.assertEqual(received(self.outside), [])

    def test_no_more_than_the_limit(self) -> None:
        port = self.scheduling()
        for _ in range(5):
            self.outside.send(FORWARDED[0])
        self.assertTrue(waits(port))
        recorder = Recorder()
        counts = [port.pump(recorder, 2) for _ in range(4)]
        self.assertEqual((counts, len(recorder.seen)), ([2, 2, 1, 0], 5))

    def test_own_frames(self) -> None:
        port = self.scheduling()
        own = [QUESTION, FORWARDED[0], FORWARDED[2]]
        self.assertEqual([port.send(frame) for frame in own], [True] * 3)
        self.assertEqual(received(self.outside), own)
        self.assertEqual(self.read(port), [])

    def test_what_the_kernel_does_not_take(self) -> None:
        port = self.scheduling()
        self.assertFalse(port.send(bytes(3000)))
        for frame in (FORWARDED[2], FORWARDED[0]):
            self.outside.send(frame)
        self.assertTrue(waits(port))
        ip("link set two mtu 900")
        self.assertEqual(pump_all(port, Recorder()), 2)
        self.assertEqual(port.unsent, 2)
        self.assertEqual(received(self.outside), [HEADER + FORWARDED[0][12:]])

    # ---------------------------------------------------------------- which frames

    def test_arp_alone_until_scheduling(self) -> None:
        port = self.open()
        own = bytes(link(dst=OWN) / frames.ip() / tcp())
        sent = (FORWARDED[0], QUESTION, own)
        self.assertEqual(self.read(port, *sent), [QUESTION])
        for active, arp, expected in (
            (True, True, [FORWARDED[0], QUESTION]),
            (True, False, [FORWARDED[0]]),
            (True, True, [FORWARDED[0], QUESTION]),
            (False, True, [QUESTION]),
            (False, True, [QUESTION]),
            (True, True, [FORWARDED[0], QUESTION]),
        ):
            port.schedule(active, arp)
            self.assertEqual(self.read(port, *sent), expected)

    def test_own_mac_mode(self) -> None:
        port = self.scheduling(scheduler_mac=mac(OWN))
        wanted = bytes(link(dst=OWN) / frames.ip() / tcp())
        other = bytes(link(dst=OWN) / frames.ip(dst="10.99.0.10") / tcp())
        self.assertEqual(self.read(port, FORWARDED[0], other, wanted, QUESTION), [wanted, QUESTION])
        self.assertEqual(namespaces.promiscuity("two"), 0)

    def test_vlan(self) -> None:
        port = self.scheduling()
        tagged = bytes(link() / Dot1Q(vlan=3) / frames.ip() / tcp())
        question = bytes(link(dst=BROADCAST) / Dot1Q(vlan=3) / ASK)
        seen = self.read(port, tagged, question)
        self.assertEqual(seen, [tagged[: self.vlan_mark]])

    def test_the_network_lets_the_scheduler_mac_in(self) -> None:
        port = self.scheduling()
        self.assertEqual(namespaces.promiscuity("two"), 1)
        port.close()
        self.assertEqual(namespaces.promiscuity("two"), 0)

    # ---------------------------------------------------------------- what is missing, what goes

    def test_no_such_interface(self) -> None:
        error = self.assertRaises(DLBAError, self.open, interface="none")
        self.assertIn("none", str(error))

    def test_close_twice(self) -> None:
        port = self.open()
        port.close()
        port.close()
        self.assertEqual(port.dropped(), 0)

    def gone(self, port: LinkPort) -> OSError | None:
        """What `pump` raises within a second; None if nothing."""
        until = monotonic() + 1
        while monotonic() < until:
            waits(port, 0.05)
            try:
                port.pump(Recorder(), 256)
            except OSError as error:
                return error
        return None

    def test_down_and_up_again(self) -> None:
        port = self.scheduling()
        ip("link set two down")
        error = self.gone(port)
        self.assertIsNotNone(error)
        self.assertIn(error.errno, (100, 19, 6))  # ENETDOWN, ENODEV, ENXIO
        self.assertFalse(port.send(QUESTION))
        port.close()
        namespaces.up("two")
        self.assertEqual(self.read(self.scheduling(), FORWARDED[0]), [FORWARDED[0]])

    def test_deleted(self) -> None:
        port = self.scheduling()
        ip("link del two")
        error = self.gone(port)
        self.assertIsNotNone(error)
        self.assertIn(error.errno, (100, 19, 6))
        self.assertFalse(port.send(QUESTION))
        port.schedule(False)
        port.close()

    def flood(self, port: LinkPort, count: int = 3000) -> None:
        """More frames than the port's buffer holds."""
        for _ in range(count):
            self.outside.send(FORWARDED[0])
        read = pump_all(port, Recorder(None))
        self.assertGreater(read, 0)
        self.assertGreater(port.dropped(), 0)
        self.assertEqual(read + port.dropped(), count)
        self.assertEqual(self.read(port, FORWARDED[1]), [FORWARDED[1]])
        self.assertEqual(read + port.dropped(), count)

    # ---------------------------------------------------------------- this node's own kernel

    def test_own_kernel(self) -> None:
        port = self.scheduling()
        ip(f"addr add {VIP}/32 dev dlba0")
        namespaces.up("dlba0")
        udp = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind((VIP, 0))
        udp.settimeout(1)
        packet = frames.ip() / UDP(sport=9, dport=udp.getsockname()[1]) / Raw(b"hello")
        self.outside.send(bytes(link() / packet).ljust(60, b"\0"))
        self.assertEqual(pump_all(port, Recorder(b"")), 1)
        self.assertEqual(udp.recv(99), b"hello")
        ip("link set dlba0 down")
        self.outside.send(bytes(link() / packet))
        self.assertEqual(pump_all(port, Recorder(b"")), 1)
        self.assertEqual((port.undelivered, self.tun.undelivered), (1, 1))


class Transfer:
    """TCP with the offloads that links have: client, scheduler and node, each in a namespace.

    The VIP is on the scheduler and the node, the client has it at the scheduler MAC, so that the
    kernel answers from where the frames go.
    """

    opener: Callable[..., LinkPort]
    vnet: bool
    #: Whether links keep their offloads.
    offloads: bool

    CLIENT, NODE, SCHEDULER_ADDRESS = "10.99.0.201", "10.99.0.11", "10.99.0.10"
    SIZE = 3 << 20

    def setUp(self) -> None:
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.stack.enter_context(namespaces.private())
        ip("link add switch type bridge", "link set switch up")
        self.client = self.attach("client", "02:99:00:00:00:c1", self.CLIENT)
        self.node = self.attach("node", MEMBERS[0], self.NODE)
        self.scheduler = self.attach("scheduler", OWN, self.SCHEDULER_ADDRESS)
        with self.client.entered():
            ip(f"neigh replace {VIP} lladdr {SCHEDULER} dev eth0")
        for namespace in (self.node, self.scheduler):
            with namespace.entered():
                ip(f"addr add {VIP}/32 dev lo")
        with self.scheduler.entered():
            self.tun = Tun(vnet=self.vnet)
            self.stack.callback(self.tun.close)
            namespaces.up("dlba0")
            values = address(VIP), mac(OWN), mac(SCHEDULER), self.tun
            self.port = type(self).opener("eth0", *values)
            self.stack.callback(self.port.close)
            self.port.schedule(True)
        self.rules = Filter(address(VIP), {80}, mac(SCHEDULER), mac(OWN), {mac(MEMBERS[0])})
        self.kinds: list[Kind] = []
        self.longest = 0

    def attach(self, name: str, hardware: str, number: str) -> Namespace:
        """A namespace with an eth0 at the switch."""
        namespace = Namespace()
        self.stack.callback(namespace.close)
        ip(
            f"link add {name} master switch type veth peer name eth0 address {hardware}",
            f"link set {name} up",
        )
        if not self.offloads:
            offloads_off(name, "eth0")
        namespace.take("eth0")
        with namespace.entered():
            ip(f"addr add {number}/24 dev eth0")
            namespaces.up("eth0")
        return namespace

    def upload(self, server_at: Namespace, answer: bytes) -> None:
        """Send some megabytes to the VIP and have an answer, while the port answers `answer`."""

        def route(frame: memoryview, merged: bool) -> bytes | None:
            kind = classify(frame, self.merged_rules if merged else self.rules)[0]
            self.kinds.append(kind)
            self.longest = max(self.longest, len(frame))
            self.assertEqual(merged, len(frame) > 1514)
            return answer if kind is Kind.TCP else None

        self.merged_rules = Filter(
            address(VIP), {80}, mac(SCHEDULER), mac(OWN), {mac(MEMBERS[0])}, mtu=0xFFFF
        )
        data = hashlib.shake_128(b"upload").digest(self.SIZE)
        with server_at.entered():
            listener = self.stack.enter_context(socket.create_server((VIP, 80)))
        with self.client.entered():
            client = self.stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((VIP, 80))
        server: socket.socket | None = None
        sent, got, until = 0, bytearray(), monotonic() + 10
        reply = b""
        while not reply and monotonic() < until:
            reading = [self.port, client, server or listener]
            readable, writable, _ = select.select(
                reading, [client] if sent < len(data) else [], [], 1
            )
            if self.port in readable:
                self.port.pump(route, 256)
            if listener in readable:
                server = self.stack.enter_context(listener.accept()[0])
            if server in readable:
                got += server.recv(1 << 20)
                if len(got) == len(data):
                    server.sendall(b"got it")
            if writable:
                sent += client.send(data[sent : sent + 65536])
            if client in readable:
                reply = client.recv(99)
        self.assertEqual(len(got), len(data))
        self.assertTrue(bytes(got) == data)
        self.assertEqual(reply, b"got it")
        self.assertEqual(set(self.kinds) - {Kind.ARP}, {Kind.TCP})
        self.assertEqual(self.longest > 1514, self.offloads)
        self.assertEqual((self.port.unsent, self.port.undelivered, self.port.unread), (0, 0, 0))

    def test_to_another_node(self) -> None:
        self.upload(self.node, HEADER)

    def test_to_this_node(self) -> None:
        self.upload(self.scheduler, b"")
