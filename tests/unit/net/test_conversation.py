"""One connection's order, bounds and endings, over memory streams and in virtual time."""

import itertools
import logging
import socket
import struct

import pytest
import trio
import trio.testing
from net_world import (
    ScriptedDispatcher,
    Slice,
    fetch,
    heartbeat,
    produce,
    receive_exactly,
    receive_ids,
    receive_throttle,
)

from zkafka.clock import Clock
from zkafka.errors import RemoteProtocolError
from zkafka.net.conversation import TURN, Conversation, MemoryWait, Traffic
from zkafka.net.transport import SocketTransport, StreamTransport
from zkafka.protocol.codec import encode_response
from zkafka.protocol.connection import START, Budget, CloseConnection, ConnectionInfo
from zkafka.protocol.messages.heartbeat import HeartbeatResponse

settle = trio.testing.wait_all_tasks_blocked


class World:
    """A conversation running over a pair of memory streams; `client` is the other end."""

    def __init__(
        self, nursery, *, budget=None, requests_max=500, request_bytes_max=1 << 20, ends=None
    ):
        self.dispatcher = ScriptedDispatcher()
        self.budget = budget or Budget()
        self.traffic = Traffic()
        if ends is None:
            self.client, server = trio.testing.memory_stream_pair()
            ends = self.client, StreamTransport(server)
        self.client, transport = ends
        self.conversation = Conversation(
            transport,
            self.dispatcher,
            ConnectionInfo(1, "10.0.0.9", 5555, "PLAINTEXT"),
            memory=MemoryWait(self.budget),
            clock=Clock(),
            traffic=self.traffic,
            request_max_bytes=1 << 20,
            requests_max=requests_max,
            request_bytes_max=request_bytes_max,
        )
        self.over = trio.Event()
        nursery.start_soon(self._run)

    async def _run(self):
        await self.conversation.run()
        self.over.set()

    async def send(self, *frames):
        await self.client.send_all(b"".join(frames))
        await settle()

    async def ended(self):
        """Assert that the connection is closed, everything given back."""
        await self.over.wait()
        assert await self.client.receive_some() == b""
        assert self.budget.used == 0


@pytest.fixture
async def world(nursery):
    return World(nursery)


# --- Order --------------------------------------------------------------------------------------


async def test_requests_are_answered_in_order(world):
    await world.send(heartbeat(1), produce(2), produce(3), heartbeat(4), produce(5))
    assert await receive_ids(world.client, 5) == [1, 2, 3, 4, 5]
    assert (world.dispatcher.began, world.dispatcher.handled) == ([2, 3, 5], [1, 4])


async def test_a_dispatcher_knows_who_asks(world):
    await world.send(heartbeat(1))
    assert world.dispatcher.connections == [ConnectionInfo(1, "10.0.0.9", 5555, "PLAINTEXT")]


async def test_a_request_in_pieces(world):
    for byte in heartbeat(1, generation=7):
        await world.client.send_all(bytes([byte]))
    assert await receive_throttle(world.client) == 7


async def test_produces_are_appended_while_earlier_ones_wait_and_answered_in_order(world):
    world.dispatcher.produce_ready = False
    await world.send(produce(1), produce(2), produce(3))
    assert world.dispatcher.began == [1, 2, 3]
    pending = world.dispatcher.pending
    pending[3].answer_now()
    pending[2].answer_now()
    await settle()
    assert world.traffic.answers == 0
    pending[1].answer_now()
    assert await receive_ids(world.client, 3) == [1, 2, 3]


async def test_nothing_else_starts_before_all_produces_are_answered(world):
    world.dispatcher.produce_ready = False
    await world.send(produce(1), heartbeat(2))
    assert world.dispatcher.handled == []
    world.dispatcher.pending[1].answer_now()
    assert await receive_ids(world.client, 2) == [1, 2]


async def test_a_produce_does_not_start_before_what_is_not_a_produce_is_answered(world):
    gate = world.dispatcher.gates[1] = trio.Event()
    await world.send(heartbeat(1), produce(2))
    assert world.dispatcher.began == []
    gate.set()
    assert await receive_ids(world.client, 2) == [1, 2]


async def test_a_ready_produce_behind_a_waiting_one_is_not_answered_first(world):
    world.dispatcher.produce_ready = False
    await world.send(produce(1))
    world.dispatcher.produce_ready = True
    await world.send(produce(2))
    assert world.traffic.answers == 0
    world.dispatcher.pending[1].answer_now()
    assert await receive_ids(world.client, 2) == [1, 2]


