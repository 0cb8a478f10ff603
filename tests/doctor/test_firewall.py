"""Tests of dlba.doctor.firewall: rulesets as nft lists them, and what is said of them."""

import json
import subprocess
from shutil import which

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.doctor.facts import Unseen
from dlba.doctor.firewall import firewall_findings
from tests import namespaces
from tests.doctor.samples import config, facts
from tests.routing.machines import VIP

TABLE = """
table {family} {name} {{
  {sets}
  chain {chain} {{
    {rules}
  }}
}}
"""
INPUT = "type filter hook input priority 0;"
#: Family, name of the chain, its rules → whether the ports 80 and 443 get in by dlba0, as far as is
#: read.
CHAINS = (
    ("inet", "input", f"{INPUT} policy accept;", True),
    ("inet", "input", f"{INPUT} policy drop;", False),
    ("ip", "INPUT", f"{INPUT} policy drop;", False),
    ("ip6", "input", f"{INPUT} policy drop;", True),
    ("inet", "x", "type filter hook forward priority 0; policy drop;", True),
    ("inet", "x", "drop", True),
)
#: The same for the rules of one input chain.
RULES = (
    ("policy drop; iifname dlba0 accept", True),
    ('policy drop; iifname { "eth0", "dlba0" } tcp dport 80 accept', True),
    ('policy drop; iifname "dlba*" accept', True),
    ('policy drop; iifname "eth*" accept', False),
    ("policy drop; iifname @inside accept", True),
    ("policy drop; iifname eth0 tcp dport { 80, 443 } accept", False),
    ("policy drop; tcp dport { 80, 443 } accept", True),
    ("policy drop; tcp dport 80 accept; tcp dport 443 counter accept", True),
    ("policy drop; tcp dport 80 accept", False),
    ("policy drop; tcp dport 1-1023 accept", True),
    ("policy drop; tcp dport { 22, 70-90, 443 } accept", True),
    ("policy drop; tcp dport { 22, 90-1000 } accept", False),
    (f"policy drop; ip daddr {VIP} tcp dport {{ 80, 443 }} ct state new accept", True),
    ("policy drop; ct state new,established tcp dport { 80, 443 } accept", True),
    ("policy drop; ct state established,related accept", False),
    ("policy drop; ct state established tcp dport { 80, 443 } accept", False),
    ("policy drop; ip saddr 10.0.0.0/8 tcp dport { 80, 443 } accept", False),
    ("policy drop; tcp dport != 22 accept", False),
    ("policy drop; tcp dport { 80, 443 } drop", False),
    ("policy drop; meta l4proto tcp accept", True),
    ("policy drop; accept", True),
    ("policy accept; tcp dport 22 accept; drop", False),
    ("policy accept; tcp dport 22 accept; counter reject", False),
    ("policy accept; tcp dport 80 accept; tcp dport 443 accept; counter log drop", True),
    ("policy accept; ip saddr 192.0.2.1 drop", True),
)
SETS = "set inside { type ifname; elements = { dlba0, eth0 } }"

PORTS = config(routing={"ports": [80, 443]})


def table(rules: str, *, family="inet", name="f", chain="input", sets="") -> str:
    return TABLE.format(family=family, name=name, chain=chain, rules=rules, sets=sets)


def ruleset(text: str):
    """What nft lists of a ruleset, in a namespace of its own."""
    with namespaces.private():
        return listed(text)


def listed(text: str):
    for argv, more in ((["-f", "-"], text), (["-j", "list", "ruleset"], "")):
        done = subprocess.run(
            ["nft", *argv], input=more, capture_output=True, text=True, timeout=20
        )
        if done.returncode:
            raise AssertionError(f"nft: {done.stderr} from {text}")
    return json.loads(done.stdout)["nftables"]


def said(rules, configuration=PORTS, **changes):
    found = firewall_findings(configuration, facts(ruleset=rules, **changes))
    return [(str(one.level), one.found, one.mend) for one in found]


