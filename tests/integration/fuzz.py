"""Requests of every API as clients and brokers send them, and ways to break them.

What a mutant may not do is what an honest controller or administrator could have meant: fuzzing is
for nonsense, and a broker that does as its controller says is no finding. `is_order` tells.
"""

import random
import struct
import uuid
from collections.abc import Iterator
from typing import Any

import crc32c

from zkafka.errors import RemoteProtocolError
from zkafka.protocol.apis import APIS, ApiKey
from zkafka.protocol.codec import decode_request, decode_request_header, encode_request
from zkafka.protocol.messages import (
    allocate_producer_ids,
    alter_configs,
    alter_partition,
    alter_replica_log_dirs,
    api_versions,
    controlled_shutdown,
    create_partitions,
    create_topics,
    delete_groups,
    delete_records,
    delete_topics,
    describe_cluster,
    describe_configs,
    describe_groups,
    describe_log_dirs,
    describe_producers,
    elect_leaders,
    fetch,
    find_coordinator,
    heartbeat,
    incremental_alter_configs,
    init_producer_id,
    join_group,
    leader_and_isr,
    leave_group,
    list_groups,
    list_offsets,
    metadata,
    offset_commit,
    offset_delete,
    offset_fetch,
    offset_for_leader_epoch,
    produce,
    stop_replica,
    sync_group,
    update_metadata,
    write_txn_markers,
)
from zkafka.protocol.records import (
    CRC_START,
    HEADER_SIZE,
    LENGTH_OVERHEAD,
    MAGIC,
    Record,
    build_batch,
)

GROUP = "fuzzed"
STALE = {"controller_id": 1, "controller_epoch": 0, "broker_epoch": 1}
SMALL = 8
"""So many partitions a mutant may ask to be created."""


