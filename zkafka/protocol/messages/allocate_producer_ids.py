"""AllocateProducerIds (API key 67): request and response."""

from zkafka.protocol.fields import int16, int32, int64, message


@message(api_key=67, versions=(0, 0), flexible=0)
class AllocateProducerIdsRequest:
    """AllocateProducerIds request, versions 0 to 0."""

    broker_id: int = int32(default=0)
    broker_epoch: int = int64(default=-1)


@message(api_key=67, versions=(0, 0), flexible=0)
class AllocateProducerIdsResponse:
    """AllocateProducerIds response, versions 0 to 0."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    producer_id_start: int = int64(default=0)
    producer_id_len: int = int32(default=0)
