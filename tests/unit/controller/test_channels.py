"""Queues to brokers: order, patience, and what compaction may and may not change."""

import random
import uuid

import pytest
import trio
import trio.testing
from controller_world import broker
from hypothesis import given
from hypothesis import strategies as st

from zkafka.controller.channels import COMPACT_ABOVE, REFUSALS_MAX, Channels, compact
from zkafka.errors import ErrorCode, PeerUnreachable
from zkafka.protocol.messages.leader_and_isr import (
    LeaderAndIsrLiveLeader,
    LeaderAndIsrPartitionState,
    LeaderAndIsrRequest,
    LeaderAndIsrResponse,
    LeaderAndIsrTopicState,
)
from zkafka.protocol.messages.stop_replica import (
    StopReplicaPartitionState,
    StopReplicaRequest,
    StopReplicaResponse,
    StopReplicaTopicState,
)
from zkafka.protocol.messages.update_metadata import (
    UpdateMetadataBroker,
    UpdateMetadataPartitionState,
    UpdateMetadataRequest,
    UpdateMetadataResponse,
    UpdateMetadataTopicState,
)
from zkafka.server.metadata import MetadataCache

RESPONSES = {
    LeaderAndIsrRequest: LeaderAndIsrResponse,
    UpdateMetadataRequest: UpdateMetadataResponse,
    StopReplicaRequest: StopReplicaResponse,
}


def topic_uuid(name: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_DNS, name)


def metadata(epoch: int, partitions: dict[int, int], brokers=(1, 2), topic="t", anew=""):
    """Tells the leaders of some partitions; `anew` stands for a topic created a second time."""
    return UpdateMetadataRequest(
        controller_id=1,
        controller_epoch=1,
        topic_states=[
            UpdateMetadataTopicState(
                topic_name=topic,
                topic_id=topic_uuid(topic + anew),
                partition_states=[
                    UpdateMetadataPartitionState(
                        partition_index=p, leader=leader, leader_epoch=epoch, isr=[1], replicas=[1]
                    )
                    for p, leader in partitions.items()
                ],
            )
        ],
        live_brokers=[UpdateMetadataBroker(id=b) for b in brokers],
    )


def roles(epoch: int, *partitions: int, is_new=False, leader=1):
    return LeaderAndIsrRequest(
        controller_id=1,
        controller_epoch=1,
        topic_states=[
            LeaderAndIsrTopicState(
                topic_name="t",
                topic_id=topic_uuid("t"),
                partition_states=[
                    LeaderAndIsrPartitionState(
                        partition_index=p, leader=leader, leader_epoch=epoch, is_new=is_new
                    )
                    for p in partitions
                ],
            )
        ],
        live_leaders=[LeaderAndIsrLiveLeader(broker_id=leader, host_name="h", port=1)],
    )


def stop(partition: int):
    return StopReplicaRequest(
        controller_id=1,
        controller_epoch=1,
        topic_states=[
            StopReplicaTopicState(
                topic_name="t",
                partition_states=[StopReplicaPartitionState(partition_index=partition)],
            )
        ],
    )


class ScriptedPeer:
    """A connection that is down until `up` is set; notes what came through."""

    def __init__(self) -> None:
        self.up = trio.Event()
        self.got = []
        self.attempts = 0
        self.refuse_with = []  # error codes for the next requests
        self.closed = False

    async def request(self, message, version):
        self.attempts += 1
        await trio.lowlevel.checkpoint()
        if not self.up.is_set():
            raise PeerUnreachable("down")
        self.got.append(message)
        code = self.refuse_with.pop(0) if self.refuse_with else 0
        return RESPONSES[type(message)](error_code=code)

    async def aclose(self):
        await trio.lowlevel.checkpoint()
        self.closed = True


@pytest.fixture
async def channels(nursery):
    peers: dict[int, ScriptedPeer] = {}
    answers = []

    def connect(info):
        peers[info.broker_id] = ScriptedPeer()
        return peers[info.broker_id]

    made = Channels(connect, lambda *answer: answers.append(answer))
    await nursery.start(made.run)
    made.peers, made.answers = peers, answers
    return made