def real_requests(topic: str, topic_id: uuid.UUID) -> list[Any]:
    """At least one request of every API, about `topic` where it is about any."""
    batch = bytes(build_batch([Record(b"k", b"v" * 20, 1_700_000_000_000)] * 3, codec=1))
    fetched = fetch.FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1 << 20)
    by_id = fetch.FetchTopic(topic=topic, topic_id=topic_id, partitions=[fetched])
    protocol = join_group.JoinGroupRequestProtocol(name="range", metadata=b"\0\1\0\0\0\0\0\0\0\0")
    member = leave_group.MemberIdentity(member_id="m", group_instance_id="i", reason="leaving")
    settings = [alter_configs.AlterableConfig(name="retention.ms", value="3600000")]
    changes = [
        incremental_alter_configs.AlterableConfig(
            name="cleanup.policy", config_operation=2, value="delete"
        )
    ]
    state = leader_and_isr.LeaderAndIsrPartitionState(
        topic_name=topic, leader=1, leader_epoch=1, isr=[1], replicas=[1], partition_epoch=1
    )
    told = update_metadata.UpdateMetadataPartitionState(
        topic_name=topic, leader=1, leader_epoch=1, isr=[1], replicas=[1]
    )
    broker = update_metadata.UpdateMetadataBroker(
        id=1,
        endpoints=[update_metadata.UpdateMetadataEndpoint(port=1, host="h", listener="PLAINTEXT")],
    )
    proposed = alter_partition.PartitionData(
        leader_epoch=1, new_isr=[1], new_isr_with_epochs=[alter_partition.BrokerState(broker_id=1)]
    )
    return [
        produce.ProduceRequest(
            acks=-1,
            timeout_ms=100,
            topic_data=[
                produce.TopicProduceData(
                    name=topic,
                    partition_data=[produce.PartitionProduceData(index=0, records=batch)],
                )
            ],
        ),
        fetch.FetchRequest(max_wait_ms=50, min_bytes=1, session_epoch=0, topics=[by_id]),
        list_offsets.ListOffsetsRequest(
            replica_id=-1,
            topics=[
                list_offsets.ListOffsetsTopic(
                    name=topic,
                    partitions=[
                        list_offsets.ListOffsetsPartition(partition_index=0, timestamp=at)
                        for at in (-1, 1_700_000_000_000)
                    ],
                )
            ],
        ),
        metadata.MetadataRequest(
            topics=[metadata.MetadataRequestTopic(name=topic)], allow_auto_topic_creation=False
        ),
        leader_and_isr.LeaderAndIsrRequest(
            ungrouped_partition_states=[state],
            topic_states=[
                leader_and_isr.LeaderAndIsrTopicState(
                    topic_name=topic, topic_id=topic_id, partition_states=[state]
                )
            ],
            live_leaders=[leader_and_isr.LeaderAndIsrLiveLeader(broker_id=1, host_name="h")],
            **STALE,
        ),
        stop_replica.StopReplicaRequest(
            ungrouped_partitions=[stop_replica.StopReplicaPartitionV0(topic_name=topic)],
            topics=[stop_replica.StopReplicaTopicV1(name=topic, partition_indexes=[0])],
            topic_states=[
                stop_replica.StopReplicaTopicState(
                    topic_name=topic,
                    partition_states=[stop_replica.StopReplicaPartitionState(leader_epoch=1)],
                )
            ],
            **STALE,
        ),
        update_metadata.UpdateMetadataRequest(
            ungrouped_partition_states=[told],
            topic_states=[
                update_metadata.UpdateMetadataTopicState(
                    topic_name=topic, topic_id=topic_id, partition_states=[told]
                )
            ],
            live_brokers=[broker],
            **STALE,
        ),
        controlled_shutdown.ControlledShutdownRequest(broker_id=1, broker_epoch=1),
        offset_commit.OffsetCommitRequest(
            group_id=GROUP,
            topics=[
                offset_commit.OffsetCommitRequestTopic(
                    name=topic,
                    partitions=[
                        offset_commit.OffsetCommitRequestPartition(
                            committed_offset=1, committed_metadata="m"
                        )
                    ],
                )
            ],
        ),
        offset_fetch.OffsetFetchRequest(
            group_id=GROUP,
            topics=[offset_fetch.OffsetFetchRequestTopic(name=topic, partition_indexes=[0, 1])],
            groups=[
                offset_fetch.OffsetFetchRequestGroup(
                    group_id=GROUP,
                    topics=[
                        offset_fetch.OffsetFetchRequestTopics(name=topic, partition_indexes=[0])
                    ],
                )
            ],
        ),
        find_coordinator.FindCoordinatorRequest(key=GROUP, coordinator_keys=[GROUP, "other"]),
        join_group.JoinGroupRequest(
            group_id=GROUP,
            session_timeout_ms=6_000,
            rebalance_timeout_ms=50,
            protocol_type="consumer",
            protocols=[protocol, protocol],
            reason="because",
        ),
        heartbeat.HeartbeatRequest(group_id=GROUP, generation_id=1, member_id="m"),
        leave_group.LeaveGroupRequest(group_id=GROUP, member_id="m", members=[member]),
        sync_group.SyncGroupRequest(
            group_id=GROUP,
            generation_id=1,
            member_id="m",
            protocol_type="consumer",
            protocol_name="range",
            assignments=[sync_group.SyncGroupRequestAssignment(member_id="m", assignment=b"a")],
        ),
        describe_groups.DescribeGroupsRequest(groups=[GROUP, "other"]),
        list_groups.ListGroupsRequest(states_filter=["Stable"], types_filter=["classic"]),
        api_versions.ApiVersionsRequest(client_software_name="f", client_software_version="1"),
        create_topics.CreateTopicsRequest(
            topics=[
                create_topics.CreatableTopic(
                    name="fuzzed-created",
                    num_partitions=1,
                    replication_factor=1,
                    configs=[create_topics.CreatableTopicConfig(name="retention.ms", value="1")],
                ),
                create_topics.CreatableTopic(
                    name="fuzzed-assigned",
                    num_partitions=-1,
                    replication_factor=-1,
                    assignments=[
                        create_topics.CreatableReplicaAssignment(partition_index=0, broker_ids=[1])
                    ],
                ),
            ],
            timeout_ms=10,
        ),
        delete_topics.DeleteTopicsRequest(
            topics=[delete_topics.DeleteTopicState(name="fuzzed-created")],
            topic_names=["fuzzed-created", "fuzzed-assigned"],
            timeout_ms=10,
        ),
        delete_records.DeleteRecordsRequest(
            topics=[
                delete_records.DeleteRecordsTopic(
                    name=topic,
                    partitions=[delete_records.DeleteRecordsPartition(partition_index=0, offset=0)],
                )
            ],
            timeout_ms=10,
        ),
        init_producer_id.InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=1000),
        offset_for_leader_epoch.OffsetForLeaderEpochRequest(
            replica_id=-1,
            topics=[
                offset_for_leader_epoch.OffsetForLeaderTopic(
                    topic=topic,
                    partitions=[offset_for_leader_epoch.OffsetForLeaderPartition(leader_epoch=0)],
                )
            ],
        ),
        write_txn_markers.WriteTxnMarkersRequest(
            markers=[
                write_txn_markers.WritableTxnMarker(
                    producer_id=7,
                    topics=[
                        write_txn_markers.WritableTxnMarkerTopic(name=topic, partition_indexes=[0])
                    ],
                )
            ]
        ),
        describe_configs.DescribeConfigsRequest(
            resources=[
                describe_configs.DescribeConfigsResource(
                    resource_type=kind, resource_name=name, configuration_keys=keys
                )
                for kind, name, keys in ((2, topic, ["retention.ms"]), (4, "1", None))
            ]
        ),
        alter_configs.AlterConfigsRequest(
            resources=[
                alter_configs.AlterConfigsResource(
                    resource_type=2, resource_name="fuzzed-created", configs=settings
                )
            ]
        ),
        alter_replica_log_dirs.AlterReplicaLogDirsRequest(
            dirs=[
                alter_replica_log_dirs.AlterReplicaLogDir(
                    path="/nowhere",
                    topics=[
                        alter_replica_log_dirs.AlterReplicaLogDirTopic(name=topic, partitions=[0])
                    ],
                )
            ]
        ),
        describe_log_dirs.DescribeLogDirsRequest(
            topics=[describe_log_dirs.DescribableLogDirTopic(topic=topic, partitions=[0])]
        ),
        create_partitions.CreatePartitionsRequest(
            topics=[
                create_partitions.CreatePartitionsTopic(
                    name="fuzzed-created",
                    count=2,
                    assignments=[create_partitions.CreatePartitionsAssignment(broker_ids=[1])],
                )
            ],
            timeout_ms=10,
        ),
        delete_groups.DeleteGroupsRequest(groups_names=[GROUP, "other"]),
        elect_leaders.ElectLeadersRequest(
            topic_partitions=[elect_leaders.TopicPartitions(topic=topic, partitions=[0])],
            timeout_ms=10,
        ),
        incremental_alter_configs.IncrementalAlterConfigsRequest(
            resources=[
                incremental_alter_configs.AlterConfigsResource(
                    resource_type=2, resource_name="fuzzed-created", configs=changes
                )
            ]
        ),
        offset_delete.OffsetDeleteRequest(
            group_id=GROUP,
            topics=[
                offset_delete.OffsetDeleteRequestTopic(
                    name=topic, partitions=[offset_delete.OffsetDeleteRequestPartition()]
                )
            ],
        ),
        alter_partition.AlterPartitionRequest(
            broker_id=1,
            broker_epoch=1,
            topics=[alter_partition.TopicData(topic_id=topic_id, partitions=[proposed])],
        ),
        describe_cluster.DescribeClusterRequest(include_cluster_authorized_operations=True),
        describe_producers.DescribeProducersRequest(
            topics=[describe_producers.TopicRequest(name=topic, partition_indexes=[0, 1])]
        ),
        allocate_producer_ids.AllocateProducerIdsRequest(broker_id=1, broker_epoch=1),
    ]


