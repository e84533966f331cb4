"""From a partition's directory to what its log keeps in memory.

After a clean stop the files are trusted: one look at the end of the last segment tells the log end
offset. After any other end, every segment that reaches above the recovery point is read again from
its first batch, checksums and all; indexes, leader epochs and producer states are built anew from
it, and at the first batch that is not sound the log ends. What follows is nobody's: had it been
acknowledged by `acks=all`, it is on other replicas.

Source: formats 4.6; Kafka's LogLoader. Where we differ: in a log that was never compacted, a
segment, or above the recovery point a batch, that does not begin where the one before it ends is
cut off too. A power cut can lose the
end of one file and keep the next, and a replica with such a hole would never notice that it differs
from the others.
"""

import logging
import os
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Sequence

import attrs

from zkafka.config import LogConfig
from zkafka.errors import DiskFull
from zkafka.log.checkpoint import CheckpointDamaged, parse_epochs
from zkafka.log.disk import Disk
from zkafka.log.epochs import EpochCache
from zkafka.log.producers import SNAPSHOT_SUFFIX, ProducerStates, Snapshots
from zkafka.log.segment import (
    CLEANED_SUFFIX,
    DELETED_SUFFIX,
    INDEX_SUFFIX,
    LOG_SUFFIX,
    SWAP_SUFFIX,
    TIME_INDEX_SUFFIX,
    TXN_INDEX_SUFFIX,
    Extent,
    Segment,
)
from zkafka.model import Offset

logger = logging.getLogger(__name__)

EPOCHS_FILE = "leader-epoch-checkpoint"
METADATA_FILE = "partition.metadata"
MOVES_FILE = "zkafka.moves"
"""How often the log was moved to another data directory, in one line; ours, Kafka passes over it.
It is not there before the first move."""

_INDEX_SUFFIXES = (INDEX_SUFFIX, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX)
_OFFSET_DIGITS = 20
_NO_END = 2**63


@attrs.define(kw_only=True)
class LoadedLog:
    """What was found: `segments` is not empty, its last one active."""

    topic_id: uuid.UUID | None
    moves: int = 0
    segments: list[Segment]
    epochs: EpochCache
    producers: ProducerStates
    snapshots: Snapshots
    log_start_offset: Offset
    log_end_offset: Offset
    recovery_point: Offset
    cleaned_to: Offset | None


def format_metadata(topic_id: uuid.UUID) -> bytes:
    """A partition.metadata file."""
    encoded = urlsafe_b64encode(topic_id.bytes).rstrip(b"=").decode()
    return f"version: 0\ntopic_id: {encoded}".encode()


def parse_metadata(data: bytes) -> uuid.UUID | None:
    """The topic id of a partition.metadata file, None if it is not one."""
    fields = dict(
        line.split(":", 1) for line in data.decode(errors="replace").splitlines() if ":" in line
    )
    encoded = fields.get("topic_id", "").strip()
    if fields.get("version", "").strip() != "0" or len(encoded) != 22:
        return None
    try:
        return uuid.UUID(bytes=urlsafe_b64decode(encoded + "=="))
    except ValueError:
        return None


def load_producers(
    snapshots: Snapshots,
    segments: Sequence[Segment],
    end_offset: Offset,
    *,
    unindexed: Collection[Segment] = (),
) -> ProducerStates:
    """The producers of everything below `end_offset`: a snapshot, and the headers above it. The
    aborted transactions met are put into the indexes of those `unindexed`."""
    limit = min([end_offset, *(segment.base_offset for segment in unindexed)])
    newest = snapshots.newest(limit)
    start, states = newest if newest is not None else (0, ProducerStates())
    for number, segment in enumerate(segments):
        segment_end = segments[number + 1].base_offset if number + 1 < len(segments) else end_offset
        if start >= end_offset or segment_end <= start or not segment.size:
            continue
        first = segment.locate(max(start, segment.base_offset))
        if first is None:
            continue
        for position, size, batch in segment.scan(first[0], segment.size):
            if batch.base_offset >= end_offset:
                break
            if batch.is_control:
                batch = segment.batch_at(position, size)
            aborted = states.update(batch, batch.base_offset)
            if aborted is not None and segment in unindexed:
                segment.transaction_index.append(aborted)
    return states


