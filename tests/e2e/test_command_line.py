"""`twistd dlba` as an operator meets it: -t, a daemon's life, starts that fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading

import pytest
from clients import curl, rows, status
from parts import (
    ENV,
    LOCAL,
    TWISTD,
    WAIT,
    accepts,
    certificate,
    free_ports,
    is_free,
    node_config,
    wait_until,
)

#: Five mistakes; the comments tell them from what is right.
NODE = """\
node: a
array: array.yaml
monitor: {listen: "127.0.0.1:999999"}
log: {access: access.log, format: fancy}
"""
ARRAY = """\
web:
  listen:
    - {port: 8080}
  sites:
    - hosts: ["*"]
      default: true
      pool: ap
      shedule: url
  pools:
    app:
      backends:
        one: {address: "127.0.0.1:8081"}
        one: {address: "127.0.0.1:8082"}
"""
#: File, line, column, key and a word of each message.
PROBLEMS = [
    ("array.yaml", 7, 13, "web.sites[0].pool", "app"),
    ("array.yaml", 8, 7, "web.sites[0].shedule", "schedule"),
    ("array.yaml", 13, 9, "web.pools.app.backends.one", "once"),
    ("node.yaml", 3, 19, "monitor.listen", "999999"),
    ("node.yaml", 4, 35, "log.format", "combined"),
]


def twistd(folder, *args, seconds=WAIT):
    """Run to the end."""
    command = [*TWISTD, *args]
    return subprocess.run(
        command, cwd=folder, env=ENV, capture_output=True, text=True, timeout=seconds,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_the_check_names_all_errors_in_one_run(tmp_path):
    (tmp_path / "node.yaml").write_text(NODE)
    (tmp_path / "array.yaml").write_text(ARRAY)
    checked = twistd(tmp_path, "dlba", "-c", "node.yaml", "-t")
    assert checked.returncode == 2
    lines = (checked.stdout + checked.stderr).splitlines()
    assert len(lines) == len(PROBLEMS), lines
    for line, (file, number, column, key, word) in zip(lines, PROBLEMS, strict=True):
        place, _, message = line.partition(": ")
        assert place == f"{file}:{number}:{column}"
        assert message.startswith(f"{key}: ")
        assert word in message.removeprefix(f"{key}: ")
    # Nothing was made, not even by a start that fails.
    assert twistd(tmp_path, "-n", "--pidfile=", "dlba", "-c", "node.yaml").returncode == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["array.yaml", "node.yaml"]


def test_the_check_of_a_good_file_starts_nothing(tmp_path):
    ports = write_node(tmp_path, free_ports(1)[0])
    checked = twistd(tmp_path, "dlba", "-c", "node.yaml", "-t")
    assert checked.returncode == 0, checked.stderr
    assert all(is_free(port) for port in ports)
    assert not (tmp_path / "state").exists()
    (tmp_path / "node.key").write_text("no key\n")
    checked = twistd(tmp_path, "dlba", "-c", "node.yaml", "-t")
    assert checked.returncode == 2
    assert re.search(
        r"^node.yaml:\d+:\d+: array.web.listen\[1\].tls", checked.stderr + checked.stdout
    )


def write_node(folder, backend_port, **web):
    """A node.yaml, its certificate, and the ports it names."""
    certificate(folder)
    ports = free_ports(3)
    values = {
        "sites": [{"hosts": ["*"], "default": True, "pool": "app"}],
        "pools": {"app": {"backends": {"app1": {"address": f"{LOCAL}:{backend_port}"}}}},
        **web,
    }
    config = node_config(ports, values)
    config["log"] = {"access": "access.log"}
    (folder / "node.yaml").write_text(json.dumps(config, indent=1))
    return ports


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def daemon(rig, tmp_path):
    """A node that runs as a daemon: its folder, its ports and its process id."""
    backend = rig.demo_backend("app1")
    folder = tmp_path / "daemon"
    folder.mkdir()
    ports = write_node(folder, backend.port)
    started = twistd(folder, "--pidfile=node.pid", "--logfile=node.log", "dlba", "-c", "node.yaml")
    assert started.returncode == 0, started.stderr
    pid_file = folder / "node.pid"
    pid = int(wait_until("the pidfile", lambda: pid_file.exists() and pid_file.read_text()))
    yield folder, ports, pid
    if pid_file.exists() and alive(pid):
        os.kill(pid, signal.SIGKILL)


def test_the_life_of_a_daemon(daemon):
    folder, (port, tls_port, monitor_port), pid = daemon
    wait_until("it accepts", lambda: accepts(port))
    assert curl(f"http://{LOCAL}:{port}/").backend == "app1"
    assert curl(f"https://{LOCAL}:{tls_port}/").backend == "app1"
    assert curl(f"http://{LOCAL}:{monitor_port}/readyz").status == 200
    assert os.getsid(pid) != os.getsid(0)
    assert (folder / "state").stat().st_mode & 0o777 == 0o700
    assert (folder / "state" / "secrets").stat().st_mode & 0o777 == 0o600
    again = twistd(folder, "--pidfile=node.pid", "dlba", "-c", "node.yaml")
    assert again.returncode != 0
    os.kill(pid, signal.SIGHUP)
    assert curl(f"http://{LOCAL}:{port}/").status == 200
    os.kill(pid, signal.SIGTERM)
    wait_until("its end", lambda: not alive(pid), 20)
    assert not (folder / "node.pid").exists()
    assert all(is_free(number) for number in (port, tls_port, monitor_port))
    assert len((folder / "access.log").read_text().splitlines()) == 3
    log = (folder / "node.log").read_text()
    assert "ready: pid" in log
    assert "Traceback" not in log


def test_cookies_outlive_a_restart(rig, tmp_path):
    backends = [rig.demo_backend(name) for name in ("app1", "app2", "app3")]
    node = rig.node(backends)
    jar = str(tmp_path / "jar")
    first = curl(f"{node.https}/", "-c", jar)
    assert node.process.terminate() == 0
    command = [*TWISTD, "-n", "--pidfile=", "dlba", "-c", "node.yaml"]
    again = rig.run("dlba-again", command, node.folder)
    again.until_it_says("ready: pid")
    for base in (node.http, node.https) * 3:
        assert curl(f"{base}/", "-b", jar).backend == first.backend
    # Without the key file nobody knows the cookie any more.
    again.terminate()
    shutil.rmtree(node.folder / "state")
    once_more = rig.run("dlba-once-more", command, node.folder)
    once_more.until_it_says("ready: pid")
    assert list(curl(f"{node.http}/", "-b", jar).cookies) == ["DLBA"]
    assert once_more.terminate() == 0


def test_a_port_that_is_taken_stops_the_start(tmp_path):
    with socket.create_server((LOCAL, 0)) as taken:
        ports = write_node(tmp_path, free_ports(1)[0])
        text = (tmp_path / "node.yaml").read_text()
        port = taken.getsockname()[1]
        (tmp_path / "node.yaml").write_text(text.replace(str(ports[1]), str(port)))
        started = twistd(tmp_path, "-n", "--pidfile=", "dlba", "-c", "node.yaml")
        assert started.returncode == 1
        said = started.stdout + started.stderr
        assert f"listen on {LOCAL}:{port}: Address already in use" in said
        assert "Traceback" not in said
        # A daemon's start fails as well, and its log has the reason.
        args = ("--pidfile=node.pid", "--logfile=node.log", "dlba", "-c", "node.yaml")
        started = twistd(tmp_path, *args, seconds=30)
        assert started.returncode == 1
        log = (tmp_path / "node.log").read_text() + started.stdout + started.stderr
        assert f"listen on {LOCAL}:{port}: Address already in use" in log
        assert not (tmp_path / "node.pid").exists()
    assert all(is_free(number) for number in ports)


def test_term_lets_a_request_end_and_a_second_one_does_not(rig):
    node = rig.node([rig.demo_backend("app1")])
    replies = []

    def ask():
        replies.append(curl(f"{node.http}/slow/4"))

    idle = socket.create_connection((LOCAL, node.port), timeout=WAIT)
    asking = threading.Thread(target=ask)
    asking.start()
    wait_until("it is under way", lambda: rows(node)["app1"]["open_connections"] == 1)
    node.process.signal(signal.SIGTERM)
    wait_until("the port is given back", lambda: is_free(node.port), 20)
    assert idle.recv(1) == b""
    idle.close()
    asking.join(WAIT)
    assert [reply.status for reply in replies] == [200]
    assert replies[0].header("Connection") == "close"
    assert node.process.wait(20) == 0

    node = rig.node([rig.demo_backend("app1")])
    with socket.create_connection((LOCAL, node.port), timeout=WAIT) as client:
        client.sendall(b"GET /slow/50 HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until("it is under way", lambda: rows(node)["app1"]["open_connections"] == 1)
        assert status(node)["counters"]["open_clients"] == 1
        node.process.signal(signal.SIGTERM)
        wait_until("the port is given back", lambda: is_free(node.port), 20)
        assert node.process.ended() is None
        node.process.signal(signal.SIGTERM)
        # Far less than the 30 s that the request might still have.
        assert node.process.wait(15) == 0
