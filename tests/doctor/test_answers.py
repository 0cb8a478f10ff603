"""Tests of dlba.doctor.answers: who was heard, and what it means. Scapy writes and reads frames."""

import attrs
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import ARP, Ether
from twisted.trial.unittest import SynchronousTestCase

from dlba.doctor.answers import KEPT, Answers, answer_findings, questions
from dlba.doctor.facts import Unseen
from dlba.routing.array import ipv4
from tests.doctor.samples import ETH0, config, facts, fresh
from tests.routing.machines import ADDRESS, MAC, PEER, PEER_MAC, VIP

OWN = MAC.hex(":")
OWN_SCHEDULER = "06" + OWN[2:]
PEER_SCHEDULER = "06" + PEER_MAC[2:]
THIRD = {"number": 2, "address": "203.0.113.13", "mac": "02:00:cb:00:71:0d"}
STRANGER = "52:54:00:12:34:56"


def reply(address, mac, **more):
    """The answer of a machine that has the address."""
    answer = ARP(op=2, hwsrc=mac, psrc=address, hwdst=OWN, pdst=ADDRESS, **more)
    return bytes(Ether(dst=OWN, src=mac) / answer)


def heard(*pairs):
    """The answers (address, MAC)."""
    answers = Answers(map(ipv4, (VIP, ADDRESS, PEER, THIRD["address"])))
    for address, mac in pairs:
        answers.hear(reply(address, mac))
    return answers


def said(about, answers, configuration=None, given=None):
    found = answer_findings(configuration or config(), given or facts(), answers)
    return [(str(one.level), one.found, one.mend) for one in found if one.about == about]


