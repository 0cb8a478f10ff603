"""Holds what a node has on the array's segment: kernel settings, the TUN device, two ports.

An adapter. One port reads ARP, on every node; it is apart from the frames, so that no flood of
them delays the answers that tell who lives. The other one reads client frames and is open while
this node is scheduler. `open` does all of it or, when something is missing, none; `close` puts
everything back; after `lose`, `reopen` tries again once the interface is there.

Source: routing.md "The frame path" 3–5.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

from twisted.logger import Logger

from dlba.config.values import ArrayConfig
from dlba.errors import DLBAError
from dlba.routing.array import ipv4, mac_of_scheduler
from dlba.routing.guard import Guard
from dlba.routing.linkport import LinkPort, open_port
from dlba.routing.links import carrier, look_up, mtu
from dlba.routing.needs import TUN, Interface
from dlba.routing.settings import KernelSettings
from dlba.routing.tun import Tun

__all__ = ["COUNTERS", "Segment"]

#: Counter name → what one more of it means.
COUNTERS: Final[dict[str, str]] = {
    "frames_unsent": "frames that the interface did not take",
    "frames_undelivered": "frames for this node that its own kernel did not take",
    "frames_unread": "frames that were there and could not be read: merged by LRO",
    "frames_lost": "frames lost for want of socket buffer: more came than this node can read",
}


class Segment:
    """`name`: this node's; `interface`: its interface on the segment; `state`: its state folder.

    `array`: with a VIP (IPv4) and nodes, `name` among them.
    """

    _log = Logger()

    def __init__(self, array: ArrayConfig, name: str, interface: str, state: Path) -> None:
        assert array.vip is not None
        self._array = array
        self._name = interface
        self._node = array.nodes[name]
        self._vip = ipv4(array.vip)
        self._scheduler_mac = mac_of_scheduler(array, name)
        # libpcap gives no header that tells of merged packets: there they must not be merged.
        self._merging = array.routing.packets != "pcap"
        self._settings = KernelSettings(
            state,
            interface,
            array.vip,
            self._node.mac,
            self._node.address,
            merging=self._merging,
            guarded=array.routing.own_mac,
        )
        others = [node.mac for node in array.nodes.values() if node is not self._node]
        #: The drop rule; up from `open` to `close` in own-MAC mode.
        self.guard = Guard(interface, self._vip, others)
        self._tun: Tun | None = None
        #: For questions about interfaces.
        self._control: socket.socket | None = None
        self._scheduling = False
        #: What the ports counted that are closed by now.
        self._counted = dict.fromkeys(COUNTERS, 0)
        #: As the kernel tells of it; set by `open`.
        self.interface: Interface | None = None
        #: ARP; None while the interface is lost.
        self.arp: LinkPort | None = None
        #: Client frames; None while this node isn't scheduler, or the interface is lost.
        self.frames: LinkPort | None = None

    def open(self) -> None:
        """Bring all of it up. Raises OSError or DLBAError, with nothing changed, if it can't be."""
        self._settings.check()
        # Before anything is put back or changed: where a node runs already, this one fails.
        self._tun = Tun(TUN, self._merging)
        try:
            self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._settings.recover()
            self.guard.remove()
            self._settings.apply()
            self.interface = look_up(self._name)
            if self._array.routing.own_mac:
                self.guard.apply()
            self._settings.tun_up(TUN)
            self.arp = self._port()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Put everything back; as good twice as once."""
        self._close_ports()
        if self._tun is None:
            return  # not opened, or closed already: what there is belongs to somebody else
        if self._array.routing.own_mac:
            self.guard.remove()
        self._settings.undo()
        self._tun.close()
        self._tun = None
        if self._control is not None:
            self._control.close()
            self._control = None

    def schedule(self, active: bool) -> None:
        """Read client frames from now on, or no more. Raises as `open` does."""
        self._scheduling = active
        if active and self.arp is not None and self.frames is None:
            self.frames = self._port()
            self.frames.schedule(True, arp=False)
        elif not active and self.frames is not None:
            self._close_port(self.frames)
            self.frames = None

    def carrier(self) -> bool:
        """Whether the interface is up and its link is there."""
        return self.arp is not None and self._has_link(self._name)

    def mtu(self) -> int:
        """The interface's MTU, bytes; while it is gone the last one that was known."""
        assert self.interface is not None and self._control is not None
        return mtu(self._name, self._control) or self.interface.mtu

    def mend_tun(self) -> bool:
        """Whether the TUN device is up; one that was removed is made anew."""
        if self._tun is None or self._has_link(TUN):
            return self._tun is not None
        try:
            look_up(TUN)
            return False  # somebody has set it down, and knows why
        except (OSError, DLBAError):
            pass
        try:
            self._tun.renew()
            self._settings.tun_up(TUN)
        except (OSError, DLBAError):
            return False
        return True

    def lose(self) -> None:
        """The interface is down or gone: no port until `reopen`."""
        self._close_ports()

    def reopen(self) -> str:
        """Open the ports again if the interface is as it should be; else why not, in words."""
        try:
            found = look_up(self._name)
            if not found.up:
                return f"{self._name}: expected an interface that is up, got one that is down"
            # One that was made anew has none of them.
            self._settings.apply()
            if self._array.routing.own_mac:
                self.guard.apply()
            self.interface = found
            self.arp = self._port()
            self.schedule(self._scheduling)
        except (OSError, DLBAError) as error:
            self._close_ports()
            return " ".join(str(error).split())
        return ""

    def counters(self) -> dict[str, int]:
        """What the ports have counted since the start, see `COUNTERS`."""
        counts = dict(self._counted)
        for port in (self.arp, self.frames):
            if port is not None:
                _add(counts, port)
        return counts

    def _has_link(self, interface: str) -> bool:
        return self._control is not None and carrier(interface, self._control)

    def _port(self) -> LinkPort:
        assert self._tun is not None
        return open_port(
            self._array.routing.packets,
            self._name,
            self._vip,
            self._node.mac,
            self._scheduler_mac,
            self._tun,
        )

    def _close_ports(self) -> None:
        for port in (self.arp, self.frames):
            if port is not None:
                self._close_port(port)
        self.arp = self.frames = None

    def _close_port(self, port: LinkPort) -> None:
        _add(self._counted, port)
        port.close()


def _add(counts: dict[str, int], port: LinkPort) -> None:
    counts["frames_unsent"] += port.unsent
    counts["frames_undelivered"] += port.undelivered
    counts["frames_unread"] += port.unread
    counts["frames_lost"] += port.dropped()