async def test_requests_arrive_in_order_and_answers_are_given_on(channels, autojump_clock):
    channels.open(broker(1))
    channels.peers[1].up.set()
    sent = [metadata(0, {}), roles(0, 0), metadata(0, {0: 1}), stop(0)]
    for request in sent:
        channels.send(1, request)
    await trio.testing.wait_all_tasks_blocked()
    assert channels.peers[1].got == sent
    assert [(who, request) for who, request, _ in channels.answers] == [(1, r) for r in sent]


async def test_a_broker_that_is_down_is_tried_every_tenth_of_a_second(channels, autojump_clock):
    channels.open(broker(1))
    channels.send(1, roles(0, 0))
    await trio.sleep(1.05)
    assert channels.peers[1].attempts == 11
    channels.peers[1].up.set()
    await trio.sleep(0.1)
    assert channels.peers[1].got == [roles(0, 0)]


@pytest.mark.parametrize("request_", [roles(0, 0), stop(0)], ids=["roles", "stop"])
async def test_what_was_refused_as_a_whole_is_sent_again(
    channels, autojump_clock, caplog, request_
):
    newer = 9999
    channels.open(broker(1))
    peer = channels.peers[1]
    peer.up.set()
    peer.refuse_with = [ErrorCode.UNKNOWN_SERVER_ERROR] * 5 + [ErrorCode.INVALID_REQUEST, newer]
    channels.send(1, request_)
    channels.send(1, metadata(0, {}))
    await trio.sleep(0.65)
    assert peer.got == [request_] * 7
    assert channels.answers == []
    await trio.sleep(0.1)
    assert peer.got == [request_] * 8 + [metadata(0, {})]
    assert [response.error_code for _, _, response in channels.answers] == [0, 0]
    assert caplog.text.count("control request refused") == 3, "once for each change of the error"


@pytest.mark.parametrize("code", [ErrorCode.STALE_CONTROLLER_EPOCH, ErrorCode.STALE_BROKER_EPOCH])
async def test_what_is_out_of_date_is_not_sent_again(channels, autojump_clock, code):
    channels.open(broker(1))
    peer = channels.peers[1]
    peer.up.set()
    peer.refuse_with = [code]
    channels.send(1, roles(0, 0))
    await trio.sleep(1)
    assert peer.got == [roles(0, 0)]
    assert [response.error_code for _, _, response in channels.answers] == [code]


async def test_metadata_that_was_refused_is_left_to_the_next(channels, autojump_clock):
    channels.open(broker(1))
    peer = channels.peers[1]
    peer.up.set()
    peer.refuse_with = [ErrorCode.UNKNOWN_SERVER_ERROR]
    channels.send(1, metadata(0, {}))
    await trio.sleep(1)
    assert peer.got == [metadata(0, {})]


async def test_a_request_that_is_always_refused_lets_the_next_one_pass(channels, autojump_clock):
    channels.open(broker(1))
    peer = channels.peers[1]
    peer.up.set()
    peer.refuse_with = [ErrorCode.UNKNOWN_SERVER_ERROR] * REFUSALS_MAX
    channels.send(1, roles(0, 0))
    channels.send(1, roles(0, 1))
    await trio.sleep(REFUSALS_MAX / 10)
    assert peer.got == [roles(0, 0)] * REFUSALS_MAX + [roles(0, 1)]
    codes = [response.error_code for _, _, response in channels.answers]
    assert codes == [ErrorCode.UNKNOWN_SERVER_ERROR, 0]


async def test_one_that_is_down_does_not_hold_up_another(channels, autojump_clock):
    channels.open(broker(1))
    channels.open(broker(2))
    channels.peers[2].up.set()
    for broker_id in (1, 2):
        channels.send(broker_id, roles(0, 0))
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert channels.peers[2].got == [roles(0, 0)]


