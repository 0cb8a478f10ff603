"""Whole arrays in the faults that an operator thinks of first, each by itself."""

from functools import wraps
from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from dlba.election.transitions import State
from tests.sim.network import CHANNEL
from tests.sim.world import World

SEEDS = range(4)


def array(seed, nodes, majority=False, **options):
    """An array that has one scheduler, and clients since a while."""
    world = World(seed, nodes, majority, **options)
    world.start()
    world.segment.clients(world.clock.now + 60)
    world.until(world.agreed, 2.0)
    world.run(2.0)
    return world


def arrays(*sizes, majority=(False, True)):
    """The test gets a few arrays of each of those sizes, one after another."""

    def decorate(test):
        @wraps(test)
        def play(self):
            for nodes, needs, seed in product(sizes, majority, SEEDS):
                if nodes == 2 and needs:
                    continue
                try:
                    test(self, array(seed, nodes, needs))
                except AssertionError as error:
                    raise self.failureException(
                        f"array({seed}, {nodes}, {needs}): {error}"
                    ) from error

        return play

    return decorate


class Scenario(SynchronousTestCase):
    def took_over(self, world, old, within):
        """Another scheduler than `old` within so many seconds, whom all that run follow."""
        took = world.until(lambda: any(process.number != old for process in world.acting()), within)
        others = [p for p in world.there() if p.number != old and not p.paused]
        new = next(process for process in world.acting() if process.number != old)
        world.until(
            lambda: all(
                (p.member.scheduler, p.member.term) == (new.number, new.member.term) for p in others
            ),
            0.1,
        )
        return took

    def settles(self, world):
        """In the end there is one scheduler and one table, and nobody has failed."""
        world.until(world.channels.whole, 4.0)
        world.run(3.0)
        world.segment.clients(0.0)
        world.run(1.5)
        world.checks.at_rest()


class KillTests(Scenario):
    @arrays(2, 3, 4, 5, 7)
    def test_the_scheduler_is_killed(self, world):
        old = world.scheduler().number
        world.kill(old)
        self.took_over(world, old, 0.15)
        # `Checks.scheduled` has compared the tables.
        self.assertEqual(world.checks.counts["takeovers"], 1)
        self.assertGreater(world.checks.counts["kept"], 0)

    @arrays(4, 5)
    def test_and_the_next_one_too(self, world):
        for _ in range(2 if len(world.numbers) > 4 or not world.majority else 1):
            old = world.scheduler().number
            world.kill(old)
            self.took_over(world, old, 0.15)
            world.run(0.5)

    @arrays(5, 7)
    def test_both_at_once(self, world):
        old = world.scheduler().number
        second = world.backups()[0].number
        world.kill(old)
        world.kill(second)
        self.took_over(world, old, 0.25)

    @arrays(2, 3, 5)
    def test_a_killed_one_starts_again_as_a_backup(self, world):
        old = world.scheduler().number
        world.kill(old)
        self.took_over(world, old, 0.15)
        world.run(0.5)
        new, term = world.scheduler().number, world.scheduler().member.term
        world.start(old)
        self.settles(world)
        self.assertEqual(world.scheduler().number, new)
        self.assertEqual(world.scheduler().member.term, term)

    @arrays(2, 3, 5)
    def test_a_killed_one_starts_again_at_once(self, world):
        old = world.scheduler().number
        world.kill(old)
        world.run(0.02)
        world.start(old)
        self.took_over(world, old, 0.2)
        self.settles(world)

    @arrays(3, 5)
    def test_a_backup_is_killed(self, world):
        scheduler = world.scheduler()
        term = scheduler.member.term
        killed = world.backups()[0].number
        world.kill(killed)
        world.run(0.1)
        self.assertNotIn(killed, scheduler.nodes())
        self.assertIs(world.scheduler(), scheduler)
        world.start(killed)
        self.settles(world)
        self.assertEqual(world.scheduler().member.term, term)

    @arrays(2, 3)
    def test_all_are_killed(self, world):
        for number in world.numbers:
            world.kill(number)
        world.run(1.0)
        world.start()
        world.until(world.agreed, 2.5)
        self.settles(world)


class CutTests(Scenario):
    @arrays(2, 3, 5, 7, majority=(False,))
    def test_the_scheduler_loses_its_link(self, world):
        old = world.scheduler().number
        world.cut(old)
        self.took_over(world, old, 0.45)
        self.assertEqual(world.checks.counts["takeovers"], 1)
        world.run(1.0)
        self.assertIs(world.processes[old].member.state, State.FAULT)
        world.join(old)
        self.settles(world)

    @arrays(3, 5, majority=(True,))
    def test_with_a_majority_it_takes_half_a_down_after_longer(self, world):
        old = world.scheduler().number
        world.cut(old)
        self.took_over(world, old, 0.6)
        world.run(1.0)
        world.join(old)
        self.settles(world)

    @arrays(2, 3, 5, majority=(False,))
    def test_its_machine_loses_power(self, world):
        old = world.scheduler().number
        world.crash(old)
        self.took_over(world, old, 0.45)
        world.run(1.0)
        world.boot(old)
        self.settles(world)

    @arrays(3, 5)
    def test_a_backup_loses_its_link(self, world):
        scheduler = world.scheduler()
        cut = world.backups()[-1].number
        world.cut(cut)
        world.run(2.0)
        self.assertIs(world.scheduler(), scheduler)
        self.assertNotIn(cut, scheduler.nodes())
        world.join(cut)
        self.settles(world)
        self.assertIs(world.scheduler(), scheduler)

    @arrays(2, 3, majority=(False,))
    def test_only_the_channel_breaks(self, world):
        """The scheduler still answers for the VIP: nobody claims its place."""
        scheduler = world.scheduler()
        world.split([scheduler.number], (CHANNEL,))
        world.run(3.0)
        self.assertEqual(world.acting(), [scheduler])
        world.heal()
        self.settles(world)


