"""What holds whatever happens: brokers up and down, proposals, lost replies, new controllers.

Each run is a history of random events. After every step the machine's own invariants are checked
(by `World.happen`), and over the whole history, as ZooKeeper saw it:

- a partition's leader epoch never decreases, and has one leader;
- a leader that is elected cleanly was in the ISR before it; unclean ones are marked as recovering;
- what the machine knows is what ZooKeeper holds.
"""

import attrs
from controller_world import World, topic, topic_id
from hypothesis import given, settings
from hypothesis import strategies as st

from zkafka.controller.context import PartitionStatus
from zkafka.controller.events import (
    AlterPartitionRequested,
    BalanceCheckDue,
    ControlledShutdownRequested,
    ElectLeadersRequested,
    UncleanElectionEnabled,
)
from zkafka.model import NO_LEADER, TopicPartition
from zkafka.protocol.messages.alter_partition import (
    AlterPartitionRequest,
    BrokerState,
    PartitionData,
    TopicData,
)

IDS = (1, 2, 3, 4)
PARTITIONS = [TopicPartition("t", p) for p in range(4)]
REPLICAS = ((1, 2, 3), (2, 3, 4), (3, 1), (4,))

brokers_ids = st.sampled_from(IDS)
steps = st.one_of(
    st.tuples(st.just("down"), st.sets(brokers_ids, min_size=1, max_size=3)),
    st.tuples(st.just("up"), st.sets(brokers_ids, min_size=1, max_size=3)),
    st.tuples(st.just("bounce"), brokers_ids),
    st.tuples(st.just("leave"), brokers_ids),
    st.tuples(st.just("suspect"), st.sets(brokers_ids, max_size=2)),
    st.tuples(st.just("propose"), st.sampled_from(PARTITIONS), st.sets(brokers_ids)),
    st.tuples(st.just("elect"), st.booleans()),
    st.tuples(st.just("balance")),
    st.tuples(st.just("succeed")),
    st.tuples(st.just("lose reply")),
    st.tuples(st.just("meddle"), st.sampled_from(PARTITIONS)),
)