async def test_a_broker_that_bounced_gets_nothing_meant_for_its_former_life(
    channels, autojump_clock
):
    channels.open(broker(1))
    channels.send(1, roles(0, 0))
    await trio.testing.wait_all_tasks_blocked(0.01)
    former = channels.peers[1]
    channels.open(broker(1, epoch=7))
    channels.peers[1].up.set()
    channels.send(1, roles(1, 0))
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert former.closed
    assert former.got == []
    assert channels.peers[1].got == [roles(1, 0)]


async def test_nothing_is_queued_for_a_broker_that_is_gone(channels, autojump_clock):
    channels.open(broker(1))
    channels.close(1)
    channels.send(1, roles(0, 0))
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert channels.statistics() == {}
    assert channels.peers[1].closed


async def test_the_queue_of_a_silent_broker_does_not_grow(channels, autojump_clock):
    channels.open(broker(1))
    for epoch in range(10 * COMPACT_ABOVE):
        channels.send(1, roles(epoch, 0))
        channels.send(1, metadata(epoch, {0: 1}))
    assert channels.statistics()[1].queue_size <= COMPACT_ABOVE
    channels.peers[1].up.set()
    await trio.sleep(0.2)
    last = channels.peers[1].got[-1]
    assert last.topic_states[0].partition_states[0].leader_epoch == 10 * COMPACT_ABOVE - 1


def test_compaction_keeps_the_last_word_about_each_partition():
    [merged] = compact([roles(0, 0, 1), roles(1, 1), roles(2, 2)])
    [topic] = merged.topic_states
    epochs = {p.partition_index: p.leader_epoch for p in topic.partition_states}
    assert epochs == {0: 0, 1: 1, 2: 2}


def test_compaction_keeps_that_a_partition_is_new():
    [merged] = compact([roles(0, 0, is_new=True), roles(1, 0)])
    [state] = merged.topic_states[0].partition_states
    assert (state.leader_epoch, state.is_new) == (1, True)


def test_compaction_does_not_move_anything_past_a_stop():
    queue = [roles(0, 0), stop(0), roles(1, 0), metadata(1, {0: 1})]
    kinds = [type(request) for request in compact(queue)]
    assert kinds == [
        LeaderAndIsrRequest,
        StopReplicaRequest,
        UpdateMetadataRequest,
        LeaderAndIsrRequest,
    ]


def test_compaction_does_not_touch_the_requests_it_merges():
    first, second = roles(0, 0, is_new=True), roles(1, 0)
    compact([first, second])
    assert not second.topic_states[0].partition_states[0].is_new


def updates(anew: str):
    return st.lists(
        st.builds(
            metadata,
            st.integers(0, 9),
            st.dictionaries(st.integers(0, 3), st.sampled_from([-2, -1, 1, 2]), max_size=4),
            st.sets(st.integers(1, 4)).map(sorted),
            st.sampled_from(["t", "u"]),
            st.just(anew),
        ),
        min_size=1,
        max_size=6,
    )


@given(updates(""), updates("again"))
def test_compacted_metadata_paints_the_same_picture(before, after):
    """Also where topics were deleted and created anew meanwhile; an id never comes back."""
    requests = before + after
    one_by_one, merged = MetadataCache(), MetadataCache()
    for request in requests:
        one_by_one.apply(request)
    for request in compact(requests):
        merged.apply(request)
    assert merged.image == one_by_one.image


@given(st.lists(st.sampled_from(["roles", "metadata", "stop"]), max_size=40), st.integers())
def test_a_compacted_queue_is_bounded_by_its_stops(kinds, seed):
    rng = random.Random(seed)
    make = {
        "roles": lambda: roles(rng.randrange(9), rng.randrange(4)),
        "metadata": lambda: metadata(rng.randrange(9), {rng.randrange(4): 1}),
        "stop": lambda: stop(rng.randrange(4)),
    }
    queue = [make[kind]() for kind in kinds]
    assert len(compact(queue)) <= 2 + 3 * kinds.count("stop")
    assert compact(compact(queue)) == compact(queue)
