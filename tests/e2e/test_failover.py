"""The scheduler dies, is cut off, is stopped: another node takes its place, and only its own
connections notice. The role stays with who has it, so each test asks first who that is.
"""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from flows import (
    Flows,
    Tries,
    agreed,
    scheduler_of,
    status,
    wait_agreed,
    wait_same_table,
    wait_whole,
    watched,
)
from labs import lab_up
from parts import wait_until

#: Seconds without a try that succeeds, at most. benchmarks/failover.py measures; here others may
#: use the machine as well.
KILL_OUTAGE, CUT_OUTAGE, HANG_OUTAGE = 1.0, 1.5, 3.0
#: Seconds until a node that is back gets something: a status sweep and its pause.
SERVED = 5.0
#: Seconds that a stopped scheduler stays so: long enough for evidence 3.
STOPPED = 3.0
#: Seconds that a scheduler may be away without losing the role: less than down_after, and more, but
#: less than evidence 3 takes.
BLINKS = (0.15, 0.15, 0.6)


@pytest.fixture(scope="module")
def lab():
    with lab_up("failover") as lab:
        yield lab


@pytest.fixture(autouse=True)
def whole(request):
    """Each test begins with a whole array; what it broke and didn't mend fails it."""
    if "lab" in request.fixturenames:
        lab = request.getfixturevalue("lab")
        wait_whole(lab)
        yield
        wait_whole(lab)
    else:
        yield


def others(lab, *names):
    return sorted(set(lab.macs) - set(names))


def check_takeover(lab, first, second, story):
    """`second` has the role of `first`, everywhere and in a later term."""
    left = others(lab, first)
    assert second in left
    before, after = story.terms()[0], lab.status(second)["term"]
    assert after > before
    rows = {row["name"]: row for row in lab.status(second)["nodes"]}
    assert rows[first]["failed"]
    assert rows[first]["groups"] == 0
    assert not any(rows[name]["failed"] for name in left)
    # As an operator sees it.
    for name in left:
        done = lab.exec(name, "dlba", "status", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["scheduler"], told["term"]) == (second, after), name
        assert told["role"] == ("scheduler" if name == second else "backup")
    assert lab.seen()["scheduler"] == second


def check_serves(lab, scheduler, nodes, back=()):
    """New connections go to `nodes` only, soon also to those that have come back, having least."""
    served = set()

    def knock():
        for port in lab.new_ports(4):
            with lab.session(port) as session:
                assert session.ask().status == 200
                served.add(lab.where(port, node=scheduler)["owner"])
                session.abort()
        return served >= set(back)

    knock()
    wait_until(f"connections for {back}", knock, SERVED)
    assert served <= set(nodes), served


def test_the_scheduler_is_killed(lab):
    first = scheduler_of(lab)
    with Flows(lab) as flows, watched(lab) as (arp, story), Tries(lab) as tries:
        fault = time.monotonic()
        lab.do("kill", first)
        outage = tries.outage(fault)
        second = wait_agreed(lab, others(lab, first), but=first)
        time.sleep(1.5)
        check_takeover(lab, first, second, story)
        wait_same_table(lab, others(lab, first), [f.port for f in flows.on(*others(lab, first))])
        flows.check(first)
        check_serves(lab, second, others(lab, first))
        arp.check(first, second)
        story.check()
        assert outage < KILL_OUTAGE
        # It comes back as a backup, with the table, and nobody loses anything by that.
        with Flows(lab, 8, 4, nodes=others(lab, first)) as more:
            lab.do("start", first)
            assert wait_whole(lab) == second
            assert lab.status(first)["role"] == "backup"
            wait_same_table(lab, lab.macs, [flow.port for flow in more.all])
            more.check()
        check_serves(lab, second, lab.macs, [first])
        arp.check(first, second)
        story.check()


def test_the_link_of_the_scheduler_is_cut(lab):
    first = scheduler_of(lab)
    with Flows(lab) as flows, watched(lab) as (arp, story), Tries(lab) as tries:
        fault = time.monotonic()
        lab.do("cut", first)
        outage = tries.outage(fault)
        second = wait_agreed(lab, others(lab, first), but=first)
        wait_until("fault", lambda: status(lab, first)["role"] == "fault", 5)
        time.sleep(1.5)
        check_takeover(lab, first, second, story)
        flows.check(first)
        check_serves(lab, second, others(lab, first))
        assert outage < CUT_OUTAGE
        with Flows(lab, 8, 4, nodes=others(lab, first)) as more:
            lab.do("heal", first)
            assert wait_whole(lab) == second
            wait_same_table(lab, lab.macs, [flow.port for flow in more.all])
            more.check()
        check_serves(lab, second, lab.macs, [first])
        arp.check(first, second)
        story.check()
        assert "scheduler" not in story.roles(first, since=fault + 2.0)


def test_the_scheduler_is_stopped_and_goes_on(lab):
    """It wakes up believing that it has the role; nobody else may believe that for a moment."""
    first = scheduler_of(lab)
    with Flows(lab) as flows, watched(lab) as (arp, story), Tries(lab) as tries:
        fault = time.monotonic()
        lab.do("stop", first)
        outage = tries.outage(fault)
        second = wait_agreed(lab, others(lab, first), but=first)
        time.sleep(max(0.0, fault + STOPPED - time.monotonic()))
        check_takeover(lab, first, second, story)
        woken = time.monotonic()
        lab.do("continue", first)
        assert wait_whole(lab) == second
        time.sleep(1.0)
        flows.check(first, gone=False)
        arp.check(first, second)
        story.check()
        assert "scheduler" not in story.roles(first, since=woken + 1.0)
        assert outage < HANG_OUTAGE
    wait_same_table(lab, lab.macs, ())
    check_serves(lab, second, lab.macs, [first])


