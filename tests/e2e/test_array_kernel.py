"""What a node changes in its kernel: all of it comes back, at the end or with the next start."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
from labs import NO_CHANNEL, VIP, lab_up, need_libpcap
from parts import TWISTD, program, wait_until

MODES = {
    "packet": (),
    "pcap": ("routing.packets=pcap",),
    "own_mac": ("routing.own_mac=true",),
}
#: What an operator may have had before, for eth0 of node a.
OPERATOR = """
ip addr add 192.0.2.9/32 dev lo label lo:x
ethtool -K eth0 gro on
echo 1 > /proc/sys/net/ipv4/conf/all/arp_announce
echo 2 > /proc/sys/net/ipv4/conf/eth0/arp_announce
echo 0 > /proc/sys/net/ipv4/conf/eth1/rp_filter
nft add table inet mine
"""


#: What else than sysctls and addresses changes while a node runs.
CHANGED = {"packet": set(), "pcap": {"ethtool -k eth0"}, "own_mac": {"nft -s list ruleset"}}


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def lab(mode):
    for name, package in (("nft", "nftables"), ("ethtool", "ethtool"), ("ip", "iproute2")):
        program(name, package)
    need_libpcap()
    with lab_up("kernel", NO_CHANNEL, *MODES[mode], nodes=2) as lab:
        yield lab


@pytest.fixture(scope="module")
def stopped():
    """A lab whose node a is stopped, with node b as it is."""
    with lab_up("stopped", NO_CHANNEL, nodes=2) as lab:
        stop(lab)
        yield lab


def dump(lab):
    """All that a node might have changed in the namespace of node a."""
    values = {}
    with lab.inside("a"):
        for path in sorted(Path("/proc/sys/net").glob("ipv[46]/**/*")):
            if path.is_file() and "stats" not in path.parts:
                with contextlib.suppress(OSError):
                    values[str(path)] = path.read_text()
    for what in (
        "ip -d addr",
        "ip route show table all",
        "ip rule",
        "ip maddr",
        "ethtool -k eth0",
        "nft -s list ruleset",
    ):
        values[what] = lab.tell("a", *what.split())
    return values


def changed(before, after):
    """What differs between two dumps."""
    return {
        k: (before.get(k), after.get(k)) for k in before | after if before.get(k) != after.get(k)
    }


def stop(lab):
    """TERM to node a, and its end."""
    os.kill(lab.pid("a"), signal.SIGTERM)
    wait_until("the end of a", lambda: lab.pid("a") is None, 20)


def test_everything_is_put_back(lab, mode):
    running = dump(lab)
    stop(lab)
    assert f"inet {VIP}/32" in running["ip -d addr"]
    assert "dlba0" in running["ip -d addr"]
    # What dlba lab makes a namespace with.
    before = dump(lab)
    assert VIP not in before["ip -d addr"]
    assert "dlba0" not in before["ip -d addr"]
    assert before["nft -s list ruleset"] == ""
    assert before["/proc/sys/net/ipv4/conf/all/arp_ignore"] == "0\n"
    assert before["/proc/sys/net/ipv4/conf/all/arp_announce"] == "0\n"
    assert before["/proc/sys/net/ipv4/conf/eth0/rp_filter"] == "1\n"
    # The same with settings of somebody's own.
    lab.tell("a", "sh", "-ec", OPERATOR)
    before = dump(lab)
    lab.do("start", "a")
    running = dump(lab)
    found = changed(before, running)
    assert {what for what in found if what.startswith(("ethtool", "nft"))} == CHANGED[mode]
    assert "/proc/sys/net/ipv4/conf/all/arp_ignore" in found
    stop(lab)
    assert changed(before, dump(lab)) == {}
    # Killed, it leaves things behind; the next start works all the same, and then ends cleanly.
    lab.do("start", "a")
    lab.do("kill", "a")
    left = dump(lab)
    assert f"inet {VIP}/32" in left["ip -d addr"]
    lab.do("start", "a")
    lab.wait_all_live()
    lab.check_works()
    # Of links alone numbers may differ: the TUN device is a new one.
    assert all(what.startswith("ip ") for what in changed(running, dump(lab)))
    stop(lab)
    assert changed(before, dump(lab)) == {}


def test_what_the_operator_changes_meanwhile_stays(stopped):
    before = dump(stopped)
    stopped.do("start", "a")
    where = "/proc/sys/net/ipv4/conf/all/arp_ignore"
    stopped.tell("a", "sh", "-ec", f"echo 2 > {where}")
    stop(stopped)
    assert changed(before, dump(stopped)) == {where: ("0\n", "2\n")}
    stopped.tell("a", "sh", "-ec", f"echo 0 > {where}")


# Starts that fail


def configured(lab, folder, **replaced):
    """A node.yaml of node a in a folder of its own; `replaced`: node or array, (old, new) each."""
    for path in lab.folder.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    (folder / "a").mkdir()
    shutil.copy(lab.folder / "a" / "node.yaml", folder / "a")
    for name, (old, new) in replaced.items():
        path = folder / {"node": "a/node.yaml", "array": "array.yaml"}[name]
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    return folder / "a" / "node.yaml"


def refused(lab, config, *words):
    """A start by hand: it ends with 1, says so and why, and changes nothing."""
    before = dump(lab)
    done = lab.exec("a", *TWISTD, "-n", "--pidfile=", "dlba", "-c", str(config), seconds=30)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    for word in words:
        assert word in said
    assert "Traceback" not in said
    assert changed(before, dump(lab)) == {}


def test_another_mac_than_configured(stopped, tmp_path):
    config = configured(stopped, tmp_path, array=("02:00:cb:00:71:0b", "02:00:cb:00:71:99"))
    refused(stopped, config, "eth0: MAC: expected 02:00:cb:00:71:99, got 02:00:cb:00:71:0b")


def test_another_address_than_configured(stopped, tmp_path):
    config = configured(stopped, tmp_path, array=("address: 203.0.113.11", "address: 203.0.113.19"))
    refused(stopped, config, "expected this node's 203.0.113.19, got 203.0.113.11")


def test_no_such_interface(stopped, tmp_path):
    config = configured(stopped, tmp_path, node=("interface: eth0", "interface: eth7"))
    refused(stopped, config, "expected a network interface, got 'eth7'")


def test_the_vip_on_the_interface(stopped, tmp_path):
    """As keepalived, or an older set-up, would have left it."""
    stopped.tell("a", "ip", "addr", "add", f"{VIP}/32", "dev", "eth0")
    try:
        config = configured(stopped, tmp_path)
        refused(stopped, config, f"eth0: {VIP}/32: expected the VIP as {VIP}/32 on lo alone")
    finally:
        stopped.tell("a", "ip", "addr", "del", f"{VIP}/32", "dev", "eth0")


def test_all_that_is_wrong_is_told_at_once(stopped, tmp_path):
    where = "/proc/sys/net/ipv4/conf/eth0/arp_ignore"
    stopped.tell("a", "sh", "-ec", f"echo 8 > {where}")
    try:
        config = configured(stopped, tmp_path, array=("02:00:cb:00:71:0b", "02:00:cb:00:71:99"))
        refused(
            stopped,
            config,
            "eth0: MAC: expected 02:00:cb:00:71:99",
            "net.ipv4.conf.eth0.arp_ignore: expected 0, 1 or 2, got 8",
        )
    finally:
        stopped.tell("a", "sh", "-ec", f"echo 0 > {where}")


def test_a_port_that_somebody_has(stopped, tmp_path):
    """The kernel's settings are made by then, and are given back."""
    with stopped.inside("a"), socket.socket() as sock:
        sock.bind(("0.0.0.0", 443))
        sock.listen()
        refused(stopped, configured(stopped, tmp_path), "443")


def test_a_second_process(lab, tmp_path):
    """Of the same node, or of one with another state folder: the first one goes on unharmed."""
    refused(lab, lab.folder / "a" / "node.yaml", "state")
    config = configured(lab, tmp_path, node=("9080", "9081"))
    refused(lab, config, "dlba0")
    lab.check_works()


def test_the_control_socket_and_the_state_folder_are_private(stopped):
    stopped.do("start", "a")
    try:
        state = stopped.folder / "a" / "state"
        assert state.stat().st_mode & 0o777 == 0o700
        assert (state / "control").stat().st_mode & 0o777 == 0o600
        done = stopped.exec("a", "sh", "-c", 'echo "$DLBA_CONTROL"')
        assert done.stdout.strip() == str(state / "control")
    finally:
        stop(stopped)
    assert not (state / "control").exists()
    assert stopped.seen()["scheduler"] is None
