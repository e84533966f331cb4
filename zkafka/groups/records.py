"""What is written in `__consumer_offsets`: keys and values, as Kafka 3.9 lays them out.

A key is a two-byte version and then its fields: versions 0 and 1 are a committed offset, 2 is a
group's metadata. Higher ones belong to other protocols and are passed over. A value is a two-byte
version and fields; null is a tombstone.

We write what a 3.9 broker writes: offset keys 1, group keys 2, offset values 3 (1 for a commit that
brought its own retention), group values 3. We read every version, the flexible 4 included.

Strings are at most 32,767 bytes long here, whatever the API that brought them: who lets a longer
one in could not write it down. The coordinator refuses them at the door.

Source: the message definitions of Kafka's group-coordinator module; KIP-211 (expiry), KIP-320
(leader epoch), KIP-345 (instance ids), KIP-915 (version 4).
"""

import struct
from collections.abc import Sequence

from zkafka.errors import RemoteProtocolError
from zkafka.model import NO_EPOCH, Generation, LeaderEpoch, Offset, TopicPartition
from zkafka.protocol.codec import decode, encode
from zkafka.protocol.fields import array, bytes_, int32, int64, message, string

NO_TIMESTAMP = -1
TIMESTAMP_MAX = 2**63 - 1
STRING_LIMIT = 32_767
CONSUMER_PROTOCOL = "consumer"
"""The protocol type of ordinary consumers, the one whose subscriptions can be read."""

_VERSION = struct.Struct(">h")


@message(versions=(0, 1))
class OffsetKey:
    """Names one committed offset. Versions 0 and 1 have the same fields."""

    group: str = string()
    topic: str = string()
    partition: int = int32()

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition that the offset is of."""
        return TopicPartition(self.topic, self.partition)


@message(versions=(2, 2))
class GroupKey:
    """Names one group."""

    group: str = string()


@message(versions=(0, 4), flexible=4)
class OffsetValue:
    """A committed offset: the next one to read, and the leader epoch of the one before.

    `expire_timestamp` is -1 unless the commit named its own retention.
    """

    offset: Offset = int64()
    leader_epoch: LeaderEpoch = int32(since=3, default=NO_EPOCH)
    metadata: str = string()
    commit_timestamp: int = int64()
    expire_timestamp: int = int64(since=1, until=1, default=NO_TIMESTAMP)


@message()
class MemberValue:
    """A member as the log remembers it. `subscription` is its metadata for the chosen protocol."""

    member_id: str = string()
    group_instance_id: str | None = string(since=3, nullable=True, default=None)
    client_id: str = string()
    client_host: str = string()
    rebalance_timeout: int = int32(since=1, default=-1)
    session_timeout: int = int32()
    subscription: bytes = bytes_()
    assignment: bytes = bytes_()


@message(versions=(0, 4), flexible=4)
class GroupValue:
    """A group as the log remembers it: one generation, with the assignments it agreed on."""

    protocol_type: str = string()
    generation: Generation = int32()
    protocol: str | None = string(nullable=True, default=None)
    leader: str | None = string(nullable=True, default=None)
    current_state_timestamp: int = int64(since=2, default=NO_TIMESTAMP)
    members: Sequence[MemberValue] = array(MemberValue)


Key = OffsetKey | GroupKey
Value = OffsetValue | GroupValue


def encode_key(key: Key) -> bytes:
    """The record key, version first."""
    version = 1 if isinstance(key, OffsetKey) else 2
    return _VERSION.pack(version) + encode(key, version)


def encode_value(value: Value | None) -> bytes | None:
    """The record value, version first; None is a tombstone."""
    if value is None:
        return None
    version = 3
    if isinstance(value, OffsetValue) and value.expire_timestamp != NO_TIMESTAMP:
        version = 1
    return _VERSION.pack(version) + encode(value, version)


def decode_key(data: bytes) -> Key | None:
    """The key, or None for one of another protocol. Errors: `RemoteProtocolError`."""
    version = _version(data)
    if version in (0, 1):
        offset_key: OffsetKey = decode(OffsetKey, version, data[2:])
        return offset_key
    if version == 2:
        group_key: GroupKey = decode(GroupKey, version, data[2:])
        return group_key
    return None


def decode_value(key: Key, data: bytes) -> Value:
    """The value under `key`. Errors: `RemoteProtocolError`, for unknown versions too: passing over
    a value would forget what it says."""
    version = _version(data)
    of: type[OffsetValue] | type[GroupValue]
    of = OffsetValue if isinstance(key, OffsetKey) else GroupValue
    if not 0 <= version <= 4:
        raise RemoteProtocolError(f"{of.__name__} of version {version}")
    value: Value = decode(of, version, data[2:])
    return value


def stamped(value: GroupValue, wall_ms: int) -> GroupValue:
    """The same group, said to be in this state since `wall_ms`."""
    return GroupValue(
        protocol_type=value.protocol_type,
        generation=value.generation,
        protocol=value.protocol,
        leader=value.leader,
        current_state_timestamp=wall_ms,
        members=value.members,
    )


def subscribed_topics(subscription: bytes) -> frozenset[str] | None:
    """The topics that a ConsumerProtocolSubscription names; None if it is not one.

    What a member sends is its own affair (other group protocols put anything there), so nonsense
    is no error. All versions begin with the topics, and only those are read.
    """
    view = memoryview(subscription)
    try:
        version, count = struct.unpack_from(">hi", view)
        # A topic takes at least its two length bytes.
        if version < 0 or not 0 <= count <= (len(view) - 6) // 2:
            return None
        topics = []
        position = 6
        for _ in range(count):
            (length,) = _VERSION.unpack_from(view, position)
            position += 2
            if not 0 <= length <= len(view) - position:
                return None
            topics.append(str(view[position : position + length], "utf-8"))
            position += length
    except (struct.error, UnicodeDecodeError):
        return None
    return frozenset(topics)


def java_string_hash(text: str) -> int:
    """Java's `String.hashCode`: 31-polynomial over UTF-16 code units, wrapped to 32 bits signed."""
    value = 0
    units = text.encode("utf-16-be", "surrogatepass")
    for (unit,) in struct.iter_unpack(">H", units):
        value = (value * 31 + unit) & 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def partition_for(group: str, partition_count: int) -> int:
    """Which partition of `__consumer_offsets` keeps the group. Kafka's absolute value of the
    smallest integer is 0."""
    value = java_string_hash(group)
    return (0 if value == -(1 << 31) else abs(value)) % partition_count


def _version(data: bytes) -> int:
    if len(data) < 2:
        raise RemoteProtocolError(f"no version in {len(data)} bytes")
    (version,) = _VERSION.unpack_from(data)
    assert isinstance(version, int)
    return version
