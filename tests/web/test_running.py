"""What keeps a proxy going: no mistake ends the sweep, and memory goes back after a crowd.

What the sweep and the checks do is shown where it matters: tests.web.test_service, test_checker.
"""

import time
from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.load import load_text
from dlba.web import running
from dlba.web.deadlines import TICK
from dlba.web.proxy import Proxy
from dlba.web.running import CROWD, Running
from tests.web.harness import KEYS, _folder, configuration


def make_proxy(limits: dict[str, str] | None = None) -> Proxy:
    """A proxy that nobody uses."""
    web = load_text(configuration([1], limits=limits), _folder()).array.web
    assert web is not None
    return Proxy(web, KEYS, None)


class Broken:
    """Whatever it is asked to do goes wrong."""

    kept = 1 << 20
    deadline = 0.0
    slot = -1

    def __init__(self) -> None:
        self.asked: list[str] = []

    def _fail(self, what: str) -> None:
        self.asked.append(what)
        raise RuntimeError(what)

    def expire(self, now: float) -> None:
        self._fail("expire")

    def squeeze(self) -> None:
        self._fail("squeeze")

    def shed(self) -> None:
        self._fail("shed")

    def abort(self) -> None:
        self._fail("abort")


class Sweeping(SynchronousTestCase):
    def test_mistakes_end_no_sweep(self) -> None:
        """Nor do those of what ends whoever made one."""
        proxy = make_proxy({"buffer_memory": "1MiB"})
        start = time.monotonic()
        clock = Clock()
        self.patch(running, "time", SimpleNamespace(monotonic=lambda: start + clock.seconds()))
        sweeps = Running(clock, proxy)
        self.patch(proxy.poller, "attach", lambda reactor: None)
        self.addCleanup(sweeps.stop)
        sweeps.start()
        expires, squeezed, keeps = members = Broken(), Broken(), Broken()
        proxy.deadlines.watch(expires)
        proxy.clients.add(squeezed)  # type: ignore[arg-type]
        proxy.memory.keeps(keeps)
        proxy.memory.change(1 << 20)
        clock.pump([TICK] * 24)
        # Memory is full for three seconds: two without anybody being shed.
        self.assertEqual(expires.asked, ["expire", "abort"])
        self.assertEqual(squeezed.asked, ["squeeze", "abort"] * 24)
        self.assertEqual(set(keeps.asked), {"shed"})
        failures = self.flushLoggedErrors(RuntimeError)
        self.assertEqual(len(failures), sum(len(member.asked) for member in members))
        asked = sum(len(member.asked) - member.asked.count("abort") for member in members)
        self.assertEqual(proxy.counters.internal_errors, asked)
        proxy.clients.clear()


class Trimming(SynchronousTestCase):
    def setUp(self) -> None:
        self.given_back: list[int] = []
        self.patch(running, "give_back", self.given_back.append)
        proxy = make_proxy()
        self.addCleanup(proxy.poller.detach)
        self.running = Running(Clock(), proxy)

    def trims(self, *clients: int) -> int:
        """How often memory is given back while there are so many clients, one after the other."""
        del self.given_back[:]
        for count in clients:
            self.running._trim(count)
        return len(self.given_back)

    def test_after_a_crowd(self) -> None:
        self.assertEqual(self.trims(0, 10, CROWD + 1, CROWD // 2, CROWD // 4), 0)
        self.assertEqual(self.trims(CROWD // 4 - 1, 3, 1, 0), 1)
        self.assertEqual(self.trims(5000, 4000, 100, 0), 1)

    def test_not_after_a_few(self) -> None:
        self.assertEqual(self.trims(CROWD, 0, CROWD, 0), 0)

    def test_the_real_one(self) -> None:
        self.assertIn(running._find_trim()(0), (0, 1, None))


class Slow:
    """What takes long to end."""

    def __init__(self, proxy: Proxy, ended: list[object]) -> None:
        self.deadline = time.monotonic()
        self.slot = -1
        self.ended = ended
        proxy.deadlines.watch(self)

    def expire(self, now: float) -> None:
        time.sleep(0.003)
        self.ended.append(self)

    def abort(self) -> None:
        raise AssertionError("nothing went wrong")


class Turns(SynchronousTestCase):
    """Many that are due together don't make the others wait for all of them."""

    def test_one_turn_after_the_other(self) -> None:
        web = load_text(configuration([1]), _folder()).array.web
        assert web is not None
        proxy = Proxy(web, KEYS, None)
        self.addCleanup(proxy.poller.detach)
        clock = Clock()
        sweeper = Running(clock, proxy)
        ended: list[object] = []
        for _ in range(3):
            Slow(proxy, ended)
        time.sleep(0.3)
        sweeper._sweep()
        self.assertEqual(len(ended), 1)
        # The next turns come without any time between; a Clock takes them all at once.
        clock.advance(0)
        self.assertEqual(len(ended), 3)
        self.assertEqual(len(proxy.deadlines), 0)
        # The next sweep is due as ever.
        Slow(proxy, ended)
        time.sleep(0.3)
        clock.advance(TICK)
        self.assertEqual(len(ended), 4)
