"""The store over a verified fake: what it writes, what it refuses, and what lost replies leave."""

import uuid

import attrs
import pytest
import trio
from fake_zookeeper import FakeZooKeeper

from zkafka.errors import (
    CoordinationError,
    FencedEpoch,
    NodeExists,
    NoNode,
    SessionLost,
    SessionSuspended,
    StaleVersion,
)
from zkafka.model import Endpoint, PartitionState, ReplicaAssignment, TopicPartition
from zkafka.zk import znodes
from zkafka.zk.operations import Create, Delete, Hint, HintKind, Set
from zkafka.zk.store import AddressTaken, BrokerIdTaken, Store
from zkafka.zk.znodes import BrokerRegistration, Fence

TOPIC_ID = uuid.UUID(int=77)


@pytest.fixture
async def server():
    server = FakeZooKeeper()
    await Store(server.session()).create_base_paths()
    return server


@pytest.fixture
def session(server):
    return server.session()


@pytest.fixture
def store(session):
    return Store(session, retry_ms=1000)


@pytest.fixture
async def fence(store):
    return await store.elect(1, now_ms=5)


def registration(broker_id=1, port=9092):
    return BrokerRegistration(broker_id=broker_id, endpoints=(Endpoint("PLAINTEXT", "h", port),))


def assignments(count, replicas=(1, 2)):
    return {partition: ReplicaAssignment(replicas=replicas) for partition in range(count)}


def states(count, topic="t", **changes):
    state = PartitionState(leader=1, leader_epoch=0, isr=(1, 2), controller_epoch=1)
    return {
        TopicPartition(topic, partition): attrs.evolve(state, **changes)
        for partition in range(count)
    }


# ------------------------------------------------------------------------------ the cluster


async def test_base_paths_are_made_once(server, store):
    assert set(znodes.BASE_PATHS) <= set(server.nodes)
    before = {path: node.mzxid for path, node in server.nodes.items()}
    await store.create_base_paths()
    assert {path: node.mzxid for path, node in server.nodes.items()} == before


async def test_the_first_to_ask_names_the_cluster(server, store):
    assert await store.cluster_id(create=False) is None
    made = await store.cluster_id(create=True)
    assert await Store(server.session()).cluster_id(create=True) == made
    assert len(made) == 22


async def test_generated_broker_ids_are_above_the_reserved_and_never_repeat(session, store):
    assert await store.next_broker_id(1000) == 1001
    session.fail_next("reply")
    assert await store.next_broker_id(1000) == 1003, "a lost reply skips one"


# ------------------------------------------------------------------------------ registration


async def test_a_registration_is_ephemeral_and_its_epoch_is_its_creation(server, session, store):
    epoch = await store.register_broker(registration())
    stat = server.stat("/brokers/ids/1")
    assert (stat.czxid, stat.version, stat.ephemeral_owner) == (epoch, 1, session.session_id)
    brokers = await store.brokers()
    assert brokers[1].registration == registration()
    assert (brokers[1].broker_epoch, brokers[1].session_id) == (epoch, session.session_id)


@pytest.mark.parametrize("name", ["x", "1.5", "-1", "\u0661", "1\n2"])
async def test_a_node_that_is_no_registration_is_passed_over_with_one_warning(
    server, store, caplog, name
):
    """Made by hand; it would stop one controller after the other."""
    await store.register_broker(registration())
    server.multi([Create(f"/brokers/ids/{name}", b"{}")], 0)
    for _ in range(3):
        assert list(await store.brokers()) == [1]
    assert len([r for r in caplog.records if "not a broker id" in r.getMessage()]) == 1


async def test_a_lost_reply_to_a_registration_is_found_out(server, session, store):
    session.fail_next("reply")
    epoch = await store.register_broker(registration())
    assert server.stat("/brokers/ids/1").czxid == epoch


async def test_an_id_held_by_another_session_is_refused_naming_it(server, store):
    other = server.session()
    await Store(other).register_broker(registration(port=1234))
    with pytest.raises(BrokerIdTaken, match=rf"h:1234 in session 0x{other.session_id:x}") as taken:
        await store.register_broker(registration())
    assert taken.value.holder.session_id == other.session_id


