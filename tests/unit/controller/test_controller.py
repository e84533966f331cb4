"""The controller as a whole: the real store on a ZooKeeper of dictionaries, brokers that answer.

Nothing here sleeps in real time: the clock is trio's mock clock, which jumps when all tasks wait.
"""

import logging

import trio
import trio.testing
from fake_cluster import T0, Cluster, settle, start

from zkafka.errors import ErrorCode
from zkafka.model import PartitionState, ReplicaAssignment, TopicPartition
from zkafka.protocol.messages.allocate_producer_ids import AllocateProducerIdsRequest
from zkafka.protocol.messages.alter_partition import (
    AlterPartitionRequest,
    BrokerState,
    PartitionData,
    TopicData,
)
from zkafka.protocol.messages.controlled_shutdown import ControlledShutdownRequest
from zkafka.protocol.messages.update_metadata import UpdateMetadataRequest
from zkafka.zk import znodes
from zkafka.zk.operations import Delete
from zkafka.zk.store import Store


def proposal(cluster_epoch: int, topic_id, isr, *, leader=1, leader_epoch=0, partition_epoch=0):
    return AlterPartitionRequest(
        broker_id=leader,
        broker_epoch=cluster_epoch,
        topics=[
            TopicData(
                topic_id=topic_id,
                partitions=[
                    PartitionData(
                        partition_index=0,
                        leader_epoch=leader_epoch,
                        partition_epoch=partition_epoch,
                        new_isr_with_epochs=[BrokerState(broker_id=b) for b in isr],
                    )
                ],
            )
        ],
    )


async def test_the_first_to_stand_is_elected_and_tells_everybody(autojump_clock, nursery):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2)
    assert controller.is_active
    assert controller.controller_epoch == 1
    assert await cluster.operator.controller() == 1
    for broker_id in (1, 2):
        [request] = cluster.received[broker_id]
        assert [b.id for b in request.live_brokers] == [1, 2]
        assert request.controller_epoch == 1


async def test_the_second_to_stand_waits_until_the_first_is_gone(autojump_clock, nursery):
    cluster = Cluster()
    first = await start(nursery, cluster, 1, 2)
    second = cluster.controller(2)
    await nursery.start(second.run)
    await settle()
    assert (first.is_active, second.is_active) == (True, False)
    cluster.sessions[1].expire()
    await settle()
    assert (first.is_active, second.is_active) == (False, True)
    assert second.controller_epoch == 2


async def test_a_topic_is_created_from_its_znode(autojump_clock, nursery):
    cluster = Cluster()
    await start(nursery, cluster, 1, 2, 3)
    await cluster.create_topic("t", (2, 3), (3, 1))
    await settle()
    assert (await cluster.state()).leader == 2
    assert cluster.roles(3) == {"t-0": (2, 0), "t-1": (3, 0)}


async def test_partitions_added_later_are_created(autojump_clock, nursery):
    cluster = Cluster()
    await start(nursery, cluster, 1, 2)
    await cluster.create_topic("t", (1, 2))
    await settle()
    await cluster.operator.add_partitions("t", {1: ReplicaAssignment(replicas=(2, 1))})
    await settle()
    assert (await cluster.state(TopicPartition("t", 1))).leader == 2


async def test_a_dead_brokers_partitions_are_led_anew(autojump_clock, nursery):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2, 3)
    await cluster.create_topic("t", (2, 3), (3, 2))
    await settle()
    cluster.sessions[2].expire()
    await settle()
    state = await cluster.state()
    assert (state.leader, state.leader_epoch, state.isr) == (3, 1, (3,))
    assert cluster.roles(3) == {"t-0": (3, 1), "t-1": (3, 1)}
    assert controller.statistics().active_broker_count == 2


