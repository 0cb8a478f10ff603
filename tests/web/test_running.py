"""What keeps a proxy going: memory goes back to the system when a crowd has gone.

The sweep and the checks are shown where they matter: tests.web.test_service, test_checker.
"""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dlba.config.load import load_text
from dlba.web import running
from dlba.web.proxy import Proxy
from dlba.web.running import CROWD, Running
from tests.web.harness import KEYS, _folder, configuration


class Trimming(SynchronousTestCase):
    def setUp(self) -> None:
        self.given_back: list[int] = []
        self.patch(running, "give_back", self.given_back.append)
        web = load_text(configuration([1]), _folder()).array.web
        assert web is not None
        proxy = Proxy(web, KEYS, None)
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