async def test_our_own_last_session_gives_way(server, session, store):
    first = await store.register_broker(registration())
    old = session.session_id
    session.session_id = server.open_session(session)  # the old one has not expired yet
    second = await store.register_broker(registration(), previous_session_id=old)
    assert second > first
    assert server.stat("/brokers/ids/1").ephemeral_owner == session.session_id


async def test_a_holder_that_leaves_meanwhile_is_no_obstacle(server, session, store):
    other = server.session()
    await Store(other).register_broker(registration(port=1))
    get = session.get

    async def leave_before_it_is_read(path, **options):
        if path == "/brokers/ids/1" and session.writes:
            server.end_session(other.session_id)
        return await get(path, **options)

    session.get = leave_before_it_is_read
    assert await store.register_broker(registration()) == server.stat("/brokers/ids/1").czxid
    assert len(session.writes) == 2, "refused once, then free"


async def test_an_address_is_advertised_by_one_broker_only(server, store):
    await Store(server.session()).register_broker(registration(2))
    with pytest.raises(AddressTaken, match=r"h:9092 is advertised by broker 2"):
        await store.register_broker(registration(1))


async def test_brokers_are_watched_each_and_as_a_list(server, session, store):
    other = Store(server.session())
    await other.register_broker(registration(2))
    hints = session.subscribe()
    await store.brokers(watch=True)
    await other.register_broker(registration(3, port=1))
    assert hints.receive_nowait() == Hint(HintKind.CHILDREN, "/brokers/ids")
    server.multi([Set("/brokers/ids/2", znodes.encode_broker(registration(2)))], 0)
    assert hints.receive_nowait() == Hint(HintKind.DATA, "/brokers/ids/2")


# ------------------------------------------------------------------------------ election


async def test_the_first_controller_has_epoch_1(server, store):
    assert await store.elect(1, now_ms=5) == Fence(1, 1)
    assert await store.controller() == 1
    assert server.nodes["/controller_epoch"].data == b"1"


async def test_one_of_two_candidates_wins(server, store):
    other = Store(server.session())
    fence = await other.elect(2, now_ms=5)
    assert await store.elect(1, now_ms=5) is None
    await other.resign(fence)
    assert await store.elect(1, now_ms=6) == Fence(2, 2)


@pytest.mark.parametrize("rival_takes", ["office", "epoch"])
async def test_an_election_lost_in_the_last_moment_is_lost(server, session, store, rival_takes):
    rival = server.session()
    data = znodes.encode_controller(2, 5)

    def get_in_first(operations):
        writes = {
            "office": [Create("/controller", data, ephemeral=True)],
            "epoch": [Set("/controller_epoch", b"9")],
        }
        server.multi(writes[rival_takes], rival.session_id)

    await store.elect(1, 5)
    await store.resign(Fence(1, 1))
    session.before = get_in_first
    assert await store.elect(1, 5) is None


async def test_a_won_election_whose_reply_was_lost_is_won(server, session, store):
    await Store(server.session()).elect(2, 5)
    server.multi([Delete("/controller")], 0)
    session.fail_next("reply")
    assert await store.elect(1, now_ms=5) == Fence(2, 2)


async def test_the_office_of_our_own_former_session_is_not_ours(server, session, store):
    await store.elect(1, now_ms=5)
    session.session_id = server.open_session(session)
    assert await store.elect(1, now_ms=6) is None


async def test_resigning_after_a_rival_was_elected_leaves_the_rival(server, store, fence):
    server.multi([Delete("/controller")], 0)
    rival = await Store(server.session()).elect(2, 6)
    await store.resign(fence)
    assert await store.controller() == 2
    assert rival == Fence(2, 2)