async def test_a_new_controller_continues_what_the_last_one_left(autojump_clock, nursery):
    """The topic's znode was written while nobody was controller, and a broker died meanwhile."""
    cluster = Cluster()
    await start(nursery, cluster, 1, 2, 3)
    await cluster.create_topic("old", (1, 2))
    await settle()
    cluster.sessions[1].expire()
    await cluster.create_topic("t", (1, 3))
    second = cluster.controller(2)
    await nursery.start(second.run)
    await settle()
    assert (await cluster.state()).leader == 3
    old = await cluster.state(TopicPartition("old", 0))
    assert (old.leader, old.controller_epoch) == (2, 2)


async def test_a_fenced_controller_announces_nothing_and_resigns(autojump_clock, nursery):
    """Another one was elected, of which we have not heard yet: our write must not pass."""
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2)
    await cluster.create_topic("t", (2, 1))
    await settle()
    before = await cluster.state()
    told = len(cluster.received[1])

    def overtake(_operations):
        # No watch of ours fires: the news is still on its way.
        cluster.zookeeper.watches.clear()
        cluster.zookeeper.put(znodes.CONTROLLER, znodes.encode_controller(2, 0))
        cluster.zookeeper.put(znodes.CONTROLLER_EPOCH, b"2")
        cluster.zookeeper.nodes[znodes.CONTROLLER].owner = 0

    cluster.sessions[1].before = overtake
    cluster.sessions[2].expire()
    await settle()
    assert not controller.is_active
    assert await cluster.state() == before
    assert len(cluster.received[1]) == told


async def test_a_deposed_controller_resigns_when_it_looks(autojump_clock, nursery):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2)
    cluster.zookeeper.apply(Delete(znodes.CONTROLLER), 0)
    cluster.zookeeper.put(znodes.CONTROLLER, znodes.encode_controller(2, 0))
    await settle()
    assert not controller.is_active


async def test_a_suspect_counts_as_failed_until_it_answers(autojump_clock, nursery):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2, 3)
    await cluster.create_topic("t", (2, 3))
    await settle()
    epoch = (await cluster.operator.brokers())[2].broker_epoch
    controller.suspect({2: epoch})
    await settle()
    state = await cluster.state()
    assert (state.leader, state.leader_epoch, state.isr) == (3, 1, (3,))
    assert controller.statistics().active_broker_count == 2
    assert cluster.roles(2) == {"t-0": (2, 0)}
    controller.suspect({})
    await settle()
    assert cluster.roles(2) == {"t-0": (3, 1)}
    assert controller.statistics().active_broker_count == 3


async def test_a_suspected_controller_is_deposed_and_counts_as_failed(autojump_clock, nursery):
    """It is dead: its session, its registration and its /controller are still there."""
    cluster = Cluster()
    await cluster.setup()
    for broker_id in (1, 2, 3):
        await cluster.register(broker_id)
    await cluster.create_topic("t", (1, 3))
    async with trio.open_nursery() as life:
        await life.start(cluster.controller(1).run)
        await settle()
        life.cancel_scope.cancel()
    assert (await cluster.state()).leader == 1
    successor = cluster.controller(2)
    await nursery.start(successor.run)
    await settle()
    assert not successor.is_active
    epoch = (await cluster.operator.brokers())[1].broker_epoch
    successor.suspect({1: epoch})
    await settle()
    assert successor.is_active
    assert successor.controller_epoch == 2
    assert successor.statistics().depositions_total == 1
    assert (await cluster.state()).leader == 3
    assert cluster.received[1][-1].controller_epoch == 1, "nothing is sent to the dead"


async def test_a_controller_deposed_in_error_resigns_and_lets_the_others_stand_first(
    autojump_clock, nursery
):
    cluster = Cluster()
    first = await start(nursery, cluster, 1, 2, 3)
    second = cluster.controller(2)
    await nursery.start(second.run)
    epoch = (await cluster.operator.brokers())[1].broker_epoch
    second.suspect({1: epoch})
    await settle()
    assert (first.is_active, second.is_active) == (False, True)
    await trio.sleep(20)
    assert (first.is_active, second.is_active) == (False, True)


