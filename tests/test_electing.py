"""Tests of dlba.electing: nodes of one array in one process, with channels over loopback."""

import os
import socket
import stat
import time
from pathlib import Path

import attrs
from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from dlba.config.keys import Keys, SecretKey
from dlba.electing import Electing, array_status, swept_at
from dlba.election.keyring import Keyring
from dlba.election.terms import Terms
from dlba.errors import DLBAError
from dlba.monitor.status import BackendRow
from dlba.state import load_learned, make_state, store_learned
from tests import namespaces
from tests.election.certificates import make
from tests.election.test_channel import free_ports
from tests.election.wholenode import NAMES, RecordingRouting, config

PATIENCE = 30  # seconds; only a hang meets it
_made: list[Path] = []


def certificates() -> Path:
    """A folder with the certificates of all nodes; made once."""
    if not _made:
        folder = Path("electing-certificates").absolute()
        make(folder, *NAMES)
        _made.append(folder)
    return _made[0]


def backend(hits: int) -> BackendRow:
    return BackendRow(
        pool="app",
        name="x",
        address="192.0.2.1:80",
        average_response=0.25,
        hits=hits,
        open_connections=1,
        failed=False,
        draining=False,
        cookie_groups=2,
    )


class OneNode:
    """A node's part, its packet path and what it signs with."""

    def __init__(self, case, name, keys, **array):
        self.name = name
        self.number = NAMES.index(name)
        made = config(certificates(), name, case.ports, **array)
        self.config = attrs.evolve(made, state=case.state(name))
        make_state(self.config.state)
        self.routing = RecordingRouting(reactor, None, self.config, keys.hash, None)
        self.signing = ()
        hits = 10 * (self.number + 1)
        self.part = Electing(
            reactor,
            self.config,
            self.routing,
            keys,
            self.sign,
            lambda: (hits, 1, 0.25),
            lambda: [backend(hits)],
        )

    def sign(self, keys):
        self.signing = tuple(key.id for key in keys)

    def start(self):
        self.part.privilegedStartService()
        self.part.startService()
        return self

    @property
    def role(self):
        return self.part.service.role

    def document(self):
        return array_status(self.part.service, [backend(10 * (self.number + 1))])


class Case(TestCase):
    timeout = 120
    skip = namespaces.missing()
    COUNT = 3

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.ports = free_ports(self.COUNT)
        self.nodes = {}

    async def tearDown(self):
        running = [node.part for node in self.nodes.values() if node.part.running]
        await gatherResults([part.stopService() for part in running])

    def state(self, name):
        return self.folder / name

    def stored(self, name):
        terms = Terms(self.state(name))
        terms.load()
        return terms.term, terms.granted

    def keys(self, name):
        return Keys((SecretKey(f"k{name}", name.encode() * 32),))

    def node(self, name, **array):
        made = self.nodes[name] = OneNode(self, name, self.keys(name), **array)
        return made

    async def until(self, condition, what):
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                self.fail(f"expected {what}: {[(n.name, n.role) for n in self.nodes.values()]}")
            await deferLater(reactor, 0.02)

    def settled(self, *names):
        """Whether these follow one of them, and are in touch."""
        nodes = [self.nodes[name] for name in names]
        heads = {node.part.service.scheduler for node in nodes}
        roles = sorted(node.role for node in nodes)
        return (
            len(heads) == 1
            and heads <= set(names)
            and roles == ["backup"] * (len(nodes) - 1) + ["scheduler"]
            and all(self.reached(node) == set(names) - {node.name} for node in nodes)
        )

    def reached(self, node):
        """The names of the nodes to which this one has a channel."""
        peers = node.part.service.peers()
        return {name for name, peer in peers.items() if peer["connected"]}

    async def elect(self, *names, **array):
        for name in names:
            self.node(name, **array).start()
        await self.until(lambda: self.settled(*names), "one scheduler whom the others follow")
        return self.nodes[self.nodes[names[0]].part.service.scheduler]

    async def kill(self, node):
        """As a process that is gone: no good-bye, connections closed, nobody listens."""
        del self.nodes[node.name]
        Service.stopService(node.part.service)  # silent from here on
        await node.part.stopService()