class TestDeposing:
    """Broker 1, registered and the controller, is suspected by whoever has `store`."""

    @pytest.fixture
    async def suspect(self, server):
        suspect = Store(server.session())
        suspect.epoch = await suspect.register_broker(registration(1))
        suspect.fence = await suspect.elect(1, now_ms=5)
        return suspect

    async def test_the_suspect_loses_its_office_and_writes_nothing_once_another_has_it(
        self, server, store, suspect
    ):
        assert await store.depose(1, suspect.epoch)
        assert await store.controller() is None
        assert await store.brokers(watch=False), "its registration is its session's"
        assert await store.elect(2, now_ms=6) == Fence(2, 2)
        with pytest.raises(FencedEpoch):
            await suspect.write_partition_states(suspect.fence, states(1))

    async def test_nobody_else_does(self, server, store, suspect):
        other_epoch = await Store(server.session()).register_broker(registration(2, port=9093))
        assert not await store.depose(2, other_epoch)
        assert not await store.depose(3, 1)
        assert await store.controller() == 1

    async def test_another_registration_of_it_does_not(self, server, store, suspect):
        assert not await store.depose(1, suspect.epoch - 1)
        assert await store.controller() == 1

    async def test_nor_one_whose_office_is_of_another_session(self, server, store):
        """Registered anew, with the former session's office not gone yet."""
        former = Store(server.session())
        await former.elect(1, now_ms=5)
        epoch = await Store(server.session()).register_broker(registration(1))
        assert not await store.depose(1, epoch)
        assert await store.controller() == 1

    async def test_nobody_holds_the_office(self, store, suspect):
        await suspect.resign(suspect.fence)
        assert not await store.depose(1, suspect.epoch)

    async def test_an_election_in_the_last_moment_is_left_alone(
        self, server, session, store, suspect
    ):
        """The suspect itself was elected again: its new term is not the one that was meant."""
        again = []

        def get_in_first(_operations):
            server.multi(
                [
                    Delete("/controller"),
                    Create("/controller", znodes.encode_controller(1, 6), ephemeral=True),
                    Set("/controller_epoch", b"2"),
                ],
                suspect._session.session_id,
            )
            again.append(server.nodes["/controller"].czxid)

        session.before = get_in_first
        await store.depose(1, suspect.epoch)
        assert server.nodes["/controller"].czxid == again[0]

    @pytest.mark.parametrize("lost", ["request", "reply"])
    async def test_a_lost_reply_deposes_that_term_and_no_later_one(
        self, server, session, store, suspect, lost
    ):
        session.fail_next(lost)
        assert await store.depose(1, suspect.epoch)
        assert await store.controller() is None

    async def test_a_lost_reply_and_a_term_that_began_meanwhile(
        self, server, session, store, suspect
    ):
        session.fail_next("reply")
        attempts = []

        async def elected_meanwhile():
            attempts.append(await suspect.elect(1, now_ms=7))

        wait_connected = session.wait_connected

        async def waiting():
            await elected_meanwhile()
            await wait_connected()

        session.wait_connected = waiting
        assert await store.depose(1, suspect.epoch)
        assert attempts == [Fence(2, 2)]
        assert await store.controller() == 1


async def test_the_controller_is_watched_for_coming_and_going(server, session, store):
    other = Store(server.session())
    hints = session.subscribe()
    assert await store.controller(watch=True) is None
    fence = await other.elect(2, 5)
    assert hints.receive_nowait() == Hint(HintKind.CREATED, "/controller")
    assert await store.controller(watch=True) == 2
    await other.resign(fence)
    assert hints.receive_nowait() == Hint(HintKind.DELETED, "/controller")


# ------------------------------------------------------------------------------ topics


async def test_a_topic_is_made_after_its_configuration(server, session, store):
    await store.create_topic("t", TOPIC_ID, assignments(2), {"retention.ms": "5"})
    order = [operation.path for operations in session.writes for operation in operations]
    assert order == ["/config/topics/t", "/brokers/topics/t"]
    assert await store.topics() == {"t"}
    topic = (await store.read_topics(["t", "missing"]))["t"]
    assert (topic.topic_id, topic.assignments) == (TOPIC_ID, assignments(2))
    assert await store.entity_config("topics", "t") == {"retention.ms": "5"}
    assert await store.config_changes() == [], "a creation is not notified"


async def test_a_topic_that_exists_keeps_its_configuration(store):
    await store.create_topic("t", TOPIC_ID, assignments(1), {"retention.ms": "5"})
    with pytest.raises(NodeExists):
        await store.create_topic("t", uuid.UUID(int=78), assignments(1), {})
    assert await store.entity_config("topics", "t") == {"retention.ms": "5"}


@pytest.mark.parametrize("lost", [("reply",), (None, "reply"), (None, "request")])
async def test_a_topic_whose_reply_was_lost_is_made_once(session, store, lost):
    session.fail_next(*lost)
    await store.create_topic("t", TOPIC_ID, assignments(1), {})
    assert (await store.read_topics(["t"]))["t"].topic_id == TOPIC_ID


