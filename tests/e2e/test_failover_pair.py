"""Two nodes, of which either is all that is left when the other is gone."""

from __future__ import annotations

import time

import pytest
from flows import Flows, Tries, scheduler_of, wait_agreed, wait_same_table, wait_whole, watched
from labs import lab_up


@pytest.fixture(scope="module")
def lab():
    with lab_up("pair", nodes=2) as lab:
        yield lab


@pytest.mark.parametrize("fault", ["kill", "cut", "stop"])
def test_the_scheduler_is_lost_and_comes_back(lab, fault):
    mend = {"kill": "start", "cut": "heal", "stop": "continue"}[fault]
    wait_whole(lab)
    first = scheduler_of(lab)
    [second] = set(lab.macs) - {first}
    with Flows(lab) as flows, watched(lab) as (arp, story), Tries(lab) as tries:
        began = time.monotonic()
        lab.do(fault, first)
        outage = tries.outage(began)
        assert wait_agreed(lab, [second]) == second
        rows = {row["name"]: row for row in lab.status(second)["nodes"]}
        assert rows[first]["failed"]
        assert not rows[second]["failed"]
        with Flows(lab, 6, 3, nodes=[second]) as more:
            lab.do(mend, first)
            assert wait_whole(lab) == second
            more.check()
        flows.check(first, gone=fault == "kill")
        arp.check(first, second)
        story.check()
        assert outage < 3.0
    wait_same_table(lab, lab.macs, ())


def test_the_backup_is_lost_and_comes_back(lab):
    wait_whole(lab)
    first = scheduler_of(lab)
    [other] = set(lab.macs) - {first}
    with Flows(lab) as flows, watched(lab) as (arp, story):
        for fault, mend in (("cut", "heal"), ("kill", "start")):
            lab.do(fault, other)
            time.sleep(1.5)
            assert wait_agreed(lab, [first]) == first
            lab.do(mend, other)
            assert wait_whole(lab) == first
        flows.check(other)
        arp.check(first)
        story.check()
    wait_same_table(lab, lab.macs, ())