class HearingTests(SynchronousTestCase):
    def test_answers_questions_and_announcements(self):
        """All of them tell where their sender is."""
        for frame in (
            reply(PEER, PEER_MAC),
            bytes(Ether(dst=OWN, src=PEER_MAC) / ARP(hwsrc=PEER_MAC, psrc=PEER, pdst=ADDRESS)),
            bytes(
                Ether(dst="ff:ff:ff:ff:ff:ff", src=PEER_MAC)
                / ARP(op=2, hwsrc=PEER_MAC, psrc=PEER, hwdst=PEER_MAC, pdst=PEER)
            ),
        ):
            answers = heard()
            answers.hear(frame)
            self.assertEqual([mac.hex(":") for mac in answers.macs(PEER)], [PEER_MAC])
            self.assertEqual(answers.macs(VIP), [])

    def test_what_is_no_answer(self):
        answers = heard((PEER, "ff:ff:ff:ff:ff:ff"), (PEER, "00:00:00:00:00:00"))
        whole = reply(PEER, PEER_MAC)
        for frame in (b"", whole[:41], whole[:12] + b"\x08\0" + whole[14:], whole[:20] + bytes(22)):
            answers.hear(frame)
        answers.hear(reply("192.0.2.1", PEER_MAC))
        for address in (VIP, ADDRESS, PEER, "192.0.2.1"):
            self.assertEqual(answers.macs(address), [])

    def test_a_few_of_many_are_kept(self):
        answers = heard(*((PEER, f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}") for n in range(1000)))
        self.assertEqual(len(answers.macs(PEER)), KEPT)

    @given(st.binary(max_size=80))
    def test_anything(self, frame):
        answers = heard()
        answers.hear(frame)
        answers.hear(reply(PEER, PEER_MAC)[:12] + frame)


class QuestionTests(SynchronousTestCase):
    def asked(self, interface):
        return {
            address: Ether(frame)[ARP] for address, frame in questions(config(), interface).items()
        }

    def test_whose_answers_are_wanted(self):
        asked = self.asked(ETH0)
        self.assertEqual(set(asked), {ipv4(VIP), ipv4(ADDRESS), ipv4(PEER)})
        for address, packet in asked.items():
            self.assertEqual((packet.op, ipv4(packet.pdst), packet.hwsrc), (1, address, OWN))

    def test_in_whose_name(self):
        """Nobody learns anything wrong: probes name no sender."""
        asked = self.asked(ETH0)
        self.assertEqual(asked[ipv4(VIP)].psrc, "0.0.0.0")
        self.assertEqual(asked[ipv4(ADDRESS)].psrc, "0.0.0.0")
        self.assertEqual(asked[ipv4(PEER)].psrc, ADDRESS)
        other = b"\x02\0\0\0\0\x99"
        asked = self.asked(attrs.evolve(ETH0, addresses=(), mac=other))
        self.assertEqual({packet.psrc for packet in asked.values()}, {"0.0.0.0"})
        self.assertEqual({packet.hwsrc for packet in asked.values()}, {other.hex(":")})


class VipTests(SynchronousTestCase):
    def test_on_the_scheduler(self):
        """It doesn't hear itself: whoever is heard is somebody else."""
        for known in (facts(), facts(role=None)):
            self.assertEqual(said("VIP's ARP", heard(), given=known)[0][0], "ok")
            for mac, whose in (
                (STRANGER, "nobody of the array"),
                (PEER_MAC, "node b itself"),
                (PEER_SCHEDULER, "node b as scheduler"),
                (OWN_SCHEDULER, "node a as scheduler"),
            ):
                ((level, text, _),) = said("VIP's ARP", heard((VIP, mac)), given=known)
                self.assertEqual((level, text.endswith(f"{mac} ({whose})")), ("problem", True))
        ((_, text, _),) = said("VIP's ARP", heard((VIP, OWN_SCHEDULER)))
        self.assertIn("no machine with this node's MAC", text)

    def test_on_a_backup(self):
        backup = config(node={"node": "b"})
        given = facts(role="backup", interface=attrs.evolve(ETH0, addresses=(PEER,)))
        for macs, level, words in (
            ((), "warning", "nobody answers"),
            ((OWN_SCHEDULER,), "ok", f"{OWN_SCHEDULER} (node a as scheduler) answers"),
            ((STRANGER,), "problem", f"got {STRANGER} (nobody of the array)"),
            ((OWN,), "problem", f"got {OWN} (node a itself)"),
            ((OWN_SCHEDULER, STRANGER), "problem", f"{STRANGER} (nobody of the array)"),
            ((PEER_SCHEDULER,), "problem", "no machine with this node's MAC"),
        ):
            answers = heard(*((VIP, mac) for mac in macs))
            ((got, text, _),) = said("VIP's ARP", answers, backup, given)
            self.assertEqual((got, words in text), (level, True), text)

    def test_before_the_first_start(self):
        self.assertEqual(said("VIP's ARP", heard(), given=fresh())[0][0], "note")
        given = fresh()
        ((level, text, _),) = said("VIP's ARP", heard((VIP, PEER_SCHEDULER)), given=given)
        # By this file it is node a that is scheduler: the other one has another file.
        self.assertEqual((level, "expected node a to answer" in text), ("warning", True))

    def test_own_mac_mode(self):
        backup = config(node={"node": "b"}, routing={"own_mac": True})
        given = facts(role="backup")
        answers = heard((VIP, OWN))
        ((level, text, _),) = said("VIP's ARP", answers, backup, given)
        self.assertEqual((level, text), ("ok", f"{OWN} (node a as scheduler) answers"))

    def test_the_mend_names_the_machine(self):
        ((*_, mend),) = said("VIP's ARP", heard((VIP, PEER_MAC)))
        self.assertEqual(mend, "dlba doctor --fix    # on node b, whose kernel answers")
        ((*_, mend),) = said("VIP's ARP", heard((VIP, STRANGER)))
        self.assertTrue(mend.startswith(f"arping -D -c 3 -I eth0 {VIP}"))


class PeerTests(SynchronousTestCase):
    three = config(
        nodes={
            "a": {"number": 0, "address": ADDRESS, "mac": OWN},
            "b": {"number": 1, "address": PEER, "mac": PEER_MAC},
            "c": THIRD,
        }
    )

    def test_as_configured(self):
        answers = heard((PEER, PEER_MAC), (THIRD["address"], THIRD["mac"]))
        got = said("nodes' MACs", answers, self.three)
        self.assertEqual(got, [("ok", "b, c: as configured", "")])

    def test_another_mac(self):
        ((level, text, _),) = said("nodes' MACs", heard((PEER, STRANGER)))
        expected = f"node b: {PEER}: expected {PEER_MAC}, got {STRANGER}"
        self.assertEqual((level, text), ("problem", expected))

    def test_two_machines(self):
        for macs in ((PEER_MAC, STRANGER), (STRANGER, PEER_MAC), (STRANGER, OWN_SCHEDULER)):
            answers = heard(*((PEER, mac) for mac in macs))
            ((level, text, _),) = said("nodes' MACs", answers)
            self.assertEqual((level, "two machines have the address" in text), ("problem", True))
            self.assertIn(", ".join(macs), text)

    def test_silence(self):
        got = said("nodes' MACs", heard((THIRD["address"], THIRD["mac"])), self.three)
        self.assertEqual([level for level, *_ in got], ["warning", "ok"])
        self.assertEqual(got[1][1], "c: as configured")
        b = {"number": 1, "address": PEER, "mac": PEER_MAC, "enabled": False}
        nodes = {"a": {"number": 0, "address": ADDRESS, "mac": OWN}, "b": b}
        got = said("nodes' MACs", heard(), config(nodes=nodes))
        self.assertEqual([level for level, *_ in got], ["note"])

    def test_own_address(self):
        self.assertEqual(said("own address", heard((ADDRESS, OWN))), [])
        ((level, text, _),) = said("own address", heard((ADDRESS, STRANGER)))
        self.assertEqual(
            (level, text), ("problem", f"{ADDRESS}, this node's, is at {STRANGER} too")
        )

    def test_many_nodes(self):
        nodes = {"a": {"number": 0, "address": ADDRESS, "mac": OWN}}
        for number in range(1, 31):
            mac = f"02:00:00:00:01:{number:02x}"
            nodes[f"n{number}"] = {
                "number": number,
                "address": f"203.0.113.{99 + number}",
                "mac": mac,
            }
        answers = Answers(ipv4(node["address"]) for node in nodes.values())
        for node in nodes.values():
            answers.hear(reply(node["address"], node["mac"]))
        ((level, text, _),) = said("nodes' MACs", answers, config(nodes=nodes))
        self.assertEqual((level, text.endswith("n10 and 20 more: as configured")), ("ok", True))

    def test_nobody_was_asked(self):
        self.assertEqual(answer_findings(config(), facts(), None), [])
        (one,) = answer_findings(config(), facts(), Unseen("eth0 has no link"))
        self.assertEqual(
            (str(one.level), one.found), ("warning", "nobody was asked: eth0 has no link")
        )
