"""A machine that runs a node, on a segment where somebody may answer: for tests on real frames."""

import contextlib
import os
import select
import socket
import threading
from pathlib import Path

from dlba.config.load import load
from dlba.config.values import NodeConfig
from dlba.routing.segment import Segment
from dlba.state import lock_state, make_state
from tests import namespaces
from tests.doctor import samples
from tests.routing.machines import MachineTest

WAIT = 60  # seconds; generous, only a hang meets it


class SegmentTest(MachineTest):
    """Node a's machine; the other namespace's kernel is node b's. `file` is node a's node.yaml."""

    skip = namespaces.missing(tun=True)

    def setUp(self) -> None:
        super().setUp()
        self.file = self.state / "node.yaml"
        self.write()

    def write(self, **changes) -> NodeConfig:
        """The configuration of node a, see `samples.text`."""
        self.file.write_text(samples.text(**changes))
        (self.state / "state").mkdir(mode=0o700, exist_ok=True)
        (self.state / "state" / "secrets").write_text("k1 " + "x" * 40 + "\n")
        return load(self.file)

    @contextlib.contextmanager
    def running(self):
        """The node holds its state folder and has made its settings, as if it ran."""
        config = load(self.file)
        make_state(config.state)
        lock = lock_state(config.state)
        segment = Segment(config.array, config.node, config.interface, config.state)
        try:
            segment.open()
            yield segment
        finally:
            segment.close()
            os.close(lock)

    @contextlib.contextmanager
    def answering(self, answer, interface="peer"):
        """Somebody at `interface` of the other namespace sends `answer(frame)`, a list, for each.

        With what it got so far, for whom that interests.
        """
        seen = []
        over, ended = os.pipe()
        with self.other.entered():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        sock.bind((interface, 0x0806))

        def serve():
            while sock in select.select([sock, over], [], [], WAIT)[0]:
                seen.append(sock.recv(2048))
                for frame in answer(seen[-1]):
                    sock.send(frame)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield seen
        finally:
            os.close(ended)
            thread.join(WAIT)
            sock.close()
            os.close(over)


def sysctl(name: str, value: int | None = None) -> int:
    """Set and read `all.arp_ignore` and the like of the namespace that is entered."""
    path = Path("/proc/sys/net/ipv4/conf", *name.split("."))
    if value is not None:
        path.write_text(str(value))
    return int(path.read_text())
