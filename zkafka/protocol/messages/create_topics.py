"""CreateTopics (API key 19): request and response."""

import uuid
from collections.abc import Sequence

from zkafka.protocol.fields import (
    NULL_UUID,
    array,
    boolean,
    int8,
    int16,
    int32,
    message,
    string,
    uuid_,
)


@message()
class CreatableReplicaAssignment:
    partition_index: int = int32(default=0)
    broker_ids: Sequence[int] = array("int32", default=())


@message()
class CreatableTopicConfig:
    name: str = string(default="")
    value: str | None = string(nullable=True, default="")


@message()
class CreatableTopic:
    name: str = string(default="")
    num_partitions: int = int32(default=0)
    replication_factor: int = int16(default=0)
    assignments: Sequence[CreatableReplicaAssignment] = array(
        CreatableReplicaAssignment, default=()
    )
    configs: Sequence[CreatableTopicConfig] = array(CreatableTopicConfig, default=())


@message(api_key=19, versions=(2, 7), flexible=5)
class CreateTopicsRequest:
    """CreateTopics request, versions 2 to 7."""

    topics: Sequence[CreatableTopic] = array(CreatableTopic, default=())
    timeout_ms: int = int32(default=60000)
    validate_only: bool = boolean(default=False)


@message()
class CreatableTopicConfigs:
    name: str = string(since=5, default="")
    value: str | None = string(since=5, nullable=True, default="")
    read_only: bool = boolean(since=5, default=False)
    config_source: int = int8(since=5, default=-1)
    is_sensitive: bool = boolean(since=5, default=False)


@message()
class CreatableTopicResult:
    name: str = string(default="")
    topic_id: uuid.UUID = uuid_(since=7, default=NULL_UUID)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=True, default="")
    topic_config_error_code: int = int16(since=5, tag=0, default=0)
    num_partitions: int = int32(since=5, default=-1)
    replication_factor: int = int16(since=5, default=-1)
    configs: Sequence[CreatableTopicConfigs] | None = array(
        CreatableTopicConfigs, since=5, nullable=True, default=()
    )


@message(api_key=19, versions=(2, 7), flexible=5)
class CreateTopicsResponse:
    """CreateTopics response, versions 2 to 7."""

    throttle_time_ms: int = int32(default=0)
    topics: Sequence[CreatableTopicResult] = array(CreatableTopicResult, default=())
