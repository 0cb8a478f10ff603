"""Tests of dlba.election.census, by way of the member whose it is; see test_member as well."""

from dlba.election.commands import Hold, Lack
from dlba.election.messages import Question, Report
from tests.election.test_member import Case


class CensusCase(Case):
    def setUp(self):
        super().setUp()
        self.reign()
        self.run_for(0.2, self.reports)

    def lacks(self, out, number=3):
        return [(c.what, c.on) for c in out if isinstance(c, Lack) and c.number == number]

    def holds(self, out, number=3):
        return [c.on for c in out if isinstance(c, Hold) and c.number == number]

    def reports(self, command):
        """All nodes follow and answer the sweep."""
        if isinstance(command.message, Question):
            said = {"hits": 1, "open_connections": 0, "average_response": 0.0, "data": b"[]"}
            return self.takes(command.number, Report(id=command.message.id, **said))
        return self.follows(command)

    def echoes(self, command):
        """And all kernels answer."""
        for number in (1, 3):
            self.gets("echoed", number)
        return self.reports(command)


class ArpTests(CensusCase):
    def test_one_whose_kernel_answers_echoes_is_held(self):
        self.gets("echoed", 3)
        out = list(self.gets("arp", 3, True))
        out += self.run_for(1.0, self.echoes)
        self.assertEqual(self.lacks(out), [])
        self.assertEqual(self.holds(out), [True])
        out = list(self.gets("arp", 3, False))
        out += self.run_for(0.3, self.echoes)
        self.assertEqual(self.holds(out), [False])

    def test_one_that_answers_neither_has_failed(self):
        self.gets("echoed", 3)
        self.gets("arp", 3, True)
        out = self.run_for(0.4, self.follows)  # heartbeats come, by another network
        self.assertEqual(self.lacks(out), [("arp", True)])
        out = list(self.gets("arp", 3, False))
        self.assertEqual(self.lacks(out), [("arp", False)])

    def test_a_backup_judges_nobody(self):
        self.takes(3, self.beat(term=9))
        out = list(self.gets("arp", 1, True))
        self.assertEqual(self.lacks(out, 1) + self.holds(out, 1), [])


class SweepTests(CensusCase):
    def test_an_answer_ends_the_hold_before_the_sweep_ends(self):
        """Node 1 is silent in the second sweep: node 3, held by the first, isn't kept waiting."""
        out = self.run_for(4.0, self.follows)  # heartbeats are answered, questions are not
        self.assertEqual(self.holds(out)[-1], True)

        def one_reports(command):
            return (self.reports if command.number == 3 else self.follows)(command)

        out = self.run_for(5.0, one_reports)
        self.assertEqual(self.holds(out)[-1], False)
        self.assertEqual([on for on in self.holds(out, 1) if not on], [])