async def test_a_controller_that_was_deposed_stands_again_where_nobody_else_does(
    autojump_clock, nursery
):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2)
    cluster.zookeeper.apply(Delete(znodes.CONTROLLER), 0)
    await trio.sleep(4.9)
    assert not controller.is_active
    await trio.sleep(0.2)
    assert controller.is_active
    assert controller.controller_epoch == 2


async def test_one_that_was_deposed_long_ago_succeeds_as_quickly_as_any(autojump_clock, nursery):
    cluster = Cluster()
    first = await start(nursery, cluster, 1, 2)
    second = cluster.controller(2)
    await nursery.start(second.run)
    await settle()
    cluster.zookeeper.apply(Delete(znodes.CONTROLLER), 0)
    await trio.sleep(10)
    assert second.is_active
    cluster.sessions[2].expire()
    await settle()
    assert first.is_active


async def test_a_controller_is_deposed_once_however_long_it_is_suspected(autojump_clock, nursery):
    """3 alone cannot reach it, and does not stand: it wins again, and stays."""
    cluster = Cluster()
    first = await start(nursery, cluster, 1, 2, 3)
    third = cluster.controller(3)
    epoch = (await cluster.operator.brokers())[1].broker_epoch
    store = Store(cluster.sessions[3])
    third.suspect({1: epoch})
    for expected in (True, False, False):
        before = await store.controller()
        await third._depose(1, epoch)
        assert (await store.controller() is None) == expected, before
        await trio.sleep(6)
        assert first.is_active
        assert third.statistics().depositions_total == 1
    third.suspect({})
    third.suspect({1: epoch})
    await third._depose(1, epoch)
    assert third.statistics().depositions_total == 2, "another suspicion"


async def test_a_suspicion_that_ends_while_the_office_is_taken_is_not_acted_upon_later(
    autojump_clock, nursery
):
    cluster = Cluster()
    await cluster.setup()
    for broker_id in (1, 2, 3):
        await cluster.register(broker_id)
    await cluster.create_topic("t", (2, 3))
    controller = cluster.controller(1)
    epoch = (await cluster.operator.brokers())[2].broker_epoch
    controller.suspect({2: epoch})
    await nursery.start(controller.run)
    await trio.lowlevel.checkpoint()
    controller.suspect({})
    await settle()
    assert controller.is_active
    assert controller.statistics().active_broker_count == 3
    assert "t-0" in cluster.roles(2)


async def test_a_suspended_controller_decides_nothing_until_it_is_back(autojump_clock, nursery):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2, 3)
    await cluster.create_topic("t", (2, 3))
    await settle()
    cluster.sessions[1].suspend()
    cluster.sessions[2].expire()
    await cluster.create_topic("u", (3,))
    await trio.sleep(60)
    assert controller.is_active
    assert (await cluster.state()).leader == 2
    cluster.sessions[1].reconnect()
    await settle()
    assert (await cluster.state()).leader == 3
    assert (await cluster.state(TopicPartition("u", 0))).leader == 3


async def test_a_lost_reply_neither_repeats_nor_forgets_a_write(autojump_clock, nursery):
    cluster = Cluster()
    await start(nursery, cluster, 1, 2, 3)
    await cluster.create_topic("t", (2, 3))
    await settle()
    cluster.sessions[1].lose_reply_of_next_multi = True
    cluster.sessions[2].expire()
    await settle()
    assert cluster.roles(3)["t-0"] == (2, 0)
    cluster.sessions[1].reconnect()
    await settle()
    state = await cluster.state()
    assert (state.leader, state.leader_epoch) == (3, 1)
    assert cluster.roles(3)["t-0"] == (3, 1)


async def test_a_lost_reply_to_the_election_is_read_back(autojump_clock, nursery):
    cluster = Cluster()
    await cluster.setup()
    await cluster.register(1)
    cluster.sessions[1].lose_reply_of_next_multi = True
    controller = cluster.controller(1)
    await nursery.start(controller.run)
    await settle()
    assert not controller.is_active
    cluster.sessions[1].reconnect()
    await settle()
    assert controller.is_active
    assert controller.controller_epoch == 1