class RealTests(SynchronousTestCase):
    skip = namespaces.missing() or (None if which("nft") else "nft (package nftables) is missing")

    def test_rulesets(self):
        tables = [
            (table(rules, family=family, chain=chain), fine)
            for family, chain, rules, fine in CHAINS
        ]
        for rules, fine in RULES:
            sets = SETS if "@" in rules else ""
            tables.append((table(f"{INPUT} {rules}", sets=sets), fine))
        for text, fine in (("", True), *tables):
            got = [level for level, *_ in said(ruleset(text))]
            self.assertEqual(got, ["ok" if fine else "warning"], text)

    def test_the_mend_mends(self):
        for rules in ("policy drop; tcp dport 22 accept", "policy accept; reject"):
            text = table(f"{INPUT} {rules}")
            ((level, found, mend),) = said(ruleset(text))
            self.assertEqual(level, "warning")
            self.assertIn("chain inet f input drops what no rule accepts", found)
            command, _, words = mend.partition(" ")
            self.assertEqual(command, "nft")
            self.assertEqual(said(ruleset(f"{text}\n{words}\n"))[0][0], "ok")

    def test_two_tables_are_judged_apart(self):
        """Each hook of the kernel's drops for itself."""
        shut = table(f"{INPUT} policy drop;")
        fine = table(f"{INPUT} policy drop; iifname dlba0 accept", name="g")
        self.assertEqual([level for level, *_ in said(ruleset(shut + fine))], ["warning"])

    def test_the_rule_of_own_mac_mode(self):
        hook = "type filter hook ingress device eth0 priority -500;"
        rules = f"{hook} ip daddr {VIP} drop"
        text = table(rules, family="netdev", name="dlba_eth0", chain="ingress")
        with namespaces.private():
            namespaces.pair("eth0", "peer")
            there = listed(text)
        own = config(routing={"ports": [80, 443], "own_mac": True})
        for rules, configuration, running, level in (
            (there, own, True, None),
            ([], own, True, "problem"),
            (there, PORTS, True, "problem"),
            ([], PORTS, True, None),
            (there, own, False, "note"),
            (there, PORTS, False, "note"),
            ([], own, False, None),
        ):
            got = [one[0] for one in said(rules, configuration, running=running)]
            self.assertEqual(got, ["ok"] if level is None else ["ok", level])


class OtherTests(SynchronousTestCase):
    def test_that_could_not_be_looked_at(self):
        self.assertEqual(said(Unseen("x"))[0][0], "warning")
        self.assertEqual(said(None)[0][0], "note")
        own = config(routing={"own_mac": True})
        level, _, mend = said(None, own)[0]
        self.assertEqual((level, mend), ("problem", "apt-get install nftables"))

    def test_tables_of_iptables(self):
        got = said([], legacy_tables=("filter", "nat"))
        self.assertEqual([level for level, *_ in got], ["ok", "note"])
        self.assertIn("(filter, nat)", got[1][1])

    words = st.sampled_from(("match", "left", "right", "set", "range", "op", "accept", "hook"))
    values = st.sampled_from((None, True, 80, "input", "drop", "dlba*", "==", [70, 90], [], {}))
    parts = st.dictionaries(words, values | st.dictionaries(words, values, max_size=3), max_size=3)
    keys = st.sampled_from(("family", "table", "chain", "name", "hook", "policy", "expr", "dev"))
    objects = st.dictionaries(keys, values | st.lists(parts | values, max_size=3), max_size=8)
    kinds = st.sampled_from(("chain", "rule", "set", "table", "metainfo"))

    @given(st.lists(st.dictionaries(kinds, objects | values, max_size=1), max_size=4))
    def test_any_ruleset(self, given):
        """A later nft may list what this one doesn't."""
        chain = {"family": "inet", "table": None, "hook": "input", "policy": "drop"}
        for one in (given, [{"chain": chain}, *given]):
            self.assertTrue(said(one))
