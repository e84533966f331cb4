import uuid

import pytest

from zkafka.model import NO_BROKER, TopicPartition
from zkafka.protocol.messages.update_metadata import (
    UpdateMetadataBroker,
    UpdateMetadataEndpoint,
    UpdateMetadataPartitionState,
    UpdateMetadataRequest,
    UpdateMetadataTopicState,
)
from zkafka.server.metadata import LEADER_DURING_DELETION, MetadataCache, MetadataChanges

ID = uuid.UUID(int=7)
OTHER_ID = uuid.UUID(int=8)


def broker(broker_id, *, rack=None, listeners=("PLAINTEXT",)):
    return UpdateMetadataBroker(
        id=broker_id,
        endpoints=[
            UpdateMetadataEndpoint(host=f"host{broker_id}", port=9092 + i, listener=name)
            for i, name in enumerate(listeners)
        ],
        rack=rack,
    )


def partition(index, leader, *, epoch=0, replicas=(1, 2), isr=(1, 2)):
    return UpdateMetadataPartitionState(
        partition_index=index,
        leader=leader,
        leader_epoch=epoch,
        isr=list(isr),
        zk_version=epoch,
        replicas=list(replicas),
    )


def topic(name, *partitions, topic_id=ID):
    return UpdateMetadataTopicState(
        topic_name=name, topic_id=topic_id, partition_states=list(partitions)
    )


def update(*topics, brokers=(1, 2), controller=1, epoch=1):
    return UpdateMetadataRequest(
        controller_id=controller,
        controller_epoch=epoch,
        topic_states=list(topics),
        live_brokers=[b if isinstance(b, UpdateMetadataBroker) else broker(b) for b in brokers],
    )


@pytest.fixture
def cache():
    return MetadataCache("cluster")


def apply(cache, *args, **kwargs) -> MetadataChanges:
    changes = cache.apply(update(*args, **kwargs))
    cache.image.check()
    return changes


def test_the_first_picture_is_empty_and_has_no_controller(cache):
    image = cache.image
    image.check()
    assert (image.controller_id, dict(image.brokers), dict(image.topics)) == (NO_BROKER, {}, {})
    assert not image.received
    assert image.cluster_id == "cluster"


def test_partitions_are_merged_while_brokers_are_replaced(cache):
    apply(cache, topic("t", partition(0, 1), partition(1, 2)), brokers=(1, 2))
    changes = apply(cache, topic("t", partition(1, 1, epoch=1)), brokers=(1,))
    image = cache.image
    assert sorted(image.brokers) == [1]
    assert changes.lost_brokers == {2}
    assert changes.new_brokers == frozenset()
    assert image.partition(TopicPartition("t", 0)).leader == 1
    assert image.partition(TopicPartition("t", 1)).leader_epoch == 1


def test_a_picture_taken_earlier_does_not_change(cache):
    apply(cache, topic("t", partition(0, 1)))
    before = cache.image
    apply(
        cache, topic("t", partition(0, 2, epoch=1)), topic("u", partition(0, 1), topic_id=OTHER_ID)
    )
    assert before.partition(TopicPartition("t", 0)).leader == 1
    assert list(before.topics) == ["t"]
    with pytest.raises(TypeError):
        before.topics["x"] = None


def test_a_partition_being_deleted_is_dropped_and_takes_its_topic_with_it_when_last(cache):
    apply(cache, topic("t", partition(0, 1), partition(1, 2)))
    changes = apply(cache, topic("t", partition(0, LEADER_DURING_DELETION)))
    assert changes.deleted_partitions == {TopicPartition("t", 0)}
    assert changes.deleted_topics == frozenset()
    changes = apply(cache, topic("t", partition(1, LEADER_DURING_DELETION)))
    assert changes.deleted_topics == {"t"}
    assert ID not in cache.image.topic_names
    assert cache.image.partition(TopicPartition("t", 1)) is None


def test_deleting_what_was_never_known_changes_nothing(cache):
    changes = apply(cache, topic("t", partition(0, LEADER_DURING_DELETION)))
    assert changes.deleted_topics == frozenset()
    assert changes.deleted_partitions == frozenset()
    assert dict(cache.image.topics) == {}


def test_a_topic_created_anew_under_another_id_keeps_nothing_of_the_old_one(cache):
    apply(cache, topic("t", partition(0, 1), partition(1, 1)))
    changes = apply(cache, topic("t", partition(0, 2), topic_id=OTHER_ID))
    assert changes.deleted_topics == {"t"}
    assert changes.deleted_partitions == {TopicPartition("t", 1)}
    assert list(cache.image.topics["t"].partitions) == [0]
    assert dict(cache.image.topic_names) == {OTHER_ID: "t"}


def test_a_request_without_topic_id_keeps_the_one_known(cache):
    apply(cache, topic("t", partition(0, 1)))
    apply(cache, topic("t", partition(0, 2), topic_id=uuid.UUID(int=0)))
    assert cache.image.topic_id("t") == ID


def test_endpoints_are_found_by_listener_name(cache):
    apply(cache, brokers=[broker(1, rack="a", listeners=("INTERNAL", "EXTERNAL"))])
    image = cache.image
    assert image.endpoint(1, "EXTERNAL").port == 9093
    assert image.endpoint(1, "OTHER") is None
    assert image.endpoint(2, "EXTERNAL") is None
    assert image.brokers[1].rack == "a"


def test_old_versions_name_no_listener_and_no_topic_states(cache):
    cache.apply(
        UpdateMetadataRequest(
            controller_id=1,
            controller_epoch=1,
            ungrouped_partition_states=[
                UpdateMetadataPartitionState(topic_name="t", partition_index=3, leader=1)
            ],
            live_brokers=[UpdateMetadataBroker(id=1, v0_host="h", v0_port=9)],
        )
    )
    cache.image.check()
    assert cache.image.endpoint(1, "PLAINTEXT").address == "h:9"
    assert cache.image.partition(TopicPartition("t", 3)).leader == 1


def test_an_older_controller_epoch_is_a_fault_of_the_caller(cache):
    apply(cache, epoch=5)
    with pytest.raises(AssertionError, match="controller epoch"):
        cache.apply(update(epoch=4))
