"""A broker's process is killed, and its partitions are led by others before its session ends.

Told against two machines, event by event and effect by effect: what broker 1's sentinels see, and
what broker 1, the controller, makes of it. Three brokers; `orders-0` is on 2, 3, 1 and led by 2.
Times are milliseconds after the kill. ZooKeeper says nothing in this story until its last chapter.
"""

import random
import uuid

from zkafka.controller.context import LiveBroker
from zkafka.controller.events import (
    BrokersChanged,
    CloseChannel,
    NoteState,
    OpenChannel,
    PartitionStatesWritten,
    SendRequest,
    SuspectsChanged,
    TookOffice,
    WritePartitionStates,
)
from zkafka.controller.machine import ControllerMachine
from zkafka.controller.suspicion import (
    BrokersRegistered,
    Connected,
    HoldBack,
    Lost,
    Reason,
    Refused,
    Stood,
    Suspect,
    Suspicions,
    TryAgain,
    WaitStanding,
    Withdraw,
)
from zkafka.model import BrokerInfo, Endpoint, PartitionState, ReplicaAssignment, TopicPartition
from zkafka.zk.znodes import TopicZnode

ORDERS_0 = TopicPartition("orders", 0)
ORDERS = TopicZnode(
    topic_id=uuid.UUID(int=7), assignments={0: ReplicaAssignment(replicas=(2, 3, 1))}
)


def registered(broker_id: int, epoch: int) -> LiveBroker:
    endpoint = Endpoint("PLAINTEXT", f"node{broker_id}", 9092)
    return LiveBroker(BrokerInfo(broker_id, {"PLAINTEXT": endpoint}), epoch)


def state(leader: int, epoch: int, *isr: int, version: int, controller: int = 5) -> PartitionState:
    return PartitionState(
        leader=leader,
        leader_epoch=epoch,
        isr=isr,
        controller_epoch=controller,
        partition_epoch=version,
    )


def in_office(
    found: PartitionState, *, controller: int = 1, epoch: int = 5, suspects=None
) -> tuple[ControllerMachine, list]:
    """A controller over three registered brokers, and what it does first."""
    machine = ControllerMachine(
        controller_id=controller,
        controller_epoch=epoch,
        inter_broker_listener="PLAINTEXT",
        rng=random.Random(0),
    )
    effects = machine.step(
        TookOffice(
            brokers={b: registered(b, 10 * b) for b in (1, 2, 3)},
            topics={"orders": ORDERS},
            states={ORDERS_0: found},
            deletions=frozenset(),
            preferred_elections=frozenset(),
            suspects=suspects or {},
        ),
        0,
    )
    return machine, effects


def sentinels_of(*others: int) -> Suspicions:
    """Broker 1's judgement, with a connection to each of the others for a minute."""
    suspicions = Suspicions(timeout_ms=200, patience_ms=18_000)
    suspicions.step(BrokersRegistered({b: 10 * b for b in others}, 1 + len(others)), -60_000)
    for other in others:
        suspicions.step(Connected(other), -60_000)
    return suspicions


def sent(effects) -> list[tuple[int, str]]:
    return [
        (effect.broker_id, type(effect.request).__name__.removesuffix("Request"))
        for effect in effects
        if isinstance(effect, SendRequest)
    ]


def write_of(effects) -> dict[TopicPartition, PartitionState]:
    [write] = [effect for effect in effects if isinstance(effect, WritePartitionStates)]
    return dict(write.states)