async def test_partitions_are_added_to_what_is_there(store):
    await store.create_topic("t", TOPIC_ID, assignments(1), {})
    added = {1: ReplicaAssignment(replicas=(3,))}
    topic = await store.add_partitions("t", added)
    assert topic == (await store.read_topics(["t"]))["t"]
    assert topic.assignments == assignments(1) | added
    assert await store.add_partitions("t", added) == topic, "said twice, done once"
    with pytest.raises(NodeExists, match="partition 1"):
        await store.add_partitions("t", {1: ReplicaAssignment(replicas=(9,))})


async def test_two_additions_at_once_do_not_undo_each_other(server, session, store):
    await store.create_topic("t", TOPIC_ID, assignments(1), {})
    theirs = assignments(1) | {1: ReplicaAssignment(replicas=(3,))}

    def rival(operations):
        server.multi([Set("/brokers/topics/t", znodes.encode_topic(TOPIC_ID, theirs))], 0)

    session.before = rival
    topic = await store.add_partitions("t", {2: ReplicaAssignment(replicas=(4,))})
    assert set(topic.assignments) == {0, 1, 2}


async def test_a_topic_is_rewritten_within_the_fence(server, store, fence):
    await store.create_topic("t", TOPIC_ID, assignments(1), {})
    await store.rewrite_topic(fence, "t", TOPIC_ID, assignments(2))
    assert (await store.read_topics(["t"]))["t"].assignments == assignments(2)
    with pytest.raises(NoNode):
        await store.rewrite_topic(fence, "missing", TOPIC_ID, assignments(2))
    with pytest.raises(FencedEpoch):
        await store.rewrite_topic(Fence(0, 0), "t", TOPIC_ID, assignments(3))


# ------------------------------------------------------------------------------ partition states


@pytest.fixture
async def topic(store):
    await store.create_topic("t", TOPIC_ID, assignments(1), {})
    await store.create_topic("u", uuid.UUID(int=78), assignments(1), {})


async def test_states_are_created_read_and_replaced(store, fence, topic):
    wanted = states(3) | states(2, topic="u")
    created = await store.create_partition_states(fence, wanted)
    assert created == wanted
    assert await store.partition_states([*wanted, TopicPartition("t", 9)]) == wanted
    changed = {tp: attrs.evolve(state, leader=2) for tp, state in created.items()}
    written = await store.write_partition_states(fence, changed)
    assert {state.partition_epoch for state in written.values()} == {1}
    assert await store.partition_states(wanted) == written


async def test_a_thousand_states_are_a_score_of_requests(server, store, fence, topic):
    server.requests.clear()
    created = await store.create_partition_states(fence, states(1000))
    assert len(created) == 1000
    assert server.requests["multi"] <= 25
    server.requests.clear()
    await store.write_partition_states(fence, created)
    assert server.requests["multi"] <= 12


async def test_only_the_conflicting_state_is_refused(server, store, fence, topic):
    created = await store.create_partition_states(fence, states(5))
    victim = TopicPartition("t", 3)
    theirs = znodes.encode_partition_state(attrs.evolve(created[victim], leader=2))
    server.multi([Set(znodes.state_path(victim), theirs)], 0)
    written = await store.write_partition_states(fence, created)
    refused = {tp for tp, result in written.items() if isinstance(result, StaleVersion)}
    assert refused == {victim}
    assert {r.partition_epoch for tp, r in written.items() if tp != victim} == {1}


async def test_a_state_whose_node_is_gone_is_stale(server, store, fence, topic):
    created = await store.create_partition_states(fence, states(2))
    gone = TopicPartition("t", 0)
    server.multi([Delete(znodes.state_path(gone))], 0)
    written = await store.write_partition_states(fence, created)
    assert isinstance(written[gone], StaleVersion)


async def test_states_that_exist_are_not_created_again(store, fence, topic):
    there = states(1)
    await store.create_partition_states(fence, there)
    wanted = states(3, leader=2)
    results = await store.create_partition_states(fence, wanted)
    assert isinstance(results[TopicPartition("t", 0)], NodeExists)
    assert await store.partition_states(wanted) == there | {
        tp: state for tp, state in wanted.items() if tp.partition > 0
    }


async def test_states_of_a_topic_that_is_gone_are_refused(store, fence, topic):
    results = await store.create_partition_states(fence, states(1, topic="gone") | states(1))
    assert isinstance(results[TopicPartition("gone", 0)], NoNode)
    assert results[TopicPartition("t", 0)] == states(1)[TopicPartition("t", 0)]


