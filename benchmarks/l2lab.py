"""Makes the segment that l2.py measures on: network namespaces around one switch.

The namespaces have no names and the links are in them alone, so that nothing of it is seen outside,
and the kernel removes it all when the last process in it ends. The switch learns nothing: it is
told at which port each MAC is.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.l2plan import (
    CLIENT_MAC,
    INTERFACE,
    NODES,
    Subject,
    nft_node,
    node_address,
    node_mac,
)
from benchmarks.processes import BenchmarkError
from tests.namespaces import Namespace, up

__all__ = ["PACKAGES", "LinkCounter", "Segment"]

#: Program → Debian package.
PACKAGES: Final = {
    "bridge": "iproute2",
    "ip": "iproute2",
    "nft": "nftables",
    "taskset": "util-linux",
}


class LinkCounter:
    """What the interface of one namespace has received, in frames."""

    def __init__(self, namespace: Namespace) -> None:
        with namespace.entered():
            # It shows the namespace that it was opened in, whoever reads it later.
            self._file = os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> int:
        """Frames so far."""
        return received(os.pread(self._file, 1 << 16, 0).decode("ascii"), INTERFACE)

    def close(self) -> None:
        """Let go of the namespace."""
        os.close(self._file)


def received(text: str, interface: str) -> int:
    """Frames that `interface` has received, from /proc/net/dev. ValueError if it isn't there."""
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if colon and name.strip() == interface:
            return int(rest.split()[1])
    raise ValueError(f"/proc/net/dev: expected a line of {interface}, got none")


def _up(link: str) -> None:
    """Bring a link up, and return when it carries frames."""
    try:
        up(link)
    except AssertionError as error:
        raise BenchmarkError(str(error)) from None


class Segment:
    """The switch and everybody on it; make it with `Segment.made`."""

    def __init__(self, programs: dict[str, str]) -> None:
        self._programs = programs
        self._stack = contextlib.ExitStack()
        self._switch = self._namespace()
        self.client = self._namespace()
        self.nodes = {number: self._namespace() for number in NODES}
        self.subjects: dict[str, Namespace] = {}

    @classmethod
    @contextlib.contextmanager
    def made(cls, programs: dict[str, str], subjects: Sequence[Subject]) -> Iterator[Segment]:
        """Everything up while the block runs.

        Raises BenchmarkError when a command fails, OSError without permission.
        """
        self = cls(programs)
        with self._stack:
            self._bridge()
            self._join("client", self.client, [CLIENT_MAC], None)
            for number, namespace in self.nodes.items():
                address = node_address(number)
                self._join(f"node{number}", namespace, [node_mac(number)], address)
                self.nft(namespace, nft_node())
            for subject in subjects:
                namespace = self.subjects[subject.name] = self._namespace()
                macs = [subject.mac, subject.scheduler_mac]
                self._join(f"subject{subject.number}", namespace, macs, subject.address)
            yield self

    def counter(self, namespace: Namespace) -> LinkCounter:
        """A counter that is open as long as the segment is there."""
        counter = LinkCounter(namespace)
        self._stack.callback(counter.close)
        return counter

    def nft(self, namespace: Namespace, rules: str) -> None:
        """Load nftables rules in a namespace."""
        with namespace.entered():
            self._run(["nft", "-f", "-"], rules)

    def _namespace(self) -> Namespace:
        namespace = Namespace()
        self._stack.callback(namespace.close)
        return namespace

    def _bridge(self) -> None:
        with self._switch.entered():
            self._ip(
                "link add switch type bridge stp_state 0 mcast_snooping 0", "link set switch up"
            )
            # Where br_netfilter is loaded, iptables' hooks would get every frame here, too.
            for setting in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
                setting.write_text("0")

    def _join(
        self, port: str, namespace: Namespace, macs: Sequence[bytes], address: str | None
    ) -> None:
        """A cable from a port of the switch to `namespace`; the first of `macs` is its own."""
        mac = macs[0].hex(":")
        where = f"/proc/{os.getpid()}/fd/{namespace.fd}"
        with self._switch.entered():
            self._ip(
                f"link add {port} type veth peer name {INTERFACE} address {mac} netns {where}",
                f"link set {port} master switch up",
            )
            lines = [f"link set dev {port} learning off"]
            lines += [f"fdb replace {one.hex(':')} dev {port} master static" for one in macs]
            self._run(["bridge", "-batch", "-"], "\n".join(lines))
        with namespace.entered():
            if address is not None:
                self._ip(f"address add {address}/24 dev {INTERFACE}")
            _up(INTERFACE)
        with self._switch.entered():
            _up(port)

    def _ip(self, *lines: str) -> None:
        self._run(["ip", "-batch", "-"], "\n".join(lines))

    def _run(self, command: Sequence[str], text: str) -> None:
        words = [self._programs[command[0]], *command[1:]]
        done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=20)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise BenchmarkError(f"{command[0]}: expected no error, got {said!r} from {text!r}")
