"""A compacted log is a list of records from which those were taken that were written again.

And whenever the process dies or the power goes in the middle of a cleaning, what a start finds has
all that must survive, nothing that was not there before, and is compacted to the same in the end.
"""

from itertools import pairwise
from random import Random

import attrs
import pytest
from cleaner_world import CONFIG, TP, World, batches_in, clean, records_in, start_cleaning
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from log_disks import ForgetfulFiles, PowerCut
from log_world import verify_places

from zkafka.log.directory import LogDirectory


class CompactedLog(RuleBasedStateMachine):
    """Appends, cleanings, truncations and restarts, in any order."""

    @initialize(rng=st.randoms(use_true_random=False))
    def open(self, rng):
        self.world = World(ForgetfulFiles(), rng)

    @rule(count=st.integers(1, 8))
    def append(self, count):
        for _ in range(count):
            self.world.append()

    @rule()
    def clean(self):
        self.world.clean()

    @rule()
    def truncate(self):
        self.world.truncate()

    @rule()
    def advance_and_retain(self):
        self.world.advance()
        self.world.retain()

    @rule()
    def purge(self):
        self.world.purge()

    @rule()
    def wait(self):
        self.world.wait()

    @rule()
    def reopen(self):
        self.world.reopen()

    @invariant()
    def the_log_is_the_list(self):
        self.world.verify()


TestCompactedLog = CompactedLog.TestCase
TestCompactedLog.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def filled(seed):
    """A disk with a log whose first segments were cleaned once, and which has more to clean; and
    what time it is."""
    world = World(ForgetfulFiles(), Random(seed))
    for _ in range(20):
        world.append()
    world.log.flush()
    clean(world.log, world.now)
    world.now += 2000
    for _ in range(20):
        world.append()
    world.directory.close(clean=True)
    return world.files, world.now


def opened(disk):
    """The log on a copy of this disk, on which everything is durable."""
    files = disk.after_power_cut(None)
    directory = LogDirectory.open("/data", files)
    return files, directory, directory.load(lambda topic: LARGER)[TP]


LARGER = attrs.evolve(CONFIG, segment_bytes=2000)
"""So that several of the segments written before become one."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_cleaning_that_is_cut_short_leaves_the_old_or_the_new(seed):
    disk, now = filled(seed)
    files, _, whole = opened(disk)
    before, opened_at, segment_count = records_in(whole), files.changes, len(whole.segments)
    clean(whole, now)
    after, cleaned_to = records_in(whole), whole.cleaned_to
    assert set(after) < set(before)
    assert len(whole.segments) < segment_count - 1
    chance = Random(seed)
    for _ in range(10):  # What was checkpointed is durable.
        assert records_in(opened(files.after_power_cut(chance))[2]) == after
    for cut_at in range(opened_at + 1, files.changes + 1):
        cut_files, _, log = opened(disk)
        cut_files.cut_at = cut_at
        jobs = clean_until_cut(log, now)
        for image in (None, chance):  # The process alone died; the power went.
            found_disk = cut_files.after_power_cut(image)
            if chance.random() < 0.3:
                found_disk = cut_again(found_disk, chance)
            found_files, directory, log = opened(found_disk)
            log.check()
            found = records_in(log)
            assert after.items() <= found.items() <= before.items()
            batches = batches_in(log)
            assert all(low.last_offset < high.base_offset for low, high in pairwise(batches))
            assert log.log_end_offset == whole.log_end_offset
            for producer_id, producer in whole.producers:
                assert log.producers.get(producer_id).last_sequence == producer.last_sequence
            leftovers = (".cleaned", ".swap", ".deleted", ".tmp")
            assert not any(name.endswith(leftovers) for name in found_files.list_names(log.path))
            log.flush()
            clean(log, now)
            assert (records_in(log), log.cleaned_to) == (after, cleaned_to)
            verify_places(log, [])
            directory.close(clean=True)
            assert not found_files.open_files
        jobs.close()


def run(jobs):
    for job in jobs:
        job()


def clean_until_cut(log, now):
    """Clean until the power goes. What was going on then is kept, so that nothing tidies up."""
    jobs = start_cleaning(log, now).steps()
    with pytest.raises(PowerCut):
        run(jobs)
    log._disk.offline = PowerCut()
    return jobs


def cut_again(files, chance):
    """The power goes once more, in the middle of the recovery."""
    files.cut_at = chance.randint(1, 12)
    try:
        LogDirectory.open("/data", files).load(lambda topic: CONFIG)
    except PowerCut:
        pass
    return files.after_power_cut(chance)