class Story:
    """A world to which random things happen, across several controllers."""

    def __init__(self, unclean: bool) -> None:
        self.unclean = unclean
        self.topics = {"t": topic("t", *REPLICAS)}
        self.epoch = 1
        self.world = World(*IDS, topics=self.topics, unclean=["t"] if unclean else [])
        self.past = dict(self.world.stored)

    def play(self, step) -> None:
        world = self.world
        match step:
            case ("down", ids):
                down = sorted(ids & world.live.keys())
                if down:
                    world.fail(*down)
            case ("up", ids):
                up = sorted(ids - world.live.keys())
                if up:
                    world.start(*up)
            case ("bounce", broker_id):
                if broker_id in world.live:
                    world.start(broker_id)
            case ("suspect", ids):
                world.suspect(*(ids & world.live.keys()))
            case ("leave", broker_id):
                world.happen(ControlledShutdownRequested(broker_id, -1, "token"))
            case ("propose", tp, isr):
                self.propose(tp, isr)
            case ("elect", unclean):
                world.happen(ElectLeadersRequested(None, unclean, "token"))
            case ("balance",):
                world.happen(BalanceCheckDue())
            case ("succeed",):
                self.succeed()
            case ("lose reply",):
                world.lose_replies = True
            case ("meddle", tp):
                # Somebody rewrites the same content, so that the next write meets its version.
                world.before_write = lambda _: self.touch(tp)
        self.judge(allowed_unclean=self.unclean or step[0] == "elect")

    def is_suspected(self, broker_id) -> bool:
        registered = self.world.live.get(broker_id)
        return registered is not None and self.world.suspects.get(broker_id) == registered.epoch

    def propose(self, tp, isr) -> None:
        world = self.world
        state = world.context.states.get(tp)
        if state is None or state.leader not in world.live:
            return
        proposal = PartitionData(
            partition_index=tp.partition,
            leader_epoch=state.leader_epoch,
            partition_epoch=state.partition_epoch,
            new_isr_with_epochs=[
                BrokerState(broker_id=b, broker_epoch=world.live[b].epoch if b in world.live else 0)
                for b in sorted(isr)
            ],
        )
        request = AlterPartitionRequest(
            broker_id=state.leader,
            broker_epoch=world.live[state.leader].epoch,
            topics=[TopicData(topic_id=topic_id("t"), partitions=[proposal])],
        )
        world.happen(AlterPartitionRequested(request, 3, "token"))

    def touch(self, tp) -> None:
        state = self.world.stored.get(tp)
        if state is not None:
            version = state.partition_epoch + 1
            self.world.stored[tp] = attrs.evolve(state, partition_epoch=version)

    def succeed(self) -> None:
        """The controller dies; the next one reads what ZooKeeper holds."""
        self.epoch += 1
        old = self.world
        self.world = World(
            *old.live,
            topics=self.topics,
            stored=old.stored,
            controller_epoch=self.epoch,
            unclean=old.unclean,
            suspects=[i for i in old.live if old.suspects.get(i) == old.live[i].epoch],
        )

    def judge(self, allowed_unclean: bool) -> None:
        stored = self.world.stored
        for tp, state in stored.items():
            known = self.world.context.states[tp]
            assert attrs.evolve(known, partition_epoch=0) == attrs.evolve(state, partition_epoch=0)
            past = self.past.get(tp)
            if past is not None:
                assert state.leader_epoch >= past.leader_epoch
                if state.leader_epoch == past.leader_epoch:
                    assert state.leader == past.leader
        for tp, written in self.world.history.items():
            before = self.past.get(tp)
            for state in written:
                if before is not None and before.leader != state.leader != NO_LEADER:
                    assert state.leader_epoch > before.leader_epoch
                    if state.leader not in before.isr:
                        assert allowed_unclean
                        assert state.recovering
                        assert not any(map(self.is_suspected, before.isr))
                before = state
            written.clear()
        for tp in PARTITIONS:
            if self.world.context.partition_status(tp) is PartitionStatus.ONLINE:
                assert stored[tp].leader in self.world.live
                assert not self.is_suspected(stored[tp].leader)
        self.past = dict(stored)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=25), st.booleans())
def test_whatever_happens_leaders_come_from_the_isr_and_epochs_grow(story, unclean):
    played = Story(unclean)
    for step in story:
        played.play(step)


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=20))
def test_everything_is_led_again_once_all_brokers_are_back(story):
    played = Story(unclean=False)
    for step in story:
        played.play(step)
    world = played.world
    world.lose_replies, world.before_write = False, None
    # Marks of brokers that are leaving go with their registrations.
    world.fail(*world.live)
    world.start(*IDS)
    for tp in PARTITIONS:
        state = world.context.states[tp]
        assert state.leader in world.live, (tp, state)


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=20))
def test_a_new_controller_agrees_with_the_old_one(story):
    """What the next one reads and settles changes nothing that the last one had settled."""
    played = Story(unclean=False)
    for step in story:
        played.play(step)
    world = played.world
    world.lose_replies, world.before_write = False, None
    # An election for all settles what the last step may have left to be retried.
    world.happen(UncleanElectionEnabled(None))
    shutting_down = bool(world.context.shutting_down)
    before = {tp: (s.leader, s.isr) for tp, s in world.context.states.items()}
    played.succeed()
    after = {tp: (s.leader, s.isr) for tp, s in played.world.context.states.items()}
    # A broker shutting down is known to its controller only: the next one may elect it.
    assert shutting_down or after == before


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=20), st.sets(brokers_ids, min_size=1, max_size=2))
def test_a_wrong_suspicion_costs_no_partition_its_leader_for_good(story, ids):
    """But for a broker that is leaving, which nobody elects."""
    played = Story(unclean=False)
    for step in story:
        played.play(step)
    world = played.world
    world.lose_replies, world.before_write = False, None
    world.suspect()
    world.happen(UncleanElectionEnabled(None))
    offline = world.context.offline_partition_count()
    world.suspect(*(i for i in ids if world.context.is_live(i)))
    world.suspect()
    assert world.context.offline_partition_count() == offline
