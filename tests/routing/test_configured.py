"""Tests of dlba.routing.configured: what is its own; the rest is tested with `service`."""

from dlba.routing.hashtable import UNASSIGNED, second_of
from tests.routing.test_service import Case


class SchedulerTests(Case):
    def test_who_is_silent_fails_and_comes_back(self):
        self.made.path.scheduler.table.assign(5, 2)
        self.pass_(1.0, 1, 2)
        self.assertEqual(self.failed(), set())
        self.said()
        self.pass_(0.5, 1)
        self.assertEqual(self.failed(), {"c"})
        self.assertEqual(self.said(), ["node c doesn't answer: failed, 1 buckets freed"])
        self.pass_(1.0, 1, 2)
        self.assertEqual(self.failed(), set())
        self.assertEqual(self.said(), ["node c answers again"])

    def test_a_restart_keeps_the_table(self):
        self.made.path.scheduler.table.assign(5, 1)
        self.made.path.scheduler.table.assign(6, 2)
        self.made.stopService()
        self.assertEqual(self.said()[-1], "client table of 2 buckets kept")
        self.reactor.advance(100)
        self.made = self.service()
        self.made.privilegedStartService()
        self.made.startService()
        self.assertEqual(self.said()[0], "client table of 2 buckets taken up")
        table = self.made.path.scheduler.table
        self.assertEqual([table.node_of(bucket) for bucket in (4, 5, 6)], [UNASSIGNED, 1, 2])
        # Just used, by the clock of the frames.
        self.assertEqual(table.last_of(5), second_of(self.reactor.seconds()))
        self.assertEqual(list(self.state.iterdir()), [])


class BackupTests(Case):
    node = "b"

    def test_a_backup_neither_takes_nor_keeps_nor_leaves_a_table(self):
        file = self.state / "table"
        file.touch()
        made = self.service()
        made.privilegedStartService()
        made.startService()
        self.assertFalse(file.exists())
        made.path.scheduler.table.assign(5, 1)
        made.stopService()
        self.assertEqual(list(self.state.iterdir()), [])