class ElectionTests(Case):
    async def test_one_is_elected_and_a_killed_one_is_replaced(self):
        first = await self.elect(*NAMES)
        self.assertEqual(first.routing.calls.count("schedule"), 1)
        term = first.document().term
        self.assertEqual(self.stored(first.name), (term, first.number))
        others = [node for node in self.nodes.values() if node is not first]
        for node in others:
            self.assertNotIn("schedule", node.routing.calls)
            node.routing.take()
        first.routing.path.scheduler.table.assign(5, others[0].number)
        first.routing.events.table_changed()
        await self.until(
            lambda: all(
                n.routing.path.scheduler.table.node_of(5) == others[0].number for n in others
            ),
            "the table at the others",
        )
        began = time.monotonic()
        await self.kill(first)
        await self.until(lambda: self.settled(*self.nodes), "another scheduler")
        self.assertLess(time.monotonic() - began, 5)
        (second,) = [node for node in others if node.role == "scheduler"]
        self.assertEqual(second.name, min(self.nodes), "the first in the rank")
        self.assertGreater(second.document().term, term)
        calls = second.routing.take()
        self.assertEqual(calls.count("schedule"), 1)
        self.assertIn(("lack", first.number, "channel"), calls)
        self.assertEqual(second.document().peers[first.name], {"connected": False, "failed": True})
        self.assertEqual(second.routing.path.scheduler.table.node_of(5), others[0].number)
        # Back as another process, it follows, and is a node as the others.
        self.node(first.name).start()
        await self.until(lambda: self.settled(*NAMES), "the third node back")
        self.assertEqual(second.role, "scheduler")
        await self.until(
            lambda: second.document().peers[first.name] == {"connected": True, "failed": False},
            "the third node alive",
        )
        await self.until(
            lambda: self.nodes[first.name].routing.path.scheduler.table.node_of(5) >= 0,
            "the table at the third node",
        )

    async def test_status_of_each(self):
        first = await self.elect(*NAMES)
        everybody = {"hits": 60, "open_connections": 3, "cookie_groups": 6}
        await self.until(
            lambda: first.document().summary[0].hits == everybody["hits"], "the sum of all"
        )
        (row,) = first.document().summary
        self.assertEqual((row.pool, row.name, row.address), ("app", "x", "192.0.2.1:80"))
        self.assertEqual({name: getattr(row, name) for name in everybody}, everybody)
        at = swept_at(first.part.service, reactor.seconds())
        self.assertLess(abs(at - time.time()), 5)
        rows = {row.number: row for row in first.routing.path.scheduler.rows}
        for node in self.nodes.values():
            document = node.document()
            self.assertEqual(document.scheduler, first.name)
            self.assertEqual(document.term, first.document().term)
            self.assertEqual(
                document.peers,
                {name: {"connected": True, "failed": False} for name in NAMES if name != node.name},
            )
            if node is not first:
                self.assertIsNone(swept_at(node.part.service, reactor.seconds()))
                self.assertEqual(rows[node.number].hits, 10 * (node.number + 1))
                self.assertFalse(rows[node.number].failed)

    async def test_a_stop_passes_the_role_on(self):
        first = await self.elect(*NAMES)
        first.routing.take()
        first.part.service.leave()
        self.assertEqual(first.routing.take(), ["quiet"])
        await self.until(
            lambda: first.part.service.scheduler not in (None, first.name), "another scheduler"
        )
        # What is late goes on until the very end.
        self.assertEqual((first.role, first.routing.calls), ("backup", ["late"]))
        del self.nodes[first.name]
        await first.part.stopService()
        await self.until(lambda: self.settled(*self.nodes), "another scheduler")

    async def test_a_fault_passes_the_role_on_and_is_over(self):
        first = await self.elect(*NAMES)
        first.routing.fail("eth9: no carrier")
        self.assertEqual(first.role, "fault")
        self.assertIn("step_down", first.routing.calls)
        await self.until(
            lambda: first.part.service.scheduler not in (None, first.name), "another scheduler"
        )
        self.assertEqual(first.role, "fault")
        first.routing.fail("")
        await self.until(lambda: self.settled(*NAMES), "the first as a backup")
        self.assertEqual(first.role, "backup")

    async def test_a_node_that_takes_no_flows(self):
        first = await self.elect(*NAMES)
        other = next(node for node in self.nodes.values() if node is not first)
        other.routing.able = False
        row = first.routing.path.scheduler.row(other.number)
        await self.until(lambda: row.failed, "a failed node")
        other.routing.able = True
        await self.until(lambda: not row.failed, "it back")


