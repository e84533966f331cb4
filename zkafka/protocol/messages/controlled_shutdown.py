"""ControlledShutdown (API key 7): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, int16, int32, int64, message, string


@message(api_key=7, versions=(1, 3), flexible=3)
class ControlledShutdownRequest:
    """ControlledShutdown request, versions 1 to 3."""

    broker_id: int = int32(default=0)
    broker_epoch: int = int64(since=2, default=-1)


@message()
class RemainingPartition:
    topic_name: str = string(default="")
    partition_index: int = int32(default=0)


@message(api_key=7, versions=(1, 3), flexible=3)
class ControlledShutdownResponse:
    """ControlledShutdown response, versions 1 to 3."""

    error_code: int = int16(default=0)
    remaining_partitions: Sequence[RemainingPartition] = array(RemainingPartition, default=())