@pytest.mark.parametrize("lost", ["reply", "request"])
async def test_lost_replies_to_states_are_found_out(session, store, fence, topic, lost):
    session.fail_next(None, lost)  # the parent is made, then the batch is lost
    created = await store.create_partition_states(fence, states(3))
    assert created == states(3)
    session.fail_next(lost)
    written = await store.write_partition_states(fence, created)
    assert {result.partition_epoch for result in written.values()} == {1}
    session.fail_next("request", lost)  # and the single writes that follow are lost as well
    written = await store.write_partition_states(fence, written)
    assert {result.partition_epoch for result in written.values()} == {2}
    assert await store.partition_states(written) == written


@pytest.mark.parametrize("write", ["create_partition_states", "write_partition_states"])
async def test_a_deposed_controller_writes_nothing(server, store, fence, topic, write):
    created = await store.create_partition_states(fence, states(2))
    server.multi([Delete("/controller")], 0)
    await Store(server.session()).elect(2, 6)
    with pytest.raises(FencedEpoch, match="after epoch 1"):
        await getattr(store, write)(fence, {**created, TopicPartition("t", 7): created["t", 0]})
    assert await store.partition_states(created) == created


# ------------------------------------------------------------------------------ deleting


async def test_a_topic_is_deleted_with_all_that_is_below_it(server, store, fence, topic):
    await store.create_partition_states(fence, states(120))
    await store.mark_topic_deletion("t")
    await store.mark_topic_deletion("t")
    assert await store.topic_deletions() == {"t"}
    await store.delete_topic_nodes(fence, "t")
    await store.clear_topic_deletion(fence, "t")
    left = [path for path in server.nodes if "/t" in path.replace("/topics", "")]
    assert left == []
    assert await store.topics() == {"u"}


async def test_a_deletion_can_be_taken_up_where_it_stopped(server, session, store, fence, topic):
    await store.create_partition_states(fence, states(3))
    server.multi([Delete(znodes.state_path(TopicPartition("t", 1)))], 0)
    session.fail_next("reply")
    await store.delete_topic_nodes(fence, "t")
    assert await store.topics() == {"u"}
    await store.delete_topic_nodes(fence, "t")
    with pytest.raises(FencedEpoch):
        await store.delete_topic_nodes(Fence(0, 0), "u")
    assert await store.topics() == {"u"}


# ------------------------------------------------------------------------------ notifications


async def test_an_election_request_is_read_watched_and_cleared(server, session, store, fence):
    hints = session.subscribe()
    assert await store.preferred_elections(watch=True) is None
    tp = TopicPartition("t", 1)
    path = "/admin/preferred_replica_election"
    server.multi([Create(path, znodes.encode_partitions({tp}))], 0)
    assert hints.receive_nowait() == Hint(HintKind.CREATED, path)
    assert await store.preferred_elections() == {tp}
    server.multi([Set(path, b"rubbish")], 0)
    assert await store.preferred_elections() == frozenset(), "there, and asks for nothing"
    await store.clear_preferred_elections(fence)
    assert await store.preferred_elections() is None


async def test_failed_directories_are_announced_read_and_forgotten(server, session, store, fence):
    hints = session.subscribe()
    assert await store.log_dir_events(watch=True) == {}
    await store.notify_log_dir_failure(4)
    assert hints.receive_nowait() == Hint(HintKind.CHILDREN, "/log_dir_event_notification")
    server.multi([Create("/log_dir_event_notification/rubbish", b"?")], 0)
    events = await store.log_dir_events()
    assert sorted(events.values()) == [-1, 4]
    await store.delete_log_dir_events(fence, events)
    assert await store.log_dir_events() == {}


async def test_isr_changes_of_older_brokers_are_read_and_forgotten(server, store, fence):
    tp = TopicPartition("t", 1)
    prefix = "/isr_change_notification/isr_change_"
    server.multi([Create(prefix, znodes.encode_partitions({tp}), sequential=True)], 0)
    server.multi([Create(prefix, b"?", sequential=True)], 0)
    changes = await store.isr_change_notifications()
    assert list(changes.values()) == [{tp}, frozenset()]
    await store.delete_isr_change_notifications(fence, changes)
    assert await store.isr_change_notifications() == {}