async def test_no_request_begins_while_a_produce_is_opened_and_what_is_ready_leaves(world):
    gate = world.dispatcher.gates[3] = trio.Event()
    await world.send(heartbeat(1), produce(2), produce(3), produce(4), heartbeat(5))
    assert await receive_ids(world.client, 2) == [1, 2]
    assert world.dispatcher.began == [2, 3]
    gate.set()
    assert await receive_ids(world.client, 3) == [3, 4, 5]


async def test_produces_that_wait_are_answered_while_another_is_opened(world):
    world.dispatcher.produce_ready = False
    gate = world.dispatcher.gates[2] = trio.Event()
    await world.send(produce(1), produce(2))
    world.dispatcher.pending[1].answer_now()
    assert await receive_ids(world.client, 1) == [1]
    gate.set()
    await settle()
    world.dispatcher.pending[2].answer_now()
    assert await receive_ids(world.client, 1) == [2]


async def test_a_connection_may_be_dropped_while_a_produce_is_opened(world):
    world.dispatcher.gates[1] = trio.Event()
    await world.send(produce(1))
    world.conversation.drop("enough")
    await world.ended()


async def test_a_fetch_waits_without_a_task_and_nothing_begins_before_it_is_answered(world):
    world.dispatcher.fetch_ready = False
    await world.send(produce(1), fetch(2), produce(3), heartbeat(4), fetch(5))
    assert await receive_ids(world.client, 1) == [1]
    assert (world.dispatcher.began, world.dispatcher.handled) == ([1, 2], [])
    assert world.conversation.idle_since_ms is None
    world.dispatcher.pending[2].answer_now()
    assert await receive_ids(world.client, 3) == [2, 3, 4]
    await settle()
    assert (world.dispatcher.began, world.dispatcher.handled) == ([1, 2, 3, 5], [4])
    world.dispatcher.pending[5].answer_now()
    assert await receive_ids(world.client, 1) == [5]
    await settle()
    assert world.conversation.idle_since_ms is not None


async def test_a_fetch_does_not_begin_before_produces_are_answered(world):
    world.dispatcher.produce_ready = False
    await world.send(produce(1), fetch(2), produce(3))
    assert world.dispatcher.began == [1]
    world.dispatcher.pending[1].answer_now()
    assert await receive_ids(world.client, 2) == [1, 2]
    assert world.dispatcher.began == [1, 2, 3]


async def test_a_fetch_that_found_enough_is_answered_with_what_came_before(world):
    await world.send(produce(1), fetch(2), heartbeat(3), fetch(4), produce(5))
    assert await receive_ids(world.client, 5) == [1, 2, 3, 4, 5]


async def test_whoever_goes_away_is_waited_for_no_longer(world):
    world.dispatcher.fetch_ready = False
    await world.send(fetch(1))
    world.conversation.drop("test")
    await world.ended()
    assert world.dispatcher.pending[1].given_up


async def test_stop_waits_for_a_fetch_that_waits(world):
    world.dispatcher.fetch_ready = False
    await world.send(fetch(1), fetch(2))
    world.conversation.stop()
    await settle()
    assert not world.over.is_set()
    world.dispatcher.pending[1].answer_now()
    assert await receive_ids(world.client, 1) == [1]
    await world.ended()


async def test_a_produce_answered_at_once_keeps_its_place(world):
    """Behind one that waits, and before one that need not."""
    world.dispatcher.at_once = {1, 3}
    world.dispatcher.produce_ready = False
    await world.send(produce(1), produce(2), produce(3), produce(4))
    assert await receive_ids(world.client, 1) == [1]
    world.dispatcher.pending[4].answer_now()
    await settle()
    assert world.traffic.answers == 1
    world.dispatcher.pending[2].answer_now()
    assert await receive_ids(world.client, 3) == [2, 3, 4]
    assert world.traffic.answers == 4


async def test_acks_0_has_no_answer_and_holds_nobody_up(world):
    world.dispatcher.answers[1] = None
    await world.send(produce(1), produce(2))
    assert await receive_ids(world.client, 1) == [2]
    assert world.traffic.answers == 1


async def test_answers_to_requests_that_came_together_leave_together(world):
    sends = []
    stream = world.conversation._transport._stream
    send_all = stream.send_all

    async def counted(data):
        sends.append(len(data))
        await send_all(data)

    stream.send_all = counted
    await world.send(*(produce(i) for i in range(10)))
    assert len(sends) == 1


