"""The third journey: a broker fails, and its partitions are led by others.

Told against the controller's machine, event by event and effect by effect, as a script that can be
read without knowing the code: what ZooKeeper says, what is written, who is told what, in which
order. Three brokers; 1 is the controller. `orders` has two partitions with three replicas each:
orders-0 on 2, 3, 1 and orders-1 on 3, 1, 2.
"""

import random
import uuid

import attrs

from zkafka.controller.context import LiveBroker
from zkafka.controller.events import (
    BrokersChanged,
    CloseChannel,
    NoteState,
    OpenChannel,
    PartitionStatesWritten,
    SendRequest,
    TookOffice,
    WritePartitionStates,
)
from zkafka.controller.machine import ControllerMachine
from zkafka.model import BrokerInfo, Endpoint, PartitionState, ReplicaAssignment, TopicPartition
from zkafka.protocol.messages.leader_and_isr import LeaderAndIsrRequest
from zkafka.protocol.messages.update_metadata import UpdateMetadataRequest
from zkafka.zk.znodes import TopicZnode

ORDERS_ID = uuid.UUID(int=7)
ORDERS_0 = TopicPartition("orders", 0)
ORDERS_1 = TopicPartition("orders", 1)


def registered(broker_id: int, epoch: int) -> LiveBroker:
    endpoint = Endpoint("PLAINTEXT", f"node{broker_id}", 9092)
    return LiveBroker(BrokerInfo(broker_id, {"PLAINTEXT": endpoint}), epoch)


def state(leader: int, epoch: int, *isr: int, version: int) -> PartitionState:
    return PartitionState(
        leader=leader, leader_epoch=epoch, isr=isr, controller_epoch=5, partition_epoch=version
    )


def in_office() -> ControllerMachine:
    """Controller 1, in its epoch 5, over a healthy cluster."""
    machine = ControllerMachine(
        controller_id=1,
        controller_epoch=5,
        inter_broker_listener="PLAINTEXT",
        rng=random.Random(0),
    )
    machine.step(
        TookOffice(
            brokers={b: registered(b, 10 * b) for b in (1, 2, 3)},
            topics={
                "orders": TopicZnode(
                    topic_id=ORDERS_ID,
                    assignments={
                        0: ReplicaAssignment(replicas=(2, 3, 1)),
                        1: ReplicaAssignment(replicas=(3, 1, 2)),
                    },
                )
            },
            states={
                ORDERS_0: state(2, 8, 2, 3, 1, version=20),
                ORDERS_1: state(3, 4, 3, 1, 2, version=11),
            },
            deletions=frozenset(),
            preferred_elections=frozenset(),
        ),
        0,
    )
    assert machine.awaiting is None, "nothing to settle in a healthy cluster"
    return machine


def without(*gone: int) -> dict[int, LiveBroker]:
    return {b: registered(b, 10 * b) for b in (1, 2, 3) if b not in gone}


def sent(effects) -> list[tuple[int, str]]:
    return [
        (effect.broker_id, type(effect.request).__name__.removesuffix("Request"))
        for effect in effects
        if isinstance(effect, SendRequest)
    ]


def test_a_broker_fails_and_its_partitions_are_led_by_others():
    machine = in_office()

    # 3. The watch on /brokers/ids fired; the controller has read the children again: 2 is gone.
    effects = machine.step(BrokersChanged(without(2)), 0)

    # 4. orders-0 was led by 2: the first assigned replica alive and in the ISR leads, one leader
    #    epoch further. orders-1 is led by 3 still, but 2 leaves its ISR. Both in one write, each
    #    on the version that was read.
    assert effects == [
        CloseChannel(2),
        WritePartitionStates(
            {
                ORDERS_0: state(3, 9, 3, 1, version=20),
                ORDERS_1: state(3, 5, 3, 1, version=11),
            }
        ),
    ]
    machine.check()

    # 5. ZooKeeper took both. Only now is anything announced: to the replicas first, then to all.
    written = {
        ORDERS_0: state(3, 9, 3, 1, version=21),
        ORDERS_1: state(3, 5, 3, 1, version=12),
    }
    effects = machine.step(PartitionStatesWritten(written), 0)
    assert [e for e in effects if isinstance(e, NoteState)] == [
        NoteState(
            ORDERS_0, state(2, 8, 2, 3, 1, version=20), written[ORDERS_0], "offline election"
        ),
        NoteState(
            ORDERS_1,
            state(3, 4, 3, 1, 2, version=11),
            written[ORDERS_1],
            "isr shrunk to those present",
        ),
    ]
    assert sent(effects) == [
        (1, "LeaderAndIsr"),
        (3, "LeaderAndIsr"),
        (1, "UpdateMetadata"),
        (3, "UpdateMetadata"),
    ]
    to_3 = [e.request for e in effects if isinstance(e, SendRequest) and e.broker_id == 3]
    roles, metadata = to_3
    assert isinstance(roles, LeaderAndIsrRequest)
    assert (roles.controller_id, roles.controller_epoch, roles.broker_epoch) == (1, 5, 30)
    [orders] = roles.topic_states
    assert orders.topic_id == ORDERS_ID
    assert [
        (p.partition_index, p.leader, p.leader_epoch, list(p.isr), p.partition_epoch)
        for p in orders.partition_states
    ] == [(0, 3, 9, [3, 1], 21), (1, 3, 5, [3, 1], 12)]
    assert not any(p.is_new for p in orders.partition_states)
    assert [(leader.broker_id, leader.host_name) for leader in roles.live_leaders] == [(3, "node3")]
    assert isinstance(metadata, UpdateMetadataRequest)
    assert [broker.id for broker in metadata.live_brokers] == [1, 3]
    assert [
        (p.partition_index, p.leader, list(p.offline_replicas))
        for p in metadata.topic_states[0].partition_states
    ] == [(0, 3, [2]), (1, 3, [2])]
    assert machine.awaiting is None
    machine.check()