def test_a_scheduler_that_is_away_for_a_moment(lab):
    """No takeover, and nobody loses anything, whatever waited meanwhile."""
    first = scheduler_of(lab)
    term = lab.status(first)["term"]
    with Flows(lab) as flows, watched(lab) as (arp, story):
        for seconds in BLINKS:
            with lab.paused(first):
                time.sleep(seconds)
            time.sleep(0.5)
        assert wait_whole(lab) == first
        flows.check()
        arp.check(first)
        story.check()
    assert {lab.status(name)["term"] for name in lab.macs} == {term}


def is_failed(lab, scheduler, node):
    return {row["name"]: row for row in lab.status(scheduler)["nodes"]}[node]["failed"]


def test_a_backup_is_stopped_and_goes_on(lab):
    """The sweep finds it out, with all its retries."""
    first = scheduler_of(lab)
    term = lab.status(first)["term"]
    victim = others(lab, first)[0]
    with Flows(lab) as flows, watched(lab) as (arp, story):
        lab.do("stop", victim)
        wait_until(f"{victim} failed", lambda: is_failed(lab, first, victim), 10)
        assert agreed(lab, others(lab, victim)) == first
        check_serves(lab, first, others(lab, victim))
        lab.do("continue", victim)
        assert wait_whole(lab) == first
        flows.check(victim, gone=False)
        arp.check(first)
        story.check()
    assert {lab.status(name)["term"] for name in lab.macs} == {term}
    wait_same_table(lab, lab.macs, ())
    check_serves(lab, first, lab.macs, [victim])


def test_a_backup_is_killed(lab):
    """Its machine is there and refuses connections: that is evidence enough at once."""
    first = scheduler_of(lab)
    term = lab.status(first)["term"]
    victim = others(lab, first)[-1]
    with Flows(lab) as flows, watched(lab) as (arp, story):
        lab.do("kill", victim)
        wait_until(f"{victim} failed", lambda: is_failed(lab, first, victim), 2)
        check_serves(lab, first, others(lab, victim))
        flows.check(victim)
        lab.do("start", victim)
        assert wait_whole(lab) == first
        arp.check(first)
        story.check()
    assert {lab.status(name)["term"] for name in lab.macs} == {term}
    wait_same_table(lab, lab.macs, ())
    check_serves(lab, first, lab.macs, [victim])


def test_a_second_kill_after_the_first(lab):
    """Until one node is left; its connections have lived through both."""
    first = scheduler_of(lab)
    with Flows(lab, 24, 9) as flows, watched(lab) as (arp, story):
        lab.do("kill", first)
        second = wait_agreed(lab, others(lab, first), but=first)
        with Flows(lab, 8, 4, nodes=others(lab, first)) as more:
            lab.do("kill", second)
            [third] = others(lab, first, second)
            assert wait_agreed(lab, [third]) == third
            time.sleep(1.0)
            more.check(second)
        flows.check(first, second)
        check_serves(lab, third, [third])
        arp.check(first, second, third)
        lab.do("start", first)
        lab.do("start", second)
        assert wait_whole(lab) == third
        wait_same_table(lab, lab.macs, ())
        check_serves(lab, third, lab.macs, [first, second])
        arp.check(first, second, third)
        story.check()


def test_a_scheduler_that_is_killed_and_started_at_once(lab):
    """The new process has no role, and no time to wait for evidence is lost."""
    first = scheduler_of(lab)
    with Flows(lab) as flows, watched(lab) as (arp, story):
        lab.do("kill", first)
        lab.do("start", first)
        second = wait_whole(lab)
        assert second != first
        time.sleep(0.5)
        flows.check(first)
        arp.check(first, second)
        story.check()


def test_connections_of_a_moment_before(lab):
    """Buckets that were assigned more than 100 ms before the fault keep their nodes."""
    first = scheduler_of(lab)
    pid = lab.pid(first)
    with watched(lab) as (arp, story), Flows(lab, 24, 6, settle=0.12) as flows:
        os.kill(pid, signal.SIGKILL)
        second = wait_agreed(lab, others(lab, first), but=first)
        flows.check(first)
        arp.check(first, second)
        story.check()
        lab.do("start", first)


def test_majority():
    """Of three nodes the last one doesn't elect itself; with the second one back there is one."""
    with lab_up("majority", "election.quorum=majority") as lab:
        first = wait_whole(lab)
        with Flows(lab) as flows, watched(lab) as (arp, story):
            lab.do("kill", first)
            second = wait_agreed(lab, others(lab, first), but=first)
            flows.check(first)
            lab.do("kill", second)
            [third] = others(lab, first, second)
            time.sleep(3.0)
            assert lab.status(third)["role"] == "backup"
            since = time.monotonic()
            time.sleep(1.0)
            assert arp.turns(since) == []
            lab.do("start", first)
            now = wait_agreed(lab, others(lab, second))
            lab.do("start", second)
            assert wait_whole(lab) == now
            arp.check(first, second, now)
            story.check()
        check_serves(lab, now, lab.macs, [second])