# ------------------------------------------------------------------------------ configuration


async def test_an_alteration_is_written_then_notified(server, session, store):
    hints = session.subscribe()
    await store.config_changes(watch=True)
    await store.write_entity_config("topics", "t", {"a": "1"})
    await store.write_entity_config("topics", "t", {"b": "2"})
    assert hints.receive_nowait() == Hint(HintKind.CHILDREN, "/config/changes")
    assert await store.entity_config("topics", "t") == {"b": "2"}
    first, second = await store.config_changes()
    assert (first.kind, first.name) == ("topics", "t")
    assert await store.config_changes(after=first.number) == [second]
    assert await store.all_entity_configs("topics") == {"t": {"b": "2"}}
    assert await store.entity_config("topics", "other") == {}


@pytest.mark.parametrize("lost", ["reply", "request"])
async def test_an_alteration_survives_a_lost_reply(session, store, lost):
    session.fail_next(lost)
    await store.write_entity_config("topics", "t", {"a": "1"})
    assert await store.entity_config("topics", "t") == {"a": "1"}
    assert len(await store.config_changes()) >= 1


async def test_an_alteration_follows_a_change_of_controllers(server, session, store):
    fence = await store.elect(1, 5)

    def change_hands(operations):
        server.multi([Delete("/controller")], 0)

    session.before = change_hands
    await store.write_entity_config("topics", "t", {"a": "1"})
    assert await store.entity_config("topics", "t") == {"a": "1"}
    assert fence is not None


async def test_an_alteration_of_an_unknown_kind_is_refused(store):
    with pytest.raises(NoNode):
        await store.write_entity_config("planets", "mars", {})


async def test_notifications_are_cleared_away_after_a_quarter_of_an_hour(server, store):
    await store.write_entity_config("topics", "old", {})
    server.now_ms += 15 * 60 * 1000 + 1
    await store.write_entity_config("topics", "new", {})
    await store.delete_old_config_changes(server.now_ms)
    assert [change.name for change in await store.config_changes()] == ["new"]


# ------------------------------------------------------------------------------ producer ids


async def test_blocks_of_producer_ids_follow_each_other(session, store):
    assert (await store.allocate_producer_id_block(1)).ids == range(1000)
    session.fail_next("reply")
    assert (await store.allocate_producer_id_block(2)).ids == range(2000, 3000), "one block lost"


async def test_a_block_taken_by_a_rival_is_not_taken_again(server, session, store):
    rival = Store(server.session())
    taken = []

    async def both():
        async with trio.open_nursery() as nursery:
            for one in (store, rival):
                nursery.start_soon(lambda one=one: keep(one))

    async def keep(one):
        taken.append(await one.allocate_producer_id_block(1))

    await both()
    assert {block.first for block in taken} == {0, 1000}


async def test_producer_ids_end(server, store):
    last = znodes.ProducerIdBlock(1, 2**63 - 1000, 2**63 - 1)
    server.multi([Set(znodes.PRODUCER_ID_BLOCK, znodes.encode_producer_id_block(last))], 0)
    with pytest.raises(CoordinationError, match="no producer ids left"):
        await store.allocate_producer_id_block(1)


# ------------------------------------------------------------------------------ retrying


async def test_a_request_waits_for_the_connection(session, store, autojump_clock):
    session.suspend()
    async with trio.open_nursery() as nursery:

        async def come_back():
            await trio.sleep(0.5)
            session.reconnect()

        nursery.start_soon(come_back)
        assert await store.topics() == set()
    assert trio.current_time() >= 0.5


async def test_a_request_gives_up_when_its_time_is_over(session, store, autojump_clock):
    session.suspend()
    began = trio.current_time()
    with pytest.raises(SessionSuspended):
        await store.topics()
    assert trio.current_time() - began == pytest.approx(1.0)


async def test_a_request_does_not_outlive_its_session(session, store, autojump_clock):
    session.suspend()
    async with trio.open_nursery() as nursery:

        async def lose():
            await trio.sleep(0.5)
            session.expire()
            session.reconnect()

        nursery.start_soon(lose)
        with pytest.raises(SessionLost):
            await store.elect(1, 5)
    assert await store.controller() is None


async def test_a_lost_session_is_for_the_caller(session, store):
    session.expire()
    with pytest.raises(SessionLost):
        await store.topics()
