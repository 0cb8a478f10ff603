"""Web servers die under load, and no client notices."""

from __future__ import annotations

import threading
import time

import pytest
from clients import Load, curl, rows, status
from parts import wait_until

PAGE = b"the same page from everybody\n"
ANSWER = f'location / {{ return 200 "{PAGE.decode().strip()}\\n"; }}'
FAIL_TIMEOUT = 2.0


@pytest.mark.parametrize("schedule", ["round-robin", "connections"])
def test_two_of_three_killed_under_load(rig, schedule):
    backends = [rig.nginx(f"app{number}", ANSWER) for number in (1, 2, 3)]
    site = {"hosts": ["*"], "default": True, "pool": "app", "schedule": schedule}
    node = rig.node(backends, [site], pool={"fail_timeout": FAIL_TIMEOUT})
    _, second, third = backends
    with Load(node.port, 8, expected=PAGE) as load:
        load.reach(500)
        assert load.seen(0) == {"app1", "app2", "app3"}
        second.kill()
        load.reach(500)
        third.kill()
        killed = time.monotonic()
        load.reach(500)
        # What was asked once the kill was over can't have reached a dead one.
        assert load.seen(killed) == {"app1"}
        failed = wait_until(
            "both marked",
            lambda: {n for n, row in rows(node).items() if row["failed"]} == {"app2", "app3"},
        )
        assert failed
        second.restart()
        third.restart()
        wait_until("app2 and app3 back", lambda: load.seen(killed) == {"app1", "app2", "app3"})
        load.reach(500)
    assert not load.problems, load.problems
    back = min(at for at, name in load.answers if at >= killed and name == "app3")
    # It was marked after the kill and left alone for that long since.
    assert back >= killed + FAIL_TIMEOUT - 0.5
    assert not any(row["failed"] for row in rows(node).values())
    counters = status(node)["counters"]
    assert counters["reroutes"] >= 2
    assert counters["backend_connect_failures"] >= 2
    assert counters["connections_accepted"] == 8
    assert sum(row["hits"] for row in rows(node).values()) == len(load.answers)
    for name in ("backends_unavailable", "responses_broken", "backend_errors", "internal_errors"):
        assert counters[name] == 0, name


def test_a_client_with_a_cookie_moves_once_and_stays_there(rig, tmp_path):
    backends = {name: rig.demo_backend(name) for name in ("app1", "app2", "app3")}
    node = rig.node(list(backends.values()), pool={"fail_timeout": 1.0})
    jar = str(tmp_path / "jar")
    first = curl(f"{node.https}/", "-c", jar)
    backends[first.backend].kill()
    second = curl(f"{node.https}/", "-b", jar, "-c", jar)
    assert second.status == 200
    assert second.backend != first.backend
    assert list(second.cookies) == ["DLBA"]
    backends[first.backend].restart()
    wait_until("taken back", lambda: curl(f"{node.http}/").backend == first.backend)
    for base in (node.http, node.https) * 2:
        reply = curl(f"{base}/", "-b", jar)
        assert (reply.backend, reply.cookies) == (second.backend, {})


def test_none_left_is_503_until_one_is_back(rig):
    backends = [rig.demo_backend(name) for name in ("app1", "app2")]
    node = rig.node(backends, pool={"fail_timeout": 30.0})
    assert curl(f"{node.http}/").status == 200
    for backend in backends:
        backend.kill()
    for base in (node.http, node.https):
        replies = [curl(f"{base}/"), curl(f"{base}/", "-d", "x=y"), curl(f"{base}/", "-I")]
        assert [reply.status for reply in replies] == [503] * 3
        assert b"503" in replies[0].body
    assert curl(f"{node.monitor}/healthz").status == 200
    backends[0].restart()
    # All are marked, so all are tried: nobody waits for fail_timeout.
    assert curl(f"{node.http}/").backend == "app1"


def test_a_backup_serves_only_when_the_others_are_dead(rig):
    app, spare = rig.demo_backend("app1"), rig.demo_backend("spare")
    pools = {
        "app": {
            "backends": {
                "app1": {"address": app.address},
                "spare": {"address": spare.address, "backup": True},
            },
            "fail_timeout": 1.0,
        }
    }
    node = rig.node([], pools=pools)
    assert {curl(f"{node.http}/").backend for _ in range(5)} == {"app1"}
    app.kill()
    assert {curl(f"{node.http}/").backend for _ in range(5)} == {"spare"}
    app.restart()
    wait_until("app1 back", lambda: curl(f"{node.http}/").backend == "app1")
    assert {curl(f"{node.http}/").backend for _ in range(5)} == {"app1"}


def test_a_post_is_not_sent_twice(rig):
    backend, other = rig.demo_backend("app1"), rig.demo_backend("app2")
    node = rig.node([backend, other], [{"hosts": ["*"], "default": True, "pool": "app"}])
    jar = str(rig.folder / "jar")
    first = curl(f"{node.http}/", "-c", jar)
    victim = backend if first.backend == "app1" else other
    replies = []
    asking = threading.Thread(
        target=lambda: replies.append(curl(f"{node.http}/slow/50", "-b", jar, "-d", "x=y"))
    )
    asking.start()
    wait_until("the request is there", lambda: rows(node)[victim.name]["open_connections"] == 1)
    victim.kill()
    asking.join(60)
    # The backend may have acted on it: nobody but the client may try again.
    assert [reply.status for reply in replies] == [502]
    assert status(node)["counters"]["retries"] == 0
