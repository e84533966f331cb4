"""A log moves between three directories, each a disk of its own, while it is written, cut and
flushed, and its broker is killed before every change to any of them, as in
`test_every_crash_point.py`: a restart finds one log, with all that was flushed and nothing that
never was, and can go on with the move.

The writer goes through the steps of `log/relocation.py` in between everything else, and now and
then has the future log removed instead, or closes everything and opens it again.
"""

import logging
import uuid
from collections.abc import Iterator
from random import Random

import pytest
from log_disks import ForgetfulFiles, PowerCut
from log_world import TP, World, close, noted, verify_recovered

from zkafka.log import relocation
from zkafka.log.directory import LogDirectory, settle
from zkafka.log.relocation import Relocation
from zkafka.replication.truncation import common_end

STEPS = 80


@pytest.fixture(autouse=True)
def _quiet(monkeypatch) -> Iterator[None]:
    """Recoveries warn of what they cut off. Pieces as small as the segments."""
    monkeypatch.setattr(relocation, "PIECE_BYTES", 500)
    monkeypatch.setattr(relocation, "LAST_BYTES", 700)
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


class MovingWorld(World):
    """`directory` is where the log is; `way` is its move, whose next step is `stage`."""

    paths = ("/data", "/other", "/third")
    topic_id = uuid.UUID(int=1)

    def __init__(self, files, rng):
        super().__init__(files, rng)
        for path in self.paths[1:]:
            files.make_directories(path)
        files.fsync_path("/")
        self.directories = [self.directory]
        self.directories += [LogDirectory.open(path, files) for path in self.paths[1:]]
        for directory in self.directories[1:]:
            directory.load(lambda topic: self.config)
        self.way = None
        self.swapped = 0
        self.resumed = 0

    def step(self):
        if self.rng.random() < 0.5:
            self.move_on()
        else:
            super().step()

    def move_on(self):
        """One step of the move, whichever is next."""
        way, rng = self.way, self.rng
        if way is None:
            target = rng.choice([d for d in self.directories if d is not self.directory])
            target.create_future(self.log)
            target.sync()
            self.way = Relocation(self.log, self.directory, target)
        elif rng.random() < 0.03:
            way.target.schedule_delete(way.future)
            way.target.sync()
            self.way = None
        elif way.parting():
            way.cut()
        elif way.must_copy:
            with_piece(way, self.now)
        elif way.must_flush:
            way.make_durable()
        elif way.swap(self.now):
            self._take_over(way)

    def _take_over(self, way):
        self.swapped += 1
        self.log, self.directory = way.future, way.target
        way.leave_source()
        self.way = None
        # What is written and flushed now, while both are there, is the new log's.
        for _ in range(self.rng.randint(0, 3)):
            self.rng.choice([self.append_as_leader, self.flush, self.truncate])()
        way.make_name_durable()
        way.remove_source()
        way.source.sync()

    def truncate(self):
        """Who is cut goes on with what a leader of a later epoch says: one offset in one epoch is
        one record, or a start could not tell where two logs part."""
        super().truncate()
        self.new_epoch()

    def truncate_below_start(self):
        super().truncate_below_start()
        self.new_epoch()

    def start_anew(self):
        super().start_anew()
        self.new_epoch()

    def create_anew(self):
        """The future log goes first. Should it come back after a power cut, only the topic's id
        tells that it is another's."""
        self.topic_id = uuid.UUID(int=self.topic_id.int + 1)
        if self.way is not None:
            self.way.target.schedule_delete(self.way.future)
            self.way = None
        super().create_anew()

    def purge(self):
        for directory in self.directories:
            directory.purge_deleted(self.now)

    def checkpoint(self):
        super().checkpoint()
        [write] = self.rng.sample(
            [(d.write_recovery_points, d.write_log_start_offsets) for d in self.directories], 1
        )
        for one in write:
            one()

    def reopen(self):
        close(self.directories, clean=True)
        assert not self.files.open_files
        self.floor = self.end
        self.directories = [LogDirectory.open(path, self.files) for path in self.paths]
        for directory in self.directories:
            directory.load(lambda topic: self.config)
        self.log = settle(self.directories)[TP]
        [self.directory] = [d for d in self.directories if TP in d.logs]
        assert self.log.recovery_point == self.end
        self.way = found_way(self.directories, self.log)

    def go_on(self, directories, log):
        """The move goes on where a kill has cut it short, to its end."""
        way = found_way(directories, log)
        if way is None:
            return log
        self.resumed += 1
        end = log.log_end_offset
        while way.parting():
            way.cut()
        while way.must_copy:
            with_piece(way, self.now)
        way.make_durable()
        assert way.swap(self.now)
        way.leave_source()
        way.make_name_durable()
        way.remove_source()
        way.source.sync()
        assert way.future.log_end_offset == end
        way.future.check()
        return way.future


def with_piece(way, now):
    piece = way.next_piece()
    try:
        way.append(piece, now)
    finally:
        piece.release()


def found_way(directories, log):
    """The move that a start finds."""
    ways = [
        Relocation(
            log,
            next(d for d in directories if d.logs.get(TP) is log),
            directory,
            common_end(future.epochs, future.log_end_offset, log.epochs, log.log_end_offset),
        )
        for directory in directories
        if (future := directory.futures.get(TP)) is not None
    ]
    assert len(ways) <= 1
    return ways[0] if ways else None


class Crashes:
    """Judges the disk of a world at each of its changes."""

    def __init__(self, seed):
        self.count = 0
        self._seed = seed
        self._chance = Random(seed)
        self.world = MovingWorld(ForgetfulFiles(), Random(seed))
        self.world.files.before_change = self._crash

    def live(self, steps):
        for _ in range(steps):
            self.world.step()
            self.world.verify()

    def _crash(self):
        self.count += 1
        chance = self._chance
        image = None if chance.random() < 0.3 else chance
        with noted(f"seed {self._seed}, crash point {self.count}"):
            found = self.world.files.after_power_cut(image)
            if chance.random() < 0.1:
                found = self._cut_again(found)
            verify_recovered(self.world, found, go_on=chance.random() < 0.3)

    def _cut_again(self, files):
        """The power goes once more, in the middle of the recovery."""
        files.cut_at = self._chance.randint(1, 12)
        try:
            directories = [LogDirectory.open(path, files) for path in MovingWorld.paths]
            for directory in directories:
                directory.load(lambda topic: self.world.config)
            settle(directories)
        except PowerCut:
            pass
        return files.after_power_cut(self._chance)


@pytest.mark.slow
def test_no_crash_point_of_a_move_loses_or_invents_anything():
    total = swapped = resumed = 0
    for seed in range(8):
        crashes = Crashes(seed)
        crashes.live(STEPS)
        total += crashes.count
        swapped += crashes.world.swapped
        resumed += crashes.world.resumed
    assert total >= 2_000
    assert swapped >= 20
    assert resumed >= 100


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_nor_does_any_of_many_more_of_a_move(seed):
    for number in range(15):
        Crashes(100 * seed + number).live(STEPS)
