"""Which idle connections are kept, taken and closed, against a naive list."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dlba.web import idle
from dlba.web.deadlines import Deadlines
from dlba.web.idle import IDLE_SECONDS, PER_BACKEND, IdleSides


class Backend:
    """Only its identity counts."""


class Side:
    """A connection that tells when it is closed."""

    def __init__(self, sides: IdleSides, backend: Backend) -> None:
        self.sides = sides
        self.backend = backend
        self.deadline = 0.0
        self.slot = -1
        self.closed = False

    def reset(self) -> None:
        assert not self.closed
        self.closed = True
        self.sides.forget(self)  # type: ignore[arg-type]

    def expire(self, now: float) -> None:
        self.reset()

    abort = reset


class IdleTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.deadlines = Deadlines(0.0)
        self.sides = IdleSides(self.deadlines)
        self.one, self.other = Backend(), Backend()

    def park(self, backend: Backend, now: float = 0.0) -> Side:
        side = Side(self.sides, backend)
        self.sides.park(side, now)  # type: ignore[arg-type]
        return side

    def test_newest_first_and_of_this_backend(self) -> None:
        first, second, foreign = self.park(self.one), self.park(self.one), self.park(self.other)
        self.assertIs(self.sides.take(self.one), second)
        self.assertIs(self.sides.take(self.one), first)
        self.assertIsNone(self.sides.take(self.one))
        self.assertEqual((len(self.sides), len(self.deadlines)), (1, 1))
        self.assertFalse(foreign.closed)

    def test_too_many_of_one_backend(self) -> None:
        parked = [self.park(self.one) for _ in range(PER_BACKEND + 2)]
        self.assertEqual([side.closed for side in parked[:3]], [True, True, False])
        self.assertEqual(len(self.sides), PER_BACKEND)

    def test_too_many_in_all(self) -> None:
        self.patch(idle, "TOTAL", 2)
        parked = [self.park(backend) for backend in (self.one, self.other, self.one)]
        self.assertEqual([side.closed for side in parked], [True, False, False])

    def test_too_old(self) -> None:
        old = self.park(self.one, 0.0)
        young = self.park(self.one, 5.0)
        for side in self.deadlines.expired(IDLE_SECONDS + 1):
            side.expire(IDLE_SECONDS + 1)
        self.assertEqual((old.closed, young.closed), (True, False))
        self.assertEqual((len(self.sides), len(self.deadlines)), (1, 1))

    def test_a_taken_one_has_no_deadline(self) -> None:
        side = self.park(self.one)
        self.sides.take(self.one)
        self.assertEqual(list(self.deadlines.expired(1e6)), [])
        self.assertFalse(side.closed)

    def test_drops(self) -> None:
        sides = [self.park(backend) for backend in (self.one, self.other, self.one)]
        self.sides.drop_backend(self.one)
        self.assertEqual([side.closed for side in sides], [True, False, True])
        self.sides.drop_backend(self.one)
        self.assertTrue(self.sides.drop_oldest())
        self.assertFalse(self.sides.drop_oldest())
        last = self.park(self.one)
        self.sides.drop_all()
        self.assertTrue(last.closed)
        self.assertEqual((len(self.sides), len(self.deadlines)), (0, 0))

    @given(st.lists(st.tuples(st.sampled_from("ptrod"), st.integers(0, 2)), max_size=60))
    def test_as_a_list(self, steps: list[tuple[str, int]]) -> None:
        self.setUp()
        backends = [Backend() for _ in range(3)]
        naive: list[Side] = []
        for what, number in steps:
            backend = backends[number]
            own = [side for side in naive if side.backend is backend]
            if what == "p":
                naive.append(self.park(backend))
            elif what == "t":
                self.assertIs(self.sides.take(backend), own[-1] if own else None)
                naive = [side for side in naive if side is not (own or [None])[-1]]
            elif what == "r" and own:
                own[0].reset()
                naive.remove(own[0])
            elif what == "o":
                self.assertEqual(self.sides.drop_oldest(), bool(naive))
                del naive[:1]
            elif what == "d":
                self.sides.drop_backend(backend)
                naive = [side for side in naive if side.backend is not backend]
            self.assertEqual(list(self.sides._all), naive)
            self.assertEqual(len(self.deadlines), len(naive))
            self.assertTrue(all(not side.closed for side in naive))
