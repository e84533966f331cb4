"""In-sync sets on their way to the controller, from a leader's own fetches and lag."""

import pytest
import trio
from replication_world import TP, PartitionFetch, World

from zkafka.errors import ErrorCode
from zkafka.model import TopicPartition
from zkafka.replication.partition import CommittedIsr, PendingExpand


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, 3)


def caught_up(world, replica=3, tp=TP):
    """As if `replica` had fetched from the leader's log end."""
    leader = world[1]
    machine = leader.machine(tp)
    fetch = PartitionFetch(
        tp, machine.log_end_offset, 100, current_leader_epoch=machine.leader_epoch
    )
    leader.replicas.read(
        fetch,
        replica_id=replica,
        replica_epoch=100 + replica,
        max_bytes=100,
        at_least_one=True,
    )


async def leading(world, tp=TP):
    """Broker 1 leads with 1 and 2 in sync; 2 and 3 were told nothing, and fetch nothing."""
    await world.assign(1, tp=tp, isr=[1, 2], tell=[1])
    return world[1].machine(tp)


async def test_a_proposal_names_the_epochs_of_everybody_in_it(world, autojump_clock):
    async with world.running():
        machine = await leading(world)
        sent = []
        alter = world.alter_partition
        world.alter_partition = lambda request: (sent.append(request), alter(request))[1]
        caught_up(world, 2)
        caught_up(world, 3)
        await trio.sleep(1)
        assert machine.in_sync_set == CommittedIsr(frozenset({1, 2, 3}))
        (request,) = sent
        assert (request.broker_id, request.broker_epoch) == (1, 101)
        (data,) = request.topics[0].partitions
        assert [(m.broker_id, m.broker_epoch) for m in data.new_isr_with_epochs] == [
            (1, 101),
            (2, 102),
            (3, 103),
        ]
        assert (data.leader_epoch, data.partition_epoch, data.leader_recovery_state) == (0, 0, 0)
        assert machine.partition_epoch == 1


async def test_what_waits_goes_out_together(world, autojump_clock):
    partitions = [TopicPartition("orders", n) for n in range(5)]
    async with world.running():
        for tp in partitions:
            await leading(world, tp)
        sent = []
        alter = world.alter_partition
        world.alter_partition = lambda request: (sent.append(request), alter(request))[1]
        for tp in partitions:
            caught_up(world, 3, tp)
        await trio.sleep(1)
        assert [len(topic.partitions) for request in sent for topic in request.topics] == [5]


async def test_an_unreachable_controller_is_asked_again(world, autojump_clock):
    async with world.running():
        machine = await leading(world)
        world.refuse_with = [None, None, None]
        caught_up(world)
        await trio.sleep(0.12)
        assert isinstance(machine.in_sync_set, PendingExpand)
        await trio.sleep(0.1)
        assert machine.in_sync_set == CommittedIsr(frozenset({1, 2, 3}))
        assert len(world.proposals) == 4


async def test_a_passing_refusal_is_proposed_again(world, autojump_clock):
    async with world.running():
        machine = await leading(world)
        newer = 9999  # a code of a later version, of which nothing else is known
        world.refuse_with = [ErrorCode.UNKNOWN_SERVER_ERROR, ErrorCode.NOT_CONTROLLER, newer]
        caught_up(world)
        await trio.sleep(1)
        assert machine.in_sync_set == CommittedIsr(frozenset({1, 2, 3}))
        assert len(world.proposals) == 4


async def test_who_joins_does_so_by_the_registration_that_was_caught_up(world, autojump_clock):
    """KIP-903. A follower catches up, and is restarted without the end of its log before the
    controller answers. What is proposed then must not be taken for the new process."""
    async with world.running():
        await leading(world)
        world[1].produce("m1", acks=1)
        sent = []
        alter = world.alter_partition
        world.alter_partition = lambda request: (sent.append(request), alter(request))[1]
        world.refuse_with = [None]
        caught_up(world, 3)
        await trio.sleep(0.01)
        world[1].replicas.read(
            PartitionFetch(TP, 0, 100, current_leader_epoch=0),
            replica_id=3,
            replica_epoch=203,
            max_bytes=100,
            at_least_one=True,
        )
        assert world[1].machine().progress_of(3).broker_epoch == 203
        await trio.sleep(1)
        epochs = [
            {
                m.broker_id: m.broker_epoch
                for m in request.topics[0].partitions[0].new_isr_with_epochs
            }
            for request in sent
        ]
        assert [named[3] for named in epochs] == [103, 103]


async def test_a_refusal_for_good_is_counted_and_not_proposed_again(world, autojump_clock):
    async with world.running():
        machine = await leading(world)
        world.refuse_with = [ErrorCode.INVALID_UPDATE_VERSION]
        caught_up(world)
        await trio.sleep(1)
        assert isinstance(machine.in_sync_set, PendingExpand)
        assert len(world.proposals) == 1
        assert world[1].replicas.statistics().failed_isr_updates == 1


async def test_nothing_is_proposed_while_the_session_is_suspended(world, autojump_clock):
    async with world.running():
        machine = await leading(world)
        world[1].session_stands = False
        caught_up(world)
        world[1].produce("m1", acks=1)
        await trio.sleep(60)
        assert world.proposals == []
        assert machine.in_sync_set == CommittedIsr(frozenset({1, 2}))
        world[1].session_stands = True
        await trio.sleep(60)
        assert world.proposals, "2 never fetched"


async def test_what_was_about_to_be_proposed_waits_for_the_session(world, autojump_clock):
    async with world.running():
        await leading(world)
        world.refuse_with = [None]
        caught_up(world)
        await trio.sleep(0.01)
        world[1].session_stands = False
        await trio.sleep(10)
        assert len(world.proposals) == 1
        world[1].session_stands = True
        await trio.sleep(1)
        assert len(world.proposals) == 2


async def test_a_proposal_of_an_older_epoch_is_not_sent_any_more(world, autojump_clock):
    async with world.running():
        machine = await leading(world)
        world.refuse_with = [None]
        caught_up(world)
        await trio.sleep(0.01)
        await world.assign(1, isr=[1, 2], tell=[1])
        await trio.sleep(1)
        assert len(world.proposals) == 1
        assert machine.in_sync_set == CommittedIsr(frozenset({1, 2}))


async def test_an_answer_after_the_leadership_changed_is_ignored(world, autojump_clock):
    async with world.running():
        machine = await leading(world)
        alter = world.alter_partition

        def altered(request):
            """The controller commits, then somebody else is elected before the answer arrives."""
            response = alter(request)
            world.states[TP].leader_epoch += 1
            for topic in response.topics:
                for partition in topic.partitions:
                    partition.leader_epoch += 1
            return response

        world.alter_partition = altered
        caught_up(world)
        await trio.sleep(1)
        assert isinstance(machine.in_sync_set, PendingExpand), "until a LeaderAndIsr tells"
        assert len(world.proposals) == 1
