"""A request about very many things lets others have the loop while it is worked on."""

import pytest
import trio

from zkafka.turns import STEPS, pause_now_and_then


async def turns_of_others(work):
    """How often another task came to run while `work` did."""
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1  # before it waits: a turn that finds itself cancelled was one too
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await work()
        nursery.cancel_scope.cancel()
    return turns


@pytest.mark.parametrize("pauses", [0, 1, 5])
async def test_there_is_a_pause_after_so_many_steps(pauses):
    async def work():
        for done in range(STEPS * pauses + STEPS - 1):
            await pause_now_and_then(done)

    # The other task may be in the first or the second place of each round.
    assert abs(await turns_of_others(work) - pauses) <= 1