INTERESTING = (
    *(struct.pack(">i", n) for n in (0, 1, -1, -2, 127, 128, 65535, 2**31 - 1, -(2**31))),
    *(struct.pack(">h", n) for n in (0, -1, -2, 32767, -32768)),
    *(struct.pack(">q", n) for n in (-1, -2, 2**63 - 1, -(2**63))),
    b"\0",
    b"\1",
    b"\xff",
    b"\x80",
    b"\xff\xff\xff\xff\x0f",
    b"\xc3\x28",
    b"/",
    b"..",
    b"\n",
)


def mutant(rng: random.Random, request: bytes) -> bytes:
    """A request (without its size) with one to three things wrong with it."""
    data = bytearray(request)
    for _ in range(rng.choice((1, 1, 2, 3))):
        # Mostly in the body: the header has few ways to be wrong.
        start = 0 if rng.random() < 0.1 else min(10, len(data))
        at = rng.randint(start, len(data))
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.randrange(256)
            case 2:
                value = rng.choice(INTERESTING)
                data[at : at + len(value)] = value
            case 3:
                data[at:at] = rng.choice(INTERESTING)
            case 4:
                del data[at : at + rng.choice((1, 1, 2, 4, 1000))]
            case 5:
                piece = data[at : at + rng.randint(1, 40)]
                data[at:at] = piece * rng.choice((1, 1, 2, 50))
    return bytes(data)