async def test_a_flood_of_ready_requests_lets_others_run(world):
    """With nothing to wait for, the reader yields after every TURN."""
    turns = []

    async def count_turns():
        while len(world.dispatcher.began) < 1000:
            turns.append(len(world.dispatcher.began))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await world.client.send_all(b"".join(produce(i) for i in range(1000)))
        await receive_ids(world.client, 1000)
    steps = [b - a for a, b in itertools.pairwise(turns)]
    assert max(steps) <= TURN


async def test_a_connection_is_idle_from_its_last_answer_on(world, autojump_clock):
    """Not from its last request: some wait for minutes."""
    gate = world.dispatcher.gates[1] = trio.Event()
    await world.send(heartbeat(1))
    assert world.conversation.idle_since_ms is None
    await trio.sleep(100)
    gate.set()
    await settle()
    assert world.conversation.idle_since_ms == int(trio.current_time() * 1000)


# --- Bounds -------------------------------------------------------------------------------------


async def test_produces_that_wait_are_bounded_in_number(nursery):
    world = World(nursery, requests_max=3)
    world.dispatcher.produce_ready = False
    await world.send(*(produce(i) for i in range(1, 11)))
    assert world.dispatcher.began == [1, 2, 3]
    world.dispatcher.pending[1].answer_now()
    await settle()
    assert world.dispatcher.began == [1, 2, 3, 4]
    for _ in range(10):
        for pending in world.dispatcher.pending.values():
            pending.answer_now()
        await settle()
    assert await receive_ids(world.client, 10) == list(range(1, 11))


async def test_produces_that_wait_are_bounded_in_bytes(nursery):
    """They may exceed the bound by one request."""
    world = World(nursery, request_bytes_max=2500)
    world.dispatcher.produce_ready = False
    await world.send(*(produce(i, bytes(1000)) for i in range(1, 6)))
    assert world.dispatcher.began == [1, 2, 3]
    world.dispatcher.pending[1].answer_now()
    await settle()
    assert world.dispatcher.began == [1, 2, 3, 4]


async def test_bodies_are_released_after_each_request(world):
    await world.send(produce(1), heartbeat(2))
    await receive_ids(world.client, 2)
    for body in world.dispatcher.bodies:
        with pytest.raises(ValueError, match="released"):
            bytes(body)


async def test_a_resting_connection_holds_no_buffer(world):
    await world.send(produce(1))
    await receive_ids(world.client, 1)
    await settle()
    assert world.budget.used == 0


async def test_a_connection_waits_for_memory_and_goes_on(nursery):
    budget = Budget(limit=START)
    elsewhere = object()
    one, two = budget.take(START, elsewhere), budget.take(START, elsewhere)
    world = World(nursery, budget=budget)
    await world.send(produce(1, bytes(20_000)))
    assert budget.waiting == 1
    assert world.dispatcher.began == []
    budget.give(one)
    budget.give(two)
    budget.settle(elsewhere)
    assert await receive_ids(world.client, 1) == [1]
    assert budget.waiting == 0


# --- Endings ------------------------------------------------------------------------------------


async def test_the_end_of_the_stream_ends_it(world):
    await world.send(heartbeat(1))
    await receive_ids(world.client, 1)
    await world.client.send_eof()
    await world.ended()


async def test_a_stream_that_ends_within_a_request(world):
    await world.send(heartbeat(1)[:-1])
    await world.client.aclose()
    await world.over.wait()
    assert world.budget.used == 0
    assert world.dispatcher.handled == []


async def test_a_malformed_request_closes_after_what_came_before_was_answered(world, caplog):
    """And leaves one line at INFO with the peer's address."""
    caplog.set_level(logging.INFO)
    world.dispatcher.produce_ready = False
    await world.send(produce(1), b"\xff\xff\xff\xff")
    world.dispatcher.pending[1].answer_now()
    assert await receive_ids(world.client, 1) == [1]
    await world.ended()
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "peer=10.0.0.9:5555" in record.getMessage()


@pytest.mark.parametrize("ready", [True, False])
async def test_the_reason_for_closing_is_one_line_whatever_the_client_said(world, caplog, ready):
    caplog.set_level(logging.INFO)
    said = "topic a\n2026-01-01 ERROR all is lost" + "x" * 100_000
    world.dispatcher.produce_ready = ready
    world.dispatcher.answers[1] = CloseConnection(said)
    await world.send(produce(1))
    world.dispatcher.pending[1].answer_now()
    await world.ended()
    (record,) = caplog.records
    assert "topic a\\n2026" in record.getMessage()
    assert len(record.getMessage()) < 2_000


