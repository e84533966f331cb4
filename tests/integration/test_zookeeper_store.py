"""What only a real ZooKeeper can show of the store: size, races, and what is really there."""

import time
import uuid

import pytest

from zkafka.clock import Clock
from zkafka.errors import CoordinationError, FencedEpoch
from zkafka.model import Endpoint, PartitionState, ReplicaAssignment, TopicPartition
from zkafka.zk import znodes
from zkafka.zk.operations import SessionState
from zkafka.zk.registration import Registration
from zkafka.zk.session import open_session
from zkafka.zk.store import Store
from zkafka.zk.znodes import BrokerRegistration, Fence

COUNT = 1000


@pytest.fixture
async def hosts(zookeeper):
    return f"{zookeeper.connect}/store-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def session(hosts):
    async with open_session(hosts, 10_000, Clock()) as session:
        yield session


@pytest.fixture
async def store(session):
    store = Store(session)
    await store.create_base_paths()
    return store


def assignments(count):
    return {partition: ReplicaAssignment(replicas=(1, 2, 3)) for partition in range(count)}


def states(count):
    state = PartitionState(leader=1, leader_epoch=0, isr=(1, 2, 3), controller_epoch=1)
    return {TopicPartition("t", partition): state for partition in range(count)}


async def test_a_thousand_partition_states_take_a_score_of_round_trips(session, store):
    fence = await store.elect(1, 5)
    await store.create_topic("t", uuid.UUID(int=77), assignments(COUNT), {})
    before = session.statistics().requests_total
    created = await store.create_partition_states(fence, states(COUNT))
    creating = session.statistics().requests_total - before
    written = await store.write_partition_states(fence, created)
    writing = session.statistics().requests_total - before - creating
    assert {state.partition_epoch for state in written.values()} == {1}
    assert await store.partition_states(states(COUNT)) == written
    # Measured: 0.1 s and 0.03 s on two cores; one by one it would be over a second each.
    assert creating <= 30
    assert writing <= 30
    await store.delete_topic_nodes(fence, "t")
    assert await store.topics() == set()


async def test_two_candidates_and_a_deposed_controller(hosts, store):
    async with open_session(hosts, 10_000, Clock()) as rival_session:
        rival = Store(rival_session)
        fence = await store.elect(1, 5)
        assert await rival.elect(2, 5) is None
        await store.resign(fence)
        assert (await rival.elect(2, 6)).controller_epoch == fence.controller_epoch + 1
        with pytest.raises(FencedEpoch):
            await store.write_partition_states(fence, states(1))


async def test_a_suspected_controller_is_deposed_by_one_transaction_or_not_at_all(hosts, store):
    """The check on /controller_epoch and the deletion of /controller stand and fall together."""
    async with (
        open_session(hosts, 10_000, Clock()) as suspect_session,
        open_session(hosts, 10_000, Clock()) as rival_session,
    ):
        suspect, rival = Store(suspect_session), Store(rival_session)
        endpoints = (Endpoint("PLAINTEXT", "h", 9092),)
        epoch = await suspect.register_broker(BrokerRegistration(broker_id=1, endpoints=endpoints))
        fence = await suspect.elect(1, 5)
        stale = Fence(fence.controller_epoch, fence.zk_version - 1)
        await store._vacate(stale, 0)
        assert await store.controller() == 1, "refused: another version of /controller_epoch"
        assert not await store.depose(1, epoch + 1)
        assert await store.depose(1, epoch)
        assert await store.controller() is None
        assert (await rival.elect(2, 6)).controller_epoch == fence.controller_epoch + 1
        assert not await store.depose(1, epoch)
        assert await store.controller() == 2
        with pytest.raises(FencedEpoch):
            await suspect.write_partition_states(fence, states(1))


async def test_a_topic_too_large_for_zookeeper_is_refused_with_a_sentence(session, store):
    with pytest.raises(CoordinationError, match="more than ZooKeeper takes"):
        await store.create_topic("t", uuid.UUID(int=77), assignments(100_000), {})
    assert session.state is SessionState.CONNECTED


async def test_a_killed_run_is_replaced_without_waiting_for_its_session(hosts, store, tmp_path):
    """The former session stays open all the while, as a killed process's would."""
    endpoints = (Endpoint("PLAINTEXT", "h", 9092),)
    ours = BrokerRegistration(broker_id=1, endpoints=endpoints)
    path = tmp_path / "session.json"
    async with open_session(hosts, 60_000, Clock()) as former:
        cluster_id = await Store(former).cluster_id(create=True)
        assert cluster_id is not None
        kept = {"cluster_id": cluster_id, "session_path": path, "clock": Clock()}
        dead = Registration(Store(former), former, ours, **kept)
        await dead._register()
        fence = await Store(former).elect(1, 5)
        async with open_session(hosts, 60_000, Clock()) as session:
            born = Registration(Store(session), session, ours, **kept)
            began = time.perf_counter()
            await born._register_at_start()
            assert time.perf_counter() - began < 30
            assert born.broker_epoch > dead._broker_epoch
            assert fence is not None
            assert await store.controller() is None, "its office went with its session"
            stat = await session.exists(znodes.broker_path(1))
            assert stat.ephemeral_owner == session.session_id
