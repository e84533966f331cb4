"""Which segments may go: by time, by size, by the log start offset.

Source: Kafka's UnifiedLog.deleteOldSegments; its order is log start, size, time, and each rule
takes a run of the oldest segments.
"""

from collections.abc import Sequence
from typing import Protocol

from zkafka.model import Offset


class SegmentFacts(Protocol):
    """What retention asks of a segment; `retention_timestamp` may cost a read, and is asked for
    only where it decides."""

    @property
    def size(self) -> int: ...

    @property
    def retention_timestamp(self) -> int: ...


def deletable(
    segments: Sequence[SegmentFacts],
    end_offsets: Sequence[Offset],
    *,
    log_start_offset: Offset,
    high_watermark: Offset,
    now_ms: int,
    retention_ms: int | None,
    retention_bytes: int | None,
    delete: bool,
) -> int:
    """How many of the oldest segments may go, the active one (the last) included.

    `end_offsets` are exclusive: the next segment's base, for the active one the log end offset.

    Never one that reaches above the high watermark, and never an active one that is empty. Without
    `delete` in its cleanup policy a log gives up only what lies below its log start offset.
    """
    offered = 0
    for number, segment in enumerate(segments):
        active_and_empty = number == len(segments) - 1 and segment.size == 0
        if end_offsets[number] > high_watermark or active_and_empty:
            break
        offered += 1

    gone = 0
    while gone < offered and end_offsets[gone] <= log_start_offset:
        gone += 1
    if not delete:
        return gone
    if retention_bytes is not None:
        excess = sum(segment.size for segment in segments[gone:]) - retention_bytes
        while gone < offered and excess >= segments[gone].size:
            excess -= segments[gone].size
            gone += 1
    if retention_ms is not None:
        while gone < offered and now_ms - segments[gone].retention_timestamp > retention_ms:
            gone += 1
    return gone
