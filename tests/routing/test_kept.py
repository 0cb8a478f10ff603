"""Tests of dlba.routing.kept: a file that may be anything; a dict tells what is right."""

import hashlib
import json
import os
import socket
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from dlba.routing import kept
from dlba.routing.hashtable import UNASSIGNED, ClientTable
from dlba.routing.kept import FILE, drop, keep, name_of_hash, take

BUCKETS = 64
NUMBERS = {"a": 0, "b": 1, "c": 1023}
OWNED = {1: 0, 2: 1, 3: 1023, 63: 1}
TIMEOUT = 300.0
NOW = 4711.5
OWNERS = st.dictionaries(st.integers(0, BUCKETS - 1), st.sampled_from(list(NUMBERS.values())))


def table_of(owners: dict[int, int], buckets: int = BUCKETS) -> ClientTable:
    table = ClientTable(buckets)
    for bucket, node in owners.items():
        table.assign(bucket, node)
    return table


def owners_of(table: ClientTable) -> dict[int, int]:
    pairs = ((bucket, table.node_of(bucket)) for bucket in range(table.buckets))
    return {bucket: node for bucket, node in pairs if node != UNASSIGNED}


class Case(SynchronousTestCase):
    def setUp(self):
        self.state = Path(self.mktemp())
        self.state.mkdir(parents=True)
        self.file = self.state / FILE

    def keep(self, owners=OWNED, hash_name="sum") -> ClientTable:
        table = table_of(owners)
        keep(self.state, table, NUMBERS, hash_name, NOW)
        return table

    def take(self, buckets=BUCKETS, numbers=NUMBERS, hash_name="sum", now=NOW):
        """Whether it was taken, the table, what was logged. The folder is empty afterwards."""
        table = ClientTable(buckets)
        with capturedLogs() as events:
            taken = take(self.state, table, numbers, hash_name, TIMEOUT, now)
        self.assertEqual(list(self.state.iterdir()), [])
        return taken, table, [formatEvent(event) for event in events]

    def refused(self, *words: str, **changed) -> None:
        """Nothing is taken up, and one line says why."""
        taken, table, (said,) = self.take(**changed)
        self.assertFalse(taken)
        self.assertEqual((owners_of(table), table.version, table.groups), ({}, 0, {}))
        for word in ("client table not taken up: ", *words):
            self.assertIn(word, said)


class RoundTripTests(Case):
    @given(OWNERS)
    def test_as_it_was(self, owners):
        before = self.keep(owners)
        taken, table, said = self.take()
        self.assertTrue(taken)
        self.assertEqual(said, [f"client table of {len(owners)} buckets taken up"])
        self.assertEqual(owners_of(table), owners)
        self.assertEqual((table.version, table.groups), (before.version, before.groups))
        self.assertEqual({table.last_of(bucket) for bucket in owners}, {4711} if owners else set())
        self.assertIsNone(table.take_delta())

    def test_once_only(self):
        self.keep()
        self.assertTrue(self.take()[0])
        taken, table, said = self.take()
        self.assertEqual((taken, owners_of(table), said), (False, {}, []))

    def test_dropped(self):
        self.keep()
        for _ in range(2):
            drop(self.state)
            self.assertEqual(list(self.state.iterdir()), [])

    @given(OWNERS, st.dictionaries(st.sampled_from("abcd"), st.sampled_from((0, 1, 2, 1023))))
    def test_other_nodes_now(self, owners, numbers):
        """A bucket stays where name and number of its node are the same as before."""
        self.keep(owners)
        taken, table, _ = self.take(numbers=numbers)
        names = {number: name for name, number in NUMBERS.items()}
        expected = {b: node for b, node in owners.items() if numbers.get(names[node]) == node}
        self.assertEqual((taken, owners_of(table)), (True, expected))

    def test_a_node_that_was_unknown_before(self):
        self.keep({1: 1, 2: 77})
        self.assertEqual(owners_of(self.take(numbers={**NUMBERS, "d": 77})[1]), {1: 1})


class FileTests(Case):
    def test_private_whole_and_nothing_beside_it(self):
        (self.state / f"{FILE}.new").symlink_to(self.state / "victim")
        self.addCleanup(os.umask, os.umask(0))
        self.keep()
        self.assertEqual(list(self.state.iterdir()), [self.file])
        self.assertEqual(self.file.stat().st_mode & 0o7777, 0o600)

    def test_on_the_disk_before_it_has_its_name(self):
        synced = []
        self.patch(os, "fsync", lambda _: synced.append(self.file.exists()))
        self.keep()
        self.assertEqual(synced, [False])

    def test_the_layout(self):
        """As the module's first lines say, which another version may have to read."""
        table = self.keep()
        line, rest = self.file.read_bytes().split(b"\n", 1)
        expected = {"format": 1, "buckets": 64, "hash": "sum", "second": NOW, "nodes": NUMBERS}
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self.assertEqual(json.loads(line), {**expected, "boot": boot, "version": 4})
        self.assertEqual(rest[:-32], table.snapshot()[1])

    def test_it_cannot_be_written(self):
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", full)
        with capturedLogs() as events:
            self.keep()
            keep(self.state / "none", ClientTable(1), NUMBERS, "sum", NOW)
        self.assertEqual(list(self.state.iterdir()), [])
        first, second = map(formatEvent, events)
        self.assertIn("client table not kept: [Errno 28] No space left on device", first)
        self.assertIn("client table not kept: [Errno 2]", second)

    def test_no_folder(self):
        with capturedLogs() as events:
            drop(self.state / "none")
            self.assertFalse(
                take(self.state / "none", ClientTable(1), NUMBERS, "sum", TIMEOUT, NOW)
            )
        self.assertEqual(events, [])


