"""CreatePartitions (API key 37): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, boolean, int16, int32, message, string


@message()
class CreatePartitionsAssignment:
    broker_ids: Sequence[int] = array("int32", default=())


@message()
class CreatePartitionsTopic:
    name: str = string(default="")
    count: int = int32(default=0)
    assignments: Sequence[CreatePartitionsAssignment] | None = array(
        CreatePartitionsAssignment, nullable=True, default=()
    )


@message(api_key=37, versions=(0, 3), flexible=2)
class CreatePartitionsRequest:
    """CreatePartitions request, versions 0 to 3."""

    topics: Sequence[CreatePartitionsTopic] = array(CreatePartitionsTopic, default=())
    timeout_ms: int = int32(default=0)
    validate_only: bool = boolean(default=False)


@message()
class CreatePartitionsTopicResult:
    name: str = string(default="")
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=True, default=None)


@message(api_key=37, versions=(0, 3), flexible=2)
class CreatePartitionsResponse:
    """CreatePartitions response, versions 0 to 3."""

    throttle_time_ms: int = int32(default=0)
    results: Sequence[CreatePartitionsTopicResult] = array(CreatePartitionsTopicResult, default=())
