"""Golden bytes are those of the layout's description of Apache Kafka 3.9; key order is its own."""

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkafka.errors import CoordinationError
from zkafka.model import Endpoint, PartitionState, ReplicaAssignment, TopicPartition
from zkafka.zk import znodes
from zkafka.zk.znodes import BrokerRegistration, ConfigChange, ProducerIdBlock

TP = TopicPartition("orders", 3)
TOPIC_ID = znodes.decode_uuid("5LgvF0NeQ4mGXWkKUnYlXg")


def same(encoded: bytes, text: str):
    assert json.loads(encoded) == json.loads(text)
    assert b" " not in encoded, "Kafka writes compact JSON"


def test_a_broker_is_written_as_version_5():
    registration = BrokerRegistration(
        broker_id=1,
        endpoints=(Endpoint("PLAINTEXT", "h1", 9092),),
        rack="r1",
        timestamp_ms=1700000000000,
    )
    same(
        znodes.encode_broker(registration),
        '{"version":5,"host":"h1","port":9092,"endpoints":["PLAINTEXT://h1:9092"],"jmx_port":-1,'
        '"timestamp":"1700000000000","listener_security_protocol_map":{"PLAINTEXT":"PLAINTEXT"},'
        '"features":{},"rack":"r1"}',
    )
    assert znodes.decode_broker(1, znodes.encode_broker(registration)) == registration


def test_a_broker_without_a_plain_listener_has_no_host():
    registration = BrokerRegistration(
        broker_id=1, endpoints=(Endpoint("OUTSIDE", "::1", 9093, "SSL"),)
    )
    body = json.loads(znodes.encode_broker(registration))
    assert (body["host"], body["port"]) == (None, -1)
    assert body["endpoints"] == ["OUTSIDE://[::1]:9093"]
    assert "rack" not in body
    assert znodes.decode_broker(1, znodes.encode_broker(registration)) == registration


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        (
            '{"version":1,"host":"old","port":9092,"jmx_port":9999,"timestamp":"1"}',
            (Endpoint("PLAINTEXT", "old", 9092),),
        ),
        (
            '{"version":2,"host":"h","port":1,"jmx_port":-1,"timestamp":"1",'
            '"endpoints":["PLAINTEXT://h:1","SSL://h:2"]}',
            (Endpoint("PLAINTEXT", "h", 1), Endpoint("SSL", "h", 2, "SSL")),
        ),
        (
            '{"version":4,"host":null,"port":-1,"jmx_port":-1,"timestamp":"1","rack":"r",'
            '"endpoints":["IN://h:1"],"listener_security_protocol_map":{"IN":"SASL_SSL"},"new":1}',
            (Endpoint("IN", "h", 1, "SASL_SSL"),),
        ),
    ],
    ids=["version 1", "version 2", "version 4 with an unknown key"],
)
def test_older_brokers_are_read(text, endpoints):
    assert znodes.decode_broker(7, text.encode()).endpoints == endpoints


def test_a_topic_is_written_as_version_3():
    assignments = {
        1: ReplicaAssignment(replicas=(2, 3, 1)),
        0: ReplicaAssignment(replicas=(1, 2, 3)),
    }
    same(
        znodes.encode_topic(TOPIC_ID, assignments),
        '{"version":3,"topic_id":"5LgvF0NeQ4mGXWkKUnYlXg","partitions":{"0":[1,2,3],"1":[2,3,1]},'
        '"adding_replicas":{},"removing_replicas":{}}',
    )


def test_a_reassignment_lists_only_what_moves():
    moving = {
        0: ReplicaAssignment(replicas=(4, 1), adding=(4,), removing=(1,)),
        1: ReplicaAssignment(replicas=(1,)),
    }
    body = json.loads(znodes.encode_topic(None, moving))
    assert "topic_id" not in body
    assert (body["adding_replicas"], body["removing_replicas"]) == ({"0": [4]}, {"0": [1]})
    topic = znodes.decode_topic("t", znodes.encode_topic(None, moving), version=6)
    assert (topic.topic_id, topic.assignments, topic.version) == (None, moving, 6)


def test_a_topic_of_version_1_is_read():
    topic = znodes.decode_topic("t", b'{"version":1,"partitions":{"0":[1]}}')
    assert topic.topic_id is None
    assert topic.assignments == {0: ReplicaAssignment(replicas=(1,))}


def test_a_partition_state_names_its_recovery_only_while_it_lasts():
    state = PartitionState(leader=1, leader_epoch=7, isr=(1, 2), controller_epoch=3)
    text = '{"version":1,"leader":1,"leader_epoch":7,"controller_epoch":3,"isr":[1,2]'
    same(znodes.encode_partition_state(state), text + "}")
    recovering = PartitionState(
        leader=1, leader_epoch=7, isr=(1, 2), controller_epoch=3, recovering=True
    )
    same(znodes.encode_partition_state(recovering), text + ',"leader_recovery_state":1}')


@given(
    st.builds(
        PartitionState,
        leader=st.integers(-1, 2**31 - 1),
        leader_epoch=st.integers(0, 2**31 - 1),
        isr=st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple),
        controller_epoch=st.integers(0, 2**31 - 1),
        partition_epoch=st.integers(0, 2**31 - 1),
        recovering=st.booleans(),
    )
)
def test_a_partition_state_survives_its_znode(state):
    data = znodes.encode_partition_state(state)
    assert znodes.decode_partition_state(TP, data, state.partition_epoch) == state


