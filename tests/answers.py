"""Waiting, as a task, for what answers by a call: a Fetch, a Produce, a `purgatory.Watch`."""

import trio

from zkafka.protocol.messages.fetch import FetchResponse
from zkafka.server.handlers import fetch


async def called(begin):
    """Until the call given to `begin` is made."""
    event = trio.Event()
    begin(event.set)
    await event.wait()


async def fetched(request, context):
    """The handler's response."""
    begun = fetch.begin(request, context)
    if isinstance(begun, FetchResponse):
        return begun
    with begun:
        await called(begun.when_over)
        return begun.answer()


async def produced(pending):
    """The response to a `handlers.produce.PendingProduce`."""
    if pending.is_waiting:
        await called(pending.when_over)
    return pending.answer()


async def finished(pending):
    """The answer that a dispatcher's `begin` led to."""
    if isinstance(pending, bytes):
        return [pending]
    if isinstance(pending, list):
        return pending
    try:
        if not pending.ready:
            await called(pending.when_ready)
        return pending.answer()
    finally:
        pending.give_up()


async def watched(watch, judge, deadline_ms):
    """Until `judge` says so, or time is up."""
    sleep = None

    def begin(call):
        nonlocal sleep
        sleep = watch.call_after(judge, deadline_ms, call)

    await called(begin)
    return sleep.awake