async def test_what_the_dispatcher_cannot_read_closes_too(world, caplog):
    caplog.set_level(logging.INFO)
    world.dispatcher.errors[2] = RemoteProtocolError("version 99 is not served")
    await world.send(heartbeat(1), heartbeat(2), heartbeat(3))
    assert await receive_ids(world.client, 1) == [1]
    await world.ended()
    assert world.dispatcher.handled == [1, 2]
    assert "version 99 is not served" in caplog.text


async def test_a_produce_that_cannot_be_read_closes_after_the_answers_before_it(world):
    world.dispatcher.errors[2] = RemoteProtocolError("no")
    await world.send(produce(1), produce(2), produce(3))
    assert await receive_ids(world.client, 1) == [1]
    await world.ended()
    assert world.dispatcher.began == [1, 2]


@pytest.mark.parametrize("ready", [True, False])
async def test_an_answer_may_be_to_close(world, caplog, ready):
    """For Produce with acks=0, whose failure has no other expression."""
    caplog.set_level(logging.INFO)
    world.dispatcher.produce_ready = ready
    world.dispatcher.answers[2] = CloseConnection("the append failed")
    await world.send(produce(1), produce(2), produce(3))
    for pending in world.dispatcher.pending.values():
        pending.answer_now()
    assert await receive_ids(world.client, 1) == [1]
    await world.ended()
    assert "the append failed" in caplog.text
    assert "10.0.0.9:5555" in caplog.text


async def test_closing_without_a_reason_is_silent(world, caplog):
    caplog.set_level(logging.INFO)
    world.dispatcher.answers[1] = CloseConnection()
    await world.send(heartbeat(1))
    await world.ended()
    assert caplog.records == []


async def test_a_client_that_goes_away_takes_its_waiting_produces_with_it(world):
    world.dispatcher.produce_ready = False
    await world.send(produce(1), produce(2))
    await world.client.aclose()
    world.dispatcher.pending[1].answer_now()
    await settle()
    assert world.over.is_set()
    assert world.budget.used == 0


async def test_slices_are_released_when_the_client_went_away(world, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100)
    piece = Slice(path)
    gate = world.dispatcher.gates[1] = trio.Event()
    world.dispatcher.answers[1] = [b"head", piece]
    await world.send(heartbeat(1))
    await world.client.aclose()
    gate.set()
    await world.over.wait()
    assert piece.readers == 0


