"""One address for three nodes: flows are spread, stay where they are, and return directly."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter

import pytest
from labs import CLIENT, CLIENT_MAC, MIB, VIP, number_of, pattern, spread
from parts import DLBA
from scapy.layers.inet import IP, TCP
from wire import HEADERS, LONGEST, captures

pytestmark = pytest.mark.usefixtures("idle")

CONNECTIONS = 200
DOWNLOAD = 50 * MIB
UPLOAD = 10 * MIB
#: Seconds: more than four times the bucket's time-out.
IDLE = 130.0
BUCKETS = 65536


@pytest.fixture(scope="module")
def many(array):
    """200 connections of one client, one after the other, each with a request.

    Groups before, rows after, the ports in order, and what passed the switch.
    """
    rows = array.status()["nodes"]
    ports = array.new_ports(CONNECTIONS)
    everywhere = {f"front_{name}": LONGEST for name in (*array.macs, "client")}
    with captures(array, **everywhere) as seen:
        for port in ports:
            with array.session(port) as session:
                assert session.ask().status == 200
    return rows, array.rows(), ports, seen


def by_port(capture):
    """Frames of a capture by client port: those from the client, and those to it."""
    there, back = {}, {}
    for frame in capture.frames:
        packet = frame.packet
        if TCP in packet and packet[IP].dst == VIP:
            there.setdefault(packet[TCP].sport, []).append(frame)
        elif TCP in packet and packet[IP].src == VIP:
            back.setdefault(packet[TCP].dport, []).append(frame)
    return there, back


def test_connections_are_spread_evenly(array, many):
    before, after, ports, _ = many
    assert len({(number_of(CLIENT) + port) % BUCKETS for port in ports}) == CONNECTIONS
    expected = spread(before, CONNECTIONS)
    assert {name: row["groups"] for name, row in after.items()} == expected
    got = Counter(array.where(port)["owner"] for port in ports)
    assert got == {row["name"]: expected[row["name"]] - row["groups"] for row in before}
    # Two ports of one bucket apart, a node never has two more than another.
    assert set(got.values()) <= {CONNECTIONS // 3, CONNECTIONS // 3 + 1}


def test_all_frames_of_a_connection_are_on_one_node(array, many):
    _, _, ports, seen = many
    _, answers = by_port(seen["client"])
    received = {name: by_port(seen[name])[0] for name in array.macs}
    for port in ports:
        owner = array.where(port)["owner"]
        assert {array.names[f.packet.src] for f in answers[port]} == {owner}, port
        got = set()
        for name, mac in array.macs.items():
            got |= {name for f in received[name].get(port, ()) if f.out and f.packet.dst == mac}
        # What the scheduler has itself never leaves it again.
        assert got == ({owner} - {"a"}), port


def test_forwarded_frames_differ_in_their_mac_addresses_alone(array, many):
    _, _, ports, seen = many
    sent, _ = by_port(seen["client"])
    scheduler = array.scheduler_mac()
    forwarded = {name: by_port(seen[name])[0] for name in ("b", "c")}
    at_scheduler, _ = by_port(seen["a"])
    count = 0
    for port in ports:
        frames = [f for f in sent[port] if not f.out]
        assert {(f.packet.dst, f.packet.src) for f in frames} == {(scheduler, CLIENT_MAC)}
        arrived = [f for f in at_scheduler[port] if f.out]
        assert [f.data for f in arrived] == [f.data for f in frames]
        owner = array.where(port)["owner"]
        if owner != "a":
            got = [f for f in forwarded[owner][port] if f.out]
            assert {(f.packet.dst, f.packet.src) for f in got} == {
                (array.macs[owner], array.macs["a"])
            }
            assert [f.data[12:] for f in got] == [f.data[12:] for f in frames]
            count += len(got)
    # Handshake, request, acknowledgements and the end.
    assert count > 5 * CONNECTIONS // 3


def test_answers_leave_their_node_directly(array, many):
    _, _, ports, seen = many
    _, answers = by_port(seen["client"])
    left = {name: by_port(seen[name])[1] for name in array.macs}
    for port in ports:
        owner = array.where(port)["owner"]
        got = [f.data for f in answers[port] if f.out]
        assert got == [f.data for f in left[owner][port] if not f.out]
        assert all(port not in left[name] for name in array.macs if name != owner)


@pytest.mark.parametrize("node", ["a", "b", "c"])
def test_a_download_over_tls(array, node):
    ports = {f"front_{name}": HEADERS for name in (*array.macs, "client")}
    with captures(array, **ports) as seen, array.session_on(node, tls=True) as session:
        session.download(DOWNLOAD).check(DOWNLOAD)
        assert session.node == node
    port = session.port
    sent = [f for f in seen["client"].of(port) if not f.out]
    assert all(f.of(port) == "in" for f in sent)
    # What a large download costs the client: acknowledgements.
    assert sum(f.size for f in sent) < DOWNLOAD / 20
    here = seen["a"].of(port)
    assert [f.data for f in here if f.out] == [f.data for f in sent]
    if node != "a":
        # The scheduler's link: in, and out once more, and nothing else of this connection.
        forwarded = [f for f in here if not f.out]
        assert [f.data[12:] for f in forwarded] == [f.data[12:] for f in sent]
        assert {(f.packet.src, f.packet.dst) for f in forwarded} == {
            (array.macs["a"], array.macs[node])
        }
    answers = [f for f in seen["client"].of(port) if f.out]
    assert {f.packet.src for f in answers} == {array.macs[node]}
    assert sum(f.size for f in answers) > DOWNLOAD
    for other in set(array.macs) - {node, "a"}:
        assert seen[other].of(port) == []


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("node", ["a", "b"])
def test_an_upload(array, node, tls):
    body = pattern(UPLOAD)
    with array.session_on(node, tls) as session:
        got = session.ask("/echo", body).json()
        assert session.node == node
    assert got["body_length"] == UPLOAD
    assert got["body_sha256"] == hashlib.sha256(body).hexdigest()


def test_frames_that_the_kernel_has_merged_are_scheduled(array):
    """A sender on the same machine leaves its segments to be cut by others."""
    with captures(array, front_client=HEADERS, front_b=HEADERS) as seen:
        with array.session_on("b") as session:
            session.ask("/echo", pattern(MIB))
    sent = [f.size for f in seen["client"].of(session.port) if not f.out]
    assert max(sent) > 1514
    assert sum(f.size for f in seen["b"].of(session.port) if f.out) >= sum(sent)
    counters = array.counters()
    assert counters["frames_oversized"] == counters["frames_unread"] == 0


def test_a_cookie_keeps_the_client_on_its_backend_over_all_nodes(array):
    with array.session() as first:
        answer = first.ask()
    backend, cookie = answer.backend, answer.cookie
    assert cookie.startswith("DLBA=")
    nodes = {False: set(), True: set()}
    for number in range(24):
        tls = number % 2 == 1
        with array.session(tls=tls) as session:
            answer = session.ask(Cookie=cookie)
            nodes[tls].add(session.node)
        assert (answer.status, answer.backend, answer.cookie) == (200, backend, None)
    assert nodes == {False: {"a", "b", "c"}, True: {"a", "b", "c"}}
    # Without it the same client gets the others, too.
    others = set()
    for _ in range(24):
        with array.session() as session:
            others.add(session.ask().backend)
    assert others - {backend}


def test_a_url_is_served_by_one_backend_over_all_nodes(array):
    for name in ("logo.png", "style.css", "a/b/c"):
        backends, nodes = set(), set()
        for _ in range(6):
            with array.session() as session:
                backends.add(session.ask(f"/static/{name}").backend)
                nodes.add(session.node)
        assert (len(backends), nodes) == (1, {"a", "b", "c"}), name


def test_where_tells_the_node_before_and_after(array):
    [port] = array.new_ports(1)
    before = array.where(port)
    assert (before["owner"], before["age"], before["why"]) == (None, None, "PLACED")
    assert before["bucket"] == (number_of(CLIENT) + port) % BUCKETS
    with captures(array, front_client=HEADERS) as seen, array.session(port) as session:
        session.ask()
    done = array.exec("a", *DLBA, "where", "--json", CLIENT, str(port))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told | {"age": 0} == array.where(port) | {"age": 0}
    assert (told["why"], told["role"]) == ("HELD", "scheduler")
    assert told["owner"] == told["node"] == before["node"]
    sources = {f.packet.src for f in seen["client"].of(port) if f.out}
    assert sources == {array.macs[told["node"]]}
    # Another node's copy of the table isn't the scheduler's.
    text = array.exec("b", *DLBA, "where", CLIENT, str(port)).stdout
    assert "the table of a backup, not of the scheduler" in text


def test_the_status_shows_the_tables_of_the_scheduler_alone(array):
    document = array.status("a")
    assert (document["role"], document["vip"]) == ("scheduler", VIP)
    assert [row["name"] for row in document["nodes"]] == ["a", "b", "c"]
    assert [row["number"] for row in document["nodes"]] == [0, 1, 2]
    for row in document["nodes"]:
        assert row["mac"] == array.macs[row["name"]]
        assert (row["enabled"], row["failed"], row["draining"]) == (True, False, False)
    assert document["table"]["buckets"] == BUCKETS
    groups = sum(row["groups"] for row in document["nodes"])
    assert document["table"]["assigned"] == groups
    assert document["table"]["version"] >= groups
    for name in ("b", "c"):
        other = array.status(name)
        assert (other["role"], other["nodes"]) == ("backup", [])
        assert other["table"]["assigned"] == 0


@pytest.mark.late
def test_idle_connections_keep_their_node(array, idle):
    since, sessions = idle
    time.sleep(max(0.0, since + IDLE - time.monotonic()))
    for node, kept in sessions.items():
        for session in kept:
            told = array.where(session.port)
            # Probes of their own keep the bucket in use: three within its time-out.
            assert (told["owner"], told["why"]) == (node, "HELD")
            assert told["age"] <= 11
            with captures(array, front_client=HEADERS) as seen:
                assert session.ask().status == 200
            sources = {f.packet.src for f in seen["client"].of(session.port) if f.out}
            assert sources == {array.macs[node]}
    assert array.counters()["frame_errors"] == 0