def test_the_last_in_sync_replica_fails_too_and_nobody_leads_until_it_returns():
    machine = in_office()
    machine.step(BrokersChanged(without(2)), 0)
    machine.step(
        PartitionStatesWritten(
            {ORDERS_0: state(3, 9, 3, 1, version=21), ORDERS_1: state(3, 5, 3, 1, version=12)}
        ),
        0,
    )

    # 1 (whose broker is the controller and stays) is in sync, so it leads when 3 fails.
    effects = machine.step(BrokersChanged(without(2, 3)), 0)
    [write] = [e for e in effects if isinstance(e, WritePartitionStates)]
    assert dict(write.states) == {
        ORDERS_0: state(1, 10, 1, version=21),
        ORDERS_1: state(1, 6, 1, version=12),
    }
    results = {
        tp: attrs.evolve(s, partition_epoch=s.partition_epoch + 1) for tp, s in write.states.items()
    }
    machine.step(PartitionStatesWritten(results), 0)

    # 2 and 3 come back, with new epochs: they are told of everybody, then of their roles; they
    # follow, and are in no ISR until 1 proposes it. Nothing is written.
    back = {1: registered(1, 10), 2: registered(2, 41), 3: registered(3, 42)}
    effects = machine.step(BrokersChanged(back), 0)
    assert [e.broker.epoch for e in effects if isinstance(e, OpenChannel)] == [41, 42]
    assert not [e for e in effects if isinstance(e, WritePartitionStates)]
    assert [kind for broker_id, kind in sent(effects) if broker_id == 2] == [
        "UpdateMetadata",
        "LeaderAndIsr",
        "UpdateMetadata",
    ]
    roles = [
        e.request
        for e in effects
        if isinstance(e, SendRequest)
        and e.broker_id == 2
        and isinstance(e.request, LeaderAndIsrRequest)
    ]
    assert [
        (p.leader, p.leader_epoch, list(p.isr)) for p in roles[0].topic_states[0].partition_states
    ] == [(1, 10, [1]), (1, 6, [1])]
    assert roles[0].broker_epoch == 41
    machine.check()


def test_the_controller_itself_fails_and_its_successor_goes_on():
    """1 was the controller and died before it could do anything about 2, which died with it."""
    machine = ControllerMachine(
        controller_id=3,
        controller_epoch=6,
        inter_broker_listener="PLAINTEXT",
        rng=random.Random(0),
    )
    effects = machine.step(
        TookOffice(
            brokers={3: registered(3, 30)},
            topics={
                "orders": TopicZnode(
                    topic_id=ORDERS_ID,
                    assignments={
                        0: ReplicaAssignment(replicas=(2, 3, 1)),
                        1: ReplicaAssignment(replicas=(3, 1, 2)),
                    },
                )
            },
            states={
                ORDERS_0: state(2, 8, 2, 3, 1, version=20),
                ORDERS_1: state(3, 4, 3, 1, 2, version=11),
            },
            deletions=frozenset(),
            preferred_elections=frozenset(),
        ),
        0,
    )
    # Everybody alive hears of everybody alive, before anything is decided.
    assert sent(effects) == [(3, "UpdateMetadata")]
    [write] = [e for e in effects if isinstance(e, WritePartitionStates)]
    assert dict(write.states) == {
        ORDERS_0: attrs.evolve(state(3, 9, 3, version=20), controller_epoch=6),
        ORDERS_1: attrs.evolve(state(3, 5, 3, version=11), controller_epoch=6),
    }
    results = {
        tp: attrs.evolve(s, partition_epoch=s.partition_epoch + 1) for tp, s in write.states.items()
    }
    effects = machine.step(PartitionStatesWritten(results), 0)
    assert sent(effects) == [(3, "LeaderAndIsr"), (3, "UpdateMetadata")]
    machine.check()
