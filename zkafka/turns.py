"""Long answers in short steps, so that one client's large request does not hold up the others.

A request may ask about hundreds of thousands of things (`codec.ELEMENT_BUDGET`). A handler that
looks at each without a pause keeps the loop for seconds, and nobody is answered meanwhile,
ZooKeeper included. Handlers that can stop in between do so here.
"""

import trio

STEPS = 256
"""Between two pauses: one to three milliseconds, at five to ten microseconds for each."""


async def pause_now_and_then(done: int) -> None:
    """A checkpoint after each `STEPS`; `done` counts the caller's steps, from 0."""
    if done % STEPS == STEPS - 1:
        await trio.lowlevel.checkpoint()