class RefusedTests(Case):
    def test_another_boot(self):
        self.keep()
        self.patch(kept, "_boot", lambda: "another")
        self.refused("boot: expected another, got ")

    def test_another_number_of_buckets(self):
        self.keep()
        self.refused("buckets: expected 128, got 64", buckets=128)
        self.keep()
        self.refused(buckets=1)

    def test_another_hash(self):
        keyed, other = (name_of_hash("keyed", key * 32) for key in (b"k", b"o"))
        self.keep()
        self.refused("hash: expected keyed ", hash_name=keyed)
        self.keep(hash_name=keyed)
        self.refused("got keyed ", hash_name=other)
        self.keep(hash_name=keyed)
        self.assertTrue(self.take(hash_name=name_of_hash("keyed", b"k" * 32))[0])

    def test_the_name_of_a_hash_gives_no_key_away(self):
        key = b"0123456789abcdef" * 2
        self.assertEqual(name_of_hash("sum", key), "sum")
        name = name_of_hash("keyed", key)
        self.assertRegex(name, r"\Akeyed [0-9a-f]{32}\Z")
        for known in (key, hashlib.blake2b(key, digest_size=32, person=b"dlba buckets").digest()):
            self.assertNotIn(known.hex()[:16], name)

    def test_age(self):
        for seconds in (0, 1, 299.9, TIMEOUT):
            self.keep()
            self.assertTrue(self.take(now=NOW + seconds)[0], seconds)
        for seconds in (TIMEOUT + 0.1, 1e9, -0.1, float("nan")):
            self.keep()
            self.refused("expected one of the last 300 s, got ", now=NOW + seconds)


class DamagedTests(Case):
    @given(st.data())
    def test_a_byte_is_another(self, data):
        self.keep()
        whole = bytearray(self.file.read_bytes())
        where = data.draw(st.integers(0, len(whole) - 1))
        whole[where] ^= data.draw(st.integers(1, 255))
        self.file.write_bytes(whole)
        self.refused("damaged")

    @given(st.data())
    def test_it_ends_early_or_late(self, data):
        self.keep()
        whole = self.file.read_bytes()
        cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
        self.file.write_bytes(data.draw(st.sampled_from((cut, whole + cut[:8] + b"\0"))))
        self.refused("damaged")

    @given(st.binary(max_size=200))
    def test_anything(self, content):
        self.file.write_bytes(content)
        self.refused("damaged")

    JSON = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=6,
    )

    def write(self, line: bytes, rest: bytes = b"\xff" * 4 * BUCKETS) -> None:
        """A file that says of itself that it is whole."""
        self.file.write_bytes(line + b"\n" + rest + kept._digest(line + b"\n" + rest))

    @given(JSON)
    def test_other_values(self, document):
        self.write(json.dumps(document).encode())
        self.refused()

    @given(st.sampled_from(("second", "nodes", "version", "hash", "format")), JSON)
    def test_one_other_value(self, key, value):
        self.keep()
        line = self.file.read_bytes().partition(b"\n")[0]
        self.write(json.dumps({**json.loads(line), key: value}).encode())
        take(self.state, ClientTable(BUCKETS), NUMBERS, "sum", TIMEOUT, NOW)  # nothing raises
        self.assertFalse(self.file.exists())

    def test_lines_that_json_breaks_at(self):
        for line in (b"[" * 100_000, b"9" * 5000, b"\xff", b"", b'{"boot": NaN}'):
            self.write(line)
            self.refused()

    def test_nodes_that_cannot_be(self):
        self.keep()
        line = self.file.read_bytes().partition(b"\n")[0]
        self.write(line, b"\0\0\x04\0" * BUCKETS)
        self.refused("snapshot: node: expected 0 to 1023")
        for rest in (b"", b"\xff" * (4 * BUCKETS - 4)):
            self.write(line, rest)
            self.refused("snapshot: expected 256 bytes")

    def test_huge(self):
        self.keep()
        os.truncate(self.file, 1 << 40)
        self.refused("expected at most ")

    def test_no_file_at_all(self):
        victim = self.state.parent / "victim"
        self.keep()
        os.replace(self.file, victim)
        self.file.symlink_to(victim.absolute())
        self.refused("[Errno 40]")
        self.assertTrue(victim.exists())
        os.mkfifo(self.file)
        self.refused("expected a file")
        here = os.getcwd()
        os.chdir(self.state)  # a socket's path is short
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(FILE)
        finally:
            os.chdir(here)
        self.refused("[Errno 6]")

    def test_what_cannot_be_removed_is_not_taken(self):
        self.file.mkdir()
        with capturedLogs() as events:
            self.assertFalse(take(self.state, ClientTable(1), NUMBERS, "sum", TIMEOUT, NOW))
            drop(self.state)
        first, second = map(formatEvent, events)
        self.assertIn("client table not taken up: ", first)
        self.assertIn("client table not removed: ", second)
        self.file.rmdir()
        self.keep()

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        self.patch(Path, "unlink", refuse)
        table = ClientTable(BUCKETS)
        self.assertFalse(take(self.state, table, NUMBERS, "sum", TIMEOUT, NOW))
        self.assertEqual(table.assigned, 0)
