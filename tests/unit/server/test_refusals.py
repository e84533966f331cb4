import attrs
import pytest

from zkafka.errors import ErrorCode
from zkafka.protocol import codec
from zkafka.protocol.apis import APIS
from zkafka.protocol.fields import schema_of
from zkafka.protocol.messages import (
    alter_replica_log_dirs,
    describe_groups,
    fetch,
    find_coordinator,
    heartbeat,
    metadata,
    offset_fetch,
    produce,
)
from zkafka.server.refusals import error_response

CODE = ErrorCode.UNKNOWN_SERVER_ERROR

VERSIONS = [
    pytest.param(api, version, id=f"{api.name}-{version}")
    for api in APIS.values()
    for version in range(api.min_version, api.max_version + 1)
]


def sample(cls, version):
    """A message with one element in every array, of default values."""
    values = {}
    for field in schema_of(cls).fields:
        if field.type.kind != "array" or not field.since <= version <= field.until:
            continue
        element = field.type.element
        if element.struct is not None:
            values[field.name] = [sample(element.struct, version)]
        else:
            values[field.name] = ["x" if element.kind == "string" else 5]
    return cls(**values)


def codes(value):
    """Every `error_code` in a message."""
    if isinstance(value, list | tuple):
        return [code for item in value for code in codes(item)]
    if not attrs.has(type(value)):
        return []
    found = [value.error_code] if hasattr(value, "error_code") else []
    return found + [
        code for a in attrs.fields(type(value)) for code in codes(getattr(value, a.name))
    ]


@pytest.mark.parametrize(("api", "version"), VERSIONS)
def test_every_version_of_every_api_can_be_refused(api, version):
    request = sample(api.request_class, version)
    response = error_response(api.response_class, request, version, CODE)
    assert response is not None
    read = codec.decode(api.response_class, version, codec.encode(response, version))
    assert CODE in codes(read)


def test_items_are_named_as_in_the_request():
    request = produce.ProduceRequest(
        topic_data=[
            produce.TopicProduceData(
                name="t",
                partition_data=[
                    produce.PartitionProduceData(index=3),
                    produce.PartitionProduceData(index=4),
                ],
            )
        ]
    )
    response = error_response(produce.ProduceResponse, request, 9, CODE, "sorry")
    (topic,) = response.responses
    assert topic.name == "t"
    assert [(p.index, p.error_code, p.error_message) for p in topic.partition_responses] == [
        (3, CODE, "sorry"),
        (4, CODE, "sorry"),
    ]


def test_partition_numbers_are_found_under_any_of_their_names():
    request = fetch.FetchRequest(
        topics=[fetch.FetchTopic(topic="t", partitions=[fetch.FetchPartition(partition=7)])]
    )
    response = error_response(fetch.FetchResponse, request, 6, CODE)
    assert response.error_code == 0
    assert response.responses[0].partitions[0].partition_index == 7
    assert error_response(fetch.FetchResponse, request, 7, CODE).error_code == CODE


def test_plain_names_become_items():
    request = describe_groups.DescribeGroupsRequest(groups=["a", "b"])
    response = error_response(describe_groups.DescribeGroupsResponse, request, 5, CODE)
    assert [(g.group_id, g.error_code) for g in response.groups] == [("a", CODE), ("b", CODE)]
    request = find_coordinator.FindCoordinatorRequest(coordinator_keys=["k"])
    response = error_response(find_coordinator.FindCoordinatorResponse, request, 4, CODE)
    assert [(c.key, c.error_code) for c in response.coordinators] == [("k", CODE)]
    request = offset_fetch.OffsetFetchRequest(
        topics=[offset_fetch.OffsetFetchRequestTopic(name="t", partition_indexes=[4])]
    )
    response = error_response(offset_fetch.OffsetFetchResponse, request, 1, CODE)
    assert response.topics[0].partitions[0].partition_index == 4


def test_items_are_named_though_the_request_groups_them():
    topics = [
        alter_replica_log_dirs.AlterReplicaLogDirTopic(name=name, partitions=[3, 4])
        for name in "tu"
    ]
    request = alter_replica_log_dirs.AlterReplicaLogDirsRequest(
        dirs=[alter_replica_log_dirs.AlterReplicaLogDir(path="/a", topics=[t]) for t in topics]
    )
    response = error_response(alter_replica_log_dirs.AlterReplicaLogDirsResponse, request, 2, CODE)
    assert [
        (topic.topic_name, partition.partition_index, partition.error_code)
        for topic in response.results
        for partition in topic.partitions
    ] == [(name, number, CODE) for name in "tu" for number in (3, 4)]


def test_an_array_without_codes_is_passed_over():
    request = metadata.MetadataRequest(topics=[metadata.MetadataRequestTopic(name="t")])
    response = error_response(metadata.MetadataResponse, request, 12, CODE)
    assert response.brokers == ()
    assert [(t.name, t.error_code) for t in response.topics] == [("t", CODE)]


def test_a_null_array_has_no_items():
    request = metadata.MetadataRequest(topics=None)
    assert error_response(metadata.MetadataResponse, request, 12, CODE).topics == []


def test_a_code_at_the_top_stands_alone():
    response = error_response(
        heartbeat.HeartbeatResponse, heartbeat.HeartbeatRequest(group_id="g"), 4, CODE
    )
    assert response == heartbeat.HeartbeatResponse(error_code=CODE)