async def test_a_lost_session_ends_the_term_at_once_and_those_who_wait_are_told(
    autojump_clock, nursery
):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2)
    cluster.sessions[1].suspend()
    answers = []

    async def ask():
        answers.append(await controller.elect_leaders(None, unclean=False))

    nursery.start_soon(ask)
    await settle()
    assert answers == []
    cluster.sessions[1].expire()
    await settle()
    assert answers == [None]
    assert not controller.is_active
    assert controller.statistics().active_broker_count == 0


async def test_it_stands_again_in_its_next_session(autojump_clock, nursery):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2)
    cluster.sessions[1].expire()
    cluster.sessions[1].renew()
    await cluster.register(1)
    await settle()
    assert controller.is_active
    assert controller.controller_epoch == 2
    assert controller.statistics().terms_total == 2


async def test_a_deleted_topic_leaves_no_znode(autojump_clock, nursery):
    cluster = Cluster()
    await start(nursery, cluster, 1, 2)
    await cluster.create_topic("t", (1, 2), configs={"retention.ms": "1"})
    await settle()
    await cluster.operator.mark_topic_deletion("t")
    await settle()
    left = [path for path in cluster.zookeeper.nodes if path.endswith("/t") or "/t/" in path]
    assert left == []


async def test_a_failed_log_directory_moves_the_leader(autojump_clock, nursery):
    cluster = Cluster()
    await start(nursery, cluster, 1, 2)
    await cluster.create_topic("t", (2, 1))
    await settle()
    cluster.storage_errors[2] = {"t"}
    await Store(cluster.sessions[2]).notify_log_dir_failure(2)
    await settle()
    assert (await cluster.state()).leader == 1
    assert cluster.zookeeper.children(znodes.LOG_DIR_EVENTS) == []


async def test_unclean_election_follows_the_topics_setting(autojump_clock, nursery):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2, 3)
    for name, allowed in (("t", "true"), ("u", "false")):
        configs = {"unclean.leader.election.enable": allowed}
        await cluster.create_topic(name, (2, 3), configs=configs)
    await settle()
    cluster.sessions[3].expire()
    await settle()
    cluster.sessions[3].renew()
    await cluster.register(3)
    await settle()
    cluster.sessions[2].expire()
    await settle()
    assert (await cluster.state()).leader == 3
    assert (await cluster.state()).recovering
    u0 = TopicPartition("u", 0)
    assert (await cluster.state(u0)).leader == -1
    assert controller.statistics().offline_partitions_count == 1
    await cluster.operator.write_entity_config(
        "topics", "u", {"unclean.leader.election.enable": "true"}
    )
    controller.unclean_election_enabled("u")
    await settle()
    assert (await cluster.state(u0)).leader == 3


async def test_an_isr_proposal_is_written_and_answered(autojump_clock, nursery):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2)
    topic_id = await cluster.create_topic("t", (1, 2))
    await settle()
    epoch = (await cluster.operator.brokers())[1].broker_epoch
    response = await controller.alter_partition(proposal(epoch, topic_id, [1]))
    assert response.topics[0].partitions[0].error_code == ErrorCode.NONE
    assert (await cluster.state()).isr == (1,)
    response = await controller.alter_partition(proposal(epoch + 1, topic_id, [1]))
    assert response.error_code == ErrorCode.STALE_BROKER_EPOCH


async def test_one_that_is_not_controller_says_so(autojump_clock, nursery):
    cluster = Cluster()
    await start(nursery, cluster, 1, 2)
    other = cluster.controller(2)
    await nursery.start(other.run)
    await settle()
    answer = await other.alter_partition(AlterPartitionRequest())
    assert answer.error_code == ErrorCode.NOT_CONTROLLER
    left = await other.controlled_shutdown(ControlledShutdownRequest(broker_id=1))
    assert left.error_code == ErrorCode.NOT_CONTROLLER
    ids = await other.allocate_producer_ids(AllocateProducerIdsRequest())
    assert ids.error_code == ErrorCode.NOT_CONTROLLER
    assert await other.elect_leaders(None, unclean=False) is None