def load(
    disk: Disk,
    path: str,
    config: LogConfig,
    *,
    clean: bool,
    recovery_point: Offset,
    log_start_offset: Offset,
    cleaned_to: Offset | None,
) -> LoadedLog:
    """Read the partition directory at `path`; the offsets are those of the checkpoints, 0 or None
    if there are none.

    Errors: StorageError; the directory is offline then.
    """
    files = disk.files
    names = _sweep(disk, path)
    segments = [
        Segment(
            disk, path, base, size=files.size_of(os.path.join(path, f"{base:020d}{LOG_SUFFIX}"))
        )
        for base in _offsets(names, LOG_SUFFIX)
    ]
    unindexed = _load_transaction_indexes(segments, set(_offsets(names, TXN_INDEX_SUFFIX)))
    snapshots = Snapshots(files, path, _offsets(names, SNAPSHOT_SUFFIX))
    epochs = _read_epochs(disk, path)
    if not epochs.entries:
        recovery_point = 0  # If anything is read again, then all: the batches tell their epochs.
    topic_id = None
    if METADATA_FILE in names:
        topic_id = parse_metadata(files.read_file(os.path.join(path, METADATA_FILE)) or b"")
        if topic_id is None:
            logger.warning("unreadable topic id path=%s", os.path.join(path, METADATA_FILE))

    moves = _read_moves(disk, path) if MOVES_FILE in names else 0

    if not segments:
        segments = [_first_segment(disk, path, log_start_offset)]
    end_offset = _clean_end(segments, epochs, log_start_offset) if clean else None
    if end_offset is not None and end_offset < log_start_offset:
        logger.warning("log start offset ignored, it is above the end path=%s", path)
        log_start_offset = 0
    if end_offset is None:
        if clean:
            logger.warning("not as a clean stop leaves it, recovering path=%s", path)
        producers, end_offset = _recover(
            segments,
            epochs,
            snapshots,
            config,
            recovery_point,
            unindexed,
            # Though it may be a topic that is compacted no more.
            has_holes="compact" in config.cleanup_policy or cleaned_to is not None,
        )
        recovery_point = min(recovery_point, end_offset)
    else:
        recovery_point = end_offset
        producers = load_producers(snapshots, segments, end_offset, unindexed=unindexed)
    _replace_transaction_indexes([segment for segment in unindexed if segment in segments])
    if end_offset < log_start_offset:
        logger.warning(
            "nothing left above the log start path=%s log_start_offset=%d log_end_offset=%d",
            path, log_start_offset, end_offset,
        )  # fmt: skip
        for segment in reversed(segments):
            segment.discard(config.file_delete_delay_ms)
        segments = [_first_segment(disk, path, log_start_offset)]
        end_offset = recovery_point = log_start_offset
    segments[-1].resume_at(end_offset)
    log_start_offset = max(log_start_offset, segments[0].base_offset)
    epochs.truncate_from_end(end_offset)
    epochs.truncate_from_start(log_start_offset)
    snapshots.keep_between(segments[0].base_offset, end_offset)
    snapshots.keep_bases(segment.base_offset for segment in segments)
    return LoadedLog(
        topic_id=topic_id,
        moves=moves,
        segments=segments,
        epochs=epochs,
        producers=producers,
        snapshots=snapshots,
        log_start_offset=log_start_offset,
        log_end_offset=end_offset,
        recovery_point=recovery_point,
        cleaned_to=None if cleaned_to is None else min(cleaned_to, end_offset),
    )


def _load_transaction_indexes(
    segments: Sequence[Segment], bases: Collection[Offset]
) -> list[Segment]:
    """Read those that are there; the segments whose index is damaged."""
    damaged, end_offset = [], _NO_END
    for segment in reversed(segments):
        if segment.base_offset in bases and not segment.transaction_index.load(end_offset):
            logger.warning("rebuilding the transaction index segment=%s", segment.path)
            damaged.append(segment)
        end_offset = segment.base_offset
    return damaged


def _replace_transaction_indexes(segments: Sequence[Segment]) -> None:
    """Write what was rebuilt, so that the next start need not."""
    for segment in segments:
        try:
            segment.transaction_index.file.replace()
        except DiskFull as error:
            logger.warning("transaction index not saved file=%s cause=%s", segment.path, error)


