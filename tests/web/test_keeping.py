"""What a connection keeps: its pieces, and what of it is counted."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.web.keeping import PARTS, Keeping
from dlba.web.memory import Memory

BLOCK = 4096


class KeepingTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.memory = Memory(1 << 30)
        self.kept = Keeping(self.memory)

    def bytes(self) -> bytes:
        """The backlog as one."""
        return b"".join(self.kept._parts)

    def test_little_is_not_counted(self) -> None:
        self.kept._keep(bytes(BLOCK - 1))
        self.assertEqual((self.kept.backlog, self.memory.used), (BLOCK - 1, 0))
        self.kept.hold(1)
        self.assertEqual(self.memory.used, BLOCK)
        self.kept._drop()
        self.assertEqual((self.kept.backlog, self.kept.held, self.memory.used), (0, 0, 0))

    def test_many_small_pieces_become_one(self) -> None:
        for number in range(10 * PARTS):
            self.kept._keep(b"%d" % (number % 10))
            self.assertLessEqual(len(self.kept._parts), PARTS)
        self.assertEqual(self.bytes(), b"0123456789" * PARTS)

    def test_a_small_rest_keeps_nothing_else_alive(self) -> None:
        data = bytes(range(200))
        for taken in (0, 1, 100, 101, 199):
            self.kept._keep_rest(data, taken)
            self.assertEqual(self.bytes(), data[taken:])
            self.assertEqual(isinstance(self.kept._parts[0], bytes), taken > 100, taken)
        self.kept._keep_rest(data, 60)
        self.kept._took(50)
        self.assertIsInstance(self.kept._parts[0], bytes)
        self.assertEqual(self.bytes(), data[110:])

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("keep"), st.integers(1, 3 * BLOCK)),
                st.tuples(st.just("hold"), st.integers(0, 3 * BLOCK)),
                st.tuples(st.just("take"), st.floats(0, 1)),
            )
        )
    )
    def test_as_one_string(self, steps: list[tuple[str, float]]) -> None:
        self.setUp()
        expected = b""
        held = number = 0
        for what, size in steps:
            if what == "keep":
                number += 1
                data = bytes([number % 256]) * int(size)
                self.kept._keep(data)
                expected += data
            elif what == "hold":
                held = int(size)
                self.kept.hold(held)
            elif self.kept._parts:
                taken = int(len(self.kept._parts[0]) * size)
                self.kept._took(taken)
                self.kept._count()
                expected = expected[taken:]
            self.assertEqual((self.bytes(), self.kept.backlog), (expected, len(expected)))
            self.assertEqual(self.memory.used, (len(expected) + held) // BLOCK * BLOCK)