async def test_producer_ids_come_in_blocks_of_a_thousand(autojump_clock, nursery):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2)
    epoch = (await cluster.operator.brokers())[2].broker_epoch
    request = AllocateProducerIdsRequest(broker_id=2, broker_epoch=epoch)
    first = await controller.allocate_producer_ids(request)
    second = await controller.allocate_producer_ids(request)
    assert (first.producer_id_start, first.producer_id_len) == (0, 1000)
    assert (second.producer_id_start, second.producer_id_len) == (1000, 1000)
    stale = AllocateProducerIdsRequest(broker_id=2, broker_epoch=epoch - 1)
    answer = await controller.allocate_producer_ids(stale)
    assert answer.error_code == ErrorCode.STALE_BROKER_EPOCH
    unknown = await controller.allocate_producer_ids(AllocateProducerIdsRequest(broker_id=9))
    assert unknown.error_code == ErrorCode.BROKER_ID_NOT_REGISTERED


async def test_controlled_shutdown_answers_what_is_left(autojump_clock, nursery):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2)
    await cluster.create_topic("t", (2, 1))
    await settle()
    epoch = (await cluster.operator.brokers())[2].broker_epoch
    answer = await controller.controlled_shutdown(
        ControlledShutdownRequest(broker_id=2, broker_epoch=epoch)
    )
    assert (answer.error_code, list(answer.remaining_partitions)) == (ErrorCode.NONE, [])
    assert (await cluster.state()).leader == 1


async def test_leaders_drift_back_after_five_seconds(autojump_clock, nursery):
    cluster = Cluster()
    await cluster.setup()
    for broker_id in (1, 2):
        await cluster.register(broker_id)
    await cluster.create_topic("t", (2, 1))
    path = znodes.state_path(T0)
    state = PartitionState(leader=1, leader_epoch=0, isr=(1, 2), controller_epoch=0)
    cluster.zookeeper.put(path, znodes.encode_partition_state(state))
    await nursery.start(cluster.controller(1).run)
    await settle()
    assert (await cluster.state()).leader == 1
    await trio.sleep(5.1)
    assert (await cluster.state()).leader == 2


async def test_the_legacy_election_znode_is_honoured_whenever_it_appears(autojump_clock, nursery):
    cluster = Cluster()
    await start(nursery, cluster, 1, 2, **{"auto.leader.rebalance.enable": "false"})
    topic_id = await cluster.create_topic("t", (2, 1))
    await settle()
    assert topic_id
    cluster.sessions[2].expire()
    await settle()
    for _ in range(2):  # the second time shows that the watch was armed again
        cluster.zookeeper.put(znodes.PREFERRED_ELECTION, znodes.encode_partitions([T0]))
        await settle()
        assert znodes.PREFERRED_ELECTION not in cluster.zookeeper.nodes


async def test_isr_changes_written_by_older_leaders_are_told_to_all(autojump_clock, nursery):
    cluster = Cluster()
    await start(nursery, cluster, 1, 2)
    await cluster.create_topic("t", (1, 2))
    await settle()
    state = PartitionState(leader=1, leader_epoch=0, isr=(1,), controller_epoch=1)
    cluster.zookeeper.put(znodes.state_path(T0), znodes.encode_partition_state(state))
    cluster.zookeeper.put(
        f"{znodes.ISR_CHANGES}/isr_change_0000000001", znodes.encode_partitions([T0])
    )
    await settle()
    last = cluster.received[2][-1]
    assert isinstance(last, UpdateMetadataRequest)
    assert list(last.topic_states[0].partition_states[0].isr) == [1]
    assert cluster.zookeeper.children(znodes.ISR_CHANGES) == []


