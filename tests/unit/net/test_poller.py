"""Who is served when, over real sockets."""

import itertools
import socket

import pytest
import trio
import trio.testing

from zkafka.errands import Errands
from zkafka.net.poller import EVENTS, Poller

settle = trio.testing.wait_all_tasks_blocked


class Served:
    """A socket whose bytes are taken one by one; wakes its task on `!`."""

    def __init__(self, name, log):
        self.name = name
        self.log = log
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.done = trio.Event()

    def serve(self):
        byte = self.near.recv(1)
        self.log.append((self.name, byte))
        return byte == b"!"

    async def wait(self, poller):
        await poller.wait(self.near, self.serve)
        self.done.set()


@pytest.fixture
async def poller(nursery):
    made = Poller(Errands())
    nursery.start_soon(made.run)
    yield made
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await settle()
    made.close()


@pytest.fixture
def log():
    return []


@pytest.fixture
def make(log):
    made = []

    def one(name):
        made.append(Served(name, log))
        return made[-1]

    yield one
    for served in made:
        served.near.close()
        served.far.close()


async def until(event):
    with trio.fail_after(20):
        await event.wait()


async def until_still():
    """Until nobody has anything to do: for ever, if somebody is kept busy."""
    with trio.fail_after(20):
        await settle(0.01)


async def test_what_comes_is_served_and_the_task_sleeps_on_until_told(poller, nursery, make, log):
    one = make("one")
    nursery.start_soon(one.wait, poller)
    await settle()
    one.far.send(b"a")
    while not log:
        await trio.lowlevel.checkpoint()
    assert not one.done.is_set()
    one.far.send(b"b!")
    await until(one.done)
    assert log == [("one", b"a"), ("one", b"b"), ("one", b"!")]


async def test_all_that_are_ready_are_served_before_any_is_again(poller, nursery, make, log):
    many = [make(number) for number in range(2 * EVENTS)]
    for one in many:
        nursery.start_soon(one.wait, poller)
    await settle()
    for one in many:
        one.far.send(b"ab!")
    for one in many:
        await until(one.done)
    for turn, byte in enumerate((b"a", b"b", b"!")):
        served = log[turn * len(many) : (turn + 1) * len(many)]
        assert {name for name, _ in served} == set(range(len(many)))
        assert {what for _, what in served} == {byte}


async def test_after_so_many_services_others_get_a_turn(poller, nursery, make, log):
    one = make("talker")
    turns = []

    async def count():
        while not one.done.is_set():
            turns.append(len(log))
            await trio.lowlevel.checkpoint()

    nursery.start_soon(one.wait, poller)
    await settle()
    one.far.send(b"x" * 20 * EVENTS + b"!")
    nursery.start_soon(count)
    await until(one.done)
    steps = [after - before for before, after in itertools.pairwise(turns)]
    # Two passes where trio, which shuffles, has this task first once and last the next time.
    assert max(steps) <= 2 * EVENTS


async def test_a_socket_that_nobody_waits_for_keeps_nobody_busy(poller, nursery, make, log):
    """It is served when somebody waits again."""
    one = make("one")
    nursery.start_soon(one.wait, poller)
    await settle()
    one.far.send(b"!late")
    await until(one.done)
    await until_still()
    assert log == [("one", b"!")]
    one.far.send(b"!")
    one.done = trio.Event()
    nursery.start_soon(one.wait, poller)
    await until(one.done)
    assert [byte for _, byte in log] == [b"!", b"l", b"a", b"t", b"e", b"!"]


async def test_a_reset_that_nobody_waits_for_keeps_nobody_busy(poller, nursery, make, log):
    one = make("one")
    nursery.start_soon(one.wait, poller)
    await settle()
    one.far.send(b"!")
    await until(one.done)
    one.far.close()
    await until_still()
    assert log == [("one", b"!")]


async def test_a_cancelled_wait_loses_nothing(poller, nursery, make, log):
    one = make("one")
    with trio.move_on_after(0):
        await one.wait(poller)
    one.far.send(b"!")
    for _ in range(10):
        await trio.lowlevel.checkpoint()
    assert log == []
    nursery.start_soon(one.wait, poller)
    await until(one.done)


async def test_a_socket_closed_under_a_waiter(poller, nursery, make):
    one, other = make("one"), make("other")

    async def wait():
        with pytest.raises(trio.ClosedResourceError):
            await one.wait(poller)
        one.done.set()

    nursery.start_soon(wait)
    await settle()
    poller.forget(one.near)
    one.near.close()
    await until(one.done)
    poller.forget(other.near)  # never waited for


async def test_what_a_service_lets_escape_ends_the_poller(make):
    one = make("one")
    poller = Poller(Errands())

    def fail():
        raise AssertionError("law")

    async def live():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            nursery.start_soon(poller.wait, one.near, fail)
            one.far.send(b"x")

    with pytest.raises(ExceptionGroup) as caught:
        await live()
    poller.close()
    assert caught.value.subgroup(AssertionError) is not None