def with_mutant_batch(
    rng: random.Random, request: produce.ProduceRequest
) -> produce.ProduceRequest:
    """The request with a broken batch under a right checksum and a right length: what a producer
    with a defect sends, and what is not stopped at the first look."""
    [topic] = request.topic_data
    [partition] = topic.partition_data
    batch = bytearray(mutant(rng, bytes(partition.records)))
    if len(batch) >= HEADER_SIZE:
        if rng.random() < 0.8:
            struct.pack_into(">qi", batch, 0, 0, len(batch) - LENGTH_OVERHEAD)
            batch[16] = MAGIC
        struct.pack_into(">I", batch, 17, crc32c.crc32c(bytes(batch[CRC_START:])))
    data = produce.PartitionProduceData(index=partition.index, records=bytes(batch))
    return produce.ProduceRequest(
        acks=rng.choice((-1, 1)),
        timeout_ms=100,
        topic_data=[produce.TopicProduceData(name=topic.name, partition_data=[data])],
    )


def mutants(seed: int, count: int, requests: list[Any]) -> Iterator[bytes]:
    """`count` broken requests, all APIs and versions in turn, the same for the same seed."""
    rng = random.Random(seed)
    while count:
        message = rng.choice(requests)
        api = APIS[type(message).__wire__.api_key]
        version = rng.randint(api.min_version, api.max_version)
        inside = isinstance(message, produce.ProduceRequest) and rng.random() < 0.7
        if inside:
            message = with_mutant_batch(rng, message)
        whole = b"".join(bytes(p) for p in encode_request(message, version, 7, "fuzz"))[4:]
        broken = whole if inside else mutant(rng, whole)
        if is_order(broken):
            continue
        count -= 1
        yield struct.pack(">i", len(broken)) + broken


def is_order(request: bytes) -> bool:
    """Whether this is understood as something that changes the cluster and may be asked for."""
    try:
        header, position = decode_request_header(request)
        api = APIS.get(header.api_key)
        if api is None or not api.serves(header.api_version):
            return False
        message = decode_request(api.request_class, header.api_version, request[position:])
    except RemoteProtocolError:
        return False
    match api.key:
        case ApiKey.LEADER_AND_ISR | ApiKey.STOP_REPLICA | ApiKey.UPDATE_METADATA:
            return message.controller_epoch > 0 and message.broker_epoch not in (0, 1)
        case ApiKey.CONTROLLED_SHUTDOWN | ApiKey.ALTER_PARTITION:
            return message.broker_epoch not in (0, 1)
        case ApiKey.CREATE_TOPICS:
            return any(t.num_partitions > SMALL for t in message.topics)
        case ApiKey.CREATE_PARTITIONS:
            return any(t.count > SMALL for t in message.topics)
        case ApiKey.ALTER_CONFIGS | ApiKey.INCREMENTAL_ALTER_CONFIGS:
            return any(r.resource_type == 4 for r in message.resources)
        case ApiKey.DELETE_TOPICS:
            return bool(message.topics and any(t.name is None for t in message.topics))
        case _:
            return False
