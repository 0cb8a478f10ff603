"""A machine for one test: a private namespace with eth0, its state compared before and after."""

import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from dlba.routing.offloads import read_features
from tests import namespaces

MAC = b"\x02\0\xcb\0\x71\x0b"
ADDRESS = "203.0.113.11"
VIP = "203.0.113.10"
PEER_MAC = "02:00:cb:00:71:c8"
PEER = "203.0.113.200"


def dump() -> dict[str, str]:
    """Every setting that a node may touch, and more: sysctls, addresses, offloads of eth0."""
    found = {}
    for path in sorted(Path("/proc/sys/net/ipv4/conf").glob("*/*")):
        found[str(path)] = path.read_text().strip()
    shown = subprocess.run(
        ["ip", "-o", "-4", "address"], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    found["addresses"] = "\n".join(line.partition(" valid_lft")[0] for line in shown.splitlines())
    for name, feature in read_features("eth0", ["rx-lro", "rx-gro", "rx-gro-hw"]).items():
        found[name] = str(feature.active)
    return found


class MachineTest:
    """`eth0` with MAC and ADDRESS; `peer` at its other end. Strict reverse-path filter."""

    def setUp(self) -> None:
        stack = ExitStack()
        self.addCleanup(stack.close)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        self.state = Path(folder)
        self.other = namespaces.Namespace()
        stack.callback(self.other.close)
        stack.enter_context(namespaces.private())
        for device in ("all", "default"):
            Path(f"/proc/sys/net/ipv4/conf/{device}/rp_filter").write_text("1")
        namespaces.pair("eth0", "peer", (MAC.hex(":"), PEER_MAC))
        namespaces.ip(f"address add {ADDRESS}/24 dev eth0")
        self.other.take("peer")
        with self.other.entered():
            namespaces.ip(f"address add {PEER}/24 dev peer", "link set peer up")
        namespaces.up("eth0")
        self.before = dump()