def _offsets(names: Sequence[str], suffix: str) -> list[Offset]:
    return sorted(
        int(name[:_OFFSET_DIGITS])
        for name in names
        if name.endswith(suffix)
        and len(name) == _OFFSET_DIGITS + len(suffix)
        and name[:_OFFSET_DIGITS].isdigit()
    )


def _first_segment(disk: Disk, path: str, base_offset: Offset) -> Segment:
    segment = Segment(disk, path, base_offset, new=True)
    segment.create()
    return segment


def _sweep(disk: Disk, path: str) -> list[str]:
    """Remove what earlier lives left unfinished; the names that remain.

    A `.swap` is a finished result of compaction: its source segments may be gone already, so it is
    put in place, unless compaction of something below it was unfinished (`.cleaned`), for a split
    of one segment into several counts only whole.
    """
    files = disk.files
    names = [name for name in files.list_names(path) if _may_be_ours(name)]
    leftover = [name for name in names if name.endswith((DELETED_SUFFIX, CLEANED_SUFFIX, ".tmp"))]
    swaps = [name for name in names if name.endswith(SWAP_SUFFIX)]
    if not leftover and not swaps:
        return _without_orphans(disk, path, names)
    unfinished = min(
        (
            base
            for suffix in (LOG_SUFFIX, *_INDEX_SUFFIXES)
            for base in _offsets(names, suffix + CLEANED_SUFFIX)
        ),
        default=None,
    )
    # Before the `.cleaned` that tells of them, for this may be cut short as well.
    dropped = [
        name
        for name in swaps
        if unfinished is not None and int(name[:_OFFSET_DIGITS]) >= unfinished
    ]
    for name in (*dropped, *leftover):
        files.unlink(os.path.join(path, name))
    _finish_swaps(disk, path, names, [name for name in swaps if name not in dropped])
    return _without_orphans(disk, path, files.list_names(path))


def _may_be_ours(name: str) -> bool:
    """Not so what only ends like the leftover of a segment."""
    return name[:_OFFSET_DIGITS].isdigit() or not name.endswith(
        (DELETED_SUFFIX, CLEANED_SUFFIX, SWAP_SUFFIX)
    )


def _finish_swaps(disk: Disk, path: str, names: list[str], swaps: list[str]) -> None:
    files = disk.files
    for name in swaps:
        base = int(name[:_OFFSET_DIGITS])
        target = os.path.join(path, name.removesuffix(SWAP_SUFFIX))
        if name.endswith(LOG_SUFFIX + SWAP_SUFFIX):
            size = files.size_of(os.path.join(path, name))
            probe = Segment(disk, path, base, size=size, new=True, suffix=SWAP_SUFFIX)
            end = base
            for _, _, batch in probe.scan(0, size):
                end = batch.last_offset + 1
            probe.close()
            # What is still there of the segments that went into it; their .log went first.
            for suffix in (LOG_SUFFIX, *_INDEX_SUFFIXES):
                for replaced in _offsets(names, suffix):
                    if base <= replaced < end:
                        files.unlink(os.path.join(path, f"{replaced:020d}{suffix}"))
        logger.info("finishing a compaction path=%s", target)
    for name in swaps:
        source = os.path.join(path, name)
        files.rename(source, source.removesuffix(SWAP_SUFFIX))


def _without_orphans(disk: Disk, path: str, names: list[str]) -> list[str]:
    """Remove indexes whose log is gone."""
    kept = []
    present = set(names)
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix in _INDEX_SUFFIXES and stem + LOG_SUFFIX not in present:
            disk.files.unlink(os.path.join(path, name))
        else:
            kept.append(name)
    return kept


def _read_moves(disk: Disk, path: str) -> int:
    """How often the log was moved. It is durable before it matters: what makes no sense was being
    written when the power went, in a log that has replaced no other."""
    path = os.path.join(path, MOVES_FILE)
    data = disk.files.read_file(path) or b""
    if data.strip().isdigit():
        return int(data)
    logger.warning("unreadable count of moves path=%s", path)
    return 0


