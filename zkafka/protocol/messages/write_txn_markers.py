"""WriteTxnMarkers (API key 27): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, boolean, int16, int32, int64, message, string


@message()
class WritableTxnMarkerTopic:
    name: str = string(default="")
    partition_indexes: Sequence[int] = array("int32", default=())


@message()
class WritableTxnMarker:
    producer_id: int = int64(default=0)
    producer_epoch: int = int16(default=0)
    transaction_result: bool = boolean(default=False)
    topics: Sequence[WritableTxnMarkerTopic] = array(WritableTxnMarkerTopic, default=())
    coordinator_epoch: int = int32(default=0)


@message(api_key=27, versions=(0, 1), flexible=1)
class WriteTxnMarkersRequest:
    """WriteTxnMarkers request, versions 0 to 1."""

    markers: Sequence[WritableTxnMarker] = array(WritableTxnMarker, default=())


@message()
class WritableTxnMarkerPartitionResult:
    partition_index: int = int32(default=0)
    error_code: int = int16(default=0)


@message()
class WritableTxnMarkerTopicResult:
    name: str = string(default="")
    partitions: Sequence[WritableTxnMarkerPartitionResult] = array(
        WritableTxnMarkerPartitionResult, default=()
    )


@message()
class WritableTxnMarkerResult:
    producer_id: int = int64(default=0)
    topics: Sequence[WritableTxnMarkerTopicResult] = array(WritableTxnMarkerTopicResult, default=())


@message(api_key=27, versions=(0, 1), flexible=1)
class WriteTxnMarkersResponse:
    """WriteTxnMarkers response, versions 0 to 1."""

    markers: Sequence[WritableTxnMarkerResult] = array(WritableTxnMarkerResult, default=())
