"""Tests of dlba.election.watch: evidence by time, and rank."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.messages import Alive
from dlba.election.reign import NodeInfo
from dlba.election.watch import Evidence, Watch, rank

DOWN = 0.3


def info(number, priority=100, enabled=True):
    return NodeInfo(number, f"n{number}", priority, enabled, bytes((2, 0, 0, 0, 1, number)))


def alive(draining=False, eligible=True):
    return Alive(
        term=1,
        reign_term=1,
        scheduler=1,
        count=1,
        table_term=0,
        version=0,
        able=True,
        draining=draining,
        eligible=eligible,
    )


def watch(number=1, up=True, says=None, now=100.0, **options):
    made = Watch(info(number, **options), now)
    made.up = up
    made.alive = says
    return made


class SchedulerEvidenceTests(SynchronousTestCase):
    def evidence(self, made, at):
        found, complete = made.evidence(DOWN)
        self.assertAlmostEqual(complete, at)
        return found

    def test_neither_heartbeat_nor_echo(self):
        self.assertIs(self.evidence(watch(), 100.3), Evidence.SILENT)

    def test_it_counts_from_the_later_of_both(self):
        made = watch()
        made.echo = 100.2
        self.assertIs(self.evidence(made, 100.5), Evidence.SILENT)
        made.beat = 100.4
        self.assertIs(self.evidence(made, 100.7), Evidence.SILENT)

    def test_its_kernel_answers_but_it_hangs(self):
        made = watch()
        made.echo = 100.85
        self.assertIs(self.evidence(made, 100.9), Evidence.HUNG)

    def test_after_an_absence_silence_is_counted_anew(self):
        made = watch()
        made.reset(105.0)
        self.assertIs(self.evidence(made, 105.3), Evidence.SILENT)

    def test_time_in_which_nothing_was_read_does_not_count(self):
        made = watch()
        made.shift(0.2)
        self.assertIs(self.evidence(made, 100.5), Evidence.SILENT)


class BackupEvidenceTests(SynchronousTestCase):
    def test_gone_is_dead_at_once(self):
        made = watch()
        made.alive_at = 100.0
        self.assertFalse(made.dead(100.0, DOWN))
        made.gone = True
        self.assertTrue(made.dead(100.0, DOWN))

    def test_silent_in_both_ways(self):
        made = watch()
        made.alive_at, made.echo = 100.0, 100.1
        self.assertFalse(made.dead(100.39, DOWN))
        self.assertTrue(made.dead(100.41, DOWN))

    def test_an_absence_of_ones_own_makes_nobody_dead(self):
        made = watch()
        made.reset(200.0)
        self.assertFalse(made.dead(200.3, DOWN))


class RankTests(SynchronousTestCase):
    def rank(self, own, others, draining=False, dead=-1):
        return rank(own, draining, {one.info.number: one for one in others}, dead)

    def test_the_lower_number_comes_first(self):
        others = [watch(1), watch(3)]
        self.assertEqual(self.rank(info(2), others), 1)
        self.assertEqual(self.rank(info(4), others), 2)
        self.assertEqual(self.rank(info(0), others), 0)

    def test_the_higher_priority_comes_before_that(self):
        others = [watch(1, priority=50), watch(3, priority=200)]
        self.assertEqual(self.rank(info(2), others), 1)
        self.assertEqual(self.rank(info(2, priority=300), others), 0)
        self.assertEqual(self.rank(info(2, priority=10), others), 2)

    def test_not_draining_comes_before_all(self):
        others = [watch(1, says=alive(draining=True), priority=500), watch(3, priority=1)]
        self.assertEqual(self.rank(info(2), others), 0)
        self.assertEqual(self.rank(info(2), others, draining=True), 2)

    def test_who_can_not_be_scheduler_does_not_count(self):
        others = [
            watch(1, up=False),
            watch(2, enabled=False),
            watch(3, says=alive(eligible=False)),
            watch(4),
        ]
        self.assertEqual(self.rank(info(9), others), 1)

    def test_nor_does_the_dead_one(self):
        self.assertEqual(self.rank(info(9), [watch(1), watch(2)], dead=1), 1)

    def test_no_two_nodes_have_one_rank(self):
        infos = [info(n, priority=p) for n, p in ((1, 100), (2, 150), (3, 100), (4, 150))]
        ranks = []
        for own in infos:
            others = [watch(i.number, priority=i.priority) for i in infos if i is not own]
            ranks.append(self.rank(own, others))
        self.assertEqual(sorted(ranks), [0, 1, 2, 3])
        self.assertEqual(ranks, [2, 0, 3, 1])
