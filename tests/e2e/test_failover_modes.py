"""A scheduler is killed, or asked to stop, in arrays that aren't run in the default way."""

from __future__ import annotations

import os
import signal
import time

import pytest
from flows import Flows, scheduler_of, wait_agreed, wait_whole, watched
from labs import lab_up, need_libpcap
from parts import wait_until

MODES = {
    "own MAC": ("routing.own_mac=true",),
    "libpcap": ("routing.packets=pcap",),
    "keyed hash": ("routing.hash=keyed",),
    "hits": ("routing.placement=hits",),
}


@pytest.fixture(scope="module", params=MODES)
def lab(request):
    if request.param == "libpcap":
        need_libpcap()
    with lab_up("modes", *MODES[request.param]) as lab:
        yield lab


def test_the_scheduler_is_killed(lab):
    wait_whole(lab)
    first = scheduler_of(lab)
    left = sorted(set(lab.macs) - {first})
    with Flows(lab, 12, 6) as flows, watched(lab) as (arp, story):
        lab.do("kill", first)
        second = wait_agreed(lab, left, but=first)
        time.sleep(1)
        flows.check(first)
        arp.check(first, second)
        story.check()
    lab.do("start", first)
    assert wait_whole(lab) == second


def test_the_scheduler_is_asked_to_stop(lab):
    """Nobody else notices, and its own downloads come through; it closes kept connections."""
    wait_whole(lab)
    first = scheduler_of(lab)
    left = sorted(set(lab.macs) - {first})
    pid = lab.pid(first)
    with Flows(lab, 12, 6) as flows, watched(lab) as (arp, story):
        os.kill(pid, signal.SIGTERM)
        second = wait_agreed(lab, left, but=first)
        time.sleep(1)
        assert lab.pid(first) == pid, "it has connections to finish"
        flows.check(first, gone=False)
        wrong = [f.wrong for f in flows.on(first) if f.kind == "download" and f.wrong]
        assert not wrong
        arp.check(first, second)
        story.check()
    wait_until("its end", lambda: lab.pid(first) is None, 40)
    lab.do("start", first)
    assert wait_whole(lab) == second