def resettable_world(nursery):
    """A world over a real socket, and what resets its connection without a checkpoint."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))

    def reset():
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()

    return World(nursery, ends=(stream, SocketTransport(near, trio.to_thread.run_sync))), reset


@pytest.fixture
async def resettable(nursery):
    return resettable_world(nursery)


async def test_a_fetch_that_ends_when_the_client_has_just_gone_gives_its_slices_back_once(
    resettable, tmp_path
):
    world, reset = resettable
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100)
    piece = Slice(path)
    world.dispatcher.fetch_ready = False
    world.dispatcher.answers[1] = [b"head", piece]
    await world.send(fetch(1))
    reset()
    # Before the reader is told of the end.
    world.dispatcher.pending[1].answer_now()
    await world.over.wait()
    assert piece.readers == 0
    assert world.budget.used == 0


@pytest.mark.parametrize("kind", ["fetch", "produce"])
async def test_a_reset_behind_requests_that_came_together_gives_their_memory_back(resettable, kind):
    world, reset = resettable
    world.dispatcher.at_once = {1}
    frames = [fetch(1), fetch(2)]
    if kind == "produce":
        world.dispatcher.produce_ready = False
        frames = [produce(1), produce(2)]
    await world.client.send_all(b"".join(frames))
    reset()
    await world.over.wait()
    assert world.dispatcher.began in ([1], [1, 2])
    assert world.budget.used == 0


async def test_what_becomes_ready_while_the_connection_ends_harms_nobody(tmp_path):
    """Whenever that is: the end takes several turns of the loop. The answer is one for the writer,
    who may not have begun."""
    path = tmp_path / "log"
    path.write_bytes(bytes(100_000))
    for turn, _ in itertools.product(range(8), range(5)):
        piece = Slice(path)
        async with trio.open_nursery() as nursery:
            world, reset = resettable_world(nursery)
            world.dispatcher.fetch_ready = False
            world.dispatcher.answers[1] = [b"head", piece]
            await world.send(fetch(1))
            pending = world.dispatcher.pending[1]
            reset()
            for _ in range(turn):
                await trio.lowlevel.checkpoint()
            pending.answer_now()
            await world.over.wait()
        if pending.given_up:
            piece.release()  # nobody asked for the answer
        assert piece.readers == 0
        assert world.budget.used == 0


async def test_what_is_unforeseen_leaves():
    """The dispatcher contains what it may; what it lets out stops the broker."""

    async def live():
        async with trio.open_nursery() as nursery:
            world = World(nursery)
            world.dispatcher.errors[1] = AssertionError("invariant")
            await world.client.send_all(heartbeat(1))

    with pytest.raises(ExceptionGroup) as caught:
        await live()
    assert caught.value.subgroup(AssertionError) is not None


async def test_stop_ends_an_idle_connection_at_once(world):
    await world.send(heartbeat(1))
    await receive_ids(world.client, 1)
    world.conversation.stop()
    await world.ended()


async def test_stop_waits_for_the_answers_owed_and_begins_nothing_more(world):
    world.dispatcher.produce_ready = False
    await world.send(produce(1))
    world.conversation.stop()
    await settle()
    assert not world.over.is_set()
    world.dispatcher.pending[1].answer_now()
    assert await receive_ids(world.client, 1) == [1]
    await world.ended()


async def test_stop_lets_a_request_in_its_handler_finish(world):
    gate = world.dispatcher.gates[1] = trio.Event()
    await world.send(heartbeat(1), heartbeat(2))
    world.conversation.stop()
    gate.set()
    assert await receive_ids(world.client, 1) == [1]
    await world.ended()
    assert world.dispatcher.handled == [1]


async def test_an_answer_from_the_log_that_a_stop_finds_unsent_is_sent_and_released_once(
    world, tmp_path
):
    path = tmp_path / "log"
    path.write_bytes(b"from the log")
    piece = Slice(path)
    gate = world.dispatcher.gates[1] = trio.Event()
    world.dispatcher.answers[1] = [b"head ", piece]
    await world.send(heartbeat(1))
    world.conversation.stop()
    gate.set()
    assert await receive_exactly(world.client, 17) == b"head from the log"
    await world.ended()
    assert piece.readers == 0


async def test_stop_before_the_first_byte(world):
    world.conversation.stop()
    await world.ended()


async def test_drop_ends_everything_at_once(world, caplog):
    caplog.set_level(logging.INFO)
    world.dispatcher.produce_ready = False
    await world.send(produce(1))
    world.conversation.drop("because")
    await world.ended()
    assert "because" in caplog.text


# --- What the sweep asks --------------------------------------------------------------------------


async def test_idle_is_what_is_owed_nothing(world, mock_clock):
    start = Clock().monotonic_ms()
    await settle()
    assert world.conversation.idle_since_ms == start
    mock_clock.jump(5)
    gate = world.dispatcher.gates[1] = trio.Event()
    await world.send(heartbeat(1))
    assert world.conversation.idle_since_ms is None
    mock_clock.jump(5)
    gate.set()
    await receive_ids(world.client, 1)
    await settle()
    assert world.conversation.idle_since_ms == start + 10_000
    world.dispatcher.produce_ready = False
    await world.send(produce(2))
    assert world.conversation.idle_since_ms is None


async def test_how_long_a_frame_has_been_coming_in(world, mock_clock):
    mock_clock.jump(1)
    began = Clock().monotonic_ms()
    data = heartbeat(1)
    await world.send(data[:5])
    mock_clock.jump(3)
    await world.send(data[5:6])
    assert world.conversation.frame_since_ms == began
    await world.send(data[6:])
    assert world.conversation.frame_since_ms is None


async def test_how_long_a_client_has_not_been_reading(nursery, mock_clock):
    world = World(nursery)
    client, server = trio.testing.lockstep_stream_pair()  # sending waits for the reader
    world.conversation._transport._stream = server
    await settle()
    answer = encode_response(HeartbeatResponse(), 4, 1)
    nursery.start_soon(world.conversation._transport.send, answer)
    await settle()
    since = world.conversation.blocked_since
    assert since == trio.current_time()
    mock_clock.jump(3)
    assert world.conversation.blocked_since == since
    await client.receive_some(100)
    await settle()
    assert world.conversation.blocked_since is None
    await server.aclose()


async def test_traffic_is_counted(world):
    data = heartbeat(1) + produce(2)
    await world.send(data)
    await receive_ids(world.client, 2)
    assert world.traffic == Traffic(requests=2, answers=2, bytes_in=len(data))
