"""Tests of dlba.routing.keyedhash."""

import hashlib
import math

from twisted.trial.unittest import SynchronousTestCase

from dlba.routing.hashtable import ClientTable
from dlba.routing.keyedhash import KeyedHash


class KeyedHashTests(SynchronousTestCase):
    def test_the_keyed_hash_is_blake2b(self):
        key = b"k" * 100
        inner = hashlib.blake2b(key, digest_size=32, person=b"dlba buckets").digest()
        digest = hashlib.blake2b(
            bytes([0, 0, 0, 0, 10, 0, 0, 1, 0x9C, 0x40]), key=inner, digest_size=8
        ).digest()
        made = KeyedHash(1000, key)
        for _ in range(2):
            self.assertEqual(made(0x0A000001, 40000), int.from_bytes(digest, "big") % 1000)

    def test_every_byte_of_the_key_counts(self):
        flows = [(0x0A000000 + n, 40000 + n) for n in range(50)]
        seen = {
            tuple(KeyedHash(65536, key)(*flow) for flow in flows)
            for key in (b"a", b"b", b"a" * 64, b"a" * 64 + b"b", b"a" * 65)
        }
        self.assertEqual(len(seen), 5)
        with self.assertRaisesRegex(ValueError, "at least one byte"):
            KeyedHash(10, b"")

    def test_regular_ports_spread_evenly(self):
        """Ports in steps of the table's size hit one bucket by the sum, all by the keyed hash."""
        made = KeyedHash(16, b"secret")
        table = ClientTable(16)
        flows = [(0x0A000001, port) for port in range(0, 65536, 16)]
        self.assertEqual(len({table.bucket_of(*flow) for flow in flows}), 1)
        counts = [0] * 16
        for flow in flows:
            counts[made(*flow)] += 1
        mean = len(flows) / 16
        for count in counts:
            self.assertLess(abs(count - mean), 5 * math.sqrt(mean))
