"""The controller's decisions, by event and effect."""

import attrs
import pytest
from controller_world import World, broker, brokers, topic, topic_id

from zkafka.controller.announcements import LEADER_DURING_DELETION
from zkafka.controller.context import (
    PartitionStatus,
    Replica,
    ReplicaStatus,
)
from zkafka.controller.events import (
    AlterPartitionRequested,
    BalanceCheckDue,
    BrokersChanged,
    ClearPreferredElections,
    ClearTopicDeletion,
    CloseChannel,
    ControlledShutdownRequested,
    DeleteTopicNodes,
    ElectLeadersRequested,
    IsrChangesNoted,
    LogDirsFailed,
    NoteState,
    OpenChannel,
    PreferredElectionsMarked,
    ReadUncleanElection,
    RewriteTopic,
    SendRequest,
    ShutdownResult,
    StopReplicaAnswered,
    SuspectsChanged,
    TopicChanged,
    TopicDeletionsMarked,
    TopicsChanged,
    UncleanElectionEnabled,
    WritePartitionStates,
)
from zkafka.errors import ErrorCode
from zkafka.model import BrokerInfo, Endpoint, PartitionState, ReplicaAssignment, TopicPartition
from zkafka.protocol.messages.alter_partition import (
    AlterPartitionRequest,
    BrokerState,
    PartitionData,
    TopicData,
)
from zkafka.protocol.messages.leader_and_isr import LeaderAndIsrRequest
from zkafka.protocol.messages.stop_replica import StopReplicaRequest, StopReplicaResponse
from zkafka.protocol.messages.update_metadata import UpdateMetadataRequest
from zkafka.zk.znodes import TopicZnode

T0 = TopicPartition("t", 0)


def stored(leader: int, isr: tuple[int, ...], *, epoch: int = 0, version: int = 0, **more):
    """A partition state as an earlier controller left it."""
    return PartitionState(
        leader=leader,
        leader_epoch=epoch,
        isr=isr,
        controller_epoch=0,
        partition_epoch=version,
        **more,
    )


def writes(world: World) -> list[WritePartitionStates]:
    return [effect for effect in world.effects if isinstance(effect, WritePartitionStates)]


def propose(
    world: World,
    isr: list[int],
    *,
    leader: int = 1,
    version: int = 3,
    epochs: dict[int, int] | None = None,
    **more,
):
    """The leader proposes an ISR for t-0 on what the controller knows, `more` overriding."""
    known = world.context.states.get(T0)
    fields = {
        "partition_index": 0,
        "leader_epoch": known.leader_epoch if known else 0,
        "partition_epoch": known.partition_epoch if known else 0,
        **more,
    }
    if version >= 3:
        fields["new_isr_with_epochs"] = [
            BrokerState(broker_id=b, broker_epoch=(epochs or {}).get(b, -1)) for b in isr
        ]
    else:
        fields["new_isr"] = isr
    registered = world.live.get(leader)
    request = AlterPartitionRequest(
        broker_id=leader,
        broker_epoch=registered.epoch if registered else 1,
        topics=[TopicData(topic_id=topic_id("t"), partitions=[PartitionData(**fields)])],
    )
    world.happen(AlterPartitionRequested(request, version, "token"))
    return world.answer()


def proposal_error(response) -> int:
    return response.topics[0].partitions[0].error_code


class TestTakingOffice:
    def test_brokers_hear_of_each_other_before_their_roles(self):
        world = World(
            1, 2, topics={"t": topic("t", (1, 2))}, stored={T0: stored(1, (1, 2), epoch=4)}
        )
        assert world.kinds(2) == ["UpdateMetadata", "LeaderAndIsr", "UpdateMetadata"]
        first = world.requests(2, UpdateMetadataRequest)[0]
        assert [b.id for b in first.live_brokers] == [1, 2]
        assert not first.topic_states
        assert world.roles(2) == {T0: (1, 4, [1, 2])}
        assert world.told(2) == {T0: 1}

    def test_nothing_is_written_where_nothing_changed(self):
        world = World(1, 2, topics={"t": topic("t", (1, 2))}, stored={T0: stored(1, (1, 2))})
        assert writes(world) == []

    def test_channels_open_before_anything_is_sent(self):
        world = World(1, 2)
        kinds = [type(effect) for effect in world.effects]
        assert kinds[:2] == [OpenChannel, OpenChannel]
        assert kinds.index(SendRequest) == 2

    def test_a_topic_left_without_states_is_created(self):
        """The last controller died between the topic's znode and its partitions' states."""
        world = World(1, 2, topics={"t": topic("t", (2, 1))})
        assert world.state("t") == (2, 0, (2, 1))
        [request] = world.requests(1, LeaderAndIsrRequest)
        assert request.topic_states[0].partition_states[0].is_new

    def test_dead_leaders_and_dead_isr_members_are_settled_in_one_write(self):
        world = World(
            1,
            3,
            topics={"t": topic("t", (2, 1, 3), (1, 2, 3))},
            stored={
                T0: stored(2, (2, 1, 3), epoch=5),
                TopicPartition("t", 1): stored(1, (1, 2, 3), epoch=6),
            },
        )
        assert len(writes(world)) == 1
        assert world.state("t", 0) == (1, 6, (1, 3))
        assert world.state("t", 1) == (1, 7, (1, 3))

    def test_a_partition_without_live_isr_member_gets_no_leader_and_keeps_its_isr(self):
        world = World(3, topics={"t": topic("t", (1, 2, 3))}, stored={T0: stored(1, (1, 2))})
        assert world.state("t") == (-1, 1, (1, 2))
        assert world.context.partition_status(T0) is PartitionStatus.OFFLINE

    def test_a_missing_topic_id_is_assigned_and_written(self):
        topic_without = TopicZnode(topic_id=None, assignments={0: ReplicaAssignment(replicas=(1,))})
        world = World(1, topics={"t": topic_without})
        [rewrite] = [e for e in world.effects if isinstance(e, RewriteTopic)]
        assert rewrite.topic_id == world.context.topic_ids["t"]
        assert rewrite.assignments == topic_without.assignments

    def test_a_deletion_half_done_is_repeated(self):
        """Broker 1 had deleted its replica already: it is asked again, and says so again."""
        world = World(
            1,
            2,
            topics={"t": topic("t", (1, 2))},
            stored={T0: stored(1, (1, 2))},
            deletions=["t"],
        )
        assert world.stopped(1) == {T0: True}
        assert world.stopped(2) == {T0: True}
        assert world.roles(1) == {}
        assert writes(world) == []

    def test_a_marker_for_an_unknown_topic_is_cleared(self):
        world = World(1, deletions=["ghost"])
        assert ClearTopicDeletion("ghost") in world.effects

    def test_marked_preferred_elections_are_held_and_cleared(self):
        world = World(
            1,
            2,
            topics={"t": topic("t", (1, 2))},
            stored={T0: stored(2, (2, 1))},
            preferred_elections=[T0],
        )
        assert world.state("t") == (1, 1, (2, 1))
        assert world.effects[-1] == ClearPreferredElections()

    def test_requests_carry_the_epochs(self):
        world = World(1, 2, topics={"t": topic("t", (1, 2))}, controller_epoch=9)
        for broker_id in (1, 2):
            sent = [s.request for s in world.sent if s.broker_id == broker_id]
            assert {r.controller_epoch for r in sent} == {9}
            assert {r.controller_id for r in sent} == {1}
            assert {r.broker_epoch for r in sent} == {100 * broker_id}

    def test_live_leaders_are_told_with_their_address(self):
        world = World(1, 2, topics={"t": topic("t", (2, 1))})
        [request] = world.requests(1, LeaderAndIsrRequest)
        [leader] = request.live_leaders
        assert (leader.broker_id, leader.host_name, leader.port) == (2, "host2", 9002)


