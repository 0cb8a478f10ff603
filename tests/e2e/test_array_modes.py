"""The other ways to run an array: without a proxy, with one MAC, keyed, weighted, by libpcap."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter

import pytest
from labs import (
    CLIENT,
    CLIENT_MAC,
    MIB,
    NO_CHANNEL,
    VIP,
    lab_up,
    need_libpcap,
    number_of,
    pattern,
    spread,
)
from parts import nginx_config, program, wait_until
from scapy.layers.inet import TCP
from wire import HEADERS, Capture, captures

CONNECTIONS = 60
DOWNLOAD = 10 * MIB


def connect_all(lab, count=CONNECTIONS):
    """Connections with a request each; the nodes that answered, by port, as the client saw it."""
    ports = lab.new_ports(count)
    with captures(lab, front_client=HEADERS) as seen:
        for port in ports:
            with lab.session(port) as session:
                assert session.ask().status == 200
    answered = {}
    for frame in seen["client"].frames:
        if frame.out and TCP in frame.packet:
            source = lab.names.get(frame.packet.src, frame.packet.src)
            answered.setdefault(frame.packet[TCP].dport, set()).add(source)
    # Each is answered by one node, directly, and by that of the table.
    assert {port: answered[port] for port in ports} == {
        port: {lab.where(port)["owner"]} for port in ports
    }
    return ports


def check_spread(lab, count=CONNECTIONS):
    """New connections go where the status says that there is least."""
    rows = lab.status()["nodes"]
    ports = connect_all(lab, count)
    told = [lab.where(port) for port in ports]
    # By a keyed hash two ports may meet in one bucket.
    assert lab.groups() == spread(rows, len({answer["bucket"] for answer in told}))
    return Counter(answer["owner"] for answer in told)


# Weights


def test_weights():
    settings = ("nodes.b.weight=2", "nodes.c.weight=3", "nodes.d.weight=0", "nodes.e.enabled=false")
    with lab_up("weights", NO_CHANNEL, *settings, nodes=5) as lab:
        assert check_spread(lab) == {"a": 10, "b": 20, "c": 30}
        rows = lab.rows()
        assert (rows["d"]["groups"], rows["e"]["groups"]) == (0, 0)
        assert (rows["d"]["weight"], rows["e"]["enabled"]) == (0, False)
        lab.check_works()


# Keyed


def test_a_keyed_hash():
    """The client can't know its buckets: ports in a row are scattered."""
    with lab_up("keyed", NO_CHANNEL, "routing.hash=keyed") as lab:
        assert set(check_spread(lab)) == {"a", "b", "c"}
        ports = lab.new_ports(50)
        told = [lab.where(port) for port in ports]
        assert {answer["hash"] for answer in told} == {"keyed"}
        buckets = [answer["bucket"] for answer in told]
        by_sum = [(number_of(CLIENT) + port) % 65536 for port in ports]
        assert sum(a == b for a, b in zip(buckets, by_sum, strict=True)) < 5
        assert max(buckets) - min(buckets) > 65536 / 2
        # All nodes share the key: whoever is scheduler next finds the same buckets.
        for name in ("b", "c"):
            assert [lab.where(port, node=name)["bucket"] for port in ports] == buckets


# libpcap


def test_libpcap():
    need_libpcap()
    with lab_up("pcap", NO_CHANNEL, "routing.packets=pcap") as lab:
        assert "frames by pcap" in lab.log("a")
        assert check_spread(lab) == {"a": 20, "b": 20, "c": 20}
        body = pattern(DOWNLOAD)
        for node in ("a", "b"):
            with lab.session_on(node, tls=True) as session:
                session.download(DOWNLOAD).check(DOWNLOAD)
                got = session.ask("/echo", body).json()
                assert got["body_length"] == DOWNLOAD
                assert session.node == node
        counters = lab.counters()
        assert counters["frames_unsent"] == counters["frames_undelivered"] == 0
        assert counters["frames_oversized"] == 0
        lab.do("cut", "b")
        wait_until("b failed", lambda: lab.rows()["b"]["failed"], 5)
        lab.do("heal", "b")
        lab.wait_all_live()
        lab.check_works()


# One MAC


@pytest.fixture(scope="module")
def own_mac():
    program("nft", "nftables")
    with lab_up("own-mac", NO_CHANNEL, "routing.own_mac=true") as lab:
        yield lab


