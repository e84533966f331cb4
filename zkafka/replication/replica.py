"""One hosted replica: its machine, its log, and where that lies."""

import uuid

import attrs

from zkafka.log.directory import LogDirectory
from zkafka.log.partition_log import PartitionLog
from zkafka.model import NO_EPOCH, LeaderEpoch, Offset, TopicPartition
from zkafka.protocol.fields import NULL_UUID
from zkafka.replication.partition import Partition, Role
from zkafka.replication.session import FetchPosition


class Replica:
    """One partition's replica here. As a purgatory key it stands for the replicas' progress: high
    watermark, low watermark, leadership; the `topic_partition` further stands for new data.

    Ownership: `Replicas` makes and closes it, and steps its machine.
    """

    __slots__ = ("directory", "log", "machine", "topic_partition")

    def __init__(self, machine: Partition, log: PartitionLog, directory: LogDirectory) -> None:
        self.topic_partition: TopicPartition = machine.topic_partition
        self.machine = machine
        self.log = log
        self.directory = directory

    def __repr__(self) -> str:
        machine = self.machine
        return (
            f"<Replica {self.topic_partition} {machine.role.value}"
            f" leader_epoch={machine.leader_epoch} high_watermark={machine.high_watermark}>"
        )

    @property
    def topic_id(self) -> uuid.UUID:
        """The topic's id as its directory names it; all zero where it names none."""
        return self.log.topic_id or NULL_UUID

    @property
    def is_offline(self) -> bool:
        """Whether its log directory failed."""
        return self.machine.role is Role.OFFLINE

    @property
    def last_stable_offset(self) -> Offset:
        """The end of what readers of committed records may see."""
        return self.log.last_stable_offset(self.machine.high_watermark)

    def fetch_position(self) -> FetchPosition:
        """From where to fetch: the end of the log."""
        log = self.log
        return FetchPosition(
            topic_id=self.topic_id,
            leader_epoch=self.machine.leader_epoch,
            fetch_offset=log.log_end_offset,
            last_fetched_epoch=log.epochs.latest,
            log_start_offset=log.log_start_offset,
        )

    def view(self) -> "PartitionView":
        """What metrics and tools show of it."""
        machine = self.machine
        return PartitionView(
            topic_partition=self.topic_partition,
            role=machine.role,
            leader_epoch=machine.leader_epoch,
            log_start_offset=machine.log_start_offset,
            last_stable_offset=self.last_stable_offset,
            high_watermark=machine.high_watermark,
            log_end_offset=machine.log_end_offset,
            size=0 if self.is_offline else self.log.size,
            replica_count=len(machine.replicas),
            in_sync_count=len(machine.in_sync_set.committed),
            under_replicated=machine.is_under_replicated,
            under_min_isr=machine.is_leader and not machine.has_enough_in_sync,
            at_min_isr=machine.is_at_min_isr,
        )


@attrs.frozen(kw_only=True)
class PartitionView:
    """One replica at one moment; `in_sync_count` is 0 where it does not lead."""

    topic_partition: TopicPartition
    role: Role
    leader_epoch: LeaderEpoch = NO_EPOCH
    log_start_offset: Offset
    last_stable_offset: Offset
    high_watermark: Offset
    log_end_offset: Offset
    size: int
    replica_count: int
    in_sync_count: int
    under_replicated: bool
    under_min_isr: bool
    at_min_isr: bool