class PauseTests(Scenario):
    @arrays(2, 3, 5)
    def test_the_scheduler_hangs_and_comes_back(self, world):
        old = world.scheduler().number
        world.pause(old)
        self.took_over(world, old, 3 * world.down_after + (0.3 if world.majority else 0.15))
        self.assertEqual(world.checks.counts["takeovers"], 1)
        new = world.scheduler()
        world.run(1.0)
        for tick_first in (True, False):
            world.resume(old, tick_first)
            # From its first moment on it is silent.
            self.assertEqual(world.acting(), [new])
            world.run(1.0)
            self.assertEqual(world.acting(), [new])
            world.pause(old)
            world.run(0.5)
        world.resume(old)
        self.settles(world)
        self.assertIs(world.scheduler(), new)

    @arrays(2, 3, 5)
    def test_it_comes_back_before_anybody_minds(self, world):
        scheduler, term = world.scheduler(), world.scheduler().member.term
        for seconds in (0.05, 0.15, 0.25, 0.28, 0.32, 0.5, 0.7):
            for tick_first in (True, False):
                world.pause(scheduler.number)
                world.run(seconds)
                world.resume(scheduler.number, tick_first)
                world.until(lambda: world.acting() == [scheduler], 0.1)
                world.run(1.0)
        self.assertEqual((world.acting(), scheduler.member.term), ([scheduler], term))
        self.assertEqual(world.checks.counts["failed"], 0)

    @arrays(2, 3, 5)
    def test_all_stop_for_a_while(self, world):
        """As a laptop sleeps: nobody is found dead, whoever wakes up first."""
        for number in world.numbers:
            world.pause(number)
        world.run(5.0)
        for number in world.random.sample(world.numbers, len(world.numbers)):
            world.resume(number)
            world.run(0.01)
        world.until(world.agreed, 2.0)
        self.settles(world)


class StopTests(Scenario):
    @arrays(2, 3, 5)
    def test_the_scheduler_is_stopped(self, world):
        """Another one takes over before its process ends, and both pass frames on till then."""
        old = world.scheduler().number
        world.stop(old, lingers=1.0)
        self.took_over(world, old, 0.15)
        self.assertTrue(world.processes[old].scheduling or world.processes[old].alive)
        world.run(1.5)
        self.assertIsNone(world.processes[old])
        world.start(old)
        self.settles(world)

    @arrays(2, 3)
    def test_late_frames_place_nothing_once_another_one_is_scheduler(self, world):
        """Of clients that have missed the announcements, at a node that is about to end."""
        process = world.scheduler()
        world.stop(process.number, lingers=1.0)
        self.took_over(world, process.number, 0.15)
        new = world.scheduler()
        for bucket in range(world.buckets):
            process.input("frame", bucket)  # the checks break off where one is placed
            if bucket % 8 == 0:
                new.input("frame", bucket)
                world.run(0.01)
        world.run(0.2)
        self.assertEqual(process.nodes(), new.nodes())

    def test_the_last_one_stays_scheduler_till_its_end(self):
        world = array(1, 2)
        scheduler = world.scheduler()
        world.kill(world.backups()[0].number)
        world.run(1.0)
        world.stop(scheduler.number, lingers=1.0)
        world.run(0.9)
        self.assertEqual(world.acting(), [scheduler])


class SplitTests(Scenario):
    @arrays(3, 5, majority=(True,))
    def test_with_a_majority_only_the_larger_part_has_a_scheduler(self, world):
        old = world.scheduler().number
        alone = [old, *world.numbers[: len(world.numbers) // 2]]
        alone = list(dict.fromkeys(alone))[: len(world.numbers) // 2]
        world.split(alone)
        world.run(3.0)
        self.assertEqual(len(world.acting()), 1)
        self.assertNotIn(world.scheduler().number, alone)
        world.heal()
        self.settles(world)

    @arrays(2, 3, 5, majority=(False,))
    def test_else_each_part_has_one_and_after_it_there_is_one(self, world):
        world.split(world.numbers[:1])
        world.run(3.0)
        self.assertEqual(len(world.acting()), 2)
        world.heal()
        self.settles(world)

    @arrays(3, 5, majority=(True,))
    def test_nobody_comes_back_with_a_term_that_ends_the_others(self, world):
        """A cut-off node claims nothing with a majority elsewhere: its return is no event."""
        scheduler, term = world.scheduler(), world.scheduler().member.term
        world.split([world.backups()[0].number])
        world.run(5.0)
        world.heal()
        self.settles(world)
        self.assertIs(world.scheduler(), scheduler)
        self.assertEqual(scheduler.member.term, term)


class DiskTests(Scenario):
    @arrays(3, 5)
    def test_a_full_disk_grants_nothing_and_claims_nothing(self, world):
        """`Checks.sent` sees to it that no grant or claim leaves that isn't on disk."""
        first = world.backups()[0].number
        world.full.add(first)
        old = world.scheduler().number
        world.kill(old)
        if not (world.majority and len(world.numbers) == 3):
            self.took_over(world, old, 0.6)
            self.assertNotEqual(world.scheduler().number, first)
        world.full.clear()
        world.start(old)
        self.settles(world)