def test_one_mac_spreads_and_returns_directly(own_mac):
    lab = own_mac
    with Capture(lab, "client", "eth0", HEADERS) as seen:
        assert check_spread(lab) == {"a": 20, "b": 20, "c": 20}
        for node in ("a", "b"):
            with lab.session_on(node, tls=True) as session:
                session.download(DOWNLOAD).check(DOWNLOAD)
                assert session.ask("/echo", pattern(MIB)).json()["body_length"] == MIB
    frames = [f.packet for f in seen.frames if TCP in f.packet]
    assert len(frames) > 10 * CONNECTIONS
    # The kernel of the scheduler, whose MAC it is, would reset what it knows nothing of.
    for packet in frames:
        if packet.dst == CLIENT_MAC:
            assert lab.names[packet.src] == lab.where(packet[TCP].dport)["owner"]
    assert {p.dst for p in frames if p.src == CLIENT_MAC} == {lab.macs["a"]}
    lab.check_works()


def test_one_mac_leaves_no_rule_behind(own_mac):
    lab = own_mac

    def rules():
        return lab.tell("a", "nft", "-s", "list", "ruleset")

    running = rules()
    assert running.count("drop") == 1
    lab.do("kill", "a")
    # What a kill leaves drops what nobody would take.
    assert rules() == running
    lab.do("start", "a")
    assert rules() == running
    lab.wait_all_live()
    assert set(check_spread(lab, 30)) == {"a", "b", "c"}
    lab.check_works()


# Other ports


def test_other_ports_for_the_scheduler_itself():
    """`other: local`: servers on the VIP that aren't spread, TCP and UDP, on the scheduler."""
    with (
        lab_up("local", NO_CHANNEL, "routing.other=local", nodes=2) as lab,
        contextlib.ExitStack() as opened,
    ):
        udp = opened.enter_context(lab.socket("a", socket.SOCK_DGRAM))
        tcp = opened.enter_context(lab.socket("a"))
        for sock in (udp, tcp):
            sock.settimeout(10)
            sock.bind((VIP, 2222))
        tcp.listen()
        before = lab.counters()
        [port] = lab.new_ports(1)
        with lab.connect(port, 2222) as client, tcp.accept()[0] as server:
            client.sendall(b"question")
            assert server.recv(100) == b"question"
            server.sendall(b"answer")
            assert client.recv(100) == b"answer"
        with lab.socket("client", socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.connect((VIP, 2222))
            client.send(b"question")
            data, address = udp.recvfrom(100)
            udp.sendto(b"answer to " + data, address)
            assert client.recv(100) == b"answer to question"
        now = lab.counters()
        assert now["frames_local"] - before["frames_local"] >= 6
        assert now["frames_other_port"] == now["frames_other_protocol"] == 0
        # They are in nobody's bucket.
        assert lab.where(port)["owner"] is None
        lab.check_works()


# Without a proxy


@pytest.fixture
def prototype():
    with lab_up("prototype", NO_CHANNEL, "web=null", "routing.ports=[80]") as lab:
        yield lab


class Page:
    """What `nginx_config` wants to know of a server."""

    address = f"{VIP}:80"

    def __init__(self, name):
        self.name = name


def start_nginx(lab, rig, name):
    """nginx on the VIP, as node `name`."""
    folder = rig.new_folder(f"nginx-{name}")
    (folder / "www").mkdir()
    config = folder / "nginx.conf"
    config.write_text(nginx_config(Page(name), f'location / {{ return 200 "{name}\\n"; }}'))
    command = [program("nginx", "nginx-light"), "-p", str(folder), "-c", str(config)]
    with lab.inside(name):
        return rig.run(f"nginx-{name}", [*command, "-e", "error.log"], folder)


def test_any_server_can_be_spread_to(prototype, rig):
    lab = prototype
    # Nobody serves anything yet: the scheduler knows that of itself, of the others in time.
    wait_until("a failed", lambda: lab.rows()["a"]["failed"], 5)
    asked = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:9080/readyz")
    assert lab.tell("a", *asked) == "503"
    servers = {name: start_nginx(lab, rig, name) for name in lab.macs}
    lab.wait_all_live()
    assert check_spread(lab) == {"a": 20, "b": 20, "c": 20}
    with lab.session_on("b") as session:
        assert session.ask().body == b"b\n"
        # Its own server dies: the scheduler routes around itself, and the others notice nothing.
        killed = time.monotonic()
        servers["a"].kill()
        wait_until("a failed", lambda: lab.rows()["a"]["failed"], 5)
        assert time.monotonic() - killed < 3.0
        assert session.ask().body == b"b\n"
    assert lab.groups()["a"] == 0
    assert lab.status()["role"] == "scheduler"
    got = check_spread(lab, 30)
    assert set(got) == {"b", "c"}
    servers["a"] = start_nginx(lab, rig, "a")
    lab.wait_all_live()
    assert check_spread(lab, 12) == {"a": 12}
    assert lab.tell("a", *asked) == "200"
    assert "the server on the VIP doesn't answer" in lab.log("a")