def test_a_killed_leader_is_replaced_while_its_session_goes_on():
    sentinels = sentinels_of(2, 3)
    machine, _ = in_office(state(2, 8, 2, 3, 1, version=20))

    # 0: the kernel of broker 2's host ends its connections. Its idle limit would look the same, so
    # the sentinel connects again at once; nobody listens there any more.
    assert sentinels.step(Lost(2), 0) == [TryAgain(2, 0)]
    assert sentinels.step(Refused(2), 0) == [TryAgain(2, 100)]
    assert sentinels.step(Refused(2), 100) == [TryAgain(2, 200)]
    # 200: three refusals over the whole timeout. One of three brokers is silent: a minority.
    assert sentinels.step(Refused(2), 200) == [
        TryAgain(2, 300),
        Suspect(2, epoch=20, silent_ms=200, refusals=3),
    ]

    # The controller takes it for failed: the first assigned replica that is left in the ISR leads,
    # one leader epoch further. Nothing is said before ZooKeeper has it.
    effects = machine.step(SuspectsChanged(sentinels.suspects), 200)
    assert effects == [
        CloseChannel(2),
        WritePartitionStates({ORDERS_0: state(3, 9, 3, 1, version=20)}),
    ]
    effects = machine.step(PartitionStatesWritten({ORDERS_0: state(3, 9, 3, 1, version=21)}), 210)
    assert [e.reason for e in effects if isinstance(e, NoteState)] == ["offline election"]
    assert sent(effects) == [
        (1, "LeaderAndIsr"),
        (3, "LeaderAndIsr"),
        (1, "UpdateMetadata"),
        (3, "UpdateMetadata"),
    ]

    # 18000: the session ends. Its end is no news to anybody.
    assert sentinels.step(BrokersRegistered({3: 30}, 2), 18_000) == [
        Withdraw(2, 20, Reason.GONE, suspected_ms=17_800)
    ]
    left = {1: registered(1, 10), 3: registered(3, 30)}
    assert machine.step(BrokersChanged(left), 18_000) == []
    assert machine.step(SuspectsChanged(sentinels.suspects), 18_000) == []
    machine.check()


def test_a_leader_whose_listener_refused_for_a_while_comes_back_as_a_follower():
    """It lived all the time, believing to lead in epoch 8; epoch 9 is what every door asks for."""
    sentinels = sentinels_of(2, 3)
    machine, _ = in_office(state(2, 8, 2, 3, 1, version=20))
    sentinels.step(Lost(2), 0)
    for at_ms in (0, 100, 200):
        sentinels.step(Refused(2), at_ms)
    machine.step(SuspectsChanged(sentinels.suspects), 200)
    machine.step(PartitionStatesWritten({ORDERS_0: state(3, 9, 3, 1, version=21)}), 210)

    # 3000: it takes a connection. The suspicion stands until that has lasted: a killed broker that
    # is started again listens before it registers.
    assert sentinels.step(Connected(2), 3_000) == [WaitStanding(2, 4_000)]
    assert sentinels.step(Stood(2), 4_000) == [Withdraw(2, 20, Reason.ANSWERED, suspected_ms=3_800)]

    # It is told everything, as a broker that starts is, under the registration it always had.
    # Nothing is written: it comes back into the ISR when 3 proposes it.
    effects = machine.step(SuspectsChanged(sentinels.suspects), 4_000)
    assert [e.broker.epoch for e in effects if isinstance(e, OpenChannel)] == [20]
    assert not [e for e in effects if isinstance(e, WritePartitionStates)]
    assert [kind for broker_id, kind in sent(effects) if broker_id == 2] == [
        "UpdateMetadata",
        "LeaderAndIsr",
        "UpdateMetadata",
    ]
    machine.check()


def test_a_killed_controller_is_deposed_and_its_successor_counts_it_as_failed():
    """2 led and was controller in epoch 4; 1 suspected it, removed /controller and was elected."""
    _, effects = in_office(state(2, 8, 2, 3, 1, version=20, controller=4), suspects={2: 20})
    assert sent(effects) == [(1, "UpdateMetadata"), (3, "UpdateMetadata")]
    [metadata, _] = [e.request for e in effects if isinstance(e, SendRequest)]
    assert [broker.id for broker in metadata.live_brokers] == [1, 3]
    assert write_of(effects) == {ORDERS_0: state(3, 9, 3, 1, version=20)}


def test_the_second_of_three_that_falls_silent_is_left_to_its_session():
    sentinels = sentinels_of(2, 3)
    sentinels.step(Lost(2), 0)
    for at_ms in (0, 100, 200):
        sentinels.step(Refused(2), at_ms)
    assert sentinels.suspects == {2: 20}

    # 5000: broker 3 refuses, too. Whoever is refused by everybody should doubt itself.
    sentinels.step(Lost(3), 5_000)
    sentinels.step(Refused(3), 5_000)
    sentinels.step(Refused(3), 5_100)
    assert sentinels.step(Refused(3), 5_200) == [
        TryAgain(3, 5_300),
        HoldBack(3, epoch=30, silent=(2, 3), registered=3),
    ]
    assert sentinels.suspects == {2: 20}, "what was decided is not undone"

    # 6000: 2 answers. One of three is silent again, and it has been refusing long enough.
    sentinels.step(Connected(2), 6_000)
    assert sentinels.step(Stood(2), 7_000) == [
        Withdraw(2, 20, Reason.ANSWERED, suspected_ms=6_800),
        Suspect(3, epoch=30, silent_ms=2_000, refusals=3),
    ]
