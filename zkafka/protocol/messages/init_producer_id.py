"""InitProducerId (API key 22): request and response."""

from zkafka.protocol.fields import int16, int32, int64, message, string


@message(api_key=22, versions=(0, 5), flexible=2)
class InitProducerIdRequest:
    """InitProducerId request, versions 0 to 5."""

    transactional_id: str | None = string(nullable=True, default="")
    transaction_timeout_ms: int = int32(default=0)
    producer_id: int = int64(since=3, default=-1)
    producer_epoch: int = int16(since=3, default=-1)


@message(api_key=22, versions=(0, 5), flexible=2)
class InitProducerIdResponse:
    """InitProducerId response, versions 0 to 5."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    producer_id: int = int64(default=-1)
    producer_epoch: int = int16(default=0)
