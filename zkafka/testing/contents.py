"""What a broker keeps of a partition, read from its data directory by whoever may read the files.

The broker may be running: what it is writing at the moment shows as a partial batch at the end of
the last segment, and is left out.
"""

from pathlib import Path

from zkafka.model import TopicPartition
from zkafka.protocol.records import iter_records, parse_batches, verify_crc
from zkafka.testing.history import Read, ReplicaContents, Value


def read_replica(
    data_directory: Path, topic_partition: TopicPartition, *, broker: int, at_ms: int
) -> ReplicaContents | None:
    """Every record of one replica; None where the broker keeps none.

    Errors: ApiError CORRUPT_MESSAGE for what is no record batch, AssertionError where a batch
    fails its checksum or leaves a gap behind the one before.
    """
    directory = data_directory / str(topic_partition)
    segments = sorted(directory.glob("*.log"))
    if not segments:
        return None
    start = end = int(segments[0].stem)
    records: list[Read] = []
    for segment in segments:
        for batch in parse_batches(segment.read_bytes(), partial_tail=True):
            where = f"{segment} at offset {batch.base_offset}"
            assert verify_crc(batch), f"{where}: the checksum is wrong"
            assert batch.base_offset >= end, f"{where}: overlaps what ends at {end}"
            end = batch.last_offset + 1
            if batch.is_control:
                continue
            records += [
                Read(record.offset, Value.decode(bytes(record.value or b"")), batch.leader_epoch)
                for record in iter_records(batch)
            ]
    return ReplicaContents(at_ms, broker, topic_partition, start, end, tuple(records))