class PairTests(Case):
    COUNT = 2

    async def test_a_role_that_can_not_be_taken_on(self):
        a = self.node("a")
        a.routing.refuses = OSError(24, "Too many open files")
        a.start()
        self.node("b").start()
        await self.until(lambda: self.nodes["b"].role == "scheduler", "the other one")
        self.assertIn(a.role, ("fault", "backup"))
        self.assertEqual(a.routing.path.active, False)

    async def test_a_full_disk(self):
        a = self.node("a")
        (self.state("a") / "term.new").mkdir()  # can't be written then
        a.start()
        self.node("b").start()
        await self.until(lambda: self.nodes["b"].role == "scheduler", "the other one")
        self.assertNotIn("schedule", a.routing.calls)

    async def test_a_damaged_term_is_an_error_at_the_start(self):
        make_state(self.state("a"))
        (self.state("a") / "term").write_text("nonsense")
        part = self.node("a").part
        error = self.assertRaises(DLBAError, part.privilegedStartService)
        self.assertIn("remove it while the array's other nodes run", str(error))
        part.undo()

    async def test_what_the_process_before_wrote_last(self):
        """It has the folder until this one's start, and may grant and learn till then."""
        a = self.node("a")
        Terms(self.state("a")).store(7, 1)
        ring = Keyring(self.keys("a"))
        ring.learn(1, Keyring(self.keys("b")).offer())
        store_learned(self.state("a"), ring.stored())
        a.start()
        self.assertEqual(a.signing, ("ka", "kb"))
        await self.until(lambda: a.role == "scheduler", "a scheduler")
        self.assertEqual(self.stored("a"), (8, 0))

    async def test_a_taken_port(self):
        part = self.node("a").part
        taken = socket.create_server(("127.0.0.1", self.ports[0]))
        self.addCleanup(taken.close)
        before = len(os.listdir("/proc/self/fd"))
        error = self.assertRaises(DLBAError, part.privilegedStartService)
        self.assertIn("expected a free port", str(error))
        part.undo()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class KeyTests(Case):
    COUNT = 2

    async def test_one_key_signs_and_all_verify(self):
        first = await self.elect("a", "b")
        own = f"k{first.name}"
        await self.until(
            lambda: all(node.signing[:1] == (own,) for node in self.nodes.values()),
            "the scheduler's key as the one that signs",
        )
        for node in self.nodes.values():
            self.assertEqual(set(node.signing), {"ka", "kb"})
            mode = (self.state(node.name) / "learned").stat().st_mode
            self.assertEqual(stat.S_IMODE(mode), 0o600)
        await self.kill(first)
        (other,) = self.nodes.values()
        await self.until(lambda: other.role == "scheduler", "the other one")
        # Cookies under the dead node's key stay good.
        await self.until(lambda: other.signing[0] == f"k{other.name}", "its own key")
        self.assertEqual(set(other.signing), {"ka", "kb"})

    async def test_a_node_that_starts_again_verifies_at_once(self):
        await self.elect("a", "b")
        await self.until(lambda: len(self.nodes["a"].signing) == 2, "both keys")
        await self.kill(self.nodes["a"])
        again = self.node("a")
        self.assertEqual(again.signing, ())
        again.start()
        self.assertEqual(again.signing, ("ka", "kb"))

    async def test_keys_of_a_node_that_left_the_array(self):
        ring = Keyring(self.keys("a"))
        for number, name in ((1, "b"), (2, "c")):
            ring.learn(number, Keyring(self.keys(name)).offer())
        make_state(self.state("a"))
        store_learned(self.state("a"), ring.stored())
        self.assertEqual(self.node("a").start().signing, ("ka", "kb"))
        self.assertNotIn("kc", load_learned(self.state("a")))
        self.assertIn("kb", load_learned(self.state("a")))

    async def test_damaged_learned_keys_come_again(self):
        make_state(self.state("a"))
        (self.state("a") / "learned").write_text("nonsense")
        await self.elect("a", "b")
        await self.until(lambda: len(self.nodes["a"].signing) == 2, "both keys")

    async def test_learned_keys_that_can_not_be_kept(self):
        make_state(self.state("a"))
        (self.state("a") / "learned").mkdir()  # neither read nor replaced
        first = await self.elect("a", "b")
        await self.until(
            lambda: (
                all(n.signing[:1] == (f"k{first.name}",) for n in self.nodes.values())
                and all(len(n.signing) == 2 for n in self.nodes.values())
            ),
            "both keys, and one that signs",
        )
        self.assertEqual(
            [each.name for each in self.state("a").iterdir() if each.name != "learned"],
            ["term"],
        )


class HashTests(Case):
    COUNT = 2

    def keys(self, name):
        return Keys(super().keys(name).signing, name.upper().encode() * 32)

    def buckets(self, name):
        scheduler = self.nodes[name].routing.path.scheduler
        return [scheduler.bucket_of(0x0A630000 + client, 40000) for client in range(64)]

    async def test_all_hash_as_the_scheduler(self):
        routing = {"buckets": 1024, "hash": "keyed"}
        for name in ("a", "b"):
            self.node(name, routing=routing)
        before = {name: self.buckets(name) for name in ("a", "b")}
        self.assertNotEqual(before["a"], before["b"])
        for node in self.nodes.values():
            node.start()
        await self.until(lambda: self.settled("a", "b"), "one scheduler")
        first = self.nodes["a"].part.service.scheduler
        await self.until(lambda: self.buckets("a") == self.buckets("b"), "one hash")
        self.assertEqual(self.buckets("a"), before[first])
        # The other one goes on with it as scheduler, and the first takes it back from there.
        await self.kill(self.nodes[first])
        (other,) = self.nodes.values()
        await self.until(lambda: other.role == "scheduler", "the other one")
        self.assertEqual(self.buckets(other.name), before[first])
        # And is so after its next start.
        learned = Keyring(self.keys(other.name), load_learned(self.state(other.name)))
        self.assertEqual(learned.hash, self.keys(first).hash)
