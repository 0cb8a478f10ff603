"""`dlba lab`, `dlba doctor` and `dlba status` as a user runs them; nothing is left of a lab."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from labs import VIP, Lab
from parts import DLBA, ENV, ROOT, wait_until

#: Seconds for three nodes; 2.5 on a quiet machine.
UP = 30.0
WHERE_NAMESPACES_ARE = Path("/run/netns")
#: Long enough to be alive at the end if nobody kills it.
SLEEP = ("sleep", "600")


@pytest.fixture
def lab():
    lab = Lab("lab")
    try:
        yield lab
    finally:
        lab.end()


def left_of(lab):
    """What there still is of a lab, by its name: namespaces, mounts, folders, processes."""
    found = [str(path) for path in WHERE_NAMESPACES_ARE.glob(f"dlba-{lab.name}-*")]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if lab.name in line]
    if lab.folder.exists():
        found.append(str(lab.folder))
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode("utf-8", "replace").split("\0")
            # This process itself is told of nothing by its name.
            if any(lab.name in word for word in words) and path.parent.name != str(os.getpid()):
                found.append(" ".join(words))
    return found


def machine():
    """The machine's own links and settings, which no lab touches."""
    links = subprocess.run(["ip", "-d", "addr"], capture_output=True, text=True, timeout=20).stdout
    sysctls = {
        path: path.read_text()
        for path in Path("/proc/sys/net/ipv4/conf").glob("*/*")
        if os.access(path, os.R_OK)
    }
    rules = subprocess.run(["nft", "-s", "list", "ruleset"], capture_output=True, timeout=20).stdout
    return links, sysctls, rules


def test_up_use_down(lab):
    before = machine()
    began = time.monotonic()
    said = lab.do("up")
    assert time.monotonic() - began < UP
    assert re.search(f"lab {lab.name}  vip {re.escape(VIP)}  scheduler [abc]\n", said), said
    assert f"dlba lab --name {lab.name} down" in said
    done = lab.exec("client", "curl", "-ksS", "-m", "10", f"https://{VIP}/")
    assert (done.returncode, "from backend" in done.stdout) == (0, True), done.stderr
    assert len(list(WHERE_NAMESPACES_ARE.glob(f"dlba-{lab.name}-*"))) == 8
    assert left_of(lab)
    assert lab.do("down") == f"lab {lab.name}: down\n"
    assert left_of(lab) == []
    assert machine() == before
    assert lab.do("down") == f"lab {lab.name}: nothing there\n"


def test_status_for_programs(lab):
    lab.up(nodes=2)
    document = lab.seen()
    # Both start at the same time, and on a busy machine either may be the first.
    first = document["scheduler"]
    role = {"a": "backup", "b": "backup", first: "scheduler"}
    assert (document["vip"], first in ("a", "b")) == (VIP, True)
    expected = [
        ("a", "203.0.113.11", "02:00:cb:00:71:0b", True, True, role["a"]),
        ("b", "203.0.113.12", "02:00:cb:00:71:0c", True, True, role["b"]),
    ]
    keys = ("name", "address", "mac", "running", "link", "role")
    assert [tuple(node[key] for key in keys) for node in document["nodes"]] == expected
    assert [backend["name"] for backend in document["backends"]] == ["app1", "app2"]
    for part in (*document["nodes"], *document["backends"]):
        os.kill(part["pid"], 0)
    lab.do("kill", "b")
    lab.do("cut", "a")
    wait_until("fault", lambda: lab.node_seen("a")["role"] == "fault", 5)
    document = lab.seen()
    assert document["scheduler"] is None
    a, b = document["nodes"]
    assert (a["running"], a["link"], a["role"]) == (True, False, "fault")
    assert (b["running"], b["link"], b["role"], b["pid"]) == (False, True, None, None)
    lab.do("heal", "a")
    lab.do("start", "b")
    wait_until("scheduler", lambda: lab.seen()["scheduler"] == "a", 5)
    lab.wait_all_live()