async def test_a_broker_that_cannot_be_reached_is_tried_until_it_leaves(autojump_clock, nursery):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2)
    cluster.unreachable.add(2)
    await cluster.create_topic("t", (1, 2))
    await trio.sleep(1)
    assert cluster.roles(2) == {}
    assert controller.statistics().channels[2].failures >= 9
    cluster.unreachable.clear()
    await trio.sleep(0.2)
    assert cluster.roles(2) == {"t-0": (1, 0)}
    cluster.unreachable.add(2)
    await cluster.create_topic("u", (1, 2))
    await settle()
    cluster.sessions[2].expire()
    await settle()
    assert controller.statistics().channels.keys() == {1}


async def test_a_topic_whose_znode_cannot_be_read_leaves_the_others_alone(autojump_clock, nursery):
    cluster = Cluster()
    await cluster.setup()
    await cluster.register(1)
    cluster.zookeeper.put(znodes.topic_path("broken"), b"not json")
    await cluster.create_topic("t", (1,))
    controller = cluster.controller(1)
    await nursery.start(controller.run)
    await settle()
    assert controller.is_active
    assert (await cluster.state()).leader == 1


async def test_what_cannot_be_done_ends_the_term_and_frees_the_office(autojump_clock, nursery):
    """A partition state that cannot be read: we stand aside, and try again later."""
    cluster = Cluster()
    await cluster.setup()
    await cluster.register(1)
    await cluster.create_topic("t", (1,))
    good = PartitionState(leader=1, leader_epoch=0, isr=(1,), controller_epoch=0)
    cluster.zookeeper.put(znodes.state_path(T0), b"not json")
    controller = cluster.controller(1)
    await nursery.start(controller.run)
    await settle()
    assert not controller.is_active
    assert await cluster.operator.controller() is None
    cluster.zookeeper.put(znodes.state_path(T0), znodes.encode_partition_state(good))
    await trio.sleep(1)
    assert controller.is_active


async def test_resigning_lets_another_one_be_elected_at_once(autojump_clock, nursery):
    cluster = Cluster()
    first = await start(nursery, cluster, 1, 2)
    second = cluster.controller(2)
    await nursery.start(second.run)
    await first.resign()
    await settle()
    assert (first.is_active, second.is_active) == (False, True)
    second_session = cluster.sessions[2]
    second_session.expire()
    await trio.sleep(1)
    assert not first.is_active


async def test_the_story_can_be_told_from_the_state_change_log(autojump_clock, nursery, caplog):
    caplog.set_level(logging.INFO, "zkafka.state_change")
    cluster = Cluster()
    await start(nursery, cluster, 1, 2, 3)
    await cluster.create_topic("t", (2, 3))
    await settle()
    cluster.sessions[2].expire()
    await settle()
    cluster.sessions[1].expire()
    await settle()
    story = [r.message for r in caplog.records if r.name == "zkafka.state_change"]
    assert story == [
        "became controller broker=1 controller_epoch=1",
        "created broker=1 partition=t-0 controller_epoch=1 leader=-1->2 leader_epoch=0 "
        "isr=-->2,3 partition_epoch=0",
        "offline election broker=1 partition=t-0 controller_epoch=1 leader=2->3 leader_epoch=1 "
        "isr=2,3->3 partition_epoch=1",
        "resigned as controller broker=1 controller_epoch=1 reason=session lost",
    ]


async def test_three_hundred_partitions_are_led_anew_with_few_requests(autojump_clock, nursery):
    """In ZooKeeper: one transaction per hundred states; to each broker: three requests."""
    cluster = Cluster()
    await start(nursery, cluster, 1, 2, 3)
    await cluster.create_topic(
        "t", *[(p % 3 + 1, (p + 1) % 3 + 1, (p + 2) % 3 + 1) for p in range(300)]
    )
    await settle()
    cluster.sessions[1].multis.clear()
    told = len(cluster.received[3])
    cluster.sessions[2].expire()
    await settle()
    assert len(cluster.sessions[1].multis) <= 4
    assert len(cluster.received[3]) - told == 2
    assert {leader for leader, _ in cluster.roles(3).values()} == {1, 3}
