"""Producer ids come in order, without gaps inside a block, and ahead of need."""

import pytest
import trio

from zkafka.errors import ErrorCode, PeerUnreachable
from zkafka.protocol.messages.allocate_producer_ids import AllocateProducerIdsResponse
from zkafka.transactions.producer_ids import ProducerIds


class Controller:
    """Gives blocks of `size` ids, once a test lets it, after what `refusals` says."""

    def __init__(self, size=10):
        self.size = size
        self.asked = []
        self.refusals = []
        self.answers = trio.Semaphore(1000)

    async def ask(self, request):
        self.asked.append(request)
        await self.answers.acquire()
        if self.refusals:
            refusal = self.refusals.pop(0)
            if isinstance(refusal, ErrorCode):
                return AllocateProducerIdsResponse(error_code=refusal)
            raise refusal
        given = len(self.asked) * 1000
        return AllocateProducerIdsResponse(producer_id_start=given, producer_id_len=self.size)


@pytest.fixture
def controller():
    return Controller()


@pytest.fixture
async def ids(controller, nursery):
    ids = ProducerIds(broker_id=3, broker_epoch=lambda: 77, ask_controller=controller.ask)
    await nursery.start(ids.run)
    return ids


async def take(ids, count):
    return [await ids.allocate() for _ in range(count)]


async def test_nobody_is_asked_before_a_producer_asks(ids, controller):
    await trio.testing.wait_all_tasks_blocked()
    assert controller.asked == []


async def test_ids_of_a_block_go_out_in_order(ids, controller):
    assert await take(ids, 5) == [1000, 1001, 1002, 1003, 1004]
    assert [(r.broker_id, r.broker_epoch) for r in controller.asked] == [(3, 77)]


async def test_the_next_block_is_asked_for_when_a_tenth_is_left(ids, controller):
    await take(ids, 8)
    await trio.testing.wait_all_tasks_blocked()
    assert len(controller.asked) == 1
    await take(ids, 1)
    await trio.testing.wait_all_tasks_blocked()
    assert len(controller.asked) == 2
    assert ids.statistics().available_count == 1 + controller.size
    assert await take(ids, 3) == [1009, 2000, 2001]
    assert len(controller.asked) == 2, "one block ahead, and no more"


async def test_a_producer_does_not_wait_while_ids_are_left(ids, controller, autojump_clock):
    await take(ids, 1)
    controller.answers = trio.Semaphore(0)
    with trio.fail_after(0.2):
        await take(ids, 9)


async def test_those_who_wait_are_served_in_order_over_several_blocks(ids, controller):
    controller.answers = trio.Semaphore(0)
    got = []

    async def one(name):
        got.append((name, await ids.allocate()))

    async with trio.open_nursery() as nursery:
        for name in range(25):
            nursery.start_soon(one, name)
            await trio.testing.wait_all_tasks_blocked()
        assert ids.statistics().waiting_count == 25
        for _ in range(3):
            controller.answers.release()
    expected = [*range(1000, 1010), *range(2000, 2010), *range(3000, 3005)]
    assert [producer_id for name, producer_id in sorted(got)] == expected


async def test_one_who_no_longer_waits_is_passed_over(ids, controller):
    controller.answers = trio.Semaphore(0)
    with trio.move_on_after(0) as scope:
        await ids.allocate()
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ids.allocate)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert ids.statistics().waiting_count == 0
    controller.answers.release()
    assert await ids.allocate() == 1000


@pytest.mark.parametrize(
    "refusal",
    [ErrorCode.NOT_CONTROLLER, ErrorCode.STALE_BROKER_EPOCH, PeerUnreachable("gone")],
    ids=str,
)
async def test_a_controller_that_refuses_is_asked_again(ids, controller, autojump_clock, refusal):
    controller.refusals = [refusal] * 8
    began = trio.current_time()
    assert await ids.allocate() == 9000
    # 50, 100, 200, 400, 800 ms, then a second each: neither a storm nor a sleep.
    assert trio.current_time() - began == pytest.approx(4.55)
    assert await take(ids, 2) == [9001, 9002]
