"""Receives frames and sends them to one node, with nothing between: the floor that l2.py measures.

    l2bare.py KIND VIP OWN_MAC SCHEDULER_MAC NODE_MAC

A program of its own; it runs in a subject's namespace until it is ended. A wake takes as many
frames at most as DLBA's, each with one `recv_into` into the same buffer, 12 bytes of constant MAC
addresses (without them the switch would drop the frame), and one `send`. KIND:

- `same`: the kind of socket that DLBA has: virtio header, the same filter, buffers, membership.
- `plain`: what is fastest for frames that no offload touches: no virtio header, no queue on the
  way out;
- `port`: no loop like that but DLBA's own port, told to send everything to the one node: what is
  left of DLBA without the rules.
"""

from __future__ import annotations

import ctypes
import select
import socket
import struct
import sys
from pathlib import Path
from typing import Final

# As a script, only this folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.l2plan import INTERFACE
from dlba.routing.bpf import scheduler_filter
from dlba.routing.linkport import RECEIVE_BUFFER, SEND_BUFFER, LinkPort, open_port
from dlba.routing.reader import BATCH
from dlba.routing.tun import Tun

__all__ = ["open_socket", "run", "run_port"]

# linux/if_packet.h, asm-generic/socket.h
_SOL_PACKET: Final = 263
_ADD_MEMBERSHIP, _VNET_HDR, _QDISC_BYPASS, _IGNORE_OUTGOING = 1, 15, 20, 23
_MR_UNICAST: Final = 3
_SO_ATTACH_FILTER, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 26, 32, 33
_ETH_P_ALL: Final = 3
_VNET_HEADER: Final = 10


def open_socket(vnet: bool, vip: bytes, own_mac: bytes, scheduler_mac: bytes) -> socket.socket:
    """An AF_PACKET socket that gets frames for the scheduler MAC; not blocking."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    program = scheduler_filter(vip, scheduler_mac, own_mac, arp=False)
    code = ctypes.create_string_buffer(program, len(program))
    option = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    found.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
    found.setsockopt(_SOL_PACKET, _VNET_HDR if vnet else _QDISC_BYPASS, 1)
    found.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    found.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    found.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SEND_BUFFER)
    found.setblocking(False)
    found.bind((INTERFACE, _ETH_P_ALL))
    index = socket.if_nametoindex(INTERFACE)
    request = struct.pack("=iHH8s", index, _MR_UNICAST, 6, scheduler_mac)
    found.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, request)
    return found


def run(opened: socket.socket, offset: int, header: bytes) -> None:
    """Forward until somebody ends the process. `offset`: where the frame begins in the buffer."""
    receive, send = opened.recv_into, opened.send
    buffer = bytearray(1 << 17)
    view = memoryview(buffer)
    macs = slice(offset, offset + 12)
    #: Views cost as much as a system call.
    views = [view[:size] for size in range(2048)]
    poll = select.epoll()
    poll.register(opened, select.EPOLLIN)
    while True:
        poll.poll()
        try:
            for _ in range(BATCH):
                size = receive(buffer)
                buffer[macs] = header
                send(views[size])
        except OSError:  # nothing more there, or the interface took no more
            pass


def run_port(port: LinkPort, header: bytes) -> None:
    """The same with a port of DLBA's, which does all but the waiting."""
    port.schedule(True, arp=False)
    poll = select.epoll()
    poll.register(port.fileno(), select.EPOLLIN)
    while True:
        poll.poll()
        port.pump(lambda frame, merged: header, BATCH)


def main() -> None:
    """Read the command line and run."""
    kind, address, *macs = sys.argv[1:]
    own, scheduler, node = (bytes.fromhex(mac.replace(":", "")) for mac in macs)
    vip = socket.inet_aton(address)
    if kind == "port":
        run_port(open_port("auto", INTERFACE, vip, own, scheduler, Tun()), node + own)
    same = kind == "same"
    opened = open_socket(same, vip, own, scheduler)
    run(opened, _VNET_HEADER if same else 0, node + own)


if __name__ == "__main__":
    main()
