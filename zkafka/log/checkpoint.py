"""Small text files, replaced atomically: offsets of many partitions, epochs of one.

Line 1 is the version, 0; line 2 the number of entries; then one entry per line, its fields
separated by single spaces. An empty file has no entries. Source: Kafka's CheckpointFile.

They have no checksum: a bit that flipped in a number is found where the number cannot be, and only
there.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Final

from zkafka.log.files import Files
from zkafka.model import LeaderEpoch, Offset, TopicPartition

_DIGITS: Final = 19
"""Of the largest offset, 2^63 - 1."""


class CheckpointDamaged(Exception):
    """A checkpoint that is not one. What it said can be learned from the logs, or done without."""


def format_entries(entries: Iterable[str]) -> bytes:
    """The file's content."""
    lines = list(entries)
    return "\n".join(["0", str(len(lines)), *lines, ""]).encode()


def parse_entries(data: bytes, path: str) -> list[list[str]]:
    """The fields of each entry; CheckpointDamaged names `path` if that is not such a file."""
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise CheckpointDamaged(f"{path} is not text") from error
    if not lines:
        return []
    if lines[0].strip() != "0":
        raise CheckpointDamaged(f"{path} has unknown version {lines[0][:20]!r}")
    entries = [line.split(" ") for line in lines[2:] if line]
    if len(lines) < 2 or lines[1].strip() != str(len(entries)):
        raise CheckpointDamaged(f"{path} does not have the number of entries that it names")
    return entries


def read_offsets(files: Files, path: str) -> dict[TopicPartition, Offset]:
    """An offset per partition, nothing if the file is not there.

    Errors: CheckpointDamaged; StorageError if it cannot be read.
    """
    data = files.read_file(path)
    if data is None:
        return {}
    return {
        TopicPartition(topic, _number(partition, path)): _number(offset, path)
        for topic, partition, offset in _of_length(3, parse_entries(data, path), path)
    }


def _of_length(length: int, entries: list[list[str]], path: str) -> list[list[str]]:
    if any(len(fields) != length for fields in entries):
        raise CheckpointDamaged(f"{path} has an entry that is not of {length} fields")
    return entries


def _number(text: str, path: str) -> int:
    """Not negative, and no longer than an offset: int() takes time for thousands of digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise CheckpointDamaged(f"{path} has {text[:30]!r} where a number was due")
    return int(text)


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
    """What `format_epochs` wrote, both rising from entry to entry; CheckpointDamaged if not."""
    entries = [
        (_number(epoch, path), _number(start, path))
        for epoch, start in _of_length(2, parse_entries(data, path), path)
    ]
    for low, high in itertools.pairwise(entries):
        if low[0] >= high[0] or low[1] >= high[1]:
            raise CheckpointDamaged(f"{path} has {high} after {low}")
    return entries
