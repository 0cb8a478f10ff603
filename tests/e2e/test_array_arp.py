"""Who answers for the VIP: the scheduler alone, from user space, and it says so."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from labs import CLIENT, CLIENT_MAC, NO_CHANNEL, VIP, lab_up
from parts import wait_until
from scapy.layers.l2 import ARP, Ether
from wire import ASKER, BROADCAST, SOON, Capture, answers, send, who_has

A, B = "203.0.113.11", "203.0.113.12"
A_MAC, B_MAC = "02:00:cb:00:71:0b", "02:00:cb:00:71:0c"
SCHEDULER = "06:00:cb:00:71:0b"


@pytest.fixture(scope="module")
def lab():
    with lab_up("arp", NO_CHANNEL, nodes=2) as lab:
        yield lab


def test_the_scheduler_alone_answers_for_the_vip(lab):
    before = lab.counters()["arp_answered"]
    for destination in (BROADCAST, SCHEDULER, A_MAC):
        [answer] = answers(lab, who_has(VIP, destination))
        assert (answer.src, answer.dst) == (SCHEDULER, CLIENT_MAC), destination
        assert (answer[ARP].hwsrc, answer[ARP].psrc) == (SCHEDULER, VIP)
        assert (answer[ARP].hwdst, answer[ARP].pdst) == (CLIENT_MAC, ASKER)
    assert lab.counters()["arp_answered"] == before + 3
    # Probes of a host that wants the address for itself, too (RFC 5227).
    [answer] = answers(lab, who_has(VIP, psrc="0.0.0.0"))
    assert answer[ARP].hwsrc == SCHEDULER


def test_a_backup_is_silent_even_when_asked_alone(lab):
    assert answers(lab, who_has(VIP, B_MAC)) == []
    # The switch doesn't know this one and tells everybody.
    got = answers(lab, who_has(VIP, "06" + B_MAC[2:]))
    assert {answer.src for answer in got} <= {SCHEDULER}
    # Its own address it has.
    [answer] = answers(lab, who_has(B, B_MAC))
    assert answer[ARP].hwsrc == B_MAC


def test_a_second_answerer_is_counted_logged_and_answered(lab):
    rival = "02:00:00:00:66:66"
    before = lab.counters()
    claims = [
        Ether(src=rival, dst=BROADCAST) / ARP(op=2, hwsrc=rival, psrc=VIP, hwdst=rival, pdst=VIP),
        Ether(src=rival, dst=BROADCAST) / ARP(op=1, hwsrc=rival, psrc=VIP, pdst=VIP),
        Ether(src=rival, dst=A_MAC) / ARP(op=2, hwsrc=rival, psrc=VIP, hwdst=A_MAC, pdst=A),
    ]
    with Capture(lab, "client", "eth0") as capture:
        start = time.monotonic()
        while time.monotonic() < start + 3.0:
            send(lab, *claims)
            time.sleep(0.1)
        time.sleep(1.2)
    sent = sum(1 for f in capture.frames if f.out and f.packet.src == rival)
    assert sent >= 30
    now = lab.counters()
    assert now["arp_conflicts"] - before["arp_conflicts"] == sent
    said = [f.at for f in capture.frames if not f.out and is_announcement(f)]
    moments = [at for n, at in enumerate(said) if not n or at - said[n - 1] > 0.3]
    # At once, and then once a second; never more often.
    assert 3 <= len(moments) <= 6
    assert all(b - a > 0.9 for a, b in itertools.pairwise(moments))
    assert moments[0] - start < 1.0
    assert re.search(rf"{re.escape(VIP)} is claimed by {rival} too", lab.log("a"))
    assert lab.log("a").count("is claimed by") <= 2
    # The client believes the last one that it heard: the scheduler.
    lab.check_works()


def is_announcement(frame):
    packet = frame.packet
    return ARP in packet and packet[ARP].psrc == packet[ARP].pdst == VIP


@pytest.mark.parametrize(
    "frame",
    [
        Ether(src=CLIENT_MAC, dst=BROADCAST) / ARP(op=3, hwsrc=CLIENT_MAC, psrc=CLIENT, pdst=VIP),
        Ether(src=CLIENT_MAC, dst=BROADCAST) / ARP(op=1, hwlen=8, psrc=CLIENT, pdst=VIP),
        Ether(src=CLIENT_MAC, dst=BROADCAST) / ARP(op=1, ptype=0x86DD, psrc=CLIENT, pdst=VIP),
    ],
    ids=["operation", "length", "protocol"],
)
def test_arp_that_is_none(lab, frame):
    before = lab.counters()["arp_malformed"]
    assert answers(lab, frame, 0.2) == []
    wait_until("it", lambda: lab.counters()["arp_malformed"] > before, SOON)
    assert lab.counters()["arp_malformed"] == before + 1


def test_a_scheduler_asks_and_then_announces_in_both_forms(lab):
    lab.do("kill", "a")
    with Capture(lab, "client", "eth0") as capture:
        assert lab.status("b")["role"] == "backup"
        lab.do("start", "a")
        capture.until("two bursts", lambda frames: sum(map(is_announcement, frames)) >= 12)
        time.sleep(0.5)
    about = [f for f in capture.frames if ARP in f.packet and f.packet[ARP].pdst == VIP]
    about = [f for f in about if not f.out]
    # A backup has nothing to say of the VIP, whatever becomes of the scheduler.
    assert {(f.packet.src, f.packet[ARP].hwsrc) for f in about} == {(SCHEDULER, SCHEDULER)}
    assert {f.packet.dst for f in about} == {BROADCAST}
    probes, said = about[:3], about[3:]
    assert {(f.packet[ARP].op, f.packet[ARP].psrc) for f in probes} == {(1, "0.0.0.0")}
    assert [f.packet[ARP].op for f in said] == [1, 2] * 6
    for frame in said:
        packet = frame.packet[ARP]
        assert packet.psrc == VIP
        # Linux believes a reply that says the same MAC twice within a second of another one, too.
        assert packet.hwdst == ("00:00:00:00:00:00" if packet.op == 1 else SCHEDULER)
    # Three pairs at once, and three more a second later.
    assert said[5].at - probes[0].at < 0.5
    assert 0.8 < said[6].at - said[0].at < 2.0
    lab.wait_all_live()
    lab.check_works()