class TestTopicCreation:
    def test_the_first_live_replica_leads_and_all_live_ones_are_in_sync(self):
        world = World(2, 3)
        world.create("t", (1, 2, 3))
        assert world.state("t") == (2, 0, (2, 3))

    def test_replicas_are_told_as_new_before_everybody_is_told(self):
        world = World(1, 2, 3)
        world.create("t", (1, 2))
        assert world.kinds(1) == ["LeaderAndIsr", "UpdateMetadata"]
        assert world.kinds(3) == ["UpdateMetadata"]
        [request] = world.requests(2, LeaderAndIsrRequest)
        assert request.topic_states[0].topic_id == topic_id("t")
        assert request.topic_states[0].partition_states[0].is_new

    def test_nothing_is_announced_before_it_is_written(self):
        world = World(1)
        world.create("t", (1,))
        kinds = [type(effect) for effect in world.effects]
        assert kinds.index(WritePartitionStates) < kinds.index(SendRequest)

    def test_without_a_live_replica_it_waits_for_one(self):
        world = World(1)
        world.create("t", (2,))
        assert T0 not in world.stored
        assert world.context.partition_status(T0) is PartitionStatus.NEW
        world.start(2)
        assert world.state("t") == (2, 0, (2,))

    def test_a_creation_whose_reply_was_lost_counts_as_done(self):
        world = World(1, 2)
        world.lose_replies = True
        world.create("t", (1, 2))
        assert world.state("t") == (1, 0, (1, 2))
        [request] = world.requests(2, LeaderAndIsrRequest)
        assert request.topic_states[0].partition_states[0].is_new

    def test_a_state_found_in_the_place_is_taken_over(self):
        world = World(1, 2)
        world.stored[T0] = stored(2, (2,), epoch=3, version=5)
        world.create("t", (1, 2))
        assert world.state("t") == (2, 3, (2,))
        assert world.roles(1) == {T0: (2, 3, [2])}

    def test_added_partitions_are_created_and_the_old_ones_left_alone(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        world.happen(TopicChanged("t", topic("t", (1, 2), (2, 1))))
        assert world.state("t", 1) == (2, 0, (2, 1))
        assert world.roles(1).keys() == {TopicPartition("t", 1)}

    def test_partitions_added_while_the_topic_is_deleted_are_ignored(self):
        world = World(1)
        world.create("t", (1,))
        world.happen(TopicDeletionsMarked(frozenset({"t"})))
        world.happen(TopicChanged("t", topic("t", (1,), (1,))))
        assert world.sent == []

    def test_a_topic_recreated_behind_our_back_is_a_new_one(self):
        world = World(1)
        world.create("t", (1,))
        world.stored.clear()
        anew = TopicZnode(
            topic_id=topic_id("other"), assignments={0: ReplicaAssignment(replicas=(1,))}
        )
        world.happen(TopicChanged("t", anew))
        assert world.context.topic_ids == {"t": topic_id("other")}
        assert world.state("t") == (1, 0, (1,))

    def test_a_topic_removed_by_hand_is_forgotten(self):
        world = World(1)
        world.create("t", (1,))
        world.happen(TopicsChanged({}, frozenset({"t"})))
        assert world.context.assignments == {}

    def test_a_reassignment_in_the_znode_is_carried_along(self):
        world = World(1, 2, 3)
        moving = ReplicaAssignment(replicas=(3, 1, 2), adding=(3,), removing=(1,))
        world.happen(
            TopicsChanged(
                {"t": TopicZnode(topic_id=topic_id("t"), assignments={0: moving})}, frozenset()
            )
        )
        [request] = world.requests(3, LeaderAndIsrRequest)
        entry = request.topic_states[0].partition_states[0]
        assert (entry.adding_replicas, entry.removing_replicas) == ([3], [1])
        world.fail(3)
        assert world.state("t")[0] == 1


class TestBrokerFailure:
    def test_the_next_live_isr_member_leads_and_followers_leave_the_isr(self):
        world = World(1, 2, 3)
        world.create("t", (1, 2, 3), (2, 3, 1))
        world.fail(1)
        assert world.state("t", 0) == (2, 1, (2, 3))
        assert world.state("t", 1) == (2, 1, (2, 3))
        assert len(writes(world)) == 1
        assert world.roles(3) == {
            T0: (2, 1, [2, 3]),
            TopicPartition("t", 1): (2, 1, [2, 3]),
        }
        assert CloseChannel(1) in world.effects

    def test_a_replica_that_is_not_in_sync_does_not_lead(self):
        world = World(1, 2, 3, topics={"t": topic("t", (1, 2, 3))}, stored={T0: stored(1, (1, 3))})
        world.fail(1)
        assert world.state("t") == (3, 1, (3,))

    def test_without_candidates_nobody_leads_until_the_last_one_returns(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        world.fail(1)
        world.fail(2)
        assert world.state("t") == (-1, 2, (2,))
        world.start(1)
        assert world.state("t") == (-1, 2, (2,))
        world.start(2)
        assert world.state("t") == (2, 3, (2,))

    def test_an_isr_that_dies_at_once_is_kept_whole(self):
        world = World(1, 2, 3)
        world.create("t", (1, 2))
        world.fail(1, 2)
        assert world.state("t") == (-1, 1, (1, 2))
        world.start(2)
        assert world.state("t") == (2, 2, (2,))

    def test_unclean_election_only_where_the_topic_allows_it(self):
        world = World(1, 2, unclean=["u"])
        world.create("t", (1, 2))
        world.create("u", (1, 2))
        world.fail(2)
        world.start(2)  # alive, not in sync
        world.fail(1)
        assert world.state("t") == (-1, 2, (1,))
        assert world.state("u")[0] == 2
        assert world.context.states[TopicPartition("u", 0)].recovering
        assert world.machine.elections.unclean == 1

    def test_unclean_flags_are_not_read_while_the_isr_lives(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        world.fail(1)
        assert not [e for e in world.effects if isinstance(e, ReadUncleanElection)]

    def test_turning_unclean_election_on_elects_at_once(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        world.fail(2)
        world.start(2)
        world.fail(1)
        assert world.state("t")[0] == -1
        world.unclean.add("t")
        world.happen(UncleanElectionEnabled("other"))
        assert world.state("t")[0] == -1
        world.happen(UncleanElectionEnabled("t"))
        assert world.state("t")[0] == 2

    def test_brokers_are_told_even_when_no_partition_moved(self):
        world = World(1, 2)
        world.fail(2)
        [request] = world.requests(1, UpdateMetadataRequest)
        assert [b.id for b in request.live_brokers] == [1]

    def test_offline_replicas_are_told(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        world.fail(2)
        [request] = world.requests(1, UpdateMetadataRequest)
        assert request.topic_states[0].partition_states[0].offline_replicas == [2]

    def test_a_write_that_met_another_version_is_decided_again(self):
        """The ISR shrank to the leader alone just before it died: 2 must not lead."""
        world = World(1, 2)
        world.create("t", (1, 2))

        def shrink(_):
            world.stored[T0] = attrs.evolve(world.stored[T0], isr=(1,), partition_epoch=1)

        world.before_write = shrink
        world.fail(1)
        assert world.state("t") == (-1, 1, (1,))

    def test_a_write_whose_reply_was_lost_counts_as_done(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        world.lose_replies = True
        world.fail(1)
        assert world.state("t") == (2, 1, (2,))
        assert world.roles(2) == {T0: (2, 1, [2])}

    def test_a_state_written_by_a_later_controller_is_left_alone(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        known = world.context.states[T0]
        theirs = attrs.evolve(known, leader=2, leader_epoch=1, controller_epoch=2)

        def overtake(_):
            world.stored[T0] = attrs.evolve(theirs, partition_epoch=1)

        world.before_write = overtake
        world.fail(1)
        assert world.context.states[T0] == known
        assert world.roles(2) == {}

    def test_a_state_that_vanished_is_left_to_the_topic_watch(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        world.before_write = lambda _: world.stored.clear()
        world.fail(1)
        assert world.roles(2) == {}


class TestBrokerStart:
    def test_it_is_told_everything_and_the_others_only_of_it(self):
        world = World(1, 2)
        world.create("t", (1,), (2,))
        world.create("u", (3, 1))
        world.start(3)
        assert world.kinds(3) == ["UpdateMetadata", "LeaderAndIsr", "UpdateMetadata"]
        assert len(world.told(3)) == 3
        first_to_others = world.requests(2, UpdateMetadataRequest)[0]
        assert not first_to_others.topic_states
        assert [b.id for b in first_to_others.live_brokers] == [1, 2, 3]
        assert world.roles(3) == {TopicPartition("u", 0): (1, 0, [1])}

    def test_a_bounced_broker_loses_its_roles_and_is_told_them_again(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        world.start(1)
        assert world.state("t") == (2, 1, (2,))
        assert world.roles(1) == {T0: (2, 1, [2])}
        opened = [e.broker.epoch for e in world.effects if isinstance(e, OpenChannel)]
        assert opened == [101]
        assert CloseChannel(1) in world.effects

    def test_a_bounced_only_replica_leads_again_without_unclean_election(self):
        world = World(1, 2, unclean=["t"])
        world.create("t", (1, 2))
        world.fail(2)
        world.start(2)
        world.start(1)
        assert world.state("t") == (1, 3, (1,))
        assert not world.context.states[T0].recovering

    def test_a_changed_address_is_told_without_a_change_of_roles(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        moved = BrokerInfo(2, {"PLAINTEXT": Endpoint("PLAINTEXT", "elsewhere", 1)})
        changed = {**world.live, 2: attrs.evolve(world.live[2], info=moved)}
        world.happen(BrokersChanged(changed))
        assert writes(world) == []
        assert world.kinds(1) == ["UpdateMetadata"]
        hosts = [
            b.endpoints[0].host for b in world.requests(1, UpdateMetadataRequest)[0].live_brokers
        ]
        assert hosts == ["host1", "elsewhere"]

    def test_the_same_brokers_again_are_no_news(self):
        world = World(1, 2)
        assert world.happen(BrokersChanged(brokers(1, 2))) == []


class TestLogDirectories:
    def fail_directory(self, world: World, broker_id: int) -> None:
        world.happen(LogDirsFailed(frozenset({broker_id})))
        [request] = world.requests(broker_id, LeaderAndIsrRequest)
        world.answer_leader_and_isr(broker_id, request, ErrorCode.KAFKA_STORAGE_ERROR)

    def test_a_refused_leader_is_replaced(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        self.fail_directory(world, 1)
        assert world.state("t") == (2, 1, (2,))
        assert world.stopped(1) == {T0: False}
        [request] = world.requests(2, UpdateMetadataRequest)
        assert request.topic_states[0].partition_states[0].offline_replicas == [1]

    def test_the_replica_is_electable_again_once_it_accepts(self):
        world = World(1)
        world.create("t", (1,))
        self.fail_directory(world, 1)
        assert world.state("t") == (-1, 1, (1,))
        world.happen(LogDirsFailed(frozenset({1})))
        [request] = world.requests(1, LeaderAndIsrRequest)
        world.answer_leader_and_isr(1, request, ErrorCode.NONE)
        assert world.state("t") == (1, 2, (1,))

    def test_an_answer_from_a_former_life_is_ignored(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        world.happen(LogDirsFailed(frozenset({1})))
        [request] = world.requests(1, LeaderAndIsrRequest)
        world.start(1)
        before = world.state("t")
        world.answer_leader_and_isr(1, request, ErrorCode.KAFKA_STORAGE_ERROR)
        assert world.effects == []
        assert world.state("t") == before

    def test_a_stale_answer_does_not_offline_anything(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        [request] = world.requests(1, LeaderAndIsrRequest)
        world.answer_leader_and_isr(1, request, ErrorCode.STALE_CONTROLLER_EPOCH)
        assert world.effects == []


class TestControlledShutdown:
    def leave(self, world: World, broker_id: int, epoch: int | None = None):
        epoch = world.live[broker_id].epoch if epoch is None else epoch
        world.happen(ControlledShutdownRequested(broker_id, epoch, "token"))
        return world.answer()

    def test_leaders_move_and_followers_leave_in_one_write(self):
        world = World(1, 2, 3)
        world.create("t", (1, 2, 3), (2, 1, 3))
        result = self.leave(world, 1)
        assert (result.error, result.remaining) == (ErrorCode.NONE, ())
        assert len(writes(world)) == 1
        assert world.state("t", 0) == (2, 1, (2, 3))
        assert world.state("t", 1) == (2, 1, (2, 3))
        assert world.roles(1) == {T0: (2, 1, [2, 3])}
        assert world.stopped(1) == {TopicPartition("t", 1): False}
        assert world.kinds(1) == ["LeaderAndIsr", "UpdateMetadata", "StopReplica"]

    def test_partitions_that_cannot_move_are_returned(self):
        world = World(1, 2, topics={"t": topic("t", (1, 2))}, stored={T0: stored(1, (1,))})
        assert self.leave(world, 1).remaining == (T0,)
        assert world.state("t") == (1, 0, (1,))

    def test_partitions_with_one_replica_do_not_hold_it_up(self):
        world = World(1, 2)
        world.create("t", (1,))
        assert self.leave(world, 1).remaining == ()
        assert world.state("t") == (1, 0, (1,))
        world.fail(1)
        assert world.state("t") == (-1, 1, (1,))

    def test_asked_again_it_continues(self):
        world = World(1, 2, topics={"t": topic("t", (1, 2))}, stored={T0: stored(1, (1,))})
        assert self.leave(world, 1).remaining == (T0,)
        propose(world, [1, 2])
        assert self.leave(world, 1).remaining == ()
        assert world.state("t")[0] == 2

    def test_a_broker_shutting_down_is_not_elected(self):
        world = World(1, 2, 3)
        self.leave(world, 2)
        world.create("t", (2, 3))
        assert world.state("t") == (3, 0, (3,))

    def test_both_leaving_brokers_leave_the_isr(self):
        world = World(1, 2, 3)
        world.create("t", (1, 2, 3))
        self.leave(world, 2)
        self.leave(world, 1)
        assert world.state("t") == (3, 2, (3,))

    def test_the_mark_goes_with_the_registration(self):
        world = World(1, 2)
        self.leave(world, 2)
        world.fail(2)
        world.start(2)
        assert sorted(filter(world.context.is_live, world.context.brokers)) == [1, 2]

    def test_a_stale_or_unknown_broker_is_refused(self):
        world = World(1, 2)
        assert self.leave(world, 2, epoch=5).error is ErrorCode.STALE_BROKER_EPOCH
        assert world.context.shutting_down == set()
        world.happen(ControlledShutdownRequested(9, 1, "token"))
        assert world.answer().error is ErrorCode.BROKER_NOT_AVAILABLE


class TestAlterPartition:
    def world(self) -> World:
        return World(
            1,
            2,
            3,
            topics={"t": topic("t", (1, 2, 3))},
            stored={T0: stored(1, (1, 2), epoch=4, version=7)},
        )

    @pytest.mark.parametrize("version", [2, 3])
    def test_an_expansion_is_written_answered_and_told_to_all(self, version):
        world = self.world()
        response = propose(world, [1, 2, 3], version=version)
        assert response.error_code == 0
        [result] = response.topics[0].partitions
        assert (result.error_code, result.leader_id, result.leader_epoch) == (0, 1, 4)
        assert (list(result.isr), result.partition_epoch) == ([1, 2, 3], 8)
        assert world.state("t") == (1, 4, (1, 2, 3))
        assert [world.kinds(b) for b in (1, 2, 3)] == [["UpdateMetadata"]] * 3

    def test_what_is_committed_already_is_success_without_a_write(self):
        world = self.world()
        response = propose(world, [2, 1], partition_epoch=3)
        assert proposal_error(response) == 0
        assert response.topics[0].partitions[0].partition_epoch == 7
        assert writes(world) == []

    @pytest.mark.parametrize(
        ("isr", "more", "code"),
        [
            ([1], {"leader_epoch": 3}, ErrorCode.FENCED_LEADER_EPOCH),
            ([1], {"leader_epoch": 5}, ErrorCode.NOT_CONTROLLER),
            ([1], {"partition_epoch": 8}, ErrorCode.NOT_CONTROLLER),
            ([1], {"partition_epoch": 6}, ErrorCode.INVALID_UPDATE_VERSION),
            ([1, 2], {"leader_recovery_state": 1}, ErrorCode.INVALID_REQUEST),
            ([1], {"leader_recovery_state": 1}, ErrorCode.INVALID_REQUEST),
            ([2, 3], {}, ErrorCode.INVALID_REQUEST),
            ([], {}, ErrorCode.INVALID_REQUEST),
            ([1, 2, 9], {}, ErrorCode.INVALID_REQUEST),
            ([1], {"leader": 2}, ErrorCode.INVALID_REQUEST),
            ([1, 2, 3], {"epochs": {3: 1}}, ErrorCode.INELIGIBLE_REPLICA),
        ],
    )
    def test_refusals(self, isr, more, code):
        world = self.world()
        assert proposal_error(propose(world, isr, **more)) == code
        assert world.state("t") == (1, 4, (1, 2))
        assert world.sent == []

    def test_a_member_with_the_registered_epoch_is_eligible(self):
        world = self.world()
        assert proposal_error(propose(world, [1, 2, 3], epochs={1: 100, 2: 200, 3: 300})) == 0

    def test_dead_and_leaving_members_are_ineligible(self):
        world = self.world()
        world.fail(3)
        assert proposal_error(propose(world, [1, 2, 3])) == ErrorCode.INELIGIBLE_REPLICA
        world.start(3)
        world.happen(ControlledShutdownRequested(3, -1, "token"))
        assert proposal_error(propose(world, [1, 2, 3])) == ErrorCode.INELIGIBLE_REPLICA

    def test_a_stale_or_unknown_broker_is_refused_as_a_whole(self):
        world = self.world()
        world.live[1] = broker(1, 99)
        assert propose(world, [1]).error_code == ErrorCode.STALE_BROKER_EPOCH
        assert propose(world, [1], leader=8).error_code == ErrorCode.STALE_BROKER_EPOCH

    def test_unknown_topic_and_partition(self):
        world = self.world()
        response = propose(world, [1], partition_index=5)
        assert proposal_error(response) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        world.happen(TopicsChanged({}, frozenset({"t"})))
        assert proposal_error(propose(world, [1])) == ErrorCode.UNKNOWN_TOPIC_ID

    def test_a_foreign_write_is_answered_invalid_update_version_and_taken_over(self):
        world = self.world()

        def change(_):
            world.stored[T0] = attrs.evolve(world.stored[T0], isr=(1, 3), partition_epoch=8)

        world.before_write = change
        assert proposal_error(propose(world, [1])) == ErrorCode.INVALID_UPDATE_VERSION
        assert world.state("t") == (1, 4, (1, 3))

    def test_a_lost_reply_is_success(self):
        world = self.world()
        world.lose_replies = True
        assert proposal_error(propose(world, [1])) == 0
        assert world.state("t") == (1, 4, (1,))

    def test_a_recovered_leader_clears_the_recovery_state(self):
        world = World(
            1, 2, topics={"t": topic("t", (1, 2))}, stored={T0: stored(1, (1,), recovering=True)}
        )
        response = propose(world, [1, 2], leader_recovery_state=1)
        assert proposal_error(response) == ErrorCode.INVALID_REQUEST
        assert proposal_error(propose(world, [1])) == 0
        assert not world.stored[T0].recovering


class TestElectLeaders:
    def elect(self, world: World, partitions, unclean: bool = False):
        world.happen(ElectLeadersRequested(partitions, unclean, "token"))
        return world.answer()

    def world(self) -> World:
        return World(1, 2, topics={"t": topic("t", (1, 2))}, stored={T0: stored(2, (2, 1))})

    def test_preferred(self):
        world = self.world()
        result = self.elect(world, [T0])[T0]
        assert (result.error, result.leader, result.leader_epoch) == (ErrorCode.NONE, 1, 1)
        assert world.roles(2) == {T0: (1, 1, [2, 1])}

    def test_not_needed_is_told_only_when_asked_for_by_name(self):
        world = self.world()
        self.elect(world, [T0])
        assert self.elect(world, [T0])[T0].error is ErrorCode.ELECTION_NOT_NEEDED
        assert self.elect(world, None) == {}

    def test_unknown_and_deleting(self):
        world = self.world()
        unknown = TopicPartition("x", 0)
        assert self.elect(world, [unknown])[unknown].error is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        world.happen(TopicDeletionsMarked(frozenset({"t"})))
        assert self.elect(world, [T0])[T0].error is ErrorCode.INVALID_TOPIC_EXCEPTION

    def test_a_preferred_replica_that_is_not_in_sync(self):
        world = World(1, 2, topics={"t": topic("t", (1, 2))}, stored={T0: stored(2, (2,))})
        assert self.elect(world, [T0])[T0].error is ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE
        assert world.state("t") == (2, 0, (2,))

    def test_unclean_ignores_the_topic_but_not_a_live_leader(self):
        world = self.world()
        assert self.elect(world, [T0], unclean=True)[T0].error is ErrorCode.ELECTION_NOT_NEEDED
        world.fail(1)
        world.start(1)
        world.fail(2)
        assert world.state("t")[0] == -1
        assert self.elect(world, [T0], unclean=True)[T0].leader == 1
        assert world.context.states[T0].recovering

    def test_unclean_with_nobody_alive(self):
        world = self.world()
        world.live[3] = broker(3)
        world.fail(1, 2)
        error = self.elect(world, [T0], unclean=True)[T0].error
        assert error is ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE

    def test_the_legacy_znode_is_honoured_and_cleared(self):
        world = self.world()
        world.happen(PreferredElectionsMarked(frozenset({T0, TopicPartition("x", 1)})))
        assert world.state("t")[0] == 1
        assert world.effects[-1] == ClearPreferredElections()


class TestPreferredBalance:
    def test_leaders_return_above_the_threshold(self):
        world = World(1, 2, 3)
        world.create("t", *[(1, 2, 3)] * 10)
        world.fail(1)
        world.start(1)
        for p in range(10):
            tp = TopicPartition("t", p)
            known = world.context.states[tp]
            world.stored[tp] = attrs.evolve(known, isr=(2, 3, 1), partition_epoch=9)
        world.happen(IsrChangesNoted(frozenset(world.stored)))
        world.happen(BalanceCheckDue())
        assert {world.state("t", p)[0] for p in range(10)} == {1}

    def test_up_to_the_threshold_nothing_moves(self):
        states = {TopicPartition("t", p): stored(2 if p == 0 else 1, (1, 2)) for p in range(10)}
        world = World(1, 2, topics={"t": topic("t", *[(1, 2)] * 10)}, stored=states)
        world.happen(BalanceCheckDue())
        assert writes(world) == []

    def test_a_preferred_replica_out_of_sync_is_left(self):
        world = World(1, 2, topics={"t": topic("t", (1, 2))}, stored={T0: stored(2, (2,))})
        world.happen(BalanceCheckDue())
        assert writes(world) == []


class TestTopicDeletion:
    def delete(self, world: World, *names: str) -> None:
        world.happen(TopicDeletionsMarked(frozenset(names)))

    def test_everybody_hears_of_it_and_replicas_are_deleted(self):
        world = World(1, 2, 3)
        world.create("t", (1, 2))
        self.delete(world, "t")
        assert world.told(3) == {T0: LEADER_DURING_DELETION}
        assert world.stopped(1) == {T0: True}
        assert world.stopped(2) == {T0: True}
        [request] = world.requests(1, StopReplicaRequest)
        assert request.topic_states[0].partition_states[0].leader_epoch == -2

    def test_znodes_go_when_every_replica_is_gone(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        self.delete(world, "t")
        sent = list(world.sent)
        world.answer_stops(1)
        assert DeleteTopicNodes("t") not in world.effects
        world.sent = sent
        world.answer_stops(2)
        assert DeleteTopicNodes("t") in world.effects
        assert world.context.topic_ids == {}

    def test_it_waits_for_a_dead_replica_and_does_not_repeat_what_is_done(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        world.fail(2)
        self.delete(world, "t")
        world.answer_stops(1)
        assert world.context.deletions_ineligible == {"t"}
        assert world.context.replica_status(Replica(T0, 1)) is ReplicaStatus.DELETION_SUCCESSFUL
        world.start(2)
        assert world.stopped(1) == {}
        assert world.stopped(2) == {T0: True}
        assert world.roles(2) == {}
        world.answer_stops(2)
        assert DeleteTopicNodes("t") in world.effects

    def test_a_broker_that_dies_meanwhile_is_waited_for(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        self.delete(world, "t")
        sent = list(world.sent)
        world.fail(2)
        world.sent = sent
        world.answer_stops(1)
        assert DeleteTopicNodes("t") not in world.effects
        world.start(2)
        world.answer_stops(2)
        assert DeleteTopicNodes("t") in world.effects

    @pytest.mark.parametrize("error", [ErrorCode.KAFKA_STORAGE_ERROR, 9999])
    def test_a_failed_deletion_waits_until_the_broker_returns(self, error):
        """Also one that failed with the code of a newer version."""
        world = World(1)
        world.create("t", (1,))
        self.delete(world, "t")
        world.answer_stops(1, error)
        assert world.context.deletions_ineligible == {"t"}
        assert world.sent == []
        world.start(1)
        assert world.stopped(1) == {T0: True}

    def test_a_partition_that_was_never_led_is_deleted_too(self):
        world = World(1, 2)
        world.create("t", (2,))
        world.create("u", (3,))
        self.delete(world, "u")
        assert world.context.deletions_ineligible == {"u"}
        world.start(3)
        world.answer_stops(3)
        assert DeleteTopicNodes("u") in world.effects

    def test_isr_proposals_of_a_topic_being_deleted_are_refused(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        self.delete(world, "t")
        assert proposal_error(propose(world, [1])) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION

    def test_brokers_that_come_are_not_told_of_a_topic_being_deleted(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        self.delete(world, "t")
        world.start(3)
        assert world.told(3) == {}

    def test_unknown_topics_and_disabled_deletion_only_clear_the_marker(self):
        world = World(1, deletion_enabled=False)
        world.create("t", (1,))
        self.delete(world, "t", "ghost")
        assert ClearTopicDeletion("t") in world.effects
        assert ClearTopicDeletion("ghost") in world.effects
        assert world.context.topics_to_delete == set()

    def test_a_name_can_be_used_again(self):
        world = World(1)
        world.create("t", (1,))
        self.delete(world, "t")
        world.answer_stops(1)
        world.stored.clear()
        world.create("t", (1,))
        assert world.state("t") == (1, 0, (1,))


class TestMachine:
    def test_no_second_event_while_an_outcome_is_awaited(self):
        world = World(1)
        world.machine.step(TopicsChanged({"t": topic("t", (1,))}, frozenset()), 0)
        assert isinstance(world.machine.awaiting, WritePartitionStates)
        with pytest.raises(AssertionError, match="while awaiting"):
            world.machine.step(BalanceCheckDue(), 0)

    def test_each_change_of_state_is_noted_once(self):
        world = World(1, 2)
        world.create("t", (1, 2))
        world.fail(1)
        [note] = [e for e in world.effects if isinstance(e, NoteState)]
        assert (note.before.leader, note.after.leader) == (1, 2)
        assert note.reason == "offline election"

    def test_three_hundred_partitions_are_led_anew_by_one_write(self):
        world = World(1, 2, 3)
        world.create("t", *[((p % 3) + 1, (p + 1) % 3 + 1, (p + 2) % 3 + 1) for p in range(300)])
        world.fail(1)
        assert [len(w.states) for w in writes(world)] == [300]
        assert len(world.sent) == 4  # LeaderAndIsr and UpdateMetadata to each of two brokers


class TestSuspects:
    """A suspect counts as failed, from a registration that still stands."""

    def test_a_suspected_leader_is_replaced_as_one_that_failed(self):
        failed, suspected = World(1, 2, 3), World(1, 2, 3)
        for world in (failed, suspected):
            world.create("t", (2, 3, 1), (3, 1, 2))
        failed.fail(2)
        suspected.suspect(2)
        assert suspected.effects == failed.effects
        assert suspected.state("t") == (3, 1, (3, 1))

    def test_it_is_told_nothing_and_nobody_is_told_of_it(self):
        world = World(1, 2, 3)
        world.create("t", (2, 3, 1))
        world.suspect(2)
        assert world.requests(2, LeaderAndIsrRequest) == []
        last = world.requests(3, UpdateMetadataRequest)[-1]
        assert [b.id for b in last.live_brokers] == [1, 3]
        assert list(last.topic_states[0].partition_states[0].offline_replicas) == [2]

    def test_once_it_answers_it_is_told_everything_under_the_same_epoch(self):
        world = World(1, 2, 3)
        world.create("t", (2, 3, 1))
        world.suspect(2)
        world.suspect()
        assert OpenChannel(broker(2)) in world.effects
        assert world.kinds(2) == ["UpdateMetadata", "LeaderAndIsr", "UpdateMetadata"]
        assert world.roles(2) == {T0: (3, 1, [3, 1])}
        assert writes(world) == []

    def test_it_is_let_into_no_isr_until_it_answers(self):
        world = World(1, 2, 3)
        world.create("t", (1, 2, 3))
        world.suspect(2)
        assert world.state("t") == (1, 1, (1, 3))
        assert proposal_error(propose(world, [1, 2, 3])) == ErrorCode.INELIGIBLE_REPLICA
        world.suspect()
        assert proposal_error(propose(world, [1, 2, 3])) == ErrorCode.NONE

    def test_its_own_proposals_are_refused(self):
        """A leader that lives on, cut off: it may neither shrink nor grow any in-sync set."""
        world = World(1, 2, 3)
        world.create("t", (2, 3, 1))
        world.suspect(2)
        answer = propose(world, [2], leader=2, leader_epoch=0, partition_epoch=0)
        assert answer.error_code == ErrorCode.STALE_BROKER_EPOCH

    def test_alone_in_sync_it_is_replaced_by_nobody_and_leads_again(self):
        world = World(1, 2, 3, unclean=["t"])
        world.create("t", (2, 3))
        world.fail(3)
        world.suspect(2)
        assert world.state("t") == (-1, 2, (2,))
        world.start(3)
        assert world.state("t") == (-1, 2, (2,)), "unclean election is for the dead"
        world.happen(UncleanElectionEnabled("t"))
        assert world.state("t") == (-1, 2, (2,))
        world.suspect()
        assert world.state("t") == (2, 3, (2,))

    def test_by_request_it_is_not_passed_over_uncleanly_either(self):
        world = World(1, 2, 3)
        world.create("t", (2, 3))
        world.fail(3)
        world.suspect(2)
        world.start(3)
        world.happen(ElectLeadersRequested([T0], True, "token"))
        assert world.answer()[T0].error is ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE
        world.fail(2)
        world.happen(ElectLeadersRequested([T0], True, "token"))
        assert world.answer()[T0].leader == 3

    def test_once_its_session_has_ended_unclean_election_follows_the_topic(self):
        world = World(1, 2, 3, unclean=["t"])
        world.create("t", (2, 3))
        world.fail(3)
        world.suspect(2)
        world.start(3)
        world.fail(2)
        assert world.state("t") == (3, 3, (3,))
        assert world.context.states[T0].recovering

    def test_when_its_session_ends_nothing_is_left_to_be_done(self):
        world = World(1, 2, 3)
        world.create("t", (2, 3, 1))
        world.suspect(2)
        assert world.fail(2) == []
        assert world.suspect() == []

    def test_a_new_registration_of_it_is_another_matter(self):
        """The sentinels may hear of it before the controller does, or after."""
        world = World(1, 2, 3)
        world.create("t", (2, 3, 1))
        world.suspect(2)
        world.start(2)
        assert world.roles(2) == {T0: (3, 1, [3, 1])}
        epoch = world.live[2].epoch
        assert world.requests(2, LeaderAndIsrRequest)[0].broker_epoch == epoch
        assert world.suspect() == []

    def test_a_suspicion_of_a_registration_that_is_not_there_is_nobodys(self):
        world = World(1, 2, 3)
        world.create("t", (2, 3, 1))
        assert world.happen(SuspectsChanged({2: 7, 9: 900})) == []

    def test_new_partitions_are_not_led_by_it(self):
        world = World(1, 2, 3)
        world.suspect(2)
        world.create("t", (2, 3, 1), (2,))
        assert world.state("t") == (3, 0, (3, 1))
        assert world.context.partition_status(TopicPartition("t", 1)) is PartitionStatus.NEW
        world.suspect()
        assert world.state("t", 1) == (2, 0, (2,))

    def test_leaders_do_not_drift_back_to_it(self):
        world = World(1, 2, 3)
        world.create("t", (2, 3, 1))
        world.suspect(2)
        world.happen(BalanceCheckDue())
        assert world.effects == []

    def test_a_new_controller_begins_with_its_own_suspects(self):
        world = World(
            1,
            2,
            3,
            topics={"t": topic("t", (2, 3, 1))},
            stored={T0: stored(2, (2, 3, 1), epoch=4)},
            suspects=[2],
        )
        assert world.state("t") == (3, 5, (3, 1))
        assert world.kinds(2) == []

    def test_a_new_controller_that_does_not_suspect_it_tells_it_what_has_become(self):
        old = World(1, 2, 3)
        old.create("t", (2, 3, 1))
        old.suspect(2)
        new = World(
            1, 2, 3, topics={"t": topic("t", (2, 3, 1))}, stored=old.stored, controller_epoch=2
        )
        assert new.roles(2) == {T0: (3, 1, [3, 1])}
        assert new.state("t") == (3, 1, (3, 1))

    def test_its_replicas_do_not_count_as_deleted(self):
        world = World(1, 2, 3)
        world.create("t", (1, 2))
        world.suspect(2)
        world.happen(TopicDeletionsMarked(frozenset({"t"})))
        world.answer_stops(1)
        assert DeleteTopicNodes("t") not in world.effects
        world.suspect()
        assert world.stopped(2) == {T0: True}
        world.answer_stops(2)
        assert DeleteTopicNodes("t") in world.effects

    def test_an_answer_of_before_it_was_suspected_deletes_nothing_while_it_is(self):
        world = World(1, 2, 3)
        world.create("t", (1, 2))
        world.happen(TopicDeletionsMarked(frozenset({"t"})))
        [request] = world.requests(2, StopReplicaRequest)
        world.answer_stops(1)
        world.suspect(2)
        world.happen(StopReplicaAnswered(2, request, StopReplicaResponse()))
        assert world.effects == []
        world.suspect()
        assert world.stopped(2) == {T0: True}, "asked again"

    def test_one_that_is_leaving_is_still_leaving_when_it_answers(self):
        world = World(1, 2, 3)
        world.create("t", (2, 3, 1))
        world.happen(ControlledShutdownRequested(2, 200, "token"))
        world.suspect(2)
        world.suspect()
        world.happen(BalanceCheckDue())
        assert world.state("t")[0] == 3
        world.start(2)
        assert world.context.is_live(2), "the mark went with the registration"

    def test_one_that_asks_to_leave_has_nothing_to_hand_over(self):
        world = World(1, 2, 3)
        world.create("t", (2, 3, 1), (2,))
        world.suspect(2)
        world.happen(ControlledShutdownRequested(2, 200, "token"))
        assert world.answer() == ShutdownResult(ErrorCode.NONE, ())
        assert writes(world) == []
        world.suspect()
        assert not world.context.is_live(2)

    def test_a_failed_directory_is_learnt_again(self):
        world = World(1, 2, 3)
        world.create("t", (1, 2, 3))
        [request] = [s.request for s in world.sent if s.broker_id == 2][:1]
        world.answer_leader_and_isr(2, request, ErrorCode.KAFKA_STORAGE_ERROR)
        assert world.state("t")[2] == (1, 3)
        world.suspect(2)
        world.suspect()
        [request] = world.requests(2, LeaderAndIsrRequest)
        world.answer_leader_and_isr(2, request, ErrorCode.KAFKA_STORAGE_ERROR)
        assert not world.context.is_present(2, T0)
