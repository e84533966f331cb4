"""A log's writer is killed before every change it makes to the disk, and in the middle of every
write; what a restart finds holds all that was flushed and nothing that never was.

The writer appends, follows, rolls, truncates, starts anew, deletes by retention and by
DeleteRecords, flushes, writes checkpoints, is closed and opened, and is deleted and created again.
The disk is in memory, and copied at each change (`before_change`): either the process alone was
killed, and all that it wrote is there, or the power went, and of what was not fsynced some is
missing, torn or zero. Now and then the recovery itself is cut short, too.

`bin/test` goes through some ten thousand crash points, `bin/test --long` through half a million.
"""

import logging
from collections.abc import Iterator
from random import Random

import pytest
from log_disks import ForgetfulFiles, PowerCut
from log_world import World, noted, verify_recovered

from zkafka.log.directory import LogDirectory

STEPS = 45


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Recoveries warn of what they cut off; a hundred thousand lines help nobody."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


class Crashes:
    """Judges the disk of a world at each of its changes."""

    def __init__(self, seed):
        self.count = 0
        self._seed = seed
        self._chance = Random(seed)
        self._world = World(ForgetfulFiles(), Random(seed))
        self._world.files.before_change = self._crash

    def live(self, steps):
        for _ in range(steps):
            self._world.step()

    def _crash(self):
        self.count += 1
        chance = self._chance
        image = None if chance.random() < 0.2 else chance
        with noted(f"seed {self._seed}, crash point {self.count}"):
            found = self._world.files.after_power_cut(image)
            if chance.random() < 0.1:
                found = self._cut_again(found)
            verify_recovered(self._world, found, go_on=chance.random() < 0.2)

    def _cut_again(self, files):
        """The power goes once more, in the middle of the recovery."""
        files.cut_at = self._chance.randint(1, 8)
        try:
            LogDirectory.open("/data", files).load(lambda topic: self._world.config)
        except PowerCut:
            pass
        return files.after_power_cut(self._chance)


@pytest.mark.slow
def test_no_crash_point_loses_or_invents_anything():
    total = 0
    for seed in range(50):
        crashes = Crashes(seed)
        crashes.live(STEPS)
        total += crashes.count
    assert total >= 10_000


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_nor_does_any_of_many_more(seed):
    for number in range(30):
        Crashes(100 * seed + number).live(STEPS)