def _read_epochs(disk: Disk, path: str) -> EpochCache:
    """The leader epochs as they were written down; none if they are not there, or damaged."""
    path = os.path.join(path, EPOCHS_FILE)
    try:
        return EpochCache(parse_epochs(disk.files.read_file(path) or b"", path))
    except CheckpointDamaged as error:
        logger.warning("leader epochs ignored cause=%s", error)
        return EpochCache()


def _clean_end(
    segments: Sequence[Segment], epochs: EpochCache, log_start_offset: Offset
) -> Offset | None:
    """Where a log ends whose files can be trusted; None if the end of this one cannot, or its
    leader epochs."""
    segment = segments[-1]
    if not segment.size:
        segment.begin_rebuild()  # Nothing to read, and no warning that the indexes are missing.
        start = max(log_start_offset, segments[0].base_offset)
        return segment.base_offset if epochs.entries or segment.base_offset <= start else None
    segment.load_indexes()
    position = segment.offset_index.last()[1]
    end_offset = segment.base_offset
    for found in segment.scan(position, segment.size):
        position = found.position + found.size
        end_offset = found.batch.last_offset + 1
        known = epochs.epoch_of(found.batch.last_offset)
        if known != found.batch.leader_epoch and found.batch.last_offset >= log_start_offset:
            return None
    return end_offset if position == segment.size else None


def _recover(
    segments: list[Segment],
    epochs: EpochCache,
    snapshots: Snapshots,
    config: LogConfig,
    recovery_point: Offset,
    unindexed: Sequence[Segment],
    *,
    has_holes: bool,
) -> tuple[ProducerStates, Offset]:
    """Read again what reaches above the recovery point, cut off what is not sound; a segment that
    does not begin where the one before it ends is sound only in a log that `has_holes`.

    Changes `segments` and `epochs`; answers the producers and the log end offset.
    """
    first = len(segments) - 1
    while first > 0 and segments[first].base_offset > recovery_point:
        first -= 1
    base = segments[first].base_offset
    epochs.truncate_from_end(base)
    snapshots.keep_between(0, base)
    producers = load_producers(
        snapshots,
        segments[:first],
        base,
        unindexed=[segment for segment in unindexed if segment.base_offset < base],
    )
    end_offset = base
    for number in range(first, len(segments)):
        segment = segments[number]
        hole = segment.base_offset > end_offset and not has_holes
        if segment.base_offset < end_offset or hole:
            logger.warning(
                "cutting off a segment that does not follow file=%s log_end_offset=%d",
                segment.path, end_offset,
            )  # fmt: skip
            _drop(segments, number, config)
            break
        end_offset = segment.base_offset
        valid = 0
        segment.begin_rebuild()
        segment.transaction_index.file.clear()
        for position, size, batch in segment.scan_verified():
            if batch.base_offset > end_offset >= recovery_point and not has_holes:
                break  # Its offset lies outside its checksum.
            extent = Extent(size, batch.last_offset, batch.max_timestamp)
            segment.rebuild_with(position, extent, config.index_interval_bytes)
            if batch.leader_epoch > epochs.latest:
                epochs.assign(batch.leader_epoch, batch.base_offset)
            aborted = producers.update(batch, batch.base_offset)
            if aborted is not None:
                segment.transaction_index.append(aborted)
            valid = position + size
            end_offset = batch.last_offset + 1
        if valid < segment.size:
            logger.warning(
                "cutting off what is not sound file=%s position=%d bytes=%d log_end_offset=%d",
                segment.path, valid, segment.size - valid, end_offset,
            )  # fmt: skip
            segment.truncate_at(valid, end_offset)
            _drop(segments, number + 1, config)
            break
        logger.debug("recovered file=%s log_end_offset=%d", segment.path, end_offset)
        if number < len(segments) - 1:
            try:
                segment.seal()
            except DiskFull as error:
                # The entries are in memory, and the next flush saves them. A broker must be able to
                # start on a full disk: how else would it be emptied?
                logger.warning("indexes not saved file=%s cause=%s", segment.path, error)
    return producers, end_offset


def _drop(segments: list[Segment], first: int, config: LogConfig) -> None:
    for segment in reversed(segments[first:]):
        segment.discard(config.file_delete_delay_ms)
    del segments[first:]
