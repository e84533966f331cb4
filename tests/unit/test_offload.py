"""Work in threads: as many as were allowed, to the end, and errors told."""

import threading

import pytest

from zkafka.offload import in_threads


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_item_is_worked_on_once_by_at_most_so_many_threads(threads):
    lock = threading.Lock()
    done, now, most = [], 0, 0

    def work(item):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        with lock:
            now -= 1
            done.append(item)

    in_threads(threads, work, range(50))
    assert sorted(done) == list(range(50))
    assert most <= threads


def test_they_work_at_the_same_time():
    together = threading.Barrier(4, timeout=30)
    in_threads(4, lambda _: together.wait(), range(8))


@pytest.mark.parametrize("threads", [1, 3])
def test_what_one_raises_is_raised_when_no_other_runs_any_more(threads):
    running = set()

    def work(item):
        running.add(item)
        try:
            if item == 4:
                raise ValueError(item)
        finally:
            running.discard(item)

    with pytest.raises(ValueError, match="4"):
        in_threads(threads, work, range(1000))
    assert not running
