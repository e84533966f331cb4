import pytest
import trio
import trio.testing

from zkafka.errands import Errands

settle = trio.testing.wait_all_tasks_blocked


@pytest.fixture
def errands():
    return Errands()


async def test_what_nobody_promised_to_run_is_run_after_this_step(errands):
    done = []
    errands.soon(lambda: done.append(1))
    errands.soon(lambda: done.append(2))
    assert done == []
    await settle()
    assert done == [1, 2]
    errands.soon(lambda: done.append(3))
    assert done == [1, 2]
    await settle()
    assert done == [1, 2, 3]


async def test_what_was_promised_is_run_by_who_promised(errands):
    done = []
    errands.promise()
    errands.soon(lambda: done.append(1))
    errands.run()
    assert done == [1]
    errands.keep()
    errands.soon(lambda: done.append(2))
    assert done == [1]
    await settle()
    assert done == [1, 2]


async def test_an_errand_may_lead_to_another(errands):
    done = []
    errands.promise()
    errands.soon(lambda: errands.soon(lambda: done.append("second")))
    errands.run()
    errands.keep()
    assert done == ["second"]
    errands.soon(lambda: errands.soon(lambda: done.append("fourth")))
    await settle()
    assert done == ["second", "fourth"]


async def test_what_was_due_before_a_promise_is_run_once(errands):
    done = []
    errands.soon(lambda: done.append(1))
    errands.promise()
    errands.soon(lambda: done.append(2))
    errands.keep()
    assert done == [1, 2]
    await settle()
    assert done == [1, 2]


def test_they_outlive_the_loop_that_ran_them(errands):
    done = []

    async def leave(number):
        errands.soon(lambda: done.append(number))
        await settle()

    trio.run(leave, 1)
    trio.run(leave, 2)
    assert done == [1, 2]
