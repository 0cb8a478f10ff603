"""The monitor and `dlba status` agree with what clients saw."""

from __future__ import annotations

import collections
import json
import re
import socket
import struct
import subprocess

from clients import curl, curls, rows, status
from parts import DLBA, ENV, LOCAL, WAIT, is_free, wait_until


def dlba(*args):
    return subprocess.run([*DLBA, *args], capture_output=True, text=True, env=ENV, timeout=WAIT)


def table(text, title):
    """The table under a title in the output of `dlba status`: rows as mappings."""
    lines = text.split(f"\n{title}\n")[1].split("\n\n")[0].splitlines()
    names = lines[0].split()
    return [dict(zip(names, re.split(r"  +", line.strip()), strict=True)) for line in lines[1:]]


def test_hits_and_cookies_are_what_clients_got(rig, tmp_path):
    backends = [rig.demo_backend(name) for name in ("app1", "app2", "app3")]
    node = rig.node(backends)
    replies = [curl(f"{base}/") for base in (node.http, node.https) for _ in range(5)]
    jar = str(tmp_path / "jar")
    replies.append(curl(f"{node.http}/", "-c", jar))
    replies += curls([f"{node.http}/", f"{node.https}/echo"] * 5, "-b", jar)
    assert curl(f"{node.http}/", "-H", "Host: not/valid").status == 400

    hits = collections.Counter(reply.backend for reply in replies)
    cookies = collections.Counter(reply.backend for reply in replies if reply.cookies)
    assert sum(cookies.values()) == 11
    document = status(node)
    got = {row["name"]: row for row in document["backends"]}
    for backend in backends:
        row = got[backend.name]
        assert row["hits"] == hits[backend.name]
        assert row["cookie_groups"] == cookies[backend.name]
        assert (row["pool"], row["address"]) == ("app", backend.address)
        assert (row["failed"], row["draining"], row["open_connections"]) == (False, False, 0)
        assert 0 < row["average_response"] < 10
    counters = document["counters"]
    assert counters["requests"] == counters["responses"] == len(replies)
    assert counters["requests_refused"] == 1
    assert counters["cookies_injected"] == 11
    assert counters["handshakes"] == 6
    assert (document["node"], document["role"], document["nodes"]) == ("a", "alone", [])

    shown = dlba("status", "-c", str(node.config))
    assert shown.returncode == 0, shown.stderr
    for row in table(shown.stdout, "backends of this node"):
        assert int(row["hits"]) == got[row["name"]]["hits"]
        assert int(row["cookies"]) == got[row["name"]]["cookie_groups"]
        assert row["address"] == got[row["name"]]["address"]
        assert row["failed"] == "no"
    assert re.search(rf"^requests +{len(replies)}$", shown.stdout, re.MULTILINE)
    as_json = dlba("status", "--json", "--monitor", f"{LOCAL}:{node.monitor_port}")
    assert json.loads(as_json.stdout)["backends"] == document["backends"]


def test_a_failed_backend_is_shown_everywhere(rig):
    backend, other = rig.demo_backend("app1"), rig.demo_backend("app2")
    node = rig.node([backend, other])
    backend.kill()
    curls([f"{node.http}/"] * 4)
    assert {name: row["failed"] for name, row in rows(node).items()} == {
        "app1": True,
        "app2": False,
    }
    shown = table(dlba("status", "-c", str(node.config)).stdout, "backends of this node")
    assert {row["name"]: row["failed"] for row in shown} == {"app1": "yes", "app2": "no"}
    page = curl(f"{node.monitor}/")
    assert page.status == 200
    assert "text/html" in page.header("Content-Type")
    for text in ("app1", "app2", backend.address, other.address):
        assert text in page.body.decode()


def test_open_connections_are_counted_while_they_are_open(rig):
    node = rig.node([rig.demo_backend("app1")])
    request = b"GET /slow/50 HTTP/1.1\r\nHost: a\r\n\r\n"
    clients = [socket.create_connection((LOCAL, node.port), timeout=WAIT) for _ in range(5)]
    for client in clients:
        client.sendall(request)
    wait_until("five", lambda: rows(node)["app1"]["open_connections"] == 5)
    assert status(node)["counters"]["open_clients"] == 5
    for client in clients:
        # Reset: an ordinary close looks like a client that only has no more to say.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    wait_until("none", lambda: rows(node)["app1"]["open_connections"] == 0, 20)
    counters = status(node)["counters"]
    assert (counters["open_clients"], counters["requests_aborted"]) == (0, 5)


def test_a_client_that_has_no_more_to_say_is_answered(rig):
    node = rig.node([rig.demo_backend("app1")])
    with socket.create_connection((LOCAL, node.port), timeout=WAIT) as client:
        client.sendall(b"GET /slow/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"</html>\n")
    assert status(node)["counters"]["requests_aborted"] == 0


def test_the_monitor_answers_probes_and_nothing_else(rig):
    node = rig.node([rig.demo_backend("app1")])
    for path, code in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/status", 200),
        ("/", 200),
        ("/x", 404),
    ]:
        for more in ([], ["-I"]):
            assert curl(node.monitor + path, *more).status == code
    assert curl(f"{node.monitor}/status", "-X", "POST", "-d", "x").status == 405
    assert curl(f"{node.monitor}/status").header("Content-Type") == "application/json"
    node.process.terminate()
    gone = dlba("status", "-c", str(node.config))
    assert gone.returncode == 1
    assert str(node.monitor_port) in gone.stderr
    assert len(gone.stderr.splitlines()) == 1
    assert all(is_free(port) for port in node.ports)