def test_numbers_that_kafka_writes_as_text_are_text():
    same(
        znodes.encode_controller(1, 1700000000000),
        '{"version":2,"brokerid":1,"timestamp":"1700000000000","kraftControllerEpoch":-1}',
    )
    same(
        znodes.encode_producer_id_block(ProducerIdBlock(1, 0, 999)),
        '{"version":1,"broker":1,"block_start":"0","block_end":"999"}',
    )
    same(znodes.encode_cluster_id("abc"), '{"version":"1","id":"abc"}')


def test_the_first_controllers_node_is_read():
    assert znodes.decode_controller(b'{"version":1,"brokerid":4,"timestamp":"1"}') == 4


def test_the_controller_epoch_is_plain_text():
    assert znodes.encode_controller_epoch(5) == b"5"
    assert znodes.decode_controller_epoch(b"5") == 5


def test_no_block_was_given_where_the_node_is_empty():
    assert znodes.decode_producer_id_block(b"") is None
    block = ProducerIdBlock(2, 1000, 1999)
    assert znodes.decode_producer_id_block(znodes.encode_producer_id_block(block)) == block
    assert (block.size, block.ids[0], block.ids[-1]) == (1000, 1000, 1999)


def test_configuration_is_text_and_absent_means_none():
    same(znodes.encode_config({"b": "2", "a": "1"}), '{"version":1,"config":{"a":"1","b":"2"}}')
    assert znodes.decode_config("/config/topics/t", b"") == {}
    assert znodes.decode_config("/config/topics/t", b'{"version":1,"config":null}') == {}


def test_a_config_change_names_its_entity():
    data = znodes.encode_config_change("topics", "foo")
    same(data, '{"version":2,"entity_path":"topics/foo"}')
    change = znodes.decode_config_change("config_change_0000000012", data)
    assert change == ConfigChange(12, "topics", "foo")
    old = b'{"version":1,"entity_type":"clients","entity_name":"c"}'
    assert znodes.decode_config_change("config_change_0000000003", old) == ConfigChange(
        3, "clients", "c"
    )
    both = znodes.encode_config_change("users", "u/clients/c")
    assert znodes.decode_config_change("config_change_0000000003", both) == ConfigChange(
        3, "users", "u/clients/c"
    )


@pytest.mark.parametrize("body", [b"", b"not JSON", b"{}", b'{"version":2,"entity_path":"x"}'])
def test_what_is_no_config_change_is_ignored(body):
    assert znodes.decode_config_change("config_change_0000000003", body) is None


def test_a_node_that_is_no_notification_is_ignored():
    data = znodes.encode_config_change("topics", "foo")
    assert znodes.decode_config_change("somebody's", data) is None


def test_lists_of_partitions_and_failed_directories():
    data = znodes.encode_partitions({TP})
    same(data, '{"version":1,"partitions":[{"topic":"orders","partition":3}]}')
    assert znodes.decode_partitions("/x", data) == {TP}
    event = znodes.encode_log_dir_event(4)
    same(event, '{"version":1,"broker":4,"event":1}')
    assert znodes.decode_log_dir_event("log_dir_event_0000000000", event) == 4


def test_the_feature_node_finalizes_nothing():
    same(znodes.encode_feature(), '{"version":2,"status":1,"features":{}}')


def test_a_topic_id_is_neither_reserved_nor_an_option():
    assert not znodes.is_valid_topic_id(uuid.UUID(int=0))
    assert not znodes.is_valid_topic_id(uuid.UUID(int=1))
    dash = znodes.decode_uuid("-" + "A" * 21)
    assert not znodes.is_valid_topic_id(dash)
    assert znodes.is_valid_topic_id(TOPIC_ID)


@given(st.uuids())
def test_an_id_survives_its_text(value):
    assert len(znodes.encode_uuid(value)) == 22
    assert znodes.decode_uuid(znodes.encode_uuid(value)) == value


DECODERS = [
    lambda data: znodes.decode_broker(1, data),
    lambda data: znodes.decode_topic("t", data),
    lambda data: znodes.decode_partition_state(TP, data, 0),
    znodes.decode_controller,
    znodes.decode_controller_epoch,
    znodes.decode_cluster_id,
    lambda data: znodes.decode_config("/config/topics/t", data),
    lambda data: znodes.decode_partitions("/x", data),
    lambda data: znodes.decode_log_dir_event("n", data),
    znodes.decode_producer_id_block,
]

junk = st.one_of(
    st.binary(min_size=1, max_size=30),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "version",
                        "partitions",
                        "isr",
                        "leader",
                        "endpoints",
                        "config",
                        "topic_id",
                        "0",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)


@given(st.sampled_from(DECODERS), junk)
def test_nonsense_raises_one_exception_only(decode, data):
    message = "cannot read"
    try:
        decode(data)
    except CoordinationError as error:
        message = str(error)
    assert "cannot read" in message


def test_an_unreadable_node_is_named():
    with pytest.raises(CoordinationError, match="/brokers/topics/orders/partitions/3/state"):
        znodes.decode_partition_state(TP, b'{"version":1,"leader":true}', 0)
