"""A request's body: its end, its size, its pace."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.errors import HeadError
from dlba.web.head import CHUNKED
from dlba.web.requestbody import RATE, RequestBody


def body(length, largest=None, now=0.0):
    return RequestBody(length, largest, 1000, 10, now)


class EndTests(SynchronousTestCase):
    def test_by_length_in_any_pieces(self):
        whole = b"hello world"
        for cut in range(len(whole) + 1):
            reader = body(len(whole))
            self.assertFalse(reader.complete)
            got = reader.take(whole[:cut])
            self.assertEqual(reader.rest, b"")
            got += reader.take(whole[cut:] + b"GET / HTTP/1.1")
            self.assertEqual((got, reader.complete), (whole, True))
            self.assertEqual(reader.size, len(whole))
            self.assertEqual(reader.rest, b"GET / HTTP/1.1")

    def test_chunked_in_any_pieces(self):
        wire = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: 1\r\n\r\nNEXT"
        for cut in range(len(wire) - 4):
            reader = body(CHUNKED)
            got = reader.take(wire[:cut]) if cut else b""
            self.assertFalse(reader.complete)
            got += reader.take(wire[cut:])
            self.assertEqual((got, reader.complete, reader.rest), (b"hello world", True, b"NEXT"))

    def test_a_mistake_in_the_coding(self):
        error = self.assertRaises(HeadError, body(CHUNKED).take, b"x\r\n")
        self.assertEqual(error.status, 400)


class CollectTests(SynchronousTestCase):
    def test_parts_become_one(self):
        reader = body(6)
        for part in (b"ab", b"c", b"def"):
            reader.collect(part)
        self.assertEqual(reader.collected, b"abcdef")
        whole = reader.give()
        self.assertEqual((whole, type(whole)), (b"abcdef", bytes))
        self.assertEqual((reader.collected, reader.give()), (b"", b""))

    def test_one_part_is_not_copied(self):
        reader, part = body(6), b"abcdef"
        reader.collect(part)
        self.assertIs(reader.give(), part)


class SizeTests(SynchronousTestCase):
    def test_announced(self):
        self.assertFalse(body(10, largest=10).complete)
        self.assertEqual(self.assertRaises(HeadError, body, 11, 10).status, 413)

    def test_chunked_counts_what_is_decoded(self):
        reader = body(CHUNKED, largest=10)
        reader.take(b"5;extension=long\r\nhello\r\n5\r\nworld\r\n")
        self.assertEqual(self.assertRaises(HeadError, reader.take, b"1\r\n!\r\n").status, 413)

    def test_a_pause_does_not_raise_the_limit(self):
        reader = body(CHUNKED, largest=10)
        reader.take(b"a\r\n0123456789\r\n")
        reader.read_again(1.0)
        self.assertEqual(self.assertRaises(HeadError, reader.take, b"1\r\n!\r\n").status, 413)


class PaceTests(SynchronousTestCase):
    def test_within_the_grace_any_pace_is_fine(self):
        self.assertFalse(body(10**6).too_slow(30.0, 30.0))

    def test_after_it_the_rate_counts(self):
        reader = body(10**6)
        reader.take(b"x" * (31 * RATE - 1))
        self.assertTrue(reader.too_slow(31.0, 30.0))
        reader.take(b"x")
        self.assertFalse(reader.too_slow(31.0, 30.0))
        self.assertTrue(reader.too_slow(31.1, 30.0))

    def test_time_in_which_nobody_read_does_not_count(self):
        reader = body(10**6)
        reader.take(b"x" * 100)
        reader.read_again(1000.0)
        self.assertFalse(reader.too_slow(1030.0, 30.0))
        # What came before the pause doesn't help after it.
        self.assertTrue(reader.too_slow(1031.0, 30.0))
