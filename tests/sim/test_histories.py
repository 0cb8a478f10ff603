"""Thousands of histories, each of its own seed: nothing may happen that must not.

DLBA_SIM_SEED=7 runs the one of that seed alone; DLBA_SIM_RUNS says how many. A seed that fails is
named with the command that tells its story.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.transitions import State
from tests.sim.histories import History
from tests.sim.world import World

#: The first seed; the others follow. Runs of one process at a time.
FIRST, BATCH = 1, 50
RUNS = 2000


def play(seeds):
    """What failed, as text, and what happened in all, as counts."""
    failed, counts = [], {}
    for seed in seeds:
        history = History(seed)
        try:
            history.run()
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed is to be named
            failed.append(f"python -m tests.sim.replay {seed}  # {type(error).__name__}: {error}")
        for what, count in history.world.checks.counts.items():
            counts[what] = counts.get(what, 0) + count
    return failed, counts


class HistoryTests(SynchronousTestCase):
    def test_histories(self):
        if alone := os.environ.get("DLBA_SIM_SEED"):
            failed, _ = play([int(alone)])
            self.assertEqual(failed, [])
            return
        runs = int(os.environ.get("DLBA_SIM_RUNS", RUNS))
        seeds = range(FIRST, FIRST + runs)
        batches = [seeds[at : at + BATCH] for at in range(0, runs, BATCH)]
        failed, counts = [], {}
        with ProcessPoolExecutor(
            len(os.sched_getaffinity(0)), mp_context=get_context("spawn")
        ) as processes:
            for more, happened in processes.map(play, batches):
                failed += more
                for what, count in happened.items():
                    counts[what] = counts.get(what, 0) + count
        self.assertEqual(failed, [], "\n" + "\n".join(failed))
        # They must have had something to get wrong.
        for what in ("reigns", "takeovers", "kept", "failed", "moved", "parts"):
            self.assertGreater(counts.get(what, 0), runs // 20, what)


class ReplayTests(SynchronousTestCase):
    def test_a_seed_tells_the_same_story_twice(self):
        stories = []
        for _ in range(2):
            story: list[str] = []
            History(7, story.append).run()
            stories.append(story)
        self.assertEqual(*stories)
        self.assertGreater(len(stories[0]), 10)


class BreachTests(SynchronousTestCase):
    """The checks find what is wrong: each of these arrays is made to break one rule."""

    def setUp(self):
        self.world = World(1, 3, True)
        self.world.start()
        self.world.until(self.world.agreed, 2.0)
        self.world.segment.clients(self.world.clock.now + 60)
        self.world.run(2.5)

    def breach(self, call, *args):
        return str(self.assertRaises(AssertionError, call, *args))

    def test_two_winners_of_one_term(self):
        backup, scheduler = self.world.backups()[0], self.world.scheduler()
        self.assertIn("won by", self.breach(self.world.scheduled, backup, scheduler.member.term))

    def test_a_second_grant(self):
        process = self.world.scheduler()
        term, granted = self.world.disks[process.number]
        text = self.breach(self.world.store, process, term, granted % 3 + 1)
        self.assertIn("stores term", text)

    def test_a_live_node_fails(self):
        scheduler, backup = self.world.scheduler(), self.world.backups()[0]
        watch = scheduler.member.election.watches[backup.number]
        watch.gone = True
        self.assertIn("lives, but fails", self.breach(self.world.run, 0.1))

    def test_a_table_that_differs(self):
        backup = self.world.backups()[0]
        backup.table.cells[0] = 77
        self.assertIn("expected the table of", self.breach(self.world.checks.at_rest))

    def test_two_schedulers(self):
        for backup in self.world.backups():
            backup.scheduling = True
            self.world.checks.disturbed(backup.number)
        self.assertIn("at one time", self.breach(self.world.run, 0.1))
        self.world.majority = False  # a split may make two, but not for long
        self.assertIn("both scheduler", self.breach(self.world.run, 4.0))
        self.assertIn("expected one", self.breach(self.world.checks.at_rest))

    def test_a_lost_bucket(self):
        scheduler, backup = self.world.scheduler(), self.world.backups()[0]
        self.world.run(0.5)
        kept = next(
            bucket
            for bucket, node in enumerate(scheduler.nodes())
            if node not in (-1, scheduler.number)
            and scheduler.changed_at[bucket] < self.world.clock.now - 0.2
        )
        self.world.kill(scheduler.number)
        for process in self.world.backups():
            process.table.cells[2 * kept] = 77
        self.assertIn(f"bucket {kept} was", self.breach(self.world.run, 0.3))
        self.assertIsNot(backup.member.state, State.LISTENING)

    def test_a_busy_loop(self):
        self.patch(self.world.scheduler().member.election, "next_at", lambda now: now)
        self.assertIn("in the past", self.breach(self.world.run, 0.1))