def test_a_command_as_a_part_of_it(lab):
    lab.up(nodes=1)
    for code in (0, 1, 7, 255):
        assert lab.exec("client", "sh", "-c", f"exit {code}").returncode == code
    assert lab.exec("client", "sh", "-c", "kill -9 $$").returncode == -signal.SIGKILL
    done = lab.exec("a", "sh", "-c", "echo out; echo err >&2; echo $DLBA_CONTROL")
    assert done.stdout == f"out\n{lab.folder}/a/state/control\n"
    assert done.stderr == "err\n"
    addresses = lab.exec("client", "ip", "-br", "addr").stdout
    assert "203.0.113.200/24" in addresses
    assert "front-a" in lab.exec("switch", "ip", "-br", "link").stdout
    done = lab.exec("client", "no-such-program-anywhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no-such-program-anywhere" in done.stderr
    done = lab.exec("b", "true")
    assert (done.returncode, "expected one of a, app1, client, got b" in done.stderr) == (2, True)


def test_doctor_and_status_in_a_healthy_node(lab):
    lab.up(nodes=2)
    done = lab.exec("a", *DLBA, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no problem" in done.stdout
    done = lab.exec("b", *DLBA, "doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)
    done = lab.exec("a", *DLBA, "status", "--json")
    assert json.loads(done.stdout)["role"] == "scheduler"
    done = lab.exec("a", *DLBA, "status")
    assert done.returncode == 0
    for word in ("scheduler", "a", "b", "app1", "app2"):
        assert word in done.stdout


def test_doctor_in_an_ill_node(lab):
    lab.up(nodes=2)
    lab.tell("a", "ip", "addr", "add", f"{VIP}/32", "dev", "eth0")
    done = lab.exec("a", *DLBA, "doctor")
    assert done.returncode == 1, done.stdout + done.stderr
    assert VIP in done.stdout
    assert "eth0" in done.stdout


def test_a_second_one_of_the_same_name(lab):
    lab.up(nodes=1)
    seen = lab.seen()
    done = lab.run("up", "--nodes", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"lab {lab.name}: expected none, got one" in done.stderr
    assert lab.seen() == seen
    assert lab.exec("client", "curl", "-sS", "-m", "10", f"http://{VIP}/").returncode == 0


def test_two_at_the_same_time(lab):
    other = Lab("other")
    try:
        lab.up(nodes=1)
        other.up(nodes=1)
        for one in (lab, other):
            with one.session() as session:
                assert session.ask().status == 200
        lab.do("down")
        with other.session() as session:
            assert session.ask().status == 200
    finally:
        other.end()
    assert left_of(other) == []


def test_a_wrong_configuration_makes_nothing(lab):
    done = lab.run("up", "--set", "routing.bucket_timeout=soon")
    assert (done.returncode, done.stdout) == (2, "")
    assert "bucket_timeout" in done.stderr
    assert left_of(lab) == []
    done = lab.run("up", "--set", "nodes.a.mac=02:00:00:00:00:01", "--nodes", "1")
    assert done.returncode == 1
    assert "expected 02:00:00:00:00:01" in done.stderr
    assert left_of(lab) == []


def test_down_after_everything_was_killed(lab):
    lab.up(nodes=2)
    with lab.inside("client"):
        guest = subprocess.Popen(SLEEP)
    seen = lab.seen()
    for part in (*seen["nodes"], *seen["backends"]):
        os.kill(part["pid"], signal.SIGKILL)
    wait_until("their end", lambda: not any(node["running"] for node in lab.seen()["nodes"]), 10)
    lab.do("down")
    assert left_of(lab) == []
    assert guest.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGKILL, 0.5),
        (signal.SIGKILL, 1.0),
        (signal.SIGKILL, 1.6),
        (signal.SIGTERM, 1.0),
        (signal.SIGINT, 1.3),
    ],
)
def test_up_that_is_ended_half_way(lab, number, after):
    command = [*DLBA, "lab", "--name", lab.name, "up", "--nodes", "2"]
    process = subprocess.Popen(command, cwd=ROOT, env=ENV, stdout=-3, stderr=-3, stdin=-3)
    time.sleep(after)
    process.send_signal(number)
    code = process.wait(60)
    if number == signal.SIGKILL and code == -number:
        # It had no say; what it left is taken down by the next one.
        lab.do("down")
    elif code != 0:
        # Asked to end, it takes down what it has made, and says so by its code.
        assert code in (1, -number)
    else:
        lab.do("down")
    assert left_of(lab) == []


def test_from_a_folder_and_an_environment_of_another_kind(lab, tmp_path):
    """Neither the working folder nor a proxy in the environment matters."""
    env = ENV | {"http_proxy": "http://127.0.0.1:1", "LC_ALL": "C", "PWD": str(tmp_path)}
    done = subprocess.run(
        [*DLBA, "lab", "--name", lab.name, "up", "--nodes", "1", "--json"],
        capture_output=True,
        cwd=tmp_path,
        env=env,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scheduler"] == "a"
    assert list(tmp_path.iterdir()) == []
