"""Small text files, replaced atomically: offsets of many partitions, epochs of one.

Line 1 is the version, 0; line 2 the number of entries; then one entry per line, its fields
separated by single spaces. An empty file has no entries. Source: Kafka's CheckpointFile.
"""

from collections.abc import Iterable, Mapping

from zkafka.errors import StorageError
from zkafka.log.files import Files
from zkafka.model import LeaderEpoch, Offset, TopicPartition


def format_entries(entries: Iterable[str]) -> bytes:
    """The file's content."""
    lines = list(entries)
    return "\n".join(["0", str(len(lines)), *lines, ""]).encode()


def parse_entries(data: bytes, path: str) -> list[list[str]]:
    """The fields of each entry; StorageError names `path` if that is not such a file."""
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is not text", path) from error
    if not lines:
        return []
    if lines[0].strip() != "0":
        raise StorageError(f"{path} has unknown version {lines[0][:20]!r}", path)
    entries = [line.split(" ") for line in lines[2:] if line]
    if len(lines) < 2 or lines[1].strip() != str(len(entries)):
        raise StorageError(f"{path} does not have the number of entries that it names", path)
    return entries


def read_offsets(files: Files, path: str) -> dict[TopicPartition, Offset]:
    """An offset per partition, nothing if the file is not there; StorageError if it is damaged."""
    data = files.read_file(path)
    if data is None:
        return {}
    try:
        return {
            TopicPartition(topic, int(partition)): int(offset)
            for topic, partition, offset in parse_entries(data, path)
        }
    except ValueError as error:
        raise StorageError(f"{path} is malformed: {error}", path) from error


def write_offsets(files: Files, path: str, offsets: Mapping[TopicPartition, Offset]) -> None:
    """Replace the file durably; blocks on the disk."""
    files.replace(
        path,
        format_entries(f"{tp.topic} {tp.partition} {offset}" for tp, offset in offsets.items()),
    )


def format_epochs(entries: Iterable[tuple[LeaderEpoch, Offset]]) -> bytes:
    """A partition's leader-epoch-checkpoint."""
    return format_entries(f"{epoch} {start}" for epoch, start in entries)


def parse_epochs(data: bytes, path: str) -> list[tuple[LeaderEpoch, Offset]]:
    """What `format_epochs` wrote; StorageError if it is damaged."""
    try:
        return [(int(epoch), int(start)) for epoch, start in parse_entries(data, path)]
    except ValueError as error:
        raise StorageError(f"{path} is malformed: {error}", path) from error
