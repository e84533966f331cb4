"""A partition log, whatever is done to it, is the list of its batches.

And whenever the power goes, what a restart finds is such a list again, with everything in it that
was flushed. Each crash test runs the same deeds up to another change of the disk.
"""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_disks import ForgetfulFiles, PowerCut
from log_world import World, verify_recovered

from zkafka.log.directory import LogDirectory


@given(st.randoms(use_true_random=False))
@settings(
    max_examples=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
def test_a_log_is_the_list_of_its_batches(rng):
    world = World(ForgetfulFiles(), rng)
    for _ in range(40):
        world.step()
        world.verify()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(45))
def test_a_power_cut_loses_nothing_flushed_and_invents_nothing(seed):
    whole = World(ForgetfulFiles(), Random(seed))
    first = whole.files.changes
    steps = 70
    live(whole, steps)
    total = whole.files.changes
    chance = Random(seed)
    for cut_at in sorted(chance.sample(range(first + 1, total), min(30, total - first - 1))):
        files = ForgetfulFiles()
        world = World(files, Random(seed))
        files.cut_at = cut_at
        with pytest.raises(PowerCut):
            live(world, steps)
        for image in (None, chance):  # The process alone died; the power went.
            found = files.after_power_cut(image)
            if chance.random() < 0.3:
                found = cut_again(found, world, chance)
            verify_recovered(world, found)


def live(world, steps):
    for _ in range(steps):
        world.step()


def cut_again(files, world, chance):
    """The power goes once more, in the middle of the recovery."""
    files.cut_at = chance.randint(1, 8)
    try:
        LogDirectory.open("/data", files).load(lambda topic: world.config)
    except PowerCut:
        pass
    return files.after_power_cut(chance)
